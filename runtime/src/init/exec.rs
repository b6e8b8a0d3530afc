//! A further process in a running container.
//!
//! It takes a process in between. What is in the container's pid namespace can be reached by a process of the container
//! that has CAP_SYS_PTRACE, through `/proc/PID/root`, `cwd` and `fd`. So the one in between, which nobody in there sees,
//! enters everything and lets go of all that is the host's; only its child is in the pid namespace, and has nothing
//! foreign from its first moment on.

use std::os::fd::{AsFd, OwnedFd};

use kelson_cgroups::Joiner;
use kelson_sys::sched;
use kelson_sys::spawn::{CloneArgs, Spawned, spawn};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Ns;
use rustix::process::{PidfdFlags, pidfd_open};

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
use crate::seccomp::{self, Filter};
use crate::terminal::Outlet;
use crate::{fault, intel_rdt, lsm, terminal};

/// Everything decided about the process.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The process.
    pub process: Process,
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
    pub console: Option<Outlet>,
    /// Descriptors to keep beyond the standard three.
    pub preserve_fds: u32,
    /// Where its share of caches is, to be joined.
    pub intel_rdt: Option<intel_rdt::Group>,
    /// The container has a session keyring.
    pub keyring: bool,
    /// Where stages go.
    pub log: Log,
}

/// Makes the process; comes back once it executes. `target` is the container's first process. `listener` gets the new
/// process's pid and the descriptor on which its calls wait, if its filter makes any wait.
///
/// # Errors
/// Whatever it reported; it is gone then.
pub fn start(
    plan: &Plan,
    target: OwnedFd,
    mut joiner: Joiner,
    listener: impl Fn(i32, OwnedFd) -> Result<()>,
) -> Result<(Pid, OwnedFd)> {
    plan.log.debug(|| {
        format!(
            "nsexec container setup: joining namespaces {:#x}",
            plan.namespaces
        )
    });
    let (ours, theirs) = sync::pair()?;
    let mut ours = Some(ours);
    let args = CloneArgs {
        flags: 0,
        cgroup: joiner.take_unified(),
    };
    let helper = joiner.helper().cloned();
    let Spawned { pid: between, .. } = spawn(args, || {
        drop(ours.take());
        match go_between(plan, target, joiner, &theirs) {
            Ok(pid) => i32::from(theirs.send(&Message::Sibling(pid)).is_err()),
            Err(e) => {
                theirs.fail(&e);
                1
            }
        }
    })
    .map_err(|e| e.into_error("make a process to enter the container".into()))?;
    // The end of the stream is seen only once nobody here holds the child's end.
    drop(theirs);
    let channel: Channel = ours
        .take()
        .ok_or_else(|| Error::new(Kind::Internal, "no channel"))?;
    if let Some(helper) = helper {
        // Without an answer it ends: it sees that we let go of the channel.
        helper.move_in(between.as_raw())?;
        channel.send(&Message::Go(None))?;
    }
    // What it has to say is queued when it ends. One that was killed may have made the new process and not said so: that
    // waits for us, and ends when we let go of the channel.
    if let Ok(WaitStatus::Signaled(_, signal, _)) = waitpid(between, None) {
        return Err(Error::new(
            Kind::Internal,
            format!(
                "the process that enters the container was killed by {signal}\nhint: is a memory limit too low?"
            ),
        ));
    }
    let (pid, failure) = listen(&channel, &plan.log, &listener);
    match (pid, failure) {
        // Closed on exec. One that died without a word is found by whoever waits for it.
        (Some(pid), None) => {
            let raw = rustix::process::Pid::from_raw(pid);
            let raw = raw.ok_or_else(|| Error::new(Kind::Internal, "no pid"))?;
            // It is our child and not waited for yet, so the number is still its own.
            let pidfd = pidfd_open(raw, PidfdFlags::empty()).doing(|| "watch the new process")?;
            Ok((Pid::from_raw(pid), pidfd))
        }
        (pid, failure) => {
            if let Some(pid) = pid {
                // It ends by itself: it has told us, or sees that we do not listen any more.
                drop(channel);
                let _ = waitpid(Pid::from_raw(pid), None);
            }
            Err(failure.unwrap_or_else(|| {
                Error::new(
                    Kind::Internal,
                    "the process that enters the container ended without a word\nhint: is a memory or pids limit too low?",
                )
            }))
        }
    }
}

