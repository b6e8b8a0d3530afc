//! The resolver role, with real sockets in network namespaces of the test's own.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{DEADLINE, alive, shim_binary};
use kelson_shim_proto::FORMAT;
use kelson_shim_proto::names::{Endpoint, Listener, Names, Served, State, Upstream};
use nix::sched::{CloneFlags, setns};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE};
use tempfile::TempDir;

const WEB: &str = "aaaaaaaaaaaabbbbbbbbbbbbcccccccccccc";

/// A process in a network namespace of its own.
struct Place(Child);

impl Place {
    fn new() -> Self {
        let script = "ip link set lo up && echo up && exec sleep 1000";
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        Self(child)
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = fs::File::open(self.netns()).unwrap();
        std::thread::scope(|scope| {
            let work = move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(work).join().unwrap()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A resolver with its directory.
struct Resolver {
    dir: TempDir,
    child: Child,
}

impl Resolver {
    fn new(names: &Names) -> Self {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "net", names);
        let child = start(dir.path());
        Self { dir, child }
    }

    fn state(&self) -> State {
        serde_json::from_slice(&fs::read(self.dir.path().join("net.state")).unwrap()).unwrap()
    }

    /// Waits until the record of that generation is served.
    fn served(&self, generation: u64) -> State {
        eventually(|| Some(self.state()).filter(|state| state.generation == generation))
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(dir: &Path) -> Child {
    let mut child = Command::new(shim_binary())
        .arg("dns")
        .arg(dir.join("net.json"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    child.stdout.take().unwrap().read_to_string(&mut ready).unwrap();
    assert!(
        ready.contains(&format!("\"pid\":{}", child.id())) && !ready.contains("\"error\":\""),
        "{ready}"
    );
    child
}

fn write(dir: &Path, id: &str, names: &Names) {
    let new = dir.join(format!("{id}.new"));
    fs::write(&new, serde_json::to_vec(names).unwrap()).unwrap();
    fs::rename(new, dir.join(format!("{id}.json"))).unwrap();
}

fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "it does not come to pass");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn record(place: &Place, upstreams: Vec<Upstream>) -> Names {
    Names {
        format: FORMAT,
        generation: 1,
        network: "back".to_owned(),
        internal: false,
        upstreams,
        endpoints: vec![Endpoint {
            id: WEB.to_owned(),
            names: vec!["web".to_owned()],
            addresses: vec!["10.9.0.2".parse().unwrap()],
            listener: Some(Listener {
                netns: place.netns(),
                inode: fs::metadata(place.netns()).unwrap().ino(),
                pid: Some(place.0.id()),
                port: 53,
                networks: vec!["other".to_owned()],
                links: [].into(),
                upstreams: None,
            }),
        }],
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut query = Packet::new_query(77);
    let question = Question::new(
        Name::new(name).unwrap(),
        QTYPE::TYPE(TYPE::A),
        QCLASS::CLASS(CLASS::IN),
        false,
    );
    query.questions.push(question);
    query.build_bytes_vec().unwrap()
}

/// The answer's code and its addresses.
fn read(reply: &[u8]) -> (RCODE, Vec<u32>) {
    let reply = Packet::parse(reply).unwrap();
    assert_eq!(reply.id(), 77);
    let addresses = reply.answers.iter().filter_map(|answer| match &answer.rdata {
        RData::A(a) => Some(a.address),
        _ => None,
    });
    (reply.rcode(), addresses.collect())
}

fn by_udp(place: &Place, name: &str) -> (RCODE, Vec<u32>) {
    place.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.send_to(&query(name), "127.0.0.11:53").unwrap();
        let mut reply = [0; 4096];
        let length = socket.recv(&mut reply).unwrap();
        read(&reply[..length])
    })
}

fn by_tcp(place: &Place, name: &str) -> (RCODE, Vec<u32>) {
    place.inside(|| {
        let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&framed(&query(name))).unwrap();
        read(&unframed(&mut stream))
    })
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), message].concat()
}

fn unframed(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

/// What an upstream server says: one address.
fn foreign(query: &[u8], address: u32) -> Vec<u8> {
    let query = Packet::parse(query).unwrap();
    let mut reply = Packet::new_reply(query.id());
    reply.questions.clone_from(&query.questions);
    let name = query.questions[0].qname.clone();
    reply
        .answers
        .push(ResourceRecord::new(name, CLASS::IN, 1, RData::A(A { address })));
    reply.build_bytes_vec().unwrap()
}

const OURS: u32 = 0x0a09_0002;

#[test]
fn answers_survives_and_lets_go() {
    let place = Place::new();
    let mut names = record(&place, Vec::new());
    let mut resolver = Resolver::new(&names);
    let ours = (RCODE::NoError, vec![OURS]);
    assert_eq!(
        resolver.state().listeners[WEB],
        Served::Ports { udp: 53, tcp: 53 }
    );
    assert_eq!(by_udp(&place, "web"), ours);
    assert_eq!(by_tcp(&place, "WEB.back"), ours);
    assert_eq!(by_udp(&place, "aaaaaaaaaaaa"), ours);
    // Nobody to ask.
    assert_eq!(by_udp(&place, "example.org").0, RCODE::ServerFailure);

    // A second network, then a new name: both are read without a restart, the listener stays.
    let mut other = names.clone();
    other.network = "front".to_owned();
    other.endpoints[0].names = vec!["db".to_owned()];
    other.endpoints[0].listener = None;
    write(resolver.dir.path(), "other", &other);
    eventually(|| (by_udp(&place, "db.front") == ours).then_some(()));
    names.generation = 2;
    names.endpoints[0].names.push("www".to_owned());
    write(resolver.dir.path(), "net", &names);
    resolver.served(2);
    assert_eq!(by_udp(&place, "www"), ours);

    // A broken record changes nothing and is told.
    fs::write(resolver.dir.path().join("net.json"), "{").unwrap();
    eventually(|| resolver.state().error);
    assert_eq!(by_udp(&place, "www"), ours);

    // Killed and started again, it serves what it served; a second one is refused.
    write(resolver.dir.path(), "net", &names);
    resolver.child.kill().unwrap();
    resolver.child.wait().unwrap();
    resolver.child = start(resolver.dir.path());
    assert_eq!(by_udp(&place, "www"), ours);
    let second = Command::new(shim_binary())
        .arg("dns")
        .arg(resolver.dir.path().join("net.json"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another resolver serves it"));

    // The container ends: no socket keeps its namespace. The network ends: so does the resolver.
    drop(place);
    eventually(|| matches!(resolver.state().listeners[WEB], Served::Error(_)).then_some(()));
    fs::remove_file(resolver.dir.path().join("net.json")).unwrap();
    assert!(resolver.child.wait().unwrap().success());
    assert!(!alive(resolver.child.id()));
    assert!(!resolver.dir.path().join("net.state").exists());
}

#[test]
fn asks_others_from_the_container_and_passes_over_the_dead() {
    let place = Place::new();
    let (udp, tcp): (UdpSocket, TcpListener) = place.inside(|| {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind(udp.local_addr().unwrap()).unwrap();
        (udp, tcp)
    });
    let living = udp.local_addr().unwrap();
    // Takes questions and never answers.
    let silent = place.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let upstream = |address: SocketAddr| Upstream {
        address,
        from_host: false,
    };
    let servers = vec![upstream(silent.local_addr().unwrap()), upstream(living)];
    let _resolver = Resolver::new(&record(&place, servers));
    let server = std::thread::spawn(move || {
        udp.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut asked = [0; 4096];
        let (length, client) = udp.recv_from(&mut asked).unwrap();
        // An answer to another question is not taken for one.
        udp.send_to(&foreign(&query("evil.example"), 1), client).unwrap();
        udp.send_to(&foreign(&asked[..length], 2), client).unwrap();
        let (mut stream, _) = tcp.accept().unwrap();
        let asked = unframed(&mut stream);
        stream.write_all(&framed(&foreign(&asked, 3))).unwrap();
    });
    assert_eq!(by_udp(&place, "example.org"), (RCODE::NoError, vec![2]));
    assert_eq!(by_tcp(&place, "example.org"), (RCODE::NoError, vec![3]));
    server.join().unwrap();
}

#[test]
fn asks_from_the_host_where_the_record_says_so() {
    let place = Place::new();
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = Upstream {
        address: host.local_addr().unwrap(),
        from_host: true,
    };
    let _resolver = Resolver::new(&record(&place, vec![server]));
    let answering = std::thread::spawn(move || {
        host.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut asked = [0; 4096];
        let (length, client) = host.recv_from(&mut asked).unwrap();
        host.send_to(&foreign(&asked[..length], 4), client).unwrap();
    });
    assert_eq!(by_udp(&place, "example.org"), (RCODE::NoError, vec![4]));
    answering.join().unwrap();
}

#[test]
fn another_namespace_is_refused() {
    let place = Place::new();
    let mut names = record(&place, Vec::new());
    if let Some(listener) = &mut names.endpoints[0].listener {
        listener.inode += 1;
    }
    let resolver = Resolver::new(&names);
    let Served::Error(text) = resolver.state().listeners[WEB].clone() else {
        panic!("it serves a namespace that is not meant");
    };
    assert!(text.contains("it is namespace"), "{text}");
}
