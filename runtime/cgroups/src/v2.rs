//! Limits as cgroup v2's files take them, and the device filter.

use std::fs::File;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use crate::devices::{self, DeviceRules};
use crate::error::{Error, Kind, Result};
use crate::files;

pub(crate) fn apply(dir: &Path, resources: &LinuxResources) -> Result<()> {
    if let Some(memory) = resources.memory() {
        for (file, value) in memory_files(memory)? {
            limit(dir, file, &value, "linux.resources.memory")?;
        }
    }
    if let Some(cpu) = resources.cpu() {
        if cpu.realtime_period().is_some_and(|n| n != 0) || cpu.realtime_runtime().is_some_and(|n| n != 0) {
            return Err(Error::new(
                Kind::Unsupported,
                "linux.resources.cpu.realtimeRuntime: cgroup v2 has no realtime limits",
            ));
        }
        for (file, value) in cpu_files(cpu) {
            limit(dir, file, &value, "linux.resources.cpu")?;
        }
    }
    if let Some(pids) = resources.pids()
        && pids.limit() != 0
    {
        let value = if pids.limit() > 0 {
            pids.limit().to_string()
        } else {
            "max".to_owned()
        };
        limit(dir, "pids.max", &value, "linux.resources.pids")?;
    }
    if let Some(io) = resources.block_io() {
        block_io(dir, io)?;
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let value = huge.limit().to_string();
        limit(
            dir,
            &format!("hugetlb.{}.max", huge.page_size()),
            &value,
            "linux.resources.hugepageLimits",
        )?;
        // Reservations are counted apart since Linux 5.7; an older kernel lacks the file.
        let _ = files::try_write(dir, &format!("hugetlb.{}.rsvd.max", huge.page_size()), &value);
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        let show = |n: Option<u32>| n.map_or("max".to_owned(), |n| n.to_string());
        let value = format!(
            "{device} hca_handle={} hca_object={}",
            show(rdma.hca_handles()),
            show(rdma.hca_objects())
        );
        limit(dir, "rdma.max", &value, "linux.resources.rdma")?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') {
            return Err(Error::new(
                Kind::Invalid,
                format!("linux.resources.unified: {file:?} is not the name of a file"),
            ));
        }
        for line in value.lines() {
            limit(dir, file, line, "linux.resources.unified")?;
        }
    }
    Ok(())
}

/// Enables in `dir`'s children every controller that `dir` has. Those that cannot be (a process sits in `dir`)
/// are left out; a limit that needs one then fails by name.
pub(crate) fn delegate(dir: &Path) -> Result<()> {
    let available = files::read(dir, "cgroup.controllers")?;
    let enabled = files::read(dir, "cgroup.subtree_control")?;
    let missing: Vec<String> = available
        .split_whitespace()
        .filter(|c| !enabled.split_whitespace().any(|e| e == *c))
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() || files::try_write(dir, "cgroup.subtree_control", &missing.join(" ")).is_ok() {
        return Ok(());
    }
    // One unusable controller refuses the whole line.
    for one in &missing {
        let _ = files::try_write(dir, "cgroup.subtree_control", one);
    }
    Ok(())
}

pub(crate) fn apply_devices(dir: &Path, rules: &DeviceRules) -> Result<()> {
    let Some(program) = devices::encode(rules) else {
        return Ok(());
    };
    let program = kelson_sys::bpf::load_device_filter(&program)
        .map_err(|e| Error::io(e, "linux.resources.devices: load the device filter"))?;
    let cgroup = File::open(dir).map_err(|e| Error::io(e, format!("open {}", dir.display())))?;
    kelson_sys::bpf::attach_device_filter(&cgroup, &program, None).map_err(|e| {
        Error::io(
            e,
            format!(
                "linux.resources.devices: attach the device filter to {}",
                dir.display()
            ),
        )
    })
}

fn limit(dir: &Path, file: &str, value: &str, field: &str) -> Result<()> {
    match files::try_write(dir, file, value) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
            Kind::Unsupported,
            format!(
                "{field}: {} is missing: the controller is not enabled there",
                dir.join(file).display()
            ),
        )),
        other => other.map_err(|e| {
            Error::io(
                e,
                format!("{field}: write {value:?} to {}", dir.join(file).display()),
            )
        }),
    }
}

fn max_or(n: i64) -> String {
    if n < 0 { "max".to_owned() } else { n.to_string() }
}

