//! Running cases: some workers side by side, a deadline for each case, and a record of each.
//!
//! A worker that does not answer in time, or dies, costs its case and is replaced; what it left is removed by the next
//! enclosure.

pub mod worker;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::case::{Body, Case, Record, Verdict};
use crate::engine;
use crate::lab::process::{quiet, read_bounded};
use crate::require::SpecVersion;
use worker::{Order, Setup};

/// A worker's enclosure is made in a fraction of this.
const SETUP_LIMIT: Duration = Duration::from_secs(30);
/// Whether the runtime works at all.
const FIRST_CASE: &str = "runtime/create/creates";

/// Who is judged.
#[derive(Debug, Clone)]
pub enum Target {
    /// A program.
    Runtime(PathBuf),
    /// An engine, and a registry that it reaches.
    Engine(engine::Address, Option<String>),
}

impl Target {
    /// Whether a case asks it anything.
    #[must_use]
    pub fn takes(&self, case: &Case) -> bool {
        matches!(
            (self, &case.body),
            (Self::Runtime(_), Body::Runtime(_)) | (Self::Engine(..), Body::Engine(_))
        )
    }
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who is judged.
    pub target: Target,
    /// Cases at the same time.
    pub jobs: usize,
    /// For one case.
    pub timeout: Duration,
    /// Keep the files of cases that fail.
    pub keep: bool,
    /// Attempts of cases that race.
    pub races: usize,
}

/// What came out, and about what.
#[derive(Debug, Clone)]
pub struct Run {
    /// The program, or the address of the engine.
    pub subject: String,
    /// The first line it says of its version.
    pub version: String,
    /// The newest specification that it claims to follow; of an engine, the version of the API.
    pub claims: Option<SpecVersion>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// In the order of the cases.
    pub records: Vec<Record>,
    /// Wall time of all.
    pub wall: Duration,
}

