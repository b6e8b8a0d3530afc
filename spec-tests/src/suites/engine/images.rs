//! Images: load, list, inspect, history, tags, removal, filters.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{contains, field, refused, says};
use crate::case::{Case, engine_case as case};
use crate::engine::image::entries_of;
use crate::engine::{Dock, query};
use crate::lab::check;

const TAR: &str = "application/x-tar";

pub(super) fn cases() -> Vec<Case> {
    let mut all = loads();
    all.extend(looks());
    all.extend(tags());
    all.extend(removals());
    all.extend(filters());
    all
}

fn loads() -> Vec<Case> {
    vec![
        case(
            "engine/images/load",
            "load of an archive gives the image its name and its id, and says so",
            &["engine#A3/53", "engine#api/ImageLoad"],
            |dock| {
                let recipe = dock.recipe();
                let answer = dock
                    .send("POST", "/images/load", TAR, &recipe.archive()?)?
                    .expect(200)?;
                let text: String = field(&answer.documents()?, "stream").concat();
                contains("the answer", &text, &format!("Loaded image: {}", recipe.tags[0]))?;
                check(
                    "Id",
                    &dock.json(&format!("/images/{}/json", recipe.tags[0]))?["Id"],
                    recipe.id()?,
                )
            },
        ),
        case(
            "engine/images/load-without-a-name",
            "an image without a name is loaded, and is there by its id",
            &["engine#A3/53", "engine#api/ImageLoad"],
            |dock| {
                let mut recipe = dock.recipe();
                recipe.tags.clear();
                let id = dock.load(&recipe)?;
                let whole = dock.json(&format!("/images/{id}/json"))?;
                let tags = &whole["RepoTags"];
                ensure!(tags.is_null() || *tags == json!([]), "RepoTags are {tags}");
                Ok(())
            },
        ),
        case(
            "engine/images/load-garbage",
            "what is no archive, or one without an image, is an error",
            &["engine#api/ImageLoad"],
            |dock| {
                let empty = crate::engine::image::archive_of(&[("x".into(), Vec::new())])?;
                for bytes in [vec![b'x'; 2048], empty] {
                    let answer = dock.send("POST", "/images/load", TAR, &bytes)?;
                    // The status may have gone out before the error was found.
                    let said = answer.status >= 400 || answer.text().contains("errorDetail");
                    ensure!(said, "status {} {}", answer.status, answer.text());
                }
                Ok(())
            },
        ),
        case(
            "engine/images/save-and-load",
            "what save gives is loaded again as the same image, and runs",
            &["engine#A3/67", "engine#api/ImageGet", "engine#api/ImageLoad"],
            |dock| {
                let recipe = dock.recipe().with_file("file", "saved");
                let id = dock.load(&recipe)?;
                let saved = dock
                    .get(&format!("/images/{}/get", recipe.tags[0]))?
                    .expect(200)?
                    .body;
                dock.delete(&format!("/images/{}", recipe.tags[0]))?.expect(200)?;
                refused(dock.get(&format!("/images/{id}/json"))?, 404)?;
                dock.send("POST", "/images/load", TAR, &saved)?.expect(200)?;
                check(
                    "Id",
                    &dock.json(&format!("/images/{}/json", recipe.tags[0]))?["Id"],
                    id,
                )?;
                let mut spec = dock.spec(&["show", "/file"]);
                spec["Image"] = json!(recipe.tags[0]);
                says(&dock.output(&spec)?, "saved")
            },
        ),
        case(
            "engine/images/save-several",
            "save of two names gives one archive with both, and layers that they share once",
            &["engine#A3/68", "engine#api/ImageGetAll"],
            |dock| {
                let (one, other) = (
                    dock.recipe().with_file("a", "1"),
                    dock.recipe().with_file("b", "2"),
                );
                dock.load(&one)?;
                dock.load(&other)?;
                let target = format!(
                    "{}&names={}",
                    query("/images/get", &[("names", &one.tags[0])]),
                    other.tags[0]
                );
                let entries = entries_of(&dock.get(&target)?.expect(200)?.body)?;
                let manifest = entries
                    .iter()
                    .find(|(name, _)| name == "manifest.json")
                    .context("no manifest.json")?;
                let manifest: Vec<Value> = serde_json::from_slice(&manifest.1)?;
                let mut tags: Vec<String> = manifest
                    .iter()
                    .filter_map(|one| one["RepoTags"][0].as_str())
                    .map(str::to_owned)
                    .collect();
                tags.sort();
                let mut wanted = vec![one.tags[0].clone(), other.tags[0].clone()];
                wanted.sort();
                ensure!(tags == wanted, "RepoTags are {tags:?}");
                let big = entries
                    .iter()
                    .filter(|(_, bytes)| bytes.len() > crate::lab::PROBE.len())
                    .count();
                ensure!(big == 1, "the shared layer is there {big} times");
                Ok(())
            },
        ),
    ]
}

