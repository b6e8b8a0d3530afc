//! The one protocol between the runtime and the container's first process, over a pair of sequenced-packet sockets.
//!
//! ```text
//!   child                       parent
//!   (new user namespace only)
//!     Mapped?            ──►
//!                        ◄──    Go              the id maps are written
//!   (staged only)
//!     Sibling(pid)       ──►                    the container's process, made by the one in between
//!                        ◄──    Go              it is in its v2 cgroup
//!   (for each source of a mount that only the runtime can open)
//!     Source(index)      ──►
//!                        ◄──    "Source" with a descriptor, or Failed(error)
//!   (hooks only)
//!     Hooks              ──►
//!                        ◄──    Go(state)       prestart and createRuntime ran
//!   (a filter that makes calls wait)
//!     Listener(number)   ──►                    of its descriptor in the child
//!                        ◄──    Go              the agent has it
//!     Ready              ──►                    nothing can fail any more but startContainer and execve
//!   (run)
//!                        ◄──    Go              the record is written
//!   (exec: Sibling, perhaps Listener, then nothing until the end of stream)
//!   (create)
//!     waits on the start fifo instead; the runtime exits
//!   at any time
//!     Note(text)         ──►                    a line for the log; only with --debug
//!     Failed(error)      ──►                    and exits
//!     end of stream      ──►                    it executed (after Ready), or died
//! ```
//!
//! Plain read(2) and write(2), as a filter may already be loaded when `Ready` is sent.

use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Kind, Result};
use crate::log::Log;

/// Larger messages are cut (errors) or refused (state): a sequenced packet is sent in one piece.
const MAX_MESSAGE: usize = 64 << 10;

const GO: &[u8] = b"{\"Go\":null}";

/// A message that is written without allocating.
#[derive(Debug, Default)]
struct Short([u8; 32]);

impl Short {
    /// [`Message::Listener`] as serde_json would have it.
    fn listener(&mut self, number: i32) -> &[u8] {
        let mut rest = &mut self.0[..];
        // Longer than the longest number.
        let _ = write!(rest, "{{\"Listener\":{number}}}");
        let left = rest.len();
        &self.0[..self.0.len() - left]
    }
}

/// One message of either side.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// Child: waiting for id maps.
    Mapped,
    /// Process in between: the container's process has this pid.
    Sibling(i32),
    /// Child: open the source of this entry of `mounts`.
    Source(usize),
    /// Child: run prestart and createRuntime now.
    Hooks,
    /// Child, with `--debug` only: a stage is reached.
    Note(String),
    /// Child: calls that wait for the agent do so on this descriptor of mine.
    Listener(i32),
    /// Child: about to execute.
    Ready,
    /// Child: it did not work.
    Failed {
        /// For programs.
        kind: Kind,
        /// For programs.
        errno: Option<i32>,
        /// For people.
        text: String,
    },
    /// Parent: go on; with the container's state for hooks.
    Go(Option<String>),
}

