//! Limits as cgroup v2's files take them, and the device filter.

use std::fs::File;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::block_io;
use crate::devices::{self, DeviceRules};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::host::Version;
use crate::limits::{self, Limit};
use crate::v1;

/// Which files of a cgroup are for whoever it is delegated to: cgroups(7).
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";

/// What is in force already, as far as a conversion depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// `memory.max` in bytes, -1 for none: the specification's swap counts memory too.
    pub memory: Option<i64>,
    /// The first word of `cpu.max`: it shares its file with the period.
    pub quota: Option<String>,
    /// The second word.
    pub period: Option<u64>,
    /// `memory.current`, for `checkBeforeUpdate`.
    pub usage: Option<u64>,
}

impl Now {
    /// Reads only what `resources` need to know.
    pub(crate) fn read(dir: &Path, resources: &LinuxResources) -> Self {
        let mut now = Self::default();
        if let Some(m) = resources.memory() {
            if m.limit().is_none_or(|n| n == 0) && m.swap().is_some_and(|n| n > 0) {
                now.memory = files::read(dir, "memory.max")
                    .ok()
                    .map(|t| t.trim().parse().unwrap_or(-1));
            }
            if m.check_before_update() == Some(true) {
                now.usage = files::number(dir, "memory.current").ok().flatten();
            }
        }
        if let Some(c) = resources.cpu()
            && c.period().is_some_and(|n| n != 0) != c.quota().is_some_and(|n| n != 0)
        {
            let text = files::read(dir, "cpu.max").unwrap_or_default();
            let mut words = text.split_whitespace();
            now.quota = words.next().map(str::to_owned);
            now.period = words.next().and_then(|n| n.parse().ok());
        }
        now
    }
}

/// All writes, in order.
pub(crate) fn limits(resources: &LinuxResources, now: &Now) -> Result<Vec<Limit>> {
    let mut out = Vec::new();
    if let Some(p) = resources.pids() {
        out.push(Limit::new(
            of("pids"),
            "linux.resources.pids.limit",
            "pids.max",
            limits::pids(p.limit()),
        ));
    }
    if let Some(m) = resources.memory() {
        memory(&mut out, m, now)?;
    }
    if let Some(io) = resources.block_io() {
        out.extend(block_io::v2(io));
    }
    if let Some(c) = resources.cpu() {
        cpu(&mut out, c, now)?;
    }
    out.extend(hugetlb(resources)?);
    out.extend(v1::rdma(resources, of("rdma")));
    unified(&mut out, resources)?;
    Ok(out)
}

pub(crate) fn hugetlb(resources: &LinuxResources) -> Result<Vec<Limit>> {
    limits::hugetlb(resources, of("hugetlb"), "max")
}

/// Parameters by their files' names. Each line is written by itself, as files by device take one at a time.
fn unified(out: &mut Vec<Limit>, resources: &LinuxResources) -> Result<()> {
    let mut all: Vec<_> = resources.unified().iter().flatten().collect();
    // A map has no order; an idle group must become busy before it takes a weight.
    all.sort_unstable();
    let idle = all
        .iter()
        .any(|(name, value)| *name == "cpu.idle" && value.trim() == "1");
    for (file, value) in all {
        // An idle group's weight is fixed by the kernel.
        if idle && file == "cpu.weight" {
            continue;
        }
        let controller = check_unified(file)?;
        for line in value.lines().filter(|l| !l.trim().is_empty()) {
            let field = (Version::V2, controller);
            out.push(Limit::new(
                field,
                "linux.resources.unified",
                file.clone(),
                line.trim(),
            ));
        }
    }
    Ok(())
}

/// The controller of a parameter's file, as far as it is known by name.
fn check_unified(file: &str) -> Result<&'static str> {
    const KNOWN: [&str; 9] = [
        "cpu", "cpuset", "memory", "io", "pids", "hugetlb", "rdma", "misc", "cgroup",
    ];
    let bad = |why| Error::new(Kind::Invalid, format!("linux.resources.unified: {file:?} {why}"));
    if file.contains('/') {
        return Err(bad("must be a file name (no slashes)"));
    }
    match file.split_once('.') {
        Some((controller, rest)) if !controller.is_empty() && !rest.is_empty() => {
            Ok(KNOWN.into_iter().find(|k| *k == controller).unwrap_or("named"))
        }
        _ => Err(bad("must be in the form CONTROLLER.PARAMETER")),
    }
}

