//! Global flags, create, run: pid files, logs, consoles, descriptors, exit codes.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::json_of;
use crate::case::{Case, case};
use crate::eventually::eventually;
use crate::lab::{Answers, Bundle, CALL_LIMIT, Container, Lab, Observation, check, process};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "cli/global/version",
            "--version names the program, its version and the specification it follows",
            &["dockerd and podman: info"],
            |lab| {
                let ran = lab.call(&["--version"])?.ok()?;
                let first = ran.stdout.lines().next().unwrap_or_default();
                ensure!(
                    first.split_whitespace().count() >= 2,
                    "the first line is {first:?}"
                );
                ensure!(
                    ran.stdout.lines().any(|line| line.starts_with("spec: ")),
                    "no line begins with spec:"
                );
                Ok(())
            },
        ),
        case(
            "cli/global/root",
            "--root keeps the containers of two callers apart",
            &["containerd: --root per namespace"],
            root_keeps_apart,
        ),
        case(
            "cli/global/unknown-flag",
            "a flag and a command that do not exist are errors",
            &["runc's command line"],
            |lab| {
                lab.call(&["--no-such-flag", "list"])?.refused()?;
                lab.call(&["list", "--no-such-flag"])?.refused()?;
                lab.call(&["no-such-command"])?.refused().map(drop)
            },
        ),
        case(
            "cli/log/json",
            "--log with --log-format json writes an error as a line of JSON with level, msg and time",
            &["containerd, CRI-O, podman: the error's text"],
            log_json,
        ),
        case(
            "cli/log/text",
            "--log without a format writes the error as text",
            &["runc's command line"],
            |lab| {
                let log = lab.path("log");
                lab.call(&["--log", &log.to_string_lossy(), "start", "nobody"])?
                    .refused()?;
                let text = fs::read_to_string(&log)?;
                ensure!(
                    text.contains("nobody") || text.contains("not exist"),
                    "the log is {text:?}"
                );
                Ok(())
            },
        ),
        case(
            "cli/log/unwritable",
            "a log that cannot be written is an error or is done without, and nothing hangs",
            &["runc's command line"],
            |lab| lab.call(&["--log", "/no/such/directory/log", "list"]).map(drop),
        ),
        case(
            "cli/create/pid-file",
            "--pid-file holds the pid of the container's process, and nothing else",
            &["containerd, podman: the pid"],
            |lab| {
                let bundle = lab.bundle()?;
                let file = lab.path("pid");
                let container = Container::create(lab, &bundle, &["--pid-file", &file.to_string_lossy()])?;
                let text = fs::read_to_string(&file)?;
                ensure!(text == container.pid.to_string(), "it holds {text:?}");
                Ok(())
            },
        ),
        case(
            "cli/create/bundle-by-default",
            "without --bundle the bundle is the working directory",
            &["runc's command line"],
            |lab| {
                let bundle = lab.bundle()?;
                bundle.write()?;
                let id = lab.new_id();
                let mut command = lab.command(&["create", &id]);
                let status = command
                    .current_dir(&bundle.directory)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()?;
                let state = lab.call(&["state", &id])?;
                lab.call(&["delete", "--force", &id])?;
                ensure!(status.success(), "{status}");
                check(
                    "the bundle",
                    &json_of(&state)?["bundle"],
                    bundle.directory.to_string_lossy().as_ref(),
                )
            },
        ),
        case(
            "cli/create/terminal-without-socket",
            "create of a container with a terminal and no --console-socket is an error",
            &["runc's command line"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["terminal"] = json!(true);
                lab.refuses(&bundle).map(drop)
            },
        ),
        case(
            "cli/create/console-socket-of-nobody",
            "a --console-socket where nobody listens is an error, and no container is left",
            &["containerd, conmon: console sockets"],
            console_of_nobody,
        ),
        case(
            "cli/create/preserve-fds",
            "--preserve-fds N hands on the N descriptors after the standard streams, and no other",
            &["podman: --preserve-fds"],
            |lab| {
                let fds = handed_on(
                    lab,
                    "exec 3</etc/passwd 4</dev/zero 5</etc/group; exec \"$@\"",
                    &["--preserve-fds", "2"],
                )?;
                ensure!(fds == ["3", "4"], "the descriptors are {fds:?}");
                Ok(())
            },
        ),
        case(
            "cli/create/listen-fds",
            "LISTEN_FDS descriptors are handed on, and named in the environment",
            &["systemd's socket activation"],
            |lab| {
                let script = "exec 3</etc/passwd 5</etc/group; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
                let fds = handed_on(lab, script, &[])?;
                ensure!(fds == ["3"], "the descriptors are {fds:?}");
                Ok(())
            },
        ),
        case(
            "cli/create/no-new-keyring",
            "a container has a session keyring of its own, and with --no-new-keyring the caller's",
            &["runc's command line"],
            keyrings,
        ),
        case(
            "cli/create/no-pivot",
            "--no-pivot still gives the container its root",
            &["docker: DOCKER_RAMDISK"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.acts(&["list /"]);
                let container = Container::create(lab, &bundle, &["--no-pivot"])?;
                container.start()?;
                container.wait()?;
                let answers = container.answers()?;
                ensure!(
                    answers.value(0)?.to_string().contains("\"probe\""),
                    "the root holds {}",
                    answers.value(0)?
                );
                Ok(())
            },
        ),
        case(
            "cli/run/exit-code",
            "run exits with the program's code",
            &["docker run and everybody's scripts"],
            |lab| {
                for code in [0, 1, 42, 255] {
                    let mut bundle = lab.bundle()?;
                    bundle.acts(&[&format!("exit {code}")]);
                    let ran = run(lab, &bundle, &[])?;
                    ensure!(
                        ran.status.code() == Some(code),
                        "{}",
                        process::status_text(ran.status)
                    );
                }
                Ok(())
            },
        ),
        case(
            "cli/run/exit-code-of-a-signal",
            "run exits with 128 and the signal's number when a signal ends the program",
            &["everybody's scripts"],
            exit_code_of_a_signal,
        ),
        case(
            "cli/run/streams",
            "run passes standard input to the program, and its output on",
            &["everybody's scripts"],
            streams,
        ),
        case(
            "cli/run/leaves-nothing",
            "after run there is no container, cgroup, mount or process",
            &["runc's command line"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.acts(&["fork 3"]);
                let id = lab.new_id();
                run_as(lab, &bundle, &id, &[])?.ok()?;
                ensure!(!lab.call(&["state", &id])?.succeeded(), "there is still a state");
                let left = lab.cgroups(bundle.cgroup());
                ensure!(left.is_empty(), "cgroups are left: {left:?}");
                Ok(())
            },
        ),
        case(
            "cli/run/keep",
            "run --keep leaves the stopped container",
            &["runc's command line"],
            |lab| {
                let bundle = lab.bundle()?;
                let id = lab.new_id();
                let ran = run_as(lab, &bundle, &id, &["--keep"])?;
                if !ran.succeeded() && ran.stderr.contains("keep") {
                    return Err(crate::case::skip("it has no --keep"));
                }
                let state = lab.call(&["state", &id])?;
                lab.call(&["delete", "--force", &id])?;
                check("the status", &json_of(&state.ok()?)?["status"], "stopped")
            },
        ),
        case(
            "cli/run/detach",
            "run --detach returns while the program runs",
            &["runc's command line"],
            detached,
        ),
        case(
            "cli/run/many-at-once",
            "eight runs at the same time all succeed, with pids of their own",
            &["engines that start many"],
            many_at_once,
        ),
        case(
            "cli/delete/force",
            "delete --force ends and removes a running container with all its processes",
            &["containerd, podman: cleaning up"],
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &["fork 5"])?;
                let all = container.processes();
                ensure!(all.len() >= 6, "its processes are {all:?}");
                lab.call(&["delete", "--force", &container.id])?.ok()?;
                container.wait()?;
                eventually("the end of all processes", CALL_LIMIT, || {
                    let left: Vec<_> = all.iter().filter(|pid| process::exists(**pid)).collect();
                    ensure!(left.is_empty(), "{left:?}");
                    Ok(Some(()))
                })?;
                container.check_gone()
            },
        ),
        case(
            "cli/delete/force-of-nobody",
            "delete --force of a container that does not exist is no error",
            &["containerd, podman: cleaning up"],
            |lab| lab.call(&["delete", "--force", &lab.new_id()])?.ok().map(drop),
        ),
        case(
            "cli/delete/after-a-killed-create",
            "delete --force removes what a create left that was killed in the middle",
            &["engines that clean up after a crash"],
            killed_in_create,
        ),
    ]
}

