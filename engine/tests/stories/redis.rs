//! Issue's story 1 and 2: a database out of Debian's packages, reached over TCP.

use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

use crate::support::images::Image;
use crate::support::net::{loopback, redis};
use crate::support::{Client, Playground};

#[test]
fn kelson_keeps_a_key() {
    keeps_a_key(Client::Kelson);
}

#[test]
fn docker_keeps_a_key() {
    keeps_a_key(Client::Docker);
}

fn keeps_a_key(client: Client) {
    let play = Playground::new(client, &[Image::Redis]);
    let image = Image::Redis.reference();
    play.ok(&["pull", image]);
    play.warm_up(image);
    let before = play.inventory();
    let id = play.ok(&["run", "-dp", "1234:6379", image]);
    let ask = |command: &str| redis(loopback(1234), command);
    let pong = eventually("an answer of redis", Duration::from_secs(20), || {
        ask("PING").map(Some)
    });
    assert_eq!(pong.unwrap(), "+PONG");
    assert_eq!(ask("SET ship kelson").unwrap(), "+OK");
    assert_eq!(ask("GET ship").unwrap(), "kelson");
    play.ok(&["stop", &id]);
    assert_eq!(play.inspect(&id, "/State/ExitCode"), 0);
    play.ok(&["rm", &id[..12]]);
    play.nothing_left_since(&before);
    play.finish();
}
