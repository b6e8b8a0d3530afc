//! The attach socket: one JSON line each way, then docker's frames downstream and raw bytes upstream.
//!
//! ```text
//! client: {"format":1,"exec_id":"","stdin":true,"stdout":true,"stderr":true,"from":"now","tty":false}\n
//! shim:   {"ok":true}\n        or {"ok":false,"message":"..."}\n and the end
//! shim:   frame frame ...      8 bytes of header each: stream, 0, 0, 0, length (big endian)
//! client: raw bytes            the process's stdin; half-close is its end
//! ```
//! A terminal's output is stream 1, framed like any other. The end of the stream comes after the last byte of
//! output. What a client does not read waits for it; beyond all bounds it is cut off, and sees the end of the
//! stream without the process having ended.
use serde::{Deserialize, Serialize};

/// The longest hello or reply line, in bytes, newline included.
pub const MAX_LINE: usize = 4 * 1024;

/// Bytes before each frame's payload.
pub const HEADER: usize = 8;

/// The longest payload the shim puts in one frame, and the longest a [`Decoder`] accepts.
pub const MAX_FRAME: usize = 1024 * 1024;

/// What the client wants; the first line on the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// Empty for the container's first process, else the id given to `Exec`.
    #[serde(default)]
    pub exec_id: String,
    /// Whether bytes sent upstream are the process's stdin.
    #[serde(default)]
    pub stdin: bool,
    /// Whether stdout is wanted.
    #[serde(default)]
    pub stdout: bool,
    /// Whether stderr is wanted.
    #[serde(default)]
    pub stderr: bool,
    /// Where the output begins.
    #[serde(default)]
    pub from: From,
    /// With [`From::Start`]: not from the beginning, but from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Whether the client believes the process has a terminal; a mismatch is not an error.
    #[serde(default)]
    pub tty: bool,
    /// Reserved: detaching by keys is done by the engine.
    #[serde(default)]
    pub detach_keys: Option<String>,
    /// Nothing is attached: the log goes on in a new file of the same name, after somebody renamed the old one. The
    /// reply is the whole answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reopen: bool,
}

/// Where an attached client's output begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// With the next byte the process writes. Attached before `Start`, that is the first.
    #[default]
    Now,
    /// With what the log still holds, then on without gap or repetition.
    Start,
}

/// A place in a log, for a client that has read so far itself: rotation renames a file, and it stays the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The file, by its inode number (stat(2)).
    pub inode: u64,
    /// Bytes of it that are not wanted; the end of a line or record.
    pub offset: u64,
}

/// The shim's answer line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether frames follow.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Hello {
    /// The usual hello: everything of one process, from the next byte on.
    #[must_use]
    pub fn all(exec_id: &str) -> Self {
        Self {
            format: crate::FORMAT,
            exec_id: exec_id.to_owned(),
            stdin: true,
            stdout: true,
            stderr: true,
            from: From::Now,
            position: None,
            tty: false,
            detach_keys: None,
            reopen: false,
        }
    }

    /// The line, newline included.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        line(self)
    }

    /// Reads a line (with or without its newline).
    ///
    /// # Errors
    /// Text that is not a hello, or one of another `format`.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        let hello: Self = serde_json::from_slice(json).map_err(|e| format!("attach hello: {e}"))?;
        if hello.format != crate::FORMAT {
            return Err(format!(
                "attach hello of format {}, known is {}",
                hello.format,
                crate::FORMAT
            ));
        }
        Ok(hello)
    }
}

impl Reply {
    /// Frames follow.
    #[must_use]
    pub fn ok() -> Self {
        Self {
            ok: true,
            message: None,
        }
    }

    /// Nothing follows.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            ok: false,
            message: Some(message.into()),
        }
    }

    /// The line, newline included.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        line(self)
    }

    /// Reads a line (with or without its newline).
    ///
    /// # Errors
    /// Text that is not a reply.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|e| format!("attach reply: {e}"))
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut out = serde_json::to_vec(value).unwrap_or_default();
    out.push(b'\n');
    out
}

