//! Figures of a running container.

use crate::cgroup::Cgroup;
use crate::error::{Kind, Result};
use crate::files;

/// What a container uses; a figure is `None` where its controller is missing or there is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memory, in bytes.
    pub memory: Memory,
    /// Processor time.
    pub cpu: Cpu,
    /// Processes and threads.
    pub pids: Pids,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use, page cache included.
    pub usage: Option<u64>,
    /// The limit.
    pub limit: Option<u64>,
    /// Page cache that can be taken back first; docker subtracts it from the usage it shows.
    pub inactive_file: Option<u64>,
    /// Swap in use.
    pub swap: Option<u64>,
    /// Every line of `memory.stat`, in the kernel's order.
    pub stat: Vec<(String, u64)>,
}

/// Processor time, in nanoseconds since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub usage_ns: Option<u64>,
    /// In user mode.
    pub user_ns: Option<u64>,
    /// In the kernel.
    pub system_ns: Option<u64>,
    /// Periods with a quota.
    pub periods: Option<u64>,
    /// Periods in which the quota was used up.
    pub throttled_periods: Option<u64>,
    /// Time spent waiting for the next period.
    pub throttled_ns: Option<u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now.
    pub current: Option<u64>,
    /// At most.
    pub limit: Option<u64>,
}

impl Cgroup {
    /// Reads all figures.
    ///
    /// # Errors
    /// `NotFound` when the cgroup is gone.
    pub fn stats(&self) -> Result<Stats> {
        if self.is_unified() {
            self.stats_v2()
        } else {
            self.stats_v1()
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

    fn stats_v1(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        if let Some(dir) = self.v1("memory") {
            let dir = &dir.path;
            stats.memory.usage = files::number(dir, "memory.usage_in_bytes")?;
            stats.memory.limit = files::number(dir, "memory.limit_in_bytes")?;
            let text = files::read(dir, "memory.stat")?;
            stats.memory.inactive_file = files::keyed(&text, "total_inactive_file");
            stats.memory.swap = files::keyed(&text, "total_swap");
            stats.memory.stat = lines(&text);
        }
        if let Some(dir) = self.v1("cpuacct") {
            stats.cpu.usage_ns = files::number(&dir.path, "cpuacct.usage")?;
            stats.cpu.user_ns = files::number(&dir.path, "cpuacct.usage_user").unwrap_or_default();
            stats.cpu.system_ns = files::number(&dir.path, "cpuacct.usage_sys").unwrap_or_default();
        }
        if let Some(dir) = self.v1("cpu") {
            let text = files::read(&dir.path, "cpu.stat")?;
            stats.cpu.periods = files::keyed(&text, "nr_periods");
            stats.cpu.throttled_periods = files::keyed(&text, "nr_throttled");
            stats.cpu.throttled_ns = files::keyed(&text, "throttled_time");
        }
        if let Some(dir) = self.v1("pids") {
            stats.pids.current = files::number(&dir.path, "pids.current")?;
            stats.pids.limit = files::number(&dir.path, "pids.max")?;
        }
        Ok(stats)
    }

    fn stats_v2(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        let Some(dir) = self.v2() else { return Ok(stats) };
        let dir = &dir.path;
        // cpu.stat is there without the controller, too; the cgroup itself is gone if it is not.
        let text = files::read(dir, "cpu.stat")?;
        let ns = |key| files::keyed(&text, key).map(|us| us.saturating_mul(1000));
        stats.cpu = Cpu {
            usage_ns: ns("usage_usec"),
            user_ns: ns("user_usec"),
            system_ns: ns("system_usec"),
            periods: files::keyed(&text, "nr_periods"),
            throttled_periods: files::keyed(&text, "nr_throttled"),
            throttled_ns: ns("throttled_usec"),
        };
        // A missing file is a controller that is not enabled.
        stats.memory.usage = files::number(dir, "memory.current").unwrap_or_default();
        stats.memory.limit = files::number(dir, "memory.max").unwrap_or_default();
        stats.memory.swap = files::number(dir, "memory.swap.current").unwrap_or_default();
        if let Ok(text) = files::read(dir, "memory.stat") {
            stats.memory.inactive_file = files::keyed(&text, "inactive_file");
            stats.memory.stat = lines(&text);
        }
        stats.pids.current = files::number(dir, "pids.current").unwrap_or_default();
        stats.pids.limit = files::number(dir, "pids.max").unwrap_or_default();
        Ok(stats)
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