fn memory_files(memory: &LinuxMemory) -> Result<Vec<(&'static str, String)>> {
    let mut out = Vec::new();
    let limit = memory.limit().filter(|&n| n != 0);
    // v1's swap counts memory too, v2's does not.
    let swap = match (limit, memory.swap().filter(|&n| n != 0)) {
        (Some(limit), None) if limit < 0 => Some(-1),
        (_, None) => None,
        (_, Some(swap)) if swap < 0 => Some(-1),
        (Some(limit), Some(swap)) if limit < 0 => Some(swap),
        (Some(limit), Some(swap)) if swap >= limit => Some(swap - limit),
        (limit, Some(swap)) => {
            let limit = limit.map_or("not set".to_owned(), |n| n.to_string());
            return Err(Error::new(
                Kind::Invalid,
                format!("linux.resources.memory.swap: {swap} counts memory too, and limit is {limit}"),
            ));
        }
    };
    if let Some(swap) = swap {
        out.push(("memory.swap.max", max_or(swap)));
    }
    if let Some(limit) = limit {
        out.push(("memory.max", max_or(limit)));
    }
    if let Some(soft) = memory.reservation().filter(|&n| n != 0) {
        out.push(("memory.low", max_or(soft)));
    }
    Ok(out)
}

fn cpu_files(cpu: &LinuxCpu) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if let Some(idle) = cpu.idle() {
        out.push(("cpu.idle", idle.to_string()));
    }
    // An idle group's weight is fixed by the kernel.
    if let Some(shares) = cpu.shares().filter(|&n| n != 0)
        && cpu.idle() != Some(1)
    {
        out.push(("cpu.weight", weight(shares).to_string()));
    }
    let quota = cpu.quota().filter(|&n| n != 0);
    let period = cpu.period().filter(|&n| n != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota
            .filter(|&n| n > 0)
            .map_or("max".to_owned(), |n| n.to_string());
        out.push((
            "cpu.max",
            period.map_or(quota.clone(), |p| format!("{quota} {p}")),
        ));
    }
    if let Some(burst) = cpu.burst() {
        out.push(("cpu.max.burst", burst.to_string()));
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            out.push((file, value.to_owned()));
        }
    }
    out
}

/// `cpu.shares` (2 to 262144) as `cpu.weight` (1 to 10000), by the curve that maps 1024 to 100, as runc 1.4 does:
/// 10 ^ ((l^2 + 125 l) / 612 - 7/34) with l = log2(shares).
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

fn block_io(dir: &Path, io: &LinuxBlockIo) -> Result<()> {
    const FIELD: &str = "linux.resources.blockIO";
    if let Some(weight) = io.weight().filter(|&n| n != 0)
        && files::try_write(dir, "io.bfq.weight", &weight.to_string()).is_err()
    {
        // The range of io.weight is 1 to 10000, that of blkio.weight 10 to 1000.
        let scaled = 1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990;
        limit(dir, "io.weight", &scaled.to_string(), FIELD)?;
    }
    for d in io.weight_device().iter().flatten() {
        if let Some(weight) = d.weight() {
            limit(
                dir,
                "io.bfq.weight",
                &format!("{}:{} {weight}", d.major(), d.minor()),
                FIELD,
            )?;
        }
    }
    let throttles = [
        (io.throttle_read_bps_device(), "rbps"),
        (io.throttle_write_bps_device(), "wbps"),
        (io.throttle_read_iops_device(), "riops"),
        (io.throttle_write_iops_device(), "wiops"),
    ];
    for (devices, key) in throttles {
        for d in devices.iter().flatten() {
            limit(
                dir,
                "io.max",
                &format!("{}:{} {key}={}", d.major(), d.minor(), d.rate()),
                FIELD,
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder};

    #[test]
    fn weight_meets_its_three_anchors() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 100);
        assert_eq!(weight(262_144), 10_000);
    }

    #[test]
    fn swap_excludes_memory() {
        let m = LinuxMemoryBuilder::default()
            .limit(100)
            .swap(300)
            .build()
            .unwrap();
        let files = memory_files(&m).unwrap();
        assert_eq!(
            files,
            [
                ("memory.swap.max", "200".to_owned()),
                ("memory.max", "100".to_owned())
            ]
        );
    }

    #[test]
    fn swap_below_memory_names_the_field() {
        let m = LinuxMemoryBuilder::default()
            .limit(300)
            .swap(100)
            .build()
            .unwrap();
        assert!(
            memory_files(&m)
                .unwrap_err()
                .to_string()
                .contains("linux.resources.memory.swap")
        );
    }

    #[test]
    fn quota_and_period_share_a_file() {
        let cpu = LinuxCpuBuilder::default()
            .quota(50_000)
            .period(100_000u64)
            .build()
            .unwrap();
        assert_eq!(cpu_files(&cpu), [("cpu.max", "50000 100000".to_owned())]);
        let cpu = LinuxCpuBuilder::default().quota(-1).build().unwrap();
        assert_eq!(cpu_files(&cpu), [("cpu.max", "max".to_owned())]);
    }
}
