//! One task per running container: it waits for the end and does what the end asks for.

use std::sync::Arc;
use std::time::Duration;

use kelson_shim_proto::exit::ExitRecord;

use super::container::Container;
use super::modes::RestartPolicy;
use super::record::{HealthStatus, Status};
use super::{network, remove, restart, start};
use crate::clock;
use crate::inner::Inner;
use crate::store;
use crate::tasks::{Exit, Task};

/// Times a lost connection to a living shim is made again before the shim counts as stuck.
const RECONNECTS: u32 = 5;

/// Exit code of a container of whose end nothing is known.
pub(crate) const UNKNOWN: u32 = 255;

/// `State.Error` of such a container.
pub(crate) const LOST: &str = "its shim ended without a word (it was killed, or the machine went down): what was left was ended, too, \
     and the exit code is not known";

/// Watches a run to its end.
pub(crate) async fn watch(
    inner: Arc<Inner>,
    container: Arc<Container>,
    task: Arc<Task>,
    delay: Option<Duration>,
) {
    let (exit, clean) = until_exit(&inner, &container, task.clone()).await;
    let cleanup = async {
        // What the shim could not delete itself is deleted by force.
        let deleted = clean && container.task().unwrap_or(task.clone()).delete("").await.is_ok();
        let result = if deleted || !task.record.is_alive(&inner.roots) && clean {
            task.record.forget(&inner.roots)
        } else {
            Task::destroy(&task.record, &inner.roots).await
        };
        if let Err(e) = result {
            tracing::warn!(container = %container.id, error = %e, "clean up after a container");
        }
    };
    tokio::join!(cleanup, network::disconnect(&inner, &container));
    if !clean {
        container.update(|s| LOST.clone_into(&mut s.error));
    }
    ended(&inner, &container, exit, delay);
}

/// How it ended, and whether the shim saw it through.
async fn until_exit(inner: &Inner, container: &Container, mut task: Arc<Task>) -> (Exit, bool) {
    let mut attempts = 0;
    loop {
        let answer = task.wait("").await;
        let record = read_exit(container);
        match (answer, record) {
            (Ok(exit), Some(record)) => {
                return (
                    Exit {
                        oom_killed: record.oom_killed,
                        ..exit
                    },
                    true,
                );
            }
            (Ok(exit), None) => return (exit, true),
            // The shim ended by itself after the record, as nobody was connected.
            (Err(_), Some(record)) => return (record, true),
            (Err(e), None) => {
                attempts += 1;
                if !task.record.is_alive(&inner.roots) || attempts > RECONNECTS {
                    tracing::error!(container = %container.id, error = %e, "the shim is lost");
                    return (
                        Exit {
                            status: UNKNOWN,
                            at: clock::now(),
                            oom_killed: false,
                        },
                        false,
                    );
                }
                if let Ok(again) = Task::connect(task.record.clone(), &inner.roots).await {
                    container.set_task(Some(again.clone()));
                    task = again;
                }
            }
        }
    }
}

/// The shim's exit record, if it wrote one.
pub(crate) fn read_exit(container: &Container) -> Option<Exit> {
    read_record(container).map(|record| Exit {
        status: record.status,
        at: record.exited_at,
        oom_killed: record.oom_killed,
    })
}

/// The same, whole.
pub(crate) fn read_record(container: &Container) -> Option<ExitRecord> {
    let bytes = std::fs::read(container.dir.join("exit.json")).ok()?;
    ExitRecord::decode(&bytes)
        .inspect_err(|e| tracing::warn!(container = %container.id, error = %e, "an exit record is of no use"))
        .ok()
}

/// Puts the end into the state, tells everybody, and does what the policy says.
pub(crate) fn ended(inner: &Arc<Inner>, container: &Arc<Container>, exit: Exit, delay: Option<Duration>) {
    let record = container.record();
    let before = container.state();
    let policy = RestartPolicy::parse(&record.host).unwrap_or(RestartPolicy::No);
    let code = i64::from(exit.status);
    // Stopped for that reason, it did not end well, whatever it says itself.
    let unhealthy = matches!(policy, RestartPolicy::OnUnhealthy(_))
        && before
            .health
            .as_ref()
            .is_some_and(|h| h.status == HealthStatus::Unhealthy);
    let counts_as = if unhealthy { code.max(1) } else { code };
    let again = !inner.is_shutting_down()
        && !container.restart_is_off()
        && !record.host.auto_remove
        && restart::after_exit(policy, counts_as, before.restart_count);
    let ran = match (clock::nanos(&exit.at), clock::nanos(&before.started_at)) {
        (Some(end), Some(start)) => Duration::from_nanos(u64::try_from(end - start).unwrap_or(0)),
        _ => Duration::ZERO,
    };
    container.set_task(None);
    let oom = exit.oom_killed;
    for mount in record.mounts.iter().filter(|m| !m.name.is_empty()) {
        inner.volume_event("unmount", container, mount);
    }
    let attributes = [
        ("exitCode", code.to_string()),
        ("execDuration", ran.as_secs().to_string()),
    ];
    let at = clock::nanos(&exit.at);
    if oom {
        inner.emit_at(container, "oom", &[], at);
    }
    inner.emit_at(container, "die", &attributes, at);
    let end = |s: &mut super::record::State| {
        s.status = if again { Status::Restarting } else { Status::Exited };
        s.pid = 0;
        s.exit_code = code;
        s.oom_killed = oom;
        s.finished_at = exit.at;
        s.leave_networks();
        // As docker: nobody looks any more.
        for health in s.health.iter_mut() {
            health.status = HealthStatus::Unhealthy;
            health.probe = None;
        }
        if again {
            s.restart_count += 1;
        }
    };
    container.end_run(end);
    // Only now: a daemon that dies in between finds the end here.
    let _ = store::remove_file(&container.dir.join("exit.json"));
    if again {
        let delay = restart::next_delay(delay, ran);
        tokio::spawn(restart_after(inner.clone(), container.clone(), delay));
    } else if record.host.auto_remove {
        tokio::spawn(auto_remove(inner.clone(), container.clone()));
    }
}

async fn restart_after(inner: Arc<Inner>, container: Arc<Container>, delay: Duration) {
    tokio::time::sleep(delay).await;
    let Ok(_operation) = container.lock().await else {
        return;
    };
    // A stop, a start or a removal in the meantime has decided otherwise.
    if container.status() != Status::Restarting || inner.is_shutting_down() {
        return;
    }
    if container.restart_is_off() {
        container.update(|s| s.status = Status::Exited);
        return;
    }
    if let Err(e) = start::locked(&inner, &container, Some(delay)).await {
        tracing::warn!(container = %container.id, error = %e, "start again by the restart policy");
    }
}

async fn auto_remove(inner: Arc<Inner>, container: Arc<Container>) {
    let Ok(_operation) = container.lock().await else {
        return;
    };
    let kept = container.status().has_process() || container.is_kept();
    if kept || !inner.containers.contains(&container.id) {
        return;
    }
    if let Err(e) = remove::locked(&inner, &container, true).await {
        tracing::warn!(container = %container.id, error = %e, "remove a container that ended");
    }
}
