//! Version of the engine.

use crate::Map;

message! {
    /// Answer of `GET /version`.
    pub struct Version {
        platform: Option<Platform> = "Platform" omitempty,
        components: Option<Vec<ComponentVersion>> = "Components" omitempty,
        version: String = "Version",
        api_version: String = "ApiVersion",
        min_api_version: String = "MinAPIVersion" omitempty,
        git_commit: String = "GitCommit",
        go_version: String = "GoVersion",
        os: String = "Os",
        arch: String = "Arch",
        kernel_version: String = "KernelVersion" omitempty,
        experimental: bool = "Experimental" omitempty,
        build_time: String = "BuildTime" omitempty,
    }
}

message! {
    /// Name of the product.
    pub struct Platform {
        name: String = "Name",
    }
}

message! {
    /// Version of one of the engine's programs.
    pub struct ComponentVersion {
        name: String = "Name",
        version: String = "Version",
        details: Option<Map<String>> = "Details" omitempty,
    }
}

impl crate::wire::Empty for Option<Platform> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}
