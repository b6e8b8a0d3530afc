//! The systemd driver against a real systemd: what it knows of a container's unit, what the kernel has, and that
//! nothing is left. `make test-vm` runs these in a guest, where the machine itself has no systemd.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, thread};

use common::{Bundle, RUNTIME, can_run, eventually, skip, text};
use kelson_cgroups::{Host, Layout};
use serde_json::{Value, json};

/// Skips, saying why, where systemd does not manage cgroup v2.
fn systemd_runs() -> bool {
    if !can_run() {
        return false;
    }
    // What sd_booted(3) looks at.
    if !Path::new("/run/systemd/system").is_dir() {
        skip("systemd is not the init of this machine (make test-vm has a guest)");
        return false;
    }
    if Host::detect().unwrap().layout() != Layout::Unified {
        skip("the cgroup hierarchy is not v2 alone");
        return false;
    }
    true
}

struct Unit {
    bundle: Bundle,
    name: String,
    dir: PathBuf,
}

impl Unit {
    fn new(script: &str) -> Self {
        let mut bundle = Bundle::new(script);
        bundle.globals = vec!["--systemd-cgroup"];
        let name = format!("kelson-{}.scope", bundle.id);
        bundle.config["linux"]["cgroupsPath"] = json!(format!("kelsontest-a.slice:kelson:{}", bundle.id));
        let slice = "/sys/fs/cgroup/kelsontest.slice/kelsontest-a.slice";
        let dir = Path::new(slice).join(&name);
        Self { bundle, name, dir }
    }

    fn limited(script: &str) -> Self {
        let mut unit = Self::new(script);
        unit.bundle.config["linux"]["resources"]["memory"] =
            json!({"limit": 33554432, "reservation": 25165824});
        unit.bundle.config["linux"]["resources"]["cpu"] =
            json!({"shares": 100, "quota": 500000, "period": 1000000});
        unit.bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
        unit
    }

    fn property(&self, name: &str) -> String {
        let out = Command::new("systemctl")
            .args(["show", "--value", "--property", name, &self.name])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).trim().to_owned()
    }

    fn file(&self, name: &str) -> String {
        let path = self.dir.join(name);
        fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .trim()
            .to_owned()
    }

    fn update(&self, args: &[&str]) {
        let out = self
            .bundle
            .runtime(&[&["update"], args, &[&self.bundle.id]].concat());
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    }

    fn assert_gone(&self) {
        // Every slice can be loaded, whether it was ever there or not.
        let (name, value) = if self.name.ends_with(".slice") {
            ("ActiveState", "inactive")
        } else {
            ("LoadState", "not-found")
        };
        eventually("the unit is gone", || self.property(name) == value);
        assert!(!self.dir.exists(), "{} is left", self.dir.display());
        assert_eq!(self.bundle.leftovers(), [] as [String; 0]);
    }
}

#[test]
fn a_scope_holds_the_container_and_knows_its_limits() {
    if !systemd_runs() {
        return;
    }
    let unit = Unit::limited("sleep 1000");
    unit.bundle.up();
    assert_eq!(unit.file("cgroup.procs"), unit.bundle.pid().to_string());
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", "kelsontest-a.slice"),
        ("Delegate", "yes"),
        ("DefaultDependencies", "no"),
        ("MemoryMax", "33554432"),
        ("MemoryLow", "25165824"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("CPUQuotaPeriodUSec", "1s"),
        ("TasksMax", "20"),
        ("DevicePolicy", "strict"),
    ] {
        assert_eq!(unit.property(name), value, "{name}");
    }
    assert!(unit.property("DeviceAllow").contains("/dev/char/1:3 rwm"));
    assert_eq!(unit.file("cpu.weight"), unit.property("CPUWeight"));
    for (file, value) in [
        ("memory.max", "33554432"),
        ("memory.low", "25165824"),
        ("cpu.max", "500000 1000000"),
        ("pids.max", "20"),
    ] {
        assert_eq!(unit.file(file), value, "{file}");
    }
    let inside = unit.bundle.exec(&["cat", "/proc/self/cgroup"]);
    assert_eq!(text(&inside.stdout), "0::/\n", "{}", text(&inside.stderr));
    let out = unit.bundle.delete();
    assert!(out.status.success(), "{}", text(&out.stderr));
    unit.assert_gone();
}

