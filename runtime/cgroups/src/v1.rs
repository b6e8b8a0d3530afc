//! Limits as the v1 controllers' files take them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use crate::cgroup::Cgroup;
use crate::devices::{Default, DeviceRules};
use crate::error::{Error, Kind, Result};
use crate::files;

pub(crate) fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<()> {
    let dir = |controller: &'static str, field: &'static str| match cgroup.v1(controller) {
        Some(dir) => Ok(dir.path.as_path()),
        None => Err(Error::new(
            Kind::Unsupported,
            format!("linux.resources.{field}: the {controller} controller is not mounted as cgroup v1"),
        )),
    };
    if let Some(memory) = resources
        .memory()
        .as_ref()
        .filter(|m| **m != LinuxMemory::default())
    {
        self::memory(dir("memory", "memory")?, memory)?;
    }
    if let Some(cpu) = resources.cpu().as_ref().filter(|c| **c != LinuxCpu::default()) {
        if cpu.cpus().is_some() || cpu.mems().is_some() {
            cpuset(dir("cpuset", "cpu.cpus")?, cpu)?;
        }
        for (file, value) in cpu_files(cpu) {
            files::write(dir("cpu", "cpu")?, file, &value)?;
        }
    }
    if let Some(pids) = resources.pids() {
        // 0 is "not set" for runc, and so for every engine.
        if pids.limit() != 0 {
            let value = if pids.limit() > 0 {
                pids.limit().to_string()
            } else {
                "max".to_owned()
            };
            files::write(dir("pids", "pids")?, "pids.max", &value)?;
        }
    }
    if let Some(io) = resources
        .block_io()
        .as_ref()
        .filter(|io| **io != LinuxBlockIo::default())
    {
        blkio(dir("blkio", "blockIO")?, io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        files::write(
            dir("hugetlb", "hugepageLimits")?,
            &file,
            &limit.limit().to_string(),
        )?;
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            files::write(
                dir("net_cls", "network.classID")?,
                "net_cls.classid",
                &class.to_string(),
            )?;
        }
        for p in network.priorities().iter().flatten() {
            let value = format!("{} {}", p.name(), p.priority());
            files::write(
                dir("net_prio", "network.priorities")?,
                "net_prio.ifpriomap",
                &value,
            )?;
        }
    }
    Ok(())
}

fn memory(dir: &Path, memory: &LinuxMemory) -> Result<()> {
    let limit = memory.limit().filter(|&n| n != 0);
    let swap = memory.swap().filter(|&n| n != 0);
    if let Some(limit) = limit {
        files::write(dir, "memory.limit_in_bytes", &limit.to_string())?;
    }
    // After the limit: memory plus swap may never be below memory alone.
    if let Some(swap) = swap {
        files::write(dir, "memory.memsw.limit_in_bytes", &swap.to_string())?;
    }
    if let Some(soft) = memory.reservation().filter(|&n| n != 0) {
        files::write(dir, "memory.soft_limit_in_bytes", &soft.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(Error::new(
                Kind::Invalid,
                format!("linux.resources.memory.swappiness: {swappiness} is not between 0 and 100"),
            ));
        }
        files::write(dir, "memory.swappiness", &swappiness.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        files::write(dir, "memory.oom_control", "1")?;
    }
    Ok(())
}

/// Which files of the cpu controller to write, in order: a quota must fit the period that is already there.
fn cpu_files(cpu: &LinuxCpu) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if let Some(shares) = cpu.shares().filter(|&n| n != 0) {
        out.push(("cpu.shares", shares.to_string()));
    }
    if let Some(period) = cpu.period().filter(|&n| n != 0) {
        out.push(("cpu.cfs_period_us", period.to_string()));
    }
    if let Some(quota) = cpu.quota().filter(|&n| n != 0) {
        out.push(("cpu.cfs_quota_us", quota.to_string()));
    }
    if let Some(burst) = cpu.burst() {
        out.push(("cpu.cfs_burst_us", burst.to_string()));
    }
    if let Some(period) = cpu.realtime_period().filter(|&n| n != 0) {
        out.push(("cpu.rt_period_us", period.to_string()));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&n| n != 0) {
        out.push(("cpu.rt_runtime_us", runtime.to_string()));
    }
    if let Some(idle) = cpu.idle() {
        out.push(("cpu.idle", idle.to_string()));
    }
    out
}

fn cpuset(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    if let Some(cpus) = cpu.cpus().as_deref().filter(|s| !s.is_empty()) {
        files::write(dir, "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = cpu.mems().as_deref().filter(|s| !s.is_empty()) {
        files::write(dir, "cpuset.mems", mems)?;
    }
    Ok(())
}

fn blkio(dir: &Path, io: &LinuxBlockIo) -> Result<()> {
    if let Some(weight) = io.weight().filter(|&n| n != 0) {
        // Kernels with the BFQ scheduler only have its file.
        if files::try_write(dir, "blkio.weight", &weight.to_string()).is_err() {
            files::write(dir, "blkio.bfq.weight", &weight.to_string())?;
        }
    }
    if let Some(weight) = io.leaf_weight().filter(|&n| n != 0) {
        files::write(dir, "blkio.leaf_weight", &weight.to_string())?;
    }
    for d in io.weight_device().iter().flatten() {
        if let Some(weight) = d.weight() {
            let value = format!("{}:{} {weight}", d.major(), d.minor());
            if files::try_write(dir, "blkio.weight_device", &value).is_err() {
                files::write(dir, "blkio.bfq.weight_device", &value)?;
            }
        }
    }
    let throttles = [
        (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device"),
        (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device"),
        (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device"),
        (
            io.throttle_write_iops_device(),
            "blkio.throttle.write_iops_device",
        ),
    ];
    for (devices, file) in throttles {
        for d in devices.iter().flatten() {
            files::write(dir, file, &format!("{}:{} {}", d.major(), d.minor(), d.rate()))?;
        }
    }
    Ok(())
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
    use oci_spec::runtime::LinuxCpuBuilder;

    #[test]
    fn period_comes_before_quota() {
        let cpu = LinuxCpuBuilder::default()
            .quota(50_000)
            .period(100_000u64)
            .shares(512u64)
            .build()
            .unwrap();
        let files: Vec<_> = cpu_files(&cpu).into_iter().map(|(f, _)| f).collect();
        assert_eq!(files, ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"]);
    }

    #[test]
    fn zero_means_not_set() {
        let cpu = LinuxCpuBuilder::default().quota(0).shares(0u64).build().unwrap();
        assert!(cpu_files(&cpu).is_empty());
    }
}
