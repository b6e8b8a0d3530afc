//! config-linux.md: seccomp: actions, operators, errors, and the agent's socket.
//!
//! The filtered call is getitimer(2), which nothing in a container needs, or getpriority(2) where an argument matters. The
//! probe makes it by number; a call that kills is made in a child.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::configuration::refused_with;
use crate::case::{Case, case};
use crate::eventually::eventually;
use crate::lab::{Bundle, CALL_LIMIT, Lab, check, process::Helper};
use crate::require::Need;

const GETITIMER: u32 = if cfg!(target_arch = "x86_64") { 36 } else { 102 };
const GETPRIORITY: u32 = if cfg!(target_arch = "x86_64") { 140 } else { 141 };
/// Nothing answers it by itself.
const ERRNO: i64 = 57;

pub(super) fn cases() -> Vec<Case> {
    let id = |what: &str| format!("config-linux.md#seccomp/{what}");
    let state = |n: u32| format!("config-linux.md#the-container-process-state/{n}");
    let mut all = vec![
        case(
            "runtime/seccomp/allow",
            "SCMP_ACT_ALLOW lets a call be, and a default of SCMP_ACT_ERRNO refuses all others with defaultErrnoRet",
            &[&id("ALLOW"), &id("2")],
            allow,
        ),
        case(
            "runtime/seccomp/errno",
            "SCMP_ACT_ERRNO answers errnoRet, and EPERM without one",
            &[&id("ERRNO"), &id("14")],
            errno,
        ),
        case(
            "runtime/seccomp/trace",
            "SCMP_ACT_TRACE answers ENOSYS where there is no tracer",
            &[&id("TRACE")],
            |lab| {
                let answers = filtered(lab, json!({"action": "SCMP_ACT_TRACE"}), &[&call()])?;
                answers.get(0)?.fails_with(nix::errno::Errno::ENOSYS)
            },
        ),
        case(
            "runtime/seccomp/log",
            "SCMP_ACT_LOG lets a call be",
            &[&id("LOG")],
            |lab| {
                let answers = filtered(lab, json!({"action": "SCMP_ACT_LOG"}), &[&call()])?;
                // It is made with no place for the answer.
                answers.get(0)?.fails_with(nix::errno::Errno::EFAULT)
            },
        ),
        case(
            "runtime/seccomp/no-default-action",
            "a filter without defaultAction is an error",
            &[&id("15")],
            |lab| {
                let entry = json!([{"names": ["getitimer"], "action": "SCMP_ACT_ERRNO"}]);
                refused_with(lab, "/linux/seccomp", json!({ "syscalls": entry }))
            },
        ),
        case(
            "runtime/seccomp/no-names",
            "an entry without names is an error",
            &[&id("12")],
            |lab| {
                let entry = json!([{"names": [], "action": "SCMP_ACT_ERRNO"}]);
                refused_with(
                    lab,
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entry}),
                )
            },
        ),
        case(
            "runtime/seccomp/errno-of-an-action-without",
            "an errnoRet of an action that answers none is an error",
            &[&id("13")],
            |lab| {
                let entry =
                    json!([{"names": ["getitimer"], "action": "SCMP_ACT_KILL_PROCESS", "errnoRet": 5}]);
                refused_with(
                    lab,
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entry}),
                )
            },
        ),
        case(
            "runtime/seccomp/unknown-words",
            "an action, an operator or an architecture that is not in the lists is an error",
            &[&id("invalid")],
            unknown_words,
        ),
        case(
            "runtime/seccomp/architectures",
            "a filter for several architectures holds for the native one",
            &[&id("3")],
            architectures,
        ),
        case(
            "runtime/seccomp/flags",
            "the flags LOG and SPEC_ALLOW are accepted, and the filter holds",
            &[&id("4")],
            flags,
        ),
        case(
            "runtime/seccomp/notify",
            "SCMP_ACT_NOTIFY sends the descriptor to the agent, and the agent answers the call",
            &[&id("NOTIFY"), &id("5"), &id("10")],
            |lab| {
                let (_, answers) = notified(lab)?;
                ensure!(
                    answers.errno(0)? == ERRNO,
                    "the call was answered with {}",
                    answers.errno(0)?
                );
                Ok(())
            },
        ),
        case(
            "runtime/seccomp/notify-state",
            "the agent gets one container process state as JSON, with pid, metadata, names of descriptors and state",
            &[
                &id("6"),
                &state(1),
                &state(4),
                &state(5),
                &state(6),
                &state(7),
                &state(8),
            ],
            notify_state,
        ),
        case(
            "runtime/seccomp/notify-descriptors",
            "the descriptor comes with the first message, by SCM_RIGHTS, and the connection is closed after the state",
            &[&id("7"), &state(2), &state(3)],
            |lab| {
                let (record, _) = notified(lab)?;
                check(
                    "descriptors with the first message, and at all",
                    &record["fds"],
                    json!([1, 1]),
                )?;
                check("whether the connection was closed", &record["closed"], true)
            },
        ),
        case(
            "runtime/seccomp/notify-without-an-agent",
            "a listenerPath where nobody listens is an error",
            &[&id("8")],
            |lab| {
                let mut filter = notify_filter();
                filter["listenerPath"] = json!(lab.path("nobody"));
                refused_with(lab, "/linux/seccomp", filter)
            },
        ),
        case(
            "runtime/seccomp/listener-ignored",
            "without SCMP_ACT_NOTIFY listenerPath is ignored",
            &[&id("9")],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["linux"]["seccomp"] =
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": lab.path("nobody")});
                lab.observe(&mut bundle).map(drop)
            },
        ),
        case(
            "runtime/seccomp/metadata-without-listener",
            "listenerMetadata without listenerPath is an error",
            &[&id("11")],
            |lab| {
                let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"});
                refused_with(lab, "/linux/seccomp", filter)
            },
        ),
        case(
            "runtime/seccomp/with-no-new-privileges",
            "a filter is loaded for a process of a user without capabilities, with noNewPrivileges",
            &[&id("ERRNO")],
            |lab| unprivileged(lab, true),
        ),
        case(
            "runtime/seccomp/without-no-new-privileges",
            "a filter is loaded for a process of a user without capabilities, without noNewPrivileges",
            &[&id("ERRNO")],
            |lab| unprivileged(lab, false),
        ),
    ];
    for (action, name) in [
        ("KILL", "KILL"),
        ("KILL_PROCESS", "KILL_PROCESS"),
        ("KILL_THREAD", "KILL_THREAD"),
        ("TRAP", "TRAP"),
    ] {
        all.push(case(
            format!("runtime/seccomp/{}", name.to_lowercase().replace('_', "-")),
            format!("SCMP_ACT_{action} ends a process that makes the call, by SIGSYS"),
            &[&id(name)],
            move |lab| kills(lab, action),
        ));
    }
    // getpriority's second argument against 5: which of 4, 5, 6 match.
    for (operator, value, matches) in [
        ("NE", 5, [true, false, true]),
        ("LT", 5, [true, false, false]),
        ("LE", 5, [true, true, false]),
        ("EQ", 5, [false, true, false]),
        ("GE", 5, [false, true, true]),
        ("GT", 5, [false, false, true]),
        ("MASKED_EQ", 4, [true, true, false]),
    ] {
        all.push(case(
            format!(
                "runtime/seccomp/compare-{}",
                operator.to_lowercase().replace('_', "-")
            ),
            format!("SCMP_CMP_{operator} matches what its name says"),
            &[&id(operator)],
            move |lab| compares(lab, operator, value, matches),
        ));
    }
    all.into_iter().map(|case| case.needs(&[Need::Seccomp])).collect()
}

