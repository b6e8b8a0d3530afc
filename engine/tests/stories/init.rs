//! `--init`: a pid 1 that reaps what is left to it, hands signals on, and ends as the program did.

use std::fs;
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

use crate::support::images::Image;
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(20);

/// Leaves three processes to pid 1 and becomes another program, which waits for none of them.
const ORPHANS: &str = "for n in 1 2 3; do sh -c 'sleep 0.1 &'; done; exec sleep 1000";

#[test]
fn kelson_runs_an_init() {
    runs_an_init(Client::Kelson);
}

#[test]
fn docker_runs_an_init() {
    runs_an_init(Client::Docker);
}

fn runs_an_init(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.ok(&["run", "-d", "--name", "without", image, "sh", "-c", ORPHANS]);
    play.ok(&[
        "run", "-d", "--init", "--name", "with", image, "sh", "-c", ORPHANS,
    ]);
    let [without, with] = ["without", "with"].map(|name| pid(&play, name));
    eventually("three zombies of a pid 1 that is no init", SECONDS, || {
        Ok((zombies(without) == 3).then_some(()))
    })
    .unwrap();
    eventually("an init without zombies", SECONDS, || {
        Ok((zombies(with) == 0 && children(with).len() == 1).then_some(()))
    })
    .unwrap();
    let program = children(with)[0];
    assert_eq!(words(with)[..2], ["/sbin/docker-init", "--"]);
    assert_eq!(words(program), ["sleep", "1000"]);
    // The container's own command is what it was asked for.
    assert_eq!(play.inspect("with", "/Path"), "sh");
    assert_eq!(play.inspect("with", "/HostConfig/Init"), true);

    // As pid 1, sleep would be deaf to it.
    play.ok(&["kill", "--signal", "TERM", "with"]);
    assert_eq!(play.ok(&["wait", "with"]), "143");
    play.ok(&["rm", "-f", "without", "with"]);

    for (script, code) in [
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("trap 'exit 4' HUP; kill -HUP $$; sleep 9", 4),
    ] {
        let outcome = play.run(&["run", "--rm", "--init", image, "sh", "-c", script]);
        assert_eq!(outcome.code, code, "{script}: {outcome:#?}");
    }
    let outcome = play.run(&["run", "--rm", "--init", image, "nothing-like-it"]);
    assert_eq!(outcome.code, 127, "{outcome:#?}");
    assert!(
        outcome.stderr.contains("nothing-like-it: no such file"),
        "{outcome:#?}"
    );
    let refused = play.run(&[
        "run",
        "--rm",
        "--init",
        image,
        "sh",
        "-c",
        "echo x > /sbin/docker-init",
    ]);
    assert!(refused.stderr.contains("Read-only file system"), "{refused:#?}");
    play.finish();
}

#[test]
fn kelson_gives_the_terminal_to_the_program() {
    let play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    let mut terminal = play.terminal(&["run", "--rm", "-it", "--init", image, "sh"], 24, 80);
    terminal.type_line("echo $((6 * 7))");
    terminal.wait_for("42");
    // Of a length that no other test waits.
    terminal.type_line("sleep 7654321");
    eventually("the foreground job", SECONDS, || {
        let runs = |(pid, ..): (u64, String, u64)| words(pid) == ["sleep", "7654321"];
        Ok(stats().any(runs).then_some(()))
    })
    .unwrap();
    // Ctrl-C reaches that job only: the shell goes on.
    terminal.type_keys("\u{3}");
    terminal.type_line("exit 5");
    terminal.ends_with(5);
    play.finish();
}

fn pid(play: &Playground, name: &str) -> u64 {
    play.inspect(name, "/State/Pid").as_u64().unwrap()
}

fn words(pid: u64) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

/// Processes whose parent is `pid`, ended or not.
fn children(pid: u64) -> Vec<u64> {
    stats()
        .filter(|(_, _, parent)| *parent == pid)
        .map(|(child, ..)| child)
        .collect()
}

fn zombies(pid: u64) -> usize {
    stats()
        .filter(|(_, state, parent)| *parent == pid && state == "Z")
        .count()
}

/// Pid, state and parent of every process.
fn stats() -> impl Iterator<Item = (u64, String, u64)> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // What stands before it may hold spaces and parentheses.
        let mut words = stat.rsplit_once(')')?.1.split_whitespace();
        Some((pid, words.next()?.to_owned(), words.next()?.parse().ok()?))
    })
}
