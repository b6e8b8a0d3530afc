//! config.md: hooks: when, where and with what they run, and what happens when one fails.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::configuration::refused_with;
use crate::case::{Case, case};
use crate::lab::{Bundle, Lab, bundle::arguments, check};

/// In the order of a life. `startContainer` resolves its path in the container.
const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "runtime/hooks/order",
            "hooks run in the order of the life, and those of one kind in the order of the list",
            &[
                "config.md#posix-platform-hooks/18",
                "config.md#prestart/2",
                "config.md#createcontainer-hooks/2",
                "config.md#startcontainer-hooks/1",
                "runtime.md#lifecycle/6",
                "runtime.md#lifecycle/8",
                "runtime.md#lifecycle/10",
                "runtime.md#lifecycle/12",
                "runtime.md#lifecycle/15",
                "runtime.md#lifecycle/18",
            ],
            order,
        ),
        case(
            "runtime/hooks/operation",
            "each kind of hook has run when its operation returns, and not before that operation begins",
            &[
                "config.md#prestart/1",
                "config.md#createruntime-hooks/1",
                "config.md#createcontainer-hooks/1",
                "config.md#poststart/1",
                "config.md#poststop/1",
            ],
            operation,
        ),
        case(
            "runtime/hooks/before-the-root-changes",
            "prestart and createRuntime hooks see the container's namespaces made and its root not yet changed",
            &["config.md#prestart/1", "config.md#createruntime-hooks/1"],
            before_pivot,
        ),
        case(
            "runtime/hooks/mounts-are-made",
            "createRuntime hooks see the container's mounts made",
            &["config.md#createruntime-hooks/4"],
            mounts_are_made,
        ),
        case(
            "runtime/hooks/poststart-after-the-program",
            "when a poststart hook runs the program has been executed",
            &["config.md#poststart/1"],
            poststart_after_program,
        ),
        case(
            "runtime/hooks/poststop-after-the-deletion",
            "when a poststop hook runs the cgroups and the process of the container are gone",
            &["config.md#poststop/1"],
            poststop_after_deletion,
        ),
        case(
            "runtime/hooks/arguments",
            "a hook gets the arguments of its configuration, the first included",
            &["config.md#posix-platform-hooks/2"],
            arguments_of_hooks,
        ),
        case(
            "runtime/hooks/environment",
            "a hook gets the environment of its configuration",
            &["config.md#posix-platform-hooks/3"],
            environment_of_hooks,
        ),
        case(
            "runtime/hooks/relative-path",
            "a hook whose path is not absolute is an error",
            &["config.md#posix-platform-hooks/1"],
            |lab| {
                KINDS.iter().try_for_each(|kind| {
                    refused_with(lab, &format!("/hooks/{kind}"), json!([{"path": "bin/hook"}]))
                })
            },
        ),
        case(
            "runtime/hooks/timeout-of-zero",
            "a timeout that is zero or less is an error",
            &["config.md#posix-platform-hooks/4"],
            |lab| {
                for timeout in [0, -1] {
                    let hook = json!([{"path": lab.probe, "timeout": timeout}]);
                    refused_with(lab, "/hooks/createRuntime", hook)?;
                }
                Ok(())
            },
        ),
        case(
            "runtime/hooks/timeout",
            "a hook that takes longer than its timeout is ended and has failed",
            &["config.md#posix-platform-hooks/5"],
            timeout,
        ),
        case(
            "runtime/hooks/poststop-fails",
            "a failing poststop hook is a warning: the next ones run and the container is deleted",
            &["runtime.md#lifecycle/19"],
            poststop_fails,
        ),
        case(
            "runtime/hooks/poststop-after-a-failed-create",
            "when a create hook fails the poststop hooks run",
            &["runtime.md#lifecycle/9", "runtime.md#lifecycle/18"],
            poststop_after_failed_create,
        ),
    ];
    all.extend(KINDS.iter().zip(PLACES).map(|(kind, clauses)| {
        let place = if in_container(kind) {
            "container's"
        } else {
            "runtime's"
        };
        case(
            format!("runtime/hooks/{kind}-namespace"),
            format!("{kind} hooks run in the {place} namespace, and their path is found there"),
            clauses,
            move |lab| namespace(lab, kind),
        )
    }));
    all.extend(KINDS.iter().map(|kind| {
        let mut clauses = vec!["config.md#posix-platform-hooks/19"];
        clauses.push(if in_container(kind) {
            "runtime.md#state/9"
        } else {
            "runtime.md#state/8"
        });
        case(
            format!("runtime/hooks/{kind}-state"),
            format!("{kind} hooks get the state of the container on standard input"),
            &clauses,
            move |lab| state(lab, kind),
        )
    }));
    for (kind, clause) in [("prestart", 7), ("createRuntime", 9), ("createContainer", 11)] {
        let id = format!("runtime.md#lifecycle/{clause}");
        all.push(case(
            format!("runtime/hooks/{kind}-fails"),
            format!("a failing {kind} hook makes create an error, and no container is left"),
            &[&id],
            move |lab| create_hook_fails(lab, kind),
        ));
    }
    for (kind, clause) in [("startContainer", 13), ("poststart", 16)] {
        let id = format!("runtime.md#lifecycle/{clause}");
        all.push(case(
            format!("runtime/hooks/{kind}-fails"),
            format!("a failing {kind} hook makes start an error, and ends the container"),
            &[&id],
            move |lab| start_hook_fails(lab, kind),
        ));
    }
    all
}

