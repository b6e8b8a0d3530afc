//! The shim's client: how a shim is started, found again, asked, and cleaned up after. Knows no container, only ids.

mod attach;
mod spawn;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kelson_shim_proto::error::{COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND, Code, Failure, decode};
use kelson_shim_proto::task::{
    Any, CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, Mount, PauseRequest, PidsRequest,
    ResizePtyRequest, ResumeRequest, StartRequest, StateRequest, Status, TaskClient, Timestamp,
    UpdateTaskRequest, WaitRequest,
};
use procfs::FromRead as _;
use protobuf::MessageField;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use ttrpc::context::{Context, with_duration};

use crate::error::{Doing, Error, Kind, Result};
use crate::store::{self, Durability, FORMAT, Roots};

pub(crate) use attach::{AttachConnection, AttachRequest, frames};
pub(crate) use spawn::{NETNS_FD, ShimPort, Spawn, Spawned, spawn};

/// How long a shim may take for what is a few system calls.
const QUICK: Duration = Duration::from_secs(10);
/// How long a shim may take for what runs the OCI runtime: mounts, hooks, a cold disk.
const SLOW: Duration = Duration::from_secs(120);

/// Where a shim is found again: `EXEC_ROOT/tasks/ID.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub format: u32,
    pub id: String,
    pub boot_id: String,
    pub shim_pid: u32,
    /// Field 22 of /proc/PID/stat, clock ticks since boot: tells a reused pid.
    pub shim_start: u64,
    /// Names in `EXEC_ROOT/s`.
    pub socket: String,
    pub attach: String,
    /// The runtime's program and its `--root`.
    pub runtime: PathBuf,
    pub runtime_root: PathBuf,
    #[serde(default)]
    pub systemd_cgroup: bool,
}

impl TaskRecord {
    fn file(id: &str) -> String {
        format!("{id}.json")
    }

    pub fn save(&self, roots: &Roots) -> Result<()> {
        store::save(&roots.tasks(), &Self::file(&self.id), self, Durability::Volatile)
    }

    /// All records, and the ids of those that cannot be read.
    pub fn load_all(roots: &Roots) -> Result<(Vec<Self>, Vec<String>)> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let dir = roots.tasks();
        for entry in std::fs::read_dir(&dir).doing(|| format!("read {}", dir.display()))? {
            let name = entry.doing(|| format!("read {}", dir.display()))?.file_name();
            let Some(id) = name
                .to_str()
                .and_then(|n| n.strip_suffix(".json"))
                .filter(|n| !n.starts_with('.'))
            else {
                continue;
            };
            match store::load::<Self>(&dir.join(&name)) {
                Ok(Some(record)) if record.id == id => good.push(record),
                Ok(_) => bad.push(id.to_owned()),
                Err(e) => {
                    tracing::warn!(error = %e, "a task record is of no use");
                    bad.push(id.to_owned());
                }
            }
        }
        Ok((good, bad))
    }

    /// The shim of this record lives: same boot, same process.
    pub fn is_alive(&self, roots: &Roots) -> bool {
        self.boot_id == roots.boot_id() && start_time(self.shim_pid) == Some(self.shim_start)
    }

    /// Removes what the record stands for, and at last the record. Nothing of it runs any more.
    pub fn forget(&self, roots: &Roots) -> Result<()> {
        let results = [
            store::remove_file(&roots.socket_file(&self.socket)),
            store::remove_file(&roots.socket_file(&self.attach)),
            store::remove_tree(&roots.bundle(&self.id)),
        ];
        for result in results {
            result?;
        }
        store::remove_file(&roots.tasks().join(Self::file(&self.id)))
    }
}

/// Start time of a process in clock ticks since boot; `None` when there is none, or only its zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = procfs::process::Stat::from_file(format!("/proc/{pid}/stat")).ok()?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.starttime)
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub status: u32,
    /// RFC 3339.
    pub at: String,
    pub oom_killed: bool,
}

