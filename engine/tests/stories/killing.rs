//! `kill -9` at any moment, of kelsond under load and of a shim: nothing is lost, nothing stays.
//!
//! `KELSON_KILL_ROUNDS` and `KELSON_KILL_SEED` choose how often and which moments (`make soak`: 200 rounds).

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kelson_spec_tests::eventually::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::images::Image;
use crate::support::inventory::Inventory;
use crate::support::programs::Engine;
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(30);
/// In CI; more of them find more.
const ROUNDS: u64 = 6;
/// Prints a line every five milliseconds until it is told to end, and says how many it was.
const PRINTER: &str = "i=0; while [ ! -e /shared/end ]; do i=$((i+1)); echo line $i; usleep 5000; done; echo $i > /shared/$NAME";
const PRINTERS: [&str; 2] = ["first", "second"];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Steele and Vigna's splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % limit
    }
}

#[test]
fn kelsond_is_killed_under_load() {
    if Engine::chosen() == Engine::Dockerd {
        eprintln!("skipped: dockerd does not start over its own containerd's socket after a kill");
        return;
    }
    let rounds = number("KELSON_KILL_ROUNDS").unwrap_or(ROUNDS);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    let seed = number("KELSON_KILL_SEED").unwrap_or(now.into());
    eprintln!("{rounds} rounds, KELSON_KILL_SEED={seed}");
    let mut chance = Chance(seed);
    let mut play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    let before = with_bystander(&play);
    let shared = play.scratch().join("shared");
    fs::create_dir(&shared).unwrap();
    let bind = format!("{}:/shared", shared.display());
    for name in PRINTERS {
        let variable = format!("NAME={name}");
        play.ok(&[
            "run", "-d", "--name", name, "-e", &variable, "-v", &bind, image, "sh", "-c", PRINTER,
        ]);
    }
    // What was begun: name and exit code.
    let mut begun = BTreeMap::new();
    for round in 0..rounds {
        let mut load = begin(&play, round, &mut begun);
        thread::sleep(Duration::from_millis(chance.below(120)));
        play.kill_daemon();
        // Each client learns of it, and ends.
        for (what, client) in &mut load {
            let ended = eventually(what, SECONDS, || Ok(client.try_wait()?));
            ended.unwrap_or_else(|error| panic!("round {round}, seed {seed}: {error:#}"));
        }
        play.start_daemon();
        settle(&play, &mut begun, seed);
    }
    fs::write(shared.join("end"), "").unwrap();
    for name in PRINTERS {
        assert_eq!(play.ok(&["wait", name]), "0", "{name}, seed {seed}");
        let count: usize = fs::read_to_string(shared.join(name))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let expected: Vec<String> = (1..=count).map(|n| format!("line {n}")).collect();
        let output = play.ok(&["logs", name]);
        let lines: Vec<&str> = output.lines().filter(|line| line.starts_with("line ")).collect();
        assert!(
            lines == expected,
            "{name}, seed {seed}: of {count} lines there are {}",
            lines.len()
        );
    }
    play.ok(&[&["rm", "-f"][..], &PRINTERS].concat());
    fs::remove_dir_all(&shared).unwrap();
    play.nothing_left_since(&before);
    play.ok(&["rm", "-f", "bystander"]);
    play.finish();
}

/// What is there when a container is: the cgroup above all of them stays until kelsond ends, or the one goes that came first.
fn with_bystander(play: &Playground) -> Inventory {
    play.warm_up(Image::Busybox.reference());
    play.ok(&[
        "run",
        "-d",
        "--name",
        "bystander",
        Image::Busybox.reference(),
        "sleep",
        "100000",
    ]);
    play.inventory()
}

/// Starts, execs, attach and logs at the same moment.
fn begin(play: &Playground, round: u64, begun: &mut BTreeMap<String, u64>) -> Vec<(String, Child)> {
    let image = Image::Busybox.reference();
    let mut load = Vec::new();
    let mut go = |arguments: &[&str]| {
        let mut command = play.command();
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        load.push((arguments.join(" "), command.spawn().unwrap()));
    };
    for place in 0..3 {
        let (name, code) = (format!("run-{round}-{place}"), 1 + (round * 3 + place) % 100);
        let script = format!("echo {name}; exit {code}");
        go(&["run", "-d", "--name", &name, image, "sh", "-c", &script]);
        begun.insert(name, code);
    }
    go(&["exec", PRINTERS[0], "echo", "in between"]);
    go(&["exec", PRINTERS[1], "sh", "-c", "usleep 20000"]);
    go(&["attach", "--no-stdin", "--sig-proxy=false", PRINTERS[0]]);
    go(&["logs", "-f", PRINTERS[1]]);
    load
}

/// After a kill: whatever was created ends, or can be started, with its own exit code and its own output; then it goes.
fn settle(play: &Playground, begun: &mut BTreeMap<String, u64>, seed: u64) {
    let listed = play.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    for name in PRINTERS {
        assert!(
            listed.lines().any(|line| line == name),
            "{name} is lost, seed {seed}: {listed}"
        );
        assert_eq!(play.inspect(name, "/State/Running"), true, "{name}, seed {seed}");
        assert_eq!(
            play.ok(&["exec", name, "echo", "well"]),
            "well",
            "{name}, seed {seed}"
        );
    }
    for (name, code) in std::mem::take(begun) {
        if !listed.lines().any(|line| line == name) {
            continue;
        }
        if play.inspect(&name, "/State/Status") == "created" {
            play.ok(&["start", &name]);
        }
        assert_eq!(play.ok(&["wait", &name]), code.to_string(), "{name}, seed {seed}");
        assert_eq!(play.ok(&["logs", &name]), name, "seed {seed}");
        play.ok(&["rm", &name]);
    }
}

#[test]
fn a_shim_is_killed() {
    if Engine::chosen() == Engine::Dockerd {
        eprintln!("skipped: its shims are not ours to judge");
        return;
    }
    let play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    let before = with_bystander(&play);
    let untouched = play.inspect("bystander", "/State");
    play.ok(&["run", "-d", "--name", "once", image, "sleep", "1000"]);
    play.ok(&[
        "run",
        "-d",
        "--name",
        "again",
        "--restart",
        "always",
        image,
        "sleep",
        "1000",
    ]);
    let first = play.inspect("again", "/State/Pid");
    for name in ["once", "again"] {
        let pid = play.inspect(name, "/State/Pid").as_i64().unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
        let parent = Pid::from_raw(parent.parse().unwrap());
        let command = fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap();
        assert!(command.contains("kelson-shim"), "{command}");
        kill(parent, Signal::SIGKILL).unwrap();
    }
    // Noticed, said, and what was left has ended.
    assert_eq!(play.ok(&["wait", "once"]), "255");
    assert_eq!(play.inspect("once", "/State/Status"), "exited");
    let error = play.inspect("once", "/State/Error");
    assert!(error.as_str().unwrap().contains("shim"), "{error}");
    eventually("the container that is always started again", SECONDS, || {
        let pid = play.inspect("again", "/State/Pid");
        Ok((pid != first && pid != 0).then_some(()))
    })
    .unwrap();
    play.ok(&["start", "once"]);
    assert_eq!(play.inspect("once", "/State/Error"), "");
    assert_eq!(play.ok(&["exec", "once", "echo", "well"]), "well");
    assert_eq!(play.inspect("bystander", "/State"), untouched);
    play.ok(&["rm", "-f", "once", "again"]);
    play.nothing_left_since(&before);
    play.ok(&["rm", "-f", "bystander"]);
    play.finish();
}
