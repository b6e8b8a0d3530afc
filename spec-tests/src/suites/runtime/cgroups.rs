//! config-linux.md: cgroups: where they are, who owns them, and every control, on v1 and on v2.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::configuration::{refused_with, set};
use crate::case::{Case, case, skip};
use crate::cgroup::Version;
use crate::lab::{Lab, process};
use crate::require::Need;

/// A control: its clause, the value in the configuration, its controller, the file and content on v1, on v2. An empty
/// file: this version does not have it.
struct Control {
    clause: &'static str,
    name: &'static str,
    value: fn() -> Value,
    controller: &'static str,
    v1: (&'static str, &'static str),
    v2: (&'static str, &'static str),
}

const MEMORY: &str = "config-linux.md#memory/";
const CPU: &str = "config-linux.md#cpu/";

#[rustfmt::skip]
fn controls() -> Vec<Control> {
    let row = |clause, name, value, controller, v1, v2| Control { clause, name, value, controller, v1, v2 };
    vec![
        row("config-linux.md#memory/limit", "memory-limit", || json!({"memory": {"limit": 50_331_648}}), "memory",
            ("memory.limit_in_bytes", "50331648"), ("memory.max", "50331648")),
        row("config-linux.md#memory/reservation", "memory-reservation", || json!({"memory": {"reservation": 33_554_432}}), "memory",
            ("memory.soft_limit_in_bytes", "33554432"), ("memory.low", "33554432")),
        row("config-linux.md#memory/swap", "memory-swap", || json!({"memory": {"limit": 50_331_648, "swap": 67_108_864}}), "memory",
            ("memory.memsw.limit_in_bytes", "67108864"), ("memory.swap.max", "16777216")),
        row("config-linux.md#memory/swappiness", "memory-swappiness", || json!({"memory": {"swappiness": 37}}), "memory",
            ("memory.swappiness", "37"), ("", "")),
        row("config-linux.md#memory/disableOOMKiller", "memory-oom-killer", || json!({"memory": {"disableOOMKiller": true}}), "memory",
            ("memory.oom_control", "oom_kill_disable 1"), ("", "")),
        row("config-linux.md#memory/unlimited", "memory-unlimited", || json!({"memory": {"limit": -1}}), "memory",
            ("memory.limit_in_bytes", "9223372036854771712"), ("memory.max", "max")),
        row("config-linux.md#cpu/shares", "cpu-shares", || json!({"cpu": {"shares": 512}}), "cpu",
            ("cpu.shares", "512"), ("cpu.weight", "")),
        row("config-linux.md#cpu/quota", "cpu-quota", || json!({"cpu": {"quota": 45_000}}), "cpu",
            ("cpu.cfs_quota_us", "45000"), ("cpu.max", "45000 100000")),
        row("config-linux.md#cpu/period", "cpu-period", || json!({"cpu": {"quota": 30_000, "period": 60_000}}), "cpu",
            ("cpu.cfs_period_us", "60000"), ("cpu.max", "30000 60000")),
        row("config-linux.md#cpu/burst", "cpu-burst", || json!({"cpu": {"quota": 50_000, "burst": 20_000}}), "cpu",
            ("cpu.cfs_burst_us", "20000"), ("cpu.max.burst", "20000")),
        row("config-linux.md#cpu/idle", "cpu-idle", || json!({"cpu": {"idle": 1}}), "cpu",
            ("cpu.idle", "1"), ("cpu.idle", "1")),
        row("config-linux.md#cpu/realtimeRuntime", "cpu-realtime-runtime", || json!({"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 5000}}), "cpu",
            ("cpu.rt_runtime_us", "5000"), ("", "")),
        row("config-linux.md#cpu/realtimePeriod", "cpu-realtime-period", || json!({"cpu": {"realtimePeriod": 900_000}}), "cpu",
            ("cpu.rt_period_us", "900000"), ("", "")),
        row("config-linux.md#cpu/cpus", "cpu-cpus", || json!({"cpu": {"cpus": "0"}}), "cpuset",
            ("cpuset.cpus", "0"), ("cpuset.cpus", "0")),
        row("config-linux.md#cpu/mems", "cpu-mems", || json!({"cpu": {"mems": "0"}}), "cpuset",
            ("cpuset.mems", "0"), ("cpuset.mems", "0")),
        row("config-linux.md#pids/1", "pids-limit", || json!({"pids": {"limit": 321}}), "pids",
            ("pids.max", "321"), ("pids.max", "321")),
        row("config-linux.md#pids/2", "pids-unlimited", || json!({"pids": {"limit": -1}}), "pids",
            ("pids.max", "max"), ("pids.max", "max")),
        row("config-linux.md#block-io/weight", "block-io-weight", || json!({"blockIO": {"weight": 200}}), "blkio",
            ("blkio.bfq.weight", "200"), ("io.bfq.weight", "default 200")),
        row("config-linux.md#network/classID", "network-class", || json!({"network": {"classID": 1_048_577}}), "net_cls",
            ("net_cls.classid", "1048577"), ("", "")),
        row("config-linux.md#network/priorities", "network-priority", || json!({"network": {"priorities": [{"name": "lo", "priority": 3}]}}), "net_prio",
            ("net_prio.ifpriomap", "lo 3"), ("", "")),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let path = |what: &str| format!("config-linux.md#cgroups-path/{what}");
    let mut all = vec![
        case(
            "runtime/cgroups/absolute-path",
            "an absolute cgroupsPath begins at the mount of the cgroups, and the process is there",
            &[&path("1"), &path("2"), &path("5")],
            absolute_path,
        ),
        case(
            "runtime/cgroups/relative-path",
            "a relative cgroupsPath is accepted and always leads to the same cgroup",
            &[&path("1"), &path("3")],
            relative_path,
        ),
        case(
            "runtime/cgroups/same-path-twice",
            "the same cgroupsPath leads to the same cgroup again after a deletion",
            &[&path("3")],
            same_path_twice,
        ),
        case(
            "runtime/cgroups/path-outside",
            "a cgroupsPath with .. does not lead out of the cgroups: it is an error or stays inside",
            &[&path("4")],
            path_outside,
        ),
        case(
            "runtime/cgroups/existing-and-used",
            "a create in the cgroup of a running container is an orderly error, or leaves that container alone",
            &["config-linux.md#control-groups/1"],
            existing_and_used,
        ),
        case(
            "runtime/cgroups/v1-owner",
            "on v1 the owner of a user-namespaced container's cgroups stays root",
            &["config-linux.md#cgroup-ownership/1"],
            |lab| owner(lab, true, true, false),
        )
        .needs(&[Need::V1("memory"), Need::UserNamespace]),
        case(
            "runtime/cgroups/v2-owner-with-writable-mount",
            "on v2 with a new cgroup namespace and a writable mount, the container's root owns its cgroup",
            &[
                "config-linux.md#cgroup-ownership/3",
                "config-linux.md#cgroup-ownership/5",
            ],
            |lab| owner(lab, true, true, true),
        )
        .needs(&[Need::OnlyV2, Need::UserNamespace]),
        case(
            "runtime/cgroups/v2-owner-without-namespace",
            "on v2 without a new cgroup namespace the owner stays root",
            &["config-linux.md#cgroup-ownership/2"],
            |lab| owner(lab, false, true, false),
        )
        .needs(&[Need::OnlyV2, Need::UserNamespace]),
        case(
            "runtime/cgroups/v2-owner-with-read-only-mount",
            "on v2 with a read-only mount of cgroups the owner stays root",
            &[
                "config-linux.md#cgroup-ownership/4",
                "config-linux.md#cgroup-ownership/8",
            ],
            |lab| owner(lab, true, false, false),
        )
        .needs(&[Need::OnlyV2, Need::UserNamespace]),
        case(
            "runtime/cgroups/device-order",
            "device rules are applied in the order of the list",
            &[
                "config-linux.md#allowed-device-list/1",
                "config-linux.md#allowed-device-list/3",
            ],
            device_order,
        ),
        case(
            "runtime/cgroups/device-access",
            "r and w are reading and writing, and with m a node can be made",
            &["config-linux.md#allowed-device-list/2"],
            device_access,
        ),
        case(
            "runtime/cgroups/pids-limit-of-zero",
            "a pids limit of 0 is written as 0, or at least as a limit",
            &["config-linux.md#pids/3"],
            pids_zero,
        )
        .needs(&[Need::Controller("pids")]),
        case(
            "runtime/cgroups/pids-limit-holds",
            "no more processes can be made than the pids limit allows",
            &["config-linux.md#pids/1"],
            pids_limit_holds,
        )
        .needs(&[Need::Controller("pids")]),
        case(
            "runtime/cgroups/memory-limit-holds",
            "a program that takes more than the memory limit is killed",
            &["config-linux.md#memory/limit"],
            memory_limit_holds,
        )
        .needs(&[Need::Controller("memory")]),
        case(
            "runtime/cgroups/check-before-update",
            "with checkBeforeUpdate a limit below the use is refused",
            &["config-linux.md#memory/checkBeforeUpdate"],
            check_before_update,
        )
        .needs(&[Need::Controller("memory")]),
        case(
            "runtime/cgroups/huge-pages",
            "hugepageLimits limit the use of that page size",
            &["config-linux.md#huge-page-limits/1"],
            huge_pages,
        )
        .needs(&[Need::Controller("hugetlb")]),
        case(
            "runtime/cgroups/huge-pages-of-no-size",
            "a huge page size that the machine does not have is an error",
            &["config-linux.md#huge-page-limits/2"],
            |lab| {
                let limits = json!([{"pageSize": "3MB", "limit": 3_145_728}]);
                refused_with(lab, "/linux/resources/hugepageLimits", limits)
            },
        )
        .needs(&[Need::Controller("hugetlb")]),
        case(
            "runtime/cgroups/unified-file",
            "unified writes a file by its name, and the controller is enabled for it",
            &["config-linux.md#unified/1", "config-linux.md#unified/2"],
            unified_file,
        )
        .needs(&[Need::OnlyV2]),
        case(
            "runtime/cgroups/unified-unknown-controller",
            "unified with a controller that is not there is an error",
            &["config-linux.md#unified/3"],
            |lab| {
                refused_with(
                    lab,
                    "/linux/resources/unified",
                    json!({"nosuchcontroller.max": "1"}),
                )
            },
        )
        .needs(&[Need::V2("")]),
    ];
    for control in controls() {
        let (
            Control {
                clause,
                name,
                controller,
                ..
            },
            sentence,
        ) = (&control, sentence(&control));
        let needs = [Need::Controller(if *controller == "blkio" && !v1_has("blkio") {
            "io"
        } else {
            controller
        })];
        all.push(
            case(
                format!("runtime/cgroups/{name}"),
                sentence,
                &[clause],
                move |lab| is_written(lab, &control),
            )
            .needs(&needs),
        );
    }
    for (field, v1, v2) in [
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
        (
            "throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
        ),
        (
            "throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
        ),
        (
            "throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
        ),
    ] {
        all.push(
            case(
                format!("runtime/cgroups/{field}"),
                format!("{field} limits a device"),
                &[&format!("config-linux.md#block-io/{field}")],
                move |lab| throttled(lab, field, v1, v2),
            )
            .needs(&[Need::Path("/sys/block")]),
        );
    }
    all
}

fn v1_has(controller: &str) -> bool {
    crate::require::Host::detect().is_ok_and(|host| host.v1(controller).is_some())
}

fn sentence(control: &Control) -> String {
    let property = control.clause.trim_start_matches(MEMORY).trim_start_matches(CPU);
    let property = property.rsplit('#').next().unwrap_or(property);
    format!(
        "{property} is written to the container's cgroup ({})",
        control.name
    )
}

fn is_written(lab: &Lab, control: &Control) -> Result<()> {
    let on_v1 = lab.host.v1(control.controller).is_some();
    let (file, wanted) = if on_v1 { control.v1 } else { control.v2 };
    if file.is_empty() {
        return Err(skip(format!("cgroup v2 has no {}", control.name)));
    }
    let mut bundle = lab.bundle()?;
    let controller = if control.controller == "blkio" && !on_v1 {
        "io"
    } else {
        control.controller
    };
    if lab.cgroup_file("/", controller, file, file).is_err() && !there_in_children(lab, controller, file)? {
        return Err(skip(format!("the kernel has no {file}")));
    }
    if control.name == "cpu-realtime-runtime" {
        // A child's share is taken from its parent's, and a new parent has none.
        let parent = lab.host.v1("cpu").context("no cpu")?.mount_point.join(file);
        fs::write(parent, "10000").map_err(|_| skip("no real-time time can be had here"))?;
    }
    merge(&mut bundle.config["linux"]["resources"], (control.value)());
    let container = match lab.create(&bundle) {
        // The kernel has the file only under the name of its one scheduler with weights: that is for a runtime to know or not.
        Err(error) if control.name == "block-io-weight" => return Err(skip(format!("refused: {error:#}"))),
        other => other?,
    };
    let (_, text) = lab.cgroup_file(container.bundle.cgroup(), controller, control.v1.0, control.v2.0)?;
    let fits = wanted.is_empty() || text == wanted || text.lines().any(|line| line.trim() == wanted);
    ensure!(fits, "{file} holds {text:?}, not {wanted}");
    ensure!(
        control.name != "cpu-shares" || text != "100",
        "cpu.weight is the default"
    );
    Ok(())
}

/// Some files are in every directory but the root.
fn there_in_children(lab: &Lab, controller: &str, file: &str) -> Result<bool> {
    let hierarchy = lab.host.v1(controller).or_else(|| lab.host.v2(controller));
    let Some(hierarchy) = hierarchy else {
        return Ok(false);
    };
    let directory = hierarchy.mount_point.join(lab.new_id());
    fs::create_dir(&directory)?;
    let there = directory.join(file).exists();
    fs::remove_dir(&directory)?;
    Ok(there)
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

fn absolute_path(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["cgroupsPath"] = json!(format!("{}/deep/er", bundle.cgroup()));
    let container = lab.running(&mut bundle, &["observe"])?;
    let relative = container.bundle.cgroup().trim_start_matches('/');
    let hierarchies = lab.host.hierarchies.iter();
    let mut found = 0;
    for hierarchy in hierarchies {
        let procs = hierarchy.mount_point.join(relative).join("cgroup.procs");
        let Ok(text) = fs::read_to_string(&procs) else {
            continue;
        };
        found += 1;
        ensure!(
            text.lines().any(|pid| pid == container.pid.to_string()),
            "{} is {text:?}",
            procs.display()
        );
    }
    ensure!(found > 0, "{relative} is in no hierarchy");
    container.end()?;
    container.becomes("stopped")?;
    container.delete()?;
    for hierarchy in &lab.host.hierarchies {
        let top = relative.split('/').next().unwrap_or_default();
        // The runtime made the parents, too; it may leave them, and so we clear them.
        fs::remove_dir(hierarchy.mount_point.join(top).join("deep")).ok();
        fs::remove_dir(hierarchy.mount_point.join(top)).ok();
    }
    Ok(())
}

fn cgroup_of(lab: &Lab, path: &str) -> Result<String> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["cgroupsPath"] = json!(path);
    bundle.acts(&["stay"]);
    let container = lab.start(&bundle)?;
    let text = container.proc("cgroup")?;
    container.end()?;
    container.becomes("stopped")?;
    container.delete()?;
    Ok(text)
}

fn relative_path(lab: &Lab) -> Result<()> {
    let path = lab.new_id();
    let (first, second) = (cgroup_of(lab, &path)?, cgroup_of(lab, &path)?);
    ensure!(first == second, "first {first:?}, then {second:?}");
    ensure!(first.contains(&path), "the path is not in {first:?}");
    Ok(())
}

fn same_path_twice(lab: &Lab) -> Result<()> {
    let path = format!("/{}", lab.new_id());
    let (first, second) = (cgroup_of(lab, &path)?, cgroup_of(lab, &path)?);
    ensure!(first == second, "first {first:?}, then {second:?}");
    Ok(())
}

fn path_outside(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let name = lab.new_id();
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/../../../../{name}"));
    bundle.acts(&["stay"]);
    let Ok(container) = lab.create(&bundle) else {
        return Ok(());
    };
    let text = container.proc("cgroup")?;
    lab.call(&["delete", "--force", &container.id])?;
    ensure!(!text.contains(".."), "the process is in {text}");
    Ok(())
}

fn existing_and_used(lab: &Lab) -> Result<()> {
    let mut first = lab.bundle()?;
    let container = lab.running(&mut first, &[])?;
    let mut second = lab.bundle()?;
    second.config["linux"]["cgroupsPath"] = json!(container.bundle.cgroup());
    second.config["linux"]["resources"]["pids"] = json!({"limit": 7});
    second.write()?;
    let id = lab.new_id();
    let ran = lab.call(&["create", "--bundle", &second.directory.to_string_lossy(), &id])?;
    if !ran.succeeded() {
        ran.refused()?;
    }
    lab.call(&["delete", "--force", &id])?;
    ensure!(
        process::exists(container.pid) && !container.has_ended(),
        "the first container's process is gone"
    );
    ensure!(
        container.status()? == "running",
        "the first container is {}",
        container.status()?
    );
    Ok(())
}

fn owner(lab: &Lab, with_namespace: bool, writable: bool, changed: bool) -> Result<()> {
    const BASE: u32 = 710_000;
    let mut bundle = lab.bundle()?;
    bundle.user_namespace(BASE)?;
    if !with_namespace {
        bundle.without_namespace("cgroup");
    }
    if writable {
        bundle.without_mount("/sys/fs/cgroup");
        bundle.mount(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}),
        );
    }
    let container = lab.create(&bundle)?;
    let wanted = if changed { BASE } else { 0 };
    for directory in lab.cgroups(container.bundle.cgroup()) {
        let uid = fs::metadata(&directory)?.uid();
        ensure!(
            uid == wanted,
            "{} belongs to {uid}, not {wanted}",
            directory.display()
        );
        for (file, delegated) in [("cgroup.procs", true), ("memory.max", false), ("pids.max", false)] {
            let Ok(meta) = fs::metadata(directory.join(file)) else {
                continue;
            };
            let wanted = if delegated { wanted } else { 0 };
            ensure!(
                meta.uid() == wanted,
                "{file} belongs to {}, not {wanted}",
                meta.uid()
            );
        }
    }
    Ok(())
}

/// Does acts with /dev/ours under some rules. No driver has its number: an open that the rules allow gets as far as ENXIO
/// or ENODEV, so that the case needs no hardware.
fn with_rules(lab: &Lab, rules: Value, acts: &[&str]) -> Result<crate::lab::Answers> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["resources"]["devices"] = rules;
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/ours", "type": "c", "major": 60, "minor": 7, "fileMode": 0o666}]);
    lab.probe(&mut bundle, acts)
}

