//! A container's directories: making, joining, listing and removing them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::devices::DeviceRules;
use crate::error::{Error, Kind, Result};
use crate::host::Version;
use crate::limits::{self, Limit, Undo};
use crate::systemd::{Placeholder, Request, Unit};
use crate::{files, freeze, v1, v2};

/// How long to wait between two looks at a cgroup that is emptying.
pub(crate) const POLL: Duration = Duration::from_millis(2);
/// A sub-cgroup nested deeper than this is not walked.
const MAX_DEPTH: usize = 32;

/// One directory of a container, in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dir {
    /// The container's own directory.
    pub path: PathBuf,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// Version of its interface.
    pub version: Version,
    /// v1: its controllers, joined by commas. v2: empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub controllers: String,
    /// How many of the path's last components [`Cgroup::create`] made.
    #[serde(default)]
    pub made: usize,
}

impl Dir {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|c| c == controller)
    }

    fn is_cpuset(&self) -> bool {
        self.version == Version::V1 && self.has("cpuset")
    }
}

/// A container's directories, one in each hierarchy. It may be stored (serde) and used by another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    pub(crate) dirs: Vec<Dir>,
    /// With the systemd driver: whose cgroup it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Unit>,
}

impl Cgroup {
    /// The directories.
    pub fn dirs(&self) -> &[Dir] {
        &self.dirs
    }

    pub(crate) fn v1(&self, controller: &str) -> Option<&Dir> {
        self.dirs
            .iter()
            .find(|d| d.version == Version::V1 && d.has(controller))
    }

