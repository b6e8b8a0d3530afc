//! A container's files for the API: one path looked at, read as a tar or written from one; everything; what changed.
//!
//! A running container's files are reached through its own root, so that volumes, tmpfs and all it mounted are there. The
//! root of one that does not run is mounted where nobody sees it, with its volumes, while nothing else may be done with it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_images::{Access, Change, ExtractOptions, PathStat, RootFs};
use rustix::fs::{CWD, Mode, OFlags};
use tokio::sync::OwnedMutexGuard;

use super::container::Container;
use super::create::clean_path;
use super::launch;
use super::record::{MountKind, Record};
use crate::error::{Doing, Error, Kind, Result};
use crate::inner::{Inner, blocking};

/// A root, and the right to be the only one at it where that is needed.
struct Held {
    root: RootFs,
    _turn: Option<OwnedMutexGuard<()>>,
}

/// A tar that is about to be written.
pub struct TarSource {
    held: Held,
    /// None: everything.
    path: Option<PathBuf>,
}

impl std::fmt::Debug for TarSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarSource")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl TarSource {
    /// Writes the tar. Blocking.
    ///
    /// # Errors
    /// `Internal` when a file cannot be read, or `out` refuses.
    pub fn write(self, out: impl Write) -> Result<()> {
        match &self.path {
            Some(path) => self.held.root.archive(path, out)?,
            None => self.held.root.export(out)?,
        }
        Ok(())
    }
}

async fn hold(inner: &Arc<Inner>, container: &Arc<Container>, path: &Path, access: Access) -> Result<Held> {
    if container.status().has_process() {
        return live(container).await;
    }
    let turn = container.lock().await?;
    if container.status().has_process() {
        drop(turn);
        return live(container).await;
    }
    let (images, record, path) = (
        inner.images.clone(),
        container.record(),
        clean_path(&path.to_string_lossy()),
    );
    let root = blocking("mount a container's root", move || {
        let view = |access| -> Result<RootFs> {
            let root = images.view_container(&record.id, access)?;
            attach_volumes(&root, &record, &path, access)?;
            Ok(root)
        };
        match view(access) {
            // The place of a volume that no run has made yet: it is made, as the run would.
            Err(e) if e.kind() == Kind::NotFound && matches!(access, Access::ReadOnly) => {
                view(Access::ReadWrite)
            }
            other => other,
        }
    })
    .await?;
    Ok(Held {
        root,
        _turn: Some(turn),
    })
}

async fn live(container: &Arc<Container>) -> Result<Held> {
    let (id, pid) = (container.id.clone(), container.state().pid);
    let root = blocking("open a container's root", move || live_root(&id, pid)).await?;
    Ok(Held {
        root: RootFs::of(root),
        _turn: None,
    })
}

