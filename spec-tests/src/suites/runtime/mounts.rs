//! config.md: the list of mounts, their order and places, and id-mapped mounts.

use std::fs;
use std::os::unix::fs::chown;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::lab::{Lab, check};
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "runtime/mounts/in-order",
            "mounts are made in the order of the list: a later one on the same place covers the earlier",
            &["config.md#mounts/1"],
            in_order,
        ),
        case(
            "runtime/mounts/type",
            "a mount has the type, source and place of the configuration",
            &["config.md#mounts/2", "config.md#mounts/6"],
            types,
        ),
        case(
            "runtime/mounts/relative-destination",
            "a relative destination begins at the container's root",
            &["config.md#mounts/3"],
            relative_destination,
        ),
        case(
            "runtime/mounts/relative-source",
            "a relative source of a bind mount begins at the bundle",
            &["config.md#mounts/4"],
            relative_source,
        ),
        case(
            "runtime/mounts/bind-by-options",
            "bind in the options makes a bind mount, whatever the type says or whether there is one",
            &["config.md#mounts/5"],
            bind_by_options,
        ),
        case(
            "runtime/mounts/file",
            "a file can be bound onto a place that does not exist yet",
            &["config.md#mounts/2"],
            bind_a_file,
        ),
        case(
            "runtime/mounts/missing-source",
            "a bind mount whose source does not exist is an error",
            &["runtime.md#create/7"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle
                    .mount(json!({"destination": "/data", "source": "/no/such/place", "options": ["bind"]}));
                lab.refuses(&bundle).map(drop)
            },
        ),
        case(
            "runtime/mounts/unknown-option-goes-to-the-file-system",
            "an option that is not known goes to the file system, which takes it or refuses",
            &["config.md#linux-mount-options/unknown"],
            unknown_option,
        ),
        case(
            "runtime/mounts/uid-mappings-alone",
            "uidMappings without gidMappings is an error",
            &["config.md#posix-platform-mounts/1"],
            |lab| half_mapped(lab, "uidMappings"),
        ),
        case(
            "runtime/mounts/gid-mappings-alone",
            "gidMappings without uidMappings is an error",
            &["config.md#posix-platform-mounts/2"],
            |lab| half_mapped(lab, "gidMappings"),
        ),
    ];
    for option in ["idmap", "ridmap"] {
        let of = |what: &str| format!("config.md#linux-mount-options/{option}{what}");
        let (plain, own, none, passed) = (of(""), of("-own-map"), of("-no-map"), of("-not-passed"));
        all.push(
            case(
                format!("runtime/mounts/{option}-shifts-owners"),
                format!("{option} with mappings of its own shows the shifted owner in the container"),
                &[&plain, &own, &passed, "config.md#posix-platform-mounts/3"],
                move |lab| id_mapped(lab, option),
            )
            .needs(&[Need::UserNamespace]),
        );
        all.push(case(
            format!("runtime/mounts/{option}-without-any-map"),
            format!("{option} without mappings and without a user namespace is an error"),
            &[&none],
            move |lab| {
                let mut bundle = lab.bundle()?;
                let source = lab.path("source");
                fs::create_dir(&source)?;
                bundle.mount(json!({"destination": "/data", "source": source, "options": ["rbind", option]}));
                lab.refuses(&bundle).map(drop)
            },
        ));
    }
    all
}

fn in_order(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for name in ["first", "second"] {
        bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": name}));
    }
    let inner = bundle.directory.join("inner");
    fs::create_dir(&inner)?;
    fs::write(inner.join("file"), "inner")?;
    bundle.mount(json!({"destination": "/data/deep", "source": inner, "options": ["bind"]}));
    let answers = lab.probe(&mut bundle, &["observe", "read /data/deep/file"])?;
    let seen = crate::lab::Observation(answers.value(0)?.clone());
    check(
        "the source of the uppermost mount on /data",
        &json!(seen.mount("/data")?.source),
        "second",
    )?;
    check("/data/deep/file", answers.value(1)?, "inner")
}

fn types(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.mount(json!({"destination": "/data/new/place", "type": "tmpfs", "source": "a-name"}));
    let mount = lab.observe(&mut bundle)?.mount("/data/new/place")?;
    ensure!(
        (mount.kind.as_str(), mount.source.as_str()) == ("tmpfs", "a-name"),
        "it is {mount:?}"
    );
    Ok(())
}

