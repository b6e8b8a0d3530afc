//! `kill -9` of the runtime at every fault point, and commands that meet on one container: whatever was going on,
//! `delete --force` leaves nothing.
#![cfg(debug_assertions)] // without them there are no fault points
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bundle, can_run, eventually, text};
use serde_json::json;

/// Points of the runtime and of its child that lie on the way of both `create` and `run`.
const CREATION: [&str; 11] = [
    "create.reserved",
    "create.recorded",
    "create.cgroup",
    "create.limits",
    "child.begin",
    "child.joined",
    "child.mounted",
    "child.pivoted",
    "child.before-ready",
    "create.ready",
    "create.rewritten",
];

fn save(b: &Bundle) {
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
}

fn quiet(mut c: Command) -> Command {
    c.stdout(Stdio::null()).stderr(Stdio::null());
    c
}

fn creation(b: &Bundle, verb: &str) -> Command {
    save(b);
    quiet(b.command(&[verb, "--bundle", b.dir.path().to_str().unwrap(), &b.id]))
}

/// The process that waits at a fault point on behalf of this container.
fn waiting(b: &Bundle) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        (comm == "kelson-fault\n" && text(&line).contains(&b.id)).then_some(pid)
    })
}

/// Starts the command, waits until it or its child is at the point, and kills the runtime there.
fn kill_at(b: &Bundle, point: &str, mut command: Command) {
    let mut runtime = command.env("KELSON_FAULT", point).spawn().unwrap();
    eventually(point, || {
        assert_eq!(runtime.try_wait().unwrap(), None, "it ended before {point}");
        waiting(b).is_some()
    });
    kill(&mut runtime);
}

fn kill(runtime: &mut Child) {
    runtime.kill().unwrap();
    runtime.wait().unwrap();
}

fn delete_cleans(b: &Bundle, point: &str) {
    let began = Instant::now();
    let out = b.delete();
    assert!(out.status.success(), "{point}: {}", text(&out.stderr));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{point}: delete took {:?}",
        began.elapsed()
    );
    eventually(&format!("{point}: clean: {:?}", b.leftovers()), || {
        b.leftovers().is_empty()
    });
}

#[test]
fn a_killed_creation_is_cleaned_up_by_delete() {
    if !can_run() {
        return;
    }
    for verb in ["create", "run"] {
        for point in CREATION {
            let b = Bundle::new("sleep 100");
            kill_at(&b, point, creation(&b, verb));
            delete_cleans(&b, point);
            // The id is as good as new.
            let again = b.create(&[]);
            assert!(again.status.success(), "{point}: {}", text(&again.stderr));
            delete_cleans(&b, point);
        }
    }
}

#[test]
fn a_reserved_id_is_taken_over_by_the_next_create() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    kill_at(&b, "create.reserved", creation(&b, "create"));
    let out = b.create(&[]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(b.status(), "created");
    delete_cleans(&b, "create.reserved");
}

#[test]
fn a_killed_run_is_cleaned_up_by_delete() {
    if !can_run() {
        return;
    }
    for point in ["run.ready", "child.started", "run.started"] {
        let b = Bundle::new("sleep 100");
        kill_at(&b, point, creation(&b, "run"));
        delete_cleans(&b, point);
    }
    for point in [
        "delete.locked",
        "delete.killed",
        "delete.cgroup",
        "delete.record",
        "delete.removed",
    ] {
        let b = Bundle::new("true");
        kill_at(&b, point, creation(&b, "run"));
        delete_cleans(&b, point);
    }
}

#[test]
fn a_killed_start_is_cleaned_up_by_delete() {
    if !can_run() {
        return;
    }
    for (point, status) in [
        ("start.locked", "created"),
        ("start.told", "running"),
        ("start.executed", "running"),
    ] {
        let b = Bundle::new("sleep 100");
        assert!(b.create(&[]).status.success());
        kill_at(&b, point, quiet(b.command(&["start", &b.id])));
        // The fifo is still there; that does not make it look as if it had not been started.
        eventually(point, || b.status() == status);
        let again = b.start();
        assert_eq!(
            again.status.success(),
            status == "created",
            "{point}: {}",
            text(&again.stderr)
        );
        delete_cleans(&b, point);
    }
    let b = Bundle::new("sleep 100");
    assert!(
        creation(&b, "create")
            .env("KELSON_FAULT", "child.started")
            .status()
            .unwrap()
            .success()
    );
    kill_at(&b, "child.started", quiet(b.command(&["start", &b.id])));
    delete_cleans(&b, "child.started");
}

#[test]
fn a_killed_delete_is_ended_by_the_next() {
    if !can_run() {
        return;
    }
    for point in [
        "delete.locked",
        "delete.killed",
        "delete.cgroup",
        "delete.record",
        "delete.removed",
    ] {
        let b = Bundle::new("sleep 100");
        b.up();
        kill_at(&b, point, quiet(b.command(&["delete", "--force", &b.id])));
        delete_cleans(&b, point);
    }
}

