//! runtime.md: start, kill, delete, and warnings.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::case::{Case, case, deviates};
use crate::eventually::eventually;
use crate::lab::{CALL_LIMIT, Container, Lab, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "runtime/start/needs-an-id",
            "start without an id is an error",
            &["runtime.md#start/1"],
            |lab| lab.call(&["start"])?.refused().map(drop),
        ),
        case(
            "runtime/start/runs-the-program",
            "start runs the program with its arguments, environment and directory",
            &["runtime.md#lifecycle/14", "runtime.md#start/4"],
            start_runs_the_program,
        ),
        case(
            "runtime/start/of-a-running-container",
            "start of a running container is an error and has no effect",
            &["runtime.md#start/2", "runtime.md#start/3"],
            start_of_running,
        ),
        case(
            "runtime/start/of-a-stopped-container",
            "start of a stopped container is an error and has no effect",
            &["runtime.md#start/2", "runtime.md#start/3"],
            start_of_stopped,
        ),
        case(
            "runtime/start/unknown-id",
            "start of a container that does not exist is an error",
            &["runtime.md#start/3"],
            |lab| lab.call(&["start", &lab.new_id()])?.refused().map(drop),
        ),
        case(
            "runtime/start/without-a-process",
            "a configuration without process is an error by start at the latest",
            &["runtime.md#start/5", "config.md#process/1"],
            without_a_process,
        ),
        case(
            "runtime/kill/needs-an-id",
            "kill without an id is an error",
            &["runtime.md#kill/1"],
            |lab| lab.call(&["kill"])?.refused().map(drop),
        ),
        case(
            "runtime/kill/reaches-the-process",
            "a signal reaches the container's process and nobody else",
            &["runtime.md#kill/4"],
            kill_reaches_the_process,
        ),
        case(
            "runtime/kill/of-a-created-container",
            "a created container can be killed",
            &["runtime.md#kill/4"],
            kill_of_created,
        ),
        case(
            "runtime/kill/of-a-stopped-container",
            "kill of a stopped container is an error and has no effect",
            &["runtime.md#kill/2", "runtime.md#kill/3"],
            kill_of_stopped,
        ),
        case(
            "runtime/kill/unknown-id",
            "kill of a container that does not exist is an error",
            &["runtime.md#kill/3"],
            |lab| lab.call(&["kill", &lab.new_id(), "KILL"])?.refused().map(drop),
        ),
        case(
            "runtime/delete/needs-an-id",
            "delete without an id is an error",
            &["runtime.md#delete/1"],
            |lab| lab.call(&["delete"])?.refused().map(drop),
        ),
        case(
            "runtime/delete/of-a-running-container",
            "delete of a running container is an error and has no effect",
            &["runtime.md#delete/2", "runtime.md#delete/3"],
            delete_of_running,
        ),
        case(
            "runtime/delete/of-a-created-container",
            "delete of a created container is an error and has no effect",
            &["runtime.md#delete/2", "runtime.md#delete/3"],
            delete_of_created,
        ),
        case(
            "runtime/delete/unknown-id",
            "delete of a container that does not exist is an error",
            &["runtime.md#delete/3"],
            |lab| lab.call(&["delete", &lab.new_id()])?.refused().map(drop),
        ),
        case(
            "runtime/delete/removes-what-create-made",
            "after delete no state, cgroup, mount or process is left",
            &["runtime.md#lifecycle/17", "runtime.md#delete/4"],
            delete_removes,
        ),
        case(
            "runtime/delete/leaves-what-others-made",
            "delete leaves the bundle, its root file system and the source of a bind mount",
            &["runtime.md#delete/5"],
            delete_leaves,
        ),
        case(
            "runtime/delete/id-can-be-used-again",
            "the id of a deleted container can be used again",
            &["runtime.md#delete/6"],
            id_again,
        ),
        case(
            "runtime/delete/after-a-crash-of-the-process",
            "a container whose process was killed from outside can be deleted",
            &["runtime.md#delete/4", "runtime.md#state/15"],
            delete_after_crash,
        ),
        case(
            "runtime/warnings/do-not-stop",
            "a capability that is not known is a warning, and the container runs",
            &["runtime.md#warnings/1", "config.md#linux-process/1"],
            warnings_do_not_stop,
        ),
    ]
}

fn start_runs_the_program(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["cwd"] = json!("/data");
    bundle.config["process"]["env"] = json!(["A=b c", "PATH=/"]);
    let seen = lab.observe(&mut bundle)?;
    check("args", &seen["args"], json!(["/probe", "observe"]))?;
    // Every runtime in use sets HOME where it is missing, as login programs do.
    let mut env = seen.texts("env");
    env.retain(|entry| !entry.starts_with("HOME="));
    ensure!(env == ["A=b c", "PATH=/"], "env is {env:?}");
    check("cwd", &seen["cwd"], "/data")
}

