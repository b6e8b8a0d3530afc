//! Figures of a running container. The types are the same for both versions; a figure that a version, kernel or
//! machine lacks is `None` or empty, so that "nothing used" and "not known" stay apart.

mod v1;
mod v2;

use crate::cgroup::Cgroup;
use crate::error::{Kind, Result};
use crate::files;

/// What a container uses. Counters count since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Memory, in bytes.
    pub memory: Memory,
    /// Processor time.
    pub cpu: Cpu,
    /// Processes and threads.
    pub pids: Pids,
    /// Processors and memory nodes; empty on v2.
    pub cpuset: CpuSet,
    /// Block I/O.
    pub io: Io,
    /// Huge pages by size, as `2MB`.
    pub hugetlb: Vec<(String, Counter)>,
    /// RDMA resources by device.
    pub rdma: Vec<Rdma>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// In use, page cache included.
    pub usage: Option<u64>,
    /// The limit; none: unlimited.
    pub limit: Option<u64>,
    /// The most that was in use at any time.
    pub peak: Option<u64>,
    /// How often the limit was hit.
    pub failures: Option<u64>,
    /// Page cache.
    pub cache: Option<u64>,
    /// Page cache that can be taken back first; docker subtracts it from the usage it shows.
    pub inactive_file: Option<u64>,
    /// Swap in use.
    pub swap: Option<u64>,
    /// Memory and swap together, as v1 counts them; on v2 the sum of both.
    pub with_swap: Counter,
    /// Kernel memory; v1 only.
    pub kernel: Counter,
    /// Buffers of TCP sockets; v1 only.
    pub kernel_tcp: Counter,
    /// Every line of `memory.stat`, in the kernel's order.
    pub stat: Vec<(String, u64)>,
    /// Time lost waiting for memory; v2 only.
    pub pressure: Option<Pressure>,
}

/// A resource with a limit, in its own unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counter {
    /// In use.
    pub usage: Option<u64>,
    /// The most that was in use at any time.
    pub peak: Option<u64>,
    /// The limit; none: unlimited.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: Option<u64>,
}

/// Processor time, in nanoseconds since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// All of it.
    pub usage_ns: Option<u64>,
    /// In user mode.
    pub user_ns: Option<u64>,
    /// In the kernel.
    pub system_ns: Option<u64>,
    /// By processor; v1 only.
    pub per_cpu_ns: Vec<u64>,
    /// By processor, in user mode; v1 only.
    pub per_cpu_user_ns: Vec<u64>,
    /// By processor, in the kernel; v1 only.
    pub per_cpu_system_ns: Vec<u64>,
    /// Periods with a quota.
    pub periods: Option<u64>,
    /// Periods in which the quota was used up.
    pub throttled_periods: Option<u64>,
    /// Time spent waiting for the next period.
    pub throttled_ns: Option<u64>,
    /// Time lost waiting for a processor; v2 only.
    pub pressure: Option<Pressure>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now.
    pub current: Option<u64>,
    /// At most.
    pub limit: Option<u64>,
}

/// Where it may run and allocate; v1 only. The flags are 0 or 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet {
    /// Processors.
    pub cpus: Vec<u16>,
    /// Memory nodes.
    pub mems: Vec<u16>,
    /// No other cpuset may use its processors.
    pub cpu_exclusive: u64,
    /// No other cpuset may use its memory nodes.
    pub mem_exclusive: u64,
    /// Kernel allocations stay in its nodes.
    pub mem_hardwall: u64,
    /// Pages move along with a change of nodes.
    pub memory_migrate: u64,
    /// Page cache is spread over its nodes.
    pub memory_spread_page: u64,
    /// Slab objects are spread over its nodes.
    pub memory_spread_slab: u64,
    /// How hard memory is being reclaimed.
    pub memory_pressure: u64,
    /// Load is balanced over its processors.
    pub sched_load_balance: u64,
    /// How far the scheduler searches; -1: the default.
    pub sched_relax_domain_level: i64,
}

