//! The command line: what flags do that other tests do not need, and how wrong ones are refused.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests are tests

mod common;

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Bundle, RUNTIME, can_run, eventually, text};
use kelson_runtime::terminal;
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::{Value, json};

fn runtime(args: &[&str]) -> Output {
    Command::new(RUNTIME).args(args).output().unwrap()
}

/// What the program of `exec` or `create` hands to the socket; the peer's end must be seen at once.
fn received(listener: &UnixListener) -> OwnedFd {
    let (mut stream, _): (UnixStream, _) = listener.accept().unwrap();
    let fd = terminal::receive(stream.as_fd()).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"", "one message comes, and then the end");
    fd
}

#[test]
fn a_pidfd_is_handed_over_by_create_and_exec() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    let path = b.path("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = path.to_str().unwrap();
    let out = b.create(&["--pidfd-socket", socket]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let init = received(&listener);
    assert_eq!(b.status(), "created");
    // The kernel drops it for the first process of a namespace, unless that wants it.
    pidfd_send_signal(&init, Signal::TERM).unwrap();
    eventually("stopped", || b.status() == "stopped");
    assert!(b.delete().status.success());
    let out = b.create(&["--pidfd-socket", socket]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let init = received(&listener);
    assert!(b.start().status.success());
    // Of the program it is gone again.
    pidfd_send_signal(&init, Signal::TERM).unwrap();

    let pid_file = b.path("exec.pid");
    let exec = [
        "exec",
        "--detach",
        "--pidfd-socket",
        socket,
        "--pid-file",
        pid_file.to_str().unwrap(),
        &b.id,
        "sleep",
        "100",
    ];
    // A pipe would stay open as long as the program inside runs.
    let status = b.command(&exec).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    let second = received(&listener);
    let pid = fs::read_to_string(&pid_file).unwrap();
    pidfd_send_signal(&second, Signal::KILL).unwrap();
    eventually("the second process is gone", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "))
    });
    assert_eq!(b.status(), "running");
    pidfd_send_signal(&init, Signal::KILL).unwrap();
    eventually("stopped", || b.status() == "stopped");
}

#[test]
fn a_pidfd_socket_that_is_not_there_leaves_nothing() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    let out = b.create(&["--pidfd-socket", "/nonexistent/sock"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("--pidfd-socket: connect to /nonexistent/sock"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn another_config_stands_for_the_bundles_for_run_and_for_exec() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("exit 9");
    let mut other = b.config.clone();
    other["process"]["args"] = json!(["/bin/sh", "-c", "echo other; sleep 100"]);
    other["process"]["env"] = json!(["PATH=/bin", "FROM=other"]);
    let file = b.path("other.json");
    fs::write(&file, serde_json::to_vec(&other).unwrap()).unwrap();
    b.config["process"]["env"] = json!(["PATH=/bin", "FROM=bundle"]);
    let out = b.create(&["--config", file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(b.start().status.success());
    eventually("output", || fs::read(b.path("out")).unwrap() == b"other\n");
    let out = b.exec(&["sh", "-c", "echo $FROM"]);
    assert_eq!(text(&out.stdout), "other\n", "{}", text(&out.stderr));
}

#[test]
fn containers_are_chosen_by_a_regular_expression() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    b.up();
    let short = &b.id[3..];
    let none = b.runtime(&["kill", "--regex", "^no such$", "KILL"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("no container matches"));
    assert_eq!(b.status(), "running");
    let out = b.runtime(&["kill", "--regex", &format!("krt.*{}$", &short[1..]), "KILL"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    eventually("stopped", || b.status() == "stopped");
    let out = b.runtime(&["delete", "--regex", "^krt"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(b.leftovers(), Vec::<String>::new());
    assert!(
        b.runtime(&["delete", "--force", "--regex", "^krt"])
            .status
            .success()
    );
}

#[test]
fn wrong_arguments_end_with_1_and_name_the_command() {
    for (args, stdout, stderr) in [
        (
            &["create"][..],
            "kelson-runtime create - ",
            "kelson-runtime: \"create\" requires exactly 1 argument(s)\n",
        ),
        (
            &["kill", "a", "b", "c"],
            "kelson-runtime kill - ",
            "kelson-runtime: \"kill\" requires a maximum of 2 argument(s)\n",
        ),
        (
            &["state", "--nope", "a"],
            "Incorrect Usage: flag provided but not defined: -nope",
            "flag provided but not defined: -nope\n",
        ),
        (
            &["--nope", "state", "a"],
            "kelson-runtime - Open Container Initiative runtime",
            "flag provided but not defined: -nope\n",
        ),
        (&["--log-format", "xml", "list"], "", "invalid log-format: xml\n"),
    ] {
        let out = runtime(args);
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(text(&out.stdout).contains(stdout), "{}", text(&out.stdout));
        assert_eq!(text(&out.stderr), format!("error: {stderr}"));
    }
    let out = runtime(&["nope"]);
    assert_eq!(
        (out.status.code(), text(&out.stderr).as_str()),
        (Some(3), "error: No help topic for 'nope'\n")
    );
}

#[test]
fn errors_in_json_go_to_the_log_and_to_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let out = runtime(&[
        "--log",
        &format!("file:{}", file.display()),
        "--log-format",
        "json",
        "state",
        "no-such",
    ]);
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(text(&out.stderr), "container no-such does not exist\n");
    let line: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container no-such does not exist");
    assert_eq!(line["kind"], "not_found");
    assert!(line["time"].as_str().unwrap().ends_with('Z'));

    let out = runtime(&["state", "no-such"]);
    assert_eq!(text(&out.stderr), "error: container no-such does not exist\n");

    let out = runtime(&["--log-format", "json", "state"]);
    let line: Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(
        line["msg"],
        "kelson-runtime: \"state\" requires exactly 1 argument(s)"
    );
}

#[test]
fn a_list_needs_its_root_only_if_it_was_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("none");
    let out = runtime(&["--root", root.to_str().unwrap(), "list"]);
    assert_eq!(out.status.code(), Some(1));
    let out = Command::new(RUNTIME)
        .arg("list")
        .env_remove("XDG_RUNTIME_DIR")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(
        text(&out.stdout).starts_with("ID          PID         STATUS      BUNDLE      CREATED     OWNER")
    );
}

#[test]
fn a_spec_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().to_str().unwrap();
    assert!(runtime(&["spec", "--bundle", bundle]).status.success());
    let again = runtime(&["spec", "--bundle", bundle]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("exists. Remove it first"));
    assert!(
        runtime(&["spec", "--bundle", bundle, "--file", "other.json"])
            .status
            .success()
    );
    assert_eq!(
        fs::read(dir.path().join("other.json")).unwrap(),
        fs::read(dir.path().join("config.json")).unwrap()
    );
    let shown = runtime(&["spec", "--rootless", "--file", "-"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let namespaces = shown["linux"]["namespaces"].as_array().unwrap();
    assert_eq!(namespaces.last().unwrap()["type"], "user");
}

#[test]
fn the_version_has_runcs_form() {
    for flag in ["--version", "-v", "-V"] {
        let out = text(&runtime(&[flag]).stdout);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("kelson-runtime version 0."), "{out}");
        assert!(
            lines[1].starts_with("commit: ") && lines[2].starts_with("spec: 1."),
            "{out}"
        );
    }
}

#[test]
fn debug_tells_the_stages_of_run_and_exec() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    b.up();
    let exec = b.runtime(&["--debug", "exec", &b.id, "true"]);
    assert!(exec.status.success());
    let text_of_exec = text(&exec.stderr);
    for stage in [
        "level=debug",
        "nsexec container setup",
        "child process in init()",
        "setns_init: about to exec",
    ] {
        assert!(text_of_exec.contains(stage), "{stage}: {text_of_exec}");
    }
    let quiet = b.runtime(&["exec", &b.id, "true"]);
    assert_eq!(text(&quiet.stderr), "");
    assert!(b.delete().status.success());

    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let log = b.path("log");
    let created = b
        .command(&[
            "--debug",
            "--log",
            log.to_str().unwrap(),
            "--log-format",
            "json",
            "create",
        ])
        .args(["--bundle", b.dir.path().to_str().unwrap(), &b.id])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(created.success());
    let stages: Vec<String> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["level"], "debug");
            line["msg"].as_str().unwrap().to_owned()
        })
        .collect();
    let place = |what: &str| stages.iter().position(|s| s.starts_with(what)).unwrap();
    assert!(place("nsexec container setup") < place("child process in init()"));
    assert!(place("child process in init()") < place("init: closing the pipe"));
}

/// A service manager that reads what it is told and closes what comes with a barrier.
fn manager(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn hear(manager: &UnixDatagram, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| {
            let mut buffer = [0u8; 256];
            // A descriptor that nobody asks for is closed by the kernel: that ends a barrier.
            let n = manager.recv(&mut buffer).unwrap();
            text(&buffer[..n])
        })
        .collect()
}

/// busybox has nothing that sends datagrams: a tiny program of the host's python stands in, by a bind mount.
fn can_notify() -> bool {
    let there = Path::new("/usr/bin/python3").exists();
    if !there {
        eprintln!("SKIP: needs /usr/bin/python3 to send a datagram from a container");
    }
    there
}

fn notifying(more: &str) -> Bundle {
    let mut b = Bundle::new("true");
    let code = format!(
        "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\n\
         s.connect(os.environ['NOTIFY_SOCKET'])\ns.send(b'STATUS=x')\ns.send(b'MAINPID=1\\nREADY=1')\n{more}"
    );
    b.config["process"]["args"] = json!(["/usr/bin/python3", "-c", code]);
    for dir in ["/usr", "/lib", "/lib64"] {
        if Path::new(dir).exists() {
            let mount =
                json!({"destination": dir, "source": dir, "type": "bind", "options": ["rbind", "ro"]});
            b.config["mounts"].as_array_mut().unwrap().push(mount);
        }
    }
    b
}

#[test]
fn readiness_is_told_by_start_and_by_run() {
    if !can_run() || !can_notify() {
        return;
    }
    let b = notifying("time.sleep(100)");
    let path = b.path("manager.sock");
    let manager = manager(&path);
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let bundle = b.dir.path().to_str().unwrap();
    let call = |args: &[&str]| {
        let mut c = b.command(args);
        c.env("NOTIFY_SOCKET", &path).stdout(Stdio::null());
        c
    };
    let created = call(&["create", "--bundle", bundle, &b.id]).status().unwrap();
    assert!(created.success());
    let pid = b.pid();
    let mut start = call(&["start", &b.id]).spawn().unwrap();
    assert_eq!(
        hear(&manager, 3),
        ["READY=1\n", &format!("MAINPID={pid}\n"), "BARRIER=1"]
    );
    assert!(start.wait().unwrap().success());
    assert!(b.delete().status.success());
    assert_eq!(b.leftovers(), Vec::<String>::new());

    let run = call(&["run", "--detach", "--bundle", bundle, &b.id])
        .spawn()
        .unwrap();
    let heard = hear(&manager, 3);
    assert_eq!(heard[1], format!("MAINPID={}\n", b.pid()));
    assert!(run.wait_with_output().unwrap().status.success());
    assert!(b.delete().status.success());

    let b = notifying("");
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let run = b
        .command(&["run", "--bundle", b.dir.path().to_str().unwrap(), &b.id])
        .env("NOTIFY_SOCKET", &path)
        .spawn()
        .unwrap();
    let own = run.id();
    assert_eq!(
        hear(&manager, 2),
        ["READY=1\n".to_owned(), format!("MAINPID={own}\n")]
    );
    assert!(run.wait_with_output().unwrap().status.success());
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn start_does_not_wait_for_a_container_that_ends_without_a_word() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("test -S $NOTIFY_SOCKET && exit 3");
    let path = b.path("manager.sock");
    let _manager = manager(&path);
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let status = b
        .command(&["run", "--bundle", b.dir.path().to_str().unwrap(), &b.id])
        .env("NOTIFY_SOCKET", &path)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(3));
    let created = b
        .command(&["create", "--bundle", b.dir.path().to_str().unwrap(), &b.id])
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(created.success());
    let started = b
        .command(&["start", &b.id])
        .env("NOTIFY_SOCKET", &path)
        .output()
        .unwrap();
    assert!(started.status.success(), "{}", text(&started.stderr));
}

#[test]
fn descriptors_of_socket_activation_come_first_and_only_for_the_process_they_name() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; ls /proc/self/fd | grep -v '^[012]$'");
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    // The shell's exec keeps its pid.
    let script = |pid: &str| {
        format!(
            "exec 3</dev/null 4</dev/null 5</dev/null; export LISTEN_FDS=2 LISTEN_FDNAMES=a:b LISTEN_PID={pid}; \
             exec {RUNTIME} --root {} run --preserve-fds 1 --bundle {} {}",
            b.path("state").display(),
            b.dir.path().display(),
            b.id
        )
    };
    let run = |pid| Command::new("sh").args(["-c", &script(pid)]).output().unwrap();
    let out = run("$$");
    // ls has one descriptor of its own, for the directory.
    assert_eq!(
        text(&out.stdout),
        "2 1 a:b\n3\n4\n5\n6\n",
        "{}",
        text(&out.stderr)
    );
    let out = run("1");
    assert_eq!(text(&out.stdout), "\n3\n4\n", "{}", text(&out.stderr));
    let missing = b.runtime(&[
        "run",
        "--preserve-fds",
        "9",
        "--bundle",
        b.dir.path().to_str().unwrap(),
        &b.id,
    ]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("unable to stat preserved-fd"),
        "{}",
        text(&missing.stderr)
    );
}

#[test]
fn mounts_come_and_go_while_a_container_runs() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    fs::create_dir(b.path("data")).unwrap();
    fs::write(b.path("data/file"), "from the host").unwrap();
    // A link that would lead out of a root that is looked up by path.
    std::os::unix::fs::symlink("/", b.rootfs().join("out")).unwrap();
    b.up();
    let list = json!([
        {"destination": "/hot/data", "type": "bind", "source": "data", "options": ["bind", "ro"]},
        {"destination": "/out/hot/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
        {"destination": "/hot/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
        {"destination": "/hot/one", "source": "data/file", "options": ["bind"]}
    ]);
    let file = b.path("mounts.json");
    fs::write(&file, serde_json::to_vec(&list).unwrap()).unwrap();
    let call = |action: &str| {
        let out = b.runtime(&["mounts", action, &b.id, file.to_str().unwrap()]);
        assert!(out.status.success(), "{}", text(&out.stderr));
    };
    call("add");
    let out = b.exec(&[
        "sh",
        "-c",
        "cat /hot/data/file /hot/one; touch /hot/tmp/x && echo; touch /hot/data/x; touch /hot/ro/x",
    ]);
    assert_eq!(text(&out.stdout), "from the hostfrom the host\n");
    let said = text(&out.stderr);
    assert_eq!(said.matches("Read-only").count(), 2, "{said}");
    assert!(!Path::new("/hot").exists(), "the host has none of it");
    let shown = b.runtime(&["mounts", "list", &b.id]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(
        shown
            .as_array()
            .unwrap()
            .iter()
            .any(|m| m["destination"] == "/hot/tmp")
    );
    call("remove");
    let out = b.exec(&["sh", "-c", "cat /proc/self/mountinfo"]);
    assert!(!text(&out.stdout).contains("/hot"), "{}", text(&out.stdout));
    let again = b.runtime(&["mounts", "remove", &b.id, file.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("mounts[3]"),
        "{}",
        text(&again.stderr)
    );
    assert_eq!(b.runtime(&["mounts", "add", &b.id]).status.code(), Some(1));
}

#[test]
fn info_and_completion_are_usable() {
    let info: Value = serde_json::from_slice(&runtime(&["info"]).stdout).unwrap();
    assert_eq!(
        info["kernel"],
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim()
    );
    assert!(["v1", "v2", "hybrid"].contains(&info["cgroups"]["layout"].as_str().unwrap()));
    let script = text(&runtime(&["completion", "bash"]).stdout);
    let words = format!(
        "{script}\nCOMP_WORDS=(kelson-runtime cre); COMP_CWORD=1; _kelson_runtime; echo ${{COMPREPLY[@]}}"
    );
    let Ok(out) = Command::new("bash").args(["-c", &words]).output() else {
        eprintln!("SKIP: needs bash");
        return;
    };
    assert_eq!(text(&out.stdout), "create\n", "{}", text(&out.stderr));
    assert_eq!(runtime(&["completion", "tcsh"]).status.code(), Some(1));
}
