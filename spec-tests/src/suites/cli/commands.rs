//! kill, pause, resume, list, ps, update, events, spec, features.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{has, json_of};
use crate::case::{Case, case, skip};
use crate::eventually::eventually;
use crate::lab::{Bundle, CALL_LIMIT, Lab, check, process};
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "cli/kill/signal-forms",
            "a signal may be a number, a name, or a name with SIG",
            &["containerd: numbers; podman: numbers; scripts: names"],
            signal_forms,
        ),
        case(
            "cli/kill/default-signal",
            "without a signal it is TERM",
            &["runc's command line"],
            |lab| signalled(lab, &[], 15),
        ),
        case(
            "cli/kill/unknown-signal",
            "a signal that does not exist is an error, and nothing is sent",
            &["runc's command line"],
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                container.call("kill", &["LUCK"])?.refused()?;
                container.call("kill", &["1000"])?.refused()?;
                check("the status", &container.state()?["status"], "running")
            },
        ),
        case(
            "cli/kill/all",
            "kill --all reaches every process of the container",
            &["containerd: shared pid namespaces"],
            kill_all,
        ),
        case(
            "cli/pause/stops-and-resumes",
            "pause freezes every process, the state says paused, and resume goes on",
            &["docker pause"],
            pause,
        ),
        case(
            "cli/pause/of-a-stopped-container",
            "pause and resume of a stopped container are errors",
            &["docker pause"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.acts(&["observe"]);
                let container = lab.start(&bundle)?;
                container.wait()?;
                container.becomes("stopped")?;
                container.call("pause", &[])?.refused()?;
                container.call("resume", &[])?.refused().map(drop)
            },
        ),
        case(
            "cli/pause/then-delete",
            "delete --force removes a paused container",
            &["docker rm -f"],
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &["fork 2"])?;
                container.call("pause", &[])?.ok()?;
                lab.call(&["delete", "--force", &container.id])?.ok()?;
                container.wait()?;
                container.check_gone()
            },
        ),
        case(
            "cli/list/json",
            "list --format json gives id, pid, status, bundle, created and owner of each container",
            &["CRI-O, crictl: list"],
            list_json,
        ),
        case(
            "cli/list/quiet",
            "list --quiet gives one id on a line, and nothing where there is no container",
            &["scripts"],
            |lab| {
                ensure!(
                    lab.call(&["list", "--quiet"])?.ok()?.stdout.trim().is_empty(),
                    "it is not empty at first"
                );
                let first = lab.bundle()?;
                let second = lab.bundle()?;
                let (one, two) = (lab.create(&first)?, lab.create(&second)?);
                let text = lab.call(&["list", "--quiet"])?.ok()?.stdout;
                let mut ids: Vec<&str> = text.lines().collect();
                ids.sort_unstable();
                let mut wanted = [one.id.as_str(), two.id.as_str()];
                wanted.sort_unstable();
                ensure!(ids == wanted, "the ids are {ids:?}");
                Ok(())
            },
        ),
        case(
            "cli/ps/json",
            "ps --format json gives the pids of all processes of the container, as the host sees them",
            &["containerd: Pids; docker top"],
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &["fork 3"])?;
                let said = json_of(&lab.call(&["ps", "--format", "json", &container.id])?.ok()?)?;
                let mut pids: Vec<i64> = said
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_i64)
                    .collect();
                pids.sort_unstable();
                let mut all: Vec<i64> = container.processes().into_iter().map(i64::from).collect();
                all.sort_unstable();
                ensure!(
                    pids == all && pids.len() >= 4,
                    "ps says {pids:?}, the cgroup {all:?}"
                );
                Ok(())
            },
        ),
        case(
            "cli/ps/table",
            "ps gives a table with the container's processes",
            &["runc ps"],
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                let text = lab.call(&["ps", &container.id])?.ok()?.stdout;
                ensure!(
                    text.lines().next().is_some_and(|line| line.contains("PID")),
                    "the head is {text:?}"
                );
                let pid = container.pid.to_string();
                ensure!(
                    text.split_whitespace().any(|word| word == pid),
                    "{pid} is not in {text:?}"
                );
                Ok(())
            },
        )
        .needs(&[Need::Program("ps")]),
        case(
            "cli/update/resources-from-standard-input",
            "update --resources - takes limits as JSON from standard input",
            &["containerd: update --resources -"],
            |lab| {
                update(
                    lab,
                    &["--resources", "-"],
                    Some(json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 55}})),
                )
            },
        )
        .needs(&[Need::Controller("memory"), Need::Controller("pids")]),
        case(
            "cli/update/flags",
            "update --memory and --pids-limit set limits",
            &["podman update, runc's command line"],
            |lab| update(lab, &["--memory", "67108864", "--pids-limit", "55"], None),
        )
        .needs(&[Need::Controller("memory"), Need::Controller("pids")]),
        case(
            "cli/update/cpu",
            "update --cpu-quota, --cpu-period and --cpu-share set the processor's share",
            &["docker update"],
            update_cpu,
        )
        .needs(&[Need::Controller("cpu")]),
        case(
            "cli/update/bad-input",
            "resources that are no JSON are an error, and change nothing",
            &["bad input changes nothing"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["linux"]["resources"]["pids"] = json!({"limit": 44});
                let container = lab.running(&mut bundle, &[])?;
                let file = lab.path("resources");
                fs::write(&file, "{\"pids\": {\"limit\": 5")?;
                lab.call(&["update", "--resources", &file.to_string_lossy(), &container.id])?
                    .refused()?;
                let (_, text) = lab.cgroup_file(container.bundle.cgroup(), "pids", "pids.max", "pids.max")?;
                ensure!(text == "44", "pids.max is {text}");
                Ok(())
            },
        )
        .needs(&[Need::Controller("pids")]),
        case(
            "cli/update/devices-stay",
            "an update of memory leaves the container's devices usable",
            &["kubelet updates while programs open /dev/null"],
            update_leaves_devices,
        ),
        case(
            "cli/events/stats",
            "events --stats gives one line of JSON with cpu, memory and pids",
            &["cAdvisor, runc events"],
            events,
        ),
        case(
            "cli/spec/makes-a-configuration",
            "spec writes a config.json of an interactive shell, and does not overwrite one",
            &["everybody's first steps"],
            spec,
        ),
        case(
            "cli/spec/rootless",
            "spec --rootless has a user namespace",
            &["everybody's first steps"],
            |lab| {
                let directory = lab.path("spec-rootless");
                fs::create_dir(&directory)?;
                lab.call(&["spec", "--rootless", "--bundle", &directory.to_string_lossy()])
                    .and_then(process::Ran::ok)
                    .or_else(|_| in_directory(lab, &directory, &["spec", "--rootless"]))?;
                let config: Value =
                    serde_json::from_str(&fs::read_to_string(directory.join("config.json"))?)?;
                let kinds = config["linux"]["namespaces"].to_string();
                ensure!(kinds.contains("\"user\""), "the namespaces are {kinds}");
                Ok(())
            },
        ),
        case(
            "cli/features/json",
            "features is JSON with both versions",
            &["dockerd 29, containerd 2: features"],
            |lab| {
                let ran = lab.call(&["features"])?;
                if !ran.succeeded() {
                    return Err(skip("it has no command features"));
                }
                let said = json_of(&ran)?;
                ensure!(
                    said["ociVersionMin"].is_string() && said["ociVersionMax"].is_string(),
                    "it is {said}"
                );
                Ok(())
            },
        ),
        case(
            "cli/state/more-than-the-specification",
            "state gives rootfs and created, too, as runc's does",
            &["podman, scripts: state"],
            |lab| {
                let bundle = lab.bundle()?;
                let state = lab.create(&bundle)?.state()?;
                ensure!(
                    state["rootfs"]
                        .as_str()
                        .is_some_and(|path| path.ends_with("rootfs")),
                    "rootfs is {}",
                    state["rootfs"]
                );
                let created = state["created"].as_str().unwrap_or_default();
                ensure!(
                    created.len() >= 20 && created.as_bytes()[10] == b'T',
                    "created is {created:?}"
                );
                Ok(())
            },
        ),
    ]
}

