//! `docker stats`: samples of what a container uses, straight from its cgroup, `/proc/stat` and its `/proc/PID/net/dev`.
//! Nothing runs for a container that nobody looks at.

use std::sync::Arc;
use std::time::Duration;

use kelson_api::{
    BlkioEntry, BlkioStats, ContainerStats, CpuStats, CpuUsage, Map, MemoryStats, NetworkStats, PidsStats,
    ThrottlingData, ZERO_TIME,
};
use kelson_cgroups::{Cgroup, Host, IoEntry, Stats};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::container::Container;
use super::launch;
use super::modes::NetworkMode;
use super::record::{Record, Status};
use crate::clock;
use crate::error::{Doing, Error, Result};
use crate::inner::{Inner, blocking};
use crate::types::{StatsMode, StatsStream};

/// The time between two samples.
const PERIOD: Duration = Duration::from_secs(1);

/// The unit of `/proc/stat`: a hundredth of a second on every architecture, as the kernel's interface fixes it.
const NANOS_PER_TICK: u64 = 10_000_000;

/// What is known from the sample before.
struct Sampler {
    inner: Arc<Inner>,
    container: Arc<Container>,
    before: Option<(String, CpuStats)>,
}

pub(crate) fn run(inner: &Arc<Inner>, name: &str, mode: StatsMode) -> Result<StatsStream> {
    let container = inner.containers.find(name)?;
    let mut sampler = Sampler {
        inner: inner.clone(),
        container,
        before: None,
    };
    if mode != StatsMode::Stream {
        return Ok(Box::pin(futures_util::stream::once(async move {
            let first = sampler.sample().await?;
            if mode == StatsMode::OneShot || !sampler.container.status().has_process() {
                return Ok(first);
            }
            let removed = sampler.container.clone();
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = until_removed(&removed) => {}
            }
            sampler.sample().await
        })));
    }
    let mut ticks = interval_at(Instant::now(), PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Box::pin(futures_util::stream::unfold(
        (sampler, ticks),
        |(mut sampler, mut ticks)| async move {
            let container = sampler.container.clone();
            tokio::select! {
                biased;
                () = until_removed(&container) => return None,
                _ = ticks.tick() => {}
            }
            Some((sampler.sample().await, (sampler, ticks)))
        },
    )))
}

async fn until_removed(container: &Container) {
    if container.life().wait_for(|life| life.removed).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Sampler {
    async fn sample(&mut self) -> Result<ContainerStats> {
        let (inner, container) = (self.inner.clone(), self.container.clone());
        let mut sample = blocking("read a container's figures", move || take(&inner, &container)).await?;
        let present = (sample.read.clone(), sample.cpu_stats.clone());
        if let Some((read, cpu)) = self.before.replace(present) {
            sample.preread = read;
            sample.precpu_stats = cpu;
        }
        Ok(sample)
    }
}

fn take(inner: &Inner, container: &Container) -> Result<ContainerStats> {
    let snapshot = container.snapshot();
    let (record, state) = (&snapshot.record, &snapshot.state);
    let mut out = ContainerStats {
        name: format!("/{}", record.name),
        id: record.id.clone(),
        os_type: "linux".into(),
        read: ZERO_TIME.into(),
        preread: ZERO_TIME.into(),
        ..ContainerStats::default()
    };
    if !matches!(state.status, Status::Running | Status::Paused) {
        return Ok(out);
    }
    let stats = match cgroup(inner, record)?.stats() {
        Ok(stats) => stats,
        // It ended just now.
        Err(e) if e.kind() == kelson_cgroups::Kind::NotFound => return Ok(out),
        Err(e) => return Err(Error::internal(e.to_string())),
    };
    let (system, online) = machine(&std::fs::read_to_string("/proc/stat").doing(|| "read /proc/stat")?);
    out.read = clock::now();
    out.cpu_stats = cpu(&stats, system, online);
    out.memory_stats = memory(
        &stats,
        inner.unified_cgroup,
        u64::try_from(crate::info::mem_total()).unwrap_or(0),
    );
    out.pids_stats = PidsStats {
        current: stats.pids.current.unwrap_or(0),
        // As docker shows it: the largest number on v2, nothing on v1.
        limit: stats
            .pids
            .limit
            .unwrap_or(if inner.unified_cgroup { u64::MAX } else { 0 }),
    };
    out.blkio_stats = block_io(&stats, inner.unified_cgroup);
    if !matches!(NetworkMode::of(record), Ok(NetworkMode::Host)) {
        out.networks = networks(state.pid);
    }
    Ok(out)
}

/// Where the runtime put it.
fn cgroup(inner: &Inner, record: &Record) -> Result<Cgroup> {
    let path = launch::cgroups_path(inner, record);
    let found = Host::detect().and_then(|host| {
        if inner.config.systemd_cgroup {
            host.systemd(Some(&path), &record.id, false)
        } else {
            host.container(Some(&path), &record.id)
        }
    });
    found.map_err(|e| Error::internal(e.to_string()))
}

/// Time of all processors together, in nanoseconds, and how many there are.
fn machine(proc_stat: &str) -> (u64, u32) {
    let mut total = 0;
    let mut online = 0;
    for line in proc_stat.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already.
            Some("cpu") => total = words.take(8).filter_map(|n| n.parse::<u64>().ok()).sum(),
            Some(word) if word.starts_with("cpu") => online += 1,
            _ => break,
        }
    }
    (total * NANOS_PER_TICK, online)
}

