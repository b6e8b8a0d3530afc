//! Lists and inspect.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{field, refused};
use crate::case::{Case, engine_case as case};
use crate::engine::{Dock, query};
use crate::lab::check;

pub(super) fn cases() -> Vec<Case> {
    let mut all = list();
    all.extend(filters());
    all.extend(inspect());
    all
}

/// Containers of this case that fit the filter, by name without the slash.
fn names(dock: &Dock<'_>, name: &str, value: &str) -> Result<Vec<String>> {
    let mut filters = json!({"label": dock.own()});
    match (name, filters.get_mut(name)) {
        ("label", Some(Value::Array(values))) => values.push(json!(value)),
        _ => filters[name] = json!([value]),
    }
    let found = dock.list(&query(
        "/containers/json",
        &[("all", "1"), ("filters", &filters.to_string())],
    ))?;
    let mut names: Vec<String> = found
        .iter()
        .filter_map(|one| one["Names"][0].as_str())
        .map(|name| name.trim_start_matches('/').to_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn expect(dock: &Dock<'_>, name: &str, value: &str, wanted: &[&str]) -> Result<()> {
    let mut wanted: Vec<&str> = wanted.to_vec();
    wanted.sort_unstable();
    let seen = names(dock, name, value)?;
    ensure!(seen == wanted, "{name}={value} gives {seen:?}, not {wanted:?}");
    Ok(())
}

fn list() -> Vec<Case> {
    vec![
        case(
            "engine/list/states",
            "created, running, paused and exited containers are listed with their state, and only those that run without all",
            &["engine#A1/7", "engine#A2/52", "engine#api/ContainerList"],
            |dock| {
                let created = dock.create(&dock.spec(&["print"]))?;
                let running = dock.probe(&["stay"])?;
                let paused = dock.probe(&["stay"])?;
                paused.post("/pause")?.expect(204)?;
                let exited = dock.probe(&["exit", "1"])?;
                exited.wait()?;
                for (container, state, status, runs) in [
                    (&created, "created", "Created", false),
                    (&running, "running", "Up ", true),
                    (&paused, "paused", "(Paused)", true),
                    (&exited, "exited", "Exited (1)", false),
                ] {
                    let entry = container
                        .listed(true)?
                        .with_context(|| format!("{state} is not listed"))?;
                    check("State", &entry["State"], state)?;
                    let text = entry["Status"].as_str().unwrap_or_default();
                    ensure!(text.contains(status), "Status of {state} is {text:?}");
                    ensure!(
                        container.listed(false)?.is_some() == runs,
                        "{state} without all: {}",
                        !runs
                    );
                }
                Ok(())
            },
        ),
        case(
            "engine/list/fields",
            "an entry has names, image, command, labels, time and network mode",
            &["engine#A2/52", "engine#api/ContainerList"],
            |dock| {
                let container = dock.create(&dock.spec(&["print", "x"]))?;
                let entry = container.listed(true)?.context("it is not listed")?;
                check("Names", &entry["Names"], json!([format!("/{}", container.name)]))?;
                check("Image", &entry["Image"], dock.subject.image.as_str())?;
                check(
                    "ImageID",
                    &entry["ImageID"],
                    container.inspect()?["Image"].clone(),
                )?;
                check("Command", &entry["Command"], "/probe print x")?;
                check("Labels", &entry["Labels"], dock.labels())?;
                ensure!(
                    entry["Created"].as_i64().is_some_and(|time| time > 1_600_000_000),
                    "Created is {}",
                    entry["Created"]
                );
                ensure!(
                    entry["HostConfig"]["NetworkMode"].is_string(),
                    "HostConfig is {}",
                    entry["HostConfig"]
                );
                ensure!(entry["SizeRw"].is_null(), "SizeRw is there unasked");
                Ok(())
            },
        ),
        case(
            "engine/list/size",
            "with size=1 list and inspect tell what the container has written",
            &["engine#A3/68", "engine#api/ContainerList"],
            |dock| {
                let container = dock.probe(&["create", "/file", "0123456789"])?;
                container.wait()?;
                let filters = json!({"id": [container.id]}).to_string();
                let entry = dock.list(&query(
                    "/containers/json",
                    &[("all", "1"), ("size", "1"), ("filters", &filters)],
                ))?;
                let whole = dock.json(&container.path("/json?size=1"))?;
                for (what, one) in [("list", &entry[0]), ("inspect", &whole)] {
                    let (own, all) = (one["SizeRw"].as_i64(), one["SizeRootFs"].as_i64());
                    ensure!(
                        own.is_some_and(|bytes| bytes >= 10) && all > own,
                        "{what}: SizeRw {own:?}, SizeRootFs {all:?}"
                    );
                }
                Ok(())
            },
        ),
        case(
            "engine/list/limit",
            "limit gives the newest containers first, whatever their state",
            &["engine#A1/7", "engine#api/ContainerList"],
            |dock| {
                for _ in 0..3 {
                    dock.create(&dock.spec(&["print"]))?;
                }
                let filters = json!({"label": dock.own()}).to_string();
                let all = dock.list(&query("/containers/json", &[("all", "1"), ("filters", &filters)]))?;
                let times: Vec<i64> = all.iter().filter_map(|one| one["Created"].as_i64()).collect();
                ensure!(
                    times.is_sorted_by(|a, b| a >= b) && times.len() == 3,
                    "times are {times:?}"
                );
                let two = dock.list(&query(
                    "/containers/json",
                    &[("limit", "2"), ("filters", &filters)],
                ))?;
                ensure!(
                    field(&two, "Id") == field(&all[..2], "Id"),
                    "{:?} of {:?}",
                    field(&two, "Id"),
                    field(&all, "Id")
                );
                Ok(())
            },
        ),
    ]
}

fn filters() -> Vec<Case> {
    vec![
        case(
            "engine/list/filter-status",
            "the filter status takes each state",
            &["engine#A1/8", "engine#api/ContainerList"],
            |dock| {
                let created = dock.create(&dock.spec(&["print"]))?;
                let running = dock.probe(&["stay"])?;
                let exited = dock.probe(&["exit", "3"])?;
                exited.wait()?;
                expect(dock, "status", "created", &[&created.name])?;
                expect(dock, "status", "running", &[&running.name])?;
                expect(dock, "status", "exited", &[&exited.name])?;
                expect(dock, "exited", "3", &[&exited.name])?;
                expect(dock, "exited", "4", &[])
            },
        ),
        case(
            "engine/list/filter-name-and-id",
            "the filters name and id take parts of them",
            &["engine#A2/52", "engine#api/ContainerList"],
            |dock| {
                let one = dock.create(&dock.spec(&["print"]))?;
                let other = dock.create_as(&format!("{}-special", dock.fresh()), &dock.spec(&["print"]))?;
                expect(dock, "name", "special", &[&other.name])?;
                expect(dock, "name", &format!("^/{}$", one.name), &[&one.name])?;
                expect(dock, "id", &one.id, &[&one.name])?;
                expect(dock, "id", &one.id[..16], &[&one.name])?;
                expect(dock, "name", "nothing-like-it", &[])
            },
        ),
        case(
            "engine/list/filter-label",
            "the filter label takes a key, or a key with its value, and several must all fit",
            &["engine#A2/52", "engine#api/ContainerList"],
            |dock| {
                let labelled = |value: &str| -> Result<String> {
                    let mut spec = dock.spec(&["print"]);
                    spec["Labels"]["color"] = json!(value);
                    Ok(dock.create(&spec)?.name)
                };
                let (red, blue) = (labelled("red")?, labelled("blue")?);
                dock.create(&dock.spec(&["print"]))?;
                expect(dock, "label", "color", &[&red, &blue])?;
                expect(dock, "label", "color=red", &[&red])?;
                expect(dock, "label", "color=green", &[])
            },
        ),
        case(
            "engine/list/filter-order",
            "the filters before and since compare with another container",
            &["engine#A2/52", "engine#api/ContainerList"],
            |dock| {
                let (first, second, third) = (
                    dock.create(&dock.spec(&["print"]))?,
                    dock.create(&dock.spec(&["print"]))?,
                    dock.create(&dock.spec(&["print"]))?,
                );
                expect(dock, "before", &second.name, &[&first.name])?;
                expect(dock, "since", &second.id, &[&third.name])
            },
        ),
        case(
            "engine/list/filter-ancestor",
            "the filter ancestor takes an image by name and by id",
            &["engine#A1/12", "engine#api/ContainerList"],
            |dock| {
                let recipe = dock.recipe();
                let id = dock.load(&recipe)?;
                let mut spec = dock.spec(&["print"]);
                spec["Image"] = json!(recipe.tags[0]);
                let child = dock.create(&spec)?;
                dock.create(&dock.spec(&["print"]))?;
                expect(dock, "ancestor", &recipe.tags[0], &[&child.name])?;
                expect(dock, "ancestor", &id, &[&child.name])
            },
        ),
        case(
            "engine/list/filter-volume-and-network",
            "the filters volume and network take what a container uses",
            &["engine#A2/52", "engine#api/ContainerList"],
            |dock| {
                let volume = dock.fresh();
                dock.post_json(
                    "/volumes/create",
                    &json!({"Name": volume, "Labels": dock.labels()}),
                )?
                .expect(201)?;
                let mut spec = dock.spec(&["stay"]);
                spec["HostConfig"] = json!({"Binds": [format!("{volume}:/data")], "NetworkMode": "none"});
                let user = dock.run(&spec)?;
                let other = dock.probe(&["stay"])?;
                expect(dock, "volume", &volume, &[&user.name])?;
                expect(dock, "volume", "/data", &[&user.name])?;
                expect(dock, "network", "none", &[&user.name])?;
                expect(dock, "network", "bridge", &[&other.name])
            },
        ),
        case(
            "engine/list/filter-is-not-valid",
            "a filter that does not exist, a value that cannot be, and filters that are no JSON are 400",
            &["engine#api/ContainerList"],
            |dock| {
                for filters in [r#"{"color":["red"]}"#, r#"{"status":["tired"]}"#, "{"] {
                    let answer = dock.get(&query("/containers/json", &[("filters", filters)]))?;
                    refused(answer, 400).with_context(|| filters.to_owned())?;
                }
                Ok(())
            },
        ),
    ]
}

fn inspect() -> Vec<Case> {
    vec![
        case(
            "engine/inspect/follows-the-description",
            "inspect of a created, a running and an ended container follows the API's description",
            &["engine#A2/51", "engine#api/ContainerInspect"],
            |dock| {
                let mut spec = dock.spec(&["on-term", "0"]);
                spec["HostConfig"] = json!({"RestartPolicy": {"Name": "no"}, "Memory": 67_108_864, "Binds": ["/tmp:/data:ro"]});
                spec["ExposedPorts"] = json!({"80/tcp": {}});
                let container = dock.create(&spec)?;
                container.inspect()?;
                container.start()?;
                container.says("ready")?;
                container.inspect()?;
                container.stop(10)?;
                container.inspect().map(drop)
            },
        ),
        case(
            "engine/inspect/keeps-what-was-asked",
            "inspect gives back what create was told",
            &["engine#A2/51", "engine#A1/32", "engine#api/ContainerInspect"],
            |dock| {
                let mut spec = dock.spec(&["print", "x"]);
                spec["Env"] = json!(["A=1"]);
                spec["User"] = json!("guest");
                spec["WorkingDir"] = json!("/tmp");
                spec["Hostname"] = json!("here");
                spec["HostConfig"] = json!({
                    "Memory": 67_108_864, "CpuShares": 512, "ReadonlyRootfs": true, "CapAdd": ["NET_ADMIN"], "Dns": ["10.9.8.7"],
                    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}, "Binds": ["/tmp:/data:ro"],
                });
                let whole = dock.create(&spec)?.inspect()?;
                for name in ["User", "WorkingDir", "Hostname", "Cmd"] {
                    check(name, &whole["Config"][name], spec[name].clone())?;
                }
                check("Config.Labels", &whole["Config"]["Labels"], dock.labels())?;
                let environment = whole["Config"]["Env"].as_array().cloned().unwrap_or_default();
                ensure!(
                    environment.contains(&json!("A=1")),
                    "Config.Env is {environment:?}"
                );
                check(
                    "Config.Entrypoint",
                    &whole["Config"]["Entrypoint"],
                    json!(["/probe"]),
                )?;
                for (name, value) in spec["HostConfig"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| *name != "CapAdd")
                {
                    check(name, &whole["HostConfig"][name], value.clone())?;
                }
                check("Path", &whole["Path"], "/probe")?;
                check("Args", &whole["Args"], json!(["print", "x"]))
            },
        ),
        case(
            "engine/inspect/mounts",
            "Mounts tells kind, source, target and whether it can be written",
            &["engine#A2/51", "engine#api/ContainerInspect"],
            |dock| {
                let volume = dock.fresh();
                dock.post_json(
                    "/volumes/create",
                    &json!({"Name": volume, "Labels": dock.labels()}),
                )?
                .expect(201)?;
                let mut spec = dock.spec(&["print"]);
                spec["HostConfig"] = json!({"Binds": ["/tmp:/bound:ro", format!("{volume}:/named")]});
                let mounts = dock.create(&spec)?.inspect()?["Mounts"].clone();
                let at = |target: &str| {
                    let found = mounts
                        .as_array()
                        .into_iter()
                        .flatten()
                        .find(|one| one["Destination"] == target);
                    found
                        .cloned()
                        .with_context(|| format!("{target} is not in {mounts}"))
                };
                let (bound, named) = (at("/bound")?, at("/named")?);
                check("Type", &bound["Type"], "bind")?;
                check("Source", &bound["Source"], "/tmp")?;
                check("RW", &bound["RW"], false)?;
                check("Type", &named["Type"], "volume")?;
                check("Name", &named["Name"], volume)?;
                check("RW", &named["RW"], true)
            },
        ),
    ]
}