fn of(controller: &'static str) -> (Version, &'static str) {
    (Version::V2, controller)
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

/// Makes a user the owner of a cgroup and of its files that delegation is about.
pub(crate) fn give_to(dir: &Path, uid: u32) -> Result<()> {
    let own = |path: &Path| match std::os::unix::fs::lchown(path, Some(uid), None) {
        // Not every cgroup has every file that the kernel lists.
        Err(e) if e.kind() == io::ErrorKind::NotFound && path != dir => Ok(()),
        other => other.map_err(|e| Error::io(e, format!("give {} to user {uid}", path.display()))),
    };
    own(dir)?;
    let listed = std::fs::read_to_string(DELEGATE).ok();
    delegated(listed.as_deref()).try_for_each(|file| own(&dir.join(file)))
}

/// The files of `/sys/kernel/cgroup/delegate`; of kernels without it, those that the specification names.
fn delegated(listed: Option<&str>) -> impl Iterator<Item = &str> {
    let text = listed.unwrap_or("cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n");
    text.lines()
        .filter(|file| !file.is_empty() && !file.contains('/'))
}

/// Attaches the filter; on a cgroup that has filters already, in the place of the last one, so that no moment has
/// none or two.
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

/// A number as the files of memory take it: negative is no limit.
fn max_or(n: i64) -> String {
    if n < 0 { "max".to_owned() } else { n.to_string() }
}

/// The specification's swap (memory and swap together) as v2's (swap alone); `None`: not asked for.
pub(crate) fn swap(memory: &LinuxMemory, now: &Now) -> Result<Option<i64>> {
    const FIELD: &str = "linux.resources.memory.swap";
    let refused = |why: String| Error::new(Kind::Invalid, format!("{FIELD}: {why}"));
    let limit = memory.limit().filter(|&n| n != 0).or(now.memory);
    Ok(match (limit, memory.swap().filter(|&n| n != 0)) {
        (_, None) if memory.limit() == Some(-1) => Some(-1),
        (_, None) => None,
        (_, Some(swap)) if swap < 0 => Some(-1),
        (None, Some(_)) => {
            return Err(refused(
                "unable to set swap limit without memory limit".to_owned(),
            ));
        }
        (Some(limit), Some(swap)) if limit < 0 => Some(swap),
        (Some(limit), Some(swap)) if swap >= limit => Some(swap - limit),
        (Some(limit), Some(swap)) => {
            return Err(refused(format!(
                "memory+swap limit should be >= memory limit: {swap} < {limit}"
            )));
        }
    })
}

fn memory(out: &mut Vec<Limit>, memory: &LinuxMemory, now: &Now) -> Result<()> {
    check_usage(memory, now)?;
    if let Some(swap) = swap(memory, now)? {
        let limit = Limit::new(
            of("memory"),
            "linux.resources.memory.swap",
            "memory.swap.max",
            max_or(swap),
        );
        // Where swap is not counted, there is none to limit and no limit to lift.
        out.push(if swap <= 0 { limit.or_skip() } else { limit });
    }
    for (field, file, value) in [
        ("linux.resources.memory.limit", "memory.max", memory.limit()),
        (
            "linux.resources.memory.reservation",
            "memory.low",
            memory.reservation(),
        ),
    ] {
        if let Some(n) = value.filter(|&n| n != 0) {
            out.push(Limit::new(of("memory"), field, file, max_or(n)));
        }
    }
    Ok(())
}

/// A limit below what is in use would end the container.
fn check_usage(memory: &LinuxMemory, now: &Now) -> Result<()> {
    let (Some(usage), Some(true)) = (now.usage, memory.check_before_update()) else {
        return Ok(());
    };
    let below = |n: Option<i64>| {
        n.filter(|&n| n > 0)
            .map(i64::cast_unsigned)
            .filter(|&n| n < usage)
    };
    // Memory and swap together first: where both are too low, it is the one that cannot be met by swapping.
    let (what, limit, field) = match (below(memory.swap()), below(memory.limit())) {
        (Some(n), _) => ("memory+swap", n, "swap"),
        (None, Some(n)) => ("memory", n, "limit"),
        (None, None) => return Ok(()),
    };
    Err(Error::new(
        Kind::Conflict,
        format!("linux.resources.memory.{field}: rejecting {what} limit {limit} < usage {usage}"),
    ))
}

fn cpu(out: &mut Vec<Limit>, cpu: &LinuxCpu, now: &Now) -> Result<()> {
    if cpu.realtime_period().is_some_and(|n| n != 0) || cpu.realtime_runtime().is_some_and(|n| n != 0) {
        return Err(Error::new(
            Kind::Unsupported,
            "linux.resources.cpu.realtimeRuntime: cgroup v2 has no realtime limits",
        ));
    }
    let mut set = |controller, field: &'static str, file: &'static str, value: Option<String>| {
        out.extend(value.map(|v| Limit::new(of(controller), field, file, v)));
    };
    set(
        "cpu",
        "linux.resources.cpu.idle",
        "cpu.idle",
        cpu.idle().map(|n| n.to_string()),
    );
    // An idle group's weight is fixed by the kernel.
    if let Some(shares) = cpu.shares().filter(|&n| n != 0)
        && cpu.idle() != Some(1)
    {
        let weight = weight(shares).to_string();
        set("cpu", "linux.resources.cpu.shares", "cpu.weight", Some(weight));
    }
    let max = max_line(cpu, now);
    if let Some(burst) = cpu.burst() {
        let limit = Limit::new(of("cpu"), "linux.resources.cpu.burst", "cpu.max.burst", burst);
        // Bounded by the quota: the old one until the new one is written.
        let limit = limit.again(max.is_some());
        out.push(if burst == 0 { limit.or_skip() } else { limit });
    }
    let mut set = |controller, field: &'static str, file: &'static str, value: Option<String>| {
        out.extend(value.map(|v| Limit::new(of(controller), field, file, v)));
    };
    set("cpu", "linux.resources.cpu.quota", "cpu.max", max);
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

/// `cpu.max`: quota and period, of which one may be in force already. A fresh cgroup has no quota.
fn max_line(cpu: &LinuxCpu, now: &Now) -> Option<String> {
    let quota = cpu
        .quota()
        .filter(|&n| n != 0)
        .map(|n| if n > 0 { n.to_string() } else { "max".to_owned() });
    let period = cpu.period().filter(|&n| n != 0);
    if quota.is_none() && period.is_none() {
        return None;
    }
    match (quota, period.or(now.period)) {
        (quota, None) => quota,
        (quota, Some(period)) => {
            let quota = quota
                .or_else(|| now.quota.clone())
                .unwrap_or_else(|| "max".to_owned());
            Some(format!("{quota} {period}"))
        }
    }
}

/// `cpu.shares` (2 to 262144) as `cpu.weight` (1 to 10000), by the curve that maps 1024 to 100, as runc 1.4 does:
/// 10 ^ ((l^2 + 125 l) / 612 - 7/34) with l = log2(shares).
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
pub(crate) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxResourcesBuilder;

    fn parse(text: &str) -> LinuxResources {
        serde_json::from_str(text).unwrap()
    }

    fn files(text: &str, now: &Now) -> Vec<(String, String)> {
        let limits = limits(&parse(text), now).unwrap();
        limits
            .into_iter()
            .map(|l| (l.file.into_owned(), l.value))
            .collect()
    }

    fn one(file: &str, value: &str) -> Vec<(String, String)> {
        vec![(file.to_owned(), value.to_owned())]
    }

    fn refused(text: &str, now: &Now) -> String {
        limits(&parse(text), now).unwrap_err().to_string()
    }

    #[test]
    fn weight_meets_its_anchors_and_never_falls() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 100);
        assert_eq!(weight(3333), 256);
        assert_eq!(weight(262_144), 10_000);
        let all: Vec<u64> = (0..300_000).step_by(7).map(weight).collect();
        assert!(all.is_sorted());
        assert!(all.iter().all(|w| (1..=10_000).contains(w)));
    }

    #[test]
    fn swap_excludes_memory() {
        let now = Now::default();
        assert_eq!(
            files(r#"{"memory":{"limit":100,"swap":300,"reservation":50}}"#, &now),
            [
                ("memory.swap.max", "200"),
                ("memory.max", "100"),
                ("memory.low", "50")
            ]
            .map(|(f, v)| (f.to_owned(), v.to_owned()))
        );
        let now = Now {
            memory: Some(100),
            ..Now::default()
        };
        assert_eq!(
            files(r#"{"memory":{"swap":300}}"#, &now),
            one("memory.swap.max", "200")
        );
        let unlimited = Now {
            memory: Some(-1),
            ..Now::default()
        };
        assert_eq!(
            files(r#"{"memory":{"swap":300}}"#, &unlimited),
            one("memory.swap.max", "300")
        );
    }

    #[test]
    fn no_swap_and_unlimited_swap_do_without_the_file() {
        for text in [
            r#"{"memory":{"limit":100,"swap":100}}"#,
            r#"{"memory":{"limit":-1}}"#,
        ] {
            let limits = limits(&parse(text), &Now::default()).unwrap();
            assert_eq!(limits[0].absent, limits::Absent::Skip, "{text}");
        }
    }

    #[test]
    fn swap_below_or_without_memory_names_the_field() {
        for text in [
            r#"{"memory":{"limit":300,"swap":100}}"#,
            r#"{"memory":{"swap":100}}"#,
        ] {
            let error = refused(text, &Now::default());
            assert!(error.starts_with("linux.resources.memory.swap: "), "{error}");
        }
    }

    #[test]
    fn a_limit_below_usage_is_refused_when_asked() {
        let now = Now {
            usage: Some(5000),
            ..Now::default()
        };
        let error = refused(r#"{"memory":{"limit":1024,"checkBeforeUpdate":true}}"#, &now);
        assert!(
            error.contains("rejecting memory limit 1024 < usage 5000"),
            "{error}"
        );
        let error = refused(
            r#"{"memory":{"limit":1024,"swap":2048,"checkBeforeUpdate":true}}"#,
            &now,
        );
        assert!(error.contains("rejecting memory+swap limit"), "{error}");
        assert_eq!(
            files(r#"{"memory":{"limit":1024}}"#, &now),
            one("memory.max", "1024")
        );
    }

    #[test]
    fn quota_and_period_share_a_file() {
        let fresh = Now::default();
        let busy = Now {
            quota: Some("500000".to_owned()),
            ..Now::default()
        };
        assert_eq!(
            files(r#"{"cpu":{"quota":50000,"period":100000}}"#, &busy),
            one("cpu.max", "50000 100000")
        );
        assert_eq!(files(r#"{"cpu":{"quota":-1}}"#, &fresh), one("cpu.max", "max"));
        let kept = Now {
            period: Some(900_000),
            ..busy.clone()
        };
        assert_eq!(
            files(r#"{"cpu":{"quota":-1}}"#, &kept),
            one("cpu.max", "max 900000")
        );
        assert_eq!(
            files(r#"{"cpu":{"period":50000}}"#, &fresh),
            one("cpu.max", "max 50000")
        );
        assert_eq!(
            files(r#"{"cpu":{"period":50000}}"#, &busy),
            one("cpu.max", "500000 50000")
        );
    }

    #[test]
    fn an_idle_group_has_no_weight() {
        let now = Now::default();
        assert_eq!(
            files(r#"{"cpu":{"idle":1,"shares":100}}"#, &now),
            one("cpu.idle", "1")
        );
        assert_eq!(files(r#"{"cpu":{"idle":0,"shares":1024}}"#, &now).len(), 2);
    }

    #[test]
    fn realtime_is_refused() {
        assert!(refused(r#"{"cpu":{"realtimeRuntime":5}}"#, &Now::default()).contains("realtime"));
    }

    #[test]
    fn every_line_of_a_unified_value_is_a_write() {
        let text = r#"{"unified":{"io.max":"8:0 riops=1\n8:16 riops=2\n","cgroup.max.depth":"3"}}"#;
        assert_eq!(
            files(text, &Now::default()),
            [
                ("cgroup.max.depth", "3"),
                ("io.max", "8:0 riops=1"),
                ("io.max", "8:16 riops=2")
            ]
            .map(|(f, v)| (f.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn an_idle_group_takes_no_weight_as_a_parameter_either() {
        assert_eq!(
            files(
                r#"{"unified":{"cpu.weight":"8","cpu.idle":"1"}}"#,
                &Now::default()
            ),
            one("cpu.idle", "1")
        );
    }

    #[test]
    fn unified_names_are_files_of_controllers() {
        for bad in ["a/b.c", "../memory.max", "memory", ".max", "memory."] {
            let unified = std::collections::HashMap::from([(bad.to_owned(), "1".to_owned())]);
            let r = LinuxResourcesBuilder::default().unified(unified).build().unwrap();
            assert!(limits(&r, &Now::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn delegated_files_are_the_kernels_or_the_specifications() {
        let of = |text| delegated(text).collect::<Vec<_>>();
        assert_eq!(
            of(None),
            ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
        );
        assert_eq!(
            of(Some("cgroup.procs\n\n../x\nmemory.reclaim\n")),
            ["cgroup.procs", "memory.reclaim"]
        );
    }

    #[test]
    fn hugepages_and_their_reservations() {
        let text = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}]}"#;
        assert_eq!(
            files(text, &Now::default()),
            [("hugetlb.2MB.max", "4096"), ("hugetlb.2MB.rsvd.max", "4096")]
                .map(|(f, v)| (f.to_owned(), v.to_owned()))
        );
    }
}
