//! Compressing a rotated log file, in a process of its own: the log being written does not wait for it, and its memory goes
//! with it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use kelson_shim_proto::logs::rotate;

/// How much less urgent it is than anything that runs.
const NICE: i32 = 10;

/// Replaces the file at `path` by a compressed one, which is there as a whole or not at all.
pub fn run(path: &Path) -> Result<()> {
    let doing = || format!("compress {}", path.display());
    let _ = rustix::process::setpriority_process(None, NICE);
    let compressed = rotate::compressed(path);
    let unfinished = PathBuf::from(format!("{}.new", compressed.display()));
    let mut source = File::open(path).with_context(doing)?;
    let target = File::create(&unfinished).with_context(doing)?;
    let mut encoder = GzEncoder::new(target, Compression::fast());
    let written = std::io::copy(&mut source, &mut encoder)
        .and_then(|_| encoder.finish())
        .and_then(|file| file.sync_data())
        .and_then(|()| std::fs::rename(&unfinished, &compressed));
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written
        .and_then(|()| std::fs::remove_file(path))
        .with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

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
