//! Times each step of a container's network in a private namespace: `cargo run --release -p kelson-network
//! --example timings [ROUNDS]`. Prints minimum and median in microseconds.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kelson_network::{Network, NetworkConfig, PortMapping, PortSpec, Proto};

fn main() -> std::io::Result<()> {
    let rounds: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(50);
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    let dir = tempfile::tempdir()?;
    let network = Network::open(dir.path(), NetworkConfig::default()).unwrap();
    let mut steps: Vec<(&str, Vec<Duration>)> = Vec::new();
    let first = Instant::now();
    network.allocate(&"ff".repeat(32), None).unwrap();
    let first = first.elapsed();
    for round in 0..rounds {
        let id = format!("{round:08x}").repeat(8);
        let mut clock = Clock {
            steps: &mut steps,
            from: Instant::now(),
        };
        let bound = network
            .bind_ports(&id, &[PortSpec::new(Proto::Tcp, 0, 80)])
            .unwrap();
        clock.lap("bind_ports");
        let endpoint = network.allocate(&id, None).unwrap();
        clock.lap("allocate");
        let netns = kelson_network::create_netns().unwrap();
        clock.lap("create_netns");
        network.connect(&endpoint, netns.as_fd()).unwrap();
        clock.lap("connect");
        let ports: Vec<PortMapping> = bound.iter().map(|b| b.mapping).collect();
        network.publish(&endpoint, &ports).unwrap();
        clock.lap("publish");
        network.disconnect(&id).unwrap();
        clock.lap("disconnect");
        drop(netns);
    }
    network.disconnect(&"ff".repeat(32)).unwrap();
    network.shutdown().unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "first allocate (bridge, table): {} us", first.as_micros())?;
    for (name, mut times) in steps {
        times.sort();
        writeln!(
            out,
            "{name:>14}: min {:>6}  median {:>6}",
            times[0].as_micros(),
            times[times.len() / 2].as_micros()
        )?;
    }
    Ok(())
}

struct Clock<'a> {
    steps: &'a mut Vec<(&'static str, Vec<Duration>)>,
    from: Instant,
}

impl Clock<'_> {
    fn lap(&mut self, name: &'static str) {
        let took = self.from.elapsed();
        match self.steps.iter_mut().find(|(n, _)| *n == name) {
            Some((_, times)) => times.push(took),
            None => self.steps.push((name, vec![took])),
        }
        self.from = Instant::now();
    }
}
