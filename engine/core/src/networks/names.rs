//! The names of one network: `kelson-shim dns` answers its containers' questions, from a record that is written here
//! (shim/docs/names.md). The resolver outlives this daemon; one that died is started again.
//!
//! In the container it listens at 127.0.0.11 on ports of the kernel's choice, and packets for port 53 are translated to
//! them, so that a container may have a name server of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kelson_shim_proto::names::{Endpoint, Listener, Names, Served, State, Upstream};
use kelson_shim_proto::serve::{MAX_READY, Ready};
use nix::fcntl::{Flock, FlockArg};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;

use super::NetworkRecord;
use crate::clock;
use crate::config::EngineConfig;
use crate::containers::etc_files;
use crate::error::{Doing, Error, Result};
use crate::store::{self, Durability};

/// Where a container's resolver listens.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const DOMAIN: u16 = 53;
/// How long a resolver may take to begin, and to serve a record.
const SERVED: Duration = Duration::from_secs(10);
/// Between two looks at what it serves. It takes about a millisecond.
const LOOK: Duration = Duration::from_micros(500);
/// The pause before a resolver that died is started again, and the longest one when it dies again and again.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_AT_MOST: Duration = Duration::from_secs(10);
/// One that lived so long died for a new reason.
const LONG: Duration = Duration::from_secs(60);

/// One container in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name first.
    pub names: Vec<String>,
    pub ip: Ipv4Addr,
    /// Where it is served, if this network does it.
    pub listener: Option<Listener>,
}

/// The names of one network, and the process that serves them.
#[derive(Debug)]
pub(crate) struct Resolver {
    dir: PathBuf,
    id: String,
    network: String,
    internal: bool,
    program: PathBuf,
    /// Servers of the daemon's configuration.
    servers: Vec<String>,
    /// Held while a record is written and a resolver started.
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    members: BTreeMap<String, Member>,
    generation: u64,
    /// A process is there that we will hear of when it ends.
    running: bool,
    /// Deaths in a row.
    deaths: u32,
    started: Option<Instant>,
    /// Ports that packets in a container's namespace are translated to.
    redirected: BTreeMap<String, (u16, u16)>,
}