fn allowed(answer: &crate::lab::Answer, wanted: bool) -> Result<()> {
    let denied = answer.result == Err(nix::errno::Errno::EPERM as i64);
    ensure!(
        denied != wanted,
        "`{}` was {}",
        answer.act,
        if denied { "denied" } else { "allowed" }
    );
    Ok(())
}

fn device_order(lab: &Lab) -> Result<()> {
    let deny = json!({"allow": false, "access": "rwm"});
    let allow = json!({"allow": true, "type": "c", "major": 60, "minor": 7, "access": "rwm"});
    let late = with_rules(lab, json!([deny, allow]), &["open /dev/ours w"])?;
    allowed(late.get(0)?, true).context("denied, then allowed")?;
    let early = with_rules(lab, json!([allow, deny]), &["open /dev/ours w"])?;
    allowed(early.get(0)?, false).context("allowed, then denied")
}

fn device_access(lab: &Lab) -> Result<()> {
    let acts = ["open /dev/ours r", "open /dev/ours w", "mknod /tmp/node c 60 7"];
    // Runtimes let every node be made by default, and what it leads to is still checked: only an `m` that is given counts.
    for (access, wanted) in [
        ("r", &[true, false][..]),
        ("w", &[false, true]),
        ("m", &[false, false, true]),
    ] {
        let rules = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 60, "minor": 7, "access": access}
        ]);
        let answers = with_rules(lab, rules, &acts)?;
        for (n, wanted) in wanted.iter().enumerate() {
            allowed(answers.get(n)?, *wanted).with_context(|| format!("with access {access}"))?;
        }
    }
    Ok(())
}

