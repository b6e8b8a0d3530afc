//! What one idle shim costs in memory. Held to the limit only for the static build (`KELSON_SHIM`), which is what
//! is installed; a debug build is measured and reported.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use common::{Bench, runtime};
use kelson_shim_proto::attach::Hello;

/// PSS of an idle shim that was never used, in kB.
const IDLE: u64 = 1800;

/// PSS after execs, attaches and output, in kB.
const USED: u64 = 2200;

#[tokio::test]
async fn idle_and_used() {
    let path = match runtime("kelson-runtime").or_else(|_| runtime("runc")) {
        Ok(path) => path,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut bench = Bench::new(
        &path,
        &["sh", "-c", "cat; yes x | head -c 20000; exec sleep 1000"],
    );
    bench.serve(Vec::new());
    nothing_wakes_it(bench.shim_pid).await;
    let idle = pss(bench.shim_pid);
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    nothing_wakes_it(bench.shim_pid).await;
    let running = pss(bench.shim_pid);
    let mut attached = bench
        .attach(&Hello {
            stdout: false,
            ..Hello::all("")
        })
        .await;
    tokio::io::AsyncWriteExt::shutdown(&mut attached.socket)
        .await
        .unwrap();
    // 10,000 lines of one letter become objects of at least 60 bytes.
    let log = bench.path("c-json.log");
    common::eventually("all output", || {
        std::fs::metadata(&log).is_ok_and(|meta| meta.len() > 600_000)
    })
    .await;
    for n in 0..50 {
        let id = format!("e{n}");
        bench.exec(&client, &id, &["true"], false).await.unwrap();
        bench.start_exec(&client, &id).await.unwrap();
        bench.wait(&client, &id).await;
        bench.delete(&client, &id).await.unwrap();
    }
    nothing_wakes_it(bench.shim_pid).await;
    let used = pss(bench.shim_pid);
    println!("pss: idle {idle} kB, with a container {running} kB, after use {used} kB");
    if std::env::var_os("KELSON_SHIM").is_some() {
        assert!(idle <= IDLE && used <= USED, "idle {idle} kB, used {used} kB");
    }
    bench.kill(&client, "", 9).await.unwrap();
    bench.wait(&client, "").await;
    bench.finish(client).await;
}

fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// An idle container costs no wake-up: whoever waits for one must wait for the whole time.
async fn nothing_wakes_it(pid: u32) {
    let switches = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.unwrap().to_owned()
    };
    // What the last call left to do is done first.
    let mut before = switches();
    let mut quiet = std::time::Instant::now();
    let until = quiet + common::DEADLINE;
    while quiet.elapsed() < std::time::Duration::from_secs(3) {
        assert!(std::time::Instant::now() < until, "an idle shim is never quiet");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let now = switches();
        if now != before {
            (before, quiet) = (now, std::time::Instant::now());
        }
    }
}
