//! Attaching to a container's own streams.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{contains, refused};
use crate::case::{Case, engine_case as case};
use crate::engine::container::SOON;
use crate::engine::{Container, Dock, Output, Request};
use crate::lab::check;
use crate::require::{Need, SpecVersion};

const ALL: &str = "stream=1&stdin=1&stdout=1&stderr=1";

pub(super) fn cases() -> Vec<Case> {
    let mut all = plain();
    all.extend(terminal());
    all
}

/// A created container that echoes.
fn echo<'a>(dock: &'a Dock<'a>, tty: bool, more: Value) -> Result<Container<'a>> {
    let mut spec = dock.spec(&["print", "up", ",", "cat", ",", "print", "end"]);
    spec["OpenStdin"] = json!(true);
    spec["Tty"] = json!(tty);
    for (name, value) in more.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    dock.create(&spec)
}

fn plain() -> Vec<Case> {
    vec![
        case(
            "engine/attach/from-the-first-byte",
            "who attaches before the start sees all output, in frames, stdout and stderr apart, and the end",
            &["engine#A2/43", "engine#A1/15", "engine#api/ContainerAttach"],
            |dock| {
                let container = dock.create(&dock.spec(&["count", "20", ",", "warn", "to stderr"]))?;
                let mut stream = container.attach("stream=1&stdout=1&stderr=1")?;
                container.start()?;
                let output = Output::read(&mut stream.reader)?;
                let wanted: String = (1..=20).map(|n| format!("line {n}\n")).collect();
                ensure!(output.stdout == wanted, "stdout is {:?}", output.stdout);
                ensure!(output.stderr == "to stderr\n", "stderr is {:?}", output.stderr);
                Ok(())
            },
        ),
        case(
            "engine/attach/one-stream",
            "who asks for stderr alone gets nothing of stdout",
            &["engine#A2/44", "engine#api/ContainerAttach"],
            |dock| {
                let container = dock.create(&dock.spec(&["print", "out", ",", "warn", "err"]))?;
                let mut stream = container.attach("stream=1&stderr=1")?;
                container.start()?;
                let output = Output::read(&mut stream.reader)?;
                ensure!(output.stdout.is_empty() && output.stderr == "err\n", "{output:?}");
                Ok(())
            },
        ),
        case(
            "engine/attach/stdin",
            "what is sent is the program's input; with StdinOnce half a close is the end of it",
            &["engine#A1/37", "engine#A2/44", "engine#api/ContainerAttach"],
            |dock| {
                let container = echo(dock, false, json!({"StdinOnce": true}))?;
                let mut stream = container.attach(ALL)?;
                container.start()?;
                stream.send("to and fro\n")?;
                Output::read_until(&mut stream.reader, "to and fro\n")?;
                stream.writer.end_writing()?;
                let rest = Output::read(&mut stream.reader)?;
                ensure!(rest.stdout == "end\n", "after the end: {rest:?}");
                check("exit code", &json!(container.wait()?), 0)
            },
        ),
        case(
            "engine/attach/stdin-stays-open",
            "with OpenStdin alone a client that goes away does not end the input, and the next one goes on",
            &["engine#A1/37", "engine#A2/43"],
            |dock| {
                let container = echo(dock, false, json!({}))?;
                container.start()?;
                let mut first = container.attach(ALL)?;
                first.send("one\n")?;
                Output::read_until(&mut first.reader, "one\n")?;
                drop(first);
                let mut second = container.attach(ALL)?;
                second.send("two\n")?;
                Output::read_until(&mut second.reader, "two\n")?;
                check("Running", &container.state()?["Running"], true)
            },
        ),
        case(
            "engine/attach/two-clients",
            "two attached clients both see the output",
            &["engine#A2/43"],
            |dock| {
                let container = echo(dock, false, json!({}))?;
                container.start()?;
                container.says("up\n")?;
                let (mut one, mut other) = (container.attach(ALL)?, container.attach(ALL)?);
                one.send("for both\n")?;
                Output::read_until(&mut one.reader, "for both\n")?;
                Output::read_until(&mut other.reader, "for both\n").map(drop)
            },
        ),
        case(
            "engine/attach/logs-first",
            "with logs=1 what was printed before comes first, and without stream that is all",
            &["engine#A2/43", "engine#A2/47"],
            |dock| {
                let container = dock.probe(&["print", "before", ",", "stay"])?;
                container.says("before\n")?;
                let mut stream = container.attach("logs=1&stdout=1&stderr=1")?;
                let output = Output::read(&mut stream.reader)?;
                ensure!(output.stdout == "before\n", "{output:?}");
                Ok(())
            },
        ),
        case(
            "engine/attach/slow-client",
            "a client that reads nothing does not hold the container up",
            &["engine#A2/43", "engine#A2/49"],
            |dock| {
                // More than pipes and sockets hold.
                let container = dock.create(&dock.spec(&["count", "200000"]))?;
                let stream = container.attach("stream=1&stdout=1")?;
                container.start()?;
                check("exit code", &json!(container.wait()?), 0)?;
                drop(stream);
                Ok(())
            },
        ),
        case(
            "engine/attach/media-type",
            "the connection is handed over with 101, and its media type says whether frames come",
            &["engine#api/ContainerAttach"],
            |dock| {
                for (tty, kind) in [
                    (false, "application/vnd.docker.multiplexed-stream"),
                    (true, "application/vnd.docker.raw-stream"),
                ] {
                    let container = echo(dock, tty, json!({}))?;
                    container.start()?;
                    let stream = container.attach(ALL)?;
                    check("status", &json!(stream.status), 101)?;
                    check("Content-Type", &json!(stream.kind), kind)?;
                }
                Ok(())
            },
        )
        .needs(&[Need::Api(SpecVersion(1, 42))]),
        case(
            "engine/attach/unknown",
            "attach and resize of a container that is not there are 404",
            &["engine#api/ContainerAttach", "engine#api/ContainerResize"],
            |dock| {
                // Docker says it in plain text: the connection may have been taken over already.
                let request = Request::new("POST", "/containers/not-there/attach?stream=1&stdout=1");
                check("status of attach", &json!(dock.open(&request, SOON)?.status), 404)?;
                refused(dock.post("/containers/not-there/resize?h=1&w=1")?, 404).map(drop)
            },
        ),
    ]
}

