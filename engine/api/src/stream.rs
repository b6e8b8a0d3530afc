//! Docker's stream framing: an 8-byte header (stream, three zeros, length as u32 big endian), then the bytes.

use std::fmt;

/// Length of a frame's header.
pub const HEADER_LEN: usize = 8;

/// Largest payload a decoder here accepts. The engines write at most 32 KiB a frame, log lines can be longer;
/// a header that announces more is taken for garbage rather than for a reason to allocate.
pub const MAX_FRAME: usize = 16 << 20;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamId {
    /// Standard input.
    Stdin = 0,
    /// Standard output, and all output of a terminal.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// An error of the engine itself.
    System = 3,
}

/// A header that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The first byte names no stream.
    UnknownStream(u8),
    /// The frame would be larger than [`MAX_FRAME`].
    TooLarge(u32),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::UnknownStream(id) => write!(f, "unrecognized stream: {id}"),
            FrameError::TooLarge(len) => write!(f, "frame of {len} bytes is larger than {MAX_FRAME}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Header of a frame of `len` bytes.
pub fn header(stream: StreamId, len: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = len.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// Reads a header.
///
/// # Errors
/// [`FrameError`] when the bytes cannot be one.
pub fn parse_header(bytes: [u8; HEADER_LEN]) -> Result<(StreamId, u32), FrameError> {
    let [id, _, _, _, a, b, c, d] = bytes;
    let stream = match id {
        0 => StreamId::Stdin,
        1 => StreamId::Stdout,
        2 => StreamId::Stderr,
        3 => StreamId::System,
        other => return Err(FrameError::UnknownStream(other)),
    };
    let len = u32::from_be_bytes([a, b, c, d]);
    if usize::try_from(len).map_or(true, |n| n > MAX_FRAME) {
        return Err(FrameError::TooLarge(len));
    }
    Ok((stream, len))
}

/// Splits a byte stream that arrives in arbitrary pieces into payload pieces, without ever holding a whole frame.
#[derive(Debug, Default)]
pub struct Demultiplexer {
    header: [u8; HEADER_LEN],
    have: usize,
    stream: Option<StreamId>,
    left: usize,
}

impl Demultiplexer {
    /// Feeds bytes; `sink` gets each piece of payload with its stream. An error of the sink ends the call.
    ///
    /// # Errors
    /// A bad header, or what the sink returned.
    pub fn feed<E: From<FrameError>>(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(StreamId, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            match self.stream {
                Some(stream) => {
                    let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
                    sink(stream, now)?;
                    self.left -= now.len();
                    bytes = rest;
                    if self.left == 0 {
                        self.stream = None;
                    }
                }
                None => {
                    let take = (HEADER_LEN - self.have).min(bytes.len());
                    self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                    self.have += take;
                    bytes = &bytes[take..];
                    if self.have == HEADER_LEN {
                        let (stream, len) = parse_header(self.header)?;
                        self.have = 0;
                        self.left = len as usize;
                        self.stream = (len > 0).then_some(stream);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the stream may end here: not inside a header or a payload.
    pub fn at_boundary(&self) -> bool {
        self.have == 0 && self.stream.is_none()
    }
}

/// Any bytes are split or refused; payload never exceeds what came in.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let mut out = 0;
    let split = Demultiplexer::default().feed(data, |_, bytes| {
        out += bytes.len();
        Ok::<(), FrameError>(())
    });
    assert!(out <= data.len() && (split.is_ok() || data.len() >= HEADER_LEN));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_in_any_pieces() {
        let mut wire = Vec::new();
        for (stream, text) in [
            (StreamId::Stdout, "hello"),
            (StreamId::Stderr, "no"),
            (StreamId::Stdout, ""),
        ] {
            wire.extend_from_slice(&header(stream, u32::try_from(text.len()).unwrap()));
            wire.extend_from_slice(text.as_bytes());
        }
        for piece in 1..wire.len() {
            let (mut demux, mut out, mut err) = (Demultiplexer::default(), Vec::new(), Vec::new());
            for part in wire.chunks(piece) {
                demux
                    .feed(part, |stream, bytes| {
                        match stream {
                            StreamId::Stdout => out.extend_from_slice(bytes),
                            _ => err.extend_from_slice(bytes),
                        }
                        Ok::<(), FrameError>(())
                    })
                    .unwrap();
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"hello"[..], &b"no"[..]));
            assert!(demux.at_boundary());
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(parse_header(*b"HTTP/1.1"), Err(FrameError::UnknownStream(b'H')));
        assert!(matches!(
            parse_header([1, 0, 0, 0, 255, 0, 0, 0]),
            Err(FrameError::TooLarge(_))
        ));
        assert!(parse_header([1, 0, 0, 0, 1, 0, 0, 0]).is_ok());
    }
}
