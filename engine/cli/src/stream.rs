//! Copying between our standard streams and a container's.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use kelson_api::stream::{Demultiplexer, FrameError, StreamId};

use crate::client::{Connection, Hijacked};
use crate::output;

const BUFFER: usize = 32 * 1024;
/// docker's default detach keys.
pub const DEFAULT_DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// How the copying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The engine closed the stream.
    Closed,
    /// The user typed the detach keys.
    Detached,
}

/// What to copy, and how the output is framed.
#[derive(Debug)]
pub struct Plan {
    /// Our standard input goes to the container.
    pub stdin: bool,
    /// The container has a terminal: output is raw, and input is searched for the detach keys.
    pub tty: bool,
    /// The keys that end an attachment; empty for none.
    pub detach_keys: Vec<u8>,
}

#[derive(Debug)]
struct BadFrame(FrameError);

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BadFrame {}

/// Either a bad frame or an error of our own output.
struct SinkError(anyhow::Error);

impl From<FrameError> for SinkError {
    fn from(error: FrameError) -> Self {
        SinkError(BadFrame(error).into())
    }
}

/// Copies until the engine closes the stream or the user detaches.
pub fn exchange(hijacked: Hijacked, plan: &Plan) -> anyhow::Result<End> {
    let detached = Arc::new(AtomicBool::new(false));
    if plan.stdin {
        let keys = if plan.tty {
            plan.detach_keys.clone()
        } else {
            Vec::new()
        };
        let (flag, writer) = (Arc::clone(&detached), hijacked.writer);
        // It ends with the process: a read of a terminal cannot be called back.
        thread::Builder::new()
            .name("stdin".into())
            .spawn(move || copy_input(writer, DetachKeys::new(keys), &flag))
            .context("start thread")?;
    }
    let raw = match hijacked.content_type.as_deref() {
        Some("application/vnd.docker.multiplexed-stream") => false,
        _ => plan.tty,
    };
    let result = copy_output(hijacked.reader, raw);
    if detached.load(Ordering::Acquire) {
        return Ok(End::Detached);
    }
    result.map(|()| End::Closed)
}

/// Writes what a container wrote: a terminal's bytes as they are, else frames to stdout and stderr.
pub fn copy_output(mut reader: impl Read, raw: bool) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut frames = Demultiplexer::default();
    loop {
        let got = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // An engine that dies resets its connections; what it sent was shown.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("read stream"),
        };
        if raw {
            output::out(&buffer[..got])?;
        } else {
            frames
                .feed(&buffer[..got], write_frame)
                .map_err(|error| error.0)?;
        }
    }
}

fn write_frame(stream: StreamId, bytes: &[u8]) -> Result<(), SinkError> {
    let written = match stream {
        StreamId::Stdin | StreamId::Stdout => output::out(bytes),
        StreamId::Stderr => output::err(bytes),
        StreamId::System => Err(anyhow::anyhow!(
            "error from daemon in stream: {}",
            String::from_utf8_lossy(bytes).trim_end()
        )),
    };
    written.map_err(SinkError)
}

fn copy_input(mut writer: Connection, mut keys: DetachKeys, detached: &AtomicBool) {
    let mut buffer = vec![0; BUFFER];
    let mut stdin = io::stdin().lock();
    loop {
        let got = match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let (pass, found) = keys.feed(&buffer[..got]);
        if writer.write_all(&pass).is_err() {
            return;
        }
        if found {
            detached.store(true, Ordering::Release);
            writer.close();
            return;
        }
    }
    // The container may be gone already; then nobody waits for this.
    let _ = writer.close_write();
}

/// Finds the detach sequence in typed bytes, which may arrive split.
#[derive(Debug)]
struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    fn new(keys: Vec<u8>) -> DetachKeys {
        DetachKeys { keys, matched: 0 }
    }

    /// The bytes to pass on, and whether the sequence is complete.
    fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(bytes.len());
        if self.keys.is_empty() {
            pass.extend_from_slice(bytes);
            return (pass, false);
        }
        for byte in bytes {
            if self.keys[self.matched] != *byte {
                // What was held back was not the sequence after all.
                pass.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if self.keys[self.matched] == *byte {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (pass, true);
                }
            } else {
                pass.push(*byte);
            }
        }
        (pass, false)
    }
}

/// Reads `ctrl-p,ctrl-q` or `a,b`: letters, or `ctrl-` and one of `a-z@[]\^_`.
pub fn parse_detach_keys(text: &str) -> Result<Vec<u8>, String> {
    text.split(',')
        .filter(|key| !text.is_empty() || !key.is_empty())
        .map(|key| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
            (Some(control), _) => match control.as_bytes() {
                [letter @ (b'a'..=b'z')] => Ok(letter - b'a' + 1),
                [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(sign - b'@'),
                _ => Err(format!("Unknown character: '{key}'")),
            },
            (None, [byte]) => Ok(*byte),
            (None, _) => Err(format!("Unknown character: '{key}'")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_parse() {
        assert_eq!(parse_detach_keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(parse_detach_keys("a,ctrl-[,ctrl-@").unwrap(), [b'a', 27, 0]);
        assert_eq!(parse_detach_keys("").unwrap(), Vec::<u8>::new());
        assert_eq!(
            parse_detach_keys("ctrl-foo").unwrap_err(),
            "Unknown character: 'ctrl-foo'"
        );
        assert!(parse_detach_keys("a,,b").is_err());
    }

    fn feed_all(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::new(vec![16, 17]);
        let mut passed = Vec::new();
        for piece in pieces {
            let (pass, found) = keys.feed(piece);
            passed.extend(pass);
            if found {
                return (passed, true);
            }
        }
        (passed, false)
    }

    #[test]
    fn the_sequence_is_found_in_any_pieces() {
        assert_eq!(feed_all(&[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(feed_all(&[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(feed_all(&[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(feed_all(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
    }
}
