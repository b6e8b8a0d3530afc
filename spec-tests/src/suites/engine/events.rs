//! Events: what is told, to whom, and when.

use anyhow::{Context, Result, ensure};
use serde_json::{Deserializer, Value, json};

use super::refused;
use crate::case::{Case, engine_case as case};
use crate::engine::clock::unix;
use crate::engine::dock::CALL_LIMIT;
use crate::engine::{Container, Dock, Request, query};
use crate::eventually::eventually;
use crate::lab::check;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "engine/events/life-of-a-container",
            "a container's life is told in order, with its name, its image, its labels and its exit code",
            &["engine#A1/6", "engine#A1/16", "engine#api/SystemEvents"],
            |dock| {
                let begin = now(dock)?;
                let container = dock.probe(&["exit", "4"])?;
                container.wait()?;
                container.remove()?;
                let events = past(dock, &begin, &container, "destroy")?;
                in_order(&events, &["create", "start", "die", "destroy"])?;
                let die = find(&events, "die")?;
                check("Type", &die["Type"], "container")?;
                check("Actor.ID", &die["Actor"]["ID"], container.id.as_str())?;
                let attributes = &die["Actor"]["Attributes"];
                check("exitCode", &attributes["exitCode"], "4")?;
                check("name", &attributes["name"], container.name.as_str())?;
                check("image", &attributes["image"], dock.subject.image.as_str())?;
                for (label, value) in dock.labels().as_object().into_iter().flatten() {
                    check(label, &attributes[label], value.clone())?;
                }
                ensure!(
                    die["timeNano"].as_i64() > Some(0) && die["time"].as_i64() > Some(0),
                    "times are {} and {}",
                    die["time"],
                    die["timeNano"]
                );
                Ok(())
            },
        ),
        case(
            "engine/events/what-is-done-to-it",
            "pause, unpause, rename, kill, stop and exec are told",
            &["engine#A1/21", "engine#A1/18", "engine#api/SystemEvents"],
            |dock| {
                let begin = now(dock)?;
                let container = dock.probe(&["on-term", "0"])?;
                container.says("ready")?;
                container.exec_probe(&["exit", "5"])?;
                container.post("/pause")?.expect(204)?;
                container.post("/unpause")?.expect(204)?;
                container
                    .post(&format!("/rename?name={}", dock.fresh()))?
                    .expect(204)?;
                container.stop(30)?;
                let events = past(dock, &begin, &container, "stop")?;
                let wanted = [
                    "start",
                    "exec_create: /probe exit 5",
                    "exec_start: /probe exit 5",
                    "exec_die",
                    "pause",
                    "unpause",
                    "rename",
                    "kill",
                    "die",
                    "stop",
                ];
                in_order(&events, &wanted)?;
                check(
                    "exec_die exitCode",
                    &find(&events, "exec_die")?["Actor"]["Attributes"]["exitCode"],
                    "5",
                )?;
                check(
                    "kill signal",
                    &find(&events, "kill")?["Actor"]["Attributes"]["signal"],
                    "15",
                )
            },
        ),
        case(
            "engine/events/as-they-happen",
            "who listens hears of an event when it happens",
            &["engine#A1/31", "engine#api/SystemEvents"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                let filters = json!({"container": [container.id], "event": ["start"]}).to_string();
                let target = query("/events", &[("filters", &filters)]);
                let incoming = dock.open(&Request::new("GET", &target), CALL_LIMIT)?;
                container.start()?;
                let first = Deserializer::from_reader(incoming)
                    .into_iter::<Value>()
                    .next()
                    .context("the stream ends")??;
                check("Action", &first["Action"], "start")?;
                check("id", &first["Actor"]["ID"], container.id.as_str())
            },
        ),
        case(
            "engine/events/filters",
            "filters by event, type, label and image let through what fits all of them",
            &["engine#api/SystemEvents"],
            |dock| {
                let begin = now(dock)?;
                let container = dock.probe(&["exit", "1"])?;
                container.wait()?;
                past(dock, &begin, &container, "die")?;
                let end = now(dock)?;
                let label = dock.own();
                for (filters, wanted) in [
                    (json!({"label": label, "event": ["die"]}), vec!["die"]),
                    (
                        json!({"label": label, "event": ["die", "create"]}),
                        vec!["create", "die"],
                    ),
                    (
                        json!({"label": label, "type": ["container"], "event": ["start"]}),
                        vec!["start"],
                    ),
                    (
                        json!({"label": label, "image": [dock.subject.image], "event": ["start"]}),
                        vec!["start"],
                    ),
                    (json!({"label": label, "type": ["volume"]}), vec![]),
                    (json!({"label": ["org.kelson.nothing"]}), vec![]),
                ] {
                    let target = query(
                        "/events",
                        &[
                            ("since", &begin),
                            ("until", &end),
                            ("filters", &filters.to_string()),
                        ],
                    );
                    let seen = actions(&dock.get(&target)?.expect(200)?.documents()?);
                    ensure!(seen == wanted, "{filters} gives {seen:?}");
                }
                Ok(())
            },
        ),
        case(
            "engine/events/images",
            "load, tag, untag and delete of an image are told",
            &["engine#A3/58", "engine#A3/60", "engine#api/SystemEvents"],
            |dock| {
                let begin = now(dock)?;
                let recipe = dock.recipe();
                let id = dock.load(&recipe)?;
                let other = format!("{}:other", dock.fresh());
                let (repo, tag) = other.split_once(':').unwrap_or_default();
                dock.post(&format!("/images/{id}/tag?repo={repo}&tag={tag}"))?
                    .expect(201)?;
                dock.delete(&format!("/images/{other}"))?.expect(200)?;
                dock.delete(&format!("/images/{}", recipe.tags[0]))?.expect(200)?;
                let filters = json!({"type": ["image"], "image": [id, other, recipe.tags[0]]}).to_string();
                eventually("the events of the image", crate::engine::container::SOON, || {
                    let end = now(dock)?;
                    let target = query(
                        "/events",
                        &[("since", &begin), ("until", &end), ("filters", &filters)],
                    );
                    let seen = actions(&dock.get(&target)?.expect(200)?.documents()?);
                    for wanted in ["tag", "untag", "delete"] {
                        ensure!(
                            seen.iter().any(|one| one == wanted),
                            "{wanted} is not in {seen:?}"
                        );
                    }
                    Ok(Some(()))
                })
            },
        ),
        case(
            "engine/events/wrong-filters",
            "filters that are no JSON, and times that are none, are refused",
            &["engine#api/SystemEvents"],
            |dock| {
                refused(
                    dock.get(&query("/events", &[("until", "1"), ("filters", "{")]))?,
                    400,
                )?;
                let status = dock.get("/events?since=yesterday&until=1")?.status;
                ensure!(status >= 400, "since=yesterday: {status}");
                Ok(())
            },
        ),
    ]
}

