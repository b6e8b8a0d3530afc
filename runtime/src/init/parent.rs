//! The runtime's side: making the first process and leading it to `Ready`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use kelson_cgroups::Joiner;
use kelson_sys::spawn::{CloneArgs, Spawned, spawn};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::child::{self, Gate, Inherited};
use super::sources;
use super::sync::{self, Channel, Message};
use crate::container::launch::Plan;
use crate::error::{Doing, Error, IntoError, Kind, Result};
use crate::namespaces::join::{self, Opened};
use crate::namespaces::{net_devices, user};
use crate::process::oom;
use crate::seccomp;
use oci_spec::runtime::LinuxNamespaceType as Ns;

/// The container's first process. Unless it is released, dropping this kills and reaps it.
#[derive(Debug)]
pub struct Init {
    /// As the host numbers it.
    pub pid: Pid,
    /// Its descriptor.
    pub pidfd: OwnedFd,
    channel: Channel,
    released: bool,
}

impl Drop for Init {
    fn drop(&mut self) {
        if !self.released {
            // It may be gone already; then there is only a status to fetch.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = reap(self.pid);
        }
    }
}

impl Init {
    /// Lets it live on without this runtime.
    pub fn release(&mut self) {
        self.released = true;
    }

    /// `run`: opens the gate, and waits until the program runs.
    ///
    /// # Errors
    /// What a startContainer hook or execve reported.
    pub fn go(&self) -> Result<()> {
        self.channel.send(&Message::Go(None))?;
        match self.channel.receive()? {
            // The channel is closed on exec. A process that died instead is found by whoever waits for it.
            None => Ok(()),
            Some(message) => Err(sync::error_of(message).unwrap_or_else(|| self.unexpected())),
        }
    }

    fn unexpected(&self) -> Error {
        Error::new(Kind::Internal, "the container's first process broke the protocol")
    }

    /// The error of a process that ended without a word.
    fn died(&mut self) -> Error {
        self.released = true;
        let how = match reap(self.pid) {
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
            Ok(WaitStatus::Exited(_, code)) => format!("exited with {code}"),
            _ => "ended".to_owned(),
        };
        Error::new(
            Kind::Internal,
            format!(
                "the container's first process {how} before it was ready\nhint: is a memory or pids limit too low?"
            ),
        )
    }
}

/// Makes the process and leads it to `Ready`; `hooks` is called with its pid at the moment for prestart and
/// createRuntime, and gives the state document for the hooks that run inside. `lock` stays with the runtime: the child
/// closes its copy first of all, so that what hangs in a hook cannot hold it for a runtime that was killed.
///
/// # Errors
/// Whatever the child reported. No process is left then.
pub fn start(
    plan: &Plan,
    joiner: Joiner,
    gate: Gate,
    lock: &mut Option<OwnedFd>,
    hooks: impl FnOnce(Pid) -> Result<String>,
    listener: impl Fn(Pid, OwnedFd) -> Result<()>,
) -> Result<Init> {
    let opened = join::open(&plan.namespaces)?;
    plan.log.debug(|| {
        format!(
            "nsexec container setup: clone flags {:#x}{}",
            plan.namespaces.create,
            if plan.namespaces.staged { ", staged" } else { "" }
        )
    });
    let (ours, theirs) = sync::pair()?;
    let mut init = if plan.namespaces.staged {
        staged(plan, &joiner, gate, &opened, lock, (ours, theirs))?
    } else {
        direct(plan, joiner, gate, &opened, lock, (ours, theirs))?
    };
    relocate_net_devices(plan, &opened, init.pid)?;
    if let Some(rdt) = &plan.intel_rdt {
        rdt.group.add(init.pid.as_raw())?;
    }
    // From here, as the child may not be allowed to, and owns nothing of its own /proc entry.
    if !plan.unprivileged {
        oom::adjust(init.pid, plan.process.oom_score_adj)?;
    }
    plan.log.debug(|| format!("first process is {}", init.pid));
    lead(plan, &mut init, hooks, listener)?;
    Ok(init)
}

