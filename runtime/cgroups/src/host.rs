//! The layout of this machine's cgroup hierarchies, and a container's place in them.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, Dir};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::systemd::Unit;

const ROOT: &str = "/sys/fs/cgroup";

/// Which versions are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// v2 only.
    Unified,
    /// v1 only.
    Legacy,
    /// v1, and a v2 hierarchy beside it.
    Hybrid,
}

/// Version of one hierarchy's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One hierarchy per controller set.
    V1,
    /// The single hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Version of its interface.
    pub version: Version,
    /// v1: its controllers as the kernel joins them (`cpu,cpuacct`, `name=systemd`). v2: empty.
    pub controllers: String,
    /// The caller's own cgroup in it, from /proc/self/cgroup.
    pub own: String,
}

/// This machine's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    layout: Layout,
    hierarchies: Vec<Hierarchy>,
}

impl Host {
    /// Looks at `/sys/fs/cgroup` and `/proc/self/cgroup`. The mount table is read only where a v1 hierarchy is
    /// not mounted under its usual name, as its cost grows with everything mounted on the machine.
    ///
    /// # Errors
    /// `Unsupported` when nothing usable is mounted; otherwise what reading those files reported.
    pub fn detect() -> Result<Self> {
        let own = files::read_small(Path::new("/proc/self/cgroup"))
            .map_err(|e| Error::io(e, "read /proc/self/cgroup"))?;
        if is(Path::new(ROOT), CGROUP2_SUPER_MAGIC) {
            let own = parse_own(&own)
                .find(|l| l.controllers.is_empty())
                .map_or("/", |l| l.path);
            let hierarchy = Hierarchy {
                mount: ROOT.into(),
                version: Version::V2,
                controllers: String::new(),
                own: own.into(),
            };
            return Ok(Self {
                layout: Layout::Unified,
                hierarchies: vec![hierarchy],
            });
        }
        let mut mountinfo = None;
        let mut hierarchies = Vec::with_capacity(12);
        for line in parse_own(&own) {
            let (mount, version) = if line.controllers.is_empty() {
                let mount = Path::new(ROOT).join("unified");
                if !is(&mount, CGROUP2_SUPER_MAGIC) {
                    continue;
                }
                (mount, Version::V2)
            } else {
                match mount_of_v1(line.controllers, &mut mountinfo)? {
                    Some(mount) => (mount, Version::V1),
                    None => continue,
                }
            };
            hierarchies.push(Hierarchy {
                mount,
                version,
                controllers: line.controllers.to_owned(),
                own: line.path.to_owned(),
            });
        }
        if hierarchies.is_empty() {
            return Err(Error::new(
                Kind::Unsupported,
                "find cgroups: no hierarchy is mounted below /sys/fs/cgroup\n\
                 hint: mount -t cgroup2 none /sys/fs/cgroup",
            ));
        }
        let hybrid = hierarchies.iter().any(|h| h.version == Version::V2);
        Ok(Self {
            layout: if hybrid { Layout::Hybrid } else { Layout::Legacy },
            hierarchies,
        })
    }

    /// Which versions are mounted.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// All mounted hierarchies.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The directories of a container, by runc's rules: an absolute `cgroups_path` starts at each hierarchy's
    /// mount, a relative one (or the id, where there is none) below the caller's own cgroup; on v2 beside the
    /// caller's own cgroup, since a v2 cgroup with processes cannot have controllers for its children.
    /// Nothing is made.
    ///
    /// # Errors
    /// `Invalid` for a path that names a hierarchy's root or holds a NUL byte.
    pub fn container(&self, cgroups_path: Option<&str>, id: &str) -> Result<Cgroup> {
        let path = match cgroups_path {
            None | Some("") => id,
            Some(path) => path,
        };
        if path.contains('\0') {
            return Err(Error::new(Kind::Invalid, "linux.cgroupsPath: holds a NUL byte"));
        }
        let inner = clean(path);
        if inner.as_os_str().is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                format!("linux.cgroupsPath: {path:?} names the root of the hierarchy"),
            ));
        }
        let absolute = path.starts_with('/');
        let dirs = self
            .hierarchies
            .iter()
            .map(|h| {
                let below = if absolute {
                    inner.clone()
                } else {
                    let own = clean(&h.own);
                    let parent = match (self.layout, own.parent()) {
                        (Layout::Unified, Some(parent)) => parent.to_owned(),
                        _ => own,
                    };
                    parent.join(&inner)
                };
                h.dir(&below)
            })
            .collect();
        Ok(Cgroup { dirs, unit: None })
    }

    /// The same for the systemd driver: `cgroups_path` is `slice:prefix:name`, and `user` asks for the calling user's
    /// own systemd. Nothing is made; for a user's systemd it is asked where its cgroup is.
    ///
    /// # Errors
    /// `Invalid` for a path of another form or names that systemd would refuse.
    pub fn systemd(&self, cgroups_path: Option<&str>, id: &str, user: bool) -> Result<Cgroup> {
        let unit = Unit::named(cgroups_path, id, user)?;
        let manager = unit.manager_cgroup()?;
        let below = clean(&manager).join(unit.place());
        Ok(Cgroup {
            dirs: self.hierarchies.iter().map(|h| h.dir(&below)).collect(),
            unit: Some(unit),
        })
    }

    /// The caller's own cgroup.
    pub fn own(&self) -> Cgroup {
        Cgroup {
            dirs: self.hierarchies.iter().map(|h| h.dir(&clean(&h.own))).collect(),
            unit: None,
        }
    }
}