/// Where the path resolves and where the hook runs, for each kind.
const PLACES: [&[&str]; 6] = [
    &[
        "config.md#posix-platform-hooks/6",
        "config.md#posix-platform-hooks/7",
        "config.md#prestart/3",
        "config.md#prestart/4",
    ],
    &[
        "config.md#posix-platform-hooks/8",
        "config.md#posix-platform-hooks/9",
        "config.md#createruntime-hooks/2",
        "config.md#createruntime-hooks/3",
    ],
    &[
        "config.md#posix-platform-hooks/10",
        "config.md#posix-platform-hooks/11",
        "config.md#createcontainer-hooks/3",
        "config.md#createcontainer-hooks/4",
    ],
    &[
        "config.md#posix-platform-hooks/12",
        "config.md#posix-platform-hooks/13",
        "config.md#startcontainer-hooks/2",
        "config.md#startcontainer-hooks/3",
    ],
    &[
        "config.md#posix-platform-hooks/14",
        "config.md#posix-platform-hooks/15",
        "config.md#poststart/2",
        "config.md#poststart/3",
    ],
    &[
        "config.md#posix-platform-hooks/16",
        "config.md#posix-platform-hooks/17",
        "config.md#poststop/2",
        "config.md#poststop/3",
    ],
];

fn in_container(kind: &str) -> bool {
    kind == "createContainer" || kind == "startContainer"
}

/// Hooks of one kind, each of which adds a line to `/hooks` of the container and then does `more`.
fn add_hooks(lab: &Lab, bundle: &mut Bundle, kind: &str, names: &[&str], more: &[&str]) {
    let inside = kind == "startContainer";
    let program = if inside {
        "/probe".to_owned()
    } else {
        lab.probe.to_string_lossy().into_owned()
    };
    let file = if inside {
        "/hooks".to_owned()
    } else {
        bundle.inside("/hooks").to_string_lossy().into_owned()
    };
    let hook = |name: &str| {
        let first = format!("hook {file} {name}");
        let acts: Vec<&str> = std::iter::once(first.as_str())
            .chain(more.iter().copied())
            .collect();
        json!({"path": program, "args": arguments(&program, &acts)})
    };
    bundle.config["hooks"][kind] = names.iter().map(|name| hook(name)).collect();
}

