//! runc's command line.
//!
//! Argument structures are built for the one command that is named: with all of them, building them would be the
//! largest single cost of a start.

mod args;
mod commands;
mod inspect;
mod spec;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::container::Store;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Log};

const COMMANDS: &str = "\
Commands:
  create    create a container
  delete    delete any resources held by the container
  exec      execute new process inside the container
  features  show the enabled features
  kill      send a signal to the container's init process (default SIGTERM)
  list      list containers
  pause     suspend all processes inside the container
  ps        show the processes running inside a container
  resume    resume all processes that have been paused
  run       create and run a container
  spec      create a new specification file
  start     execute the user defined process in a created container
  state     output the state of a container";

/// An OCI runtime with runc's command line.
#[derive(Debug, Parser)]
#[command(name = "kelson-runtime", disable_help_subcommand = true, after_help = COMMANDS, version = version())]
struct Globals {
    /// Directory for the state of containers
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// File to write log messages to (default: only standard error)
    #[arg(long, value_name = "FILE")]
    log: Option<OsString>,
    /// Format of log messages: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: String,
    /// Accepted for runc's sake
    #[arg(long)]
    debug: bool,
    /// Use systemd for cgroups; the path is then slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,
    /// Accepted for runc's sake: auto, true or false
    #[arg(long, value_name = "WHEN")]
    rootless: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(external_subcommand)]
    Any(Vec<OsString>),
}

fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0")
}

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    store: Store,
    log: Log,
    systemd_cgroup: bool,
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

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let globals = match Globals::try_parse() {
        Ok(globals) => globals,
        Err(e) => return usage(&e),
    };
    let Some(Command::Any(argv)) = globals.command else {
        use clap::CommandFactory;
        let _ = Globals::command().print_help();
        return ExitCode::SUCCESS;
    };
    let json = match globals.log_format.as_str() {
        "text" => false,
        "json" => true,
        other => {
            log::stderr(&format!("invalid log-format: {other}"));
            return ExitCode::FAILURE;
        }
    };
    let log = Log {
        file: globals.log,
        json,
    };
    if let Err(e) = log.open() {
        log::stderr(&e.chain());
        return ExitCode::FAILURE;
    }
    let root = globals.root.unwrap_or_else(default_root);
    let context = Context {
        store: Store::new(root),
        log,
        systemd_cgroup: globals.systemd_cgroup,
    };
    match dispatch(&context, &argv) {
        Ok(Outcome::Code(code)) => ExitCode::from(code),
        Ok(Outcome::Failed(code, error)) => {
            let text = error.chain();
            context.log.error(&text, Some(&error));
            log::stderr(&text);
            ExitCode::from(code)
        }
        Err(e) => {
            let code = usage(&e);
            if e.use_stderr() {
                context
                    .log
                    .error(&e.to_string(), Some(&Error::new(Kind::Invalid, "usage")));
            }
            code
        }
    }
}

fn dispatch(context: &Context, argv: &[OsString]) -> std::result::Result<Outcome, clap::Error> {
    let name = argv.first().and_then(|n| n.to_str()).unwrap_or_default();
    Ok(match name {
        "create" => commands::create(context, &args::Create::try_parse_from(argv)?),
        "run" => commands::run(context, &args::Run::try_parse_from(argv)?),
        "start" => commands::start(context, &args::Id::try_parse_from(argv)?),
        "kill" => commands::kill(context, &args::Kill::try_parse_from(argv)?),
        "delete" => commands::delete(context, &args::Delete::try_parse_from(argv)?),
        "pause" => commands::pause(context, &args::Id::try_parse_from(argv)?),
        "resume" => commands::resume(context, &args::Id::try_parse_from(argv)?),
        "exec" => commands::exec(context, args::Exec::try_parse_from(argv)?),
        "state" => inspect::state(context, &args::Id::try_parse_from(argv)?).into(),
        "list" => inspect::list(context, &args::List::try_parse_from(argv)?).into(),
        "ps" => inspect::ps(context, &args::Ps::try_parse_from(argv)?).into(),
        "spec" => spec::spec(&args::Spec::try_parse_from(argv)?).into(),
        "features" => inspect::features(&args::None::try_parse_from(argv)?).into(),
        "help" => {
            use clap::CommandFactory;
            let _ = Globals::command().print_help();
            Outcome::Code(0)
        }
        other => {
            use clap::CommandFactory;
            return Err(Globals::command().error(
                clap::error::ErrorKind::InvalidSubcommand,
                format!("no such command: {other:?}"),
            ));
        }
    })
}

fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// `/run/kelson-runtime`, or below `$XDG_RUNTIME_DIR` for who is not root.
fn default_root() -> PathBuf {
    let run = PathBuf::from("/run/kelson-runtime");
    if nix::unistd::Uid::effective().is_root() {
        return run;
    }
    std::env::var_os("XDG_RUNTIME_DIR").map_or(run, |dir| PathBuf::from(dir).join("kelson-runtime"))
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
