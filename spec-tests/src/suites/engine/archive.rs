//! Files in and out of containers: archive, changes, export.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{contains, refused};
use crate::case::{Case, engine_case as case};
use crate::engine::http::Incoming;
use crate::engine::image::{archive_of, entries_of};
use crate::engine::{Container, Dock, Request, query};
use crate::lab::check;

const TAR: &str = "application/x-tar";
/// Of Go's `os.FileMode`.
const GO_DIRECTORY: u64 = 1 << 31;

pub(super) fn cases() -> Vec<Case> {
    let mut all = copies();
    all.extend(whole());
    all
}

fn put(
    dock: &Dock<'_>,
    container: &Container<'_>,
    parameters: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Result<crate::engine::Answer> {
    let files: Vec<(String, Vec<u8>)> = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect();
    dock.send(
        "PUT",
        &query(&container.path("/archive"), parameters),
        TAR,
        &archive_of(&files)?,
    )
}

fn get(dock: &Dock<'_>, container: &Container<'_>, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let target = query(&container.path("/archive"), &[("path", path)]);
    let answer = dock.open(&Request::new("GET", &target), crate::engine::dock::CALL_LIMIT)?;
    entries_of(&answer.whole()?.expect(200)?.body)
}

/// The header that tells of a path.
fn stat(answer: &Incoming) -> Result<Value> {
    let header = answer
        .header("x-docker-container-path-stat")
        .context("no X-Docker-Container-Path-Stat")?;
    Ok(serde_json::from_slice(&STANDARD.decode(header)?)?)
}

fn copies() -> Vec<Case> {
    vec![
        case(
            "engine/archive/put",
            "an archive is unpacked in a container that was never started, and its program reads the files",
            &["engine#A3/68", "engine#api/PutContainerArchive"],
            |dock| {
                let container = dock.create(&dock.spec(&["show", "/tmp/deep/file"]))?;
                put(
                    dock,
                    &container,
                    &[("path", "/tmp")],
                    &[("deep/", ""), ("deep/file", "put there")],
                )?
                .expect(200)?;
                container.start()?;
                container.wait()?;
                contains("the file", &container.output()?.stdout, "put there")
            },
        ),
        case(
            "engine/archive/put-into-a-running-one",
            "an archive is unpacked in a running container, over a file that is there",
            &["engine#A3/68", "engine#api/PutContainerArchive"],
            |dock| {
                let container = dock.probe(&["create", "/tmp/file", "old", ",", "stay"])?;
                container.says("ok")?;
                put(dock, &container, &[("path", "/tmp/")], &[("file", "new")])?.expect(200)?;
                let (output, _) = container.exec_probe(&["show", "/tmp/file"])?;
                contains("the file", &output.stdout, "new")
            },
        ),
        case(
            "engine/archive/get",
            "a file and a directory come as archives whose names begin with the last part of the path",
            &["engine#A3/68", "engine#api/ContainerArchive"],
            |dock| {
                let container =
                    dock.probe(&["mkdir", "/tmp/deep", ",", "create", "/tmp/deep/file", "content"])?;
                container.wait()?;
                let file = get(dock, &container, "/tmp/deep/file")?;
                ensure!(
                    file == [("file".to_owned(), b"content".to_vec())],
                    "the file is {file:?}"
                );
                let mut names: Vec<String> = get(dock, &container, "/tmp/deep")?
                    .into_iter()
                    .map(|(name, _)| name)
                    .collect();
                names.sort();
                ensure!(names == ["deep/", "deep/file"], "the directory is {names:?}");
                Ok(())
            },
        ),
        case(
            "engine/archive/stat",
            "HEAD tells name, size, mode and the target of a link",
            &["engine#api/ContainerArchiveInfo"],
            |dock| {
                let container = dock.probe(&[
                    "create",
                    "/tmp/file",
                    "12345",
                    ",",
                    "symlink",
                    "file",
                    "/tmp/link",
                ])?;
                container.wait()?;
                let look = |path: &str| -> Result<Value> {
                    let target = query(&container.path("/archive"), &[("path", path)]);
                    let answer =
                        dock.open(&Request::new("HEAD", &target), crate::engine::dock::CALL_LIMIT)?;
                    ensure!(answer.status == 200, "status {}", answer.status);
                    stat(&answer)
                };
                let file = look("/tmp/file")?;
                check("name", &file["name"], "file")?;
                check("size", &file["size"], 5)?;
                let directory = look("/tmp")?;
                ensure!(
                    directory["mode"]
                        .as_u64()
                        .is_some_and(|mode| mode & GO_DIRECTORY != 0),
                    "mode is {}",
                    directory["mode"]
                );
                check("linkTarget", &look("/tmp/link")?["linkTarget"], "/tmp/file")
            },
        ),
        case(
            "engine/archive/not-there",
            "a path, or a container, that is not there is 404, and a request without a path 400",
            &[
                "engine#api/ContainerArchive",
                "engine#api/PutContainerArchive",
                "engine#api/ContainerArchiveInfo",
            ],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                refused(
                    dock.get(&query(&container.path("/archive"), &[("path", "/nowhere")]))?,
                    404,
                )?;
                refused(dock.get("/containers/not-there/archive?path=/")?, 404)?;
                refused(
                    put(dock, &container, &[("path", "/nowhere")], &[("x", "y")])?,
                    404,
                )?;
                refused(dock.get(&container.path("/archive"))?, 400)?;
                let target = query(&container.path("/archive"), &[("path", "/nowhere")]);
                let head = dock.open(&Request::new("HEAD", &target), crate::engine::dock::CALL_LIMIT)?;
                check("status of HEAD", &json!(head.status), 404)
            },
        ),
        case(
            "engine/archive/put-on-a-file",
            "an archive is not unpacked on a file, nor a directory over a file where that is forbidden",
            &["engine#api/PutContainerArchive"],
            |dock| {
                let container = dock.probe(&["create", "/tmp/file", "x"])?;
                container.wait()?;
                refused(
                    put(dock, &container, &[("path", "/tmp/file")], &[("y", "z")])?,
                    400,
                )?;
                let answer = put(
                    dock,
                    &container,
                    &[("path", "/tmp"), ("noOverwriteDirNonDir", "1")],
                    &[("file/", "")],
                )?;
                ensure!(answer.status >= 400, "a directory over a file: {}", answer.status);
                Ok(())
            },
        ),
        case(
            "engine/archive/read-only-root",
            "nothing is unpacked in a read-only root",
            &["engine#api/PutContainerArchive"],
            |dock| {
                let mut spec = dock.spec(&["stay"]);
                spec["HostConfig"] = json!({"ReadonlyRootfs": true});
                let container = dock.run(&spec)?;
                let answer = put(dock, &container, &[("path", "/tmp")], &[("x", "y")])?;
                ensure!((400..500).contains(&answer.status), "status {}", answer.status);
                Ok(())
            },
        ),
        case(
            "engine/archive/links-do-not-lead-out",
            "a link in the container to the machine's root leads to the container's root",
            &["engine#A3/68", "engine#api/PutContainerArchive"],
            |dock| {
                let container = dock.probe(&["symlink", "/../../../../../..", "/tmp/out"])?;
                container.wait()?;
                put(
                    dock,
                    &container,
                    &[("path", "/tmp/out")],
                    &[("kelson-spec-canary", "x")],
                )?
                .expect(200)?;
                let inside = get(dock, &container, "/kelson-spec-canary")?;
                ensure!(inside.len() == 1, "it is not in the container's root: {inside:?}");
                ensure!(
                    !std::path::Path::new("/kelson-spec-canary").exists(),
                    "it is in the machine's root"
                );
                Ok(())
            },
        ),
        case(
            "engine/archive/no-tar",
            "what is no archive is refused",
            &["engine#api/PutContainerArchive"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                let target = query(&container.path("/archive"), &[("path", "/tmp")]);
                let answer = dock.send("PUT", &target, TAR, &[b'x'; 2048])?;
                ensure!(answer.status >= 400, "status {}", answer.status);
                Ok(())
            },
        ),
    ]
}

