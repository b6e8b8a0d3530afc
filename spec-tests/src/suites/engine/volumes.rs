//! Volumes and mounts, as far as runs need them.

use anyhow::ensure;
use serde_json::json;

use super::configuration::answers;
use super::{contains, refused};
use crate::case::{Case, engine_case as case};
use crate::lab::check;
use crate::require::Need;

const EROFS: u64 = 30;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "engine/volumes/outlive-containers",
            "what one container writes to a volume the next one reads",
            &["engine#A1/8", "engine#api/VolumeCreate"],
            |dock| {
                let name = dock.fresh();
                dock.post_json("/volumes/create", &json!({"Name": name, "Labels": dock.labels()}))?
                    .expect(201)?;
                let mut spec = dock.spec(&["create", "/data/file", "kept"]);
                spec["HostConfig"] = json!({"Binds": [format!("{name}:/data")]});
                dock.output(&spec)?;
                spec["Cmd"] = json!(["show", "/data/file"]);
                spec["HostConfig"] = json!({"Binds": [format!("{name}:/data:ro")]});
                contains("the file", &dock.output(&spec)?, "kept")?;
                spec["Cmd"] = json!(["create", "/data/other", "x"]);
                check(
                    "errno of a write with :ro",
                    &answers(&dock.output(&spec)?)?[0]["errno"],
                    EROFS,
                )
            },
        ),
        case(
            "engine/volumes/begin-with-files-of-the-image",
            "a new volume begins with what the image has at its place",
            &["engine#A3/68", "engine#A1/8"],
            |dock| {
                let recipe = dock
                    .recipe()
                    .with_file("data/file", "of the image")
                    .with("Volumes", json!({"/data": {}}));
                dock.load(&recipe)?;
                let mut spec = dock.spec(&["show", "/data/file", ",", "show", "/proc/mounts"]);
                spec["Image"] = json!(recipe.tags[0]);
                let container = dock.run(&spec)?;
                container.wait()?;
                let text = container.output()?.stdout;
                ensure!(
                    text.starts_with("of the image"),
                    "it begins {:?}",
                    text.lines().next()
                );
                contains("its mounts", &text, " /data ")?;
                dock.delete(&container.path("?v=1"))?.expect(204).map(drop)
            },
        ),
        case(
            "engine/volumes/life",
            "a volume is made, inspected, listed, kept while it is used, and deleted",
            &[
                "engine#A1/8",
                "engine#api/VolumeCreate",
                "engine#api/VolumeInspect",
                "engine#api/VolumeList",
                "engine#api/VolumeDelete",
            ],
            |dock| {
                let name = dock.fresh();
                let made = dock
                    .post_json("/volumes/create", &json!({"Name": name, "Labels": dock.labels()}))?
                    .expect(201)?
                    .json()?;
                check("Name", &made["Name"], name.as_str())?;
                check(
                    "Labels",
                    &dock.json(&format!("/volumes/{name}"))?["Labels"],
                    dock.labels(),
                )?;
                let listed = dock.json("/volumes")?;
                ensure!(
                    listed["Volumes"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .any(|one| one["Name"] == name.as_str()),
                    "it is not listed"
                );
                let mut spec = dock.spec(&["print"]);
                spec["HostConfig"] = json!({"Binds": [format!("{name}:/data")]});
                let user = dock.create(&spec)?;
                refused(dock.delete(&format!("/volumes/{name}"))?, 409)?;
                user.remove()?;
                dock.delete(&format!("/volumes/{name}"))?.expect(204)?;
                refused(dock.get(&format!("/volumes/{name}"))?, 404).map(drop)
            },
        ),
        case(
            "engine/volumes/bind",
            "a directory of the machine is seen in the container, and writes in it on the machine",
            &["engine#A1/32"],
            |dock| {
                let directory = tempfile::tempdir()?;
                std::fs::write(directory.path().join("in"), "from outside")?;
                let mut spec = dock.spec(&["show", "/data/in", ",", "create", "/data/out", "from inside"]);
                spec["HostConfig"] = json!({"Binds": [format!("{}:/data", directory.path().display())]});
                contains("the file", &dock.output(&spec)?, "from outside")?;
                contains(
                    "the other",
                    &std::fs::read_to_string(directory.path().join("out"))?,
                    "from inside",
                )
            },
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "engine/volumes/from-another-container",
            "VolumesFrom shares the volumes of another container",
            &["engine#A1/8"],
            |dock| {
                let name = dock.fresh();
                dock.post_json("/volumes/create", &json!({"Name": name, "Labels": dock.labels()}))?
                    .expect(201)?;
                let mut spec = dock.spec(&["create", "/data/file", "shared"]);
                spec["HostConfig"] = json!({"Binds": [format!("{name}:/data")]});
                let first = dock.run(&spec)?;
                first.wait()?;
                let mut spec = dock.spec(&["show", "/data/file"]);
                spec["HostConfig"] = json!({"VolumesFrom": [first.name]});
                contains("the file", &dock.output(&spec)?, "shared")
            },
        ),
    ]
}
