//! Packets: between containers, to the outside, from the outside, back to itself, and where none may pass.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod lab;

use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

use kelson_network::{NetworkConfig, PortSpec, Proto};
use lab::{
    Container, HOST, Lab, OUTSIDE, PATIENCE, SILENCE, ask, ask_udp, ask_within, id, inside, nft, run,
    serve_inside,
};

#[test]
fn containers_and_host_talk_to_each_other() {
    let Some(lab) = Lab::new() else { return };
    let network = lab.network();
    let (a, b) = (
        Container::start(&network, &id(1), &[]),
        Container::start(&network, &id(2), &[]),
    );
    b.serve(80);
    assert_eq!(
        inside(&a.netns, || ask(b.endpoint.ip, 80)),
        Some(IpAddr::from(a.endpoint.ip))
    );
    assert_eq!(ask(b.endpoint.ip, 80), Some(IpAddr::from(b.endpoint.gateway)));
    // What docker's users see inside.
    let address = inside(&a.netns, || run("ip", &["-j", "-4", "addr", "show", "eth0"]));
    let address: serde_json::Value = serde_json::from_str(&address).unwrap();
    assert_eq!(address[0]["addr_info"][0]["local"], a.endpoint.ip.to_string());
    assert_eq!(address[0]["addr_info"][0]["broadcast"], "172.30.255.255");
    let link = inside(&a.netns, || run("ip", &["-j", "link", "show", "eth0"]));
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    assert_eq!(link[0]["address"], a.endpoint.mac.to_string());
    assert_eq!(link[0]["operstate"], "UP");
    let route = inside(&a.netns, || run("ip", &["route"]));
    assert!(route.contains("default via 172.30.0.1 dev eth0"), "{route}");
    assert!(
        inside(&a.netns, || TcpListener::bind("[::1]:80").is_ok()),
        "loopback has IPv6"
    );
    assert!(!inside(&a.netns, || run("ip", &["-6", "addr", "show", "eth0"])).contains("inet6"));
}

#[test]
fn the_outside_sees_the_host() {
    let Some(lab) = Lab::with_outside() else { return };
    let network = lab.network();
    let a = Container::start(&network, &id(1), &[]);
    serve_inside(lab.outside(), 7000);
    assert_eq!(inside(&a.netns, || ask(OUTSIDE, 7000)), Some(IpAddr::from(HOST)));
}

/// With br_netfilter the translation happens inside the bridge, without it in the host: both must do.
#[test]
fn a_published_port_answers_from_everywhere() {
    for bridge_filter in ["0", "1"] {
        let Some(lab) = Lab::with_outside() else { return };
        let switch = std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
        if switch.exists() {
            std::fs::write(switch, bridge_filter).unwrap();
        }
        published_port_answers_from_everywhere(&lab);
    }
}

fn published_port_answers_from_everywhere(lab: &Lab) {
    let network = lab.network();
    let ports = [
        PortSpec::new(Proto::Tcp, 8080, 80),
        PortSpec::new(Proto::Udp, 5353, 53),
    ];
    let a = Container::start(&network, &id(1), &ports);
    let b = Container::start(&network, &id(2), &[]);
    a.serve(80);
    lab::serve_udp_inside(&a.netns, 53);
    // From outside with the true source; from the host by its own address; from a neighbour; from itself.
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
    assert_eq!(
        inside(lab.outside(), || ask_udp(HOST, 5353)),
        Some(IpAddr::from(OUTSIDE))
    );
    assert_eq!(ask(HOST, 8080), Some(IpAddr::from(HOST)));
    assert_eq!(
        ask(b.endpoint.gateway, 8080),
        Some(IpAddr::from(a.endpoint.gateway))
    );
    assert_eq!(
        inside(&b.netns, || ask(HOST, 8080)),
        Some(IpAddr::from(a.endpoint.gateway))
    );
    assert_eq!(
        inside(&a.netns, || ask(HOST, 8080)),
        Some(IpAddr::from(a.endpoint.gateway))
    );
    network.disconnect(&id(1)).unwrap();
    drop(a);
    assert_eq!(inside(lab.outside(), || ask_within(HOST, 8080, SILENCE)), None);
}