fn run(lab: &Lab, bundle: &Bundle, options: &[&str]) -> Result<process::Ran> {
    run_as(lab, bundle, &lab.new_id(), options)
}

fn run_as(lab: &Lab, bundle: &Bundle, id: &str, options: &[&str]) -> Result<process::Ran> {
    bundle.write()?;
    let directory = bundle.directory.to_string_lossy().into_owned();
    let mut args = vec!["run", "--bundle", &directory];
    args.extend_from_slice(options);
    args.push(id);
    lab.call(&args)
}

fn root_keeps_apart(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let mut command = process::quiet(&lab.runtime);
    command
        .arg("--root")
        .arg(lab.path("other-root"))
        .args(["state", &container.id]);
    lab.run_command(&mut command)?.refused()?;
    Ok(())
}

fn log_json(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["args"] = json!(["/no/such/program"]);
    bundle.write()?;
    let (log, id) = (lab.path("log.json"), lab.new_id());
    let global = ["--log", &log.to_string_lossy(), "--log-format", "json"].map(str::to_owned);
    let directory = bundle.directory.to_string_lossy().into_owned();
    let call = |rest: &[&str]| {
        let mut args: Vec<&str> = global.iter().map(String::as_str).collect();
        args.extend_from_slice(rest);
        lab.call(&args)
    };
    let created = call(&["create", "--bundle", &directory, &id])?;
    if created.succeeded() {
        let started = call(&["start", &id])?;
        lab.call(&["delete", "--force", &id])?;
        started.refused()?;
    }
    let text = fs::read_to_string(&log).context("read the log")?;
    let lines: Result<Vec<Value>> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect();
    let lines = lines?;
    let error = lines
        .iter()
        .find(|line| line["level"] == "error")
        .context("no line has level error")?;
    let message = error["msg"].as_str().context("msg is no text")?;
    ensure!(
        message.contains("/no/such/program"),
        "msg does not name the program: {message}"
    );
    ensure!(error["time"].is_string(), "time is {}", error["time"]);
    Ok(())
}