/// What the shim says about a process.
#[derive(Debug, Clone)]
pub(crate) struct TaskState {
    pub status: Status,
    pub pid: u32,
}

/// A shim that answers.
pub(crate) struct Task {
    pub record: TaskRecord,
    client: TaskClient,
    attach: PathBuf,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// A process's stdio, as the shim is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stdio {
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

impl Task {
    /// Connects to the shim of a record.
    ///
    /// # Errors
    /// `Unavailable` when nobody listens there.
    pub async fn connect(record: TaskRecord, roots: &Roots) -> Result<Arc<Self>> {
        let path = roots.socket(&record.socket);
        let stream = tokio::time::timeout(QUICK, UnixStream::connect(&path))
            .await
            .map_err(|_| Error::unavailable(format!("connect to the shim of {}: no answer", record.id)))?
            .map_err(|e| {
                Error::with_source(
                    Kind::Unavailable,
                    format!("connect to the shim of {}", record.id),
                    e,
                )
            })?;
        let client = TaskClient::new(ttrpc::r#async::Client::new(stream.into()));
        let attach = roots.socket(&record.attach);
        Ok(Arc::new(Self {
            record,
            client,
            attach,
        }))
    }

    /// Makes the container and its first process, which waits for [`Task::start`].
    pub async fn create(&self, bundle: &std::path::Path, rootfs: Mount, stdio: Stdio) -> Result<u32> {
        let request = CreateTaskRequest {
            id: self.record.id.clone(),
            bundle: bundle.display().to_string(),
            rootfs: vec![rootfs],
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            ..CreateTaskRequest::default()
        };
        let answer = self.client.create(with_duration(SLOW), &request).await;
        Ok(answer.map_err(|e| failed("create", &e))?.pid)
    }

    pub async fn start(&self, exec: &str) -> Result<u32> {
        let request = StartRequest {
            id: self.record.id.clone(),
            exec_id: exec.into(),
            ..StartRequest::default()
        };
        let answer = self.client.start(with_duration(SLOW), &request).await;
        Ok(answer.map_err(|e| failed("start", &e))?.pid)
    }

    pub async fn exec(&self, exec: &str, spec: &serde_json::Value, stdio: Stdio) -> Result<()> {
        let any = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: serde_json::to_vec(spec).doing(|| "encode the process")?,
            ..Any::default()
        };
        let request = ExecProcessRequest {
            id: self.record.id.clone(),
            exec_id: exec.into(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            spec: MessageField::some(any),
            ..ExecProcessRequest::default()
        };
        self.client
            .exec(with_duration(QUICK), &request)
            .await
            .map_err(|e| failed("exec", &e))?;
        Ok(())
    }

    /// Waits for the end of a process, however long it takes.
    ///
    /// # Errors
    /// `Unavailable` when the shim is gone: the exit record knows more then.
    pub async fn wait(&self, exec: &str) -> Result<Exit> {
        let request = WaitRequest {
            id: self.record.id.clone(),
            exec_id: exec.into(),
            ..WaitRequest::default()
        };
        let answer = self
            .client
            .wait(Context::default(), &request)
            .await
            .map_err(|e| failed("wait for", &e))?;
        Ok(Exit {
            status: answer.exit_status,
            at: time(&answer.exited_at),
            oom_killed: false,
        })
    }

    pub async fn state(&self, exec: &str) -> Result<TaskState> {
        let request = StateRequest {
            id: self.record.id.clone(),
            exec_id: exec.into(),
            ..StateRequest::default()
        };
        let answer = self
            .client
            .state(with_duration(QUICK), &request)
            .await
            .map_err(|e| failed("ask", &e))?;
        Ok(TaskState {
            status: answer.status.enum_value_or(Status::UNKNOWN),
            pid: answer.pid,
        })
    }

    /// Signals the first process, or `all` of the container's.
    pub async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<()> {
        let id = self.record.id.clone();
        let request = KillRequest {
            id,
            exec_id: exec.into(),
            signal,
            all,
            ..KillRequest::default()
        };
        self.client
            .kill(with_duration(QUICK), &request)
            .await
            .map_err(|e| failed("signal", &e))?;
        Ok(())
    }

    pub async fn pause(&self) -> Result<()> {
        let request = PauseRequest {
            id: self.record.id.clone(),
            ..PauseRequest::default()
        };
        self.client
            .pause(with_duration(QUICK), &request)
            .await
            .map_err(|e| failed("pause", &e))?;
        Ok(())
    }

    pub async fn resume(&self) -> Result<()> {
        let request = ResumeRequest {
            id: self.record.id.clone(),
            ..ResumeRequest::default()
        };
        self.client
            .resume(with_duration(QUICK), &request)
            .await
            .map_err(|e| failed("unpause", &e))?;
        Ok(())
    }

    /// Changes limits: `resources` is `linux.resources` of the runtime-spec. Those that it does not name stay.
    ///
    /// # Errors
    /// What the runtime reported; it has set back what it had changed by then.
    pub async fn update(&self, resources: &serde_json::Value) -> Result<()> {
        let any = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
            value: serde_json::to_vec(resources).doing(|| "encode the limits")?,
            ..Any::default()
        };
        let request = UpdateTaskRequest {
            id: self.record.id.clone(),
            resources: MessageField::some(any),
            ..UpdateTaskRequest::default()
        };
        self.client
            .update(with_duration(SLOW), &request)
            .await
            .map_err(|e| failed("update", &e))?;
        Ok(())
    }

