//! A process that does cases one after the other in an enclosure of its own, so that a case can mount, move into cgroups
//! and lose processes as it likes, and nothing of it reaches another case or the machine.
//!
//! The protocol is one JSON line each way: an [`Order`], then a [`Record`].

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};

use crate::case::{Body, Case, Record, Verdict};
use crate::clauses::Clauses;
use crate::enclosure::{Enclosure, Settings};
use crate::eventually::eventually;
use crate::lab::{Lab, PROBE, process};
use crate::require::{Host, SpecVersion};

/// For processes that were killed at the end of a case.
const DYING: Duration = Duration::from_millis(300);

/// What a worker is made with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// The program under test.
    pub runtime: PathBuf,
    /// A directory for this worker alone.
    pub directory: PathBuf,
    /// Begins the name of every container and cgroup of this worker.
    pub prefix: String,
    /// Hide the v2 hierarchy beside v1 ones.
    pub hide_unified: bool,
    /// The newest specification that the runtime claims to follow.
    pub claims: Option<SpecVersion>,
    /// Keep the files of cases that fail.
    pub keep: bool,
    /// See [`Lab::races`].
    pub races: usize,
    /// The engine under test, in place of a runtime.
    pub engine: Option<crate::engine::Subject>,
}

/// One case to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// [`Case::name`].
    pub case: String,
}

/// Serves until the end of input.
///
/// # Errors
/// When the enclosure can't be made or the other end is gone.
pub fn serve(cases: &[Case], input: impl BufRead, mut output: impl Write) -> Result<()> {
    let mut lines = input.lines();
    let setup: Setup = serde_json::from_str(&lines.next().context("no setup")??)?;
    if let Some(subject) = &setup.engine {
        return crate::engine::worker::serve(cases, &setup, subject, lines, output);
    }
    // What loses its parent comes to us: containers' first processes, which we reap.
    nix::sys::prctl::set_child_subreaper(true)?;
    let enclosure = Enclosure::enter(Settings {
        unified_beside_v1: !setup.hide_unified,
    })?;
    let probe = install_probe(&setup.directory)?;
    let host = Host::detect()?;
    let clauses = Clauses::read();
    writeln!(output, "ready")?;
    output.flush()?;
    let mut bench = Workbench {
        setup,
        enclosure,
        probe,
        host,
        clauses,
        done: 0,
    };
    for line in lines {
        let order: Order = serde_json::from_str(&line?)?;
        let case = cases
            .iter()
            .find(|case| case.name == order.case)
            .context("no such case")?;
        let record = bench.perform(case)?;
        let mut text = serde_json::to_vec(&record)?;
        text.push(b'\n');
        output.write_all(&text)?;
        output.flush()?;
    }
    Ok(())
}

fn install_probe(directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    // Users of the container must get through.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    let probe = directory.join("probe");
    fs::write(&probe, PROBE).context("write the probe")?;
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o755))?;
    Ok(probe)
}

struct Workbench {
    setup: Setup,
    enclosure: Enclosure,
    probe: PathBuf,
    host: Host,
    clauses: Clauses,
    done: u32,
}

impl Workbench {
    fn perform(&mut self, case: &Case) -> Result<Record> {
        self.done += 1;
        let begin = Instant::now();
        let directory = self.setup.directory.join(format!("case{}", self.done));
        let (verdict, left) = match self.why_not(case) {
            Some(reason) => (Verdict::Skipped(reason), Vec::new()),
            None => self.ask(case, &directory)?,
        };
        let keep = self.setup.keep && matches!(verdict, Verdict::Failed(_));
        if !keep {
            fs::remove_dir_all(&directory).ok();
        }
        Ok(Record {
            left,
            kept: keep.then(|| directory.display().to_string()),
            ..Record::of(case, verdict, begin)
        })
    }

    fn why_not(&self, case: &Case) -> Option<String> {
        let since = self.clauses.since(&case.clauses);
        if let (Some(claims), Some(since)) = (self.setup.claims, since)
            && since > claims
        {
            return Some(format!(
                "new in specification {since}; the runtime claims {claims}"
            ));
        }
        case.needs.iter().find_map(|need| self.host.lacks(need))
    }

    fn ask(&self, case: &Case, directory: &Path) -> Result<(Verdict, Vec<String>)> {
        let before = mount_points()?;
        let prefix = format!("{}-{}", self.setup.prefix, self.done);
        let verdict = {
            let lab = Lab::new(
                &self.setup.runtime,
                self.host.clone(),
                directory.to_owned(),
                &self.probe,
                &prefix,
            )?
            .with_races(self.setup.races);
            match &case.body {
                Body::Runtime(body) => Verdict::of(body(&lab)),
                Body::Engine(_) => Verdict::Skipped("a question to an engine".into()),
            }
        };
        let left = self.sweep(&before)?;
        Ok((verdict, left))
    }

    /// Ends, unmounts and removes what the case left, and says what it was.
    fn sweep(&self, before: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut left = Vec::new();
        // What the case has killed may need a moment to be gone.
        eventually("the end of what was killed", DYING, || {
            Ok(self.enclosure.processes()?.is_empty().then_some(()))
        })
        .ok();
        for pid in self.enclosure.processes()? {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let text = String::from_utf8_lossy(&command).replace('\0', " ");
            if process::exists(pid.as_raw()) {
                left.push(format!("process {pid} {}", text.trim_end()));
            }
        }
        self.enclosure.end_processes()?;
        let cgroups = self.enclosure.cgroups();
        let mut names = BTreeSet::new();
        for directory in cgroups.iter().rev() {
            // The same name stands in every hierarchy; once is enough to say so.
            names.extend(
                directory
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
            fs::remove_dir(directory).ok();
        }
        left.extend(names.into_iter().map(|name| format!("cgroup {name}")));
        let now = mount_points()?;
        for point in now.difference(before) {
            left.push(format!("mount {point}"));
            umount2(point.as_str(), MntFlags::MNT_DETACH).ok();
        }
        left.sort();
        Ok(left)
    }
}

fn mount_points() -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(str::to_owned)
        .collect())
}