fn start_of_running(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    container.call("start", &[])?.refused()?;
    check("the status", &container.state()?["status"], "running")?;
    ensure!(!container.has_ended(), "the process has ended");
    Ok(())
}

fn start_of_stopped(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["append /count x"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.becomes("stopped")?;
    container.call("start", &[])?.refused()?;
    check("the status", &container.state()?["status"], "stopped")?;
    let count = fs::read_to_string(bundle.inside("/count"))?;
    ensure!(count == "x", "the program ran {} times", count.len());
    Ok(())
}

fn without_a_process(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    if let Some(config) = bundle.config.as_object_mut() {
        config.remove("process");
    }
    let id = lab.new_id();
    bundle.write()?;
    let created = lab.call(&["create", "--bundle", &bundle.directory.to_string_lossy(), &id])?;
    if !created.succeeded() {
        created.refused()?;
        return Ok(());
    }
    let started = lab.call(&["start", &id])?;
    lab.call(&["delete", "--force", &id])?;
    started.refused().map(drop)
}

fn kill_reaches_the_process(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["fork 1", "signals 15"]);
    let container = lab.start(&bundle)?;
    let says = |text: &'static str| {
        eventually(text, CALL_LIMIT, || {
            Ok(container.stdout().contains(text).then_some(()))
        })
    };
    says("\"ready\"")?;
    container.kill("USR1")?;
    says("{\"signal\":10}")?;
    // The child has the default disposition and would be ended by it.
    let child = container.answers()?.value(0)?[0].as_i64().unwrap_or(0);
    let path = format!("/proc/{}/root/proc/{child}/stat", container.pid);
    let stat = fs::read_to_string(path).context("the child is gone")?;
    ensure!(!stat.contains(") Z "), "the child was ended by the signal");
    container.kill("15")?;
    says("{\"signal\":15}")?;
    container.wait()?;
    Ok(())
}

fn kill_of_created(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    let container = lab.create(&bundle)?;
    container.kill("KILL")?;
    container.wait()?;
    container.becomes("stopped")?;
    container.delete()?;
    container.check_gone()
}

fn kill_of_stopped(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["observe"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.becomes("stopped")?;
    container.call("kill", &["TERM"])?.refused()?;
    check("the status", &container.state()?["status"], "stopped")
}

fn delete_of_running(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    container.call("delete", &[])?.refused()?;
    check("the status", &container.state()?["status"], "running")?;
    ensure!(!container.has_ended(), "the process has ended");
    ensure!(
        !lab.cgroups(container.bundle.cgroup()).is_empty(),
        "the cgroup is gone"
    );
    Ok(())
}

fn delete_of_created(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    let container = lab.create(&bundle)?;
    let deleted = container.call("delete", &[])?;
    if deleted.succeeded() {
        // Half a deletion is no known difference.
        container.wait()?;
        container.check_gone()?;
        return Err(deviates(
            "it is ended and deleted, as by runc and crun: containerd deletes created tasks so, without --force",
        ));
    }
    deleted.refused()?;
    check("the status", &container.state()?["status"], "created")
}

fn delete_removes(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}));
    let container = lab.running(&mut bundle, &["fork 3"])?;
    ensure!(
        container.processes().len() >= 4,
        "its cgroup holds {:?}",
        container.processes()
    );
    container.end()?;
    container.becomes("stopped")?;
    container.delete()?;
    container.check_gone()
}

fn delete_leaves(lab: &Lab) -> Result<()> {
    let volume = lab.path("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "ours")?;
    let mut bundle = lab.bundle()?;
    bundle
        .mount(json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rw"]}));
    lab.probe(&mut bundle, &["read /data/file", "create /data/more x"])?
        .all_done()?;
    ensure!(
        fs::read_to_string(volume.join("file"))? == "ours",
        "the volume has changed"
    );
    ensure!(
        volume.join("more").exists() && bundle.inside("/probe").exists(),
        "files are gone"
    );
    ensure!(
        bundle.directory.join("config.json").exists(),
        "config.json is gone"
    );
    Ok(())
}

fn id_again(lab: &Lab) -> Result<()> {
    let id = lab.new_id();
    for _ in 0..2 {
        let bundle = lab.bundle()?;
        let container = Container::create_as(lab, &bundle, &id, &[])?;
        container.start()?;
        container.wait()?;
        container.becomes("stopped")?;
        container.delete()?;
    }
    Ok(())
}

fn delete_after_crash(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(container.pid),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    container.wait()?;
    container.becomes("stopped")?;
    container.delete()?;
    container.check_gone()
}

fn warnings_do_not_stop(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_NO_SUCH_THING"]);
    }
    let seen = lab.observe(&mut bundle)?;
    check("the effective set", &seen["capabilities"]["effective"], 1 << 5)
}