/// The root of a container's first process. The descriptor of its /proc directory belongs to that process alone, so a pid that
/// is somebody else's by now is told by its cgroup before anything is opened through it.
fn live_root(id: &str, pid: u32) -> Result<OwnedFd> {
    let doing = || format!("open the root of container {id}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())
        .map_err(std::io::Error::from)
        .doing(doing)?;
    let groups = rustix::fs::openat(
        &process,
        "cgroup",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(std::io::Error::from)
    .doing(doing)?;
    let mut text = String::new();
    File::from(groups).read_to_string(&mut text).doing(doing)?;
    if !text.contains(id) {
        return Err(Error::conflict(format!("container {id} is not running any more")));
    }
    rustix::fs::openat(&process, "root", flags, Mode::empty())
        .map_err(std::io::Error::from)
        .doing(doing)
}

/// Where the kernel cannot do it (before 6.15), only a path inside a volume is refused.
fn attach_volumes(root: &RootFs, record: &Record, path: &Path, access: Access) -> Result<()> {
    let mut mounts: Vec<_> = record
        .mounts
        .iter()
        .filter(|m| m.kind != MountKind::Tmpfs)
        .collect();
    mounts.sort_by_key(|m| m.destination.components().count());
    for mount in mounts {
        let mut attached = root.attach(&mount.destination, &mount.source);
        let missing = |e: &kelson_images::Error| e.kind() == kelson_images::Kind::NotFound;
        if attached.as_ref().is_err_and(missing)
            && matches!(access, Access::ReadWrite)
            && mount.source.is_dir()
        {
            attached = root
                .make_dirs(&mount.destination)
                .and_then(|()| root.attach(&mount.destination, &mount.source));
        }
        let Err(e) = attached else {
            continue;
        };
        if path.starts_with(&mount.destination) {
            return Err(e.into());
        }
    }
    Ok(())
}

fn not_there(name: &str, path: &Path, e: kelson_images::Error) -> Error {
    match e.kind() {
        kelson_images::Kind::NotFound => Error::not_found(format!(
            "Could not find the file {} in container {name}",
            path.display()
        )),
        _ => e.into(),
    }
}

pub(crate) async fn stat(inner: &Arc<Inner>, name: &str, path: &Path) -> Result<PathStat> {
    let container = inner.containers.find(name)?;
    let held = hold(inner, &container, path, Access::ReadOnly).await?;
    let (name, path) = (name.to_owned(), path.to_owned());
    blocking("look at a path", move || {
        held.root.stat(&path).map_err(|e| not_there(&name, &path, e))
    })
    .await
}

pub(crate) async fn archive(inner: &Arc<Inner>, name: &str, path: &Path) -> Result<(PathStat, TarSource)> {
    let container = inner.containers.find(name)?;
    let held = hold(inner, &container, path, Access::ReadOnly).await?;
    let (called, path) = (name.to_owned(), path.to_owned());
    let found = blocking("look at a path", move || {
        let stat = held.root.stat(&path).map_err(|e| not_there(&called, &path, e))?;
        let path = Some(path);
        Ok((stat, TarSource { held, path }))
    })
    .await?;
    inner.emit(&container, "archive-path", &[]);
    Ok(found)
}

pub(crate) async fn export(inner: &Arc<Inner>, name: &str) -> Result<TarSource> {
    let container = inner.containers.find(name)?;
    let (images, id) = (inner.images.clone(), container.id.clone());
    // Volumes are not the container's, and what the runtime mounts is nobody's.
    let root = blocking("mount a container's root", move || {
        Ok(images.view_container(&id, Access::ReadOnly)?)
    })
    .await?;
    inner.emit(&container, "export", &[]);
    let held = Held { root, _turn: None };
    Ok(TarSource { held, path: None })
}

pub(crate) async fn changes(inner: &Arc<Inner>, name: &str) -> Result<Vec<Change>> {
    let container = inner.containers.find(name)?;
    let (images, id) = (inner.images.clone(), container.id.clone());
    blocking("compare a container with its image", move || {
        Ok(images.changes(&id)?)
    })
    .await
}

/// How `PUT /containers/{id}/archive` extracts.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExtractArchive {
    /// A directory is never replaced by something else, nor the other way round.
    pub keep_kinds: bool,
    /// Files belong to the container's user instead of the archive's.
    pub as_user: bool,
}

pub(crate) async fn extract(
    inner: &Arc<Inner>,
    name: &str,
    path: &Path,
    input: impl Read + Send + 'static,
    how: ExtractArchive,
) -> Result<()> {
    let container = inner.containers.find(name)?;
    let record = container.record();
    writable(&record, &clean_path(&path.to_string_lossy()))?;
    let held = hold(inner, &container, path, Access::ReadWrite).await?;
    let (called, path, engine) = (name.to_owned(), path.to_owned(), Arc::clone(inner));
    blocking("extract an archive", move || {
        let user = record.config.user.clone();
        let owner = match how.as_user && !user.is_empty() {
            true => {
                let user = launch::exec_user(&engine, &record, &user, false)?;
                Some((user.uid, user.gid))
            }
            false => None,
        };
        let options = ExtractOptions {
            keep_kinds: how.keep_kinds,
            owner,
        };
        let done = held.root.extract(&path, input, options);
        done.map_err(|e| not_there(&called, &path, e))
    })
    .await?;
    inner.emit(&container, "extract-to-dir", &[]);
    Ok(())
}

/// In docker's words. A running container's kernel refuses too, whatever links lead where.
fn writable(record: &Record, path: &Path) -> Result<()> {
    let mounts = record.mounts.iter().filter(|m| path.starts_with(&m.destination));
    let nearest = mounts.max_by_key(|m| m.destination.components().count());
    match nearest {
        Some(mount) if !mount.rw => Err(Error::new(Kind::Denied, "mounted volume is marked read-only")),
        None if record.host.readonly_rootfs => {
            Err(Error::new(Kind::Denied, "container rootfs is marked read-only"))
        }
        _ => Ok(()),
    }
}
