//! A place of its own for programs under test: what they start, mount, listen on or charge stays inside, and
//! ends with it.
//!
//! An enclosure is one cgroup directory in every mounted hierarchy, plus a mount, network and cgroup
//! namespace. The cgroup namespace is rooted at that directory and the hierarchies are mounted anew, so that
//! a program which puts a container into `/somewhere` puts it below our directory: CPU time is complete, and
//! no process is ever lost, however often it forked. `/run` and `/dev/shm` are fresh; the network holds a
//! loopback that is up and nothing else.
//!
//! The calling *thread* enters, and with it all that it spawns from then on. Version 2 knows no threads here:
//! there the whole process moves. One enclosure at a time in one process, therefore.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, UnlinkatFlags, getpid, unlinkat};

use crate::cgroup::{Hierarchy, Version, hierarchies};
use crate::eventually::eventually;

/// Every directory of ours starts so; the maker's pid follows, so that a later run finds what a killed one
/// left.
const PREFIX: &str = "kelson-enclosure-";
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Where this process waits on v2: a directory that hands controllers down may hold no process itself.
const LEAF: &str = "self";

/// What an enclosure shows to those inside.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Mount the v2 hierarchy beside v1 ones. crun before 1.9 refuses to run where a controller sits in it.
    pub unified_beside_v1: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unified_beside_v1: true,
        }
    }
}

/// See the module's text. Dropping it ends every process inside and removes the cgroups.
#[derive(Debug)]
pub struct Enclosure {
    name: String,
    places: Vec<Place>,
    /// Whether the hierarchies are mounted anew. Until then the same paths show everybody's cgroups.
    mounted: bool,
}

/// One hierarchy, seen from outside and from inside.
#[derive(Debug)]
struct Place {
    hierarchy: Hierarchy,
    /// Root of the hierarchy before we entered: its directory is removed through this.
    outside: File,
    /// Where this thread was, to go back to.
    home: File,
    /// Where the hierarchy is mounted inside, its root being our directory.
    inside: PathBuf,
}

