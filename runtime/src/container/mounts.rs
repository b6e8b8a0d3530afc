//! `mounts add` and `mounts remove`: mounts of a container that runs.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kelson_sys::spawn::{CloneArgs, spawn};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use oci_spec::runtime::{LinuxNamespaceType as Ns, Mount};
use serde::Deserialize;

use super::exec::open_init;
use super::state::Record;
use super::store::Store;
use crate::config::Config;
use crate::error::{Doing, Error, IntoError, Kind, Result};
use crate::init::sync;
use crate::namespaces::decide::flag;
use crate::namespaces::join;
use crate::process::credentials;
use crate::rootfs::{OpenSource, Setup, WayIn, running};

/// What a file holds: a list of mounts as in config.json, bare or under its name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Bare(Vec<Mount>),
    Named { mounts: Vec<Mount> },
}

/// Reads the mounts of a file.
///
/// # Errors
/// `Invalid` for another form.
pub fn read(file: &Path) -> Result<Vec<Mount>> {
    let text = fs::read(file).doing(|| format!("open {}", file.display()))?;
    let listed = serde_json::from_slice(&text).map_err(|e| {
        Error::new(
            Kind::Invalid,
            format!("{}: no list of mounts: {e}", file.display()),
        )
    })?;
    let mounts = match listed {
        Listed::Bare(mounts) | Listed::Named { mounts } => mounts,
    };
    match mounts.iter().position(|m| !m.destination().is_absolute()) {
        Some(i) => Err(Error::field(
            format!("mounts[{i}].destination"),
            "is not absolute",
        )),
        None => Ok(mounts),
    }
}

/// Adds mounts, in order. Those before one that fails stay.
///
/// # Errors
/// `Conflict` when the container does not run; else names the entry.
pub fn add(store: &Store, id: &str, mounts: &[Mount]) -> Result<()> {
    let record = store.open(id)?.read()?;
    let target = open_init(&record)?;
    let sources = sources(&record, &target, mounts)?;
    let config = Config::default();
    let setup = Setup {
        config: &config,
        bundle: &record.bundle,
        rootfs: "/".into(),
        cgroup: None,
        user_namespace: record.namespaces & flag(Ns::User) != 0,
        way_in: WayIn::Pivot,
        cgroup_namespace: false,
        label: None,
        open_source: OpenSource(&|_| Err(Error::new(Kind::Unsupported, "the source was not opened"))),
    };
    inside(&record, &target, |_| {
        let all = mounts.iter().zip(sources).enumerate();
        for (i, (mount, source)) in all {
            running::add(&setup, i, mount, source)?;
        }
        Ok(())
    })
}

/// What the bind mounts show, each opened by its path on the host; nothing for other entries.
fn sources(record: &Record, target: &OwnedFd, mounts: &[Mount]) -> Result<Vec<Option<OwnedFd>>> {
    let wanted = (mounts.iter().enumerate())
        .map(|(i, m)| running::has_source(i, m))
        .collect::<Result<Vec<bool>>>()?;
    let open = |i: usize, mount| running::open_source(&record.bundle, i, mount);
    let entries = || mounts.iter().enumerate().zip(&wanted);
    if record.namespaces & flag(Ns::User) == 0 || !wanted.contains(&true) {
        return entries()
            .map(|((i, mount), wanted)| wanted.then(|| open(i, mount)).transpose())
            .collect();
    }
    let (channel, helper) = sync::pair()?;
    let hosts = locked_copy(target)?;
    let opened = || {
        // The rights on the host stay: root of the container may not search every directory on the way.
        setns(&hosts, CloneFlags::CLONE_NEWNS).doing(|| "enter the copy of the host's mounts")?;
        for ((i, mount), _) in entries().filter(|(_, wanted)| **wanted) {
            helper.send_fd(open(i, mount)?.as_fd())?;
        }
        Ok(())
    };
    let spawned = spawn(CloneArgs::default(), || {
        opened().inspect_err(|e| helper.fail(e)).is_err().into()
    })
    .map_err(|e| e.into_error("make a process that opens sources".into()))?;
    drop(helper);
    let received = entries()
        .map(|(_, wanted)| wanted.then(|| channel.receive_fd()).transpose())
        .collect();
    // It ends at once when nobody listens any more.
    drop(channel);
    waitpid(spawned.pid, None).doing(|| "wait for the process that opens sources")?;
    received
}

