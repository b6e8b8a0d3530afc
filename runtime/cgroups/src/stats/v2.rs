//! Figures from a v2 directory. A file that is missing belongs to a controller that is not enabled.

use std::fs;
use std::path::Path;

use super::{Counter, Cpu, Io, IoEntry, Memory, Pids, Pressure, Stall, Stats, device, lines, rdma};
use crate::error::Result;
use crate::files;

pub(super) fn read(dir: &Path) -> Result<Stats> {
    // cpu.stat is there without the controller, too; the cgroup itself is gone if it is not.
    let cpu_stat = files::read(dir, "cpu.stat")?;
    let text = |file| files::read(dir, file).unwrap_or_default();
    Ok(Stats {
        memory: memory(dir),
        cpu: Cpu {
            pressure: pressure(&text("cpu.pressure")),
            ..cpu(&cpu_stat)
        },
        pids: Pids {
            current: files::number(dir, "pids.current").unwrap_or_default(),
            limit: files::number(dir, "pids.max").unwrap_or_default(),
        },
        io: Io {
            pressure: pressure(&text("io.pressure")),
            ..io(&text("io.stat"))
        },
        hugetlb: hugetlb(dir),
        rdma: rdma(&text("rdma.current"), &text("rdma.max")),
        ..Stats::default()
    })
}

fn cpu(text: &str) -> Cpu {
    let ns = |key| files::keyed(text, key).map(|us| us.saturating_mul(1000));
    Cpu {
        usage_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: files::keyed(text, "nr_periods"),
        throttled_periods: files::keyed(text, "nr_throttled"),
        throttled_ns: ns("throttled_usec"),
        ..Cpu::default()
    }
}

fn memory(dir: &Path) -> Memory {
    let number = |file| files::number(dir, file).unwrap_or_default();
    let Ok(text) = files::read(dir, "memory.stat") else {
        return Memory::default();
    };
    let (usage, limit) = (number("memory.current"), number("memory.max"));
    let swap = number("memory.swap.current");
    let swap_limit = number("memory.swap.max");
    Memory {
        usage,
        limit,
        peak: number("memory.peak"),
        failures: files::keyed(&files::read(dir, "memory.events").unwrap_or_default(), "max"),
        cache: files::keyed(&text, "file"),
        inactive_file: files::keyed(&text, "inactive_file"),
        swap,
        with_swap: Counter {
            usage: swap.zip(usage).map(|(s, m)| s.saturating_add(m)),
            limit: swap_limit.zip(limit).map(|(s, m)| s.saturating_add(m)),
            peak: None,
            failures: None,
        },
        kernel: Counter::default(),
        kernel_tcp: Counter::default(),
        stat: lines(&text),
        pressure: pressure(&files::read(dir, "memory.pressure").unwrap_or_default()),
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn io(text: &str) -> Io {
    let mut out = Io::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let (table, op) = match key {
                "rbytes" => (&mut out.bytes, "Read"),
                "wbytes" => (&mut out.bytes, "Write"),
                "rios" => (&mut out.requests, "Read"),
                "wios" => (&mut out.requests, "Write"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                table.push(IoEntry {
                    major,
                    minor,
                    op: op.to_owned(),
                    value,
                });
            }
        }
    }
    out
}

/// Reservations where they are counted apart (Linux 5.7).
pub(super) fn hugetlb(dir: &Path) -> Vec<(String, Counter)> {
    huge_page_sizes(dir, ".current")
        .into_iter()
        .map(|size| {
            let number = |file: String| files::number(dir, &file).ok().flatten();
            let events = files::read(dir, &format!("hugetlb.{size}.events")).unwrap_or_default();
            let counter = Counter {
                usage: number(format!("hugetlb.{size}.rsvd.current"))
                    .or_else(|| number(format!("hugetlb.{size}.current"))),
                peak: None,
                limit: number(format!("hugetlb.{size}.max")),
                failures: files::keyed(&events, "max"),
            };
            (size, counter)
        })
        .collect()
}

/// The sizes that the directory has files for, as `2MB`.
pub(super) fn huge_page_sizes(dir: &Path, suffix: &str) -> Vec<String> {
    let mut sizes: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

/// `None` where the kernel keeps no such account.
fn pressure(text: &str) -> Option<Pressure> {
    let mut out = Pressure::default();
    let mut found = false;
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let stall = match kind {
            "some" => &mut out.some,
            "full" => &mut out.full,
            _ => continue,
        };
        *stall = parse_stall(rest);
        found = true;
    }
    found.then_some(out)
}

/// `avg10=0.00 avg60=0.00 avg300=0.00 total=0`
fn parse_stall(text: &str) -> Stall {
    let mut out = Stall::default();
    for (key, value) in text.split_whitespace().filter_map(|w| w.split_once('=')) {
        match key {
            "avg10" => out.avg10 = value.parse().unwrap_or(0.0),
            "avg60" => out.avg60 = value.parse().unwrap_or(0.0),
            "avg300" => out.avg300 = value.parse().unwrap_or(0.0),
            "total" => out.total_us = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_has_two_lines_or_one() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let p = pressure(text).unwrap();
        assert_eq!((p.some.avg10, p.some.avg300, p.some.total_us), (1.5, 0.25, 77));
        assert_eq!(p.full.total_us, 3);
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn io_by_direction() {
        let all = io("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16\n");
        assert_eq!((all.bytes.len(), all.requests.len()), (2, 2));
        assert_eq!((all.bytes[1].op.as_str(), all.bytes[1].value), ("Write", 2));
    }

    #[test]
    fn microseconds_become_nanoseconds() {
        let c = cpu("usage_usec 5\nuser_usec 2\nsystem_usec 3\nnr_throttled 1\nthrottled_usec 9\n");
        assert_eq!(
            (c.usage_ns, c.throttled_ns, c.periods),
            (Some(5000), Some(9000), None)
        );
    }

    #[test]
    fn figures_of_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 1\n"),
            ("memory.stat", "anon 1\nfile 7\n"),
            ("memory.current", "100\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "5\n"),
            ("memory.swap.max", "50\n"),
            ("hugetlb.2MB.current", "4096\n"),
            ("hugetlb.2MB.rsvd.current", "8192\n"),
            ("hugetlb.2MB.max", "max\n"),
        ] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let stats = read(dir.path()).unwrap();
        assert_eq!(stats.memory.limit, None);
        assert_eq!(stats.memory.with_swap.usage, Some(105));
        assert_eq!(
            stats.memory.with_swap.limit, None,
            "memory without limit has none with swap"
        );
        assert_eq!(stats.hugetlb.len(), 1);
        assert_eq!(stats.hugetlb[0].1.usage, Some(8192));
        assert_eq!(stats.pids, Pids::default());
    }

    #[test]
    fn a_cgroup_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            read(&dir.path().join("x")).unwrap_err().kind(),
            crate::Kind::NotFound
        );
    }
}
