//! The verbs, against the real kernel.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use common::{Bundle, can_run, eventually, text};
use serde_json::{Value, json};

#[test]
fn delete_lets_a_program_end_but_not_long() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("true");
    b.up();
    let out = b.runtime(&["delete", &b.id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let b = Bundle::new("sleep 100");
    b.up();
    let out = b.runtime(&["delete", &b.id]);
    assert!(
        text(&out.stderr).contains("cannot delete container"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(b.status(), "running");
}

#[test]
fn without_a_mount_namespace_the_root_is_mounted_on_the_host_until_delete() {
    if !can_run() {
        return;
    }
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut b =
        Bundle::new("cat /proc/self/mountinfo > /tmp/seen; readlink /proc/self/ns/mnt > /tmp/ns; sleep 100");
    b.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != "mount");
    b.config["linux"]["maskedPaths"] = json!([]);
    b.config["linux"]["readonlyPaths"] = json!([]);
    let rootfs = b.rootfs().display().to_string();
    b.up();
    eventually("its namespace", || {
        fs::read_to_string(b.rootfs().join("tmp/ns")).is_ok_and(|ns| ns.ends_with('\n'))
    });
    let ns = fs::read_to_string(b.rootfs().join("tmp/ns")).unwrap();
    assert_eq!(
        ns.trim_end(),
        fs::read_link("/proc/self/ns/mnt").unwrap().to_str().unwrap()
    );
    assert!(mounts().contains(&format!(" {rootfs}/proc ")), "{}", mounts());
    assert!(b.delete().status.success());
    assert!(!mounts().contains(&rootfs), "{}", mounts());
    // Also after a failure.
    b.config["process"]["args"] = json!(["/no/such"]);
    assert!(!b.create(&[]).status.success());
    assert!(!mounts().contains(&rootfs), "{}", mounts());
}

#[test]
fn run_gives_the_exit_code_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    for (script, code) in [
        ("true", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -TERM $$; sleep 1", 0),
    ] {
        let b = Bundle::new(script);
        let out = b.run();
        // pid 1 ignores SIGTERM that it sends to itself; SIGKILL from inside has no effect on it either.
        let expected = if script.starts_with("kill -9") { 0 } else { code };
        assert_eq!(
            out.status.code(),
            Some(expected),
            "{script}: {}",
            text(&out.stderr)
        );
        assert_eq!(b.leftovers(), Vec::<String>::new(), "{script}");
    }
}

#[test]
fn a_signal_from_outside_ends_run_with_128_plus_its_number() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let mut run = b
        .command(&["run", "--bundle", b.dir.path().to_str().unwrap(), &b.id])
        .spawn()
        .unwrap();
    eventually("running", || {
        b.runtime(&["state", &b.id]).status.success() && b.status() == "running"
    });
    assert!(b.runtime(&["kill", &b.id, "KILL"]).status.success());
    assert_eq!(run.wait().unwrap().code(), Some(137));
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn realtime_signals_arrive_by_kill_and_through_run() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("trap 'echo heard' 37; trap 'exit 5' 38; echo up; while :; do sleep 0.1; done");
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let mut run = b
        .command(&["run", "--bundle", b.dir.path().to_str().unwrap(), &b.id])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let out = b.runtime(&["kill", &b.id, "SIGRTMIN+3"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(lines.next().unwrap().unwrap(), "heard");
    // One that ends a program is a status like any other.
    assert_eq!(b.exec(&["sh", "-c", "kill -37 $$"]).status.code(), Some(128 + 37));
    let pid = rustix::process::Pid::from_child(&run);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    kelson_sys::pidfd::send_signal(&pidfd, 38).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(5));
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn create_start_state_kill_delete() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("echo started; sleep 100");
    let pid_file = b.path("pid");
    let out = b.create(&["--pid-file", pid_file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let state = b.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], json!(b.dir.path().to_str().unwrap()));
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    assert_eq!(fs::read(b.path("out")).unwrap(), b"", "it runs before start");

    assert!(b.start().status.success());
    assert_eq!(b.status(), "running");
    eventually("output", || fs::read(b.path("out")).unwrap() == b"started\n");
    let again = b.start();
    assert!(
        !again.status.success() && text(&again.stderr).contains("running"),
        "{}",
        text(&again.stderr)
    );

    let refused = b.runtime(&["delete", &b.id]);
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("not stopped"),
        "{}",
        text(&refused.stderr)
    );

    let list: Value = serde_json::from_slice(&b.runtime(&["list", "--format", "json"]).stdout).unwrap();
    assert_eq!(list[0]["id"], json!(b.id));
    assert_eq!(text(&b.runtime(&["list", "-q"]).stdout), format!("{}\n", b.id));
    let ps: Vec<i32> = serde_json::from_slice(&b.runtime(&["ps", "--format", "json", &b.id]).stdout).unwrap();
    assert!(ps.contains(&b.pid()), "{ps:?}");

    assert!(b.runtime(&["kill", &b.id, "9"]).status.success());
    eventually("stopped", || b.status() == "stopped");
    let dead = b.runtime(&["kill", &b.id, "9"]);
    assert!(
        !dead.status.success() && text(&dead.stderr).contains("not running"),
        "{}",
        text(&dead.stderr)
    );
    assert!(b.runtime(&["delete", &b.id]).status.success());
    assert_eq!(b.leftovers(), Vec::<String>::new());
    let gone = b.runtime(&["state", &b.id]);
    assert!(
        !gone.status.success() && text(&gone.stderr).contains("does not exist"),
        "{}",
        text(&gone.stderr)
    );
    assert!(b.delete().status.success(), "force of an unknown id is no error");
    assert!(!b.runtime(&["delete", &b.id]).status.success());
}

#[test]
fn a_created_container_can_be_deleted() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("true");
    assert!(b.create(&[]).status.success());
    let taken = b.create(&[]);
    assert!(
        text(&taken.stderr).contains("already exists"),
        "{}",
        text(&taken.stderr)
    );
    assert_eq!(b.status(), "created", "the failed create took nothing away");
    assert!(b.runtime(&["delete", &b.id]).status.success());
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn a_missing_command_is_an_error_of_create() {
    if !can_run() {
        return;
    }
    let cases = [
        (
            "nonesuch",
            "command_not_found",
            2,
            "exec: \"nonesuch\": executable file not found in $PATH",
        ),
        (
            "/no/such",
            "command_not_found",
            2,
            "exec: \"/no/such\": stat /no/such: no such file or directory",
        ),
        (
            "/etc/passwd",
            "command_not_executable",
            13,
            "exec: \"/etc/passwd\": permission denied",
        ),
    ];
    for (program, kind, errno, message) in cases {
        let mut b = Bundle::new("");
        b.config["process"]["args"] = json!([program]);
        fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
        let log = b.path("log");
        let dir = b.dir.path().to_str().unwrap();
        let out = b.runtime(&[
            "--log",
            log.to_str().unwrap(),
            "--log-format",
            "json",
            "create",
            "--bundle",
            dir,
            &b.id,
        ]);
        assert_eq!(out.status.code(), Some(1));
        assert!(text(&out.stderr).contains(message), "{}", text(&out.stderr));
        let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
        assert_eq!(
            (&line["level"], &line["kind"], &line["errno"]),
            (&json!("error"), &json!(kind), &json!(errno))
        );
        assert!(line["msg"].as_str().unwrap().contains(message), "{line}");
        assert_eq!(b.leftovers(), Vec::<String>::new(), "{program}");
    }
}

#[test]
fn a_failed_create_leaves_nothing() {
    if !can_run() {
        return;
    }
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 9] = [
        (
            "late mount",
            |c| {
                c["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"destination": "/x", "type": "nofs"}))
            },
            "mounts[7]",
        ),
        (
            "bind source",
            |c| {
                c["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"destination": "/x", "source": "/no/such", "options": ["bind"]}))
            },
            "mounts[7]",
        ),
        (
            "limit",
            |c| c["linux"]["resources"]["cpu"] = json!({"quota": 1}),
            "cpu",
        ),
        (
            "seccomp",
            |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_MAYBE"}),
            "linux.seccomp.defaultAction",
        ),
        (
            "device rule",
            |c| c["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "x"}]),
            "linux.resources.devices[0]",
        ),
        ("cwd", |c| c["process"]["cwd"] = json!("relative"), "process.cwd"),
        (
            "hook",
            |c| c["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]}),
            "hooks.createRuntime[0]",
        ),
        (
            "rlimit",
            |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1}]),
            "process.rlimits[0]",
        ),
        ("root", |c| c["root"]["path"] = json!("nowhere"), "root.path"),
    ];
    for (name, change, field) in cases {
        let mut b = Bundle::new("true");
        change(&mut b.config);
        let out = b.create(&[]);
        assert_eq!(out.status.code(), Some(1), "{name}");
        assert!(text(&out.stderr).contains(field), "{name}: {}", text(&out.stderr));
        assert_eq!(b.leftovers(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn malformed_config_names_the_field() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("true");
    let dir = b.dir.path().to_str().unwrap();
    for (config, field) in [
        (
            r#"{"ociVersion":"1.0.2","process":{"args":[3]}}"#,
            "process.args[0]",
        ),
        (
            r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"pid"},{"type":"x"}]}}"#,
            "linux.namespaces[1].type",
        ),
        ("{", "config.json"),
    ] {
        fs::write(b.path("config.json"), config).unwrap();
        let out = b.runtime(&["create", "--bundle", dir, &b.id]);
        assert!(text(&out.stderr).contains(field), "{}", text(&out.stderr));
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn pause_and_resume() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("while true; do echo x; sleep 0.01; done");
    b.up();
    assert!(b.runtime(&["pause", &b.id]).status.success());
    assert_eq!(b.status(), "paused");
    assert!(b.container_cgroup().is_frozen().unwrap());
    let refused = b.exec(&["true"]);
    assert!(
        text(&refused.stderr).contains("paused"),
        "{}",
        text(&refused.stderr)
    );
    assert!(b.runtime(&["resume", &b.id]).status.success());
    assert_eq!(b.status(), "running");
    let refused = b.runtime(&["resume", &b.id]);
    assert!(
        text(&refused.stderr).contains("not paused"),
        "{}",
        text(&refused.stderr)
    );
    assert!(b.runtime(&["pause", &b.id]).status.success());
    assert!(b.delete().status.success(), "a frozen container can be deleted");
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn kill_all_ends_what_a_shared_pid_namespace_keeps() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("sleep 100 & sleep 100 & echo up; wait");
    b.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != "pid");
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| m["type"] != "proc");
    b.config["linux"]["maskedPaths"] = json!([]);
    b.config["linux"]["readonlyPaths"] = json!([]);
    b.up();
    eventually("three processes", || {
        b.container_cgroup().pids().unwrap().len() == 3
    });
    assert!(b.runtime(&["kill", "--all", &b.id, "SIGKILL"]).status.success());
    eventually("empty", || b.container_cgroup().is_empty().unwrap());
    assert!(b.runtime(&["delete", &b.id]).status.success());
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn hooks_run_in_order_with_state() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("echo program >> /mnt/order");
    let order = b.path("order");
    fs::write(&order, "").unwrap();
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/mnt/order", "source": order.to_str().unwrap(), "options": ["bind"]}));
    let host = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("read s; echo {name} >> {}; case $s in *'\"id\":\"{}\"'*) ;; *) exit 1;; esac", order.display(), b.id)]}]);
    b.config["hooks"] = json!({
        "prestart": host("prestart"),
        "createRuntime": host("createRuntime"),
        "createContainer": host("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "read s; echo startContainer >> /mnt/order"]}],
        "poststart": host("poststart"),
        "poststop": host("poststop"),
    });
    b.up();
    eventually("stopped", || b.status() == "stopped");
    assert!(b.runtime(&["delete", &b.id]).status.success());
    let text = fs::read_to_string(&order).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    // The program and poststart run at the same time.
    lines.retain(|l| *l != "program");
    assert_eq!(
        lines,
        [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop"
        ]
    );
    assert!(text.contains("program"));
}

