//! What a plain start may cost, so that nobody makes it dearer without noticing: system calls, and memory.
//! `docs/performance.md` says where they go.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{Bundle, RUNTIME, can_run, text};
use serde_json::json;

/// From the first thing the runtime does to the end of the container, both processes and the program's own twenty. It
/// grows by about 14 with each cgroup v1 hierarchy beyond ten.
const RUN: usize = 560;
/// The same for `state` of a running container.
const STATE: usize = 30;

/// The calls that strace saw, from the one on by which the runtime's own work begins; the loader's are the build's.
fn calls(log: &str, first: &str) -> usize {
    // The second half of a call that was interrupted, ends, signals; and fcntl, with which builds with debug assertions
    // check each descriptor before they close it.
    let other = ["resumed>", "+++", "---", " fcntl("];
    let own = log.lines().skip_while(|line| !line.contains(first));
    own.filter(|line| !other.iter().any(|o| line.contains(o))).count()
}

/// Runs the runtime under strace; `None`, said aloud, where that is not possible.
fn traced(b: &Bundle, args: &[&str]) -> Option<String> {
    let log = b.path("strace");
    let out = Command::new("strace")
        .args(["-f", "-o", log.to_str().unwrap(), RUNTIME, "--root"])
        .arg(b.path("state"))
        .args(args)
        .stdin(Stdio::null())
        .output();
    match out {
        Ok(out) if out.status.success() => Some(fs::read_to_string(log).unwrap()),
        Ok(out) => panic!("{args:?}: {}", text(&out.stderr)),
        Err(e) => {
            eprintln!("SKIP: strace: {e}");
            None
        }
    }
}

#[test]
fn a_run_stays_within_its_system_calls() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("");
    b.config["process"]["args"] = json!(["/bin/true"]);
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let dir = b.dir.path().to_str().unwrap().to_owned();
    let Some(log) = traced(&b, &["run", "--bundle", &dir, &b.id]) else {
        return;
    };
    let n = calls(&log, "PR_SET_DUMPABLE");
    assert!(n > 100, "strace saw too little: {n}");
    assert!(n <= RUN, "run makes {n} system calls, {RUN} are allowed");
    // What no start needs: a thread, another program of ours, a look at all mounts.
    for costly in ["CLONE_VM", "mountinfo"] {
        assert!(!log.lines().any(|l| l.contains(costly)), "{costly}");
    }
}

#[test]
fn a_look_at_the_state_stays_within_its_system_calls() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    b.up();
    let Some(log) = traced(&b, &["state", &b.id]) else {
        return;
    };
    // The record is the first thing it opens.
    let n = calls(&log, b.path("state").join(&b.id).to_str().unwrap());
    assert!(
        (3..=STATE).contains(&n),
        "state makes {n} system calls, {STATE} are allowed"
    );
}

#[test]
fn a_container_starts_in_a_mebibyte() {
    if !can_run() {
        return;
    }
    // The runtime's child is in there until it executes.
    let mut b = Bundle::new("");
    b.config["process"]["args"] = json!(["/bin/true"]);
    b.config["linux"]["resources"]["memory"] = json!({"limit": 1 << 20});
    for _ in 0..5 {
        let out = b.run();
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
}
