//! `--systemd-cgroup`: a container's cgroup is a unit of systemd's, and its limits are the unit's properties.
//!
//! systemd makes units outside of every enclosure. So these cases call the runtime and systemctl in pid 1's mount and cgroup
//! namespaces, look at the kernel from there, and end their unit themselves.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::eventually::eventually;
use crate::lab::{Bundle, CALL_LIMIT, Lab, Ran, check, process};
use crate::require::Need;

const ENGINES: &str = "containerd, podman, CRI-O and kubelet with the systemd cgroup driver";
const SLICE: &str = "system.slice";

pub(super) fn cases() -> Vec<Case> {
    let of = |name: &str, sentence: &str, body: fn(&Lab) -> Result<()>| {
        case(format!("cli/systemd/{name}"), sentence, &[ENGINES], body).needs(&[
            Need::Systemd,
            Need::Program("nsenter"),
            Need::Program("systemctl"),
        ])
    };
    vec![
        of(
            "scope",
            "SLICE:PREFIX:NAME as cgroupsPath puts the container into the scope PREFIX-NAME.scope of that slice",
            scope,
        ),
        of(
            "limits",
            "memory, pids and CPU limits are properties of the unit, and in force",
            limits,
        ),
        of(
            "limits-outlive-a-reload",
            "limits are what they were after systemd has read its units again",
            limits_outlive_a_reload,
        ),
        of(
            "update",
            "update changes the unit's properties and what is in force",
            update,
        ),
        of(
            "unified",
            "linux.resources.unified is in force, and outlives a reload of systemd",
            unified,
        )
        .needs(&[Need::OnlyV2]),
        of(
            "annotations",
            "annotations org.systemd.property.* are properties of the unit",
            annotations,
        ),
        of("delete", "delete leaves no unit and no cgroup", delete),
        of("end", "the unit is gone soon after the container's process", end),
        of(
            "killed-create",
            "create that fails leaves no unit",
            failed_create_leaves_nothing,
        ),
        of(
            "wrong-path",
            "a cgroupsPath that is a path, or has too many parts, is an error",
            wrong_path,
        ),
    ]
}

/// A command in the namespaces of pid 1.
fn on_machine(lab: &Lab, program: impl AsRef<OsStr>, args: &[&str]) -> Result<Ran> {
    let mut command = process::quiet(Path::new("nsenter"));
    command
        .args(["--target", "1", "--mount", "--cgroup", "--"])
        .arg(program)
        .args(args);
    lab.run_command(&mut command)
}

/// A container that is a unit. Dropped, it is no more.
struct Unit<'a> {
    lab: &'a Lab,
    id: String,
    name: String,
}

