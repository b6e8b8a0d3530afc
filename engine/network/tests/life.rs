//! What is made is undone: by disconnect, by shutdown, by reconcile after a crash, after a failure half way.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod lab;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsFd;

use kelson_network::{Kind, LiveEndpoint, NetworkConfig, PortSpec, Proto};
use lab::{
    Container, HOST, Lab, OUTSIDE, PATIENCE, ask, files, forwarding, id, inside, links, nft, ruleset, run,
};

const WEB: PortSpec = PortSpec {
    proto: Proto::Tcp,
    host_ip: None,
    host_port: 8080,
    host_port_end: 8080,
    container_port: 80,
};

#[test]
fn nothing_is_made_before_it_is_needed_and_nothing_is_left() {
    let Some(lab) = Lab::new() else { return };
    let (links_before, rules_before) = (links(), ruleset());
    let network = lab.network();
    assert_eq!(network.info().unwrap().bridge, "kls0");
    assert_eq!((links(), ruleset()), (links_before.clone(), rules_before.clone()));

    let idle = Container::start(&network, &id(9), &[]);
    let (links_idle, rules_idle) = (links(), ruleset());
    let a = Container::start(&network, &id(1), &[WEB, PortSpec::new(Proto::Udp, 0, 53)]);
    assert_ne!(ruleset(), rules_idle);
    assert!(links().contains(&a.endpoint.host_link));
    network.disconnect(&id(1)).unwrap();
    network.disconnect(&id(1)).unwrap();
    network.settle(PATIENCE).unwrap();
    assert_eq!((links(), ruleset()), (links_idle, rules_idle));
    assert_eq!(forwarding(), "1");

    // A container still runs: kelsond's end changes nothing.
    network.shutdown().unwrap();
    assert!(links().contains(&"kls0".to_owned()));
    network.disconnect(&id(9)).unwrap();
    drop((a, idle));
    network.shutdown().unwrap();
    assert_eq!((links(), ruleset()), (links_before, rules_before));
    assert_eq!(forwarding(), "0");
    assert!(files(&lab.state_dir()).is_empty());

    // And it comes back.
    Container::start(&network, &id(2), &[]);
    network.disconnect(&id(2)).unwrap();
    network.shutdown().unwrap();
}

#[test]
fn a_taken_port_is_told_in_dockers_words() {
    let Some(lab) = Lab::new() else { return };
    let network = lab.network();
    let foreign = TcpListener::bind("0.0.0.0:8081").unwrap();
    let a = Container::start(&network, &id(1), &[WEB]);
    let refused = |spec: PortSpec| {
        network
            .bind_ports(&id(2), &[PortSpec::new(Proto::Tcp, 9000, 80), spec])
            .unwrap_err()
    };
    let ours = refused(WEB);
    assert_eq!(
        ours.to_string(),
        "Bind for 0.0.0.0:8080 failed: port is already allocated"
    );
    assert_eq!(ours.kind(), Kind::Conflict);
    let twice = network.bind_ports(
        &id(2),
        &[
            PortSpec::new(Proto::Tcp, 9000, 80),
            PortSpec::new(Proto::Tcp, 9000, 81),
        ],
    );
    assert_eq!(
        twice.unwrap_err().to_string(),
        "Bind for 0.0.0.0:9000 failed: port is already allocated"
    );
    let theirs = refused(PortSpec {
        host_port: 8081,
        host_port_end: 8081,
        ..WEB
    });
    assert_eq!(
        theirs.to_string(),
        "listen tcp4 0.0.0.0:8081: bind: address already in use"
    );
    let nowhere = refused(PortSpec {
        host_ip: Some([9, 9, 9, 9].into()),
        ..WEB
    });
    assert_eq!(nowhere.kind(), Kind::Invalid);
    // All or none: the port before the refused one is free.
    drop(TcpListener::bind("0.0.0.0:9000").unwrap());
    // The same number for another protocol is another port.
    network
        .bind_ports(
            &id(3),
            &[PortSpec {
                proto: Proto::Udp,
                ..WEB
            }],
        )
        .unwrap();
    // After disconnect, once the socket is closed (the shim ends), it is free.
    network.disconnect(&id(1)).unwrap();
    drop((a, foreign));
    assert!(network.bind_ports(&id(2), &[WEB]).is_ok());
}

