//! The shim's own mount namespace, and the root file system in it. Both end with the shim.
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use kelson_shim_proto::task::Mount;
use nix::sched::CloneFlags;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    mount_change, mount_remount, move_mount, unmount,
};

use crate::error::{Doing, Error, Kind, Result};

/// The longest string one fsconfig call takes, in bytes; longer ones go through mount(2).
const MAX_FSCONFIG: usize = 255;

/// Gives this process, which must have one thread, a mount namespace of its own. Propagation of every mount
/// stays as it is, so that binds of shared mounts stay shared with the host.
pub fn own_namespace() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).doing(|| "unshare the mount namespace".to_owned())
}

/// Mounts a container's root on `target`, which is made if need be. Unless `shared`, nothing of it is seen by the host.
pub fn mount_root(mounts: &[Mount], target: &Path, shared: bool) -> Result<()> {
    std::fs::create_dir_all(target).doing(|| format!("make {}", target.display()))?;
    if mounts.is_empty() {
        return Ok(());
    }
    if !shared {
        keep_to_ourselves(target)?;
    }
    let mut done = 0;
    let result = mounts.iter().try_for_each(|mount| {
        let target = if mount.target.is_empty() {
            target.to_owned()
        } else {
            target.join(mount.target.trim_start_matches('/'))
        };
        mount_one(mount, &target)?;
        done += 1;
        Ok(())
    });
    if result.is_err() && done > 0 {
        unmount_root(target);
    }
    result
}

/// Takes a root away again, with everything below it.
pub fn unmount_root(target: &Path) {
    // A root of several mounts on one another needs as many calls; the bound is for a target that never clears.
    for _ in 0..16 {
        if unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
            return;
        }
    }
}

/// Where the bundle lies in a shared mount (a host without kelsond's private EXEC_ROOT), our mount would appear
/// there too. That mount is then made a slave in our namespace: the host's mounts still reach us, ours do not
/// reach the host. The price: `:rshared` binds of that one mount no longer propagate outwards.
fn keep_to_ourselves(target: &Path) -> Result<()> {
    let Some(mount_point) = shared_mount_of(target)? else {
        return Ok(());
    };
    mount_change(&mount_point, MountPropagationFlags::DOWNSTREAM)
        .doing(|| format!("make mount {} a slave", mount_point.display()))
}

/// The mount point of the mount that holds `path`, if it is shared.
fn shared_mount_of(path: &Path) -> Result<Option<PathBuf>> {
    let doing = || format!("find the mount of {}", path.display());
    let file = rustix::fs::open(
        path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .doing(doing)?;
    let id = rustix::fs::statx(
        &file,
        c"",
        rustix::fs::AtFlags::EMPTY_PATH,
        rustix::fs::StatxFlags::MNT_ID,
    )
    .doing(doing)?
    .stx_mnt_id;
    let table = std::fs::read_to_string("/proc/self/mountinfo").doing(doing)?;
    Ok(shared_mount_point(&table, id))
}

/// Finds mount `id` in the text of mountinfo, proc_pid_mountinfo(5), and tells its mount point if it is shared.
fn shared_mount_point(table: &str, id: u64) -> Option<PathBuf> {
    let id = id.to_string();
    let line = table.lines().find(|line| line.split(' ').next() == Some(&id))?;
    let fields: Vec<&str> = line.split(' ').collect();
    let optional = fields.get(6..)?.iter().take_while(|field| **field != "-");
    let shared = optional.into_iter().any(|field| field.starts_with("shared:"));
    // Blanks and backslashes in the path are octal; such a bundle path is not worth more than an error later.
    shared.then(|| PathBuf::from(fields[4].replace("\\040", " ")))
}

fn mount_one(mount_: &Mount, target: &Path) -> Result<()> {
    let plan = Plan::of(mount_)?;
    if mount_.type_ == "bind" || plan.bind {
        return bind(mount_, &plan, target);
    }
    let doing = || format!("mount {} on {}", mount_.type_, target.display());
    if let Some(("fuse" | "fuse3", program)) = mount_.type_.split_once('.') {
        return by_program(program, mount_, target);
    }
    if plan.fits_fsconfig() {
        match configure(mount_, &plan) {
            Ok(fd) => {
                return move_mount(
                    fd.as_fd(),
                    c"",
                    CWD,
                    target,
                    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
                )
                .doing(doing);
            }
            // No `lowerdir+` before Linux 6.8: one string, one page, and the old call.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error).doing(doing),
        }
    }
    let data =
        CString::new(plan.data()).map_err(|_| Error::new(Kind::Invalid, "mount options with a zero byte"))?;
    mount(
        mount_.source.as_str(),
        target,
        mount_.type_.as_str(),
        plan.flags(),
        data.as_c_str(),
    )
    .doing(doing)
}

/// A file system in user space: its program serves the mount, and ends with it.
fn by_program(program: &str, mount_: &Mount, target: &Path) -> Result<()> {
    let doing = || format!("mount {} on {}", mount_.type_, target.display());
    let mut command = std::process::Command::new(program);
    if !mount_.options.is_empty() {
        command.arg("-o").arg(mount_.options.join(","));
    }
    let output = command.arg(target).output().doing(doing)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(Kind::Internal, format!("{}: {said}", doing())))
}