impl Resolver {
    pub fn new(dir: &Path, record: &NetworkRecord, engine: &EngineConfig) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            id: record.id.clone(),
            network: record.name.clone(),
            internal: record.internal,
            program: engine.shim.clone(),
            servers: engine.dns.clone(),
            now: Mutex::default(),
        })
    }

    /// Adds or changes a container; its names are known, and it is served, when this returns. Blocking.
    pub fn put(self: &Arc<Self>, container: &str, member: Member) -> Result<()> {
        let generation = {
            let mut now = self.lock();
            if member.listener.is_none() {
                now.redirected.remove(container);
            }
            now.members.insert(container.to_owned(), member);
            self.publish(&mut now)?
        };
        self.wait_for(generation)
    }

    /// Takes a container out. With the last one the resolver ends. Blocking, `wait` until nobody is told its names.
    pub fn remove(self: &Arc<Self>, container: &str, wait: bool) -> Result<()> {
        let generation = {
            let mut now = self.lock();
            now.redirected.remove(container);
            if now.members.remove(container).is_none() {
                return Ok(());
            }
            if now.members.is_empty() {
                return self.end();
            }
            self.publish(&mut now)?
        };
        if wait { self.wait_for(generation) } else { Ok(()) }
    }

    /// At the daemon's start: a container that is in the network already.
    pub fn adopt(&self, container: &str, member: Member) {
        self.lock().members.insert(container.to_owned(), member);
    }

    /// After that: the resolver is told what may have changed, or started, or ended. Blocking.
    pub fn settle(self: &Arc<Self>) -> Result<()> {
        let generation = {
            let mut now = self.lock();
            if now.members.is_empty() {
                return self.end();
            }
            self.publish(&mut now)?
        };
        self.wait_for(generation)
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, end: &str) -> PathBuf {
        self.dir.join(format!("{}.{end}", self.id))
    }

    /// Writes the record and sees to it that somebody serves it.
    fn publish(self: &Arc<Self>, now: &mut Now) -> Result<u64> {
        if now.generation == 0 {
            let last = self.served().map_or(0, |state| state.generation);
            now.generation = last.max(u64::try_from(clock::now_nanos()).unwrap_or(0));
        }
        now.generation += 1;
        let names = Names {
            format: kelson_shim_proto::FORMAT,
            generation: now.generation,
            network: self.network.clone(),
            internal: self.internal,
            upstreams: upstreams(&self.servers),
            endpoints: now.members.iter().map(endpoint).collect(),
        };
        store::save(
            &self.dir,
            &format!("{}.json", self.id),
            &names,
            Durability::Volatile,
        )?;
        if !now.running {
            self.start(now)?;
        }
        Ok(now.generation)
    }

    /// Takes the record away and waits for the resolver's end, so that the next one meets nothing of it.
    fn end(&self) -> Result<()> {
        store::remove_file(&self.file("json"))?;
        let deadline = Instant::now() + SERVED;
        while self.is_served()? {
            if Instant::now() >= deadline {
                return Err(Error::unavailable(format!(
                    "the resolver of network {} does not end",
                    self.network
                )));
            }
            std::thread::sleep(LOOK);
        }
        // Of one that was killed.
        store::remove_file(&self.file("state"))?;
        store::remove_file(&self.file("lock"))
    }

    fn served(&self) -> Option<State> {
        serde_json::from_slice(&std::fs::read(self.file("state")).ok()?).ok()
    }

    /// Whether a resolver lives: it holds the lock.
    fn is_served(&self) -> Result<bool> {
        let path = self.file("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).doing(|| format!("open {}", path.display())),
        };
        Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
    }

    /// Waits until a record that is at least so new is served, then translates the ports of who has new ones.
    fn wait_for(self: &Arc<Self>, generation: u64) -> Result<()> {
        let deadline = Instant::now() + SERVED;
        let state = loop {
            match self.served() {
                Some(state) if state.generation >= generation => break state,
                _ if Instant::now() >= deadline => {
                    return Err(Error::unavailable(format!(
                        "the resolver of network {} does not answer",
                        self.network
                    )));
                }
                _ => std::thread::sleep(LOOK),
            }
        };
        let mut now = self.lock();
        let mut failed = Vec::new();
        for (container, served) in &state.listeners {
            let Some(listener) = now.members.get(container).and_then(|m| m.listener.clone()) else {
                continue;
            };
            let ports = match served {
                Served::Ports { udp, tcp } => (*udp, *tcp),
                Served::Error(e) => {
                    failed.push(e.clone());
                    continue;
                }
            };
            if now.redirected.get(container) == Some(&ports) {
                continue;
            }
            match redirect(&listener, ports) {
                Ok(()) => drop(now.redirected.insert(container.clone(), ports)),
                Err(e) => failed.push(e.to_string()),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Error::internal(format!(
            "serve the names of network {}: {}",
            self.network,
            failed.join("; ")
        )))
    }

    fn start(self: &Arc<Self>, now: &mut Now) -> Result<()> {
        if self.is_served()? {
            // One that outlived the last daemon.
            if let Some(state) = self.served().filter(|state| self.watch_adopted(state.pid)) {
                tracing::debug!(network = %self.network, pid = state.pid, "took a resolver over");
                now.running = true;
                return Ok(());
            }
        }
        let doing = || format!("start the resolver of network {}", self.network);
        let mut command = tokio::process::Command::new(&self.program);
        command
            .arg("dns")
            .arg(self.file("json"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().doing(doing)?;
        let stdout = child.stdout.take();
        let ready = tokio::runtime::Handle::current().block_on(async {
            let mut line = String::new();
            let limit = u64::try_from(MAX_READY).unwrap_or(u64::MAX);
            if let Some(stdout) = stdout {
                let read = async { stdout.take(limit).read_to_string(&mut line).await };
                let _ = tokio::time::timeout(SERVED, read).await;
            }
            line
        });
        let told: Option<Ready> = serde_json::from_str(&ready).ok();
        match told.map(|ready| ready.error) {
            Some(None) => {}
            Some(Some(error)) => return Err(Error::internal(format!("{}: {error}", doing()))),
            None => return Err(Error::internal(format!("{}: it says {ready:?}", doing()))),
        }
        (now.running, now.started) = (true, Some(Instant::now()));
        let me = self.clone();
        tokio::spawn(async move {
            let _ = child.wait().await;
            me.ended().await;
        });
        Ok(())
    }

    /// Hears of the end of a process that is not our child; false if it has ended already.
    #[allow(
        deprecated,
        reason = "the successor is unsafe for types that may change their descriptor; this one never does"
    )]
    fn watch_adopted(self: &Arc<Self>, pid: u32) -> bool {
        let open = || {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok()
        };
        let Some(pidfd) = open() else { return false };
        let me = self.clone();
        tokio::spawn(async move {
            if let Ok(pidfd) = AsyncFd::new(pidfd) {
                let _ = pidfd.readable().await;
            }
            me.ended().await;
        });
        true
    }

    /// A resolver has ended. It was told to, or has to be started again.
    async fn ended(self: Arc<Self>) {
        let pause = {
            let mut now = self.lock();
            now.running = false;
            if now.members.is_empty() {
                now.deaths = 0;
                return;
            }
            if now.started.is_some_and(|at| at.elapsed() > LONG) {
                now.deaths = 0;
            }
            now.deaths += 1;
            AGAIN_AT_MOST.min(AGAIN * 2u32.saturating_pow(now.deaths - 1))
        };
        tracing::warn!(network = %self.network, "the resolver has ended and is started again");
        tokio::time::sleep(pause).await;
        let again = tokio::task::spawn_blocking(move || {
            let generation = {
                let mut now = self.lock();
                // Somebody who joined or left meanwhile has done it.
                if now.running || now.members.is_empty() {
                    return Ok(());
                }
                self.publish(&mut now)?
            };
            self.wait_for(generation)
        });
        match again.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(error = %e, "start a resolver again"),
            Err(e) => tracing::error!(error = %e, "start a resolver again"),
        }
    }
}

