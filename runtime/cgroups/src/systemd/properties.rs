//! What systemd is told about a container, as properties of its unit (org.freedesktop.systemd1(5),
//! systemd.resource-control(5)). Pure. The same values are written to the cgroup's files as well: systemd must know
//! them, or it would set its own whenever it applies a unit again.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::marshal::Value;
use crate::block_io::io_weight;
use crate::devices::DeviceRules;
use crate::error::{Error, Kind, Result};
use crate::v2;

/// A property's name and value.
pub(crate) type Property = (String, Value);

/// The first version that knows a property, or a meaning of it.
pub(crate) mod since {
    /// `CPUQuotaPeriodUSec`
    pub(crate) const QUOTA_PERIOD: u32 = 242;
    /// `AllowedCPUs`, `AllowedMemoryNodes`
    pub(crate) const CPUSET: u32 = 244;
    /// `CPUWeight=idle`
    pub(crate) const IDLE: u32 = 252;
    /// `OOMPolicy` of scopes
    pub(crate) const OOM_POLICY: u32 = 253;
}

/// Whether [`resources`] or [`creation`] depend on systemd's version.
pub(crate) fn depend_on_version(resources: &LinuxResources) -> bool {
    resources.cpu().as_ref().is_some_and(|c| {
        c.period().is_some() || c.cpus().is_some() || c.mems().is_some() || c.idle().is_some()
    }) || resources.unified().as_ref().is_some_and(|m| !m.is_empty())
}

/// `257`, `v252.4-1`, `245-1.fc32`; an unknown form is taken for a recent one.
pub(crate) fn version(text: &str) -> u32 {
    let digits: String = text
        .trim_start_matches('v')
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(u32::MAX)
}

fn property(name: &str, value: impl Into<Value>) -> Property {
    (name.to_owned(), value.into())
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Self::U64(n)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Self::str(s)
    }
}

/// What a new unit is, besides its limits. A slice is tied to its parent by a dependency, and knows no delegation.
pub(crate) fn creation(unit: &str, slice: &str, pid: Option<u32>, id: &str, unified: bool) -> Vec<Property> {
    let mut out = vec![property("Description", format!("kelson container {id}").as_str())];
    if unit.ends_with(".slice") {
        out.push(property("Wants", Value::strings([slice])));
    } else {
        out.push(property("Slice", slice));
        out.push(property("Delegate", true));
        // A scope that failed (its processes were killed for lack of memory) would keep its name otherwise.
        out.push(property("CollectMode", "inactive-or-failed"));
    }
    if let Some(pid) = pid {
        out.push(property(
            "PIDs",
            Value::Array("u".to_owned(), vec![Value::U32(pid)]),
        ));
    }
    let io = if unified {
        "IOAccounting"
    } else {
        "BlockIOAccounting"
    };
    for name in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
        out.push(property(name, true));
    }
    out.push(property("DefaultDependencies", false));
    out
}

/// `OOMPolicy`, which cannot be changed later.
pub(crate) fn oom_policy(resources: &LinuxResources, version: u32) -> Option<Property> {
    if version < since::OOM_POLICY {
        return None;
    }
    match resources.unified().as_ref()?.get("memory.oom.group")?.trim() {
        "0" => Some(property("OOMPolicy", "continue")),
        "1" => Some(property("OOMPolicy", "kill")),
        _ => None,
    }
}

/// `DeviceAllow` and `DevicePolicy`. On v2 our own filter decides as well, and both must allow: what systemd cannot
/// say, it is not told at all. On v1 systemd writes the same file as we do, and we write last.
pub(crate) fn devices(rules: &DeviceRules, unified: bool) -> Vec<Property> {
    let (list, policy) = match rules.device_allow() {
        Some((list, complete)) if complete || !unified => (list, "strict"),
        _ => (Vec::new(), "auto"),
    };
    let pairs = |list: Vec<(String, String)>| {
        let pairs = list
            .into_iter()
            .map(|(node, access)| Value::Struct(vec![Value::Str(node), Value::Str(access)]))
            .collect();
        Value::Array("(ss)".to_owned(), pairs)
    };
    let mut out = vec![
        // An empty list forgets what a unit of that name had.
        property("DeviceAllow", pairs(Vec::new())),
        property("DevicePolicy", policy),
    ];
    if !list.is_empty() {
        out.push(property("DeviceAllow", pairs(list)));
    }
    out
}

