//! Hooks: the state each is given, and what a failure, a hang or a bad path leads to.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Bundle, can_run, eventually, text};
use serde_json::{Value, json};

const BEFORE_START: [&str; 3] = ["prestart", "createRuntime", "createContainer"];

/// A hook that appends its input to a file in the container's root, as one line.
fn recorder(b: &Bundle, name: &str) -> Value {
    let inside = name == "startContainer";
    let dir = if inside {
        "/".into()
    } else {
        b.rootfs().display().to_string()
    };
    json!({"path": "/bin/sh", "args": ["sh", "-c", format!("cat >> {dir}/tmp/{name}; echo >> {dir}/tmp/{name}")]})
}

fn recorded(b: &Bundle, name: &str) -> Value {
    let text = fs::read_to_string(b.rootfs().join("tmp").join(name)).unwrap_or_default();
    text.lines()
        .next()
        .map_or(Value::Null, |line| serde_json::from_str(line).unwrap())
}

#[test]
fn each_moment_has_its_state() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("exec sleep 100");
    b.config["annotations"] = json!({"a": "b"});
    let all = [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];
    for name in all {
        b.config["hooks"][name] = json!([recorder(&b, name)]);
    }
    b.up();
    let pid = b.pid();
    assert!(b.delete().status.success());
    for (name, status, number) in [
        ("prestart", "created", pid),
        ("createRuntime", "created", pid),
        ("createContainer", "created", 1),
        ("startContainer", "created", 1),
        ("poststart", "running", pid),
        ("poststop", "stopped", 0),
    ] {
        let state = recorded(&b, name);
        assert_eq!(
            (&state["status"], &state["pid"]),
            (&json!(status), &json!(number)),
            "{name}"
        );
        assert_eq!(
            (&state["id"], &state["bundle"]),
            (&json!(b.id), &json!(b.dir.path())),
            "{name}"
        );
        assert_eq!(
            (&state["annotations"]["a"], &state["ociVersion"]),
            (&json!("b"), &b.config["ociVersion"]),
            "{name}"
        );
    }
}

#[test]
fn a_failure_is_named_and_leaves_nothing_but_the_poststop_hooks_work() {
    if !can_run() {
        return;
    }
    let failing = |b: &mut Bundle, name: &str| {
        b.config["hooks"] = json!({"poststop": [{"path": "/bin/false"}, recorder(b, "poststop")]});
        b.config["hooks"][name] = json!([{"path": "/bin/true"}, {"path": "/bin/false"}]);
    };
    for name in BEFORE_START.into_iter().chain(["startContainer", "poststart"]) {
        let mut b = Bundle::new("exec sleep 100");
        failing(&mut b, name);
        let out = b.run();
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{name}");
        assert!(
            said.contains(&format!("hooks.{name}[1]: error running {name} hook #1")),
            "{said}"
        );
        assert_eq!(b.leftovers(), Vec::<String>::new(), "{name}");
        assert_eq!(recorded(&b, "poststop")["status"], "stopped", "{name}");
        assert!(
            said.contains("hooks.poststop[0]"),
            "a failing poststop hook is a warning: {said}"
        );
    }
    for name in BEFORE_START {
        let mut b = Bundle::new("true");
        failing(&mut b, name);
        let out = b.create(&[]);
        assert!(
            !out.status.success() && text(&out.stderr).contains(&format!("hooks.{name}[1]")),
            "{name}"
        );
        assert_eq!(b.leftovers(), Vec::<String>::new(), "{name}");
        assert_eq!(recorded(&b, "poststop")["status"], "stopped", "{name}");
    }
}

#[test]
fn a_failure_in_start_stops_the_container_until_it_is_deleted() {
    if !can_run() {
        return;
    }
    for name in ["startContainer", "poststart"] {
        let mut b = Bundle::new("exec sleep 100");
        b.config["hooks"] = json!({"poststop": [recorder(&b, "poststop")]});
        b.config["hooks"][name] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo why; exit 7"]}]);
        assert!(b.create(&[]).status.success());
        let out = b.start();
        let said = text(&out.stderr);
        assert!(
            !out.status.success() && said.contains("exit status 7, output: why"),
            "{said}"
        );
        eventually("stopped", || b.status() == "stopped");
        assert_eq!(recorded(&b, "poststop"), Value::Null, "it is not deleted yet");
        assert!(b.runtime(&["delete", &b.id]).status.success());
        assert_eq!(recorded(&b, "poststop")["status"], "stopped");
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn a_hook_that_takes_too_long_is_stopped_and_named() {
    if !can_run() {
        return;
    }
    for name in ["prestart", "createContainer", "startContainer", "poststart"] {
        let mut b = Bundle::new("exec sleep 100");
        b.config["hooks"][name] = json!([{"path": "/bin/sleep", "args": ["sleep", "98765"], "timeout": 1}]);
        let begin = Instant::now();
        let out = b.run();
        assert!(begin.elapsed() < Duration::from_secs(30));
        let said = text(&out.stderr);
        assert!(
            !out.status.success() && said.contains(&format!("hooks.{name}[0]")),
            "{said}"
        );
        assert!(said.contains("timed out after 1 s"), "{said}");
        assert_eq!(b.leftovers(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_hook_is_executed_as_it_is_written() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /tmp/seen");
    let script = format!(
        "echo $0 $1 $A $B ${{PATH-none}} > {}/tmp/seen",
        b.rootfs().display()
    );
    b.config["hooks"] = json!({"createRuntime": [
        {"path": "/bin/sh", "args": ["sh", "-c", script, "zero", "one"], "env": ["A=x=y", "B=", "C"]},
    ]});
    // Without PATH in its environment a shell makes up its own.
    let out = b.output();
    assert!(out.starts_with("zero one x=y "), "{out}");
    b.config["hooks"]["createRuntime"][0]["path"] = json!("/no/such/hook");
    let out = b.run();
    assert!(
        text(&out.stderr).contains("/no/such/hook: start: no such file or directory"),
        "{}",
        text(&out.stderr)
    );
}
