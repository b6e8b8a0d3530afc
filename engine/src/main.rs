//! kelsond, the daemon that speaks the Docker Engine API.

use clap::Parser;
use kelson_engine::config::Flags;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let outcome = if flags.version {
        print_version()
    } else {
        kelson_engine::daemon::run(&flags)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(std::io::stderr(), "kelsond: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_version() -> anyhow::Result<()> {
    writeln!(
        std::io::stdout(),
        "Kelson version {}, API {}",
        env!("CARGO_PKG_VERSION"),
        kelson_engine::API_VERSION
    )?;
    Ok(())
}
