//! The image's directory: what lies there besides criu's own files, and what its log says.

use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error, Kind, Result};

/// Names of the streams that the first process had: what a restored one needs in their place.
const DESCRIPTORS: &str = "descriptors.json";
/// No more lines of criu's log are quoted.
const MAX_QUOTED: usize = 20;
/// Lines before an error that are quoted with it.
const CONTEXT: usize = 5;

/// Opens a directory, making it if it is missing: one container may be checkpointed to it several times.
///
/// # Errors
/// Names the flag and the directory.
pub fn open_dir(flag: &str, path: &Path, make: bool) -> Result<OwnedFd> {
    if make {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .doing(|| format!("{flag}: make {}", path.display()))?;
    }
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing(|| format!("{flag}: open {}", path.display()))
}

/// Writes what the first process has as its three streams, such as `pipe:[1234]`.
///
/// # Errors
/// What reading or writing reported.
pub fn write_descriptors(image: &Path, pid: i32) -> Result<()> {
    let mut names = Vec::with_capacity(3);
    for fd in 0..3 {
        // A stream that is closed has no name.
        let name = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
        names.push(name.to_string_lossy().into_owned());
    }
    let path = image.join(DESCRIPTORS);
    let text = serde_json::to_vec(&names).map_err(|e| Error::new(Kind::Internal, format!("encode: {e}")))?;
    fs::write(&path, text).doing(|| format!("write {}", path.display()))
}

/// Reads them: number and name of each that the caller's own stream takes the place of.
///
/// # Errors
/// What reading reported; `Invalid` for another file than [`write_descriptors`] wrote.
pub fn pipes(image: &Path) -> Result<Vec<(String, i32)>> {
    let path = image.join(DESCRIPTORS);
    let text = fs::read(&path).doing(|| format!("--image-path: read {}", path.display()))?;
    let names: Vec<String> = serde_json::from_slice(&text)
        .map_err(|e| Error::new(Kind::Invalid, format!("--image-path: {}: {e}", path.display())))?;
    Ok((0..)
        .zip(names)
        .take(3)
        .filter(|(_, name)| name.contains("pipe:"))
        .map(|(fd, name)| (name, fd))
        .collect())
}

/// The lines of criu's log that say `Error`, each with a few before it.
pub fn errors_in_log(path: &Path) -> Vec<String> {
    match File::open(path) {
        Ok(file) => quote(BufReader::new(file)),
        Err(_) => Vec::new(),
    }
}

fn quote(log: impl BufRead) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut before: Vec<String> = Vec::new();
    for line in log.lines().map_while(std::result::Result::ok) {
        let is_error = line.contains("Error");
        before.push(line);
        if is_error {
            out.append(&mut before);
        } else if before.len() > CONTEXT {
            before.remove(0);
        }
    }
    // The last ones are the cause more often than the first.
    let skip = out.len().saturating_sub(MAX_QUOTED);
    out.drain(..skip);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_named_and_pipes_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        write_descriptors(dir.path(), own).unwrap();
        let names: Vec<String> =
            serde_json::from_slice(&fs::read(dir.path().join(DESCRIPTORS)).unwrap()).unwrap();
        assert_eq!(names.len(), 3);
        fs::write(
            dir.path().join(DESCRIPTORS),
            r#"["/dev/null", "pipe:[7]", "pipe:[8]", "pipe:[9]"]"#,
        )
        .unwrap();
        assert_eq!(
            pipes(dir.path()).unwrap(),
            [("pipe:[7]".to_owned(), 1), ("pipe:[8]".to_owned(), 2)]
        );
        fs::write(dir.path().join(DESCRIPTORS), "{}").unwrap();
        assert_eq!(pipes(dir.path()).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn errors_are_quoted_with_what_led_to_them() {
        let mut log: Vec<String> = (0..50).map(|i| format!("line {i}")).collect();
        log[30] = "Error (x.c:1): no".into();
        assert_eq!(
            quote(log.join("\n").as_bytes()),
            [
                "line 25",
                "line 26",
                "line 27",
                "line 28",
                "line 29",
                "Error (x.c:1): no"
            ]
        );
        assert!(quote(&b"fine\n"[..]).is_empty());
        let many = "Error\n".repeat(100);
        assert_eq!(quote(many.as_bytes()).len(), MAX_QUOTED);
    }
}
