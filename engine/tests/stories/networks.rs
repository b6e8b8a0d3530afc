//! Networks of the user's own: names, several networks for one container, what is cut off from what, and what a daemon that
//! dies leaves.

use std::path::PathBuf;
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::images::Image;
use crate::support::net::{get, loopback};
use crate::support::programs::{Engine, peer};
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(20);

#[test]
fn kelson_finds_containers_by_name() {
    finds_by_name(Client::Kelson);
}

#[test]
fn docker_finds_containers_by_name() {
    finds_by_name(Client::Docker);
}

fn finds_by_name(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let before = play.inventory();
    let id = play.ok(&["network", "create", "--label", "app=leafy", "leafy"]);
    assert_eq!(id.len(), 64, "{id}");
    let listed = play.ok(&[
        "network",
        "ls",
        "--filter",
        "label=app=leafy",
        "--format",
        "{{.Name}} {{.Driver}}",
    ]);
    assert_eq!(listed, "leafy bridge");
    play.run(&["network", "create", "leafy"]).fails_with(1);

    let server = "while :; do echo served | nc -l -p 80; done";
    play.ok(&[
        "run",
        "-d",
        "--name",
        "database",
        "--network",
        "leafy",
        "--network-alias",
        "store",
        image,
        "sh",
        "-c",
        server,
    ]);
    let short = play.ok(&["inspect", "--format", "{{.Id}}", "database"])[..12].to_owned();
    for name in ["database", "store", "DATABASE", "database.leafy", &short] {
        assert_eq!(ask(&play, "leafy", name), "served", "{name}");
    }
    // The default bridge knows no names.
    let stranger = format!("busybox nslookup database {}; nc -w 2 database 80", "127.0.0.11");
    let outcome = play.run(&["run", "--rm", image, "sh", "-c", &stranger]);
    assert_ne!(outcome.code, 0, "{outcome:?}");
    cut_off(&play);
    refused(&play);

    play.ok(&["rename", "database", "renamed"]);
    assert_eq!(ask(&play, "leafy", "renamed"), "served");
    play.ok(&["rm", "-f", "renamed"]);
    assert_eq!(play.ok(&["network", "rm", "leafy"]), "leafy");
    play.nothing_left_since(&before);
    play.finish();
}

/// What a server of that name says to a container of a network.
fn ask(play: &Playground, network: &str, name: &str) -> String {
    let image = Image::Busybox.reference();
    let command = format!("nc -w 5 {name} 80");
    let answered = eventually(&format!("an answer of {name}"), SECONDS, || {
        let outcome = play.run(&["run", "--rm", "--network", network, image, "sh", "-c", &command]);
        anyhow::ensure!(outcome.code == 0 && !outcome.stdout.is_empty(), "{outcome:?}");
        Ok(Some(outcome.stdout.trim().to_owned()))
    });
    answered.unwrap()
}

/// From another network there is no way by address, either.
fn cut_off(play: &Playground) {
    let image = Image::Busybox.reference();
    let address = play.inspect("database", "/NetworkSettings/Networks/leafy/IPAddress");
    let address = address.as_str().unwrap();
    play.ok(&["network", "create", "other"]);
    let command = format!("nc -w 1 {address} 80");
    for network in ["other", "bridge"] {
        let outcome = play.run(&["run", "--rm", "--network", network, image, "sh", "-c", &command]);
        assert!(
            outcome.code != 0 && outcome.stdout.is_empty(),
            "{network}: {outcome:?}"
        );
    }
    play.ok(&["network", "rm", "other"]);
}

fn refused(play: &Playground) {
    let image = Image::Busybox.reference();
    let in_use = play.run(&["network", "rm", "leafy"]).fails_with(1);
    assert!(in_use.contains("has active endpoints"), "{in_use}");
    let predefined = play.run(&["network", "rm", "host"]).fails_with(1);
    assert!(predefined.contains("pre-defined"), "{predefined}");
    let address = play
        .run(&[
            "run",
            "--rm",
            "--network",
            "leafy",
            "--ip",
            "10.1.2.3",
            image,
            "true",
        ])
        .fails_with(125);
    assert!(address.contains("user configured subnets"), "{address}");
    let twice = play
        .run(&["network", "connect", "leafy", "database"])
        .fails_with(1);
    assert!(twice.contains("already exists in network leafy"), "{twice}");
}

#[test]
fn kelson_connects_what_runs() {
    connects(Client::Kelson);
}

#[test]
fn docker_connects_what_runs() {
    connects(Client::Docker);
}