#[test]
fn without_a_path_it_is_in_the_systems_slice() {
    if !systemd_runs() {
        return;
    }
    let mut unit = Unit::new("sleep 1000");
    unit.bundle.config["linux"]["cgroupsPath"] = json!(null);
    unit.dir = Path::new("/sys/fs/cgroup/system.slice").join(&unit.name);
    unit.bundle.up();
    assert_eq!(unit.property("Slice"), "system.slice");
    assert_eq!(unit.file("cgroup.procs"), unit.bundle.pid().to_string());
    assert!(unit.bundle.delete().status.success());
    unit.assert_gone();
}

#[test]
fn a_foreground_run_ends_with_its_code_and_leaves_nothing() {
    if !systemd_runs() {
        return;
    }
    let unit = Unit::new("exit 7");
    for _ in 0..3 {
        let out = unit.bundle.run();
        assert_eq!(out.status.code(), Some(7), "{}", text(&out.stderr));
    }
    unit.assert_gone();
}

#[test]
fn updates_reach_systemd_and_the_kernel() {
    if !systemd_runs() {
        return;
    }
    let unit = Unit::limited("sleep 1000");
    unit.bundle.up();
    unit.update(&["--memory", "50M", "--pids-limit", "-1"]);
    assert_eq!(
        (unit.property("MemoryMax"), unit.file("memory.max")),
        ("52428800".into(), "52428800".into())
    );
    assert_eq!(
        (unit.property("TasksMax"), unit.file("pids.max")),
        ("infinity".into(), "max".into())
    );
    unit.update(&["--cpu-period", "500000"]);
    assert_eq!(
        (unit.property("CPUQuotaPerSecUSec"), unit.file("cpu.max")),
        ("1s".into(), "500000 500000".into())
    );
    unit.update(&["--cpu-quota", "-1"]);
    assert_eq!(
        (unit.property("CPUQuotaPerSecUSec"), unit.file("cpu.max")),
        ("infinity".into(), "max 500000".into())
    );
    unit.update(&["--pids-limit", "0", "--cpu-share", "200"]);
    assert_eq!(
        (unit.property("TasksMax"), unit.file("pids.max")),
        ("1".into(), "1".into())
    );
    assert_eq!(unit.property("CPUWeight"), unit.file("cpu.weight"));
    if unit.dir.join("cpuset.cpus").exists() {
        unit.update(&["--cpuset-cpus", "0"]);
        assert_eq!(
            (unit.property("AllowedCPUs"), unit.file("cpuset.cpus")),
            ("0".into(), "0".into())
        );
    } else {
        skip("no cpuset controller");
    }
    // What the kernel refuses, systemd is not told.
    let out = unit
        .bundle
        .runtime(&["update", "--memory", "60M", "--cpu-idle", "7", &unit.bundle.id]);
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(
        (unit.property("MemoryMax"), unit.file("memory.max")),
        ("52428800".into(), "52428800".into())
    );
}

#[test]
fn annotations_set_properties() {
    if !systemd_runs() {
        return;
    }
    let mut unit = Unit::new("sleep 1000");
    unit.bundle.config["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.CollectMode": "'inactive'",
        "org.systemd.property.After": "['kelson-no-such.service']",
        "other": "x",
    });
    unit.bundle.up();
    assert_eq!(unit.property("TimeoutStopUSec"), "7s");
    assert_eq!(unit.property("CollectMode"), "inactive");
    assert!(unit.property("After").contains("kelson-no-such.service"));
    assert!(unit.bundle.delete().status.success());
    unit.assert_gone();
    unit.bundle.config["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "soon"});
    let out = unit.bundle.create(&[]);
    assert!(
        text(&out.stderr).contains("org.systemd.property.TimeoutStopSec"),
        "{}",
        text(&out.stderr)
    );
    unit.bundle.config["annotations"] = json!({"org.systemd.property.NoSuchProperty": "true"});
    let out = unit.bundle.create(&[]);
    assert!(
        text(&out.stderr).contains("NoSuchProperty"),
        "{}",
        text(&out.stderr)
    );
    unit.assert_gone();
}

