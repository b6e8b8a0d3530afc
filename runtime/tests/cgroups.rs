//! Limits, figures and events of containers, as the kernel has them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Bundle, can_run, eventually, skip, text};
use kelson_cgroups::{Host, Layout};
use serde_json::{Value, json};

fn unified() -> bool {
    Host::detect().unwrap().layout() == Layout::Unified
}

/// The file of a controller in the container's cgroup: v1's name, and v2's.
fn file(bundle: &Bundle, controller: &str, v1: &str, v2: &str) -> Option<PathBuf> {
    let cgroup = bundle.container_cgroup();
    let dir = cgroup.dirs().iter().find(|d| {
        if unified() {
            d.controllers.is_empty()
        } else {
            d.controllers.split(',').any(|c| c == controller)
        }
    })?;
    let path = dir.path.join(if unified() { v2 } else { v1 });
    path.exists().then_some(path)
}

fn value(bundle: &Bundle, controller: &str, v1: &str, v2: &str) -> String {
    let path =
        file(bundle, controller, v1, v2).unwrap_or_else(|| panic!("no file {v1} or {v2} of {controller}"));
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn memory(bundle: &Bundle) -> String {
    value(bundle, "memory", "memory.limit_in_bytes", "memory.max")
}

fn pids(bundle: &Bundle) -> String {
    value(bundle, "pids", "pids.max", "pids.max")
}

/// Quota and period, `max` for no quota.
fn cpu(bundle: &Bundle) -> (String, String) {
    let both = value(bundle, "cpu", "cpu.cfs_quota_us", "cpu.max");
    if unified() {
        let (quota, period) = both.split_once(' ').unwrap();
        return (quota.to_owned(), period.to_owned());
    }
    let quota = if both == "-1" { "max".to_owned() } else { both };
    (quota, value(bundle, "cpu", "cpu.cfs_period_us", ""))
}

fn update(bundle: &Bundle, args: &[&str]) {
    let mut all = vec!["update"];
    all.extend(args);
    all.push(&bundle.id);
    let out = bundle.runtime(&all);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
}

fn update_from_stdin(bundle: &Bundle, flag: &[&str], document: &Value) -> std::process::Output {
    let mut all = vec!["update"];
    all.extend(flag);
    all.push(&bundle.id);
    let mut child = bundle
        .command(&all)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A refusal before reading is the output's business.
    let _ = stdin.write_all(document.to_string().as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn limited() -> Bundle {
    let mut bundle = Bundle::new("sleep 100");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33554432, "reservation": 25165824});
    bundle.config["linux"]["resources"]["cpu"] = json!({"shares": 100, "quota": 500000, "period": 1000000});
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
    bundle
}

#[test]
fn update_changes_what_it_names_and_nothing_else() {
    if !can_run() {
        return;
    }
    let bundle = limited();
    bundle.up();
    assert_eq!((memory(&bundle), pids(&bundle)), ("33554432".into(), "20".into()));
    update(&bundle, &["--memory", "50M", "--pids-limit", "10"]);
    assert_eq!((memory(&bundle), pids(&bundle)), ("52428800".into(), "10".into()));
    assert_eq!(cpu(&bundle), ("500000".into(), "1000000".into()));
    update(&bundle, &["--cpu-period", "900000"]);
    assert_eq!(cpu(&bundle), ("500000".into(), "900000".into()));
    update(&bundle, &["--cpu-quota", "600000"]);
    assert_eq!(cpu(&bundle), ("600000".into(), "900000".into()));
    update(&bundle, &["--cpu-quota", "-1"]);
    assert_eq!(cpu(&bundle), ("max".into(), "900000".into()));
    update(&bundle, &["--pids-limit", "0"]);
    assert_eq!(pids(&bundle), "1");
    update(&bundle, &["--pids-limit", "-1", "--memory", "-1"]);
    assert_eq!(pids(&bundle), "max");
    assert!(["max", "9223372036854771712"].contains(&memory(&bundle).as_str()));
    let weight = value(&bundle, "cpu", "cpu.shares", "cpu.weight");
    update(&bundle, &["--cpu-share", "200"]);
    assert_ne!(value(&bundle, "cpu", "cpu.shares", "cpu.weight"), weight);
}

#[test]
fn update_reads_a_file_or_standard_input() {
    if !can_run() {
        return;
    }
    let bundle = limited();
    bundle.up();
    for (flag, limit) in [
        (&["--resources=-"][..], 41943040),
        (&["--resources", "-"], 37748736),
        (&["-r", "-"], 39845888),
    ] {
        let document = json!({"memory": {"limit": limit}, "pids": {}, "devices": null});
        let out = update_from_stdin(&bundle, flag, &document);
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_eq!(memory(&bundle), limit.to_string());
        assert_eq!(pids(&bundle), "20");
    }
    let path = bundle.path("resources.json");
    fs::write(
        &path,
        json!({"cpu": {"quota": 300000}, "pids": {"limit": 7}}).to_string(),
    )
    .unwrap();
    update(&bundle, &["-r", path.to_str().unwrap()]);
    assert_eq!(
        (cpu(&bundle), pids(&bundle)),
        (("300000".into(), "1000000".into()), "7".into())
    );
}

#[test]
fn a_refused_update_changes_nothing() {
    if !can_run() {
        return;
    }
    let bundle = limited();
    bundle.up();
    // The last of them is refused by the kernel, after the others were written.
    let document = json!({"pids": {"limit": 5}, "memory": {"limit": 36700160}, "cpu": {"cpus": "4000"}});
    let out = update_from_stdin(&bundle, &["-r", "-"], &document);
    assert_eq!(out.status.code(), Some(1));
    let error = text(&out.stderr);
    assert!(error.contains("linux.resources.cpu.cpus"), "{error}");
    assert_eq!((memory(&bundle), pids(&bundle)), ("33554432".into(), "20".into()));
    for (args, says) in [
        (&["--memory", "lots"][..], "memory"),
        (&["--cpu-period=-1"], "cpu-period"),
        (&["--l3-cache-schema", "L3:0=f"], "not enabled"),
        (&["--mem-bw-schema", "MB:0=10"], "not enabled"),
    ] {
        if says == "not enabled" && fs::exists("/sys/fs/resctrl/info").unwrap() {
            continue;
        }
        let out = bundle.runtime(&[&["update"], args, &[&bundle.id]].concat());
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(
            text(&out.stderr).contains(says),
            "{args:?}: {}",
            text(&out.stderr)
        );
    }
}

#[test]
fn burst_and_idle() {
    if !can_run() {
        return;
    }
    let mut bundle = limited();
    bundle.config["linux"]["resources"]["cpu"] = json!({"quota": 100000, "period": 200000});
    bundle.up();
    if file(&bundle, "cpu", "cpu.cfs_burst_us", "cpu.max.burst").is_some() {
        let burst = || value(&bundle, "cpu", "cpu.cfs_burst_us", "cpu.max.burst");
        update(&bundle, &["--cpu-burst", "50000"]);
        assert_eq!(burst(), "50000");
        // More than the old quota allows, and fine with the new one.
        update(&bundle, &["--cpu-burst", "150000", "--cpu-quota", "300000"]);
        assert_eq!(burst(), "150000");
        update(&bundle, &["--memory", "60M"]);
        assert_eq!(burst(), "150000");
        update(&bundle, &["--cpu-burst", "0"]);
        assert_eq!(burst(), "0");
    } else {
        skip("this kernel has no cpu burst");
    }
    if file(&bundle, "cpu", "cpu.idle", "cpu.idle").is_none() {
        skip("this kernel has no cpu.idle");
        return;
    }
    for idle in ["1", "0", "1"] {
        update(&bundle, &["--cpu-idle", idle]);
        assert_eq!(value(&bundle, "cpu", "cpu.idle", "cpu.idle"), idle);
    }
    for bad in ["-1", "2"] {
        let out = bundle.runtime(&["update", "--cpu-idle", bad, &bundle.id]);
        assert!(!out.status.success(), "{bad}");
    }
    assert_eq!(value(&bundle, "cpu", "cpu.idle", "cpu.idle"), "1");
}

#[test]
fn a_paused_container_is_updated_and_stays_paused() {
    if !can_run() {
        return;
    }
    let bundle = limited();
    bundle.up();
    assert!(bundle.runtime(&["pause", &bundle.id]).status.success());
    update(&bundle, &["--pids-limit", "30"]);
    assert_eq!(pids(&bundle), "30");
    assert_eq!(bundle.status(), "paused");
    let again = bundle.runtime(&["pause", &bundle.id]);
    assert_eq!(again.status.code(), Some(1), "it is paused already");
    assert!(bundle.runtime(&["resume", &bundle.id]).status.success());
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.runtime(&["resume", &bundle.id]).status.code(), Some(1));
}

