//! Sources of bind mounts that the container's first process cannot open itself: those whose ids are mapped, and those
//! below directories that root of its user namespace may not search.
//!
//! A helper of the runtime enters the container's mount namespace, keeping its rights on the host, and sends back a
//! detached mount. Opened in there and not on the host it has the propagation that was decided, and the attributes that
//! are locked for the user namespace stay locked.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kelson_sys::mount::set_idmap;
use kelson_sys::spawn::{CloneArgs, Spawned, spawn};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Ns;
use rustix::process::{Signal, pidfd_send_signal};

use super::parent::reap;
use super::sync::Channel;
use crate::container::launch::Plan;
use crate::error::{Doing, Error, Kind, Result};
use crate::namespaces::user;
use crate::rootfs::idmap::{self, Mapping};
use crate::rootfs::{open_source, options};

/// Has the source of `mounts[index]` opened in the mount namespace of `first`, and sent over the channel.
///
/// # Errors
/// What is wrong on this side; the helper reports its errors to the container's process.
pub fn serve(plan: &Plan, first: Pid, pidfd: BorrowedFd<'_>, channel: &Channel, index: usize) -> Result<()> {
    let linux = &plan.config.linux;
    let entry = plan
        .config
        .mounts
        .get(index)
        .ok_or_else(|| Error::new(Kind::Internal, "no such mount"))?;
    let options = options::parse(entry.options().as_deref().unwrap_or_default());
    let mapping = idmap::decide(entry, &options, linux, plan.namespaces.has(Ns::User))?;
    let userns = match &mapping {
        None => None,
        Some((Mapping::Container, recursive)) => {
            let path = format!("/proc/{first}/ns/user");
            let file = File::open(&path).doing(|| format!("open {path}"))?;
            Some((OwnedFd::from(file), *recursive))
        }
        Some((Mapping::Own { uids, gids }, recursive)) => {
            let holder = Holder::new()?;
            user::write_maps(holder.pid.as_raw(), uids, gids)?;
            Some((holder.namespace()?, *recursive))
        }
    };
    let open = || {
        setns(pidfd, CloneFlags::CLONE_NEWNS).doing(|| "join the container's mount namespace")?;
        let tree = open_source(&plan.bundle, entry, &options)?;
        if let Some((userns, recursive)) = &userns {
            set_idmap(&tree, *recursive, userns.as_fd())
                .doing(|| "map its ids (not every filesystem can, and root on the host is needed)")?;
        }
        Ok(tree)
    };
    let Spawned { pid, .. } = spawn(CloneArgs::default(), || match open() {
        Ok(tree) => i32::from(channel.send_fd(tree.as_fd()).is_err()),
        Err(e) => {
            channel.fail(&e);
            0
        }
    })
    .doing(|| "make a process that opens a mount's source")?;
    match reap(pid)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        // It may have died without an answer, for which the container's process would wait for ever.
        _ => Err(Error::new(
            Kind::Internal,
            "the process that opens a mount's source ended without an answer\nhint: is a memory or pids limit too low?",
        )),
    }
}

/// A process that is there for its user namespace only.
struct Holder {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Holder {
    fn new() -> Result<Self> {
        let flags = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        let parent = rustix::process::getpid();
        let spawned = spawn(CloneArgs { flags, cgroup: None }, || {
            // It must not outlive a runtime that is killed, which may have happened already.
            let armed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            if armed.is_err() || rustix::process::getppid() != Some(parent) {
                return 1;
            }
            loop {
                nix::unistd::pause();
            }
        });
        let Spawned { pid, pidfd } = spawned.doing(|| "make a user namespace for mapped ids")?;
        Ok(Self { pid, pidfd })
    }

    fn namespace(&self) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/user", self.pid);
        Ok(File::open(&path).doing(|| format!("open {path}"))?.into())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = reap(self.pid);
    }
}
