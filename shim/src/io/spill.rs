//! What one slow client has not taken yet and memory should not hold: an unnamed file beside the log.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags};

/// How much waits on disk for one slow client, in bytes. Beyond it the process waits for the client.
pub const MAX_SPILLED: u64 = 1024 * 1024 * 1024;

/// How much is read back at once, in bytes.
const READ: usize = 64 * 1024;

/// Read bytes are given back to the file system in steps of this many.
const PUNCH: u64 = 1024 * 1024;

/// Bytes in the order in which they came.
#[derive(Debug)]
pub struct Spill {
    file: File,
    read: u64,
    written: u64,
    punched: u64,
}

impl Spill {
    /// An empty one in `dir`. It has no name, so nothing is left of it when the shim ends in any way.
    ///
    /// # Errors
    /// The file system has no unnamed files, or no room.
    pub fn new(dir: &Path) -> std::io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self {
            file: file.into(),
            read: 0,
            written: 0,
            punched: 0,
        })
    }

    /// Bytes that wait.
    pub fn len(&self) -> u64 {
        self.written - self.read
    }

    /// Appends all of `parts`, or nothing.
    ///
    /// # Errors
    /// The disk is full, most likely.
    pub fn push(&mut self, parts: [&[u8]; 2]) -> std::io::Result<()> {
        let mut at = self.written;
        for part in parts {
            self.file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        self.written = at;
        Ok(())
    }

    /// Takes the next bytes out, at most one read; none when it is empty.
    ///
    /// # Errors
    /// The disk does not give back what was written.
    pub fn pop(&mut self) -> std::io::Result<Vec<u8>> {
        let len = usize::try_from(self.len()).map_or(READ, |len| len.min(READ));
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, self.read)?;
        self.read += len as u64;
        if self.read - self.punched >= PUNCH {
            // Not every file system can; then it goes as a whole at the end.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&self.file, flags, self.punched, self.read - self.punched);
            self.punched = self.read;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(dir.path()).unwrap();
        assert_eq!(spill.pop().unwrap(), b"");
        let long = vec![7; READ + 1];
        spill.push([b"head", &long]).unwrap();
        assert_eq!(spill.len(), 4 + READ as u64 + 1);
        let first = spill.pop().unwrap();
        assert_eq!((&first[..5], first.len()), (&b"head\x07"[..], READ));
        spill.push([b"", b"end"]).unwrap();
        assert_eq!(spill.pop().unwrap(), b"\x07\x07\x07\x07\x07end");
        assert_eq!((spill.len(), spill.pop().unwrap()), (0, Vec::new()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