fn connects(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    // The cgroup of all containers goes with the one that made it.
    play.ok(&[
        "run",
        "-d",
        "--name",
        "keeper",
        "--network",
        "none",
        image,
        "sleep",
        "3600",
    ]);
    let before = play.inventory();
    play.ok(&[
        "network",
        "create",
        "--subnet",
        "10.81.0.0/24",
        "--gateway",
        "10.81.0.9",
        "front",
    ]);
    play.ok(&[
        "network",
        "create",
        "--internal",
        "--subnet",
        "10.82.0.0/24",
        "back",
    ]);
    play.ok(&[
        "run", "-d", "--name", "web", "-p", "8080:80", image, "httpd", "-f", "-h", "/etc",
    ]);
    play.ok(&[
        "run",
        "-d",
        "--name",
        "peer",
        "--network",
        "back",
        "--ip",
        "10.82.0.77",
        image,
        "sleep",
        "3600",
    ]);
    let web = |command: &str| play.ok(&["exec", "web", "sh", "-c", command]);

    play.ok(&["network", "connect", "--alias", "www", "back", "web"]);
    play.ok(&["network", "connect", "--ip", "10.81.0.5", "front", "web"]);
    let addresses = web("ip -4 -o addr");
    assert!(
        addresses.contains("eth1") && addresses.contains("10.81.0.5/24"),
        "{addresses}"
    );
    assert!(web("cat /etc/hosts").contains("10.81.0.5"));
    assert!(web("busybox nslookup peer").contains("10.82.0.77"));
    let address = play.inspect("web", "/NetworkSettings/Networks/back/IPAddress");
    let found = play.ok(&["exec", "peer", "busybox", "nslookup", "www"]);
    assert!(found.contains(address.as_str().unwrap()), "{found}");
    // An internal network leads nowhere. (Debian's dockerd gave it a route, and dropped what went there.)
    let routes = play.ok(&["exec", "peer", "sh", "-c", "ip route"]);
    assert!(
        !routes.contains("default") || Engine::chosen() == Engine::Dockerd,
        "{routes}"
    );
    eventually("the published port", SECONDS, || {
        get(loopback(8080), "/hostname").map(Some)
    })
    .unwrap();

    play.ok(&["network", "disconnect", "back", "web"]);
    assert!(!web("ip -4 -o addr").contains("10.82.0."));
    play.run(&["exec", "peer", "busybox", "nslookup", "www"])
        .fails_with(1);
    play.run(&["network", "disconnect", "back", "web"]).fails_with(1);

    // Changes of one that does not run count from its next start.
    play.ok(&["stop", "-t", "1", "web"]);
    play.ok(&["network", "connect", "back", "web"]);
    play.ok(&["network", "disconnect", "front", "web"]);
    play.ok(&["start", "web"]);
    let addresses = web("ip -4 -o addr");
    assert!(
        addresses.contains("10.82.0.") && !addresses.contains("10.81.0."),
        "{addresses}"
    );

    play.ok(&["rm", "-f", "web", "peer"]);
    let pruned = play.ok(&["network", "prune", "-f"]);
    assert!(pruned.contains("front") && pruned.contains("back"), "{pruned}");
    play.nothing_left_since(&before);
    play.ok(&["rm", "-f", "keeper"]);
    play.finish();
}

#[test]
fn names_outlive_the_daemon_and_their_resolver() {
    if Engine::chosen() == Engine::Dockerd {
        eprintln!("skipped: dockerd's resolver is a part of it");
        return;
    }
    let mut play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let before = play.inventory();
    let network = play.ok(&["network", "create", "back"]);
    for name in ["one", "two"] {
        play.ok(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "back",
            image,
            "sleep",
            "3600",
        ]);
    }
    let pid = play.inspect("two", "/State/Pid").as_i64().unwrap();
    // The host's program in the container's network: nothing of a daemon's is asked.
    let resolves = || {
        let mut ask = std::process::Command::new(peer("nsenter"));
        ask.args(["--target", &pid.to_string(), "--net"])
            .arg(peer("busybox"));
        ask.args(["nslookup", "one", "127.0.0.11"]);
        crate::support::command::run(&mut ask, SECONDS).code == 0
    };
    play.kill_daemon();
    assert!(resolves(), "without a daemon");
    play.start_daemon();
    assert!(resolves(), "with a new daemon");

    // The new daemon hears of the end of a resolver that it did not start.
    let resolver = || resolver_of(&play, &network);
    let first = resolver().unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    eventually("another resolver", SECONDS, || {
        anyhow::ensure!(resolver()? != first);
        anyhow::ensure!(resolves());
        Ok(Some(()))
    })
    .unwrap();

    // A daemon that was away when a container ended makes order.
    play.kill_daemon();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    play.start_daemon();
    play.ok(&["rm", "-f", "two"]);
    play.ok(&["rm", "-f", "one"]);
    play.ok(&["network", "rm", "back"]);
    play.warm_up(image);
    play.nothing_left_since(&before);
    play.finish();
}

