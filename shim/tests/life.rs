//! A container's life through the Task service: from create to nothing left.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::path::Path;

use common::{Bench, alive, ctx, eventually};
use kelson_shim_proto::error::{Code, decode};
use kelson_shim_proto::task::{
    ConnectRequest, PauseRequest, PidsRequest, ResumeRequest, StateRequest, Status,
};

each_runtime!(
    run_to_the_exit_code,
    killed_by_a_signal,
    early_exit_is_not_lost,
    never_started,
    pause_and_resume,
    two_creates,
    the_client_dies,
    nobody_asks,
    output_after_exit_of_init,
    missing_command,
    no_execute_permission,
    kill_all_processes,
);

async fn run_to_the_exit_code(runtime: &Path) {
    let mut bench = Bench::new(
        runtime,
        &["sh", "-c", "echo out; echo err >&2; printf end; exit 7"],
    );
    bench.serve(Vec::new());
    let client = bench.client().await;
    let pid = bench.create(&client).await;
    let state = client
        .state(
            ctx(),
            &StateRequest {
                id: bench.id.clone(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(
        (state.pid, state.status.enum_value().unwrap()),
        (pid, Status::CREATED)
    );
    // Its root is mounted, but only the shim sees it, also where every mount is shared.
    bench.no_mount_here();
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 7);
    let mut lines: Vec<String> = bench.log_text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines.join(" "), "end err out", "{}", bench.shim_log());
    let record = bench.record();
    assert_eq!(
        (record.status, record.signal, record.pid, record.oom_killed),
        (7, None, pid, false)
    );
    let state = client
        .state(
            ctx(),
            &StateRequest {
                id: bench.id.clone(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(
        (state.exit_status, state.status.enum_value().unwrap()),
        (7, Status::STOPPED)
    );
    bench.finish(client).await;
}

async fn killed_by_a_signal(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let pid = bench.create(&client).await;
    bench.start(&client).await;
    let connected = client
        .connect(
            ctx(),
            &ConnectRequest {
                id: bench.id.clone(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!((connected.shim_pid, connected.task_pid), (bench.shim_pid, pid));
    bench.kill(&client, "", 9).await.unwrap();
    assert_eq!(bench.wait(&client, "").await, 137);
    assert_eq!(bench.record().signal, Some(9));
    let error = bench.kill(&client, "", 9).await.unwrap_err();
    assert_eq!(decode(&error).code, Code::NOT_FOUND);
    bench.finish(client).await;
}

async fn early_exit_is_not_lost(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let pid = bench.create(&client).await;
    // Between create and start, from outside.
    let pid = i32::try_from(pid).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(bench.wait(&client, "").await, 137);
    let error = client
        .start(
            ctx(),
            &kelson_shim_proto::task::StartRequest {
                id: bench.id.clone(),
                ..Default::default()
            },
        )
        .await
        .unwrap_err();
    assert_eq!(decode(&error).code, Code::FAILED_PRECONDITION);
    bench.finish(client).await;
}

async fn never_started(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["true"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let pid = bench.create(&client).await;
    assert!(alive(pid));
    bench.finish(client).await;
    assert!(!alive(pid));
}

async fn pause_and_resume(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sh", "-c", "while :; do echo x; sleep 0.02; done"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    let pid = bench.create(&client).await;
    bench.start(&client).await;
    eventually("output", || !bench.log_text().is_empty()).await;
    let pause = PauseRequest {
        id: bench.id.clone(),
        ..Default::default()
    };
    client.pause(ctx(), &pause).await.unwrap();
    let state = client
        .state(
            ctx(),
            &StateRequest {
                id: bench.id.clone(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(state.status.enum_value().unwrap(), Status::PAUSED);
    assert_eq!(
        decode(&client.pause(ctx(), &pause).await.unwrap_err()).code,
        Code::FAILED_PRECONDITION
    );
    client
        .resume(
            ctx(),
            &ResumeRequest {
                id: bench.id.clone(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let before = bench.log_text().len();
    eventually("more output", || bench.log_text().len() > before).await;
    let pids = client
        .pids(
            ctx(),
            &PidsRequest {
                id: bench.id.clone(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert!(
        pids.processes.iter().any(|process| process.pid == pid),
        "{pids:?}"
    );
    // A frozen container can be killed.
    client.pause(ctx(), &pause).await.unwrap();
    bench.kill(&client, "", 9).await.unwrap();
    assert_eq!(bench.wait(&client, "").await, 137);
    bench.finish(client).await;
}

async fn two_creates(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    let error = client.create(ctx(), &bench.create_request()).await.unwrap_err();
    assert_eq!(decode(&error).code, Code::ALREADY_EXISTS);
    let mut other = bench.create_request();
    other.id = "another".into();
    assert_eq!(
        decode(&client.create(ctx(), &other).await.unwrap_err()).code,
        Code::NOT_FOUND
    );
    bench.finish(client).await;
}

async fn the_client_dies(runtime: &Path) {
    let mut bench = Bench::new(
        runtime,
        &[
            "sh",
            "-c",
            "for i in $(seq 1 1000); do echo line $i; done; sleep 0.3; exit 3",
        ],
    );
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    drop(client);
    eventually("the record", || bench.path("record/exit.json").exists()).await;
    assert_eq!(bench.record().status, 3);
    let expected: String = (1..=1000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(bench.log_text(), expected);
    // And again: a new client finds the end, or the shim has ended by itself.
    bench.gone().await;
}

async fn nobody_asks(runtime: &Path) {
    let mut bench = Bench::new(runtime, &["true"]);
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    drop(client);
    bench.gone().await;
    assert_eq!(bench.record().status, 0);
}

async fn output_after_exit_of_init(runtime: &Path) {
    // With the host's pid namespace the child outlives the first process, and holds its stdout.
    let mut bench = Bench::new(runtime, &["sh", "-c", "(sleep 1000; echo never) & echo first"]);
    let namespaces = bench.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|ns| ns["type"] != "pid");
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    assert_eq!(bench.wait(&client, "").await, 0);
    assert_eq!(bench.log_text(), "first\n");
    bench.finish(client).await;
}

async fn missing_command(runtime: &Path) {
    refused(runtime, &["nosuchcommand"], "command_not_found").await;
    refused(runtime, &["/no/such/command"], "command_not_found").await;
}

async fn no_execute_permission(runtime: &Path) {
    refused(runtime, &["/etc/plain"], "command_not_executable").await;
    refused(runtime, &["/etc"], "command_not_executable").await;
}

async fn refused(runtime: &Path, args: &[&str], kind: &str) {
    let mut bench = Bench::new(runtime, args);
    bench.serve(Vec::new());
    let client = bench.client().await;
    // Some runtimes find out in create, others in start.
    let error = match client.create(ctx(), &bench.create_request()).await {
        Err(error) => error,
        Ok(_) => {
            let request = kelson_shim_proto::task::StartRequest {
                id: bench.id.clone(),
                ..Default::default()
            };
            client.start(ctx(), &request).await.unwrap_err()
        }
    };
    let failure = decode(&error);
    assert_eq!(
        failure.detail.map(|detail| detail.kind).as_deref(),
        Some(kind),
        "{}",
        failure.message
    );
    let request = kelson_shim_proto::task::ShutdownRequest {
        id: bench.id.clone(),
        now: true,
        ..Default::default()
    };
    client.shutdown(ctx(), &request).await.unwrap();
    bench.gone().await;
}

async fn kill_all_processes(runtime: &Path) {
    let mut bench = Bench::new(
        runtime,
        &["sh", "-c", "trap '' TERM; sleep 1000 & wait; echo woken; exit 5"],
    );
    bench.serve(Vec::new());
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;
    let pids = PidsRequest {
        id: bench.id.clone(),
        ..Default::default()
    };
    for _ in 0..2000 {
        if client.pids(ctx(), &pids).await.unwrap().processes.len() == 2 {
            break;
        }
    }
    let request = kelson_shim_proto::task::KillRequest {
        id: bench.id.clone(),
        signal: 10,
        all: true,
        ..Default::default()
    };
    client.kill(ctx(), &request).await.unwrap();
    // SIGUSR1 ends the child by default, and the shell too unless it is pid 1 of a namespace, which it is.
    assert_eq!(bench.wait(&client, "").await, 5);
    bench.finish(client).await;
}
