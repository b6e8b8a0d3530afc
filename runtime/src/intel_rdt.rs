//! `linux.intelRdt`: shares of caches and memory bandwidth, by the kernel's resctrl filesystem.
//!
//! A container's group is a directory there. It is the container's own when `closID` is absent, and goes with it; one that
//! `closID` names may be shared, and stays. What is to be removed is in the container's record before it is made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::model::IntelRdt;
use crate::error::{Doing, Error, Kind, Result};

/// Where the kernel's documentation mounts it.
const USUAL: &str = "/sys/fs/resctrl";
/// `RDTGROUP_SUPER_MAGIC`
const MAGIC: u64 = 0x0765_5821;

/// What is to be done, decided from the config alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the group's directory; `None` is the root, the default group.
    group: Option<String>,
    /// `closID` is given: the directory may be shared and is never removed.
    named: bool,
    /// Lines for `schemata`, in the order to write them.
    schemata: Vec<String>,
    /// Name of the monitoring group.
    monitor: Option<String>,
}

/// The container's directories, as its record keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The group, which processes of `exec` join.
    pub path: PathBuf,
    /// It is removed with the container.
    pub owned: bool,
    /// The monitoring group inside, removed with the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<PathBuf>,
}

/// Decides for the container `id`.
///
/// # Errors
/// `Invalid` names the field.
pub fn decide(rdt: &IntelRdt, id: &str) -> Result<Wanted> {
    let at = "linux.intelRdt";
    let named = !rdt.clos_id.is_empty();
    let group = match rdt.clos_id.as_str() {
        "" => Some(id.to_owned()),
        "/" => None,
        name if name == "." || name == ".." || name.contains(['/', '\n', '\0']) => {
            let why = format!("{name:?} is not the name of a directory");
            return Err(Error::field(format!("{at}.closID"), why));
        }
        // The kernel's own directories in the root of the filesystem.
        name @ ("info" | "mon_groups" | "mon_data") => {
            return Err(Error::field(
                format!("{at}.closID"),
                format!("{name:?} is the kernel's"),
            ));
        }
        name => Some(name.to_owned()),
    };
    let mut schemata = Vec::new();
    for (name, value, prefix) in [
        ("l3CacheSchema", &rdt.l3_cache_schema, ""),
        ("memBwSchema", &rdt.mem_bw_schema, "MB:"),
    ] {
        if value.is_empty() {
            continue;
        }
        if !value.starts_with(prefix) {
            let why = format!("{value:?} does not start with {prefix}");
            return Err(Error::field(format!("{at}.{name}"), why));
        }
        schemata.push(line(value, &format!("{at}.{name}"))?);
    }
    for (i, value) in rdt.schemata.iter().enumerate() {
        schemata.push(line(value, &format!("{at}.schemata[{i}]"))?);
    }
    Ok(Wanted {
        group,
        named,
        schemata,
        monitor: rdt.enable_monitoring.then(|| id.to_owned()),
    })
}

fn line(value: &str, at: &str) -> Result<String> {
    if value.contains('\n') {
        return Err(Error::field(at, format!("{value:?} holds a newline")));
    }
    Ok(value.to_owned())
}

/// Where resctrl is mounted: the usual place, or wherever the mount table says.
///
/// # Errors
/// `Unsupported` when it is not mounted.
pub fn root() -> Result<PathBuf> {
    if rustix::fs::statfs(USUAL).is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|t| t == MAGIC)) {
        return Ok(PathBuf::from(USUAL));
    }
    let mounts = procfs::process::Process::myself().and_then(|p| p.mountinfo());
    let found = mounts
        .ok()
        .and_then(|all| all.0.into_iter().find(|m| m.fs_type == "resctrl"));
    found.map(|m| m.mount_point).ok_or_else(|| {
        let text = "linux.intelRdt: no resctrl filesystem is mounted\nhint: mount -t resctrl resctrl /sys/fs/resctrl, \
                    if the processor has resource control";
        Error::new(Kind::Unsupported, text)
    })
}

/// All that is known before anything is made.
#[derive(Debug)]
pub struct Prepared {
    root: PathBuf,
    wanted: Wanted,
    /// For the record.
    pub group: Group,
}

