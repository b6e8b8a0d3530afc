//! Figures of a container in the messages of containerd's cgroups library (`io.containerd.cgroups.v1.Metrics` and `.v2.`).
//! Only the layout is here; where a figure comes from is the caller's business.
use crate::wire::Writer;

/// Type of the v1 message.
pub const V1_TYPE: &str = "io.containerd.cgroups.v1.Metrics";

/// Type of the v2 message.
pub const V2_TYPE: &str = "io.containerd.cgroups.v2.Metrics";

/// Keys of v1's `memory.stat` in the order of fields 1 to 32 of `MemoryStat`.
const V1_MEMORY: [&str; 32] = [
    "cache",
    "rss",
    "rss_huge",
    "mapped_file",
    "dirty",
    "writeback",
    "pgpgin",
    "pgpgout",
    "pgfault",
    "pgmajfault",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
    "total_cache",
    "total_rss",
    "total_rss_huge",
    "total_mapped_file",
    "total_dirty",
    "total_writeback",
    "total_pgpgin",
    "total_pgpgout",
    "total_pgfault",
    "total_pgmajfault",
    "total_inactive_anon",
    "total_active_anon",
    "total_inactive_file",
    "total_active_file",
    "total_unevictable",
];

/// Keys of v2's `memory.stat` in the order of fields 1 to 31 of `MemoryStat`.
const V2_MEMORY: [&str; 31] = [
    "anon",
    "file",
    "kernel_stack",
    "slab",
    "sock",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "anon_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab_reclaimable",
    "slab_unreclaimable",
    "pgfault",
    "pgmajfault",
    "workingset_refault",
    "workingset_activate",
    "workingset_nodereclaim",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "pgactivate",
    "pgdeactivate",
    "pglazyfree",
    "pglazyfreed",
    "thp_fault_alloc",
    "thp_collapse_alloc",
];

/// Reads one file of the container's directory of a controller (v1) or of its directory (v2, where the controller's name
/// is not asked for); `None` where there is none.
pub trait Files {
    /// The file's text.
    fn read(&self, controller: &str, name: &str) -> Option<String>;
}

impl<F: Fn(&str, &str) -> Option<String>> Files for F {
    fn read(&self, controller: &str, name: &str) -> Option<String> {
        self(controller, name)
    }
}

fn number(text: Option<String>) -> Option<u64> {
    let text = text?;
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// A key of `key value` lines.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or(0)
}

fn fields(out: &mut Writer, text: &str, keys: &[&str]) {
    for (field, key) in (1..).zip(keys) {
        out.uint(field, keyed(text, key));
    }
}

/// The v1 message. Figures whose controller is missing are left out.
#[must_use]
pub fn v1(files: &impl Files) -> Vec<u8> {
    let get = |controller: &str, name: &str| number(files.read(controller, name));
    let mut out = Writer::default();
    if let Some(current) = get("pids", "pids.current") {
        out.message(2, |pids| {
            // No limit is 0 here.
            let limit = get("pids", "pids.max").filter(|max| *max != u64::MAX);
            pids.uint(1, current).uint(2, limit.unwrap_or(0));
        });
    }
    out.message(3, |cpu| v1_cpu(cpu, files));
    if let Some(stat) = files.read("memory", "memory.stat") {
        out.message(4, |memory| {
            fields(memory, &stat, &V1_MEMORY);
            for (field, kind) in (33..).zip(["", "memsw.", "kmem.", "kmem.tcp."]) {
                let one = |what: &str| get("memory", &format!("memory.{kind}{what}"));
                if let Some(usage) = one("usage_in_bytes") {
                    memory.message(field, |entry| {
                        entry
                            .uint(1, one("limit_in_bytes").unwrap_or(0))
                            .uint(2, usage)
                            .uint(3, one("max_usage_in_bytes").unwrap_or(0))
                            .uint(4, one("failcnt").unwrap_or(0));
                    });
                }
            }
        });
    }
    out.message(5, |blkio| v1_blkio(blkio, files));
    if let Some(oom) = files.read("memory", "memory.oom_control") {
        out.message(9, |message| {
            fields(message, &oom, &["oom_kill_disable", "under_oom", "oom_kill"])
        });
    }
    out.finish()
}