fn pids_zero(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 0});
    // The runtime may be unable to start anything under it: then that is an orderly error.
    let container = match lab.create(&bundle) {
        Ok(container) => container,
        Err(error) => {
            ensure!(!error.to_string().contains("signal"), "{error:#}");
            return Ok(());
        }
    };
    let (_, text) = lab.cgroup_file(container.bundle.cgroup(), "pids", "pids.max", "pids.max")?;
    ensure!(text != "max", "pids.max is {text}");
    Ok(())
}

fn pids_limit_holds(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 8});
    let answers = lab.probe(&mut bundle, &["fork 4", "fork 20"])?;
    answers.value(0)?;
    answers.get(1)?.fails_with(nix::errno::Errno::EAGAIN)
}

fn memory_limit_holds(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 33_554_432});
    if lab.host.v1("memory").is_some() && !there_in_children(lab, "memory", "memory.memsw.limit_in_bytes")? {
        bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
    }
    bundle.acts(&["allocate 8", "run /probe allocate 256"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    let answers = container.answers()?;
    answers.value(0)?;
    match answers.get(1) {
        Ok(answer) => ensure!(
            answer.value()?["signal"] == 9,
            "it was not killed: {}",
            answer.value()?
        ),
        // The first process was the one to be killed.
        Err(_) => ensure!(
            container.wait()?.code().is_none(),
            "it ended with {}",
            container.wait()?
        ),
    }
    Ok(())
}

fn check_before_update(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 134_217_728});
    let container = lab.running(&mut bundle, &["fork 1", "allocate 1"])?;
    let hold = container.bundle.inside("/tmp/hold");
    fs::write(&hold, vec![1_u8; 1 << 20])?;
    let resources = lab.path("resources.json");
    fs::write(
        &resources,
        json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}).to_string(),
    )?;
    let ran = lab.call(&[
        "update",
        "--resources",
        &resources.to_string_lossy(),
        &container.id,
    ])?;
    ran.refused()?;
    ensure!(!container.has_ended(), "the container's process was killed");
    Ok(())
}

