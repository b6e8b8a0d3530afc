//! Docker's json-file format: one JSON object a line, `log`, `stream`, `time`, in this order.
//!
//! - A line of output keeps its newline inside `log`. A line longer than [`MAX_PIECE`] is cut into several
//!   objects, of which only the last one's `log` ends in a newline; output that ends without a newline is
//!   kept without one.
//! - Escapes are those of docker's own encoder: `\n`, `\r`, `\"`, `\\` by letter; other control characters,
//!   `<`, `>`, `&`, U+2028 and U+2029 as `\u00xx`/`\u20xx`; each byte that is not UTF-8 becomes `\ufffd`.
use serde::Deserialize;

use crate::attach::Stream;
use crate::time::Time;

/// The longest piece of a line in one object, in bytes of output.
pub const MAX_PIECE: usize = 16 * 1024;

/// The longest object in the file: a piece of which every byte is escaped to six, and the other fields.
pub const MAX_OBJECT: usize = MAX_PIECE * 6 + 128;

/// Appends one object with its newline to `out`. `piece` is what [`Pieces`] yields.
pub fn write(out: &mut Vec<u8>, piece: &[u8], stream: Stream, time: Time) {
    write_with(out, piece, stream, |out| time.write(out));
}

/// As [`write`], with the time already as text: one read of many lines formats it once.
pub fn write_stamped(out: &mut Vec<u8>, piece: &[u8], stream: Stream, time: &[u8]) {
    write_with(out, piece, stream, |out| out.extend_from_slice(time));
}

fn write_with(out: &mut Vec<u8>, piece: &[u8], stream: Stream, time: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, piece);
    out.extend_from_slice(match stream {
        Stream::Stdout => b"\",\"stream\":\"stdout\",\"time\":\"",
        Stream::Stderr => b"\",\"stream\":\"stderr\",\"time\":\"",
    });
    time(out);
    out.extend_from_slice(b"\"}\n");
}

/// Bytes that cannot stand as they are.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 || byte >= 0x80;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table[b'<' as usize] = true;
    table[b'>' as usize] = true;
    table[b'&' as usize] = true;
    table
};

fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(at) = text.iter().position(|byte| SPECIAL[usize::from(*byte)]) {
        out.extend_from_slice(&text[..at]);
        text = &text[at..];
        if text[0] >= 0x80 {
            let end = text.iter().position(u8::is_ascii).unwrap_or(text.len());
            escape_unicode(out, &text[..end]);
            text = &text[end..];
            continue;
        }
        match text[0] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        text = &text[1..];
    }
    out.extend_from_slice(text);
}

/// Escapes a run without ASCII.
fn escape_unicode(out: &mut Vec<u8>, run: &[u8]) {
    for chunk in run.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(['\u{2028}', '\u{2029}']) {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            out.extend_from_slice(if rest[at..].starts_with('\u{2028}') {
                b"\\u2028"
            } else {
                b"\\u2029"
            });
            rest = &rest[at + 3..];
        }
        out.extend_from_slice(rest.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// Cuts one stream's output, as it is read, into the pieces that become objects. Holds at most [`MAX_PIECE`]
/// bytes: a line whose end has not been read yet.
#[derive(Debug, Default)]
pub struct Pieces {
    pending: Vec<u8>,
}

impl Pieces {
    /// Hands every complete piece to `sink`.
    pub fn push(&mut self, mut bytes: &[u8], mut sink: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            let room = MAX_PIECE - self.pending.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(at) => {
                    self.pending.extend_from_slice(&bytes[..=at]);
                    bytes = &bytes[at + 1..];
                }
                None => {
                    let take = bytes.len().min(room);
                    self.pending.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    if self.pending.len() < MAX_PIECE {
                        return;
                    }
                    let cut = char_boundary(&self.pending);
                    sink(&self.pending[..cut]);
                    self.pending.drain(..cut);
                    // What the cut left over (at most three bytes) begins the next piece.
                    return self.push(bytes, sink);
                }
            }
            sink(&self.pending);
            self.pending = Vec::new();
        }
        loop {
            let window = &bytes[..bytes.len().min(MAX_PIECE + 1)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(at) => {
                    sink(&bytes[..=at]);
                    bytes = &bytes[at + 1..];
                }
                None if bytes.len() >= MAX_PIECE => {
                    let cut = char_boundary(&bytes[..MAX_PIECE]);
                    sink(&bytes[..cut]);
                    bytes = &bytes[cut..];
                }
                None => break,
            }
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Hands out what the stream ended with, if that was not a newline.
    pub fn finish(&mut self, mut sink: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            sink(&self.pending);
            self.pending = Vec::new();
        }
    }

    /// The beginning of a line that has no end yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }
}

/// Where to cut a full piece so that no character is torn; docker tears it and keeps two `\ufffd`.
fn char_boundary(piece: &[u8]) -> usize {
    let len = piece.len();
    for back in 1..=3.min(len) {
        let byte = piece[len - back];
        let needs = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => return len,
        };
        return if needs > back && len > back {
            len - back
        } else {
            len
        };
    }
    len
}