    pub(crate) fn v2(&self) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.version == Version::V2)
    }

    /// Whether v2 carries the controllers here.
    pub fn is_unified(&self) -> bool {
        self.dirs.iter().all(|d| d.version == Version::V2)
    }

    /// The systemd unit that the cgroup belongs to.
    pub fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// With the systemd driver, starts the unit, which makes the directories; goes before [`Cgroup::create`]. A scope
    /// ends when it is empty: keep what is given back until the container's first process is in it.
    ///
    /// # Errors
    /// `Conflict` when the unit exists or its cgroup holds processes; otherwise what systemd reported. No unit is
    /// left then.
    pub fn start_unit(&self, request: Request<'_>) -> Result<Option<Placeholder>> {
        let Some(unit) = &self.unit else {
            return Ok(None);
        };
        for dir in self.dirs.iter().filter(|d| d.path.exists()) {
            must_be_free(dir)?;
        }
        unit.start(request, self.is_unified())
    }

    /// Whether any of the directories is there.
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|d| d.path.exists())
    }

    /// Makes the directories. What it made before an error is removed again.
    ///
    /// # Errors
    /// `Conflict` when a directory is there already and holds processes; otherwise what the kernel reported.
    pub fn create(&mut self) -> Result<()> {
        let unified = self.is_unified();
        for i in 0..self.dirs.len() {
            if let Err(error) = create_dir(&mut self.dirs[i], unified, self.unit.is_none()) {
                let made = Self {
                    dirs: self.dirs[..=i].iter().filter(|d| d.made > 0).cloned().collect(),
                    unit: None,
                };
                // The first error is the one to tell; what stays behind here was in use by others.
                let _ = made.remove(Duration::ZERO);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes the limits and the device list into the directories, which were just made.
    ///
    /// # Errors
    /// Names the field, and the file and value that the kernel refused; `Unsupported` when a limit's controller is
    /// missing.
    pub fn apply(&self, resources: Option<&LinuxResources>, devices: &DeviceRules) -> Result<()> {
        if let Some(resources) = resources {
            let mut limits = if self.is_unified() {
                v2::limits(resources, &v2::Now::default())?
            } else {
                self.limits_v1(resources, v1::Now::FRESH)?
            };
            if self.unit.is_some() {
                // systemd sets this one once the placeholder is gone: see Placeholder::end.
                limits.retain(|l| !(l.file == "pids.max" && l.value == "1"));
            }
            self.write(&limits, None)?;
        }
        if self.is_unified() {
            return match self.v2() {
                Some(dir) => v2::apply_devices(&dir.path, devices),
                None => Ok(()),
            };
        }
        match self.v1("devices") {
            Some(dir) => v1::apply_devices(&dir.path, devices),
            None => Ok(()),
        }
    }

    /// Gives the container's own v2 directory to a user, with the files in it that are for whoever a cgroup is delegated
    /// to: config-linux.md, "Cgroup ownership". v1 has no safe delegation, and is left as it is.
    ///
    /// # Errors
    /// What changing the owner reported.
    pub fn give_to(&self, uid: u32) -> Result<()> {
        match self.v2() {
            Some(dir) if self.is_unified() => v2::give_to(&dir.path, uid),
            _ => Ok(()),
        }
    }

    /// Changes limits of a container that is there; what `resources` do not name stays as it is, and so does the
    /// list of devices (as with runc: access that a process has is never closed).
    ///
    /// # Errors
    /// As [`Cgroup::apply`]. Limits that were changed before the error are set back to what they were.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let now = match self.v2() {
            Some(dir) if self.is_unified() => v2::Now::read(&dir.path, resources),
            _ => v2::Now::default(),
        };
        let limits = if self.is_unified() {
            v2::limits(resources, &now)?
        } else {
            let memory = self.v1("memory").map(|d| d.path.as_path());
            self.limits_v1(resources, v1::Now::read(memory, resources))?
        };
        let mut undo = Undo::default();
        let mut done = self.write(&limits, Some(&mut undo));
        if done.is_ok()
            && let Some(unit) = &self.unit
        {
            // systemd writes its own idea of the limits: of a quota in whole percents, of no quota without its period.
            done = self
                .tell(unit, resources, &now)
                .and_then(|()| self.write(&limits, None));
        }
        if done.is_err() {
            undo.take_back();
        }
        done
    }

    /// On v1 systemd writes the list of devices anew when it applies a unit, by way of an empty one: nothing may run
    /// meanwhile that could be refused a device it has.
    fn tell(&self, unit: &Unit, resources: &LinuxResources, now: &v2::Now) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(2);
        let freeze = !self.is_unified() && !self.is_paused();
        if freeze {
            self.freeze(PATIENCE)?;
        }
        let told = unit.set(resources, self.is_unified(), now);
        if freeze {
            self.thaw()?;
        }
        told
    }

    /// The fields of `resources` that mean nothing on this layout or kernel, each with the reason, for a warning.
    pub fn ignored(&self, resources: &LinuxResources) -> Vec<&'static str> {
        limits::ignored(resources, self.is_unified())
    }

    /// On a hybrid machine v2 may have hugetlb, which no v1 hierarchy then has.
    fn limits_v1(&self, resources: &LinuxResources, now: v1::Now) -> Result<Vec<Limit>> {
        let mut limits = v1::limits(resources, now)?;
        if self.v1("hugetlb").is_none() && self.v2().is_some() {
            limits.extend(v2::hugetlb(resources)?);
        } else {
            limits.extend(v1::hugetlb(resources)?);
        }
        Ok(limits)
    }

    fn write(&self, limits: &[Limit], undo: Option<&mut Undo>) -> Result<()> {
        if !self.is_unified()
            && limits.iter().any(|l| l.version == Version::V2)
            && let Some(dir) = self.v2()
        {
            // Hybrid machines join v2 without its controllers: they are enabled for who asks for one.
            for parent in ancestors(dir) {
                v2::delegate(parent)?;
            }
        }
        let find = |limit: &Limit| {
            let dir = match limit.version {
                Version::V1 => self.v1(limit.controller),
                Version::V2 => self.v2(),
            };
            dir.map(|d| d.path.as_path())
        };
        limits::write(limits, find, undo)
    }

    /// The same container's cgroup on v2 where one of its processes is now: an init inside may have moved itself and
    /// the others below the container's own directory, which then takes no process (EBUSY).
    ///
    /// # Errors
    /// `NotFound` when the process is gone.
    pub fn where_process_is(&self, pid: i32) -> Result<Self> {
        let mut out = self.clone();
        let text = files::read(Path::new("/proc").join(pid.to_string()).as_path(), "cgroup")?;
        let path = text.lines().find_map(|l| l.strip_prefix("0::/"));
        if let (Some(path), Some(dir)) = (path, out.dirs.iter_mut().find(|d| d.version == Version::V2)) {
            let now = dir.mount.join(path);
            if now.starts_with(&dir.path) {
                dir.path = now;
            }
        }
        Ok(out)
    }

    /// The same container's cgroup below this one, as `exec --cgroup` names it: a path for every hierarchy, or
    /// `controllers:path` for one (the others stay at this cgroup).
    ///
    /// # Errors
    /// `Invalid` for a path that leaves this cgroup or controllers that share no hierarchy.
    pub fn below(&self, spec: &str) -> Result<Self> {
        let (controllers, path) = match spec.split_once(':') {
            Some((c, path)) => (Some(c), path),
            None => (None, spec),
        };
        let inner = path.trim_matches('/');
        if Path::new(inner)
            .components()
            .any(|c| matches!(c, std::path::Component::ParentDir))
        {
            return Err(Error::new(
                Kind::Invalid,
                format!("--cgroup: bad sub cgroup path {path:?}: it leaves the container's cgroup"),
            ));
        }
        let mut out = self.clone();
        let mut found = false;
        for dir in &mut out.dirs {
            let matches = controllers.is_none_or(|list| {
                if list.is_empty() {
                    dir.version == Version::V2
                } else {
                    // Controllers named together may sit in one hierarchy or in several.
                    list.split(',').any(|c| dir.has(c))
                }
            });
            if matches && !inner.is_empty() {
                dir.path.push(inner);
            }
            found |= matches;
        }
        let unknown = controllers.is_some_and(|list| {
            let mut names = list.split(',').filter(|c| !c.is_empty());
            names.any(|c| !self.dirs.iter().any(|dir| dir.has(c)))
        });
        if !found || unknown {
            return Err(Error::new(
                Kind::Invalid,
                format!("--cgroup: unknown controller in {spec:?}"),
            ));
        }
        Ok(out)
    }

    /// The processes in it and below it, each once, as the caller's pid namespace numbers them.
    ///
    /// # Errors
    /// `NotFound` when the directory is gone.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let Some(dir) = self.census() else {
            return Ok(Vec::new());
        };
        let mut pids = Vec::new();
        collect_pids(&dir.path, MAX_DEPTH, &mut pids)?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Whether no process is in it or below it. A cgroup that is gone is empty.
    ///
    /// # Errors
    /// What reading reported.
    pub fn is_empty(&self) -> Result<bool> {
        let populated = match self.v2() {
            Some(dir) => {
                files::read(&dir.path, "cgroup.events").map(|t| files::keyed(&t, "populated") == Some(1))
            }
            None => self.pids().map(|pids| !pids.is_empty()),
        };
        match populated {
            Ok(populated) => Ok(!populated),
            Err(e) if e.kind() == Kind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Removes the directories, cgroups made below them, and the empty parents that [`Cgroup::create`] made.
    /// Goes on after an error, and reports the first.
    ///
    /// # Errors
    /// `Conflict` when processes are still there at the end of `patience`.
    pub fn remove(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        // Stopping kills what is left, and removes the directories of the controllers that systemd manages.
        let mut first = self.unit.as_ref().map_or(Ok(()), Unit::stop);
        for dir in &self.dirs {
            if let Err(e) = remove_tree(&dir.path, until, MAX_DEPTH)
                && first.is_ok()
            {
                first = Err(e);
                continue;
            }
            for parent in dir.path.ancestors().skip(1).take(dir.made.saturating_sub(1)) {
                // Others may live there by now.
                if fs::remove_dir(parent).is_err() {
                    break;
                }
            }
        }
        first
    }

    /// The directory that knows every process: v2's if there is one, since all join it.
    fn census(&self) -> Option<&Dir> {
        self.v2()
            .or_else(|| self.v1("pids"))
            .or_else(|| self.v1("freezer"))
            .or_else(|| self.dirs.first())
    }
}

/// From the hierarchy's root down to the directory's parent.
fn ancestors(dir: &Dir) -> Vec<&Path> {
    let mut out: Vec<&Path> = dir
        .path
        .ancestors()
        .skip(1)
        .take_while(|p| p.starts_with(&dir.mount))
        .collect();
    out.reverse();
    out
}

/// `free`: a directory that was there must be empty; a new unit's has its placeholder in it.
pub(crate) fn create_dir(dir: &mut Dir, enable_controllers: bool, free: bool) -> Result<()> {
    // Another container's removal may take an empty parent away between two of our steps.
    const ATTEMPTS: usize = 8;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match try_create(dir, enable_controllers, free) {
            Err(e) if e.kind() == Kind::NotFound && attempt < ATTEMPTS => {}
            other => return other,
        }
    }
}

