//! Arguments. The program's name decides between our engine's shim and containerd's.
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::error::Result;
use crate::{bootstrap, containerd, diagnostics, resolver};

const USAGE: &str =
    "usage: kelson-shim serve < PARAMETERS\n       kelson-shim dns RECORD\n       kelson-shim --version\n";

/// Runs the command that `args` (without the program's name) ask for.
pub fn run(program: &OsStr, args: impl Iterator<Item = OsString>) -> ExitCode {
    let name = Path::new(program)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    if containerd::is_name(&name) {
        return containerd::run(&name, args);
    }
    let args: Vec<OsString> = args.take(3).collect();
    match args.iter().map(|arg| arg.to_str()).collect::<Vec<_>>().as_slice() {
        [Some("serve")] => status(bootstrap::serve()),
        [Some("dns"), Some(record)] => status(resolver::run(Path::new(record))),
        [Some("pause"), Some(netns)] => status(containerd::sandbox::pause(netns)),
        [Some("--version")] => {
            say(concat!("kelson-shim ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
            ExitCode::SUCCESS
        }
        [Some("--help" | "-h")] => {
            say(USAGE.as_bytes());
            ExitCode::SUCCESS
        }
        _ => {
            let _ = std::io::stderr().lock().write_all(USAGE.as_bytes());
            ExitCode::from(2)
        }
    }
}

fn status(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            diagnostics::report(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The only writer of stdout.
pub(crate) fn say(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text).and_then(|()| out.flush());
}