/// The limits that systemd has properties for.
pub(crate) fn resources(
    r: &LinuxResources,
    unified: bool,
    now: &v2::Now,
    version: u32,
) -> Result<Vec<Property>> {
    let mut out = Vec::new();
    if let Some(m) = r.memory() {
        memory(&mut out, m, unified, now)?;
    }
    if let Some(c) = r.cpu() {
        cpu(&mut out, c, unified, now, version)?;
    }
    if let Some(p) = r.pids() {
        out.push(property("TasksMax", tasks_max(p.limit())));
    }
    if let Some(weight) = r
        .block_io()
        .as_ref()
        .and_then(|io| io.weight())
        .filter(|&w| w != 0)
    {
        out.push(if unified {
            property("IOWeight", io_weight(weight))
        } else {
            property("BlockIOWeight", u64::from(weight))
        });
    }
    if unified {
        parameters(&mut out, r, version)?;
    }
    Ok(out)
}

fn tasks_max(limit: i64) -> u64 {
    match limit {
        // systemd knows no 0.
        0 => 1,
        n => bytes(n),
    }
}

/// A number of bytes or tasks; negative is "infinity", which is the largest number.
fn bytes(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn memory(out: &mut Vec<Property>, m: &LinuxMemory, unified: bool, now: &v2::Now) -> Result<()> {
    let limit = m.limit().filter(|&n| n != 0);
    if !unified {
        out.extend(limit.map(|n| property("MemoryLimit", bytes(n))));
        return Ok(());
    }
    out.extend(limit.map(|n| property("MemoryMax", bytes(n))));
    let low = m.reservation().filter(|&n| n != 0);
    out.extend(low.map(|n| property("MemoryLow", bytes(n))));
    out.extend(v2::swap(m, now)?.map(|n| property("MemorySwapMax", bytes(n))));
    Ok(())
}

fn cpu(out: &mut Vec<Property>, c: &LinuxCpu, unified: bool, now: &v2::Now, version: u32) -> Result<()> {
    let idle = unified && c.idle() == Some(1) && version >= since::IDLE;
    if idle {
        out.push(property("CPUWeight", 0u64));
    }
    if let Some(shares) = c.shares().filter(|&n| n != 0)
        && c.idle() != Some(1)
    {
        out.push(if unified {
            property("CPUWeight", v2::weight(shares))
        } else {
            property("CPUShares", shares)
        });
    }
    let quota = c.quota().filter(|&n| n != 0);
    let period = c.period().filter(|&n| n != 0);
    if quota.is_some() || period.is_some() {
        // One alone is told with the other that is in force.
        let quota = quota.or_else(|| now.quota.as_deref().and_then(|q| q.parse().ok()));
        cpu_quota(out, quota, period.or(now.period), version);
    }
    if version >= since::CPUSET {
        for (name, field, list) in [
            ("AllowedCPUs", "linux.resources.cpu.cpus", c.cpus()),
            ("AllowedMemoryNodes", "linux.resources.cpu.mems", c.mems()),
        ] {
            if let Some(list) = list.as_deref().filter(|l| !l.is_empty()) {
                out.push(property(name, Value::bytes(bits(list, field)?)));
            }
        }
    }
    Ok(())
}

/// systemd counts in microseconds per second, and keeps whole percents: a quota is rounded up to the next, so that
/// what is below can have what it asks for.
fn cpu_quota(out: &mut Vec<Property>, quota: Option<i64>, period: Option<u64>, version: u32) {
    const DEFAULT_PERIOD: u64 = 100_000;
    if quota.is_none() && period.is_none() {
        return;
    }
    if let Some(period) = period
        && version >= since::QUOTA_PERIOD
    {
        out.push(property("CPUQuotaPeriodUSec", period));
    }
    let per_second = match quota.and_then(|q| u64::try_from(q).ok()) {
        Some(quota) => (quota.saturating_mul(1_000_000) / period.unwrap_or(DEFAULT_PERIOD))
            .div_ceil(10_000)
            .saturating_mul(10_000),
        None => u64::MAX,
    };
    out.push(property("CPUQuotaPerSecUSec", per_second));
}

/// `0-3,8` as a bit mask, the lowest number first.
fn bits(list: &str, field: &str) -> Result<Vec<u8>> {
    /// More processors than any kernel is built for.
    const MAX: u16 = 8192;
    let bad = || {
        Error::new(
            Kind::Invalid,
            format!("{field}: {list:?} is not a list such as 0-3,8"),
        )
    };
    let mut out: Vec<u8> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |t: &str| t.trim().parse::<u16>().ok().filter(|n| *n < MAX);
        let (first, last) = number(first)
            .zip(number(last))
            .filter(|(f, l)| f <= l)
            .ok_or_else(bad)?;
        for n in first..=last {
            let at = usize::from(n / 8);
            if out.len() <= at {
                out.resize(at + 1, 0);
            }
            out[at] |= 1 << (n % 8);
        }
    }
    if out.is_empty() {
        return Err(bad());
    }
    Ok(out)
}