#[test]
fn throttles_by_device() {
    if !can_run() {
        return;
    }
    let Some(device) = whole_disk() else {
        skip("no disk in /sys/block");
        return;
    };
    let (major, minor) = device.split_once(':').unwrap();
    let entry = |rate: u64| json!([{"major": major.parse::<i64>().unwrap(), "minor": minor.parse::<i64>().unwrap(), "rate": rate}]);
    let mut bundle = limited();
    let twice = json!([entry(485760)[0], entry(485760)[0]]);
    bundle.config["linux"]["resources"]["blockIO"] = json!({"throttleReadBpsDevice": twice});
    bundle.up();
    let document = json!({"blockIO": {
        "throttleReadBpsDevice": entry(10485760), "throttleWriteBpsDevice": entry(9437184),
        "throttleReadIOPSDevice": entry(1000), "throttleWriteIOPSDevice": entry(900)}});
    let out = update_from_stdin(&bundle, &["-r", "-"], &document);
    assert!(out.status.success(), "{}", text(&out.stderr));
    if unified() {
        let max = value(&bundle, "io", "", "io.max");
        assert_eq!(
            max,
            format!("{device} rbps=10485760 wbps=9437184 riops=1000 wiops=900")
        );
        return;
    }
    for (name, rate) in [
        ("read_bps", 10485760),
        ("write_bps", 9437184),
        ("read_iops", 1000),
        ("write_iops", 900),
    ] {
        let name = format!("blkio.throttle.{name}_device");
        assert_eq!(value(&bundle, "blkio", &name, ""), format!("{device} {rate}"));
    }
}

