//! `spec`, `features` and `state` against the specification's JSON schemas, with a validator for the part of the
//! language that they use.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Bundle, RUNTIME, can_run};
use kelson_runtime::config::{load, validate};
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
        if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
            && !matches(pattern, text)
        {
            return Err(format!("{at}: {text:?} does not match {pattern}"));
        }
        if let (Some(least), Some(list)) = (schema["minItems"].as_u64(), value.as_array())
            && (list.len() as u64) < least
        {
            return Err(format!("{at}: fewer than {least} items"));
        }
        for more in [
            &schema["additionalProperties"],
            &schema["patternProperties"][".{1,}"],
        ] {
            for (name, v) in value.as_object().into_iter().flatten() {
                if more.is_object() && schema["properties"].get(name).is_none() {
                    self.value(file, more, v, &format!("{at}.{name}"))?;
                }
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

/// The patterns that the schemas have.
fn matches(pattern: &str, text: &str) -> bool {
    let all = |text: &str, f: fn(char) -> bool| text.chars().all(f);
    match pattern {
        "^[1-9][0-9]*[KMG]B$" => ["KB", "MB", "GB"].iter().any(|unit| {
            let number = text.strip_suffix(unit);
            number.is_some_and(|n| !n.is_empty() && !n.starts_with('0') && all(n, |c| c.is_ascii_digit()))
        }),
        "^MB:[^\\n]*$" => text.starts_with("MB:") && !text.contains('\n'),
        "^RLIMIT_[A-Z]+$" => text
            .strip_prefix("RLIMIT_")
            .is_some_and(|rest| !rest.is_empty() && all(rest, |c| c.is_ascii_uppercase())),
        "^[0-9, -]*$" => all(text, |c| c.is_ascii_digit() || ", -".contains(c)),
        "^[cbup]$" => ["c", "b", "u", "p"].contains(&text),
        "^CAP_[A-Z_]+$" => text
            .strip_prefix("CAP_")
            .is_some_and(|rest| !rest.is_empty() && all(rest, |c| c.is_ascii_uppercase() || c == '_')),
        other => panic!("pattern {other}"),
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

/// The specification's own examples of a kind, with their names.
fn examples(kind: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/runtime-spec-schema/test")
        .join(kind);
    let read = |e: fs::DirEntry| {
        let name = e.file_name().to_str().unwrap().to_owned();
        (name, fs::read_to_string(e.path()).unwrap())
    };
    let mut out: Vec<_> = fs::read_dir(dir).unwrap().flatten().map(read).collect();
    assert!(!out.is_empty());
    out.sort();
    out
}

#[test]
fn good_examples_are_accepted_by_the_schema_and_by_us() {
    let s = Schemas::load();
    for (name, text) in examples("config/good") {
        s.check("config-schema.json", &serde_json::from_str(&text).unwrap())
            .unwrap();
        let config = load::config_of(&text).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        // Three are right by the schema, and lack a namespace that Linux needs for what they ask.
        let lacks = match name.as_str() {
            "freebsd-example.json" | "zos-example.json" => Some("hostname: needs a uts namespace"),
            "linux-netdevice.json" => Some("linux.netDevices: needs a network namespace"),
            _ => None,
        };
        let said = validate::config(&config).map_err(|e| e.chain()).err();
        assert_eq!(said.as_deref(), lacks, "{name}");
    }
    for (schema, kind) in [
        ("features-schema.json", "features/good"),
        ("state-schema.json", "state/good"),
    ] {
        for (name, text) in examples(kind) {
            s.check(schema, &serde_json::from_str(&text).unwrap())
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn bad_examples_are_refused_with_the_name_of_the_field() {
    let s = Schemas::load();
    let fields = [
        ("freebsd-vnet-disable.json", "config.json: freebsd.jail.vnet: "),
        ("invalid-json.json", "config.json: key must be a string at line 1"),
        (
            "linux-hugepage.json",
            "linux.resources.hugepageLimits[0].pageSize: ",
        ),
        (
            "linux-netdevice.json",
            "config.json: linux.netDevices.eth0.name: ",
        ),
        (
            "linux-rdma.json",
            "config.json: linux.resources.rdma.mlx5_1.hcaHandles: ",
        ),
    ];
    let bad = examples("config/bad");
    assert_eq!(bad.len(), fields.len());
    for ((name, text), (known, field)) in bad.iter().zip(fields) {
        assert_eq!(name, known);
        if let Ok(document) = serde_json::from_str(text) {
            assert!(s.check("config-schema.json", &document).is_err(), "{name}");
        }
        let error = load::config_of(text)
            .and_then(|c| validate::config(&c))
            .unwrap_err()
            .chain();
        assert!(error.starts_with(field), "{name}: {error}");
    }
    for (name, text) in examples("features/bad") {
        assert!(
            s.check("features-schema.json", &serde_json::from_str(&text).unwrap())
                .is_err(),
            "{name}"
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
    let list = |pointer: &str| -> Vec<String> {
        let list = document
            .pointer(pointer)
            .and_then(Value::as_array)
            .unwrap_or_else(|| panic!("no {pointer}"));
        list.iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    for (pointer, some, count) in [
        ("/hooks", "poststart", 6),
        ("/mountOptions", "rro", 61),
        ("/linux/namespaces", "time", 8),
        ("/linux/capabilities", "CAP_CHECKPOINT_RESTORE", 41),
        ("/linux/seccomp/actions", "SCMP_ACT_NOTIFY", 9),
        ("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ", 7),
        ("/linux/seccomp/archs", "SCMP_ARCH_SHEB", 23),
        (
            "/linux/seccomp/knownFlags",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
            4,
        ),
        ("/linux/memoryPolicy/modes", "MPOL_WEIGHTED_INTERLEAVE", 7),
        ("/linux/memoryPolicy/flags", "MPOL_F_STATIC_NODES", 3),
    ] {
        let names = list(pointer);
        assert!(
            names.len() >= count && names.iter().any(|n| n == some),
            "{pointer}: {names:?}"
        );
    }
    let (known, supported) = (
        list("/linux/seccomp/knownFlags"),
        list("/linux/seccomp/supportedFlags"),
    );
    assert!(
        supported.iter().all(|f| known.contains(f))
            && supported.contains(&"SECCOMP_FILTER_FLAG_LOG".to_owned())
    );
    for pointer in [
        "/linux/cgroup/v1",
        "/linux/cgroup/v2",
        "/linux/cgroup/rdma",
        "/linux/seccomp/enabled",
        "/linux/apparmor/enabled",
        "/linux/selinux/enabled",
        "/linux/intelRdt/monitoring",
        "/linux/mountExtensions/idmap/enabled",
        "/linux/netDevices/enabled",
    ] {
        assert_eq!(document.pointer(pointer), Some(&Value::Bool(true)), "{pointer}");
    }
    assert!(list("/potentiallyUnsafeConfigAnnotations").contains(&"run.oci.seccomp.receiver".to_owned()));
    assert_eq!(
        (&document["ociVersionMin"], &document["ociVersionMax"]),
        (&"1.0.0".into(), &"1.3.0".into())
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
