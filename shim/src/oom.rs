//! A container that runs out of memory says so while it lives.
use std::os::fd::{AsFd, AsRawFd, RawFd};

use kelson_cgroups::{Cgroup, Host, OomWatch};
use kelson_shim_proto::containerd::events::What;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::diagnostics;
use crate::events::Events;

/// Tells `events` of every time the kernel ends a process of `cgroup` for want of memory, until the cgroup is gone.
/// Without a memory controller nothing is ever told.
pub fn watch(id: &str, cgroup: &Cgroup, events: &Events) {
    let watch = match cgroup.oom_watch() {
        Ok(watch) => watch,
        Err(error) => return diagnostics::report(&format!("memory of {id}: {error}")),
    };
    #[expect(
        deprecated,
        reason = "the successor is unsafe for types that may change their descriptor; this one never does"
    )]
    let Ok(watch) = AsyncFd::with_interest(Watched(watch), Interest::READABLE) else {
        return;
    };
    let (id, events) = (id.to_owned(), events.clone());
    tokio::spawn(async move {
        let _ = listen(&id, watch, &events).await;
    });
}

async fn listen(id: &str, mut watch: AsyncFd<Watched>, events: &Events) -> std::io::Result<()> {
    loop {
        let mut ready = watch.readable_mut().await?;
        let Ok(heard) = ready.get_inner_mut().0.heard() else {
            return Ok(());
        };
        ready.clear_ready();
        for _ in 0..heard.ooms {
            events.tell(id, What::Oom);
        }
        if heard.ended {
            return Ok(());
        }
    }
}

#[derive(Debug)]
struct Watched(OomWatch);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The cgroup that process `pid` is in: what systemd made of a `slice:prefix:name`. It uses one path everywhere.
pub fn cgroup_of(host: &Host, pid: i32) -> Option<Cgroup> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    host.container(Some(path_in(&table)?), "").ok()
}

/// The path of the memory controller's line of `/proc/PID/cgroup`, cgroups(7), or of v2's.
fn path_in(table: &str) -> Option<&str> {
    let line = |wanted: &dyn Fn(&str) -> bool| {
        table.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            wanted(controllers).then_some(path)
        })
    };
    line(&|controllers| controllers.split(',').any(|name| name == "memory"))
        .or_else(|| line(&|controllers| controllers.is_empty()))
        .filter(|path| *path != "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_both_versions() {
        let hybrid = "12:cpu,cpuacct:/a\n3:memory:/system.slice/x.scope\n1:name=systemd:/s\n0::/v2\n";
        assert_eq!(path_in(hybrid), Some("/system.slice/x.scope"));
        assert_eq!(path_in("0::/k.slice/c:d.scope\n"), Some("/k.slice/c:d.scope"));
        assert_eq!(path_in("0::/\n"), None);
    }
}
