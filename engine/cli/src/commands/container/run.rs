//! `run`: create, attach, start, copy, and end with the container's exit code.

use std::time::Duration;

use anyhow::{Context, anyhow};
use kelson_api::{ContainerCreateRequest, WaitResponse};

use super::create::{create, explained};
use super::flags::CREATE;
use super::{path, request, terminal};
use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::client::{Hijacked, ResponseBody};
use crate::error::{ENGINE, Failure, start_code};
use crate::output;
use crate::session::Session;
use crate::stream::{self, End, Plan};
use crate::tty::RawMode;

/// How long we wait for `--rm` to be done after a start that failed.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(10);

const RUN: &[Flag] = &[
    switch("detach", "Run container in background and print container ID").short('d'),
    value(
        "detach-keys",
        "string",
        "Override the key sequence for detaching a container",
    ),
    value(
        "pull",
        "string",
        "Pull image before running (\"always\", \"missing\", \"never\")",
    )
    .default("\"missing\""),
    switch("sig-proxy", "Proxy received signals to the process").default("true"),
];

/// `kelson run`.
pub static COMMAND: Command = Command {
    names: &["container run", "run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create and run a new container from an image",
    flags: &[CREATE, RUN],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: true,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let request = prepare(parsed).map_err(|error| explained(parsed, error, ENGINE))?;
    if !parsed.on("detach") {
        terminal::require_terminal(request.config.attach_stdin, request.config.tty)?;
    }
    let id = match create(session, parsed, &request) {
        Ok(id) => id,
        Err(error) => {
            // A failed pull is a failed run: the same prefix, the same code.
            let error = error
                .downcast::<Failure>()
                .map_or_else(|error| error, |failure| anyhow!(failure.text));
            let code = start_code(&error);
            return Err(explained(parsed, error, code));
        }
    };
    if parsed.on("detach") {
        start(session, &id).map_err(|error| failed_start(parsed, error))?;
        output::line(&id)?;
        return Ok(0);
    }
    foreground(session, parsed, &request, &id)
}

/// The request, with what `--detach` changes about it.
fn prepare(parsed: &Parsed) -> anyhow::Result<ContainerCreateRequest> {
    let mut request = request::build(parsed)?;
    if parsed.on("detach") {
        if parsed.given("attach") {
            return Err(Failure::error(
                "conflicting options: cannot specify both --attach and --detach",
                1,
            ));
        }
        let config = &mut request.config;
        (config.attach_stdin, config.attach_stdout, config.attach_stderr) = (false, false, false);
        config.stdin_once = false;
    }
    Ok(request)
}

fn start(session: &Session, id: &str) -> anyhow::Result<()> {
    session.client.post(path(id, "/start")).send().map(drop)
}

fn failed_start(parsed: &Parsed, error: anyhow::Error) -> anyhow::Error {
    let code = start_code(&error);
    explained(parsed, error, code)
}

fn foreground(
    session: &Session,
    parsed: &Parsed,
    request: &ContainerCreateRequest,
    id: &str,
) -> anyhow::Result<u8> {
    let config = &request.config;
    let (keys_text, keys) =
        terminal::detach_keys(session, parsed).map_err(|error| explained(parsed, error, ENGINE))?;
    let object = path(id, "");
    // Before any other thread exists, and before the container does: a signal in between is not lost.
    terminal::follow(
        &session.client,
        id,
        &object,
        config.tty,
        parsed.switch("sig-proxy").unwrap_or(true),
    )?;
    let attached = config.attach_stdin || config.attach_stdout || config.attach_stderr;
    let hijacked = if attached {
        Some(
            attach(session, parsed, request, id, &keys_text)
                .map_err(|error| explained(parsed, error, ENGINE))?,
        )
    } else {
        None
    };
    // The listener first: a container can end before the answer to its start is here.
    let condition = if parsed.on("rm") { "removed" } else { "next-exit" };
    let mut exit = session
        .client
        .post(path(id, "/wait"))
        .query("condition", condition)
        .send()?
        .body();

    let raw = if config.tty && config.attach_stdin {
        RawMode::enter()?
    } else {
        None
    };
    if let Err(error) = start(session, id) {
        drop(raw);
        if parsed.on("rm") {
            await_removal(exit);
        }
        return Err(failed_start(parsed, error));
    }
    if config.tty {
        terminal::resize(&session.client, &object);
    }
    if let Some(hijacked) = hijacked {
        let plan = Plan {
            stdin: config.attach_stdin,
            tty: config.tty,
            detach_keys: keys,
        };
        if stream::exchange(hijacked, &plan)? == End::Detached {
            return Ok(0);
        }
    }
    drop(raw);
    exit_code(&mut exit)
}

fn attach(
    session: &Session,
    parsed: &Parsed,
    request: &ContainerCreateRequest,
    id: &str,
    keys: &str,
) -> anyhow::Result<Hijacked> {
    let config = &request.config;
    let post = session.client.post(path(id, "/attach")).flag("stream", true);
    let post = post
        .flag("stdin", config.attach_stdin)
        .flag("stdout", config.attach_stdout);
    let post = post.flag("stderr", config.attach_stderr);
    let post = if parsed.given("detach-keys") {
        post.query("detachKeys", keys)
    } else {
        post
    };
    post.hijack()
}

/// The exit code in the answer of `wait`.
pub fn exit_code(body: &mut ResponseBody) -> anyhow::Result<u8> {
    let answer: WaitResponse = serde_json::from_reader(body).context("read the exit status")?;
    if let Some(error) = answer.error.filter(|error| !error.message.is_empty()) {
        return Err(Failure::error(error.message, ENGINE));
    }
    Ok(u8::try_from(answer.status_code & 0xff).unwrap_or(ENGINE))
}

/// After a failed start, `--rm` is done when `wait` answers.
fn await_removal(exit: ResponseBody) {
    let mut reader = exit.into_inner();
    let waited = reader.get_mut().set_read_deadline(Some(REMOVAL_DEADLINE));
    // The failure is reported either way.
    let _ = waited.and_then(|()| std::io::copy(&mut reader, &mut std::io::sink()).map(drop));
}