#[test]
fn ports_of_the_kernels_choice_and_ranges() {
    let Some(lab) = Lab::new() else { return };
    let network = lab.network();
    let any = network
        .bind_ports(
            &id(1),
            &[PortSpec::new(Proto::Tcp, 0, 80), PortSpec::new(Proto::Udp, 0, 53)],
        )
        .unwrap();
    assert_eq!(any.len(), 4, "IPv4 and IPv6 each");
    assert!(any.iter().all(|b| b.mapping.host_port != 0));
    assert_eq!(any[0].mapping.host_port, any[1].mapping.host_port);
    assert_eq!(any[2].mapping.host_port, any[3].mapping.host_port);
    assert_eq!(any[1].mapping.host_ip, "::".parse::<IpAddr>().unwrap());
    let range = PortSpec {
        host_port_end: 8081,
        ..WEB
    };
    let one = network.bind_ports(&id(2), std::slice::from_ref(&range)).unwrap();
    let two = network.bind_ports(&id(3), std::slice::from_ref(&range)).unwrap();
    assert_eq!((one[0].mapping.host_port, two[0].mapping.host_port), (8080, 8081));
    let full = network
        .bind_ports(&id(4), std::slice::from_ref(&range))
        .unwrap_err();
    assert_eq!(full.kind(), Kind::Conflict);
    // A fixed port wins over a range that comes before it.
    network.disconnect(&id(2)).unwrap();
    network.disconnect(&id(3)).unwrap();
    drop((one, two));
    let both = network.bind_ports(&id(5), &[range, WEB]).unwrap();
    assert_eq!(
        (both[0].mapping.host_port, both[2].mapping.host_port),
        (8081, 8080)
    );
}

#[test]
fn the_pool_avoids_the_hosts_routes() {
    let Some(lab) = Lab::with_outside() else { return };
    run(
        "ip",
        &["route", "add", "172.30.7.0/24", "via", &OUTSIDE.to_string()],
    );
    let network = lab.network();
    let endpoint = network.allocate(&id(1), None).unwrap();
    assert_eq!(endpoint.ip, Ipv4Addr::new(172, 31, 0, 2));
    assert_eq!(network.info().unwrap().subnet.to_string(), "172.31.0.0/16");
}

#[test]
fn addresses_can_be_asked_for() {
    let Some(lab) = Lab::new() else { return };
    let network = lab.network();
    let wish = Ipv4Addr::new(172, 30, 9, 9);
    assert_eq!(network.allocate(&id(1), Some(wish)).unwrap().ip, wish);
    assert_eq!(
        network.allocate(&id(2), Some(wish)).unwrap_err().kind(),
        Kind::Conflict
    );
    let foreign = network.allocate(&id(2), Some([8, 8, 8, 8].into())).unwrap_err();
    assert_eq!(foreign.kind(), Kind::Invalid);
    network.release(&id(1));
    assert_eq!(network.allocate(&id(2), Some(wish)).unwrap().ip, wish);
}

#[test]
fn a_restart_takes_the_living_over_and_removes_the_rest() {
    let Some(lab) = Lab::with_outside() else { return };
    let (alive, dead) = {
        let network = lab.network();
        let alive = Container::start(&network, &id(1), &[WEB]);
        let dead = Container::start(&network, &id(2), &[PortSpec::new(Proto::Tcp, 9090, 80)]);
        (alive, dead)
    };
    alive.serve(80);
    // A link of somebody else's that only looks like ours.
    run("ip", &["link", "add", "br9", "type", "bridge"]);
    run(
        "ip",
        &[
            "link",
            "add",
            "klsvffffffff",
            "type",
            "veth",
            "peer",
            "name",
            "other",
        ],
    );
    run("ip", &["link", "set", "klsvffffffff", "master", "br9"]);

    let network = lab.network();
    let live = [LiveEndpoint {
        endpoint: alive.endpoint.clone(),
        ports: alive.mappings(),
    }];
    let report = network.reconcile(&live, false).unwrap();
    assert_eq!(report.removed_links.join(" "), dead.endpoint.host_link);
    assert!(report.without_link.is_empty() && !report.firewall_rebuilt);
    let rules = ruleset().to_string();
    assert!(rules.contains("8080") && !rules.contains("9090"));
    assert!(links().contains(&"klsvffffffff".to_owned()));
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
    // The living one's address and port are known to be its.
    assert_ne!(network.allocate(&id(3), None).unwrap().ip, alive.endpoint.ip);
    let taken = network.bind_ports(&id(3), &[WEB]).unwrap_err();
    assert!(
        taken.to_string().ends_with("port is already allocated"),
        "{taken}"
    );
    network.disconnect(&id(3)).unwrap();

    // It dies while kelsond is away, too; the next start finds nothing alive.
    drop(network);
    let network = lab.network();
    let report = network.reconcile(&[], false).unwrap();
    assert_eq!(report.removed_links.join(" "), alive.endpoint.host_link);
    assert!(
        !links()
            .iter()
            .any(|l| l.starts_with("kls") && l != "klsvffffffff")
    );
    assert!(!ruleset().to_string().contains("kelson"));
    assert!(files(&lab.state_dir()).is_empty());
}

