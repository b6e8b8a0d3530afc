//! How a container sits on its host: limits, mounts, namespaces, ports.

use crate::Map;
use crate::wire::{Empty, StrSlice};

/// `80/tcp` → where it is published. `null` as value means exposed, not published.
pub type PortMap = Map<Option<Vec<PortBinding>>>;

message! {
    /// One published place of a container port. An empty host port lets the engine choose.
    pub struct PortBinding {
        host_ip: String = "HostIp",
        host_port: String = "HostPort",
    }
}

message! {
    /// Go's `container.HostConfig` with the embedded `Resources`.
    pub struct HostConfig {
        binds: Option<Vec<String>> = "Binds",
        container_id_file: String = "ContainerIDFile",
        log_config: LogConfig = "LogConfig",
        network_mode: String = "NetworkMode",
        port_bindings: Option<PortMap> = "PortBindings",
        restart_policy: RestartPolicy = "RestartPolicy",
        auto_remove: bool = "AutoRemove",
        volume_driver: String = "VolumeDriver",
        volumes_from: Option<Vec<String>> = "VolumesFrom",
        /// Height, width.
        console_size: [u32; 2] = "ConsoleSize",
        annotations: Option<Map<String>> = "Annotations" omitempty,
        cap_add: Option<StrSlice> = "CapAdd",
        cap_drop: Option<StrSlice> = "CapDrop",
        cgroupns_mode: String = "CgroupnsMode",
        dns: Option<Vec<String>> = "Dns",
        dns_options: Option<Vec<String>> = "DnsOptions",
        dns_search: Option<Vec<String>> = "DnsSearch",
        extra_hosts: Option<Vec<String>> = "ExtraHosts",
        group_add: Option<Vec<String>> = "GroupAdd",
        ipc_mode: String = "IpcMode",
        cgroup: String = "Cgroup",
        links: Option<Vec<String>> = "Links",
        oom_score_adj: i64 = "OomScoreAdj",
        pid_mode: String = "PidMode",
        privileged: bool = "Privileged",
        publish_all_ports: bool = "PublishAllPorts",
        readonly_rootfs: bool = "ReadonlyRootfs",
        security_opt: Option<Vec<String>> = "SecurityOpt",
        storage_opt: Option<Map<String>> = "StorageOpt" omitempty,
        tmpfs: Option<Map<String>> = "Tmpfs" omitempty,
        uts_mode: String = "UTSMode",
        userns_mode: String = "UsernsMode",
        /// Bytes; 0 means the default.
        shm_size: i64 = "ShmSize",
        sysctls: Option<Map<String>> = "Sysctls" omitempty,
        runtime: String = "Runtime" omitempty,
        isolation: String = "Isolation",
        cpu_shares: i64 = "CpuShares",
        /// Bytes.
        memory: i64 = "Memory",
        /// 10^-9 processors.
        nano_cpus: i64 = "NanoCpus",
        cgroup_parent: String = "CgroupParent",
        blkio_weight: u16 = "BlkioWeight",
        blkio_weight_device: Option<Vec<WeightDevice>> = "BlkioWeightDevice",
        blkio_device_read_bps: Option<Vec<ThrottleDevice>> = "BlkioDeviceReadBps",
        blkio_device_write_bps: Option<Vec<ThrottleDevice>> = "BlkioDeviceWriteBps",
        blkio_device_read_iops: Option<Vec<ThrottleDevice>> = "BlkioDeviceReadIOps",
        blkio_device_write_iops: Option<Vec<ThrottleDevice>> = "BlkioDeviceWriteIOps",
        /// Microseconds.
        cpu_period: i64 = "CpuPeriod",
        /// Microseconds.
        cpu_quota: i64 = "CpuQuota",
        cpu_realtime_period: i64 = "CpuRealtimePeriod",
        cpu_realtime_runtime: i64 = "CpuRealtimeRuntime",
        cpuset_cpus: String = "CpusetCpus",
        cpuset_mems: String = "CpusetMems",
        devices: Option<Vec<DeviceMapping>> = "Devices",
        device_cgroup_rules: Option<Vec<String>> = "DeviceCgroupRules",
        device_requests: Option<Vec<DeviceRequest>> = "DeviceRequests",
        kernel_memory: i64 = "KernelMemory" omitempty,
        kernel_memory_tcp: i64 = "KernelMemoryTCP" omitempty,
        memory_reservation: i64 = "MemoryReservation",
        /// Memory and swap together; -1 means no limit.
        memory_swap: i64 = "MemorySwap",
        memory_swappiness: Option<i64> = "MemorySwappiness",
        oom_kill_disable: Option<bool> = "OomKillDisable",
        pids_limit: Option<i64> = "PidsLimit",
        ulimits: Option<Vec<Ulimit>> = "Ulimits",
        cpu_count: i64 = "CpuCount",
        cpu_percent: i64 = "CpuPercent",
        io_maximum_iops: u64 = "IOMaximumIOps",
        io_maximum_bandwidth: u64 = "IOMaximumBandwidth",
        mounts: Option<Vec<Mount>> = "Mounts" omitempty,
        masked_paths: Option<Vec<String>> = "MaskedPaths",
        readonly_paths: Option<Vec<String>> = "ReadonlyPaths",
        init: Option<bool> = "Init" omitempty,
    }
}

