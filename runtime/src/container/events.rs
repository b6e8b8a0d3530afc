//! Figures and events in the JSON shape of `runc events`, which containerd, cAdvisor and scripts read. Field names,
//! and which fields are left out when they are zero, are runc's.

use std::collections::BTreeMap;

use kelson_cgroups::{self as cgroups, Counter, IoEntry, Stall};
use serde::Serialize;

/// One line of `events`.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

impl<'a> Event<'a> {
    /// A process was killed for lack of memory.
    pub fn oom(id: &'a str) -> Self {
        Self {
            kind: "oom",
            id,
            data: None,
        }
    }

    /// What it uses; `unified` decides how "no limit" is written.
    pub fn stats(id: &'a str, stats: cgroups::Stats, unified: bool) -> Self {
        Self {
            kind: "stats",
            id,
            data: Some(Stats::new(stats, unified)),
        }
    }
}

/// The `data` of a stats event.
#[derive(Debug, Serialize)]
struct Stats {
    cpu: Cpu,
    cpuset: CpuSet,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Hugetlb>,
    intel_rdt: Nothing,
    /// runc fills it for interfaces that it made itself, which no engine asks for.
    network_interfaces: Option<()>,
}

#[derive(Debug, Serialize)]
struct Nothing {}

#[derive(Debug, Serialize)]
struct Cpu {
    usage: CpuUsage,
    #[serde(skip_serializing_if = "is_default")]
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_default")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_default")]
    periods: u64,
    #[serde(skip_serializing_if = "is_default")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_default")]
    throttled_time: u64,
}

#[derive(Debug, Serialize)]
struct Psi {
    some: PsiLine,
    full: PsiLine,
}

#[derive(Debug, Serialize)]
struct PsiLine {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

#[derive(Debug, Serialize)]
struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Debug, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_default")]
    cache: u64,
    usage: MemoryEntry,
    swap: MemoryEntry,
    #[serde(skip_serializing_if = "is_default")]
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP", skip_serializing_if = "is_default")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_default")]
    usage: u64,
    #[serde(skip_serializing_if = "is_default")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_default")]
    current: u64,
    #[serde(skip_serializing_if = "is_default")]
    limit: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_queue_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct BlkioEntry {
    #[serde(skip_serializing_if = "is_default")]
    major: u64,
    #[serde(skip_serializing_if = "is_default")]
    minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    op: String,
    #[serde(skip_serializing_if = "is_default")]
    value: u64,
}

