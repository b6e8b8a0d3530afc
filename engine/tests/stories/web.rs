//! Issue's story 1 and 2: a web server out of Debian's packages, from the registry to the last trace.

use std::fs;
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

use crate::support::command::feed;
use crate::support::images::Image;
use crate::support::net::{get, loopback};
use crate::support::outside::{HERE, Outside};
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(20);

#[test]
fn kelson_serves_a_page() {
    serves_a_page(Client::Kelson);
}

#[test]
fn docker_serves_a_page() {
    serves_a_page(Client::Docker);
}

fn serves_a_page(client: Client) {
    let play = Playground::new(client, &[Image::Nginx]);
    let image = Image::Nginx.reference();
    play.ok(&["pull", image]);
    play.warm_up(image);
    let before = play.inventory();

    let pages = play.scratch().join("pages");
    fs::create_dir(&pages).unwrap();
    fs::write(pages.join("index.html"), "a page of the host\n").unwrap();
    let bind = format!("{}:/usr/share/nginx/html:ro", pages.display());
    let id = play.ok(&["run", "-d", "--name", "web", "-p", "8080:80", "-v", &bind, image]);
    assert!(
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );

    let page = || get(loopback(8080), "/");
    assert_eq!(
        eventually("the page", SECONDS, || page().map(Some)).unwrap(),
        "a page of the host\n"
    );
    reachable_from_outside();
    shows_in_ps(&play, &id);
    logs(&play);
    read_only_bind(&play);

    play.ok(&["pause", "web"]);
    assert!(play.ok(&["ps"]).contains("(Paused)"));
    play.ok(&["unpause", "web"]);
    assert_eq!(page().unwrap(), "a page of the host\n");

    assert_eq!(play.ok(&["stop", "web"]), "web");
    assert!(page().is_err(), "a stopped container's port answers");
    let listed = play.ok(&["ps", "-a"]);
    assert!(listed.contains("Exited (0) "), "{listed}");
    assert!(!play.ok(&["ps"]).contains("web"));

    play.ok(&["start", "web"]);
    eventually("the page after a restart", SECONDS, || page().map(Some)).unwrap();
    play.ok(&["kill", "web"]);
    assert_eq!(play.ok(&["wait", "web"]), "137");
    assert_eq!(play.ok(&["rm", "web"]), "web");
    play.nothing_left_since(&before);

    let removed = play.ok(&["rmi", image]);
    assert!(
        removed.contains("Untagged: ") && removed.contains("Deleted: sha256:"),
        "{removed}"
    );
    assert!(!play.ok(&["images"]).contains("nginx"));
    play.finish();
}

fn reachable_from_outside() {
    let outside = Outside::connect();
    let page = || {
        let outcome = outside.get(8080, "/");
        anyhow::ensure!(outcome.code == 0, "{outcome:?}");
        Ok(Some(outcome.stdout))
    };
    assert_eq!(
        eventually("the page from another host", SECONDS, page).unwrap(),
        "a page of the host\n"
    );
    let own_address = format!("{HERE}:8080").parse().unwrap();
    assert_eq!(get(own_address, "/").unwrap(), "a page of the host\n");
    outside.disconnect();
}

fn shows_in_ps(play: &Playground, id: &str) {
    let listed = play.ok(&["ps"]);
    let (head, line) = listed.split_once('\n').expect("one container");
    for column in [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ] {
        assert!(head.contains(column), "{listed}");
    }
    for cell in [
        &id[..12],
        Image::Nginx.reference(),
        "\"nginx -g 'daemon of…\"",
        "Up ",
        "0.0.0.0:8080->80/tcp",
        "web",
    ] {
        assert!(line.contains(cell), "{cell} is not in {listed}");
    }
}

fn logs(play: &Playground) {
    for number in 0..15 {
        get(loopback(8080), &format!("/?request={number}")).unwrap();
    }
    let all = || play.ok(&["logs", "web"]);
    eventually("fifteen lines of log", SECONDS, || {
        Ok(all().contains("request=14").then_some(()))
    })
    .unwrap();
    let last: Vec<String> = play
        .run(&["logs", "--tail", "10", "web"])
        .ok()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(last.len(), 10, "{last:#?}");
    for (line, number) in last.iter().zip(5..) {
        assert!(line.contains(&format!("request={number} ")), "{line}");
    }
    let mut following = play.follow(&["logs", "-f", "--tail", "1", "web"]);
    following.wait_for("the last line", SECONDS, |line| line.contains("request=14 "));
    get(loopback(8080), "/?request=new").unwrap();
    following.wait_for("a new line", SECONDS, |line| line.contains("request=new "));
}

