//! What a container prints: how fast it is kept, and how fast it is given back.
//!
//! The container is the probe, which writes lines one by one; each engine keeps them in its ordinary file (kelson and docker: json-file,
//! podman: k8s-file by conmon). The limit is the probe through a pipe into `cat`, and the file read by `cat`.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::clients::{self, Engine, Programs};
use super::repeat::{DATA, Repeated, keep_in_memory};
use super::report::{self, Document, Report};
use super::runtime::text;
use super::worker::Job;
use super::{Effort, Runner, measure};
use crate::image;
use crate::lab::PROBE;

const IMAGE: &str = "bench/probe:latest";
/// With its end.
const LINE: usize = 100;
const LIMIT: &str = "cat";

/// Compares our engine with podman, docker and a pipe.
///
/// # Errors
/// When none of them works here.
pub fn compare(programs: &Programs, lines: usize, times: usize) -> Result<Document> {
    let scratch = tempfile::Builder::new()
        .prefix("kelson-bench-")
        .tempdir()
        .context("make a scratch directory")?;
    let place = |name: &str| scratch.path().join(name);
    let archive = archive(scratch.path())?;
    let probe = place("probe");
    fs::write(&probe, PROBE)?;
    make_executable(&probe)?;
    let mut engines = vec![
        clients::kelson(programs, &place("kelson"), &archive)?,
        clients::podman(programs, &place("podman"), &archive)?,
        clients::docker(programs, &place("docker"), &archive)?,
    ];
    for engine in &mut engines {
        keep_in_memory(engine, &place(&engine.contender.name));
        // podman's client is led to its files by its arguments, which have just changed.
        engine.contender.job.prepare = vec![engine.command(&["load", "--input", &text(&archive)])];
    }
    let effort = Effort {
        lone: times,
        rounds: 1,
        burst: 1,
        parallel: 0,
    };
    let mut reports = Vec::new();
    for task in [Task::Write, Task::Read, Task::Tail] {
        let mut report = Report::new(&task.title(lines));
        let mut runners = Vec::new();
        let mut add = |name: &str, is_limit, started: Result<Repeated>| match started {
            Ok(repeated) => runners.push(Runner::new(name, is_limit, repeated)),
            Err(error) => report.note(format!("{name} is missing: {error:#}")),
        };
        for engine in &engines {
            add(&engine.contender.name, false, start(engine, task, lines));
        }
        if let Some(job) = limit(&probe, task, lines) {
            add(LIMIT, true, Repeated::start(&job, None));
        }
        ensure!(
            !runners.is_empty(),
            "{}: {}",
            report.title,
            report.notes.join("; ")
        );
        let mut done = measure(&mut runners, report, effort);
        if task != Task::Tail {
            say_speed(&mut done[0], lines);
        }
        reports.extend(done);
    }
    let who = engines.iter().map(|engine| report::Contender {
        name: engine.contender.name.clone(),
        version: engine.version.clone(),
    });
    Ok(Document::new(who.collect(), reports))
}

fn say_speed(report: &mut Report, lines: usize) {
    let megabytes = (lines * LINE) as f64 / 1e6;
    let speeds: Vec<String> = report
        .rows
        .iter()
        .filter_map(|row| {
            let seconds = row.figures.first()?.median_us as f64 / 1e6;
            Some(format!("{} {:.0}", row.name, megabytes / seconds))
        })
        .collect();
    report.note(format!("MB/s of what was printed, lone: {}", speeds.join(", ")));
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Write,
    Read,
    Tail,
}

impl Task {
    fn title(self, lines: usize) -> String {
        match self {
            Self::Write => format!(
                "a container that writes {lines} lines of {LINE} bytes, one by one, from its start to its end"
            ),
            Self::Read => format!("logs of {lines} lines of {LINE} bytes, into a file"),
            Self::Tail => format!("logs --tail 10 of {lines} lines"),
        }
    }
}

fn start(engine: &Engine, task: Task, lines: usize) -> Result<Repeated> {
    let lines = lines.to_string();
    let run = |more: &[&str]| {
        let flood = [IMAGE, "flood", &lines, &LINE.to_string()];
        engine.command(&[&["run"], more, &["--name", "bench", "--network", "none"], &flood].concat())
    };
    let mut job = engine.contender.job.clone();
    if task == Task::Write {
        job.command = run(&["-d"]);
        job.then = vec![engine.command(&["wait", "bench"])];
        return Repeated::start(&job, Some(engine.command(&["rm", "--force", "bench"])));
    }
    job.prepare
        .extend([run(&["-d"]), engine.command(&["wait", "bench"])]);
    job.command = match task {
        Task::Tail => engine.command(&["logs", "--tail", "10", "bench"]),
        _ => into_file(&engine.command(&["logs", "bench"])),
    };
    Repeated::start(&job, None)
}

fn limit(probe: &Path, task: Task, lines: usize) -> Option<Job> {
    let shell = |script: String| vec!["sh".to_owned(), "-c".to_owned(), script];
    let flood = format!("{} flood {lines} {LINE} | cat > {DATA}", text(probe));
    let job = Job {
        prepare: vec![shell(flood.clone())],
        ..Job::default()
    };
    match task {
        Task::Write => Some(Job {
            command: shell(flood),
            ..job
        }),
        Task::Read => Some(Job {
            command: into_file(&["cat".to_owned(), DATA.to_owned()]),
            ..job
        }),
        Task::Tail => None,
    }
}

fn into_file(command: &[String]) -> Vec<String> {
    let script = format!("exec \"$@\" > {DATA}.out");
    let shell = ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
    [&shell[..], command].concat()
}

fn archive(scratch: &Path) -> Result<std::path::PathBuf> {
    let (layer, archive) = (scratch.join("layer.tar"), scratch.join("image.tar"));
    let mut tar = tar::Builder::new(File::create(&layer)?);
    let mut header = image::header(tar::EntryType::Regular, 0o755, PROBE.len());
    tar.append_data(&mut header, "probe", PROBE)?;
    tar.into_inner()?;
    image::write_archive(&archive, IMAGE, &layer, &json!({"Entrypoint": ["/probe"]}))?;
    Ok(archive)
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
