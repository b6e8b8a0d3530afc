//! Exec: a further process in a running container. Prepared ones are kept in memory only: they end with the container or
//! with the daemon's interest in them.

mod once;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use kelson_api::stream::StreamId;
use kelson_api::{ExecCreateRequest, ExecInspect, ProcessConfig};
use tokio::sync::{Notify, oneshot};

use super::attach::{parse_keys, relay};
use super::container::Container;
use super::modes::SecurityOptions;
use super::record::Status;
use super::{launch, links};
use crate::error::{Error, Result};
use crate::inner::{Inner, blocking};
use crate::names;
use crate::spec::{ExecInputs, caps, exec_process};
use crate::tasks::{AttachRequest, Stdio, Task};
use crate::types::{Attached, ExecStartOptions, Frame};

pub(crate) use once::run_to_end;

/// Execs remembered per container; the oldest ended ones are forgotten first.
const REMEMBERED: usize = 256;

/// Exit code of an exec whose container ended under it.
const WITH_CONTAINER: i64 = 137;
/// How long the end of an exec's output waits for its exit code.
const EXIT_AFTER_OUTPUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Exec {
    id: String,
    container: Arc<Container>,
    request: ExecCreateRequest,
    keys: Vec<u8>,
    state: Mutex<ExecState>,
    ended: Notify,
}

#[derive(Debug, Clone, Copy, Default)]
struct ExecState {
    started: bool,
    running: bool,
    exit_code: Option<i64>,
    pid: u32,
}

impl Exec {
    fn state(&self) -> ExecState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut ExecState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until the exit code is recorded, or as long as a process may take to end after its output has.
    async fn recorded(&self) {
        let ended = self.ended.notified();
        if self.state().running {
            // One that closed its output and runs on is not waited for.
            let _ = tokio::time::timeout(EXIT_AFTER_OUTPUT, ended).await;
        }
    }

    /// Waits until the exit code is recorded, however long it takes.
    async fn until_ended(&self) {
        let ended = self.ended.notified();
        if self.state().exit_code.is_none() {
            ended.await;
        }
    }

    fn command(&self) -> Vec<String> {
        self.request.cmd.as_ref().map(|c| c.0.clone()).unwrap_or_default()
    }
}

/// All execs there are.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    by_id: Mutex<HashMap<String, Arc<Exec>>>,
}

impl Execs {
    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        self.map()
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    pub fn forget_container(&self, id: &str) {
        self.map().retain(|_, exec| exec.container.id != id);
    }

    fn forget(&self, id: &str) {
        self.map().remove(id);
    }
}

