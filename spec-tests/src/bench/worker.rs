//! A process of its own per contender: it enters an enclosure, starts the contender's daemons there, and runs
//! the measured command as often as it is told.
//!
//! The protocol is one JSON line each way over stdin and stdout: `Job`, then any number of `Order`, each
//! answered by an `Answer`. Two processes and not two threads, because an enclosure takes the whole process
//! on cgroup v2.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::enclosure::{Enclosure, Settings};
use crate::eventually::eventually;

/// A daemon may build its databases and firewall at its first start.
const DAEMON_START: Duration = Duration::from_secs(60);
/// An orderly end; what outlives it is killed with the enclosure.
const DAEMON_END: Duration = Duration::from_secs(20);

/// All that one contender needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Job {
    /// See [`Settings::unified_beside_v1`].
    pub hide_unified: bool,
    /// Of every command below.
    pub environment: BTreeMap<String, String>,
    /// Started in this order, ended in reverse.
    pub daemons: Vec<Vec<String>>,
    /// Repeated until it succeeds once the daemons are started.
    pub ready: Option<Vec<String>>,
    /// Run once after that; each must succeed.
    pub prepare: Vec<Vec<String>>,
    /// The command to measure; `{n}` in an argument becomes the number of the run.
    pub command: Vec<String>,
    /// Commands that follow it and are measured with it.
    pub then: Vec<Vec<String>>,
    /// Where the daemons' output goes.
    pub log: PathBuf,
}

/// What the bench tells a worker to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Run the measured command once.
    Run,
    /// Run it so many times at once.
    RunMany(usize),
    /// Read the CPU account.
    Cpu,
    /// Run a command that is not measured.
    Do(Vec<String>),
    /// List the processes with their memory.
    Memory,
}

/// The answer to an [`Order`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// The job is set up, or the command is done.
    Done,
    /// From before the spawn to after the reaping.
    Ran(Duration),
    /// CPU time of all that ever ran in the enclosure.
    Cpu(Duration),
    /// One per process.
    Memory(Vec<Process>),
    /// What went wrong, with the output of what failed.
    Failed(String),
}

/// One process of the enclosure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// File name of its program.
    pub program: String,
    /// Its share of the memory it uses, in KiB.
    pub pss_kib: u64,
}