/// The engine's clock, which need not be ours.
fn now(dock: &Dock<'_>) -> Result<String> {
    let info = dock.json("/info")?;
    unix(info["SystemTime"].as_str().context("info has no SystemTime")?)
}

/// The events of a container up to now, once `last` is among them.
fn past(dock: &Dock<'_>, begin: &str, container: &Container<'_>, last: &str) -> Result<Vec<Value>> {
    let filters = json!({"container": [container.id]}).to_string();
    eventually(
        &format!("the event {last}"),
        crate::engine::container::SOON,
        || {
            let end = now(dock)?;
            let target = query(
                "/events",
                &[("since", begin), ("until", &end), ("filters", &filters)],
            );
            let events = dock.get(&target)?.expect(200)?.documents()?;
            Ok(events.iter().any(|one| one["Action"] == last).then_some(events))
        },
    )
}

fn actions(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .filter_map(|one| one["Action"].as_str())
        .map(str::to_owned)
        .collect()
}

fn find<'a>(events: &'a [Value], action: &str) -> Result<&'a Value> {
    events
        .iter()
        .find(|one| one["Action"] == action)
        .with_context(|| format!("{action} is not in {:?}", actions(events)))
}

/// That the wanted ones come in this order; others may stand between them.
fn in_order(events: &[Value], wanted: &[&str]) -> Result<()> {
    let seen = actions(events);
    let mut rest = seen.iter();
    for one in wanted {
        ensure!(
            rest.any(|other| other == one),
            "{one} is missing, or late, in {seen:?}"
        );
    }
    Ok(())
}
