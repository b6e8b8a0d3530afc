//! The json-file log being written: batches, rotation, and what happens when the disk is full.
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::logs::json_file::{self, Pieces};
use kelson_shim_proto::logs::{JsonFile, rotate};
use kelson_shim_proto::time::{MAX_LEN, Time};

use crate::diagnostics;
use crate::error::{Doing, Result};

/// A log that is appended to.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max_size: u64,
    max_file: u32,
    file: File,
    size: u64,
    generation: u64,
    /// Bytes of output that could not be written since the last write that succeeded.
    lost: u64,
}

impl LogFile {
    /// Opens the current file for appending; a torn line that a crash left at its end is closed by a newline.
    pub fn open(address: &JsonFile) -> Result<Self> {
        let file = open(&address.path).doing(|| format!("open log {}", address.path.display()))?;
        let size = file
            .metadata()
            .doing(|| format!("open log {}", address.path.display()))?
            .len();
        let mut log = Self {
            path: address.path.clone(),
            max_size: address.max_size.unwrap_or(u64::MAX),
            max_file: address.max_file,
            file,
            size,
            generation: 0,
            lost: 0,
        };
        if log.is_torn() {
            log.write(b"\n", 0);
        }
        Ok(log)
    }

    fn is_torn(&self) -> bool {
        use std::os::unix::fs::FileExt;
        let mut last = [0];
        self.size > 0
            && File::open(&self.path)
                .and_then(|file| file.read_exact_at(&mut last, self.size - 1))
                .is_ok()
            && last != [b'\n']
    }

    /// Appends what one read returned: one timestamp, and one write unless the file is rotated in between.
    pub fn append(&mut self, pieces: &mut Pieces, stream: Stream, bytes: &[u8]) {
        self.batch(bytes.len(), stream, |emit| pieces.push(bytes, emit));
    }

    /// Appends a line that ended without a newline.
    pub fn finish(&mut self, pieces: &mut Pieces, stream: Stream) {
        if !pieces.pending().is_empty() {
            self.batch(pieces.pending().len(), stream, |emit| pieces.finish(emit));
        }
    }

    fn batch(&mut self, len: usize, stream: Stream, source: impl FnOnce(&mut dyn FnMut(&[u8]))) {
        let mut stamp = Vec::with_capacity(MAX_LEN);
        Time::now().write(&mut stamp);
        let mut batch = Vec::with_capacity(len + len / 4 + 128);
        let mut output = 0;
        source(&mut |piece| {
            let written = self.size + batch.len() as u64;
            if written > 0 && written >= self.max_size {
                self.write(&batch, output);
                (output, _) = (0, batch.clear());
                self.rotate();
            }
            json_file::write_stamped(&mut batch, piece, stream, &stamp);
            output += piece.len() as u64;
        });
        self.write(&batch, output);
    }

    /// Writes `batch`, which holds `output` bytes of the container's.
    fn write(&mut self, batch: &[u8], output: u64) {
        if batch.is_empty() {
            return;
        }
        if self.lost > 0 {
            let mut note = Vec::new();
            let text = format!(
                "kelson: {} bytes of output are missing here: the log could not be written\n",
                self.lost
            );
            json_file::write(&mut note, text.as_bytes(), Stream::Stderr, Time::now());
            if self.file.write_all(&note).is_err() {
                self.undo();
                self.lost += output;
                return;
            }
            self.size += note.len() as u64;
            self.lost = 0;
        }
        match self.file.write_all(batch) {
            Ok(()) => self.size += batch.len() as u64,
            Err(error) => {
                diagnostics::report(&format!("write log {}: {error}", self.path.display()));
                self.undo();
                self.lost += output;
            }
        }
    }

    /// Removes the part of a batch that did get in, so that no line is torn.
    fn undo(&self) {
        let _ = self.file.set_len(self.size);
    }

    fn rotate(&mut self) {
        for (from, to) in rotate::renames(&self.path, self.max_file) {
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    diagnostics::report(&format!("rotate log {}: {error}", from.display()));
                }
                _ => {}
            }
        }
        if self.max_file == 1 {
            // Not truncated: whoever reads the old file reads it to its end.
            let _ = std::fs::remove_file(&self.path);
        }
        match open(&self.path) {
            Ok(file) => {
                self.file = file;
                self.size = 0;
                self.generation += 1;
            }
            Err(error) => diagnostics::report(&format!("open log {}: {error}", self.path.display())),
        }
    }

    /// The directory it lies in.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Number of rotations so far; the current file is this generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes in the current file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens the file that was current `back` rotations ago; `None` if there is none (any more).
    pub fn open_back(&self, back: u64) -> Option<File> {
        let back = u32::try_from(back).ok().filter(|back| *back < self.max_file)?;
        File::open(rotate::name(&self.path, back)).ok()
    }

    /// How many files back the oldest one is.
    pub fn oldest_back(&self) -> u64 {
        (1..u64::from(self.max_file))
            .take_while(|back| self.open_back(*back).is_some())
            .last()
            .unwrap_or(0)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kelson_shim_proto::logs::json_file::Entry;

    fn address(dir: &Path, max_size: Option<u64>, max_file: u32) -> JsonFile {
        JsonFile {
            path: dir.join("l.log"),
            max_size,
            max_file,
        }
    }

    fn logs(path: &Path) -> Vec<String> {
        let text = std::fs::read(path).unwrap();
        text.split_inclusive(|b| *b == b'\n')
            .map(|line| Entry::decode(line).unwrap().log)
            .collect()
    }

    #[test]
    fn rotates_by_size_and_keeps_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&address(dir.path(), Some(130), 2)).unwrap();
        let mut pieces = Pieces::default();
        log.append(&mut pieces, Stream::Stdout, b"1\n2\n3\n4\n5\n");
        assert_eq!(log.generation(), 2);
        assert_eq!(logs(&dir.path().join("l.log.1")), ["3\n", "4\n"]);
        assert_eq!(logs(&dir.path().join("l.log")), ["5\n"]);
        assert!(!dir.path().join("l.log.2").exists());
        assert_eq!(log.oldest_back(), 1);
    }

    #[test]
    fn one_file_begins_anew_and_readers_keep_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&address(dir.path(), Some(10), 1)).unwrap();
        let mut pieces = Pieces::default();
        log.append(&mut pieces, Stream::Stdout, b"1\n");
        let mut old = log.open_back(0).unwrap();
        log.append(&mut pieces, Stream::Stdout, b"2\n");
        assert_eq!(logs(&dir.path().join("l.log")), ["2\n"]);
        let mut text = String::new();
        io::Read::read_to_string(&mut old, &mut text).unwrap();
        assert!(text.contains("1\\n"));
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("l.log"), "{\"log\":\"to").unwrap();
        let mut log = LogFile::open(&address(dir.path(), None, 1)).unwrap();
        let mut pieces = Pieces::default();
        log.append(&mut pieces, Stream::Stderr, b"no newline");
        log.finish(&mut pieces, Stream::Stderr);
        let text = std::fs::read_to_string(dir.path().join("l.log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "{\"log\":\"to");
        assert!(lines[1].starts_with("{\"log\":\"no newline\",\"stream\":\"stderr\""));
    }
}
