//! What a monitoring system asks for.

use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

use crate::support::images::Image;
use crate::support::net::{get, loopback};
use crate::support::programs::Engine;
use crate::support::{Client, Playground};

#[test]
fn prometheus_finds_its_figures() {
    if Engine::chosen() == Engine::Dockerd {
        eprintln!("skipped: dockerd has figures of its own");
        return;
    }
    let arguments = |_: &std::path::Path| vec!["--metrics-addr=127.0.0.1:9323".to_owned()];
    let play = Playground::with_arguments(Client::Kelson, &[Image::Busybox], arguments);
    let image = Image::Busybox.reference();
    play.ok(&["run", "-d", "--name", "one", image, "sleep", "1000"]);
    play.ok(&["run", "--name", "two", image, "true"]);
    play.run(&["start", "nothing"]);
    let text = eventually("the page", Duration::from_secs(20), || {
        get(loopback(9323), "/metrics").map(Some)
    })
    .unwrap();
    for line in [
        "engine_daemon_container_states_containers{state=\"running\"} 1",
        "engine_daemon_container_states_containers{state=\"stopped\"} 1",
        "engine_daemon_images 1",
        "# TYPE process_cpu_seconds counter",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    let refused = text
        .lines()
        .find_map(|line| line.strip_prefix("kelson_api_answers_total{status=\"4xx\"} "));
    assert!(refused.unwrap().parse::<u64>().unwrap() > 0, "{text}");
    let about = text
        .lines()
        .find(|line| line.starts_with("engine_daemon_engine_info{"))
        .unwrap();
    assert!(about.contains("os_type=\"linux\""), "{about}");
    play.ok(&["rm", "-f", "one", "two"]);
    play.finish();
}
