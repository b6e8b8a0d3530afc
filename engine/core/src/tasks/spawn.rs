//! How a shim comes to life: sockets bound by us, descriptors at agreed numbers, parameters on stdin, one line back.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use kelson_shim_proto::serve::{MAX_READY, PortParams, Proto, Ready, RuntimeParams, ServeParams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout};

use super::{Task, TaskRecord, start_time};
use crate::error::{Doing, Error, Result};
use crate::names;
use crate::store::Roots;

/// How long a shim may take to its ready line.
const READY: Duration = Duration::from_secs(15);

const TASK_FD: i32 = 3;
const ATTACH_FD: i32 = 4;
/// The network namespace's number in the shim; config.json names it.
pub(crate) const NETNS_FD: i32 = 5;
const FIRST_PORT_FD: i32 = 6;

/// A socket for the shim to forward from.
#[derive(Debug)]
pub(crate) struct ShimPort {
    pub socket: OwnedFd,
    pub proto: Proto,
    pub target: SocketAddr,
}

/// What a shim is started with.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    pub program: &'a Path,
    pub id: &'a str,
    pub runtime: RuntimeParams,
    pub netns: Option<OwnedFd>,
    pub ports: Vec<ShimPort>,
    pub exit_record: PathBuf,
    /// Its stderr.
    pub log: File,
}

/// A shim that was started and has not said yet that it is ready.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub record: TaskRecord,
    child: Child,
    stdout: ChildStdout,
    params: Vec<u8>,
}

/// Starts a shim and writes its record. Nothing of it is left when this fails.
pub(crate) fn spawn(request: Spawn<'_>, roots: &Roots) -> Result<Spawned> {
    let names = names::new_id()?;
    let (socket, attach) = (names[..16].to_owned(), names[16..32].to_owned());
    let unbind = || {
        let _ = std::fs::remove_file(roots.socket_file(&socket));
        let _ = std::fs::remove_file(roots.socket_file(&attach));
    };
    let bind = |name: &str| UnixListener::bind(roots.socket(name)).doing(|| "bind a shim's socket");
    let mut mappings = Vec::with_capacity(3 + request.ports.len());
    mappings.push(FdMapping {
        parent_fd: bind(&socket)?.into(),
        child_fd: TASK_FD,
    });
    mappings.push(FdMapping {
        parent_fd: bind(&attach).inspect_err(|_| unbind())?.into(),
        child_fd: ATTACH_FD,
    });
    let params = parameters(&request, roots);
    if let Some(netns) = request.netns {
        mappings.push(FdMapping {
            parent_fd: netns,
            child_fd: NETNS_FD,
        });
    }
    for (port, fd) in request.ports.into_iter().zip(FIRST_PORT_FD..) {
        mappings.push(FdMapping {
            parent_fd: port.socket,
            child_fd: fd,
        });
    }
    let result = start(
        request.program,
        request.log,
        mappings,
        request.runtime,
        request.id,
        (&socket, &attach),
        roots,
    );
    let (record, child, stdout) = result.inspect_err(|_| unbind())?;
    Ok(Spawned {
        record,
        child,
        stdout,
        params,
    })
}

fn parameters(request: &Spawn<'_>, roots: &Roots) -> Vec<u8> {
    let ports = request.ports.iter().zip(FIRST_PORT_FD..);
    ServeParams {
        format: kelson_shim_proto::FORMAT,
        id: request.id.to_owned(),
        bundle: roots.bundle(request.id),
        runtime: request.runtime.clone(),
        task_fd: TASK_FD,
        attach_fd: ATTACH_FD,
        netns_fd: request.netns.is_some().then_some(NETNS_FD),
        ports: ports
            .map(|(p, fd)| PortParams {
                fd,
                proto: p.proto,
                target: p.target,
            })
            .collect(),
        exit_record: request.exit_record.clone(),
        // It stays where kelsond is: a move costs each start a write to every hierarchy, and the unit file
        // (KillMode=process, OOMPolicy=continue) lets it outlive kelsond there.
        shim_cgroup: None,
    }
    .encode()
}

