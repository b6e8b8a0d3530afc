//! Benches: programs of one kind against each other in one run, in turn.
//!
//! Runtimes and clients are measured in an enclosure of their own each, and their CPU time is that of the whole enclosure: client,
//! daemon, shim and runtime. Engines at a socket run where they run; there it is that of the whole machine.
//!
//! Three figures are taken of a task: *lone*, after a rest in which processors go idle and caches cool; in a *burst* of one right
//! after the other; and of many *at once*. The contenders take turns, sample by sample, so that what slows the machine down slows
//! all of them, and a ratio is the median over such pairs.

pub mod arguments;
pub mod chart;
pub mod clients;
pub mod engine;
pub mod images;
pub mod logs;
mod repeat;
pub mod report;
pub mod runtime;
pub mod stats;
pub mod worker;

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use report::{Report, Samples};
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
    /// Starts at the same time, once in each round.
    pub parallel: usize,
}

/// What can be measured: it does one task, again and again.
pub trait Contestant {
    /// Does it once, by the monotonic clock.
    ///
    /// # Errors
    /// When it fails.
    fn run(&mut self) -> Result<Duration>;

    /// Does it so many times at once; the time until all are done.
    ///
    /// # Errors
    /// When one fails.
    fn run_many(&mut self, count: usize) -> Result<Duration>;

    /// CPU time until now.
    ///
    /// # Errors
    /// When there is no account.
    fn cpu(&mut self) -> Result<Duration>;
}

impl Contestant for Worker {
    fn run(&mut self) -> Result<Duration> {
        Self::run(self)
    }

    fn run_many(&mut self, count: usize) -> Result<Duration> {
        Self::run_many(self, count)
    }

    fn cpu(&mut self) -> Result<Duration> {
        Self::cpu(self)
    }
}

/// Something to compare that is set up in an enclosure.
#[derive(Debug, Clone)]
pub struct Contender {
    /// Its name in the table.
    pub name: String,
    /// Whether it is the bare kernel work: see [`report::Row::is_limit`].
    pub is_limit: bool,
    /// How to set it up and what to measure.
    pub job: Job,
}

/// One that takes part, and what was measured of it.
pub(crate) struct Runner<T> {
    name: String,
    is_limit: bool,
    pub(crate) contestant: T,
    failed: Option<String>,
    lone: [Vec<Duration>; 2],
    burst: [Vec<Duration>; 2],
    many: [Vec<Duration>; 2],
}

/// Sets all contenders up. One that fails is left out and named in the report.
///
/// # Errors
/// When none could be started.
pub(crate) fn set_up(contenders: &[Contender], report: &mut Report) -> Result<Vec<Runner<Worker>>> {
    set_up_by(contenders, report, |_, job| {
        let mut worker = Worker::start(job)?;
        warm_up(&mut worker)?;
        Ok(worker)
    })
}

/// The same, each by `start`, which is told the contender's number and what it is to do.
pub(crate) fn set_up_by<T: Contestant>(
    contenders: &[Contender],
    report: &mut Report,
    start: impl Fn(usize, &Job) -> Result<T>,
) -> Result<Vec<Runner<T>>> {
    let mut runners = Vec::new();
    for (number, contender) in contenders.iter().enumerate() {
        let started = start(number, &contender.job).or_else(|first| {
            // Some runtimes refuse a hybrid machine with a controller in its v2 hierarchy.
            let hidden = Job {
                hide_unified: true,
                ..contender.job.clone()
            };
            let started = start(number, &hidden).map_err(|_| first)?;
            report.note(format!("{} runs with the v2 hierarchy hidden", contender.name));
            anyhow::Ok(started)
        });
        match started {
            Ok(started) => runners.push(Runner::new(&contender.name, contender.is_limit, started)),
            Err(error) => report.note(format!("{} is missing: {error:#}", contender.name)),
        }
    }
    ensure!(
        !runners.is_empty(),
        "{}: no contender could be started: {}",
        report.title,
        report.notes.join("; ")
    );
    Ok(runners)
}

pub(crate) fn warm_up(contestant: &mut impl Contestant) -> Result<()> {
    for _ in 0..WARM_UP {
        contestant.run().context("warm-up")?;
    }
    Ok(())
}

