//! Benches that judge by paths: our programs and their peers in one run, in turn, each in an enclosure of its
//! own.
//!
//! A contender's CPU time is that of its whole enclosure: client, daemon, shim and runtime. Two figures are
//! taken: *lone* starts, each after a rest in which processors go idle and caches cool, and a *burst* of
//! starts one right after the other.

pub mod engine;
pub mod report;
pub mod runtime;
pub mod stats;
pub mod worker;

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use report::{Report, Row};
use stats::Summary;
use worker::{Job, Worker};

/// Before and after a lone start. It is part of what is measured (a cold start), and lets daemons finish what
/// a start left them to do, so that it is charged to that start.
const REST: Duration = Duration::from_millis(150);
/// Starts that are not counted: page cache, first-use databases.
const WARM_UP: usize = 3;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Lone starts per contender.
    pub lone: usize,
    /// Rounds of bursts per contender.
    pub rounds: usize,
    /// Starts in one burst.
    pub burst: usize,
}

/// Something to compare.
#[derive(Debug, Clone)]
pub struct Contender {
    /// Its name in the table.
    pub name: String,
    /// How to set it up and what to measure.
    pub job: Job,
}

struct Runner {
    name: String,
    worker: Worker,
    lone_wall: Vec<Duration>,
    lone_cpu: Vec<Duration>,
    burst_wall: Vec<Duration>,
    burst_cpu: Vec<Duration>,
    failed: Option<String>,
}

/// Measures all contenders in turn. One that fails is left out and named in the report.
///
/// # Errors
/// When no contender could be measured.
pub fn measure(
    title: &str,
    contenders: &[Contender],
    effort: Effort,
) -> Result<(Report, Vec<(String, Worker)>)> {
    let mut report = Report::new(title);
    let mut runners = Vec::new();
    for contender in contenders {
        match set_up(contender, &mut report) {
            Ok(runner) => runners.push(runner),
            Err(error) => report.note(format!("{} is missing: {error:#}", contender.name)),
        }
    }
    ensure!(
        !runners.is_empty(),
        "{title}: no contender could be started: {}",
        report.notes.join("; ")
    );
    for _ in 0..effort.lone {
        for_each(&mut runners, Runner::lone_start);
    }
    for _ in 0..effort.rounds {
        for_each(&mut runners, |runner| runner.one_burst(effort.burst));
    }
    let mut workers = Vec::new();
    for runner in runners {
        match (&runner.failed, runner.row()) {
            (None, Some(row)) => report.rows.push(row),
            (reason, _) => report.note(format!(
                "{} failed: {}",
                runner.name,
                reason.as_deref().unwrap_or("no sample")
            )),
        }
        if runner.failed.is_none() {
            workers.push((runner.name, runner.worker));
        }
    }
    Ok((report, workers))
}

fn set_up(contender: &Contender, report: &mut Report) -> Result<Runner> {
    let attempt = |job: &Job| -> Result<Worker> {
        let mut worker = Worker::start(job)?;
        for _ in 0..WARM_UP {
            worker.run().context("warm-up")?;
        }
        Ok(worker)
    };
    let worker = attempt(&contender.job).or_else(|first| {
        // Some runtimes refuse a hybrid machine with a controller in its v2 hierarchy.
        let hidden = Job {
            hide_unified: true,
            ..contender.job.clone()
        };
        let worker = attempt(&hidden).map_err(|_| first)?;
        report.note(format!("{} runs with the v2 hierarchy hidden", contender.name));
        anyhow::Ok(worker)
    })?;
    let name = contender.name.clone();
    let none = Vec::new;
    Ok(Runner {
        name,
        worker,
        lone_wall: none(),
        lone_cpu: none(),
        burst_wall: none(),
        burst_cpu: none(),
        failed: None,
    })
}

fn for_each(runners: &mut [Runner], mut act: impl FnMut(&mut Runner) -> Result<()>) {
    for runner in runners.iter_mut().filter(|runner| runner.failed.is_none()) {
        if let Err(error) = act(runner) {
            runner.failed = Some(format!("{error:#}"));
        }
    }
}

impl Runner {
    fn lone_start(&mut self) -> Result<()> {
        thread::sleep(REST);
        let before = self.worker.cpu()?;
        self.lone_wall.push(self.worker.run()?);
        thread::sleep(REST);
        self.lone_cpu.push(self.worker.cpu()?.saturating_sub(before));
        Ok(())
    }

    fn one_burst(&mut self, starts: usize) -> Result<()> {
        let before = self.worker.cpu()?;
        for _ in 0..starts {
            self.burst_wall.push(self.worker.run()?);
        }
        thread::sleep(REST);
        let used = self.worker.cpu()?.saturating_sub(before);
        self.burst_cpu.push(used / u32::try_from(starts.max(1))?);
        Ok(())
    }

    fn row(&self) -> Option<Row> {
        Some(Row {
            name: self.name.clone(),
            lone_wall: Summary::of(&self.lone_wall)?,
            lone_cpu: Summary::of(&self.lone_cpu)?,
            burst_wall: Summary::of(&self.burst_wall)?,
            burst_cpu: Summary::of(&self.burst_cpu)?,
        })
    }
}
