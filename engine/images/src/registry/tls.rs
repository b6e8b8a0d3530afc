//! Whom we believe to be a registry, and who we are to it: `certs.d/HOST[:PORT]/`, as docker reads it.
//!
//! `*.crt` are roots for this host beside the system's, `X.cert` with `X.key` is our certificate. They are looked at for every
//! request's host, so a new file counts without a restart.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kelson_tls::Identity;
use kelson_tls::rustls::{ClientConfig, RootCertStore};

use crate::error::Doing;
use crate::{Error, Kind, Result};

/// What one host's certificates are checked by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trust {
    /// Any certificate will do.
    pub insecure: bool,
    pub roots: Vec<PathBuf>,
    /// Our certificate chain and its key; the first is used.
    pub identities: Vec<(PathBuf, PathBuf)>,
}

/// The files' times, so that a changed file makes a new client.
pub(super) type Stamp = Vec<Option<SystemTime>>;

impl Trust {
    /// Adds what the first of these directories that knows the host says of it.
    ///
    /// # Errors
    /// `Invalid` for a certificate without its key, or the other way round; in docker's words.
    pub fn add_host(&mut self, dirs: &[PathBuf], host: &str) -> Result<()> {
        // A host is a name of one directory here, and nothing else.
        if host.is_empty() || host.starts_with('.') || host.contains('/') {
            return Ok(());
        }
        match dirs.iter().map(|dir| dir.join(host)).find(|dir| dir.is_dir()) {
            Some(dir) => self.add_dir(&dir),
            None => Ok(()),
        }
    }

    fn add_dir(&mut self, dir: &Path) -> Result<()> {
        let doing = || format!("read the certificates in {}", dir.display());
        let mut names: Vec<PathBuf> = std::fs::read_dir(dir)
            .doing(doing)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<std::io::Result<_>>()
            .doing(doing)?;
        names.sort();
        for path in &names {
            let partner = |extension| Some(path.with_extension(extension)).filter(|p| names.contains(p));
            let missing = |what: &str, of: &str| {
                let text = format!(
                    "missing {what} for {of} {}. CA certificates must use the extension .crt",
                    path.display()
                );
                Error::invalid(text)
            };
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => self.roots.push(path.clone()),
                Some("cert") => {
                    let key = partner("key").ok_or_else(|| missing("key", "client certificate"))?;
                    self.identities.push((path.clone(), key));
                }
                Some("key") if partner("cert").is_none() => {
                    return Err(missing("client certificate", "key"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn stamp(&self) -> Stamp {
        let pairs = self.identities.iter().flat_map(|(cert, key)| [cert, key]);
        let time = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        self.roots.iter().chain(pairs).map(time).collect()
    }

    /// TLS as this says.
    ///
    /// # Errors
    /// `Internal` without any root certificate, `Invalid` for a file that holds none.
    pub(super) fn config(&self) -> Result<ClientConfig> {
        let trust = if self.insecure {
            kelson_tls::Trust::Anyone
        } else {
            kelson_tls::Trust::Roots(self.roots()?)
        };
        let identity = self.identities.first().map(|(certificate, key)| Identity {
            certificate: certificate.clone(),
            key: key.clone(),
        });
        kelson_tls::client(trust, identity.as_ref()).map_err(bad_file)
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(system.certs);
        for path in &self.roots {
            kelson_tls::add_roots(&mut store, path).map_err(bad_file)?;
        }
        if store.is_empty() {
            // A machine without any root certificate can still talk to insecure registries.
            let hint = "read the system's certificates (hint: install ca-certificates)";
            return Err(Error::new(Kind::Internal, hint));
        }
        Ok(store)
    }
}

fn bad_file(error: kelson_tls::Error) -> Error {
    match error.into_parts() {
        (doing, Some(why)) => Error::invalid(doing).caused_by(why),
        (doing, None) => Error::invalid(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("reg.lan:5000");
        std::fs::create_dir(&host).unwrap();
        let dirs = [dir.path().join("nothing"), dir.path().to_owned()];
        let read = |name: &str| {
            let mut trust = Trust::default();
            trust.add_host(&dirs, name).map(|()| trust)
        };
        for name in ["a.crt", "b.crt", "client.cert", "client.key", "notes.txt"] {
            std::fs::write(host.join(name), "").unwrap();
        }
        let trust = read("reg.lan:5000").unwrap();
        assert_eq!(trust.roots, [host.join("a.crt"), host.join("b.crt")]);
        assert_eq!(
            trust.identities,
            [(host.join("client.cert"), host.join("client.key"))]
        );
        for none in ["reg.lan", "..", "../x", "", "reg.lan:5000/.."] {
            assert_eq!(read(none).unwrap(), Trust::default(), "{none}");
        }
        std::fs::remove_file(host.join("client.key")).unwrap();
        let error = read("reg.lan:5000").unwrap_err().to_string();
        assert!(
            error.starts_with("missing key for client certificate "),
            "{error}"
        );
        std::fs::rename(host.join("client.cert"), host.join("other.key")).unwrap();
        let error = read("reg.lan:5000").unwrap_err().to_string();
        assert!(
            error.starts_with("missing client certificate for key "),
            "{error}"
        );
    }
}
