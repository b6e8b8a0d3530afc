//! `spec`, `features` and `state` against the specification's JSON schemas, with a validator for the part of the
//! language that they use.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Bundle, RUNTIME, can_run};
use serde_json::Value;

struct Schemas(HashMap<String, Value>);

impl Schemas {
    fn load() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/runtime-spec-schema");
        let read = |e: fs::DirEntry| {
            let name = e.file_name().to_str().unwrap().to_owned();
            name.ends_with(".json").then(|| {
                (
                    name,
                    serde_json::from_slice(&fs::read(e.path()).unwrap()).unwrap(),
                )
            })
        };
        Self(fs::read_dir(dir).unwrap().flatten().filter_map(read).collect())
    }

    fn check(&self, file: &str, value: &Value) -> Result<(), String> {
        self.value(file, &self.0[file], value, "$")
    }

    fn value(&self, file: &str, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        if let Some(target) = schema["$ref"].as_str() {
            let (other, pointer) = target.split_once('#').unwrap_or((target, ""));
            let other = if other.is_empty() { file } else { other };
            let schema = self.0[other]
                .pointer(pointer)
                .ok_or_else(|| format!("no {target}"))?;
            self.value(other, schema, value, at)?;
        }
        if let Some(kind) = schema.get("type") {
            let kinds = kind.as_array().cloned().unwrap_or_else(|| vec![kind.clone()]);
            if !kinds.iter().any(|k| is(k.as_str().unwrap(), value)) {
                return Err(format!("{at}: {value} is not {kind}"));
            }
        }
        if let Some(list) = schema["enum"].as_array()
            && !list.contains(value)
        {
            return Err(format!("{at}: {value} is not one of {list:?}"));
        }
        for (bound, low) in [("minimum", true), ("maximum", false)] {
            if let (Some(bound), Some(n)) = (schema[bound].as_f64(), value.as_f64())
                && (if low { n < bound } else { n > bound })
            {
                return Err(format!("{at}: {n} is out of bounds"));
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                return Err(format!("{at}: {name} is missing"));
            }
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(v) = value.get(name) {
                self.value(file, schema, v, &format!("{at}.{name}"))?;
            }
        }
        for (i, v) in value.as_array().into_iter().flatten().enumerate() {
            self.value(file, &schema["items"], v, &format!("{at}[{i}]"))?;
        }
        for s in schema["allOf"].as_array().into_iter().flatten() {
            self.value(file, s, value, at)?;
        }
        for word in ["anyOf", "oneOf"] {
            if let Some(list) = schema[word].as_array() {
                let fits = list
                    .iter()
                    .filter(|s| self.value(file, s, value, at).is_ok())
                    .count();
                if fits == 0 || (word == "oneOf" && fits > 1) {
                    return Err(format!("{at}: {fits} alternatives of {word} fit"));
                }
            }
        }
        Ok(())
    }
}

fn is(kind: &str, v: &Value) -> bool {
    match kind {
        "object" => v.is_object(),
        "array" => v.is_array(),
        "string" => v.is_string(),
        "boolean" => v.is_boolean(),
        "integer" => v.is_i64() || v.is_u64(),
        "number" => v.is_number(),
        "null" => v.is_null(),
        other => panic!("type {other}"),
    }
}

#[test]
fn the_validator_refuses() {
    let s = Schemas::load();
    let bad = [
        r#"{}"#,
        r#"{"ociVersion": 1}"#,
        r#"{"ociVersion": "1.0.0", "process": {"cwd": "/", "args": "sh"}}"#,
        r#"{"ociVersion": "1.0.0", "linux": {"namespaces": [{"type": "x"}]}}"#,
        r#"{"ociVersion": "1.0.0", "linux": {"seccomp": {"syscalls": []}}}"#,
    ];
    for text in bad {
        assert!(
            s.check("config-schema.json", &serde_json::from_str(text).unwrap())
                .is_err(),
            "{text}"
        );
    }
}

#[test]
fn spec_is_valid() {
    let s = Schemas::load();
    for more in [&[][..], &["--rootless"]] {
        let dir = tempfile::tempdir().unwrap();
        let run = || {
            Command::new(RUNTIME)
                .arg("spec")
                .args(more)
                .current_dir(dir.path())
                .output()
                .unwrap()
        };
        assert!(run().status.success());
        let document = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        s.check("config-schema.json", &document).unwrap();
        assert!(!run().status.success(), "a config.json that is there is kept");
    }
}

#[test]
fn features_are_valid() {
    let out = Command::new(RUNTIME).arg("features").output().unwrap();
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    Schemas::load().check("features-schema.json", &document).unwrap();
    assert!(
        document["mountOptions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|o| o == "rro")
    );
}

#[test]
fn state_is_valid() {
    if !can_run() {
        return;
    }
    let s = Schemas::load();
    let b = Bundle::new("sleep 100");
    b.create(&[]);
    let created = b.state();
    s.check("state-schema.json", &created).unwrap();
    b.runtime(&["start", &b.id]);
    s.check("state-schema.json", &b.state()).unwrap();
}