impl<'a> Unit<'a> {
    fn runtime(lab: &Lab, args: &[&str]) -> Result<Ran> {
        let root = lab.path("state").to_string_lossy().into_owned();
        let all: Vec<&str> = ["--root", root.as_str(), "--systemd-cgroup"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        on_machine(lab, Command::new(&lab.runtime).get_program(), &all)
    }

    /// Its bundle's cgroupsPath is set.
    fn prepare(lab: &'a Lab, bundle: &mut Bundle) -> Result<Self> {
        let id = lab.new_id();
        bundle.config["linux"]["cgroupsPath"] = json!(format!("{SLICE}:kst:{id}"));
        bundle.write()?;
        Ok(Self {
            lab,
            name: format!("kst-{id}.scope"),
            id,
        })
    }

    fn create(lab: &'a Lab, bundle: &mut Bundle) -> Result<Self> {
        let unit = Self::prepare(lab, bundle)?;
        unit.call_create(bundle)?.ok()?;
        Ok(unit)
    }

    fn call_create(&self, bundle: &Bundle) -> Result<Ran> {
        let directory = bundle.directory.to_string_lossy();
        Self::runtime(self.lab, &["create", "--bundle", &directory, &self.id])
    }

    fn call(&self, args: &[&str]) -> Result<Ran> {
        Self::runtime(self.lab, args)
    }

    fn pid(&self) -> Result<i64> {
        let state = self.call(&["state", &self.id])?.ok()?;
        let state: Value = serde_json::from_str(&state.stdout).context("state")?;
        state["pid"].as_i64().context("no pid")
    }

    fn property(&self, name: &str) -> Result<String> {
        let args = ["show", "--property", name, "--value", &self.name];
        Ok(on_machine(self.lab, "systemctl", &args)?
            .ok()?
            .stdout
            .trim()
            .to_owned())
    }

    /// Its cgroup as pid 1 sees it.
    fn directory(&self, controller: &str) -> PathBuf {
        let top = Path::new("/proc/1/root/sys/fs/cgroup");
        let hierarchy = if top.join("cgroup.controllers").exists() {
            top.to_owned()
        } else {
            top.join(controller)
        };
        hierarchy.join(SLICE).join(&self.name)
    }

    /// The content of the v2 file, or of the v1 file where there is no v2.
    fn file(&self, controller: &str, v1: &str, v2: &str) -> Result<String> {
        let directory = self.directory(controller);
        let file = directory.join(if directory.join("cgroup.controllers").exists() {
            v2
        } else {
            v1
        });
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(text.trim().to_owned())
    }

    fn memory(&self) -> Result<String> {
        self.file("memory", "memory.limit_in_bytes", "memory.max")
    }

    fn pids(&self) -> Result<String> {
        self.file("pids", "pids.max", "pids.max")
    }

    fn is_gone(&self) -> Result<()> {
        eventually("the end of the unit", CALL_LIMIT, || {
            let state = self.property("ActiveState")?;
            ensure!(state == "inactive", "it is {state}");
            let directory = self.directory("systemd");
            ensure!(!directory.exists(), "there is {}", directory.display());
            Ok(Some(()))
        })
    }
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.id]).ok();
        for args in [
            &["kill", "--signal=KILL", &self.name][..],
            &["stop", &self.name],
            &["reset-failed", &self.name],
        ] {
            on_machine(self.lab, "systemctl", args).ok();
        }
    }
}

fn waiting(lab: &Lab) -> Result<Bundle> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["stay"]);
    Ok(bundle)
}

fn limited(lab: &Lab) -> Result<Bundle> {
    let mut bundle = waiting(lab)?;
    let resources = &mut bundle.config["linux"]["resources"];
    resources["memory"] = json!({"limit": 64 << 20});
    resources["pids"] = json!({"limit": 50});
    resources["cpu"] = json!({"quota": 50_000, "period": 100_000});
    Ok(bundle)
}

fn scope(lab: &Lab) -> Result<()> {
    let unit = Unit::create(lab, &mut waiting(lab)?)?;
    let pid = unit.pid()?;
    // As this process is inside of an enclosure, the kernel would show it paths relative to that.
    let table = on_machine(lab, "cat", &[&format!("/proc/{pid}/cgroup")])?
        .ok()?
        .stdout;
    let wanted = format!("/{SLICE}/{}", unit.name);
    let line = table
        .lines()
        .find(|line| line.starts_with("0::") || line.contains("name=systemd"));
    let line = line.context("no hierarchy of systemd")?;
    // crun puts it into a directory of that.
    let below = format!("{wanted}/");
    ensure!(
        line.ends_with(&wanted) || line.contains(&below),
        "it is in {line}, not {wanted}"
    );
    check("ActiveState", &json!(unit.property("ActiveState")?), "active")?;
    check("ControlGroup", &json!(unit.property("ControlGroup")?), wanted)?;
    unit.call(&["start", &unit.id])?.ok().map(drop)
}

fn in_force(unit: &Unit<'_>) -> Result<()> {
    check("the memory limit", &json!(unit.memory()?), "67108864")?;
    check("the pids limit", &json!(unit.pids()?), "50")?;
    let quota = unit.file("cpu", "cpu.cfs_quota_us", "cpu.max")?;
    ensure!(
        ["50000", "50000 100000"].contains(&quota.as_str()),
        "the CPU quota is {quota}"
    );
    Ok(())
}