#[test]
fn a_lost_record_and_a_flushed_firewall_are_rebuilt_around_the_living() {
    let Some(lab) = Lab::with_outside() else { return };
    let alive = Container::start(&lab.network(), &id(1), &[WEB]);
    alive.serve(80);
    std::fs::remove_file(lab.state_dir().join("bridge.json")).unwrap();
    nft("flush ruleset");
    let network = lab.network();
    let live = [LiveEndpoint {
        endpoint: alive.endpoint.clone(),
        ports: alive.mappings(),
    }];
    let report = network.reconcile(&live, false).unwrap();
    assert!(report.firewall_rebuilt && report.removed_links.is_empty());
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
    // A container whose link has gone is reported.
    run("ip", &["link", "del", &alive.endpoint.host_link]);
    let report = lab.network().reconcile(&live, false).unwrap();
    assert_eq!(report.without_link, [id(1)]);
}

#[test]
fn what_others_destroy_is_made_again_when_needed() {
    let Some(lab) = Lab::with_outside() else { return };
    let network = lab.network();
    let a = Container::start(&network, &id(1), &[WEB]);
    a.serve(80);
    nft("flush ruleset");
    let b = Container::start(&network, &id(2), &[PortSpec::new(Proto::Tcp, 9090, 80)]);
    b.serve(80);
    for port in [8080, 9090] {
        assert_eq!(
            inside(lab.outside(), || ask(HOST, port)),
            Some(IpAddr::from(OUTSIDE)),
            "{port}"
        );
    }
    nft("flush ruleset");
    network.disconnect(&id(2)).unwrap();
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
    run("ip", &["link", "del", "kls0"]);
    let c = Container::start(&network, &id(3), &[PortSpec::new(Proto::Tcp, 9091, 80)]);
    c.serve(80);
    for port in [8080, 9091] {
        assert_eq!(
            inside(lab.outside(), || ask(HOST, port)),
            Some(IpAddr::from(OUTSIDE)),
            "{port}"
        );
    }
}

#[test]
fn a_failed_connect_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let network = lab.network();
    let endpoint = network.allocate(&id(1), None).unwrap();
    let before = links();
    let netns = kelson_network::create_netns().unwrap();
    inside(&netns, || run("ip", &["link", "add", "eth0", "type", "bridge"]));
    let error = network.connect(&endpoint, netns.as_fd()).unwrap_err();
    assert!(error.to_string().contains(&endpoint.host_link), "{error}");
    assert_eq!(links(), before);
    // A link left over by a crash is no obstacle.
    run(
        "ip",
        &[
            "link",
            "add",
            &endpoint.host_link,
            "type",
            "veth",
            "peer",
            "name",
            "left",
        ],
    );
    let netns = kelson_network::create_netns().unwrap();
    network.connect(&endpoint, netns.as_fd()).unwrap();
    network.disconnect(&id(1)).unwrap();
    network.settle(PATIENCE).unwrap();
    assert_eq!(links(), before);
}

#[test]
fn a_failed_set_up_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let (links_before, rules_before) = (links(), ruleset());
    // Another's chain of our table's name in a family where nothing is replaced would be no conflict; a bridge name
    // the kernel takes and nft does not cannot exist. An MTU the kernel refuses can.
    let network = lab.network_with(NetworkConfig {
        mtu: Some(1),
        ..NetworkConfig::default()
    });
    assert!(network.allocate(&id(1), None).is_err());
    assert_eq!((links(), ruleset()), (links_before, rules_before));
    assert!(files(&lab.state_dir()).is_empty());
}