impl Prepared {
    /// Decides and looks, for the container `id`.
    ///
    /// # Errors
    /// As [`decide`], [`root`] and [`Wanted::locate`].
    pub fn new(rdt: &IntelRdt, id: &str) -> Result<Self> {
        let wanted = decide(rdt, id)?;
        let root = root()?;
        let group = wanted.locate(&root)?;
        Ok(Self { root, wanted, group })
    }

    /// Makes what is missing.
    ///
    /// # Errors
    /// As [`Wanted::make`].
    pub fn make(&self) -> Result<()> {
        self.wanted.make(&self.root, &self.group)
    }
}

impl Wanted {
    /// The directories, with a look at which exist; nothing is made yet.
    ///
    /// # Errors
    /// `Invalid` when a group that is only named, or whose schemata differ, cannot be the one meant.
    pub fn locate(&self, root: &Path) -> Result<Group> {
        let path = self
            .group
            .as_ref()
            .map_or_else(|| root.to_owned(), |name| root.join(name));
        let exists = path.is_dir();
        if self.named && self.schemata.is_empty() && !exists {
            let why = format!(
                "{} does not exist, and no schemata are given to make it with",
                path.display()
            );
            return Err(Error::field("linux.intelRdt.closID", why));
        }
        if self.named && exists && !self.schemata.is_empty() {
            let file = path.join("schemata");
            let present =
                fs::read_to_string(&file).doing(|| format!("linux.intelRdt: read {}", file.display()))?;
            if let Some(line) = self.schemata.iter().find(|l| !holds(&present, l)) {
                let why = format!("{} exists, and its schemata are not {line:?}", path.display());
                return Err(Error::field("linux.intelRdt", why));
            }
        }
        Ok(Group {
            owned: !self.named && !exists,
            monitor: self
                .monitor
                .as_ref()
                .map(|name| path.join("mon_groups").join(name)),
            path,
        })
    }

    /// Makes what is missing.
    ///
    /// # Errors
    /// What the kernel refused, with its own words from `info/last_cmd_status`.
    pub fn make(&self, root: &Path, group: &Group) -> Result<()> {
        let made = match fs::create_dir(&group.path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !group.owned => false,
            other => {
                told(root, other, || format!("make {}", group.path.display()))?;
                true
            }
        };
        // One that exists under the name given has the same schemata: they were compared.
        if made || !self.named {
            for line in &self.schemata {
                let written = fs::write(group.path.join("schemata"), format!("{line}\n"));
                told(root, written, || {
                    format!("write {line:?} to the schemata of {}", group.path.display())
                })?;
            }
        }
        match &group.monitor {
            Some(path) => told(root, fs::create_dir(path), || format!("make {}", path.display())),
            None => Ok(()),
        }
    }
}

impl Group {
    /// Puts a process into the group, and into its monitoring group; 0 is the calling one.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn add(&self, pid: i32) -> Result<()> {
        for dir in [Some(&self.path), self.monitor.as_ref()].into_iter().flatten() {
            fs::write(dir.join("tasks"), pid.to_string())
                .doing(|| format!("linux.intelRdt: add process {pid} to {}", dir.display()))?;
        }
        Ok(())
    }

    /// Removes what is the container's own. What is gone already is no error.
    ///
    /// # Errors
    /// The first one; it goes on after it.
    pub fn remove(&self) -> Result<()> {
        let own = self.owned.then_some(&self.path);
        let mut first = Ok(());
        for dir in [self.monitor.as_ref(), own].into_iter().flatten() {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    let failed = Err(e).doing(|| format!("linux.intelRdt: remove {}", dir.display()));
                    first = first.and(failed);
                }
                _ => {}
            }
        }
        first
    }
}

/// Whether the kernel's text has a line: resources and domains in any order, numbers with any leading zeroes.
fn holds(schemata: &str, line: &str) -> bool {
    let Some((resource, domains)) = line.split_once(':') else {
        return false;
    };
    let same = |a: &str, b: &str| {
        let bare = |s: &str| s.trim().trim_start_matches('0').to_lowercase();
        bare(a) == bare(b)
    };
    let present = schemata
        .lines()
        .filter_map(|l| l.split_once(':'))
        .find(|(r, _)| r.trim() == resource.trim());
    let Some((_, present)) = present else { return false };
    domains
        .split(';')
        .filter_map(|d| d.split_once('='))
        .all(|(domain, value)| {
            present
                .split(';')
                .filter_map(|d| d.split_once('='))
                .any(|(d, v)| same(d, domain) && same(v, value))
        })
}