#[derive(Debug, Serialize)]
struct Hugetlb {
    #[serde(skip_serializing_if = "is_default")]
    usage: u64,
    #[serde(skip_serializing_if = "is_default")]
    max: u64,
    failcnt: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Stats {
    fn new(s: cgroups::Stats, unified: bool) -> Self {
        let cgroups::Stats {
            memory,
            cpu,
            pids,
            cpuset,
            io,
            hugetlb,
            rdma: _, // runc does not show it
        } = s;
        Self {
            cpu: Cpu::new(cpu),
            cpuset: CpuSet::new(cpuset),
            memory: Memory::new(memory, unified),
            pids: Pids {
                current: pids.current.unwrap_or(0),
                limit: pids.limit.unwrap_or(0),
            },
            blkio: Blkio::new(io),
            hugetlb: hugetlb
                .into_iter()
                .map(|(size, c)| (size, Hugetlb::new(&c)))
                .collect(),
            intel_rdt: Nothing {},
            network_interfaces: None,
        }
    }
}

impl Cpu {
    fn new(c: cgroups::Cpu) -> Self {
        Self {
            usage: CpuUsage {
                total: c.usage_ns.unwrap_or(0),
                percpu: c.per_cpu_ns,
                percpu_kernel: c.per_cpu_system_ns,
                percpu_user: c.per_cpu_user_ns,
                kernel: c.system_ns.unwrap_or(0),
                user: c.user_ns.unwrap_or(0),
            },
            throttling: Throttling {
                periods: c.periods.unwrap_or(0),
                throttled_periods: c.throttled_periods.unwrap_or(0),
                throttled_time: c.throttled_ns.unwrap_or(0),
            },
            psi: c.pressure.map(Psi::from),
        }
    }
}

impl CpuSet {
    fn new(c: cgroups::CpuSet) -> Self {
        Self {
            cpus: c.cpus,
            cpu_exclusive: c.cpu_exclusive,
            mems: c.mems,
            mem_hardwall: c.mem_hardwall,
            mem_exclusive: c.mem_exclusive,
            memory_migrate: c.memory_migrate,
            memory_spread_page: c.memory_spread_page,
            memory_spread_slab: c.memory_spread_slab,
            memory_pressure: c.memory_pressure,
            sched_load_balance: c.sched_load_balance,
            sched_relax_domain_level: c.sched_relax_domain_level,
        }
    }
}

impl Memory {
    fn new(m: cgroups::Memory, unified: bool) -> Self {
        let all = Counter {
            usage: m.usage,
            peak: m.peak,
            limit: m.limit,
            failures: if unified { None } else { m.failures },
        };
        Self {
            cache: m.cache.unwrap_or(0),
            usage: MemoryEntry::new(&all, unified),
            swap: MemoryEntry::new(&m.with_swap, unified),
            kernel: MemoryEntry::new(&m.kernel, unified),
            kernel_tcp: MemoryEntry::new(&m.kernel_tcp, unified),
            raw: m.stat.into_iter().collect(),
            psi: m.pressure.map(Psi::from),
        }
    }
}

impl MemoryEntry {
    /// No limit is v1's largest number there, and the largest of all on v2, as runc shows them.
    fn new(c: &Counter, unified: bool) -> Self {
        let Some(usage) = c.usage else {
            return Self::default();
        };
        let unlimited = if unified { u64::MAX } else { 0x7fff_ffff_ffff_f000 };
        Self {
            limit: c.limit.unwrap_or(unlimited),
            usage,
            max: c.peak.unwrap_or(0),
            failcnt: c.failures.unwrap_or(0),
        }
    }
}

impl Blkio {
    fn new(io: cgroups::Io) -> Self {
        let table = |list: Vec<IoEntry>| {
            list.into_iter()
                .map(|e| BlkioEntry {
                    major: e.major,
                    minor: e.minor,
                    op: e.op,
                    value: e.value,
                })
                .collect()
        };
        Self {
            io_service_bytes_recursive: table(io.bytes),
            io_serviced_recursive: table(io.requests),
            io_queue_recursive: table(io.queued),
            io_service_time_recursive: table(io.service_time),
            io_wait_time_recursive: table(io.wait_time),
            io_merged_recursive: table(io.merged),
            io_time_recursive: table(io.time),
            sectors_recursive: table(io.sectors),
            psi: io.pressure.map(Psi::from),
        }
    }
}

impl Hugetlb {
    fn new(c: &Counter) -> Self {
        Self {
            usage: c.usage.unwrap_or(0),
            max: c.peak.unwrap_or(0),
            failcnt: c.failures.unwrap_or(0),
        }
    }
}

impl From<cgroups::Pressure> for Psi {
    fn from(p: cgroups::Pressure) -> Self {
        let line = |s: Stall| PsiLine {
            avg10: s.avg10,
            avg60: s.avg60,
            avg300: s.avg300,
            total: s.total_us,
        };
        Self {
            some: line(p.some),
            full: line(p.full),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(event: &Event<'_>) -> String {
        serde_json::to_string(event).unwrap()
    }

    #[test]
    fn an_oom_event_has_two_fields() {
        assert_eq!(json(&Event::oom("web")), r#"{"type":"oom","id":"web"}"#);
    }

    #[test]
    fn a_stats_event_begins_as_scripts_expect_and_leaves_zeroes_out() {
        let text = json(&Event::stats("web", cgroups::Stats::default(), true));
        assert!(
            text.starts_with(r#"{"type":"stats","id":"web","data":{"cpu":{"usage":{"kernel":0,"user":0}},"#),
            "{text}"
        );
        assert!(
            text.contains(r#""pids":{},"blkio":{},"hugetlb":{},"intel_rdt":{},"network_interfaces":null"#)
        );
    }

    #[test]
    fn figures_keep_their_names_and_units() {
        let stats = cgroups::Stats {
            memory: cgroups::Memory {
                usage: Some(10),
                with_swap: Counter {
                    usage: Some(12),
                    limit: Some(50),
                    ..Counter::default()
                },
                stat: vec![("anon".to_owned(), 3)],
                ..cgroups::Memory::default()
            },
            hugetlb: vec![("2MB".to_owned(), Counter::default())],
            io: cgroups::Io {
                bytes: vec![IoEntry {
                    major: 8,
                    minor: 0,
                    op: "Read".to_owned(),
                    value: 5,
                }],
                ..cgroups::Io::default()
            },
            ..cgroups::Stats::default()
        };
        let value: serde_json::Value =
            serde_json::from_str(&json(&Event::stats("web", stats.clone(), true))).unwrap();
        let data = &value["data"];
        assert_eq!(data["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(data["memory"]["swap"]["limit"], 50);
        assert_eq!(data["memory"]["raw"]["anon"], 3);
        assert_eq!(data["hugetlb"]["2MB"]["failcnt"], 0);
        let entry = &data["blkio"]["ioServiceBytesRecursive"][0];
        assert_eq!((&entry["major"], &entry["op"]), (&8.into(), &"Read".into()));
        assert!(
            entry.get("minor").is_none(),
            "as Go's omitempty leaves zeroes out"
        );
        let value: serde_json::Value =
            serde_json::from_str(&json(&Event::stats("web", stats, false))).unwrap();
        assert_eq!(
            value["data"]["memory"]["usage"]["limit"],
            9_223_372_036_854_771_712_u64
        );
    }
}
