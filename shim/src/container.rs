//! One container: its verbs, each of which may be called at any time by anyone, and what follows from them.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kelson_cgroups::{Cgroup, Host};
use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::serve::PortParams;
use kelson_shim_proto::task::Mount;
use nix::sys::signal::Signal;

use crate::config::Config;
use crate::diagnostics;
use crate::ending;
use crate::error::{Doing, Error, Kind, Result, lock};
use crate::forward::Forwarders;
use crate::io::console::{CONSOLE_DEADLINE, Console, ConsoleSocket};
use crate::io::pump;
use crate::io::{self, Addresses, ChildStdio, OurStdio};
use crate::lifetime::Lifetime;
use crate::mounts;
use crate::process::{Described, Phase, Process, check_exec_id};
use crate::reaper::{Exit, Reaper};
use crate::runtime::Runtime;

/// How many processes `exec` may have added at once.
pub const MAX_EXECS: usize = 1024;

/// A container and everything that keeps it.
#[derive(Debug)]
pub struct Container {
    /// Its id, known to the OCI runtime too.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its first process; there before `Create`, so that clients can attach to what is to come.
    pub init: Arc<Process>,
    /// Where the end is recorded.
    pub exit_record: Option<PathBuf>,
    /// When the shim may end.
    pub lifetime: Arc<Lifetime>,
    runtime: Runtime,
    reaper: Arc<Reaper>,
    execs: Mutex<HashMap<String, Arc<Added>>>,
    /// Held by the verbs that change the whole container, one at a time. Signals, waits and looks never take it.
    verbs: tokio::sync::Mutex<()>,
    facts: Mutex<Facts>,
    forwarders: Mutex<Forwarders>,
}

#[derive(Debug, Default)]
struct Facts {
    paused: bool,
    cgroup: Option<Cgroup>,
    own_pid_namespace: bool,
    cleaned: bool,
}

/// A process that `exec` added, and the spec it starts from.
#[derive(Debug)]
struct Added {
    process: Arc<Process>,
    spec: Vec<u8>,
}