fn relative_destination(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["cwd"] = json!("/tmp");
    bundle.mount(json!({"destination": "data", "type": "tmpfs", "source": "relative"}));
    lab.observe(&mut bundle)?.mount("/data").map(drop)
}

fn relative_source(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::create_dir(bundle.directory.join("volume"))?;
    fs::write(bundle.directory.join("volume/file"), "of the bundle")?;
    bundle.mount(json!({"destination": "/data", "type": "none", "source": "volume", "options": ["bind"]}));
    check(
        "the file",
        lab.probe(&mut bundle, &["read /data/file"])?.value(0)?,
        "of the bundle",
    )
}

fn bind_by_options(lab: &Lab) -> Result<()> {
    for kind in [json!("none"), json!("tmpfs"), json!("bind"), Value::Null] {
        let mut bundle = lab.bundle()?;
        let source = bundle.directory.join("volume");
        fs::create_dir(&source)?;
        fs::write(source.join("file"), "bound")?;
        let mut entry = json!({"destination": "/data", "source": source, "options": ["bind"]});
        if !kind.is_null() {
            entry["type"] = kind.clone();
        }
        bundle.mount(entry);
        let answers = lab.probe(&mut bundle, &["read /data/file"])?;
        check(
            "the file",
            answers.value(0).with_context(|| format!("type {kind}"))?,
            "bound",
        )?;
    }
    Ok(())
}

fn bind_a_file(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let source = bundle.directory.join("hosts");
    fs::write(&source, "127.0.0.1 here")?;
    bundle.mount(json!({"destination": "/etc/sub/hosts", "source": source, "options": ["rbind", "ro"]}));
    let answers = lab.probe(&mut bundle, &["read /etc/sub/hosts", "write /etc/sub/hosts x"])?;
    check("the file", answers.value(0)?, "127.0.0.1 here")?;
    answers.get(1)?.fails_with(nix::errno::Errno::EROFS)
}

fn unknown_option(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "t", "options": ["size=4096k", "nr_inodes=99"]}));
    let mount = lab.observe(&mut bundle)?.mount("/data")?;
    ensure!(
        mount.has("size=4096k") && mount.has("nr_inodes=99"),
        "the options are {:?}",
        mount.super_options
    );
    let mut bundle = lab.bundle()?;
    bundle.mount(
        json!({"destination": "/data", "type": "tmpfs", "source": "t", "options": ["no-such-option=1"]}),
    );
    lab.refuses(&bundle).map(drop)
}

fn half_mapped(lab: &Lab, which: &str) -> Result<()> {
    let source = lab.path("source");
    fs::create_dir_all(&source)?;
    let mut entry =
        json!({"destination": "/data", "type": "bind", "source": source, "options": ["bind", "idmap"]});
    entry[which] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let mut bundle = lab.bundle()?;
    bundle.mount(entry);
    lab.refuses(&bundle).map(drop)
}

/// A file of uid 5 is shown with uid 2005; below a mount inside the source only `ridmap` shifts.
fn id_mapped(lab: &Lab, option: &str) -> Result<()> {
    let source = lab.path("source");
    fs::create_dir_all(source.join("below"))?;
    mount(
        Some("t"),
        &source.join("below"),
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    for file in ["file", "below/file"] {
        fs::write(source.join(file), "")?;
        chown(source.join(file), Some(5), Some(6))?;
    }
    let mut bundle = lab.bundle()?;
    let map = |to: u32| json!([{"containerID": 0, "hostID": to, "size": 100}]);
    bundle.mount(json!({
        "destination": "/data", "type": "none", "source": source, "options": ["rbind", option],
        "uidMappings": map(2000), "gidMappings": map(3000)
    }));
    let answers = lab.probe(&mut bundle, &["stat /data/file", "stat /data/below/file"]);
    nix::mount::umount2(&source.join("below"), nix::mount::MntFlags::MNT_DETACH)?;
    let answers = answers?;
    check("the shown uid", &answers.value(0)?["uid"], 2005)?;
    check("the shown gid", &answers.value(0)?["gid"], 3006)?;
    let below = if option == "ridmap" { 2005 } else { 5 };
    check(
        "the uid shown on the mount below",
        &answers.value(1)?["uid"],
        below,
    )?;
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(source.join("file"))?);
    ensure!(owner == 5, "the owner on the host is {owner}");
    Ok(())
}
