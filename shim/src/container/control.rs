//! What is done to a container that is there: signals, the freezer, looks, removal.
use kelson_cgroups::Cgroup;
use kelson_shim_proto::containerd::events::What;
use kelson_shim_proto::containerd::options::CheckpointOptions;
use nix::sys::signal::Signal;

use super::Container;
use crate::diagnostics;
use crate::ending;
use crate::error::{Error, Kind, Result, lock};
use crate::process::Phase;
use crate::reaper::Exit;

impl Container {
    /// Removes the container. One that was created but never started is killed first.
    pub async fn delete(&self) -> Result<(u32, Exit)> {
        let state = self.init.snapshot();
        match state.phase {
            Phase::Exited => {}
            Phase::Created => self.init.signal(9)?,
            Phase::Announced | Phase::Making => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("container {} is not created", self.id),
                ));
            }
            Phase::Running => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("container {} is running", self.id),
                ));
            }
        }
        let exit = self.init.wait().await;
        if self.manner.stays_until_deleted {
            self.cleanup().await;
            let what = What::Delete {
                pid: state.pid,
                status: exit.status,
                at: exit.at,
            };
            self.events.tell(&self.id, what);
        } else {
            self.lifetime.update(|facts| facts.deleted = true);
        }
        Ok((state.pid, exit))
    }

    /// Sends a signal to one process, or to every process.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        if all && exec_id.is_empty() {
            return self.kill_all(signal);
        }
        self.process(exec_id)?.signal(signal)?;
        if signal == 9 && exec_id.is_empty() {
            self.thaw_the_dying();
        }
        Ok(())
    }

    /// A frozen process of the v1 freezer does not even die. In v2 it does, and its cgroup may be gone by now; a
    /// `resume` of the runtime's would say that there is nothing to resume.
    fn thaw_the_dying(&self) {
        let mut facts = lock(&self.facts);
        if !std::mem::replace(&mut facts.paused, false) {
            return;
        }
        if let Some(Err(error)) = facts.cgroup.as_ref().map(Cgroup::thaw)
            && error.kind() != kelson_cgroups::Kind::NotFound
        {
            diagnostics::report(&format!("thaw a killed container: {error}"));
        }
    }

    fn kill_all(&self, signal: u32) -> Result<()> {
        let signal = i32::try_from(signal)
            .ok()
            .and_then(|number| Signal::try_from(number).ok());
        let signal = signal.ok_or_else(|| Error::new(Kind::Invalid, "no such signal"))?;
        let facts = lock(&self.facts);
        let cgroup = facts.cgroup.as_ref().ok_or_else(|| {
            Error::new(
                Kind::Precondition,
                format!("container {} has no cgroup to signal by", self.id),
            )
        })?;
        cgroup
            .signal_all(signal)
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))
    }

    /// Freezes every process.
    pub async fn pause(&self) -> Result<()> {
        self.freeze("pause", true).await?;
        self.events.tell(&self.id, What::Paused);
        Ok(())
    }

    /// Thaws every process.
    pub async fn resume(&self) -> Result<()> {
        self.freeze("resume", false).await?;
        self.events.tell(&self.id, What::Resumed);
        Ok(())
    }

    async fn freeze(&self, command: &str, paused: bool) -> Result<()> {
        let _verb = self.verbs.lock().await;
        if self.init.snapshot().phase != Phase::Running {
            return Err(Error::new(
                Kind::Precondition,
                format!("container {} is not running", self.id),
            ));
        }
        if self.is_paused() == paused {
            let word = if paused { "already paused" } else { "not paused" };
            return Err(Error::new(
                Kind::Precondition,
                format!("container {} is {word}", self.id),
            ));
        }
        self.runtime.simple(&self.bundle, &[command]).await?;
        lock(&self.facts).paused = paused;
        Ok(())
    }

    /// Changes its limits: `resources` is `linux.resources` of the runtime-spec.
    pub async fn update(&self, resources: &[u8]) -> Result<()> {
        self.must_run()?;
        let _verb = self.verbs.lock().await;
        self.runtime.update(&self.bundle, resources).await
    }

    /// Writes its state to `path`, by criu.
    pub async fn checkpoint(&self, path: &str, options: &CheckpointOptions) -> Result<()> {
        self.must_run()?;
        let _verb = self.verbs.lock().await;
        self.runtime.checkpoint(&self.bundle, path, options).await?;
        let checkpoint = path.to_owned();
        self.events.tell(&self.id, What::Checkpointed { checkpoint });
        Ok(())
    }

    /// Its figures, as containerd's metrics: their type and the message.
    pub fn stats(&self) -> Result<(&'static str, Vec<u8>)> {
        let facts = lock(&self.facts);
        let cgroup = facts.cgroup.as_ref().filter(|cgroup| cgroup.exists());
        let cgroup = cgroup
            .ok_or_else(|| Error::new(Kind::NotFound, format!("container {} has no cgroup", self.id)))?;
        Ok(crate::figures::of(cgroup))
    }

    fn must_run(&self) -> Result<()> {
        match self.init.snapshot().phase {
            Phase::Created | Phase::Running => Ok(()),
            _ => Err(Error::new(
                Kind::Precondition,
                format!("container {} is not running", self.id),
            )),
        }
    }

    /// Whether it has been made and its end is not recorded yet.
    pub fn is_alive(&self) -> bool {
        self.init.snapshot().phase > Phase::Announced && !self.init.has_ended()
    }

    /// Whether it is frozen.
    pub fn is_paused(&self) -> bool {
        lock(&self.facts).paused
    }

    /// Pids of every process, in our pid namespace.
    pub async fn pids(&self) -> Result<Vec<u32>> {
        self.must_run()?;
        self.runtime.pids(&self.bundle).await
    }

    /// Kills what the first process leaves, where its end does not end the others.
    pub fn kill_leftovers(&self) {
        let facts = lock(&self.facts);
        if facts.own_pid_namespace {
            return;
        }
        if let Some(cgroup) = &facts.cgroup
            && let Err(error) = cgroup.signal_all(Signal::SIGKILL)
        {
            diagnostics::report(&error.to_string());
        }
    }

    /// Whether no process is left in its cgroup.
    pub fn is_empty(&self) -> bool {
        lock(&self.facts)
            .cgroup
            .as_ref()
            .is_none_or(|cgroup| cgroup.is_empty().unwrap_or(true))
    }

    /// How many of its processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        lock(&self.facts)
            .cgroup
            .as_ref()
            .map_or(0, |cgroup| cgroup.oom_kills().unwrap_or(0))
    }

    /// Removes the runtime's state, the cgroup, the root's mount and our files. Once.
    pub async fn cleanup(&self) {
        if std::mem::replace(&mut lock(&self.facts).cleaned, true) {
            return;
        }
        lock(&self.forwarders).stop();
        if let Err(error) = self.runtime.simple(&self.bundle, &["delete", "--force"]).await {
            diagnostics::report(&error.to_string());
        }
        ending::clean_bundle(&self.bundle);
    }
}
