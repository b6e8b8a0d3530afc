//! `run` of `/bin/true` by OCI runtimes, against each other and against the floor.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::report::Report;
use super::worker::Job;
use super::{Contender, Effort, measure};
use crate::bundle;

/// Compares `runtimes`; the first is the one that is judged.
///
/// # Errors
/// When no runtime works here.
pub fn compare(runtimes: &[PathBuf], floor: Option<&Path>, effort: Effort) -> Result<Report> {
    let scratch = tempfile::Builder::new()
        .prefix("kelson-bench-")
        .tempdir()
        .context("make a scratch directory")?;
    let mut contenders = Vec::new();
    for (index, runtime) in runtimes.iter().enumerate() {
        let place = scratch.path().join(index.to_string());
        bundle::write(&place, &["/bin/true"], "/bench/container")?;
        contenders.push(Contender {
            name: name_of(runtime),
            job: run_job(runtime, &place),
        });
    }
    if let Some(floor) = floor {
        let place = scratch.path().join("floor");
        let rootfs = bundle::write(&place, &["/bin/true"], "/")?;
        let command = vec![text(floor), text(&rootfs), "/bin/true".into()];
        contenders.push(Contender {
            name: name_of(floor),
            job: Job {
                command,
                ..Job::default()
            },
        });
    }
    measure("run of /bin/true: runtime against runtime", &contenders, effort).map(|(report, _)| report)
}

fn run_job(runtime: &Path, place: &Path) -> Job {
    let (state, bundle) = (text(&place.join("state")), text(place));
    let command = [
        &text(runtime),
        "--root",
        &state,
        "run",
        "--bundle",
        &bundle,
        "bench",
    ]
    .map(str::to_owned);
    Job {
        command: command.to_vec(),
        ..Job::default()
    }
}

pub(super) fn name_of(program: &Path) -> String {
    program
        .file_name()
        .map_or_else(|| text(program), |name| name.to_string_lossy().into_owned())
}

pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
