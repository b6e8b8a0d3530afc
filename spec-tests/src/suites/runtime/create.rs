//! runtime.md: create, and what state says.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::lab::{CALL_LIMIT, Lab, check, process};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "runtime/create/creates",
            "create makes a container that can be started, asked, killed and deleted",
            &[
                "runtime.md#scope-of-a-container/1",
                "runtime.md#operations/1",
                "runtime.md#lifecycle/1",
                "runtime.md#create/4",
                "bundle.md#container-format/1",
            ],
            creates,
        ),
        case(
            "runtime/create/does-not-run-the-program",
            "the program does not run before start",
            &[
                "runtime.md#lifecycle/4",
                "runtime.md#create/6",
                "runtime.md#state/13",
            ],
            does_not_run_the_program,
        ),
        case(
            "runtime/create/makes-the-environment",
            "mounts, cgroups and namespaces are there after create",
            &["runtime.md#lifecycle/3", "runtime.md#create/5"],
            makes_the_environment,
        ),
        case(
            "runtime/create/later-config-has-no-effect",
            "a config.json that is changed after create changes nothing",
            &["runtime.md#lifecycle/5", "runtime.md#create/8"],
            later_config_has_no_effect,
        ),
        case(
            "runtime/create/needs-arguments",
            "create without an id, and with a bundle that is not there, is an error",
            &["runtime.md#create/1"],
            create_needs_arguments,
        ),
        case(
            "runtime/create/id-is-taken",
            "a second create of an id is an error and leaves the first container alone",
            &["runtime.md#create/2", "runtime.md#state/3"],
            id_is_taken,
        ),
        case(
            "runtime/create/two-at-once",
            "of two creates of one id at the same time one succeeds, and that container works",
            &["runtime.md#create/2"],
            two_at_once,
        ),
        case(
            "runtime/create/id-is-not-valid",
            "an empty id and ids that lead out of the state directory are errors, and make nothing",
            &["runtime.md#create/3"],
            id_is_not_valid,
        ),
        case(
            "runtime/create/error-leaves-nothing",
            "a create that fails after it has begun leaves no container, cgroup, mount or process",
            &[
                "runtime.md#lifecycle/2",
                "runtime.md#errors/1",
                "runtime.md#create/7",
            ],
            error_leaves_nothing,
        ),
        case(
            "runtime/create/no-config",
            "a bundle without config.json, or with one that is no JSON, is an error",
            &["bundle.md#container-format/1", "runtime.md#lifecycle/2"],
            no_config,
        ),
        case(
            "runtime/state/of-a-created-container",
            "the state of a created container has ociVersion, id, status, pid and bundle",
            &[
                "runtime.md#state/1",
                "runtime.md#state/2",
                "runtime.md#state/4",
                "runtime.md#state/6",
                "runtime.md#state/10",
                "runtime.md#state/12",
                "runtime.md#query-state/3",
            ],
            state_of_created,
        ),
        case(
            "runtime/state/of-a-running-container",
            "the state of a running container says running and has the pid of its process",
            &["runtime.md#state/7", "runtime.md#state/14"],
            state_of_running,
        ),
        case(
            "runtime/state/of-a-stopped-container",
            "once the process has ended the state says stopped",
            &["runtime.md#state/15", "runtime.md#query-state/3"],
            state_of_stopped,
        ),
        case(
            "runtime/state/words-are-those-of-the-specification",
            "through a whole life the status is only ever created, running or stopped",
            &["runtime.md#state/4", "runtime.md#state/5"],
            status_words,
        ),
        case(
            "runtime/state/annotations",
            "the annotations of the configuration are in the state",
            &["runtime.md#state/11"],
            state_annotations,
        ),
        case(
            "runtime/state/needs-an-id",
            "state without an id is an error",
            &["runtime.md#query-state/1"],
            |lab| lab.call(&["state"])?.refused().map(drop),
        ),
        case(
            "runtime/state/unknown-id",
            "state of a container that does not exist is an error",
            &["runtime.md#query-state/2"],
            |lab| lab.call(&["state", &lab.new_id()])?.refused().map(drop),
        ),
    ]
}

fn creates(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["stay"]);
    let container = lab.create(&bundle)?;
    container.start()?;
    check("the status", &container.state()?["status"], "running")?;
    container.end()?;
    container.becomes("stopped")?;
    container.delete()?;
    Ok(())
}