fn console_of_nobody(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["terminal"] = json!(true);
    bundle.write()?;
    let id = lab.new_id();
    let socket = lab.path("nobody").to_string_lossy().into_owned();
    let directory = bundle.directory.to_string_lossy().into_owned();
    lab.call(&["create", "--console-socket", &socket, "--bundle", &directory, &id])?
        .refused()?;
    ensure!(!lab.call(&["state", &id])?.succeeded(), "there is a container");
    let left = lab.cgroups(bundle.cgroup());
    ensure!(left.is_empty(), "cgroups are left: {left:?}");
    Ok(())
}

/// Descriptors beyond the standard streams that the program has when create is called through a shell.
fn handed_on(lab: &Lab, script: &str, options: &[&str]) -> Result<Vec<String>> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["observe"]);
    bundle.write()?;
    let (id, out) = (lab.new_id(), lab.path("out"));
    let directory = bundle.directory.to_string_lossy().into_owned();
    let mut args = vec!["create", "--bundle", &directory];
    args.extend_from_slice(options);
    args.push(&id);
    let mut command = lab.through_shell(script, &args);
    command
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(lab.path("err"))?);
    let status = process::finish(&mut command.spawn()?, "create", CALL_LIMIT)?;
    ensure!(
        status.success(),
        "create: {status}: {}",
        fs::read_to_string(lab.path("err"))?
    );
    let started = lab.call(&["start", &id])?;
    let answers = eventually("the observation", CALL_LIMIT, || {
        let answers = Answers::parse(&fs::read_to_string(&out)?);
        Ok((!answers.0.is_empty()).then_some(answers))
    });
    lab.call(&["delete", "--force", &id])?;
    started.ok()?;
    let seen = Observation(answers?.value(0)?.clone());
    Ok(seen
        .map("fds")
        .into_keys()
        .filter(|number| !["0", "1", "2"].contains(&number.as_str()))
        .collect())
}

fn keyrings(lab: &Lab) -> Result<()> {
    let ring = |options: &[&str]| -> Result<Value> {
        let mut bundle = lab.bundle()?;
        bundle.acts(&["observe"]);
        let container = Container::create(lab, &bundle, options)?;
        container.start()?;
        container.wait()?;
        Ok(container.observation()?["keyring"]["id"].clone())
    };
    let (first, second) = (ring(&[])?, ring(&[])?);
    ensure!(!first.is_null(), "there is no session keyring");
    ensure!(first != second, "two containers share keyring {first}");
    let (third, fourth) = (ring(&["--no-new-keyring"])?, ring(&["--no-new-keyring"])?);
    ensure!(
        third == fourth,
        "with --no-new-keyring the keyrings are {third} and {fourth}"
    );
    Ok(())
}

