//! Attach, stdin, terminals, exec: what goes in and what comes out.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::path::Path;

use common::{Bench, alive, ctx, eventually};
use kelson_shim_proto::attach::{From, Hello};
use kelson_shim_proto::error::{Code, decode};
use kelson_shim_proto::task::{CloseIORequest, ResizePtyRequest};
use serde_json::json;
use tokio::io::AsyncWriteExt;

each_runtime!(
    attach_before_start_misses_nothing,
    stdin_and_half_close,
    close_io,
    replay_from_the_start,
    a_terminal,
    exec_with_everything,
    exec_in_a_terminal,
    many_execs_at_once,
    bad_execs,
    a_detached_client_is_forgotten,
    long_output_to_a_slow_reader,
    rotation,
    an_exec_whose_child_stays,
);

async fn attach_before_start_misses_nothing(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "echo one; echo two >&2; exit 4"]);
    bench.serve(Vec::new());
    let mut early = bench.attach(&Hello::all("")).await;
    assert!(early.reply.ok);
    let client = bench.client().await;
    bench.create(&client).await;
    let mut later = bench
        .attach(&Hello {
            stdout: false,
            ..Hello::all("")
        })
        .await;
    bench.start(&client).await;
    assert_eq!(early.read_all().await, (b"one\n".to_vec(), b"two\n".to_vec()));
    assert_eq!(later.read_all().await, (Vec::new(), b"two\n".to_vec()));
    assert_eq!(bench.wait(&client, "").await, 4);
    // After the end: everything from the start, or nothing from now.
    let mut replayed = bench
        .attach(&Hello {
            from: From::Start,
            ..Hello::all("")
        })
        .await;
    assert_eq!(replayed.read_all().await, (b"one\n".to_vec(), b"two\n".to_vec()));
    let mut now = bench.attach(&Hello::all("")).await;
    assert_eq!(now.read_all().await, (Vec::new(), Vec::new()));
    bench.finish(client).await;
}

async fn stdin_and_half_close(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "cat; echo end"]);
    bench.serve(Vec::new());
    let mut attached = bench.attach(&Hello::all("")).await;
    // Sent before there is a process: it waits.
    attached.socket.write_all(b"hello\n").await.unwrap();
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    attached.socket.write_all(b"again\n").await.unwrap();
    attached.socket.shutdown().await.unwrap();
    assert_eq!(
        String::from_utf8(attached.read_all().await.0).unwrap(),
        "hello\nagain\nend\n"
    );
    assert_eq!(bench.wait(&client, "").await, 0);
    bench.finish(client).await;
}

async fn close_io(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["cat"]);
    bench.once = false;
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    let mut first = bench.attach(&Hello::all("")).await;
    first.socket.write_all(b"1\n").await.unwrap();
    first.read_until(|out, _| out == b"1\n").await;
    drop(first);
    // Another client goes on where the first left.
    let mut second = bench.attach(&Hello::all("")).await;
    second.socket.write_all(b"2\n").await.unwrap();
    second.read_until(|out, _| out == b"2\n").await;
    let request = CloseIORequest {
        id: bench.id.clone(),
        stdin: true,
        ..Default::default()
    };
    client.close_io(ctx(), &request).await.unwrap();
    assert_eq!(bench.wait(&client, "").await, 0);
    assert_eq!(bench.log_text(), "1\n2\n");
    bench.finish(client).await;
}

async fn replay_from_the_start(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "seq 1 30000; printf part; cat; echo"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    let mut expected: String = (1..=30000).map(|n| format!("{n}\n")).collect();
    expected.push_str("part");
    // Attached somewhere in the middle, whenever that is: all of it, once.
    let hello = Hello {
        from: From::Start,
        stdin: false,
        ..Hello::all("")
    };
    let mut middle = bench.attach(&hello).await;
    let (out, _) = middle.read_until(|out, _| out.len() >= expected.len()).await;
    assert!(String::from_utf8(out).unwrap() == expected);
    // The line without an end is not in the log yet, but is replayed.
    let mut late = bench.attach(&hello).await;
    let (out, _) = late.read_until(|out, _| out.len() >= expected.len()).await;
    assert!(String::from_utf8(out).unwrap() == expected);
    let mut input = bench.attach(&Hello::all("")).await;
    input.socket.write_all(b"ial").await.unwrap();
    input.socket.shutdown().await.unwrap();
    assert_eq!(late.read_all().await.0, b"ial\n");
    assert_eq!(bench.wait(&client, "").await, 0);
    assert!(bench.log_text() == format!("{expected}ial\n"));
    bench.finish(client).await;
}

