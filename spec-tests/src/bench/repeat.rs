//! A command of an engine's client that is repeated, and what undoes it each time.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::clients::{self, Engine, Programs};
use super::report::{self, Report};
use super::runtime::text;
use super::worker::{Job, Worker};
use super::{Contender, Contestant, Effort, REST, Runner, set_up_by};

/// In every enclosure, on a tmpfs of its own.
pub(super) const DATA: &str = "/dev/shm/bench-data";

/// A contender, and what undoes each of its runs.
pub(super) type Repetition = (Contender, Option<Vec<String>>);

/// Sets all of them up, as [`super::set_up`] does.
pub(super) fn set_up(repetitions: Vec<Repetition>, report: &mut Report) -> Result<Vec<Runner<Repeated>>> {
    let (contenders, undo): (Vec<_>, Vec<_>) = repetitions.into_iter().unzip();
    set_up_by(&contenders, report, |number, job| {
        Repeated::start(job, undo[number].clone())
    })
}

/// Our engine, podman and docker, with what they keep in the enclosure's own memory.
pub(super) fn engines(programs: &Programs, scratch: &Path, archive: &Path) -> Result<Vec<Engine>> {
    let place = |name: &str| scratch.join(name);
    let mut engines = vec![
        clients::kelson(programs, &place("kelson"), archive)?,
        clients::podman(programs, &place("podman"), archive)?,
        clients::docker(programs, &place("docker"), archive)?,
    ];
    for engine in &mut engines {
        keep_in_memory(engine, &place(&engine.contender.name));
    }
    Ok(engines)
}

/// No disk is measured. A pull, for one, comes right after a removal, and ext4 takes no inode that was freed in the last minute: it
/// looks at all of them for each new file, which would be most of what is measured, of every engine.
fn keep_in_memory(engine: &mut Engine, place: &Path) {
    let data = text(&place.join("data"));
    let move_it = |words: &mut Vec<String>| {
        for word in words {
            *word = word.replace(&data, DATA);
        }
    };
    move_it(&mut engine.client);
    let job = &mut engine.contender.job;
    let all = job.daemons.iter_mut().chain(job.ready.as_mut());
    all.chain(&mut job.prepare).for_each(move_it);
}

/// So many times, one by one.
pub(super) fn one_by_one(times: usize) -> Effort {
    Effort {
        lone: times,
        rounds: 1,
        burst: 1,
        parallel: 0,
    }
}

/// The engines as a report names them.
pub(super) fn named(engines: &[Engine]) -> Vec<report::Contender> {
    let name = |engine: &Engine| report::Contender {
        name: engine.contender.name.clone(),
        version: engine.version.clone(),
    };
    engines.iter().map(name).collect()
}

/// One contender and what it does again and again; what undoes it is not measured.
pub(super) struct Repeated {
    pub(super) worker: Worker,
    undo: Option<Vec<String>>,
    /// CPU time of what is not measured.
    apart: Duration,
}

impl Repeated {
    fn start(job: &Job, undo: Option<Vec<String>>) -> Result<Self> {
        let mut repeated = Self {
            worker: Worker::start(job)?,
            undo,
            apart: Duration::ZERO,
        };
        repeated.run().context("warm-up")?;
        Ok(repeated)
    }
}

impl Contestant for Repeated {
    fn run(&mut self) -> Result<Duration> {
        let wall = self.worker.run()?;
        if let Some(undo) = &self.undo {
            // What the engine left for later belongs to what was measured.
            thread::sleep(REST);
            let before = self.worker.cpu()?;
            self.worker.perform(undo.clone())?;
            thread::sleep(REST);
            self.apart += self.worker.cpu()?.saturating_sub(before);
        }
        Ok(wall)
    }

    fn run_many(&mut self, _: usize) -> Result<Duration> {
        bail!("it is done one at a time")
    }

    fn cpu(&mut self) -> Result<Duration> {
        Ok(self.worker.cpu()?.saturating_sub(self.apart))
    }
}
