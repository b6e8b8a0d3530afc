//! `kelson-logger`: what a shim has others do, so that its own memory stays small.
//!
//! - `kelson-logger syslog|journald|fluentd|gelf KEY VALUE...` carries a container's output elsewhere. It is run as containerd's
//!   `binary://` loggers are: stdout of the container is descriptor 3, stderr 4, and 5 is told when the destination is ready: one
//!   `+`, or the reason why there will be none.
//! - `kelson-logger compress FILE` replaces a rotated log by a compressed one.
//!
//! One thread that reads, and sends, and waits where its destination is slow: what it does not read stays in two pipes, and the shim
//! decides whether the container waits or the shim drops. Nothing is kept for later.

mod compress;
mod details;
mod input;
mod net;
mod sinks;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use details::Details;

const USAGE: &str = "usage: kelson-logger syslog|journald|fluentd|gelf KEY VALUE... 3<STDOUT 4<STDERR 5>READY\n       kelson-logger compress FILE\n";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let name = args.next().unwrap_or_default();
    let result = match name.to_str() {
        Some("compress") => match (args.next(), args.next()) {
            (Some(file), None) => compress::run(Path::new(&file)),
            _ => return usage(2),
        },
        Some("--version") => print(concat!("kelson-logger ", env!("CARGO_PKG_VERSION"), "\n")),
        Some("--help" | "-h") => print(USAGE),
        Some(name) if sinks::NAMES.contains(&name) => carry(name, args),
        _ => return usage(2),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "kelson-logger: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(status: u8) -> ExitCode {
    let _ = std::io::stderr().lock().write_all(USAGE.as_bytes());
    ExitCode::from(status)
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("write to standard output")
}

/// Connects, says so, and carries output until there is no more.
fn carry(name: &str, args: impl Iterator<Item = OsString>) -> Result<()> {
    let mut ready = std::fs::File::from(kelson_sys::fds::take_inherited(5).context("descriptor 5")?);
    let begun = begin(name, args);
    let (mut input, mut sink) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            // The shim tells whoever asked for the container; nobody else reads it.
            let _ = ready.write_all(format!("{error:#}").as_bytes());
            return Err(error);
        }
    };
    ready.write_all(b"+").context("say that the logger is ready")?;
    drop(ready);
    let mut lost = 0_u64;
    while let Some(message) = input.next().context("read the container's output")? {
        if let Err(error) = sink.send(&message) {
            if lost == 0 {
                let _ = writeln!(std::io::stderr().lock(), "kelson-logger: {name}: {error:#}");
            }
            lost += 1;
        }
    }
    sink.finish();
    if lost > 0 {
        bail!("{name}: {lost} messages could not be delivered");
    }
    Ok(())
}

fn begin(name: &str, args: impl Iterator<Item = OsString>) -> Result<(input::Input, Box<dyn sinks::Sink>)> {
    let details = Details::parse(args)?;
    let input = input::Input::inherited()?;
    Ok((input, sinks::open(name, details)?))
}