async fn a_terminal(runtime: &Path) {
    let mut bench = Bench::new(
        runtime,
        &[
            "sh",
            "-c",
            "read line; echo got $line; stty size; test -t 0 && test -t 1 && exit 9",
        ],
    );
    bench.spec["process"]["terminal"] = json!(true);
    bench.serve(Vec::new());
    let mut attached = bench.attach(&Hello::all("")).await;
    let client = bench.client().await;
    bench.create(&client).await;
    let size = ResizePtyRequest {
        id: bench.id.clone(),
        width: 132,
        height: 50,
        ..Default::default()
    };
    client.resize_pty(ctx(), &size).await.unwrap();
    bench.start(&client).await;
    attached.socket.write_all(b"abc\n").await.unwrap();
    let (out, err) = attached.read_all().await;
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("got abc\r\n50 132\r\n"), "{out:?}");
    assert!(err.is_empty());
    assert_eq!(bench.wait(&client, "").await, 9);
    assert!(bench.log_text().contains("got abc\r\n"));
    bench.finish(client).await;
}

async fn exec_with_everything(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let init = bench.create(&client).await;
    bench.start(&client).await;
    bench
        .exec(&client, "e1", &["sh", "-c", "cat; echo err >&2; exit 6"], false)
        .await
        .unwrap();
    let mut attached = bench.attach(&Hello::all("e1")).await;
    assert!(attached.reply.ok, "{:?}", attached.reply);
    let pid = bench.start_exec(&client, "e1").await.unwrap();
    assert_ne!(pid, init);
    attached.socket.write_all(b"in").await.unwrap();
    attached.socket.shutdown().await.unwrap();
    assert_eq!(attached.read_all().await, (b"in".to_vec(), b"err\n".to_vec()));
    assert_eq!(bench.wait(&client, "e1").await, 6);
    assert_eq!(bench.delete(&client, "e1").await.unwrap(), 6);
    assert_eq!(
        decode(&bench.delete(&client, "e1").await.unwrap_err()).code,
        Code::NOT_FOUND
    );
    assert!(alive(init));
    // Killed by a signal, by its own name.
    bench
        .exec(&client, "e2", &["sleep", "1000"], false)
        .await
        .unwrap();
    bench.start_exec(&client, "e2").await.unwrap();
    bench.kill(&client, "e2", 15).await.unwrap();
    assert_eq!(bench.wait(&client, "e2").await, 143);
    assert!(bench.log_text().is_empty());
    bench.kill(&client, "", 9).await.unwrap();
    bench.wait(&client, "").await;
    bench.finish(client).await;
}

async fn exec_in_a_terminal(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    bench
        .exec(&client, "t", &["sh", "-c", "read x; echo $x; stty size"], true)
        .await
        .unwrap();
    let mut attached = bench.attach(&Hello::all("t")).await;
    bench.start_exec(&client, "t").await.unwrap();
    let size = ResizePtyRequest {
        id: bench.id.clone(),
        exec_id: "t".into(),
        width: 77,
        height: 33,
        ..Default::default()
    };
    client.resize_pty(ctx(), &size).await.unwrap();
    attached.socket.write_all(b"yes\n").await.unwrap();
    let out = String::from_utf8(attached.read_all().await.0).unwrap();
    assert!(out.contains("yes\r\n33 77\r\n"), "{out:?}");
    assert_eq!(bench.wait(&client, "t").await, 0);
    bench.kill(&client, "", 9).await.unwrap();
    bench.wait(&client, "").await;
    bench.finish(client).await;
}

