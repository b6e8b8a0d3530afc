//! The shim as containerd knows it (`containerd-shim-kelson-v2`): how it is started, found again, cleaned up after, and
//! what it tells by itself. The containers are the same as our engine's.
//!
//! ```text
//! start ──spawns──► serve ──► registry, service (as for our engine)      delete: after a shim that died
//!   └ address           └ maker (options → container)   publish (events)   sandbox   info (-info)
//! ```
mod address;
mod argv;
mod delete;
mod info;
pub mod maker;
mod publish;
pub mod sandbox;
mod serve;
mod start;

use std::ffi::OsString;
use std::process::ExitCode;

use argv::{Action, Argv};

use crate::diagnostics;
use crate::error::Result;

/// Whether a program of this name speaks containerd's command line.
pub fn is_name(program: &str) -> bool {
    program.starts_with("containerd-shim-")
}

/// Runs what `args` (without the program's name) ask for.
pub fn run(program: &str, args: impl Iterator<Item = OsString>) -> ExitCode {
    let result = Argv::parse(args).and_then(|argv| act(program, &argv));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Containerd shows what it reads here.
            diagnostics::say(&format!("{program}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn act(program: &str, argv: &Argv) -> Result<()> {
    match argv.action {
        Action::Version => {
            let version = env!("CARGO_PKG_VERSION");
            crate::cli::say(format!("{program}:\n  Version:  {version}\n").as_bytes());
            Ok(())
        }
        Action::Info => info::run(),
        Action::Start => start::run(argv),
        Action::Delete => delete::run(argv),
        Action::Serve => serve::run(argv),
    }
}
