//! Images made of containers and of file systems: commit and import.

use anyhow::ensure;
use serde_json::json;

use super::{contains, refused, says};
use crate::case::{Case, engine_case as case};
use crate::engine::image::archive_of;
use crate::engine::query;
use crate::lab::{PROBE, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "engine/commit/files",
            "commit makes an image of what a container has written, and it runs",
            &["engine#A3/73", "engine#api/ImageCommit"],
            |dock| {
                let container = dock.probe(&["create", "/written", "by the container"])?;
                container.wait()?;
                let repo = dock.fresh();
                let parameters = [
                    ("container", container.id.as_str()),
                    ("repo", &repo),
                    ("tag", "v1"),
                    ("comment", "a note"),
                    ("author", "me"),
                ];
                let id = dock
                    .post_json(&query("/commit", &parameters), &json!({}))?
                    .expect(201)?
                    .json()?["Id"]
                    .clone();
                let whole = dock.json(&format!("/images/{repo}:v1/json"))?;
                check("Id", &whole["Id"], id)?;
                check("Comment", &whole["Comment"], "a note")?;
                check("Author", &whole["Author"], "me")?;
                let rows = dock.list(&format!("/images/{repo}:v1/history"))?;
                check("the history's newest comment", &rows[0]["Comment"], "a note")?;
                let mut spec = dock.spec(&["show", "/written"]);
                spec["Image"] = json!(format!("{repo}:v1"));
                says(&dock.output(&spec)?, "by the container")
            },
        ),
        case(
            "engine/commit/configuration",
            "commit keeps the container's configuration, and changes it by instructions and by its body",
            &["engine#A3/73", "engine#api/ImageCommit"],
            |dock| {
                let mut spec = dock.spec(&["print", "x"]);
                spec["Env"] = json!(["KEPT=1"]);
                let container = dock.create(&spec)?;
                let repo = dock.fresh();
                let parameters = [
                    ("container", container.id.as_str()),
                    ("repo", &repo),
                    ("changes", "ENV ADDED=2\nCMD [\"print\", \"changed\"]"),
                ];
                dock.post_json(&query("/commit", &parameters), &json!({"WorkingDir": "/tmp"}))?
                    .expect(201)?;
                let config = dock.json(&format!("/images/{repo}/json"))?["Config"].clone();
                let environment = config["Env"].as_array().cloned().unwrap_or_default();
                ensure!(
                    environment.contains(&json!("KEPT=1")) && environment.contains(&json!("ADDED=2")),
                    "Env is {environment:?}"
                );
                check("Cmd", &config["Cmd"], json!(["print", "changed"]))?;
                check("WorkingDir", &config["WorkingDir"], "/tmp")
            },
        ),
        case(
            "engine/commit/running",
            "commit of a running container lets it run on",
            &["engine#A3/73", "engine#api/ImageCommit"],
            |dock| {
                let container = dock.probe(&["create", "/written", "x", ",", "stay"])?;
                container.says("ok")?;
                let parameters = [("container", container.name.as_str()), ("repo", &dock.fresh())];
                dock.post_json(&query("/commit", &parameters), &json!({}))?
                    .expect(201)?;
                let state = container.state()?;
                check("Running", &state["Running"], true)?;
                check("Paused", &state["Paused"], false)
            },
        ),
        case(
            "engine/commit/deletions",
            "what a container has deleted is not in the image that commit makes",
            &["engine#A3/69", "engine#A3/73"],
            |dock| {
                let recipe = dock.recipe().with_file("gone", "x").with_file("kept", "y");
                dock.load(&recipe)?;
                let mut spec = dock.spec(&["unlink", "/gone"]);
                spec["Image"] = json!(recipe.tags[0]);
                let container = dock.run(&spec)?;
                container.wait()?;
                let repo = dock.fresh();
                dock.post_json(
                    &query("/commit", &[("container", &container.id), ("repo", &repo)]),
                    &json!({}),
                )?
                .expect(201)?;
                let mut spec = dock.spec(&["list", "/"]);
                spec["Image"] = json!(repo);
                let text = dock.output(&spec)?;
                contains("the root", &text, "\"kept\"")?;
                ensure!(!text.contains("\"gone\""), "the root is {text}");
                Ok(())
            },
        ),
        case(
            "engine/commit/refuses",
            "commit of a container that is not there is 404, and of a name outside the grammar 400",
            &["engine#api/ImageCommit"],
            |dock| {
                refused(dock.post_json("/commit?container=not-there", &json!({}))?, 404)?;
                let container = dock.create(&dock.spec(&["print"]))?;
                refused(
                    dock.post_json(
                        &query("/commit", &[("container", &container.id), ("repo", "Upper")]),
                        &json!({}),
                    )?,
                    400,
                )
                .map(drop)
            },
        ),
        case(
            "engine/import/file-system",
            "import makes an image of an archive of files, with the changes that were asked for",
            &["engine#A3/67", "engine#api/ImageCreate"],
            |dock| {
                let repo = dock.fresh();
                let files = archive_of(&[
                    ("probe".into(), PROBE.to_vec()),
                    ("file".into(), b"imported".to_vec()),
                ])?;
                let mut target = query(
                    "/images/create",
                    &[
                        ("fromSrc", "-"),
                        ("repo", &repo),
                        ("tag", "v1"),
                        ("message", "a note"),
                    ],
                );
                for (name, value) in dock.labels().as_object().into_iter().flatten() {
                    let change = format!("LABEL {name}={}", value.as_str().unwrap_or_default());
                    target.push_str(query("", &[("changes", &change)]).replace('?', "&").as_str());
                }
                target.push_str(
                    query("", &[("changes", "ENTRYPOINT [\"/probe\"]")])
                        .replace('?', "&")
                        .as_str(),
                );
                let answer = dock
                    .send("POST", &target, "application/x-tar", &files)?
                    .expect(200)?;
                ensure!(
                    !answer.text().contains("errorDetail"),
                    "import: {}",
                    answer.text()
                );
                let mut spec = dock.spec(&["show", "/file"]);
                spec["Image"] = json!(format!("{repo}:v1"));
                says(&dock.output(&spec)?, "imported")
            },
        ),
    ]
}