async fn many_execs_at_once(runtime: &Path) {
    const MANY: u32 = 8;
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    let bench = &bench;
    let client = &client;
    let all = (0..MANY).map(|n| async move {
        let id = format!("e{n}");
        let script = format!("echo {n}; exit {n}");
        bench
            .exec(client, &id, &["sh", "-c", &script], false)
            .await
            .unwrap();
        let mut attached = bench.attach(&Hello::all(&id)).await;
        bench.start_exec(client, &id).await.unwrap();
        assert_eq!(attached.read_all().await.0, format!("{n}\n").into_bytes());
        assert_eq!(bench.wait(client, &id).await, n);
    });
    futures_util::future::join_all(all).await;
    bench.kill(client, "", 9).await.unwrap();
    bench.wait(client, "").await;
    bench.delete(client, "").await.unwrap();
}

async fn bad_execs(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    for id in ["../x", "a/b", "", ".hidden"] {
        let error = bench.exec(&client, id, &["true"], false).await.unwrap_err();
        assert_eq!(decode(&error).code, Code::INVALID_ARGUMENT, "{id}");
    }
    bench.exec(&client, "x", &["nosuchcommand"], false).await.unwrap();
    let error = bench.exec(&client, "x", &["true"], false).await.unwrap_err();
    assert_eq!(decode(&error).code, Code::ALREADY_EXISTS);
    let failure = decode(&bench.start_exec(&client, "x").await.unwrap_err());
    assert_eq!(
        failure.detail.map(|d| d.kind).as_deref(),
        Some("command_not_found"),
        "{}",
        failure.message
    );
    assert_eq!(
        decode(&bench.start_exec(&client, "none").await.unwrap_err()).code,
        Code::NOT_FOUND
    );
    let refused = bench.attach(&Hello::all("none")).await;
    assert!(!refused.reply.ok);
    bench.delete(&client, "x").await.unwrap();
    bench.kill(&client, "", 9).await.unwrap();
    bench.wait(&client, "").await;
    bench.finish(client).await;
}

async fn a_detached_client_is_forgotten(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", bench.shim_pid))
            .unwrap()
            .count()
    };
    let before = descriptors();
    for _ in 0..50 {
        let attached = bench
            .attach(&Hello {
                stdin: false,
                ..Hello::all("")
            })
            .await;
        assert!(attached.reply.ok);
    }
    // The container is silent: only the closed sockets themselves tell.
    eventually("no descriptor is left", || descriptors() <= before).await;
    bench.kill(&client, "", 9).await.unwrap();
    bench.wait(&client, "").await;
    bench.finish(client).await;
}

async fn long_output_to_a_slow_reader(runtime: &Path) {
    const BYTES: usize = 8 * 1024 * 1024;
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    bench
        .exec(&client, "big", &["sh", "-c", "yes | head -c 8388608"], false)
        .await
        .unwrap();
    let mut attached = bench
        .attach(&Hello {
            stdin: false,
            ..Hello::all("big")
        })
        .await;
    bench.start_exec(&client, "big").await.unwrap();
    // Read nothing for a while: the queue fills and the process waits.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let (out, _) = attached.read_all().await;
    assert_eq!(out.len(), BYTES);
    assert_eq!(bench.wait(&client, "big").await, 0);
    bench.kill(&client, "", 9).await.unwrap();
    bench.wait(&client, "").await;
    bench.finish(client).await;
}

async fn rotation(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["seq", "1", "3000"]);
    bench.log.push_str("&max-size=20000&max-file=3");
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 0);
    assert!(bench.path("c-json.log.2").exists() && !bench.path("c-json.log.3").exists());
    assert!(bench.log_text().ends_with("3000\n"));
    let mut replayed = bench
        .attach(&Hello {
            from: From::Start,
            ..Hello::all("")
        })
        .await;
    let out = String::from_utf8(replayed.read_all().await.0).unwrap();
    assert!(
        out.ends_with("2999\n3000\n") && out.lines().count() > 500,
        "{}",
        out.lines().count()
    );
    bench.finish(client).await;
}

async fn an_exec_whose_child_stays(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    bench
        .exec(&client, "bg", &["sh", "-c", "sleep 500 & echo started"], false)
        .await
        .unwrap();
    let mut attached = bench.attach(&Hello::all("bg")).await;
    bench.start_exec(&client, "bg").await.unwrap();
    // The child holds the pipe; two seconds after its parent's end that is enough.
    assert_eq!(attached.read_all().await.0, b"started\n");
    assert_eq!(bench.wait(&client, "bg").await, 0);
    bench.kill(&client, "", 9).await.unwrap();
    bench.wait(&client, "").await;
    bench.finish(client).await;
}
