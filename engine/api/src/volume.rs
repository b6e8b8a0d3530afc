//! Volumes.

use crate::Map;
use crate::wire::Empty;

message! {
    /// A volume, as listed and inspected.
    pub struct Volume {
        created_at: String = "CreatedAt" omitempty,
        driver: String = "Driver",
        labels: Option<Map<String>> = "Labels",
        mountpoint: String = "Mountpoint",
        name: String = "Name",
        options: Option<Map<String>> = "Options",
        /// `local` or `global`.
        scope: String = "Scope",
        status: Option<Map<serde_json::Value>> = "Status" omitempty,
        usage_data: Option<VolumeUsage> = "UsageData" omitempty,
    }
}

message! {
    /// Space and users of a volume; -1 means not computed.
    pub struct VolumeUsage {
        ref_count: i64 = "RefCount",
        size: i64 = "Size",
    }
}

message! {
    /// Body of `POST /volumes/create`.
    pub struct VolumeCreateRequest {
        driver: String = "Driver" omitempty,
        driver_opts: Option<Map<String>> = "DriverOpts" omitempty,
        labels: Option<Map<String>> = "Labels" omitempty,
        name: String = "Name" omitempty,
    }
}

message! {
    /// Answer of `GET /volumes`.
    pub struct VolumeList {
        volumes: Vec<Volume> = "Volumes",
        warnings: Option<Vec<String>> = "Warnings",
    }
}

message! {
    /// Answer of `POST /volumes/prune`.
    pub struct VolumesPruneReport {
        volumes_deleted: Option<Vec<String>> = "VolumesDeleted",
        space_reclaimed: u64 = "SpaceReclaimed",
    }
}

impl Empty for Option<VolumeUsage> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}
