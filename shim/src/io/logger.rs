//! Containerd's loggers: a program beside a process that reads its output from descriptors 3 (stdout) and 4 (stderr), and
//! closes 5 when it is ready.
//!
//! A logger that hangs costs what its two pipes hold and then holds the process back, as a terminal would. One that dies
//! costs its process nothing: output then goes nowhere, and is counted.
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::logs::Binary;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::hub::Hub;
use crate::diagnostics;
use crate::error::{Doing, Error, Kind, Result};
use crate::reaper::Reaper;

/// How long a logger may take to be ready, and to write what it has once its input has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// A logger that runs.
#[derive(Debug)]
pub struct Logger {
    pid: i32,
    pipes: [Option<OwnedFd>; 2],
    ended: tokio::sync::oneshot::Receiver<crate::reaper::Exit>,
}

impl Logger {
    /// Runs `binary` for container `id` and waits until it is ready.
    pub async fn start(binary: &Binary, id: &str, namespace: &str, reaper: &Arc<Reaper>) -> Result<Self> {
        let doing = || format!("run logger {}", binary.path.display());
        let pipe = || pipe_with(PipeFlags::CLOEXEC).doing(doing);
        let (stdout, stderr, ready) = (pipe()?, pipe()?, pipe()?);
        let map = |parent_fd, child_fd| FdMapping { parent_fd, child_fd };
        let mut command = Command::new(&binary.path);
        command
            .args(&binary.args)
            .env("CONTAINER_ID", id)
            .env("CONTAINER_NAMESPACE", namespace)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .fd_mappings(vec![map(stdout.0, 3), map(stderr.0, 4), map(ready.1, 5)])
            .map_err(|error| Error::new(Kind::Internal, format!("{}: {error}", doing())))?;
        let _expecting = reaper.expecting();
        let pid = i32::try_from(command.spawn().doing(doing)?.id()).unwrap_or(0);
        // Its ends of the pipes close with this, so that only it holds them.
        drop(command);
        let logger = Self {
            pid,
            pipes: [Some(stdout.1), Some(stderr.1)],
            ended: reaper.exit_of(pid),
        };
        let mut ready = Receiver::from_owned_fd(ready.0).doing(doing)?;
        let mut byte = [0];
        let said = match tokio::time::timeout(PATIENCE, ready.read(&mut byte)).await {
            Ok(read) => read.doing(doing)?,
            Err(_) => {
                logger.kill();
                let text = format!("{}: not ready after {} s", doing(), PATIENCE.as_secs());
                return Err(Error::new(Kind::Deadline, text));
            }
        };
        if binary.must_say_ready && said == 0 {
            logger.kill();
            return Err(Error::new(
                Kind::Internal,
                format!("{}: it ended without being ready", doing()),
            ));
        }
        Ok(logger)
    }

    /// The pipe that it reads a stream from; once.
    pub fn take(&mut self, stream: Stream) -> Option<OwnedFd> {
        self.pipes[usize::from(stream == Stream::Stderr)].take()
    }

    /// Sees to its end once the output has ended: it sees that by itself, and has a while to write what it has.
    pub fn watch(self, hub: &Arc<Hub>) {
        let hub = Arc::clone(hub);
        tokio::spawn(async move {
            let mut this = self;
            // What nobody took: a terminal has no stderr.
            this.pipes = [None, None];
            tokio::select! {
                // Its output then has no reader, which the relay tells.
                _ = &mut this.ended => return,
                () = hub.ended() => {}
            }
            if tokio::time::timeout(PATIENCE, &mut this.ended).await.is_err() {
                diagnostics::report("a logger does not end after its input; it is killed");
                this.kill();
            }
        });
    }

    /// Its status is collected by the reaper.
    fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