/// Which of a process's streams bytes belong to. The numbers are docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Stream 1, and all output of a terminal.
    Stdout,
    /// Stream 2.
    Stderr,
}

impl Stream {
    /// The name in log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// The number in frame headers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    /// The stream of a number in a frame header.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// The header of a frame with `len` bytes of payload; `None` above [`MAX_FRAME`].
#[must_use]
pub fn header(stream: Stream, len: usize) -> Option<[u8; HEADER]> {
    let len = u32::try_from(len)
        .ok()
        .filter(|_| len <= MAX_FRAME)?
        .to_be_bytes();
    Some([stream.number(), 0, 0, 0, len[0], len[1], len[2], len[3]])
}

/// Reads a frame's header: stream and payload length.
///
/// # Errors
/// An unknown stream number, or a length above [`MAX_FRAME`].
pub fn read_header(bytes: [u8; HEADER]) -> Result<(Stream, usize), String> {
    let stream =
        Stream::from_number(bytes[0]).ok_or_else(|| format!("attach frame of stream {}", bytes[0]))?;
    let len = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    match usize::try_from(len) {
        Ok(len) if len <= MAX_FRAME => Ok((stream, len)),
        _ => Err(format!("attach frame of {len} bytes")),
    }
}

/// Takes frames out of bytes as they arrive, cut anywhere.
#[derive(Debug, Default)]
pub struct Decoder {
    head: [u8; HEADER],
    head_len: usize,
    current: Option<(Stream, usize)>,
}

impl Decoder {
    /// Hands every piece of payload in `bytes` to `sink`; a frame may come in several pieces.
    ///
    /// # Errors
    /// A bad header (see [`read_header`]); the decoder is of no use afterwards.
    pub fn push(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Stream, &[u8])) -> Result<(), String> {
        while !bytes.is_empty() {
            if let Some((stream, left)) = self.current {
                let take = left.min(bytes.len());
                sink(stream, &bytes[..take]);
                bytes = &bytes[take..];
                self.current = (left > take).then_some((stream, left - take));
                continue;
            }
            let take = (HEADER - self.head_len).min(bytes.len());
            self.head[self.head_len..self.head_len + take].copy_from_slice(&bytes[..take]);
            self.head_len += take;
            bytes = &bytes[take..];
            if self.head_len == HEADER {
                self.head_len = 0;
                let (stream, len) = read_header(self.head)?;
                self.current = (len > 0).then_some((stream, len));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hello_as_the_contract_writes_it() {
        let hello = Hello::decode(
            br#"{"format":1,"exec_id":"" ,"stdin":false,"stdout":true,"stderr":true,"from":"start","tty":false,"detach_keys":null}"#,
        )
        .unwrap();
        assert_eq!(hello.from, From::Start);
        assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
        assert!(Hello::decode(br#"{"format":9}"#).is_err());
        assert_eq!(Reply::ok().encode(), b"{\"ok\":true}\n");
        assert_eq!(
            Reply::decode(&Reply::refused("no").encode())
                .unwrap()
                .message
                .as_deref(),
            Some("no")
        );
    }

    #[test]
    fn bad_headers_are_refused() {
        assert!(read_header([3, 0, 0, 0, 0, 0, 0, 1]).is_err());
        assert!(read_header([1, 0, 0, 0, 0xff, 0, 0, 0]).is_err());
        assert_eq!(header(Stream::Stdout, MAX_FRAME + 1), None);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cut in 1_usize..30,
        ) {
            let mut wire = Vec::new();
            let mut expected: [Vec<u8>; 2] = Default::default();
            for (err, payload) in &frames {
                let stream = if *err { Stream::Stderr } else { Stream::Stdout };
                wire.extend(header(stream, payload.len()).unwrap());
                wire.extend(payload);
                expected[usize::from(*err)].extend_from_slice(payload);
            }
            let mut got: [Vec<u8>; 2] = Default::default();
            let mut decoder = Decoder::default();
            for piece in wire.chunks(cut) {
                decoder.push(piece, |stream, bytes| got[usize::from(stream == Stream::Stderr)].extend(bytes)).unwrap();
            }
            prop_assert_eq!(got, expected);
        }
    }
}
