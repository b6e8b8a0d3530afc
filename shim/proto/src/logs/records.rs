//! Reading a log of any format: records out of a file's bytes as they are read, cut anywhere, without a copy of each.
use super::format::Format;
use super::json_file::{self, Entry, MAX_OBJECT};
use super::{cri, local};
use crate::attach::Stream;
use crate::time::Time;

/// The longest unfinished record that is kept, in bytes; one beyond it is skipped.
const LONGEST: usize = MAX_OBJECT * 2;

/// A line of output, or a piece of a long one.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where it came from.
    pub stream: Stream,
    time: When<'a>,
    text: Text<'a>,
}

#[derive(Clone, Copy, Debug)]
enum When<'a> {
    /// RFC 3339, as it stands.
    Text(&'a str),
    Known(Time),
}

#[derive(Clone, Copy, Debug)]
enum Text<'a> {
    /// As it stands in JSON, and the line it stands in.
    Escaped(&'a [u8], &'a [u8]),
    /// As it is, and whether a newline follows.
    Plain(&'a [u8], bool),
}

impl Record<'_> {
    /// When it was written; `None` if the log says no time.
    #[must_use]
    pub fn time(&self) -> Option<Time> {
        match self.time {
            When::Text(text) => Time::parse(text),
            When::Known(time) => Some(time),
        }
    }

    /// Appends the output, with its newline where it had one.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self.text {
            Text::Plain(bytes, newline) => {
                out.extend_from_slice(bytes);
                if newline {
                    out.push(b'\n');
                }
            }
            Text::Escaped(escaped, line) => {
                let before = out.len();
                if json_file::unescape(escaped, out).is_none() {
                    out.truncate(before);
                    // Escapes that only others write.
                    if let Ok(entry) = Entry::decode(line) {
                        out.extend_from_slice(entry.log.as_bytes());
                    }
                }
            }
        }
    }
}

/// Takes records out of bytes.
#[derive(Debug)]
pub struct Records {
    format: Format,
    /// The beginning of a record.
    pending: Vec<u8>,
    /// The rest of a record that is too long does not count.
    skipping: bool,
}

impl Records {
    /// From the beginning of a record.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            pending: Vec::new(),
            skipping: false,
        }
    }

    /// Hands on every whole record, while `sink` wants more. What a crash tore is skipped; in `local` format a file ends at it.
    /// False once `sink` has enough.
    pub fn push(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Record<'_>) -> bool) -> bool {
        if self.format == Format::Local {
            return self.push_local(bytes, sink);
        }
        if self.skipping || !self.pending.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.keep(bytes);
                return true;
            };
            let (first, rest) = bytes.split_at(end + 1);
            bytes = rest;
            let mut line = std::mem::take(&mut self.pending);
            if !std::mem::take(&mut self.skipping) {
                line.extend_from_slice(first);
                if !with_line(self.format, &line, &mut sink) {
                    return false;
                }
            }
        }
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if !with_line(self.format, line, &mut sink) {
                return false;
            }
        }
        self.keep(bytes);
        true
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() > LONGEST {
            self.pending = Vec::new();
            self.skipping = true;
        }
    }

    fn push_local(&mut self, bytes: &[u8], mut sink: impl FnMut(Record<'_>) -> bool) -> bool {
        let mut joined = std::mem::take(&mut self.pending);
        let bytes = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        let mut done = 0;
        while let Some(length) = local::length(&bytes[done..]) {
            let start = done + local::LENGTH;
            let end = start + length;
            let Some(message) = bytes
                .get(start..end)
                .filter(|_| bytes.len() >= end + local::LENGTH)
            else {
                break;
            };
            done = end + local::LENGTH;
            if let Some(record) = of_message(message)
                && !sink(record)
            {
                return false;
            }
        }
        let rest = &bytes[done..];
        // Only what may still become a record is kept.
        if rest.len() < local::LENGTH || local::length(rest).is_some() {
            self.pending = rest.to_vec();
        }
        true
    }
}

