//! Removing containers, one and many.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::refused;
use crate::case::{Case, engine_case as case};
use crate::engine::container::SOON;
use crate::engine::query;
use crate::eventually::eventually;
use crate::lab::check;
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "engine/remove/stopped",
            "a container that has ended is removed by its name, and is not there any more",
            &["engine#A1/11", "engine#A3/56", "engine#api/ContainerDelete"],
            |dock| {
                let container = dock.probe(&["print"])?;
                container.wait()?;
                dock.delete(&format!("/containers/{}", container.name))?
                    .expect(204)?;
                refused(dock.get(&container.path("/json"))?, 404)?;
                refused(dock.delete(&container.path(""))?, 404)?;
                ensure!(container.listed(true)?.is_none(), "it is still listed");
                Ok(())
            },
        ),
        case(
            "engine/remove/running",
            "a running container is not removed without force, and the message says what to do",
            &["engine#A1/11", "engine#api/ContainerDelete"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let message = refused(dock.delete(&container.path(""))?, 409)?;
                ensure!(
                    message.contains(&container.id) || message.contains(&container.name),
                    "the message is {message:?}"
                );
                check("Running", &container.state()?["Running"], true)
            },
        ),
        case(
            "engine/remove/by-force",
            "force ends and removes a running container, and its name can be used again at once",
            &["engine#A1/6", "engine#A1/9", "engine#api/ContainerDelete"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                container.remove()?;
                refused(dock.get(&container.path("/json"))?, 404)?;
                dock.create_as(&container.name, &dock.spec(&["print"])).map(drop)
            },
        ),
        case(
            "engine/remove/leaves-no-cgroup",
            "a container that was removed leaves no process and no cgroup",
            &["engine#A1/1", "engine#A1/13"],
            |dock| {
                let container = dock.probe(&["fork", "2", ",", "stay"])?;
                container.says("ok")?;
                let pid = container.state()?["Pid"].as_i64().unwrap_or_default();
                let before = directories(&container.id)?;
                ensure!(!before.is_empty(), "it has no cgroup with its id in the name");
                container.remove()?;
                eventually("no process and no cgroup", SOON, || {
                    let left = directories(&container.id)?;
                    ensure!(left.is_empty(), "{left:?}");
                    ensure!(
                        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
                        "process {pid}"
                    );
                    Ok(Some(()))
                })
            },
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "engine/remove/by-itself",
            "with AutoRemove a container is gone after its end",
            &["engine#A1/1"],
            |dock| {
                let mut spec = dock.spec(&["print"]);
                spec["HostConfig"] = json!({"AutoRemove": true});
                let container = dock.run(&spec)?;
                eventually("the removal", SOON, || {
                    let status = dock.get(&container.path("/json"))?.status;
                    Ok((status == 404).then_some(()))
                })
            },
        ),
        case(
            "engine/remove/its-volumes",
            "with v=1 anonymous volumes go with their container, and named ones stay",
            &["engine#A1/8", "engine#api/ContainerDelete"],
            |dock| {
                let named = dock.fresh();
                dock.post_json(
                    "/volumes/create",
                    &json!({"Name": named, "Labels": dock.labels()}),
                )?
                .expect(201)?;
                let mut spec = dock.spec(&["print"]);
                spec["Volumes"] = json!({"/anonymous": {}});
                spec["HostConfig"] = json!({"Binds": [format!("{named}:/named")]});
                let container = dock.run(&spec)?;
                container.wait()?;
                let mounts = container.inspect()?["Mounts"].clone();
                let anonymous = mounts
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|one| one["Destination"] == "/anonymous");
                let anonymous = anonymous
                    .and_then(|one| one["Name"].as_str())
                    .context("no anonymous volume")?
                    .to_owned();
                dock.get(&format!("/volumes/{anonymous}"))?.expect(200)?;
                dock.delete(&container.path("?v=1"))?.expect(204)?;
                refused(dock.get(&format!("/volumes/{anonymous}"))?, 404)?;
                dock.get(&format!("/volumes/{named}"))?.expect(200).map(drop)
            },
        ),
        case(
            "engine/prune/only-stopped-ones",
            "prune removes what has ended or was never started, names it, and leaves what runs",
            &["engine#A1/23", "engine#api/ContainerPrune"],
            |dock| {
                let running = dock.probe(&["stay"])?;
                let created = dock.create(&dock.spec(&["print"]))?;
                let ended = dock.probe(&["create", "/file", "0123456789"])?;
                ended.wait()?;
                // Only this case's own: the engine may hold others'.
                let filters = json!({"label": dock.own()}).to_string();
                let answer = dock
                    .post(&query("/containers/prune", &[("filters", &filters)]))?
                    .expect(200)?
                    .json()?;
                let mut removed: Vec<String> =
                    serde_json::from_value(answer["ContainersDeleted"].clone()).unwrap_or_default();
                removed.sort();
                let mut wanted = vec![created.id, ended.id];
                wanted.sort();
                ensure!(removed == wanted, "removed {removed:?}, not {wanted:?}");
                ensure!(
                    answer["SpaceReclaimed"].as_i64().is_some_and(|bytes| bytes >= 10),
                    "SpaceReclaimed is {}",
                    answer["SpaceReclaimed"]
                );
                check("Running", &running.state()?["Running"], true)
            },
        ),
        case(
            "engine/prune/refuses-unknown-filters",
            "prune with a filter that does not exist is 400 and removes nothing",
            &["engine#A1/23", "engine#api/ContainerPrune"],
            |dock| {
                let created = dock.create(&dock.spec(&["print"]))?;
                let filters = json!({"color": ["red"], "label": dock.own()}).to_string();
                refused(
                    dock.post(&query("/containers/prune", &[("filters", &filters)]))?,
                    400,
                )?;
                created.inspect().map(drop)
            },
        ),
    ]
}

/// Cgroup directories whose name holds the id.
fn directories(id: &str) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in crate::cgroup::hierarchies()? {
        let mut next = vec![hierarchy.mount_point];
        while let Some(directory) = next.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if entry.file_name().to_string_lossy().contains(id) {
                        found.push(entry.path());
                    }
                    next.push(entry.path());
                }
            }
        }
    }
    Ok(found)
}