fn call() -> String {
    // A pointer that the kernel refuses.
    format!("syscall {GETITIMER} 0 1")
}

/// Answers of acts under a filter that lets all be but getitimer.
fn filtered(lab: &Lab, mut rule: Value, acts: &[&str]) -> Result<crate::lab::Answers> {
    let mut bundle = lab.bundle()?;
    rule["names"] = json!(["getitimer"]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    lab.probe(&mut bundle, acts)
}

fn allow(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let names: Vec<&str> = include_str!("../../../data/syscalls.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .collect();
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": ERRNO,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    });
    let answers = lab.probe(&mut bundle, &["cwd", &call()])?;
    answers.value(0)?;
    ensure!(
        answers.errno(1)? == ERRNO,
        "the other call was answered with {}",
        answers.errno(1)?
    );
    Ok(())
}

fn errno(lab: &Lab) -> Result<()> {
    let given = filtered(
        lab,
        json!({"action": "SCMP_ACT_ERRNO", "errnoRet": ERRNO}),
        &[&call()],
    )?;
    ensure!(
        given.errno(0)? == ERRNO,
        "with errnoRet {ERRNO} it was {}",
        given.errno(0)?
    );
    let plain = filtered(lab, json!({"action": "SCMP_ACT_ERRNO"}), &[&call()])?;
    plain.get(0)?.fails_with(nix::errno::Errno::EPERM)
}

fn kills(lab: &Lab, action: &str) -> Result<()> {
    let rule = json!({"action": format!("SCMP_ACT_{action}")});
    let answers = filtered(lab, rule, &[&format!("run /probe {}", call())])?;
    check("the signal that ended it", &answers.value(0)?["signal"], 31)
}

fn compares(lab: &Lab, operator: &str, value: u32, matches: [bool; 3]) -> Result<()> {
    let mut argument = json!({"index": 1, "value": value, "op": format!("SCMP_CMP_{operator}")});
    if operator == "MASKED_EQ" {
        // 4 and 5 have bit 2 and not bit 1.
        argument["value"] = json!(6);
        argument["valueTwo"] = json!(value);
    }
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": ERRNO, "args": [argument]}]
    });
    // PRIO_PGRP and PRIO_USER would do as well; no process has these numbers, so that another answer is ESRCH.
    let acts = [4, 5, 6].map(|number| format!("syscall {GETPRIORITY} 0 {number}"));
    let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
    let answers = lab.probe(&mut bundle, &acts)?;
    for (n, wanted) in matches.into_iter().enumerate() {
        let matched = answers.get(n)?.result == Err(ERRNO);
        ensure!(
            matched == wanted,
            "with {} it {}",
            n + 4,
            if matched { "matched" } else { "did not match" }
        );
    }
    Ok(())
}

