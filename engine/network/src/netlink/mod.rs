//! Blocking netlink: one socket, requests in, acknowledgements out.
//!
//! A socket belongs to the network namespace of the thread that opened it, wherever it is used later.

pub(crate) mod attributes;
pub(crate) mod conntrack;
pub(crate) mod nf_tables;
pub(crate) mod nft_rule;
pub(crate) mod route;

use std::io;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// How long the kernel may take for one answer. It works under rtnl or the nf_tables commit lock, which others can
/// hold for a while (a namespace being torn down, a large ruleset), but never for long.
const DEADLINE_SECONDS: i64 = 10;
/// One datagram of answers. The kernel packs dumps into at most 32 KiB.
const RECEIVE_BYTES: usize = 32 * 1024;
/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_DUMP: u16 = 0x300;

/// One answer that is neither an acknowledgement nor the end of a dump.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) payload: Vec<u8>,
}

/// A connected netlink socket.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Socket,
    sequence: u32,
}

impl Channel {
    /// Opens a socket of `protocol` in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::new(DEADLINE_SECONDS, 0),
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Makes the send buffer large enough for one message of that many bytes, where the default is not.
    pub(crate) fn make_room(&self, bytes: usize) -> io::Result<()> {
        /// The smallest default of a kernel (`net.core.wmem_default`), less the kernel's own share of it.
        const DEFAULT: usize = 64 * 1024;
        if bytes > DEFAULT {
            setsockopt(&self.socket, sockopt::SndBufForce, &(bytes * 2))?;
        }
        Ok(())
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::WriteZero))
        }
    }

    /// Reads until each of `expected` sequence numbers is acknowledged, or the dump it asked for has ended.
    /// All are read even when one fails, so the socket stays usable; the first failure is returned. `abort` is the
    /// number of a batch's opening message: its failure ends the whole batch.
    pub(crate) fn collect(&self, expected: &[u32], abort: Option<u32>) -> io::Result<Vec<Answer>> {
        let mut open: Vec<u32> = expected.to_vec();
        let mut answers = Vec::new();
        let mut first: Option<io::Error> = None;
        let mut interrupted = false;
        while !open.is_empty() {
            let mut buffer: Vec<u8> = Vec::with_capacity(RECEIVE_BYTES);
            let got = self.socket.recv(&mut buffer, 0)?;
            for frame in Frames(buffer.get(..got).unwrap_or_default()) {
                if !open.contains(&frame.sequence) && abort != Some(frame.sequence) {
                    continue;
                }
                interrupted |= frame.flags & NLM_F_DUMP_INTR != 0;
                match frame.kind {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR => {
                        open.retain(|s| *s != frame.sequence);
                        if let Some(errno) = frame.errno() {
                            first.get_or_insert_with(|| io::Error::from_raw_os_error(errno));
                            if abort == Some(frame.sequence) {
                                open.clear();
                            }
                        }
                    }
                    NLMSG_DONE => open.retain(|s| *s != frame.sequence),
                    _ => answers.push(Answer {
                        payload: frame.payload.to_vec(),
                    }),
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None if interrupted => Err(io::Error::from(io::ErrorKind::Interrupted)),
            None => Ok(answers),
        }
    }
}

struct Frame<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Frame<'_> {
    /// The positive errno of an NLMSG_ERROR, `None` for an acknowledgement.
    fn errno(&self) -> Option<i32> {
        let code = i32::from_ne_bytes(self.payload.get(..4)?.try_into().ok()?);
        (code != 0).then_some(-code)
    }
}

/// Splits a datagram into its messages; what is malformed ends the walk.
struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let head: &[u8; HEADER] = self.0.get(..HEADER)?.try_into().ok()?;
        let length = usize::try_from(u32::from_ne_bytes([head[0], head[1], head[2], head[3]])).ok()?;
        let payload = self.0.get(HEADER..length)?;
        let frame = Frame {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            sequence: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
            payload,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(u32::try_from(HEADER + payload.len()).unwrap().to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(payload);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn frames_walk_padding_and_stop_at_nonsense() {
        let mut bytes = frame(16, 1, b"abc");
        bytes.extend(frame(NLMSG_ERROR, 2, &(-17i32).to_ne_bytes()));
        bytes.extend([0xff; 16]);
        let frames: Vec<Frame> = Frames(&bytes).collect();
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].payload, b"abc");
        assert_eq!(frames[1].errno(), Some(17));
        // A length shorter than its own header must not loop for ever.
        assert_eq!(
            Frames(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(),
            0
        );
    }
}