fn try_create(dir: &mut Dir, enable_controllers: bool, free: bool) -> Result<()> {
    if !enable_controllers && !dir.is_cpuset() {
        // The common case by one call: the parent is there.
        match fs::create_dir(&dir.path) {
            Ok(()) => {
                dir.made = dir.made.max(1);
                return Ok(());
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && free => return must_be_free(dir),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) => return Err(Error::io(e, format!("make cgroup {}", dir.path.display()))),
        }
    }
    let mut levels: Vec<&Path> = dir.path.ancestors().take_while(|p| *p != dir.mount).collect();
    levels.reverse();
    for (i, level) in levels.iter().enumerate() {
        if enable_controllers && let Some(parent) = level.parent() {
            v2::delegate(parent)?;
        }
        match fs::create_dir(level) {
            Ok(()) => dir.made = dir.made.max(levels.len() - i),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if i + 1 == levels.len() && free {
                    must_be_free(dir)?;
                }
            }
            Err(e) => return Err(Error::io(e, format!("make cgroup {}", level.display()))),
        }
        if dir.is_cpuset() {
            v1::inherit_cpuset(level)?;
        }
    }
    Ok(())
}

/// A directory that was there already may be used if nobody is in it, and if it would not stop whoever enters it.
fn must_be_free(dir: &Dir) -> Result<()> {
    if freeze::is_asked_for(dir) {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "linux.cgroupsPath: container's cgroup unexpectedly frozen: {}",
                dir.path.display()
            ),
        ));
    }
    let dir = &dir.path;
    let mut pids = Vec::new();
    collect_pids(dir, MAX_DEPTH, &mut pids)?;
    if pids.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Conflict,
        format!(
            "linux.cgroupsPath: container's cgroup is not empty: {} process(es) found in {}",
            pids.len(),
            dir.display()
        ),
    ))
}