fn does_not_run_the_program(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["create /ran x"]);
    let container = lab.create(&bundle)?;
    check("the status", &container.state()?["status"], "created")?;
    let program = fs::read_link(format!("/proc/{}/exe", container.pid))?;
    ensure!(
        !program.ends_with("probe"),
        "the process is already {}",
        program.display()
    );
    ensure!(!bundle.inside("/ran").exists(), "the program ran before start");
    container.start()?;
    container.wait()?;
    ensure!(
        bundle.inside("/ran").exists(),
        "the program did not run after start"
    );
    Ok(())
}

fn makes_the_environment(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    let container = lab.create(&bundle)?;
    let mounts = container.proc("mountinfo")?;
    for point in [" /proc ", " /dev ", " /sys "] {
        ensure!(mounts.contains(point), "{point} is not mounted after create");
    }
    ensure!(
        !lab.cgroups(bundle.cgroup()).is_empty(),
        "there is no cgroup after create"
    );
    for kind in ["pid", "net", "ipc", "uts", "mnt"] {
        let there = fs::read_link(format!("/proc/{}/ns/{kind}", container.pid))?;
        ensure!(
            there != fs::read_link(format!("/proc/self/ns/{kind}"))?,
            "the {kind} namespace is not new"
        );
    }
    Ok(())
}

fn later_config_has_no_effect(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["create /first x"]);
    let container = lab.create(&bundle)?;
    let changed = bundle.directory.join("config.json");
    let text = fs::read_to_string(&changed)?
        .replace("/first", "/second")
        .replace("\"probe\"", "\"changed\"");
    fs::write(&changed, text)?;
    container.start()?;
    container.wait()?;
    ensure!(
        bundle.inside("/first").exists() && !bundle.inside("/second").exists(),
        "start read config.json again"
    );
    Ok(())
}

fn create_needs_arguments(lab: &Lab) -> Result<()> {
    lab.call(&["create"])?.refused()?;
    lab.call(&[
        "create",
        "--bundle",
        &lab.path("nowhere").to_string_lossy(),
        &lab.new_id(),
    ])?
    .refused()?;
    Ok(())
}

fn id_is_taken(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let mut other = lab.bundle()?;
    other.acts(&["stay"]);
    other.write()?;
    let again = lab.call(&[
        "create",
        "--bundle",
        &other.directory.to_string_lossy(),
        &container.id,
    ])?;
    again.refused()?;
    ensure!(
        lab.cgroups(other.cgroup()).is_empty(),
        "the refused create left a cgroup"
    );
    let state = container.state()?;
    check("the status of the first", &state["status"], "running")?;
    check("the pid of the first", &state["pid"], container.pid)
}

fn two_at_once(lab: &Lab) -> Result<()> {
    let id = lab.new_id();
    let mut bundles = Vec::new();
    let mut children = Vec::new();
    for _ in 0..2 {
        let mut bundle = lab.bundle()?;
        bundle.acts(&["stay"]);
        bundle.write()?;
        let mut command = lab.command(&["create", "--bundle", &bundle.directory.to_string_lossy(), &id]);
        let out = lab.path(&format!("twin{}", children.len()));
        command
            .stdout(fs::File::create(&out)?)
            .stderr(fs::File::create(&out)?);
        children.push(command.spawn()?);
        bundles.push(bundle);
    }
    let mut succeeded = 0;
    for child in &mut children {
        succeeded += usize::from(process::finish(child, "create", CALL_LIMIT)?.success());
    }
    let state = lab.call(&["state", &id])?;
    let started = lab.call(&["start", &id])?;
    let pid = serde_json::from_str::<Value>(&state.stdout)
        .ok()
        .and_then(|s| s["pid"].as_i64());
    lab.call(&["delete", "--force", &id])?;
    ensure!(succeeded == 1, "{succeeded} of two creates succeeded");
    state.ok()?;
    started.ok()?;
    ensure!(pid.is_some_and(|pid| pid > 0), "the state has no pid");
    let left: Vec<_> = bundles
        .iter()
        .flat_map(|bundle| lab.cgroups(bundle.cgroup()))
        .collect();
    ensure!(left.is_empty(), "after the deletion there are {left:?}");
    Ok(())
}