message! {
    /// Body of `POST /containers/{id}/update`. Absent fields (`None`) stay as they are.
    pub struct ContainerUpdateRequest {
        cpu_shares: Option<i64> = "CpuShares" omitempty,
        memory: Option<i64> = "Memory" omitempty,
        nano_cpus: Option<i64> = "NanoCpus" omitempty,
        blkio_weight: Option<u16> = "BlkioWeight" omitempty,
        cpu_period: Option<i64> = "CpuPeriod" omitempty,
        cpu_quota: Option<i64> = "CpuQuota" omitempty,
        cpu_realtime_period: Option<i64> = "CpuRealtimePeriod" omitempty,
        cpu_realtime_runtime: Option<i64> = "CpuRealtimeRuntime" omitempty,
        cpuset_cpus: Option<String> = "CpusetCpus" omitempty,
        cpuset_mems: Option<String> = "CpusetMems" omitempty,
        kernel_memory: Option<i64> = "KernelMemory" omitempty,
        memory_reservation: Option<i64> = "MemoryReservation" omitempty,
        memory_swap: Option<i64> = "MemorySwap" omitempty,
        pids_limit: Option<i64> = "PidsLimit" omitempty,
        restart_policy: Option<Box<RestartPolicy>> = "RestartPolicy" omitempty,
    }
}

message! {
    /// Where the container's output goes. An empty type means the engine's default.
    pub struct LogConfig {
        r#type: String = "Type",
        config: Option<Map<String>> = "Config",
    }
}

message! {
    /// `no` (or empty), `always`, `unless-stopped`, `on-failure`.
    pub struct RestartPolicy {
        name: String = "Name",
        maximum_retry_count: i64 = "MaximumRetryCount",
    }
}

message! {
    /// Relative block I/O weight of one device.
    pub struct WeightDevice {
        path: String = "Path",
        weight: u16 = "Weight",
    }
}

message! {
    /// Block I/O limit of one device.
    pub struct ThrottleDevice {
        path: String = "Path",
        rate: u64 = "Rate",
    }
}

message! {
    /// A host device given to the container.
    pub struct DeviceMapping {
        path_on_host: String = "PathOnHost",
        path_in_container: String = "PathInContainer",
        cgroup_permissions: String = "CgroupPermissions",
    }
}

message! {
    /// A request to a device driver (GPUs, CDI).
    pub struct DeviceRequest {
        driver: String = "Driver",
        count: i64 = "Count",
        device_ids: Option<Vec<String>> = "DeviceIDs",
        capabilities: Option<Vec<Vec<String>>> = "Capabilities",
        options: Option<Map<String>> = "Options",
    }
}

message! {
    /// A resource limit by its lower-case name (`nofile`); -1 means unlimited.
    pub struct Ulimit {
        name: String = "Name",
        hard: i64 = "Hard",
        soft: i64 = "Soft",
    }
}

message! {
    /// A mount as asked for (`--mount`).
    pub struct Mount {
        r#type: String = "Type" omitempty,
        source: String = "Source" omitempty,
        target: String = "Target" omitempty,
        read_only: bool = "ReadOnly" omitempty,
        consistency: String = "Consistency" omitempty,
        bind_options: Option<BindOptions> = "BindOptions" omitempty,
        volume_options: Option<VolumeOptions> = "VolumeOptions" omitempty,
        image_options: Option<ImageOptions> = "ImageOptions" omitempty,
        tmpfs_options: Option<TmpfsOptions> = "TmpfsOptions" omitempty,
    }
}

message! {
    /// Options of a bind mount.
    pub struct BindOptions {
        propagation: String = "Propagation" omitempty,
        non_recursive: bool = "NonRecursive" omitempty,
        create_mountpoint: bool = "CreateMountpoint" omitempty,
        read_only_non_recursive: bool = "ReadOnlyNonRecursive" omitempty,
        read_only_force_recursive: bool = "ReadOnlyForceRecursive" omitempty,
    }
}

message! {
    /// Options of a volume mount.
    pub struct VolumeOptions {
        no_copy: bool = "NoCopy" omitempty,
        labels: Option<Map<String>> = "Labels" omitempty,
        subpath: String = "Subpath" omitempty,
        driver_config: Option<DriverConfig> = "DriverConfig" omitempty,
    }
}

message! {
    /// A volume driver and its options.
    pub struct DriverConfig {
        name: String = "Name" omitempty,
        options: Option<Map<String>> = "Options" omitempty,
    }
}

message! {
    /// Options of an image mount.
    pub struct ImageOptions {
        subpath: String = "Subpath" omitempty,
    }
}

message! {
    /// Options of a tmpfs mount.
    pub struct TmpfsOptions {
        size_bytes: i64 = "SizeBytes" omitempty,
        /// File mode bits.
        mode: u32 = "Mode" omitempty,
        options: Option<Vec<Vec<String>>> = "Options" omitempty,
    }
}

macro_rules! pointer { ($($t:ty),*) => { $(impl Empty for Option<$t> { fn empty(&self) -> bool { self.is_none() } })* } }
pointer!(
    BindOptions,
    VolumeOptions,
    ImageOptions,
    TmpfsOptions,
    DriverConfig
);
