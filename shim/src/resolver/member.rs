//! One container that is served: its sockets at 127.0.0.11 in its network namespace.
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kelson_shim_proto::names::{Listener, Served};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use simple_dns::RCODE;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::table::{Verdict, View, refuse};
use super::{netns, upstream};
use crate::error::{Doing, Error, Kind, Result, lock};

/// Where a container looks for its resolver, as with docker.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The longest question by datagram.
const MAX_QUERY: usize = 4096;
/// Questions of one container that wait for others' answers; what comes on top is refused.
const MAX_WAITING: usize = 256;
/// Connections of one container.
const MAX_CONNECTIONS: usize = 32;
/// How long one may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// A container with its listeners. Dropped, they are closed.
#[derive(Debug)]
pub struct Member {
    pub record: Listener,
    shared: Arc<Shared>,
    ports: (u16, u16),
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    view: Mutex<Arc<View>>,
    namespace: Arc<OwnedFd>,
    waiting: Semaphore,
    turn: AtomicUsize,
}

impl Member {
    /// Opens the sockets and serves them; tells `over` when the container has ended.
    pub async fn start(record: Listener, view: View, over: Arc<Notify>) -> Result<Self> {
        // Before the namespace: that it is the right one then says that the process was, too.
        let process = record.pid.map(watch).transpose()?;
        let namespace = Arc::new(open(&record)?);
        let port = record.port;
        let (udp, tcp) = netns::inside(Arc::clone(&namespace), move || bind(port)).await?;
        let doing = || "serve a container's names".to_owned();
        let (udp, tcp) = (
            tokio::net::UdpSocket::from_std(udp).doing(doing)?,
            tokio::net::TcpListener::from_std(tcp).doing(doing)?,
        );
        let ports = (
            udp.local_addr().doing(doing)?.port(),
            tcp.local_addr().doing(doing)?.port(),
        );
        let shared = Arc::new(Shared {
            view: Mutex::new(Arc::new(view)),
            namespace,
            waiting: Semaphore::new(MAX_WAITING),
            turn: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        let serving = serve(Arc::clone(&shared), udp, tcp, process);
        tasks.spawn(async move {
            serving.await;
            over.notify_one();
        });
        Ok(Self {
            record,
            shared,
            ports,
            tasks,
        })
    }

    /// From now on answers come from `view`.
    pub fn see(&self, view: View) {
        *lock(&self.shared.view) = Arc::new(view);
    }

    /// Whether it ended by itself: the container did.
    pub fn is_over(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.is_empty()
    }

    /// For the state file.
    pub fn served(&self) -> Served {
        let (udp, tcp) = self.ports;
        Served::Ports { udp, tcp }
    }
}

fn watch(pid: u32) -> Result<OwnedFd> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| Error::new(Kind::Invalid, format!("process {pid}: no such number")))?;
    pidfd_open(raw, PidfdFlags::NONBLOCK).doing(|| format!("watch process {pid}"))
}

fn open(record: &Listener) -> Result<OwnedFd> {
    let doing = || format!("open network namespace {}", record.netns.display());
    let file = File::open(&record.netns).doing(doing)?;
    let found = file.metadata().doing(doing)?.ino();
    if found != record.inode {
        return Err(Error::new(
            Kind::NotFound,
            format!("{}: it is namespace {found}, not {}", doing(), record.inode),
        ));
    }
    Ok(file.into())
}

fn bind(port: u16) -> Result<(UdpSocket, TcpListener)> {
    let at = SocketAddr::from((ADDRESS, port));
    let doing = || format!("listen at {at}");
    let udp = UdpSocket::bind(at).doing(doing)?;
    let tcp = TcpListener::bind(at).doing(doing)?;
    udp.set_nonblocking(true).doing(doing)?;
    tcp.set_nonblocking(true).doing(doing)?;
    Ok((udp, tcp))
}

#[allow(
    deprecated,
    reason = "the successor is unsafe for types that may change their descriptor; this one never does"
)]
async fn serve(
    shared: Arc<Shared>,
    udp: tokio::net::UdpSocket,
    tcp: tokio::net::TcpListener,
    process: Option<OwnedFd>,
) {
    let gone = async {
        match process.map(|fd| AsyncFd::with_interest(fd, Interest::READABLE)) {
            Some(Ok(fd)) => {
                let _ = fd.readable().await;
            }
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        () = datagrams(&shared, Arc::new(udp)) => {}
        () = connections(&shared, tcp) => {}
        () = gone => {}
    }
}

async fn datagrams(shared: &Arc<Shared>, socket: Arc<tokio::net::UdpSocket>) {
    let mut buffer = vec![0; MAX_QUERY];
    // Those under way end with us.
    let mut waiting = JoinSet::new();
    loop {
        while waiting.try_join_next().is_some() {}
        // An error is that of an earlier answer that its client did not want.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let query = &buffer[..length];
        match shared.consider(query, true) {
            Verdict::Ignore => {}
            Verdict::Reply(reply) => {
                let _ = socket.try_send_to(&reply, client);
            }
            Verdict::Forward if waiting.len() >= MAX_WAITING => {
                let _ = socket.try_send_to(&refuse(query, RCODE::ServerFailure), client);
            }
            Verdict::Forward => {
                let (shared, socket, query) = (Arc::clone(shared), Arc::clone(&socket), query.to_vec());
                waiting.spawn(async move {
                    let reply = shared.forward(&query, true).await;
                    let _ = socket.send_to(&reply, client).await;
                });
            }
        }
    }
}

async fn connections(shared: &Arc<Shared>, listener: tokio::net::TcpListener) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        while open.len() >= MAX_CONNECTIONS {
            open.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(shared);
                open.spawn(async move {
                    let _ = connection(&shared, stream).await;
                });
            }
            // Out of descriptors, for instance: others may become free.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let query = tokio::time::timeout(IDLE, upstream::read_message(&mut stream)).await??;
        let reply = match shared.consider(&query, false) {
            Verdict::Ignore => return Ok(()),
            Verdict::Reply(reply) => reply,
            Verdict::Forward => shared.forward(&query, false).await,
        };
        tokio::time::timeout(IDLE, upstream::write_message(&mut stream, &reply)).await??;
    }
}

impl Shared {
    fn view(&self) -> Arc<View> {
        Arc::clone(&lock(&self.view))
    }

    fn consider(&self, query: &[u8], datagram: bool) -> Verdict {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.view().consider(query, datagram, turn)
    }

    async fn forward(&self, query: &[u8], datagram: bool) -> Vec<u8> {
        let view = self.view();
        let answer = match self.waiting.try_acquire() {
            Ok(_place) => upstream::ask(query, view.upstreams(), &self.namespace, datagram).await,
            Err(_) => None,
        };
        answer.unwrap_or_else(|| refuse(query, RCODE::ServerFailure))
    }
}