fn unknown_words(lab: &Lab) -> Result<()> {
    let entry = |action: &str, operator: &str| {
        let argument = json!([{"index": 0, "value": 1, "op": operator}]);
        json!([{"names": ["getitimer"], "action": action, "args": argument}])
    };
    for filter in [
        json!({"defaultAction": "SCMP_ACT_LUCK"}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entry("SCMP_ACT_LUCK", "SCMP_CMP_EQ")}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entry("SCMP_ACT_ERRNO", "SCMP_CMP_LUCK")}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_LUCK"],
               "syscalls": entry("SCMP_ACT_ERRNO", "SCMP_CMP_EQ")}),
    ] {
        refused_with(lab, "/linux/seccomp", filter)?;
    }
    Ok(())
}

fn with_rest(lab: &Lab, more: Value) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let mut filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getitimer"], "action": "SCMP_ACT_ERRNO", "errnoRet": ERRNO}]
    });
    if let (Some(filter), Value::Object(more)) = (filter.as_object_mut(), more) {
        filter.extend(more);
    }
    bundle.config["linux"]["seccomp"] = filter;
    let answers = lab.probe(&mut bundle, &[&call()])?;
    ensure!(
        answers.errno(0)? == ERRNO,
        "the call was answered with {}",
        answers.errno(0)?
    );
    Ok(())
}

fn architectures(lab: &Lab) -> Result<()> {
    let all = if cfg!(target_arch = "x86_64") {
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    } else {
        json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])
    };
    with_rest(lab, json!({"architectures": all}))
}

fn flags(lab: &Lab) -> Result<()> {
    for flag in ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"] {
        with_rest(lab, json!({"flags": [flag]})).with_context(|| flag)?;
    }
    Ok(())
}

fn unprivileged(lab: &Lab, no_new_privileges: bool) -> Result<()> {
    let mut bundle: Bundle = lab.bundle()?;
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
    bundle.config["process"]["capabilities"] = json!({"bounding": [], "effective": [], "permitted": []});
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getitimer"], "action": "SCMP_ACT_ERRNO", "errnoRet": ERRNO}]
    });
    let answers = lab.probe(&mut bundle, &[&call(), "observe"])?;
    ensure!(
        answers.errno(0)? == ERRNO,
        "the call was answered with {}",
        answers.errno(0)?
    );
    check("the seccomp mode", &answers.value(1)?["seccomp"], 2)
}

fn notify_filter() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "of the case",
        "syscalls": [{"names": ["getitimer"], "action": "SCMP_ACT_NOTIFY"}]
    })
}

/// What the agent recorded, and what the probe was answered.
fn notified(lab: &Lab) -> Result<(Value, crate::lab::Answers)> {
    let (socket, file) = (lab.path("agent"), lab.path("agent.out"));
    let _helper: Helper = lab.helper(&[&format!("agent {} {} {ERRNO}", socket.display(), file.display())])?;
    eventually("the agent's socket", CALL_LIMIT, || {
        Ok(file.exists().then_some(()))
    })?;
    let mut bundle = lab.bundle()?;
    let mut filter = notify_filter();
    filter["listenerPath"] = json!(socket);
    bundle.config["linux"]["seccomp"] = filter;
    bundle.acts(&[&call()]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    let answers = container.answers()?;
    let text = fs::read_to_string(&file)?;
    let mut record: Value =
        serde_json::from_str(&text).with_context(|| format!("the agent's record {text:?}"))?;
    record["bundle"] = json!(bundle.directory);
    record["id"] = json!(container.id);
    record["pid"] = json!(container.pid);
    container.delete()?;
    Ok((record, answers))
}

fn notify_state(lab: &Lab) -> Result<()> {
    let (record, _) = notified(lab)?;
    let text = record["payload"].as_str().unwrap_or_default();
    let state: Value = serde_json::from_str(text).with_context(|| format!("the payload is {text:?}"))?;
    ensure!(
        state["ociVersion"].is_string(),
        "ociVersion is {}",
        state["ociVersion"]
    );
    check("fds", &state["fds"], json!(["seccompFd"]))?;
    check("metadata", &state["metadata"], "of the case")?;
    check(
        "the pid, as the runtime sees it,",
        &state["pid"],
        record["pid"].clone(),
    )?;
    check("state.id", &state["state"]["id"], record["id"].clone())?;
    check(
        "state.bundle",
        &state["state"]["bundle"],
        record["bundle"].clone(),
    )?;
    ensure!(
        state["state"]["status"].is_string(),
        "state is {}",
        state["state"]
    );
    Ok(())
}
