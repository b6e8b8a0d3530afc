//! config.md: the version, root, names, annotations, and what is unknown or wrong.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::lab::{Lab, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "runtime/version/must-be-a-semantic-version",
            "an ociVersion that is missing or no semantic version is an error",
            &["config.md#specification-version/1"],
            version_is_semantic,
        ),
        case(
            "runtime/version/same-major",
            "an ociVersion 1.0.0 is accepted",
            &["config.md#specification-version/2"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["ociVersion"] = json!("1.0.0");
                lab.observe(&mut bundle).map(drop)
            },
        ),
        case(
            "runtime/root/missing",
            "a configuration without root, or without root.path, is an error",
            &["config.md#root/1", "config.md#root/2"],
            root_missing,
        ),
        case(
            "runtime/root/relative-path",
            "a relative root.path begins at the bundle",
            &["config.md#root/3"],
            |lab| root_is_used(lab, |_| json!("rootfs")),
        ),
        case(
            "runtime/root/absolute-path",
            "an absolute root.path is taken as it is",
            &["config.md#root/4"],
            |lab| root_is_used(lab, |bundle| json!(bundle.rootfs())),
        ),
        case(
            "runtime/root/no-directory",
            "a root.path that does not exist or is a file is an error",
            &["config.md#root/5"],
            root_is_no_directory,
        ),
        case(
            "runtime/root/readonly",
            "a read-only root can't be written, and its mount says so",
            &["config.md#root/6"],
            root_readonly,
        ),
        case(
            "runtime/root/writable",
            "a root that is not read-only can be written",
            &["config.md#root/7"],
            |lab| lab.probe(&mut lab.bundle()?, &["create /file x"])?.all_done(),
        ),
        case(
            "runtime/names/hostname",
            "hostname is the host name in the container",
            &["config.md#hostname/1"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["hostname"] = json!("mrs-dalloway");
                check(
                    "the host name",
                    &lab.observe(&mut bundle)?["hostname"],
                    "mrs-dalloway",
                )
            },
        ),
        case(
            "runtime/names/host-keeps-its-own",
            "the host's name is what it was",
            &["config.md#hostname/2"],
            |lab| {
                let before = fs::read_to_string("/proc/sys/kernel/hostname")?;
                lab.observe(&mut lab.bundle()?)?;
                ensure!(
                    fs::read_to_string("/proc/sys/kernel/hostname")? == before,
                    "it has changed"
                );
                Ok(())
            },
        ),
        case(
            "runtime/names/domainname",
            "domainname is the domain name in the container",
            &["config.md#domainname/1"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["domainname"] = json!("example.test");
                check(
                    "the domain name",
                    &lab.observe(&mut bundle)?["domainname"],
                    "example.test",
                )
            },
        ),
        case(
            "runtime/annotations/unknown-key",
            "an annotation that nobody knows, and one with an empty value, change nothing",
            &["config.md#annotations/5", "config.md#annotations/7"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["annotations"] = json!({"com.example.unknown": "x", "com.example.empty": ""});
                lab.observe(&mut bundle).map(drop)
            },
        ),
        case(
            "runtime/annotations/empty-key",
            "an annotation with an empty key is an error",
            &["config.md#annotations/3"],
            |lab| refused_with(lab, "/annotations", json!({"": "value"})),
        ),
        case(
            "runtime/annotations/not-a-text",
            "an annotation whose value is no text is an error",
            &["config.md#annotations/6"],
            |lab| refused_with(lab, "/annotations", json!({"com.example.key": 7})),
        ),
        case(
            "runtime/annotations/not-a-map",
            "annotations that are a list are an error",
            &["config.md#annotations/1"],
            |lab| refused_with(lab, "/annotations", json!(["com.example.key"])),
        ),
        case(
            "runtime/config/unknown-property",
            "unknown properties anywhere are ignored",
            &["config.md#extensibility/1"],
            unknown_properties,
        ),
        case(
            "runtime/config/wrong-types",
            "a value of a wrong type is an error, wherever it stands",
            &["config.md#valid-values/1"],
            wrong_types,
        ),
        case(
            "runtime/config/wrong-words",
            "a word that is not in the specification's list is an error",
            &["config.md#valid-values/1"],
            wrong_words,
        ),
    ]
}