fn v1_cpu(cpu: &mut Writer, files: &impl Files) {
    let get = |name: &str| number(files.read("cpuacct", name)).unwrap_or(0);
    cpu.message(1, |usage| {
        usage
            .uint(1, get("cpuacct.usage"))
            .uint(2, get("cpuacct.usage_sys"))
            .uint(3, get("cpuacct.usage_user"));
        let per_cpu = files.read("cpuacct", "cpuacct.usage_percpu").unwrap_or_default();
        let mut packed = Writer::default();
        for value in per_cpu.split_ascii_whitespace() {
            packed.varint_alone(value.parse().unwrap_or(0));
        }
        usage.bytes(4, packed.finish());
    });
    if let Some(stat) = files.read("cpu", "cpu.stat") {
        cpu.message(2, |throttle| {
            fields(throttle, &stat, &["nr_periods", "nr_throttled", "throttled_time"]);
        });
    }
}

fn v1_blkio(blkio: &mut Writer, files: &impl Files) {
    for (field, name) in [(1, "io_service_bytes"), (2, "io_serviced")] {
        let recursive = files.read("blkio", &format!("blkio.throttle.{name}_recursive"));
        let text = recursive.or_else(|| files.read("blkio", &format!("blkio.throttle.{name}")));
        for line in text.unwrap_or_default().lines() {
            // `8:0 Read 4096`; the last line is a sum without a device.
            let mut words = line.split_ascii_whitespace();
            let Some((major, minor)) = words.next().and_then(device) else {
                continue;
            };
            let (Some(op), Some(value)) = (words.next(), words.next().and_then(|v| v.parse::<u64>().ok()))
            else {
                continue;
            };
            blkio.message(field, |entry| {
                entry.bytes(1, op).uint(3, major).uint(4, minor).uint(5, value);
            });
        }
    }
}

/// The v2 message. Figures whose controller is missing are left out.
#[must_use]
pub fn v2(files: &impl Files) -> Vec<u8> {
    let get = |name: &str| number(files.read("", name));
    let text = |name: &str| files.read("", name);
    let mut out = Writer::default();
    if let Some(current) = get("pids.current") {
        out.message(1, |pids| {
            pids.uint(1, current).uint(2, get("pids.max").unwrap_or(0));
        });
    }
    if let Some(stat) = text("cpu.stat") {
        out.message(2, |cpu| {
            let keys = [
                "usage_usec",
                "user_usec",
                "system_usec",
                "nr_periods",
                "nr_throttled",
                "throttled_usec",
            ];
            fields(cpu, &stat, &keys);
            pressure(cpu, 7, text("cpu.pressure"));
            cpu.uint(8, keyed(&stat, "nr_bursts"))
                .uint(9, keyed(&stat, "burst_usec"));
        });
    }
    if let Some(stat) = text("memory.stat") {
        out.message(4, |memory| {
            fields(memory, &stat, &V2_MEMORY);
            let names = [
                "memory.current",
                "memory.max",
                "memory.swap.current",
                "memory.swap.max",
                "memory.peak",
                "memory.swap.peak",
            ];
            for (field, name) in (32..).zip(names) {
                memory.uint(field, get(name).unwrap_or(0));
            }
            pressure(memory, 38, text("memory.pressure"));
        });
    }
    if let Some(stat) = text("io.stat") {
        out.message(6, |io| {
            v2_io(io, &stat);
            pressure(io, 2, text("io.pressure"));
        });
    }
    if let Some(events) = text("memory.events") {
        out.message(8, |message| {
            fields(
                message,
                &events,
                &["low", "high", "max", "oom", "oom_kill", "oom_group_kill"],
            );
        });
    }
    out.finish()
}