/// A copy of the host's mounts that belongs to the container's user namespace. In it, and in all that is cloned from it,
/// the attributes that a mount has on the host are locked, as they are for the mounts of the container's creation.
fn locked_copy(target: &OwnedFd) -> Result<OwnedFd> {
    let (channel, helper) = sync::pair()?;
    let copy = || {
        let path = "/proc/self/ns/mnt";
        join::enter_of(target, flag(Ns::User))?;
        unshare(CloneFlags::CLONE_NEWNS).doing(|| "copy the host's mounts")?;
        let namespace = File::open(path).doing(|| format!("open {path}"))?;
        helper.send_fd(namespace.as_fd())
    };
    let spawned = spawn(CloneArgs::default(), || {
        copy().inspect_err(|e| helper.fail(e)).is_err().into()
    })
    .map_err(|e| e.into_error("make a process that copies the host's mounts".into()))?;
    drop(helper);
    let namespace = channel.receive_fd();
    waitpid(spawned.pid, None).doing(|| "wait for the process that copies the host's mounts")?;
    namespace
}

/// Takes mounts off, the last first.
///
/// # Errors
/// As [`add`].
pub fn remove(store: &Store, id: &str, mounts: &[Mount]) -> Result<()> {
    let record = store.open(id)?.read()?;
    let target = open_init(&record)?;
    inside(&record, &target, |descriptors| {
        for (i, mount) in mounts.iter().enumerate().rev() {
            running::remove(i, mount.destination(), descriptors)?;
        }
        Ok(())
    })
}

/// Does something in the container's mount namespace (and, for its ids, in its user namespace), in a process of its own
/// that stays in the host's pid namespace: nothing inside can see it.
fn inside(record: &Record, target: &OwnedFd, work: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let own = record.namespaces & (flag(Ns::Mount) | flag(Ns::User));
    if own & flag(Ns::Mount) == 0 {
        return Err(Error::new(
            Kind::Unsupported,
            "the container has no mount namespace of its own",
        ));
    }
    let (ours, theirs) = sync::pair()?;
    let mut ours = Some(ours);
    let entered = || {
        let path = "/proc/self/fd";
        let descriptors = File::open(path).doing(|| format!("open {path}"))?;
        join::enter_of(target, own)?;
        if own & flag(Ns::User) != 0 {
            credentials::become_root()?;
        }
        work(&descriptors)
    };
    let spawned = spawn(CloneArgs::default(), || {
        drop(ours.take());
        entered().inspect_err(|e| theirs.fail(e)).is_err().into()
    })
    .map_err(|e| e.into_error("make a process to enter the container".into()))?;
    drop(theirs);
    let channel = ours
        .take()
        .ok_or_else(|| Error::new(Kind::Internal, "no channel"))?;
    let message = channel.receive()?;
    waitpid(spawned.pid, None).doing(|| "wait for the process in the container")?;
    match message.and_then(sync::error_of) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_a_list_with_or_without_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.json");
        for (text, count) in [
            (r#"[{"destination": "/a", "type": "tmpfs", "source": "x"}]"#, 1),
            (r#"{"mounts": []}"#, 0),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(read(&file).unwrap().len(), count);
        }
        for bad in ["{}", "7", r#"[{"destination": "a"}]"#, r#"[{"source": "/a"}]"#] {
            fs::write(&file, bad).unwrap();
            assert_eq!(read(&file).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
