//! What is kept of a container: the record (what was asked for; changes with rename and update only) and the state (what became of
//! it; changes all the time). Two files, so that a torn state never costs the record.

use std::path::{Path, PathBuf};

use kelson_api::{ContainerConfig, EndpointSettings, HealthResult, HostConfig, Map, ZERO_TIME};
use kelson_network::{Endpoint, PortMapping};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::{self, Durability, FORMAT};

const RECORD: &str = "record.json";
const STATE: &str = "state.json";

/// A container as it was asked for, with everything that create decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub format: u32,
    pub id: String,
    /// Without slash.
    pub name: String,
    pub created: String,
    /// The image as the user wrote it.
    pub image: String,
    /// `sha256:...`
    pub image_id: String,
    /// Program and arguments: entrypoint and command, merged with the image's.
    pub path: String,
    pub args: Vec<String>,
    /// Merged with the image's.
    pub config: ContainerConfig,
    pub host: HostConfig,
    /// Endpoints asked for, by network name.
    pub networks: Map<EndpointSettings>,
    pub mounts: Vec<MountRecord>,
    /// Name of the OCI runtime.
    pub runtime: String,
    /// Fields of a newer release of the same format.
    #[serde(flatten)]
    pub unknown: Map<serde_json::Value>,
}

/// Kinds of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

impl MountKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
        }
    }
}

/// One mount of a container, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    pub kind: MountKind,
    /// Of a volume.
    #[serde(default)]
    pub name: String,
    /// On the host; empty for a tmpfs.
    pub source: PathBuf,
    /// In the container: absolute and clean.
    pub destination: PathBuf,
    /// As the user wrote it after the second colon.
    #[serde(default)]
    pub mode: String,
    pub rw: bool,
    /// `rprivate`, `rshared`, ...; empty for a tmpfs.
    #[serde(default)]
    pub propagation: String,
    #[serde(default)]
    pub non_recursive: bool,
    /// Mount options of a tmpfs.
    #[serde(default)]
    pub options: Vec<String>,
    /// A volume that goes with the container (`rm -v`, `--rm`).
    #[serde(default)]
    pub anonymous: bool,
    /// Do not copy the image's content into the empty volume.
    #[serde(default)]
    pub no_copy: bool,
}

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// A process of it exists. (The API's `Running` is true while restarting, too.)
    pub fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// What the health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Results of a container's health check.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Health {
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: i64,
    /// The last few.
    pub log: Vec<HealthResult>,
    /// Id of the exec that runs the check now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
}

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub format: u32,
    pub status: Status,
    pub pid: u32,
    pub exit_code: i64,
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub oom_killed: bool,
    pub started_at: String,
    pub finished_at: String,
    #[serde(default)]
    pub restart_count: i64,
    /// The user stopped it: `unless-stopped` leaves it alone, also after a restart of the daemon.
    #[serde(default)]
    pub manually_stopped: bool,
    /// Frozen by a commit that has not ended: a daemon that is started again thaws it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub still_for_commit: bool,
    /// An update whose end is not known: a daemon that is started again does it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_update: Option<Box<HostConfig>>,
    /// Only with a health check, and once it has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Its places on networks while it runs, the network of its mode first.
    #[serde(default)]
    pub places: Vec<Place>,
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// The one place that the first releases knew.
    #[serde(default, rename = "endpoint", skip_serializing)]
    pub old_endpoint: Option<Endpoint>,
    #[serde(default, rename = "endpoint_id", skip_serializing)]
    pub old_endpoint_id: String,
}

/// A running container's place on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Id of the network; empty in what an older release wrote, which means the default one.
    pub network: String,
    /// Its name, the key of the record's `networks`.
    pub name: String,
    /// Identifies the endpoint in the API: 64 hex digits.
    pub id: String,
    pub endpoint: Endpoint,
}