/// One end.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// Makes both ends, closed on exec.
///
/// # Errors
/// The errno of socketpair.
pub fn pair() -> Result<(Channel, Channel)> {
    let (a, b) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .doing(|| "make a socket pair")?;
    Ok((Channel { fd: a }, Channel { fd: b }))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Channel {
    /// The same end once more.
    ///
    /// # Errors
    /// The errno of dup.
    pub fn duplicate(&self) -> Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone().doing(|| "duplicate a socket")?,
        })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// What writing reported.
    pub fn send(&self, message: &Message) -> Result<()> {
        // Those that are sent after a filter is loaded, or on every start, cost no allocation.
        let mut short = Short::default();
        let bytes: &[u8] = match message {
            Message::Ready => b"\"Ready\"",
            Message::Go(None) => GO,
            Message::Listener(number) => short.listener(*number),
            other => &serde_json::to_vec(other).map_err(|e| Error::new(Kind::Internal, e.to_string()))?,
        };
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::new(Kind::Internal, "message is too large"));
        }
        rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, bytes)).doing(|| "send a message")?;
        Ok(())
    }

    /// Child, with a filter in force: waits for `Go` by one read(2), without allocating.
    ///
    /// # Errors
    /// `Internal` when the runtime is gone.
    pub fn wait_short_go(&self) -> Result<()> {
        let mut buffer = [0u8; GO.len()];
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut buffer[..]))
            .doing(|| "wait for the runtime")?;
        if buffer.get(..n) == Some(GO) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Internal,
            "the runtime ended before the container started",
        ))
    }

    /// Waits for one message; `None` at the end of the stream.
    ///
    /// # Errors
    /// `Internal` for one that cannot be read.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0u8; 512];
        let n = rustix::io::retry_on_intr(|| {
            rustix::net::recv(
                self.fd.as_fd(),
                &mut buffer[..],
                rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::TRUNC,
            )
        })
        .doing(|| "receive a message")?
        .1;
        let mut large;
        let bytes = if n > buffer.len() {
            large = vec![0u8; n.min(MAX_MESSAGE)];
            &mut large[..]
        } else {
            &mut buffer[..]
        };
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *bytes))
            .doing(|| "receive a message")?;
        if n == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes[..n]);
        message
            .map(Some)
            .map_err(|e| Error::new(Kind::Internal, format!("receive a message: {e}")))
    }

    /// Child: waits for `Go` by read(2) alone. The end of the stream means that the runtime gave up.
    ///
    /// # Errors
    /// `Internal` when the runtime is gone.
    pub fn wait_go(&self) -> Result<Option<String>> {
        let mut buffer = vec![0u8; MAX_MESSAGE];
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut buffer[..]))
            .doing(|| "wait for the runtime")?;
        match serde_json::from_slice(&buffer[..n]) {
            Ok(Message::Go(state)) => Ok(state),
            _ => Err(Error::new(
                Kind::Internal,
                "the runtime ended before the container started",
            )),
        }
    }

    /// Child: reports a stage, if anybody wants to know. The text is built only then.
    pub fn note<T: Into<String>>(&self, log: &Log, text: impl FnOnce() -> T) {
        if log.is_debug() {
            // What is lost here is no part of the container.
            let _ = self.send(&Message::Note(text().into()));
        }
    }

    /// Sends a descriptor.
    ///
    /// # Errors
    /// What sending reported.
    pub fn send_fd(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let fds = [fd.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&fds)];
        let text = [IoSlice::new(b"\"Source\"")];
        sendmsg::<()>(self.fd.as_raw_fd(), &text, &control, MsgFlags::empty(), None)
            .doing(|| "send a descriptor")?;
        Ok(())
    }

    /// Child: asks for the source of an entry of `mounts` and waits for its descriptor.
    ///
    /// # Errors
    /// What the runtime reported instead.
    pub fn source(&self, index: usize) -> Result<OwnedFd> {
        self.send(&Message::Source(index))?;
        self.receive_fd()
    }

    /// Waits for a descriptor.
    ///
    /// # Errors
    /// What the other end reported instead; `Internal` when it ended.
    pub fn receive_fd(&self) -> Result<OwnedFd> {
        let mut text = vec![0u8; 8192];
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let mut slices = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.fd.as_raw_fd(), &mut slices, Some(&mut control), flags)
            .doing(|| "receive a descriptor")?;
        let length = message.bytes;
        for c in message.cmsgs().doing(|| "receive a descriptor")? {
            if let ControlMessageOwned::ScmRights(fds) = c
                && let Some(&fd) = fds.first()
            {
                return kelson_sys::fds::take_inherited(fd).doing(|| "receive a descriptor");
            }
        }
        let error = serde_json::from_slice(&text[..length]).ok().and_then(error_of);
        Err(error.unwrap_or_else(|| Error::new(Kind::Internal, "the other process ended without an answer")))
    }

    /// Whether the other end is still open, without waiting.
    pub fn is_heard(&self) -> bool {
        let mut byte = [0u8; 1];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(self.fd.as_fd(), &mut byte[..], flags) {
            Ok((_, n)) => n > 0,
            Err(_) => true,
        }
    }

    /// Child: reports the error that ends it.
    pub fn fail(&self, error: &Error) {
        // If the runtime is gone there is nobody to tell.
        let _ = self.send(&failure(error));
    }
}

/// The message of an error.
pub fn failure(error: &Error) -> Message {
    let mut text = error.chain();
    if text.len() > 4000 {
        let cut = (0..=4000).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(cut);
    }
    Message::Failed {
        kind: error.kind(),
        errno: error.errno(),
        text,
    }
}

/// The error of a message; `None` when it is another message.
pub fn error_of(message: Message) -> Option<Error> {
    match message {
        Message::Failed { kind, errno, text } => Some(Error::new(kind, text).with_errno(errno)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_cross_whole_and_the_end_is_seen() {
        let (a, b) = pair().unwrap();
        a.fail(&Error::new(Kind::CommandNotFound, "x".repeat(5000)).with_errno(Some(2)));
        let error = error_of(b.receive().unwrap().unwrap()).unwrap();
        assert_eq!(
            (error.kind(), error.errno(), error.chain().len()),
            (Kind::CommandNotFound, Some(2), 4000)
        );
        assert!(b.is_heard());
        drop(a);
        assert!(!b.is_heard());
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn a_source_is_a_descriptor_or_an_error() {
        let (child, parent) = pair().unwrap();
        let (file, _other) = pair().unwrap();
        parent.send_fd(file.fd.as_fd()).unwrap();
        parent.fail(&Error::new(Kind::Denied, "no").with_errno(Some(13)));
        child.source(3).unwrap();
        let error = child.source(4).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (Kind::Denied, Some(13)));
        assert!(matches!(parent.receive().unwrap(), Some(Message::Source(3))));
        drop(parent);
        assert!(child.source(5).is_err());
    }

    #[test]
    fn the_short_forms_are_the_long_forms() {
        let (a, b) = pair().unwrap();
        a.send(&Message::Ready).unwrap();
        assert!(matches!(b.receive().unwrap(), Some(Message::Ready)));
        a.send(&Message::Listener(-17)).unwrap();
        assert!(matches!(b.receive().unwrap(), Some(Message::Listener(-17))));
        a.send(&Message::Go(None)).unwrap();
        b.wait_short_go().unwrap();
        a.send(&Message::Go(None)).unwrap();
        assert_eq!(b.wait_go().unwrap(), None);
        a.send(&Message::Go(Some("{}".into()))).unwrap();
        assert_eq!(b.wait_go().unwrap().as_deref(), Some("{}"));
    }
}