fn looks() -> Vec<Case> {
    vec![
        case(
            "engine/images/inspect",
            "inspect shows configuration, names, size, layers and platform",
            &["engine#A3/59", "engine#api/ImageInspect"],
            |dock| {
                let recipe = dock
                    .recipe()
                    .with_file("file", "x")
                    .with("User", json!("guest"))
                    .with("WorkingDir", json!("/home"));
                dock.load(&recipe)?;
                let whole = dock.json(&format!("/images/{}/json", recipe.tags[0]))?;
                for name in ["User", "WorkingDir", "Cmd", "Entrypoint", "Env", "Labels"] {
                    check(name, &whole["Config"][name], recipe.config[name].clone())?;
                }
                check("RepoTags", &whole["RepoTags"], json!(recipe.tags))?;
                check("Os", &whole["Os"], "linux")?;
                ensure!(whole["Architecture"].is_string(), "no Architecture");
                ensure!(
                    whole["RootFS"]["Layers"]
                        .as_array()
                        .is_some_and(|all| all.len() == 2),
                    "RootFS is {}",
                    whole["RootFS"]
                );
                let size = whole["Size"].as_u64().unwrap_or_default();
                ensure!(size > crate::lab::PROBE.len() as u64 / 4, "Size is {size}");
                check("Created", &whole["Created"], "2026-11-21T00:00:00Z")
            },
        ),
        case(
            "engine/images/list",
            "an image with two names is listed once, with both",
            &["engine#A3/53", "engine#A3/60", "engine#api/ImageList"],
            |dock| {
                let mut recipe = dock.recipe();
                recipe.tags.push(format!("{}:second", dock.fresh()));
                let id = dock.load(&recipe)?;
                let found = dock.list(&query(
                    "/images/json",
                    &[("filters", &json!({"label": dock.own()}).to_string())],
                ))?;
                ensure!(found.len() == 1, "{} entries", found.len());
                check("Id", &found[0]["Id"], id)?;
                let mut tags: Vec<String> =
                    serde_json::from_value(found[0]["RepoTags"].clone()).unwrap_or_default();
                tags.sort();
                let mut wanted = recipe.tags.clone();
                wanted.sort();
                ensure!(tags == wanted, "RepoTags are {tags:?}");
                check("Labels", &found[0]["Labels"], dock.labels())
            },
        ),
        case(
            "engine/images/history",
            "history has a row for each step, the newest first, with the names at the newest",
            &["engine#A3/75", "engine#api/ImageHistory"],
            |dock| {
                let recipe = dock.recipe().with_file("file", "x");
                let id = dock.load(&recipe)?;
                let rows = dock.list(&format!("/images/{}/history", recipe.tags[0]))?;
                let steps = field(&rows, "CreatedBy");
                ensure!(steps == ["layer 1", "layer 0"], "steps are {steps:?}");
                check("Id", &rows[0]["Id"], id)?;
                check("Tags", &rows[0]["Tags"], json!(recipe.tags))?;
                check("Id of a step before", &rows[1]["Id"], "<missing>")?;
                ensure!(
                    rows[1]["Size"].as_u64() > rows[0]["Size"].as_u64(),
                    "sizes are {} and {}",
                    rows[0]["Size"],
                    rows[1]["Size"]
                );
                Ok(())
            },
        ),
        case(
            "engine/images/not-there",
            "inspect, history, tag and removal of an image that is not there are 404, and so is a container's name",
            &[
                "engine#A3/56",
                "engine#api/ImageInspect",
                "engine#api/ImageHistory",
                "engine#api/ImageTag",
                "engine#api/ImageDelete",
            ],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                for name in [
                    "kelson-spec-nowhere:none",
                    &container.name,
                    "sha256:1234567812345678123456781234567812345678123456781234567812345678",
                ] {
                    refused(dock.get(&format!("/images/{name}/json"))?, 404)?;
                    refused(dock.get(&format!("/images/{name}/history"))?, 404)?;
                    refused(dock.post(&format!("/images/{name}/tag?repo=x&tag=y"))?, 404)?;
                    refused(dock.delete(&format!("/images/{name}"))?, 404)?;
                }
                Ok(())
            },
        ),
        case(
            "engine/images/by-any-name",
            "an image is found by name, by name without the tag latest, by the full form of the name, by id and by first digits",
            &["engine#A3/65", "engine#api/ImageInspect"],
            |dock| {
                let recipe = dock.recipe();
                let id = dock.load(&recipe)?;
                let short = recipe.tags[0].trim_end_matches(":latest");
                for name in [
                    short.to_owned(),
                    recipe.tags[0].clone(),
                    format!("docker.io/library/{short}"),
                    format!("docker.io/library/{short}:latest"),
                    id.clone(),
                    id["sha256:".len()..].to_owned(),
                    id["sha256:".len()..][..12].to_owned(),
                ] {
                    check(
                        &name,
                        &dock.json(&format!("/images/{name}/json"))?["Id"],
                        id.as_str(),
                    )?;
                }
                Ok(())
            },
        ),
    ]
}

