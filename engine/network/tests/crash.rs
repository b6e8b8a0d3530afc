//! kill -9 at any moment: the next start finds what was left by its record, and undoes it.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod lab;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kelson_network::{Network, NetworkConfig, PortSpec, Proto};
use lab::{Container, Lab, PATIENCE, files, forwarding, id, links, nft, ruleset};

const STATE: &str = "KELSON_TEST_STATE_DIR";
/// How long crashes are tried; `KELSON_TEST_SOAK` (seconds) makes it longer.
const TRY: Duration = Duration::from_secs(3);

/// Not a test of its own: what the one below runs, and kills. It lives in that one's namespace.
#[test]
#[ignore = "run by a_crash_at_any_moment_is_undone"]
fn churn() {
    let Some(dir) = std::env::var_os(STATE) else {
        return;
    };
    loop {
        let network = Network::open(&PathBuf::from(&dir), NetworkConfig::default()).unwrap();
        for n in 1..=3 {
            let ports = [PortSpec::new(Proto::Tcp, 0, 80), PortSpec::new(Proto::Udp, 0, 53)];
            Container::start(&network, &id(n), &ports);
            network.disconnect(&id(n)).unwrap();
        }
        network.shutdown().unwrap();
    }
}

#[test]
fn a_crash_at_any_moment_is_undone() {
    let Some(lab) = Lab::new() else { return };
    // With docker's chain in the way, so that there is something of others' to clean, too.
    nft("table ip filter {\n chain FORWARD { type filter hook forward priority filter; policy drop\n }\n}\n");
    let before = (links(), ruleset(), forwarding());
    let soak = std::env::var("KELSON_TEST_SOAK")
        .ok()
        .and_then(|s| s.parse().ok())
        .map(Duration::from_secs);
    let until = Instant::now() + soak.unwrap_or(TRY);
    let (mut crashes, mut with_leftovers) = (0u32, 0u32);
    while Instant::now() < until {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "churn", "--ignored", "--quiet"])
            .env(STATE, lab.state_dir())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Steps of 0.7 ms through the 70 ms one round takes; the moment is the point, so this waits and does not poll.
        std::thread::sleep(Duration::from_micros(3000 + u64::from(crashes) * 700 % 70_000));
        child.kill().unwrap();
        child.wait().unwrap();
        crashes += 1;
        with_leftovers += u32::from(links() != before.0);
        let network = lab.network();
        network.reconcile(&[], false).unwrap();
        network.settle(PATIENCE).unwrap();
        // A container's namespace, and with it a link nobody deleted, ends a moment after its last holder.
        let deadline = Instant::now() + PATIENCE;
        while links() != before.0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            (links(), ruleset(), forwarding()),
            before,
            "after crash {crashes}"
        );
        let left: Vec<String> = files(&lab.state_dir())
            .into_iter()
            .filter(|f| !f.starts_with('.'))
            .collect();
        assert!(left.is_empty(), "after crash {crashes}: {left:?}");
    }
    assert!(
        crashes > 5 && with_leftovers > 1,
        "of {crashes} crashes {with_leftovers} left something"
    );
    eprintln!("{crashes} crashes, {with_leftovers} with something left");
}
