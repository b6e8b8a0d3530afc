//! Attacks through images: what an engine believes of one that it was given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::case::{Case, engine_case as case, skip};
use crate::engine::dock::CALL_LIMIT;
use crate::engine::http::Incoming;
use crate::engine::image::archive_of;
use crate::engine::{Answer, Dock, Payload, Recipe, Request, query};
use crate::lab::PROBE;
use crate::require::Need;

/// Loading a hundred megabytes on a busy machine.
const LARGE: Duration = Duration::from_secs(60);
const TAR: &str = "application/x-tar";
/// An archive of one file, `came`, compressed by xz and by gzip.
const XZ: &str = "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4Cf/AFldADGYSf34hTyPAe5uBXM7wPyAy6JWSe13Aj/lh3Qp1rf8pR1IGXo6vBx40T4Y4lX5RvKrteo30chLr3V+oLh+vC3n/Wh6//YRM+z4s4nnPjLNlRFmNRIKGIcAAAAAALFmEFMqnegjAAF1gFAAAACf91HiscRn+wIAAAAABFla";
const GZIP: &str = "H4sIAAAAAAACA+3NOw5AUBQE0LsUSxDh7UdEoaDw2b9HJXoScU4zk2mma8c+HlZmqa7PzO6ZVZd+7KlJTRRlvGBb1nbOl/FPwxQAAAAAAAAAAAB80A6mvroUACgAAA==";

pub(super) fn cases() -> Vec<Case> {
    let mut all = of_layers();
    all.extend(of_configurations());
    all
}

fn of_layers() -> Vec<Case> {
    vec![
        case(
            "attacks/image/names-that-leave-the-layer",
            "a layer with .. in names, links to outside and files behind links changes nothing on the host",
            &["CVE-2025-47290", "CVE-2021-32760"],
            layers_stay_inside,
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "attacks/image/whiteouts-behind-links",
            "a whiteout behind a link removes nothing on the host",
            &["CVE-2025-47290"],
            whiteouts_stay_inside,
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "attacks/image/huge-passwd",
            "an /etc/passwd of 100 MiB takes no memory of the engine, and holds nobody up",
            &["CVE-2026-47262"],
            huge_passwd,
        ),
        case(
            "attacks/image/many-layers",
            "an image of very many layers is loaded or refused, and the engine goes on",
            &["parsers"],
            |dock| {
                let mut recipe = dock.recipe();
                for n in 0..200 {
                    recipe = recipe.with_file(&format!("tmp/{n}"), "x");
                }
                load(dock, recipe.archive()?)?;
                answers(dock)
            },
        ),
        case(
            "attacks/image/decompressors-of-the-image",
            "what copies into a container runs no program and no library of its image",
            &["CVE-2026-41567", "CVE-2019-14271"],
            decompressors,
        ),
    ]
}

fn of_configurations() -> Vec<Case> {
    vec![
        case(
            "attacks/image/user-beyond-the-numbers",
            "a USER that overflows is an error, or that user: never root",
            &["CVE-2024-40635"],
            |dock| {
                for user in [
                    "4294967296",
                    "4294967296:4294967296",
                    "18446744073709551616",
                    "-4294967296",
                ] {
                    let recipe = dock.recipe().with("User", json!(user));
                    let Some(image) = load(dock, recipe.archive()?)?.then(|| recipe.tags[0].clone()) else {
                        continue;
                    };
                    let mut spec = dock.spec(&[]);
                    spec["Image"] = json!(image);
                    let Ok(seen) = dock.observe(spec) else {
                        continue;
                    };
                    ensure!(
                        seen["uid"][1] != 0 && seen["uid"][0] != 0,
                        "USER {user} is user {}",
                        seen["uid"]
                    );
                }
                answers(dock)
            },
        ),
        case(
            "attacks/image/volume-of-the-host",
            "a VOLUME with .. in its path shows nothing of the host",
            &["CVE-2022-23648"],
            volumes_show_nothing,
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "attacks/image/labels-run-nothing",
            "labels of an image that engines use for themselves run no program of the host",
            &["CVE-2026-53488"],
            labels_run_nothing,
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "attacks/image/deep-json",
            "a configuration and a manifest that are nested very deeply are errors, and the engine goes on",
            &["parsers"],
            |dock| {
                let deep = format!("{}{}", "[".repeat(300_000), "]".repeat(300_000));
                let config = format!("{{\"os\": \"linux\", \"config\": {deep}}}");
                let name = "c.json".to_owned();
                let manifest = format!("[{{\"Config\": \"{name}\", \"RepoTags\": [], \"Layers\": []}}]");
                let files = [
                    (name, config.into_bytes()),
                    ("manifest.json".to_owned(), manifest.into_bytes()),
                ];
                load(dock, archive_of(&files)?)?;
                load(
                    dock,
                    archive_of(&[("manifest.json".to_owned(), deep.clone().into_bytes())])?,
                )?;
                let body = format!("{{\"Image\": \"x\", \"Labels\": {deep}}}");
                let create = Request {
                    payload: Payload::Bytes("application/json", body.as_bytes()),
                    ..Request::new("POST", "/containers/create")
                };
                let answer = dock.open(&create, CALL_LIMIT).and_then(Incoming::whole)?;
                ensure!(answer.status >= 400, "create: {}", answer.status);
                answers(dock)
            },
        ),
        case(
            "attacks/copy/path-that-changes",
            "a directory that is exchanged for a link while files are copied leads to nothing of the host",
            &["CVE-2018-15664", "CVE-2026-41568", "CVE-2026-42306"],
            copies_stay_inside,
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "attacks/engine/directories",
            "nobody but the owner can list what the engine keeps",
            &["CVE-2024-25621", "CVE-2021-41091"],
            |dock| {
                let info = dock.json("/info")?;
                let place = info["DockerRootDir"].as_str().context("no DockerRootDir")?;
                let Ok(seen) = fs::metadata(place) else {
                    return Err(skip(format!("{place} is not seen from here")));
                };
                let mode = seen.permissions().mode() & 0o777;
                ensure!(mode & 0o066 == 0, "the mode of {place} is {mode:o}");
                Ok(())
            },
        )
        .needs(&[Need::EngineProcesses]),
    ]
}

