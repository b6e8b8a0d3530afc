//! The commands of OCI runtimes, against each other and against the floor: `run` of `/bin/true`, with and without a
//! system call filter, a whole life in three commands, `exec`, `state`, and `create` among a thousand others.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::Report;
use super::stats::Summary;
use super::worker::{Job, Worker};
use super::{Contender, Effort, measure};
use crate::bundle;

/// What is compared, besides how often.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Programs with runc's command line; the first is the one that is judged.
    pub runtimes: &'a [PathBuf],
    /// The program that does the bare kernel work of a `run`.
    pub floor: Option<&'a Path>,
    /// A file with `linux.seccomp`, for a `run` with it.
    pub seccomp: Option<&'a Path>,
    /// How many containers are made for the last comparison; 0 leaves it out.
    pub crowd: usize,
}

/// Compares all of it, one report each.
///
/// # Errors
/// When no runtime works here.
pub fn compare(subject: &Subject<'_>, effort: Effort) -> Result<Vec<Report>> {
    let scratch = tempfile::Builder::new()
        .prefix("kelson-bench-")
        .tempdir()
        .context("make a scratch directory")?;
    let place = |name: &str| scratch.path().join(name);
    let mut reports = vec![run(subject, &place("run"), None, effort)?];
    if let Some(file) = subject.seccomp {
        let profile = serde_json::from_slice(&fs::read(file).with_context(|| file.display().to_string())?)?;
        reports.push(run(subject, &place("seccomp"), Some(profile), effort)?);
    }
    let life = |r: &Runtime| Job {
        command: r.args(&["create", "--bundle", &text(&r.place), "bench"]),
        then: vec![
            r.args(&["start", "bench"]),
            r.args(&["delete", "--force", "bench"]),
        ],
        ..Job::default()
    };
    let true_ends = &["/bin/true"];
    reports.push(each(
        subject,
        &place("life"),
        "create, start, delete --force of /bin/true",
        true_ends,
        life,
        effort,
    )?);
    let up = |r: &Runtime, argv: &[&str]| Job {
        prepare: vec![
            r.args(&["create", "--bundle", &text(&r.place), "bench"]),
            r.args(&["start", "bench"]),
        ],
        command: r.args(argv),
        ..Job::default()
    };
    let sleeps = &["/bin/sleep", "3600"];
    let exec = |r: &Runtime| up(r, &["exec", "bench", "/bin/true"]);
    reports.push(each(
        subject,
        &place("exec"),
        "exec of /bin/true",
        sleeps,
        exec,
        effort,
    )?);
    let state = |r: &Runtime| up(r, &["state", "bench"]);
    reports.push(each(subject, &place("state"), "state", sleeps, state, effort)?);
    if subject.crowd > 0 {
        reports.push(crowd(subject, &place("crowd"))?);
    }
    Ok(reports)
}

/// One runtime in one comparison.
struct Runtime {
    program: PathBuf,
    place: PathBuf,
}

impl Runtime {
    /// With a bundle of its own.
    fn new(program: &Path, place: PathBuf, args: &[&str]) -> Result<Self> {
        bundle::write(&place, args, "/bench/container")?;
        Ok(Self {
            program: program.to_owned(),
            place,
        })
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let mut all = vec![
            text(&self.program),
            "--root".to_owned(),
            text(&self.place.join("state")),
        ];
        all.extend(more.iter().map(|&word| word.to_owned()));
        all
    }

    /// Changes its config.json.
    fn configure(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let file = self.place.join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&file)?)?;
        change(&mut config);
        Ok(fs::write(file, serde_json::to_vec_pretty(&config)?)?)
    }
}

fn run(subject: &Subject<'_>, place: &Path, seccomp: Option<Value>, effort: Effort) -> Result<Report> {
    let mut contenders = Vec::new();
    for (index, program) in subject.runtimes.iter().enumerate() {
        let runtime = Runtime::new(program, place.join(index.to_string()), &["/bin/true"])?;
        if let Some(profile) = &seccomp {
            runtime.configure(|config| config["linux"]["seccomp"] = profile.clone())?;
        }
        contenders.push(Contender {
            name: name_of(program),
            job: Job {
                command: runtime.args(&["run", "--bundle", &text(&runtime.place), "bench"]),
                ..Job::default()
            },
        });
    }
    if let (Some(floor), None) = (subject.floor, &seccomp) {
        let rootfs = bundle::write(&place.join("floor"), &["/bin/true"], "/")?;
        contenders.push(Contender {
            name: name_of(floor),
            job: Job {
                command: vec![text(floor), text(&rootfs), "/bin/true".into()],
                ..Job::default()
            },
        });
    }
    let title = match seccomp {
        None => "run of /bin/true",
        Some(_) => "run of /bin/true with a system call filter",
    };
    let (mut report, workers) = measure(title, &contenders, effort)?;
    if seccomp.is_none() {
        for (name, mut worker) in workers {
            let Some(index) = subject
                .runtimes
                .iter()
                .position(|program| name_of(program) == name)
            else {
                continue;
            };
            let note = peak(subject, index, &place.join("memory"), &mut worker).map_or_else(
                |e| format!("memory of {name}: {e:#}"),
                |figures| format!("memory of {name}: {figures}"),
            );
            report.note(note);
        }
    }
    Ok(report)
}