fn v2_io(io: &mut Writer, stat: &str) {
    // `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
    for line in stat.lines() {
        let Some((major, minor)) = line.split(' ').next().and_then(device) else {
            continue;
        };
        io.message(1, |entry| {
            entry.uint(1, major).uint(2, minor);
            for (field, key) in (3..).zip(["rbytes=", "wbytes=", "rios=", "wios="]) {
                let value = line
                    .split(' ')
                    .find_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
                entry.uint(field, value.unwrap_or(0));
            }
        });
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line of the same for `full`.
fn pressure(out: &mut Writer, field: u32, text: Option<String>) {
    let Some(text) = text else {
        return;
    };
    out.message(field, |stats| {
        for line in text.lines() {
            let mut words = line.split(' ');
            let kind = match words.next() {
                Some("some") => 1,
                Some("full") => 2,
                _ => continue,
            };
            stats.message(kind, |data| {
                for word in words {
                    match word.split_once('=') {
                        Some(("avg10", value)) => data.double(1, value.parse().unwrap_or(0.0)),
                        Some(("avg60", value)) => data.double(2, value.parse().unwrap_or(0.0)),
                        Some(("avg300", value)) => data.double(3, value.parse().unwrap_or(0.0)),
                        Some(("total", value)) => data.uint(4, value.parse::<u64>().unwrap_or(0)),
                        _ => data,
                    };
                }
            });
        }
    });
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::read;

    /// Every number of a message by its path of fields, in order.
    fn flat(bytes: &[u8], path: &str, out: &mut Vec<(String, u64)>) {
        read(bytes, |field, value| {
            let path = format!("{path}{field}");
            match value {
                crate::wire::Value::Number(number) => out.push((path, number)),
                crate::wire::Value::Bytes(bytes) => flat(bytes, &format!("{path}."), out),
                crate::wire::Value::Other => {}
            }
        })
        .unwrap_or_default();
    }

    fn figures(message: &[u8]) -> Vec<(String, u64)> {
        let mut out = Vec::new();
        flat(message, "", &mut out);
        out
    }

    #[test]
    fn v2_files_become_fields() {
        let message = v2(&|_: &str, name: &str| {
            Some(match name {
                "pids.current" => "3\n".to_owned(),
                "pids.max" => "max\n".to_owned(),
                "cpu.stat" => "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_bursts 1\n".to_owned(),
                "cpu.pressure" => {
                    "some avg10=0.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 total=8\n".to_owned()
                }
                "memory.stat" => "anon 1\nfile 2\nanon_thp 10\nthp_collapse_alloc 31\n".to_owned(),
                "memory.current" => "32\n".to_owned(),
                "io.stat" => "8:1 rbytes=3 wbytes=4 rios=5 wios=6 dbytes=0\n".to_owned(),
                "memory.events" => "low 0\noom_kill 5\n".to_owned(),
                _ => return None,
            })
        });
        let expected = [
            ("1.1", 3),
            ("1.2", u64::MAX),
            ("2.1", 10),
            ("2.2", 7),
            ("2.3", 3),
            ("2.7.1.4", 9),
            ("2.7.2.4", 8),
            ("2.8", 1),
            ("4.1", 1),
            ("4.2", 2),
            ("4.10", 10),
            ("4.31", 31),
            ("4.32", 32),
            ("6.1.1", 8),
            ("6.1.2", 1),
            ("6.1.3", 3),
            ("6.1.4", 4),
            ("6.1.5", 5),
            ("6.1.6", 6),
            ("8.5", 5),
        ];
        assert_eq!(
            figures(&message),
            expected.map(|(path, value)| (path.to_owned(), value))
        );
    }

    #[test]
    fn v1_files_become_fields() {
        let message = v1(&|controller: &str, name: &str| {
            Some(match (controller, name) {
                ("pids", "pids.current") => "3\n".to_owned(),
                ("pids", "pids.max") => "max\n".to_owned(),
                ("cpuacct", "cpuacct.usage") => "100\n".to_owned(),
                ("cpuacct", "cpuacct.usage_user") => "60\n".to_owned(),
                ("cpu", "cpu.stat") => "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n".to_owned(),
                ("memory", "memory.stat") => {
                    "cache 1\nrss 2\ntotal_cache 18\ntotal_unevictable 32\n".to_owned()
                }
                ("memory", "memory.usage_in_bytes") => "5\n".to_owned(),
                ("memory", "memory.limit_in_bytes") => "6\n".to_owned(),
                ("memory", "memory.oom_control") => {
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n".to_owned()
                }
                ("blkio", "blkio.throttle.io_serviced") => "8:0 Read 7\nTotal 7\n".to_owned(),
                _ => return None,
            })
        });
        let mut seen = figures(&message);
        // The operation's name is a string that reads as numbers here.
        seen.retain(|(path, _)| !path.starts_with("5.2.1."));
        let expected = [
            ("2.1", 3),
            ("3.1.1", 100),
            ("3.1.3", 60),
            ("3.2.1", 1),
            ("3.2.2", 2),
            ("3.2.3", 3),
            ("4.1", 1),
            ("4.2", 2),
            ("4.18", 18),
            ("4.32", 32),
            ("4.33.1", 6),
            ("4.33.2", 5),
            ("5.2.3", 8),
            ("5.2.5", 7),
            ("9.3", 4),
        ];
        assert_eq!(seen, expected.map(|(path, value)| (path.to_owned(), value)));
    }
}
