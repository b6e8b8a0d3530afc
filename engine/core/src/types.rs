//! Arguments and answers of the engine's calls that are not API messages.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use kelson_api::Filters;
use kelson_api::stream::StreamId;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;

use crate::error::Result;

/// Nanoseconds since 1970, as the `since` and `until` parameters mean them.
pub type Nanos = i128;

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it came from; a terminal's output is `Stdout`.
    pub stream: StreamId,
    /// At most 64 KiB.
    pub data: Bytes,
}

/// Output, in order, until its source ends.
pub type FrameStream = Pin<Box<dyn Stream<Item = Result<Frame>> + Send>>;

/// Events, oldest first.
pub type EventStream = Pin<Box<dyn Stream<Item = kelson_api::EventMessage> + Send>>;

/// What `container_create` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Full id.
    pub id: String,
    /// Things the user should know, in docker's words.
    pub warnings: Vec<String>,
}

/// Which containers `container_list` returns.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Those that do not run, too.
    pub all: bool,
    /// At most so many, newest first, running or not.
    pub limit: Option<usize>,
    /// Compute `SizeRw` and `SizeRootFs`.
    pub size: bool,
    /// Docker's filters of `GET /containers/json`.
    pub filters: Filters,
}

/// What `container_wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// It does not run, perhaps already now.
    #[default]
    NotRunning,
    /// The next end of a run that begins or goes on from now.
    NextExit,
    /// It is removed.
    Removed,
}

/// A wait that has begun: the HTTP layer sends its headers, then awaits [`Waiting::outcome`].
#[derive(Debug)]
pub struct Waiting {
    pub(crate) done: oneshot::Receiver<WaitOutcome>,
}

/// How a wait ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaitOutcome {
    /// Exit code of the container, 0 to 255.
    pub exit_code: i64,
    /// Why the container could not be started or removed.
    pub error: Option<String>,
}

impl Waiting {
    /// Completes when the condition holds.
    pub async fn outcome(self) -> WaitOutcome {
        self.done.await.unwrap_or_else(|_| WaitOutcome {
            exit_code: 255,
            error: Some("the engine is shutting down".into()),
        })
    }
}

/// Samples of what a container uses, until it is removed.
pub type StatsStream = Pin<Box<dyn Stream<Item = Result<kelson_api::ContainerStats>> + Send>>;

/// How many samples `container_stats` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsMode {
    /// One after the other, a second apart.
    Stream,
    /// One, with the processor's figures of a second before.
    Pair,
    /// One, at once, with none from before.
    OneShot,
}

/// What of the log, and how.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on until the container ends.
    pub follow: bool,
    /// Not older than.
    pub since: Option<Nanos>,
    /// Not younger than.
    pub until: Option<Nanos>,
    /// Put the time in front of each line.
    pub timestamps: bool,
    /// Put the log attributes in front of each line.
    pub details: bool,
    /// Only so many last lines.
    pub tail: Option<u64>,
}

/// Log output and how to frame it.
pub struct Logs {
    /// The container has a terminal: docker sends raw bytes then.
    pub tty: bool,
    /// The lines.
    pub frames: FrameStream,
}

/// What to attach to.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Replay output since the container's start.
    pub logs: bool,
    /// Stay connected.
    pub stream: bool,
    /// Connect input.
    pub stdin: bool,
    /// Connect output.
    pub stdout: bool,
    /// Connect errors.
    pub stderr: bool,
    /// Key sequence that detaches (`ctrl-p,ctrl-q` if absent; only with a terminal).
    pub detach_keys: Option<String>,
}

/// A live connection to a process.
pub struct Attached {
    /// It has a terminal: docker sends raw bytes then.
    pub tty: bool,
    /// Its output; ends when all streams ended or the detach keys were typed.
    pub output: FrameStream,
    /// Its input; `shutdown` means end of file. Writes go nowhere when stdin was not asked for.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached")
            .field("tty", &self.tty)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs")
            .field("tty", &self.tty)
            .finish_non_exhaustive()
    }
}

/// How `container_remove` goes about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

/// How `container_stop` and `container_restart` go about it. Absent: the container's own, else the engine's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// First signal, by name or number.
    pub signal: Option<String>,
    /// Patience before SIGKILL; `Duration::MAX` waits for ever.
    pub timeout: Option<Duration>,
}

/// Which events `events` delivers.
#[derive(Debug, Clone, Default)]
pub struct EventOptions {
    /// Replay remembered ones not older than this.
    pub since: Option<Nanos>,
    /// End there; a time that has passed ends the stream after the replay.
    pub until: Option<Nanos>,
    /// Docker's filters of `GET /events`.
    pub filters: Filters,
}

/// How `exec_start` connects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecStartOptions {
    /// Give it a terminal (docker requires it to equal the value at create).
    pub tty: bool,
    /// Rows and columns to begin with.
    pub console_size: Option<(u16, u16)>,
}