#[test]
fn other_forms_of_paths_are_refused_and_a_slice_is_a_slice() {
    if !systemd_runs() {
        return;
    }
    let mut unit = Unit::new("sleep 1000");
    let id = unit.bundle.id.clone();
    unit.bundle.config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
    let out = unit.bundle.create(&[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("slice:prefix:name"),
        "{}",
        text(&out.stderr)
    );
    unit.assert_gone();
    // Without dashes, each of which would be a level.
    unit.name = format!("kelsontest{id}.slice").replace('-', "");
    unit.bundle.config["linux"]["cgroupsPath"] = json!(format!("system.slice:kelson:{}", unit.name));
    unit.dir = Path::new("/sys/fs/cgroup").join(&unit.name);
    unit.bundle.up();
    assert_eq!(unit.property("ActiveState"), "active");
    assert_eq!(unit.file("cgroup.procs"), unit.bundle.pid().to_string());
    assert!(unit.bundle.delete().status.success());
    unit.assert_gone();
}

#[test]
fn a_unit_in_use_is_left_alone() {
    if !systemd_runs() {
        return;
    }
    let first = Unit::new("sleep 1000");
    first.bundle.up();
    let mut second = Unit::new("sleep 1000");
    second.bundle.config["linux"]["cgroupsPath"] = first.bundle.config["linux"]["cgroupsPath"].clone();
    let out = second.bundle.create(&[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("not empty"), "{}", text(&out.stderr));
    assert_eq!(first.bundle.status(), "running");
    assert_eq!(first.property("ActiveState"), "active");
    assert_eq!(second.bundle.leftovers(), [] as [String; 0]);
}

#[test]
fn a_limit_of_one_task_has_room_for_the_container_alone() {
    if !systemd_runs() {
        return;
    }
    for limit in [0, 1] {
        let mut unit = Unit::new("true");
        unit.bundle.config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        unit.bundle.config["linux"]["resources"]["pids"] = json!({"limit": limit});
        unit.bundle.up();
        assert_eq!(
            (unit.property("TasksMax"), unit.file("pids.max")),
            ("1".into(), "1".into())
        );
        assert_eq!(unit.file("pids.current"), "1");
        assert!(unit.bundle.delete().status.success());
        unit.assert_gone();
    }
}

#[test]
fn true_starts_within_a_mebibyte() {
    if !systemd_runs() {
        return;
    }
    let mut unit = Unit::new("true");
    unit.bundle.config["process"]["args"] = json!(["/bin/true"]);
    unit.bundle.config["linux"]["resources"]["memory"] = json!({"limit": 1 << 20, "swap": 1 << 20});
    let out = unit.bundle.run();
    assert!(out.status.success(), "{:?}: {}", out.status, text(&out.stderr));
    unit.assert_gone();
}

#[test]
fn parameters_of_v2_reach_systemd() {
    if !systemd_runs() {
        return;
    }
    let mut unit = Unit::new("sleep 1000");
    unit.bundle.config["linux"]["resources"]["unified"] = json!({
        "memory.high": "20971520", "memory.max": "41943040", "pids.max": "99",
        "cpu.max": "10000 100000", "cpu.weight": "42", "cgroup.max.depth": "3", "memory.oom.group": "1"});
    unit.bundle.up();
    for (name, value) in [
        ("MemoryHigh", "20971520"),
        ("MemoryMax", "41943040"),
        ("TasksMax", "99"),
        ("CPUWeight", "42"),
        ("CPUQuotaPerSecUSec", "100ms"),
        ("OOMPolicy", "kill"),
    ] {
        assert_eq!(unit.property(name), value, "{name}");
    }
    for (file, value) in [
        ("cgroup.max.depth", "3"),
        ("memory.oom.group", "1"),
        ("cpu.weight", "42"),
    ] {
        assert_eq!(unit.file(file), value, "{file}");
    }
}

#[test]
fn devices_stay_as_they_are_when_systemd_reloads() {
    if !systemd_runs() {
        return;
    }
    let script =
        "while :; do echo x > /dev/null || echo null; head -c 1 /dev/full > /dev/null && echo full; done";
    let mut unit = Unit::new(script);
    // All but the default devices are denied; a node for one more is there.
    unit.bundle.config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
    unit.bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    unit.bundle.up();
    let denied = || {
        let out = unit.bundle.exec(&["sh", "-c", "head -c 1 /dev/kmsg"]);
        !out.status.success() && text(&out.stderr).contains("not permitted")
    };
    assert!(denied());
    assert!(
        Command::new("systemctl")
            .arg("daemon-reload")
            .status()
            .unwrap()
            .success()
    );
    unit.update(&["--pids-limit", "50"]);
    assert!(denied());
    assert!(
        unit.bundle
            .exec(&["sh", "-c", "echo x > /dev/null"])
            .status
            .success()
    );
    let told = fs::read_to_string(unit.bundle.path("out")).unwrap();
    assert!(!told.contains("null"), "{told}");
}

#[test]
fn a_container_killed_for_lack_of_memory_leaves_no_failed_unit() {
    if !systemd_runs() {
        return;
    }
    let mut unit = Unit::new("x=$(head -c 100000000 /dev/zero | busybox tr '\\0' a); exit 3");
    unit.bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33554432, "swap": 33554432});
    unit.bundle.config["linux"]["resources"]["unified"] = json!({"memory.oom.group": "1"});
    let out = unit.bundle.run();
    assert!(!out.status.success());
    unit.assert_gone();
    let out = unit.bundle.run();
    assert!(!text(&out.stderr).contains("exists"), "{}", text(&out.stderr));
}