/// The process that serves a network's names, as its state file tells.
fn resolver_of(play: &Playground, network: &str) -> anyhow::Result<Pid> {
    let file: PathBuf = play.scratch().join(format!("exec/names/{network}.state"));
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let pid = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Ok(Pid::from_raw(pid.ok_or_else(|| anyhow::anyhow!("{state}"))?))
}

#[test]
fn kelson_leaves_no_network_half_made() {
    if Engine::chosen() == Engine::Dockerd {
        eprintln!("skipped: dockerd does not start over its own containerd's socket after a kill");
        return;
    }
    let mut play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let before = play.inventory();
    for round in 0..6u64 {
        for verb in ["create", "rm"] {
            let mut changing = play.command();
            changing.args(["network", verb, "victim"]);
            let null = std::process::Stdio::null;
            let mut changing = changing.stdout(null()).stderr(null()).spawn().unwrap();
            // Another moment of it in every round.
            std::thread::sleep(Duration::from_micros(700 * round));
            play.kill_daemon();
            changing.wait().unwrap();
            play.start_daemon();
            // It is there, whole, or it is not.
            if play.run(&["network", "inspect", "victim"]).code == 0 {
                play.ok(&["run", "--rm", "--network", "victim", image, "true"]);
            }
        }
        play.run(&["network", "rm", "victim"]);
        // A daemon that starts takes the default bridge away until somebody needs it.
        play.warm_up(image);
        play.nothing_left_since(&before);
    }
    play.finish();
}

#[test]
fn kelson_links_containers() {
    links(Client::Kelson);
}

#[test]
fn docker_links_containers() {
    links(Client::Docker);
}

fn links(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.ok(&[
        "run",
        "-d",
        "--name",
        "data-base",
        "-e",
        "MOOD=calm",
        "--expose",
        "5432",
        image,
        "sleep",
        "3600",
    ]);
    let seen = play.ok(&[
        "run",
        "--rm",
        "--name",
        "client",
        "--link",
        "data-base:the-db",
        image,
        "sh",
        "-c",
        "cat /etc/hosts; env",
    ]);
    let address = play.inspect("data-base", "/NetworkSettings/Networks/bridge/IPAddress");
    let address = address.as_str().unwrap();
    for line in [
        format!("{address}\tthe-db "),
        format!("THE_DB_PORT=tcp://{address}:5432"),
        format!("THE_DB_PORT_5432_TCP_ADDR={address}"),
        "THE_DB_NAME=/client/the-db".to_owned(),
        "THE_DB_ENV_MOOD=calm".to_owned(),
    ] {
        assert!(seen.contains(&line), "{line} is not in\n{seen}");
    }
    follows_a_restart(&play);
    play.ok(&["stop", "-t", "0", "data-base"]);
    let error = play
        .run(&["run", "--rm", "--link", "data-base", image, "true"])
        .fails_with(125);
    assert!(
        error.contains("Cannot link to a non running container"),
        "{error}"
    );

    play.ok(&["network", "create", "back"]);
    play.ok(&[
        "run",
        "-d",
        "--name",
        "named",
        "--network",
        "back",
        image,
        "sleep",
        "3600",
    ]);
    let found = play.ok(&[
        "run",
        "--rm",
        "--network",
        "back",
        "--link",
        "named:alias",
        image,
        "busybox",
        "nslookup",
        "alias",
    ]);
    let address = play.inspect("named", "/NetworkSettings/Networks/back/IPAddress");
    assert!(found.contains(address.as_str().unwrap()), "{found}");
    play.ok(&["rm", "-f", "data-base", "named"]);
    play.ok(&["network", "rm", "back"]);
    play.finish();
}

/// The address of the other end changes with its next start, and the line with it.
fn follows_a_restart(play: &Playground) {
    let image = Image::Busybox.reference();
    play.ok(&[
        "run",
        "-d",
        "--name",
        "follower",
        "--link",
        "data-base:store",
        image,
        "sleep",
        "3600",
    ]);
    play.ok(&["stop", "-t", "0", "data-base"]);
    // Somebody else gets its address.
    play.ok(&["run", "-d", "--name", "usurper", image, "sleep", "3600"]);
    play.ok(&["start", "data-base"]);
    let address = play.inspect("data-base", "/NetworkSettings/Networks/bridge/IPAddress");
    let line = format!("{}\tstore ", address.as_str().unwrap());
    eventually("the new address", SECONDS, || {
        let hosts = play.ok(&["exec", "follower", "cat", "/etc/hosts"]);
        anyhow::ensure!(
            hosts.contains(&line) && hosts.matches("store").count() == 1,
            "{hosts}"
        );
        Ok(Some(()))
    })
    .unwrap();
    play.ok(&["rm", "-f", "follower", "usurper"]);
}