fn exit_code_of_a_signal(lab: &Lab) -> Result<()> {
    for (signal, code) in [("KILL", 137), ("TERM", 143)] {
        let mut bundle = lab.bundle()?;
        // Without a pid namespace of its own the program has no protection from signals it does not handle.
        bundle.without_namespace("pid");
        bundle.acts(&["create /tmp/ready x", "stay"]);
        bundle.write()?;
        let id = lab.new_id();
        let mut command = lab.command(&["run", "--bundle", &bundle.directory.to_string_lossy(), &id]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let ready = bundle.inside("/tmp/ready");
        let begun = eventually("the program's start", CALL_LIMIT, || {
            Ok(ready.exists().then_some(()))
        });
        let killed = lab.call(&["kill", &id, signal]);
        let status = process::finish(&mut child, "run", CALL_LIMIT)?;
        begun?;
        killed?.ok()?;
        ensure!(
            status.code() == Some(code),
            "after {signal}: {}",
            process::status_text(status)
        );
    }
    Ok(())
}

fn streams(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["read /dev/stdin", "write /dev/stderr to-stderr"]);
    bundle.write()?;
    let input = lab.path("input");
    fs::write(&input, "from outside")?;
    let mut command = lab.command(&[
        "run",
        "--bundle",
        &bundle.directory.to_string_lossy(),
        &lab.new_id(),
    ]);
    command.stdin(fs::File::open(&input)?);
    let ran = lab.run_command(&mut command)?.ok()?;
    check(
        "standard input",
        Answers::parse(&ran.stdout).value(0)?,
        "from outside",
    )?;
    ensure!(
        ran.stderr.contains("to-stderr"),
        "standard error is {:?}",
        ran.stderr
    );
    Ok(())
}

fn detached(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["stay"]);
    bundle.write()?;
    let (id, pid_file) = (lab.new_id(), lab.path("pid"));
    let mut command = lab.command(&["run", "--detach", "--bundle", &bundle.directory.to_string_lossy()]);
    command.args(["--pid-file", &pid_file.to_string_lossy(), &id]);
    let status = process::finish(
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .as_mut()
            .map_err(|e| anyhow::anyhow!("{e}"))?,
        "run --detach",
        CALL_LIMIT,
    );
    let state = lab.call(&["state", &id]);
    let deleted = lab.call(&["delete", "--force", &id]);
    ensure!(status?.success(), "run --detach failed");
    let state = json_of(&state?.ok()?)?;
    deleted?.ok()?;
    check("the status", &state["status"], "running")?;
    let pid = fs::read_to_string(&pid_file)?;
    ensure!(
        state["pid"] == json!(pid.parse::<i64>()?),
        "the pid is {} and the file holds {pid}",
        state["pid"]
    );
    Ok(())
}

fn many_at_once(lab: &Lab) -> Result<()> {
    let mut children = Vec::new();
    for n in 0..8 {
        let mut bundle = lab.bundle()?;
        bundle.acts(&[&format!("exit {}", 40 + n)]);
        bundle.write()?;
        let mut command = lab.command(&[
            "run",
            "--bundle",
            &bundle.directory.to_string_lossy(),
            &lab.new_id(),
        ]);
        children.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    for (n, child) in children.iter_mut().enumerate() {
        let status = process::finish(child, "run", CALL_LIMIT)?;
        ensure!(
            status.code() == i32::try_from(40 + n).ok(),
            "number {n}: {}",
            process::status_text(status)
        );
    }
    Ok(())
}

fn killed_in_create(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let (started, released) = (lab.path("hook-runs"), lab.path("hook-ends"));
    let hook = crate::lab::bundle::arguments(
        &lab.probe.to_string_lossy(),
        &[
            &format!("create {} x", started.display()),
            &format!("wait-for {}", released.display()),
        ],
    );
    bundle.config["hooks"] = json!({"createRuntime": [{"path": lab.probe, "args": hook}]});
    bundle.write()?;
    let id = lab.new_id();
    let mut command = lab.command(&["create", "--bundle", &bundle.directory.to_string_lossy(), &id]);
    let out = lab.path("killed");
    let mut child = command
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(&out)?)
        .spawn()?;
    let begun = eventually("the hook's start", CALL_LIMIT, || {
        Ok(started.exists().then_some(()))
    });
    child.kill()?;
    child.wait()?;
    begun?;
    let deleted = lab.call(&["delete", "--force", &id]);
    // It was the dead runtime's, and nobody else's business.
    fs::write(&released, "")?;
    deleted?;
    let state = lab.call(&["state", &id])?;
    ensure!(
        !state.succeeded(),
        "after delete --force there is still a container: {}",
        state.stdout
    );
    eventually("the removal of its cgroups", CALL_LIMIT, || {
        let left = lab.cgroups(bundle.cgroup());
        ensure!(left.is_empty(), "there are {left:?}");
        Ok(Some(()))
    })
}
