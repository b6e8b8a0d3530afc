//! Compiled filters on disk. Compiling Docker's default profile takes about 20 ms, loading it from here 0.4 ms.
//!
//! An entry's file name is a hash of its key, and the whole key is in the entry and is compared, so a collision
//! or a tampered name gives a miss and never a wrong filter. The directory must belong to us and be closed to
//! others. Any doubt compiles again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Filter;
use super::compile::{decode, encode, library_version};

/// Beyond this many entries the oldest go.
const MAX_ENTRIES: usize = 64;
/// `BPF_MAXINSNS`
const MAX_INSTRUCTIONS: usize = 4096;
/// Larger profiles are not cached.
const MAX_PROFILE: usize = 1 << 20;
/// Changes whenever the same profile may compile to something else.
const CODE_VERSION: &str = "kelson-seccomp-3";

pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The directory, which need not be there; `None` when it is not safe to use.
    pub(super) fn open(dir: &Path) -> Option<Self> {
        let usable = |m: fs::Metadata| {
            m.is_dir() && m.uid() == nix::unistd::Uid::effective().as_raw() && m.mode() & 0o077 == 0
        };
        match fs::symlink_metadata(dir) {
            Ok(m) => usable(m).then(|| Self { dir: dir.to_owned() }),
            Err(_) => Some(Self { dir: dir.to_owned() }),
        }
    }

    pub(super) fn get(&self, raw: &str) -> Option<Filter> {
        let key = key(raw)?;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
            .open(self.dir.join(name(&key)))
            .ok()?;
        let meta = file.metadata().ok()?;
        if meta.uid() != nix::unistd::Uid::effective().as_raw() || meta.mode() & 0o077 != 0 {
            return None;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).ok()?.min(MAX_PROFILE * 2));
        Read::take(&mut file, MAX_PROFILE as u64 * 2)
            .read_to_end(&mut bytes)
            .ok()?;
        parse(&bytes, &key)
    }

    /// Errors only mean that the next start compiles again.
    pub(super) fn put(&self, raw: &str, filter: &Filter) {
        let Some(key) = key(raw) else { return };
        if self.make().is_err() {
            return;
        }
        self.trim();
        let temporary = self.dir.join(format!(".{}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut f: File| f.write_all(&format(&key, filter)))
            .and_then(|()| fs::rename(&temporary, self.dir.join(name(&key))));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
    }

    /// Makes the directory, closed to others. The one it is in is the state directory, made as for a container.
    fn make(&self) -> io::Result<()> {
        let make = || DirBuilder::new().mode(0o700).create(&self.dir);
        match (make(), self.dir.parent()) {
            (Err(e), _) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            (Err(e), Some(root)) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o711).create(root)?;
                make()
            }
            (other, _) => other,
        }
    }

    fn trim(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let mut all: Vec<_> = entries
            .flatten()
            .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
            .collect();
        if all.len() < MAX_ENTRIES {
            return;
        }
        all.sort();
        for (_, path) in all.iter().take(all.len() + 1 - MAX_ENTRIES) {
            let _ = fs::remove_file(path);
        }
    }
}

/// All that the program depends on.
fn key(raw: &str) -> Option<Vec<u8>> {
    if raw.len() > MAX_PROFILE {
        return None;
    }
    let arch = std::env::consts::ARCH;
    let mut key = format!("{CODE_VERSION} {} {arch} optimize=2\n", library_version()).into_bytes();
    key.extend_from_slice(raw.as_bytes());
    Some(key)
}

fn name(key: &[u8]) -> String {
    format!("{:016x}", fnv1a(key))
}

/// FNV-1a: only spreads file names and notices torn writes, so it need not resist an attacker.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Checksum of the rest, key length, flags, instruction count, key, instructions.
fn format(key: &[u8], filter: &Filter) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend((key.len() as u64).to_ne_bytes());
    body.extend(filter.flags.to_ne_bytes());
    body.extend((filter.program.len() as u64).to_ne_bytes());
    body.extend_from_slice(key);
    body.extend(encode(&filter.program));
    let mut out = fnv1a(&body).to_ne_bytes().to_vec();
    out.extend(body);
    out
}

fn parse(bytes: &[u8], key: &[u8]) -> Option<Filter> {
    let (checksum, body) = bytes.split_first_chunk::<8>()?;
    if fnv1a(body) != u64::from_ne_bytes(*checksum) {
        return None;
    }
    let (key_len, rest) = body.split_first_chunk::<8>()?;
    let (flags, rest) = rest.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first_chunk::<8>()?;
    let count = usize::try_from(u64::from_ne_bytes(*count)).ok()?;
    if u64::from_ne_bytes(*key_len) != key.len() as u64 || count == 0 || count > MAX_INSTRUCTIONS {
        return None;
    }
    let code = rest.strip_prefix(key)?;
    if code.len() != count * 8 {
        return None;
    }
    Some(Filter {
        flags: u32::from_ne_bytes(*flags),
        program: decode(code),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kelson_sys::seccomp::Instruction;
    use std::os::unix::fs::PermissionsExt;

    fn filter() -> Filter {
        Filter {
            flags: 2,
            program: vec![Instruction {
                code: 6,
                jt: 0,
                jf: 0,
                k: 0x7fff_0000,
            }],
        }
    }

    #[test]
    fn what_is_put_is_got_and_only_for_its_profile() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("c")).unwrap();
        cache.put("{}", &filter());
        assert_eq!(cache.get("{}"), Some(filter()));
        assert_eq!(cache.get("{ }"), None);
    }

    #[test]
    fn the_directory_is_made_with_the_first_filter() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let cache = Cache::open(&root.join("c")).unwrap();
        assert_eq!(cache.get("{}"), None);
        assert!(!root.exists());
        cache.put("{}", &filter());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&root), mode(&root.join("c"))), (0o711, 0o700));
    }

    #[test]
    fn damage_is_a_miss() {
        let key = key("{}").unwrap();
        let good = format(&key, &filter());
        assert!(parse(&good, &key).is_some());
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            assert_eq!(parse(&bad, &key), None, "byte {i}");
            assert_eq!(parse(&good[..i], &key), None, "cut at {i}");
        }
    }

    #[test]
    fn an_open_directory_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Cache::open(dir.path()).is_none());
    }
}