/// One object of a log file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// The output, newline included where there was one.
    #[serde(default)]
    pub log: String,
    /// `stdout` or `stderr`.
    #[serde(default)]
    pub stream: String,
    /// RFC 3339 with nanoseconds.
    #[serde(default)]
    pub time: String,
}

impl Entry {
    /// Reads one line of a log file (with or without its newline).
    ///
    /// # Errors
    /// Text that is not such an object.
    pub fn decode(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|e| format!("log line: {e}"))
    }

    /// The time as a number; `None` if the text is none.
    #[must_use]
    pub fn at(&self) -> Option<Time> {
        Time::parse(&self.time)
    }

    /// The stream; anything but `stderr` counts as stdout.
    #[must_use]
    pub fn source(&self) -> Stream {
        if self.stream == "stderr" {
            Stream::Stderr
        } else {
            Stream::Stdout
        }
    }
}

/// The escaped output, the stream and the time of a line (with or without its newline) of exactly the shape that [`write`] makes.
pub(super) fn fields(line: &[u8]) -> Option<(&[u8], Stream, &str)> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let rest = line.strip_prefix(b"{\"log\":\"")?.strip_suffix(b"\"}")?;
    // From the end: what is before the fields that have a shape of their own is output, whatever it says.
    let (rest, time) = rest.split_at(memchr::memrchr(b'"', rest)?);
    let rest = rest.strip_suffix(b"\",\"time\":")?;
    let (rest, stream) = match rest.strip_suffix(b"\",\"stream\":\"stdout") {
        Some(rest) => (rest, Stream::Stdout),
        None => (rest.strip_suffix(b"\",\"stream\":\"stderr")?, Stream::Stderr),
    };
    Some((rest, stream, std::str::from_utf8(&time[1..]).ok()?))
}

/// Undoes [`escape`]; `None` for escapes that are never written here, and for what is no text of JSON.
pub(super) fn unescape(mut text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    while let Some(at) = memchr::memchr2(b'"', b'\\', text) {
        out.extend_from_slice(&text[..at]);
        if text[at] == b'"' {
            return None;
        }
        let (letter, rest) = text[at + 1..].split_first()?;
        text = rest;
        match letter {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'"' | b'\\' | b'/' => out.push(*letter),
            b'u' => {
                let hex = text
                    .get(..4)
                    .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))?;
                let code = u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
                // Surrogates give None here and go to the general parser.
                let mut buffer = [0; 4];
                out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut buffer).as_bytes());
                text = &text[4..];
            }
            _ => return None,
        }
    }
    out.extend_from_slice(text);
    Some(())
}

#[cfg(test)]
#[path = "json_file_tests.rs"]
mod tests;
