//! Images.

use crate::Map;
use crate::container::GraphDriver;
use crate::container_config::HealthConfig;
use crate::wire::{Empty, StrSlice, Unit};

message! {
    /// One line of `GET /images/json`.
    pub struct ImageSummary {
        id: String = "Id",
        parent_id: String = "ParentId",
        repo_tags: Vec<String> = "RepoTags",
        repo_digests: Vec<String> = "RepoDigests",
        /// Seconds since 1970.
        created: i64 = "Created",
        size: i64 = "Size",
        /// -1 means not computed.
        shared_size: i64 = "SharedSize",
        /// Equal to `Size`; sent to clients before 1.44 only.
        virtual_size: i64 = "VirtualSize" omitempty,
        labels: Option<Map<String>> = "Labels",
        /// Number of containers using it; -1 means not computed.
        containers: i64 = "Containers",
    }
}

message! {
    /// Answer of `GET /images/{name}/json`.
    pub struct ImageInspect {
        id: String = "Id",
        repo_tags: Vec<String> = "RepoTags",
        repo_digests: Vec<String> = "RepoDigests",
        parent: String = "Parent",
        comment: String = "Comment",
        created: String = "Created" omitempty,
        docker_version: String = "DockerVersion",
        author: String = "Author",
        config: Option<ImageConfig> = "Config",
        architecture: String = "Architecture",
        variant: String = "Variant" omitempty,
        os: String = "Os",
        os_version: String = "OsVersion" omitempty,
        size: i64 = "Size",
        /// Equal to `Size`; sent to clients before 1.44 only.
        virtual_size: i64 = "VirtualSize" omitempty,
        graph_driver: GraphDriver = "GraphDriver",
        root_fs: RootFs = "RootFS",
        metadata: ImageMetadata = "Metadata",
    }
}

message! {
    /// What an image says about running it (since API 1.50 only fields that are set).
    pub struct ImageConfig {
        user: String = "User" omitempty,
        exposed_ports: Option<Map<Unit>> = "ExposedPorts" omitempty,
        env: Option<Vec<String>> = "Env" omitempty,
        entrypoint: Option<StrSlice> = "Entrypoint" omitempty,
        cmd: Option<StrSlice> = "Cmd" omitempty,
        volumes: Option<Map<Unit>> = "Volumes" omitempty,
        working_dir: String = "WorkingDir" omitempty,
        labels: Option<Map<String>> = "Labels" omitempty,
        stop_signal: String = "StopSignal" omitempty,
        args_escaped: bool = "ArgsEscaped" omitempty,
        healthcheck: Option<HealthConfig> = "Healthcheck" omitempty,
        on_build: Option<Vec<String>> = "OnBuild" omitempty,
        shell: Option<StrSlice> = "Shell" omitempty,
    }
}

message! {
    /// The layers of an image by diff id.
    pub struct RootFs {
        r#type: String = "Type" omitempty,
        layers: Option<Vec<String>> = "Layers" omitempty,
    }
}

message! {
    /// Facts about an image that only this engine knows.
    pub struct ImageMetadata {
        last_tag_time: String = "LastTagTime",
    }
}

message! {
    /// One line of `DELETE /images/{name}`: exactly one of the two is set.
    pub struct ImageDeleteItem {
        deleted: String = "Deleted" omitempty,
        untagged: String = "Untagged" omitempty,
    }
}

message! {
    /// One line of `GET /images/{name}/history`.
    pub struct HistoryItem {
        comment: String = "Comment",
        /// Seconds since 1970.
        created: i64 = "Created",
        created_by: String = "CreatedBy",
        /// `<missing>` for layers without an image of their own.
        id: String = "Id",
        size: i64 = "Size",
        tags: Option<Vec<String>> = "Tags",
    }
}

message! {
    /// Answer of `POST /images/prune`.
    pub struct ImagesPruneReport {
        images_deleted: Option<Vec<ImageDeleteItem>> = "ImagesDeleted",
        space_reclaimed: u64 = "SpaceReclaimed",
    }
}

message! {
    /// One line of `GET /images/search`.
    pub struct SearchResult {
        star_count: i64 = "star_count",
        is_official: bool = "is_official",
        name: String = "name",
        is_automated: bool = "is_automated",
        description: String = "description",
    }
}

message! {
    /// Credentials, in `X-Registry-Auth` (base64url of this JSON) and as body of `POST /auth`.
    pub struct AuthConfig {
        username: String = "username" omitempty,
        password: String = "password" omitempty,
        auth: String = "auth" omitempty,
        email: String = "email" omitempty,
        server_address: String = "serveraddress" omitempty,
        identity_token: String = "identitytoken" omitempty,
        registry_token: String = "registrytoken" omitempty,
    }
}

message! {
    /// Answer of `POST /auth`.
    pub struct AuthResponse {
        identity_token: String = "IdentityToken",
        status: String = "Status",
    }
}

impl Empty for Option<ImageConfig> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}