/// Whether the engine took it. To refuse is as good; to crash or hang is not.
fn load(dock: &Dock<'_>, archive: Vec<u8>) -> Result<bool> {
    let request = Request {
        payload: Payload::Bytes(TAR, &archive),
        ..Request::new("POST", "/images/load")
    };
    let answer = dock.open(&request, LARGE).and_then(Incoming::whole);
    let answer = answer.context("load")?;
    Ok(answer.status == 200 && !answer.text().contains("errorDetail"))
}

fn answers(dock: &Dock<'_>) -> Result<()> {
    let answer = dock.get("/_ping").context("afterwards")?;
    answer.expect(200).context("afterwards").map(drop)
}

/// A directory of the host that must stay as it is: one file and nothing else.
struct Canary(TempDir);

const SECRET: &str = "of the host";

impl Canary {
    /// One that the engine would reach: a container is given it as a volume to see.
    fn make(dock: &Dock<'_>) -> Result<Self> {
        let canary = Self(tempfile::Builder::new().prefix("kst-canary-").tempdir()?);
        fs::set_permissions(canary.0.path(), fs::Permissions::from_mode(0o755))?;
        fs::write(canary.0.path().join("file"), SECRET)?;
        let mut spec = dock.spec(&["show", "/seen/file"]);
        spec["HostConfig"] = json!({"Binds": [format!("{}:/seen", canary.path())]});
        if dock.output(&spec).ok().as_deref() != Some(SECRET) {
            return Err(skip("the engine does not see this machine's /tmp"));
        }
        Ok(canary)
    }

    fn path(&self) -> String {
        self.0.path().display().to_string()
    }

    fn lives(&self) -> Result<()> {
        let names: Vec<_> = fs::read_dir(self.0.path())?
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        ensure!(names == ["file"], "the host's directory holds {names:?}");
        let text = fs::read_to_string(self.0.path().join("file"))?;
        ensure!(text == SECRET, "the host's file holds {text:?}");
        Ok(())
    }
}

/// A tar entry whose names no archive program would write.
fn entry(kind: tar::EntryType, name: &str, link: &str, content: &str) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    let old = header.as_old_mut();
    for (field, text) in [(&mut old.name, name), (&mut old.linkname, link)] {
        ensure!(text.len() < field.len(), "{text} is too long for a header");
        field[..text.len()].copy_from_slice(text.as_bytes());
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    Ok(bytes)
}

fn layer(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend([0; 1024]);
    bytes
}

/// Loads an image of these layers on top of the probe's, and starts it if it was taken.
fn attempt(dock: &Dock<'_>, layers: &[Vec<Vec<u8>>]) -> Result<()> {
    let mut recipe: Recipe = dock.recipe();
    for entries in layers {
        recipe.raw_layers.push(layer(entries));
    }
    if load(dock, recipe.archive()?)? {
        let mut spec = dock.spec(&["print", "hello"]);
        spec["Image"] = json!(recipe.tags[0]);
        dock.output(&spec).ok();
    }
    Ok(())
}