/// What the hooks wrote, in order.
fn records(bundle: &Bundle) -> Result<Vec<Value>> {
    let text = fs::read_to_string(bundle.inside("/hooks")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).context("a hook's record"))
        .collect()
}

fn names(bundle: &Bundle) -> Result<Vec<String>> {
    Ok(records(bundle)?
        .iter()
        .map(|record| record["hook"].as_str().unwrap_or_default().to_owned())
        .collect())
}

/// A whole life with one hook of a kind; its record.
fn whole_life(lab: &Lab, kind: &str, set: impl FnOnce(&mut Value)) -> Result<(Value, String)> {
    let mut bundle = lab.bundle()?;
    add_hooks(lab, &mut bundle, kind, &[kind], &[]);
    set(&mut bundle.config["hooks"][kind][0]);
    bundle.acts(&["observe"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.becomes("stopped")?;
    container.delete()?;
    let mut all = records(&bundle)?;
    ensure!(all.len() == 1, "the hook ran {} times", all.len());
    Ok((all.remove(0), container.id.clone()))
}

fn order(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for kind in KINDS {
        let both = [format!("{kind}-1"), format!("{kind}-2")];
        add_hooks(lab, &mut bundle, kind, &[&both[0], &both[1]], &[]);
    }
    bundle.acts(&["hook /hooks program"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.becomes("stopped")?;
    container.delete()?;
    let seen = names(&bundle)?;
    let hooks: Vec<_> = seen.iter().filter(|name| *name != "program").cloned().collect();
    let wanted: Vec<_> = KINDS
        .iter()
        .flat_map(|kind| [format!("{kind}-1"), format!("{kind}-2")])
        .collect();
    ensure!(hooks == wanted, "the order is {hooks:?}");
    let place = |name: &str| seen.iter().position(|one| one == name);
    ensure!(
        place("program") > place("startContainer-2"),
        "the program ran before a startContainer hook: {seen:?}"
    );
    Ok(())
}

fn operation(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for kind in KINDS {
        add_hooks(lab, &mut bundle, kind, &[kind], &[]);
    }
    bundle.acts(&["observe"]);
    let container = lab.create(&bundle)?;
    ensure!(
        names(&bundle)? == KINDS[..3],
        "after create: {:?}",
        names(&bundle)?
    );
    container.start()?;
    ensure!(
        names(&bundle)? == KINDS[..5],
        "after start: {:?}",
        names(&bundle)?
    );
    container.wait()?;
    container.becomes("stopped")?;
    ensure!(
        names(&bundle)? == KINDS[..5],
        "before delete: {:?}",
        names(&bundle)?
    );
    container.delete()?;
    ensure!(names(&bundle)? == KINDS, "after delete: {:?}", names(&bundle)?);
    Ok(())
}

fn before_pivot(lab: &Lab) -> Result<()> {
    for kind in ["prestart", "createRuntime"] {
        let (record, _) = whole_life(lab, kind, |_| {})?;
        check(
            &format!("{kind}: the container's root"),
            &record["container_root"],
            record["root"].clone(),
        )?;
        let own = record["namespaces"]["net"].clone();
        ensure!(
            record["container_net"] != own,
            "{kind}: the container's network namespace is not made"
        );
    }
    Ok(())
}

fn mounts_are_made(lab: &Lab) -> Result<()> {
    let (record, _) = whole_life(lab, "createRuntime", |_| {})?;
    let mounts: Vec<_> = record["container_mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for place in ["/rootfs/proc ", "/rootfs/dev ", "/rootfs/dev/shm "] {
        ensure!(
            mounts.iter().any(|line| line.contains(place)),
            "{place} is not mounted: {mounts:?}"
        );
    }
    Ok(())
}

fn poststart_after_program(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    add_hooks(lab, &mut bundle, "poststart", &["poststart"], &[]);
    let container = lab.running(&mut bundle, &[])?;
    let record = records(container.bundle)?.pop().context("the hook did not run")?;
    let program = record["container_exe"].as_str().unwrap_or_default();
    ensure!(
        program.ends_with("/probe"),
        "the container's process is {program}"
    );
    Ok(())
}

fn poststop_after_deletion(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    add_hooks(lab, &mut bundle, "poststop", &["poststop"], &[]);
    let hierarchy = lab.host.hierarchies.first().context("no cgroup hierarchy")?;
    let script = format!(
        "test -e {}{} || touch {}",
        hierarchy.mount_point.display(),
        bundle.cgroup(),
        bundle.inside("/cgroup-was-gone").display()
    );
    if let Some(hooks) = bundle.config["hooks"]["poststop"].as_array_mut() {
        hooks.push(json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}));
    }
    bundle.acts(&["observe"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.becomes("stopped")?;
    container.delete()?;
    let record = records(&bundle)?.pop().context("the hook did not run")?;
    let state: Value = serde_json::from_str(record["state"].as_str().unwrap_or_default())?;
    check("the status the hook was given", &state["status"], "stopped")?;
    let there = record["container_exe"].as_str().unwrap_or_default();
    ensure!(
        !there.ends_with("/probe"),
        "the container's process is still there"
    );
    // The second hook makes the file only if the directory is gone.
    ensure!(
        bundle.inside("/cgroup-was-gone").exists(),
        "the cgroup was still there"
    );
    container.check_gone()
}

fn arguments_of_hooks(lab: &Lab) -> Result<()> {
    let (record, _) = whole_life(lab, "createRuntime", |hook| {
        hook["args"][0] = json!("a-name-of-its-own");
    })?;
    check("the first argument", &record["args"][0], "a-name-of-its-own")?;
    check("the second argument", &record["args"][1], "hook")
}

fn environment_of_hooks(lab: &Lab) -> Result<()> {
    let (record, _) = whole_life(lab, "createRuntime", |hook| {
        hook["env"] = json!(["KEY=a value", "OTHER="])
    })?;
    let env: Vec<_> = record["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure!(
        env.contains(&"KEY=a value") && env.contains(&"OTHER="),
        "the environment is {env:?}"
    );
    Ok(())
}

fn namespace(lab: &Lab, kind: &str) -> Result<()> {
    let (record, _) = whole_life(lab, kind, |_| {})?;
    let own = fs::read_link("/proc/self/ns/mnt")?.to_string_lossy().into_owned();
    let there = record["namespaces"]["mnt"].as_str().unwrap_or_default();
    if in_container(kind) {
        ensure!(
            there != own && there.starts_with("mnt:"),
            "its mount namespace is {there}, that of the runtime"
        );
    } else {
        ensure!(
            there == own,
            "its mount namespace is {there}, not the runtime's {own}"
        );
        let host = fs::metadata("/")?;
        check(
            "its root",
            &record["root"],
            format!("{}:{}", host.dev(), host.ino()),
        )?;
    }
    for name in ["net", "uts", "ipc"] {
        let own = fs::read_link(format!("/proc/self/ns/{name}"))?
            .to_string_lossy()
            .into_owned();
        let there = record["namespaces"][name].as_str().unwrap_or_default();
        ensure!(
            (there == own) != in_container(kind),
            "its {name} namespace is {there}, the runtime's is {own}"
        );
    }
    Ok(())
}

fn state(lab: &Lab, kind: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["annotations"] = json!({"com.example.key": "value"});
    add_hooks(lab, &mut bundle, kind, &[kind], &[]);
    bundle.acts(&["observe"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.becomes("stopped")?;
    container.delete()?;
    let record = records(&bundle)?.pop().context("the hook did not run")?;
    let text = record["state"].as_str().unwrap_or_default();
    let state: Value = serde_json::from_str(text).with_context(|| format!("standard input was {text:?}"))?;
    check("the id", &state["id"], container.id.as_str())?;
    check(
        "the bundle",
        &state["bundle"],
        bundle.directory.to_string_lossy().as_ref(),
    )?;
    check(
        "the annotation",
        &state["annotations"]["com.example.key"],
        "value",
    )?;
    ensure!(
        state["ociVersion"].is_string(),
        "ociVersion is {}",
        state["ociVersion"]
    );
    ensure!(state["status"].is_string(), "the status is {}", state["status"]);
    match kind {
        "poststop" => Ok(()),
        "createContainer" | "startContainer" => check("the pid, as the container sees it", &state["pid"], 1),
        _ => check("the pid, as the runtime sees it", &state["pid"], container.pid),
    }
}

fn create_hook_fails(lab: &Lab, kind: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    add_hooks(lab, &mut bundle, kind, &["fails"], &["exit 7"]);
    add_hooks(lab, &mut bundle, "startContainer", &["never"], &[]);
    lab.refuses(&bundle)?;
    ensure!(
        names(&bundle)?.first().is_some_and(|name| name == "fails"),
        "the hook did not run"
    );
    ensure!(
        !names(&bundle)?.contains(&"never".to_owned()),
        "a hook of start ran"
    );
    Ok(())
}

fn start_hook_fails(lab: &Lab, kind: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    add_hooks(lab, &mut bundle, kind, &["fails"], &["exit 7"]);
    bundle.acts(&["create /ran x", "stay"]);
    let container = lab.create(&bundle)?;
    container.call("start", &[])?.refused()?;
    container.wait().context("the container's process goes on")?;
    ensure!(
        kind != "startContainer" || !bundle.inside("/ran").exists(),
        "the program ran"
    );
    // It is destroyed, or at least stopped, so that whoever started it can delete it.
    let state = container.call("state", &[])?;
    let stopped =
        serde_json::from_str::<Value>(&state.stdout).is_ok_and(|state| state["status"] == "stopped");
    ensure!(!state.succeeded() || stopped, "the state is {}", state.stdout);
    Ok(())
}

fn timeout(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    add_hooks(lab, &mut bundle, "createRuntime", &["slow"], &["stay"]);
    bundle.config["hooks"]["createRuntime"][0]["timeout"] = json!(1);
    let begin = Instant::now();
    lab.refuses(&bundle)?;
    ensure!(
        begin.elapsed() >= Duration::from_millis(900),
        "it was ended after {:?}",
        begin.elapsed()
    );
    Ok(())
}

fn poststop_fails(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    add_hooks(lab, &mut bundle, "poststop", &["first"], &["exit 7"]);
    let mut hooks = bundle.config["hooks"]["poststop"].clone();
    add_hooks(lab, &mut bundle, "poststop", &["second"], &[]);
    if let (Some(all), Some(more)) = (
        hooks.as_array_mut(),
        bundle.config["hooks"]["poststop"].as_array(),
    ) {
        all.extend(more.iter().cloned());
    }
    bundle.config["hooks"]["poststop"] = hooks;
    bundle.acts(&["observe"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.becomes("stopped")?;
    container.delete()?;
    ensure!(
        names(&bundle)? == ["first", "second"],
        "the hooks that ran are {:?}",
        names(&bundle)?
    );
    container.check_gone()
}

fn poststop_after_failed_create(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    add_hooks(lab, &mut bundle, "createRuntime", &["fails"], &["exit 7"]);
    add_hooks(lab, &mut bundle, "poststop", &["poststop"], &[]);
    bundle.write()?;
    let id = lab.new_id();
    let ran = lab.call(&["create", "--bundle", &bundle.directory.to_string_lossy(), &id])?;
    ran.refused()?;
    ensure!(
        names(&bundle)? == ["fails", "poststop"],
        "the hooks that ran are {:?}",
        names(&bundle)?
    );
    Ok(())
}
