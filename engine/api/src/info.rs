//! What the engine says about itself and its host.

use crate::Map;
use crate::wire::Empty;

message! {
    /// Answer of `GET /info`.
    pub struct SystemInfo {
        id: String = "ID",
        containers: i64 = "Containers",
        containers_running: i64 = "ContainersRunning",
        containers_paused: i64 = "ContainersPaused",
        containers_stopped: i64 = "ContainersStopped",
        images: i64 = "Images",
        driver: String = "Driver",
        driver_status: Vec<[String; 2]> = "DriverStatus",
        system_status: Option<Vec<[String; 2]>> = "SystemStatus" omitempty,
        plugins: PluginsInfo = "Plugins",
        memory_limit: bool = "MemoryLimit",
        swap_limit: bool = "SwapLimit",
        cpu_cfs_period: bool = "CpuCfsPeriod",
        cpu_cfs_quota: bool = "CpuCfsQuota",
        cpu_shares: bool = "CPUShares",
        cpu_set: bool = "CPUSet",
        pids_limit: bool = "PidsLimit",
        ipv4_forwarding: bool = "IPv4Forwarding",
        bridge_nf_iptables: bool = "BridgeNfIptables",
        bridge_nf_ip6tables: bool = "BridgeNfIp6tables",
        debug: bool = "Debug",
        n_fd: i64 = "NFd",
        oom_kill_disable: bool = "OomKillDisable",
        n_goroutines: i64 = "NGoroutines",
        system_time: String = "SystemTime",
        logging_driver: String = "LoggingDriver",
        cgroup_driver: String = "CgroupDriver",
        cgroup_version: String = "CgroupVersion" omitempty,
        n_events_listener: i64 = "NEventsListener",
        kernel_version: String = "KernelVersion",
        operating_system: String = "OperatingSystem",
        os_version: String = "OSVersion",
        os_type: String = "OSType",
        architecture: String = "Architecture",
        index_server_address: String = "IndexServerAddress",
        registry_config: Option<RegistryServiceConfig> = "RegistryConfig",
        ncpu: i64 = "NCPU",
        mem_total: i64 = "MemTotal",
        generic_resources: Option<Vec<serde_json::Value>> = "GenericResources",
        docker_root_dir: String = "DockerRootDir",
        http_proxy: String = "HttpProxy",
        https_proxy: String = "HttpsProxy",
        no_proxy: String = "NoProxy",
        name: String = "Name",
        labels: Vec<String> = "Labels",
        experimental_build: bool = "ExperimentalBuild",
        server_version: String = "ServerVersion",
        runtimes: Map<RuntimeInfo> = "Runtimes",
        default_runtime: String = "DefaultRuntime",
        swarm: SwarmInfo = "Swarm",
        live_restore_enabled: bool = "LiveRestoreEnabled",
        isolation: String = "Isolation",
        init_binary: String = "InitBinary",
        containerd_commit: Commit = "ContainerdCommit",
        runc_commit: Commit = "RuncCommit",
        init_commit: Commit = "InitCommit",
        security_options: Vec<String> = "SecurityOptions",
        product_license: String = "ProductLicense" omitempty,
        default_address_pools: Option<Vec<AddressPool>> = "DefaultAddressPools" omitempty,
        firewall_backend: Option<FirewallInfo> = "FirewallBackend" omitempty,
        cdi_spec_dirs: Option<Vec<String>> = "CDISpecDirs",
        warnings: Option<Vec<String>> = "Warnings",
    }
}

message! {
    /// Names of drivers by kind.
    pub struct PluginsInfo {
        volume: Option<Vec<String>> = "Volume",
        network: Option<Vec<String>> = "Network",
        authorization: Option<Vec<String>> = "Authorization",
        log: Option<Vec<String>> = "Log",
    }
}

message! {
    /// Registries the engine treats specially.
    pub struct RegistryServiceConfig {
        insecure_registry_cidrs: Vec<String> = "InsecureRegistryCIDRs",
        index_configs: Map<IndexInfo> = "IndexConfigs",
        mirrors: Option<Vec<String>> = "Mirrors",
    }
}

message! {
    /// One registry.
    pub struct IndexInfo {
        name: String = "Name",
        mirrors: Vec<String> = "Mirrors",
        secure: bool = "Secure",
        official: bool = "Official",
    }
}

message! {
    /// One configured OCI runtime.
    pub struct RuntimeInfo {
        path: String = "path" omitempty,
        runtime_args: Option<Vec<String>> = "runtimeArgs" omitempty,
        status: Option<Map<String>> = "status" omitempty,
    }
}

message! {
    /// Build of a program.
    pub struct Commit {
        id: String = "ID",
    }
}

message! {
    /// State of swarm mode, which Kelson does not have: always `inactive`.
    pub struct SwarmInfo {
        node_id: String = "NodeID",
        node_addr: String = "NodeAddr",
        local_node_state: String = "LocalNodeState",
        control_available: bool = "ControlAvailable",
        error: String = "Error",
        remote_managers: Option<Vec<serde_json::Value>> = "RemoteManagers",
    }
}

message! {
    /// A pool that new networks take their subnets from.
    pub struct AddressPool {
        base: String = "Base",
        size: i64 = "Size",
    }
}

message! {
    /// How the firewall is driven.
    pub struct FirewallInfo {
        driver: String = "Driver",
        info: Option<Vec<[String; 2]>> = "Info" omitempty,
    }
}

impl Empty for Option<FirewallInfo> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}