fn huge_pages(lab: &Lab) -> Result<()> {
    if lab.host.v1("hugetlb").is_none() && lab.host.v1("memory").is_some() {
        return Err(skip(
            "hugetlb is alone on v2, beside v1: that it can't be applied may be an error",
        ));
    }
    let mut bundle = lab.bundle()?;
    set(
        &mut bundle.config,
        "/linux/resources/hugepageLimits",
        json!([{"pageSize": "2MB", "limit": 4_194_304}]),
    );
    let container = lab.create(&bundle)?;
    for (v1, v2) in [
        ("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb.2MB.rsvd.max"),
    ] {
        let (_, text) = lab.cgroup_file(container.bundle.cgroup(), "hugetlb", v1, v2)?;
        if text == "4194304" {
            return Ok(());
        }
    }
    bail!("no limit of 2MB pages is 4194304")
}

fn unified_file(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["resources"]["unified"] = json!({"pids.max": "99", "memory.high": "52428800"});
    let container = lab.create(&bundle)?;
    for (file, wanted) in [("pids.max", "99"), ("memory.high", "52428800")] {
        let (version, text) = lab.cgroup_file(container.bundle.cgroup(), "pids", file, file)?;
        ensure!(version == Version::V2 && text == wanted, "{file} holds {text}");
    }
    Ok(())
}

