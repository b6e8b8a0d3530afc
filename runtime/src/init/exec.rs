//! A further process in a running container.

use std::os::fd::{AsFd, OwnedFd};

use kelson_cgroups::Joiner;
use kelson_sys::spawn::{CloneArgs, Spawned, spawn};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Ns;
use rustix::process::{Signal, pidfd_send_signal};

use super::finalize::{self, Target};
use super::sync::{self, Channel, Message};
use crate::config::Process;
use crate::error::{Doing, Error, IntoError, Kind, Result};
use crate::log::Log;
use crate::namespaces::decide::flag;
use crate::namespaces::join;
use crate::process::affinity::Affinity;
use crate::process::attributes::Attributes;
use crate::process::capabilities::Sets;
use crate::process::{credentials, keyring, oom};
use crate::seccomp::Filter;
use crate::{intel_rdt, lsm, terminal};

/// Everything decided about the process.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The process.
    pub process: Process,
    /// Of the container's first process.
    pub target: OwnedFd,
    /// `CLONE_NEW*` of what to join.
    pub namespaces: u64,
    /// See [`crate::container::launch::capability_sets`].
    pub capabilities: Sets,
    /// Scheduler, personality and the like.
    pub attributes: Attributes,
    /// CPUs before and after it is in the container's cgroup.
    pub affinity: Affinity,
    /// The container's filter.
    pub filter: Option<Filter>,
    /// Where the terminal's master goes.
    pub console: Option<OwnedFd>,
    /// Descriptors to keep beyond the standard three.
    pub preserve_fds: u32,
    /// Where its share of caches is, to be joined.
    pub intel_rdt: Option<intel_rdt::Group>,
    /// The container has a session keyring.
    pub keyring: bool,
    /// Where stages go.
    pub log: Log,
}

/// Makes the process; comes back once it executes.
///
/// # Errors
/// Whatever it reported; it is gone then.
pub fn start(plan: &Plan, joiner: &Joiner) -> Result<(Pid, OwnedFd)> {
    let pid_namespace = flag(Ns::Pid);
    if plan.namespaces & pid_namespace != 0 {
        // Only children are affected. There is no way back, and none is needed: no hooks run for exec.
        setns(plan.target.as_fd(), CloneFlags::CLONE_NEWPID)
            .doing(|| "join the container's pid namespace")?;
    }
    plan.affinity.apply_initial()?;
    plan.log.debug(|| {
        format!(
            "nsexec container setup: joining namespaces {:#x}",
            plan.namespaces
        )
    });
    let (ours, theirs) = sync::pair()?;
    let mut ours = Some(ours);
    let spawned = spawn(
        CloneArgs {
            flags: 0,
            cgroup: joiner.unified(),
        },
        || {
            drop(ours.take());
            let error = match become_member(plan, joiner, &theirs) {
                Ok(program) => program.execute(),
                Err(e) => e,
            };
            theirs.fail(&error);
            1
        },
    );
    let Spawned { pid, pidfd } =
        spawned.map_err(|e| e.into_error("make a process in the container".into()))?;
    // The end of the stream is seen only once nobody here holds the child's end.
    drop(theirs);
    let channel: Channel = ours
        .take()
        .ok_or_else(|| Error::new(Kind::Internal, "no channel"))?;
    let message = loop {
        match channel.receive() {
            Ok(Some(Message::Note(text))) => plan.log.debug(|| text),
            other => break other,
        }
    };
    match message {
        // Closed on exec. One that died without a word is found by whoever waits for it.
        Ok(None) => Ok((pid, pidfd)),
        other => {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(other?
                .and_then(sync::error_of)
                .unwrap_or_else(|| Error::new(Kind::Internal, "broken protocol")))
        }
    }
}

fn become_member(plan: &Plan, joiner: &Joiner, channel: &Channel) -> Result<finalize::Program> {
    channel.note(&plan.log, || "child process in init()");
    // While /proc and /sys are the host's, and this process is still its root.
    let label = lsm::prepare(&plan.process, "")?;
    oom::adjust("self", plan.process.oom_score_adj)?;
    if let Some(group) = &plan.intel_rdt {
        group.add(0)?;
    }
    joiner.join()?;
    plan.affinity.apply_last()?;
    let namespaces = plan.namespaces & !flag(Ns::Pid);
    if namespaces != 0 {
        join::enter_of(&plan.target, namespaces)?;
    }
    let in_user_namespace = plan.namespaces & flag(Ns::User) != 0;
    if in_user_namespace {
        credentials::become_root()?;
    }
    rustix::process::setsid().doing(|| "start a session")?;
    if plan.keyring {
        keyring::join(&plan.id)?;
    }
    let slave = match &plan.console {
        Some(socket) => {
            let pty = terminal::open_inside(plan.process.console_size)?;
            terminal::send(socket.as_fd(), pty.master.as_fd())?;
            Some(pty.slave)
        }
        None => None,
    };
    let target = Target {
        process: &plan.process,
        capabilities: plan.capabilities,
        attributes: &plan.attributes,
        filter: plan.filter.as_ref(),
        in_user_namespace,
        preserve_fds: plan.preserve_fds,
        waits_with: None,
        extra_env: &[],
    };
    channel.note(&plan.log, || "setns_init: about to exec");
    finalize::become_target(&target, label, slave)
}