fn configure(mount_: &Mount, plan: &Plan) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen(mount_.type_.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !mount_.source.is_empty() {
        fsconfig_set_string(fs.as_fd(), "source", mount_.source.as_str())?;
    }
    for lower in &plan.lower {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", lower.as_str())?;
    }
    for (key, value) in &plan.options {
        match value {
            Some(value) => fsconfig_set_string(fs.as_fd(), key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(fs.as_fd(), key.as_str())?,
        }
    }
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, plan.attributes)
}

fn bind(mount_: &Mount, plan: &Plan, target: &Path) -> Result<()> {
    let doing = || format!("bind {} on {}", mount_.source, target.display());
    let flags = if plan.recursive {
        MountFlags::BIND | MountFlags::REC
    } else {
        MountFlags::BIND
    };
    mount(mount_.source.as_str(), target, c"", flags, None).doing(doing)?;
    mount_change(
        target,
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .doing(doing)?;
    if plan.flags().is_empty() {
        return Ok(());
    }
    mount_remount(target, MountFlags::BIND | plan.flags(), c"").doing(doing)
}

/// A mount's options, sorted by how the kernel takes them.
#[derive(Debug, PartialEq)]
struct Plan {
    lower: Vec<String>,
    options: Vec<(String, Option<String>)>,
    attributes: MountAttrFlags,
    bind: bool,
    recursive: bool,
}

impl Plan {
    fn of(mount_: &Mount) -> Result<Self> {
        let mut plan = Self {
            lower: Vec::new(),
            options: Vec::new(),
            attributes: MountAttrFlags::empty(),
            bind: false,
            recursive: false,
        };
        for option in &mount_.options {
            match option.as_str() {
                "ro" => plan.attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
                "nosuid" => plan.attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
                "nodev" => plan.attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
                "noexec" => plan.attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
                "noatime" => plan.attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
                "rw" | "suid" | "dev" | "exec" | "relatime" | "" => {}
                "bind" => plan.bind = true,
                "rbind" => (plan.bind, plan.recursive) = (true, true),
                other => match other.split_once('=') {
                    Some(("lowerdir", list)) if mount_.type_ == "overlay" => plan.lower = split_lower(list),
                    Some((key, value)) => plan.options.push((key.to_owned(), Some(value.to_owned()))),
                    None => plan.options.push((other.to_owned(), None)),
                },
            }
        }
        if mount_.type_ == "overlay" && plan.lower.is_empty() {
            return Err(Error::new(Kind::Invalid, "overlay mount without lowerdir"));
        }
        Ok(plan)
    }

    fn fits_fsconfig(&self) -> bool {
        let values = self.options.iter().filter_map(|(_, value)| value.as_ref());
        self.lower
            .iter()
            .chain(values)
            .all(|text| text.len() <= MAX_FSCONFIG)
    }

    /// The options as one string, for mount(2).
    fn data(&self) -> String {
        let lower = self
            .lower
            .iter()
            .map(|dir| dir.replace('\\', "\\\\").replace(':', "\\:"))
            .collect::<Vec<_>>();
        let lower = (!lower.is_empty()).then(|| format!("lowerdir={}", lower.join(":")));
        let rest = self.options.iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        });
        lower.into_iter().chain(rest).collect::<Vec<_>>().join(",")
    }

    fn flags(&self) -> MountFlags {
        [
            (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
            (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
            (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
            (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
            (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
        ]
        .into_iter()
        .filter(|(attribute, _)| self.attributes.contains(*attribute))
        .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
    }
}

/// Splits `a:b\:c` at unescaped colons.
fn split_lower(list: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut chars = list.chars();
    while let Some(char) = chars.next() {
        match char {
            ':' => out.push(String::new()),
            '\\' => out
                .last_mut()
                .into_iter()
                .for_each(|dir| dir.extend(chars.next())),
            _ => out.last_mut().into_iter().for_each(|dir| dir.push(char)),
        }
    }
    out.retain(|dir| !dir.is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Mount {
        Mount {
            type_: "overlay".into(),
            source: "overlay".into(),
            options: options.iter().map(ToString::to_string).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn overlay_options_are_sorted() {
        let plan = Plan::of(&overlay(&[
            "lowerdir=/a:/b\\:c",
            "upperdir=/u",
            "workdir=/w",
            "userxattr",
            "ro",
        ]))
        .unwrap();
        assert_eq!(plan.lower, ["/a", "/b:c"]);
        assert_eq!(plan.data(), "lowerdir=/a:/b\\:c,upperdir=/u,workdir=/w,userxattr");
        assert_eq!(plan.flags(), MountFlags::RDONLY);
        assert!(plan.fits_fsconfig());
        assert!(Plan::of(&overlay(&["upperdir=/u"])).is_err());
    }

    #[test]
    fn shared_mounts_are_found_by_id() {
        let table = "27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n41 27 0:9 / /run/a\\040b rw master:2 - tmpfs t rw\n";
        assert_eq!(shared_mount_point(table, 27), Some("/".into()));
        assert_eq!(shared_mount_point(table, 41), None);
        assert_eq!(shared_mount_point(table, 5), None);
    }
}