/// Block I/O; each table has a line for a device and a direction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Io {
    /// Bytes.
    pub bytes: Vec<IoEntry>,
    /// Requests.
    pub requests: Vec<IoEntry>,
    /// Requests waiting now; v1 with BFQ or CFQ only, as the rest.
    pub queued: Vec<IoEntry>,
    /// Nanoseconds between dispatch and completion.
    pub service_time: Vec<IoEntry>,
    /// Nanoseconds spent waiting in the queue.
    pub wait_time: Vec<IoEntry>,
    /// Requests merged into others.
    pub merged: Vec<IoEntry>,
    /// Milliseconds of disk time.
    pub time: Vec<IoEntry>,
    /// Sectors.
    pub sectors: Vec<IoEntry>,
    /// Time lost waiting for I/O; v2 only.
    pub pressure: Option<Pressure>,
}

/// One line of an I/O table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoEntry {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// `Read`, `Write`, on v1 also `Sync`, `Async`, `Discard`, `Total`; empty where the table has no directions.
    pub op: String,
    /// In the table's unit.
    pub value: u64,
}

/// RDMA resources of one device; a limit of `None` is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rdma {
    /// The device's name.
    pub device: String,
    /// Handles in use.
    pub handles: u64,
    /// Objects in use.
    pub objects: u64,
    /// Handles at most.
    pub handles_limit: Option<u64>,
    /// Objects at most.
    pub objects_limit: Option<u64>,
}

/// Pressure stall information (the kernel's Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pressure {
    /// Some task was stalled.
    pub some: Stall,
    /// All tasks were stalled at once.
    pub full: Stall,
}

/// Shares of wall time in percent over the last 10, 60 and 300 seconds, and the sum in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)] // said above
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total_us: u64,
}

impl Cgroup {
    /// Reads all figures.
    ///
    /// # Errors
    /// `NotFound` when the cgroup is gone.
    pub fn stats(&self) -> Result<Stats> {
        match self.v2() {
            Some(dir) if self.is_unified() => v2::read(&dir.path),
            _ => v1::read(self),
        }
    }

    /// How many processes of it the kernel killed for lack of memory.
    ///
    /// # Errors
    /// `NotFound` when the cgroup is gone. Without a memory controller it is 0.
    pub fn oom_kills(&self) -> Result<u64> {
        let text = if let Some(dir) = self.v1("memory") {
            files::read(&dir.path, "memory.oom_control")?
        } else if let Some(dir) = self.v2() {
            match files::read(&dir.path, "memory.events") {
                Err(e) if e.kind() == Kind::NotFound && dir.path.exists() => return Ok(0),
                other => other?,
            }
        } else {
            return Ok(0);
        };
        Ok(files::keyed(&text, "oom_kill").unwrap_or(0))
    }
}

fn lines(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// `8:0`
fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The tables of rdma.current and rdma.max, which are the same on both versions.
fn rdma(current: &str, max: &str) -> Vec<Rdma> {
    let value = |line: &str, key: &str| {
        line.split_whitespace()
            .find_map(|w| w.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    current
        .lines()
        .filter_map(|line| {
            let (device, used) = line.split_once(' ')?;
            let limits = max
                .lines()
                .find_map(|l| l.strip_prefix(device)?.strip_prefix(' '))
                .unwrap_or_default();
            Some(Rdma {
                device: device.to_owned(),
                handles: value(used, "hca_handle").unwrap_or(0),
                objects: value(used, "hca_object").unwrap_or(0),
                handles_limit: value(limits, "hca_handle"),
                objects_limit: value(limits, "hca_object"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rdma_tables_meet_by_device() {
        let all = rdma(
            "mlx5_0 hca_handle=2 hca_object=5\nmlx5_1 hca_handle=0 hca_object=0\n",
            "mlx5_0 hca_handle=max hca_object=10\n",
        );
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].handles, all[0].objects), (2, 5));
        assert_eq!((all[0].handles_limit, all[0].objects_limit), (None, Some(10)));
        assert_eq!(all[1].objects_limit, None);
    }

    #[test]
    fn devices_are_two_numbers() {
        assert_eq!(device("8:16"), Some((8, 16)));
        assert_eq!(device("Total"), None);
        assert_eq!(device("8:"), None);
    }
}
