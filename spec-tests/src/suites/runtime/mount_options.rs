//! config.md: every option string of the table of Linux mount options, by what the kernel's mount table then says.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::case::{Case, case};
use crate::lab::{Lab, Mount};

/// Option strings, or what a mount shows.
type Words = &'static [&'static str];

/// An option on a tmpfs: what is given before it, what the mount must show and must not show.
const PLAIN: &[(&str, Words, Words, Words)] = &[
    ("async", &["sync"], &[], &["sync"]),
    ("atime", &["noatime"], &[], &["noatime"]),
    ("defaults", &[], &["rw"], &["nosuid", "nodev", "noexec", "sync"]),
    ("dev", &["nodev"], &[], &["nodev"]),
    ("diratime", &["nodiratime"], &[], &["nodiratime"]),
    ("dirsync", &[], &["dirsync"], &[]),
    ("exec", &["noexec"], &[], &["noexec"]),
    ("iversion", &[], &["rw"], &[]),
    ("lazytime", &[], &["lazytime"], &[]),
    ("loud", &["silent"], &["rw"], &[]),
    ("noatime", &[], &["noatime"], &[]),
    ("nodev", &[], &["nodev"], &[]),
    ("nodiratime", &[], &["nodiratime"], &[]),
    ("noexec", &[], &["noexec"], &[]),
    ("noiversion", &["iversion"], &["rw"], &[]),
    ("nolazytime", &["lazytime"], &[], &["lazytime"]),
    ("norelatime", &["relatime"], &["rw"], &["noatime"]),
    ("nostrictatime", &["strictatime"], &["relatime"], &[]),
    ("nosuid", &[], &["nosuid"], &[]),
    ("nosymfollow", &[], &["nosymfollow"], &[]),
    ("relatime", &[], &["relatime"], &["noatime"]),
    ("ro", &[], &["ro"], &["rw"]),
    ("rw", &["ro"], &["rw"], &["ro"]),
    ("silent", &[], &["rw"], &[]),
    ("strictatime", &[], &[], &["relatime", "noatime"]),
    ("suid", &["nosuid"], &[], &["nosuid"]),
    ("symfollow", &["nosymfollow"], &[], &["nosymfollow"]),
    ("sync", &[], &["sync"], &[]),
];

/// A recursive option on a recursive bind mount: what the source's two mounts have before, and what both must show and
/// must not show then.
const RECURSIVE: &[(&str, MsFlags, Words, Words)] = &[
    ("ratime", MsFlags::MS_NOATIME, &[], &["noatime"]),
    ("rdev", MsFlags::MS_NODEV, &[], &["nodev"]),
    ("rdiratime", MsFlags::MS_NODIRATIME, &[], &["nodiratime"]),
    ("rexec", MsFlags::MS_NOEXEC, &[], &["noexec"]),
    ("rnoatime", MsFlags::empty(), &["noatime"], &[]),
    ("rnodiratime", MsFlags::empty(), &["nodiratime"], &[]),
    ("rnoexec", MsFlags::empty(), &["noexec"], &[]),
    ("rnorelatime", MsFlags::MS_RELATIME, &[], &["noatime"]),
    ("rnostrictatime", MsFlags::MS_STRICTATIME, &["relatime"], &[]),
    ("rnosuid", MsFlags::empty(), &["nosuid"], &[]),
    ("rnosymfollow", MsFlags::empty(), &["nosymfollow"], &[]),
    ("rrelatime", MsFlags::MS_NOATIME, &["relatime"], &["noatime"]),
    ("rro", MsFlags::empty(), &["ro"], &["rw"]),
    ("rrw", MsFlags::MS_RDONLY, &["rw"], &["ro"]),
    ("rstrictatime", MsFlags::MS_NOATIME, &[], &["relatime", "noatime"]),
    ("rsuid", MsFlags::MS_NOSUID, &[], &["nosuid"]),
    // MS_NOSYMFOLLOW, which nix has no name for.
    (
        "rsymfollow",
        MsFlags::from_bits_retain(256),
        &[],
        &["nosymfollow"],
    ),
];