    pub async fn pids(&self) -> Result<Vec<u32>> {
        let request = PidsRequest {
            id: self.record.id.clone(),
            ..PidsRequest::default()
        };
        let answer = self
            .client
            .pids(with_duration(QUICK), &request)
            .await
            .map_err(|e| failed("list", &e))?;
        Ok(answer.processes.into_iter().map(|p| p.pid).collect())
    }

    pub async fn resize(&self, exec: &str, height: u16, width: u16) -> Result<()> {
        let request = ResizePtyRequest {
            id: self.record.id.clone(),
            exec_id: exec.into(),
            width: width.into(),
            height: height.into(),
            ..ResizePtyRequest::default()
        };
        self.client
            .resize_pty(with_duration(QUICK), &request)
            .await
            .map_err(|e| failed("resize", &e))?;
        Ok(())
    }

    /// Lets go of an ended process; of the container itself with an empty `exec`, after which the shim exits.
    pub async fn delete(&self, exec: &str) -> Result<()> {
        let request = DeleteRequest {
            id: self.record.id.clone(),
            exec_id: exec.into(),
            ..DeleteRequest::default()
        };
        self.client
            .delete(with_duration(SLOW), &request)
            .await
            .map_err(|e| failed("delete", &e))?;
        Ok(())
    }

    /// Connects to a process's output and input.
    pub async fn attach(&self, request: &AttachRequest) -> Result<AttachConnection> {
        attach::connect(&self.attach, request).await
    }

