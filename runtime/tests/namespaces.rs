//! Time namespaces and interfaces of the host, as the kernel shows them from inside and outside.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;

use common::{Bundle, can_run, skip, text};
use serde_json::{Value, json};

fn add_namespace(b: &mut Bundle, namespace: Value) {
    b.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(namespace);
}

fn offsets(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|l| l.split_whitespace().collect()).collect()
}

fn no_time_namespaces() -> bool {
    let absent = !std::path::Path::new("/proc/self/timens_offsets").exists();
    if absent {
        skip("no time namespaces in this kernel");
    }
    absent
}

fn own_user_namespace(b: &mut Bundle) {
    add_namespace(b, json!({"type": "user"}));
    for (name, host) in [("uidMappings", 100_000), ("gidMappings", 200_000)] {
        b.config["linux"][name] = json!([{"containerID": 0, "hostID": host, "size": 65534}]);
    }
    let rootfs = b.rootfs();
    let out = std::process::Command::new("chown")
        .args(["-hR", "100000:200000"])
        .arg(rootfs)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
}

#[test]
fn clocks_are_offset_for_run_exec_and_joiners() {
    if !can_run() || no_time_namespaces() {
        return;
    }
    let wanted = [["monotonic", "7881", "2718281"], ["boottime", "1337", "3141519"]];
    for with_user_namespace in [false, true] {
        let mut b = Bundle::new("cat /proc/self/timens_offsets > /tmp/seen; exec sleep 100");
        if with_user_namespace {
            own_user_namespace(&mut b);
        }
        add_namespace(&mut b, json!({"type": "time"}));
        b.config["linux"]["timeOffsets"] = json!({
            "monotonic": {"secs": 7881, "nanosecs": 2_718_281}, "boottime": {"secs": 1337, "nanosecs": 3_141_519}
        });
        b.up();
        let out = b.exec(&["cat", "/proc/self/timens_offsets"]);
        assert_eq!(offsets(&text(&out.stdout)), wanted, "{}", text(&out.stderr));
        common::eventually("the container has seen", || {
            fs::read_to_string(b.rootfs().join("tmp/seen")).is_ok_and(|t| offsets(&t) == wanted)
        });
        let outside = fs::read_to_string("/proc/self/timens_offsets").unwrap();
        assert_ne!(offsets(&outside), wanted, "the runtime's caller is not concerned");

        if !with_user_namespace {
            let mut joiner = Bundle::new("cat /proc/self/timens_offsets");
            let path = format!("/proc/{}/ns/time", b.pid());
            add_namespace(&mut joiner, json!({"type": "time", "path": path}));
            assert_eq!(offsets(&joiner.output()), wanted);
        }
    }
}

#[test]
fn without_offsets_a_time_namespace_has_the_hosts_clocks() {
    if !can_run() || no_time_namespaces() {
        return;
    }
    let mut b = Bundle::new("cat /proc/self/timens_offsets; readlink /proc/self/ns/time");
    add_namespace(&mut b, json!({"type": "time"}));
    let out = b.output();
    assert!(out.contains("monotonic           0         0\n"), "{out}");
    let host = fs::read_link("/proc/self/ns/time").unwrap();
    assert!(!out.contains(host.to_str().unwrap()), "{out}");
}