fn whole_disk() -> Option<String> {
    let text = fs::read_dir("/sys/block").ok()?.flatten().find_map(|e| {
        let name = e.file_name().into_string().ok()?;
        let disk = ["vd", "sd", "nvme", "xvd", "loop"]
            .iter()
            .any(|p| name.starts_with(p));
        disk.then(|| fs::read_to_string(e.path().join("dev")).ok())
            .flatten()
    })?;
    Some(text.trim().to_owned())
}

#[test]
fn hugepages_where_the_kernel_has_them() {
    if !can_run() {
        return;
    }
    let Some(kib) = fs::read_dir("/sys/kernel/mm/hugepages").ok().and_then(|d| {
        let name = d.flatten().next()?.file_name().into_string().ok()?;
        name.strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse::<u64>()
            .ok()
    }) else {
        skip("this kernel has no huge pages");
        return;
    };
    let size = match kib {
        k if k >= 1 << 20 => format!("{}GB", k >> 20),
        k if k >= 1 << 10 => format!("{}MB", k >> 10),
        k => format!("{k}KB"),
    };
    let mut bundle = Bundle::new("sleep 100");
    bundle.config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": size, "limit": kib * 1024}]);
    let out = bundle.create(&[]);
    if !out.status.success() {
        // The kernel may have pages without the controller.
        let error = text(&out.stderr);
        assert!(error.contains("linux.resources.hugepageLimits"), "{error}");
        skip("no hugetlb controller");
        return;
    }
    let cgroup = bundle.container_cgroup();
    let written = cgroup.dirs().iter().any(|d| {
        [
            format!("hugetlb.{size}.max"),
            format!("hugetlb.{size}.limit_in_bytes"),
        ]
        .iter()
        .any(|f| fs::read_to_string(d.path.join(f)).is_ok_and(|t| t.trim() == (kib * 1024).to_string()))
    });
    assert!(written);
}

#[test]
fn v2_parameters_are_refused_on_v1_and_written_on_v2() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("sleep 100");
    bundle.config["linux"]["resources"]["unified"] = json!({"memory.high": "20971520", "pids.max": "99"});
    let out = bundle.create(&[]);
    if unified() {
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_eq!(value(&bundle, "memory", "", "memory.high"), "20971520");
        assert_eq!(pids(&bundle), "99");
        return;
    }
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("linux.resources.unified: invalid configuration"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(bundle.leftovers(), [] as [String; 0]);
}

#[test]
fn a_pids_limit_of_zero_is_one() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 0});
    bundle.config["process"]["args"] = json!(["/bin/true"]);
    let out = bundle.create(&[]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(pids(&bundle), "1");
    assert!(bundle.start().status.success());
}

#[test]
fn pids_without_a_limit_have_none() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["resources"]["pids"] = json!({});
    let out = bundle.create(&[]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(pids(&bundle), "max");
}

