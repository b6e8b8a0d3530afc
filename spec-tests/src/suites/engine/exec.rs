//! Processes beside a container's own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{contains, refused};
use crate::case::{Case, engine_case as case};
use crate::engine::container::SOON;
use crate::engine::{Container, Dock, Output};
use crate::eventually::eventually;
use crate::lab::check;

pub(super) fn cases() -> Vec<Case> {
    let mut all = runs();
    all.extend(streams());
    all.extend(refusals());
    all
}

/// What an exec of the probe observes.
fn observed(container: &Container<'_>, mut spec: Value) -> Result<Value> {
    spec["Cmd"] = json!(["/probe", "observe"]);
    spec["AttachStdout"] = json!(true);
    spec["AttachStderr"] = json!(true);
    let output = Output::read(&mut container.exec(&spec)?.start()?.reader)?;
    let said: Value = serde_json::from_str(output.stdout.trim()).with_context(|| format!("{output:?}"))?;
    Ok(said["value"].clone())
}

fn runs() -> Vec<Case> {
    vec![
        case(
            "engine/exec/runs-inside",
            "exec runs a program in the container's namespaces, and its output comes in frames, stdout and stderr apart",
            &[
                "engine#A2/41",
                "engine#A2/43",
                "engine#api/ContainerExec",
                "engine#api/ExecStart",
            ],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let (output, code) = container.exec_probe(&[
                    "show",
                    "/proc/1/cmdline",
                    ",",
                    "print",
                    ",",
                    "warn",
                    "to stderr",
                ])?;
                check("exit code", &json!(code), 0)?;
                ensure!(
                    output.stdout == "/probe\0stay\0\n",
                    "stdout is {:?}",
                    output.stdout
                );
                ensure!(output.stderr == "to stderr\n", "stderr is {:?}", output.stderr);
                Ok(())
            },
        ),
        case(
            "engine/exec/exit-code",
            "inspect of an exec has its exit code, and the container runs on",
            &["engine#A2/43", "engine#api/ExecInspect"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let (_, code) = container.exec_probe(&["exit", "9"])?;
                check("ExitCode", &json!(code), 9)?;
                check("Running", &container.state()?["Running"], true)
            },
        ),
        case(
            "engine/exec/environment",
            "an exec has the container's variables, HOSTNAME and PATH, and its own in addition",
            &["engine#A2/41"],
            |dock| {
                let mut spec = dock.spec(&["stay"]);
                spec["Env"] = json!(["OF=container"]);
                let container = dock.run(&spec)?;
                let seen = observed(&container, json!({"Env": ["OWN=exec"]}))?;
                let has = |text: &str| {
                    seen["env"]
                        .as_array()
                        .is_some_and(|all| all.contains(&json!(text)))
                };
                for wanted in [
                    "OF=container",
                    "OWN=exec",
                    "PATH=/bin",
                    &format!("HOSTNAME={}", &container.id[..12]),
                ] {
                    ensure!(has(wanted), "{wanted} is not in {}", seen["env"]);
                }
                check("terminals", &seen["terminals"], json!([null, null, null]))
            },
        ),
        case(
            "engine/exec/user-and-directory",
            "an exec has the container's user and directory, or its own",
            &["engine#A2/41"],
            |dock| {
                let mut spec = dock.spec(&["stay"]);
                spec["User"] = json!("guest");
                spec["WorkingDir"] = json!("/home");
                let container = dock.run(&spec)?;
                let plain = observed(&container, json!({}))?;
                check("uid", &plain["uid"][0], 1000)?;
                check("cwd", &plain["cwd"], "/home")?;
                let own = observed(&container, json!({"User": "0:2000", "WorkingDir": "/tmp"}))?;
                check("uid", &own["uid"][0], 0)?;
                check("gid", &own["gid"][0], 2000)?;
                check("cwd", &own["cwd"], "/tmp")
            },
        ),
        case(
            "engine/exec/shares-namespaces-and-cgroup",
            "an exec is in all namespaces and the cgroups of the container",
            &["engine#A2/43"],
            |dock| {
                let container = dock.probe(&["observe", ",", "stay"])?;
                let own: Value = serde_json::from_str(container.says("\n")?.stdout.trim())?;
                let seen = observed(&container, json!({}))?;
                check(
                    "namespaces",
                    &seen["namespaces"],
                    own["value"]["namespaces"].clone(),
                )?;
                let paths = |lines: &Value| -> Vec<String> {
                    let all = lines.as_array().into_iter().flatten().filter_map(Value::as_str);
                    all.map(|line| line.splitn(3, ':').nth(2).unwrap_or_default().to_owned())
                        .collect()
                };
                ensure!(
                    paths(&seen["cgroups"]) == paths(&own["value"]["cgroups"]),
                    "cgroups are {}",
                    seen["cgroups"]
                );
                Ok(())
            },
        ),
        case(
            "engine/exec/inspect",
            "inspect tells an exec before its start, while it runs and after its end, and the container lists those that run",
            &["engine#api/ExecInspect"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let exec =
                    container.exec(&json!({"Cmd": ["/probe", "on-term", "3"], "AttachStdout": true}))?;
                let before = exec.inspect()?;
                check("Running", &before["Running"], false)?;
                check("ExitCode", &before["ExitCode"], Value::Null)?;
                check("ContainerID", &before["ContainerID"], container.id.as_str())?;
                check("entrypoint", &before["ProcessConfig"]["entrypoint"], "/probe")?;
                let mut stream = exec.start()?;
                Output::read_until(&mut stream.reader, "ready")?;
                check("Running", &exec.inspect()?["Running"], true)?;
                let listed = container.inspect()?["ExecIDs"].clone();
                ensure!(
                    listed.as_array().is_some_and(|all| all.contains(&json!(exec.id))),
                    "ExecIDs are {listed}"
                );
                container.remove()?;
                Output::read(&mut stream.reader)?;
                Ok(())
            },
        ),
        case(
            "engine/exec/detached",
            "a detached exec answers at once with 200, and runs",
            &["engine#A2/44", "engine#api/ExecStart"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let exec = container.exec(&json!({"Cmd": ["/probe", "create", "/done", "x"]}))?;
                dock.post_json(&format!("/exec/{}/start", exec.id), &json!({"Detach": true}))?
                    .expect(200)?;
                check("exit code", &json!(exec.code()?), 0)?;
                let (output, _) = container.exec_probe(&["read", "/done"])?;
                contains("the file", &output.stdout, "\"value\":\"x\"")
            },
        ),
        case(
            "engine/exec/ends-with-the-container",
            "an exec ends when its container does, and its stream, too",
            &["engine#A2/43", "engine#A1/21"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let exec = container
                    .exec(&json!({"Cmd": ["/probe", "print", "here", ",", "stay"], "AttachStdout": true}))?;
                let mut stream = exec.start()?;
                Output::read_until(&mut stream.reader, "here")?;
                container.kill("KILL")?;
                Output::read(&mut stream.reader)?;
                Ok(())
            },
        ),
    ]
}