/// A word of propagation on a bind mount of a shared source: the tags that the mount, and the mount below it, must have.
/// `None`: there is no mount below, since the bind is not recursive.
const PROPAGATION: &[(&str, Words, Option<Words>)] = &[
    ("private", &[], None),
    ("rprivate", &[], Some(&[])),
    ("shared", &["shared:"], None),
    ("rshared", &["shared:"], Some(&["shared:"])),
    ("slave", &["master:"], None),
    ("rslave", &["master:"], Some(&["master:"])),
    ("unbindable", &["unbindable"], None),
    ("runbindable", &["unbindable"], Some(&["unbindable"])),
];

pub(super) fn cases() -> Vec<Case> {
    let clause = |option: &str| format!("config.md#linux-mount-options/{option}");
    let mut all = Vec::new();
    for &(option, before, has, lacks) in PLAIN {
        all.push(case(
            format!("runtime/mount-options/{option}"),
            sentence(option, before, has, lacks),
            &[&clause(option)],
            move |lab| plain(lab, option, before, has, lacks),
        ));
    }
    for &(option, before, has, lacks) in RECURSIVE {
        all.push(case(
            format!("runtime/mount-options/{option}"),
            format!("{option} on a recursive bind mount holds for the mounts below, too"),
            &[&clause(option)],
            move |lab| recursive(lab, option, before, has, lacks),
        ));
    }
    for &(option, tags, below) in PROPAGATION {
        all.push(case(
            format!("runtime/mount-options/{option}"),
            format!("a bind mount with {option} has that propagation"),
            &[&clause(option)],
            move |lab| propagation(lab, option, tags, below),
        ));
    }
    all.push(case(
        "runtime/mount-options/bind",
        "bind shows the source, without the mounts below it",
        &[&clause("bind")],
        |lab| bound(lab, "bind", false),
    ));
    all.push(case(
        "runtime/mount-options/rbind",
        "rbind shows the source with the mounts below it",
        &[&clause("rbind")],
        |lab| bound(lab, "rbind", true),
    ));
    all.push(case(
        "runtime/mount-options/remount",
        "remount changes the options of a mount that is there",
        &[&clause("remount")],
        remount,
    ));
    all
}

fn sentence(option: &str, before: &[&str], has: &[&str], lacks: &[&str]) -> String {
    let mut text = format!("a tmpfs with {option}");
    if !before.is_empty() {
        text += &format!(" after {}", before.join(","));
    }
    match (has, lacks) {
        (["rw"], []) => text += " is mounted",
        ([], _) => text += &format!(" does not show {}", lacks.join(" or ")),
        _ => text += &format!(" shows {}", has.join(" and ")),
    }
    text
}

fn shows(mount: &Mount, has: &[&str], lacks: &[&str]) -> Result<()> {
    let all = format!("{} {}", mount.options.join(","), mount.super_options.join(","));
    for option in has {
        ensure!(mount.has(option), "{} has no {option}: {all}", mount.point);
    }
    for option in lacks {
        // The file system below a read-only mount may well be writable: then only the mount counts.
        let there = if *option == "rw" || *option == "ro" {
            mount.options.iter().any(|one| one == option)
        } else {
            mount.has(option)
        };
        ensure!(!there, "{} has {option}: {all}", mount.point);
    }
    Ok(())
}

fn plain(lab: &Lab, option: &str, before: &[&str], has: &[&str], lacks: &[&str]) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let options: Vec<&str> = before.iter().copied().chain([option]).collect();
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "t", "options": options}));
    shows(&lab.observe(&mut bundle)?.mount("/data")?, has, lacks)
}

/// A tmpfs with another below it, both with some flags of the mount; unmounted when it is dropped.
struct Source<'a>(&'a Path);