/// Runs `chosen` of `all` cases, by index; `progress` hears of each as it ends.
///
/// # Errors
/// When the runtime can't be started, the engine does not answer, or no worker can work.
pub fn run(all: &[Case], chosen: &[usize], plan: &Plan, progress: impl Fn(&Record) + Sync) -> Result<Run> {
    let begin = Instant::now();
    let scratch = tempfile::Builder::new().prefix("kelson-spec-").tempdir()?;
    // A container's users must get through to its root.
    std::fs::set_permissions(
        scratch.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    if matches!(plan.target, Target::Runtime(_)) {
        ensure_reachable(scratch.path())?;
    }
    let mut setup = Setup {
        runtime: PathBuf::new(),
        directory: scratch.path().to_owned(),
        prefix: format!("kst{}", std::process::id()),
        hide_unified: false,
        claims: None,
        keep: plan.keep,
        races: plan.races,
        engine: None,
    };
    let mut notes = Vec::new();
    let (subject, version) = match &plan.target {
        Target::Runtime(program) => {
            let version = meet_runtime(program, plan.timeout, &mut setup, &mut notes)?;
            (setup.runtime.display().to_string(), version)
        }
        Target::Engine(address, registry) => {
            let engine = engine::Subject::meet(address, registry.as_deref())?;
            notes.extend(engine.hidden.iter().chain(&engine.unreachable).cloned());
            let version = engine.version.clone();
            setup.claims = Some(engine.api);
            setup.prefix = format!("kst-{}", engine.run);
            setup.engine = Some(engine);
            (address.to_string(), version)
        }
    };
    let records = work_off(&Queue::new(all, chosen), plan, &setup, progress);
    match &setup.engine {
        Some(engine) => notes.extend(
            engine::setup::clear(engine)?
                .into_iter()
                .map(|left| format!("left behind: {left}")),
        ),
        // What a worker left that had to be killed.
        None => crate::enclosure::remove_stale()?,
    }
    if plan.keep && setup.engine.is_none() {
        let kept = scratch.keep();
        notes.push(format!("files of failed cases are in {}", kept.display()));
    }
    Ok(Run {
        subject,
        version,
        claims: setup.claims,
        notes,
        records: records?,
        wall: begin.elapsed(),
    })
}

fn work_off(
    queue: &Queue<'_>,
    plan: &Plan,
    setup: &Setup,
    progress: impl Fn(&Record) + Sync,
) -> Result<Vec<Record>> {
    let results = std::sync::Mutex::new(vec![None; queue.order.len()]);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for job in 0..plan.jobs.max(1) {
            let (results, progress) = (&results, &progress);
            threads.push(scope.spawn(move || -> Result<()> {
                let mut hand = Hand::new(setup, job);
                while let Some((place, case)) = queue.next() {
                    let record = hand.perform(case, plan.timeout);
                    progress(&record);
                    if let Ok(mut results) = results.lock() {
                        results[place] = Some(record);
                    }
                }
                Ok(())
            }));
        }
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a worker's thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let records = results
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a result is lost"))?;
    Ok(records.into_iter().flatten().collect())
}

/// What the runtime says of its version.
fn meet_runtime(
    program: &Path,
    timeout: Duration,
    setup: &mut Setup,
    notes: &mut Vec<String>,
) -> Result<String> {
    setup.runtime = absolute(program)?;
    let version = version_of(&setup.runtime)?;
    setup.claims = claims_of(&setup.runtime);
    if needs_unified_hidden(setup, timeout)? {
        setup.hide_unified = true;
        notes.push("judged with the v2 hierarchy hidden: it refuses a machine with both".to_owned());
    }
    Ok(version)
}

/// The root of a container with a user namespace is no root of ours: it must get through to the bundle.
fn ensure_reachable(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for above in directory.ancestors() {
        let mode = std::fs::metadata(above)?.permissions().mode();
        ensure!(
            mode & 1 == 1,
            "{} is closed to other users, who must reach {}; hint: let TMPDIR name a place that all may enter",
            above.display(),
            directory.display()
        );
    }
    Ok(())
}

fn absolute(program: &Path) -> Result<PathBuf> {
    if program.components().count() > 1 {
        return program
            .canonicalize()
            .with_context(|| format!("find {}", program.display()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.exists());
    found.with_context(|| format!("{} is not on the path", program.display()))
}

fn version_of(runtime: &Path) -> Result<String> {
    let output = quiet(runtime)
        .arg("--version")
        .output()
        .with_context(|| format!("start {}", runtime.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or("version unknown").to_owned())
}

/// By `features`, else by what `--version` says of the specification.
fn claims_of(runtime: &Path) -> Option<SpecVersion> {
    let features = quiet(runtime)
        .arg("features")
        .output()
        .ok()
        .filter(|output| output.status.success());
    let newest = features.and_then(|output| {
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        SpecVersion::parse(value["ociVersionMax"].as_str()?)
    });
    newest.or_else(|| {
        let output = quiet(runtime).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        SpecVersion::parse(text.lines().find_map(|line| line.strip_prefix("spec:"))?)
    })
}

/// Some runtimes refuse every container on a machine with v1 hierarchies and a controller in the v2 one.
fn needs_unified_hidden(setup: &Setup, timeout: Duration) -> Result<bool> {
    let order = |setup: &Setup| -> Result<Record> {
        let mut worker = Worker::start(setup)?;
        worker.ask(FIRST_CASE, timeout)
    };
    let trial = |hide: bool, name: &str| Setup {
        hide_unified: hide,
        prefix: format!("kst{}t{name}", std::process::id()),
        directory: setup.directory.join(format!("trial-{name}")),
        keep: false,
        ..setup.clone()
    };
    let seen = order(&trial(false, "a"))?;
    if seen.verdict == Verdict::Passed {
        return Ok(false);
    }
    Ok(order(&trial(true, "b"))?.verdict == Verdict::Passed)
}

/// Gives out cases, each once.
struct Queue<'a> {
    all: &'a [Case],
    order: Vec<(usize, usize)>,
    next: AtomicUsize,
}

impl<'a> Queue<'a> {
    fn new(all: &'a [Case], chosen: &[usize]) -> Self {
        let order = chosen.iter().copied().enumerate().collect();
        Self {
            all,
            order,
            next: AtomicUsize::new(0),
        }
    }

    fn next(&self) -> Option<(usize, &'a Case)> {
        let (place, index) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed))?;
        Some((*place, self.all.get(*index)?))
    }
}

/// A place for one worker at a time.
struct Hand<'a> {
    setup: &'a Setup,
    job: usize,
    used: usize,
    worker: Option<Worker>,
}

impl<'a> Hand<'a> {
    fn new(setup: &'a Setup, job: usize) -> Self {
        Self {
            setup,
            job,
            used: 0,
            worker: None,
        }
    }

