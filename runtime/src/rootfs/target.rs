//! Mount points: opened by descriptor, made where missing, and refused where a mount would mislead whoever reads procfs.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, mkdirat, openat, readlinkat, statx,
};
use rustix::io::Errno;

use super::Mounted;
use super::resolve::{Root, clean};
use crate::error::{Doing, Error, Kind, Result};

/// What a mount point must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// A directory, made if missing, reached without symlinks: writes to procfs and sysfs below it must go there
    /// and nowhere else (CVE-2019-19921).
    PlainDirectory,
    /// A directory, made if missing.
    Directory,
    /// Anything but a directory; an empty file is made if it is missing.
    File,
    /// Whatever is there.
    Any,
    /// Whatever is there, a symlink included.
    Link,
}

/// An opened mount point.
#[derive(Debug)]
pub(super) struct Point {
    pub fd: OwnedFd,
    /// No symlink led to it: it is where its path says.
    plain: bool,
}

impl Point {
    /// Whether no symlink led to it.
    pub fn is_plain(&self) -> bool {
        self.plain
    }
}

pub(super) fn open(mounted: &Mounted, path: &Path, kind: Target) -> Result<Point> {
    let cleaned = clean(path);
    if cleaned.as_os_str().is_empty() {
        return Err(Error::new(Kind::Invalid, "the destination is the root itself"));
    }
    let doing = || format!("open mount point {}", path.display());
    let root = &mounted.root;
    if kind == Target::Link {
        let fd = root
            .open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)
            .doing(doing)?;
        return Ok(Point { fd, plain: false });
    }
    if kind == Target::Directory
        && let Some(fd) = new_in_dev(mounted, &cleaned).doing(doing)?
    {
        return Ok(Point { fd, plain: true });
    }
    // Nearly always there is no symlink on the way, which saves the question where it led.
    let fd = match root.handle_plain(&cleaned) {
        Ok(fd) => return Ok(Point { fd, plain: true }),
        Err(Errno::LOOP) if kind == Target::PlainDirectory => {
            let text = format!(
                "{}: procfs and sysfs must be mounted on ordinary directory, and this is a symlink",
                doing()
            );
            return Err(Error::new(Kind::Invalid, text));
        }
        Err(Errno::NOENT | Errno::LOOP) => match kind {
            Target::File => root.make_file(path),
            Target::Any => root.handle(path),
            _ => root.make_dirs(path),
        },
        other => other,
    };
    Ok(Point {
        fd: fd.doing(doing)?,
        plain: false,
    })
}

/// Makes a directory right below a /dev that we have just mounted and nobody else knows of. `None` for any other path, and
/// for what is there.
fn new_in_dev(mounted: &Mounted, cleaned: &Path) -> std::result::Result<Option<OwnedFd>, Errno> {
    let (Some(dev), Ok(name)) = (&mounted.dev, cleaned.strip_prefix("dev")) else {
        return Ok(None);
    };
    if name.iter().count() != 1 || mkdirat(dev, name, Mode::from_raw_mode(0o755)).is_err() {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dev, name, flags, Mode::empty()).map(Some)
}

/// The mode of a directory, if it is there.
pub(super) fn mode_of(root: &Root, path: &Path) -> Result<Option<u32>> {
    let doing = || format!("open mount point {}", path.display());
    let fd = match root.open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.doing(doing)?,
    };
    Ok(Some(rustix::fs::fstat(&fd).doing(doing)?.st_mode & 0o7777))
}

/// What has been mounted on `target` by mount(2), which gives no descriptor. A mount that someone put elsewhere by
/// renaming directories meanwhile is not found, which is an error.
pub(super) fn reopen(target: &OwnedFd) -> Result<OwnedFd> {
    let doing = || "open the new mount";
    let link = format!("/proc/self/fd/{}", target.as_raw_fd());
    let path = readlinkat(CWD, link, Vec::new()).doing(doing)?;
    let name = path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    let name = PathBuf::from(std::ffi::OsStr::from_bytes(name));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = openat(target, "..", flags, Mode::empty()).doing(doing)?;
    let mounted = openat(&parent, &name, flags, Mode::empty()).doing(doing)?;
    let id = |fd: &OwnedFd| statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).doing(doing);
    let (before, after) = (id(target)?, id(&mounted)?);
    if before.stx_mnt_id == after.stx_mnt_id || !after.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Error::new(
            Kind::Invalid,
            "the mount point was moved while it was mounted on",
        ));
    }
    Ok(mounted)
}

/// Mounts that hide parts of procfs would mislead the checks of programs that read it; only what presents resource
/// figures may be replaced (lxcfs does). `is_proc`: it is procfs that is mounted, which cannot pretend to be one.
pub(super) fn forbid_in_proc(target: &Point, destination: &Path, is_proc: bool) -> Result<()> {
    match place_in_proc(destination) {
        InProc::Top if is_proc => Ok(()),
        InProc::Figure => Ok(()),
        InProc::Top => Err(Error::new(
            Kind::Invalid,
            format!("{} may only be procfs", destination.display()),
        )),
        InProc::Inside => Err(inside(destination)),
        InProc::Outside if is_proc || target.plain => Ok(()),
        // A symlink may have led there.
        InProc::Outside => match rustix::fs::fstatfs(&target.fd) {
            Ok(s) if s.f_type == rustix::fs::PROC_SUPER_MAGIC => Err(inside(destination)),
            _ => Ok(()),
        },
    }
}

fn inside(destination: &Path) -> Error {
    Error::new(
        Kind::Invalid,
        format!("{} is inside procfs", destination.display()),
    )
}

#[derive(Debug, PartialEq, Eq)]
enum InProc {
    Outside,
    Top,
    Figure,
    Inside,
}

fn place_in_proc(destination: &Path) -> InProc {
    const FIGURES: [&str; 10] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    let cleaned = clean(destination);
    match cleaned.strip_prefix("proc") {
        Err(_) => InProc::Outside,
        Ok(below) if below.as_os_str().is_empty() => InProc::Top,
        Ok(below) if FIGURES.iter().any(|f| below == Path::new(f)) => InProc::Figure,
        Ok(_) => InProc::Inside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_proc() {
        let of = |p: &str| place_in_proc(Path::new(p));
        assert_eq!(
            [of("/proc"), of("proc/"), of("/x/../proc/.")],
            [InProc::Top, InProc::Top, InProc::Top]
        );
        assert_eq!(
            [of("/proc/meminfo"), of("/proc/sys/crypto/fips_enabled")],
            [InProc::Figure, InProc::Figure]
        );
        assert_eq!(
            [of("/proc/sys"), of("/proc/meminfo/x")],
            [InProc::Inside, InProc::Inside]
        );
        assert_eq!([of("/procfs"), of("/sys")], [InProc::Outside, InProc::Outside]);
    }
}
