//! The fuzz targets (`runtime/fuzz`, which take a nightly compiler) on stable: bytes, JSON of the right words, and good
//! documents with one part changed. Any input may be refused, none may panic.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use kelson_runtime::config::load;
use kelson_runtime::container::store;
use kelson_runtime::seccomp;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Names that mean something, so that the values behind them are looked at.
const NAMES: [&str; 30] = [
    "ociVersion",
    "root",
    "path",
    "process",
    "args",
    "env",
    "cwd",
    "user",
    "uid",
    "capabilities",
    "bounding",
    "rlimits",
    "type",
    "soft",
    "hard",
    "mounts",
    "destination",
    "options",
    "uidMappings",
    "containerID",
    "hostID",
    "size",
    "hooks",
    "poststop",
    "linux",
    "namespaces",
    "resources",
    "seccomp",
    "defaultAction",
    "syscalls",
];
const WORDS: [&str; 14] = [
    "1.0.2",
    "/",
    "pid",
    "user",
    "bind",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "RLIMIT_CORE",
    "CAP_KILL",
    "read",
    "",
    "\u{0}",
    "0-3,7",
    "é",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(&WORDS[..]).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ]
}

fn document() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(5, 48, 6, |inner| {
        let name = proptest::sample::select(&NAMES[..]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..6).prop_map(|pairs| pairs
                .into_iter()
                .map(|(n, v)| (n.to_owned(), v))
                .collect::<Value>()),
        ]
    })
}

/// Every place of a document, as JSON pointers.
fn places(at: &str, value: &Value, out: &mut Vec<String>) {
    out.push(at.to_owned());
    for (name, v) in value.as_object().into_iter().flatten() {
        places(
            &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")),
            v,
            out,
        );
    }
    for (i, v) in value.as_array().into_iter().flatten().enumerate() {
        places(&format!("{at}/{i}"), v, out);
    }
}

fn changed(mut good: Value, place: usize, by: Value) -> String {
    let mut all = Vec::new();
    places("", &good, &mut all);
    *good.pointer_mut(&all[place % all.len()]).unwrap() = by;
    good.to_string()
}

fn config() -> Value {
    let text = include_str!("data/runtime-spec-schema/test/config/good/spec-example.json");
    serde_json::from_str(text).unwrap()
}

fn state() -> Value {
    json!({"format": 1, "ociVersion": "1.0.2", "id": "a", "pid": 7, "startTime": 5, "bundle": "/b", "rootfs": "/b/r",
        "created": "", "owner": 0, "cgroup": {"dirs": []}, "namespaces": 0, "keyring": true})
}

proptest! {
    #[test]
    fn bytes(bytes: Vec<u8>) {
        load::fuzz(&bytes);
        seccomp::fuzz(&bytes);
        store::fuzz(&bytes);
    }

    #[test]
    fn documents_of_the_right_words(document in document()) {
        let text = document.to_string();
        load::fuzz(text.as_bytes());
        seccomp::fuzz(text.as_bytes());
        store::fuzz(text.as_bytes());
    }

    #[test]
    fn a_good_config_with_one_part_changed(place: usize, by in document()) {
        load::fuzz(changed(config(), place, by).as_bytes());
    }

    #[test]
    fn a_good_profile_with_one_part_changed(place: usize, by in document()) {
        let profile = config()["linux"]["seccomp"].take();
        seccomp::fuzz(changed(profile, place, by).as_bytes());
    }

    #[test]
    fn a_good_state_with_one_part_changed(place: usize, by in document(), end in 0usize..2) {
        let mut text = changed(state(), place, by);
        text.push_str(["", "\n"][end]);
        store::fuzz(text.as_bytes());
    }
}
