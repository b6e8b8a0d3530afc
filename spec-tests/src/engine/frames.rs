//! The framing of attach, exec and logs without a terminal: 8 bytes (stream, 0, 0, 0, length as big-endian u32), then the
//! payload.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

/// More than an engine reads from a pipe at once.
const LONGEST: u32 = 1 << 20;

/// Where a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// File descriptor 1 of the container's process.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it comes from.
    pub origin: Origin,
    /// What was written.
    pub payload: Vec<u8>,
}

/// The next frame; `None` at the end of the stream between two.
///
/// # Errors
/// When the stream ends within one, is no such stream, or nothing comes in time.
pub fn next(reader: &mut impl Read) -> Result<Option<Frame>> {
    let mut head = [0_u8; 8];
    let mut have = 0;
    while have < head.len() {
        match reader.read(&mut head[have..]).context("read a frame's head")? {
            0 if have == 0 => return Ok(None),
            0 => bail!("the stream ends in the head of a frame"),
            count => have += count,
        }
    }
    let origin = match head[0] {
        1 => Origin::Stdout,
        2 => Origin::Stderr,
        other => bail!("no frame: it begins with {other} in {head:?}"),
    };
    ensure!(head[1..4] == [0, 0, 0], "no frame: {head:?}");
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    ensure!(length <= LONGEST, "a frame of {length} bytes");
    let mut payload = vec![0; length as usize];
    reader
        .read_exact(&mut payload)
        .context("the stream ends in a frame")?;
    Ok(Some(Frame { origin, payload }))
}

/// What came by either way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// By frames of stdout.
    pub stdout: String,
    /// By frames of stderr.
    pub stderr: String,
}

impl Output {
    fn add(&mut self, frame: &Frame) {
        let text = String::from_utf8_lossy(&frame.payload);
        match frame.origin {
            Origin::Stdout => self.stdout.push_str(&text),
            Origin::Stderr => self.stderr.push_str(&text),
        }
    }

    /// Every frame until the end.
    ///
    /// # Errors
    /// As [`next`].
    pub fn read(reader: &mut impl Read) -> Result<Self> {
        let mut output = Self::default();
        while let Some(frame) = next(reader)? {
            output.add(&frame);
        }
        Ok(output)
    }

    /// Frames until `text` has come by either way.
    ///
    /// # Errors
    /// As [`next`], or when the stream ends before.
    pub fn read_until(reader: &mut impl Read, text: &str) -> Result<Self> {
        let mut output = Self::default();
        while !output.stdout.contains(text) && !output.stderr.contains(text) {
            match next(reader).with_context(|| format!("wait for {text:?}; until now {output:?}"))? {
                Some(frame) => output.add(&frame),
                None => bail!("the stream ends without {text:?}: {output:?}"),
            }
        }
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_kept_apart_by_their_stream() {
        let mut bytes: &[u8] = b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01c\x01\0\0\0\0\0\0\x01d";
        let output = Output::read(&mut bytes).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("abd", "c"));
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for mut bytes in [
            b"\x01\0\0\0\0\0\0\x05ab".as_slice(),
            b"\x01\0\0",
            b"\x07\0\0\0\0\0\0\0",
            b"plain text without frames",
            b"\x01\0\0\0\xff\xff\xff\xff",
        ] {
            assert!(Output::read(&mut bytes).is_err());
        }
    }
}
