//! Our messages against recorded answers of the real daemon: decode, encode, compare.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use kelson_api::{
    ContainerInspect, ContainerSummary, DiskUsage, EventMessage, ExecInspect, HistoryItem, ImageInspect,
    ImageSummary, Network, SystemInfo, TopResponse, Version, VolumeList,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Fields that came after the recorded version: we write them, the recording lacks them.
const NEWER: &[&str] = &[
    // container (1.44 to 1.48)
    "DNSNames",
    "GwPriority",
    // image (1.51 still knows Parent etc.)
    // info
    "FirewallBackend",
    "CDISpecDirs",
    "Isolation",
    // network (1.48)
    "EnableIPv4",
];

/// Fields that newer versions dropped or leave out when empty: the recording has them, we do not write them.
const GONE: &[&str] = &[
    "KernelMemory",
    "KernelMemoryTCP",
    "Container",
    "ContainerConfig",
    "VirtualSize",
    "BuilderSize",
    "Expected",
    "AllowNondistributableArtifactsCIDRs",
    "AllowNondistributableArtifactsHostnames",
    "Experimental",
];

fn differences(path: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => differences(&format!("{path}.{key}"), value, other, found),
                    None if GONE.contains(&key.as_str()) => {}
                    None => found.push(format!("{path}.{key} is missing, docker writes {value}")),
                }
            }
            for key in b
                .keys()
                .filter(|k| !a.contains_key(*k) && !NEWER.contains(&k.as_str()))
            {
                found.push(format!("{path}.{key} is ours alone: {}", b[key]));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (x, y)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{at}]"), x, y, found);
            }
        }
        _ if theirs == ours => {}
        _ => found.push(format!("{path}: docker {theirs}, ours {ours}")),
    }
}

/// Decodes and encodes a recording; `also` lists differences that this message is meant to have.
#[track_caller]
fn same<T: DeserializeOwned + Serialize>(recorded: &str, also: &[&str]) {
    let message: T = kelson_api::wire::from_slice(recorded.as_bytes()).unwrap();
    let ours = serde_json::to_value(&message).unwrap();
    let mut found = Vec::new();
    differences("", &serde_json::from_str(recorded).unwrap(), &ours, &mut found);
    found.retain(|line| !also.iter().any(|known| line.contains(known)));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn containers() {
    same::<ContainerInspect>(include_str!("golden/container_inspect_running.json"), &[]);
    same::<ContainerInspect>(include_str!("golden/container_inspect_created.json"), &[]);
    same::<ContainerInspect>(include_str!("golden/container_inspect_exited.json"), &[]);
    same::<Vec<ContainerSummary>>(include_str!("golden/container_list.json"), &[]);
    same::<TopResponse>(include_str!("golden/top.json"), &[]);
    same::<ExecInspect>(include_str!("golden/exec_inspect.json"), &[]);
}

#[test]
fn images() {
    // Since 1.50 the configuration holds only what is set, and lists that could be null are empty.
    same::<ImageInspect>(include_str!("golden/image_inspect.json"), &[".Config."]);
    same::<Vec<ImageSummary>>(include_str!("golden/image_list.json"), &["RepoDigests"]);
    same::<Vec<HistoryItem>>(include_str!("golden/image_history.json"), &[]);
}

#[test]
fn the_rest() {
    same::<VolumeList>(include_str!("golden/volume_list.json"), &[]);
    same::<Vec<Network>>(include_str!("golden/network_list.json"), &[]);
    same::<Network>(include_str!("golden/network_inspect.json"), &[]);
    same::<Vec<EventMessage>>(include_str!("golden/events.json"), &[]);
    same::<Version>(include_str!("golden/version.json"), &[]);
    same::<SystemInfo>(include_str!("golden/info.json"), &["DriverStatus"]);
    same::<DiskUsage>(include_str!("golden/df.json"), &["RepoDigests"]);
}
