//! The owner record of the bridge: written before anything is made, so that a crash leaves nothing unaccounted for.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

const FORMAT: u32 = 1;
const FILE: &str = "bridge.json";
/// A record has a handful of short fields.
const MAX_BYTES: u64 = 64 * 1024;

/// What this kelsond made, or was about to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    /// What is described died with this boot, but for the subnet, which is chosen again.
    pub(crate) boot_id: String,
    pub(crate) bridge: String,
    /// Whether the bridge is ours to delete.
    pub(crate) own_bridge: bool,
    pub(crate) address: Ipv4Net,
    pub(crate) table: String,
    /// The value of `ip_forward` that we changed.
    pub(crate) forwarding_was: Option<String>,
    /// The chain of another's table that lets our bridge through by rules of ours.
    pub(crate) foreign_chain: Option<String>,
    /// Fields of a later version are kept.
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, serde_json::Value>,
}

impl Record {
    pub(crate) fn new(
        boot_id: String,
        bridge: String,
        own_bridge: bool,
        address: Ipv4Net,
        table: String,
    ) -> Self {
        Self {
            format: FORMAT,
            boot_id,
            bridge,
            own_bridge,
            address,
            table,
            forwarding_was: None,
            foreign_chain: None,
            rest: serde_json::Map::new(),
        }
    }
}

/// Where the record lies.
#[derive(Debug, Clone)]
pub(crate) struct RecordFile {
    dir: PathBuf,
}

impl RecordFile {
    /// Makes the directory if it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let doing = || format!("open the network's state directory {}", dir.display());
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| Error::os(doing(), e))?;
        // The absolute path marks our bridge, so it must not depend on the working directory.
        let dir = dir.canonicalize().map_err(|e| Error::os(doing(), e))?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn load(&self) -> Result<Option<Record>> {
        let path = self.dir.join(FILE);
        let doing = || format!("read {}", path.display());
        let text = match read_bounded(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::os(doing(), e)),
        };
        let record: Record = match serde_json::from_str(&text) {
            Ok(record) => record,
            // Torn by a power loss (`write`): nothing of what it described has survived that either.
            Err(e) => {
                tracing::warn!(error = %e, path = %path.display(), "unreadable record of the network ignored");
                return Ok(None);
            }
        };
        if record.format > FORMAT {
            let newer = format!(
                "{}: format {} is of a newer kelsond",
                path.display(),
                record.format
            );
            return Err(Error::new(Kind::Unsupported, newer));
        }
        Ok(Some(record))
    }

    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        let path = self.dir.join(FILE);
        self.write(&path, record)
            .map_err(|e| Error::os(format!("write {}", path.display()), e))
    }

    pub(crate) fn remove(&self) -> Result<()> {
        let path = self.dir.join(FILE);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::os(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// Without sync, which takes 50 ms on a busy disk: what is recorded does not outlive the boot, and a killed
    /// process loses nothing that was written.
    fn write(&self, path: &Path, record: &Record) -> io::Result<()> {
        let temporary = self.dir.join(format!(".{FILE}.new"));
        std::fs::write(&temporary, serde_json::to_vec_pretty(record)?)?;
        std::fs::rename(&temporary, path)
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The running boot's id; empty where procfs does not tell.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_keeps_unknown_fields_refuses_newer_and_ignores_torn() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::open(dir.path()).unwrap();
        assert_eq!(file.load().unwrap(), None);
        let address = "172.30.0.1/16".parse().unwrap();
        let mut record = Record::new("b".into(), "kls0".into(), true, address, "kelson".into());
        record.rest.insert("later".into(), 1.into());
        file.save(&record).unwrap();
        assert_eq!(file.load().unwrap(), Some(record.clone()));
        record.format = FORMAT + 1;
        file.save(&record).unwrap();
        assert_eq!(file.load().unwrap_err().kind(), Kind::Unsupported);
        std::fs::write(dir.path().join(FILE), "").unwrap();
        assert_eq!(file.load().unwrap(), None);
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), None);
    }
}