#[test]
fn what_a_killed_runtime_leaves_is_deleted() {
    if !systemd_runs() {
        return;
    }
    if !cfg!(debug_assertions) {
        skip("fault points take debug assertions");
        return;
    }
    for point in ["create.recorded", "create.unit", "create.cgroup", "create.limits"] {
        let unit = Unit::new("sleep 1000");
        fs::write(unit.bundle.path("config.json"), unit.bundle.config.to_string()).unwrap();
        let bundle = unit.bundle.dir.path().to_str().unwrap();
        let mut runtime = unit
            .bundle
            .command(&["create", "--bundle", bundle, &unit.bundle.id])
            .env("KELSON_FAULT", point)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let comm = format!("/proc/{}/comm", runtime.id());
        eventually(point, || {
            assert_eq!(runtime.try_wait().unwrap(), None, "{point} is not on the way");
            fs::read_to_string(&comm).is_ok_and(|c| c == "kelson-fault\n")
        });
        runtime.kill().unwrap();
        runtime.wait().unwrap();
        let out = unit.bundle.delete();
        assert!(out.status.success(), "{point}: {}", text(&out.stderr));
        unit.assert_gone();
    }
}

#[test]
fn pause_kill_and_events() {
    if !systemd_runs() {
        return;
    }
    let unit = Unit::limited("sleep 1000");
    unit.bundle.up();
    let id = unit.bundle.id.as_str();
    assert!(unit.bundle.runtime(&["pause", id]).status.success());
    assert_eq!(unit.file("cgroup.freeze"), "1");
    unit.update(&["--pids-limit", "30"]);
    assert_eq!(unit.bundle.status(), "paused");
    assert!(unit.bundle.runtime(&["resume", id]).status.success());
    let out = unit.bundle.runtime(&["events", "--stats", id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let stats: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 33554432);
    assert!(unit.bundle.runtime(&["kill", id, "KILL"]).status.success());
    eventually("stopped", || unit.bundle.status() == "stopped");
    // The scope ended with its last process; delete is told so and goes on.
    eventually("the scope ended", || unit.property("ActiveState") != "active");
    let out = unit.bundle.runtime(&["delete", id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    unit.assert_gone();
}

#[test]
fn many_at_once() {
    if !systemd_runs() {
        return;
    }
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let unit = Unit::new("exit 5");
                let out = unit.bundle.run();
                assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
                unit.assert_gone();
            });
        }
    });
}

