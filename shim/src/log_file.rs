//! The log being written, in any of its formats: batches, rotation, and what happens when the disk is full.
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::logs::format::{Format, Stamp};
use kelson_shim_proto::logs::json_file::Pieces;
use kelson_shim_proto::logs::{JsonFile, local, rotate};
use kelson_shim_proto::time::Time;

use crate::compressor::Compressor;
use crate::diagnostics;
use crate::error::{Doing, Result};

/// A log that is appended to.
#[derive(Debug)]
pub struct LogFile {
    format: Format,
    path: PathBuf,
    max_size: u64,
    max_file: u32,
    compress: bool,
    file: File,
    size: u64,
    generation: u64,
    /// Bytes of output that could not be written since the last write that succeeded.
    lost: u64,
    /// At work on the file that was rotated last.
    compressor: Option<Compressor>,
}

/// A file of the log, for reading.
#[derive(Debug)]
pub enum Opened {
    /// As it was written.
    Plain(File),
    /// A rotated one that was compressed.
    Compressed(Box<MultiGzDecoder<File>>),
}

impl io::Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Compressed(file) => file.read(buffer),
        }
    }
}

impl LogFile {
    /// Opens the current file for appending. What a crash tore at its end is closed by a newline; in a format without
    /// lines it is cut off.
    pub fn open(format: Format, address: &JsonFile) -> Result<Self> {
        let doing = || format!("open log {}", address.path.display());
        let file = open(&address.path).doing(doing)?;
        let mut size = file.metadata().doing(doing)?.len();
        if format == Format::Local {
            size = whole_records(&address.path, size).doing(doing)?;
            file.set_len(size).doing(doing)?;
        }
        let mut log = Self {
            format,
            path: address.path.clone(),
            max_size: address.max_size.unwrap_or(u64::MAX),
            max_file: address.max_file,
            compress: address.compress && address.max_file > 1,
            file,
            size,
            generation: 0,
            lost: 0,
            compressor: None,
        };
        if format != Format::Local && log.is_torn() {
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
        self.batch(bytes.len(), stream, false, |emit| pieces.push(bytes, emit));
    }

    /// Appends a line that ended without a newline.
    pub fn finish(&mut self, pieces: &mut Pieces, stream: Stream) {
        if !pieces.pending().is_empty() {
            self.batch(pieces.pending().len(), stream, true, |emit| pieces.finish(emit));
        }
    }

    fn batch(&mut self, len: usize, stream: Stream, last: bool, source: impl FnOnce(&mut dyn FnMut(&[u8]))) {
        let stamp = Stamp::new(self.format, Time::now());
        let mut batch = Vec::with_capacity(len + len / 4 + 128);
        let mut output = 0;
        source(&mut |piece| {
            let written = self.size + batch.len() as u64;
            if written > 0 && written >= self.max_size {
                self.write(&batch, output);
                (output, _) = (0, batch.clear());
                self.rotate();
            }
            self.format.write(&mut batch, piece, stream, &stamp, last);
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
            let stamp = Stamp::new(self.format, Time::now());
            self.format
                .write(&mut note, text.as_bytes(), Stream::Stderr, &stamp, false);
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
        // Names must not move while the last file is being compressed; the current one grows meanwhile.
        if self.compressor.as_mut().is_some_and(Compressor::is_at_work) {
            return;
        }
        for (from, to) in rotate::renames(&self.path, self.max_file) {
            self.rename(&from, &to);
            if self.compress {
                let (from, to) = (rotate::compressed(&from), rotate::compressed(&to));
                self.rename(&from, &to);
            }
        }
        if self.max_file == 1 {
            // Not truncated: whoever reads the old file reads it to its end.
            let _ = std::fs::remove_file(&self.path);
        }
        self.open_anew();
        if self.compress {
            self.compressor = Compressor::start(&rotate::name(&self.path, 1));
        }
    }

    fn rename(&self, from: &Path, to: &Path) {
        match std::fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                diagnostics::report(&format!("rotate log {}: {error}", from.display()));
            }
            _ => {}
        }
    }

    /// Goes on in a new file of the same name; somebody else has renamed the old one.
    pub fn reopen(&mut self) {
        self.open_anew();
    }

    fn open_anew(&mut self) {
        match open(&self.path).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size, file)) => {
                (self.file, self.size) = (file, size);
                self.generation += 1;
            }
            Err(error) => diagnostics::report(&format!("open log {}: {error}", self.path.display())),
        }
    }

    /// How its files look.
    pub fn format(&self) -> Format {
        self.format
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
    pub fn open_back(&self, back: u64) -> Option<Opened> {
        let back = u32::try_from(back).ok().filter(|back| *back < self.max_file)?;
        let name = rotate::name(&self.path, back);
        let plain = File::open(&name).map(Opened::Plain);
        plain
            .or_else(|_| {
                let file = File::open(rotate::compressed(&name))?;
                io::Result::Ok(Opened::Compressed(Box::new(MultiGzDecoder::new(file))))
            })
            .ok()
    }

    /// How many files back the oldest one is.
    pub fn oldest_back(&self) -> u64 {
        (1..u64::from(self.max_file))
            .take_while(|back| self.open_back(*back).is_some())
            .last()
            .unwrap_or(0)
    }
}

