//! The other commands of every day, and what survives an orderly restart of the daemon.

use std::fs;
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;
use kelson_spec_tests::image;

use crate::support::command::feed;
use crate::support::images::Image;
use crate::support::programs::Engine;
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(20);

#[test]
fn kelson_creates_restarts_and_waits() {
    creates_restarts_and_waits(Client::Kelson);
}

#[test]
fn docker_creates_restarts_and_waits() {
    creates_restarts_and_waits(Client::Docker);
}

fn creates_restarts_and_waits(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let before = play.inventory();
    let id = play.ok(&[
        "create",
        "--name",
        "one",
        "-i",
        "-e",
        "WORD=hello",
        image,
        "sh",
        "-c",
        "read x; echo $WORD $x; exit 9",
    ]);
    assert_eq!(play.inspect("one", "/State/Status"), "created");
    assert_eq!(play.inspect("one", "/Id"), id);
    let mut start = play.command();
    start.args(["start", "--attach", "--interactive", "one"]);
    let outcome = feed(&mut start, "world\n");
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (9, "hello world\n"),
        "{outcome:#?}"
    );
    assert_eq!(play.ok(&["logs", "one"]), "hello world");

    play.ok(&[
        "run",
        "-d",
        "--name",
        "two",
        image,
        "sh",
        "-c",
        "trap 'exit 4' TERM; while :; do sleep 1; done",
    ]);
    let first = play.inspect("two", "/State/Pid");
    play.ok(&["restart", "--time", "1", "two"]);
    assert_ne!(play.inspect("two", "/State/Pid"), first);
    let waiting = play.follow(&["wait", "two"]);
    play.ok(&["kill", "--signal", "KILL", "two"]);
    let mut waiting = waiting;
    waiting.wait_for("the exit code", SECONDS, |line| line == "137");
    drop(waiting);

    play.ok(&["rm", "one", "two"]);
    assert_eq!(play.ok(&["ps", "-aq"]), "");
    play.nothing_left_since(&before);
    play.finish();
}

#[test]
fn kelson_attaches_and_detaches() {
    attaches_and_detaches(Client::Kelson);
}

#[test]
fn docker_attaches_and_detaches() {
    attaches_and_detaches(Client::Docker);
}

fn attaches_and_detaches(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.ok(&["run", "-dit", "--name", "shell", image, "sh"]);
    let mut terminal = play.terminal(&["attach", "shell"], 24, 80);
    terminal.type_line("echo $((6 * 7))");
    terminal.wait_for("42");
    // Ctrl-p Ctrl-q leaves it running; docker exits with 1.
    terminal.type_keys("\u{10}\u{11}");
    terminal.ends_with(1);
    assert_eq!(play.inspect("shell", "/State/Running"), true);
    let mut terminal = play.terminal(&["attach", "shell"], 24, 80);
    terminal.type_line("exit 5");
    terminal.ends_with(5);
    play.ok(&["rm", "shell"]);
    play.finish();
}

#[test]
fn kelson_loads_imports_and_tags() {
    loads_imports_and_tags(Client::Kelson);
}

#[test]
fn docker_loads_imports_and_tags() {
    loads_imports_and_tags(Client::Docker);
}

fn loads_imports_and_tags(client: Client) {
    let play = Playground::new(client, &[]);
    let archive = Image::Busybox.ensure_made();
    let loaded = play.ok(&["load", "--input", archive.archive().to_str().unwrap()]);
    assert_eq!(loaded, format!("Loaded image: {}", Image::Busybox.reference()));
    play.ok(&["tag", Image::Busybox.reference(), "mine:2"]);
    assert_eq!(play.ok(&["run", "--rm", "mine:2", "echo", "tagged"]), "tagged");

    let layer = play.scratch().join("layer.tar");
    image::write_busybox_layer(&layer).unwrap();
    let id = play.ok(&[
        "import",
        "--change",
        "CMD [\"echo\", \"imported\"]",
        layer.to_str().unwrap(),
        "imported:1",
    ]);
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(play.ok(&["run", "--rm", "imported:1"]), "imported");

    let listed = play.ok(&["images"]);
    for cell in ["REPOSITORY", "IMAGE ID", "mine", "imported", "test/busybox"] {
        assert!(listed.contains(cell), "{cell} is not in {listed}");
    }
    assert_eq!(play.ok(&["rmi", "mine:2"]), "Untagged: mine:2");
    play.ok(&["rmi", "imported:1", Image::Busybox.reference()]);
    assert_eq!(play.ok(&["images", "-q"]), "");
    play.finish();
}

#[test]
fn kelson_tells_events_and_facts() {
    tells_events_and_facts(Client::Kelson);
}

#[test]
fn docker_tells_events_and_facts() {
    tells_events_and_facts(Client::Docker);
}

