//! A command that is run to its end, or killed: what a health check is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kelson_api::ExecCreateRequest;

use super::{EXIT_AFTER_OUTPUT, Exec, begin, create};
use crate::containers::container::Container;
use crate::error::Result;
use crate::inner::Inner;
use crate::tasks::{self, AttachConnection, Task};
use crate::types::ExecStartOptions;

/// How long output is waited for once the process that wrote it has ended.
const LAST_OUTPUT: Duration = Duration::from_millis(200);
/// Processes below an exec that are killed with it.
const MAX_DESCENDANTS: usize = 1024;

/// How a command ended that was run to its end.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// `None`: it did not end in time, and was killed.
    pub exit_code: Option<i64>,
    pub output: Vec<u8>,
    /// There was more output.
    pub truncated: bool,
}

/// Runs a command and kills it with its children if it takes too long. Nothing of it is remembered.
pub(crate) async fn run_to_end(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    command: Vec<String>,
    (time, bytes): (Duration, usize),
    begun: impl FnOnce(&str),
) -> Result<Ran> {
    let request = ExecCreateRequest {
        cmd: Some(kelson_api::wire::StrSlice(command)),
        attach_stdout: true,
        attach_stderr: true,
        ..ExecCreateRequest::default()
    };
    let task = container.running_task()?;
    let id = create(inner, &container.id, request)?;
    let exec = inner.execs.find(&id)?;
    begun(&id);
    let mut ran = Ran::default();
    let whole = async {
        match begin(inner, &exec, ExecStartOptions::default(), true).await? {
            Some(connection) => collect(&exec, connection, bytes, &mut ran).await,
            None => exec.until_ended().await,
        }
        Ok(())
    };
    let result = tokio::time::timeout(time, whole).await;
    match result {
        Ok(_) => ran.exit_code = exec.state().exit_code,
        Err(_) => end(&exec, &task).await,
    }
    container.remove_exec(&id);
    inner.execs.forget(&id);
    result.unwrap_or(Ok(())).map(|()| ran)
}

async fn collect(exec: &Exec, connection: AttachConnection, limit: usize, ran: &mut Ran) {
    let AttachConnection {
        reader,
        writer: _writer,
        early,
    } = connection;
    let mut frames = tasks::frames(reader, early);
    let mut keep = |data: &[u8]| {
        let room = limit - ran.output.len();
        ran.truncated |= data.len() > room;
        ran.output.extend_from_slice(&data[..data.len().min(room)]);
    };
    let ended = exec.until_ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            biased;
            frame = frames.next() => match frame {
                Some(Ok(frame)) => keep(&frame.data),
                _ => break,
            },
            () = &mut ended => {
                // What it wrote last may be on its way; what its children hold open is not waited for.
                while let Ok(Some(Ok(frame))) = tokio::time::timeout(LAST_OUTPUT, frames.next()).await {
                    keep(&frame.data);
                }
                return;
            }
        }
    }
    ended.await;
}

/// SIGKILL to its process and that one's descendants.
async fn end(exec: &Exec, task: &Task) {
    let below = descendants(exec.state().pid);
    if let Err(e) = task.kill(&exec.id, 9, false).await {
        tracing::debug!(exec = %exec.id, error = %e, "kill an exec");
    }
    for (pid, start) in below {
        tasks::kill_process(pid, start);
    }
    let _ = tokio::time::timeout(EXIT_AFTER_OUTPUT, exec.until_ended()).await;
}

/// Processes below `pid`, with their start times.
fn descendants(pid: u32) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    let mut waiting = vec![pid];
    while let Some(parent) = waiting
        .pop()
        .filter(|pid| *pid > 0 && found.len() < MAX_DESCENDANTS)
    {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for child in text
            .split_whitespace()
            .filter_map(|word| word.parse::<u32>().ok())
        {
            found.extend(tasks::start_time(child).map(|start| (child, start)));
            waiting.push(child);
        }
    }
    found
}