fn start(
    program: &Path,
    log: File,
    mappings: Vec<FdMapping>,
    runtime: RuntimeParams,
    id: &str,
    (socket, attach): (&str, &str),
    roots: &Roots,
) -> Result<(TaskRecord, Child, ChildStdout)> {
    let doing = || format!("start the shim {}", program.display());
    let mut command = std::process::Command::new(program);
    command
        .arg("serve")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    command
        .fd_mappings(mappings)
        .map_err(|e| Error::internal(format!("{}: {e}", doing())))?;
    let mut command = tokio::process::Command::from(command);
    let mut child = command.spawn().doing(doing)?;
    // Our copies of the sockets go with the command: a shim that dies resets its connections.
    drop(command);
    let gone = || Error::internal(format!("{}: it ended at once", doing()));
    let pid = child.id().ok_or_else(gone)?;
    let stdout = child.stdout.take().ok_or_else(gone)?;
    let record = TaskRecord {
        format: super::format(),
        id: id.to_owned(),
        boot_id: roots.boot_id().to_owned(),
        shim_pid: pid,
        shim_start: start_time(pid).ok_or_else(gone)?,
        socket: socket.to_owned(),
        attach: attach.to_owned(),
        runtime: runtime.path,
        runtime_root: runtime.root,
        systemd_cgroup: runtime.systemd_cgroup,
    };
    if let Err(e) = record.save(roots) {
        // The shim has no parameters yet, so it has made nothing.
        let _ = child.start_kill();
        return Err(e);
    }
    Ok((record, child, stdout))
}

impl Spawned {
    /// Path of the network namespace as processes of this machine see it.
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{NETNS_FD}", self.record.shim_pid))
    }

    /// Ends a shim that has no parameters yet, so has made nothing.
    pub fn abandon(mut self, roots: &Roots) {
        let _ = self.child.start_kill();
        if let Err(e) = self.record.forget(roots) {
            tracing::warn!(container = %self.record.id, error = %e, "forget an unused shim");
        }
    }

    /// Hands over the parameters, waits for the ready line and connects.
    ///
    /// # Errors
    /// `Unavailable` when the line does not come; the shim is killed then and its record removed.
    pub async fn ready(mut self, roots: &Roots) -> Result<Arc<Task>> {
        let answer = tokio::time::timeout(READY, self.exchange())
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("start the shim: it is not ready in time")));
        if let Err(e) = answer {
            let _ = self.child.kill().await;
            let _ = self.record.forget(roots);
            return Err(e);
        }
        // Somebody has to reap it, whenever it ends.
        let mut child = self.child;
        tokio::spawn(async move { child.wait().await });
        let record = self.record.clone();
        match Task::connect(self.record, roots).await {
            Ok(task) => Ok(task),
            Err(e) => {
                let _ = Task::destroy(&record, roots).await;
                Err(e)
            }
        }
    }

    async fn exchange(&mut self) -> Result<()> {
        let mut stdin = self
            .child
            .stdin
            .take()
            .ok_or_else(|| Error::internal("start the shim: its stdin is gone"))?;
        // A shim that died is told by its missing line, with its own words.
        let _ = stdin.write_all(&self.params).await;
        drop(stdin);
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_READY).unwrap_or(u64::MAX);
        let mut stdout = (&mut self.stdout).take(limit);
        while !line.ends_with(b"\n") {
            if stdout
                .read_buf(&mut line)
                .await
                .doing(|| "read the shim's ready line")?
                == 0
            {
                return Err(Error::internal(
                    "start the shim: it ended without a ready line, see its shim.log",
                ));
            }
        }
        let ready: Ready = serde_json::from_slice(&line).doing(|| "read the shim's ready line")?;
        match ready.error {
            Some(error) => Err(Error::internal(format!("start the shim: {error}"))),
            None => Ok(()),
        }
    }
}