fn relocate_net_devices(plan: &Plan, opened: &Opened, pid: Pid) -> Result<()> {
    if plan.net_devices.is_empty() {
        return Ok(());
    }
    match opened.network() {
        Some(joined) => net_devices::relocate(&plan.net_devices, joined),
        None => {
            let path = format!("/proc/{pid}/ns/net");
            let made = File::open(&path).doing(|| format!("linux.netDevices: open {path}"))?;
            net_devices::relocate(&plan.net_devices, &made)
        }
    }
}

fn direct(
    plan: &Plan,
    mut joiner: Joiner,
    gate: Gate,
    opened: &Opened,
    lock: &mut Option<OwnedFd>,
    (ours, theirs): (Channel, Channel),
) -> Result<Init> {
    let way_back = opened.enter_pid()?;
    let args = CloneArgs {
        flags: plan.namespaces.create,
        cgroup: joiner.take_unified(),
    };
    let mut ours = Some(ours);
    let spawned = spawn(args, || {
        drop(lock.take());
        let inherited = Inherited {
            channel: theirs,
            foreign: ours.take(),
            joiner: &joiner,
            opened: Some(opened),
            gate,
        };
        child::main(plan, inherited)
    });
    if let Some(own) = way_back {
        join::leave_pid(&own)?;
    }
    let Spawned { pid, pidfd } = spawned.map_err(|e| explain(e, plan))?;
    // spawn ran the closure in the child only: here it was dropped, and with it nothing of ours.
    let channel = ours
        .take()
        .ok_or_else(|| Error::new(Kind::Internal, "no channel"))?;
    let init = Init {
        pid,
        pidfd,
        channel,
        released: false,
    };
    if joiner.helper().is_some() {
        joiner.place_unified(pid.as_raw())?;
        init.channel.send(&Message::Go(None))?;
    }
    Ok(init)
}

/// With a process in between, which joins namespaces and makes the container's process as its own sibling.
fn staged(
    plan: &Plan,
    joiner: &Joiner,
    gate: Gate,
    opened: &Opened,
    lock: &mut Option<OwnedFd>,
    (ours, theirs): (Channel, Channel),
) -> Result<Init> {
    let mut ours = Some(ours);
    let Spawned { pid: between, .. } = spawn(CloneArgs::default(), || {
        drop((lock.take(), ours.take()));
        match sibling(plan, joiner, gate, opened, &theirs) {
            Ok(pid) => i32::from(theirs.send(&Message::Sibling(pid)).is_err()),
            Err(e) => {
                theirs.fail(&e);
                1
            }
        }
    })
    .map_err(|e| explain(e, plan))?;
    let channel = ours
        .take()
        .ok_or_else(|| Error::new(Kind::Internal, "no channel"))?;
    drop(theirs);
    // What it has to say is queued when it ends. One that was killed may have made the container's process and not said so:
    // that waits for us, and ends when we let go of the channel.
    if let WaitStatus::Signaled(_, signal, _) = reap(between)? {
        return Err(Error::new(
            Kind::Internal,
            format!("the process in between was killed by {signal}\nhint: is memory short?"),
        ));
    }
    let pid = match channel.receive()? {
        Some(Message::Sibling(pid)) => pid,
        Some(m) => {
            return Err(sync::error_of(m).unwrap_or_else(|| Error::new(Kind::Internal, "broken protocol")));
        }
        None => {
            return Err(Error::new(
                Kind::Internal,
                "the process in between ended without a word",
            ));
        }
    };
    let raw = rustix::process::Pid::from_raw(pid).ok_or_else(|| Error::new(Kind::Internal, "no pid"))?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).doing(|| "watch the container's first process")?;
    let init = Init {
        pid: Pid::from_raw(pid),
        pidfd,
        channel,
        released: false,
    };
    joiner.place_unified(pid)?;
    init.channel.send(&Message::Go(None))?;
    Ok(init)
}