fn layers_stay_inside(dock: &Dock<'_>) -> Result<()> {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let canary = Canary::make(dock)?;
    let host = canary.path();
    let up = format!("../../../../../../../..{host}");
    let pwned = |name: &str| entry(Regular, name, "", "pwned");
    let out = || entry(Symlink, "out", &host, "");
    let images: Vec<(&str, Vec<Vec<Vec<u8>>>)> = vec![
        ("a name with ..", vec![vec![pwned(&format!("{up}/pwned"))?]]),
        ("an absolute name", vec![vec![pwned(&format!("{host}/pwned"))?]]),
        ("a file behind a link", vec![vec![out()?, pwned("out/pwned")?]]),
        (
            "a file behind a link of the layer below",
            vec![vec![out()?], vec![pwned("out/pwned")?]],
        ),
        (
            "a file behind a link with ..",
            vec![vec![entry(Symlink, "out", &up, "")?, pwned("out/pwned")?]],
        ),
        (
            "a file through a link to the file",
            vec![
                vec![entry(Symlink, "f", &format!("{host}/file"), "")?],
                vec![pwned("f")?],
            ],
        ),
        (
            "a hard link to outside, then written",
            vec![vec![
                entry(Link, "hard", &format!("{up}/file"), "")?,
                pwned("hard")?,
            ]],
        ),
        (
            "a hard link through a link, then written",
            vec![vec![out()?, entry(Link, "hard", "out/file", "")?, pwned("hard")?]],
        ),
        (
            "a hard link that is made behind a link",
            vec![vec![out()?, entry(Link, "out/pwned", "etc/passwd", "")?]],
        ),
        (
            "a directory behind a link",
            vec![vec![out()?], vec![entry(Directory, "out/pwned/", "", "")?]],
        ),
    ];
    for (what, layers) in images {
        attempt(dock, &layers).with_context(|| what.to_owned())?;
        canary.lives().with_context(|| what.to_owned())?;
    }
    answers(dock)
}

fn whiteouts_stay_inside(dock: &Dock<'_>) -> Result<()> {
    use tar::EntryType::{Regular, Symlink};
    let canary = Canary::make(dock)?;
    let host = canary.path();
    let up = format!("../../../../../../../..{host}");
    for name in [
        "out/.wh.file".to_owned(),
        "out/.wh..wh..opq".to_owned(),
        format!("{up}/.wh.file"),
        ".wh...".to_owned(),
        ".wh..".to_owned(),
        ".wh.".to_owned(),
    ] {
        let below = vec![entry(Symlink, "out", &host, "")?];
        let above = vec![entry(Regular, &name, "", "")?];
        attempt(dock, &[below, above]).with_context(|| name.clone())?;
        canary.lives().with_context(|| name.clone())?;
    }
    answers(dock)
}

fn huge_passwd(dock: &Dock<'_>) -> Result<()> {
    let mut recipe = dock.recipe().with("User", json!("nobody-of-that-name"));
    let line = b"somebody:x:1000:1000:with a long story in this field of the line:/home:/probe\n";
    let passwd = line.repeat((100 << 20) / line.len());
    recipe.layers.push(vec![("etc/passwd".into(), passwd)]);
    if !load(dock, recipe.archive()?)? {
        return answers(dock);
    }
    let before = peak_of_engine(dock);
    let mut spec = dock.spec(&["print", "hello"]);
    spec["Image"] = json!(recipe.tags[0]);
    ensure!(
        dock.output(&spec).is_err(),
        "it runs as a user that the image does not have"
    );
    answers(dock)?;
    if let (Some(before), Some(after)) = (before, peak_of_engine(dock)) {
        let grown = after.saturating_sub(before);
        ensure!(grown < 64 << 10, "the engine's memory has grown by {grown} KiB");
    }
    Ok(())
}

