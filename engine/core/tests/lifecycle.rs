//! Containers driven through the engine's public calls, with the real shim and runtime, and nothing left afterwards.

// Helpers outside of test functions may do what tests may.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use futures_util::StreamExt;
use kelson_api::{ExecCreateRequest, Filters};
use kelson_core::{
    AttachOptions, EventOptions, ExecStartOptions, Kind, LogOptions, RemoveOptions, StopOptions,
    WaitCondition,
};
use support::{
    Place, collect, command, create, eventually, eventually_status, host, list, logs, script, within,
};
use tokio::io::AsyncWriteExt;

macro_rules! place {
    () => {
        match Place::new() {
            Some(place) => place,
            None => return,
        }
    };
}

fn all_streams() -> AttachOptions {
    AttachOptions {
        stream: true,
        stdin: true,
        stdout: true,
        stderr: true,
        ..AttachOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_runs_to_its_end() {
    let place = place!();
    let engine = place.engine().await;
    let mut events = engine.events(EventOptions::default()).unwrap();
    let id = create(&engine, "one", script("echo out; echo err >&2; exit 3")).await;
    let attached = engine.container_attach("one", all_streams()).await.unwrap();
    let waiting = engine
        .container_wait("one", WaitCondition::NextExit)
        .await
        .unwrap();
    within(engine.container_start("one")).await.unwrap();
    assert_eq!(collect(attached.output).await, ("out\n".into(), "err\n".into()));
    assert_eq!(within(waiting.outcome()).await.exit_code, 3);
    let inspect = engine.container_inspect(&id[..12], false).await.unwrap();
    assert_eq!(
        (
            inspect.state.status.as_str(),
            inspect.state.exit_code,
            inspect.state.pid
        ),
        ("exited", 3, 0)
    );
    assert!(inspect.state.started_at < inspect.state.finished_at);
    assert_eq!(logs(&engine, "one").await, ("out\n".into(), "err\n".into()));
    engine
        .container_remove("one", RemoveOptions::default())
        .await
        .unwrap();
    assert!(list(&engine).await.is_empty());
    let mut actions = Vec::new();
    while actions.last().is_none_or(|a| a != "destroy") {
        let event = within(events.next()).await.unwrap();
        if event.r#type == "container" {
            if event.action == "die" {
                assert_eq!(event.actor.attributes["exitCode"], "3");
            }
            actions.push(event.action);
        }
    }
    assert_eq!(actions, ["create", "attach", "start", "die", "destroy"]);
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_container_sees() {
    let place = place!();
    let engine = place.engine().await;
    let mut request = script(
        "id; hostname; cat /etc/hostname; echo $HOME $FROM_IMAGE $PATH; cat /proc/self/attr/current 2>/dev/null; touch /x 2>&1; ls /proc/1/fd | wc -l",
    );
    request.config.user = "web".into();
    request.config.hostname = "inside".into();
    host(&mut request).readonly_rootfs = true;
    create(&engine, "sees", request).await;
    engine.container_start("sees").await.unwrap();
    eventually_status(&engine, "sees", "exited").await;
    let (out, _) = logs(&engine, "sees").await;
    assert!(
        out.starts_with(
            "uid=33(web) gid=33(web) groups=33(web),44(extra)\ninside\ninside\n/srv yes /usr/local/sbin:"
        ),
        "{out}"
    );
    assert!(out.contains("Read-only file system"), "{out}");
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_reaches_the_process() {
    let place = place!();
    let engine = place.engine().await;
    let mut request = command(&["cat"]);
    request.config.open_stdin = true;
    request.config.stdin_once = true;
    create(&engine, "cat", request).await;
    let mut attached = engine.container_attach("cat", all_streams()).await.unwrap();
    engine.container_start("cat").await.unwrap();
    attached.input.write_all(b"through and back\n").await.unwrap();
    attached.input.shutdown().await.unwrap();
    assert_eq!(collect(attached.output).await.0, "through and back\n");
    eventually_status(&engine, "cat", "exited").await;
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_and_the_detach_keys() {
    let place = place!();
    let engine = place.engine().await;
    let mut request = script("stty size; while read x; do echo got $x; done");
    request.config.open_stdin = true;
    request.config.tty = true;
    host(&mut request).console_size = [30, 100];
    create(&engine, "tty", request).await;
    let mut attached = engine.container_attach("tty", all_streams()).await.unwrap();
    assert!(attached.tty);
    engine.container_start("tty").await.unwrap();
    attached.input.write_all(b"a\n").await.unwrap();
    let mut seen = String::new();
    while !seen.contains("got a") {
        let frame = within(attached.output.next()).await.unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&frame.data));
    }
    assert!(seen.contains("30 100"), "{seen}");
    engine.container_resize("tty", 24, 80).await.unwrap();
    attached.input.write_all(b"\x10\x11").await.unwrap();
    while within(attached.output.next()).await.is_some() {}
    eventually_status(&engine, "tty", "running").await;
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_cannot_run() {
    let place = place!();
    let engine = place.engine().await;
    for (name, words, code) in [
        ("missing", ["/no/such"], 127),
        ("text", ["/etc/not-executable"], 126),
    ] {
        create(&engine, name, command(&words)).await;
        let e = within(engine.container_start(name)).await.unwrap_err();
        assert_eq!(e.exit_code(), Some(code), "{e}");
        let state = engine.container_inspect(name, false).await.unwrap().state;
        assert_eq!(
            (state.status.as_str(), state.exit_code),
            ("created", i64::from(code))
        );
        assert!(!state.error.is_empty());
    }
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_leave_nothing() {
    let place = place!();
    let engine = place.engine().await;
    let refused = |name: &'static str, request| {
        let engine = engine.clone();
        async move {
            engine
                .container_create(Some(name), None, request)
                .await
                .unwrap_err()
        }
    };
    let mut unknown = script("true");
    unknown.config.image = "nowhere".into();
    let e = refused("a1", unknown).await;
    assert_eq!(
        (e.kind(), e.to_string().as_str()),
        (Kind::NotFound, "No such image: nowhere:latest")
    );
    let mut mount = script("true");
    host(&mut mount).mounts = Some(vec![kelson_api::Mount {
        r#type: "bind".into(),
        source: "/no/such".into(),
        target: "/x".into(),
        ..Default::default()
    }]);
    let e = refused("a2", mount).await;
    assert_eq!(
        e.to_string(),
        "invalid mount config for type \"bind\": bind source path does not exist: /no/such"
    );
    let id = create(&engine, "taken", script("true")).await;
    let e = refused("taken", script("true")).await;
    assert_eq!(
        (e.kind(), e.to_string()),
        (
            Kind::Conflict,
            format!(
                "Conflict. The container name \"/taken\" is already in use by container \"{id}\". You have to remove (or rename) \
                 that container to be able to reuse that name."
            )
        )
    );
    assert_eq!(list(&engine).await, [id]);
    assert_eq!(
        std::fs::read_dir(place.config.data_root.join("containers"))
            .unwrap()
            .count(),
        1
    );
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_and_their_messages() {
    let place = place!();
    let engine = place.engine().await;
    let id = create(
        &engine,
        "ss",
        script("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"),
    )
    .await;
    let not_running = engine.container_kill("ss", None).await.unwrap_err();
    assert_eq!(
        not_running.to_string(),
        format!("cannot kill container: ss: container {id} is not running")
    );
    assert_eq!(
        engine
            .container_stop("ss", StopOptions::default())
            .await
            .unwrap_err()
            .kind(),
        Kind::NotModified
    );
    engine.container_start("ss").await.unwrap();
    let up = LogOptions {
        stdout: true,
        follow: true,
        ..LogOptions::default()
    };
    within(engine.container_logs("ss", up).await.unwrap().frames.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        engine.container_start("ss").await.unwrap_err().kind(),
        Kind::NotModified
    );
    let e = engine
        .container_remove("ss", RemoveOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        e.to_string(),
        "cannot remove container \"/ss\": container is running: stop the container before removing or force remove"
    );
    engine.container_pause("ss").await.unwrap();
    assert_eq!(
        engine.container_pause("ss").await.unwrap_err().to_string(),
        format!("container {id} is already paused")
    );
    assert_eq!(
        engine.container_start("ss").await.unwrap_err().kind(),
        Kind::Conflict
    );
    assert_eq!(
        engine.container_inspect("ss", false).await.unwrap().state.status,
        "paused"
    );
    engine.container_unpause("ss").await.unwrap();
    assert_eq!(
        engine.container_unpause("ss").await.unwrap_err().to_string(),
        format!("container {id} is not paused")
    );
    within(engine.container_stop("ss", StopOptions::default()))
        .await
        .unwrap();
    let state = engine.container_inspect("ss", false).await.unwrap().state;
    assert_eq!((state.status.as_str(), state.exit_code), ("exited", 7));
    engine.container_rename("ss", "tt").await.unwrap();
    assert_eq!(
        engine.container_inspect("ss", false).await.unwrap_err().kind(),
        Kind::NotFound
    );
    within(engine.container_restart("tt", StopOptions::default()))
        .await
        .unwrap();
    assert_eq!(engine.container_top("tt", "").await.unwrap().titles[1], "PID");
    assert!(!engine.container_top("tt", "").await.unwrap().processes.is_empty());
    within(engine.container_kill("tt", None)).await.unwrap();
    assert_eq!(
        engine
            .container_inspect("tt", false)
            .await
            .unwrap()
            .state
            .exit_code,
        137
    );
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ignores_sigterm_is_killed_in_time() {
    let place = place!();
    let engine = place.engine().await;
    create(&engine, "deaf", script("trap '' TERM; sleep 1000 & sleep 1000")).await;
    engine.container_start("deaf").await.unwrap();
    let begin = std::time::Instant::now();
    let options = StopOptions {
        timeout: Some(std::time::Duration::from_millis(300)),
        ..Default::default()
    };
    within(engine.container_stop("deaf", options)).await.unwrap();
    assert!(begin.elapsed().as_secs() < 20);
    assert_eq!(
        engine
            .container_inspect("deaf", false)
            .await
            .unwrap()
            .state
            .exit_code,
        137
    );
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_in_a_container() {
    let place = place!();
    let engine = place.engine().await;
    create(&engine, "ex", script("sleep 1000")).await;
    engine.container_start("ex").await.unwrap();
    let request = |words: &[&str]| ExecCreateRequest {
        cmd: Some(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>().into()),
        attach_stdin: true,
        attach_stdout: true,
        attach_stderr: true,
        ..ExecCreateRequest::default()
    };
    let id = engine
        .exec_create("ex", request(&["sh", "-c", "cat; echo err >&2; id -u; exit 5"]))
        .await
        .unwrap();
    let mut attached = within(engine.exec_start(&id, ExecStartOptions::default()))
        .await
        .unwrap();
    attached.input.write_all(b"in\n").await.unwrap();
    attached.input.shutdown().await.unwrap();
    assert_eq!(collect(attached.output).await, ("in\n0\n".into(), "err\n".into()));
    let end = std::time::Instant::now() + support::DEADLINE;
    while engine.exec_inspect(&id).await.unwrap().exit_code.is_none() {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let inspect = engine.exec_inspect(&id).await.unwrap();
    assert_eq!((inspect.exit_code, inspect.running), (Some(5), false));
    assert_eq!(
        engine
            .exec_start(&id, ExecStartOptions::default())
            .await
            .unwrap_err()
            .kind(),
        Kind::Conflict
    );

    let missing = engine.exec_create("ex", request(&["nope"])).await.unwrap();
    let (out, _) = collect(
        engine
            .exec_start(&missing, ExecStartOptions::default())
            .await
            .unwrap()
            .output,
    )
    .await;
    assert!(out.contains("nope"), "{out}");
    assert_eq!(engine.exec_inspect(&missing).await.unwrap().exit_code, Some(127));

    let detached = engine
        .exec_create("ex", request(&["touch", "/made"]))
        .await
        .unwrap();
    engine
        .exec_start_detached(&detached, ExecStartOptions::default())
        .await
        .unwrap();
    let engine_ = engine.clone();
    let end = std::time::Instant::now() + support::DEADLINE;
    while engine_.exec_inspect(&detached).await.unwrap().exit_code != Some(0) {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_and_binds() {
    let place = place!();
    let engine = place.engine().await;
    let source = place.dir.path().join("made-by-v");
    let mut request = script(
        "cat /srv/page; echo new > /srv/page; echo x > /bound/file; echo y > /ro/file; grep ' /scratch ' /proc/mounts",
    );
    host(&mut request).binds = Some(vec![
        "data:/srv".into(),
        format!("{}:/bound", source.display()),
        "/etc:/ro:ro".into(),
    ]);
    host(&mut request).tmpfs = Some([("/scratch".to_owned(), "size=64k".to_owned())].into());
    request.config.volumes = Some([("/anonymous".to_owned(), Default::default())].into());
    create(&engine, "vol", request).await;
    engine.container_start("vol").await.unwrap();
    eventually_status(&engine, "vol", "exited").await;
    let (out, err) = logs(&engine, "vol").await;
    assert!(out.starts_with("content of the image\n"), "{out}{err}");
    assert!(out.contains("size=64k"), "{out}");
    assert!(err.contains("Read-only file system"), "{err}");
    assert_eq!(std::fs::read_to_string(source.join("file")).unwrap(), "x\n");
    let data = engine.volume_inspect("data").await.unwrap().mountpoint;
    assert_eq!(std::fs::read_to_string(format!("{data}/page")).unwrap(), "new\n");
    assert_eq!(
        engine.volume_remove("data", false).await.unwrap_err().kind(),
        Kind::Conflict
    );
    assert_eq!(
        engine
            .volume_list(&Filters::default())
            .await
            .unwrap()
            .volumes
            .len(),
        2
    );
    engine
        .container_remove(
            "vol",
            RemoveOptions {
                force: false,
                volumes: true,
            },
        )
        .await
        .unwrap();
    assert_eq!(
        engine
            .volume_list(&Filters::default())
            .await
            .unwrap()
            .volumes
            .len(),
        1
    );
    engine.volume_remove("data", false).await.unwrap();
    place.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_remove_and_restart_policy() {
    let place = place!();
    let engine = place.engine().await;
    let mut request = script("exit 4");
    host(&mut request).auto_remove = true;
    create(&engine, "rm", request).await;
    let waiting = engine.container_wait("rm", WaitCondition::Removed).await.unwrap();
    engine.container_start("rm").await.unwrap();
    assert_eq!(within(waiting.outcome()).await.exit_code, 4);
    assert!(list(&engine).await.is_empty());

    let mut request = script("echo again; exit 1");
    host(&mut request).restart_policy.name = "on-failure".into();
    host(&mut request).restart_policy.maximum_retry_count = 2;
    create(&engine, "retry", request).await;
    engine.container_start("retry").await.unwrap();
    eventually_status(&engine, "retry", "exited").await;
    let inspect = engine.container_inspect("retry", false).await.unwrap();
    assert_eq!((inspect.restart_count, inspect.state.exit_code), (2, 1));
    assert_eq!(logs(&engine, "retry").await.0, "again\n".repeat(3));
    place.finish(engine).await;
}

#[test]
fn a_bad_record_costs_itself_only() {
    let place = place!();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let (good, bad) = first.block_on(async {
        let engine = place.engine().await;
        let good = create(&engine, "good", script("true")).await;
        (good, create(&engine, "bad", script("true")).await)
    });
    first.shutdown_timeout(std::time::Duration::from_secs(5));
    let containers = place.config.data_root.join("containers");
    std::fs::write(containers.join(&bad).join("record.json"), "{\"format\":1,").unwrap();
    std::fs::write(containers.join(&good).join("state.json"), "").unwrap();
    std::fs::create_dir(containers.join("half-made")).unwrap();
    let second = runtime();
    second.block_on(async {
        let engine = place.open().await;
        assert_eq!(list(&engine).await, std::slice::from_ref(&good));
        assert!(
            containers.join(&bad).exists(),
            "what cannot be read is left for a human"
        );
        assert!(!containers.join("half-made").exists());
        // Its name is free again, its data is not touched.
        create(&engine, "bad", script("true")).await;
        assert_eq!(engine.images().snapshot_containers().len(), 3);
        std::fs::remove_dir_all(containers.join(&bad)).unwrap();
        place.finish(engine).await;
    });
}

/// The engine goes away without a word and comes back, as after `kill -9`.
#[test]
fn a_daemon_that_dies_takes_nothing_along() {
    let place = place!();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let (long, short) = first.block_on(async {
        let engine = place.engine().await;
        let long = create(
            &engine,
            "long",
            script("for i in $(seq 400); do echo line $i; sleep 0.01; done; exit 9"),
        )
        .await;
        let short = create(&engine, "short", script("sleep 0.3; exit 6")).await;
        engine.container_start("long").await.unwrap();
        engine.container_start("short").await.unwrap();
        (long, short)
    });
    // Every task and connection of the first life ends here.
    first.shutdown_timeout(std::time::Duration::from_secs(5));
    let record = place
        .config
        .data_root
        .join("containers")
        .join(&short)
        .join("exit.json");
    let second = runtime();
    second.block_on(async {
        eventually("the short one's exit record", || record.exists()).await;
        let engine = place.open().await;
        eventually_status(&engine, "short", "exited").await;
        assert_eq!(
            engine
                .container_inspect(&short, false)
                .await
                .unwrap()
                .state
                .exit_code,
            6
        );
        let follow = LogOptions {
            stdout: true,
            follow: true,
            ..LogOptions::default()
        };
        let (out, _) = collect(engine.container_logs(&long, follow).await.unwrap().frames).await;
        let expected: String = (1..=400).map(|n| format!("line {n}\n")).collect();
        assert_eq!(out, expected);
        eventually_status(&engine, "long", "exited").await;
        assert_eq!(
            engine
                .container_inspect(&long, false)
                .await
                .unwrap()
                .state
                .exit_code,
            9
        );
        place.finish(engine).await;
    });
}
