//! `clone3(2)`: a child in new namespaces and in a given cgroup, in one call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;

/// What the new process gets.
#[derive(Debug, Default)]
pub struct CloneArgs {
    /// `CLONE_NEW*` flags, and `CLONE_PARENT` where the child is to be the caller's sibling. Flags that share
    /// memory or a descriptor table with the child are refused.
    pub flags: u64,
    /// A directory of the cgroup v2 hierarchy in which the child starts (`CLONE_INTO_CGROUP`). It is closed in the
    /// child before anything else, so that nobody finds a way into the host's hierarchy there.
    pub cgroup: Option<OwnedFd>,
}

/// A process made by [`spawn`].
#[derive(Debug)]
pub struct Spawned {
    /// The child as its parent's pid namespace numbers it.
    pub pid: Pid,
    /// A process descriptor, closed on exec.
    pub pidfd: OwnedFd,
}

const SHARING: u64 = (libc::CLONE_VM
    | libc::CLONE_FILES
    | libc::CLONE_FS
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_VFORK
    | libc::CLONE_SETTLS) as u64;

/// Makes a child that runs `child` and exits with its result; see clone3(2).
///
/// The child is a copy of the caller, as after fork(2). No `atfork` handlers run.
///
/// # Errors
/// The errno of clone3; `EINVAL` for flags that share memory, `EBUSY` when the caller has more than one thread
/// (in the copy, locks held by other threads would never be released).
pub fn spawn(args: CloneArgs, child: impl FnOnce() -> i32) -> io::Result<Spawned> {
    if args.flags & SHARING != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if !single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is a plain struct of integers for which all zeroes is a valid value.
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    raw.flags = args.flags | libc::CLONE_PIDFD as u64;
    raw.pidfd = (&raw mut pidfd) as u64;
    // With CLONE_PARENT the exit signal is inherited from the caller and must be absent here.
    if args.flags & libc::CLONE_PARENT as u64 == 0 {
        raw.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = &args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `raw` is a valid clone_args of the size given, and its only pointer, `pidfd`, outlives the call.
    // Without CLONE_VM (checked above) the child has its own copy of memory and runs on its own copy of this
    // stack, as after fork(2); the process has one thread (checked above), so no lock is held by another.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let guard = ExitOnUnwind;
            drop(args);
            let code = child();
            std::mem::forget(guard);
            exit_now(code)
        }
        pid => {
            // SAFETY: on success the kernel stored a new descriptor there, which nobody else knows of.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
            Ok(Spawned {
                pid: Pid::from_raw(pid),
                pidfd,
            })
        }
    }
}

/// Ends this process at once: no exit handlers, no destructors, no flushing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// In the child a panic must not unwind into the parent's frames, which would then run twice.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        exit_now(101)
    }
}

/// Asked of the C library where it knows: that costs nothing, and needs no /proc, which in a process between two pid
/// namespaces may be one that does not show it.
#[cfg(target_env = "gnu")]
pub(crate) fn single_threaded() -> bool {
    unsafe extern "C" {
        /// glibc 2.32: false from the first pthread_create on.
        static __libc_single_threaded: libc::c_char;
    }
    // SAFETY: a variable of the C library of that type, initialized before main. Only threads write to it, and if there
    // is one it is false already.
    unsafe { __libc_single_threaded != 0 }
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn single_threaded() -> bool {
    // One directory per thread, plus "." and "..".
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/task").is_ok_and(|m| m.nlink() == 3)
}
