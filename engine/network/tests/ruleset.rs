//! The table as the kernel holds it, against the same table written down for `nft` in `data/`: two writers, one
//! result. The files are also what a reader should look at to see the rules.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod lab;

use std::os::fd::AsFd;

use kelson_network::{PortMapping, PortSpec, Proto};
use lab::{Container, Lab, id, nft, ruleset};

/// The kernel may list sets and map elements in any order.
fn sorted(mut rules: serde_json::Value) -> Vec<String> {
    let mut all: Vec<String> = rules["nftables"]
        .as_array_mut()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    all.sort();
    all
}

fn same_as(text: &str) {
    let ours = sorted(ruleset());
    nft("flush ruleset");
    nft(text);
    let peers = sorted(ruleset());
    for (ours, peers) in ours.iter().zip(&peers) {
        assert_eq!(ours, peers);
    }
    assert_eq!(ours.len(), peers.len());
}

#[test]
fn the_ordinary_table() {
    let Some(lab) = Lab::with_outside() else { return };
    // Forwarding is on already, so nothing is said about the host's outside links.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    let network = lab.network();
    let any = PortMapping {
        proto: Proto::Tcp,
        host_ip: [0; 4].into(),
        host_port: 8080,
        container_port: 80,
    };
    let one = PortMapping {
        host_ip: lab::HOST.into(),
        host_port: 53,
        ..any
    };
    let id = "0123456789abcdef".repeat(4);
    let endpoint = network.allocate(&id, None).unwrap();
    let netns = kelson_network::create_netns().unwrap();
    network.connect(&endpoint, netns.as_fd()).unwrap();
    // The first by an element's message, the second within the whole table: both ways of writing one.
    network.publish(&endpoint, &[any, one]).unwrap();
    same_as(include_str!("data/table.nft"));
    let live = kelson_network::LiveEndpoint {
        endpoint,
        ports: vec![any, one],
    };
    lab.network().reconcile(&[live], false).unwrap();
    same_as(include_str!("data/table.nft"));
}

/// More elements than one message or the ordinary send buffer takes.
#[test]
fn thousands_of_published_ports() {
    let Some(lab) = Lab::new() else { return };
    let network = lab.network();
    let a = Container::start(&network, &id(1), &[PortSpec::new(Proto::Tcp, 0, 80)]);
    let port = |n: u16| PortMapping {
        host_port: 1000 + n,
        ..a.mappings()[0]
    };
    let many: Vec<PortMapping> = (0..6_000).map(port).collect();
    network.publish(&a.endpoint, &many).unwrap();
    nft("flush ruleset");
    // One more makes it write the whole table.
    network.publish(&a.endpoint, &[port(6_001)]).unwrap();
    let count = ruleset().to_string().matches("\"elem\":{\"comment\"").count();
    assert_eq!(count, 6_002);
    network.disconnect(&id(1)).unwrap();
    assert!(!ruleset().to_string().contains("\"elem\""));
}