/// The bench's end of a worker.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a worker and sets its job up.
    ///
    /// # Errors
    /// What the worker says of its set-up.
    pub fn start(job: &Job) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("bench-worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a bench worker")?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("worker without stdout")?);
        let mut worker = Self {
            child,
            orders,
            answers,
        };
        worker.send(job)?;
        match worker.receive()? {
            Answer::Done => Ok(worker),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// One measured run, by the monotonic clock.
    ///
    /// # Errors
    /// When the command fails.
    pub fn run(&mut self) -> Result<Duration> {
        match self.ask(&Order::Run)? {
            Answer::Ran(wall) => Ok(wall),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// So many runs at once: from before the first spawn to after the last reaping.
    ///
    /// # Errors
    /// When one fails.
    pub fn run_many(&mut self, count: usize) -> Result<Duration> {
        match self.ask(&Order::RunMany(count))? {
            Answer::Ran(wall) => Ok(wall),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// CPU time until now.
    ///
    /// # Errors
    /// When there is no account.
    pub fn cpu(&mut self) -> Result<Duration> {
        match self.ask(&Order::Cpu)? {
            Answer::Cpu(used) => Ok(used),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// Runs a command that is not measured.
    ///
    /// # Errors
    /// When it fails.
    pub fn perform(&mut self, command: Vec<String>) -> Result<()> {
        self.ask(&Order::Do(command)).map(drop)
    }

    /// Memory of every process inside.
    ///
    /// # Errors
    /// When the cgroups can't be read.
    pub fn memory(&mut self) -> Result<Vec<Process>> {
        match self.ask(&Order::Memory)? {
            Answer::Memory(processes) => Ok(processes),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    fn ask(&mut self, order: &Order) -> Result<Answer> {
        self.send(order)?;
        self.receive()
    }

    fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let pipe = self.orders.as_mut().context("worker has ended")?;
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        Ok(pipe.write_all(&line)?)
    }

    fn receive(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the worker ended without an answer");
        match serde_json::from_str(&line)? {
            Answer::Failed(reason) => bail!("{reason}"),
            answer => Ok(answer),
        }
    }
}

impl Drop for Worker {
    /// End of input tells the worker to clean up; it removes its cgroups before it ends.
    fn drop(&mut self) {
        drop(self.orders.take());
        self.child.wait().ok();
    }
}

/// The worker's side: a job from `input`, then orders until its end.
///
/// # Errors
/// When the bench can't be answered. What fails in the job is an answer.
pub fn serve(input: impl BufRead, mut output: impl Write) -> Result<()> {
    let mut lines = input.lines();
    let first = lines.next().context("no job")??;
    let job: Job = serde_json::from_str(&first)?;
    let mut stage = match Stage::set_up(job) {
        Ok(stage) => stage,
        Err(error) => return answer(&mut output, &Answer::Failed(format!("{error:#}"))),
    };
    answer(&mut output, &Answer::Done)?;
    for line in lines {
        let order: Order = serde_json::from_str(&line?)?;
        let reply = stage
            .follow(&order)
            .unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        answer(&mut output, &reply)?;
    }
    stage.tear_down();
    Ok(())
}

fn answer(output: &mut impl Write, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    output.write_all(&line)?;
    Ok(output.flush()?)
}

struct Stage {
    job: Job,
    runs: usize,
    daemons: Vec<Child>,
    enclosure: Enclosure,
}

impl Stage {
    fn set_up(job: Job) -> Result<Self> {
        // What loses its parent comes to us, so that it is reaped and the cgroups can go.
        nix::sys::prctl::set_child_subreaper(true)?;
        let enclosure = Enclosure::enter(Settings {
            unified_beside_v1: !job.hide_unified,
        })?;
        let mut stage = Self {
            job,
            runs: 0,
            daemons: Vec::new(),
            enclosure,
        };
        for argv in stage.job.daemons.clone() {
            let log = File::options().create(true).append(true).open(&stage.job.log)?;
            let mut command = stage.command(&argv)?;
            command.stdout(log.try_clone()?).stderr(log);
            stage
                .daemons
                .push(command.spawn().with_context(|| format!("start {}", argv[0]))?);
        }
        if let Some(ready) = stage.job.ready.clone() {
            eventually("readiness of the daemon", DAEMON_START, || {
                stage.perform(&ready).map(Some)
            })
            .with_context(|| {
                format!(
                    "log: {}",
                    tail(&fs::read_to_string(&stage.job.log).unwrap_or_default())
                )
            })?;
        }
        for argv in stage.job.prepare.clone() {
            stage.perform(&argv)?;
        }
        Ok(stage)
    }

    fn command(&self, argv: &[String]) -> Result<Command> {
        let mut command = Command::new(argv.first().context("empty command")?);
        command
            .args(&argv[1..])
            .envs(&self.job.environment)
            .stdin(Stdio::null());
        Ok(command)
    }

    fn follow(&mut self, order: &Order) -> Result<Answer> {
        Ok(match order {
            Order::Run => Answer::Ran(self.measure()?),
            Order::RunMany(count) => Answer::Ran(self.measure_many(*count)?),
            Order::Cpu => Answer::Cpu(self.enclosure.cpu_time()?),
            Order::Do(argv) => {
                self.perform(argv)?;
                Answer::Done
            }
            Order::Memory => Answer::Memory(self.memory()?),
        })
    }

    /// The next number's commands.
    fn next_steps(&mut self) -> Result<Vec<(Command, Vec<String>)>> {
        let number = self.runs.to_string();
        self.runs += 1;
        let mut steps = Vec::new();
        for argv in std::iter::once(&self.job.command).chain(&self.job.then) {
            let argv: Vec<String> = argv.iter().map(|word| word.replace("{n}", &number)).collect();
            let mut command = self.command(&argv)?;
            command.stdout(Stdio::null()).stderr(Stdio::null());
            steps.push((command, argv));
        }
        Ok(steps)
    }

    fn measure_many(&mut self, count: usize) -> Result<Duration> {
        ensure!(self.job.then.is_empty(), "only single commands run at once");
        let mut all = Vec::new();
        for _ in 0..count {
            all.extend(self.next_steps()?);
        }
        let begin = Instant::now();
        let mut children = Vec::new();
        for (command, argv) in &mut all {
            children.push((command.spawn()?, argv));
        }
        let mut failed = None;
        for (mut child, argv) in children {
            let status = child.wait()?;
            if !status.success() {
                failed = Some(format!("{}, one of {count} at once: {status}", argv.join(" ")));
            }
        }
        let wall = begin.elapsed();
        failed.map_or(Ok(wall), |failed| bail!(failed))
    }

    fn measure(&mut self) -> Result<Duration> {
        let mut steps = self.next_steps()?;
        let begin = Instant::now();
        for (command, argv) in &mut steps {
            let status = command.status()?;
            if !status.success() {
                // Once more, to hear why.
                self.perform(argv)?;
                bail!("{}: {status}", argv.join(" "));
            }
        }
        Ok(begin.elapsed())
    }

    fn perform(&self, argv: &[String]) -> Result<()> {
        // A file and no pipe: what the command leaves running would keep a pipe open.
        let mut said = tempfile::tempfile()?;
        let status = self
            .command(argv)?
            .stdout(Stdio::null())
            .stderr(said.try_clone()?)
            .status()
            .with_context(|| format!("run {}", argv[0]))?;
        let mut text = String::new();
        said.seek(SeekFrom::Start(0))?;
        said.read_to_string(&mut text)?;
        ensure!(status.success(), "{}: {status}: {}", argv.join(" "), tail(&text));
        Ok(())
    }

    fn memory(&self) -> Result<Vec<Process>> {
        Ok(self
            .enclosure
            .processes()?
            .into_iter()
            .filter_map(|pid| pss_of(pid.as_raw()))
            .map(|(program, pss_kib)| Process { program, pss_kib })
            .collect())
    }

    fn tear_down(mut self) {
        while let Some(mut daemon) = self.daemons.pop() {
            let Ok(pid) = i32::try_from(daemon.id()) else {
                continue;
            };
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
            eventually("the daemon's end", DAEMON_END, || {
                Ok(daemon.try_wait()?.map(drop))
            })
            .ok();
        }
    }
}

/// File name of a process's program, and its share of the memory it uses, in KiB; `None` for one that has ended.
pub(super) fn pss_of(pid: i32) -> Option<(String, u64)> {
    let proc = Path::new("/proc").join(pid.to_string());
    let link = fs::read_link(proc.join("exe")).ok()?;
    // A program that was executed from a mount of its own has "/" for a path.
    let program = match link.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => fs::read_to_string(proc.join("comm")).ok()?.trim().to_owned(),
    };
    let rollup = fs::read_to_string(proc.join("smaps_rollup")).ok()?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some((program, pss.trim().trim_end_matches("kB").trim().parse().ok()?))
}

/// The last lines of an output, which is where the reason stands.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