/// In the process in between.
fn sibling(plan: &Plan, joiner: &Joiner, gate: Gate, opened: &Opened, theirs: &Channel) -> Result<i32> {
    opened.enter_pid()?;
    opened.enter()?;
    let flags = plan.namespaces.create | u64::from(nix::libc::CLONE_PARENT.cast_unsigned());
    let channel = theirs.duplicate()?;
    // Its v2 cgroup is the runtime's business: from inside a user namespace clone3 may not place it.
    let spawned = spawn(CloneArgs { flags, cgroup: None }, || {
        child::main(
            plan,
            Inherited {
                channel,
                foreign: None,
                joiner,
                opened: None,
                gate,
            },
        )
    });
    Ok(spawned.map_err(|e| explain(e, plan))?.pid.as_raw())
}

fn lead(
    plan: &Plan,
    init: &mut Init,
    hooks: impl FnOnce(Pid) -> Result<String>,
    listener: impl Fn(Pid, OwnedFd) -> Result<()>,
) -> Result<()> {
    let mut hooks = Some(hooks);
    loop {
        match init.channel.receive()? {
            Some(Message::Ready) => return Ok(()),
            Some(Message::Note(text)) => plan.log.debug(|| text),
            Some(Message::Mapped) => map(plan, init)?,
            Some(Message::Source(index)) => {
                sources::serve(plan, init.pid, init.pidfd.as_fd(), &init.channel, index)
                    .doing(|| format!("mounts[{index}]"))?;
            }
            Some(Message::Listener(number)) => {
                listener(init.pid, seccomp::fetch(&init.pidfd, number)?)?;
                init.channel.send(&Message::Go(None))?;
            }
            Some(Message::Hooks) => {
                let state = match hooks.take() {
                    Some(hooks) => hooks(init.pid)?,
                    None => return Err(init.unexpected()),
                };
                init.channel.send(&Message::Go(Some(state)))?;
            }
            Some(message) => return Err(sync::error_of(message).map_or_else(|| init.unexpected(), inside)),
            None => return Err(init.died()),
        }
    }
}

/// runc's words, which engines pass on and their users search for. What a program or a hook did wrong stands alone.
fn inside(error: Error) -> Error {
    match error.kind() {
        Kind::CommandNotFound | Kind::CommandNotExecutable | Kind::Hook => error,
        _ => error.within("unable to start container process: error during container init"),
    }
}

fn map(plan: &Plan, init: &Init) -> Result<()> {
    let linux = &plan.config.linux;
    plan.log.debug(|| "writing id maps");
    if plan.unprivileged {
        // The file is the user's for this moment only.
        oom::adjust(init.pid, plan.process.oom_score_adj)?;
    }
    user::write_maps(init.pid.as_raw(), &linux.uid_mappings, &linux.gid_mappings)?;
    init.channel.send(&Message::Go(None))
}

/// clone3's errors, each with what to change on the machine.
fn explain(error: std::io::Error, plan: &Plan) -> Error {
    let user = plan.namespaces.creates(Ns::User);
    let hint = match error.raw_os_error() {
        Some(nix::libc::EPERM) if !user => "hint: creating namespaces takes root, or a user namespace",
        Some(nix::libc::EPERM) => {
            "hint: sysctl kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0"
        }
        Some(nix::libc::ENOSPC) => "hint: raise the limits in /proc/sys/user/max_*_namespaces",
        Some(nix::libc::EINVAL) => "hint: this kernel lacks one of the namespaces",
        Some(nix::libc::EAGAIN) => "hint: a limit on processes (ulimit -u, pids.max) is reached",
        _ => "",
    };
    let doing = match hint {
        "" => "make the container's first process".to_owned(),
        hint => format!("make the container's first process ({hint})"),
    };
    error.into_error(doing.into())
}

pub(super) fn reap(pid: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            other => return other.doing(|| format!("wait for process {pid}")),
        }
    }
}
