//! One bad config per rule of the specification (`tests/data/bad-config.json`): each is a good one with a JSON merge patch
//! (RFC 7386), and the beginning of the error that it must give. `tests/bad_config.rs` runs the same through the binary.

use kelson_cgroups::DeviceRules;
use serde_json::Value;

use crate::cli::default_config;
use crate::config::load;
use crate::error::{Error, Result};
use crate::seccomp;

const TABLE: &str = include_str!("../../../tests/data/bad-config.json");

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

/// All that is decided about a config without a look at the machine.
fn decide(text: &str) -> Result<()> {
    let config = load::config_of(text)?;
    super::config(&config)?;
    if config.process.is_none() {
        return Err(Error::field("process", "is required"));
    }
    let resources = config.linux.resources.as_ref();
    DeviceRules::new(resources.and_then(|r| r.devices().as_deref()).unwrap_or_default())?;
    config
        .linux
        .seccomp
        .as_ref()
        .map_or(Ok(()), |profile| seccomp::check(profile))
}

#[test]
fn every_rule_names_the_field_the_rule_and_the_value() {
    let table: Vec<Value> = serde_json::from_str(TABLE).unwrap();
    let good = default_config();
    decide(&good.to_string()).unwrap();
    let mut rules = std::collections::HashSet::new();
    for row in &table {
        let rule = row["rule"].as_str().unwrap();
        assert!(rules.insert(rule), "twice: {rule}");
        let mut config = good.clone();
        merge(&mut config, &row["config"]);
        let said = match decide(&config.to_string()) {
            Ok(()) => panic!("{rule}: accepted"),
            Err(e) => e.chain(),
        };
        let wanted = row["error"].as_str().unwrap();
        assert!(
            said.starts_with(wanted),
            "{rule}:\n{said}\ndoes not begin with\n{wanted}"
        );
    }
}
