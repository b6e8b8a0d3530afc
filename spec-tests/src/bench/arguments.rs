//! The command `bench`.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::report::Document;
use super::{Effort, chart, clients, engine, images, logs, runtime};
use crate::engine::Address;

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArguments {
    /// A runtime with runc's command line; may be given several times, the first is judged against the others
    #[arg(
        long = "runtime",
        value_name = "PATH",
        required_unless_present = "engines",
        conflicts_with = "engines"
    )]
    runtimes: Vec<PathBuf>,
    /// An engine that runs, as for `run`; may be given several times, the first is judged against the others
    #[arg(long = "engine", value_name = "SOCKET")]
    engines: Vec<Address>,
    /// The program that does the bare kernel work of a runtime's `run`: the limit
    #[arg(long, value_name = "PATH", conflicts_with = "engines")]
    floor: Option<PathBuf>,
    /// A file with `linux.seccomp`, for a further `run` by runtimes
    #[arg(long, value_name = "FILE", conflicts_with = "engines")]
    seccomp: Option<PathBuf>,
    /// Make this many containers with the first runtime, and compare the first with the last
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "engines")]
    crowd: usize,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// `run --rm` as it is typed: kelson, podman and docker, with daemons of their own that the bench starts
    Clients {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        options: Options,
    },
    /// What a container prints: kept, and read by `logs`: the same three, and a pipe
    Logs {
        #[command(flatten)]
        programs: Programs,
        /// Lines of 100 bytes
        #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = at_least_one)]
        lines: usize,
        /// Runs and reads per contender
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
        times: usize,
        /// Write the figures to this file as JSON, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// `pull`, `save` and `load` of an image of six layers, 360 MB: the same three, and a docker-registry for each
    Images {
        #[command(flatten)]
        programs: Programs,
        /// docker-registry
        #[arg(long, value_name = "PATH", default_value = "/usr/bin/docker-registry")]
        registry: PathBuf,
        /// Pulls, saves and loads per contender
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
        times: usize,
        /// Write the figures to this file as JSON, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// The programs that a bench starts itself.
#[derive(Debug, Args)]
struct Programs {
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
}

impl From<Programs> for clients::Programs {
    fn from(programs: Programs) -> Self {
        Self {
            kelson_dir: programs.kelson,
            podman: programs.podman,
            docker: programs.docker,
            dockerd: programs.dockerd,
        }
    }
}

#[derive(Debug, Args)]
struct Options {
    /// Starts after a rest, per contender
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = at_least_one)]
    lone: usize,
    /// Bursts per contender, and rounds of starts at once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    rounds: usize,
    /// Starts in one burst
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = at_least_one)]
    burst: usize,
    /// Starts at the same time; 0 leaves them out
    #[arg(long, value_name = "N", default_value_t = 20)]
    parallel: usize,
    /// Write the figures to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of them to this file, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

impl Options {
    fn effort(&self) -> Effort {
        Effort {
            lone: self.lone,
            rounds: self.rounds,
            burst: self.burst,
            parallel: self.parallel,
        }
    }

    fn publish(&self, document: &Document) -> Result<()> {
        publish(document, self.json.as_ref(), self.svg.as_ref())
    }
}

fn publish(document: &Document, json: Option<&PathBuf>, svg: Option<&PathBuf>) -> Result<()> {
    let mut files = Vec::new();
    if let Some(file) = json {
        files.push((file, serde_json::to_string_pretty(document)? + "\n"));
    }
    if let Some(file) = svg {
        files.push((file, chart::svg(document)));
    }
    for (file, text) in files {
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(stdout().lock().write_all(document.markdown().as_bytes())?)
}

/// Times what was asked for, and prints it.
///
/// # Errors
/// When there is nothing that could be timed.
pub fn act(arguments: BenchArguments) -> Result<()> {
    match arguments.task {
        Some(Task::Clients { programs, options }) => {
            return options.publish(&clients::compare(&programs.into(), options.effort())?);
        }
        Some(Task::Logs {
            programs,
            lines,
            times,
            json,
        }) => {
            return publish(
                &logs::compare(&programs.into(), lines, times)?,
                json.as_ref(),
                None,
            );
        }
        Some(Task::Images {
            programs,
            registry,
            times,
            json,
        }) => {
            return publish(
                &images::compare(&programs.into(), &registry, times)?,
                json.as_ref(),
                None,
            );
        }
        None => {}
    }
    let effort = arguments.options.effort();
    let document = if arguments.engines.is_empty() {
        let subject = runtime::Subject {
            runtimes: &arguments.runtimes,
            floor: arguments.floor.as_deref(),
            seccomp: arguments.seccomp.as_deref(),
            crowd: arguments.crowd,
        };
        runtime::compare(&subject, effort)?
    } else {
        engine::compare(&arguments.engines, effort)?
    };
    arguments.options.publish(&document)
}