/// Until both have let go of their end: the pid from the one in between, and what went wrong in either. The one may
/// come before the other.
fn listen(
    channel: &Channel,
    log: &Log,
    listener: &impl Fn(i32, OwnedFd) -> Result<()>,
) -> (Option<i32>, Option<Error>) {
    let (mut pid, mut failure, mut waiting) = (None, None, None);
    loop {
        if let (Some(pid), Some(number)) = (pid, waiting) {
            waiting = None;
            if let Err(e) = hand_over(channel, pid, number, listener) {
                return (Some(pid), Some(e));
            }
        }
        match channel.receive() {
            Ok(None) => return (pid, failure),
            Ok(Some(Message::Note(text))) => log.debug(|| text),
            Ok(Some(Message::Sibling(number))) => {
                pid = Some(number);
                // From here on somebody knows of it: it may go on.
                if let Err(e) = channel.send(&Message::Go(None)) {
                    return (pid, Some(e));
                }
            }
            Ok(Some(Message::Listener(number))) => waiting = Some(number),
            Ok(Some(message)) => {
                let broken = || Error::new(Kind::Internal, "broken protocol");
                failure = Some(sync::error_of(message).unwrap_or_else(broken));
            }
            Err(e) => return (pid, Some(e)),
        }
    }
}

/// Gives the agent the descriptor on which the new process's calls wait.
fn hand_over(
    channel: &Channel,
    pid: i32,
    number: i32,
    listener: &impl Fn(i32, OwnedFd) -> Result<()>,
) -> Result<()> {
    let raw = rustix::process::Pid::from_raw(pid).ok_or_else(|| Error::new(Kind::Internal, "no pid"))?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).doing(|| "watch the new process")?;
    listener(pid, seccomp::fetch(&pidfd, number)?)?;
    channel.send(&Message::Go(None))
}

/// Everything that takes the host's /proc, cgroups or rights; then the namespaces, and the child as our own sibling.
/// Security label, score, cgroups, processors, ids and namespaces are what a child begins with.
fn go_between(plan: &Plan, target: OwnedFd, joiner: Joiner, channel: &Channel) -> Result<i32> {
    fault::point("exec.between");
    if joiner.helper().is_some() {
        channel.wait_go()?;
    }
    lsm::prepare(&plan.process)?.apply()?;
    if plan.keyring {
        lsm::label_keys(&plan.process)?;
    }
    oom::adjust_own(plan.process.oom_score_adj)?;
    if let Some(group) = &plan.intel_rdt {
        group.add(0)?;
    }
    plan.affinity.apply_initial()?;
    // The words are runc's, which its tests look for.
    channel.note(&plan.log, || {
        format!("nsexec: affinity: {:#x}", sched::affinity().unwrap_or(0))
    });
    joiner.join()?;
    drop(joiner);
    plan.affinity.apply_last()?;
    if plan.namespaces != 0 {
        join::enter_of(&target, plan.namespaces)?;
    }
    drop(target);
    fault::point("exec.entered");
    if plan.namespaces & flag(Ns::User) != 0 {
        credentials::become_root()?;
    }
    let args = CloneArgs {
        flags: u64::from(nix::libc::CLONE_PARENT.cast_unsigned()),
        cgroup: None,
    };
    let spawned = spawn(args, || {
        let error = match become_member(plan, channel) {
            Ok(program) => program.execute(),
            Err(e) => e,
        };
        channel.fail(&error);
        1
    });
    Ok(spawned
        .map_err(|e| e.into_error("make a process in the container".into()))?
        .pid
        .as_raw())
}

fn become_member(plan: &Plan, channel: &Channel) -> Result<finalize::Program> {
    fault::point("exec.member");
    channel.wait_go()?;
    channel.note(&plan.log, || "child process in init()");
    rustix::process::setsid().doing(|| "start a session")?;
    if plan.keyring {
        keyring::join(&plan.id)?;
    }
    let slave = match &plan.console {
        Some(outlet) => {
            let pty = terminal::open_inside(plan.process.console_size)?;
            outlet.send(pty.master.as_fd())?;
            Some(pty.slave)
        }
        None => None,
    };
    let target = Target {
        process: &plan.process,
        capabilities: plan.capabilities,
        attributes: &plan.attributes,
        filter: plan.filter.as_ref(),
        in_user_namespace: plan.namespaces & flag(Ns::User) != 0,
        preserve_fds: plan.preserve_fds,
        waits_with: None,
        extra_env: &[],
        peer: Some(channel),
        channel,
    };
    channel.note(&plan.log, || "setns_init: about to exec");
    finalize::become_target(&target, lsm::Prepared::default(), slave)
}