#[test]
fn a_port_on_one_address_answers_there_only() {
    let Some(lab) = Lab::with_outside() else { return };
    run("ip", &["addr", "add", "10.50.0.3/24", "dev", "up0"]);
    let network = lab.network();
    let on = |ip: [u8; 4]| PortSpec {
        host_ip: Some(ip.into()),
        ..PortSpec::new(Proto::Tcp, 8080, 80)
    };
    let (a, b) = (
        Container::start(&network, &id(1), &[on([10, 50, 0, 1])]),
        Container::start(&network, &id(2), &[on([127, 0, 0, 1])]),
    );
    a.serve(80);
    b.serve(80);
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
    assert_eq!(
        inside(lab.outside(), || ask_within([10, 50, 0, 3].into(), 8080, SILENCE)),
        None
    );
    assert_eq!(b.bound.len(), 1);
}

#[test]
fn what_is_not_published_is_closed_to_the_outside() {
    let Some(lab) = Lab::with_outside() else { return };
    let network = lab.network();
    let a = Container::start(&network, &id(1), &[PortSpec::new(Proto::Tcp, 8080, 80)]);
    a.serve(80);
    a.serve(81);
    inside(lab.outside(), || {
        run("ip", &["route", "add", "172.30.0.0/16", "via", &HOST.to_string()])
    });
    assert_eq!(
        inside(lab.outside(), || ask_within(a.endpoint.ip, 81, SILENCE)),
        None
    );
    assert_eq!(ask(a.endpoint.ip, 81), Some(IpAddr::from(a.endpoint.gateway)));
}

#[test]
fn without_inter_container_traffic_only_published_ports_pass() {
    let Some(lab) = Lab::with_outside() else { return };
    let network = lab.network_with(NetworkConfig {
        inter_container: false,
        ..NetworkConfig::default()
    });
    let a = Container::start(&network, &id(1), &[PortSpec::new(Proto::Tcp, 8080, 80)]);
    let b = Container::start(&network, &id(2), &[]);
    a.serve(80);
    assert_eq!(inside(&b.netns, || ask_within(a.endpoint.ip, 80, SILENCE)), None);
    assert_eq!(ask(a.endpoint.ip, 80), Some(IpAddr::from(a.endpoint.gateway)));
    // A neighbour is not translated past the isolation: it reaches the bound socket, from which the shim forwards.
    let peer = inside(&b.netns, || {
        TcpStream::connect_timeout(&(HOST, 8080).into(), PATIENCE)
    });
    assert_eq!(peer.unwrap().peer_addr().unwrap().port(), 8080);
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
}

#[test]
fn a_forward_policy_of_others_does_not_cut_us_off() {
    let Some(lab) = Lab::with_outside() else { return };
    nft(
        "table ip filter {\n chain DOCKER-USER { counter return\n }\n chain FORWARD { type filter hook forward priority filter; policy drop\n jump DOCKER-USER\n }\n}\n",
    );
    let before = lab::ruleset();
    let network = lab.network();
    let a = Container::start(&network, &id(1), &[PortSpec::new(Proto::Tcp, 8080, 80)]);
    a.serve(80);
    serve_inside(lab.outside(), 7000);
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
    assert_eq!(inside(&a.netns, || ask(OUTSIDE, 7000)), Some(IpAddr::from(HOST)));
    network.disconnect(&id(1)).unwrap();
    network.shutdown().unwrap();
    assert_eq!(lab::ruleset(), before);
}

#[test]
fn a_udp_client_that_keeps_sending_follows_the_port_to_its_new_holder() {
    let Some(lab) = Lab::with_outside() else { return };
    let network = lab.network();
    let ports = [PortSpec::new(Proto::Udp, 5353, 53)];
    let client = inside(lab.outside(), || UdpSocket::bind("0.0.0.0:4000").unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect((HOST, 5353)).unwrap();
    let ask = || {
        client.send(b"?").unwrap();
        client.recv(&mut [0; 64]).is_ok()
    };
    let old = Container::start(&network, &id(1), &ports);
    lab::serve_udp_inside(&old.netns, 53);
    assert!(ask());
    network.disconnect(&id(1)).unwrap();
    network.settle(PATIENCE).unwrap();
    // Somebody else gets the address, a third one the port.
    let _bystander = Container::start(&network, &id(2), &[]);
    drop(old);
    let new = Container::start(&network, &id(3), &ports);
    lab::serve_udp_inside(&new.netns, 53);
    assert!(ask());
}
