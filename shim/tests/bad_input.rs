//! What a shim answers to nonsense, and that nothing of it stays.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bench, ctx, runtime};
use kelson_shim_proto::error::{Code, decode};
use kelson_shim_proto::serve::Ready;
use kelson_shim_proto::task::ShutdownRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Create must fail with `code`, leave nothing, and leave the shim able to end.
async fn refused(mut bench: Bench, change: impl FnOnce(&Bench), code: Code) -> String {
    bench.serve(Vec::new());
    change(&bench);
    let client = bench.client().await;
    let failure = decode(&client.create(ctx(), &bench.create_request()).await.unwrap_err());
    assert_eq!(failure.code, code, "{}", failure.message);
    let request = ShutdownRequest {
        id: bench.id.clone(),
        now: true,
        ..Default::default()
    };
    client.shutdown(ctx(), &request).await.unwrap();
    bench.gone().await;
    failure.message
}

fn bench() -> Option<Bench> {
    runtime("runc")
        .map(|path| Bench::new(&path, &["true"]))
        .map_err(|why| println!("skipped: {why}"))
        .ok()
}

#[tokio::test]
async fn a_bundle_without_config() {
    let Some(bench) = bench() else { return };
    let remove = |bench: &Bench| std::fs::remove_file(bench.path("bundle/config.json")).unwrap();
    let message = refused(bench, remove, Code::NOT_FOUND).await;
    assert!(message.contains("config.json"), "{message}");
}

#[tokio::test]
async fn a_malformed_config() {
    let Some(bench) = bench() else { return };
    let spoil = |bench: &Bench| std::fs::write(bench.path("bundle/config.json"), "{").unwrap();
    refused(bench, spoil, Code::INVALID_ARGUMENT).await;
}

#[tokio::test]
async fn a_root_that_is_not_there() {
    let Some(bench) = bench() else { return };
    let remove = |bench: &Bench| std::fs::remove_dir_all(bench.path("lower")).unwrap();
    let message = refused(bench, remove, Code::NOT_FOUND).await;
    assert!(message.contains("mount overlay"), "{message}");
}

#[tokio::test]
async fn a_runtime_that_is_not_there() {
    if bench().is_none() {
        return;
    }
    let bench = Bench::new(Path::new("/no/such/runtime"), &["true"]);
    let message = refused(bench, |_| {}, Code::NOT_FOUND).await;
    assert!(message.contains("/no/such/runtime"), "{message}");
}

#[tokio::test]
async fn runtimes_that_lie() {
    if bench().is_none() {
        return;
    }
    for (script, expected) in [
        ("exit 0", "pid file"),
        ("exit 3", "exit status 3"),
        (
            "for a; do [ \"$take\" ] && echo nonsense > \"$a\"; take=; [ \"$a\" = --pid-file ] && take=1; done; exit 0",
            "is no pid",
        ),
        ("kill -9 $$", "exit status 137"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("liar");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let mut bench = Bench::new(&path, &["true"]);
        bench.serve(Vec::new());
        let client = bench.client().await;
        let failure = decode(&client.create(ctx(), &bench.create_request()).await.unwrap_err());
        assert!(
            failure.message.contains(expected),
            "{script}: {}",
            failure.message
        );
        let request = ShutdownRequest {
            id: bench.id.clone(),
            now: true,
            ..Default::default()
        };
        client.shutdown(ctx(), &request).await.unwrap();
        bench.gone().await;
    }
}

#[tokio::test]
async fn garbage_on_both_sockets() {
    let Some(mut bench) = bench() else { return };
    bench.serve(Vec::new());
    for name in ["task.sock", "attach.sock"] {
        let mut socket = tokio::net::UnixStream::connect(bench.path(name)).await.unwrap();
        let _ = socket.write_all(&vec![b'x'; 100_000]).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(common::DEADLINE, socket.read_to_end(&mut answer))
            .await
            .unwrap();
    }
    // Alive and well after it.
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 0);
    bench.finish(client).await;
}

#[tokio::test]
async fn a_full_disk_under_the_log() {
    let Some(mut bench) = bench() else { return };
    // Every write to it fails with ENOSPC.
    bench.log = "kelson-log:json-file?path=/dev/full".to_owned();
    bench.spec["process"]["args"] = serde_json::json!(["sh", "-c", "seq 1 50000; exit 2"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 2);
    assert!(bench.shim_log().contains("write log /dev/full"));
    bench.finish(client).await;
}

#[test]
fn parameters_that_make_no_sense() {
    for params in ["", "{", "{\"format\":2}", &"x".repeat(70_000)] {
        let mut shim = Command::new(common::shim_binary())
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _ = shim.stdin.take().unwrap().write_all(params.as_bytes());
        let output = shim.wait_with_output().unwrap();
        assert!(!output.status.success());
        let ready: Ready = serde_json::from_slice(&output.stdout).unwrap();
        assert!(ready.error.unwrap().contains("parameters"), "{params:.10}");
    }
}
