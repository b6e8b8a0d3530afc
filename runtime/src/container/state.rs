//! What is known of a container: the record on disk, and the specification's view of it.

use std::collections::HashMap;
use std::path::PathBuf;

use kelson_cgroups::Cgroup;
use oci_spec::runtime::Hooks;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fault;
use crate::intel_rdt;
use crate::process::stat;
use crate::users;

/// Version of [`Record`]. A newer one is refused by name.
pub const FORMAT: u32 = 2;

/// `state.json` in the container's state directory. It is written before anything of the container is made (`pid`
/// is 0 then), and again when its first process is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`FORMAT`]
    pub format: u32,
    /// `ociVersion` of the config.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Its first process as the host numbers it; 0 while it is being created.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot: a later process with the same pid differs in it.
    pub start_time: u64,
    /// The bundle directory, absolute.
    pub bundle: PathBuf,
    /// What stands for the bundle's config.json, absolute; none is that file itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<PathBuf>,
    /// The root filesystem on the host, absolute.
    pub rootfs: PathBuf,
    /// Without a mount namespace: the mount it was on before ours was put over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mount: Option<u64>,
    /// RFC 3339, UTC.
    pub created: String,
    /// User id of who created it.
    pub owner: u32,
    /// `annotations` of the config.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// The container's cgroup directories.
    pub cgroup: Cgroup,
    /// `CLONE_NEW*` flags of the namespaces that are the container's own: what exec joins.
    pub namespaces: u64,
    /// Hooks that run after creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// A session keyring of its own.
    pub keyring: bool,
    /// Its directories in the resctrl filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<intel_rdt::Group>,
    /// What exec needs of config.json (see [`crate::config::keep`]): the bundle may change while the container runs.
    /// Absent in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<RawValue>>,
}

/// The second line of `state.json`: what is known only once the first process is ready. It replaces the same fields of
/// the [`Record`] before it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// See [`Record::pid`].
    pub pid: i32,
    /// See [`Record::start_time`].
    pub start_time: u64,
    /// With the directories that were made.
    pub cgroup: Cgroup,
    /// See [`Record::namespaces`]; only where there are more than config.json asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<u64>,
}

/// States of a container; `Paused` is runc's addition to the specification's four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Waiting for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl Status {
    /// The name in `state` and `list`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What decides about the state of a container.
#[derive(Debug, Clone, Copy)]
pub struct Signs {
    /// Its first process is there.
    pub alive: bool,
    /// Its start fifo is there.
    pub waiting: bool,
    /// Its cgroup is frozen or freezing.
    pub frozen: bool,
    /// Somebody holds the lock of its directory.
    pub locked: bool,
}

/// The state that the signs mean.
pub fn status(record: &Record, signs: Signs) -> Status {
    if record.pid == 0 {
        // Whoever was creating it died, if nobody holds the lock.
        return if signs.locked {
            Status::Creating
        } else {
            Status::Stopped
        };
    }
    match signs {
        Signs { alive: false, .. } => Status::Stopped,
        Signs { frozen: true, .. } => Status::Paused,
        Signs { waiting: true, .. } => Status::Created,
        _ => Status::Running,
    }
}

impl Record {
    /// Unmounts what a container without a mount namespace had mounted on the host.
    ///
    /// # Errors
    /// The errno of umount.
    pub fn take_off_host(&self) -> crate::error::Result<()> {
        self.host_mount.map_or(Ok(()), |before| {
            crate::rootfs::host::take_off(&self.rootfs, before)
        })
    }

    /// Whether its first process is there and has not ended.
    pub fn is_alive(&self) -> bool {
        stat::is_alive(self.pid, self.start_time)
    }

    /// The state document of the specification, for `state` and hooks, as one line.
    pub fn oci_state(&self, status: Status) -> Vec<u8> {
        serde_json::to_vec(&self.view(status)).unwrap_or_default()
    }

    /// What `state` and `list` show: the specification's fields, and runc's `rootfs`, `created` and `owner`.
    pub fn view(&self, status: Status) -> View<'_> {
        View {
            oci_version: &self.oci_version,
            id: &self.id,
            pid: if status == Status::Stopped { 0 } else { self.pid },
            status: if fault::is_planted("state") {
                Status::Running
            } else {
                status
            },
            bundle: self.bundle.to_string_lossy().into_owned(),
            rootfs: self.rootfs.to_string_lossy().into_owned(),
            created: &self.created,
            annotations: &self.annotations,
            owner: self.owner,
        }
    }
}

/// See [`Record::view`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: Status,
    bundle: String,
    rootfs: String,
    created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    #[serde(serialize_with = "as_name")]
    owner: u32,
}

fn as_name<S: serde::Serializer>(uid: &u32, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&users::name(*uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: i32) -> Record {
        let text = format!(
            r#"{{"format":1,"ociVersion":"1.0.2","id":"a","pid":{pid},"startTime":5,"bundle":"/b","rootfs":"/b/r",
               "created":"","owner":0,"cgroup":{{"dirs":[]}},"namespaces":0,"keyring":true}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn states() {
        let signs = Signs {
            alive: true,
            waiting: false,
            frozen: false,
            locked: false,
        };
        assert_eq!(status(&record(7), signs), Status::Running);
        assert_eq!(
            status(
                &record(7),
                Signs {
                    waiting: true,
                    ..signs
                }
            ),
            Status::Created
        );
        assert_eq!(
            status(
                &record(7),
                Signs {
                    frozen: true,
                    ..signs
                }
            ),
            Status::Paused
        );
        assert_eq!(
            status(
                &record(7),
                Signs {
                    alive: false,
                    waiting: true,
                    ..signs
                }
            ),
            Status::Stopped
        );
        assert_eq!(
            status(
                &record(0),
                Signs {
                    locked: true,
                    ..signs
                }
            ),
            Status::Creating
        );
        assert_eq!(status(&record(0), signs), Status::Stopped);
    }
}
