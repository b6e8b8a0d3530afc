//! Health checks: run as execs, judged, told, gone on with by the next daemon, and ended when they hang.

use std::time::Duration;

use kelson_spec_tests::eventually::eventually;
use serde_json::Value;

use crate::support::images::Image;
use crate::support::programs::Engine;
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(30);
const QUICK: [&str; 4] = ["--health-interval", "200ms", "--health-start-interval", "200ms"];

#[test]
fn kelson_watches_health() {
    watches_health(Client::Kelson);
}

#[test]
fn docker_watches_health() {
    watches_health(Client::Docker);
}

fn watches_health(client: Client) {
    let mut play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let before = play.inventory();
    let check = [
        "--health-cmd",
        "cat /ok",
        "--health-retries",
        "2",
        "--health-start-period",
        "10m",
    ];
    let words = [
        &["run", "-d", "--name", "web"],
        &check[..],
        &QUICK,
        &[image, "sleep", "3600"],
    ]
    .concat();
    play.ok(&words);
    // Failures at the start do not count.
    let first = eventually("a first failure", SECONDS, || {
        Ok(log(&play, "web").first().cloned())
    })
    .unwrap();
    assert_eq!(first["ExitCode"], 1);
    assert!(first["Output"].as_str().unwrap().contains("/ok"), "{first}");
    assert_eq!(play.inspect("web", "/State/Health/Status"), "starting");
    assert_eq!(play.inspect("web", "/State/Health/FailingStreak"), 0);
    assert!(
        status(&play, "web").ends_with("(health: starting)"),
        "{}",
        status(&play, "web")
    );

    let mut events = play.follow(&[
        "events",
        "--filter",
        "event=health_status",
        "--since",
        "1",
        "--format",
        "{{.Action}}",
    ]);
    play.ok(&["exec", "web", "touch", "/ok"]);
    events.wait_for("an event", SECONDS, |line| line == "health_status: healthy");
    assert!(
        status(&play, "web").ends_with("(healthy)"),
        "{}",
        status(&play, "web")
    );
    assert_eq!(
        play.ok(&["ps", "--filter", "health=healthy", "--format", "{{.Names}}"]),
        "web"
    );
    assert_eq!(play.ok(&["ps", "-q", "--filter", "health=starting"]), "");
    play.run(&["ps", "--filter", "health=fine"]).fails_with(1);

    if Engine::chosen() == Engine::Kelsond {
        drop(events);
        play.kill_daemon();
        play.start_daemon();
        assert_eq!(play.inspect("web", "/State/Health/Status"), "healthy");
    }
    play.ok(&["exec", "web", "rm", "/ok"]);
    await_status(&play, "web", "unhealthy");
    // The fifth is the last that is kept.
    eventually("six failures", SECONDS, || {
        Ok((play.inspect("web", "/State/Health/FailingStreak").as_i64() >= Some(6)).then_some(()))
    })
    .unwrap();
    assert_eq!(log(&play, "web").len(), 5);

    hangs(&play);
    play.ok(&["stop", "-t", "0", "web"]);
    let ended = log(&play, "web");
    assert!(
        status(&play, "web").starts_with("Exited"),
        "{}",
        status(&play, "web")
    );
    assert_eq!(log(&play, "web"), ended);
    play.ok(&["rm", "web"]);

    let none = [
        &["create", "--no-healthcheck", "--name", "none"],
        &[image, "true"][..],
    ]
    .concat();
    play.ok(&none);
    assert!(play.inspect("none", "/State").get("Health").is_none());
    play.ok(&["rm", "none"]);
    if Engine::chosen() == Engine::Kelsond {
        restarts_what_is_unhealthy(&play);
    }
    play.nothing_left_since(&before);
    play.finish();
}

/// A check that does not end is killed, and what it started, too.
fn hangs(play: &Playground) {
    let check = [
        "--health-cmd",
        "echo begun; sleep 1234",
        "--health-timeout",
        "500ms",
        "--health-retries",
        "1",
    ];
    let words = [
        &["run", "-d", "--name", "hangs"],
        &check[..],
        &QUICK,
        &[Image::Busybox.reference(), "sleep", "3600"],
    ];
    play.ok(&words.concat());
    await_status(play, "hangs", "unhealthy");
    let last = log(play, "hangs").pop().unwrap();
    assert_eq!(last["ExitCode"], -1);
    assert!(
        last["Output"]
            .as_str()
            .unwrap()
            .starts_with("Health check exceeded timeout (500ms)"),
        "{last}"
    );
    if Engine::chosen() == Engine::Kelsond {
        let id = play.inspect("hangs", "/Id");
        eventually("five checks that hung", SECONDS, || {
            Ok((log(play, "hangs").len() == 5).then_some(()))
        })
        .unwrap();
        let top = play.ok(&["top", id.as_str().unwrap()]);
        let left = top
            .lines()
            .filter(|line| line.ends_with(" sleep 1234") && !line.contains("echo"))
            .count();
        assert!(left <= 1, "checks that hung go on:\n{top}");
    }
    play.ok(&["rm", "-f", "hangs"]);
}

/// The policy of our own.
fn restarts_what_is_unhealthy(play: &Playground) {
    let check = [
        "--health-cmd",
        "false",
        "--health-retries",
        "2",
        "--restart",
        "on-unhealthy:2",
        "--stop-timeout",
        "0",
    ];
    let words = [
        &["run", "-d", "--name", "sick"],
        &check[..],
        &QUICK,
        &[Image::Busybox.reference(), "sleep", "3600"],
    ];
    play.ok(&words.concat());
    eventually("two restarts and an end", SECONDS, || {
        let state = play.inspect("sick", "/State/Status");
        let restarts = play.inspect("sick", "/RestartCount");
        Ok((state == "exited" && restarts == 2).then_some(()))
    })
    .unwrap();
    play.ok(&["rm", "sick"]);
}

fn log(play: &Playground, name: &str) -> Vec<Value> {
    play.inspect(name, "/State/Health/Log")
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn status(play: &Playground, name: &str) -> String {
    play.ok(&[
        "ps",
        "-a",
        "--filter",
        &format!("name=^{name}$"),
        "--format",
        "{{.Status}}",
    ])
}

#[track_caller]
fn await_status(play: &Playground, name: &str, wanted: &str) {
    let found = eventually(wanted, SECONDS, || {
        Ok((play.inspect(name, "/State/Health/Status") == wanted).then_some(()))
    });
    found.unwrap_or_else(|error| panic!("{error:#}\n{}", play.inspect(name, "/State")));
}