fn tags() -> Vec<Case> {
    vec![
        case(
            "engine/images/tag",
            "tag gives the same image another name, and a name that is taken moves",
            &["engine#A3/60", "engine#api/ImageTag"],
            |dock| {
                let (one, other) = (dock.recipe(), dock.recipe().with_file("other", "x"));
                let (first, second) = (dock.load(&one)?, dock.load(&other)?);
                let repo = format!("{}/sub", dock.fresh());
                for id in [&first, &second] {
                    dock.post(&query(
                        &format!("/images/{id}/tag"),
                        &[("repo", &repo), ("tag", "v1")],
                    ))?
                    .expect(201)?;
                    check(
                        "Id",
                        &dock.json(&format!("/images/{repo}:v1/json"))?["Id"],
                        id.as_str(),
                    )?;
                }
                check(
                    "RepoTags of the first",
                    &dock.json(&format!("/images/{first}/json"))?["RepoTags"],
                    json!(one.tags),
                )
            },
        ),
        case(
            "engine/images/tag-latest",
            "without a tag the name gets latest, and a registry's port is no tag",
            &["engine#A3/65", "engine#api/ImageTag"],
            |dock| {
                let id = dock.load(&dock.recipe())?;
                for repo in [dock.fresh(), format!("127.0.0.1:5000/{}", dock.fresh())] {
                    dock.post(&query(&format!("/images/{id}/tag"), &[("repo", &repo)]))?
                        .expect(201)?;
                    let tags = dock.json(&format!("/images/{id}/json"))?["RepoTags"].clone();
                    ensure!(
                        tags.as_array()
                            .is_some_and(|all| all.contains(&json!(format!("{repo}:latest")))),
                        "RepoTags are {tags}"
                    );
                }
                Ok(())
            },
        ),
        case(
            "engine/images/tag-is-not-valid",
            "names outside the grammar are 400",
            &["engine#A3/65", "engine#api/ImageTag"],
            |dock| {
                let id = dock.load(&dock.recipe())?;
                for (repo, tag) in [
                    ("Upper", "x"),
                    ("a//b", "x"),
                    ("-a", "x"),
                    ("good", "-bad"),
                    ("good", "a b"),
                    ("", "x"),
                    ("good:tag@", "x"),
                ] {
                    let answer = dock.post(&query(
                        &format!("/images/{id}/tag"),
                        &[("repo", repo), ("tag", tag)],
                    ))?;
                    refused(answer, 400).with_context(|| format!("{repo:?} {tag:?}"))?;
                }
                Ok(())
            },
        ),
        case(
            "engine/images/same-content-same-id",
            "the same steps give the same id, and steps in another order another",
            &["engine#A3/71"],
            |dock| {
                let base = dock.recipe();
                let (one, other) = (
                    base.clone().with_file("a", "1").with_file("b", "2"),
                    base.clone().with_file("b", "2").with_file("a", "1"),
                );
                let (first, second) = (dock.load(&one)?, dock.load(&other)?);
                ensure!(first != second, "both are {first}");
                check("again", &json!(dock.load(&one)?), first.as_str())?;
                check(
                    "by name",
                    &dock.json(&format!("/images/{}/json", base.tags[0]))?["Id"],
                    first,
                )
            },
        ),
    ]
}

