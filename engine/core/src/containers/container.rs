//! One container in memory: a snapshot anyone may read at any time, a lock for who changes it, and the news of its life.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use super::record::{Record, State, Status};
use crate::error::{Error, Result};
use crate::tasks::{AttachConnection, AttachRequest, Task};

/// How long an operation waits for another one on the same container.
const LOCK_DEADLINE: Duration = Duration::from_secs(120);

/// Attach calls that may wait for a start at the same time.
const MAX_PENDING: usize = 64;

/// A consistent view.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub record: Arc<Record>,
    pub state: Arc<State>,
}

/// News of a container's life, for those who wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    pub has_process: bool,
    /// A process exists, or the restart policy will make one: followers of the log stay.
    pub restarting: bool,
    /// Runs that ended so far.
    pub ended: u64,
    pub exit_code: i64,
    pub removed: bool,
    pub removal_error: Option<String>,
}

/// An attach call that came before the start.
#[derive(Debug)]
pub(crate) struct Pending {
    pub request: AttachRequest,
    pub connected: oneshot::Sender<AttachConnection>,
}

/// What exists only while it runs, or is about to.
#[derive(Debug, Default)]
struct Live {
    task: Option<Arc<Task>>,
    pending: Vec<Pending>,
    execs: Vec<String>,
    /// The restart policy is off for the present run (stop, kill, removal).
    no_restart: bool,
    /// A restart is under way: the end of its first half removes nothing.
    kept: bool,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub id: String,
    pub dir: PathBuf,
    snapshot: RwLock<Snapshot>,
    operation: Arc<tokio::sync::Mutex<()>>,
    life: watch::Sender<Life>,
    live: Mutex<Live>,
    /// Held while the state is written.
    saving: Mutex<()>,
}

impl Container {
    pub fn new(record: Record, state: State, dir: PathBuf) -> Self {
        let life = Life {
            has_process: state.status.has_process(),
            exit_code: state.exit_code,
            ..Life::default()
        };
        Self {
            id: record.id.clone(),
            dir,
            snapshot: RwLock::new(Snapshot {
                record: Arc::new(record),
                state: Arc::new(state),
            }),
            operation: Arc::default(),
            life: watch::Sender::new(life),
            live: Mutex::default(),
            saving: Mutex::default(),
        }
    }