#[test]
fn start_reports_what_goes_wrong_after_created() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("true");
    b.config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    assert!(b.create(&[]).status.success());
    let out = b.start();
    assert!(
        !out.status.success() && text(&out.stderr).contains("hooks.startContainer[0]"),
        "{}",
        text(&out.stderr)
    );
    let b = {
        let mut b = Bundle::new("");
        fs::write(b.rootfs().join("bin/junk"), "\u{1}not a program").unwrap();
        fs::set_permissions(
            b.rootfs().join("bin/junk"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        b.config["process"]["args"] = json!(["junk"]);
        b
    };
    assert!(b.create(&[]).status.success());
    let out = b.start();
    assert!(
        text(&out.stderr).contains("exec format error"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn two_starts_are_one_start() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("echo once; sleep 100");
    assert!(b.create(&[]).status.success());
    let mut children: Vec<_> = (0..4)
        .map(|_| {
            b.command(&["start", &b.id])
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let good = children
        .iter_mut()
        .map(|c| c.wait().unwrap())
        .filter(std::process::ExitStatus::success)
        .count();
    assert_eq!(good, 1);
    eventually("output", || !fs::read(b.path("out")).unwrap().is_empty());
    assert_eq!(fs::read(b.path("out")).unwrap(), b"once\n");
}

#[test]
fn a_burst_leaves_nothing() {
    if !can_run() {
        return;
    }
    let until = Instant::now() + Duration::from_secs(60);
    let b = Bundle::new("true");
    for _ in 0..20 {
        assert!(b.run().status.success());
        assert!(Instant::now() < until);
    }
    assert_eq!(b.leftovers(), Vec::<String>::new());
}
