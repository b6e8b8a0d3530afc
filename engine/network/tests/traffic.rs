//! Packets: between containers, to the outside, from the outside, back to itself, and where none may pass.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod lab;

use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use kelson_network::{Network, NetworkConfig, PortSpec, Proto, Shared, Wish, set_default_route};
use lab::{
    Container, HOST, Lab, OUTSIDE, PATIENCE, SILENCE, ask, ask_udp, ask_within, id, inside, nft, ruleset,
    run, serve_inside,
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

/// Two networks of one kelsond, one of them internal: who reaches whom.
#[test]
fn networks_are_cut_off_from_each_other_and_an_internal_one_from_the_world() {
    let Some(lab) = Lab::with_outside() else { return };
    let before = ruleset();
    let shared = Shared::default();
    let open = |name: &str, bip: &str, internal| {
        let config = NetworkConfig {
            bridge: Some(name.to_owned()),
            bip: Some(bip.parse().unwrap()),
            internal,
            ..NetworkConfig::default()
        };
        Network::open_beside(&lab.dir.path().join(name), config, &shared).unwrap()
    };
    let front = open("klsfront", "10.71.0.1/24", false);
    let back = open("klsback", "10.72.0.1/24", true);
    let (a, b) = (
        Container::start(&front, &id(1), &[]),
        Container::start(&front, &id(2), &[]),
    );
    let (c, d) = (
        Container::start(&back, &id(3), &[]),
        Container::start(&back, &id(1), &[]),
    );
    // The same container has a link on each.
    assert_ne!(a.endpoint.host_link, d.endpoint.host_link);
    a.serve(80);
    c.serve(80);
    assert!(inside(&b.netns, || ask(a.endpoint.ip, 80)).is_some());
    assert!(inside(&d.netns, || ask(c.endpoint.ip, 80)).is_some());
    // Neither by the way that is there nor by one that a container makes for itself.
    assert_eq!(inside(&b.netns, || ask_within(c.endpoint.ip, 80, SILENCE)), None);
    inside(&c.netns, || {
        run("ip", &["route", "add", "default", "via", "10.72.0.1"])
    });
    assert_eq!(inside(&c.netns, || ask_within(a.endpoint.ip, 80, SILENCE)), None);
    serve_inside(lab.outside(), 80);
    assert!(inside(&a.netns, || ask(OUTSIDE, 80)).is_some());
    assert_eq!(inside(&c.netns, || ask_within(OUTSIDE, 80, SILENCE)), None);
    // The host reaches both.
    assert!(ask(a.endpoint.ip, 80).is_some() && ask(c.endpoint.ip, 80).is_some());
    for (network, ids) in [(&front, [1, 2]), (&back, [3, 1])] {
        for n in ids {
            network.disconnect(&id(n)).unwrap();
        }
        network.shutdown().unwrap();
    }
    assert_eq!(ruleset(), before);
}

#[test]
fn published_ports_move_with_the_default_route() {
    let Some(lab) = Lab::with_outside() else { return };
    let shared = Shared::default();
    let open = |name: &str, bip: &str| {
        let config = NetworkConfig {
            bridge: Some(name.to_owned()),
            bip: Some(bip.parse().unwrap()),
            ..NetworkConfig::default()
        };
        Network::open_beside(&lab.dir.path().join(name), config, &shared).unwrap()
    };
    let (one, two) = (open("klsone", "10.73.0.1/24"), open("klstwo", "10.74.0.1/24"));
    let a = Container::start(&one, &id(1), &[PortSpec::new(Proto::Tcp, 8080, 80)]);
    a.serve(80);
    let wish = Wish {
        container_link: Some("eth1".to_owned()),
        no_default_route: true,
        ..Wish::default()
    };
    let other = two.allocate_as(&id(1), wish).unwrap();
    two.connect(&other, a.netns.as_fd()).unwrap();
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
    set_default_route(a.netns.as_fd(), Some(&other)).unwrap();
    let ports = one.withdraw(&id(1)).unwrap();
    assert_eq!(ports, a.mappings());
    two.assume(&other, &ports).unwrap();
    one.disconnect(&id(1)).unwrap();
    one.settle(PATIENCE).unwrap();
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
    // It is still this kelsond's port.
    let taken = two
        .bind_ports(&id(2), &[PortSpec::new(Proto::Tcp, 8080, 80)])
        .unwrap_err();
    assert!(taken.to_string().contains("port is already allocated"), "{taken}");
    two.disconnect(&id(1)).unwrap();
    one.shutdown().unwrap();
    two.shutdown().unwrap();
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