/// The most memory that the engine ever had, in KiB, where it can be looked at.
fn peak_of_engine(dock: &Dock<'_>) -> Option<u64> {
    let pid = dock.subject.address.peer().ok()?;
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

fn decompressors(dock: &Dock<'_>) -> Result<()> {
    const TRAPS: [&str; 12] = [
        "bin/xz",
        "usr/bin/xz",
        "usr/bin/unxz",
        "bin/gzip",
        "usr/bin/gzip",
        "usr/bin/pigz",
        "usr/bin/unpigz",
        "usr/bin/tar",
        "bin/tar",
        "usr/bin/zstd",
        "lib/x86_64-linux-gnu/libnss_files.so.2",
        "lib64/libnss_files.so.2",
    ];
    let mut recipe = dock.recipe();
    let traps = TRAPS.map(|name| (name.to_owned(), PROBE.to_vec()));
    recipe.layers.push(traps.to_vec());
    dock.load(&recipe)?;
    let mut spec = dock.spec(&["create", "/ready", "x", ",", "stay"]);
    spec["Image"] = json!(recipe.tags[0]);
    let container = dock.run(&spec)?;
    container.says("ok")?;
    for archive in [XZ, GZIP] {
        let target = query(&container.path("/archive"), &[("path", "/tmp")]);
        let bytes = STANDARD.decode(archive)?;
        let request = Request {
            payload: Payload::Bytes(TAR, &bytes),
            ..Request::new("PUT", &target)
        };
        // Whether it knows the compression is not the question.
        dock.open(&request, CALL_LIMIT).and_then(Incoming::whole)?;
    }
    for path in ["/archive?path=/tmp", "/export", "/changes"] {
        let target = container.path(path);
        dock.open(&Request::new("GET", &target), CALL_LIMIT)
            .and_then(Incoming::whole)?;
    }
    // The probe under one of these names leaves this mark.
    let (said, _) = container.exec_probe(&["stat", "/sprung"])?;
    ensure!(
        said.stdout.contains("\"ok\":false"),
        "a trap of the image was run: {}",
        said.stdout
    );
    Ok(())
}

fn volumes_show_nothing(dock: &Dock<'_>) -> Result<()> {
    let canary = Canary::make(dock)?;
    for path in [
        format!("/../../../../../../../..{}", canary.path()),
        format!("{}/", canary.path()),
        format!("/tmp/../..{}", canary.path()),
    ] {
        let volumes: Value = json!({path.clone(): {}});
        let recipe = dock.recipe().with("Volumes", volumes);
        if !load(dock, recipe.archive()?)? {
            continue;
        }
        let mut spec = dock.spec(&["show", &format!("{}/file", canary.path())]);
        spec["Image"] = json!(recipe.tags[0]);
        if let Ok(text) = dock.output(&spec) {
            ensure!(!text.contains(SECRET), "VOLUME {path} shows a file of the host");
        }
        canary.lives()?;
    }
    Ok(())
}

fn labels_run_nothing(dock: &Dock<'_>) -> Result<()> {
    let canary = Canary::make(dock)?;
    let script = canary.0.path().join("script");
    fs::write(&script, format!("#!/bin/sh\necho ran > {}/ran\n", canary.path()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let uri = format!("binary://{}", script.display());
    let mut labels = dock.labels();
    for name in [
        "containerd.io/restart.loguri",
        "containerd.io/restart.logpath",
        "nerdctl/log-uri",
        "io.containerd.log.uri",
        "io.kubernetes.cri.log-uri",
        "org.kelson.log-uri",
        "kelson.log-uri",
    ] {
        labels[name] = json!(uri);
    }
    labels["containerd.io/restart.status"] = json!("running");
    labels["containerd.io/restart.policy"] = json!("always");
    labels["io.podman.annotations.privileged"] = json!("TRUE");
    let recipe = dock.recipe().with("Labels", labels);
    dock.load(&recipe)?;
    let mut spec = dock.spec(&["observe"]);
    spec["Image"] = json!(recipe.tags[0]);
    let seen = dock.observe(spec)?;
    ensure!(
        seen["capabilities"]["effective"]
            .as_u64()
            .is_some_and(|set| set >> 21 & 1 == 0),
        "a label gave CAP_SYS_ADMIN"
    );
    ensure!(
        !canary.0.path().join("ran").exists(),
        "a program of the host was run for a label"
    );
    Ok(())
}

fn copies_stay_inside(dock: &Dock<'_>) -> Result<()> {
    const ROUNDS: usize = 60;
    let canary = Canary::make(dock)?;
    let words = [
        "mkdir",
        "/tmp/place",
        ",",
        "symlink",
        &canary.path(),
        "/tmp/link",
        ",",
        "create",
        "/tmp/ready",
        "x",
        ",",
        "swap",
        "/tmp/place",
        "/tmp/link",
        "60000",
    ];
    let container = dock.probe(&words)?;
    container.says("/tmp/ready")?;
    let archive = archive_of(&[("pwned".to_owned(), b"pwned".to_vec())])?;
    for _ in 0..ROUNDS {
        let put = query(&container.path("/archive"), &[("path", "/tmp/place")]);
        let request = Request {
            payload: Payload::Bytes(TAR, &archive),
            ..Request::new("PUT", &put)
        };
        dock.open(&request, CALL_LIMIT).and_then(Incoming::whole)?;
        let get = query(&container.path("/archive"), &[("path", "/tmp/place/file")]);
        let answer: Answer = dock
            .open(&Request::new("GET", &get), CALL_LIMIT)
            .and_then(Incoming::whole)?;
        ensure!(
            !answer.text().contains(SECRET),
            "a file of the host was copied out of the container"
        );
        canary.lives()?;
    }
    Ok(())
}
