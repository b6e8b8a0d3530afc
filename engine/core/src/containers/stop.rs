//! Stop, kill, restart, pause, unpause. A stop does not hold the operation lock while it waits, so that a kill, or a second
//! stop, gets through.

use std::sync::Arc;
use std::time::Duration;

use super::container::Container;
use super::modes::parse_signal;
use super::record::Status;
use super::start;
use crate::error::{Error, Kind, Result};
use crate::inner::Inner;
use crate::types::StopOptions;

const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// How long the end of a killed container may take: output is drained for 2 s, the runtime cleans up.
const AFTER_KILL: Duration = Duration::from_secs(30);

/// `docker stop`.
pub(crate) async fn stop(inner: &Arc<Inner>, name: &str, options: &StopOptions) -> Result<()> {
    let container = inner.containers.find(name)?;
    let signal = match options.signal.as_deref() {
        Some(text) => Some(parse_signal(text)?),
        None => None,
    };
    {
        let _operation = container.lock().await?;
        match container.status() {
            Status::Running | Status::Paused => {}
            Status::Restarting => {
                container.no_restart(true);
                container.update(|s| {
                    s.status = Status::Exited;
                    s.manually_stopped = true;
                });
                inner.emit(&container, "stop", &[]);
                return Ok(());
            }
            _ => return Err(Error::not_modified()),
        }
        container.no_restart(true);
        container.update(|s| s.manually_stopped = true);
    }
    bring_down(inner, &container, signal, options.timeout).await?;
    inner.emit(&container, "stop", &[]);
    Ok(())
}

/// First signal, patience, SIGKILL to all.
pub(crate) async fn bring_down(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    signal: Option<u32>,
    timeout: Option<Duration>,
) -> Result<()> {
    let record = container.record();
    let of_container = parse_signal(&record.config.stop_signal).ok();
    let signal = signal.or(of_container).unwrap_or(SIGTERM);
    // A negative time-out waits for ever.
    let own = record
        .config
        .stop_timeout
        .map(|s| u64::try_from(s).map_or(Duration::MAX, Duration::from_secs));
    let patience = timeout.or(own).unwrap_or(inner.config.stop_timeout);
    match send(inner, container, signal).await {
        Ok(()) => {}
        Err(e) if e.kind() == Kind::Conflict || e.kind() == Kind::NotFound => {}
        Err(e) => tracing::warn!(container = %container.id, error = %e, "ask a container to stop"),
    }
    if tokio::time::timeout(patience, container.until_stopped())
        .await
        .is_ok()
    {
        return Ok(());
    }
    kill_all(inner, container).await
}

/// Ends every process of a container and waits for that.
pub(crate) async fn kill_all(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<()> {
    if let Some(task) = container.task() {
        let killed = task.kill("", SIGKILL, true).await;
        inner.emit(container, "kill", &[("signal", SIGKILL.to_string())]);
        thaw(container, SIGKILL).await;
        if let Err(e) = killed {
            tracing::warn!(container = %container.id, error = %e, "kill a container");
        }
    }
    tokio::time::timeout(AFTER_KILL, container.until_stopped())
        .await
        .map_err(|_| {
            Error::unavailable(format!(
                "container {} did not end {} s after SIGKILL",
                container.id,
                AFTER_KILL.as_secs()
            ))
        })
}

async fn send(inner: &Arc<Inner>, container: &Arc<Container>, signal: u32) -> Result<()> {
    let task = container.running_task()?;
    task.kill("", signal, false).await?;
    inner.emit(container, "kill", &[("signal", signal.to_string())]);
    thaw(container, signal).await;
    Ok(())
}

/// A frozen process takes no signal; one that is meant to end it thaws it, as in docker.
async fn thaw(container: &Container, signal: u32) {
    let ends = signal == SIGKILL
        || signal == SIGTERM
        || parse_signal(&container.record().config.stop_signal).is_ok_and(|s| s == signal);
    if container.status() != Status::Paused || !ends {
        return;
    }
    if let Some(task) = container.task()
        && task.resume().await.is_ok()
    {
        container.update(|s| {
            if s.status == Status::Paused {
                s.status = Status::Running;
            }
        });
    }
}

/// `docker kill`.
pub(crate) async fn kill(inner: &Arc<Inner>, name: &str, signal: Option<&str>) -> Result<()> {
    let container = inner.containers.find(name)?;
    let signal = signal
        .filter(|s| !s.is_empty())
        .map_or(Ok(SIGKILL), parse_signal)?;
    let doing = || format!("cannot kill container: {name}");
    if !container.status().has_process() {
        return Err(Error::conflict(format!("container {} is not running", container.id)).wrap(doing()));
    }
    let stops =
        signal == SIGKILL || parse_signal(&container.record().config.stop_signal).is_ok_and(|s| s == signal);
    if stops {
        container.no_restart(true);
        container.update(|s| s.manually_stopped = true);
    }
    if signal == SIGKILL {
        return kill_all(inner, &container).await.map_err(|e| e.wrap(doing()));
    }
    send(inner, &container, signal).await.map_err(|e| e.wrap(doing()))
}

async fn stop_and_start(inner: &Arc<Inner>, container: &Arc<Container>, options: &StopOptions) -> Result<()> {
    match stop(inner, &container.id, options).await {
        Err(e) if e.kind() != Kind::NotModified => return Err(e),
        _ => {}
    }
    let _operation = container.lock().await?;
    if container.status().has_process() {
        return Ok(());
    }
    container.update(|s| s.manually_stopped = false);
    start::locked(inner, container, None).await
}

/// `docker restart`.
pub(crate) async fn restart(inner: &Arc<Inner>, name: &str, options: &StopOptions) -> Result<()> {
    let container = inner.containers.find(name)?;
    // With `--rm` too: it ends here only to begin again.
    container.keep(true);
    let result = stop_and_start(inner, &container, options).await;
    container.keep(false);
    result?;
    inner.emit(&container, "restart", &[]);
    Ok(())
}

/// `docker pause`.
pub(crate) async fn pause(inner: &Arc<Inner>, name: &str) -> Result<()> {
    let container = inner.containers.find(name)?;
    let _operation = container.lock().await?;
    match container.status() {
        Status::Running => {}
        Status::Paused => {
            return Err(Error::conflict(format!(
                "container {} is already paused",
                container.id
            )));
        }
        Status::Restarting => {
            return Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        _ => {
            return Err(Error::conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
    }
    container
        .running_task()?
        .pause()
        .await
        .map_err(|e| e.wrap(format!("cannot pause container {}", container.id)))?;
    container.update(|s| {
        if s.status == Status::Running {
            s.status = Status::Paused;
        }
    });
    inner.emit(&container, "pause", &[]);
    Ok(())
}

/// `docker unpause`.
pub(crate) async fn unpause(inner: &Arc<Inner>, name: &str) -> Result<()> {
    let container = inner.containers.find(name)?;
    let _operation = container.lock().await?;
    if container.status() != Status::Paused {
        return Err(Error::conflict(format!(
            "container {} is not paused",
            container.id
        )));
    }
    let resumed = container.running_task()?.resume().await;
    resumed.map_err(|e| e.wrap(format!("cannot unpause container {}", container.id)))?;
    container.update(|s| {
        if s.status == Status::Paused {
            s.status = Status::Running;
        }
    });
    inner.emit(&container, "unpause", &[]);
    Ok(())
}
