//! A command of an engine's client that is repeated, and what undoes it each time.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::clients::Engine;
use super::runtime::text;
use super::worker::{Job, Worker};
use super::{Contestant, REST};

/// In every enclosure, on a tmpfs of its own.
pub(super) const DATA: &str = "/dev/shm/bench-data";

/// Puts an engine's data in the enclosure's own memory: no disk is measured. A pull, for one, comes right after a removal, and ext4 takes no inode that was
/// freed in the last minute: it looks at all of them for each new file, which would be most of what is measured, of every engine.
pub(super) fn keep_in_memory(engine: &mut Engine, place: &Path) {
    let data = text(&place.join("data"));
    let move_it = |words: &mut Vec<String>| {
        for word in words {
            *word = word.replace(&data, DATA);
        }
    };
    move_it(&mut engine.client);
    let job = &mut engine.contender.job;
    job.daemons.iter_mut().chain(job.ready.as_mut()).for_each(move_it);
}

/// One contender and what it does again and again; what undoes it is not measured.
pub(super) struct Repeated {
    pub(super) worker: Worker,
    undo: Option<Vec<String>>,
    /// CPU time of what is not measured.
    apart: Duration,
}

impl Repeated {
    pub(super) fn start(job: &Job, undo: Option<Vec<String>>) -> Result<Self> {
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