fn endpoint((id, member): (&String, &Member)) -> Endpoint {
    Endpoint {
        id: id.clone(),
        names: member.names.clone(),
        addresses: vec![member.ip.into()],
        listener: member.listener.clone(),
    }
}

/// Sends what a container asks at port 53 to its resolver's ports.
fn redirect(listener: &Listener, (udp, tcp): (u16, u16)) -> Result<()> {
    let doing = || format!("open network namespace {}", listener.netns.display());
    let netns = File::open(&listener.netns).doing(doing)?;
    if netns.metadata().doing(doing)?.ino() != listener.inode {
        return Err(Error::not_found(format!("{}: it is another one", doing())));
    }
    Ok(kelson_network::redirect(
        netns.as_fd(),
        (ADDRESS, DOMAIN),
        udp,
        tcp,
    )?)
}

/// Servers for everything else: those given, or the host's. Only the host reaches its own loopback, and IPv6.
pub(crate) fn upstreams(servers: &[String]) -> Vec<Upstream> {
    let own: Vec<IpAddr> = servers.iter().filter_map(|s| s.parse().ok()).collect();
    let at = |ip: IpAddr, from_host| Upstream {
        address: SocketAddr::new(ip, DOMAIN),
        from_host,
    };
    if !own.is_empty() {
        return own.into_iter().map(|ip| at(ip, ip.is_ipv6())).collect();
    }
    let text = std::fs::read_to_string(etc_files::HOST_RESOLV).unwrap_or_default();
    let servers = etc_files::said_of("nameserver", &text);
    let mut of_host: Vec<IpAddr> = servers.filter_map(|server| server.parse().ok()).collect();
    if of_host.is_empty() {
        of_host = etc_files::PUBLIC_DNS
            .iter()
            .filter_map(|server| server.parse().ok())
            .collect();
    }
    of_host
        .into_iter()
        .map(|ip| at(ip, ip.is_loopback() || ip.is_ipv6()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_servers_are_asked_from_it() {
        let given = upstreams(&["192.0.2.1".into(), "nonsense".into(), "2001:db8::1".into()]);
        let shown: Vec<_> = given
            .iter()
            .map(|u| (u.address.to_string(), u.from_host))
            .collect();
        assert_eq!(
            shown,
            [
                ("192.0.2.1:53".to_owned(), false),
                ("[2001:db8::1]:53".to_owned(), true)
            ]
        );
        assert!(!upstreams(&[]).is_empty());
    }
}