impl Default for State {
    fn default() -> Self {
        Self {
            format: FORMAT,
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: ZERO_TIME.into(),
            finished_at: ZERO_TIME.into(),
            restart_count: 0,
            manually_stopped: false,
            still_for_commit: false,
            pending_update: None,
            health: None,
            places: Vec::new(),
            ports: Vec::new(),
            old_endpoint: None,
            old_endpoint_id: String::new(),
        }
    }
}

impl Record {
    pub fn save(&self, dir: &Path) -> Result<()> {
        // One that goes with its process needs no sync: after a power cut nobody misses it, and what is left of it is
        // found as a directory without a record.
        let durability = if self.host.auto_remove {
            Durability::Volatile
        } else {
            Durability::Synced
        };
        store::save(dir, RECORD, self, durability)
    }

    pub fn load(dir: &Path) -> Result<Option<Self>> {
        store::load(&dir.join(RECORD))
    }
}

impl State {
    /// Not synced: a run dies with the boot, and its end is in the shim's exit record, which is.
    pub fn save(&self, dir: &Path) -> Result<()> {
        store::save(dir, STATE, self, Durability::Volatile)
    }

    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let mut state: Option<Self> = store::load(&dir.join(STATE))?;
        if let Some(state) = &mut state
            && let Some(endpoint) = state.old_endpoint.take()
        {
            state.places.push(Place {
                network: String::new(),
                name: "bridge".into(),
                id: std::mem::take(&mut state.old_endpoint_id),
                endpoint,
            });
        }
        Ok(state)
    }

    /// The place the default route leaves by; published ports are its.
    pub fn gateway(&self) -> Option<&Place> {
        self.places.iter().find(|p| p.endpoint.default_route)
    }

    /// No network any more.
    pub fn leave_networks(&mut self) {
        self.places.clear();
        self.ports.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            format: 1,
            id: "a".repeat(64),
            name: "web".into(),
            created: "2026-11-21T00:00:00Z".into(),
            image: "nginx".into(),
            image_id: "sha256:0".into(),
            path: "nginx".into(),
            args: vec!["-g".into()],
            config: ContainerConfig {
                image: "nginx".into(),
                ..ContainerConfig::default()
            },
            host: HostConfig::default(),
            networks: Map::new(),
            mounts: vec![],
            runtime: "kelson".into(),
            unknown: Map::new(),
        }
    }

    #[test]
    fn a_torn_state_costs_the_state_only() {
        let dir = tempfile::tempdir().unwrap();
        record().save(dir.path()).unwrap();
        std::fs::write(dir.path().join(STATE), "").unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), Some(record()));
        assert!(State::load(dir.path()).is_err());
    }

    #[test]
    fn a_state_of_the_first_releases_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut old = serde_json::to_value(State::default()).unwrap();
        old.as_object_mut().unwrap().remove("places");
        old["endpoint_id"] = "e".repeat(64).into();
        old["endpoint"] = serde_json::json!({
            "container_id": "c", "ip": "172.30.0.2", "prefix_len": 16, "gateway": "172.30.0.1",
            "mac": "02:42:ac:1e:00:02", "bridge": "kls0", "host_link": "klsv01234567",
            "container_link": "eth0", "mtu": 1500
        });
        std::fs::write(dir.path().join(STATE), old.to_string()).unwrap();
        let state = State::load(dir.path()).unwrap().unwrap();
        let place = state.gateway().unwrap();
        assert_eq!((place.name.as_str(), place.id.len()), ("bridge", 64));
        state.save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), Some(state));
    }

    #[test]
    fn fields_of_a_newer_release_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut value = serde_json::to_value(record()).unwrap();
        value["later"] = serde_json::json!({"x": 1});
        std::fs::write(dir.path().join(RECORD), value.to_string()).unwrap();
        let read = Record::load(dir.path()).unwrap().unwrap();
        read.save(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(RECORD)).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["later"]["x"],
            1
        );
    }
}
