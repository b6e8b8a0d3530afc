//! The files of a log, read as one: where reading begins, and which file follows which. Blocking.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use kelson_shim_proto::logs::JsonFile;
use kelson_shim_proto::logs::format::Format;
use kelson_shim_proto::logs::records::Records;
use kelson_shim_proto::logs::{local, rotate};
use kelson_shim_proto::time::Time;

use super::tail;

/// Bytes read at once.
pub(super) const CHUNK: usize = 256 << 10;

/// A file no longer than this is not searched by halves.
const SHORT: u64 = 64 << 10;

/// A log, whichever of its files exist.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub format: Format,
    pub path: PathBuf,
    pub max_file: u32,
}

/// A log file being read.
#[derive(Debug)]
pub(super) struct Open {
    content: Content,
    /// Bytes of the file that were read.
    position: u64,
    inode: (u64, u64),
}

#[derive(Debug)]
enum Content {
    Plain(File),
    /// A rotated one that was compressed.
    Compressed(Box<MultiGzDecoder<File>>),
}

impl Source {
    pub fn new(format: Format, file: JsonFile) -> Self {
        Self {
            format,
            path: file.path,
            max_file: file.max_file,
        }
    }

    /// Opens the file that is `back` rotations old.
    fn open(&self, back: u32) -> io::Result<Option<Open>> {
        let name = rotate::name(&self.path, back);
        match File::open(&name) {
            Ok(file) => return Open::new(file, false).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if back == 0 {
            return Ok(None);
        }
        match File::open(rotate::compressed(&name)) {
            Ok(file) => Open::new(file, true).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those that exist, newest first.
    fn files(&self) -> io::Result<Vec<Open>> {
        (0..self.max_file)
            .filter_map(|back| self.open(back).transpose())
            .collect()
    }

    /// Where to begin; `None` when there is no log. `tail`: only so many last lines. `since`: what is older is not asked for; some
    /// of it may be read all the same.
    pub fn begin(&self, tail: Option<u64>, since: Option<Time>) -> io::Result<Option<Open>> {
        let files = self.files()?;
        let Some(mut wanted) = tail else {
            return self.begin_since(files, since);
        };
        let mut last = None;
        for (index, mut open) in files.into_iter().enumerate() {
            if index == 0 && wanted == 0 {
                open.seek(open.len()?)?;
                return Ok(Some(open));
            }
            let (offset, found) = match &mut open.content {
                Content::Plain(file) => tail::last_records(self.format, file, wanted)?,
                Content::Compressed(_) => self.last_compressed(&mut open, wanted)?,
            };
            open.seek(offset)?;
            wanted -= found;
            last = Some(open);
            if wanted == 0 {
                break;
            }
        }
        Ok(last)
    }

    /// The newest file that begins before `since`, and a place in it that is not after.
    fn begin_since(&self, mut files: Vec<Open>, since: Option<Time>) -> io::Result<Option<Open>> {
        let Some(since) = since else {
            return Ok(files.pop());
        };
        let mut oldest = None;
        for mut open in files {
            let begins = open.first_time(self.format)?;
            open.seek(0)?;
            if begins.is_some_and(|at| at < since) {
                if let Content::Plain(file) = &mut open.content {
                    let offset = before(self.format, file, since)?;
                    open.seek(offset)?;
                }
                return Ok(Some(open));
            }
            oldest = Some(open);
        }
        Ok(oldest)
    }

    /// Offset in what was compressed at which the last `wanted` records begin, and how many of them there are.
    fn last_compressed(&self, open: &mut Open, wanted: u64) -> io::Result<(u64, u64)> {
        let mut ends = Vec::new();
        let mut buffer = vec![0; CHUNK];
        let (mut bytes, mut scan) = (0, tail::Scan::new(self.format));
        loop {
            let count = open.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            scan.push(&buffer[..count], bytes, &mut ends);
            bytes += count as u64;
        }
        let all = ends.len() as u64;
        let found = all.min(wanted);
        let skip = usize::try_from(all - found).unwrap_or(usize::MAX);
        Ok((skip.checked_sub(1).map_or(0, |last| ends[last]), found))
    }

    /// The file after `open`, if the writer has gone on to one. `last`: the time of what was read last.
    pub fn next(&self, open: &mut Open, last: Option<Time>) -> io::Result<Option<Open>> {
        let identity = |back: u32| {
            let meta = std::fs::metadata(rotate::name(&self.path, back)).ok()?;
            Some((meta.dev(), meta.ino()))
        };
        if identity(0).is_none_or(|current| current == open.inode) {
            if matches!(open.content, Content::Plain(_)) && open.len()? < open.position {
                // The only file is cut to nothing instead of renamed.
                open.seek(0)?;
            }
            return Ok(None);
        }
        for back in 1..self.max_file {
            if identity(back) == Some(open.inode) || self.compressed_identity(back) == Some(open.inode) {
                return self.open(back - 1);
            }
        }
        // Ours is gone, or was compressed meanwhile: the oldest that is younger follows it.
        for back in (0..self.max_file).rev() {
            let Some(mut next) = self.open(back)? else {
                continue;
            };
            let begins = next.first_time(self.format)?;
            next.seek(0)?;
            if back == 0 || last.is_none() || begins.is_some_and(|at| Some(at) >= last) {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    fn compressed_identity(&self, back: u32) -> Option<(u64, u64)> {
        let meta = std::fs::metadata(rotate::compressed(&rotate::name(&self.path, back))).ok()?;
        Some((meta.dev(), meta.ino()))
    }
}

impl Open {
    fn new(file: File, compressed: bool) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            content: if compressed {
                Content::Compressed(Box::new(MultiGzDecoder::new(file)))
            } else {
                Content::Plain(file)
            },
            position: 0,
            inode: (meta.dev(), meta.ino()),
        })
    }

    /// Reads on; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.content {
            Content::Plain(file) => file.read(buffer)?,
            Content::Compressed(file) => file.read(buffer)?,
        };
        self.position += count as u64;
        Ok(count)
    }

    fn len(&self) -> io::Result<u64> {
        match &self.content {
            Content::Plain(file) => Ok(file.metadata()?.len()),
            // Nothing is asked of its end.
            Content::Compressed(_) => Ok(0),
        }
    }

    /// Goes to a place; in a compressed one by reading up to it.
    fn seek(&mut self, offset: u64) -> io::Result<()> {
        match &mut self.content {
            Content::Plain(file) => {
                file.seek(SeekFrom::Start(offset))?;
            }
            Content::Compressed(reader) => {
                let mut file = reader.get_ref().try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                **reader = MultiGzDecoder::new(file);
                io::copy(&mut reader.by_ref().take(offset), &mut io::sink())?;
            }
        }
        self.position = offset;
        Ok(())
    }

    /// When the first record was written that says so.
    fn first_time(&mut self, format: Format) -> io::Result<Option<Time>> {
        let mut buffer = vec![0; CHUNK];
        let mut records = Records::new(format);
        let mut first = None;
        // A record is shorter than this; a file of rubbish is not read to its end.
        for _ in 0..4 {
            let count = self.read(&mut buffer)?;
            let go_on = records.push(&buffer[..count], |record| {
                first = record.time();
                first.is_none()
            });
            if !go_on || count == 0 {
                break;
            }
        }
        Ok(first)
    }
}

/// The beginning of a line before the first one that is not older than `since`, by halves: times only grow, unless the clock was
/// set back, and then what lies between is not found.
fn before(format: Format, file: &mut File, since: Time) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    let mut buffer = vec![0; CHUNK];
    while high - low > SHORT {
        let middle = low + (high - low) / 2;
        file.seek(SeekFrom::Start(middle))?;
        let count = file.read(&mut buffer)?;
        let Some(start) = next_record(format, &buffer[..count]) else {
            high = middle;
            continue;
        };
        let mut at = None;
        Records::new(format).push(&buffer[start..count], |record| {
            at = record.time();
            at.is_none()
        });
        match at {
            Some(at) if at < since => low = middle + start as u64,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Where the first record begins that begins in `bytes`, which begin anywhere.
fn next_record(format: Format, bytes: &[u8]) -> Option<usize> {
    if format != Format::Local {
        return memchr::memchr(b'\n', bytes).map(|newline| newline + 1);
    }
    // Two lengths that agree, around what can be read: output that looks like it deceives its own reader alone.
    (0..bytes.len().min(2 * local::MAX_MESSAGE)).find(|start| {
        local::length(&bytes[*start..]).is_some_and(|length| {
            let end = start + local::LENGTH + length;
            let message = bytes.get(start + local::LENGTH..end);
            message.is_some_and(|message| {
                message.starts_with(b"\x0a\x06std") && local::Record::decode(message).is_ok()
            }) && bytes.get(end..).and_then(local::length) == Some(length)
        })
    })
}