fn whole() -> Vec<Case> {
    vec![
        case(
            "engine/changes/kinds",
            "changes tells what was added, changed and deleted since the image",
            &["engine#A3/74", "engine#A3/69", "engine#api/ContainerChanges"],
            |dock| {
                let recipe = dock.recipe().with_file("old", "x").with_file("gone", "x");
                dock.load(&recipe)?;
                let mut spec = dock.spec(&[
                    "create", "/new", "x", ",", "append", "/old", "y", ",", "unlink", "/gone",
                ]);
                spec["Image"] = json!(recipe.tags[0]);
                let container = dock.run(&spec)?;
                container.wait()?;
                let changes = dock.list(&container.path("/changes"))?;
                let kind = |path: &str| {
                    changes
                        .iter()
                        .find(|one| one["Path"] == path)
                        .map(|one| one["Kind"].clone())
                };
                for (path, wanted) in [("/old", 0), ("/new", 1), ("/gone", 2)] {
                    let seen = kind(path).with_context(|| format!("{path} is not in {changes:?}"))?;
                    check(path, &seen, wanted)?;
                }
                ensure!(
                    kind("/probe").is_none(),
                    "what was not touched is there: {changes:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/changes/none",
            "a container that was never started has no changes",
            &["engine#A3/74", "engine#api/ContainerChanges"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                let answer = dock.json(&container.path("/changes"))?;
                ensure!(answer.is_null() || answer == json!([]), "changes are {answer}");
                Ok(())
            },
        ),
        case(
            "engine/export/files",
            "export gives the image's files and the container's as one archive",
            &["engine#A3/69", "engine#api/ContainerExport"],
            |dock| {
                let container = dock.probe(&["create", "/new", "content"])?;
                container.wait()?;
                let target = container.path("/export");
                let answer = dock.open(&Request::new("GET", &target), crate::engine::dock::CALL_LIMIT)?;
                let entries = entries_of(&answer.whole()?.expect(200)?.body)?;
                let get = |name: &str| {
                    entries
                        .iter()
                        .find(|(one, _)| one.trim_start_matches("./") == name)
                        .map(|(_, bytes)| bytes)
                };
                ensure!(
                    get("new").is_some_and(|bytes| bytes == b"content"),
                    "new is missing"
                );
                ensure!(
                    get("probe").is_some_and(|bytes| bytes == crate::lab::PROBE),
                    "the program is missing or other"
                );
                refused(dock.get("/containers/not-there/export")?, 404).map(drop)
            },
        ),
        case(
            "engine/changes/image-is-immutable",
            "what a container writes and deletes is not seen by the next one of the same image",
            &["engine#A3/72", "engine#A3/68"],
            |dock| {
                let recipe = dock.recipe().with_file("file", "of the image");
                dock.load(&recipe)?;
                let mut spec = dock.spec(&["unlink", "/file", ",", "create", "/other", "x"]);
                spec["Image"] = json!(recipe.tags[0]);
                dock.output(&spec)?;
                spec["Cmd"] = json!(["show", "/file", ",", "stat", "/other"]);
                let text = dock.output(&spec)?;
                contains("the file", &text, "of the image")?;
                contains("the other", &text, "\"errno\":2")
            },
        ),
    ]
}
