//! From a bundle to a running first process.
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use kelson_cgroups::Host;
use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::containerd::events::{Create, What};
use kelson_shim_proto::task::Mount;

use super::Container;
use crate::config::Config;
use crate::diagnostics;
use crate::ending;
use crate::error::{Error, Kind, Result, lock};
use crate::fault;
use crate::io::console::{CONSOLE_DEADLINE, Console, ConsoleSocket};
use crate::io::logger::Logger;
use crate::io::{self, Addresses, ChildStdio, OurStdio, Sink, pump, relay};
use crate::lifetime::Lifetime;
use crate::log_file::LogFile;
use crate::mounts;
use crate::oom;
use crate::process::{Described, Phase, Process};
use crate::reaper::Exit;

/// A process's stdio before there is a process.
pub(super) struct Stdio {
    /// Given to the runtime.
    pub child: ChildStdio,
    /// Our ends.
    pub ours: OurStdio,
    /// Where its terminal will be sent to.
    pub socket: Option<ConsoleSocket>,
    /// The program that reads its output.
    pub logger: Option<Logger>,
    /// Where its output is kept.
    pub log: Option<LogFile>,
}

impl Container {
    /// Makes the container; its first process waits for [`Container::start`]. Returns its pid.
    pub async fn create(self: &Arc<Self>, rootfs: Vec<Mount>, described: Described) -> Result<u32> {
        if self.init.begin(Some(described.clone())).is_err() {
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("container {} was created before", self.id),
            ));
        }
        let _verb = self.verbs.lock().await;
        self.lifetime
            .update(|facts| (facts.busy, facts.used) = (facts.busy + 1, true));
        match self.try_create(rootfs, &described).await {
            Ok(pid) => Ok(pid),
            Err(error) => {
                // The runtime cleans up after itself; what it could not (it was killed) is removed by force. What was
                // there before under this id is somebody else's.
                if error.kind != Kind::AlreadyExists {
                    let _ = self.runtime.simple(&self.bundle, &["delete", "--force"]).await;
                }
                ending::clean_bundle(&self.bundle);
                self.init.give_back();
                self.lifetime.update(|facts| facts.busy -= 1);
                Err(error)
            }
        }
    }

    async fn try_create(self: &Arc<Self>, rootfs: Vec<Mount>, described: &Described) -> Result<u32> {
        let addresses = Addresses::parse(&described.stdin, &described.stdout, &described.stderr)?;
        self.read_config()?;
        mounts::mount_root(&rootfs, &self.bundle.join("rootfs"), self.manner.shares_mounts)?;
        // Armed before there is anything that could end: a status that comes before the pid is known is kept.
        let _expecting = self.reaper.expecting();
        let stdio = self.stdio(described.terminal, &addresses, &self.bundle).await?;
        let console = stdio.socket.as_ref().map(ConsoleSocket::address);
        let call = self.runtime.create(&self.bundle, stdio.child, console);
        let (pid, console) = self.with_console(stdio.socket.as_ref(), call).await?;
        fault::point("created");
        let exit = self.reaper.exit_of(pid);
        self.init.made(pid, Phase::Created, console.clone());
        if let Err(error) = connect(
            &self.init,
            stdio.log,
            stdio.ours,
            stdio.logger,
            console,
            &self.lifetime,
        )
        .await
        {
            diagnostics::report(&error.to_string());
        }
        let made = self.init.snapshot().pid;
        self.note_cgroup(pid);
        self.tell_created(rootfs, described, made);
        let container = Arc::clone(self);
        tokio::spawn(async move {
            let exit = exit.await.unwrap_or_else(|_| Exit::unknown());
            ending::container_ended(&container, exit).await;
        });
        Ok(made)
    }

    fn tell_created(&self, rootfs: Vec<Mount>, described: &Described, pid: u32) {
        let create = Create {
            bundle: self.bundle.display().to_string(),
            rootfs,
            stdin: described.stdin.clone(),
            stdout: described.stdout.clone(),
            stderr: described.stderr.clone(),
            terminal: described.terminal,
            checkpoint: String::new(),
            pid,
        };
        self.events.tell(&self.id, What::Create(Box::new(create)));
    }

    fn read_config(&self) -> Result<()> {
        let config = Config::read(&self.bundle.join("config.json"))?;
        // Systemd chooses the directories; they are known by the process in them (see `note_cgroup`).
        let by_systemd = self.runtime.by_systemd();
        let cgroup = (!by_systemd).then(|| {
            Host::detect()
                .and_then(|host| host.container(config.cgroups_path(), &self.id))
                .map_err(|error| diagnostics::report(&format!("cgroup of {}: {error}", self.id)))
                .ok()
        });
        let mut facts = lock(&self.facts);
        facts.cgroup = cgroup.flatten();
        facts.own_pid_namespace = config.has_own_pid_namespace();
        facts.cleaned = false;
        Ok(())
    }

    /// Learns the cgroup from the process that was made, and listens for its memory running out where somebody is told.
    fn note_cgroup(&self, pid: i32) {
        if self.runtime.by_systemd() {
            let found = Host::detect().map(|host| oom::cgroup_of(&host, pid));
            lock(&self.facts).cgroup = found.ok().flatten();
        }
        if self.events.has_listener()
            && let Some(cgroup) = lock(&self.facts).cgroup.as_ref()
        {
            oom::watch(&self.id, cgroup, &self.events);
        }
    }

    pub(super) async fn stdio(&self, terminal: bool, addresses: &Addresses, dir: &Path) -> Result<Stdio> {
        let (id, namespace, reaper) = (&self.id, &self.namespace, &self.reaper);
        let mut logger = match (addresses.logger(), addresses.driver()) {
            (Some(binary), _) => Some(Logger::start(binary, id, namespace, reaper).await?),
            (None, Some(driver)) => Some(Logger::start_driver(driver, id, namespace, reaper).await?),
            (None, None) => None,
        };
        let (child, ours, socket) = if terminal {
            let socket = ConsoleSocket::bind(dir, "console.sock")?;
            (
                ChildStdio::null()?,
                io::terminal(addresses, &mut logger)?,
                Some(socket),
            )
        } else {
            let (child, ours) = io::pipes(addresses, self.manner.io_owner, &mut logger)?;
            (child, ours, None)
        };
        Ok(Stdio {
            child,
            ours,
            socket,
            logger,
            log: addresses.open_log()?,
        })
    }

    /// Runs a runtime call that makes a process, and receives its terminal meanwhile.
    pub(super) async fn with_console(
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
        self.init.starting();
        let started = self.runtime.simple(&self.bundle, &["start"]).await;
        started.inspect_err(|_| self.init.not_started())?;
        fault::point("started");
        self.init.running();
        self.events.tell(&self.id, What::Start { pid: before.pid });
        Ok(before.pid)
    }
}

/// Connects a process that was just made to its log and its clients.
pub(super) async fn connect(
    process: &Process,
    log: Option<LogFile>,
    ours: OurStdio,
    logger: Option<Logger>,
    console: Option<Arc<Console>>,
    lifetime: &Arc<Lifetime>,
) -> Result<()> {
    if let Some(logger) = logger {
        logger.watch(&process.hub, lifetime)?;
    }
    let is_terminal = console.is_some();
    if let Some(console) = console {
        process.hub.opened(log, 1);
        carry(process, Stream::Stdout, console.reader()?, ours.terminal)?;
        process.stdin.open_console(console).await;
    } else {
        process.hub.opened(log, ours.outputs.len());
        for (stream, source, sink) in ours.outputs {
            carry(process, stream, source, sink)?;
        }
        process.stdin.open_pipe(ours.stdin).await?;
    }
    match ours.input {
        Some(fifo) => relay::input(&process.stdin, fifo, is_terminal),
        None => Ok(()),
    }
}

fn carry(process: &Process, stream: Stream, source: OwnedFd, sink: Sink) -> Result<()> {
    match sink {
        Sink::Hub => pump::start(&process.hub, stream, source),
        Sink::Relay(dest) => relay::output(&process.hub, source, dest),
    }
}
