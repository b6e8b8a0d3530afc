//! Compressing a rotated log file, in a process of its own: the log being written does not wait for it, and its memory goes
//! with it.
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use kelson_shim_proto::logs::rotate;

use crate::diagnostics;
use crate::error::{Doing, Result};

/// How much less urgent it is than anything that runs.
const NICE: i32 = 10;

/// A process that compresses.
#[derive(Debug)]
pub struct Compressor {
    /// Ends when it does.
    alive: File,
}

impl Compressor {
    /// Starts on `path`; `None`, with a message, if it cannot. The file then stays as it is.
    pub fn start(path: &Path) -> Option<Self> {
        let started = || -> Result<Self> {
            let doing = || format!("compress {}", path.display());
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(doing)?;
            rustix::io::ioctl_fionbio(&read, true).doing(doing)?;
            // Ourselves, whatever has become of the file; the reaper collects it.
            Command::new("/proc/self/exe")
                .arg0("kelson-shim")
                .arg("compress")
                .arg(path)
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(Stdio::from(write))
                .spawn()
                .doing(doing)?;
            Ok(Self { alive: read.into() })
        };
        started()
            .inspect_err(|error| diagnostics::report(&error.to_string()))
            .ok()
    }

    /// Whether it has not ended yet.
    pub fn is_at_work(&mut self) -> bool {
        matches!(self.alive.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

/// Replaces the file at `path` by a compressed one, which is there as a whole or not at all.
pub fn run(path: &Path) -> Result<()> {
    let doing = || format!("compress {}", path.display());
    let _ = rustix::process::setpriority_process(None, NICE);
    let compressed = rotate::compressed(path);
    let unfinished = PathBuf::from(format!("{}.new", compressed.display()));
    let mut source = File::open(path).doing(doing)?;
    let target = File::create(&unfinished).doing(doing)?;
    let mut encoder = GzEncoder::new(target, Compression::fast());
    let written = std::io::copy(&mut source, &mut encoder)
        .and_then(|_| encoder.finish())
        .and_then(|file| file.sync_data())
        .and_then(|()| std::fs::rename(&unfinished, &compressed));
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written.and_then(|()| std::fs::remove_file(path)).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.1");
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        run(&path).unwrap();
        assert!(!path.exists() && !dir.path().join("l.1.gz.new").exists());
        let mut text = String::new();
        let file = File::open(dir.path().join("l.1.gz")).unwrap();
        flate2::read::MultiGzDecoder::new(file)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text.len(), 100_000);
        assert!(run(&path).is_err());
    }
}
