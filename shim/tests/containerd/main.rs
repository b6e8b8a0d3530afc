//! The shim under Debian's containerd.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    missing_debug_implementations,
    reason = "a test"
)]
mod daemon;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use daemon::{Daemon, eventually, needed, program, text};

#[test]
fn run_output_and_exit_code() {
    let Some(daemon) = Daemon::start() else { return };
    let output = daemon.run(
        &["--rm"],
        &daemon.id(),
        &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
    );
    assert_eq!(
        (output.status.code(), text(&output.stdout), text(&output.stderr)),
        (Some(3), "out\n".into(), "err\n".into()),
        "{}",
        daemon.log()
    );
    // All of it, and the end, however fast the container is gone.
    let output = daemon.run(&["--rm"], &daemon.id(), &["/bin/seq", "1", "100000"]);
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(text(&output.stdout) == expected, "{} bytes", output.stdout.len());
    let output = daemon.run(&["--rm"], &daemon.id(), &["/no/such/command"]);
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("/no/such/command"),
        "{}",
        text(&output.stderr)
    );
    daemon.nothing_left();
}

#[test]
fn logs_by_address() {
    let Some(daemon) = Daemon::start() else { return };
    let file = format!("file://{}", daemon.path("logs/new/c.log").display());
    let script = ["/bin/sh", "-c", "echo out; echo err >&2"];
    let id = daemon.id();
    let output = daemon.run(&["-d", "--log-uri", &file], &id, &script);
    assert!(output.status.success(), "{}", text(&output.stderr));
    eventually("it ends", || daemon.status(&id) == "STOPPED");
    let log = fs::read_to_string(daemon.path("logs/new/c.log")).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    daemon.remove(&id);
    // A logger gets id and namespace.
    let logger = daemon.path("logger");
    fs::write(
        &logger,
        "#!/bin/sh\nexec 5>&-\n(echo $CONTAINER_NAMESPACE; cat <&3) > $2\n",
    )
    .unwrap();
    fs::set_permissions(&logger, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let address = format!(
        "binary://{}?file={}",
        logger.display(),
        daemon.path("taken").display()
    );
    let id = daemon.id();
    let output = daemon.run(&["-d", "--log-uri", &address], &id, &script);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let taken = || fs::read_to_string(daemon.path("taken")).unwrap_or_default();
    eventually("the logger has it", || taken() == "kelsontest\nout\n");
    daemon.remove(&id);
    daemon.nothing_left();
}

#[test]
fn stdin_ends() {
    let Some(daemon) = Daemon::start() else { return };
    fs::write(daemon.path("input"), "one\ntwo\n").unwrap();
    let args = daemon.run_args(&["--rm"], &daemon.id(), &["/bin/sh", "-c", "cat; echo end"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child = daemon
        .ctr_command(&args)
        .stdin(fs::File::open(daemon.path("input")).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("ctr ends", || child.try_wait().unwrap().is_some());
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "one\ntwo\nend\n", "{}", daemon.log());
    daemon.nothing_left();
}

#[test]
fn exec_pause_metrics_kill() {
    let Some(daemon) = Daemon::start() else { return };
    let id = daemon.stays(&[]);
    assert_eq!(daemon.status(&id), "RUNNING");
    let output = daemon.exec(&id, "e1", &["/bin/sh", "-c", "echo from exec; exit 4"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(4), "from exec\n".into()),
        "{}",
        daemon.log()
    );
    daemon.ok(&["task", "pause", &id]);
    assert_eq!(daemon.status(&id), "PAUSED");
    daemon.ok(&["task", "resume", &id]);
    assert_eq!(daemon.status(&id), "RUNNING");
    let metrics = daemon.ok(&["task", "metrics", &id]);
    let figure = |name: &str| {
        let line = metrics
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        value
            .unwrap_or_else(|| panic!("no {name} in {metrics}"))
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(figure("pids.current"), 1);
    // The names differ between the versions of cgroups.
    let memory = if metrics.contains("usage_in_bytes") {
        "memory.usage_in_bytes"
    } else {
        "memory.usage"
    };
    assert!(figure(memory) > 0);
    let pids = daemon.ok(&["task", "ps", &id]);
    assert!(pids.contains(&daemon.pid(&id).to_string()), "{pids}");
    // A frozen container dies of SIGKILL.
    daemon.ok(&["task", "pause", &id]);
    daemon.remove(&id);
    daemon.nothing_left();
}

/// Tells the size of its terminal once it has one; ctr sets it after `Start`. Busybox's stty says nothing before.
const SIZE: &str = "while x=$(stty size 2>/dev/null); [ -z \"$x\" ]; do sleep 0.01; done; echo $x; exit 5";

#[test]
fn a_terminal() {
    let Some(daemon) = Daemon::start() else { return };
    let size = nix::pty::Winsize {
        ws_row: 41,
        ws_col: 97,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let id = daemon.stays(&[]);
    let fifo = daemon.path("fifo").display().to_string();
    let run = daemon.run_args(&["--rm", "-t"], &daemon.id(), &["/bin/sh", "-c", SIZE]);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let exec = [
        "task",
        "exec",
        "-t",
        "--fifo-dir",
        &fifo,
        "--exec-id",
        "t",
        &id,
        "/bin/sh",
        "-c",
        SIZE,
    ];
    for args in [&run[..], &exec[..]] {
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let mut child = daemon
            .ctr_command(args)
            .stdin(end(&pty.slave))
            .stdout(end(&pty.slave))
            .stderr(end(&pty.slave))
            .spawn()
            .unwrap();
        drop(pty.slave);
        let reader = std::thread::spawn(move || {
            let (mut out, mut master) = (Vec::new(), fs::File::from(pty.master));
            // The last user's going is an error of terminals.
            let _ = master.read_to_end(&mut out);
            text(&out)
        });
        eventually("ctr ends", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(5), "{}", daemon.log());
        let out = reader.join().unwrap();
        // The terminal of ctr adds a carriage return of its own.
        assert!(out.contains("41 97\r"), "{args:?}: {out:?}");
    }
    daemon.remove(&id);
    daemon.nothing_left();
}

#[test]
fn containerd_restarts() {
    let Some(mut daemon) = Daemon::start() else { return };
    let id = daemon.stays(&[]);
    let short = daemon.id();
    let output = daemon.run(
        &["-d", "--null-io"],
        &short,
        &["/bin/sh", "-c", "sleep 1; exit 9"],
    );
    assert!(output.status.success());
    let pid = daemon.pid(&id);
    daemon.kill_containerd();
    // One ends while containerd is away.
    let gone = |pid: &str| !Path::new("/proc").join(pid).exists();
    let bundles = daemon.path("state/io.containerd.runtime.v2.task/kelsontest");
    let first = fs::read_to_string(bundles.join(&short).join("init.pid"));
    let first = first.unwrap_or_default();
    if !first.is_empty() {
        eventually("the short one ends", || gone(&first));
    }
    eventually("its end is recorded", || {
        bundles.join(&short).join("exit.json").exists()
    });
    daemon.run_containerd();
    assert_eq!(
        (daemon.status(&id), daemon.pid(&id)),
        ("RUNNING".to_owned(), pid),
        "{}",
        daemon.log()
    );
    assert_eq!(daemon.status(&short), "STOPPED");
    let output = daemon.exec(&id, "after", &["/bin/echo", "still here"]);
    assert_eq!(text(&output.stdout), "still here\n", "{}", daemon.log());
    let removed = daemon.ctr(&["task", "rm", &short]);
    assert!(
        text(&removed.stderr).contains("exit code 9"),
        "{}",
        text(&removed.stderr)
    );
    daemon.ok(&["container", "rm", &short]);
    daemon.remove(&id);
    daemon.nothing_left();
}

#[test]
fn a_pod_has_one_shim() {
    let Some(daemon) = Daemon::start() else { return };
    let pod = ["--annotation", "io.kubernetes.cri.sandbox-id=pod1"];
    let (first, second) = (daemon.stays(&pod), daemon.stays(&pod));
    let other = daemon.stays(&[]);
    assert_eq!(daemon.shims().len(), 2, "{}", daemon.log());
    // The end of one does not end the other.
    daemon.remove(&first);
    assert_eq!(daemon.status(&second), "RUNNING");
    let output = daemon.exec(&second, "e", &["/bin/echo", "alive"]);
    assert_eq!(text(&output.stdout), "alive\n");
    daemon.remove(&second);
    eventually("the pod's shim ends", || daemon.shims().len() == 1);
    daemon.remove(&other);
    daemon.nothing_left();
}

#[test]
fn events_in_order() {
    let Some(daemon) = Daemon::start() else { return };
    let listener = daemon
        .ctr_command(&["events"])
        .stdout(fs::File::create(daemon.path("events")).unwrap())
        .spawn();
    let mut listener = listener.unwrap();
    let events = || fs::read_to_string(daemon.path("events")).unwrap();
    let topics = || {
        let text = events();
        let topics = text.split_whitespace().filter(|word| word.starts_with("/tasks/"));
        topics.map(str::to_owned).collect::<Vec<_>>()
    };
    // It listens when something that is known to happen is seen.
    eventually("the listener listens", || {
        let probe = daemon.id();
        daemon.run(&["--rm"], &probe, &["/bin/true"]);
        !events().is_empty()
    });
    fs::File::options()
        .append(true)
        .open(daemon.path("events"))
        .unwrap();
    eventually("the probes are over", || {
        topics().last().is_some_and(|topic| topic == "/tasks/delete")
    });
    let before = topics().len();
    let id = daemon.stays(&[]);
    daemon.exec(&id, "e", &["/bin/true"]);
    daemon.ok(&["task", "pause", &id]);
    daemon.ok(&["task", "resume", &id]);
    daemon.remove(&id);
    eventually("the last event", || {
        topics()[before..]
            .last()
            .is_some_and(|topic| topic == "/tasks/delete")
    });
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "paused",
        "resumed",
        "exit",
        "delete",
    ];
    assert_eq!(topics()[before..], expected.map(|name| format!("/tasks/{name}")));
    let _ = listener.kill();
    let _ = listener.wait();
    daemon.nothing_left();
}

#[test]
fn out_of_memory_is_told() {
    let Some(daemon) = Daemon::start() else { return };
    let id = daemon.id();
    let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 0";
    let output = daemon.run(
        &["--rm", "--memory-limit", "20000000"],
        &id,
        &["/bin/sh", "-c", hog],
    );
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stderr),
        daemon.log()
    );
    eventually("the event", || daemon.log().contains("/tasks/oom"));
    daemon.nothing_left();
}

#[test]
fn the_shim_is_killed() {
    let Some(daemon) = Daemon::start() else { return };
    let id = daemon.stays(&[]);
    let pid = daemon.pid(&id);
    let shims = daemon.shims();
    let shim = nix::unistd::Pid::from_raw(i32::try_from(shims[0]).unwrap());
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    // Containerd runs `delete`, which ends what the shim left.
    eventually("the container is gone", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    eventually("containerd knows", || daemon.status(&id) == "none");
    daemon.ok(&["container", "rm", &id]);
    daemon.nothing_left();
}

#[test]
fn the_shim_is_killed_after_the_end() {
    let Some(daemon) = Daemon::start_with(Some("recorded")) else {
        return;
    };
    let mut listener = daemon
        .ctr_command(&["events"])
        .stdout(fs::File::create(daemon.path("events")).unwrap())
        .spawn()
        .unwrap();
    let events = || fs::read_to_string(daemon.path("events")).unwrap();
    let id = daemon.id();
    // It ends only when the listener was seen to listen.
    let script = "until [ -e /go ]; do sleep 0.01; done; exit 9";
    let output = daemon.run(&["-d", "--null-io"], &id, &["/bin/sh", "-c", script]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    eventually("the listener listens", || {
        daemon.exec(&id, &daemon.id(), &["/bin/true"]);
        events().contains("/tasks/exec-started")
    });
    fs::write(daemon.path("rootfs/go"), "").unwrap();
    // Containerd asks `delete`, which has the record; nobody else could know.
    eventually("containerd tells the status", || {
        let text = events();
        let exits: Vec<&str> = text.lines().filter(|line| line.contains("/tasks/exit")).collect();
        exits.iter().any(|line| line.contains("\"exit_status\":9"))
    });
    let _ = listener.kill();
    let _ = listener.wait();
    daemon.ok(&["container", "rm", &id]);
    daemon.nothing_left();
}

#[test]
fn the_commands_alone() {
    let Ok(_) = needed() else {
        return println!("skipped: needs root");
    };
    let dir = tempfile::tempdir().unwrap();
    let shim = dir.path().join("containerd-shim-kelson-v2");
    fs::copy(env!("CARGO_BIN_EXE_kelson-shim"), &shim).unwrap();
    let run = |args: &[&str]| {
        Command::new(&shim)
            .args(args)
            .stdin(Stdio::null())
            .current_dir(&dir)
            .output()
            .unwrap()
    };
    assert!(text(&run(&["-v"]).stdout).contains(env!("CARGO_PKG_VERSION")));
    let bad = run(&["-namespace", "n", "-id", "a/b", "start"]);
    assert!(!bad.status.success());
    assert!(text(&bad.stderr).contains("a/b"), "{}", text(&bad.stderr));
    // By hand, without containerd's socket.
    let served = run(&["-namespace", "n", "-id", "a"]);
    assert!(text(&served.stderr).contains("start"), "{}", text(&served.stderr));
    fs::copy(
        program("true").unwrap_or("/bin/true".into()),
        dir.path().join("kelson-runtime"),
    )
    .unwrap();
    let info = run(&["-info"]);
    assert!(
        text(&info.stdout).contains("io.containerd.kelson.v2"),
        "{}",
        text(&info.stderr)
    );
}