impl<'a> Source<'a> {
    fn make(place: &'a Path, flags: MsFlags, shared: bool) -> Result<Self> {
        let none: Option<&str> = None;
        fs::create_dir_all(place)?;
        mount(Some("t"), place, Some("tmpfs"), MsFlags::empty(), none).context("mount a tmpfs")?;
        let source = Self(place);
        if shared {
            mount(none, place, none, MsFlags::MS_SHARED, none)?;
        }
        let below = place.join("below");
        fs::create_dir(&below)?;
        mount(Some("t"), &below, Some("tmpfs"), MsFlags::empty(), none)?;
        for point in [below.as_path(), place] {
            if !flags.is_empty() {
                let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
                mount(none, point, none, again, none).context("set flags of a mount")?;
            }
        }
        Ok(source)
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).ok();
    }
}

fn recursive(lab: &Lab, option: &str, before: MsFlags, has: &[&str], lacks: &[&str]) -> Result<()> {
    let place = lab.path("source");
    let _source = Source::make(&place, before, false)?;
    let mut bundle = lab.bundle()?;
    bundle.mount(json!({"destination": "/data", "source": place, "options": ["rbind", option]}));
    let seen = lab.observe(&mut bundle)?;
    shows(&seen.mount("/data")?, has, lacks)?;
    shows(&seen.mount("/data/below")?, has, lacks)
}

fn propagation(lab: &Lab, option: &str, tags: &[&str], below: Option<&[&str]>) -> Result<()> {
    let place = lab.path("source");
    let _source = Source::make(&place, MsFlags::empty(), true)?;
    let mut bundle = lab.bundle()?;
    // A shared mount has to come through a root that does not cut it off.
    bundle.config["linux"]["rootfsPropagation"] = json!("shared");
    let bind = if below.is_some() { "rbind" } else { "bind" };
    bundle.mount(json!({"destination": "/data", "source": place, "options": [bind, option]}));
    let seen = lab.observe(&mut bundle)?;
    let is = |mount: &Mount, tags: &[&str]| -> Result<()> {
        let fits = tags.iter().all(|tag| mount.tagged(tag)) && (!tags.is_empty() || mount.tags.is_empty());
        ensure!(
            fits,
            "{} has the tags {:?}, not {tags:?}",
            mount.point,
            mount.tags
        );
        Ok(())
    };
    is(&seen.mount("/data")?, tags)?;
    below.map_or(Ok(()), |tags| is(&seen.mount("/data/below")?, tags))
}

fn bound(lab: &Lab, option: &str, with_below: bool) -> Result<()> {
    let place = lab.path("source");
    let _source = Source::make(&place, MsFlags::empty(), false)?;
    fs::write(place.join("file"), "")?;
    fs::write(place.join("below/file"), "")?;
    let mut bundle = lab.bundle()?;
    bundle.mount(json!({"destination": "/data", "source": place, "options": [option]}));
    let answers = lab.probe(&mut bundle, &["stat /data/file", "stat /data/below/file"])?;
    answers.value(0)?;
    let below = answers.get(1)?;
    if with_below {
        below.value().map(drop)
    } else {
        below.fails_with(nix::errno::Errno::ENOENT)
    }
}

fn remount(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for options in [&["nosuid"][..], &["remount", "ro", "nosuid"]] {
        bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "t", "options": options}));
    }
    let answers = lab.probe(&mut bundle, &["observe", "create /data/x x"])?;
    let seen = crate::lab::Observation(answers.value(0)?.clone());
    ensure!(
        seen.mount("/data")?.has("ro"),
        "it is not read-only: {:?}",
        seen.mount("/data")?
    );
    let count = crate::lab::seen::mounts(&seen["mounts"])
        .iter()
        .filter(|mount| mount.point == "/data")
        .count();
    ensure!(count == 1, "{count} mounts are on /data");
    answers.get(1)?.fails_with(nix::errno::Errno::EROFS)
}
