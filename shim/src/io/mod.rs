//! What a process reads and writes: pipes or a terminal on its side, the log and attached clients on ours.
pub mod client;
pub mod console;
pub mod hub;
pub mod pump;
pub mod stdin;

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::Path;

use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::logs::{Input, Output};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Doing, Error, Kind, Result};
use crate::log_file::LogFile;

/// The three addresses of a process, understood.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Where stdin comes from.
    pub stdin: Input,
    /// Where stdout goes.
    pub stdout: Output,
    /// Where stderr goes.
    pub stderr: Output,
}

impl Addresses {
    /// Reads the addresses of a Task call.
    pub fn parse(stdin: &str, stdout: &str, stderr: &str) -> Result<Self> {
        let invalid = |text: String| Error::new(Kind::Invalid, text);
        Ok(Self {
            stdin: stdin.parse().map_err(invalid)?,
            stdout: stdout.parse().map_err(invalid)?,
            stderr: stderr.parse().map_err(invalid)?,
        })
    }

    /// Opens the log, if one is named. Stdout's address names it for both streams.
    pub fn open_log(&self) -> Result<Option<LogFile>> {
        match (&self.stdout, &self.stderr) {
            (Output::JsonFile(file), _) | (_, Output::JsonFile(file)) => LogFile::open(file).map(Some),
            _ => Ok(None),
        }
    }
}

/// The descriptors a process is started with.
#[derive(Debug)]
pub struct ChildStdio {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

impl ChildStdio {
    /// Three times `/dev/null`.
    pub fn null() -> Result<Self> {
        Ok(Self {
            stdin: null(false)?,
            stdout: null(true)?,
            stderr: null(true)?,
        })
    }
}

/// Our ends of a process's pipes.
#[derive(Debug, Default)]
pub struct OurStdio {
    /// What we write.
    pub stdin: Option<OwnedFd>,
    /// What we read.
    pub outputs: Vec<(Stream, OwnedFd)>,
}

/// Makes both ends for a process without a terminal.
pub fn pipes(addresses: &Addresses) -> Result<(ChildStdio, OurStdio)> {
    let mut ours = OurStdio::default();
    let stdin = match &addresses.stdin {
        Input::Null => null(false)?,
        Input::Attach { .. } => {
            let (read, write) = pipe()?;
            ours.stdin = Some(write);
            read
        }
        Input::Path(path) => path_end(path, false)?,
    };
    let mut output = |address: &Output, stream| match address {
        Output::Null => null(true),
        Output::Path(path) => path_end(path, true),
        Output::Attached | Output::Attach | Output::JsonFile(_) => {
            let (read, write) = pipe()?;
            ours.outputs.push((stream, read));
            Ok(write)
        }
    };
    let stdout = output(&addresses.stdout, Stream::Stdout)?;
    let stderr = output(&addresses.stderr, Stream::Stderr)?;
    Ok((
        ChildStdio {
            stdin,
            stdout,
            stderr,
        },
        ours,
    ))
}

/// Makes a descriptor non-blocking and gives it to the reactor.
#[expect(
    deprecated,
    reason = "the successor is unsafe for types that may change their descriptor; OwnedFd never does"
)]
fn watch(fd: OwnedFd, interest: Interest, what: &'static str) -> Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)
        .map_err(std::io::Error::from)
        .and_then(|()| AsyncFd::with_interest(fd, interest))
        .doing(|| format!("watch {what}"))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe".to_owned())
}

fn null(write: bool) -> Result<OwnedFd> {
    path_end(Path::new("/dev/null"), write)
}

/// Opens a fifo or file for a process. Both ways, so that opening a fifo waits for nobody and the process gets
/// no SIGPIPE when its reader comes late.
fn path_end(path: &Path, write: bool) -> Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(write || path != Path::new("/dev/null"))
        .open(path);
    Ok(file.doing(|| format!("open {}", path.display()))?.into())
}
