//! A container of the runtime under test, by the operations of the specification.
//!
//! The runtime's process ends after `create`, so the container's first process becomes ours (we are a subreaper): its
//! end and its exit status are learnt from the kernel, not from the runtime.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::process::{self, Ran};
use super::{Answers, Bundle, CALL_LIMIT, Lab, Observation};
use crate::eventually::eventually;

/// See the module's text. Dropping it ends and deletes it.
#[derive(Debug)]
pub struct Container<'a> {
    lab: &'a Lab,
    /// What it was made of.
    pub bundle: &'a Bundle,
    /// Its name.
    pub id: String,
    /// Its first process, on the host.
    pub pid: i32,
    ended: Cell<Option<i32>>,
    deleted: Cell<bool>,
}

impl<'a> Container<'a> {
    /// Creates one.
    ///
    /// # Errors
    /// When the runtime refuses, or tells no pid.
    pub fn create(lab: &'a Lab, bundle: &'a Bundle, options: &[&str]) -> Result<Self> {
        Self::create_as(lab, bundle, &lab.new_id(), options)
    }

    /// Creates one with a given name.
    ///
    /// # Errors
    /// As [`Container::create`].
    pub fn create_as(lab: &'a Lab, bundle: &'a Bundle, id: &str, options: &[&str]) -> Result<Self> {
        bundle.write()?;
        let mut container = Self {
            lab,
            bundle,
            id: id.to_owned(),
            pid: 0,
            ended: Cell::new(None),
            deleted: Cell::new(false),
        };
        let directory = bundle.directory.to_string_lossy();
        let mut command = lab.command(&["create", "--bundle", &directory]);
        command.args(options).arg(id);
        command
            .stdout(File::create(container.file("out"))?)
            .stderr(File::create(container.file("err"))?);
        let line = process::line_of(&command);
        let mut child = process::start(&mut command, &line)?;
        let status = process::finish(&mut child, &line, CALL_LIMIT)?;
        ensure!(
            status.success(),
            "{line}: {}: {}",
            process::status_text(status),
            process::tail(&container.stderr())
        );
        let state = container.state()?;
        let pid = state["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or(0);
        ensure!(pid > 0, "state of a created container has no pid: {state}");
        container.pid = pid;
        Ok(container)
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.lab.directory.join(format!("{}.{kind}", self.id))
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        process::read_bounded(&self.file("out")).unwrap_or_default()
    }

    /// What it and the runtime's `create` wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        process::read_bounded(&self.file("err")).unwrap_or_default()
    }

    /// What the probe said so far.
    ///
    /// # Errors
    /// Never, at present.
    pub fn answers(&self) -> Result<Answers> {
        Ok(Answers::parse(&self.stdout()))
    }

    /// What the probe said, once there are `count` answers.
    ///
    /// # Errors
    /// When there are not that many in time.
    pub fn answers_so_far(&self, count: usize) -> Result<Answers> {
        eventually(
            &format!("{count} answers of the container's probe"),
            CALL_LIMIT,
            || {
                let answers = self.answers()?;
                let said = answers.0.len();
                ensure!(said >= count || !self.has_ended(), "it ended after {said}");
                ensure!(said >= count, "it gave {said}");
                Ok(Some(answers))
            },
        )
    }