fn collect_pids(dir: &Path, depth: usize, out: &mut Vec<i32>) -> Result<()> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        // A threaded v2 cgroup; its domain above lists the processes.
        Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => String::new(),
        other => other.map_err(|e| Error::io(e, format!("read {}", dir.join("cgroup.procs").display())))?,
    };
    out.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    for child in children(dir, depth) {
        match collect_pids(&child, depth - 1, out) {
            Err(e) if e.kind() == Kind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Cgroups directly below; none when `depth` is used up. One with only the two links of an empty directory is
/// not read: cgroupfs counts sub-directories in the link count.
pub(crate) fn children(dir: &Path, depth: usize) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    if depth == 0 || fs::metadata(dir).is_ok_and(|m| m.nlink() == 2) {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn remove_tree(dir: &Path, until: Instant, depth: usize) -> Result<()> {
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        match error.raw_os_error() {
            Some(nix::libc::ENOENT) => return Ok(()),
            Some(nix::libc::EBUSY) => {}
            _ => return Err(Error::io(error, format!("remove cgroup {}", dir.display()))),
        }
        // Busy with sub-cgroups, or with processes that are on their way out.
        for child in children(dir, depth) {
            remove_tree(&child, until, depth - 1)?;
        }
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < until => thread::sleep(POLL),
            Err(e) => return Err(Error::io(e, format!("remove cgroup {}", dir.display()))),
        }
    }
}