fn in_directory(lab: &Lab, directory: &std::path::Path, args: &[&str]) -> Result<process::Ran> {
    let mut command = lab.command(args);
    command.current_dir(directory);
    lab.run_command(&mut command)?.ok()
}

/// The program says which signal came.
fn signalled(lab: &Lab, arguments: &[&str], number: u32) -> Result<()> {
    let mut bundle: Bundle = lab.bundle()?;
    bundle.acts(&[&format!("signals {number}")]);
    let container = lab.start(&bundle)?;
    eventually("readiness", CALL_LIMIT, || {
        Ok(container.stdout().contains("ready").then_some(()))
    })?;
    container.call("kill", arguments)?.ok()?;
    eventually("the signal", CALL_LIMIT, || {
        Ok(container
            .stdout()
            .contains(&format!("{{\"signal\":{number}}}"))
            .then_some(()))
    })
}

fn signal_forms(lab: &Lab) -> Result<()> {
    for form in ["10", "USR1", "SIGUSR1"] {
        signalled(lab, &[form], 10).with_context(|| form.to_owned())?;
    }
    Ok(())
}

fn kill_all(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    // Without a pid namespace of its own, the end of the first process ends no other.
    bundle.without_namespace("pid");
    let container = lab.running(&mut bundle, &["fork 4"])?;
    let all = container.processes();
    ensure!(all.len() >= 5, "its processes are {all:?}");
    lab.call(&["kill", "--all", &container.id, "KILL"])?.ok()?;
    container.wait()?;
    eventually("the end of all processes", CALL_LIMIT, || {
        let left: Vec<_> = all.iter().filter(|pid| alive(**pid)).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
}

/// Not a zombie, which waits for us to reap it.
fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn pause(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["append /tmp/ready x", "burn 20000"]);
    let container = lab.start(&bundle)?;
    eventually("the program's start", CALL_LIMIT, || {
        Ok(bundle.inside("/tmp/ready").exists().then_some(()))
    })?;
    container.call("pause", &[])?.ok()?;
    check("the status", &container.state()?["status"], "paused")?;
    let used = || -> Result<u64> {
        let stat = container.proc("stat")?;
        let after = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after.split_whitespace().collect();
        Ok(fields.get(11).context("utime")?.parse::<u64>()?
            + fields.get(12).context("stime")?.parse::<u64>()?)
    };
    let before = used()?;
    // Fifteen ticks of a program that would burn them all.
    let begin = std::time::Instant::now();
    while begin.elapsed() < std::time::Duration::from_millis(150) {
        std::thread::yield_now();
    }
    ensure!(
        used()? == before,
        "it used {} ticks while paused",
        used()? - before
    );
    container.call("resume", &[])?.ok()?;
    check("the status", &container.state()?["status"], "running")?;
    eventually("work after resume", CALL_LIMIT, || {
        Ok((used()? > before).then_some(()))
    })
}

fn list_json(lab: &Lab) -> Result<()> {
    let empty = lab.call(&["list", "--format", "json"])?.ok()?;
    let said = json_of(&empty)?;
    ensure!(
        said.is_null() || said == json!([]),
        "without containers it is {said}"
    );
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let all = json_of(&lab.call(&["list", "--format", "json"])?.ok()?)?;
    let one = all
        .as_array()
        .and_then(|all| all.iter().find(|entry| entry["id"] == container.id.as_str()));
    let one = one.with_context(|| format!("it is not in {all}"))?;
    check("the status", &one["status"], "running")?;
    check("the pid", &one["pid"], container.pid)?;
    check(
        "the bundle",
        &one["bundle"],
        container.bundle.directory.to_string_lossy().as_ref(),
    )?;
    ensure!(one["created"].is_string(), "created is {}", one["created"]);
    ensure!(one["owner"].is_string(), "owner is {}", one["owner"]);
    Ok(())
}

fn update(lab: &Lab, options: &[&str], input: Option<Value>) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let mut args = vec!["update"];
    args.extend_from_slice(options);
    args.push(&container.id);
    let mut command = lab.command(&args);
    if let Some(input) = input {
        let file = lab.path("resources.json");
        fs::write(&file, input.to_string())?;
        command.stdin(fs::File::open(&file)?);
    }
    lab.run_command(&mut command)?.ok()?;
    let cgroup = container.bundle.cgroup();
    let (_, memory) = lab.cgroup_file(cgroup, "memory", "memory.limit_in_bytes", "memory.max")?;
    ensure!(memory == "67108864", "the memory limit is {memory}");
    let (_, pids) = lab.cgroup_file(cgroup, "pids", "pids.max", "pids.max")?;
    ensure!(pids == "55", "the pids limit is {pids}");
    Ok(())
}

