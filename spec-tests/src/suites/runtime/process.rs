//! config.md: the process: its arguments, environment, directory, user, terminal.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::configuration::refused_with;
use crate::case::{Case, case, deviates};
use crate::eventually::eventually;
use crate::lab::terminal::Terminal;
use crate::lab::{Answers, Bundle, CALL_LIMIT, Container, Lab, Observation, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "runtime/process/cwd",
            "the program begins in cwd",
            &["config.md#process/7"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["cwd"] = json!("/data");
                check("cwd", &lab.observe(&mut bundle)?["cwd"], "/data")
            },
        ),
        case(
            "runtime/process/cwd-missing",
            "a process without cwd, or with one that is not absolute, is an error",
            &["config.md#process/5", "config.md#process/6"],
            |lab| {
                refused_with(lab, "/process/cwd", Value::Null)?;
                refused_with(lab, "/process/cwd", json!(""))?;
                refused_with(lab, "/process/cwd", json!("data"))
            },
        ),
        case(
            "runtime/process/environment",
            "env is the environment: nothing of the runtime's own is in it, and only HOME may be added",
            &["config.md#process/8"],
            environment,
        ),
        case(
            "runtime/process/arguments",
            "args are the arguments, with spaces, quotes, other bytes and empty ones as they are",
            &["config.md#process/10"],
            arguments,
        ),
        case(
            "runtime/process/no-arguments",
            "a process without args, or with an empty list, is an error",
            &["config.md#process/9", "config.md#process/12"],
            |lab| {
                refused_with(lab, "/process/args", Value::Null)?;
                refused_with(lab, "/process/args", json!([]))
            },
        ),
        case(
            "runtime/process/found-by-path",
            "a program without a slash is found by the PATH of its environment",
            &["config.md#process/11"],
            found_by_path,
        ),
        case(
            "runtime/process/not-there",
            "a program that does not exist is an error by start at the latest",
            &["config.md#process/10", "runtime.md#lifecycle/2"],
            |lab| never_runs(lab, "/no/such/program"),
        ),
        case(
            "runtime/process/not-executable",
            "a program that cannot be executed is an error by start at the latest",
            &["config.md#process/10", "runtime.md#lifecycle/2"],
            |lab| never_runs(lab, "/etc/passwd"),
        ),
        case(
            "runtime/user/uid-and-gid",
            "the program runs with uid and gid, as real, effective and saved ids",
            &[
                "config.md#posix-platform-user/1",
                "config.md#posix-platform-user/2",
            ],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["user"] = json!({"uid": 1234, "gid": 4321});
                let seen = lab.observe(&mut bundle)?;
                check("uid", &seen["uid"], json!([1234, 1234, 1234]))?;
                check("gid", &seen["gid"], json!([4321, 4321, 4321]))
            },
        ),
        case(
            "runtime/user/additional-groups",
            "additionalGids are the supplementary groups; the caller's own are gone",
            &["config.md#posix-platform-user/5"],
            additional_groups,
        ),
        case(
            "runtime/user/umask",
            "umask is the mask of modes",
            &["config.md#posix-platform-user/3"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 0o027});
                check("the umask", &lab.observe(&mut bundle)?["umask"], 0o027)
            },
        ),
        case(
            "runtime/user/umask-of-the-caller",
            "without umask the caller's is kept",
            &["config.md#posix-platform-user/4"],
            umask_of_the_caller,
        ),
        case(
            "runtime/terminal/is-the-standard-streams",
            "with terminal, the three standard streams are one pseudoterminal of the container, and it is the controlling one",
            &["config.md#process/2"],
            terminal,
        ),
        case(
            "runtime/terminal/console-device",
            "with terminal, /dev/console is that pseudoterminal",
            &["config-linux.md#default-devices/console"],
            console_device,
        ),
        case(
            "runtime/terminal/size",
            "consoleSize is the size of the terminal",
            &["config.md#process/3"],
            terminal_size,
        ),
        case(
            "runtime/terminal/size-without-terminal",
            "consoleSize without terminal is ignored",
            &["config.md#process/4"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["consoleSize"] = json!({"height": 10, "width": 20});
                check(
                    "terminals",
                    &lab.observe(&mut bundle)?["terminals"],
                    json!([null, null, null]),
                )
            },
        ),
        case(
            "runtime/process/descriptors",
            "the program has its three standard streams and no other descriptor, whatever the runtime was given",
            &["runtime-linux.md#file-descriptors/1"],
            descriptors,
        ),
        case(
            "runtime/process/signals",
            "no signal is blocked or ignored, whatever the runtime was started with",
            &["runtime.md#start/4"],
            signals,
        ),
    ]
}

