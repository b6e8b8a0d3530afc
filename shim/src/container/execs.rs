//! Further processes of a container.
use std::path::Path;
use std::sync::Arc;

use kelson_shim_proto::containerd::events::What;

use super::create::connect;
use super::{Added, Container, MAX_EXECS};
use crate::diagnostics;
use crate::ending;
use crate::error::{Doing, Error, Kind, Result, lock};
use crate::io::Addresses;
use crate::io::console::ConsoleSocket;
use crate::process::{Described, Phase, Process, check_exec_id};
use crate::reaper::Exit;

impl Container {
    /// Announces a process; [`Container::start_exec`] starts it.
    pub fn add_exec(&self, exec_id: &str, described: Described, spec: Vec<u8>) -> Result<()> {
        check_exec_id(exec_id)?;
        Addresses::parse(&described.stdin, &described.stdout, &described.stderr)?;
        let mut execs = lock(&self.execs);
        if execs.contains_key(exec_id) {
            return Err(Error::new(Kind::AlreadyExists, format!("exec {exec_id} exists")));
        }
        if execs.len() >= MAX_EXECS {
            return Err(Error::new(
                Kind::Precondition,
                format!("{MAX_EXECS} execs exist; delete some first"),
            ));
        }
        if self.init.snapshot().exit.is_some() {
            return Err(Error::new(
                Kind::Precondition,
                format!("container {} has already ended", self.id),
            ));
        }
        let spec = with_terminal(spec, described.terminal)?;
        let process = Process::new(exec_id, described);
        execs.insert(exec_id.to_owned(), Arc::new(Added { process, spec }));
        drop(execs);
        let exec_id = exec_id.to_owned();
        self.events.tell(&self.id, What::ExecAdded { exec_id });
        Ok(())
    }

    /// Starts an announced process. Many may start at once.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<u32> {
        let added = self.added(exec_id)?;
        added.process.begin(None)?;
        let dir = self.bundle.join(format!("exec-{exec_id}"));
        let result = self.try_start_exec(&added, &dir).await;
        let _ = std::fs::remove_dir_all(&dir);
        if result.is_err() {
            added.process.give_back();
        }
        result
    }

    async fn try_start_exec(self: &Arc<Self>, added: &Arc<Added>, dir: &Path) -> Result<u32> {
        let process = &added.process;
        let described = process.snapshot().described;
        let addresses = Addresses::parse(&described.stdin, &described.stdout, &described.stderr)?;
        std::fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
        let spec = dir.join("process.json");
        std::fs::write(&spec, &added.spec).doing(|| format!("write {}", spec.display()))?;
        let _expecting = self.reaper.expecting();
        let stdio = self.stdio(described.terminal, &addresses, dir).await?;
        let console = stdio.socket.as_ref().map(ConsoleSocket::address);
        let call = self.runtime.exec(dir, &spec, stdio.child, console);
        let (pid, console) = self.with_console(stdio.socket.as_ref(), call).await?;
        let exit = self.reaper.exit_of(pid);
        process.made(pid, Phase::Running, console.clone());
        if let Err(error) = connect(
            process,
            stdio.log,
            stdio.ours,
            stdio.logger,
            console,
            &self.lifetime,
        )
        .await
        {
            diagnostics::report(&error.to_string());
        }
        let made = process.snapshot().pid;
        let started = What::ExecStarted {
            exec_id: process.exec_id.clone(),
            pid: made,
        };
        self.events.tell(&self.id, started);
        let (container, process) = (Arc::clone(self), Arc::clone(process));
        tokio::spawn(async move {
            let exit = exit.await.unwrap_or_else(|_| Exit::unknown());
            ending::exec_ended(&container, &process, exit).await;
        });
        Ok(made)
    }

    /// A process by its exec id; empty for the first one.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        Ok(Arc::clone(&self.added(exec_id)?.process))
    }

    fn added(&self, exec_id: &str) -> Result<Arc<Added>> {
        let found = lock(&self.execs).get(exec_id).cloned();
        found.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("no exec {exec_id:?} in container {}", self.id),
            )
        })
    }

    /// Every process that `exec` added.
    pub fn execs(&self) -> Vec<Arc<Process>> {
        lock(&self.execs)
            .values()
            .map(|added| Arc::clone(&added.process))
            .collect()
    }

    /// Forgets a process that has ended, or was never started.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(u32, Exit)> {
        let process = self.process(exec_id)?;
        let state = process.snapshot();
        let exit = match state.phase {
            Phase::Exited => process.wait().await,
            Phase::Announced => Exit::unknown(),
            _ => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("exec {exec_id} is running"),
                ));
            }
        };
        if state.phase == Phase::Announced {
            process.hub.end();
            process.publish(exit);
        }
        lock(&self.execs).remove(exec_id);
        Ok((state.pid, exit))
    }
}

/// The process to run, with the terminal that the call asks for; the two may differ, and the call counts.
fn with_terminal(spec: Vec<u8>, terminal: bool) -> Result<Vec<u8>> {
    let invalid = |what: String| Error::new(Kind::Invalid, format!("spec of the exec: {what}"));
    let mut value: serde_json::Value = serde_json::from_slice(&spec).map_err(|e| invalid(e.to_string()))?;
    let process = value
        .as_object_mut()
        .ok_or_else(|| invalid("not an object".to_owned()))?;
    if process.get("terminal").and_then(serde_json::Value::as_bool) == Some(terminal) {
        return Ok(spec);
    }
    process.insert("terminal".to_owned(), terminal.into());
    serde_json::to_vec(&value).map_err(|e| invalid(e.to_string()))
}