fn terminal() -> Vec<Case> {
    vec![
        case(
            "engine/attach/terminal",
            "with Tty the stream is raw, and what is typed is echoed",
            &["engine#A1/1", "engine#A2/43"],
            |dock| {
                let container = echo(dock, true, json!({}))?;
                let mut stream = container.attach(ALL)?;
                container.start()?;
                stream.until("up\r\n")?;
                stream.send("typed\n")?;
                // Once by the terminal, once by the program.
                stream.until("typed\r\ntyped\r\n")?;
                stream.send("\x04")?;
                let rest = String::from_utf8_lossy(&stream.rest()?).into_owned();
                contains("the end", &rest, "end\r\n")?;
                check("exit code", &json!(container.wait()?), 0)
            },
        ),
        case(
            "engine/attach/detach-keys",
            "ctrl-p ctrl-q leaves a terminal, and the container runs on",
            &["engine#A2/43", "engine#api/ContainerAttach"],
            |dock| {
                let container = echo(dock, true, json!({}))?;
                container.start()?;
                // Or it comes between the echo and the answer.
                container.says_on_terminal("up")?;
                let mut stream = container.attach(ALL)?;
                stream.send("x\n")?;
                stream.until("x\r\nx\r\n")?;
                stream.send("\x10\x11")?;
                stream.rest()?;
                check("Running", &container.state()?["Running"], true)
            },
        ),
        case(
            "engine/attach/own-detach-keys",
            "other keys can be chosen to leave, and keys that do not exist are refused",
            &["engine#A2/43", "engine#api/ContainerAttach"],
            |dock| {
                let container = echo(dock, true, json!({}))?;
                container.start()?;
                container.says_on_terminal("up")?;
                let mut stream = container.attach(&format!("{ALL}&detachKeys=ctrl-a,q"))?;
                stream.send("x\n")?;
                stream.until("x\r\nx\r\n")?;
                stream.send("\x01q")?;
                stream.rest()?;
                check("Running", &container.state()?["Running"], true)?;
                let target = container.path(&format!("/attach?{ALL}&detachKeys=ctrl-nothing"));
                let status = dock.open(&Request::new("POST", &target), SOON)?.status;
                ensure!(status == 400, "wrong keys: {status}");
                Ok(())
            },
        ),
        case(
            "engine/attach/resize",
            "resize changes the size of the container's terminal",
            &["engine#A1/1", "engine#api/ContainerResize"],
            |dock| {
                let mut spec = dock.spec(&["print", "up", ",", "cat", ",", "observe"]);
                spec["OpenStdin"] = json!(true);
                spec["Tty"] = json!(true);
                let container = dock.run(&spec)?;
                let mut stream = container.attach(ALL)?;
                container.post("/resize?h=33&w=77")?.expect(200)?;
                stream.send("\x04")?;
                contains(
                    "what it sees",
                    &String::from_utf8_lossy(&stream.rest()?),
                    "[33,77]",
                )
            },
        ),
        case(
            "engine/attach/size-at-create",
            "ConsoleSize of create is the terminal's size at the start",
            &["engine#A1/1"],
            |dock| {
                let mut spec = dock.spec(&["observe"]);
                spec["Tty"] = json!(true);
                spec["HostConfig"] = json!({"ConsoleSize": [33, 77]});
                let container = dock.run(&spec)?;
                container.wait()?;
                contains(
                    "what it sees",
                    &container.open_logs("stdout=1")?.whole()?.text(),
                    "[33,77]",
                )
            },
        )
        .needs(&[Need::Api(SpecVersion(1, 42))]),
    ]
}
