//! The architecture, tested: what may depend on what, which rules every crate takes over, and that links in
//! documents lead somewhere. These are promises that no compiler keeps.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Five hundred lines is the aim; a file beyond this holds two things.
const LONGEST_FILE: usize = 700;

/// Who may link whom. Programs meet at standard seams, not in memory.
const MAY_LINK: [(&str, &[&str]); 16] = [
    ("kelson-sys", &[]),
    ("kelson-cgroups", &["kelson-sys"]),
    ("kelson-runtime", &["kelson-cgroups", "kelson-sys"]),
    ("kelson-shim-proto", &[]),
    ("kelson-logger", &["kelson-shim-proto", "kelson-sys"]),
    (
        "kelson-shim",
        &["kelson-cgroups", "kelson-shim-proto", "kelson-sys"],
    ),
    ("kelson-api", &[]),
    ("kelson-formats", &[]),
    ("kelson-tls", &[]),
    ("kelson-images", &["kelson-formats", "kelson-sys", "kelson-tls"]),
    ("kelson-network", &["kelson-sys"]),
    ("kelson-core", CORE),
    ("kelson-engine", ENGINE),
    ("kelson-cli", &["kelson-api", "kelson-formats", "kelson-tls"]),
    ("kelson-spec-tests", &[]),
    ("kelson-floor", &[]),
];
const CORE: &[&str] = &[
    "kelson-api",
    "kelson-cgroups",
    "kelson-formats",
    "kelson-images",
    "kelson-network",
    "kelson-shim-proto",
    "kelson-sys",
];
const ENGINE: &[&str] = &[
    "kelson-api",
    "kelson-core",
    "kelson-formats",
    "kelson-images",
    "kelson-network",
    "kelson-sys",
    "kelson-tls",
];

/// Only these may hold `unsafe`.
const MAY_BE_UNSAFE: [&str; 3] = ["runtime/sys/", "spec-tests/floor/", "spec-tests/probe/"];

/// Never linked by the program that starts several times per container, nor by what it is made of.
const NOT_IN_RUNTIME: [&str; 3] = ["tokio", "tracing", "hyper"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

fn metadata() -> Value {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Without `--no-deps` this would be every crate there is.
fn members(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What ends up in a program: what only tests or the build use does not.
fn linked(package: &Value) -> BTreeSet<&str> {
    let dependencies = package["dependencies"].as_array().unwrap();
    dependencies
        .iter()
        .filter(|dependency| dependency["kind"].is_null())
        .map(|one| text(&one["name"]))
        .collect()
}

#[test]
fn dependencies_point_in_the_agreed_direction() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = MAY_LINK.into_iter().collect();
    let mut wrong = Vec::new();
    for package in members(&metadata) {
        let name = text(&package["name"]);
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name} is not in this test's list"));
            continue;
        };
        let ours = linked(package)
            .into_iter()
            .filter(|name| name.starts_with("kelson-"));
        wrong.extend(
            ours.filter(|other| !allowed.contains(other))
                .map(|other| format!("{name} links {other}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_runtime_stays_small() {
    let metadata = metadata();
    let runtime = ["kelson-runtime", "kelson-cgroups", "kelson-sys"];
    for package in members(&metadata)
        .iter()
        .filter(|package| runtime.contains(&text(&package["name"])))
    {
        let all = linked(package);
        let found: Vec<_> = NOT_IN_RUNTIME.iter().filter(|name| all.contains(*name)).collect();
        assert!(found.is_empty(), "{} links {found:?}", package["name"]);
    }
}

#[test]
fn every_crate_takes_over_the_workspace_rules() {
    let metadata = metadata();
    for package in members(&metadata) {
        let manifest = fs::read_to_string(text(&package["manifest_path"])).unwrap();
        let name = text(&package["name"]);
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name} does not inherit the lints"
        );
        for key in ["version", "edition", "rust-version", "license"] {
            assert!(
                manifest.contains(&format!("{key}.workspace = true")),
                "{name} has a {key} of its own"
            );
        }
        let own_version = manifest
            .lines()
            .find(|line| line.contains("version = \"") || line.contains("git = "));
        assert_eq!(
            own_version, None,
            "{name}: versions of dependencies stand in the workspace"
        );
    }
}

#[test]
fn unsafe_code_is_where_it_belongs() {
    // Generators write the switch into files that need none.
    let uses = |content: &str| {
        ["unsafe {", "unsafe fn", "unsafe impl"]
            .iter()
            .any(|word| content.contains(word))
    };
    let switched_on = |content: &str| {
        uses(content)
            && content
                .lines()
                .any(|line| line.trim().starts_with('#') && line.contains("allow(unsafe_code"))
    };
    let all = files("rs")
        .into_iter()
        .filter(|(_, content)| switched_on(content));
    let wrong: Vec<_> = all
        .map(|(name, _)| name)
        .filter(|name| !MAY_BE_UNSAFE.iter().any(|place| name.starts_with(place)))
        .collect();
    assert!(wrong.is_empty(), "unsafe code is switched on in {wrong:?}");
}

#[test]
fn no_file_grows_without_end() {
    let generated = |content: &str| content.lines().take(5).any(|line| line.contains("@generated"));
    let long: Vec<_> = files("rs")
        .into_iter()
        .map(|(name, content)| (name, content.lines().count(), generated(&content)))
        .filter(|(_, lines, generated)| *lines > LONGEST_FILE && !generated)
        .collect();
    assert!(long.is_empty(), "more than {LONGEST_FILE} lines: {long:#?}");
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for (name, content) in files("md") {
        let document = root().join(&name);
        for target in links(&content) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:") || path.is_empty();
            if !elsewhere && !document.with_file_name(path).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Targets of `[text](target)` outside of fenced code.
fn links(markdown: &str) -> Vec<String> {
    let prose: String = markdown.split("```").step_by(2).collect();
    let parts = prose.split("](").skip(1);
    parts
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

#[test]
fn links_are_found_in_prose_and_not_in_code() {
    let text = "see [a](b.md#c) and [d](http://e)\n```\n[x](y)\n```\n[z](w)";
    assert_eq!(links(text), ["b.md#c", "http://e", "w"]);
}

/// Every file with this extension, by its path from the root.
fn files(extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if kind.is_file() && name.ends_with(&format!(".{extension}")) {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((relative, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}
