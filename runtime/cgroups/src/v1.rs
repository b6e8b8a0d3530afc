//! Limits as the v1 controllers' files take them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::block_io;
use crate::devices::{Default, DeviceRules};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::host::Version;
use crate::limits::{self, Limit};

/// What is in force already, as far as the order of writing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// `memory.limit_in_bytes`; a fresh cgroup has no limit.
    pub memory: u64,
}

impl Now {
    pub(crate) const FRESH: Self = Self { memory: u64::MAX };

    /// Reads what `resources` need to know.
    pub(crate) fn read(memory: Option<&Path>, resources: &LinuxResources) -> Self {
        let both = resources
            .memory()
            .as_ref()
            .is_some_and(|m| m.limit().is_some() && m.swap().is_some());
        let limit = match memory {
            Some(dir) if both => files::number(dir, "memory.limit_in_bytes").ok().flatten(),
            _ => None,
        };
        Self {
            memory: limit.unwrap_or(u64::MAX),
        }
    }
}

/// All writes, in order.
pub(crate) fn limits(resources: &LinuxResources, now: Now) -> Result<Vec<Limit>> {
    if resources.unified().as_ref().is_some_and(|m| !m.is_empty()) {
        return Err(Error::new(
            Kind::Invalid,
            "linux.resources.unified: invalid configuration: cgroup v2 parameters, and this machine has cgroup v1",
        ));
    }
    let mut out = Vec::new();
    if let Some(m) = resources.memory() {
        memory(&mut out, m, now)?;
    }
    if let Some(c) = resources.cpu() {
        cpu(&mut out, c)?;
    }
    if let Some(p) = resources.pids() {
        out.push(Limit::new(
            of("pids"),
            "linux.resources.pids.limit",
            "pids.max",
            limits::pids(p.limit()),
        ));
    }
    if let Some(io) = resources.block_io() {
        out.extend(block_io::v1(io));
    }
    network(&mut out, resources);
    out.extend(rdma(resources, of("rdma")));
    Ok(out)
}

/// Apart, as hybrid machines may have this controller on v2.
pub(crate) fn hugetlb(resources: &LinuxResources) -> Result<Vec<Limit>> {
    limits::hugetlb(resources, of("hugetlb"), "limit_in_bytes")
}

fn of(controller: &'static str) -> (Version, &'static str) {
    (Version::V1, controller)
}

