//! Containers: create answer, list, inspect, and the answers of the smaller verbs.

use crate::container_config::ContainerConfig;
use crate::host_config::HostConfig;
use crate::network::{EndpointSettings, NetworkSettings};
use crate::wire::Empty;
use crate::{Map, ZERO_TIME};

message! {
    /// Answer of `POST /containers/create`.
    pub struct ContainerCreateResponse {
        id: String = "Id",
        /// Never `null`.
        warnings: Vec<String> = "Warnings",
    }
}

message! {
    /// Answer of `POST /containers/{id}/update`.
    pub struct ContainerUpdateResponse {
        warnings: Vec<String> = "Warnings",
    }
}

message! {
    /// One line of `GET /containers/json`.
    pub struct ContainerSummary {
        id: String = "Id",
        /// With a leading slash.
        names: Vec<String> = "Names",
        image: String = "Image",
        image_id: String = "ImageID",
        command: String = "Command",
        /// Seconds since 1970.
        created: i64 = "Created",
        ports: Vec<Port> = "Ports",
        size_rw: Option<i64> = "SizeRw" omitempty,
        size_root_fs: Option<i64> = "SizeRootFs" omitempty,
        labels: Map<String> = "Labels",
        /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
        state: String = "State",
        /// For people: `Up 2 hours`, `Exited (0) 3 minutes ago`.
        status: String = "Status",
        host_config: SummaryHostConfig = "HostConfig",
        network_settings: SummaryNetworkSettings = "NetworkSettings",
        mounts: Vec<MountPoint> = "Mounts",
    }
}

message! {
    /// The part of the host configuration that the list shows.
    pub struct SummaryHostConfig {
        network_mode: String = "NetworkMode" omitempty,
        annotations: Option<Map<String>> = "Annotations" omitempty,
    }
}

message! {
    /// The part of the network settings that the list shows.
    pub struct SummaryNetworkSettings {
        networks: Map<EndpointSettings> = "Networks",
    }
}

message! {
    /// One port in the list; without `PublicPort` it is only exposed.
    pub struct Port {
        ip: String = "IP" omitempty,
        private_port: u16 = "PrivatePort",
        public_port: u16 = "PublicPort" omitempty,
        r#type: String = "Type",
    }
}

message! {
    /// A mount in use.
    pub struct MountPoint {
        /// `bind`, `volume`, `tmpfs`, `image`.
        r#type: String = "Type" omitempty,
        name: String = "Name" omitempty,
        source: String = "Source",
        destination: String = "Destination",
        driver: String = "Driver" omitempty,
        mode: String = "Mode",
        rw: bool = "RW",
        propagation: String = "Propagation",
    }
}

message! {
    /// Answer of `GET /containers/{id}/json`.
    pub struct ContainerInspect {
        id: String = "Id",
        created: String = "Created",
        path: String = "Path",
        args: Vec<String> = "Args",
        state: ContainerState = "State",
        image: String = "Image",
        resolv_conf_path: String = "ResolvConfPath",
        hostname_path: String = "HostnamePath",
        hosts_path: String = "HostsPath",
        log_path: String = "LogPath",
        /// With a leading slash.
        name: String = "Name",
        restart_count: i64 = "RestartCount",
        driver: String = "Driver",
        platform: String = "Platform",
        mount_label: String = "MountLabel",
        process_label: String = "ProcessLabel",
        app_armor_profile: String = "AppArmorProfile",
        exec_ids: Option<Vec<String>> = "ExecIDs",
        host_config: HostConfig = "HostConfig",
        graph_driver: GraphDriver = "GraphDriver",
        size_rw: Option<i64> = "SizeRw" omitempty,
        size_root_fs: Option<i64> = "SizeRootFs" omitempty,
        mounts: Vec<MountPoint> = "Mounts",
        config: ContainerConfig = "Config",
        network_settings: NetworkSettings = "NetworkSettings",
    }
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    /// One of `created running paused restarting removing exited dead`.
    pub status: String,
    /// True while paused and restarting too.
    pub running: bool,
    /// Frozen.
    pub paused: bool,
    /// Between two runs under a restart policy.
    pub restarting: bool,
    /// The kernel killed it for memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Could not be removed completely.
    pub dead: bool,
    /// Process id on the host, 0 when not running.
    pub pid: i64,
    /// 0 to 255; 128+N when ended by signal N.
    pub exit_code: i64,
    /// Why the last start failed.
    pub error: String,
    /// RFC 3339 with nanoseconds, or [`ZERO_TIME`].
    pub started_at: String,
    /// RFC 3339 with nanoseconds, or [`ZERO_TIME`].
    pub finished_at: String,
    /// Only with a health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

impl Default for ContainerState {
    fn default() -> Self {
        ContainerState {
            status: "created".to_owned(),
            running: false,
            paused: false,
            restarting: false,
            oom_killed: false,
            dead: false,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            started_at: ZERO_TIME.to_owned(),
            finished_at: ZERO_TIME.to_owned(),
            health: None,
        }
    }
}

message! {
    /// Health of a container.
    pub struct Health {
        /// `none`, `starting`, `healthy`, `unhealthy`.
        status: String = "Status",
        failing_streak: i64 = "FailingStreak",
        log: Option<Vec<HealthResult>> = "Log",
    }
}

message! {
    /// One run of a health check.
    pub struct HealthResult {
        start: String = "Start",
        end: String = "End",
        exit_code: i64 = "ExitCode",
        output: String = "Output",
    }
}

message! {
    /// Where a container's or image's file system lies.
    pub struct GraphDriver {
        data: Option<Map<String>> = "Data",
        name: String = "Name",
    }
}

message! {
    /// Answer of `POST /containers/{id}/wait`.
    pub struct WaitResponse {
        error: Option<WaitError> = "Error" omitempty,
        status_code: i64 = "StatusCode",
    }
}

message! {
    /// Why waiting (or removing) went wrong.
    pub struct WaitError {
        message: String = "Message" omitempty,
    }
}

message! {
    /// Answer of `GET /containers/{id}/top`.
    pub struct TopResponse {
        processes: Vec<Vec<String>> = "Processes",
        titles: Vec<String> = "Titles",
    }
}

message! {
    /// Answer of `POST /containers/prune`.
    pub struct ContainersPruneReport {
        containers_deleted: Option<Vec<String>> = "ContainersDeleted",
        space_reclaimed: u64 = "SpaceReclaimed",
    }
}

message! {
    /// One line of `GET /containers/{id}/changes`: 0 modified, 1 added, 2 deleted.
    pub struct FilesystemChange {
        kind: i64 = "Kind",
        path: String = "Path",
    }
}

impl Empty for Option<WaitError> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}