/// What DELETE says, as `Untagged NAME` and `Deleted ID`.
fn deleted(dock: &Dock<'_>, name: &str, more: &str) -> Result<Vec<String>> {
    let rows = dock
        .delete(&format!("/images/{name}{more}"))?
        .expect(200)?
        .json()?;
    let mut said = Vec::new();
    for row in rows.as_array().into_iter().flatten() {
        for (kind, value) in row.as_object().into_iter().flatten() {
            said.push(format!("{kind} {}", value.as_str().unwrap_or_default()));
        }
    }
    Ok(said)
}

fn removals() -> Vec<Case> {
    vec![
        case(
            "engine/images/remove-by-name",
            "a name of two is untagged; with the last one the image and its layers are deleted",
            &["engine#A3/57", "engine#A3/58", "engine#api/ImageDelete"],
            |dock| {
                let mut recipe = dock.recipe().with_file("own", &dock.fresh());
                recipe.tags.push(format!("{}:second", dock.fresh()));
                let id = dock.load(&recipe)?;
                let first = deleted(dock, &recipe.tags[0], "")?;
                ensure!(
                    first == [format!("Untagged {}", recipe.tags[0])],
                    "the first gives {first:?}"
                );
                let second = deleted(dock, &recipe.tags[1], "")?;
                ensure!(
                    second.first() == Some(&format!("Untagged {}", recipe.tags[1])),
                    "the second begins with {:?}",
                    second.first()
                );
                ensure!(
                    second.contains(&format!("Deleted {id}")),
                    "the image is not in {second:?}"
                );
                refused(dock.get(&format!("/images/{id}/json"))?, 404).map(drop)
            },
        ),
        case(
            "engine/images/remove-by-id",
            "an image is removed by its id; one with several names only by force",
            &["engine#A3/54", "engine#api/ImageDelete"],
            |dock| {
                let one = dock.recipe();
                let id = dock.load(&one)?;
                let said = deleted(dock, &id, "")?;
                ensure!(
                    said.contains(&format!("Untagged {}", one.tags[0]))
                        && said.contains(&format!("Deleted {id}")),
                    "{said:?}"
                );
                let mut two = dock.recipe();
                two.tags.push(format!("{}/second:latest", dock.fresh()));
                let id = dock.load(&two)?;
                refused(dock.delete(&format!("/images/{id}"))?, 409)?;
                let said = deleted(dock, &id, "?force=1")?;
                ensure!(said.contains(&format!("Deleted {id}")), "by force: {said:?}");
                Ok(())
            },
        ),
        case(
            "engine/images/remove-while-used",
            "an image is not removed while an ended container is of it, the message names the container, and afterwards it is",
            &["engine#A3/55", "engine#api/ImageDelete"],
            |dock| {
                let recipe = dock.recipe();
                dock.load(&recipe)?;
                let mut spec = dock.spec(&["print"]);
                spec["Image"] = json!(recipe.tags[0]);
                let container = dock.run(&spec)?;
                container.wait()?;
                let message = refused(dock.delete(&format!("/images/{}", recipe.tags[0]))?, 409)?;
                contains("the message", &message, &container.id[..12])?;
                container.remove()?;
                deleted(dock, &recipe.tags[0], "").map(drop)
            },
        ),
        case(
            "engine/images/remove-while-it-runs",
            "the image of a running container is not removed by its id, not even by force",
            &["engine#A3/55", "engine#api/ImageDelete"],
            |dock| {
                let recipe = dock.recipe();
                let id = dock.load(&recipe)?;
                let mut spec = dock.spec(&["stay"]);
                spec["Image"] = json!(recipe.tags[0]);
                let container = dock.run(&spec)?;
                let message = refused(dock.delete(&format!("/images/{id}?force=1"))?, 409)?;
                contains("the message", &message, &container.id[..12])?;
                dock.json(&format!("/images/{id}/json")).map(drop)
            },
        ),
        case(
            "engine/images/remove-keeps-shared-layers",
            "removing one of two images that share a layer leaves the other whole",
            &["engine#A3/68", "engine#A3/70", "engine#api/ImageDelete"],
            |dock| {
                let (one, other) = (
                    dock.recipe().with_file("a", "1"),
                    dock.recipe().with_file("b", "of the other"),
                );
                dock.load(&one)?;
                dock.load(&other)?;
                deleted(dock, &one.tags[0], "")?;
                let mut spec = dock.spec(&["show", "/b"]);
                spec["Image"] = json!(other.tags[0]);
                says(&dock.output(&spec)?, "of the other")
            },
        ),
        case(
            "engine/images/prune",
            "prune removes images without a name that nothing uses, names them, and leaves the others",
            &["engine#A3/54", "engine#api/ImagePrune"],
            |dock| {
                let named = dock.recipe();
                let kept = dock.load(&named)?;
                let mut nameless = dock.recipe().with_file("x", "y");
                nameless.tags.clear();
                let gone = dock.load(&nameless)?;
                let filters = json!({"dangling": ["true"], "label": dock.own()}).to_string();
                let answer = dock
                    .post(&query("/images/prune", &[("filters", &filters)]))?
                    .expect(200)?
                    .json()?;
                let rows = answer["ImagesDeleted"].as_array().cloned().unwrap_or_default();
                ensure!(
                    rows.iter().any(|row| row["Deleted"] == gone.as_str()),
                    "ImagesDeleted are {rows:?}"
                );
                ensure!(
                    answer["SpaceReclaimed"].as_i64().is_some(),
                    "SpaceReclaimed is {}",
                    answer["SpaceReclaimed"]
                );
                refused(dock.get(&format!("/images/{gone}/json"))?, 404)?;
                dock.json(&format!("/images/{kept}/json")).map(drop)
            },
        ),
    ]
}

