//! Creating containers: ids, names, and what is refused before anything is made.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{refused, says};
use crate::case::{Case, engine_case as case};
use crate::engine::{Dock, query};
use crate::lab::check;

pub(super) fn cases() -> Vec<Case> {
    let mut all = names();
    all.extend(requests());
    all.extend(wrong_values());
    all
}

fn names() -> Vec<Case> {
    vec![
        case(
            "engine/create/id-and-state",
            "create answers 201 with 64 digits of a new id, and the container is created and not running",
            &["engine#A1/14", "engine#A1/29", "engine#api/ContainerCreate"],
            |dock| {
                let container = dock.create(&dock.spec(&["print", "hello"]))?;
                let digits = container.id.len() == 64 && container.id.bytes().all(|b| b.is_ascii_hexdigit());
                ensure!(digits, "the id is {}", container.id);
                let state = container.state()?;
                check("State.Status", &state["Status"], "created")?;
                check("State.Running", &state["Running"], false)?;
                check("State.Pid", &state["Pid"], 0)
            },
        ),
        case(
            "engine/create/name",
            "a container has the name it was given, with a slash before it in inspect",
            &["engine#A1/4"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                check(
                    "Name",
                    &container.inspect()?["Name"],
                    format!("/{}", container.name),
                )
            },
        ),
        case(
            "engine/create/name-is-made-up",
            "without a name two containers get two names of two words each",
            &["engine#A1/30"],
            |dock| {
                let mut names = Vec::new();
                for _ in 0..2 {
                    let answer = dock
                        .post_json("/containers/create", &dock.spec(&["print"]))?
                        .expect(201)?
                        .json()?;
                    let id = answer["Id"].as_str().context("no Id")?.to_owned();
                    let name = dock.json(&format!("/containers/{id}/json"))?["Name"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned();
                    let words = name
                        .trim_start_matches('/')
                        .split('_')
                        .filter(|word| !word.is_empty())
                        .count();
                    ensure!(words == 2, "the name is {name}");
                    names.push(name);
                }
                ensure!(names[0] != names[1], "both are called {}", names[0]);
                Ok(())
            },
        ),
        case(
            "engine/create/name-is-taken",
            "a name that is taken is a conflict, and the message says by whom",
            &["engine#A1/4", "engine#api/ContainerCreate"],
            |dock| {
                let first = dock.create(&dock.spec(&["print"]))?;
                let target = query("/containers/create", &[("name", &first.name)]);
                let message = refused(dock.post_json(&target, &dock.spec(&["print"]))?, 409)?;
                ensure!(
                    message.contains(&first.name) && message.contains(&first.id),
                    "the message is {message:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/create/name-of-two-at-once",
            "of two creations of one name at the same time one wins",
            &["engine#A1/4"],
            two_at_once,
        ),
        case(
            "engine/create/name-is-not-valid",
            "names with spaces, slashes or a leading dash are refused",
            &["engine#A1/4", "engine#api/ContainerCreate"],
            |dock| {
                for name in ["a b", "-x", "x/y", "x:y", "\u{e9}"] {
                    let target = query("/containers/create", &[("name", name)]);
                    refused(dock.post_json(&target, &dock.spec(&["print"]))?, 400)
                        .with_context(|| format!("name {name:?}"))?;
                }
                Ok(())
            },
        ),
    ]
}

fn two_at_once(dock: &Dock<'_>) -> Result<()> {
    let target = query("/containers/create", &[("name", &dock.fresh())]);
    let spec = dock.spec(&["print"]);
    let full = format!("{}{target}", dock.subject.version_path);
    let make = || -> Result<u16> {
        use crate::engine::{Payload, Request};
        let request = Request {
            payload: Payload::Json(&spec),
            ..Request::new("POST", &full)
        };
        Ok(request
            .send(&dock.subject.address, crate::engine::dock::CALL_LIMIT)?
            .status)
    };
    let mut seen = std::thread::scope(|scope| -> Result<Vec<u16>> {
        let other = scope.spawn(make);
        let mine = make()?;
        Ok(vec![
            mine,
            other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??,
        ])
    })?;
    seen.sort_unstable();
    ensure!(seen == [201, 409], "the answers are {seen:?}");
    Ok(())
}

fn requests() -> Vec<Case> {
    vec![
        case(
            "engine/create/unknown-image",
            "an image that is not there is 404, and nothing is pulled by create itself",
            &["engine#A1/36", "engine#api/ContainerCreate"],
            |dock| {
                let mut spec = dock.spec(&["print"]);
                spec["Image"] = json!("kelson-spec-nowhere:none");
                let message = refused(dock.post_json("/containers/create", &spec)?, 404)?;
                ensure!(
                    message.contains("kelson-spec-nowhere:none"),
                    "the message is {message:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/create/no-command",
            "without a command of its own or of its image a container is refused",
            &["engine#A1/25", "engine#api/ContainerCreate"],
            |dock| {
                let recipe = dock
                    .recipe()
                    .with("Entrypoint", Value::Null)
                    .with("Cmd", Value::Null);
                dock.load(&recipe)?;
                let spec = json!({"Image": recipe.tags[0], "Labels": dock.labels()});
                refused(dock.post_json("/containers/create", &spec)?, 400).map(drop)
            },
        ),
        case(
            "engine/create/no-json",
            "a body that is no JSON, or none at all, is 400",
            &["engine#api/ContainerCreate"],
            |dock| {
                for body in ["{", "[]", "\"x\"", ""] {
                    let answer =
                        dock.send("POST", "/containers/create", "application/json", body.as_bytes())?;
                    refused(answer, 400).with_context(|| format!("body {body:?}"))?;
                }
                Ok(())
            },
        ),
        case(
            "engine/create/types-are-wrong",
            "a field of the wrong JSON type is 400",
            &["engine#api/ContainerCreate"],
            |dock| {
                for (field, value) in [
                    ("Env", json!("A=1")),
                    ("Tty", json!("yes")),
                    ("Labels", json!(["a"])),
                    ("HostConfig", json!(5)),
                ] {
                    let mut spec = dock.spec(&["print"]);
                    spec[field] = value;
                    refused(dock.post_json("/containers/create", &spec)?, 400)
                        .with_context(|| format!("{field} {}", spec[field]))?;
                }
                Ok(())
            },
        ),
        case(
            "engine/create/unknown-fields-are-ignored",
            "a field that the API does not know is ignored, so that newer clients work",
            &["engine#api/ContainerCreate"],
            |dock| {
                let mut spec = dock.spec(&["print", "hi"]);
                spec["FieldOfTheFuture"] = json!({"a": 1});
                spec["HostConfig"] = json!({"AnotherOne": true});
                says(&dock.output(&spec)?, "hi\n")
            },
        ),
        case(
            "engine/create/image-by-id",
            "an image can be named by its id or by its first digits, and Config.Image is what was asked for",
            &["engine#A3/60", "engine#api/ContainerCreate"],
            |dock| {
                let recipe = dock.recipe();
                let id = dock.load(&recipe)?;
                for name in [id.as_str(), &id["sha256:".len()..], &id["sha256:".len()..][..12]] {
                    let mut spec = dock.spec(&["print", "hi"]);
                    spec["Image"] = json!(name);
                    let whole = dock.create(&spec)?.inspect()?;
                    check("Image", &whole["Image"], id.as_str())?;
                    check("Config.Image", &whole["Config"]["Image"], name)?;
                }
                Ok(())
            },
        ),
    ]
}

/// What is wrong, the field of `HostConfig` or, after a dot, of the configuration, and its value.
fn wrong_values() -> Vec<Case> {
    let table: [(&str, &str, &str, Value); 19] = [
        (
            "memory-too-little",
            "a memory limit of one byte",
            "Memory",
            json!(1),
        ),
        (
            "swap-below-memory",
            "a limit of memory and swap below the one of memory",
            "Memory+",
            json!({"Memory": 67_108_864, "MemorySwap": 33_554_432}),
        ),
        (
            "nano-cpus-and-quota",
            "two ways to limit processor time at once",
            "Cpu+",
            json!({"NanoCpus": 1_000_000_000, "CpuQuota": 50_000}),
        ),
        (
            "restart-policy",
            "a restart policy that does not exist",
            "RestartPolicy",
            json!({"Name": "sometimes"}),
        ),
        (
            "restart-count",
            "a count of restarts with a policy that counts none",
            "RestartPolicy",
            json!({"Name": "always", "MaximumRetryCount": 3}),
        ),
        (
            "restart-negative",
            "a negative count of restarts",
            "RestartPolicy",
            json!({"Name": "on-failure", "MaximumRetryCount": -1}),
        ),
        (
            "auto-remove-and-restart",
            "removal at the end together with restarts",
            "Remove+",
            json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}}),
        ),
        (
            "bind-without-target",
            "a bind mount without a target",
            "Binds",
            json!(["/tmp:"]),
        ),
        (
            "bind-relative-target",
            "a bind mount on a relative path",
            "Binds",
            json!(["/tmp:data"]),
        ),
        (
            "bind-mode",
            "a bind mount with an unknown option",
            "Binds",
            json!(["/tmp:/data:maybe"]),
        ),
        (
            "bind-twice",
            "two mounts on one target",
            "Binds",
            json!(["/tmp:/data", "/home:/data"]),
        ),
        (
            "mount-kind",
            "a mount of an unknown kind",
            "Mounts",
            json!([{"Type": "cloud", "Source": "/tmp", "Target": "/data"}]),
        ),
        (
            "mount-without-target",
            "a mount without a target",
            "Mounts",
            json!([{"Type": "bind", "Source": "/tmp"}]),
        ),
        (
            "port",
            "a published port that is no number",
            "PortBindings",
            json!({"80/tcp": [{"HostPort": "http"}]}),
        ),
        (
            "port-too-big",
            "a port beyond 65535",
            "PortBindings",
            json!({"80/tcp": [{"HostPort": "70000"}]}),
        ),
        (
            "working-dir",
            "a relative working directory",
            ".WorkingDir",
            json!("data"),
        ),
        ("environment", "a variable without a name", ".Env", json!(["=x"])),
        (
            "health-interval",
            "a health check more than once a millisecond",
            ".Healthcheck",
            json!({"Test": ["CMD", "/probe"], "Interval": 1000}),
        ),
        (
            "signal",
            "a stop signal that does not exist",
            ".StopSignal",
            json!("SIGNOTHING"),
        ),
    ];
    let all = table.into_iter().map(|(name, what, field, value)| {
        case(
            format!("engine/create/refuses-{name}"),
            format!("{what} is 400, and no container is made"),
            &["engine#A1/4", "engine#api/ContainerCreate"],
            move |dock| {
                let mut spec = dock.spec(&["print"]);
                if field.ends_with('+') {
                    spec["HostConfig"] = value.clone();
                } else if let Some(field) = field.strip_prefix('.') {
                    spec[field] = value.clone();
                } else {
                    spec["HostConfig"] = json!({field: value});
                }
                let name = dock.fresh();
                refused(
                    dock.post_json(&query("/containers/create", &[("name", &name)]), &spec)?,
                    400,
                )?;
                refused(dock.get(&format!("/containers/{name}/json"))?, 404)
                    .context("the container afterwards")
                    .map(drop)
            },
        )
    });
    all.collect()
}
