//! The formats that the shim writes, behind one door.
use super::json_file::{self, MAX_OBJECT};
use super::{cri, local};
use crate::attach::Stream;
use crate::time::Time;

/// How a log looks on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Docker's json-file.
    #[default]
    JsonFile,
    /// Docker's local; rotated files are compressed.
    Local,
    /// Kubernetes' CRI.
    Cri,
}

/// A time in the forms that the formats want, made once for a whole read.
#[derive(Clone, Debug)]
pub struct Stamp {
    time: Time,
    text: Vec<u8>,
}

impl Stamp {
    /// Of `time`, for `format`.
    #[must_use]
    pub fn new(format: Format, time: Time) -> Self {
        let mut text = Vec::new();
        if format != Format::Local {
            time.write(&mut text);
        }
        Self { time, text }
    }
}

impl Format {
    /// Appends one piece of a line (see [`json_file::Pieces`]). `last` says that its stream ends with it.
    pub fn write(self, out: &mut Vec<u8>, piece: &[u8], stream: Stream, stamp: &Stamp, last: bool) {
        match self {
            Self::JsonFile => json_file::write_stamped(out, piece, stream, &stamp.text),
            Self::Local => local::write(out, piece, stream, stamp.time),
            Self::Cri => cri::write(out, piece, stream, &stamp.text, last),
        }
    }
}

/// Takes output out of a log file's bytes as they are read, cut anywhere.
#[derive(Debug)]
pub struct Replay {
    format: Format,
    json: json_file::Parser,
    pending: Vec<u8>,
}

impl Replay {
    /// From the beginning of a file.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            json: json_file::Parser::default(),
            pending: Vec::new(),
        }
    }

    /// Hands on what was written, newlines included. What is torn is skipped; a file in `local` format ends at it.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Stream, &[u8])) {
        match self.format {
            Format::JsonFile => self.json.push(bytes, |entry| {
                // A torn line is one that a crash cut off; there is nothing to show of it.
                if let Ok(entry) = entry {
                    sink(entry.source(), entry.log.as_bytes());
                }
            }),
            Format::Cri => {
                self.pending.extend_from_slice(bytes);
                let mut done = 0;
                while let Some(at) = self.pending[done..].iter().position(|byte| *byte == b'\n') {
                    let line = &self.pending[done..=done + at];
                    done += at + 1;
                    if let Some(line) = cri::Line::decode(line) {
                        sink(line.stream, line.text);
                        if line.full {
                            sink(line.stream, b"\n");
                        }
                    }
                }
                self.pending.drain(..done);
                if self.pending.len() > MAX_OBJECT {
                    self.pending = Vec::new();
                }
            }
            Format::Local => {
                self.pending.extend_from_slice(bytes);
                let mut done = 0;
                while let Some(length) = local::length(&self.pending[done..]) {
                    let start = done + local::LENGTH;
                    let Some(message) = self.pending.get(start..start + length) else {
                        break;
                    };
                    if self.pending.len() < start + length + local::LENGTH {
                        break;
                    }
                    if let Ok(record) = local::Record::decode(message) {
                        sink(record.stream, &record.text);
                    }
                    done = start + length + local::LENGTH;
                }
                self.pending.drain(..done);
                if self.pending.len() > local::MAX_MESSAGE * 2 {
                    self.pending = Vec::new();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            pieces in prop::collection::vec((any::<bool>(), "[a-zäö\"\\\\ ]{0,20}", any::<bool>()), 0..20),
            cut in 1_usize..40,
        ) {
            for format in [Format::JsonFile, Format::Local, Format::Cri] {
                let stamp = Stamp::new(format, Time { secs: 1_700_000_000, nanos: 7 });
                let (mut file, mut expected) = (Vec::new(), Vec::new());
                for (err, text, newline) in &pieces {
                    let stream = if *err { Stream::Stderr } else { Stream::Stdout };
                    let piece = if *newline { format!("{text}\n") } else { text.clone() };
                    format.write(&mut file, piece.as_bytes(), stream, &stamp, false);
                    expected.extend_from_slice(piece.as_bytes());
                }
                let mut seen = Vec::new();
                let mut replay = Replay::new(format);
                for part in file.chunks(cut) {
                    replay.push(part, |_, bytes| seen.extend_from_slice(bytes));
                }
                prop_assert_eq!(String::from_utf8(seen), String::from_utf8(expected));
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for format in [Format::JsonFile, Format::Local, Format::Cri] {
                Replay::new(format).push(&bytes, |_, _| ());
            }
        }
    }
}
