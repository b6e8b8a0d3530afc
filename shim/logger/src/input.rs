//! The container's two streams, cut into messages.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::logs::json_file::Pieces;
use kelson_shim_proto::time::Time;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// How much is read at once, in bytes: what a pipe holds.
const READ: usize = 64 * 1024;

/// A line, or a part of one that is too long for one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it came from.
    pub stream: Stream,
    /// When it was read.
    pub time: Time,
    /// Without its newline.
    pub text: Vec<u8>,
    /// The line goes on in the next message of its stream.
    pub partial: bool,
}

/// Both streams.
#[derive(Debug)]
pub struct Input {
    streams: Vec<Source>,
    messages: VecDeque<Message>,
}

#[derive(Debug)]
struct Source {
    stream: Stream,
    fd: OwnedFd,
    pieces: Pieces,
}

impl Input {
    /// From descriptors 3 and 4.
    pub fn inherited() -> Result<Self> {
        let take = |fd| kelson_sys::fds::take_inherited(fd).with_context(|| format!("descriptor {fd}"));
        Ok(Self::new(take(3)?, take(4)?))
    }

    /// From two pipes.
    pub fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let source = |stream, fd| Source {
            stream,
            fd,
            pieces: Pieces::default(),
        };
        Self {
            streams: vec![source(Stream::Stdout, stdout), source(Stream::Stderr, stderr)],
            messages: VecDeque::new(),
        }
    }

    /// The next message; `None` once both streams have ended.
    pub fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            if self.streams.is_empty() {
                return Ok(None);
            }
            self.read_what_is_there()?;
        }
    }

    fn read_what_is_there(&mut self) -> io::Result<()> {
        let mut waiting: Vec<PollFd<'_>> = self
            .streams
            .iter()
            .map(|source| PollFd::new(&source.fd, PollFlags::IN))
            .collect();
        match poll(&mut waiting, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = waiting.iter().map(|one| !one.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let messages = &mut self.messages;
        let mut failed = None;
        self.streams.retain_mut(|source| {
            !ready.next().unwrap_or(false)
                || source.read(messages).unwrap_or_else(|error| {
                    failed = Some(error);
                    false
                })
        });
        failed.map_or(Ok(()), Err)
    }
}

impl Source {
    /// Reads once; false at the end.
    fn read(&mut self, messages: &mut VecDeque<Message>) -> io::Result<bool> {
        let mut bytes = Vec::with_capacity(READ);
        let count = match rustix::io::read(&self.fd, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let (stream, time) = (self.stream, Time::now());
        let ended = count == 0;
        let put = |piece: &[u8]| {
            let line = piece.strip_suffix(b"\n");
            messages.push_back(Message {
                stream,
                time,
                text: line.unwrap_or(piece).to_vec(),
                partial: line.is_none() && !ended,
            });
        };
        if ended {
            self.pieces.finish(put);
        } else {
            self.pieces.push(&bytes, put);
        }
        Ok(count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_of_both_streams() {
        let (out, mut to_out) = std::io::pipe().unwrap();
        let (err, mut to_err) = std::io::pipe().unwrap();
        let mut input = Input::new(out.into(), err.into());
        let mut next = || {
            input
                .next()
                .unwrap()
                .map(|m| (m.stream, String::from_utf8(m.text).unwrap(), m.partial))
        };
        to_out.write_all(b"one\ntw").unwrap();
        assert_eq!(next(), Some((Stream::Stdout, "one".into(), false)));
        to_err.write_all(b"no newline").unwrap();
        drop(to_err);
        assert_eq!(next(), Some((Stream::Stderr, "no newline".into(), false)));
        to_out.write_all(b"o\n\n").unwrap();
        assert_eq!(next(), Some((Stream::Stdout, "two".into(), false)));
        assert_eq!(next(), Some((Stream::Stdout, String::new(), false)));
        to_out.write_all(&[b'x'; 16 * 1024 + 1]).unwrap();
        drop(to_out);
        assert_eq!(next(), Some((Stream::Stdout, "x".repeat(16 * 1024), true)));
        assert_eq!(next(), Some((Stream::Stdout, "x".into(), false)));
        assert_eq!(next(), None);
    }
}