/// A disk of this machine, which is only named.
fn disk() -> Result<String> {
    for entry in fs::read_dir("/sys/block")?.flatten() {
        if let Ok(text) = fs::read_to_string(entry.path().join("dev"))
            && entry.path().join("device").exists()
        {
            return Ok(text.trim().to_owned());
        }
    }
    Err(skip("this machine has no disk"))
}

fn throttled(lab: &Lab, field: &str, v1: &str, v2: &str) -> Result<()> {
    let on_v1 = lab.host.v1("blkio").is_some();
    if !on_v1 && lab.host.v2("io").is_none() {
        return Err(skip("no cgroup controller io"));
    }
    if on_v1 && !there_in_children(lab, "blkio", v1)? {
        return Err(skip(format!("the kernel has no {v1}")));
    }
    let disk = disk()?;
    let (major, minor) = disk.split_once(':').context("a device number")?;
    let mut bundle = lab.bundle()?;
    let entry = json!([{"major": major.parse::<u32>()?, "minor": minor.parse::<u32>()?, "rate": 1_048_576}]);
    bundle.config["linux"]["resources"]["blockIO"] = json!({field: entry});
    let container = lab.create(&bundle)?;
    let controller = if on_v1 { "blkio" } else { "io" };
    let (version, text) = lab.cgroup_file(container.bundle.cgroup(), controller, v1, "io.max")?;
    let wanted = match version {
        Version::V1 => format!("{disk} 1048576"),
        Version::V2 => format!("{v2}=1048576"),
    };
    ensure!(text.contains(&wanted), "it holds {text:?}, not {wanted}");
    Ok(())
}
