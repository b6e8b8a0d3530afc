//! Limits: from docker's fields to the runtime-spec's.

use kelson_api::{HostConfig, Ulimit};
use serde_json::{Map, Value, json};

use super::Inputs;
use crate::error::{Error, Result};

/// Smallest memory limit, bytes, as in docker.
const MIN_MEMORY: i64 = 6 << 20;

/// Period of the CPU quota made from `NanoCpus`, microseconds.
const PERIOD: i64 = 100_000;

/// Nodes every container may use (kernel's devices.txt numbers): zero, null, urandom, random, tty, console. The runtime
/// adds ptmx, pts and mknod itself.
const DEVICES: [(u32, u32); 6] = [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)];

/// Refuses contradictions before anything is made.
///
/// # Errors
/// `Invalid` in docker's words.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    let bad = |text: &str| Err(Error::invalid(text.to_owned()));
    if host.memory != 0 && host.memory < MIN_MEMORY {
        return bad("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return bad("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if host.memory_swappiness.is_some_and(|s| !(-1..=100).contains(&s)) {
        return bad("Invalid value for memory swappiness, valid range is 0-100");
    }
    if host.memory_reservation > 0 && host.memory > 0 && host.memory < host.memory_reservation {
        return bad("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if host.nano_cpus > 0 && (host.cpu_period > 0 || host.cpu_quota > 0) {
        return bad("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let limit = i64::try_from(cpus)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000_000);
    if host.nano_cpus < 0 || host.nano_cpus > limit {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return bad("Range of blkio weight is from 10 to 1000");
    }
    for ulimit in host.ulimits.iter().flatten() {
        if rlimit_name(&ulimit.name).is_none() {
            return Err(Error::invalid(format!("invalid ulimit type: {}", ulimit.name)));
        }
        if ulimit.hard != -1 && (ulimit.soft > ulimit.hard || ulimit.soft == -1) {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                ulimit.soft, ulimit.hard
            )));
        }
    }
    for rule in host.device_cgroup_rules.iter().flatten() {
        parse_device_rule(rule)?;
    }
    Ok(())
}

/// `linux.resources`.
pub(super) fn all(inputs: &Inputs<'_>) -> Value {
    let host = &inputs.record.host;
    let mut out = Map::new();
    out.insert("devices".into(), json!(devices(inputs)));
    for (key, part) in [
        ("memory", memory(host)),
        ("cpu", cpu(host)),
        ("blockIO", block_io(inputs)),
    ] {
        if !part.is_empty() {
            out.insert(key.into(), Value::Object(part));
        }
    }
    if let Some(limit) = host.pids_limit.filter(|n| *n != 0) {
        out.insert(
            "pids".into(),
            json!({"limit": if limit < 0 { -1 } else { limit }}),
        );
    }
    Value::Object(out)
}

/// What of `linux.resources` an update from `old` to `new` changes; `None`: nothing.
pub(crate) fn changes(old: &HostConfig, new: &HostConfig) -> Option<Value> {
    let mut out = Map::new();
    let (before, mut after) = (memory(old), memory(new));
    if before != after {
        // On v1 the kernel refuses a limit below what is in use; on v2 it would kill for it.
        after.insert("checkBeforeUpdate".into(), json!(true));
        out.insert("memory".into(), Value::Object(after));
    }
    if cpu(old) != cpu(new) {
        out.insert("cpu".into(), Value::Object(cpu(new)));
    }
    if old.blkio_weight != new.blkio_weight && new.blkio_weight > 0 {
        out.insert("blockIO".into(), json!({"weight": new.blkio_weight}));
    }
    let pids = |host: &HostConfig| host.pids_limit.filter(|n| *n > 0).unwrap_or(-1);
    if pids(old) != pids(new) {
        out.insert("pids".into(), json!({"limit": pids(new)}));
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

fn devices(inputs: &Inputs<'_>) -> Vec<Value> {
    let host = &inputs.record.host;
    if host.privileged {
        return vec![json!({"allow": true, "access": "rwm"})];
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    for (major, minor) in DEVICES {
        rules.push(json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}));
    }
    for d in &inputs.devices {
        let access = d.access.as_deref().unwrap_or("rwm");
        rules.push(
            json!({"allow": true, "type": d.kind, "major": d.major, "minor": d.minor, "access": access}),
        );
    }
    rules.extend(
        host.device_cgroup_rules
            .iter()
            .flatten()
            .filter_map(|r| parse_device_rule(r).ok()),
    );
    rules
}

/// `c 1:3 rwm`, `a *:* rwm`.
fn parse_device_rule(rule: &str) -> Result<Value> {
    let bad = || Error::invalid(format!("invalid device cgroup rule format: '{rule}'"));
    let parts: Vec<&str> = rule.split(' ').collect();
    let &[kind, numbers, access] = parts.as_slice() else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        n => n.parse::<u32>().map(Some).map_err(|_| bad()),
    };
    if !matches!(kind, "a" | "b" | "c") || access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(bad());
    }
    let mut out = json!({"allow": true, "type": kind, "access": access});
    for (key, value) in [("major", number(major)?), ("minor", number(minor)?)] {
        if let Some(n) = value {
            out[key] = json!(n);
        }
    }
    Ok(out)
}

