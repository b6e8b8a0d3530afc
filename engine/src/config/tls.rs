//! `tls`, `tlsverify` and their files, with dockerd's defaults: `ca.pem`, `cert.pem`, `key.pem` in `$DOCKER_CERT_PATH`, else
//! `~/.docker`.

use super::ConfigError;
use super::flags::Flags;
use crate::server::tls::TlsSettings;
use kelson_tls::Identity;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the flags say of TLS; `None` without it.
///
/// # Errors
/// Files are named, but TLS is off: a socket would stay open to everyone that its operator believes closed.
pub(super) fn decide(
    f: &Flags,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<TlsSettings>, ConfigError> {
    let verify = f.tlsverify == Some(true);
    let files = [
        ("tlscacert", &f.tlscacert),
        ("tlscert", &f.tlscert),
        ("tlskey", &f.tlskey),
    ];
    if !verify && f.tls != Some(true) {
        return match files.iter().find(|(_, file)| file.is_some()) {
            Some((name, _)) => Err(ConfigError(format!(
                "{name} is given, but TLS is off: set tls, or tlsverify to ask clients for certificates, too"
            ))),
            None => Ok(None),
        };
    }
    if verify && f.tls == Some(false) {
        return Err(ConfigError(
            "tlsverify needs tls, which is set to false".to_owned(),
        ));
    }
    let set = |name| variable(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let dir = set("DOCKER_CERT_PATH").or_else(|| set("HOME").map(|home| home.join(".docker")));
    let file = |given: &Option<String>, name: &str| -> Result<PathBuf, ConfigError> {
        let default = || dir.as_ref().map(|dir| dir.join(name));
        given.as_ref().map(PathBuf::from).or_else(default).ok_or_else(|| {
            ConfigError(format!(
                "{name} of TLS: name the file, as neither DOCKER_CERT_PATH nor HOME is set"
            ))
        })
    };
    Ok(Some(TlsSettings {
        identity: Identity {
            certificate: file(&f.tlscert, "cert.pem")?,
            key: file(&f.tlskey, "key.pem")?,
        },
        clients: verify.then(|| file(&f.tlscacert, "ca.pem")).transpose()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn decided(args: &[&str]) -> Result<Option<TlsSettings>, String> {
        let flags = Flags::try_parse_from(["kelsond"].iter().chain(args)).map_err(|e| e.to_string())?;
        decide(&flags, |name| (name == "HOME").then(|| "/root".into())).map_err(|e| e.to_string())
    }

    #[test]
    fn verifying_implies_tls_and_files_have_places() {
        assert_eq!(decided(&[]).unwrap(), None);
        assert_eq!(decided(&["--tls=false", "--tlsverify=false"]).unwrap(), None);
        let tls = decided(&["--tls", "--tlscert", "/c"]).unwrap().unwrap();
        assert_eq!(tls.identity.certificate, PathBuf::from("/c"));
        assert_eq!(tls.identity.key, PathBuf::from("/root/.docker/key.pem"));
        assert_eq!(tls.clients, None);
        let tls = decided(&["--tlsverify"]).unwrap().unwrap();
        assert_eq!(tls.clients, Some("/root/.docker/ca.pem".into()));
    }

    #[test]
    fn files_without_tls_are_refused() {
        for (args, name) in [
            (&["--tlscert", "/c"][..], "tlscert"),
            (&["--tlscacert", "/c", "--tlsverify=false"], "tlscacert"),
            (&["--tlsverify", "--tls=false"], "tlsverify"),
        ] {
            assert!(decided(args).unwrap_err().starts_with(name), "{args:?}");
        }
    }
}
