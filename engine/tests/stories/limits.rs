//! `update` and `stats`: limits that change while a container runs, and figures of what it uses.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

use crate::support::images::Image;
use crate::support::programs::Engine;
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(30);
const MEBIBYTE: u64 = 1 << 20;
const USES_48_MIB: &str = "dd if=/dev/zero of=/dev/shm/full bs=1M count=48 2>/dev/null; exec sleep 3600";

#[test]
fn kelson_updates_and_measures() {
    updates_and_measures(Client::Kelson);
}

#[test]
fn docker_updates_and_measures() {
    updates_and_measures(Client::Docker);
}

fn updates_and_measures(client: Client) {
    let mut play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let before = play.inventory();
    play.ok(&[
        "run",
        "-d",
        "--name",
        "full",
        "-m",
        "128m",
        "--memory-swap",
        "256m",
        "--pids-limit",
        "50",
        image,
        "sh",
        "-c",
        USES_48_MIB,
    ]);
    let shown = eventually("the figures of 48 MiB", SECONDS, || {
        let line = play.ok(&[
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}} {{.MemUsage}} {{.PIDs}}",
            "full",
        ]);
        Ok(mebibytes(&line).is_some_and(|used| used >= 48.0).then_some(line))
    })
    .unwrap();
    assert!(
        shown.starts_with("full ") && shown.ends_with(" / 128MiB 1"),
        "{shown}"
    );

    assert_eq!(limits(&play), (Some(128 * MEBIBYTE), Some(50)));
    play.ok(&[
        "update",
        "-m",
        "160m",
        "--pids-limit",
        "20",
        "--restart",
        "on-failure:3",
        "full",
    ]);
    assert_eq!(limits(&play), (Some(160 * MEBIBYTE), Some(20)));
    assert_eq!(play.inspect("full", "/HostConfig/Memory"), 160 * MEBIBYTE);
    assert_eq!(
        play.inspect("full", "/HostConfig/RestartPolicy/MaximumRetryCount"),
        3
    );

    for (bad, text) in [
        (
            &["-m", "16m", "--memory-swap", "16m"],
            "unable to set|rejecting memory",
        ),
        (
            &["-m", "300m", "--pids-limit", "30"],
            "update the memoryswap at the same time",
        ),
        (&["-m", "1k", "--pids-limit", "30"], "Minimum memory limit"),
        (
            &["--restart", "now-and-then", "--pids-limit", "30"],
            "unknown policy|invalid restart policy",
        ),
    ] {
        let error = play
            .run(&[&["update"], &bad[..], &["full"]].concat())
            .fails_with(1);
        assert!(
            text.split('|').any(|text| error.contains(text)),
            "{bad:?}: {error}"
        );
    }
    assert_eq!(
        limits(&play),
        (Some(160 * MEBIBYTE), Some(20)),
        "a refused update changed something"
    );
    assert_eq!(play.inspect("full", "/HostConfig/Memory"), 160 * MEBIBYTE);

    if Engine::chosen() == Engine::Kelsond {
        play.kill_daemon();
        play.start_daemon();
        assert_eq!(play.inspect("full", "/HostConfig/PidsLimit"), 20);
        assert_eq!(limits(&play), (Some(160 * MEBIBYTE), Some(20)));
    }
    play.ok(&["update", "--pids-limit", "-1", "full"]);
    assert_eq!(limits(&play).1, None);
    play.ok(&["rm", "-f", "full"]);

    // One that does not run has limits for its next start, and figures of nothing.
    play.ok(&["create", "--name", "later", image, "sleep", "3600"]);
    play.ok(&["update", "-m", "64m", "--memory-swap", "64m", "later"]);
    let line = play.ok(&[
        "stats",
        "--no-stream",
        "--format",
        "{{.MemUsage}} {{.PIDs}}",
        "later",
    ]);
    assert_eq!(line, "0B / 0B 0");
    play.ok(&["start", "later"]);
    let id = play.inspect("later", "/Id");
    let cgroup = directory("memory", id.as_str().unwrap());
    let found = ["memory.limit_in_bytes", "memory.max"]
        .iter()
        .find_map(|f| fs::read_to_string(cgroup.join(f)).ok());
    assert_eq!(found.unwrap().trim(), (64 * MEBIBYTE).to_string());
    play.ok(&["rm", "-f", "later"]);
    play.nothing_left_since(&before);
    play.finish();
}

fn mebibytes(line: &str) -> Option<f64> {
    line.split(' ').nth(1)?.strip_suffix("MiB")?.parse().ok()
}

/// Limits of memory and of processes.
fn limits(play: &Playground) -> (Option<u64>, Option<u64>) {
    let memory = number(play, "memory", ["memory.limit_in_bytes", "memory.max"]);
    (memory, number(play, "pids", ["pids.max", "pids.max"]))
}

/// A limit as the kernel has it, on v1 or v2; `None`: no limit.
fn number(play: &Playground, controller: &str, files: [&str; 2]) -> Option<u64> {
    let id = play.inspect("full", "/Id");
    let directory = directory(controller, id.as_str().unwrap());
    let text = files
        .iter()
        .find_map(|file| fs::read_to_string(directory.join(file)).ok());
    text.unwrap().trim().parse().ok()
}

/// The container's cgroup with this controller, wherever its engine put it.
fn directory(controller: &str, id: &str) -> PathBuf {
    let v1 = PathBuf::from("/sys/fs/cgroup").join(controller);
    let root = if v1.is_dir() { v1 } else { "/sys/fs/cgroup".into() };
    let below = |parent: &PathBuf| {
        fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
    };
    let mut level: Vec<PathBuf> = vec![root];
    while !level.is_empty() {
        if let Some(found) = level.iter().find(|path| path.to_string_lossy().contains(id)) {
            return found.clone();
        }
        level = level
            .iter()
            .flat_map(below)
            .filter(|path| path.is_dir())
            .collect();
    }
    panic!("no cgroup with controller {controller} for {id}");
}
