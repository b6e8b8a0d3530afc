//! `kelson-spec-tests`: judges OCI runtimes and engines from outside, and times them.

use std::io::{Write, stdin, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use kelson_spec_tests::bench::{self, Effort, report::Report};

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
    /// Time programs against each other in one run
    #[command(subcommand)]
    Bench(Bench),
    /// Serve one contender of a bench; started by the bench itself
    #[command(hide = true)]
    BenchWorker,
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

    fn publish(&self, report: &Report) -> Result<()> {
        stdout().lock().write_all(report.markdown().as_bytes())?;
        if let Some(file) = &self.json {
            let text = serde_json::to_vec_pretty(report)?;
            std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Bench(Bench::Runtime {
            runtimes,
            floor,
            options,
        }) => options.publish(&bench::runtime::compare(
            &runtimes,
            floor.as_deref(),
            options.effort(),
        )?),
        Command::Bench(Bench::Engine {
            kelson,
            podman,
            docker,
            dockerd,
            options,
        }) => {
            let programs = bench::engine::Programs {
                kelson_dir: kelson,
                podman,
                docker,
                dockerd,
            };
            options.publish(&bench::engine::compare(&programs, options.effort())?)
        }
        Command::BenchWorker => bench::worker::serve(stdin().lock(), stdout().lock()),
    }
}