/// Sets the value at a JSON pointer, and expects a refusal.
pub(super) fn refused_with(lab: &Lab, pointer: &str, value: Value) -> Result<()> {
    let mut bundle = lab.bundle()?;
    set(&mut bundle.config, pointer, value.clone());
    lab.refuses(&bundle)
        .with_context(|| format!("{pointer} is {value}"))
        .map(drop)
}

/// Sets the value at a JSON pointer, and makes the objects that lead to it.
pub(super) fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut place = config;
    for name in pointer.trim_start_matches('/').split('/') {
        place = match name.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[name],
        };
    }
    *place = value;
}

fn version_is_semantic(lab: &Lab) -> Result<()> {
    for version in [
        json!(""),
        json!("1"),
        json!("one.two.three"),
        json!(1.0),
        Value::Null,
    ] {
        refused_with(lab, "/ociVersion", version)?;
    }
    Ok(())
}

fn root_missing(lab: &Lab) -> Result<()> {
    refused_with(lab, "/root", Value::Null)?;
    refused_with(lab, "/root", json!({}))
}

fn root_is_used(lab: &Lab, path: impl Fn(&crate::lab::Bundle) -> Value) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["root"]["path"] = path(&bundle);
    fs::write(bundle.inside("/here"), "text")?;
    check(
        "/here",
        lab.probe(&mut bundle, &["read /here"])?.value(0)?,
        "text",
    )
}

fn root_is_no_directory(lab: &Lab) -> Result<()> {
    refused_with(lab, "/root/path", json!("nowhere"))?;
    refused_with(lab, "/root/path", json!("config.json"))
}

fn root_readonly(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["root"]["readonly"] = json!(true);
    let acts = ["create /file x", "mkdir /directory", "observe"];
    let answers = lab.probe(&mut bundle, &acts)?;
    answers.get(0)?.fails_with(nix::errno::Errno::EROFS)?;
    answers.get(1)?.fails_with(nix::errno::Errno::EROFS)?;
    let seen = crate::lab::Observation(answers.value(2)?.clone());
    ensure!(seen.mount("/")?.has("ro"), "the root's mount has no ro");
    ensure!(!bundle.inside("/file").exists(), "the host sees a file");
    Ok(())
}

fn unknown_properties(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for pointer in [
        "/unknown",
        "/process/unknown",
        "/root/unknown",
        "/linux/unknown",
        "/mounts/0/unknown",
    ] {
        set(&mut bundle.config, pointer, json!({"deep": [1, {"x": null}]}));
    }
    set(&mut bundle.config, "/linux/resources/unknown", json!(true));
    lab.observe(&mut bundle).map(drop)
}

fn wrong_types(lab: &Lab) -> Result<()> {
    for (pointer, value) in [
        ("/process/args", json!("/probe")),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/process/terminal", json!("yes")),
        ("/process/env", json!({"A": "b"})),
        ("/root/readonly", json!("true")),
        ("/hostname", json!(["a"])),
        ("/mounts", json!({"destination": "/data"})),
        ("/mounts/0/options", json!("ro")),
        ("/linux/namespaces", json!(["pid"])),
        ("/linux/maskedPaths", json!("/proc/kcore")),
    ] {
        refused_with(lab, pointer, value)?;
    }
    Ok(())
}

fn wrong_words(lab: &Lab) -> Result<()> {
    for (pointer, value) in [
        ("/linux/namespaces/0/type", json!("planet")),
        ("/linux/rootfsPropagation", json!("sometimes")),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "x", "major": 1, "minor": 3}]),
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_LUCK", "soft": 1, "hard": 1}]),
        ),
    ] {
        refused_with(lab, pointer, value)?;
    }
    Ok(())
}
