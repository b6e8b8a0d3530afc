//! Record files: written beside and renamed, so that a crash leaves the old or the new; and the boot we are in.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Doing;
use crate::{Error, Kind, Result};

/// The version of our records that this build writes. Older ones are migrated here, newer ones refused by name.
pub(crate) const FORMAT: u32 = 1;
/// A record is small; anything larger is not ours.
const RECORD_MAX: u64 = 4 << 20;

/// Whether a write must survive the power going, or only the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// fdatasync, rename, fsync of the folder.
    Yes,
    /// Rename only: the record's loss is repaired at open.
    No,
}

/// Writes `dir/name` as a whole or not at all.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8], durable: Durable) -> Result<()> {
    let doing = || format!("write {}", dir.join(name).display());
    // One writer per record name at a time (the store's locks see to it), so the temporary name need not be unique.
    let temp = dir.join(format!(".{name}.tmp"));
    let run = || -> std::io::Result<()> {
        let mut file = File::create(&temp)?;
        file.write_all(bytes)?;
        if durable == Durable::Yes {
            file.sync_data()?;
        }
        std::fs::rename(&temp, dir.join(name))?;
        if durable == Durable::Yes {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    run().doing(doing)
}

/// Writes a record.
pub(crate) fn write_record<T: Serialize>(dir: &Path, name: &str, record: &T, durable: Durable) -> Result<()> {
    let bytes = serde_json::to_vec(record)
        .map_err(|e| Error::new(Kind::Internal, format!("encode {name}")).caused_by(e))?;
    write(dir, name, &bytes, durable)
}

/// Reads a record. `None` when it is not there.
///
/// # Errors
/// `Unsupported` for a record of a newer format, `Invalid` for one that does not parse.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let doing = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(RECORD_MAX).read_to_end(&mut bytes).doing(doing)?,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e).doing(doing),
    };
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let invalid = |e: serde_json::Error| Error::invalid(doing()).caused_by(e);
    let format: Format = serde_json::from_slice(&bytes).map_err(invalid)?;
    if format.format > FORMAT {
        let text = format!("{}: format {} is newer than {FORMAT}", doing(), format.format);
        return Err(Error::new(Kind::Unsupported, text));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(invalid)
}

/// Makes a directory only root enters (others may pass through to paths they know), if it is not there.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.doing(|| format!("make {}", path.display()))
}

/// Removes a tree; one that is not there is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The kernel's name of this boot.
pub(crate) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path)
        .doing(|| format!("read {path}"))?
        .trim()
        .to_owned())
}

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
