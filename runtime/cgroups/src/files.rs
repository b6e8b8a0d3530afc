//! Reading and writing the small files of a cgroup directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `value` in one write call; names the file and value in the error.
pub(crate) fn write(dir: &Path, file: &str, value: &str) -> Result<()> {
    try_write(dir, file, value)
        .map_err(|e| Error::io(e, format!("write {value:?} to {}", dir.join(file).display())))
}

/// As [`write`], with the bare error, for callers that treat some as an answer.
pub(crate) fn try_write(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    // No O_CREAT: on cgroupfs it would turn a missing file into EACCES.
    let mut file = OpenOptions::new().write(true).open(dir.join(file))?;
    file.write_all(value.as_bytes())
}

pub(crate) fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    read_small(&path).map_err(|e| Error::io(e, format!("read {}", path.display())))
}

/// Most of these files are a line or two. They have no size to ask for, and each read costs as much as the next, so it
/// does neither more often than it must.
pub(crate) fn read_small(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 1024];
    // A short read is no end: a list may break off where its next line does not fit.
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// One number; `max` and numbers too large for v1's "unlimited" give `None`.
pub(crate) fn number(dir: &Path, file: &str) -> Result<Option<u64>> {
    Ok(parse_number(read(dir, file)?.trim()))
}

pub(crate) fn parse_number(text: &str) -> Option<u64> {
    /// v1 shows "no limit" as the largest multiple of the page size below 2^63.
    const UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;
    text.parse::<u64>().ok().filter(|&n| n < UNLIMITED)
}

/// The value after `key` in a file of "key value" lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (k, v) = line.split_once(' ')?;
        if k == key { v.trim().parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlimited_has_no_number() {
        assert_eq!(parse_number("max"), None);
        assert_eq!(parse_number("9223372036854771712"), None);
        assert_eq!(parse_number("4096"), Some(4096));
    }

    #[test]
    fn keyed_finds_whole_keys_only() {
        let text = "oom 1\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom_k"), None);
    }
}
