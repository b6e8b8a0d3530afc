//! Files that must survive: how a record is written so that a crash leaves the old one or the new one, and how both
//! roots are owned by one daemon.

mod roots;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Doing, Error, Kind, Result};

pub(crate) use roots::Roots;

/// The `format` this release writes. An older one is migrated when there is one; a newer one is refused by name.
pub(crate) const FORMAT: u32 = 1;

/// Longest record that is read, bytes: a container with thousands of labels and mounts stays far below.
const MAX_RECORD: u64 = 16 << 20;

/// Whether a write must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// fdatasync before the rename, fsync of the folder after it.
    Synced,
    /// Atomic against a crash of this process only: for what dies with the boot, or can be made again.
    Volatile,
}

/// Writes `bytes` as `dir/name`, replacing what is there in one step.
///
/// # Errors
/// What the file system says; the old file is untouched then.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8], durability: Durability) -> Result<()> {
    let doing = || format!("write {}", dir.join(name).display());
    let temporary = dir.join(format!(".{name}.tmp"));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        if durability == Durability::Synced {
            file.sync_data()?;
        }
        std::fs::rename(&temporary, dir.join(name))?;
        if durability == Durability::Synced {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write()
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
        .doing(doing)
}

/// Writes a record as JSON; see [`replace`].
pub(crate) fn save<T: Serialize>(dir: &Path, name: &str, record: &T, durability: Durability) -> Result<()> {
    let bytes = serde_json::to_vec(record).doing(|| format!("encode {name}"))?;
    replace(dir, name, &bytes, durability)
}

/// Reads a record; `None` when there is none.
///
/// # Errors
/// `Invalid` when it is no record, or one of a newer release.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let doing = || format!("read {}", path.display());
    let size = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).doing(doing),
    };
    if size > MAX_RECORD {
        return Err(Error::invalid(format!(
            "{}: larger than {MAX_RECORD} bytes",
            doing()
        )));
    }
    let bytes = std::fs::read(path).doing(doing)?;
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
    }
    let invalid = |e| Error::with_source(Kind::Invalid, doing(), e);
    let head: Head = serde_json::from_slice(&bytes).map_err(invalid)?;
    if head.format > FORMAT {
        return Err(Error::invalid(format!(
            "{}: format {} is of a newer release, known is {FORMAT}",
            doing(),
            head.format
        )));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(invalid)
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).doing(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

/// Removes a directory tree; one that is not there is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).doing(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        format: u32,
        name: String,
    }

    fn sample(name: &str) -> Sample {
        Sample {
            format: 1,
            name: name.into(),
        }
    }

    #[test]
    fn a_record_comes_back_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for (name, durability) in [("a", Durability::Synced), ("b", Durability::Volatile)] {
            save(dir.path(), "record.json", &sample(name), durability).unwrap();
            assert_eq!(
                load::<Sample>(&dir.path().join("record.json")).unwrap(),
                Some(sample(name))
            );
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn a_crash_in_the_middle_of_a_write_leaves_the_old_record() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "record.json", &sample("old"), Durability::Synced).unwrap();
        // What a daemon killed between write and rename leaves behind.
        std::fs::write(dir.path().join(".record.json.tmp"), br#"{"format":1,"na"#).unwrap();
        assert_eq!(
            load::<Sample>(&dir.path().join("record.json")).unwrap(),
            Some(sample("old"))
        );
        save(dir.path(), "record.json", &sample("new"), Durability::Synced).unwrap();
        assert_eq!(
            load::<Sample>(&dir.path().join("record.json")).unwrap(),
            Some(sample("new"))
        );
    }

    #[test]
    fn what_is_no_record_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        assert_eq!(load::<Sample>(&path).unwrap(), None);
        for (text, part) in [
            ("", "read"),
            ("{}", "format"),
            (r#"{"format":7,"name":"x"}"#, "format 7 is of a newer"),
        ] {
            std::fs::write(&path, text).unwrap();
            let e = load::<Sample>(&path).unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid);
            assert!(e.to_string().contains(part), "{e}");
        }
    }
}