    /// The first answer, which is an observation.
    ///
    /// # Errors
    /// When it does not come.
    pub fn observation(&self) -> Result<Observation> {
        Ok(Observation(self.answers_so_far(1)?.value(0)?.clone()))
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn start(&self) -> Result<Ran> {
        self.lab.call(&["start", &self.id])?.ok()
    }

    /// Its state.
    ///
    /// # Errors
    /// When the runtime refuses, or says no JSON.
    pub fn state(&self) -> Result<Value> {
        let ran = self.lab.call(&["state", &self.id])?.ok()?;
        serde_json::from_str(&ran.stdout).with_context(|| format!("state is no JSON: {}", ran.stdout))
    }

    /// The word of its state.
    ///
    /// # Errors
    /// As [`Container::state`].
    pub fn status(&self) -> Result<String> {
        Ok(self.state()?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the runtime says so.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn becomes(&self, status: &str) -> Result<()> {
        eventually(&format!("status {status}"), CALL_LIMIT, || {
            let now = self.status()?;
            ensure!(now == status, "it is {now}");
            Ok(Some(()))
        })
    }

    /// Calls the runtime with a command, the id, and more.
    ///
    /// # Errors
    /// When it can't be called.
    pub fn call(&self, command: &str, more: &[&str]) -> Result<Ran> {
        let mut args = vec![command, self.id.as_str()];
        args.extend_from_slice(more);
        self.lab.call(&args)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn kill(&self, signal: &str) -> Result<Ran> {
        self.call("kill", &[signal])?.ok()
    }

    /// Deletes it.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn delete(&self) -> Result<Ran> {
        let ran = self.call("delete", &[])?.ok()?;
        self.deleted.set(true);
        Ok(ran)
    }

    /// Ends it by the runtime's `kill`, and waits.
    ///
    /// # Errors
    /// When the runtime refuses, or it does not end.
    pub fn end(&self) -> Result<()> {
        self.kill("KILL")?;
        self.wait()?;
        Ok(())
    }

    /// Waits for its first process to end.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.wait_for(CALL_LIMIT)
    }

    /// The same with a limit of its own.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for(&self, limit: Duration) -> Result<ExitStatus> {
        let raw = eventually(&format!("the end of process {}", self.pid), limit, || {
            Ok(self.reap())
        })?;
        Ok(ExitStatus::from_raw(raw))
    }

    /// Whether its first process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.reap().is_some()
    }

    fn reap(&self) -> Option<i32> {
        if self.ended.get().is_none() {
            let raw = match waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => Some(code << 8),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(signal as i32),
                // Not our child: the runtime keeps a process of its own between us. Then only its end is seen.
                Err(_) if !process::exists(self.pid) => Some(0),
                _ => {
                    process::reap_orphans_of(self.pid);
                    None
                }
            };
            self.ended.set(raw);
        }
        self.ended.get()
    }

    /// `exec` with some acts of the probe.
    ///
    /// # Errors
    /// When the runtime can't be called.
    pub fn exec(&self, options: &[&str], acts: &[&str]) -> Result<Ran> {
        let program = super::bundle::arguments("/probe", acts);
        let mut args = vec!["exec"];
        args.extend_from_slice(options);
        args.push(&self.id);
        args.extend(program.iter().map(String::as_str));
        self.lab.call(&args)
    }

    /// What an exec'd probe said; the exec must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn exec_answers(&self, options: &[&str], acts: &[&str]) -> Result<Answers> {
        Ok(Answers::parse(&self.exec(options, acts)?.ok()?.stdout))
    }

    /// What an exec'd probe observes.
    ///
    /// # Errors
    /// When the exec fails.
    pub fn exec_observe(&self, options: &[&str]) -> Result<Observation> {
        Ok(Observation(
            self.exec_answers(options, &["observe"])?.value(0)?.clone(),
        ))
    }

    /// A file below /proc of its first process, on the host.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn proc(&self, name: &str) -> Result<String> {
        let file = format!("/proc/{}/{name}", self.pid);
        Ok(fs::read_to_string(&file)
            .with_context(|| format!("read {file}"))?
            .trim()
            .to_owned())
    }

    /// The processes in its cgroup, in the first hierarchy that has one.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let Some(directory) = self.lab.cgroups(self.bundle.cgroup()).into_iter().next() else {
            return Vec::new();
        };
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// That nothing of it is left.
    ///
    /// # Errors
    /// Naming what is.
    pub fn check_gone(&self) -> Result<()> {
        let left = self.lab.cgroups(self.bundle.cgroup());
        ensure!(left.is_empty(), "cgroups are left: {left:?}");
        ensure!(!process::exists(self.pid), "process {} is left", self.pid);
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let here = self.bundle.directory.to_string_lossy().into_owned();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&here)).collect();
        ensure!(left.is_empty(), "mounts are left: {left:?}");
        let state = self.call("state", &[])?;
        ensure!(!state.succeeded(), "there is still a state: {}", state.stdout);
        Ok(())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.deleted.get() {
            return;
        }
        // It is our child until we reap it, so the pid is its own.
        if self.pid > 0 && !self.has_ended() {
            kill(Pid::from_raw(self.pid), Signal::SIGKILL).ok();
            self.wait_for(Duration::from_secs(2)).ok();
        }
        self.lab.call(&["delete", "--force", &self.id]).ok();
    }
}
