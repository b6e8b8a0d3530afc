//! `kelson-spec-tests`: judges OCI runtimes and engines from outside, and times them.

use std::io::{Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use kelson_spec_tests::bench::{self, Effort, report::Report};
use kelson_spec_tests::{judge, runner, suites};

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
    /// Time programs against each other in one run
    #[command(subcommand)]
    Bench(Bench),
    /// Serve one contender of a bench; started by the bench itself
    #[command(hide = true)]
    BenchWorker,
    /// Do cases for `run`; started by it
    #[command(hide = true)]
    CaseWorker,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// `run` of /bin/true by OCI runtimes
    Runtime {
        /// A runtime with runc's command line; the first is judged against the others
        #[arg(long = "runtime", value_name = "PATH", required = true)]
        runtimes: Vec<PathBuf>,
        /// The program that does the bare kernel work
        #[arg(long, value_name = "PATH")]
        floor: Option<PathBuf>,
        /// A file with `linux.seccomp`, for a further `run` with it
        #[arg(long, value_name = "FILE")]
        seccomp: Option<PathBuf>,
        /// Make this many containers, and compare the first with the last
        #[arg(long, value_name = "N", default_value_t = 0)]
        crowd: usize,
        #[command(flatten)]
        options: Options,
    },
    /// `run --rm` of true by engines, and the memory of their idle processes
    Engine {
        /// Directory with kelson, kelsond, kelson-shim and kelson-runtime
        #[arg(long, value_name = "DIR")]
        kelson: PathBuf,
        /// podman
        #[arg(long, value_name = "PATH", default_value = "/usr/bin/podman")]
        podman: PathBuf,
        /// The docker client
        #[arg(long, value_name = "PATH", default_value = "/usr/bin/docker")]
        docker: PathBuf,
        /// The docker daemon
        #[arg(long, value_name = "PATH", default_value = "/usr/sbin/dockerd")]
        dockerd: PathBuf,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// Starts after a rest, per contender
    #[arg(long, default_value_t = 30)]
    lone: usize,
    /// Bursts per contender
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Starts in one burst
    #[arg(long, default_value_t = 20)]
    burst: usize,
    /// Write the figures to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    fn effort(&self) -> Effort {
        Effort {
            lone: self.lone,
            rounds: self.rounds,
            burst: self.burst,
        }
    }

    fn publish(&self, reports: &[Report]) -> Result<()> {
        for report in reports {
            stdout().lock().write_all(report.markdown().as_bytes())?;
        }
        if let Some(file) = &self.json {
            let text = serde_json::to_vec_pretty(reports)?;
            std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
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
        Command::Bench(bench) => time(bench)?,
        Command::BenchWorker => bench::worker::serve(stdin().lock(), stdout().lock())?,
        Command::CaseWorker => {
            runner::worker::serve(&suites::all(), stdin().lock(), stdout().lock())?;
        }
    }
    Ok(true)
}

fn time(bench: Bench) -> Result<()> {
    match bench {
        Bench::Runtime {
            runtimes,
            floor,
            seccomp,
            crowd,
            options,
        } => {
            let subject = bench::runtime::Subject {
                runtimes: &runtimes,
                floor: floor.as_deref(),
                seccomp: seccomp.as_deref(),
                crowd,
            };
            options.publish(&bench::runtime::compare(&subject, options.effort())?)
        }
        Bench::Engine {
            kelson,
            podman,
            docker,
            dockerd,
            options,
        } => {
            let programs = bench::engine::Programs {
                kelson_dir: kelson,
                podman,
                docker,
                dockerd,
            };
            options.publish(&[bench::engine::compare(&programs, options.effort())?])
        }
    }
}
