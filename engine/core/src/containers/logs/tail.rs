//! Where reading begins: the start of the last N lines, found from the end.

use std::fs::File;
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom};
use std::path::Path;

use kelson_shim_proto::logs::rotate;

/// Bytes read at once, backwards.
const BLOCK: u64 = 64 << 10;

/// The file and offset to begin at; `None` when there is no log. `tail`: only so many last lines.
pub(super) fn begin(path: &Path, max_file: u32, tail: Option<u64>) -> Result<Option<(File, u64)>> {
    let Some(mut wanted) = tail else {
        return Ok(files(path, max_file)?.pop().map(|file| (file, 0)));
    };
    let mut last = None;
    for (index, mut file) in files(path, max_file)?.into_iter().enumerate() {
        if index == 0 && wanted == 0 {
            let end = file.seek(SeekFrom::End(0))?;
            return Ok(Some((file, end)));
        }
        let (offset, found) = last_lines(&mut file, wanted)?;
        wanted -= found;
        last = Some((file, offset));
        if wanted == 0 {
            break;
        }
    }
    Ok(last)
}

/// Those that exist, newest first.
fn files(path: &Path, max_file: u32) -> Result<Vec<File>> {
    let mut out = Vec::new();
    for n in 0..max_file {
        match File::open(rotate::name(path, n)) {
            Ok(file) => out.push(file),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

/// Offset at which the last `wanted` lines begin, and how many of them there are.
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
        for (index, byte) in buffer.iter().enumerate().rev() {
            let at = start + index as u64;
            // The newline at the very end closes the last line; every other one begins the line after it.
            if *byte == b'\n' && at + 1 != length {
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
