//! Figures from the v1 controllers.

use std::path::Path;

use super::{Counter, Cpu, CpuSet, Io, IoEntry, Memory, Pids, Stats, device, lines, rdma, v2};
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::files;

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats> {
    let dir = |controller| cgroup.v1(controller).map(|d| d.path.as_path());
    let mut stats = Stats::default();
    if let Some(dir) = dir("memory") {
        stats.memory = memory(dir)?;
    }
    cpu(&mut stats.cpu, dir("cpuacct"), dir("cpu"))?;
    if let Some(dir) = dir("pids") {
        stats.pids = Pids {
            current: files::number(dir, "pids.current")?,
            limit: files::number(dir, "pids.max")?,
        };
    }
    stats.cpuset = dir("cpuset").map(cpuset).unwrap_or_default();
    stats.io = dir("blkio").map(io).unwrap_or_default();
    stats.hugetlb = match (dir("hugetlb"), cgroup.v2()) {
        (Some(dir), _) => hugetlb(dir),
        // On a hybrid machine v2 may have it.
        (None, Some(dir)) => v2::hugetlb(&dir.path),
        (None, None) => Vec::new(),
    };
    if let Some(dir) = dir("rdma") {
        let text = |file| files::read(dir, file).unwrap_or_default();
        stats.rdma = rdma(&text("rdma.current"), &text("rdma.max"));
    }
    Ok(stats)
}

fn memory(dir: &Path) -> Result<Memory> {
    let text = files::read(dir, "memory.stat")?;
    let all = counter(dir, "memory.");
    Ok(Memory {
        usage: all.usage,
        limit: all.limit,
        peak: all.peak,
        failures: all.failures,
        cache: files::keyed(&text, "total_cache"),
        inactive_file: files::keyed(&text, "total_inactive_file"),
        swap: files::keyed(&text, "total_swap"),
        with_swap: counter(dir, "memory.memsw."),
        kernel: counter(dir, "memory.kmem."),
        kernel_tcp: counter(dir, "memory.kmem.tcp."),
        stat: lines(&text),
        pressure: None,
    })
}

fn counter(dir: &Path, prefix: &str) -> Counter {
    let number = |name: &str| files::number(dir, &format!("{prefix}{name}")).ok().flatten();
    Counter {
        usage: number("usage_in_bytes"),
        peak: number("max_usage_in_bytes"),
        limit: number("limit_in_bytes"),
        failures: number("failcnt"),
    }
}

fn cpu(out: &mut Cpu, cpuacct: Option<&Path>, cpu: Option<&Path>) -> Result<()> {
    if let Some(dir) = cpuacct {
        out.usage_ns = files::number(dir, "cpuacct.usage")?;
        out.user_ns = files::number(dir, "cpuacct.usage_user").unwrap_or_default();
        out.system_ns = files::number(dir, "cpuacct.usage_sys").unwrap_or_default();
        let text = files::read(dir, "cpuacct.usage_percpu").unwrap_or_default();
        out.per_cpu_ns = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let text = files::read(dir, "cpuacct.usage_all").unwrap_or_default();
        (out.per_cpu_user_ns, out.per_cpu_system_ns) = usage_all(&text);
    }
    if let Some(dir) = cpu {
        let text = files::read(dir, "cpu.stat")?;
        out.periods = files::keyed(&text, "nr_periods");
        out.throttled_periods = files::keyed(&text, "nr_throttled");
        out.throttled_ns = files::keyed(&text, "throttled_time");
    }
    Ok(())
}

/// `cpu user system`, with a heading.
fn usage_all(text: &str) -> (Vec<u64>, Vec<u64>) {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some((
                words.next()?.parse::<u64>().ok()?,
                words.next()?.parse::<u64>().ok()?,
            ))
        })
        .unzip()
}

