//! The bridge network as the engine uses it, in a network namespace of the test's own.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kelson_api::PortBinding;
use kelson_core::{Kind, NetworkSettings};
use support::{Place, create, eventually_status, host, logs, script, within};

/// A place whose threads, and so its daemons, live in a fresh network namespace. To be called before any thread is made.
fn place() -> Option<Place> {
    let mut place = Place::new()?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let up = std::process::Command::new("/usr/bin/busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
    place.config.network = NetworkSettings::default();
    Some(place)
}

fn links() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines()
        .skip(2)
        .filter_map(|l| l.split(':').next())
        .map(|n| n.trim().to_owned())
        .collect()
}

/// What a server on this port says, once it answers.
fn fetch(port: u16) -> String {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let _ = stream.read_to_string(&mut text);
        }
        if !text.is_empty() {
            return text;
        }
        assert!(Instant::now() < end, "nobody answers on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn server(port: &str) -> kelson_api::ContainerCreateRequest {
    let mut request =
        script("ip -4 addr show dev eth0 | grep inet; while :; do echo served | nc -l -p 80; done");
    host(&mut request).network_mode = String::new();
    let binding = PortBinding {
        host_ip: String::new(),
        host_port: port.to_owned(),
    };
    host(&mut request).port_bindings = Some([("80/tcp".to_owned(), Some(vec![binding]))].into());
    request
}

#[test]
fn a_published_port_outlives_the_daemon() {
    let Some(place) = place() else { return };
    let before = links();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let port = first.block_on(async {
        let engine = place.engine().await;
        create(&engine, "web", server("")).await;
        within(engine.container_start("web")).await.unwrap();
        let settings = engine
            .container_inspect("web", false)
            .await
            .unwrap()
            .network_settings;
        let ports = settings.ports.unwrap();
        let port: u16 = ports["80/tcp"].as_ref().unwrap()[0].host_port.parse().unwrap();
        let address = settings.ip_address;
        let network = engine.network_inspect("bridge").await.unwrap();
        assert_eq!(network.containers.unwrap().len(), 1);
        assert_eq!(
            tokio::task::spawn_blocking(move || fetch(port)).await.unwrap(),
            "served\n"
        );
        assert!(logs(&engine, "web").await.0.contains(&address));

        create(&engine, "other", server(&port.to_string())).await;
        let e = within(engine.container_start("other")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        let text = e.to_string();
        assert!(
            text.starts_with("driver failed programming external connectivity on endpoint other ("),
            "{text}"
        );
        assert!(text.ends_with("failed: port is already allocated"), "{text}");
        assert_eq!(
            engine
                .container_inspect("other", false)
                .await
                .unwrap()
                .state
                .status,
            "created"
        );
        port
    });
    first.shutdown_timeout(Duration::from_secs(5));
    assert_eq!(fetch(port), "served\n", "without a daemon");
    let second = runtime();
    second.block_on(async {
        let engine = place.open().await;
        eventually_status(&engine, "web", "running").await;
        assert_eq!(
            tokio::task::spawn_blocking(move || fetch(port)).await.unwrap(),
            "served\n"
        );
        let inspect = engine.container_inspect("web", false).await.unwrap();
        assert!(!inspect.network_settings.ip_address.is_empty());
        place.finish(engine).await;
    });
    assert_eq!(links(), before);
}