    /// Ends whatever is left of a container whose shim died, or must die: the shim, then the container's processes and
    /// cgroup, by the runtime's own `delete --force`.
    pub async fn destroy(record: &TaskRecord, roots: &Roots) -> Result<()> {
        if record.is_alive(roots) {
            kill_process(record.shim_pid, record.shim_start);
        }
        if record.boot_id == roots.boot_id() {
            let mut command = tokio::process::Command::new(&record.runtime);
            command.arg("--root").arg(&record.runtime_root);
            if record.systemd_cgroup {
                command.arg("--systemd-cgroup");
            }
            command.args(["delete", "--force", &record.id]).kill_on_drop(true);
            command.stdin(std::process::Stdio::null());
            match tokio::time::timeout(SLOW, command.output()).await {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => tracing::warn!(container = %record.id, error = %e, "run the runtime's delete"),
                Err(_) => tracing::warn!(container = %record.id, "the runtime's delete does not end"),
            }
        }
        record.forget(roots)
    }
}

/// SIGKILL to a process that is still the one of that start time; the pidfd keeps the pid from being reused in between.
pub(crate) fn kill_process(pid: u32, start: u64) {
    let Some(pid_) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return;
    };
    let Ok(fd) = rustix::process::pidfd_open(pid_, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    if start_time(pid) == Some(start) {
        let _ = rustix::process::pidfd_send_signal(fd, rustix::process::Signal::KILL);
    }
}

fn time(at: &MessageField<Timestamp>) -> String {
    let known = at
        .as_ref()
        .and_then(|t| jiff::Timestamp::new(t.seconds, t.nanos).ok());
    crate::clock::format(known.unwrap_or_else(jiff::Timestamp::now))
}

/// An answer that is an error, in our terms.
fn failed(verb: &'static str, error: &ttrpc::Error) -> Error {
    let Failure {
        code,
        message,
        detail,
        transport,
    } = decode(error);
    if transport {
        return Error::unavailable(format!(
            "{verb} the container: its shim does not answer: {message}"
        ));
    }
    let by_detail = detail.as_ref().and_then(|d| match d.kind.as_str() {
        COMMAND_NOT_FOUND => Some((Kind::Invalid, Some(127))),
        COMMAND_NOT_EXECUTABLE => Some((Kind::Invalid, Some(126))),
        "invalid" => Some((Kind::Invalid, None)),
        _ => None,
    });
    let (kind, exit) = by_detail.unwrap_or_else(|| {
        let kind = match code {
            Code::NOT_FOUND => Kind::NotFound,
            Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE => Kind::Invalid,
            Code::ALREADY_EXISTS | Code::FAILED_PRECONDITION | Code::ABORTED => Kind::Conflict,
            Code::PERMISSION_DENIED | Code::UNAUTHENTICATED => Kind::Denied,
            Code::UNIMPLEMENTED => Kind::Unsupported,
            Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED | Code::CANCELLED => Kind::Unavailable,
            _ => Kind::Internal,
        };
        (kind, None)
    });
    let error = Error::new(kind, message);
    match exit {
        Some(code) => error.exiting(code),
        None => error,
    }
}

/// A new record's `format`.
pub(crate) fn format() -> u32 {
    FORMAT
}

#[cfg(test)]
mod tests {
    use super::*;
    use kelson_shim_proto::error::{Detail, encode};

    #[test]
    fn kinds_and_exit_codes_cross_the_border() {
        let detail = |kind: &str| Detail {
            kind: kind.into(),
            errno: None,
        };
        let of = |code, kind: &str| failed("create", &encode(code, "why", Some(&detail(kind))));
        assert_eq!(of(Code::NOT_FOUND, COMMAND_NOT_FOUND).exit_code(), Some(127));
        assert_eq!(of(Code::UNKNOWN, COMMAND_NOT_EXECUTABLE).exit_code(), Some(126));
        assert_eq!(of(Code::UNKNOWN, "other").kind(), Kind::Internal);
        assert_eq!(of(Code::NOT_FOUND, "not_found").kind(), Kind::NotFound);
        assert_eq!(of(Code::NOT_FOUND, "not_found").to_string(), "why");
        assert_eq!(
            failed("x", &ttrpc::Error::Socket("gone".into())).kind(),
            Kind::Unavailable
        );
    }

    #[test]
    fn start_times_tell_processes_apart() {
        let me = start_time(std::process::id()).unwrap();
        assert_eq!(start_time(std::process::id()), Some(me));
        assert_eq!(start_time(0), None);
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        // A zombie is nobody.
        while start_time(child.id()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
