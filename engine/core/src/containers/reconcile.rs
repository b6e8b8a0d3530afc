//! At the daemon's start: what runs is taken over, what ended meanwhile is told, what a crash left is removed. Nothing that
//! runs is disturbed. Each container's own lock is held for its part, so a call waits for that container only.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kelson_shim_proto::task::Status as ShimStatus;
use tokio::sync::OwnedMutexGuard;

use super::container::Container;
use super::modes::RestartPolicy;
use super::record::{Record, State, Status};
use super::{adopt, commit, health, monitor, network, remove, restart, start, update};
use crate::clock;
use crate::error::{Doing, Kind, Result};
use crate::inner::Inner;
use crate::store;
use crate::tasks::{Exit, Task, TaskRecord, TaskState};

/// How long a shim that lives may take to answer a daemon that was started again.
const TAKE_OVER: Duration = Duration::from_secs(60);

/// How long the first requests wait for starts that were cut short; there are seldom any.
const UNCLEAR: Duration = Duration::from_secs(2);

/// The pause between two attempts.
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(200);

/// Reads all container records. One that cannot be read is reported and left alone.
pub(crate) fn load(inner: &Inner) -> Result<()> {
    let dir = inner.roots.containers();
    let doing = || format!("read {}", dir.display());
    for entry in std::fs::read_dir(&dir).doing(doing)? {
        let path = entry.doing(doing)?.path();
        let record = match Record::load(&path) {
            Ok(Some(record)) => record,
            Ok(None) => {
                // No record was written, or it is gone already: nothing refers to what is here.
                if let Err(e) = store::remove_tree(&path) {
                    tracing::warn!(error = %e, "remove what a crash left");
                }
                continue;
            }
            Err(e) => {
                tracing::error!(error = %e, "a container's record is of no use");
                inner.keep_snapshot(&path);
                continue;
            }
        };
        let state = State::load(&path).unwrap_or_else(|e| {
            tracing::error!(container = %record.id, error = %e, "a container's state is of no use");
            Some(State {
                status: Status::Exited,
                exit_code: 255,
                ..State::default()
            })
        });
        inner.note_links(&record);
        if inner.containers.reserve(&record.name, &record.id).is_err() {
            tracing::error!(container = %record.id, name = %record.name, "two containers have this name");
        }
        inner
            .containers
            .insert(Arc::new(Container::new(record, state.unwrap_or_default(), path)));
    }
    Ok(())
}

/// Takes over, in the background but for what must come first: the network must know who is alive before anybody starts.
pub(crate) async fn run(inner: &Arc<Inner>) -> Result<()> {
    let (records, broken) = TaskRecord::load_all(&inner.roots)?;
    for id in broken {
        let _ = store::remove_file(&inner.roots.tasks().join(format!("{id}.json")));
    }
    remove_orphaned_sockets(inner, &records);
    let mut tasks: HashMap<String, TaskRecord> = records.into_iter().map(|r| (r.id.clone(), r)).collect();
    let mut held: Vec<(Arc<Container>, OwnedMutexGuard<()>, Option<TaskRecord>)> = Vec::new();
    let mut live = Vec::new();
    for container in inner.containers.all() {
        let task = tasks.remove(&container.id);
        if let Some(record) = task.as_ref().filter(|record| record.is_alive(&inner.roots)) {
            live.push((container.clone(), record.shim_pid));
        }
        if let Some(lock) = container.try_lock() {
            held.push((container, lock, task));
        }
    }
    adopt::take_over(inner, live).await;
    // Shims without a container: created by a start whose container is gone.
    // One whose container's record cannot be read (damaged, or of a newer release) runs on.
    let kept = inner.kept_snapshots();
    for (_, orphan) in tasks.into_iter().filter(|(id, _)| !kept.contains(id)) {
        let inner = inner.clone();
        tokio::spawn(async move {
            if let Err(e) = Task::destroy(&orphan, &inner.roots).await {
                tracing::warn!(container = %orphan.id, error = %e, "remove an orphaned shim");
            }
        });
    }
    let mut unclear = Vec::new();
    for (container, lock, task) in held {
        let is_unclear = task.is_some() && !matches!(container.status(), Status::Running | Status::Paused);
        let settling = tokio::spawn(one(inner.clone(), container, lock, task));
        if is_unclear {
            unclear.push(settling);
        }
    }
    // Whether these run, nobody can say before: who is told "created" starts them, and what has run once runs twice.
    let _ = tokio::time::timeout(UNCLEAR, futures_util::future::join_all(unclear)).await;
    // Looked up now, before anybody can create: what is being made has no record yet.
    let (snapshots, bundles) = (orphaned_snapshots(inner), orphaned_bundles(inner));
    tokio::spawn(remove_orphans(inner.clone(), snapshots, bundles));
    Ok(())
}

