//! Docker's `local` format: one record for each line, `LENGTH MESSAGE LENGTH`, the lengths as four bytes, big endian, so that
//! a file can be read from either end; the message is protobuf's (`LogEntry` of docker's log drivers).
//!
//! A line keeps no newline, and a piece without one is `partial`; so is the end of a stream without a newline.
use super::json_file::MAX_PIECE;
use crate::attach::Stream;
use crate::time::Time;
use crate::wire::{Writer, read};

/// The longest message: a piece, and the fields around it.
pub const MAX_MESSAGE: usize = MAX_PIECE + 64;

/// Bytes of a length.
pub const LENGTH: usize = 4;

/// Appends one record. `piece` is what [`super::json_file::Pieces`] yields.
pub fn write(out: &mut Vec<u8>, piece: &[u8], stream: Stream, time: Time) {
    let nanos = time
        .secs
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(time.nanos));
    let line = piece.strip_suffix(b"\n");
    let mut message = Writer::default();
    message
        .bytes(1, stream.name())
        .int(2, nanos)
        .bytes(3, line.unwrap_or(piece))
        .uint(4, line.is_none());
    let message = message.finish();
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&message);
    out.extend_from_slice(&length);
}

/// One record, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it came from.
    pub stream: Stream,
    /// When.
    pub time: Time,
    /// The output, without its newline.
    pub line: &'a [u8],
    /// No newline follows.
    pub partial: bool,
}

impl<'a> Record<'a> {
    /// Reads a message, without its lengths.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(message: &'a [u8]) -> Result<Self, String> {
        let mut record = Self {
            stream: Stream::Stdout,
            time: Time::default(),
            line: &[],
            partial: false,
        };
        read(message, |field, value| match field {
            1 if value.bytes() == b"stderr" => record.stream = Stream::Stderr,
            2 => record.time = from_nanos(value.number().cast_signed()),
            3 => record.line = value.bytes(),
            4 => record.partial = value.number() != 0,
            _ => {}
        })
        .map_err(|e| format!("log record: {e}"))?;
        Ok(record)
    }
}

fn from_nanos(nanos: i64) -> Time {
    Time {
        secs: nanos.div_euclid(1_000_000_000),
        nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// The length at the beginning of `bytes`, if it can be one.
#[must_use]
pub fn length(bytes: &[u8]) -> Option<usize> {
    let bytes: [u8; LENGTH] = bytes.get(..LENGTH)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(bytes))
        .ok()
        .filter(|length| (1..=MAX_MESSAGE).contains(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_docker_writes_them() {
        let mut out = Vec::new();
        let time = Time { secs: 1, nanos: 5 };
        write(&mut out, b"hi\n", Stream::Stdout, time);
        // Source, nanoseconds since 1970, line.
        let message = b"\x0a\x06stdout\x10\x85\x94\xeb\xdc\x03\x1a\x02hi";
        let length_bytes = [0, 0, 0, u8::try_from(message.len()).unwrap()];
        assert_eq!(out, [&length_bytes[..], message, &length_bytes].concat());
        assert_eq!(length(&out), Some(message.len()));
        let record = Record::decode(message).unwrap();
        assert_eq!(
            (record.time, record.line, record.partial),
            (time, &b"hi"[..], false)
        );
        let mut part = Vec::new();
        write(&mut part, b"\xffx", Stream::Stderr, time);
        let record = Record::decode(&part[LENGTH..part.len() - LENGTH]).unwrap();
        assert_eq!(
            (record.stream, record.line, record.partial),
            (Stream::Stderr, &b"\xffx"[..], true)
        );
        assert_eq!(length(&[0xff; 4]), None);
        assert_eq!(length(&[0; 3]), None);
    }
}