/// The memory of a runtime when it runs a hook, which is late enough for most of it to be in use, and early enough to
/// find the runtime alive: it is the hook's parent.
fn peak(subject: &Subject<'_>, index: usize, place: &Path, worker: &mut Worker) -> Result<String> {
    let runtime = Runtime::new(
        &subject.runtimes[index],
        place.join(index.to_string()),
        &["/bin/true"],
    )?;
    let out = runtime.place.join("memory");
    let script = format!(
        "cat /proc/$PPID/status /proc/$PPID/smaps_rollup > {}",
        out.display()
    );
    runtime.configure(|config| {
        config["hooks"] = json!({"createRuntime": [
            {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}
        ]});
    })?;
    worker.perform(runtime.args(&["run", "--bundle", &text(&runtime.place), "memory"]))?;
    let figures = fs::read_to_string(&out)?;
    let field = |name: &str| {
        let line = figures.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("unknown", str::trim).to_owned()
    };
    Ok(format!(
        "VmHWM {}, private dirty {}",
        field("VmHWM:"),
        field("Private_Dirty:")
    ))
}

/// The same job for every runtime.
fn each(
    subject: &Subject<'_>,
    place: &Path,
    title: &str,
    args: &[&str],
    job: impl Fn(&Runtime) -> Job,
    effort: Effort,
) -> Result<Report> {
    let mut contenders = Vec::new();
    for (index, program) in subject.runtimes.iter().enumerate() {
        let runtime = Runtime::new(program, place.join(index.to_string()), args)?;
        contenders.push(Contender {
            name: name_of(program),
            job: job(&runtime),
        });
    }
    measure(title, &contenders, effort).map(|(report, _)| report)
}

/// What `create` costs among few containers and among many: the judged runtime alone.
fn crowd(subject: &Subject<'_>, place: &Path) -> Result<Report> {
    /// So many at the beginning and at the end are compared.
    const SAMPLE: usize = 50;
    let mut report = Report::new(&format!(
        "create of the first and of the last of {} containers",
        subject.crowd
    ));
    let program = subject.runtimes.first().context("no runtime")?;
    let runtime = Runtime::new(program, place.to_owned(), &["/bin/true"])?;
    runtime.configure(|config| config["linux"]["cgroupsPath"] = Value::Null)?;
    let mut worker = Worker::start(&Job {
        command: runtime.args(&["create", "--bundle", &text(&runtime.place), "bench{n}"]),
        ..Job::default()
    })?;
    let mut walls = Vec::new();
    let mut first_cpu = Duration::ZERO;
    let mut last_cpu = Duration::ZERO;
    for i in 0..subject.crowd {
        let before = worker.cpu()?;
        walls.push(worker.run()?);
        let used = worker.cpu()?.saturating_sub(before);
        if i < SAMPLE {
            first_cpu += used;
        } else if i + SAMPLE >= subject.crowd {
            last_cpu += used;
        }
    }
    let median = |list: &[Duration]| Summary::of(list).map_or(0, |s| s.median_us);
    let sample = SAMPLE.min(walls.len());
    let (first, last) = (median(&walls[..sample]), median(&walls[walls.len() - sample..]));
    report.note(format!(
        "{}: median wall of the first {sample} is {first} us, of the last {last} us; CPU of the last is {:.2} x the first's",
        name_of(program),
        last_cpu.as_secs_f64() / first_cpu.as_secs_f64().max(f64::EPSILON),
    ));
    Ok(report)
}

pub(super) fn name_of(program: &Path) -> String {
    program
        .file_name()
        .map_or_else(|| text(program), |name| name.to_string_lossy().into_owned())
}

pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
