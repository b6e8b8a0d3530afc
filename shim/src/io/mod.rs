//! What a process reads and writes: pipes or a terminal on its side, the log and attached clients on ours.
pub mod client;
pub mod console;
pub mod hub;
pub mod logger;
pub mod pump;
pub mod relay;
mod spill;
pub mod stdin;
pub mod tap;

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;

use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::logs::driver::Driver;
use kelson_shim_proto::logs::{Binary, Input, Output};
use rustix::fs::{Gid, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Doing, Error, Kind, Result};
use crate::log_file::LogFile;
use logger::Logger;
use relay::{Dest, Source};

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
        match self.stdout.log().or_else(|| self.stderr.log()) {
            Some((format, file)) => LogFile::open(format, file).map(Some),
            None => Ok(None),
        }
    }

    /// The logger, if one is named. Stdout's address names it for both streams.
    pub fn logger(&self) -> Option<&Binary> {
        match (&self.stdout, &self.stderr) {
            (Output::Binary(binary), _) | (_, Output::Binary(binary)) => Some(binary),
            _ => None,
        }
    }

    /// The log driver, if one is named. Stdout's address names it for both streams.
    pub fn driver(&self) -> Option<&Driver> {
        match (&self.stdout, &self.stderr) {
            (Output::Driver(driver), _) | (_, Output::Driver(driver)) => Some(driver),
            _ => None,
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

/// Our ends of a process's stdio.
#[derive(Debug, Default)]
pub struct OurStdio {
    /// What we write.
    pub stdin: Option<OwnedFd>,
    /// A fifo whose bytes are its stdin.
    pub input: Option<OwnedFd>,
    /// What we read.
    pub outputs: Vec<(Stream, OwnedFd, Sink)>,
    /// Where a terminal's output goes.
    pub terminal: Sink,
}

/// Where one stream's bytes go.
#[derive(Debug, Default)]
pub enum Sink {
    /// To the log and attached clients.
    #[default]
    Hub,
    /// To a fifo or file of the caller's.
    Relay(Dest),
}

/// Makes both ends for a process without a terminal. The pipes are `owner`'s, a user and a group, if there is one: a
/// process that is not root may open its own `/dev/stdout` again only if it owns what is behind it.
pub fn pipes(
    addresses: &Addresses,
    owner: Option<(u32, u32)>,
    logger: &mut Option<Logger>,
) -> Result<(ChildStdio, OurStdio)> {
    let mut ours = OurStdio::default();
    let mut input = || {
        let (read, write) = owned_pipe(owner)?;
        ours.stdin = Some(write);
        Ok(read)
    };
    let stdin = match &addresses.stdin {
        Input::Null => null(false)?,
        Input::Attach { .. } => input()?,
        Input::Path(path) => match Source::open(path)? {
            Source::Direct(file) => file,
            Source::Fifo(fifo) => {
                let read = input()?;
                ours.input = Some(fifo);
                read
            }
        },
    };
    let mut output = |address: &Output, stream| {
        let Some(sink) = sink(address, stream, logger)? else {
            return null(true);
        };
        let (read, write) = owned_pipe(owner)?;
        ours.outputs.push((stream, read, sink));
        Ok(write)
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

/// Our end for a process with a terminal, of which it makes both ends itself.
pub fn terminal(addresses: &Addresses, logger: &mut Option<Logger>) -> Result<OurStdio> {
    let mut ours = OurStdio::default();
    if let Input::Path(path) = &addresses.stdin {
        ours.input = match Source::open(path)? {
            Source::Fifo(fd) | Source::Direct(fd) => Some(fd),
        };
    }
    ours.terminal = sink(&addresses.stdout, Stream::Stdout, logger)?.unwrap_or_default();
    Ok(ours)
}

/// `None` for nowhere.
fn sink(address: &Output, stream: Stream, logger: &mut Option<Logger>) -> Result<Option<Sink>> {
    Ok(match address {
        Output::File(path) => Some(Sink::Relay(Dest::create(path)?)),
        Output::Binary(_) => match logger.as_mut().and_then(|logger| logger.take(stream)) {
            Some(pipe) => Some(Sink::Relay(Dest::fifo(pipe)?)),
            None => None,
        },
        Output::Null => None,
        Output::Path(path) => Some(Sink::Relay(Dest::open(path)?)),
        _ => Some(Sink::Hub),
    })
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

fn owned_pipe(owner: Option<(u32, u32)>) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe".to_owned())?;
    if let Some((user, group)) = owner {
        // Both ends are one inode.
        rustix::fs::fchown(&read, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
            .doing(|| format!("give a pipe of stdio to {user}:{group}"))?;
    }
    Ok((read, write))
}

fn null(write: bool) -> Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(write).open("/dev/null");
    Ok(file.doing(|| "open /dev/null".to_owned())?.into())
}