fn tells_events_and_facts(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.ok(&["pull", image]);
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let mut events = play.follow(&["events", "--since", &since.to_string()]);
    play.run(&["run", "--name", "one", image, "sh", "-c", "exit 3"])
        .fails_with(3);
    for action in ["create", "start", "die"] {
        let line = events.wait_for(action, SECONDS, |line| {
            line.contains(&format!("container {action} "))
        });
        assert!(line.contains("name=one"), "{line}");
        assert!(action != "die" || line.contains("exitCode=3"), "{line}");
    }
    drop(events);
    let version = play.ok(&["version"]);
    for word in ["Client", "Server", "API version", "linux/"] {
        assert!(version.contains(word), "{word} is not in {version}");
    }
    let info = play.ok(&["info"]);
    for word in [
        "Containers: 1",
        "Images: 1",
        "Cgroup Version:",
        "Docker Root Dir:",
    ] {
        assert!(info.contains(word), "{word} is not in {info}");
    }
    let pruned = play.ok(&["container", "prune", "--force"]);
    assert!(pruned.contains("Total reclaimed space:"), "{pruned}");
    assert_eq!(play.ok(&["ps", "-aq"]), "");
    play.finish();
}

#[test]
fn kelson_finds_its_records_after_a_restart() {
    finds_its_records_after_a_restart(Client::Kelson);
}

#[test]
fn docker_finds_its_records_after_a_restart() {
    finds_its_records_after_a_restart(Client::Docker);
}

fn finds_its_records_after_a_restart(client: Client) {
    let mut play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.run(&[
        "run",
        "--name",
        "ended",
        "-v",
        "data:/data",
        image,
        "sh",
        "-c",
        "echo words; exit 3",
    ])
    .fails_with(3);
    play.ok(&["create", "--name", "new", image, "true"]);
    let look = |play: &Playground| {
        let format = "{{.ID}} {{.Names}} {{.Image}} {{.Command}}";
        [
            play.ok(&["ps", "-a", "--no-trunc", "--format", format]),
            play.ok(&["images", "--no-trunc", "-q"]),
            play.ok(&["volume", "ls", "-q"]),
            play.ok(&["logs", "ended"]),
        ]
    };
    let before = look(&play);
    play.restart_daemon();
    assert_eq!(look(&play), before);
    assert_eq!(play.inspect("ended", "/State/ExitCode"), 3);
    play.ok(&["start", "new"]);
    assert_eq!(play.ok(&["wait", "new"]), "0");
    play.ok(&["rm", "-v", "ended", "new"]);
    play.ok(&["volume", "rm", "data"]);
    play.finish();
}

#[test]
fn kelson_keeps_every_line_of_much_output() {
    keeps_every_line(Client::Kelson);
}

#[test]
fn docker_keeps_every_line_of_much_output() {
    keeps_every_line(Client::Docker);
}

/// `wait` then `logs` is complete, and what a client of `run` sees is the same.
fn keeps_every_line(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    let shown = play.ok(&["run", "--name", "much", image, "seq", "1", "200000"]);
    let expected: Vec<String> = (1..=200_000).map(|number| number.to_string()).collect();
    assert!(
        shown.lines().eq(&expected),
        "run shows {} lines of {}",
        shown.lines().count(),
        expected.len()
    );
    let logged = play.ok(&["logs", "much"]);
    assert!(
        logged.lines().eq(&expected),
        "logs has {} lines of {}",
        logged.lines().count(),
        expected.len()
    );
    play.ok(&["rm", "much"]);
    play.finish();
}

#[test]
fn kelson_starts_a_daemon_where_none_answers() {
    if Engine::chosen() == Engine::Dockerd {
        eprintln!("skipped: only our client starts a daemon");
        return;
    }
    let play = Playground::without_daemon(Client::Kelson, &[]);
    // The default roots, hidden from the host.
    let none: Option<&str> = None;
    nix::mount::mount(
        Some("tmpfs"),
        "/var/lib",
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        none,
    )
    .unwrap();
    let typed = |arguments: &[&str]| {
        let mut command = std::process::Command::new(crate::support::programs::ours("kelson"));
        command
            .env("DOCKER_CONFIG", play.scratch().join("client"))
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        crate::support::command::run(command.args(arguments), SECONDS)
    };
    let outcome = typed(&["ps", "-q"]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()),
        (0, "", ""),
        "{outcome:#?}"
    );
    assert!(fs::exists("/run/kelson/kelson.sock").unwrap());
    let daemons = play.enclosure.processes().unwrap().len();
    assert_eq!(daemons, 1, "one daemon and nothing else");
    typed(&["images"]).ok();
    eventually("one daemon only", SECONDS, || {
        Ok((play.enclosure.processes()?.len() == daemons).then_some(()))
    })
    .unwrap();
}
