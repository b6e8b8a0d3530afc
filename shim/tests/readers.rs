//! Readers of every kind: slow, late, gone; over the attach socket and over fifos.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use common::{Bench, eventually};
use kelson_shim_proto::attach::Hello;
use serde_json::json;

each_runtime!(
    a_slow_reader_costs_neither_time_nor_lines,
    a_stuck_reader_and_a_killed_container,
    fifos,
    a_fifo_reader_comes_late_and_goes,
    a_terminal_on_fifos,
    output_to_a_file,
);

async fn a_slow_reader_costs_neither_time_nor_lines(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["seq", "1", "1000000"]);
    bench.serve(Vec::new());
    // Reads nothing until everything is over and removed.
    let mut slow = bench
        .attach(&Hello {
            stdin: false,
            ..Hello::all("")
        })
        .await;
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 0);
    let expected: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert!(bench.log_text() == expected);
    bench.delete(&client, "").await.unwrap();
    drop(client);
    // Longer than a client without output to take may stay.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(slow.read_all().await.0 == expected.into_bytes());
    bench.gone().await;
}

/// What a queue and a pipe hold, in bytes.
const FULL: usize = (1024 + 64) * 1024;

async fn a_stuck_reader_and_a_killed_container(runtime: &Path) {
    // Without a log the process waits for its reader; what was in the pipe when it died is still delivered.
    let mut bench = Bench::new(runtime, &["sh", "-c", "exec yes 0123456"]);
    bench.log = "kelson-log:none".into();
    bench.serve(Vec::new());
    let mut slow = bench
        .attach(&Hello {
            stdin: false,
            ..Hello::all("")
        })
        .await;
    let client = bench.client().await;
    let pid = bench.create(&client).await;
    bench.start(&client).await;
    // More than queue and pipe hold has been written; soon after, it waits.
    eventually("the queue is full", || {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        written.is_some_and(|n| n.parse::<usize>().unwrap() > FULL)
    })
    .await;
    bench.kill(&client, "", 9).await.unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(bench.wait(&client, "").await, 137);
    // The end of output was seen, not waited for until a deadline.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let out = slow.read_all().await.0;
    assert!(out.len() > FULL - 100, "{}", out.len());
    bench.finish(client).await;
}

fn with_fifos(bench: &mut Bench) {
    let name = |name: &str| bench.path(name).display().to_string();
    let paths = ["in", "out", "err"].map(name);
    for path in &paths {
        nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    bench.paths = Some(paths);
}

/// Opens a fifo to read without waiting for its writer.
fn reader(path: &Path) -> File {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
        .unwrap();
    rustix::io::ioctl_fionbio(&file, false).unwrap();
    file
}

/// Reads to the end in a thread.
fn read_all(mut file: File) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    })
}

async fn joined(thread: std::thread::JoinHandle<String>) -> String {
    eventually("the end of a fifo", || thread.is_finished()).await;
    thread.join().unwrap()
}

async fn fifos(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "cat; echo err >&2; exit 3"]);
    with_fifos(&mut bench);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let (out, err) = (reader(&bench.path("out")), reader(&bench.path("err")));
    bench.create(&client).await;
    let (out, err) = (read_all(out), read_all(err));
    bench.start(&client).await;
    // Opening it waits for its reader, the shim.
    let mut input = OpenOptions::new().write(true).open(bench.path("in")).unwrap();
    input.write_all(b"hello\n").unwrap();
    drop(input);
    assert_eq!(bench.wait(&client, "").await, 3);
    assert_eq!(
        (joined(out).await, joined(err).await),
        ("hello\n".into(), "err\n".into())
    );
    bench.finish(client).await;
}

async fn a_fifo_reader_comes_late_and_goes(runtime: &Path) {
    let mut bench = Bench::new(
        runtime,
        &["sh", "-c", "echo one; cat >/dev/null; echo two; exec sleep 1000"],
    );
    with_fifos(&mut bench);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    let input = OpenOptions::new().write(true).open(bench.path("in")).unwrap();
    let mut first = reader(&bench.path("out"));
    let mut line = [0; 4];
    first.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"one\n");
    drop(first);
    // Nobody reads: the process is not told, and what it writes stays for the next.
    drop(input);
    eventually("output waits", || {
        let mut next = reader(&bench.path("out"));
        let waiting = rustix::io::ioctl_fionread(&next).unwrap();
        waiting >= 4 && next.read_exact(&mut line).is_ok()
    })
    .await;
    assert_eq!(&line, b"two\n");
    bench.kill(&client, "", 9).await.unwrap();
    assert_eq!(bench.wait(&client, "").await, 137);
    bench.finish(client).await;
}

async fn a_terminal_on_fifos(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "read x; echo got $x; test -t 1 && exit 8"]);
    bench.spec["process"]["terminal"] = json!(true);
    with_fifos(&mut bench);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let out = reader(&bench.path("out"));
    bench.create(&client).await;
    let out = read_all(out);
    bench.start(&client).await;
    let mut input = OpenOptions::new().write(true).open(bench.path("in")).unwrap();
    input.write_all(b"abc\n").unwrap();
    assert_eq!(bench.wait(&client, "").await, 8);
    assert!(joined(out).await.contains("got abc\r\n"));
    bench.finish(client).await;
}

async fn output_to_a_file(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "echo out; echo err >&2"]);
    let path = bench.path("both").display().to_string();
    bench.paths = Some([String::new(), path.clone(), path.clone()]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    bench.finish(client).await;
}