fn read_only_bind(play: &Playground) {
    let error = play
        .run(&["exec", "web", "sh", "-c", "echo x > /usr/share/nginx/html/x"])
        .fails_with(1);
    assert!(error.to_lowercase().contains("read-only file system"), "{error}");
    assert_eq!(
        play.ok(&["exec", "web", "cat", "/usr/share/nginx/html/index.html"]),
        "a page of the host"
    );
}

#[test]
fn kelson_opens_a_shell() {
    opens_a_shell(Client::Kelson);
}

#[test]
fn docker_opens_a_shell() {
    opens_a_shell(Client::Docker);
}

fn opens_a_shell(client: Client) {
    let play = Playground::new(client, &[Image::Nginx]);
    let image = Image::Nginx.reference();
    play.ok(&["run", "-d", "--name", "web", image]);
    // nginx forks and renames itself: what is there before is only settled with its worker.
    eventually("nginx's worker", SECONDS, || {
        Ok(play.ok(&["top", "web"]).contains("worker process").then_some(()))
    })
    .unwrap();
    let before = play.inventory();
    let mut terminal = play.terminal(&["exec", "-it", "web", "sh"], 33, 101);
    terminal.type_line("tty; stty size; echo $((6 * 7))");
    terminal.wait_for("/dev/pts/");
    terminal.wait_for("33 101");
    terminal.wait_for("42");
    terminal.resize(44, 99);
    // The new size arrives by way of the daemon.
    terminal.type_line("until stty size | grep '^44 99$'; do :; done");
    terminal.wait_for("\n44 99");
    terminal.type_line("exit 7");
    terminal.ends_with(7);
    play.nothing_left_since(&before);

    let mut terminal = play.terminal(&["run", "--rm", "-it", image, "sh"], 30, 90);
    // Docker's client sends the size after the start.
    terminal.type_line("until stty size 2>/dev/null | grep '^30 90$'; do :; done; exit 3");
    terminal.wait_for("\n30 90");
    terminal.ends_with(3);
    play.nothing_left_since(&before);
    play.ok(&["rm", "-f", "web"]);
    play.finish();
}

#[test]
fn kelson_stops_the_deaf() {
    stops_the_deaf(Client::Kelson);
}

#[test]
fn docker_stops_the_deaf() {
    stops_the_deaf(Client::Docker);
}

/// SIGTERM, then SIGKILL when the time is up.
fn stops_the_deaf(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.ok(&[
        "run",
        "-d",
        "--name",
        "deaf",
        image,
        "sh",
        "-c",
        "trap '' TERM; echo ready; while :; do sleep 1; done",
    ]);
    eventually("the trap", SECONDS, || {
        Ok(play.ok(&["logs", "deaf"]).contains("ready").then_some(()))
    })
    .unwrap();
    let begin = std::time::Instant::now();
    play.ok(&["stop", "--time", "2", "deaf"]);
    let took = begin.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(8)).contains(&took),
        "{took:?}"
    );
    let listed = play.ok(&["ps", "-a"]);
    assert!(listed.contains("Exited (137) "), "{listed}");
    play.ok(&["rm", "deaf"]);
    play.finish();
}

#[test]
fn kelson_passes_exit_codes_and_input_on() {
    passes_exit_codes_on(Client::Kelson);
}

#[test]
fn docker_passes_exit_codes_and_input_on() {
    passes_exit_codes_on(Client::Docker);
}

fn passes_exit_codes_on(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    for network in ["bridge", "none", "host"] {
        play.ok(&["run", "--rm", "--network", network, image, "true"]);
    }
    let before = play.inventory();
    let outcome = play.run(&[
        "run",
        "--rm",
        image,
        "sh",
        "-c",
        "echo to stdout; echo to stderr >&2; exit 3",
    ]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()),
        (3, "to stdout\n", "to stderr\n")
    );
    // The kernel drops a signal that pid 1 has no handler for, unless it comes from outside.
    play.run(&["run", "--rm", image, "sh", "-c", "sh -c 'kill -TERM $$'; exit $?"])
        .fails_with(143);
    let mut fed = play.command();
    fed.args(["run", "--rm", "-i", image, "cat"]);
    assert_eq!(feed(&mut fed, "typed\n").ok(), "typed");
    let volume = play.ok(&[
        "run",
        "--rm",
        "-v",
        "data:/data",
        image,
        "sh",
        "-c",
        "echo kept > /data/file",
    ]);
    assert_eq!(volume, "");
    assert_eq!(
        play.ok(&["run", "--rm", "-v", "data:/data:ro", image, "cat", "/data/file"]),
        "kept"
    );
    assert_eq!(play.ok(&["volume", "rm", "data"]), "data");
    play.ok(&["run", "--rm", "--network", "host", image, "true"]);
    assert_eq!(
        play.ok(&["run", "--rm", "--network", "none", image, "ls", "/sys/class/net"]),
        "lo"
    );
    play.nothing_left_since(&before);
    play.finish();
}