/// Adds the kernel's words, which say more than an errno.
fn told(root: &Path, result: io::Result<()>, doing: impl Fn() -> String) -> Result<()> {
    result.doing(|| {
        let status = fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
        match status.trim() {
            "" | "ok" => format!("linux.intelRdt: {}", doing()),
            words => format!("linux.intelRdt: {} ({words})", doing()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> std::result::Result<Wanted, String> {
        decide(&serde_json::from_str(text).unwrap(), "c1").map_err(|e| e.chain())
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_order_of_schemata_is_the_specifications() {
        let w = of(r#"{"schemata":["L2:0=f"],"memBwSchema":"MB:0=20","l3CacheSchema":"L3:0=7f0"}"#).unwrap();
        assert_eq!(w.schemata, ["L3:0=7f0", "MB:0=20", "L2:0=f"]);
        assert_eq!(
            (w.group.as_deref(), w.named, w.monitor),
            (Some("c1"), false, None)
        );
        assert_eq!(of(r#"{"closID":"/"}"#).unwrap().group, None);
    }

    #[test]
    fn bad_fields_are_named() {
        for (text, why) in [
            (r#"{"closID":".."}"#, "closID: \"..\""),
            (r#"{"closID":"a/b"}"#, "closID: \"a/b\""),
            (r#"{"closID":"info"}"#, "closID: \"info\""),
            (
                r#"{"memBwSchema":"L3:0=1"}"#,
                "memBwSchema: \"L3:0=1\" does not start with MB:",
            ),
            (r#"{"l3CacheSchema":"L3:0=1\nMB:0=1"}"#, "l3CacheSchema: "),
            (r#"{"schemata":["L3:0=1","a\nb"]}"#, "schemata[1]: "),
        ] {
            let error = of(text).unwrap_err();
            assert!(
                error.starts_with(&format!("linux.intelRdt.{why}")),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn an_own_group_is_made_joined_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let w = of(r#"{"l3CacheSchema":"L3:0=7f0"}"#).unwrap();
        let group = w.locate(root.path()).unwrap();
        assert!(group.owned && !group.path.exists());
        w.make(root.path(), &group).unwrap();
        assert_eq!(read(group.path.join("schemata")), "L3:0=7f0\n");
        group.add(7).unwrap();
        assert_eq!(read(group.path.join("tasks")), "7");
        // A directory of the real filesystem is removed with the files in it.
        for file in ["schemata", "tasks"] {
            fs::remove_file(group.path.join(file)).unwrap();
        }
        group.remove().unwrap();
        assert!(!group.path.exists());
        group.remove().unwrap();
    }

    #[test]
    fn a_named_group_must_exist_or_have_schemata_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let error = of(r#"{"closID":"gold"}"#)
            .unwrap()
            .locate(root.path())
            .unwrap_err();
        assert!(error.chain().starts_with("linux.intelRdt.closID: "), "{error:?}");
        let w = of(r#"{"closID":"gold","schemata":["L3:0=0f;1=1"],"enableMonitoring":true}"#).unwrap();
        let group = w.locate(root.path()).unwrap();
        assert!(!group.owned);
        fs::create_dir_all(group.path.join("mon_groups")).unwrap();
        fs::write(
            group.path.join("schemata"),
            "    MB:0=100;1=100\n    L3:0=f;1=1\n",
        )
        .unwrap();
        let group = w.locate(root.path()).unwrap();
        w.make(root.path(), &group).unwrap();
        assert!(
            read(group.path.join("schemata")).contains("MB:0=100"),
            "written again"
        );
        assert_eq!(group.monitor.as_deref(), Some(&*group.path.join("mon_groups/c1")));
        group.remove().unwrap();
        assert!(group.path.exists() && !group.path.join("mon_groups/c1").exists());
        fs::write(group.path.join("schemata"), "L3:0=7;1=1\n").unwrap();
        let error = w.locate(root.path()).unwrap_err().chain();
        assert!(error.contains("its schemata are not \"L3:0=0f;1=1\""), "{error}");
    }
}
