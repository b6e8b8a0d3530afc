//! The end of a container, in the one order in which nothing is lost. See `docs/exit-ordering.md`.
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use kelson_shim_proto::FORMAT;
use kelson_shim_proto::containerd::events::What;
use kelson_shim_proto::exit::ExitRecord;
use tokio::time::Instant;

use crate::container::Container;
use crate::diagnostics;
use crate::error::{Doing, Result};
use crate::fault;
use crate::mounts;
use crate::process::Process;
use crate::reaper::Exit;

/// How long output is still awaited when no process is left that could write any: someone else holds the pipe.
pub const DRAIN: Duration = Duration::from_secs(2);

/// How long processes that outlive the first one are waited for, after they were killed.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// How often the cgroup is looked at meanwhile. Only a container without a pid namespace of its own gets here.
const LEFTOVERS_TICK: Duration = Duration::from_millis(50);

/// Does everything that follows the exit of the first process, and then lets `Wait` answer.
pub async fn container_ended(container: &Container, exit: Exit) {
    let init = &container.init;
    init.exited(exit);
    container.kill_leftovers();
    drain(init, || container.is_empty()).await;
    init.stdin.close().await;

    fault::point("drained");
    // Counted before `delete`, which removes the cgroup that counts.
    let oom_killed = container.oom_kills() > 0;
    let record = ExitRecord {
        format: FORMAT,
        id: container.id.clone(),
        pid: init.snapshot().pid,
        status: exit.status,
        signal: exit.signal,
        oom_killed,
        started_at: init.snapshot().started_at.map(|at| at.to_string()),
        exited_at: exit.at.to_string(),
        error: None,
    };
    if let Some(path) = &container.exit_record
        && let Err(error) = write_record(path, &record)
    {
        diagnostics::report(&error.to_string());
    }
    fault::point("recorded");
    // A start that is under way tells of it first, and does not meet a runtime that deletes.
    let _verb = container.verbs.lock().await;
    if !container.manner.stays_until_deleted {
        container.cleanup().await;
    }
    end_execs(container, exit).await;
    fault::point("cleaned");
    init.publish(exit);
    tell(container, init, exit);
    container.lifetime.update(|facts| facts.busy -= 1);
}

/// The end of the first process is told last.
async fn end_execs(container: &Container, exit: Exit) {
    let until = Instant::now() + LEFTOVERS;
    for exec in container.execs() {
        if exec.has_ended() {
            continue;
        }
        if exec.snapshot().pid == 0 {
            // Never started: no one may wait for ever.
            exec.hub.end();
            exec.publish(exit);
        } else {
            // Killed with the rest; its own end is under way.
            let _ = tokio::time::timeout_at(until, exec.wait()).await;
        }
    }
}

fn tell(container: &Container, process: &Process, exit: Exit) {
    let id = if process.exec_id.is_empty() {
        &container.id
    } else {
        &process.exec_id
    };
    let what = What::Exit {
        process: id.clone(),
        pid: process.snapshot().pid,
        status: exit.status,
        at: exit.at,
    };
    container.events.tell(&container.id, what);
}

/// Does everything that follows the exit of a process that `exec` added.
pub async fn exec_ended(container: &Container, exec: &Process, exit: Exit) {
    exec.exited(exit);
    // A child of it that runs on in the background may hold its pipes for ever.
    drain(exec, || true).await;
    exec.stdin.close().await;
    exec.publish(exit);
    tell(container, exec, exit);
}

/// Waits for the end of output: to its end, or [`DRAIN`] after `nobody_left`.
async fn drain(process: &Process, nobody_left: impl Fn() -> bool) {
    let ended = process.hub.streams_ended();
    tokio::pin!(ended);
    let mut deadline = Instant::now() + LEFTOVERS + DRAIN;
    let mut alone = false;
    loop {
        if !alone && nobody_left() {
            process.hub.hurry();
            alone = true;
            deadline = deadline.min(Instant::now() + DRAIN);
        }
        let tick = if alone {
            deadline
        } else {
            deadline.min(Instant::now() + LEFTOVERS_TICK)
        };
        tokio::select! {
            () = &mut ended => break,
            () = tokio::time::sleep_until(tick) => {
                if Instant::now() >= deadline {
                    break;
                }
            }
        }
    }
    process.hub.end();
}

/// Writes the record so that it is either there as a whole or not at all, even if the power fails.
fn write_record(path: &Path, record: &ExitRecord) -> Result<()> {
    let doing = || format!("write exit record {}", path.display());
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary).doing(doing)?;
    file.write_all(&record.encode()).doing(doing)?;
    file.sync_data().doing(doing)?;
    fault::point("record-written");
    std::fs::rename(&temporary, path).doing(doing)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).doing(doing)
}

/// Removes what a container leaves in its bundle.
pub fn clean_bundle(bundle: &Path) {
    mounts::unmount_root(&bundle.join("rootfs"));
    for name in ["init.pid", "log.json"] {
        let _ = std::fs::remove_file(bundle.join(name));
    }
}
