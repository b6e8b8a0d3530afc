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

/// Runs `commands`, then the runtime with the arguments given, in a network namespace of their own; `$RUN` is the runtime.
fn in_own_network(script: &str) -> std::process::Output {
    std::process::Command::new("unshare")
        .args(["--net", "sh", "-ec", script])
        .output()
        .unwrap()
}

fn no_ip() -> bool {
    let absent = std::process::Command::new("ip").arg("-V").output().is_err();
    if absent {
        skip("needs iproute2");
    }
    absent
}

/// `create`, so that the container's namespace can be looked at from outside, then `delete`.
fn with_device(b: &Bundle, before: &str, after: &str) -> std::process::Output {
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let (runtime, state, dir) = (common::RUNTIME, b.path("state"), b.dir.path());
    in_own_network(&format!(
        "ip link add klsa type veth peer name klsb
        {before}
        {runtime} --root {state} create --bundle {dir} --pid-file {dir}/pid {id} >{dir}/out 2>{dir}/err </dev/null || {{ cat {dir}/err; exit 1; }}
        inside() {{ nsenter --net=/proc/$(cat {dir}/pid)/ns/net \"$@\"; }}
        {after}
        {runtime} --root {state} delete --force {id}",
        state = state.display(),
        dir = dir.display(),
        id = b.id,
    ))
}

#[test]
fn an_interface_moves_with_its_name_addresses_mtu_and_mac() {
    if !can_run() || no_ip() {
        return;
    }
    let mut b = Bundle::new("true");
    b.config["linux"]["netDevices"] = json!({"klsa": {"name": "ctr0"}});
    let before = "ip link set klsa mtu 1400 address 02:11:22:33:44:55
        ip address add 192.0.2.7/24 broadcast 192.0.2.255 dev klsa; ip address add 127.0.0.33 scope host dev klsa
        ip address add 192.0.2.9 peer 198.51.100.1/32 dev klsa; ip -6 address add 2001:db8::7/64 dev klsa";
    let out = with_device(
        &b,
        before,
        "inside ip -j address show dev ctr0; ip -j link show type veth",
    );
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    let text = text(&out.stdout);
    let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let inside = documents.next().unwrap().unwrap()[0].clone();
    let left = documents.next().unwrap().unwrap();
    assert_eq!(
        (inside["mtu"].as_i64(), inside["address"].as_str()),
        (Some(1400), Some("02:11:22:33:44:55"))
    );
    assert!(
        inside["flags"].as_array().unwrap().contains(&json!("UP")),
        "{inside}"
    );
    let of = |a: &Value| {
        (
            a["local"].as_str().unwrap().to_owned(),
            a["prefixlen"].as_i64().unwrap(),
        )
    };
    let global = inside["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["scope"] == "global");
    let mut addresses: Vec<_> = global.clone().map(of).collect();
    addresses.sort();
    let wanted = [("192.0.2.7", 24), ("192.0.2.9", 32), ("2001:db8::7", 64)].map(|(a, p)| (a.to_owned(), p));
    assert_eq!(addresses, wanted);
    assert!(
        global.clone().any(|a| a["broadcast"] == "192.0.2.255")
            && global.clone().any(|a| a["address"] == "198.51.100.1")
    );
    assert!(
        !text.contains("127.0.0.33"),
        "an address of the host's scope stays behind: {text}"
    );
    let left: Vec<&str> = left
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["ifname"].as_str().unwrap())
        .collect();
    assert_eq!(left, ["klsb"]);
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn a_template_gets_a_number_and_a_joined_network_keeps_the_interface() {
    if !can_run() || no_ip() {
        return;
    }
    let mut b = Bundle::new("true");
    b.config["linux"]["netDevices"] = json!({"klsa": {"name": "eth%d"}, "klsb": {}});
    let name = format!("/run/netns/{}", b.id);
    for n in b.config["linux"]["namespaces"].as_array_mut().unwrap() {
        if n["type"] == "network" {
            n["path"] = json!(name);
        }
    }
    let short = &b.id;
    let before = format!(
        "ip netns add {short}; trap 'ip netns del {short}' EXIT
        ip -n {short} link add eth0 type veth peer name eth1"
    );
    let out = with_device(&b, &before, &format!("ip -n {short} -j link show type veth"));
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    let links: Value = serde_json::from_slice(&out.stdout).unwrap();
    let mut names: Vec<&str> = links
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["ifname"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["eth0", "eth1", "eth2", "klsb"]);
}

#[test]
fn an_interface_that_cannot_move_stays_where_it_is() {
    if !can_run() || no_ip() {
        return;
    }
    for (devices, wanted) in [
        (
            json!({"klsa": {}, "nonesuch": {}}),
            "linux.netDevices[\"nonesuch\"]: look up: no such device",
        ),
        (
            json!({"klsa": {"name": "lo"}}),
            "linux.netDevices[\"klsa\"]: the container has an interface \"lo\" already",
        ),
    ] {
        let mut b = Bundle::new("true");
        b.config["linux"]["netDevices"] = devices;
        let out = with_device(&b, "trap 'ip -br link show type veth' EXIT", "");
        let text = text(&out.stdout);
        assert!(!out.status.success() && text.contains(wanted), "{text}");
        assert!(text.contains("klsa@klsb"), "{text}");
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
}