#[test]
fn what_a_killed_delete_leaves_of_a_readiness_socket_is_taken_over() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    let path = b.path("manager.sock");
    let _manager = UnixDatagram::bind(&path).unwrap();
    let create = || {
        let status = creation(&b, "create").env("NOTIFY_SOCKET", &path).status();
        assert!(status.unwrap().success());
    };
    create();
    kill_at(
        &b,
        "delete.record",
        quiet(b.command(&["delete", "--force", &b.id])),
    );
    create();
    assert_eq!(b.status(), "created");
    delete_cleans(&b, "delete.record");
}

#[test]
fn an_exec_without_its_runtime_never_runs() {
    if !can_run() {
        return;
    }
    for point in ["exec.planned", "exec.between", "exec.entered", "exec.member"] {
        let b = Bundle::new("sleep 100");
        b.up();
        let mut command = quiet(b.command(&["exec", &b.id, "touch", "/tmp/ran"]));
        let mut runtime = command.env("KELSON_FAULT", point).spawn().unwrap();
        eventually(point, || waiting(&b).is_some());
        let held = waiting(&b).unwrap();
        kill(&mut runtime);
        if point != "exec.planned" {
            // It goes on, and finds that nobody listens.
            rustix::process::setpriority_process(rustix::process::Pid::from_raw(held), 19).unwrap();
        }
        eventually("the container alone", || {
            b.container_cgroup().pids().unwrap().len() == 1
        });
        assert!(!b.rootfs().join("tmp/ran").exists(), "{point}");
        assert!(
            b.exec(&["true"]).status.success(),
            "{point}: the container is as before"
        );
        delete_cleans(&b, point);
    }
    // Once it runs it stays, as with every runtime.
    let b = Bundle::new("sleep 100");
    b.up();
    kill_at(
        &b,
        "exec.running",
        quiet(b.command(&["exec", &b.id, "sleep", "100"])),
    );
    assert_eq!(b.container_cgroup().pids().unwrap().len(), 2);
    delete_cleans(&b, "exec.running");
}

#[test]
fn a_hook_that_hangs_does_not_hold_the_lock_of_a_killed_create() {
    if !can_run() {
        return;
    }
    for moment in ["createContainer", "prestart"] {
        let mut b = Bundle::new("sleep 100");
        let hook = b.path("hook-runs");
        b.config["hooks"] = json!({moment: [
            {"path": "/bin/sh", "args": ["sh", "-c", format!("echo $$ > {}; exec sleep 60", hook.display())]}
        ]});
        let mut runtime = creation(&b, "create").spawn().unwrap();
        eventually("the hook", || {
            fs::read_to_string(&hook).is_ok_and(|t| t.ends_with('\n'))
        });
        kill(&mut runtime);
        let pid: i32 = fs::read_to_string(&hook).unwrap().trim().parse().unwrap();
        delete_cleans(&b, moment);
        if moment == "prestart" {
            // One in the runtime's namespaces is the engine's own program; it is nobody's to kill but the engine's.
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        }
    }
}

#[test]
fn delete_force_does_not_wait_for_a_start_that_hangs() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("sleep 100");
    b.config["hooks"] = json!({"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "60"]}]});
    assert!(b.create(&[]).status.success());
    let mut start = quiet(b.command(&["start", &b.id])).spawn().unwrap();
    eventually("the hook", || b.container_cgroup().pids().unwrap().len() == 2);
    delete_cleans(&b, "start");
    assert!(!start.wait().unwrap().success());
}

#[test]
fn of_many_creations_of_one_id_one_wins() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    for _ in 0..5 {
        let mut all: Vec<_> = (0..4).map(|_| creation(&b, "create").spawn().unwrap()).collect();
        let good = all
            .iter_mut()
            .map(|c| c.wait().unwrap())
            .filter(|s| s.success())
            .count();
        assert_eq!(good, 1);
        assert_eq!(b.status(), "created", "the losers took nothing away");
        delete_cleans(&b, "many creations");
    }
}

/// One hundredth of the soak below.
#[test]
fn a_program_that_ends_at_once_never_hangs_nor_lies() {
    if can_run() {
        storm(100);
    }
}

#[test]
#[ignore = "takes minutes: cargo nextest run --run-ignored only storm"]
fn exit_storm_of_ten_thousand() {
    if can_run() {
        storm(10_000);
    }
}

fn storm(times: u32) {
    let mut b = Bundle::new("");
    for i in 0..times {
        let code = u8::try_from(i % 4).unwrap();
        b.config["process"]["args"] = json!(["/bin/sh", "-c", format!("exit {code}")]);
        let mut run = creation(&b, "run").spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = run.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "run {i} hangs");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(status.code(), Some(i32::from(code)), "run {i}");
    }
    assert_eq!(b.leftovers(), Vec::<String>::new());
}