#[test]
fn root_of_a_user_namespace_owns_a_writable_v2_cgroup() {
    if !can_run() {
        return;
    }
    if !unified() {
        return skip("cgroup v1 has no safe delegation");
    }
    for (options, namespace, owner) in [
        (&["nosuid", "nodev"][..], true, 100_000),
        (&["ro"], true, 0),
        (&["nosuid"], false, 0),
    ] {
        let mut bundle = Bundle::new("sleep 100");
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        bundle.config["linux"]["uidMappings"] = map.clone();
        bundle.config["linux"]["gidMappings"] = map;
        let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        namespaces.retain(|n| namespace || n["type"] != "cgroup");
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["type"] != "cgroup");
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}));
        let out = bundle.create(&[]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let dir = bundle.container_cgroup().dirs()[0].path.clone();
        let uid = |file: &str| fs::metadata(dir.join(file)).unwrap().uid();
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            assert_eq!(uid(file), owner, "{file} with {options:?}");
        }
        for file in ["cgroup.freeze", "memory.max"] {
            assert_eq!(uid(file), 0, "{file}");
        }
    }
}

#[test]
fn true_starts_within_a_mebibyte() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.config["process"]["args"] = json!(["/bin/true"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 1 << 20, "swap": 1 << 20});
    for _ in 0..5 {
        let out = bundle.run();
        assert!(out.status.success(), "{:?}: {}", out.status, text(&out.stderr));
    }
}

#[test]
fn stats_have_runcs_shape() {
    if !can_run() {
        return;
    }
    let bundle = limited();
    bundle.up();
    let out = bundle.runtime(&["events", "--stats", &bundle.id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let line = text(&out.stdout);
    assert!(
        line.starts_with(&format!(r#"{{"type":"stats","id":"{}","data":"#, bundle.id)),
        "{line}"
    );
    let data = &serde_json::from_str::<Value>(&line).unwrap()["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 33554432);
    assert_eq!(data["pids"]["limit"], 20);
    assert_eq!(data["pids"]["current"], 1);
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert!(data["memory"]["raw"].as_object().unwrap().len() > 10);
}

#[test]
fn events_tell_figures_kills_and_the_end() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("sleep 1000");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33554432, "swap": 33554432});
    bundle.up();
    let mut child = bundle
        .command(&["events", "--interval", "20ms", &bundle.id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let stats: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(stats["type"], "stats");
    // One that keeps all it reads.
    let hog = bundle.exec(&[
        "sh",
        "-c",
        "x=$(head -c 100000000 /dev/zero | busybox tr '\\0' a)",
    ]);
    assert!(!hog.status.success());
    let oom = format!(r#"{{"type":"oom","id":"{}"}}"#, bundle.id);
    assert!(
        lines
            .by_ref()
            .map_while(std::result::Result::ok)
            .take(2000)
            .any(|l| l == oom)
    );
    assert!(bundle.container_cgroup().oom_kills().unwrap() >= 1);
    assert!(bundle.delete().status.success());
    let rest: Vec<String> = lines.map_while(std::result::Result::ok).collect();
    assert!(rest.len() < 100_000);
    assert!(child.wait().unwrap().success());
}

#[test]
fn events_refuse_bad_intervals_and_stopped_containers() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::new("true");
    bundle.up();
    eventually("stopped", || bundle.status() == "stopped");
    let out = bundle.runtime(&["events", "--stats", &bundle.id]);
    assert!(
        text(&out.stderr).contains("is not running"),
        "{}",
        text(&out.stderr)
    );
    for interval in ["0s", "5", "-1s"] {
        let out = bundle.runtime(&["events", &format!("--interval={interval}"), &bundle.id]);
        assert_eq!(out.status.code(), Some(1));
        assert!(text(&out.stderr).contains("--interval"), "{}", text(&out.stderr));
    }
}

#[test]
fn delete_waits_for_nobody_who_never_reaps() {
    if !can_run() {
        return;
    }
    // What the runtime leaves behind becomes ours, and we do not look after it.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let bundle = Bundle::new("sleep 1000");
    bundle.up();
    let out = bundle
        .command(&["exec", "--detach", &bundle.id, "sleep", "1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(out.success());
    assert_eq!(bundle.container_cgroup().pids().unwrap().len(), 2);
    let begin = Instant::now();
    let out = bundle.delete();
    assert!(out.status.success(), "{}", text(&out.stderr));
    // Its own patience with processes is twice as long.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(bundle.cgroups(), [] as [PathBuf; 0]);
    while nix::sys::wait::waitpid(None, None).is_ok() {}
    nix::sys::prctl::set_child_subreaper(false).unwrap();
}