/// A user who comes from a login session may not move processes from its scope into a unit of the own systemd: that has
/// to do it.
#[test]
fn a_user_in_a_login_scope_has_containers() {
    if !can_run() || !systemd_runs() {
        return;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let user = passwd.lines().find_map(|line| {
        let uid: u32 = line.split(':').nth(2)?.parse().ok()?;
        (1000..60_000).contains(&uid).then_some(uid)
    });
    let Some(uid) = user else {
        return skip("nobody has an ordinary user's id");
    };
    let unit = format!("user@{uid}.service");
    if !Command::new("systemctl")
        .args(["start", &unit])
        .status()
        .unwrap()
        .success()
    {
        return skip("that user's systemd does not start");
    }
    let b = Bundle::new("cat /proc/self/cgroup; sleep 100");
    let made = Command::new("chown")
        .arg("-R")
        .arg(uid.to_string())
        .arg(b.dir.path())
        .status();
    assert!(made.unwrap().success());
    fs::copy(RUNTIME, b.path("runtime")).unwrap();
    // In a scope of the machine's systemd, as a session is.
    let call = |args: &[&str]| {
        let id = uid.to_string();
        let mut c = Command::new("systemd-run");
        c.args(["--quiet", "--scope", "--collect"])
            .arg(format!("--slice=user-{uid}.slice"))
            .args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "env"])
            .arg(format!("XDG_RUNTIME_DIR=/run/user/{uid}"))
            .arg("USER=somebody")
            .arg(b.path("runtime"))
            .args(args)
            .current_dir(b.dir.path())
            .stdin(std::process::Stdio::null());
        // Files: what `create` leaves holds its output open, and a pipe's reader would wait for it.
        let (stdout, stderr) = (b.path("stdout"), b.path("stderr"));
        let create = |path| fs::File::create(path).unwrap();
        let status = c
            .stdout(create(&stdout))
            .stderr(create(&stderr))
            .status()
            .unwrap();
        std::process::Output {
            status,
            stdout: fs::read(stdout).unwrap(),
            stderr: fs::read(stderr).unwrap(),
        }
    };
    let shown = call(&["spec", "--rootless", "--file", "-"]);
    let mut config: Value = serde_json::from_slice(&shown.stdout).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = b.config["process"]["args"].clone();
    config["linux"]["resources"]["pids"] = json!({"limit": 30});
    config["linux"]["cgroupsPath"] = json!(format!("user.slice:kelson:{}", b.id));
    fs::write(b.path("config.json"), config.to_string()).unwrap();
    let out = call(&["--systemd-cgroup", "create", "--pid-file", "pid", &b.id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let pid = fs::read_to_string(b.path("pid")).unwrap();
    let place = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(
        place.contains(&format!("/{unit}/")) && place.trim().ends_with(&format!("kelson-{}.scope", b.id)),
        "{place}"
    );
    assert!(call(&["--systemd-cgroup", "start", &b.id]).status.success());
    let own = call(&["exec", &b.id, "cat", "/proc/self/cgroup"]);
    assert_eq!(text(&own.stdout), "0::/\n", "{}", text(&own.stderr));
    let out = call(&["delete", "--force", &b.id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}