/// The rdma controller reads the same lines on both versions.
pub(crate) fn rdma(resources: &LinuxResources, of: (Version, &'static str)) -> Vec<Limit> {
    let mut lines: Vec<(&str, String)> = resources
        .rdma()
        .iter()
        .flatten()
        .map(|(device, rdma)| {
            let mut parts = Vec::new();
            if let Some(n) = rdma.hca_handles() {
                parts.push(format!("hca_handle={n}"));
            }
            if let Some(n) = rdma.hca_objects() {
                parts.push(format!("hca_object={n}"));
            }
            (device.as_str(), parts.join(" "))
        })
        .filter(|(_, value)| !value.is_empty())
        .collect();
    lines.sort_unstable();
    let limit = |(device, value)| {
        let line = format!("{device} {value}");
        Limit::new(of, "linux.resources.rdma", "rdma.max", line)
    };
    lines.into_iter().map(limit).collect()
}

fn memory(out: &mut Vec<Limit>, memory: &LinuxMemory, now: Now) -> Result<()> {
    let limit = memory.limit().filter(|&n| n != 0);
    let swap = memory.swap().filter(|&n| n != 0);
    let set = |file: &'static str, field: &'static str, n: i64| Limit::new(of("memory"), field, file, n);
    let set_limit = limit.map(|n| set("memory.limit_in_bytes", "linux.resources.memory.limit", n));
    let set_swap = match (limit, swap) {
        // No limit on memory: none on memory and swap together, either, where swap is counted at all.
        (Some(-1), None) => {
            Some(set("memory.memsw.limit_in_bytes", "linux.resources.memory.swap", -1).or_skip())
        }
        (_, swap) => swap.map(|n| set("memory.memsw.limit_in_bytes", "linux.resources.memory.swap", n)),
    };
    // Memory and swap together may never be below memory alone, neither before nor after each step.
    let grows = match (limit, swap) {
        (Some(-1), None) => true,
        (Some(_), Some(swap)) => swap < 0 || now.memory < swap.cast_unsigned(),
        _ => false,
    };
    if grows {
        out.extend(set_swap.into_iter().chain(set_limit));
    } else {
        out.extend(set_limit.into_iter().chain(set_swap));
    }
    if let Some(soft) = memory.reservation().filter(|&n| n != 0) {
        out.push(set(
            "memory.soft_limit_in_bytes",
            "linux.resources.memory.reservation",
            soft,
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        out.push(set(
            "memory.oom_control",
            "linux.resources.memory.disableOOMKiller",
            1,
        ));
    }
    // -1, as engines send it for "not set", arrives as the largest number.
    if let Some(swappiness) = memory.swappiness().filter(|&n| n != u64::MAX) {
        const FIELD: &str = "linux.resources.memory.swappiness";
        if swappiness > 100 {
            return Err(Error::new(
                Kind::Invalid,
                format!("{FIELD}: {swappiness} is not between 0 and 100"),
            ));
        }
        out.push(Limit::new(of("memory"), FIELD, "memory.swappiness", swappiness));
    }
    Ok(())
}

fn cpu(out: &mut Vec<Limit>, cpu: &LinuxCpu) -> Result<()> {
    let quota = cpu.quota().filter(|&n| n != 0);
    let runtime = cpu.realtime_runtime().filter(|&n| n != 0);
    let mut set = |field: &'static str, file: &'static str, value: Option<String>, again: bool| {
        out.extend(value.map(|v| Limit::new(of("cpu"), field, file, v).again(again)));
    };
    let text = |n: Option<u64>| n.filter(|&n| n != 0).map(|n| n.to_string());
    set(
        "linux.resources.cpu.realtimePeriod",
        "cpu.rt_period_us",
        text(cpu.realtime_period()),
        runtime.is_some(),
    );
    set(
        "linux.resources.cpu.realtimeRuntime",
        "cpu.rt_runtime_us",
        runtime.map(|n| n.to_string()),
        false,
    );
    if let Some(shares) = cpu.shares().filter(|&n| n != 0) {
        // The kernel would silently take the nearest number it knows.
        if !(2..=262_144).contains(&shares) {
            let (what, bound) = if shares < 2 {
                ("minimum", 2)
            } else {
                ("maximum", 262_144)
            };
            return Err(Error::new(
                Kind::Invalid,
                format!("linux.resources.cpu.shares: {shares}: the {what} allowed cpu-shares is {bound}"),
            ));
        }
        // An idle group has none.
        if cpu.idle() != Some(1) {
            set(
                "linux.resources.cpu.shares",
                "cpu.shares",
                Some(shares.to_string()),
                false,
            );
        }
    }
    // Period and burst must fit the quota that is there: the old one until the new one is written.
    set(
        "linux.resources.cpu.period",
        "cpu.cfs_period_us",
        text(cpu.period()),
        quota.is_some(),
    );
    if let Some(burst) = cpu.burst() {
        let limit = Limit::new(of("cpu"), "linux.resources.cpu.burst", "cpu.cfs_burst_us", burst);
        let limit = limit.again(quota.is_some());
        out.push(if burst == 0 { limit.or_skip() } else { limit });
    }
    let mut set = |controller, field: &'static str, file: &'static str, value: Option<String>| {
        out.extend(value.map(|v| Limit::new(of(controller), field, file, v)));
    };
    set(
        "cpu",
        "linux.resources.cpu.quota",
        "cpu.cfs_quota_us",
        quota.map(|n| n.to_string()),
    );
    set(
        "cpu",
        "linux.resources.cpu.idle",
        "cpu.idle",
        cpu.idle().map(|n| n.to_string()),
    );
    let list = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
    set(
        "cpuset",
        "linux.resources.cpu.cpus",
        "cpuset.cpus",
        list(cpu.cpus()),
    );
    set(
        "cpuset",
        "linux.resources.cpu.mems",
        "cpuset.mems",
        list(cpu.mems()),
    );
    Ok(())
}

fn network(out: &mut Vec<Limit>, resources: &LinuxResources) {
    let Some(network) = resources.network() else {
        return;
    };
    if let Some(class) = network.class_id() {
        out.push(Limit::new(
            of("net_cls"),
            "linux.resources.network.classID",
            "net_cls.classid",
            class,
        ));
    }
    for p in network.priorities().iter().flatten() {
        out.push(Limit::new(
            of("net_prio"),
            "linux.resources.network.priorities",
            "net_prio.ifpriomap",
            format!("{} {}", p.name(), p.priority()),
        ));
    }
}

/// A new v1 cpuset has no processors and no memory nodes, and cannot be joined before it has: take the parent's.
pub(crate) fn inherit_cpuset(dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !files::read(dir, file)?.trim().is_empty() {
            continue;
        }
        if let Some(parent) = dir.parent() {
            files::write(dir, file, files::read(parent, file)?.trim())?;
        }
    }
    Ok(())
}

/// A fresh cgroup allows what its parent allows. Deny-by-default therefore begins with one line that denies
/// all, and each file is opened once, as the kernel takes one rule per write.
pub(crate) fn apply_devices(dir: &Path, rules: &DeviceRules) -> Result<()> {
    let (file, needs_reset) = match rules.default() {
        Default::Deny => ("devices.allow", true),
        Default::Allow => ("devices.deny", false),
    };
    if needs_reset {
        files::write(dir, "devices.deny", "a")?;
    }
    let lines = rules.lines();
    if lines.is_empty() {
        return Ok(());
    }
    let path = dir.join(file);
    let mut out = OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(|e| Error::io(e, format!("open {}", path.display())))?;
    for line in lines {
        out.write_all(line.as_bytes())
            .map_err(|e| Error::io(e, format!("write {line:?} to {}", path.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};

    fn files(resources: &LinuxResources, now: Now) -> Vec<(String, String)> {
        let limits = limits(resources, now).unwrap();
        limits
            .into_iter()
            .map(|l| (l.file.into_owned(), l.value))
            .collect()
    }

    fn of_cpu(cpu: LinuxCpu) -> LinuxResources {
        LinuxResourcesBuilder::default().cpu(cpu).build().unwrap()
    }

    fn of_memory(memory: LinuxMemory) -> LinuxResources {
        LinuxResourcesBuilder::default().memory(memory).build().unwrap()
    }

    fn names(list: &[(String, String)]) -> Vec<&str> {
        list.iter().map(|(f, _)| f.as_str()).collect()
    }

    #[test]
    fn period_comes_before_quota_and_may_come_again() {
        let cpu = LinuxCpuBuilder::default()
            .quota(50_000)
            .period(100_000u64)
            .shares(512u64);
        let r = of_cpu(cpu.build().unwrap());
        assert_eq!(
            names(&files(&r, Now::FRESH)),
            ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"]
        );
        let again: Vec<bool> = limits(&r, Now::FRESH).unwrap().iter().map(|l| l.again).collect();
        assert_eq!(again, [false, true, false]);
    }

    #[test]
    fn zero_means_not_set() {
        let cpu = LinuxCpuBuilder::default()
            .quota(0)
            .shares(0u64)
            .period(0u64)
            .build()
            .unwrap();
        assert!(files(&of_cpu(cpu), Now::FRESH).is_empty());
        let pids = LinuxPidsBuilder::default().limit(0).build().unwrap();
        let r = LinuxResourcesBuilder::default().pids(pids).build().unwrap();
        assert_eq!(
            files(&r, Now::FRESH),
            [("pids.max".to_owned(), "1".to_owned())],
            "but not for pids"
        );
    }

    #[test]
    fn shares_out_of_range_are_refused_and_idle_has_none() {
        for (shares, good) in [(1u64, false), (2, true), (262_144, true), (262_145, false)] {
            let r = of_cpu(LinuxCpuBuilder::default().shares(shares).build().unwrap());
            assert_eq!(limits(&r, Now::FRESH).is_ok(), good, "{shares}");
        }
        let r = of_cpu(LinuxCpuBuilder::default().shares(100u64).idle(1).build().unwrap());
        assert_eq!(names(&files(&r, Now::FRESH)), ["cpu.idle"]);
    }

    #[test]
    fn memory_and_swap_never_cross() {
        let r = of_memory(
            LinuxMemoryBuilder::default()
                .limit(100)
                .swap(200)
                .build()
                .unwrap(),
        );
        let (limit, swap) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
        assert_eq!(names(&files(&r, Now::FRESH)), [limit, swap]);
        assert_eq!(names(&files(&r, Now { memory: 300 })), [limit, swap]);
        assert_eq!(names(&files(&r, Now { memory: 50 })), [swap, limit]);
        let r = of_memory(LinuxMemoryBuilder::default().limit(100).swap(-1).build().unwrap());
        assert_eq!(names(&files(&r, Now::FRESH)), [swap, limit]);
    }

    #[test]
    fn unlimited_memory_unlimits_swap() {
        let r = of_memory(LinuxMemoryBuilder::default().limit(-1).build().unwrap());
        let all = limits(&r, Now { memory: 5 }).unwrap();
        assert_eq!(all[0].file, "memory.memsw.limit_in_bytes");
        assert_eq!(all[0].absent, limits::Absent::Skip);
        assert_eq!(all[1].file, "memory.limit_in_bytes");
    }

    #[test]
    fn v2_parameters_are_refused() {
        let unified = std::collections::HashMap::from([("memory.min".to_owned(), "1".to_owned())]);
        let r = LinuxResourcesBuilder::default().unified(unified).build().unwrap();
        let error = limits(&r, Now::FRESH).unwrap_err();
        assert!(error.to_string().contains("invalid configuration"), "{error}");
    }

    #[test]
    fn swappiness_has_bounds() {
        for (n, good) in [(0u64, true), (100, true), (101, false), (u64::MAX, true)] {
            let r = of_memory(LinuxMemoryBuilder::default().swappiness(n).build().unwrap());
            assert_eq!(limits(&r, Now::FRESH).is_ok(), good, "{n}");
        }
    }

    #[test]
    fn rdma_lines_leave_out_what_is_not_asked() {
        let text = r#"{"rdma":{"mlx5_1":{"hcaHandles":3},"a":{"hcaHandles":1,"hcaObjects":2},"b":{}}}"#;
        let r: LinuxResources = serde_json::from_str(text).unwrap();
        let line = |text: &str| Limit::new(of("rdma"), "linux.resources.rdma", "rdma.max", text.to_owned());
        assert_eq!(
            rdma(&r, of("rdma")),
            ["a hca_handle=1 hca_object=2", "mlx5_1 hca_handle=3"].map(line)
        );
    }
}
