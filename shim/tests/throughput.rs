//! How fast output is kept. Run by hand: `KELSON_LINES=PROGRAM KELSON_SHIM=STATIC_BUILD cargo nextest run -p kelson-shim
//! --test throughput --run-ignored all --no-capture`, with a static program that writes what is to be kept.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::time::Instant;

use common::{Bench, runtime};

#[tokio::test]
#[ignore = "a measurement"]
async fn lines() {
    let path = runtime("kelson-runtime").or_else(|_| runtime("runc")).unwrap();
    let mut bench = Bench::new(&path, &["/bin/lines"]);
    std::fs::copy(
        std::env::var_os("KELSON_LINES").unwrap(),
        bench.path("lower/bin/lines"),
    )
    .unwrap();
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    let begin = Instant::now();
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 0);
    let wall = begin.elapsed();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bench.shim_pid)).unwrap();
    let ticks: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|t| t.parse().unwrap())
        .collect();
    println!(
        "wall {wall:?}, shim: user {} ms, system {} ms",
        ticks[0] * 10,
        ticks[1] * 10
    );
    bench.finish(client).await;
}