fn filters() -> Vec<Case> {
    vec![
        case(
            "engine/images/filter",
            "the filters reference, dangling, label, before and since",
            &["engine#A3/53", "engine#api/ImageList"],
            |dock| {
                let mut nameless = dock.recipe().with_file("x", "y");
                nameless.tags.clear();
                let nameless = dock.load(&nameless)?;
                let named = dock.recipe().with("Labels", {
                    let mut labels = dock.labels();
                    labels["color"] = json!("red");
                    labels
                });
                let id = dock.load(&named)?;
                let base = dock.recipe().tags[0]
                    .rsplit_once('-')
                    .map(|(base, _)| base.to_owned())
                    .unwrap_or_default();
                let expect = |name: &str, value: &str, wanted: &str| -> Result<()> {
                    let mut filters = json!({"label": dock.own()});
                    match filters.get_mut(name) {
                        Some(Value::Array(values)) => values.push(json!(value)),
                        _ => filters[name] = json!([value]),
                    }
                    let seen = field(
                        &dock.list(&query("/images/json", &[("filters", &filters.to_string())]))?,
                        "Id",
                    );
                    ensure!(seen == [wanted], "{name}={value} gives {seen:?}, not {wanted}");
                    Ok(())
                };
                expect("reference", &named.tags[0], &id)?;
                expect("reference", &format!("{base}*"), &id)?;
                expect("dangling", "true", &nameless)?;
                expect("dangling", "false", &id)?;
                expect("label", "color=red", &id)?;
                refused(
                    dock.get(&query("/images/json", &[("filters", r#"{"color":["red"]}"#)]))?,
                    400,
                )
                .map(drop)
            },
        ),
        case(
            "engine/images/disk-usage",
            "the account of the disk lists images, containers and volumes with their sizes",
            &["engine#A1/13", "engine#A3/68", "engine#api/SystemDataUsage"],
            |dock| {
                let container = dock.probe(&["create", "/file", "0123456789"])?;
                container.wait()?;
                let usage = dock.json("/system/df")?;
                let find = |kind: &str, id: &str| {
                    usage[kind]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .find(|one| one["Id"] == id)
                        .cloned()
                };
                let entry = find("Containers", &container.id).context("the container is not listed")?;
                ensure!(
                    entry["SizeRw"].as_i64().is_some_and(|bytes| bytes >= 10),
                    "SizeRw is {}",
                    entry["SizeRw"]
                );
                let image = container.inspect()?["Image"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                let entry = find("Images", &image).context("the image is not listed")?;
                ensure!(
                    entry["Containers"].as_i64().is_some_and(|count| count >= 1),
                    "Containers is {}",
                    entry["Containers"]
                );
                Ok(())
            },
        ),
    ]
}