    fn perform(&mut self, case: &Case, timeout: Duration) -> Record {
        let begin = Instant::now();
        if let Err(error) = self.ensure_worker() {
            return Record::of(case, Verdict::of_our_fault(&error), begin);
        }
        let attempt = self.attempt(case, timeout);
        attempt.unwrap_or_else(|error| {
            // It may be stuck in a system call or a loop: it goes, and its enclosure with the next one's start.
            self.worker = None;
            Record::of(case, Verdict::Failed(format!("{error:#}")), begin)
        })
    }

    fn ensure_worker(&mut self) -> Result<()> {
        if self.worker.is_none() {
            self.used += 1;
            let name = format!("{}-{}", self.job, self.used);
            let setup = Setup {
                directory: self.setup.directory.join(format!("worker{name}")),
                prefix: format!("{}w{name}", self.setup.prefix),
                ..self.setup.clone()
            };
            self.worker = Some(Worker::start(&setup)?);
        }
        Ok(())
    }

    fn attempt(&mut self, case: &Case, timeout: Duration) -> Result<Record> {
        let worker = self.worker.as_mut().context("no worker")?;
        worker.ask(&case.name, timeout)
    }
}

struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: tempfile::NamedTempFile,
}

impl Worker {
    fn start(setup: &Setup) -> Result<Self> {
        let errors = tempfile::NamedTempFile::new()?;
        let mut child = Command::new("/proc/self/exe")
            .arg("case-worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.reopen()?)
            .spawn()
            .context("start a worker")?;
        let (orders, stdout) = (
            child.stdin.take(),
            child.stdout.take().context("worker without stdout")?,
        );
        let (sender, lines) = channel();
        // It ends with the worker's output.
        thread::spawn(move || pass_on(BufReader::new(stdout), &sender));
        let mut worker = Self {
            child,
            orders,
            lines,
            errors,
        };
        worker.send(&serde_json::to_string(setup)?)?;
        let hello = worker.line(SETUP_LIMIT)?;
        ensure!(hello == "ready", "a worker says {hello}");
        Ok(worker)
    }

    fn send(&mut self, line: &str) -> Result<()> {
        let pipe = self.orders.as_mut().context("worker without stdin")?;
        Ok(pipe.write_all(format!("{line}\n").as_bytes())?)
    }

    fn line(&mut self, limit: Duration) -> Result<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("the case did not end within {limit:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                bail!(
                    "the worker died: {}",
                    read_bounded(self.errors.path()).unwrap_or_default().trim()
                )
            }
        }
    }

    fn ends_soon(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(5);
        matches!(crate::lab::process::wait_until(&mut self.child, end), Ok(Some(_)))
    }

    fn ask(&mut self, case: &str, timeout: Duration) -> Result<Record> {
        self.send(&serde_json::to_string(&Order {
            case: case.to_owned(),
        })?)?;
        let line = self.line(timeout)?;
        serde_json::from_str(&line).with_context(|| format!("a worker's answer: {line}"))
    }
}

impl Drop for Worker {
    /// End of input is its sign to clean up; one that is stuck is killed.
    fn drop(&mut self) {
        drop(self.orders.take());
        if self.ends_soon() {
            return;
        }
        self.child.kill().ok();
        // One that the kernel does not let go (state D) is left to it: the others go on.
        self.ends_soon();
    }
}

fn pass_on(reader: impl BufRead, sender: &Sender<String>) {
    for line in reader.lines().map_while(std::result::Result::ok) {
        if sender.send(line).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_is_named_before_cases_fail_of_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("a");
        std::fs::create_dir(&inside).unwrap();
        let set = |mode| std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode));
        set(0o700).unwrap();
        let error = ensure_reachable(&inside).unwrap_err().to_string();
        assert!(error.contains("is closed to other users"), "{error}");
        set(0o755).unwrap();
        ensure_reachable(&inside).unwrap();
    }

    #[test]
    fn the_queue_gives_each_case_once() {
        let all: Vec<Case> = ["a/a", "a/b", "a/c"]
            .map(|name| Case::new(name, "", &[], |_| Ok(())))
            .into();
        let queue = Queue::new(&all, &[2, 0]);
        let given: Vec<_> = std::iter::from_fn(|| queue.next())
            .map(|(place, case)| (place, case.name.clone()))
            .collect();
        assert_eq!(given, [(0, "a/c".to_owned()), (1, "a/a".to_owned())]);
    }
}