/// Measures all in turn, and fills the report; a second one, if there were any at once. Who failed is left out, and said to be.
pub(crate) fn measure<T: Contestant>(
    runners: &mut Vec<Runner<T>>,
    mut report: Report,
    effort: Effort,
) -> Vec<Report> {
    for _ in 0..effort.lone {
        for_each(runners, Runner::lone_start);
    }
    for _ in 0..effort.rounds {
        for_each(runners, |runner| runner.one_burst(effort.burst));
    }
    if effort.parallel > 1 {
        // The first time makes what later ones find made.
        for_each(runners, |runner| {
            runner.contestant.run_many(effort.parallel).map(drop)
        });
        for _ in 0..effort.rounds {
            for_each(runners, |runner| runner.many_at_once(effort.parallel));
        }
    }
    for runner in runners.iter() {
        if let Some(reason) = &runner.failed {
            report.note(format!("{} failed: {reason}", runner.name));
        }
    }
    runners.retain(|runner| runner.failed.is_none());
    let samples = |lists: fn(&Runner<T>) -> Vec<Vec<Duration>>| -> Vec<Samples> {
        runners
            .iter()
            .map(|runner| Samples {
                name: runner.name.clone(),
                is_limit: runner.is_limit,
                columns: lists(runner),
            })
            .collect()
    };
    report.fill(
        &["lone wall", "lone CPU", "burst wall", "burst CPU"],
        &samples(|runner| [&runner.lone[..], &runner.burst[..]].concat()),
    );
    let mut all = vec![report];
    if effort.parallel > 1 && !runners.is_empty() {
        let mut many = Report::new(&format!("{}: {} at once", all[0].title, effort.parallel));
        many.fill(
            &["wall of all", "CPU of each"],
            &samples(|runner| runner.many.to_vec()),
        );
        all.push(many);
    }
    all
}

fn for_each<T: Contestant>(runners: &mut [Runner<T>], mut act: impl FnMut(&mut Runner<T>) -> Result<()>) {
    for runner in runners.iter_mut().filter(|runner| runner.failed.is_none()) {
        if let Err(error) = act(runner) {
            runner.failed = Some(format!("{error:#}"));
        }
    }
}

impl<T: Contestant> Runner<T> {
    pub(crate) fn new(name: &str, is_limit: bool, contestant: T) -> Self {
        Self {
            name: name.to_owned(),
            is_limit,
            contestant,
            failed: None,
            lone: Default::default(),
            burst: Default::default(),
            many: Default::default(),
        }
    }

    fn lone_start(&mut self) -> Result<()> {
        thread::sleep(REST);
        let before = self.contestant.cpu()?;
        self.lone[0].push(self.contestant.run()?);
        thread::sleep(REST);
        self.lone[1].push(self.contestant.cpu()?.saturating_sub(before));
        Ok(())
    }

    fn one_burst(&mut self, starts: usize) -> Result<()> {
        let before = self.contestant.cpu()?;
        for _ in 0..starts {
            self.burst[0].push(self.contestant.run()?);
        }
        thread::sleep(REST);
        let used = self.contestant.cpu()?.saturating_sub(before);
        self.burst[1].push(used / u32::try_from(starts.max(1))?);
        Ok(())
    }

    fn many_at_once(&mut self, starts: usize) -> Result<()> {
        let before = self.contestant.cpu()?;
        self.many[0].push(self.contestant.run_many(starts)?);
        thread::sleep(REST);
        let used = self.contestant.cpu()?.saturating_sub(before);
        self.many[1].push(used / u32::try_from(starts)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what it is told; fails in its `n`th run.
    struct Fake {
        runs: u64,
        fails_at: u64,
    }

    impl Contestant for Fake {
        fn run(&mut self) -> Result<Duration> {
            self.runs += 1;
            ensure!(self.runs != self.fails_at, "no more");
            Ok(Duration::from_micros(self.runs))
        }

        fn run_many(&mut self, count: usize) -> Result<Duration> {
            Ok(Duration::from_micros(count as u64))
        }

        fn cpu(&mut self) -> Result<Duration> {
            Ok(Duration::from_micros(self.runs * 10))
        }
    }

    #[test]
    fn all_take_turns_and_who_fails_is_left_out() {
        let fake = |fails_at| Fake { runs: 0, fails_at };
        let mut runners = vec![
            Runner::new("good", false, fake(u64::MAX)),
            Runner::new("bad", false, fake(2)),
        ];
        let effort = Effort {
            lone: 0,
            rounds: 2,
            burst: 2,
            parallel: 3,
        };
        let reports = measure(&mut runners, Report::new("task"), effort);
        assert_eq!(reports[0].notes, ["bad failed: no more", "good: no sample"]);
        let names =
            |report: &Report| -> Vec<String> { report.rows.iter().map(|row| row.name.clone()).collect() };
        // No lone start was asked for, so that there is no row of four columns.
        assert!(names(&reports[0]).is_empty());
        assert_eq!(
            (reports[1].title.as_str(), names(&reports[1])),
            ("task: 3 at once", vec!["good".to_owned()])
        );
        assert_eq!(reports[1].rows[0].figures[0].median_us, 3);
        assert_eq!(runners[0].burst[1], [Duration::from_micros(10); 2]);
    }
}