    /// The present record and state; never waits for an operation.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn record(&self) -> Arc<Record> {
        self.snapshot().record
    }

    pub fn state(&self) -> Arc<State> {
        self.snapshot().state
    }

    pub fn status(&self) -> Status {
        self.state().status
    }

    /// Takes the right to change this container.
    ///
    /// # Errors
    /// `Unavailable` when another operation does not end in time.
    pub async fn lock(&self) -> Result<OwnedMutexGuard<()>> {
        tokio::time::timeout(LOCK_DEADLINE, self.operation.clone().lock_owned())
            .await
            .map_err(|_| {
                Error::unavailable(format!(
                    "container {} is busy: another operation on it has not ended",
                    self.id
                ))
            })
    }

    /// The lock at once, for a container nobody else knows yet.
    pub fn try_lock(&self) -> Option<OwnedMutexGuard<()>> {
        self.operation.clone().try_lock_owned().ok()
    }

    /// Changes the state, keeps it on disk, and tells those who wait. A state that cannot be written is still the state:
    /// the disk is behind then, and the log says so.
    pub fn update(&self, change: impl FnOnce(&mut State)) -> Arc<State> {
        let (state, changed) = {
            let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            let mut state = State::clone(&snapshot.state);
            change(&mut state);
            let changed = state != *snapshot.state;
            snapshot.state = Arc::new(state);
            // Told under the lock: the last state is also the last that is told. No listener reads the snapshot.
            self.life.send_modify(|life| {
                life.has_process = snapshot.state.status.has_process();
                life.restarting = snapshot.state.status == Status::Restarting;
                life.exit_code = snapshot.state.exit_code;
            });
            (snapshot.state.clone(), changed)
        };
        if changed {
            // One writer at a time, and always the newest state: a slow writer never puts an old one last.
            let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(e) = self.snapshot().state.save(&self.dir) {
                tracing::error!(container = %self.id, error = %e, "keep the state");
            }
        }
        state
    }

    /// Puts the end of a run into the state and tells those who wait for it.
    pub fn end_run(&self, change: impl FnOnce(&mut State)) -> Arc<State> {
        let state = self.update(change);
        self.life.send_modify(|life| life.ended += 1);
        state
    }

    pub fn replace_record(&self, record: Record) {
        self.snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .record = Arc::new(record);
    }

    pub fn mark_removed(&self, error: Option<String>) {
        self.life.send_modify(|life| {
            life.removed = error.is_none();
            life.removal_error = error;
            life.has_process = false;
            life.restarting = false;
        });
        self.live().pending.clear();
    }

    pub fn life(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// Waits for the process to be gone.
    pub async fn until_stopped(&self) {
        let _ = self
            .life()
            .wait_for(|life| !life.has_process || life.removed)
            .await;
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn task(&self) -> Option<Arc<Task>> {
        self.live().task.clone()
    }

    pub fn set_task(&self, task: Option<Arc<Task>>) {
        self.live().task = task;
    }

    /// The task of a container that must run, with docker's words if it does not.
    pub fn running_task(&self) -> Result<Arc<Task>> {
        self.task()
            .filter(|_| self.status().has_process())
            .ok_or_else(|| Error::conflict(format!("container {} is not running", self.id)))
    }

    /// Registers an attach call for the next start. If the task is there already, nothing is registered and the caller
    /// connects to it itself.
    ///
    /// # Errors
    /// `Unavailable` when too many wait already.
    pub fn attach_to(&self, pending: Pending) -> Result<Option<(Arc<Task>, Pending)>> {
        let mut live = self.live();
        if let Some(task) = live.task.clone() {
            return Ok(Some((task, pending)));
        }
        live.pending.retain(|p| !p.connected.is_closed());
        if live.pending.len() >= MAX_PENDING {
            return Err(Error::unavailable(format!(
                "{MAX_PENDING} clients wait for the start of {}",
                self.id
            )));
        }
        live.pending.push(pending);
        Ok(None)
    }

    /// Makes the task known and hands out those who waited for it, in one step: nobody falls between.
    pub fn go_live(&self, task: Arc<Task>) -> Vec<Pending> {
        let mut live = self.live();
        live.task = Some(task);
        std::mem::take(&mut live.pending)
    }

    pub fn drop_pending(&self) {
        self.live().pending.clear();
    }

    pub fn no_restart(&self, off: bool) {
        self.live().no_restart = off;
    }

    /// Says whether the end of the present run may remove the container (`--rm`).
    pub fn keep(&self, kept: bool) {
        self.live().kept = kept;
    }

    pub fn is_kept(&self) -> bool {
        self.live().kept
    }

    pub fn restart_is_off(&self) -> bool {
        self.live().no_restart
    }

    pub fn add_exec(&self, id: &str) {
        self.live().execs.push(id.to_owned());
    }

    pub fn remove_exec(&self, id: &str) {
        self.live().execs.retain(|e| e != id);
    }

    pub fn execs(&self) -> Vec<String> {
        self.live().execs.clone()
    }
}

/// All containers.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: RwLock<RegistryInner>,
}

#[derive(Debug, Default)]
struct RegistryInner {
    by_id: HashMap<String, Arc<Container>>,
    names: crate::names::Index,
}

impl Registry {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, RegistryInner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, RegistryInner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds by id, name or beginning of an id.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` when several begin so.
    pub fn find(&self, word: &str) -> Result<Arc<Container>> {
        let inner = self.read();
        let id = inner.names.resolve(word)?;
        // A name that is reserved and not filled yet is not found.
        inner
            .by_id
            .get(&id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("No such container: {word}")))
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        self.read().by_id.values().cloned().collect()
    }

    pub fn contains(&self, id: &str) -> bool {
        self.read().by_id.contains_key(id)
    }

    /// # Errors
    /// `Conflict` in docker's words.
    pub fn reserve(&self, name: &str, id: &str) -> Result<()> {
        self.write().names.reserve(name, id).map_err(|owner| {
            Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". \
                 You have to remove (or rename) that container to be able to reuse that name."
            ))
        })
    }

    pub fn release(&self, name: &str, id: &str) {
        self.write().names.release(name, id);
    }

    pub fn insert(&self, container: Arc<Container>) {
        let mut inner = self.write();
        inner.names.add_id(&container.id);
        inner.by_id.insert(container.id.clone(), container);
    }

    pub fn remove(&self, id: &str) {
        let mut inner = self.write();
        inner.by_id.remove(id);
        inner.names.remove_id(id);
    }
}
