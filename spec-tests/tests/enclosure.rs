//! The enclosure itself: who is inside is found, counted and ended, and nothing of it stays. Needs root.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kelson_spec_tests::cgroup::hierarchies;
use kelson_spec_tests::enclosure::{Enclosure, Settings};
use kelson_spec_tests::eventually::eventually;

/// One test: an enclosure takes its process on cgroup v2, and plain `cargo test` runs tests as threads of
/// one.
#[test]
fn holds_what_is_started_inside_and_ends_it() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let name = format!("kelson-enclosure-{}", std::process::id());
    let outside: Vec<_> = hierarchies()
        .unwrap()
        .iter()
        .map(|one| one.mount_point.join(&name))
        .collect();
    let enclosure = Enclosure::enter(Settings::default()).unwrap();

    // It has left its parent, its session and its process group behind.
    let script = "(setsid sh -c 'while :; do :; done' &) ; true";
    assert!(
        Command::new("sh")
            .args(["-c", script])
            .status()
            .unwrap()
            .success()
    );
    let loops = eventually("the loop", Duration::from_secs(5), || {
        let found = enclosure.processes()?;
        Ok((!found.is_empty()).then_some(found))
    });
    let loops = loops.unwrap();
    eventually("its CPU time", Duration::from_secs(10), || {
        Ok((enclosure.cpu_time()? > Duration::from_millis(50)).then_some(()))
    })
    .unwrap();

    let made = enclosure.cgroups();
    assert!(made.is_empty(), "{made:?}");
    let first = hierarchies().unwrap().remove(0);
    fs::create_dir_all(first.mount_point.join("a/b")).unwrap();
    assert_eq!(enclosure.cgroups().len(), 2);

    let links = Command::new("ip")
        .args(["-oneline", "link"])
        .output()
        .unwrap()
        .stdout;
    let links = String::from_utf8(links).unwrap();
    assert!(
        links.lines().count() == 1 && links.contains("lo: <LOOPBACK,UP"),
        "{links}"
    );
    assert_eq!(fs::read_dir("/run").unwrap().count(), 0);

    drop(enclosure);
    for pid in loops {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} is still there"
        );
    }
    // This thread still sees the enclosure's mounts; the main thread never left the host's.
    for directory in outside {
        let seen = Path::new("/proc")
            .join(std::process::id().to_string())
            .join("root")
            .join(directory.strip_prefix("/").unwrap());
        assert!(!seen.exists(), "{} is left", seen.display());
    }
}