fn environment(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["env"] = json!(["A=1", "EMPTY=", "WITH=a=b c", "A2=ü"]);
    bundle.acts(&["observe"]);
    bundle.write()?;
    let id = lab.new_id();
    let out = fs::File::create(lab.path("env"))?;
    let mut command = lab.command(&["create", "--bundle", &bundle.directory.to_string_lossy(), &id]);
    command
        .env("SECRET_OF_THE_HOST", "1")
        .stdout(out)
        .stderr(fs::File::create(lab.path("env-err"))?);
    let status = crate::lab::process::finish(&mut command.spawn()?, "create", CALL_LIMIT)?;
    ensure!(status.success(), "create: {status}");
    let started = lab.call(&["start", &id])?;
    let answers = eventually("the observation", CALL_LIMIT, || {
        let answers = Answers::parse(&fs::read_to_string(lab.path("env"))?);
        Ok((!answers.0.is_empty()).then_some(answers))
    });
    lab.call(&["delete", "--force", &id])?;
    started.ok()?;
    let mut env = Observation(answers?.value(0)?.clone()).texts("env");
    env.retain(|entry| !entry.starts_with("HOME="));
    ensure!(env == ["A=1", "EMPTY=", "WITH=a=b c", "A2=ü"], "env is {env:?}");
    Ok(())
}

fn arguments(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let args = json!([
        "/probe",
        "observe",
        ",",
        "exit",
        "0",
        "a b",
        "",
        "\"'$HOME`",
        "ü\n\t*"
    ]);
    bundle.config["process"]["args"] = args.clone();
    let seen = Observation(lab.answers(&bundle)?.value(0)?.clone());
    check("args", &seen["args"], args)
}

fn found_by_path(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::create_dir_all(bundle.inside("/opt/bin"))?;
    fs::hard_link(bundle.inside("/probe"), bundle.inside("/opt/bin/tool"))?;
    bundle.config["process"]["env"] = json!(["PATH=/usr/bin:/opt/bin"]);
    bundle.config["process"]["args"] = json!(["tool", "observe"]);
    let seen = Observation(lab.answers(&bundle)?.value(0)?.clone());
    check("the program", &seen["exe"], "/opt/bin/tool")
}

fn never_runs(lab: &Lab, program: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["args"] = json!([program]);
    bundle.write()?;
    let id = lab.new_id();
    let created = lab.call(&["create", "--bundle", &bundle.directory.to_string_lossy(), &id])?;
    if !created.succeeded() {
        created.refused()?;
        return Ok(());
    }
    let started = lab.call(&["start", &id])?;
    lab.call(&["delete", "--force", &id])?;
    started.refused().map(drop)
}

fn additional_groups(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 6, 70000]});
    let seen = lab.observe(&mut bundle)?;
    let mut groups: Vec<u64> = seen["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect();
    // That the first group is among them, too, is usual and harmless.
    groups.retain(|group| *group != 1000);
    groups.sort_unstable();
    ensure!(groups == [5, 6, 70000], "the groups are {groups:?}");
    let mut plain = lab.bundle()?;
    plain.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let seen = lab.observe(&mut plain)?;
    let own = seen["groups"] == json!([]) || seen["groups"] == json!([1000]);
    ensure!(own, "without additionalGids the groups are {}", seen["groups"]);
    Ok(())
}

/// Creates through a shell, starts, and gives what the probe observes.
fn observe_through_shell(lab: &Lab, script: &str) -> Result<Observation> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["observe"]);
    bundle.write()?;
    let id = lab.new_id();
    let directory = bundle.directory.to_string_lossy().into_owned();
    let mut command = lab.through_shell(script, &["create", "--bundle", &directory, &id]);
    let out = lab.path("through-shell");
    command
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(lab.path("through-shell-err"))?);
    let status = crate::lab::process::finish(&mut command.spawn()?, "create", CALL_LIMIT)?;
    let errors = fs::read_to_string(lab.path("through-shell-err"))?;
    ensure!(status.success(), "create: {status}: {errors}");
    let started = lab.call(&["start", &id])?;
    let answers = eventually("the observation", CALL_LIMIT, || {
        let answers = Answers::parse(&fs::read_to_string(&out)?);
        Ok((!answers.0.is_empty()).then_some(answers))
    });
    lab.call(&["delete", "--force", &id])?;
    started.ok()?;
    Ok(Observation(answers?.value(0)?.clone()))
}

