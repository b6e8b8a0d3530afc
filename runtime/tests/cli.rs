//! The command line: what flags do that other tests do not need, and how wrong ones are refused.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};

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
    assert!(b.start().status.success());

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
        assert_eq!(text(&out.stderr), stderr);
    }
    let out = runtime(&["nope"]);
    assert_eq!(
        (out.status.code(), text(&out.stderr).as_str()),
        (Some(3), "No help topic for 'nope'\n")
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
    assert_eq!(shown["linux"]["namespaces"][5]["type"], "user");
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