impl Enclosure {
    /// Enters a new enclosure.
    ///
    /// # Errors
    /// Without root, or where a namespace, mount or cgroup is refused; what was made until then is removed.
    pub fn enter(settings: Settings) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "an enclosure needs root");
        remove_stale()?;
        let name = format!("{PREFIX}{}", getpid());
        let mut enclosure = Self {
            name,
            places: Vec::new(),
            mounted: false,
        };
        for hierarchy in hierarchies()? {
            let place = enclosure
                .join(&hierarchy)
                .with_context(|| format!("join a cgroup of {hierarchy}"))?;
            enclosure.places.push(place);
        }
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWCGROUP)
            .context("unshare mount, network and cgroup namespaces")?;
        enclosure.mount_inside(settings)?;
        enclosure.check_alone()?;
        enclosure.mounted = true;
        enclosure.leave_v2_root_free()?;
        let status = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .context("run ip")?;
        ensure!(status.success(), "ip link set lo up: {status}");
        Ok(enclosure)
    }

    fn join(&self, hierarchy: &Hierarchy) -> Result<Place> {
        let directory = hierarchy.mount_point.join(&self.name);
        fs::create_dir(&directory)?;
        hierarchy.make_usable(&directory)?;
        let file = match hierarchy.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        };
        let home_directory = hierarchy.mount_point.join(hierarchy.own_path()?);
        let home = File::options().write(true).open(home_directory.join(file))?;
        let outside = File::open(&hierarchy.mount_point)?;
        fs::write(directory.join(file), "0")?;
        let relative = hierarchy
            .mount_point
            .strip_prefix(CGROUP_ROOT)
            .unwrap_or(Path::new(""));
        let inside = Path::new(CGROUP_ROOT).join(relative);
        Ok(Place {
            hierarchy: hierarchy.clone(),
            outside,
            home,
            inside,
        })
    }

    fn mount_inside(&self, settings: Settings) -> Result<()> {
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
        let links = symlinks_of(Path::new(CGROUP_ROOT))?;
        // A sysfs shows the network devices of the namespace that mounted it.
        let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("sysfs"), "/sys", Some("sysfs"), quiet, none).context("mount /sys")?;
        if self
            .places
            .iter()
            .any(|place| place.hierarchy.version == Version::V1)
        {
            mount(Some("tmpfs"), CGROUP_ROOT, Some("tmpfs"), quiet, Some("mode=755"))?;
        }
        for place in &self.places {
            let beside_v1 = place.hierarchy.version == Version::V2 && self.places.len() > 1;
            if beside_v1 && !settings.unified_beside_v1 {
                continue;
            }
            place.hierarchy.mount_at(&place.inside)?;
        }
        for (name, target) in links {
            std::os::unix::fs::symlink(target, Path::new(CGROUP_ROOT).join(name))?;
        }
        let no_suid_dev = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("tmpfs"),
            "/run",
            Some("tmpfs"),
            no_suid_dev,
            Some("mode=755"),
        )
        .context("mount /run")?;
        mount(
            Some("tmpfs"),
            "/dev/shm",
            Some("tmpfs"),
            no_suid_dev,
            Some("mode=1777"),
        )
        .context("mount /dev/shm")?;
        Ok(())
    }

    /// What is inside will be killed at the end, so nobody else may be there.
    fn check_alone(&self) -> Result<()> {
        for place in &self.places {
            let others: Vec<_> = pids_in(&place.inside.join("cgroup.procs"))
                .into_iter()
                .filter(|pid| *pid != getpid())
                .collect();
            ensure!(
                others.is_empty(),
                "{} shows processes that are not ours: {others:?}",
                place.hierarchy
            );
        }
        Ok(())
    }

    /// Our directory in one hierarchy, before and after the hierarchies are mounted anew.
    fn top(&self, place: &Place) -> PathBuf {
        if self.mounted {
            place.inside.clone()
        } else {
            place.hierarchy.mount_point.join(&self.name)
        }
    }

    /// Moves this process into a leaf of the v2 hierarchy, so that programs inside can hand controllers to
    /// others.
    fn leave_v2_root_free(&self) -> Result<()> {
        for place in self
            .places
            .iter()
            .filter(|place| place.hierarchy.version == Version::V2)
        {
            if place.inside.join("cgroup.procs").exists() {
                let leaf = place.inside.join(LEAF);
                fs::create_dir(&leaf)?;
                fs::write(leaf.join("cgroup.procs"), "0").context("move to a leaf of the v2 hierarchy")?;
            }
        }
        Ok(())
    }

    /// CPU time used by everything that was ever inside.
    ///
    /// # Errors
    /// When the machine keeps no such account.
    pub fn cpu_time(&self) -> Result<Duration> {
        for place in &self.places {
            if let Some(used) = place.hierarchy.cpu_time(&self.top(place))? {
                return Ok(used);
            }
        }
        anyhow::bail!("no cgroup hierarchy accounts CPU time")
    }

    /// The processes inside, without the caller's own.
    ///
    /// # Errors
    /// When a cgroup can't be read.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let mut all = Vec::new();
        for place in &self.places {
            for directory in tree(&self.top(place)) {
                all.extend(pids_in(&directory.join("cgroup.procs")));
            }
        }
        all.sort_unstable();
        all.dedup();
        all.retain(|pid| *pid != getpid());
        Ok(all)
    }

    /// The cgroup directories that programs inside have made and not removed, relative to the hierarchies'
    /// mounts.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for place in &self.places {
            let top = self.top(place);
            let leaf = top.join(LEAF);
            found.extend(
                tree(&top)
                    .into_iter()
                    .filter(|path| *path != top && *path != leaf),
            );
        }
        found.sort();
        found
    }

    /// Ends every process inside, and waits until none is left.
    ///
    /// # Errors
    /// When one survives SIGKILL for ten seconds.
    pub fn end_processes(&self) -> Result<()> {
        let mut ended = Vec::new();
        eventually(
            "the end of the processes in the enclosure",
            Duration::from_secs(10),
            || {
                for place in &self.places {
                    tree(&self.top(place))
                        .iter()
                        .for_each(|directory| thaw(directory));
                }
                let left = self.processes()?;
                for pid in &left {
                    kill(*pid, Signal::SIGKILL).ok();
                }
                ended.extend_from_slice(&left);
                ensure!(left.is_empty(), "still there: {left:?}");
                Ok(Some(()))
            },
        )?;
        // Those that lost their parent came to this process if it is a subreaper. A zombie is in no cgroup.
        for pid in ended {
            waitpid(pid, Some(WaitPidFlag::WNOHANG)).ok();
        }
        Ok(())
    }

    fn go_home(&self) -> Result<()> {
        let mut threads: Vec<i32> = Vec::new();
        for entry in fs::read_dir("/proc/self/task")? {
            threads.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<i32>().ok()),
            );
        }
        for place in &self.places {
            match place.hierarchy.version {
                Version::V1 => {
                    for task in pids_in(&self.top(place).join("tasks"))
                        .iter()
                        .filter(|t| threads.contains(&t.as_raw()))
                    {
                        // A thread may end while we move it.
                        (&place.home).write_all(task.to_string().as_bytes()).ok();
                    }
                    (&place.home).write_all(b"0")?;
                }
                Version::V2 => (&place.home).write_all(b"0")?,
            }
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        let ended = self.end_processes();
        self.go_home().context("leave the enclosure")?;
        for place in &self.places {
            let top = self.top(place);
            for directory in tree(&top).into_iter().rev().filter(|path| *path != top) {
                remove_soon(|| fs::remove_dir(&directory).map_err(Into::into)).ok();
            }
            let name = self.name.as_str();
            remove_soon(|| Ok(unlinkat(place.outside.as_fd(), name, UnlinkatFlags::RemoveDir)?))
                .with_context(|| format!("remove cgroup {name} of {}", place.hierarchy))?;
        }
        ended
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            // A drop cannot fail, and silence would hide what was left behind.
            writeln!(std::io::stderr(), "enclosure {}: {error:#}", self.name).ok();
        }
    }
}