fn streams() -> Vec<Case> {
    vec![
        case(
            "engine/exec/stdin",
            "what is sent to an exec is its input, and half a close is the end of it",
            &["engine#A2/40", "engine#api/ExecStart"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let exec = container.exec(&json!({"Cmd": ["/probe", "cat", ",", "print", "end"], "AttachStdin": true, "AttachStdout": true}))?;
                let mut stream = exec.start()?;
                stream.send("to and fro\n")?;
                Output::read_until(&mut stream.reader, "to and fro\n")?;
                stream.writer.end_writing()?;
                let output = Output::read(&mut stream.reader)?;
                ensure!(output.stdout == "end\n", "after the end: {output:?}");
                check("exit code", &json!(exec.code()?), 0)
            },
        ),
        case(
            "engine/exec/terminal",
            "an exec with Tty has a terminal, and its output comes raw",
            &["engine#A2/40", "engine#api/ExecStart"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let exec = container
                    .exec(&json!({"Cmd": ["/probe", "observe"], "AttachStdout": true, "Tty": true}))?;
                let mut stream = exec.start_with(&json!({"Tty": true}))?;
                let text = String::from_utf8_lossy(&stream.rest()?).into_owned();
                let said: Value =
                    serde_json::from_str(text.trim()).with_context(|| format!("it says {text:?}"))?;
                let terminals = said["value"]["terminals"].clone();
                ensure!(
                    terminals
                        .as_array()
                        .is_some_and(|all| all.iter().all(Value::is_array)),
                    "terminals are {terminals}"
                );
                Ok(())
            },
        ),
        case(
            "engine/exec/resize",
            "resize changes the size of an exec's terminal",
            &["engine#A2/40", "engine#api/ExecResize"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let words = ["/probe", "print", "up", ",", "cat", ",", "observe"];
                let exec = container
                    .exec(&json!({"Cmd": words, "AttachStdin": true, "AttachStdout": true, "Tty": true}))?;
                let mut stream = exec.start_with(&json!({"Tty": true}))?;
                stream.until("up")?;
                let status = dock.post(&format!("/exec/{}/resize?h=33&w=77", exec.id))?.status;
                ensure!(matches!(status, 200 | 201), "status {status}");
                // End of input on a terminal.
                stream.send("\x04")?;
                contains(
                    "what it sees",
                    &String::from_utf8_lossy(&stream.rest()?),
                    "[33,77]",
                )
            },
        ),
        case(
            "engine/exec/two-at-once",
            "two execs at the same time have streams of their own",
            &["engine#A2/43"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let spec = json!({"Cmd": ["/probe", "cat"], "AttachStdin": true, "AttachStdout": true});
                let (one, other) = (container.exec(&spec)?, container.exec(&spec)?);
                let (mut first, mut second) = (one.start()?, other.start()?);
                first.send("first\n")?;
                second.send("second\n")?;
                first.writer.end_writing()?;
                second.writer.end_writing()?;
                let (first, second) = (
                    Output::read(&mut first.reader)?,
                    Output::read(&mut second.reader)?,
                );
                ensure!(
                    first.stdout == "first\n" && second.stdout == "second\n",
                    "{first:?} and {second:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/exec/much-output",
            "a mebibyte of output comes whole",
            &["engine#A2/43"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let (output, _) = container.exec_probe(&["count", "100000"])?;
                let lines = output.stdout.lines().count();
                ensure!(
                    lines == 100_000 && output.stdout.ends_with("line 100000\n"),
                    "{lines} lines"
                );
                Ok(())
            },
        ),
    ]
}

fn refusals() -> Vec<Case> {
    vec![
        case(
            "engine/exec/missing-program",
            "an exec of a program that is not there ends with 127, and the container runs on",
            &["engine#A2/40", "engine#A2/42"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let exec =
                    container.exec(&json!({"Cmd": ["ls"], "AttachStdout": true, "AttachStderr": true}))?;
                exec.start().and_then(|mut stream| stream.rest()).ok();
                let code = eventually("the exit code", SOON, || Ok(exec.inspect()?["ExitCode"].as_i64()))?;
                check("ExitCode", &json!(code), 127)?;
                check("Running", &container.state()?["Running"], true)
            },
        ),
        case(
            "engine/exec/not-running",
            "an exec in a container that does not run is a conflict",
            &["engine#api/ContainerExec"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                let spec = json!({"Cmd": ["/probe", "print"]});
                refused(dock.post_json(&container.path("/exec"), &spec)?, 409)?;
                container.start()?;
                container.wait()?;
                refused(dock.post_json(&container.path("/exec"), &spec)?, 409).map(drop)
            },
        ),
        case(
            "engine/exec/unknown",
            "an exec in a container that is not there, and an exec that is not there, are 404",
            &[
                "engine#api/ContainerExec",
                "engine#api/ExecStart",
                "engine#api/ExecInspect",
                "engine#api/ExecResize",
            ],
            |dock| {
                refused(
                    dock.post_json("/containers/not-there/exec", &json!({"Cmd": ["/probe"]}))?,
                    404,
                )?;
                refused(
                    dock.post_json("/exec/not-there/start", &json!({"Detach": true}))?,
                    404,
                )?;
                refused(dock.get("/exec/not-there/json")?, 404)?;
                refused(dock.post("/exec/not-there/resize?h=1&w=1")?, 404).map(drop)
            },
        ),
        case(
            "engine/exec/without-a-command",
            "an exec without a command is 400",
            &["engine#api/ContainerExec"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                refused(
                    dock.post_json(&container.path("/exec"), &json!({"Cmd": []}))?,
                    400,
                )
                .map(drop)
            },
        ),
        case(
            "engine/exec/start-twice",
            "an exec is started once",
            &["engine#api/ExecStart"],
            |dock: &Dock<'_>| {
                let container = dock.probe(&["stay"])?;
                let exec = container.exec(&json!({"Cmd": ["/probe", "print"], "AttachStdout": true}))?;
                Output::read(&mut exec.start()?.reader)?;
                exec.code()?;
                refused(
                    dock.post_json(&format!("/exec/{}/start", exec.id), &json!({"Detach": true}))?,
                    409,
                )
                .map(drop)
            },
        ),
    ]
}
