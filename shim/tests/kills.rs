//! The shim is killed, at every point where it matters: what is on disk is true, and what is left can be removed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bench, alive, ctx, eventually};
use kelson_shim_proto::error::decode;
use kelson_shim_proto::task::{StartRequest, TaskClient};

each_runtime!(
    created,
    started,
    drained,
    record_written,
    recorded,
    cleaned,
    while_the_container_runs,
);

const LINES: u32 = 20_000;

/// A container that ends by itself, under a shim that dies at `point`.
async fn dying(runtime: &Path, point: &'static str) -> (Bench, TaskClient) {
    let script = format!("seq 1 {LINES}; exit 5");
    let mut bench = Bench::new(runtime, &["sh", "-c", &script]);
    bench.fault = Some(point);
    bench.serve(Vec::new());
    let client = bench.client().await;
    (bench, client)
}

async fn run(bench: &Bench, client: &TaskClient) {
    bench.create(client).await;
    let request = StartRequest {
        id: bench.id.clone(),
        ..Default::default()
    };
    // The answer may be lost with the shim.
    let _ = client.start(ctx(), &request).await;
}

/// Waits for the shim's death, which was no accident.
async fn died(bench: &mut Bench) {
    let mut shim = bench.shim.take().unwrap();
    eventually("the shim dies", || shim.try_wait().unwrap().is_some()).await;
    assert_eq!(shim.wait().unwrap().signal(), Some(9), "{}", bench.shim_log());
}

/// What an engine does that finds the sockets closed.
fn clean_up(bench: &Bench) {
    let params = bench.params();
    let removed = Command::new(&params.runtime.path)
        .arg("--root")
        .arg(&params.runtime.root)
        .args(["delete", "--force", &bench.id])
        .stderr(Stdio::null())
        .status();
    removed.unwrap();
    for name in ["init.pid", "log.json"] {
        let _ = std::fs::remove_file(bench.path("bundle").join(name));
    }
    bench.nothing_left();
}

fn complete_log(bench: &Bench) {
    let expected: String = (1..=LINES).map(|n| format!("{n}\n")).collect();
    assert!(bench.log_text() == expected);
}

async fn created(runtime: &Path) {
    let (mut bench, client) = dying(runtime, "created").await;
    let failure = decode(&client.create(ctx(), &bench.create_request()).await.unwrap_err());
    assert!(failure.transport, "{}", failure.message);
    died(&mut bench).await;
    clean_up(&bench);
}

async fn started(runtime: &Path) {
    let (mut bench, client) = dying(runtime, "started").await;
    // Its own end would be a race with the shim's.
    bench.spec["process"]["args"] = serde_json::json!(["sleep", "1000"]);
    std::fs::write(bench.path("bundle/config.json"), bench.spec.to_string()).unwrap();
    run(&bench, &client).await;
    died(&mut bench).await;
    assert!(!bench.path("record/exit.json").exists());
    clean_up(&bench);
}

async fn drained(runtime: &Path) {
    let (mut bench, client) = dying(runtime, "drained").await;
    run(&bench, &client).await;
    died(&mut bench).await;
    complete_log(&bench);
    assert!(!bench.path("record/exit.json").exists());
    clean_up(&bench);
}

async fn record_written(runtime: &Path) {
    let (mut bench, client) = dying(runtime, "record-written").await;
    run(&bench, &client).await;
    died(&mut bench).await;
    // Whole or not at all.
    assert!(!bench.path("record/exit.json").exists());
    clean_up(&bench);
}

async fn recorded(runtime: &Path) {
    let (mut bench, client) = dying(runtime, "recorded").await;
    run(&bench, &client).await;
    died(&mut bench).await;
    assert_eq!(bench.record().status, 5);
    complete_log(&bench);
    clean_up(&bench);
}

async fn cleaned(runtime: &Path) {
    let (mut bench, client) = dying(runtime, "cleaned").await;
    run(&bench, &client).await;
    died(&mut bench).await;
    assert_eq!(bench.record().status, 5);
    complete_log(&bench);
    // Nothing was left for anybody to remove.
    bench.nothing_left();
}

async fn while_the_container_runs(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "while :; do echo x; sleep 0.01; done"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let pid = bench.create(&client).await;
    bench.start(&client).await;
    eventually("output", || !bench.log_text().is_empty()).await;
    bench.shim.as_mut().unwrap().kill().unwrap();
    let mut shim = bench.shim.take().unwrap();
    shim.wait().unwrap();
    // What is left is found by the runtime and the cgroup, and no line in the log is torn.
    assert!(bench.log_text().lines().all(|line| line == "x"));
    assert!(!bench.path("record/exit.json").exists());
    clean_up(&bench);
    eventually("the process is gone", || !alive(pid)).await;
}
