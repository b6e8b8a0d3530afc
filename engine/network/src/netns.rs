//! Network namespaces, held by descriptors and by nothing else.
//!
//! A thread that calls unshare or setns belongs to the other namespace until it ends, so each such call has a
//! thread of its own, which ends with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink::route::Rtnl;

/// The calling thread's own view; `/proc/self` would name the main thread's.
const THREAD_NETNS: &str = "/proc/thread-self/ns/net";
/// Loopback is the first link of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Makes a namespace with loopback up. Links made in it later have no IPv6: the bridge gives none, and a link-local
/// address would only cost start time and answer to neighbours. Loopback keeps `::1`.
pub(crate) fn create() -> io::Result<OwnedFd> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let held = File::open(THREAD_NETNS)?;
        Rtnl::open()?.set_up(LOOPBACK_INDEX)?;
        write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        Ok(OwnedFd::from(held))
    })
}

/// An rtnetlink socket inside `netns`.
pub(crate) fn rtnl_inside(netns: BorrowedFd<'_>) -> io::Result<Rtnl> {
    inside(netns, Rtnl::open)
}

/// Does `work` inside `netns`.
pub(crate) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_own_thread(|| {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Writes below `/proc/sys`, in the calling thread's namespace. A missing file is not an error: the kernel may have
/// been built or booted without IPv6.
pub(crate) fn write_sysctl(path: &str, value: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/{path}"), value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}