fn memory(host: &HostConfig) -> Map<String, Value> {
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| out.insert(key.to_owned(), value);
    if host.memory > 0 {
        set("limit", json!(host.memory));
        // As much swap again when nothing is said.
        let swap = match host.memory_swap {
            0 => host.memory.saturating_mul(2),
            n => n,
        };
        set("swap", json!(swap));
    } else if host.memory_swap != 0 {
        set("swap", json!(host.memory_swap));
    }
    if host.memory_reservation > 0 {
        set("reservation", json!(host.memory_reservation));
    }
    if let Some(swappiness) = host.memory_swappiness.filter(|s| *s >= 0) {
        set("swappiness", json!(swappiness));
    }
    if host.oom_kill_disable == Some(true) {
        set("disableOOMKiller", json!(true));
    }
    out
}

fn cpu(host: &HostConfig) -> Map<String, Value> {
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| out.insert(key.to_owned(), value);
    if host.cpu_shares > 0 {
        set("shares", json!(host.cpu_shares));
    }
    if host.nano_cpus > 0 {
        set("period", json!(PERIOD));
        set(
            "quota",
            json!(host.nano_cpus.saturating_mul(PERIOD) / 1_000_000_000),
        );
    }
    if host.cpu_period > 0 {
        set("period", json!(host.cpu_period));
    }
    if host.cpu_quota != 0 {
        set("quota", json!(host.cpu_quota));
    }
    if host.cpu_realtime_period > 0 {
        set("realtimePeriod", json!(host.cpu_realtime_period));
    }
    if host.cpu_realtime_runtime > 0 {
        set("realtimeRuntime", json!(host.cpu_realtime_runtime));
    }
    if !host.cpuset_cpus.is_empty() {
        set("cpus", json!(host.cpuset_cpus));
    }
    if !host.cpuset_mems.is_empty() {
        set("mems", json!(host.cpuset_mems));
    }
    out
}

fn block_io(inputs: &Inputs<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    if inputs.record.host.blkio_weight > 0 {
        out.insert("weight".into(), json!(inputs.record.host.blkio_weight));
    }
    for limit in &inputs.block_limits {
        let value = if limit.key == "weightDevice" {
            "weight"
        } else {
            "rate"
        };
        let item = json!({"major": limit.major, "minor": limit.minor, value: limit.value});
        if let Value::Array(list) = out.entry(limit.key).or_insert_with(|| json!([])) {
            list.push(item);
        }
    }
    out
}

fn rlimit_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "as" => "RLIMIT_AS",
        "core" => "RLIMIT_CORE",
        "cpu" => "RLIMIT_CPU",
        "data" => "RLIMIT_DATA",
        "fsize" => "RLIMIT_FSIZE",
        "locks" => "RLIMIT_LOCKS",
        "memlock" => "RLIMIT_MEMLOCK",
        "msgqueue" => "RLIMIT_MSGQUEUE",
        "nice" => "RLIMIT_NICE",
        "nofile" => "RLIMIT_NOFILE",
        "nproc" => "RLIMIT_NPROC",
        "rss" => "RLIMIT_RSS",
        "rtprio" => "RLIMIT_RTPRIO",
        "rttime" => "RLIMIT_RTTIME",
        "sigpending" => "RLIMIT_SIGPENDING",
        "stack" => "RLIMIT_STACK",
        _ => return None,
    })
}

/// The container's limits over the engine's defaults, by name.
pub(super) fn rlimits(defaults: &[(String, i64, i64)], own: &[Ulimit]) -> Vec<Value> {
    let mut merged: std::collections::BTreeMap<&str, (i64, i64)> = defaults
        .iter()
        .map(|(name, soft, hard)| (name.as_str(), (*soft, *hard)))
        .collect();
    merged.extend(own.iter().map(|u| (u.name.as_str(), (u.soft, u.hard))));
    // -1 is "unlimited", which is the largest number on this side.
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    merged
        .into_iter()
        .filter_map(|(name, (soft, hard))| {
            Some(json!({"type": rlimit_name(name)?, "hard": unsigned(hard), "soft": unsigned(soft)}))
        })
        .collect()
}
