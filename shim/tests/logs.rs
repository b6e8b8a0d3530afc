//! Log formats, loggers, rotation by us and by others.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::{Bench, ctx, eventually};
use kelson_shim_proto::attach::{From, Hello, Position, Stream};
use kelson_shim_proto::error::{Code, decode};
use kelson_shim_proto::logs::format::Format;
use kelson_shim_proto::logs::records::Records;

each_runtime!(
    cri,
    local_is_compressed_and_replayed,
    reopened,
    from_a_position,
    a_logger,
    a_logger_that_dies,
    a_logger_that_is_not_there,
);

fn replay_hello() -> Hello {
    Hello {
        stdin: false,
        from: From::Start,
        ..Hello::all("")
    }
}

async fn cri(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "echo out; echo err >&2; printf end"]);
    let path = bench.path("cri.log");
    bench.log = format!("kelson-log:cri?path={}", path.display());
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F end", "stdout F out"]);
    let mut replayed = bench.attach(&replay_hello()).await;
    let (out, err) = replayed.read_all().await;
    assert_eq!((out, err), (b"out\nend\n".to_vec(), b"err\n".to_vec()));
    bench.finish(client).await;
}

async fn local_is_compressed_and_replayed(runtime: &Path) {
    if !common::shim_binary().with_file_name("kelson-logger").exists() {
        return println!("skipped: no kelson-logger beside the shim (`cargo build -p kelson-logger`)");
    }
    // Bytes that are no text must survive.
    let mut bench = Bench::new(
        runtime,
        &["sh", "-c", "seq 1 20000; printf '\\377\\n'; printf end"],
    );
    let path = bench.path("local.log");
    bench.log = format!(
        "kelson-log:local?path={}&max-size=100000&max-file=9",
        path.display()
    );
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 0);
    let mut expected: Vec<u8> = (1..=20000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    expected.extend(b"\xff\nend");
    let compressed = bench.path("local.log.1.gz");
    eventually("a rotated file is compressed", || {
        compressed.exists() && !bench.path("local.log.1").exists()
    })
    .await;
    let mut replayed = bench.attach(&replay_hello()).await;
    assert!(replayed.read_all().await.0 == expected);
    let mut last = Vec::new();
    Records::new(Format::Local).push(&std::fs::read(&path).unwrap(), |record| {
        assert_eq!(record.stream, Stream::Stdout);
        record.write(&mut last);
        true
    });
    assert!(expected.ends_with(&last) && last.ends_with(b"\xff\nend"));
    bench.finish(client).await;
}

async fn reopened(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "echo one; read x; echo two"]);
    let path = bench.path("cri.log");
    bench.log = format!("kelson-log:cri?path={}", path.display());
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap_or_default();
    eventually("the first line", || read("cri.log").contains("one")).await;
    std::fs::rename(&path, bench.path("old")).unwrap();
    let reopen = Hello {
        reopen: true,
        ..Hello::all("")
    };
    let answered = bench.attach(&reopen).await;
    assert!(answered.reply.ok, "{:?}", answered.reply);
    let mut attached = bench.attach(&Hello::all("")).await;
    tokio::io::AsyncWriteExt::write_all(&mut attached.socket, b"\n")
        .await
        .unwrap();
    assert_eq!(bench.wait(&client, "").await, 0);
    assert!(read("old").ends_with(" stdout F one\n") && read("cri.log").ends_with(" stdout F two\n"));
    // Replay still finds what it can.
    let mut replayed = bench.attach(&replay_hello()).await;
    assert_eq!(replayed.read_all().await.0, b"two\n");
    bench.finish(client).await;
}

async fn from_a_position(runtime: &Path) {
    // Rotated several times while nobody looks, the file that was read first is still the same.
    let mut bench = Bench::new(runtime, &["sh", "-c", "echo one; echo two; read x; seq 1 1000"]);
    bench.log.push_str("&max-size=20000&max-file=9");
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    let path = bench.path("c-json.log");
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("two lines", || read().lines().count() == 2).await;
    let position = Position {
        inode: std::fs::metadata(&path).unwrap().ino(),
        offset: u64::try_from(read().find('\n').unwrap() + 1).unwrap(),
    };
    let mut input = bench.attach(&Hello::all("")).await;
    tokio::io::AsyncWriteExt::write_all(&mut input.socket, b"\n")
        .await
        .unwrap();
    assert_eq!(bench.wait(&client, "").await, 0);
    assert!(bench.path("c-json.log.2").exists());
    let hello = |position| Hello {
        position: Some(position),
        ..replay_hello()
    };
    let mut replayed = bench.attach(&hello(position)).await;
    let expected: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    assert_eq!(
        String::from_utf8(replayed.read_all().await.0).unwrap(),
        format!("two\n{expected}")
    );
    let beyond = Position {
        offset: 1 << 40,
        ..position
    };
    let refused = bench.attach(&hello(beyond)).await;
    assert!(!refused.reply.ok && refused.reply.message.unwrap().contains("position"));
    bench.finish(client).await;
}

/// A logger that is a script, and its address.
fn logger(bench: &Bench, script: &str) -> String {
    let path = bench.path("logger");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!(
        "binary://{}?dir={}&flag=yes",
        path.display(),
        bench.dir.path().display()
    )
}

async fn a_logger(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "echo out; echo err >&2; exit 4"]);
    // It is ready late, and has the arguments and the environment that containerd gives.
    let script = "sleep 0.2; exec 5>&-; echo \"$1 $3 $4 $CONTAINER_ID\" > $2/args; cat <&4 > $2/err & cat <&3 > $2/out; wait; echo done > $2/done";
    let address = logger(&bench, script);
    bench.paths = Some([String::new(), address.clone(), address]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 4);
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap_or_default();
    eventually("the logger sees the end", || read("done") == "done\n").await;
    assert_eq!((read("out").as_str(), read("err").as_str()), ("out\n", "err\n"));
    assert_eq!(read("args"), format!("dir flag yes {}\n", bench.id));
    bench.finish(client).await;
}

async fn a_logger_that_dies(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "seq 1 100000; exit 6"]);
    let address = logger(&bench, "exit 1");
    bench.paths = Some([String::new(), address.clone(), address]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    // It costs the container nothing, and is told.
    assert_eq!(bench.wait(&client, "").await, 6);
    eventually("the count", || {
        bench.shim_log().contains("bytes of output had no reader")
    })
    .await;
    bench.finish(client).await;
}

async fn a_logger_that_is_not_there(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["true"]);
    let address = "binary:///no/such/logger".to_owned();
    bench.paths = Some([String::new(), address.clone(), address]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let failure = decode(&client.create(ctx(), &bench.create_request()).await.unwrap_err());
    assert_eq!(failure.code, Code::NOT_FOUND);
    assert!(failure.message.contains("/no/such/logger"), "{}", failure.message);
    let request = kelson_shim_proto::task::ShutdownRequest {
        now: true,
        ..Default::default()
    };
    client.shutdown(ctx(), &request).await.unwrap();
    bench.gone().await;
}