fn cpuset(dir: &Path) -> CpuSet {
    let list = |file: &str| parse_list(&files::read(dir, file).unwrap_or_default());
    let flag = |file: &str| files::number(dir, file).ok().flatten().unwrap_or(0);
    CpuSet {
        cpus: list("cpuset.cpus"),
        mems: list("cpuset.mems"),
        cpu_exclusive: flag("cpuset.cpu_exclusive"),
        mem_exclusive: flag("cpuset.mem_exclusive"),
        mem_hardwall: flag("cpuset.mem_hardwall"),
        memory_migrate: flag("cpuset.memory_migrate"),
        memory_spread_page: flag("cpuset.memory_spread_page"),
        memory_spread_slab: flag("cpuset.memory_spread_slab"),
        memory_pressure: flag("cpuset.memory_pressure"),
        sched_load_balance: flag("cpuset.sched_load_balance"),
        sched_relax_domain_level: files::read(dir, "cpuset.sched_relax_domain_level")
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(0),
    }
}

/// `0-3,8`; what does not parse is left out.
fn parse_list(text: &str) -> Vec<u16> {
    let mut out = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            out.extend(first..=last);
        }
    }
    out
}

/// Three sets of files count the same: CFQ's (until Linux 5.0), BFQ's, and those of throttling, which see every
/// device but know only two tables. The first that has anything is taken.
fn io(dir: &Path) -> Io {
    let table = |name: &str, prefixes: &[&str]| {
        prefixes
            .iter()
            .map(|prefix| {
                parse_io(&files::read(dir, &format!("{prefix}{name}_recursive")).unwrap_or_default())
            })
            .find(|entries| !entries.is_empty())
            .unwrap_or_default()
    };
    const ALL: &[&str] = &["blkio.", "blkio.bfq.", "blkio.throttle."];
    const SCHEDULER: &[&str] = &["blkio.", "blkio.bfq."];
    Io {
        bytes: table("io_service_bytes", ALL),
        requests: table("io_serviced", ALL),
        queued: table("io_queued", SCHEDULER),
        service_time: table("io_service_time", SCHEDULER),
        wait_time: table("io_wait_time", SCHEDULER),
        merged: table("io_merged", SCHEDULER),
        time: table("time", SCHEDULER),
        sectors: table("sectors", SCHEDULER),
        pressure: None,
    }
}

/// `8:0 Read 5`, or `8:0 5` where there are no directions. The sum over all devices is left out.
fn parse_io(text: &str) -> Vec<IoEntry> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (major, minor) = device(words.first()?)?;
            let (op, value) = match words[..] {
                [_, op, value] => (op, value),
                [_, value] => ("", value),
                _ => return None,
            };
            Some(IoEntry {
                major,
                minor,
                op: op.to_owned(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

/// Reservations where they are counted apart (Linux 5.7).
fn hugetlb(dir: &Path) -> Vec<(String, Counter)> {
    v2::huge_page_sizes(dir, ".usage_in_bytes")
        .into_iter()
        .map(|size| {
            let reserved = counter(dir, &format!("hugetlb.{size}.rsvd."));
            let counter = match reserved.usage {
                Some(_) => reserved,
                None => counter(dir, &format!("hugetlb.{size}.")),
            };
            (size, counter)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(parse_list("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(parse_list("\n"), [] as [u16; 0]);
        assert_eq!(parse_list("3-1"), [] as [u16; 0]);
    }

    #[test]
    fn tables_of_block_devices() {
        let text = "8:0 Read 1282048\n8:0 Total 3\n253:1 7\nTotal 3477504\n";
        let all = parse_io(text);
        assert_eq!(all.len(), 3);
        assert_eq!(
            (all[0].major, all[0].op.as_str(), all[0].value),
            (8, "Read", 1_282_048)
        );
        assert_eq!((all[2].minor, all[2].op.as_str(), all[2].value), (1, "", 7));
    }

    #[test]
    fn processors_one_by_one() {
        assert_eq!(
            usage_all("cpu user system\n0 1 2\n1 3 4\n"),
            (vec![1, 3], vec![2, 4])
        );
    }

    #[test]
    fn figures_of_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("memory.stat", "cache 1\ntotal_cache 5\ntotal_inactive_file 4\n"),
            ("memory.usage_in_bytes", "10\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.failcnt", "2\n"),
        ] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let m = memory(dir.path()).unwrap();
        assert_eq!(
            (m.usage, m.limit, m.failures, m.cache),
            (Some(10), None, Some(2), Some(5))
        );
        assert_eq!(m.with_swap, Counter::default());
        assert_eq!(m.stat.len(), 3);
    }
}
