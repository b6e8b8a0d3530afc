//! The formats that the shim writes, behind one door.
use super::{cri, json_file, local};
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
