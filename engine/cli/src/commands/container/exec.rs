//! `exec`: one more process in a running container.

use anyhow::anyhow;
use kelson_api::{ExecCreateRequest, ExecStartRequest, IdResponse};
use serde_json::Value;

use super::options::{checks, env};
use super::{path, terminal};
use crate::argv::{Arity, Command, Flag, Parsed, list, switch, value};
use crate::client::segment;
use crate::error::{ENGINE, Failure, NOT_EXECUTABLE, NOT_FOUND, open_failed, start_code};
use crate::session::Session;
use crate::stream::{self, End, Plan};
use crate::tty::{self, RawMode};

const FLAGS: &[Flag] = &[
    switch("detach", "Detached mode: run command in the background").short('d'),
    value(
        "detach-keys",
        "string",
        "Override the key sequence for detaching a container",
    ),
    list("env", "Set environment variables")
        .short('e')
        .checked(checks::env),
    list("env-file", "Read in a file of environment variables"),
    switch("interactive", "Keep STDIN open even if not attached").short('i'),
    switch("privileged", "Give extended privileges to the command"),
    switch("tty", "Allocate a pseudo-TTY").short('t'),
    value(
        "user",
        "string",
        "Username or UID (format: \"<name|uid>[:<group|gid>]\")",
    )
    .short('u'),
    value("workdir", "string", "Working directory inside the container").short('w'),
];

/// `kelson exec`.
pub static COMMAND: Command = Command {
    names: &["container exec", "exec"],
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Execute a command in a running container",
    flags: &[FLAGS],
    arity: Arity::AtLeast(2),
    first_argument_ends_flags: true,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let (stdin, tty, detach) = (parsed.on("interactive"), parsed.on("tty"), parsed.on("detach"));
    let (keys_text, keys) = terminal::detach_keys(session, parsed)?;
    if !detach {
        terminal::require_terminal(stdin, tty)?;
    }
    let request = request(parsed, &keys_text)?;
    let client = &session.client;
    let created = client.post(path(&parsed.args[0], "/exec")).json(&request)?.send();
    let id = created.map_err(failed)?.json::<IdResponse>()?.id;
    let object = format!("/exec/{}", segment(&id));
    let start = client.post(format!("{object}/start"));
    let body = ExecStartRequest {
        detach,
        tty,
        console_size: request.console_size,
    };
    if detach {
        start.json(&body)?.send().map_err(failed)?;
        return Ok(0);
    }
    terminal::follow(client, &parsed.args[0], &object, tty, false)?;
    let hijacked = start.json(&body)?.hijack().map_err(failed)?;
    let raw = if tty && stdin { RawMode::enter()? } else { None };
    if tty {
        terminal::resize(client, &object);
    }
    let end = stream::exchange(
        hijacked,
        &Plan {
            stdin,
            tty,
            detach_keys: keys,
        },
    )?;
    drop(raw);
    if end == End::Detached {
        return Err(Failure::error("read escape sequence", 1));
    }
    let state: Value = client.get(format!("{object}/json")).send()?.json()?;
    // A process that closed its output and runs on has no code yet; for docker that is a success.
    let code = state["ExitCode"].as_i64().unwrap_or(0);
    Ok(u8::try_from(code & 0xff).unwrap_or(ENGINE))
}

fn request(parsed: &Parsed, keys: &str) -> anyhow::Result<ExecCreateRequest> {
    let text = |flag: &str| parsed.text(flag).unwrap_or_default().to_owned();
    let files = parsed
        .list("env-file")
        .map(|path| {
            Ok((
                path.to_owned(),
                std::fs::read_to_string(path).map_err(|error| anyhow!(open_failed(path, &error)))?,
            ))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let env = env::merge(&files, parsed.list("env"), |name| std::env::var(name).ok())
        .map_err(|why| anyhow!(why))?;
    let attach = !parsed.on("detach");
    let tty = parsed.on("tty");
    Ok(ExecCreateRequest {
        user: text("user"),
        privileged: parsed.on("privileged"),
        tty,
        console_size: tty::size()
            .filter(|_| tty && attach)
            .map(|size| [size.rows.into(), size.columns.into()]),
        attach_stdin: attach && parsed.on("interactive"),
        attach_stdout: attach,
        attach_stderr: attach,
        detach: !attach,
        detach_keys: if parsed.given("detach-keys") {
            keys.to_owned()
        } else {
            String::new()
        },
        env: (!env.is_empty()).then_some(env),
        working_dir: text("workdir"),
        cmd: Some(parsed.args[1..].to_vec().into()),
    })
}

/// An exec that the engine refused: 126 and 127 as for `run`, else 1.
fn failed(error: anyhow::Error) -> anyhow::Error {
    match start_code(&error) {
        code @ (NOT_FOUND | NOT_EXECUTABLE) => Failure::error(format!("{error:#}"), code),
        _ => error,
    }
}