impl Container {
    /// A container that is to be.
    pub fn new(
        id: &str,
        bundle: &Path,
        exit_record: Option<PathBuf>,
        runtime: Runtime,
        reaper: Arc<Reaper>,
        ports: Vec<(PortParams, std::os::fd::OwnedFd)>,
        lifetime: Arc<Lifetime>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            init: Process::new("", Described::default()),
            exit_record,
            lifetime,
            runtime,
            reaper,
            execs: Mutex::default(),
            verbs: tokio::sync::Mutex::default(),
            facts: Mutex::default(),
            forwarders: Mutex::new(Forwarders::new(ports)),
        })
    }

    /// Makes the container; its first process waits for [`Container::start`]. Returns its pid.
    pub async fn create(self: &Arc<Self>, rootfs: &[Mount], described: Described) -> Result<u32> {
        if self.init.begin(Some(described.clone())).is_err() {
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("container {} was created before", self.id),
            ));
        }
        let _verb = self.verbs.lock().await;
        self.lifetime
            .update(|facts| (facts.busy, facts.used) = (true, true));
        match self.try_create(rootfs, &described).await {
            Ok(pid) => Ok(pid),
            Err(error) => {
                // The runtime cleans up after itself; what it could not (it was killed) is removed by force.
                let _ = self.runtime.simple(&self.bundle, &["delete", "--force"]).await;
                ending::clean_bundle(&self.bundle);
                self.init.give_back();
                self.lifetime.update(|facts| facts.busy = false);
                Err(error)
            }
        }
    }

    async fn try_create(self: &Arc<Self>, rootfs: &[Mount], described: &Described) -> Result<u32> {
        let addresses = Addresses::parse(&described.stdin, &described.stdout, &described.stderr)?;
        self.read_config()?;
        mounts::mount_root(rootfs, &self.bundle.join("rootfs"))?;
        // Armed before there is anything that could end: a status that comes before the pid is known is kept.
        let _expecting = self.reaper.expecting();
        let (child, mut ours, socket) = self.stdio(described.terminal, &addresses, &self.bundle)?;
        let log = addresses.open_log()?;
        let (pid, console) = self
            .with_console(
                socket.as_ref(),
                self.runtime
                    .create(&self.bundle, child, socket.as_ref().map(ConsoleSocket::address)),
            )
            .await?;
        let exit = self.reaper.exit_of(pid);
        self.init.made(pid, Phase::Created, console.clone());
        if let Err(error) = connect(&self.init, log, &mut ours, console).await {
            diagnostics::report(&error.to_string());
        }
        let container = Arc::clone(self);
        tokio::spawn(async move {
            let exit = exit.await.unwrap_or_else(|_| Exit::unknown());
            ending::container_ended(&container, exit).await;
        });
        Ok(self.init.snapshot().pid)
    }

    fn read_config(&self) -> Result<()> {
        let config = Config::read(&self.bundle.join("config.json"))?;
        let cgroup = Host::detect()
            .and_then(|host| host.container(config.cgroups_path(), &self.id))
            .map_err(|error| diagnostics::report(&format!("cgroup of {}: {error}", self.id)))
            .ok();
        let mut facts = lock(&self.facts);
        facts.cgroup = cgroup;
        facts.own_pid_namespace = config.has_own_pid_namespace();
        facts.cleaned = false;
        Ok(())
    }

    fn stdio(
        &self,
        terminal: bool,
        addresses: &Addresses,
        dir: &Path,
    ) -> Result<(ChildStdio, OurStdio, Option<ConsoleSocket>)> {
        if terminal {
            return Ok((
                ChildStdio::null()?,
                OurStdio::default(),
                Some(ConsoleSocket::bind(dir, "console.sock")?),
            ));
        }
        let (child, ours) = io::pipes(addresses)?;
        Ok((child, ours, None))
    }

    /// Runs a runtime call that makes a process, and receives its terminal meanwhile.
    async fn with_console(
        &self,
        socket: Option<&ConsoleSocket>,
        call: impl Future<Output = Result<i32>>,
    ) -> Result<(i32, Option<Arc<Console>>)> {
        let Some(socket) = socket else {
            return Ok((call.await?, None));
        };
        let receive = socket.receive();
        tokio::pin!(call, receive);
        let (pid, console) = tokio::select! {
            console = &mut receive => (call.await?, console?),
            pid = &mut call => {
                let pid = pid?;
                let late = || Error::new(Kind::Deadline, "the runtime sent no terminal over its console socket");
                (pid, tokio::time::timeout(CONSOLE_DEADLINE, receive).await.map_err(|_| late())??)
            }
        };
        Ok((pid, Some(Arc::new(console))))
    }

    /// Lets the first process run its command.
    pub async fn start(self: &Arc<Self>) -> Result<u32> {
        let _verb = self.verbs.lock().await;
        let before = self.init.snapshot();
        match before.phase {
            Phase::Created => {}
            Phase::Announced | Phase::Making => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("container {} is not created", self.id),
                ));
            }
            Phase::Running => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("container {} is already running", self.id),
                ));
            }
            Phase::Exited => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("container {} has already ended", self.id),
                ));
            }
        }
        lock(&self.forwarders).start();
        self.runtime.simple(&self.bundle, &["start"]).await?;
        self.init.running();
        Ok(before.pid)
    }

    /// Announces a process; [`Container::start_exec`] starts it.
    pub fn add_exec(&self, exec_id: &str, described: Described, spec: Vec<u8>) -> Result<()> {
        check_exec_id(exec_id)?;
        Addresses::parse(&described.stdin, &described.stdout, &described.stderr)?;
        let mut execs = lock(&self.execs);
        if execs.contains_key(exec_id) {
            return Err(Error::new(Kind::AlreadyExists, format!("exec {exec_id} exists")));
        }
        if execs.len() >= MAX_EXECS {
            return Err(Error::new(
                Kind::Precondition,
                format!("{MAX_EXECS} execs exist; delete some first"),
            ));
        }
        if self.init.snapshot().exit.is_some() {
            return Err(Error::new(
                Kind::Precondition,
                format!("container {} has already ended", self.id),
            ));
        }
        let process = Process::new(exec_id, described);
        execs.insert(exec_id.to_owned(), Arc::new(Added { process, spec }));
        Ok(())
    }

    /// Starts an announced process. Many may start at once.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<u32> {
        let added = self.added(exec_id)?;
        added.process.begin(None)?;
        let dir = self.bundle.join(format!("exec-{exec_id}"));
        let result = self.try_start_exec(&added, &dir).await;
        let _ = std::fs::remove_dir_all(&dir);
        if result.is_err() {
            added.process.give_back();
        }
        result
    }

    async fn try_start_exec(self: &Arc<Self>, added: &Arc<Added>, dir: &Path) -> Result<u32> {
        let process = &added.process;
        let described = process.snapshot().described;
        let addresses = Addresses::parse(&described.stdin, &described.stdout, &described.stderr)?;
        std::fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
        let spec = dir.join("process.json");
        std::fs::write(&spec, &added.spec).doing(|| format!("write {}", spec.display()))?;
        let _expecting = self.reaper.expecting();
        let (child, mut ours, socket) = self.stdio(described.terminal, &addresses, dir)?;
        let log = addresses.open_log()?;
        let (pid, console) = self
            .with_console(
                socket.as_ref(),
                self.runtime
                    .exec(dir, &spec, child, socket.as_ref().map(ConsoleSocket::address)),
            )
            .await?;
        let exit = self.reaper.exit_of(pid);
        process.made(pid, Phase::Running, console.clone());
        if let Err(error) = connect(process, log, &mut ours, console).await {
            diagnostics::report(&error.to_string());
        }
        let process = Arc::clone(process);
        tokio::spawn(async move {
            let exit = exit.await.unwrap_or_else(|_| Exit::unknown());
            ending::exec_ended(&process, exit).await;
        });
        Ok(added.process.snapshot().pid)
    }

    /// A process by its exec id; empty for the first one.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        Ok(Arc::clone(&self.added(exec_id)?.process))
    }

    fn added(&self, exec_id: &str) -> Result<Arc<Added>> {
        let found = lock(&self.execs).get(exec_id).cloned();
        found.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("no exec {exec_id:?} in container {}", self.id),
            )
        })
    }

    /// Every process that `exec` added.
    pub fn execs(&self) -> Vec<Arc<Process>> {
        lock(&self.execs)
            .values()
            .map(|added| Arc::clone(&added.process))
            .collect()
    }

    /// Forgets a process that has ended, or was never started.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(u32, Exit)> {
        let process = self.process(exec_id)?;
        let state = process.snapshot();
        let exit = match state.phase {
            Phase::Exited => process.wait().await,
            Phase::Announced => Exit::unknown(),
            _ => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("exec {exec_id} is running"),
                ));
            }
        };
        if state.phase == Phase::Announced {
            process.hub.end();
            process.publish(exit);
        }
        lock(&self.execs).remove(exec_id);
        Ok((state.pid, exit))
    }

    /// Removes the container. One that was created but never started is killed first.
    pub async fn delete(&self) -> Result<(u32, Exit)> {
        let state = self.init.snapshot();
        match state.phase {
            Phase::Exited => {}
            Phase::Created => self.init.signal(9)?,
            Phase::Announced | Phase::Making => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("container {} is not created", self.id),
                ));
            }
            Phase::Running => {
                return Err(Error::new(
                    Kind::Precondition,
                    format!("container {} is running", self.id),
                ));
            }
        }
        let exit = self.init.wait().await;
        self.lifetime.update(|facts| facts.deleted = true);
        Ok((state.pid, exit))
    }

    /// Sends a signal to one process, or to every process.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        if all && exec_id.is_empty() {
            return self.kill_all(signal);
        }
        self.process(exec_id)?.signal(signal)?;
        if signal == 9 && exec_id.is_empty() && self.is_paused() {
            // A frozen process of the v1 freezer does not even die.
            self.resume().await?;
        }
        Ok(())
    }

    fn kill_all(&self, signal: u32) -> Result<()> {
        let signal = i32::try_from(signal)
            .ok()
            .and_then(|number| Signal::try_from(number).ok());
        let signal = signal.ok_or_else(|| Error::new(Kind::Invalid, "no such signal"))?;
        let facts = lock(&self.facts);
        let cgroup = facts.cgroup.as_ref().ok_or_else(|| {
            Error::new(
                Kind::Precondition,
                format!("container {} has no cgroup to signal by", self.id),
            )
        })?;
        cgroup
            .signal_all(signal)
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))
    }

    /// Freezes every process.
    pub async fn pause(&self) -> Result<()> {
        self.freeze("pause", true).await
    }

    /// Thaws every process.
    pub async fn resume(&self) -> Result<()> {
        self.freeze("resume", false).await
    }

    async fn freeze(&self, command: &str, paused: bool) -> Result<()> {
        let _verb = self.verbs.lock().await;
        if self.init.snapshot().phase != Phase::Running {
            return Err(Error::new(
                Kind::Precondition,
                format!("container {} is not running", self.id),
            ));
        }
        if self.is_paused() == paused {
            let word = if paused { "already paused" } else { "not paused" };
            return Err(Error::new(
                Kind::Precondition,
                format!("container {} is {word}", self.id),
            ));
        }
        self.runtime.simple(&self.bundle, &[command]).await?;
        lock(&self.facts).paused = paused;
        Ok(())
    }

    /// Whether it has been made and its end is not recorded yet.
    pub fn is_alive(&self) -> bool {
        self.init.snapshot().phase > Phase::Announced && !self.init.has_ended()
    }

    /// Whether it is frozen.
    pub fn is_paused(&self) -> bool {
        lock(&self.facts).paused
    }

    /// Pids of every process, in our pid namespace.
    pub async fn pids(&self) -> Result<Vec<u32>> {
        match self.init.snapshot().phase {
            Phase::Created | Phase::Running => self.runtime.pids(&self.bundle).await,
            _ => Err(Error::new(
                Kind::Precondition,
                format!("container {} is not running", self.id),
            )),
        }
    }

    /// Kills what the first process leaves, where its end does not end the others.
    pub fn kill_leftovers(&self) {
        let facts = lock(&self.facts);
        if facts.own_pid_namespace {
            return;
        }
        if let Some(cgroup) = &facts.cgroup
            && let Err(error) = cgroup.signal_all(Signal::SIGKILL)
        {
            diagnostics::report(&error.to_string());
        }
    }

    /// Whether no process is left in its cgroup.
    pub fn is_empty(&self) -> bool {
        lock(&self.facts)
            .cgroup
            .as_ref()
            .is_none_or(|cgroup| cgroup.is_empty().unwrap_or(true))
    }

    /// How many of its processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        lock(&self.facts)
            .cgroup
            .as_ref()
            .map_or(0, |cgroup| cgroup.oom_kills().unwrap_or(0))
    }

    /// Removes the runtime's state, the cgroup, the root's mount and our files. Once.
    pub async fn cleanup(&self) {
        if std::mem::replace(&mut lock(&self.facts).cleaned, true) {
            return;
        }
        lock(&self.forwarders).stop();
        if let Err(error) = self.runtime.simple(&self.bundle, &["delete", "--force"]).await {
            diagnostics::report(&error.to_string());
        }
        ending::clean_bundle(&self.bundle);
    }
}

/// Connects a process that was just made to its log and its clients.
async fn connect(
    process: &Process,
    log: Option<crate::log_file::LogFile>,
    ours: &mut OurStdio,
    console: Option<Arc<Console>>,
) -> Result<()> {
    if let Some(console) = console {
        process.hub.opened(log, 1);
        pump::start(&process.hub, Stream::Stdout, console.reader()?)?;
        process.stdin.open_console(console).await;
        return Ok(());
    }
    process.hub.opened(log, ours.outputs.len());
    for (stream, source) in ours.outputs.drain(..) {
        pump::start(&process.hub, stream, source)?;
    }
    process.stdin.open_pipe(ours.stdin.take()).await
}