async fn one(
    inner: Arc<Inner>,
    container: Arc<Container>,
    lock: OwnedMutexGuard<()>,
    task: Option<TaskRecord>,
) {
    match container.status() {
        Status::Removing => {
            if let Some(task) = &task {
                let _ = Task::destroy(task, &inner.roots).await;
            }
            if let Err(e) = remove::locked(&inner, &container, container.record().host.auto_remove).await {
                tracing::warn!(container = %container.id, error = %e, "finish a removal");
            }
            return;
        }
        Status::Running | Status::Paused => match task {
            Some(task) if task.is_alive(&inner.roots) => {
                if take_over(&inner, &container, &task).await {
                    return;
                }
                lost(&inner, &container, Some(task)).await;
            }
            task => lost(&inner, &container, task).await,
        },
        _ => {
            if let Some(task) = task {
                match cut_short(&inner, &container, &task).await {
                    Cut::Runs => return,
                    Cut::Ran => {}
                    Cut::Before => undo(&inner, &container, &task).await,
                }
            }
        }
    }
    let record = container.record();
    if record.host.auto_remove && container.status() == Status::Exited {
        // It ended, and the daemon too, before it was removed.
        if let Err(e) = remove::locked(&inner, &container, true).await {
            tracing::warn!(container = %container.id, error = %e, "remove a container that ended");
        }
        return;
    }
    drop(lock);
    by_policy(&inner, &container).await;
}

async fn ask(inner: &Arc<Inner>, record: &TaskRecord) -> Result<(Arc<Task>, TaskState)> {
    let task = Task::connect(record.clone(), &inner.roots).await?;
    let state = task.state("").await?;
    Ok((task, state))
}

/// Connects to the shim of a running container; false when there is no such container in it any more.
async fn take_over(inner: &Arc<Inner>, container: &Arc<Container>, record: &TaskRecord) -> bool {
    let deadline = tokio::time::Instant::now() + TAKE_OVER;
    let (task, state) = loop {
        let error = match ask(inner, record).await {
            Ok(found) => break found,
            Err(e) => e,
        };
        tracing::warn!(container = %container.id, error = %error, "take over a running container");
        // A shim that lives and does not answer yet holds a container that runs: it gets time, not a signal.
        let gone = error.kind() == Kind::NotFound || !record.is_alive(&inner.roots);
        if gone || tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(TAKE_OVER_PAUSE).await;
    };
    let status = match state.status {
        ShimStatus::RUNNING => Status::Running,
        ShimStatus::PAUSED | ShimStatus::PAUSING => Status::Paused,
        // Ended, and the shim still has the answer: the monitor fetches it.
        ShimStatus::STOPPED => Status::Running,
        _ => return false,
    };
    container.go_live(task.clone());
    container.update(|s| {
        s.status = status;
        if state.pid > 0 {
            s.pid = state.pid;
        }
    });
    if container.state().still_for_commit {
        commit::thaw(inner, container, &task).await;
    }
    if container.state().pending_update.is_some() {
        update::again(container, &task).await;
    }
    health::watch(inner, container, &task);
    tokio::spawn(monitor::watch(inner.clone(), container.clone(), task, None));
    true
}

/// How far a start had come that the daemon did not see to its end.
enum Cut {
    /// The command does not run: it has to be begun again.
    Before,
    /// It runs, and is known now. It is not run a second time.
    Runs,
    /// It ran, and its end is known now.
    Ran,
}

async fn cut_short(inner: &Arc<Inner>, container: &Arc<Container>, task: &TaskRecord) -> Cut {
    let config = &container.record().config;
    let begin = |started_at: String, pid: u32| {
        container.update(|s| {
            health::begin(config, s);
            s.status = Status::Running;
            s.pid = pid;
            s.started_at = started_at;
            s.exit_code = 0;
            s.error.clear();
        });
        inner.emit(container, "start", &[]);
    };
    match monitor::read_record(container) {
        Some(record) => match record.started_at {
            Some(started_at) => begin(started_at, 0),
            None => return Cut::Before,
        },
        None if !task.is_alive(&inner.roots) => return Cut::Before,
        None => match ask(inner, task).await {
            Ok((_, state)) if matches!(state.status, ShimStatus::RUNNING | ShimStatus::STOPPED) => {
                begin(clock::now(), state.pid);
                if take_over(inner, container, task).await {
                    return Cut::Runs;
                }
            }
            _ => return Cut::Before,
        },
    }
    lost(inner, container, Some(task.clone())).await;
    Cut::Ran
}

