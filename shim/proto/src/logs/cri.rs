//! The log format of Kubernetes' container runtime interface: `TIME STREAM TAG TEXT`, one line each. The tag is `F` for a
//! whole line and for the last piece of one, `P` for every other piece; the newline belongs to the format.
use super::json_file::MAX_PIECE;
use crate::attach::Stream;

/// Appends one line. `piece` is what [`super::json_file::Pieces`] yields; `last` says that its line ends with it though it has
/// no newline, as the end of a stream does.
pub fn write(out: &mut Vec<u8>, piece: &[u8], stream: Stream, time: &[u8], last: bool) {
    let (text, tag) = match piece.strip_suffix(b"\n") {
        Some(text) => (text, b" F "),
        None if last => (piece, b" F "),
        None => (piece, b" P "),
    };
    out.extend_from_slice(time);
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(tag);
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// One line, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339, as it stands.
    pub time: &'a str,
    /// Where it came from.
    pub stream: Stream,
    /// Whether a newline follows the text.
    pub full: bool,
    /// The output, without its newline.
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads one line, with or without its newline; `None` for what is none.
    #[must_use]
    pub fn decode(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?;
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // Tags may grow, divided by colons; the first is this one.
        let full = match fields.next()?.split(|byte| *byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        let text = fields.next()?;
        Some(Self {
            time,
            stream,
            full,
            text,
        })
    }
}

/// The longest line: a piece, and the fields before it.
pub const MAX_LINE: usize = MAX_PIECE + 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_tags() {
        let mut out = Vec::new();
        for (piece, last) in [
            (&b"a b\n"[..], false),
            (b"part", false),
            (b"end", true),
            (b"\n", false),
        ] {
            write(&mut out, piece, Stream::Stderr, b"T", last);
        }
        assert_eq!(
            out,
            b"T stderr F a b\nT stderr P part\nT stderr F end\nT stderr F \n"
        );
        let lines: Vec<_> = out
            .split_inclusive(|byte| *byte == b'\n')
            .map(Line::decode)
            .collect();
        assert_eq!(lines[0].unwrap().text, b"a b");
        assert!(!lines[1].unwrap().full && lines[2].unwrap().full);
        assert_eq!(lines[3].unwrap().text, b"");
        for bad in [
            &b""[..],
            b"T stdout F",
            b"T both F x",
            b"T stdout X x",
            b"\xff stdout F x",
        ] {
            assert_eq!(Line::decode(bad), None, "{bad:?}");
        }
    }
}
