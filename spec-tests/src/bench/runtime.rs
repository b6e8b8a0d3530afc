//! The commands of OCI runtimes, against each other and against the floor: `run` of `/bin/true`, one at a time and many at once, with
//! and without a system call filter; a whole life in three commands; `exec`; `state`; and `create` among a thousand others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{self, Document, Memory, Report};
use super::stats::Summary;
use super::worker::{Job, Worker};
use super::{Contender, Effort, Runner, measure, set_up};
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
pub fn compare(subject: &Subject<'_>, effort: Effort) -> Result<Document> {
    let scratch = tempfile::Builder::new()
        .prefix("kelson-bench-")
        .tempdir()
        .context("make a scratch directory")?;
    let names = names_of(subject.runtimes);
    let tasks = Tasks {
        subject,
        names: &names,
        effort,
    };
    let place = |name: &str| scratch.path().join(name);
    let mut reports = tasks.run(&place("run"), None)?;
    if let Some(file) = subject.seccomp {
        let profile = serde_json::from_slice(&fs::read(file).with_context(|| file.display().to_string())?)?;
        reports.extend(tasks.run(&place("seccomp"), Some(profile))?);
    }
    let life = |r: &Runtime| Job {
        command: r.args(&["create", "--bundle", &text(&r.place), "bench"]),
        then: vec![
            r.args(&["start", "bench"]),
            r.args(&["delete", "--force", "bench"]),
        ],
        ..Job::default()
    };
    let title = "create, start, delete --force of /bin/true";
    reports.extend(tasks.each(&place("life"), title, &["/bin/true"], life)?);
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
    reports.extend(tasks.each(&place("exec"), "exec of /bin/true", sleeps, exec)?);
    let state = |r: &Runtime| up(r, &["state", "bench"]);
    reports.extend(tasks.each(&place("state"), "state", sleeps, state)?);
    if subject.crowd > 0 {
        reports.push(crowd(subject, &names[0], &place("crowd"))?);
    }
    let who = names.iter().zip(subject.runtimes);
    let who = who.map(|(name, program)| report::Contender {
        name: name.clone(),
        version: version_of(program),
    });
    Ok(Document::new(who.collect(), reports))
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

/// What all comparisons share.
struct Tasks<'a> {
    subject: &'a Subject<'a>,
    names: &'a [String],
    effort: Effort,
}

impl Tasks<'_> {
    fn run(&self, place: &Path, seccomp: Option<Value>) -> Result<Vec<Report>> {
        let mut contenders = self.contenders(place, &["/bin/true"], |runtime| {
            runtime.configure(|config| {
                // Each of many at once has a cgroup of its own, by its id.
                config["linux"]["cgroupsPath"] = Value::Null;
                if let Some(profile) = &seccomp {
                    config["linux"]["seccomp"] = profile.clone();
                }
            })?;
            Ok(Job {
                command: runtime.args(&["run", "--bundle", &text(&runtime.place), "bench{n}"]),
                ..Job::default()
            })
        })?;
        if let (Some(floor), None) = (self.subject.floor, &seccomp) {
            let rootfs = bundle::write(&place.join("floor"), &["/bin/true"], "/")?;
            contenders.push(Contender {
                name: name_of(floor),
                is_limit: true,
                job: Job {
                    command: vec![text(floor), text(&rootfs), "/bin/true".into()],
                    ..Job::default()
                },
            });
        }
        let mut report = Report::new(match seccomp {
            None => "run of /bin/true",
            Some(_) => "run of /bin/true with a system call filter",
        });
        let mut runners = set_up(&contenders, &mut report)?;
        let mut reports = measure(&mut runners, report, self.effort);
        if seccomp.is_none() {
            for Runner { name, contestant, .. } in &mut runners {
                if let Some(index) = self.names.iter().position(|one| one == name)
                    && let Err(error) = self.memory(index, place, contestant, &mut reports[0])
                {
                    reports[0].note(format!("memory of {name}: {error:#}"));
                }
            }
        }
        Ok(reports)
    }

    /// The same job for every runtime, never at once.
    fn each(
        &self,
        place: &Path,
        title: &str,
        args: &[&str],
        job: impl Fn(&Runtime) -> Job,
    ) -> Result<Vec<Report>> {
        let contenders = self.contenders(place, args, |runtime| Ok(job(runtime)))?;
        let mut report = Report::new(title);
        let mut runners = set_up(&contenders, &mut report)?;
        let effort = Effort {
            parallel: 0,
            ..self.effort
        };
        Ok(measure(&mut runners, report, effort))
    }

    fn contenders(
        &self,
        place: &Path,
        args: &[&str],
        job: impl Fn(&Runtime) -> Result<Job>,
    ) -> Result<Vec<Contender>> {
        let all = self.names.iter().zip(self.subject.runtimes).enumerate();
        all.map(|(index, (name, program))| {
            let runtime = Runtime::new(program, place.join(index.to_string()), args)?;
            Ok(Contender {
                name: name.clone(),
                is_limit: false,
                job: job(&runtime)?,
            })
        })
        .collect()
    }

    /// Of a runtime at work, and of what it leaves behind for each container.
    fn memory(&self, index: usize, place: &Path, worker: &mut Worker, report: &mut Report) -> Result<()> {
        let program = &self.subject.runtimes[index];
        let at_work = Runtime::new(program, place.join(format!("memory{index}")), &["/bin/true"])?;
        let (pss, peak) = peak(&at_work, worker)?;
        let name = &self.names[index];
        report.note(format!(
            "{name}: the runtime's VmHWM in a createRuntime hook is {peak}"
        ));
        report.memory.push(Memory {
            name: name.clone(),
            programs: "the runtime".into(),
            when: "at work, in a createRuntime hook".into(),
            pss_kib: pss,
        });
        let waiting = Runtime::new(
            program,
            place.join(format!("waiting{index}")),
            &["/bin/sleep", "3600"],
        )?;
        worker.perform(waiting.args(&["create", "--bundle", &text(&waiting.place), "waiting"]))?;
        report.memory.push(Memory {
            name: name.clone(),
            programs: "all that is left".into(),
            when: "per container, created and not started".into(),
            pss_kib: worker.memory()?.iter().map(|process| process.pss_kib).sum(),
        });
        worker.perform(waiting.args(&["delete", "--force", "waiting"]))
    }
}