fn id_is_not_valid(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    bundle.write()?;
    let directory = bundle.directory.to_string_lossy().into_owned();
    for id in ["", "../out", "a/b", "..", "."] {
        let ran = lab.call(&["create", "--bundle", &directory, id])?;
        if ran.succeeded() {
            lab.call(&["delete", "--force", id])?;
        }
        ran.refused().with_context(|| format!("id {id:?}"))?;
    }
    ensure!(
        !lab.path("out").exists(),
        "something was made outside of the state directory"
    );
    ensure!(
        lab.cgroups(bundle.cgroup()).is_empty(),
        "a refused create left a cgroup"
    );
    Ok(())
}

fn error_leaves_nothing(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    // The last mount fails when cgroups, namespaces and the other mounts are made.
    bundle.mount(json!({"destination": "/data", "type": "nosuchfs", "source": "none"}));
    lab.refuses(&bundle)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let here = bundle.directory.to_string_lossy().into_owned();
    ensure!(!mounts.contains(&here), "a mount is left");
    Ok(())
}

fn no_config(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    let directory = bundle.directory.to_string_lossy().into_owned();
    lab.call(&["create", "--bundle", &directory, &lab.new_id()])?
        .refused()?;
    for text in ["", "{", "[]", "{\"ociVersion\": 1}"] {
        fs::write(bundle.directory.join("config.json"), text)?;
        let ran = lab.call(&["create", "--bundle", &directory, &lab.new_id()])?;
        ran.refused()
            .with_context(|| format!("config.json is {text:?}"))?;
    }
    Ok(())
}

fn state_of_created(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    let container = lab.create(&bundle)?;
    let state = container.state()?;
    let version = state["ociVersion"].as_str().unwrap_or_default();
    ensure!(
        crate::require::SpecVersion::parse(version).is_some(),
        "ociVersion is {}",
        state["ociVersion"]
    );
    check("the id", &state["id"], container.id.as_str())?;
    check("the status", &state["status"], "created")?;
    ensure!(
        process::exists(container.pid),
        "pid {} does not exist",
        container.pid
    );
    check(
        "the bundle",
        &state["bundle"],
        bundle.directory.to_string_lossy().as_ref(),
    )?;
    follows_the_schema(&state)
}

/// What schema/state-schema.json demands, by hand: the fields and their types.
fn follows_the_schema(state: &Value) -> Result<()> {
    for (field, fits) in [
        ("ociVersion", state["ociVersion"].is_string()),
        ("id", state["id"].is_string()),
        ("status", state["status"].is_string()),
        (
            "pid",
            state["pid"].is_null() || state["pid"].as_i64().is_some_and(|pid| pid >= 0),
        ),
        ("bundle", state["bundle"].is_string()),
        (
            "annotations",
            state["annotations"].is_null() || is_map_of_texts(&state["annotations"]),
        ),
    ] {
        ensure!(fits, "{field} is {}", state[field]);
    }
    Ok(())
}

fn is_map_of_texts(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|map| map.values().all(Value::is_string))
}

fn state_of_running(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &["observe"])?;
    let state = container.state()?;
    check("the status", &state["status"], "running")?;
    let program = fs::read_link(format!("/proc/{}/exe", state["pid"]))?;
    ensure!(
        program.ends_with("probe"),
        "the process of the state's pid is {}",
        program.display()
    );
    follows_the_schema(&state)
}

fn state_of_stopped(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["observe"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.becomes("stopped")?;
    follows_the_schema(&container.state()?)
}

fn status_words(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.acts(&["wait-for /tmp/go"]);
    let container = lab.create(&bundle)?;
    let mut words = vec![container.status()?];
    container.start()?;
    words.push(container.status()?);
    fs::write(format!("/proc/{}/root/tmp/go", container.pid), "")?;
    container.wait()?;
    words.push(container.status()?);
    ensure!(
        words == ["created", "running", "stopped"],
        "the words are {words:?}"
    );
    Ok(())
}

fn state_annotations(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["annotations"] = json!({"com.example.key": "value one", "com.example.empty": ""});
    let container = lab.create(&bundle)?;
    let annotations = &container.state()?["annotations"];
    check("com.example.key", &annotations["com.example.key"], "value one")?;
    check("com.example.empty", &annotations["com.example.empty"], "")
}