/// `linux.resources.unified`: those that systemd knows; all others are in the files alone.
fn parameters(out: &mut Vec<Property>, r: &LinuxResources, version: u32) -> Result<()> {
    let Some(map) = r.unified() else { return Ok(()) };
    let idle = map.get("cpu.idle").is_some_and(|v| v.trim() == "1");
    let mut names: Vec<_> = map.iter().collect();
    names.sort_unstable();
    for (name, value) in names {
        let value = value.trim();
        let bad = |why: &str| {
            Error::new(
                Kind::Invalid,
                format!("linux.resources.unified: {name}={value:?} {why}"),
            )
        };
        let number = || {
            if value == "max" {
                return Ok(u64::MAX);
            }
            value
                .parse::<u64>()
                .map_err(|_| bad("is neither a number nor max"))
        };
        match name.as_str() {
            "cpu.idle" if idle && version >= since::IDLE => out.push(property("CPUWeight", 0u64)),
            "cpu.weight" if !idle => out.push(property("CPUWeight", number()?)),
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = match words.next() {
                    Some("max") => None,
                    Some(q) => Some(q.parse().map_err(|_| bad("has no quota"))?),
                    None => return Err(bad("has no quota")),
                };
                let period = match words.next() {
                    Some(p) => p.parse().map_err(|_| bad("has no period"))?,
                    None => 100_000,
                };
                cpu_quota(out, quota, Some(period), version);
            }
            "cpuset.cpus" | "cpuset.mems" if version >= since::CPUSET => {
                let property_name = if name == "cpuset.cpus" {
                    "AllowedCPUs"
                } else {
                    "AllowedMemoryNodes"
                };
                let bits = bits(value, &format!("linux.resources.unified[{name:?}]"))?;
                out.push(property(property_name, Value::bytes(bits)));
            }
            "memory.high" => out.push(property("MemoryHigh", number()?)),
            "memory.low" => out.push(property("MemoryLow", number()?)),
            "memory.min" => out.push(property("MemoryMin", number()?)),
            "memory.max" => out.push(property("MemoryMax", number()?)),
            "memory.swap.max" => out.push(property("MemorySwapMax", number()?)),
            "pids.max" => out.push(property("TasksMax", number()?.max(1))),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, unified: bool, version: u32) -> Vec<(String, Value)> {
        let r: LinuxResources = serde_json::from_str(text).unwrap();
        resources(&r, unified, &v2::Now::default(), version).unwrap()
    }

    fn pairs(list: &[(&str, u64)]) -> Vec<(String, Value)> {
        list.iter()
            .map(|(n, v)| ((*n).to_owned(), Value::U64(*v)))
            .collect()
    }

    #[test]
    fn versions() {
        for (text, n) in [
            ("257 (257.13-1~deb13u1)", 257),
            ("v245.4-1.fc32", 245),
            ("252", 252),
            ("?", u32::MAX),
        ] {
            assert_eq!(version(text), n, "{text}");
        }
    }

    #[test]
    fn limits_of_v2() {
        let text = r#"{"memory":{"limit":100,"reservation":50,"swap":300},"pids":{"limit":0},
            "cpu":{"shares":1024,"quota":50000,"period":100000},"blockIO":{"weight":750}}"#;
        assert_eq!(
            of(text, true, 257),
            pairs(&[
                ("MemoryMax", 100),
                ("MemoryLow", 50),
                ("MemorySwapMax", 200),
                ("CPUWeight", 100),
                ("CPUQuotaPeriodUSec", 100_000),
                ("CPUQuotaPerSecUSec", 500_000),
                ("TasksMax", 1),
                ("IOWeight", 7475),
            ])
        );
    }

    #[test]
    fn limits_of_v1() {
        let text = r#"{"memory":{"limit":100,"swap":300},"pids":{"limit":-1},"cpu":{"shares":100}}"#;
        assert_eq!(
            of(text, false, 240),
            pairs(&[("MemoryLimit", 100), ("CPUShares", 100), ("TasksMax", u64::MAX)])
        );
    }

    #[test]
    fn a_quota_is_rounded_up_to_a_percent() {
        let quota = |text: &str| of(text, true, 257).pop().unwrap().1;
        assert_eq!(
            quota(r#"{"cpu":{"quota":12345,"period":100000}}"#),
            Value::U64(130_000)
        );
        assert_eq!(quota(r#"{"cpu":{"quota":5000}}"#), Value::U64(50_000));
        assert_eq!(quota(r#"{"cpu":{"quota":-1}}"#), Value::U64(u64::MAX));
        assert_eq!(quota(r#"{"cpu":{"period":5000}}"#), Value::U64(u64::MAX));
        let old = of(r#"{"cpu":{"quota":5000,"period":5000}}"#, true, 241);
        assert_eq!(old, pairs(&[("CPUQuotaPerSecUSec", 1_000_000)]));
    }

    #[test]
    fn idle_is_a_weight_of_zero_where_systemd_knows_it() {
        let text = r#"{"cpu":{"idle":1,"shares":200}}"#;
        assert_eq!(of(text, true, 252), pairs(&[("CPUWeight", 0)]));
        assert_eq!(of(text, true, 251), []);
        assert_eq!(
            of(r#"{"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#, true, 257),
            pairs(&[("CPUWeight", 0)])
        );
        assert_eq!(
            of(r#"{"unified":{"cpu.weight":"8"}}"#, true, 257),
            pairs(&[("CPUWeight", 8)])
        );
    }

    #[test]
    fn lists_become_masks() {
        assert_eq!(bits("0-3,8", "x").unwrap(), [0b1111, 1]);
        assert_eq!(bits("5-8", "x").unwrap(), [0b1110_0000, 1]);
        for bad in ["", "a", "3-1", "1-", "65536", ",,"] {
            assert!(bits(bad, "x").is_err(), "{bad}");
        }
        assert_eq!(of(r#"{"cpu":{"cpus":"1","mems":"0"}}"#, true, 244).len(), 2);
        assert!(of(r#"{"cpu":{"cpus":"1"}}"#, true, 243).is_empty());
    }

    #[test]
    fn parameters_of_v2() {
        let text = r#"{"unified":{"memory.high":"10","memory.min":"max","pids.max":"0","cpu.max":"max 100000",
            "io.max":"8:0 riops=1","hugetlb.2MB.max":"0"}}"#;
        assert_eq!(
            of(text, true, 257),
            pairs(&[
                ("CPUQuotaPeriodUSec", 100_000),
                ("CPUQuotaPerSecUSec", u64::MAX),
                ("MemoryHigh", 10),
                ("MemoryMin", u64::MAX),
                ("TasksMax", 1),
            ])
        );
        let r: LinuxResources = serde_json::from_str(r#"{"unified":{"memory.high":"lots"}}"#).unwrap();
        let error = resources(&r, true, &v2::Now::default(), 257).unwrap_err();
        assert!(error.to_string().contains("memory.high"), "{error}");
    }

    #[test]
    fn a_period_is_told_with_the_quota_in_force() {
        let now = v2::Now {
            quota: Some("600000".to_owned()),
            ..v2::Now::default()
        };
        let r: LinuxResources = serde_json::from_str(r#"{"cpu":{"period":900000}}"#).unwrap();
        assert_eq!(
            resources(&r, true, &now, 257).unwrap(),
            pairs(&[("CPUQuotaPeriodUSec", 900_000), ("CPUQuotaPerSecUSec", 670_000)])
        );
    }

    #[test]
    fn scopes_and_slices() {
        let names = |unit| {
            let all = creation(unit, "a.slice", Some(7), "web", true);
            all.into_iter().map(|(n, _)| n).collect::<Vec<_>>()
        };
        let scope = names("kelson-web.scope");
        assert!(scope.contains(&"Slice".to_owned()) && scope.contains(&"Delegate".to_owned()));
        let slice = names("a-b.slice");
        assert!(slice.contains(&"Wants".to_owned()) && !slice.contains(&"Delegate".to_owned()));
    }

    #[test]
    fn what_systemd_cannot_say_is_left_to_our_filter() {
        use oci_spec::runtime::{LinuxDeviceCgroupBuilder, LinuxDeviceType};
        let policy = |rules: &DeviceRules, unified| devices(rules, unified)[1].1.clone();
        let plain = DeviceRules::new(&[]).unwrap();
        assert_eq!(policy(&plain, true), Value::str("strict"));
        let entry = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(-1)
            .minor(5)
            .access("r");
        let odd = DeviceRules::new(&[entry.build().unwrap()]).unwrap();
        assert_eq!(policy(&odd, true), Value::str("auto"));
        assert_eq!(policy(&odd, false), Value::str("strict"));
    }

    #[test]
    fn the_oom_policy_is_set_at_the_start() {
        let r: LinuxResources = serde_json::from_str(r#"{"unified":{"memory.oom.group":"1"}}"#).unwrap();
        assert_eq!(oom_policy(&r, 253), Some(property("OOMPolicy", "kill")));
        assert_eq!(oom_policy(&r, 252), None);
    }

    proptest::proptest! {
        #[test]
        fn masks_hold_exactly_the_listed(first in 0u16..500, more in 0u16..80) {
            let last = first + more;
            let mask = bits(&format!("{first}-{last}"), "x").unwrap();
            for n in 0..1000u16 {
                let set = mask.get(usize::from(n / 8)).is_some_and(|b| b & (1 << (n % 8)) != 0);
                proptest::prop_assert_eq!(set, (first..=last).contains(&n));
            }
        }
    }
}