impl Hierarchy {
    fn dir(&self, below: &Path) -> Dir {
        Dir {
            path: self.mount.join(below),
            mount: self.mount.clone(),
            version: self.version,
            controllers: self.controllers.clone(),
            made: 0,
        }
    }
}

/// One line of /proc/self/cgroup.
struct Own<'a> {
    controllers: &'a str,
    path: &'a str,
}

fn parse_own(text: &str) -> impl Iterator<Item = Own<'_>> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some(Own {
            controllers: parts.next()?,
            path: parts.next()?,
        })
    })
}

/// A relative path without `.`, `..` and empty components; `..` never climbs above the top.
fn clean(path: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

fn is(path: &Path, magic: FsType) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == magic)
}

fn mount_of_v1(controllers: &str, mountinfo: &mut Option<String>) -> Result<Option<PathBuf>> {
    let usual = Path::new(ROOT).join(controllers.strip_prefix("name=").unwrap_or(controllers));
    if is(&usual, CGROUP_SUPER_MAGIC) {
        return Ok(Some(usual));
    }
    let text = match mountinfo {
        Some(text) => text,
        None => mountinfo.insert(
            fs::read_to_string("/proc/self/mountinfo")
                .map_err(|e| Error::io(e, "read /proc/self/mountinfo"))?,
        ),
    };
    Ok(find_mount(text, controllers))
}

/// The mount point of the v1 hierarchy with exactly these controllers.
fn find_mount(mountinfo: &str, controllers: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        if right.next()? != "cgroup" {
            return None;
        }
        let options = right.nth(1)?;
        let all = controllers.split(',').all(|c| options.split(',').any(|o| o == c));
        if all {
            left.split(' ').nth(4).map(PathBuf::from)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(layout: Layout) -> Host {
        let v1 = Hierarchy {
            mount: "/sys/fs/cgroup/memory".into(),
            version: Version::V1,
            controllers: "memory".into(),
            own: "/user/me".into(),
        };
        let v2 = Hierarchy {
            mount: "/sys/fs/cgroup".into(),
            version: Version::V2,
            controllers: String::new(),
            own: "/user/me".into(),
        };
        Host {
            layout,
            hierarchies: vec![if layout == Layout::Unified { v2 } else { v1 }],
        }
    }

    fn path(layout: Layout, cgroups_path: Option<&str>) -> String {
        let cgroup = host(layout).container(cgroups_path, "web").unwrap();
        cgroup.dirs[0].path.to_str().unwrap().to_owned()
    }

    #[test]
    fn places_follow_runc() {
        assert_eq!(
            path(Layout::Legacy, Some("/kelson/web")),
            "/sys/fs/cgroup/memory/kelson/web"
        );
        assert_eq!(
            path(Layout::Legacy, Some("web")),
            "/sys/fs/cgroup/memory/user/me/web"
        );
        assert_eq!(path(Layout::Legacy, None), "/sys/fs/cgroup/memory/user/me/web");
        assert_eq!(path(Layout::Unified, None), "/sys/fs/cgroup/user/web");
        assert_eq!(
            path(Layout::Legacy, Some("/../../etc/../web")),
            "/sys/fs/cgroup/memory/web"
        );
    }

    #[test]
    fn units_have_a_directory_in_every_hierarchy() {
        let cgroup = host(Layout::Unified)
            .systemd(Some("machine.slice:libpod:x"), "web", false)
            .unwrap();
        assert_eq!(
            cgroup.dirs[0].path,
            Path::new("/sys/fs/cgroup/machine.slice/libpod-x.scope")
        );
        assert_eq!(cgroup.unit().unwrap().name(), "libpod-x.scope");
        assert_eq!(
            host(Layout::Legacy).own().dirs[0].path,
            Path::new("/sys/fs/cgroup/memory/user/me")
        );
    }

    #[test]
    fn the_root_itself_is_refused() {
        let error = host(Layout::Legacy).container(Some("/.."), "web").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("linux.cgroupsPath"));
    }

    #[test]
    fn own_lines_may_hold_colons() {
        let lines: Vec<_> = parse_own("4:memory:/a:b\n0::/c\n")
            .map(|l| (l.controllers, l.path))
            .collect();
        assert_eq!(lines, [("memory", "/a:b"), ("", "/c")]);
    }

    #[test]
    fn odd_mount_points_are_found() {
        let text = "36 31 0:33 / /cg/cc rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct\n";
        assert_eq!(find_mount(text, "cpu,cpuacct"), Some("/cg/cc".into()));
        assert_eq!(find_mount(text, "memory"), None);
    }
}