fn cpu(stats: &Stats, system: u64, online: u32) -> CpuStats {
    let cpu = &stats.cpu;
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: cpu.usage_ns.unwrap_or(0),
            percpu_usage: cpu.per_cpu_ns.clone(),
            usage_in_kernelmode: cpu.system_ns.unwrap_or(0),
            usage_in_usermode: cpu.user_ns.unwrap_or(0),
        },
        system_cpu_usage: system,
        online_cpus: online,
        throttling_data: ThrottlingData {
            periods: cpu.periods.unwrap_or(0),
            throttled_periods: cpu.throttled_periods.unwrap_or(0),
            throttled_time: cpu.throttled_ns.unwrap_or(0),
        },
    }
}

fn memory(stats: &Stats, unified: bool, machine: u64) -> MemoryStats {
    let memory = &stats.memory;
    let of_v1 = |n: Option<u64>| n.filter(|_| !unified).unwrap_or(0);
    MemoryStats {
        usage: memory.usage.unwrap_or(0),
        max_usage: of_v1(memory.peak),
        stats: memory.stat.iter().cloned().collect(),
        failcnt: of_v1(memory.failures),
        limit: match memory.limit {
            Some(limit) if limit < machine => limit,
            _ => machine,
        },
    }
}

fn block_io(stats: &Stats, unified: bool) -> BlkioStats {
    let entries = |table: &[IoEntry]| -> Option<Vec<BlkioEntry>> {
        let one = |e: &IoEntry| BlkioEntry {
            major: e.major,
            minor: e.minor,
            // docker writes v2's in lower case.
            op: if unified {
                e.op.to_lowercase()
            } else {
                e.op.clone()
            },
            value: e.value,
        };
        Some(table.iter().map(one).collect())
    };
    let io = &stats.io;
    if unified {
        return BlkioStats {
            io_service_bytes_recursive: entries(&io.bytes).filter(|e| !e.is_empty()),
            ..BlkioStats::default()
        };
    }
    BlkioStats {
        io_service_bytes_recursive: entries(&io.bytes),
        io_serviced_recursive: entries(&io.requests),
        io_queue_recursive: entries(&io.queued),
        io_service_time_recursive: entries(&io.service_time),
        io_wait_time_recursive: entries(&io.wait_time),
        io_merged_recursive: entries(&io.merged),
        io_time_recursive: entries(&io.time),
        sectors_recursive: entries(&io.sectors),
    }
}

/// Of all interfaces in the process's network namespace but the loopback.
fn networks(pid: u32) -> Map<NetworkStats> {
    let of_process = i32::try_from(pid)
        .ok()
        .and_then(|pid| procfs::process::Process::new(pid).ok())
        .and_then(|process| process.dev_status().ok());
    let all = of_process.unwrap_or_default().into_iter();
    all.filter(|(name, _)| name != "lo")
        .map(|(name, d)| {
            let figures = NetworkStats {
                rx_bytes: d.recv_bytes,
                rx_packets: d.recv_packets,
                rx_errors: d.recv_errs,
                rx_dropped: d.recv_drop,
                tx_bytes: d.sent_bytes,
                tx_packets: d.sent_packets,
                tx_errors: d.sent_errs,
                tx_dropped: d.sent_drop,
            };
            (name, figures)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_is_that_of_all_processors() {
        let text = "cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 0 1 2 3 4 5 6 7 0 0\nintr 5\ncpu9 1\n";
        assert_eq!(machine(text), (360_000_000, 2));
        let (mine, online) = machine(&std::fs::read_to_string("/proc/stat").unwrap());
        assert!(mine > 0 && online > 0);
    }

    #[test]
    fn each_version_in_its_own_shape() {
        let mut stats = Stats::default();
        stats.io.bytes = vec![IoEntry {
            major: 8,
            minor: 0,
            op: "Read".into(),
            value: 5,
        }];
        stats.memory.peak = Some(7);
        let (v1, v2) = (block_io(&stats, false), block_io(&stats, true));
        assert_eq!(v1.io_service_bytes_recursive.unwrap()[0].op, "Read");
        assert_eq!(v1.io_time_recursive, Some(vec![]));
        assert_eq!(v2.io_service_bytes_recursive.unwrap()[0].op, "read");
        assert_eq!(v2.io_time_recursive, None);
        assert_eq!(memory(&stats, false, 100).max_usage, 7);
        assert_eq!(
            (
                memory(&stats, true, 100).max_usage,
                memory(&stats, true, 100).limit
            ),
            (0, 100)
        );
        stats.memory.limit = Some(50);
        assert_eq!(memory(&stats, true, 100).limit, 50);
    }

    #[test]
    fn interfaces_of_a_process() {
        let mine = networks(std::process::id());
        assert!(!mine.contains_key("lo"));
        assert!(networks(0).is_empty());
    }
}