fn limits(lab: &Lab) -> Result<()> {
    let unit = Unit::create(lab, &mut limited(lab)?)?;
    in_force(&unit)?;
    let memory = [unit.property("MemoryMax")?, unit.property("MemoryLimit")?];
    ensure!(
        memory.contains(&"67108864".to_owned()),
        "the unit's memory is {memory:?}"
    );
    check("TasksMax", &json!(unit.property("TasksMax")?), "50")?;
    check(
        "CPUQuotaPerSecUSec",
        &json!(unit.property("CPUQuotaPerSecUSec")?),
        "500ms",
    )
}

fn limits_outlive_a_reload(lab: &Lab) -> Result<()> {
    let unit = Unit::create(lab, &mut limited(lab)?)?;
    on_machine(lab, "systemctl", &["daemon-reload"])?.ok()?;
    in_force(&unit)
}

fn update(lab: &Lab) -> Result<()> {
    let unit = Unit::create(lab, &mut limited(lab)?)?;
    let memory = format!("{}", 128 << 20);
    let args = ["update", "--memory", &memory, "--pids-limit", "70", &unit.id];
    unit.call(&args)?.ok()?;
    for _ in 0..2 {
        check("the memory limit", &json!(unit.memory()?), memory.clone())?;
        check("the pids limit", &json!(unit.pids()?), "70")?;
        on_machine(lab, "systemctl", &["daemon-reload"])?.ok()?;
    }
    check("TasksMax", &json!(unit.property("TasksMax")?), "70")
}

fn unified(lab: &Lab) -> Result<()> {
    let mut bundle = waiting(lab)?;
    bundle.config["linux"]["resources"]["unified"] = json!({"memory.high": "50331648", "pids.max": "33"});
    let unit = Unit::create(lab, &mut bundle)?;
    for _ in 0..2 {
        check(
            "memory.high",
            &json!(unit.file("memory", "", "memory.high")?),
            "50331648",
        )?;
        check("pids.max", &json!(unit.pids()?), "33")?;
        on_machine(lab, "systemctl", &["daemon-reload"])?.ok()?;
    }
    Ok(())
}

fn annotations(lab: &Lab) -> Result<()> {
    let mut bundle = waiting(lab)?;
    bundle.config["annotations"] = json!({
        "org.systemd.property.TimeoutStopUSec": "uint64 123000000",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    });
    let unit = Unit::create(lab, &mut bundle)?;
    check(
        "TimeoutStopUSec",
        &json!(unit.property("TimeoutStopUSec")?),
        "2min 3s",
    )?;
    check(
        "CollectMode",
        &json!(unit.property("CollectMode")?),
        "inactive-or-failed",
    )
}

fn delete(lab: &Lab) -> Result<()> {
    let unit = Unit::create(lab, &mut waiting(lab)?)?;
    unit.call(&["start", &unit.id])?.ok()?;
    unit.call(&["delete", "--force", &unit.id])?.ok()?;
    unit.is_gone()
}

fn end(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["cwd"]);
    let unit = Unit::create(lab, &mut bundle)?;
    unit.call(&["start", &unit.id])?.ok()?;
    unit.is_gone()?;
    // Its state is still known, and goes by delete.
    unit.call(&["delete", &unit.id])?.ok().map(drop)
}

fn failed_create_leaves_nothing(lab: &Lab) -> Result<()> {
    let mut bundle = waiting(lab)?;
    bundle.config["process"]["args"] = json!(["/no/such/program"]);
    let unit = Unit::prepare(lab, &mut bundle)?;
    let created = unit.call_create(&bundle)?;
    if created.succeeded() {
        // Whether the program is there may be asked at start; then that is what fails.
        unit.call(&["start", &unit.id])?.refused()?;
        unit.call(&["delete", "--force", &unit.id])?.ok()?;
    }
    unit.is_gone()
}

fn wrong_path(lab: &Lab) -> Result<()> {
    for path in ["/absolute/path", "a:b:c:d"] {
        let mut bundle = waiting(lab)?;
        let unit = Unit::prepare(lab, &mut bundle)?;
        bundle.config["linux"]["cgroupsPath"] = json!(path);
        bundle.write()?;
        let ran = unit.call_create(&bundle)?;
        ran.refused().with_context(|| format!("cgroupsPath {path}"))?;
    }
    Ok(())
}