async fn undo(inner: &Arc<Inner>, container: &Arc<Container>, task: &TaskRecord) {
    if let Err(e) = Task::destroy(task, &inner.roots).await {
        tracing::warn!(container = %container.id, error = %e, "undo a start");
    }
    // Its shim lived, so the network took it for one that runs.
    network::disconnect(inner, container).await;
    container.update(State::leave_networks);
}

/// A container that ran when the daemon ended and does not any more.
async fn lost(inner: &Arc<Inner>, container: &Arc<Container>, task: Option<TaskRecord>) {
    let exit = monitor::read_exit(container);
    if let Some(task) = task {
        let result = match &exit {
            Some(_) if !task.is_alive(&inner.roots) => task.forget(&inner.roots),
            _ => Task::destroy(&task, &inner.roots).await,
        };
        if let Err(e) = result {
            tracing::warn!(container = %container.id, error = %e, "clean up after a container");
        }
    }
    network::disconnect(inner, container).await;
    // Without a record the machine went down, or the shim was killed.
    let exit = exit.unwrap_or_else(|| {
        container.update(|s| monitor::LOST.clone_into(&mut s.error));
        Exit {
            status: monitor::UNKNOWN,
            at: clock::now(),
            oom_killed: false,
        }
    });
    // The policy is applied below, once, as for any container that does not run.
    container.no_restart(true);
    monitor::ended(inner, container, exit, None);
}

/// The restart policy at the daemon's start.
async fn by_policy(inner: &Arc<Inner>, container: &Arc<Container>) {
    let state = container.state();
    let Ok(policy) = RestartPolicy::parse(&container.record().host) else {
        return;
    };
    let waiting = state.status == Status::Restarting;
    let ran = state.status == Status::Exited && clock::parse(&state.started_at).is_some();
    let wanted = restart::at_start(
        policy,
        state.exit_code,
        state.restart_count,
        state.manually_stopped,
    );
    if waiting && !wanted {
        container.update(|s| s.status = Status::Exited);
    }
    if !(waiting || ran) || !wanted {
        return;
    }
    let Ok(_operation) = container.lock().await else {
        return;
    };
    if matches!(container.status(), Status::Restarting | Status::Exited)
        && let Err(e) = start::locked(inner, container, None).await
    {
        tracing::warn!(container = %container.id, error = %e, "start by the restart policy");
    }
}

async fn remove_orphans(inner: Arc<Inner>, snapshots: Vec<String>, bundles: Vec<PathBuf>) {
    for id in snapshots {
        if let Err(e) = inner.images.remove_snapshot(&id).await {
            tracing::warn!(container = %id, error = %e, "remove an orphaned snapshot");
        }
    }
    for path in bundles {
        if let Err(e) = store::remove_tree(&path) {
            tracing::warn!(error = %e, "remove an orphaned bundle");
        }
    }
}

/// A shim's sockets are bound before its record is written. One that was started without is told nothing and ends.
fn remove_orphaned_sockets(inner: &Inner, records: &[TaskRecord]) {
    for entry in std::fs::read_dir(inner.roots.sockets_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        if !records
            .iter()
            .any(|record| name == *record.socket || name == *record.attach)
        {
            let _ = store::remove_file(&entry.path());
        }
    }
}

fn orphaned_snapshots(inner: &Inner) -> Vec<String> {
    let kept = inner.kept_snapshots();
    let mut ids = inner.images.snapshot_containers();
    ids.retain(|id| !inner.containers.contains(id) && !kept.contains(id));
    ids
}

fn orphaned_bundles(inner: &Inner) -> Vec<PathBuf> {
    let kept = inner.kept_snapshots();
    let entries = std::fs::read_dir(inner.roots.bundles())
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter(|e| {
            e.file_name()
                .to_str()
                .is_some_and(|id| !inner.containers.contains(id) && !kept.iter().any(|kept| kept == id))
        })
        .map(|e| e.path())
        .collect()
}