fn update_cpu(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let options = [
        "update",
        "--cpu-quota",
        "40000",
        "--cpu-period",
        "80000",
        "--cpu-share",
        "300",
        &container.id,
    ];
    lab.call(&options)?.ok()?;
    let cgroup = container.bundle.cgroup();
    let (version, quota) = lab.cgroup_file(cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    let wanted = if version == crate::cgroup::Version::V1 {
        "40000"
    } else {
        "40000 80000"
    };
    ensure!(quota == wanted, "the quota is {quota}");
    Ok(())
}

fn update_leaves_devices(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let file = lab.path("resources.json");
    fs::write(&file, json!({"memory": {"limit": 134_217_728}}).to_string())?;
    lab.call(&["update", "--resources", &file.to_string_lossy(), &container.id])?
        .ok()?;
    let answers = container.exec_answers(&[], &["open /dev/null rw", "open /dev/zero r"])?;
    answers.all_done()
}

fn events(lab: &Lab) -> Result<()> {
    if !has(lab, "events")? {
        return Err(skip("it has no command events"));
    }
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let ran = lab.call(&["events", "--stats", &container.id])?.ok()?;
    let said = json_of(&ran)?;
    check("type", &said["type"], "stats")?;
    check("id", &said["id"], container.id.as_str())?;
    for field in ["cpu", "memory", "pids"] {
        ensure!(
            said["data"][field].is_object(),
            "data.{field} is {}",
            said["data"][field]
        );
    }
    ensure!(
        said["data"]["pids"]["current"].as_u64().is_some_and(|n| n >= 1),
        "{}",
        said["data"]["pids"]
    );
    Ok(())
}

fn spec(lab: &Lab) -> Result<()> {
    let directory = lab.path("spec");
    fs::create_dir(&directory)?;
    in_directory(lab, &directory, &["spec"])?;
    let config: Value = serde_json::from_str(&fs::read_to_string(directory.join("config.json"))?)?;
    check("process.args", &config["process"]["args"], json!(["sh"]))?;
    check("process.terminal", &config["process"]["terminal"], true)?;
    check("root.path", &config["root"]["path"], "rootfs")?;
    let mut command = lab.command(&["spec"]);
    command.current_dir(&directory).stdin(Stdio::null());
    lab.run_command(&mut command)?.refused()?;
    Ok(())
}
