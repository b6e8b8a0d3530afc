//! What a container uses: answer of `GET /containers/{id}/stats`.

use crate::Map;

message! {
    /// One sample, with the processor's figures of the sample before.
    pub struct ContainerStats {
        name: String = "name",
        id: String = "id",
        os_type: String = "os_type" omitempty,
        /// When it was taken; Go's zero time for a container that does not run.
        read: String = "read",
        cpu_stats: CpuStats = "cpu_stats",
        memory_stats: MemoryStats = "memory_stats",
        /// By the interface's name in the container; absent for one without networks of its own.
        networks: Map<NetworkStats> = "networks" omitempty,
        pids_stats: PidsStats = "pids_stats",
        blkio_stats: BlkioStats = "blkio_stats",
        /// Windows only.
        num_procs: u32 = "num_procs",
        /// Windows only.
        storage_stats: Map<u64> = "storage_stats",
        /// When the sample before was taken.
        preread: String = "preread",
        precpu_stats: CpuStats = "precpu_stats",
    }
}

message! {
    /// Processor time.
    pub struct CpuStats {
        cpu_usage: CpuUsage = "cpu_usage",
        /// The whole machine's, busy and idle, in nanoseconds.
        system_cpu_usage: u64 = "system_cpu_usage" omitempty,
        online_cpus: u32 = "online_cpus" omitempty,
        throttling_data: ThrottlingData = "throttling_data",
    }
}

message! {
    /// Processor time of the container, in nanoseconds.
    pub struct CpuUsage {
        total_usage: u64 = "total_usage",
        /// By processor; cgroup v1 only.
        percpu_usage: Vec<u64> = "percpu_usage" omitempty,
        usage_in_kernelmode: u64 = "usage_in_kernelmode",
        usage_in_usermode: u64 = "usage_in_usermode",
    }
}

message! {
    /// Waits for a processor because of a quota.
    pub struct ThrottlingData {
        periods: u64 = "periods",
        throttled_periods: u64 = "throttled_periods",
        /// Nanoseconds.
        throttled_time: u64 = "throttled_time",
    }
}

message! {
    /// Memory, in bytes.
    pub struct MemoryStats {
        /// With page cache.
        usage: u64 = "usage" omitempty,
        /// cgroup v1 only.
        max_usage: u64 = "max_usage" omitempty,
        /// The lines of the kernel's `memory.stat`; their names differ between v1 and v2.
        stats: Map<u64> = "stats" omitempty,
        /// cgroup v1 only.
        failcnt: u64 = "failcnt" omitempty,
        /// The machine's memory if there is no lower limit.
        limit: u64 = "limit" omitempty,
    }
}

message! {
    /// Traffic of one interface, seen from the container.
    pub struct NetworkStats {
        rx_bytes: u64 = "rx_bytes",
        rx_packets: u64 = "rx_packets",
        rx_errors: u64 = "rx_errors",
        rx_dropped: u64 = "rx_dropped",
        tx_bytes: u64 = "tx_bytes",
        tx_packets: u64 = "tx_packets",
        tx_errors: u64 = "tx_errors",
        tx_dropped: u64 = "tx_dropped",
    }
}

message! {
    /// Processes and threads.
    pub struct PidsStats {
        current: u64 = "current" omitempty,
        limit: u64 = "limit" omitempty,
    }
}

message! {
    /// Block I/O. On cgroup v2 only the first table is there.
    pub struct BlkioStats {
        io_service_bytes_recursive: Option<Vec<BlkioEntry>> = "io_service_bytes_recursive",
        io_serviced_recursive: Option<Vec<BlkioEntry>> = "io_serviced_recursive",
        io_queue_recursive: Option<Vec<BlkioEntry>> = "io_queue_recursive",
        io_service_time_recursive: Option<Vec<BlkioEntry>> = "io_service_time_recursive",
        io_wait_time_recursive: Option<Vec<BlkioEntry>> = "io_wait_time_recursive",
        io_merged_recursive: Option<Vec<BlkioEntry>> = "io_merged_recursive",
        io_time_recursive: Option<Vec<BlkioEntry>> = "io_time_recursive",
        sectors_recursive: Option<Vec<BlkioEntry>> = "sectors_recursive",
    }
}

message! {
    /// One device and direction.
    pub struct BlkioEntry {
        major: u64 = "major",
        minor: u64 = "minor",
        op: String = "op",
        value: u64 = "value",
    }
}
