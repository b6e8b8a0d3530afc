//! Docker's store of contexts, beside the config file: `contexts/meta/SHA256(NAME)/meta.json`, and certificates in
//! `contexts/tls/SHA256(NAME)/docker/`. Docker reads what we write, and we what it writes.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The context that is not stored: the environment's engine.
pub const DEFAULT: &str = "default";
/// What the endpoint of an engine is called in a context, and its folder of certificates.
const ENDPOINT: &str = "docker";
/// A context's metadata is a few hundred bytes; more than this is not one.
const META_LIMIT: u64 = 1 << 20;

/// Certificate files, by name.
pub type TlsFiles = Vec<(String, Vec<u8>)>;

/// One context.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// `meta.json`, kept whole: other tools keep things of theirs in it.
    pub meta: Value,
}

impl Stored {
    /// A new one.
    pub fn new(name: &str, description: &str, host: &str, skip_verify: bool) -> Stored {
        let metadata = if description.is_empty() {
            json!({})
        } else {
            json!({"Description": description})
        };
        let meta = json!({
            "Name": name,
            "Metadata": metadata,
            "Endpoints": {ENDPOINT: {"Host": host, "SkipTLSVerify": skip_verify}},
        });
        Stored {
            name: name.to_owned(),
            meta,
        }
    }

    /// Its engine's address.
    pub fn host(&self) -> &str {
        self.meta["Endpoints"][ENDPOINT]["Host"]
            .as_str()
            .unwrap_or_default()
    }

    /// Whether its engine may be anyone.
    pub fn skips_verify(&self) -> bool {
        self.meta["Endpoints"][ENDPOINT]["SkipTLSVerify"] == true
    }

    /// What it is for, in its owner's words.
    pub fn description(&self) -> &str {
        self.meta["Metadata"]["Description"].as_str().unwrap_or_default()
    }

    /// Sets the description.
    pub fn describe(&mut self, text: &str) {
        self.meta["Metadata"]["Description"] = text.into();
    }

    /// Sets the engine's address.
    pub fn point(&mut self, host: &str, skip_verify: bool) {
        self.meta["Endpoints"][ENDPOINT] = json!({"Host": host, "SkipTLSVerify": skip_verify});
    }
}

/// The store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// The error for a name that no context has.
pub fn not_found(name: &str) -> anyhow::Error {
    anyhow::anyhow!("context {name:?}: context not found")
}

/// Refuses what docker refuses as a name.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    let mut letters = name.bytes();
    let first = letters
        .next()
        .is_some_and(|letter| letter.is_ascii_alphanumeric());
    let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"_.+-".contains(&letter);
    if name == DEFAULT {
        bail!("{name:?} is a reserved context name");
    }
    if !first || name.len() < 2 || !letters.all(fits) {
        bail!(
            "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        );
    }
    Ok(())
}

impl Store {
    /// The store beside a config file.
    pub fn beside(config: &Path) -> Store {
        let folder = config.parent().unwrap_or(Path::new("."));
        Store {
            root: folder.join("contexts"),
        }
    }

    fn folder(&self, kind: &str, name: &str) -> PathBuf {
        let digest = Sha256::digest(name.as_bytes());
        let id: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.root.join(kind).join(id)
    }

    /// Where a context's metadata lies.
    pub fn meta_folder(&self, name: &str) -> PathBuf {
        self.folder("meta", name)
    }

    /// Where its certificates lie.
    pub fn tls_folder(&self, name: &str) -> PathBuf {
        self.folder("tls", name)
    }

    /// Where the certificates of its engine lie.
    pub fn tls_files_folder(&self, name: &str) -> PathBuf {
        self.tls_folder(name).join(ENDPOINT)
    }

    /// Names of its certificate files.
    pub fn tls_files(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.tls_files_folder(name));
        let mut files: Vec<String> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        files
    }

    /// The content of a certificate file.
    pub fn tls_file(&self, name: &str, file: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.tls_files_folder(name).join(file);
        fs::read(&path).with_context(|| path.display().to_string())
    }

    /// The context of a name.
    pub fn get(&self, name: &str) -> anyhow::Result<Stored> {
        let path = self.meta_folder(name).join("meta.json");
        match fs::metadata(&path) {
            Ok(meta) if meta.len() > META_LIMIT => bail!("context {name:?}: {} is too large", path.display()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(not_found(name)),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let meta: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("context {name:?}: parse {}", path.display()))?;
        Ok(Stored {
            name: name.to_owned(),
            meta,
        })
    }

    /// All contexts that can be read, by name.
    pub fn list(&self) -> Vec<Stored> {
        let entries = fs::read_dir(self.root.join("meta"));
        let read = |entry: fs::DirEntry| {
            let meta: Value = serde_json::from_slice(&fs::read(entry.path().join("meta.json")).ok()?).ok()?;
            let name = meta["Name"].as_str()?.to_owned();
            Some(Stored { name, meta })
        };
        let mut all: Vec<Stored> = entries.into_iter().flatten().flatten().filter_map(read).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Writes a context; the certificates, if any are given, replace those it has.
    pub fn put(&self, context: &Stored, tls: Option<&[(String, Vec<u8>)]>) -> anyhow::Result<()> {
        if let Some(files) = tls {
            let folder = self.tls_folder(&context.name);
            remove(&folder)?;
            for (file, bytes) in files {
                write(&folder.join(ENDPOINT), file, 0o600, bytes)?;
            }
        }
        let bytes = serde_json::to_vec(&context.meta)?;
        write(&self.meta_folder(&context.name), "meta.json", 0o644, &bytes)
    }

    /// Removes a context and its certificates.
    pub fn delete(&self, name: &str) -> anyhow::Result<()> {
        remove(&self.meta_folder(name))?;
        remove(&self.tls_folder(name))
    }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a file that is there whole or not at all.
fn write(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
    let mut builder = DirBuilder::new();
    let made = builder
        .recursive(true)
        .mode(if mode == 0o600 { 0o700 } else { 0o755 })
        .create(folder);
    made.with_context(|| format!("make {}", folder.display()))?;
    let (temporary, path) = (
        folder.join(format!(".{name}.{}", std::process::id())),
        folder.join(name),
    );
    let mut open = OpenOptions::new();
    let written = open
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, &path));
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["aa", "0.x", "a_b+c-d"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "default", "_b", "a/b", "../..", "a b", "é1"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_put_is_found_where_docker_looks() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::beside(&dir.path().join("config.json"));
        assert_eq!(store.list(), []);
        let context = Stored::new("aa", "some d", "tcp://h:1", false);
        store
            .put(&context, Some(&[("ca.pem".into(), b"x".to_vec())]))
            .unwrap();
        let id = "961b6dd3ede3cb8ecbaacbd68de040cd78eb2ed5889130cceb4c49268ea4d506";
        let text = fs::read_to_string(dir.path().join(format!("contexts/meta/{id}/meta.json"))).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"Name": "aa", "Metadata": {"Description": "some d"}, "Endpoints": {"docker": {"Host": "tcp://h:1", "SkipTLSVerify": false}}})
        );
        assert_eq!(
            (store.get("aa").unwrap(), store.tls_files("aa")),
            (context, vec!["ca.pem".to_owned()])
        );
        store.delete("aa").unwrap();
        assert_eq!(
            store.get("aa").unwrap_err().to_string(),
            "context \"aa\": context not found"
        );
        assert!(store.tls_files("aa").is_empty());
    }
}