/// Hands on what a line with its newline says; false once `sink` has enough.
fn with_line(format: Format, line: &[u8], sink: &mut impl FnMut(Record<'_>) -> bool) -> bool {
    if format == Format::Cri {
        return cri::Line::decode(line).is_none_or(|line| {
            sink(Record {
                stream: line.stream,
                time: When::Text(line.time),
                text: Text::Plain(line.text, line.full),
            })
        });
    }
    if let Some((escaped, stream, time)) = json_file::fields(line) {
        return sink(Record {
            stream,
            time: When::Text(time),
            text: Text::Escaped(escaped, line),
        });
    }
    // JSON that others wrote; a torn line is none.
    Entry::decode(line).map_or(true, |entry| {
        sink(Record {
            stream: entry.source(),
            time: When::Text(&entry.time),
            text: Text::Plain(entry.log.as_bytes(), false),
        })
    })
}

fn of_message(message: &[u8]) -> Option<Record<'_>> {
    let record = local::Record::decode(message).ok()?;
    Some(Record {
        stream: record.stream,
        time: When::Known(record.time),
        text: Text::Plain(record.line, !record.partial),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::format::Stamp;
    use proptest::prelude::*;

    fn read(format: Format, bytes: &[u8], cut: usize) -> Vec<(Stream, Option<Time>, Vec<u8>)> {
        let mut seen = Vec::new();
        let mut records = Records::new(format);
        for part in bytes.chunks(cut) {
            records.push(part, |record| {
                let mut text = Vec::new();
                record.write(&mut text);
                seen.push((record.stream, record.time(), text));
                true
            });
        }
        seen
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            pieces in prop::collection::vec((any::<bool>(), "[a-zäö\"\\\\ \t]{0,20}", any::<bool>()), 0..20),
            cut in 1_usize..40,
        ) {
            for format in [Format::JsonFile, Format::Local, Format::Cri] {
                let time = Time { secs: 1_700_000_000, nanos: 7 };
                let stamp = Stamp::new(format, time);
                let (mut file, mut expected) = (Vec::new(), Vec::new());
                for (err, text, newline) in &pieces {
                    let stream = if *err { Stream::Stderr } else { Stream::Stdout };
                    let piece = if *newline { format!("{text}\n") } else { text.clone() };
                    format.write(&mut file, piece.as_bytes(), stream, &stamp, false);
                    expected.push((stream, Some(time), piece.into_bytes()));
                }
                prop_assert_eq!(read(format, &file, cut), expected);
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for format in [Format::JsonFile, Format::Local, Format::Cri] {
                read(format, &bytes, 7);
            }
        }
    }

    #[test]
    fn what_others_wrote_and_what_is_torn() {
        let log = concat!(
            "{\"stream\":\"stderr\", \"log\":\"a\\ud83d\\ude00\", \"attrs\":{\"a\":\"b\"},\"time\":\"t\"}\n",
            "{\"log\":\"b\\f\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01Z\"}\n",
            "{\"log\":\"torn\n\n",
            "{\"log\":\"c\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01Z\"}\n",
        );
        let time = Some(Time { secs: 1, nanos: 0 });
        let expected = vec![
            (Stream::Stderr, None, "a\u{1f600}".into()),
            (Stream::Stdout, time, "b\u{c}".into()),
            (Stream::Stdout, time, "c".into()),
        ];
        assert_eq!(read(Format::JsonFile, log.as_bytes(), 11), expected);
    }

    #[test]
    fn an_endless_line_is_skipped_and_enough_is_enough() {
        let mut records = Records::new(Format::JsonFile);
        for _ in 0..5 {
            assert!(records.push(&vec![b'x'; MAX_OBJECT], |_| panic!("no record")));
        }
        let line = b"\n{\"log\":\"c\",\"stream\":\"stdout\",\"time\":\"\"}\n{\"log\":\"d\",\"stream\":\"stdout\",\"time\":\"\"}\n";
        let mut count = 0;
        assert!(!records.push(line, |_| {
            count += 1;
            false
        }));
        assert_eq!(count, 1);
    }
}
