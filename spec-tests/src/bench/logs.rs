//! What a container prints: how fast it is kept, and how fast it is given back.
//!
//! The container is the probe, which writes lines one by one; each engine keeps them in its ordinary file (kelson and docker: json-file,
//! podman: k8s-file by conmon). The limit is the probe through a pipe into `cat`, and the file read by `cat`.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::clients::{Engine, Programs};
use super::repeat::{self, DATA, Repetition};
use super::report::{Document, Report};
use super::runtime::text;
use super::worker::Job;
use super::{Contender, measure};
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
    let engines = repeat::engines(programs, scratch.path(), &archive)?;
    let mut reports = Vec::new();
    for task in [Task::Write, Task::Read, Task::Tail] {
        let mut report = Report::new(&task.title(lines));
        let mut repetitions: Vec<_> = engines.iter().map(|e| repetition(e, task, lines)).collect();
        repetitions.extend(limit(&probe, task, lines));
        let mut runners = repeat::set_up(repetitions, &mut report)?;
        let mut done = measure(&mut runners, report, repeat::one_by_one(times));
        if task != Task::Tail {
            say_speed(&mut done[0], lines);
        }
        reports.extend(done);
    }
    Ok(Document::new(repeat::named(&engines), reports))
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

fn repetition(engine: &Engine, task: Task, lines: usize) -> Repetition {
    let lines = lines.to_string();
    let run = |more: &[&str]| {
        let flood = [IMAGE, "flood", &lines, &LINE.to_string()];
        engine.command(&[&["run"], more, &["--name", "bench", "--network", "none"], &flood].concat())
    };
    let mut contender = engine.contender.clone();
    let job = &mut contender.job;
    if task == Task::Write {
        job.command = run(&["-d"]);
        job.then = vec![engine.command(&["wait", "bench"])];
        return (contender, Some(engine.command(&["rm", "--force", "bench"])));
    }
    job.prepare
        .extend([run(&["-d"]), engine.command(&["wait", "bench"])]);
    job.command = match task {
        Task::Tail => engine.command(&["logs", "--tail", "10", "bench"]),
        _ => into_file(&engine.command(&["logs", "bench"])),
    };
    (contender, None)
}

fn limit(probe: &Path, task: Task, lines: usize) -> Option<Repetition> {
    let shell = |script: String| vec!["sh".to_owned(), "-c".to_owned(), script];
    let flood = shell(format!("{} flood {lines} {LINE} | cat > {DATA}", text(probe)));
    let command = match task {
        Task::Write => flood.clone(),
        Task::Read => into_file(&["cat".to_owned(), DATA.to_owned()]),
        Task::Tail => return None,
    };
    let contender = Contender {
        name: LIMIT.to_owned(),
        is_limit: true,
        job: Job {
            prepare: vec![flood],
            command,
            ..Job::default()
        },
    };
    Some((contender, None))
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