/// Where the last whole record of a file of `size` bytes in `local` format ends. Its last length tells at once, unless a
/// crash tore it; then the records are walked.
fn whole_records(path: &Path, size: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let mut bytes = [0; local::LENGTH];
    let mut length_at = |at: u64| -> Option<u64> {
        file.read_exact_at(&mut bytes, at).ok()?;
        local::length(&bytes).map(|length| length as u64)
    };
    let ends = 2 * local::LENGTH as u64;
    let last = size
        .checked_sub(local::LENGTH as u64)
        .and_then(|at| Some((at, length_at(at)?)));
    if let Some((at, length)) = last
        && let Some(start) = at.checked_sub(length + local::LENGTH as u64)
        && length_at(start) == Some(length)
    {
        return Ok(size);
    }
    let mut at = 0;
    while let Some(length) = length_at(at) {
        let next = at + length + ends;
        if next > size || length_at(next - local::LENGTH as u64) != Some(length) {
            break;
        }
        at = next;
    }
    Ok(at)
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
            compress: false,
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
        let mut log = LogFile::open(Format::JsonFile, &address(dir.path(), Some(130), 2)).unwrap();
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
        let mut log = LogFile::open(Format::JsonFile, &address(dir.path(), Some(10), 1)).unwrap();
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
        let mut log = LogFile::open(Format::JsonFile, &address(dir.path(), None, 1)).unwrap();
        let mut pieces = Pieces::default();
        log.append(&mut pieces, Stream::Stderr, b"no newline");
        log.finish(&mut pieces, Stream::Stderr);
        let text = std::fs::read_to_string(dir.path().join("l.log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "{\"log\":\"to");
        assert!(lines[1].starts_with("{\"log\":\"no newline\",\"stream\":\"stderr\""));
    }

    #[test]
    fn a_torn_record_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let address = address(dir.path(), None, 1);
        let mut log = LogFile::open(Format::Local, &address).unwrap();
        let mut pieces = Pieces::default();
        log.append(&mut pieces, Stream::Stdout, b"one\ntwo\n");
        let whole = log.size();
        drop(log);
        for torn in [&b"\0"[..], b"\0\0\0\x09abc", b"\xff\xff\xff\xff\xff"] {
            let mut text = std::fs::read(&address.path).unwrap();
            text.truncate(usize::try_from(whole).unwrap());
            text.extend_from_slice(torn);
            std::fs::write(&address.path, text).unwrap();
            let log = LogFile::open(Format::Local, &address).unwrap();
            assert_eq!(
                (log.size(), std::fs::metadata(&address.path).unwrap().len()),
                (whole, whole)
            );
        }
    }

    #[test]
    fn somebody_elses_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let address = address(dir.path(), None, 1);
        let mut log = LogFile::open(Format::Cri, &address).unwrap();
        let mut pieces = Pieces::default();
        log.append(&mut pieces, Stream::Stdout, b"one\nhal");
        std::fs::rename(&address.path, dir.path().join("old")).unwrap();
        log.reopen();
        log.append(&mut pieces, Stream::Stdout, b"f\n");
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(text("old").ends_with(" stdout F one\n"), "{}", text("old"));
        assert!(text("l.log").ends_with(" stdout F half\n"), "{}", text("l.log"));
    }
}
