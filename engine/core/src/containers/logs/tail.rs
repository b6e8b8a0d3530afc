//! Where the last N records of a file begin, found from its end.

use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use kelson_shim_proto::logs::format::Format;
use kelson_shim_proto::logs::local;

/// Bytes read at once, backwards.
const BLOCK: u64 = 64 << 10;

/// Offset at which the last `wanted` records begin, and how many of them there are.
pub(super) fn last_records(format: Format, file: &mut File, wanted: u64) -> Result<(u64, u64)> {
    match format {
        Format::Local => last_messages(file, wanted),
        Format::JsonFile | Format::Cri => last_lines(file, wanted),
    }
}

fn last_lines(file: &mut File, wanted: u64) -> Result<(u64, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut buffer = Vec::new();
    let mut found = 0;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        buffer.clear();
        file.seek(SeekFrom::Start(start))?;
        file.by_ref().take(end - start).read_to_end(&mut buffer)?;
        for index in memchr::memrchr_iter(b'\n', &buffer) {
            let at = start + index as u64;
            // The newline at the very end closes the last line; every other one begins the line after it.
            if at + 1 != length {
                found += 1;
                if found == wanted {
                    return Ok((at + 1, found));
                }
            }
        }
        end = start;
    }
    // The file's first line has no newline before it.
    Ok((0, found + u64::from(length > 0)))
}

/// The length stands behind each message, too. What is torn at the end is no record; then the file is walked from its beginning.
fn last_messages(file: &mut File, wanted: u64) -> Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let size = local::LENGTH as u64;
    let mut bytes = [0; local::LENGTH];
    let mut length_at = |at: u64| {
        file.read_exact_at(&mut bytes, at).ok()?;
        local::length(&bytes).map(|length| length as u64)
    };
    let (mut at, mut found) = (length, 0);
    while found < wanted && at > 0 {
        let before = at.checked_sub(size).and_then(|behind| {
            let start = behind.checked_sub(length_at(behind)? + size)?;
            // Both lengths agree, or this is no end of a record.
            (length_at(start)? + 2 * size + start == at).then_some(start)
        });
        let Some(start) = before else {
            return walked(file, wanted);
        };
        (at, found) = (start, found + 1);
    }
    Ok((at, found))
}

fn walked(file: &mut File, wanted: u64) -> Result<(u64, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let (mut ends, mut scan, mut bytes) = (Vec::new(), Scan::new(Format::Local), 0);
    let mut buffer = vec![0; 4 * local::MAX_MESSAGE];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        scan.push(&buffer[..count], bytes, &mut ends);
        bytes += count as u64;
    }
    let found = (ends.len() as u64).min(wanted);
    let skip = ends.len() - usize::try_from(found).unwrap_or(0);
    Ok((skip.checked_sub(1).map_or(0, |last| ends[last]), found))
}

/// Finds where records end, in bytes as they are read.
#[derive(Debug)]
pub(super) struct Scan {
    format: Format,
    /// Of the `local` format: a length that came in part, and how far its record still goes.
    head: Vec<u8>,
    left: usize,
}

impl Scan {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            head: Vec::new(),
            left: 0,
        }
    }

    /// Adds the offsets behind the records that end in `bytes`, which begin at `offset`.
    pub fn push(&mut self, bytes: &[u8], offset: u64, ends: &mut Vec<u64>) {
        if self.format != Format::Local {
            ends.extend(memchr::memchr_iter(b'\n', bytes).map(|at| offset + at as u64 + 1));
            return;
        }
        let mut at = 0;
        while at < bytes.len() {
            if self.left == 0 {
                let part = (local::LENGTH - self.head.len()).min(bytes.len() - at);
                self.head.extend_from_slice(&bytes[at..at + part]);
                at += part;
                if self.head.len() < local::LENGTH {
                    return;
                }
                // What is no length is torn: nothing behind it counts.
                self.left = local::length(&self.head).map_or(usize::MAX, |length| length + local::LENGTH);
                self.head.clear();
            }
            let part = self.left.min(bytes.len() - at);
            at += part;
            self.left -= part;
            if self.left == 0 {
                ends.push(offset + at as u64);
            }
        }
    }
}
