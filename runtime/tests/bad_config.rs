//! Bad input, through the binary: the error begins with the field, the exit code is 1, and nothing is left behind. The
//! table is `data/bad-config.json`; `src/config/validate/table.rs` has the same without the machine.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;

use common::{Bundle, can_run, text};
use serde_json::Value;

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

#[test]
fn bad_configs_are_refused_by_field_and_leave_nothing() {
    if !can_run() {
        return;
    }
    let table: Vec<Value> = serde_json::from_str(include_str!("data/bad-config.json")).unwrap();
    assert!(table.len() > 100, "{}", table.len());
    let mut b = Bundle::new("true");
    let good = b.config.clone();
    for row in &table {
        b.config = good.clone();
        merge(&mut b.config, &row["config"]);
        let out = b.create(&[]);
        let (said, wanted) = (text(&out.stderr), row["error"].as_str().unwrap());
        let said = said
            .strip_prefix("error: kelson-runtime create failed: ")
            .unwrap_or(&said);
        let said = said
            .strip_prefix("unable to start container process: error during container init: ")
            .unwrap_or(said);
        let said = said.strip_prefix("error mounting ").unwrap_or(said);
        assert_eq!(out.status.code(), Some(1), "{}: {said}", row["rule"]);
        assert!(
            said.starts_with(wanted),
            "{}:\n{said}does not begin with\n{wanted}",
            row["rule"]
        );
        let state = fs::read_dir(b.path("state")).into_iter().flatten().flatten();
        let names: Vec<_> = state.map(|e| e.file_name()).filter(|n| n != ".seccomp").collect();
        assert!(names.is_empty(), "{}: {names:?}", row["rule"]);
    }
    b.config = good;
    assert_eq!(b.leftovers(), Vec::<String>::new());
    assert!(b.run().status.success(), "the good one is good");
}

#[test]
fn what_is_no_json_says_where() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("true");
    for (config, wanted) in [
        ("{]", "config.json: key must be a string at line 1 column 2"),
        ("", "config.json: EOF while parsing a value at line 1 column 0"),
        (
            "{\"ociVersion\": \"1.0.2\",\n}",
            "config.json: trailing comma at line 2",
        ),
        ("[]", "config.json: "),
        (
            "{\"process\": {\"cwd\": \"/\", \"cwd\": \"/\"}}",
            "config.json: process",
        ),
    ] {
        fs::write(b.path("config.json"), config).unwrap();
        let out = b.runtime(&["create", "--bundle", b.dir.path().to_str().unwrap(), &b.id]);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{config}: {said}");
        let said = said
            .strip_prefix("error: kelson-runtime create failed: ")
            .unwrap_or(&said);
        let said = said
            .strip_prefix("unable to start container process: error during container init: ")
            .unwrap_or(said);
        let said = said.strip_prefix("error mounting ").unwrap_or(said);
        assert!(said.starts_with(wanted), "{config}: {said}");
    }
    let huge = format!("{{\"ociVersion\": \"{}\"}}", "1".repeat(9 << 20));
    fs::write(b.path("config.json"), huge).unwrap();
    let out = b.runtime(&["create", "--bundle", b.dir.path().to_str().unwrap(), &b.id]);
    assert!(
        text(&out.stderr).contains("config.json: larger than 8388608 bytes"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}