/// The memory of a runtime when it runs a hook, which is late enough for most of it to be in use, and early enough to
/// find the runtime alive: it is the hook's parent. PSS, and the peak of the resident set in words.
fn peak(runtime: &Runtime, worker: &mut Worker) -> Result<(u64, String)> {
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
    let pss = field("Pss:");
    let pss = pss.trim_end_matches("kB").trim().parse();
    Ok((pss.context("the PSS of the runtime")?, field("VmHWM:")))
}

/// What `create` costs among few containers and among many: the judged runtime alone.
fn crowd(subject: &Subject<'_>, name: &str, place: &Path) -> Result<Report> {
    /// So many at the beginning and at the end are compared.
    const SAMPLE: usize = 50;
    let sample = SAMPLE.min(subject.crowd / 2).max(1);
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
        if i < sample {
            first_cpu += used;
        } else if i + sample >= subject.crowd {
            last_cpu += used;
        }
    }
    let median = |list: &[Duration]| Summary::of(list).map_or(0, |s| s.median_us);
    let (first, last) = (median(&walls[..sample]), median(&walls[walls.len() - sample..]));
    report.note(format!(
        "{}: median wall of the first {sample} is {first} us, of the last {last} us; CPU of the last is {:.2} x the first's",
        name,
        last_cpu.as_secs_f64() / first_cpu.as_secs_f64().max(f64::EPSILON),
    ));
    Ok(report)
}

/// Of a name that several have, the whole path.
fn names_of(programs: &[PathBuf]) -> Vec<String> {
    let short: Vec<String> = programs.iter().map(|program| name_of(program)).collect();
    let is_unique = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    let all = short.iter().zip(programs);
    all.map(|(name, program)| {
        if is_unique(name) {
            name.clone()
        } else {
            text(program)
        }
    })
    .collect()
}

/// The first line of `--version`.
pub(super) fn version_of(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.ok().and_then(|text| text.lines().next().map(str::to_owned));
    line.filter(|line| !line.is_empty())
        .unwrap_or_else(|| "version unknown".to_owned())
}

pub(super) fn name_of(program: &Path) -> String {
    program
        .file_name()
        .map_or_else(|| text(program), |name| name.to_string_lossy().into_owned())
}

pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_one_name_are_told_apart_by_their_paths() {
        let paths = ["/a/runc", "/b/runc", "/b/crun"].map(PathBuf::from);
        assert_eq!(names_of(&paths), ["/a/runc", "/b/runc", "crun"]);
    }
}
