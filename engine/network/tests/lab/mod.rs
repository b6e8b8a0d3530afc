//! A private network namespace per test, with an "outside" behind a veth pair. Everything is asked of the kernel:
//! by `ip -j`, by `nft -j`, by real connections.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kelson_network::{BoundPort, Endpoint, Network, NetworkConfig, PortMapping, PortSpec};
use nix::sched::{CloneFlags, setns, unshare};

pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 2);
/// Long enough for a loaded machine, short enough to fail by.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for a packet that must not come.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A container id for each number.
pub fn id(n: u8) -> String {
    // Spread out like real ids: link names are cut from them.
    (0..4u64)
        .map(|i| {
            format!(
                "{:016x}",
                (u64::from(n) + i * 977 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            )
        })
        .collect()
}

/// The test thread's own world; it ends with the thread.
pub struct Lab {
    pub dir: tempfile::TempDir,
    outside: Option<OwnedFd>,
}

impl Lab {
    /// `None` when the kernel refuses: the test is skipped, and says so.
    pub fn new() -> Option<Self> {
        if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespace may be made here: {e}");
            return None;
        }
        // A new namespace inherits the switch from the first one.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        Some(Self {
            dir: tempfile::tempdir().unwrap(),
            outside: None,
        })
    }

    /// The same with a neighbour at OUTSIDE, where the default route leads.
    pub fn with_outside() -> Option<Self> {
        let mut lab = Self::new()?;
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::File::open("/proc/thread-self/ns/net").unwrap()
        });
        let outside = OwnedFd::from(netns.join().unwrap());
        let path = format!("/proc/{}/fd/{}", std::process::id(), outside.as_raw_fd());
        run(
            "ip",
            &[
                "link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns", &path,
            ],
        );
        run("ip", &["addr", "add", &format!("{HOST}/24"), "dev", "up0"]);
        run("ip", &["link", "set", "up0", "up"]);
        inside(&outside, || {
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["addr", "add", &format!("{OUTSIDE}/24"), "dev", "out0"]);
            run("ip", &["link", "set", "out0", "up"]);
        });
        run("ip", &["route", "add", "default", "via", &OUTSIDE.to_string()]);
        lab.outside = Some(outside);
        Some(lab)
    }

    pub fn outside(&self) -> &OwnedFd {
        self.outside.as_ref().unwrap()
    }

    pub fn network(&self) -> Network {
        self.network_with(NetworkConfig::default())
    }

    pub fn network_with(&self, config: NetworkConfig) -> Network {
        Network::open(&self.state_dir(), config).unwrap()
    }

    pub fn state_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("network")
    }
}

/// A connected "container": a namespace and nothing in it.
pub struct Container {
    pub endpoint: Endpoint,
    pub netns: OwnedFd,
    pub bound: Vec<BoundPort>,
}

impl Container {
    pub fn start(network: &Network, id: &str, ports: &[PortSpec]) -> Self {
        let bound = network.bind_ports(id, ports).unwrap();
        let endpoint = network.allocate(id, None).unwrap();
        let netns = kelson_network::create_netns().unwrap();
        network.connect(&endpoint, netns.as_fd()).unwrap();
        let this = Self {
            endpoint,
            netns,
            bound,
        };
        network.publish(&this.endpoint, &this.mappings()).unwrap();
        this
    }

    pub fn mappings(&self) -> Vec<PortMapping> {
        self.bound.iter().map(|b| b.mapping).collect()
    }

    /// Answers every TCP connection to `port` with the address it came from.
    pub fn serve(&self, port: u16) {
        serve_inside(&self.netns, port);
    }
}

/// Runs `work` in that namespace.
pub fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

/// A server in that namespace, which ends with the test's process.
pub fn serve_inside(netns: &OwnedFd, port: u16) {
    let listener = inside(netns, || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            if let Ok(peer) = stream.peer_addr() {
                let _ = stream.write_all(peer.ip().to_string().as_bytes());
            }
        }
    });
}

/// A UDP server in that namespace: tells each sender its address.
pub fn serve_udp_inside(netns: &OwnedFd, port: u16) {
    let socket = inside(netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// Connects from the calling thread's namespace; the answer is who the server saw.
pub fn ask(to: Ipv4Addr, port: u16) -> Option<IpAddr> {
    ask_within(to, port, PATIENCE)
}

pub fn ask_within(to: Ipv4Addr, port: u16, patience: Duration) -> Option<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), patience).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.parse().ok()
}

pub fn ask_udp(to: Ipv4Addr, port: u16) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"?", (to, port)).ok()?;
    let mut buffer = [0; 64];
    let got = socket.recv(&mut buffer).ok()?;
    std::str::from_utf8(&buffer[..got]).ok()?.parse().ok()
}

/// Runs a program in the calling thread's namespace and returns what it prints.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn nft(script: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
}

/// Names of all links.
pub fn links() -> Vec<String> {
    let all: serde_json::Value = serde_json::from_str(&run("ip", &["-j", "link"])).unwrap();
    let name = |l: &serde_json::Value| l["ifname"].as_str().unwrap().to_owned();
    all.as_array().unwrap().iter().map(name).collect()
}

/// The whole ruleset, without the handles and counters that never repeat.
pub fn ruleset() -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                for noise in ["handle", "metainfo", "packets", "bytes"] {
                    map.remove(noise);
                }
                map.values_mut().for_each(strip);
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut rules = serde_json::from_str(&run("nft", &["-j", "list", "ruleset"])).unwrap();
    strip(&mut rules);
    rules
}

pub fn forwarding() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
        .unwrap()
        .trim()
        .to_owned()
}

/// Files below a directory.
pub fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}
