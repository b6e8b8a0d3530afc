//! runc's command line.
//!
//! One file per command. Argument structures are built for the one command that is named: with all of them, building
//! them would be the largest single cost of a start. What engines send is read without them; see [`quick`].

mod checkpoint;
mod completion;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod globals;
mod info;
mod kill;
mod list;
mod mounts;
mod pause;
mod ps;
mod quick;
mod restore;
mod run;
mod select;
mod spec;
mod start;
mod state;
mod update;
mod usage;

use std::ffi::{OsStr, OsString};
use std::io::Write;

use clap::{CommandFactory, Parser};

use crate::container::Store;
use crate::container::launch::CgroupManager;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Log};
use globals::{Command, Globals};
use quick::Quick;
use usage::{Takes, Usage};

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    store: Store,
    /// By `--root`; the default one need not exist.
    root_given: bool,
    log: Log,
    cgroup_manager: CgroupManager,
    /// `--rootless`; `None` is auto.
    rootless: Option<bool>,
}

/// How a command ends.
pub(crate) enum Outcome {
    /// With that exit status.
    Code(u8),
    /// With that status and an error.
    Failed(u8, Error),
}

impl From<Result<()>> for Outcome {
    fn from(r: Result<()>) -> Self {
        match r {
            Ok(()) => Self::Code(0),
            Err(e) => Self::Failed(1, e),
        }
    }
}

/// Parses the process's arguments and runs the command; gives the exit status.
pub fn main() -> u8 {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let program = usage::called(argv.first().map(OsString::as_os_str));
    let globals = match Globals::quick(&argv).map_or_else(|| Globals::try_parse_from(argv), Ok) {
        Ok(globals) => globals,
        Err(error) => {
            let usage = Usage {
                command: Globals::command(),
                takes: None,
                error,
            };
            return misused(&Log::default(), &program, usage);
        }
    };
    if globals.version {
        return shown(&globals::version(&program));
    }
    let Some(Command::Any(argv)) = &globals.command else {
        return shown(&usage::help(&program));
    };
    let argv = argv.clone();
    let context = match globals.context() {
        Ok(context) => context,
        Err(e) => {
            log::stderr(&format!("error: {}", e.chain()));
            return 1;
        }
    };
    match dispatch(&context, &program, &argv) {
        Ok(Outcome::Code(code)) => code,
        Ok(Outcome::Failed(code, error)) => {
            context.log.fatal(&error.chain(), &error);
            code
        }
        Err(usage) => misused(&context.log, &program, *usage),
    }
}

fn dispatch(context: &Context, program: &str, argv: &[OsString]) -> std::result::Result<Outcome, Box<Usage>> {
    let name = argv.first().and_then(|n| n.to_str()).unwrap_or_default();
    match name {
        "create" => quickly(argv, Takes::ID, |a| create::run(context, &a)),
        "run" => quickly(argv, Takes::ID, |a| run::run(context, &a)),
        "start" => quickly(argv, Takes::ID, |a| start::run(context, &a)),
        "kill" => quickly(argv, Takes::between(1, 2), |a| kill::run(context, &a)),
        "delete" => quickly(argv, Takes::ID, |a| delete::run(context, &a)),
        "pause" => with(argv, Takes::ID, |a| pause::pause(context, &a)),
        "resume" => with(argv, Takes::ID, |a| pause::resume(context, &a)),
        "exec" => quickly(argv, Takes::at_least(1), |a| exec::run(context, a)),
        "state" => quickly(argv, Takes::ID, |a| state::run(context, &a)),
        "list" => with(argv, Takes::NONE, |a| list::run(context, &a)),
        "update" => with(argv, Takes::ID, |a| update::run(context, &a)),
        "events" => with(argv, Takes::ID, |a| events::run(context, &a)),
        "ps" => with(argv, Takes::at_least(1), |a| ps::run(context, &a)),
        "spec" => with(argv, Takes::NONE, |a| spec::run(&a)),
        "features" => with(argv, Takes::NONE, |a| features::run(&a)),
        "checkpoint" => with(argv, Takes::ID, |a| checkpoint::run(context, &a)),
        "restore" => with(argv, Takes::ID, |a| restore::run(context, &a)),
        "mounts" => with(argv, Takes::between(2, 3), |a| mounts::run(context, &a)),
        "info" => with(argv, Takes::NONE, |a| info::run(context, &a)),
        "completion" => with(argv, Takes::exactly(1), |a| completion::run(&a, program)),
        "version" => Ok(print(&globals::version(program)).into()),
        "help" | "h" => Ok(print(&usage::help(program)).into()),
        // urfave/cli's words and status, which is how runc answers.
        other => Ok(Outcome::Failed(
            3,
            Error::new(Kind::Invalid, format!("No help topic for '{other}'")),
        )),
    }
}

/// Every command's definition, for what is made from all of them: completion, and a test of the help.
fn commands() -> Vec<clap::Command> {
    vec![
        checkpoint::Args::command(),
        completion::Args::command(),
        create::Args::command(),
        delete::Args::command(),
        events::Args::command(),
        exec::Args::command(),
        features::Args::command(),
        info::Args::command(),
        kill::Args::command(),
        list::Args::command(),
        mounts::Args::command(),
        pause::Pause::command(),
        ps::Args::command(),
        restore::Args::command(),
        pause::Resume::command(),
        run::Args::command(),
        spec::Args::command(),
        start::Args::command(),
        state::Args::command(),
        update::Args::command(),
    ]
}

/// As [`with`], but the usual arguments are read without clap.
fn quickly<A: Parser + Quick>(
    argv: &[OsString],
    takes: Takes,
    run: impl FnOnce(A) -> Outcome,
) -> std::result::Result<Outcome, Box<Usage>> {
    match A::quick(argv) {
        Some(args) => Ok(run(args)),
        None => with(argv, takes, run),
    }
}

/// Parses the arguments of one command and runs it.
fn with<A: Parser>(
    argv: &[OsString],
    takes: Takes,
    run: impl FnOnce(A) -> Outcome,
) -> std::result::Result<Outcome, Box<Usage>> {
    match A::try_parse_from(argv.iter().map(OsStr::new)) {
        Ok(args) => Ok(run(args)),
        Err(error) => Err(Box::new(Usage {
            command: A::command(),
            takes: Some(takes),
            error,
        })),
    }
}

/// Prints help, or says what is wrong with the arguments.
fn misused(log: &Log, program: &str, usage: Usage) -> u8 {
    if usage.is_help() {
        return shown(&usage.help(program));
    }
    let sentence = usage.sentence(program);
    let text = format!("Incorrect Usage: {sentence}\n\n{}", usage.help(program));
    // The sentence below is the error to tell; that standard output is closed is none.
    let _ = print(&text);
    log.fatal(&sentence, &Error::new(Kind::Invalid, "usage"));
    1
}

fn shown(text: &str) -> u8 {
    match print(text) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// What `spec` writes: a good config for tests to spoil.
#[cfg(test)]
pub(crate) fn default_config() -> serde_json::Value {
    spec::document(false, false)
}

/// Everything a command prints.
///
/// # Errors
/// What writing reported; a reader that went away is none.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::new(
            Kind::Internal,
            format!("write to standard output: {e}"),
        )),
        _ => Ok(()),
    }
}

fn json<T: serde::Serialize>(value: &T, pretty: bool) -> Result<String> {
    let text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    text.map_err(|e| Error::new(Kind::Internal, format!("encode: {e}")))
}