#[test]
fn two_engines_share_a_host() {
    let Some(lab) = Lab::with_outside() else { return };
    let (first, second_dir) = (lab.network(), tempfile::tempdir().unwrap());
    let second = kelson_network::Network::open(second_dir.path(), NetworkConfig::default()).unwrap();
    let a = Container::start(&first, &id(1), &[WEB]);
    let b = Container::start(&second, &id(2), &[PortSpec::new(Proto::Tcp, 9090, 80)]);
    a.serve(80);
    b.serve(80);
    assert_eq!(b.endpoint.bridge, "kls1");
    assert_ne!(a.endpoint.gateway, b.endpoint.gateway);
    for port in [8080, 9090] {
        assert_eq!(
            inside(lab.outside(), || ask(HOST, port)),
            Some(IpAddr::from(OUTSIDE)),
            "{port}"
        );
    }
    // Networks of two engines are apart.
    assert_eq!(
        inside(&b.netns, || lab::ask_within(a.endpoint.ip, 80, lab::SILENCE)),
        None
    );
    second.disconnect(&id(2)).unwrap();
    second.shutdown().unwrap();
    assert_eq!(
        inside(lab.outside(), || ask(HOST, 8080)),
        Some(IpAddr::from(OUTSIDE))
    );
}

#[test]
fn an_administrators_bridge_is_used_and_kept() {
    let Some(lab) = Lab::new() else { return };
    run("ip", &["link", "add", "br0", "type", "bridge"]);
    run("ip", &["link", "set", "br0", "up"]);
    run("ip", &["addr", "add", "10.77.0.1/24", "dev", "br0"]);
    let network = lab.network_with(NetworkConfig {
        bridge: Some("br0".into()),
        ..NetworkConfig::default()
    });
    let a = Container::start(&network, &id(1), &[]);
    a.serve(80);
    assert_eq!(a.endpoint.ip, Ipv4Addr::new(10, 77, 0, 2));
    assert_eq!(ask(a.endpoint.ip, 80), Some(IpAddr::from(a.endpoint.gateway)));
    network.disconnect(&id(1)).unwrap();
    network.shutdown().unwrap();
    assert!(links().contains(&"br0".to_owned()));
    assert!(!ruleset().to_string().contains("kelson"));
}

#[test]
fn without_a_firewall_there_are_links_and_sockets_only() {
    let Some(lab) = Lab::with_outside() else { return };
    let rules = ruleset();
    let network = lab.network_with(NetworkConfig {
        firewall: false,
        ..NetworkConfig::default()
    });
    let a = Container::start(&network, &id(1), &[WEB]);
    assert_eq!(ruleset(), rules);
    assert_eq!(a.bound.len(), 2);
    network.disconnect(&id(1)).unwrap();
}

#[test]
fn many_at_once() {
    let Some(lab) = Lab::new() else { return };
    let network = lab.network();
    let before = links();
    std::thread::scope(|scope| {
        for n in 1..=16u8 {
            let network = &network;
            scope.spawn(move || {
                let ports = [PortSpec::new(Proto::Tcp, 0, 80)];
                for _ in 0..3 {
                    let c = Container::start(network, &id(n), &ports);
                    assert_eq!(c.bound.len(), 2);
                    network.disconnect(&id(n)).unwrap();
                }
            });
        }
    });
    network.settle(PATIENCE).unwrap();
    let now: Vec<String> = links().into_iter().filter(|l| l != "kls0").collect();
    assert_eq!(now, before);
    let rules = ruleset().to_string();
    assert!(!rules.contains("elem"), "{rules}");
}

#[test]
fn an_address_is_not_given_away_while_its_old_link_stands() {
    let Some(lab) = Lab::new() else { return };
    let network = lab.network();
    for _ in 0..10 {
        let old = Container::start(&network, &id(1), &[]);
        network.disconnect(&id(1)).unwrap();
        // The same container again, at once: another link or the old one gone, another address or the old one free.
        let new = Container::start(&network, &id(1), &[]);
        if links().contains(&old.endpoint.host_link) && old.endpoint.host_link != new.endpoint.host_link {
            assert_ne!(old.endpoint.ip, new.endpoint.ip);
        }
        new.serve(80);
        assert_eq!(ask(new.endpoint.ip, 80), Some(IpAddr::from(new.endpoint.gateway)));
        network.disconnect(&id(1)).unwrap();
    }
    network.settle(PATIENCE).unwrap();
    let last = Container::start(&network, &id(2), &[]);
    assert_eq!(last.endpoint.ip, Ipv4Addr::new(172, 30, 0, 2));
}