pub(crate) fn create(inner: &Arc<Inner>, name: &str, request: ExecCreateRequest) -> Result<String> {
    let container = inner.containers.find(name)?;
    match container.status() {
        Status::Running => {}
        Status::Paused => {
            return Err(Error::conflict(format!(
                "container {name} is paused, unpause the container before exec"
            )));
        }
        Status::Restarting => {
            return Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        _ => {
            return Err(Error::conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
    }
    if request.cmd.as_ref().is_none_or(|c| c.0.is_empty()) {
        return Err(Error::invalid("No exec command specified"));
    }
    let keys = match request.detach_keys.as_str() {
        "" => vec![16, 17],
        text => parse_keys(text)?,
    };
    let id = names::new_id()?;
    let exec = Arc::new(Exec {
        id: id.clone(),
        container: container.clone(),
        request,
        keys,
        state: Mutex::default(),
        ended: Notify::new(),
    });
    let known = container.execs();
    if known.len() >= REMEMBERED {
        let ended = known
            .iter()
            .find(|e| inner.execs.find(e).is_ok_and(|e| !e.state().running));
        let Some(ended) = ended else {
            return Err(Error::unavailable(format!(
                "{REMEMBERED} execs run in container {}",
                container.id
            )));
        };
        inner.execs.forget(ended);
        container.remove_exec(ended);
    }
    inner.emit(
        &container,
        &format!("exec_create: {}", exec.command().join(" ")),
        &[("execID", id.clone())],
    );
    inner.execs.map().insert(id.clone(), exec);
    container.add_exec(&id);
    Ok(id)
}

/// Starts it and connects to it. A command that cannot be run is told on the stream, as docker does: the HTTP answer has
/// been given by then.
pub(crate) async fn start(inner: &Arc<Inner>, id: &str, options: ExecStartOptions) -> Result<Attached> {
    let exec = inner.execs.find(id)?;
    let tty = exec.request.tty;
    let started = begin(inner, &exec, options, true).await;
    match started {
        Ok(Some(connection)) => {
            let (send, receive) = oneshot::channel();
            let _ = send.send(connection);
            let keys = if tty && exec.request.attach_stdin {
                exec.keys.clone()
            } else {
                Vec::new()
            };
            let (inner, container, exec_id) = (inner.clone(), exec.container.clone(), exec.id.clone());
            let detached = Arc::new(AtomicBool::new(false));
            let mark = detached.clone();
            let attached = relay(receive, tty, keys, move || {
                mark.store(true, Ordering::Release);
                inner.emit(&container, "exec_detach", &[("execID", exec_id)])
            });
            // Clients ask for the exit code as soon as the stream has ended.
            let recorded = futures_util::stream::once(async move {
                if !detached.load(Ordering::Acquire) {
                    exec.recorded().await;
                }
            });
            let end = recorded.filter_map(|()| std::future::ready(None));
            Ok(Attached {
                output: Box::pin(attached.output.chain(end)),
                ..attached
            })
        }
        Ok(None) => Err(Error::internal("start an exec: no connection")),
        Err(e) if e.exit_code().is_some() => {
            let frame = Frame {
                stream: StreamId::Stdout,
                data: Bytes::from(format!("{e}\r\n")),
            };
            let output = Box::pin(futures_util::stream::once(std::future::ready(Ok(frame))));
            Ok(Attached {
                tty,
                output,
                input: Box::pin(tokio::io::sink()),
            })
        }
        Err(e) => Err(e),
    }
}

pub(crate) async fn start_detached(inner: &Arc<Inner>, id: &str, options: ExecStartOptions) -> Result<()> {
    let exec = inner.execs.find(id)?;
    begin(inner, &exec, options, false).await.map(drop)
}

async fn begin(
    inner: &Arc<Inner>,
    exec: &Arc<Exec>,
    options: ExecStartOptions,
    attach: bool,
) -> Result<Option<crate::tasks::AttachConnection>> {
    let container = &exec.container;
    if container.status() == Status::Paused {
        return Err(Error::conflict(format!(
            "container {} is paused, unpause the container before exec",
            container.id
        )));
    }
    let task = container.running_task()?;
    let first = {
        let mut state = exec.state.lock().unwrap_or_else(PoisonError::into_inner);
        !std::mem::replace(&mut state.started, true)
    };
    if !first {
        return Err(Error::conflict(format!(
            "exec {} has already been started",
            exec.id
        )));
    }
    match launch_process(inner, exec, &task, options, attach).await {
        Ok((connection, pid)) => {
            exec.update(|s| {
                s.running = true;
                s.pid = pid;
            });
            let action = format!("exec_start: {}", exec.command().join(" "));
            inner.emit(container, &action, &[("execID", exec.id.clone())]);
            tokio::spawn(watch(inner.clone(), exec.clone(), task));
            Ok(connection)
        }
        Err(e) => {
            let code = e.exit_code().unwrap_or(126);
            exec.update(|s| s.exit_code = Some(code.into()));
            Err(e)
        }
    }
}

async fn launch_process(
    inner: &Arc<Inner>,
    exec: &Arc<Exec>,
    task: &Task,
    options: ExecStartOptions,
    attach: bool,
) -> Result<(Option<crate::tasks::AttachConnection>, u32)> {
    let process = {
        let (inner, exec) = (inner.clone(), exec.clone());
        blocking("prepare an exec", move || process(&inner, &exec, options)).await?
    };
    let request = &exec.request;
    let tty = request.tty;
    let output = |wanted: bool| {
        if attach && wanted {
            "kelson-attach:".to_owned()
        } else {
            String::new()
        }
    };
    let stdio = Stdio {
        terminal: tty,
        stdin: if attach && request.attach_stdin {
            "kelson-attach:?once=1".into()
        } else {
            String::new()
        },
        // A terminal's output has one stream; without it the shim would have nowhere to send it.
        stdout: output(request.attach_stdout || (tty && request.attach_stderr)),
        stderr: if tty {
            String::new()
        } else {
            output(request.attach_stderr)
        },
    };
    task.exec(&exec.id, &process, stdio).await?;
    let begun = async {
        let connection = if attach {
            let wanted = AttachRequest {
                exec: exec.id.clone(),
                stdin: request.attach_stdin,
                stdout: true,
                stderr: true,
                from_start: false,
                tty,
            };
            Some(task.attach(&wanted).await?)
        } else {
            None
        };
        Ok((connection, task.start(&exec.id).await?))
    };
    let result = begun.await;
    if result.is_err() {
        let _ = task.delete(&exec.id).await;
    }
    result
}

fn process(inner: &Inner, exec: &Exec, options: ExecStartOptions) -> Result<serde_json::Value> {
    let record = exec.container.record();
    let request = &exec.request;
    let user_spec = if request.user.is_empty() {
        &record.config.user
    } else {
        &request.user
    };
    let user = launch::exec_user(inner, &record, user_spec, false)?;
    let list = |l: &Option<kelson_api::wire::StrSlice>| l.as_ref().map(|s| s.0.clone()).unwrap_or_default();
    let host = &record.host;
    let privileged = request.privileged || host.privileged;
    let caps = caps::tweak(
        &list(&host.cap_add),
        &list(&host.cap_drop),
        privileged,
        &inner.held_caps,
    )?;
    let size = options.console_size.or_else(|| {
        let [height, width] = request.console_size?;
        Some((u16::try_from(height).ok()?, u16::try_from(width).ok()?))
    });
    let security = SecurityOptions::parse(host)?;
    let command = exec.command();
    // Of a link whose other end has gone nothing is told.
    let mut env = links::environment(inner, &record).unwrap_or_default();
    env.extend(request.env.iter().flatten().cloned());
    Ok(exec_process(&ExecInputs {
        record: &record,
        hostname: &record.config.hostname,
        user,
        caps,
        tty: request.tty,
        console_size: size,
        args: &command,
        env: &env,
        working_dir: &request.working_dir,
        no_new_privileges: security
            .no_new_privileges
            .unwrap_or(inner.config.no_new_privileges),
        default_ulimits: &inner.config.default_ulimits,
    }))
}

async fn watch(inner: Arc<Inner>, exec: Arc<Exec>, task: Arc<Task>) {
    let code = match task.wait(&exec.id).await {
        Ok(exit) => i64::from(exit.status),
        // The shim went with the container, and the container took its processes along.
        Err(_) => WITH_CONTAINER,
    };
    exec.update(|s| {
        s.running = false;
        s.exit_code = Some(code);
    });
    exec.ended.notify_waiters();
    let attributes = [("execID", exec.id.clone()), ("exitCode", code.to_string())];
    inner.emit(&exec.container, "exec_die", &attributes);
    let _ = task.delete(&exec.id).await;
}

pub(crate) async fn resize(inner: &Arc<Inner>, id: &str, height: u16, width: u16) -> Result<()> {
    let exec = inner.execs.find(id)?;
    if !exec.state().running {
        return Err(Error::conflict(format!("exec {id} is not running")));
    }
    exec.container.running_task()?.resize(id, height, width).await
}

pub(crate) fn inspect(inner: &Arc<Inner>, id: &str) -> Result<ExecInspect> {
    let exec = inner.execs.find(id)?;
    let (state, request) = (exec.state(), &exec.request);
    let mut command = exec.command();
    let entrypoint = if command.is_empty() {
        String::new()
    } else {
        command.remove(0)
    };
    Ok(ExecInspect {
        id: exec.id.clone(),
        running: state.running,
        exit_code: state.exit_code,
        process_config: ProcessConfig {
            tty: request.tty,
            entrypoint,
            arguments: command,
            privileged: Some(request.privileged),
            user: request.user.clone(),
        },
        open_stdin: request.attach_stdin,
        open_stderr: request.attach_stderr,
        open_stdout: request.attach_stdout,
        can_remove: false,
        container_id: exec.container.id.clone(),
        detach_keys: request.detach_keys.clone(),
        pid: state.pid.into(),
    })
}