fn umask_of_the_caller(lab: &Lab) -> Result<()> {
    let seen = observe_through_shell(lab, "umask 0013; exec \"$@\"")?;
    // The specification's "should" is in small letters. runc and crun have always set this one, so that the modes of what a
    // container makes do not depend on who called.
    if seen["umask"] == 0o022 {
        return Err(deviates(
            "the umask is 022 whatever the caller's, as with runc and crun",
        ));
    }
    check("the umask", &seen["umask"], 0o013)
}

fn descriptors(lab: &Lab) -> Result<()> {
    let seen = observe_through_shell(lab, "exec 5</etc/passwd 9</; exec \"$@\"")?;
    let fds = seen.map("fds");
    let others: Vec<_> = fds
        .iter()
        .filter(|(number, _)| !["0", "1", "2"].contains(&number.as_str()))
        .collect();
    ensure!(others.is_empty(), "other descriptors are open: {others:?}");
    ensure!(fds.len() == 3, "the standard streams are {fds:?}");
    Ok(())
}

fn signals(lab: &Lab) -> Result<()> {
    let seen = observe_through_shell(lab, "trap '' PIPE HUP USR1; exec \"$@\"")?;
    let number = |field: &str| u64::from_str_radix(seen[field].as_str().unwrap_or("?"), 16);
    let blocked = number("signals_blocked").context("no SigBlk")?;
    ensure!(blocked == 0, "blocked: {blocked:x}");
    let ignored = number("signals_ignored").context("no SigIgn")?;
    // What the caller ignored may be inherited, as everywhere; SIGURG and others that only a runtime's own language
    // ignores or handles may not.
    let own = fs::read_to_string("/proc/self/status")?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap_or("0")
        .trim();
    let callers = 1 << 12 | 1 | 1 << 9 | u64::from_str_radix(own, 16)?;
    ensure!(ignored & !callers == 0, "ignored: {ignored:x}");
    Ok(())
}

/// A container with a terminal, and what comes out of it.
fn on_terminal<'a>(lab: &'a Lab, bundle: &'a mut Bundle) -> Result<(Container<'a>, Terminal)> {
    bundle.config["process"]["terminal"] = json!(true);
    let terminal = Terminal::open(lab, "console")?;
    let container = Container::create(lab, bundle, &["--console-socket", &terminal.socket()])?;
    Ok((container, terminal))
}

fn terminal(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["observe", "open /dev/tty rw"]);
    let (container, screen) = on_terminal(lab, &mut bundle)?;
    container.start()?;
    let answers = screen.answers(2)?;
    let seen = Observation(answers.value(0)?.clone());
    let fds = seen.map("fds");
    for number in ["0", "1", "2"] {
        let target = fds.get(number).cloned().unwrap_or_default();
        ensure!(
            target == "/dev/pts/0" || target == "/dev/console",
            "descriptor {number} is {target}"
        );
    }
    ensure!(
        seen["terminals"]
            .as_array()
            .is_some_and(|all| all.iter().all(Value::is_array)),
        "{}",
        seen["terminals"]
    );
    check("the session", &seen["sid"], seen["pid"].clone())?;
    answers
        .value(1)
        .context("there is no controlling terminal")
        .map(drop)
}

fn console_device(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["stat /dev/console", "stat /dev/pts/0"]);
    let (container, screen) = on_terminal(lab, &mut bundle)?;
    container.start()?;
    let answers = screen.answers(2)?;
    for field in ["type", "major", "minor"] {
        check(
            &format!("{field} of /dev/console"),
            &answers.value(0)?[field],
            answers.value(1)?[field].clone(),
        )?;
    }
    check("the major number", &answers.value(0)?["major"], 136)
}

fn terminal_size(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 121});
    bundle.acts(&["observe"]);
    let (container, screen) = on_terminal(lab, &mut bundle)?;
    container.start()?;
    check(
        "rows and columns",
        &screen.answers(1)?.value(0)?["terminals"][0],
        json!([33, 121]),
    )
}