/// A cgroup stays busy for moments after its last task went.
fn remove_soon(mut remove: impl FnMut() -> Result<()>) -> Result<()> {
    eventually("removal of a cgroup", Duration::from_secs(5), || {
        remove().map(Some)
    })
}

/// Clears what enclosures of dead processes left behind, for example after a test runner's SIGKILL.
///
/// # Errors
/// When the hierarchies can't be listed.
pub fn remove_stale() -> Result<()> {
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(&hierarchy.mount_point)?.flatten() {
            let name = entry.file_name();
            let maker = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX))
                .and_then(|pid| pid.parse::<i32>().ok());
            let Some(maker) = maker else { continue };
            if Path::new(&format!("/proc/{maker}")).exists() {
                continue;
            }
            for directory in tree(&entry.path()).iter().rev() {
                thaw(directory);
                for pid in pids_in(&directory.join("cgroup.procs")) {
                    kill(pid, Signal::SIGKILL).ok();
                }
                // Another run may be clearing the same; then it is gone, which is what we want.
                remove_soon(|| {
                    if directory.exists() {
                        Ok(fs::remove_dir(directory)?)
                    } else {
                        Ok(())
                    }
                })
                .ok();
            }
        }
    }
    Ok(())
}

/// What a v1 freezer holds does not even die.
fn thaw(directory: &Path) {
    for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let file = directory.join(file);
        if file.exists() {
            fs::write(file, word).ok();
        }
    }
}

/// A directory and all below it, parents first.
fn tree(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_owned()];
    let mut next = 0;
    while next < all.len() {
        // What vanishes while we look is not there.
        for entry in fs::read_dir(&all[next]).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.push(entry.path());
            }
        }
        next += 1;
    }
    all
}

fn pids_in(file: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

fn symlinks_of(directory: &Path) -> Result<Vec<(std::ffi::OsString, PathBuf)>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            links.push((entry.file_name(), fs::read_link(entry.path())?));
        }
    }
    Ok(links)
}
