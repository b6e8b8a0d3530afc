//! Containerd's loggers: a program beside a process that reads its output from descriptors 3 (stdout) and 4 (stderr), and
//! closes 5 when it is ready. Log drivers are such programs, too; they say on 5 why they are not ready.
//!
//! A logger that hangs costs what its two pipes hold and then holds the process back, as a terminal would. One that dies
//! costs its process nothing: output then goes nowhere, and is counted.
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::logs::Binary;
use kelson_shim_proto::logs::driver::Driver;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::hub::Hub;
use super::tap::Tap;
use crate::diagnostics;
use crate::error::{Doing, Error, Kind, Result};
use crate::lifetime::Lifetime;
use crate::reaper::Reaper;

/// How long a logger may take to be ready, and to write what it has once its input has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest reason that is listened to, in bytes.
const LONGEST_REASON: usize = 4096;

/// A logger that runs.
#[derive(Debug)]
pub struct Logger {
    pid: i32,
    pipes: [Option<OwnedFd>; 2],
    /// Queues before the pipes of a log driver.
    tap: Option<Arc<Tap>>,
    ended: tokio::sync::oneshot::Receiver<crate::reaper::Exit>,
}

impl Logger {
    /// Runs `binary` for container `id` and waits until it is ready.
    pub async fn start(binary: &Binary, id: &str, namespace: &str, reaper: &Arc<Reaper>) -> Result<Self> {
        let doing = || format!("run logger {}", binary.path.display());
        let (logger, said) =
            Self::run(&binary.path, &binary.args, [id, namespace], Stdio::null(), reaper).await?;
        if binary.must_say_ready && said.is_empty() {
            logger.kill();
            return Err(Error::new(
                Kind::Internal,
                format!("{}: it ended without being ready", doing()),
            ));
        }
        Ok(logger)
    }

    /// Runs a log driver and waits until it is ready.
    pub async fn start_driver(
        driver: &Driver,
        id: &str,
        namespace: &str,
        reaper: &Arc<Reaper>,
    ) -> Result<Self> {
        // What it has to say later is for the engine's file, with what the shim says.
        let (mut logger, said) = Self::run(
            &driver.program,
            &driver.args,
            [id, namespace],
            Stdio::inherit(),
            reaper,
        )
        .await?;
        if said == b"+" {
            logger.tap = Some(Arc::new(Tap::new(driver.buffer)));
            return Ok(logger);
        }
        logger.kill();
        let name = driver.args.first().map_or("", String::as_str);
        let why = match String::from_utf8_lossy(&said) {
            text if text.is_empty() => "it ended without a word".into(),
            text => text,
        };
        Err(Error::new(Kind::Internal, format!("log driver {name}: {why}")))
    }

    /// Runs a program, and returns what it says when it is ready.
    async fn run(
        path: &Path,
        args: &[String],
        [id, namespace]: [&str; 2],
        stderr_of_its_own: Stdio,
        reaper: &Arc<Reaper>,
    ) -> Result<(Self, Vec<u8>)> {
        let doing = || format!("run logger {}", path.display());
        let pipe = || pipe_with(PipeFlags::CLOEXEC).doing(doing);
        let (stdout, stderr, ready) = (pipe()?, pipe()?, pipe()?);
        let map = |parent_fd, child_fd| FdMapping { parent_fd, child_fd };
        let mut command = Command::new(path);
        command
            .args(args)
            .env("CONTAINER_ID", id)
            .env("CONTAINER_NAMESPACE", namespace)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr_of_its_own)
            .fd_mappings(vec![map(stdout.0, 3), map(stderr.0, 4), map(ready.1, 5)])
            .map_err(|error| Error::new(Kind::Internal, format!("{}: {error}", doing())))?;
        let _expecting = reaper.expecting();
        let pid = i32::try_from(command.spawn().doing(doing)?.id()).unwrap_or(0);
        // Its ends of the pipes close with this, so that only it holds them.
        drop(command);
        let logger = Self {
            pid,
            pipes: [Some(stdout.1), Some(stderr.1)],
            tap: None,
            ended: reaper.exit_of(pid),
        };
        let mut ready = Receiver::from_owned_fd(ready.0).doing(doing)?;
        let mut said = Vec::new();
        let read = async {
            let mut part = [0; 256];
            // A reason may come in parts; readiness is one byte, or the end.
            loop {
                let count = ready.read(&mut part).await?;
                said.extend_from_slice(&part[..count]);
                if count == 0 || said.starts_with(b"+") || said.len() > LONGEST_REASON {
                    return std::io::Result::Ok(());
                }
            }
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(read) => read.doing(doing)?,
            Err(_) if said.is_empty() => {
                logger.kill();
                let text = format!("{}: not ready after {} s", doing(), PATIENCE.as_secs());
                return Err(Error::new(Kind::Deadline, text));
            }
            // A byte says that a containerd logger is ready, whether or not it closes the descriptor.
            Err(_) => {}
        }
        Ok((logger, said))
    }

    /// The pipe that it reads a stream from; once.
    pub fn take(&mut self, stream: Stream) -> Option<OwnedFd> {
        self.pipes[usize::from(stream == Stream::Stderr)].take()
    }

    /// Sees to its end once the output has ended: it sees that by itself, and has a while to write what it has. The output
    /// of a process with a log driver goes there from now on, and the shim stays until it is carried.
    pub fn watch(mut self, hub: &Arc<Hub>, lifetime: &Arc<Lifetime>) -> Result<()> {
        let staying = self.tap.is_some().then(|| lifetime.reader());
        if let Some(tap) = self.tap.take() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(pipe) = self.take(stream) {
                    tokio::spawn(tap.carry(stream, pipe, hub)?);
                }
            }
            hub.tapped(tap);
        }
        let hub = Arc::clone(hub);
        tokio::spawn(async move {
            let _staying = staying;
            // What nobody took: a terminal has no stderr.
            self.pipes = [None, None];
            tokio::select! {
                // Its output then has no reader, which the relay tells.
                _ = &mut self.ended => return,
                () = hub.ended() => {}
            }
            if tokio::time::timeout(PATIENCE, &mut self.ended).await.is_err() {
                diagnostics::report("a logger does not end after its input; it is killed");
                self.kill();
            }
        });
        Ok(())
    }

    /// Its status is collected by the reaper.
    fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
