//! `kelson-spec-tests`: judges OCI runtimes and engines from outside, and times them.

use std::io::{Write, stdin, stdout};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kelson_spec_tests::{bench, judge, runner, suites};

#[derive(Debug, Parser)]
#[command(
    name = "kelson-spec-tests",
    about = "Judges OCI runtimes and engines from outside, and times them"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name every case, its clauses and its sentence
    List(judge::Choice),
    /// Judge an OCI runtime or an engine; exit status 0: no case failed, 1: some did, 2: it could not be judged
    Run(judge::RunArguments),
    /// Set reports side by side, or print which clause is asked for by which case
    Report(judge::ReportArguments),
    /// Time runtimes against each other, or engines, in one run
    Bench(bench::arguments::BenchArguments),
    /// Serve one contender of a bench; started by the bench itself
    #[command(hide = true)]
    BenchWorker,
    /// Do cases for `run`; started by it
    #[command(hide = true)]
    CaseWorker,
}

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
fn act(command: Command) -> Result<bool> {
    match command {
        Command::List(choice) => judge::list(&choice)?,
        Command::Run(arguments) => return judge::run(&arguments),
        Command::Report(arguments) => judge::report(&arguments)?,
        Command::Bench(arguments) => bench::arguments::act(arguments)?,
        Command::BenchWorker => bench::worker::serve(stdin().lock(), stdout().lock())?,
        Command::CaseWorker => {
            runner::worker::serve(&suites::all(), stdin().lock(), stdout().lock())?;
        }
    }
    Ok(true)
}
