//! `~/.docker/config.json`: who we are at which registry. Reads `auths`, `credHelpers` and `credsStore`, speaks the
//! helper programs' protocol, and keeps every key it does not know when it writes.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Kind, Result};

/// The key docker uses for Docker Hub in every credentials store.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";
/// A config file is read whole; more than this is not one.
const CONFIG_MAX: u64 = 4 << 20;
/// A helper's answer is one small JSON object.
const HELPER_ANSWER_MAX: u64 = 1 << 20;
/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What a registry is shown. At most one of password and identity token is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Credential {
    /// User name.
    pub username: String,
    /// Password or access token, sent by Basic.
    pub password: String,
    /// OAuth2 refresh token, exchanged at the registry's token server.
    #[serde(rename = "identitytoken")]
    pub identity_token: String,
    /// Bearer token given to the registry as it is.
    #[serde(rename = "registrytoken")]
    pub registry_token: String,
}

/// The key of a registry in the file: docker's historical URL for Docker Hub, else the host.
#[must_use]
pub fn store_key(domain: &str) -> String {
    let host = domain
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB_KEY.to_owned(),
        _ => host.to_owned(),
    }
}

/// The credentials file, held whole so that a write keeps what we do not know.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    root: Map<String, Value>,
}

impl ConfigFile {
    /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
    ///
    /// # Errors
    /// `NotFound` when neither `DOCKER_CONFIG` nor `HOME` is set.
    pub fn default_path() -> Result<PathBuf> {
        if let Some(dir) = std::env::var_os("DOCKER_CONFIG").filter(|d| !d.is_empty()) {
            return Ok(Path::new(&dir).join("config.json"));
        }
        match std::env::var_os("HOME").filter(|d| !d.is_empty()) {
            Some(home) => Ok(Path::new(&home).join(".docker/config.json")),
            None => Err(Error::new(
                Kind::NotFound,
                "find the credentials file: HOME is not set",
            )),
        }
    }

    /// Reads the file; one that is not there is an empty one.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be read, `Invalid` when it is not a JSON object.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let doing = |kind, path: &Path| Error::new(kind, format!("read {}", path.display()));
        let mut text = String::new();
        match std::fs::File::open(&path) {
            Ok(file) => {
                let read = file.take(CONFIG_MAX).read_to_string(&mut text);
                read.map_err(|e| doing(Kind::Unavailable, &path).caused_by(e))?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self {
                    path,
                    root: Map::new(),
                });
            }
            Err(e) => return Err(doing(Kind::Unavailable, &path).caused_by(e)),
        }
        if text.trim().is_empty() {
            return Ok(Self {
                path,
                root: Map::new(),
            });
        }
        let root = serde_json::from_str(&text).map_err(|e| doing(Kind::Invalid, &path).caused_by(e))?;
        Ok(Self { path, root })
    }

    /// The credential for a registry (`docker.io`, `localhost:5000`), or none. A helper named for the registry wins
    /// over the store, and that over what is written in the file.
    ///
    /// # Errors
    /// `Unavailable` when a configured helper cannot be run or fails.
    pub fn get(&self, domain: &str) -> Result<Option<Credential>> {
        let key = store_key(domain);
        if let Some(helper) = self.helper_for(&key) {
            return helper_get(&helper, &key);
        }
        Ok(self.auths().and_then(|auths| {
            let entry = auths
                .get(&key)
                .or_else(|| auths.iter().find(|(k, _)| store_key(k) == key).map(|(_, v)| v));
            entry.and_then(decode_entry)
        }))
    }

    /// Stores a credential, in the helper if one is configured, and writes the file.
    ///
    /// # Errors
    /// `Unavailable` when helper or file refuse.
    pub fn store(&mut self, domain: &str, credential: &Credential) -> Result<()> {
        let key = store_key(domain);
        let entry = match self.helper_for(&key) {
            Some(helper) => {
                helper_store(&helper, &key, credential)?;
                Value::Object(Map::new())
            }
            None => encode_entry(credential),
        };
        self.auths_mut().insert(key, entry);
        self.save()
    }

    /// Forgets a registry; whether there was something to forget.
    ///
    /// # Errors
    /// `Unavailable` when helper or file refuse.
    pub fn erase(&mut self, domain: &str) -> Result<bool> {
        let key = store_key(domain);
        if let Some(helper) = self.helper_for(&key) {
            helper_run(&helper, "erase", key.as_bytes())?;
        }
        let auths = self.auths_mut();
        let before = auths.len();
        auths.retain(|k, _| store_key(k) != key);
        let erased = auths.len() != before;
        if erased {
            self.save()?;
        }
        Ok(erased)
    }

    /// Any other setting of the file (`currentContext`, `psFormat`, ...).
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&Value> {
        self.root.get(key)
    }

    /// Sets such a setting, or removes it, and writes the file.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be written.
    pub fn set_setting(&mut self, key: &str, value: Option<Value>) -> Result<()> {
        match value {
            Some(value) => self.root.insert(key.to_owned(), value),
            None => self.root.remove(key),
        };
        self.save()
    }

    /// Whether credentials go to a helper program for this registry (login warns when they do not).
    #[must_use]
    pub fn has_helper(&self, domain: &str) -> bool {
        self.helper_for(&store_key(domain)).is_some()
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn auths(&self) -> Option<&Map<String, Value>> {
        self.root.get("auths")?.as_object()
    }

    fn auths_mut(&mut self) -> &mut Map<String, Value> {
        let slot = self
            .root
            .entry("auths")
            .or_insert_with(|| Value::Object(Map::new()));
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        match slot {
            Value::Object(map) => map,
            _ => unreachable!("made an object above"),
        }
    }

    fn helper_for(&self, key: &str) -> Option<String> {
        let named = self
            .root
            .get("credHelpers")
            .and_then(|h| h.get(key))
            .and_then(Value::as_str);
        let name = named.or_else(|| self.root.get("credsStore").and_then(Value::as_str))?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Writes beside the file and renames, mode 0600, as docker does: a crash leaves the old or the new.
    fn save(&self) -> Result<()> {
        let doing = |e: std::io::Error| {
            Error::new(Kind::Unavailable, format!("write {}", self.path.display())).caused_by(e)
        };
        // A link (dotfile managers make them) is written through, not replaced.
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let dir = target.parent().unwrap_or(Path::new("."));
        if !dir.exists() {
            std::fs::create_dir_all(dir).map_err(doing)?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(doing)?;
        }
        let mut temp = OsString::from(target.as_os_str());
        temp.push(format!(".{}", std::process::id()));
        let mut text = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.root
            .serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))
            .map_err(|e| doing(e.into()))?;
        let write = || {
            let mut open = std::fs::OpenOptions::new();
            let mut file = open
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temp)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temp, &target)
        };
        write().map_err(|e| {
            let _ = std::fs::remove_file(&temp);
            doing(e)
        })
    }
}

fn text_of(entry: &Map<String, Value>, key: &str) -> String {
    entry
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn decode_entry(entry: &Value) -> Option<Credential> {
    let entry = entry.as_object()?;
    let mut credential = Credential {
        username: text_of(entry, "username"),
        password: text_of(entry, "password"),
        identity_token: text_of(entry, "identitytoken"),
        registry_token: text_of(entry, "registrytoken"),
    };
    let auth = text_of(entry, "auth");
    if let Some(decoded) = STANDARD
        .decode(auth.trim())
        .ok()
        .and_then(|b| String::from_utf8(b).ok())
        && let Some((user, password)) = decoded.split_once(':')
    {
        user.clone_into(&mut credential.username);
        // Old docker versions padded the secret with NUL.
        password.trim_matches('\0').clone_into(&mut credential.password);
    }
    (credential != Credential::default()).then_some(credential)
}

fn encode_entry(credential: &Credential) -> Value {
    let mut entry = Map::new();
    if !credential.username.is_empty() || !credential.password.is_empty() {
        let auth = STANDARD.encode(format!("{}:{}", credential.username, credential.password));
        entry.insert("auth".to_owned(), auth.into());
    }
    for (key, value) in [
        ("identitytoken", &credential.identity_token),
        ("registrytoken", &credential.registry_token),
    ] {
        if !value.is_empty() {
            entry.insert(key.to_owned(), value.as_str().into());
        }
    }
    Value::Object(entry)
}

/// The helper protocol's object, for `get` answers and `store` requests.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperCredential {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

fn helper_get(helper: &str, key: &str) -> Result<Option<Credential>> {
    let answer = match helper_run(helper, "get", key.as_bytes()) {
        Ok(answer) => answer,
        Err(e) if e.to_string().contains("credentials not found in native keychain") => return Ok(None),
        Err(e) => return Err(e),
    };
    let parsed: HelperCredential = serde_json::from_slice(&answer)
        .map_err(|e| Error::invalid(format!("read the answer of docker-credential-{helper}")).caused_by(e))?;
    let mut credential = Credential::default();
    if parsed.username == TOKEN_USER {
        credential.identity_token = parsed.secret;
    } else {
        credential.username = parsed.username;
        credential.password = parsed.secret;
    }
    Ok(Some(credential))
}

fn helper_store(helper: &str, key: &str, credential: &Credential) -> Result<()> {
    let (username, secret) = if credential.identity_token.is_empty() {
        (credential.username.clone(), credential.password.clone())
    } else {
        (TOKEN_USER.to_owned(), credential.identity_token.clone())
    };
    let request = HelperCredential {
        server_url: key.to_owned(),
        username,
        secret,
    };
    let request =
        serde_json::to_vec(&request).map_err(|e| Error::invalid("encode the credential").caused_by(e))?;
    helper_run(helper, "store", &request).map(|_| ())
}

fn helper_run(helper: &str, verb: &str, input: &[u8]) -> Result<Vec<u8>> {
    let program = format!("docker-credential-{helper}");
    let doing = || format!("run {program} {verb}");
    let unavailable = |e: std::io::Error| Error::new(Kind::Unavailable, doing()).caused_by(e);
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(unavailable)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input closes the pipe; its answer decides, not this write.
        let _ = stdin.write_all(input);
    }
    let mut answer = Vec::new();
    let read = child
        .stdout
        .take()
        .map(|out| out.take(HELPER_ANSWER_MAX).read_to_end(&mut answer));
    let status = child.wait().map_err(unavailable)?;
    read.transpose().map_err(unavailable)?;
    if status.success() {
        return Ok(answer);
    }
    // By the protocol a failing helper explains itself on stdout.
    let said = String::from_utf8_lossy(&answer).trim().to_owned();
    Err(Error::new(
        Kind::Unavailable,
        format!("{}: {status}: {said}", doing()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, ConfigFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let config = ConfigFile::load(path).unwrap();
        (dir, config)
    }

    #[test]
    fn reads_auths_by_any_spelling() {
        let auth = STANDARD.encode("me:pass:word");
        let (_dir, config) = file(&format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}},"https://r.io/v2/":{{"auth":"{auth}"}},
                "t.io":{{"identitytoken":"tok"}}, "empty.io":{{}}}}}}"#
        ));
        for domain in ["docker.io", "r.io"] {
            let got = config.get(domain).unwrap().unwrap();
            assert_eq!(
                (got.username.as_str(), got.password.as_str()),
                ("me", "pass:word")
            );
        }
        assert_eq!(config.get("t.io").unwrap().unwrap().identity_token, "tok");
        assert_eq!(config.get("empty.io").unwrap(), None);
        assert_eq!(config.get("other.io").unwrap(), None);
    }

    #[test]
    fn login_and_logout_keep_unknown_keys() {
        let (_dir, mut config) =
            file(r#"{"currentContext":"a  b","plugins":{"a":{"b":"c"}},"auths":{"o.io":{"x":1}}}"#);
        let me = Credential {
            username: "me".into(),
            password: "p".into(),
            ..Credential::default()
        };
        config.store("localhost:5000", &me).unwrap();
        let again = ConfigFile::load(config.path()).unwrap();
        assert_eq!(again.get("localhost:5000").unwrap(), Some(me));
        assert_eq!(again.setting("currentContext").unwrap(), "a  b");
        assert_eq!(again.setting("plugins").unwrap()["a"]["b"], "c");
        assert_eq!(again.setting("auths").unwrap()["o.io"]["x"], 1);
        assert_eq!(
            std::fs::metadata(config.path()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(config.erase("localhost:5000").unwrap());
        assert!(!config.erase("localhost:5000").unwrap());
        assert_eq!(
            ConfigFile::load(config.path())
                .unwrap()
                .get("localhost:5000")
                .unwrap(),
            None
        );
    }

    #[test]
    fn a_missing_file_is_empty_and_a_bad_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let config = ConfigFile::load(dir.path().join("none/config.json")).unwrap();
        assert_eq!(config.get("docker.io").unwrap(), None);
        let bad = dir.path().join("bad.json");
        std::fs::write(&bad, "[1").unwrap();
        assert_eq!(ConfigFile::load(&bad).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_missing_helper_is_named() {
        let (_dir, config) = file(r#"{"credHelpers":{"r.io":"kelson-no-such-helper"}}"#);
        let error = config.get("r.io").unwrap_err().to_string();
        assert!(
            error.contains("docker-credential-kelson-no-such-helper get"),
            "{error}"
        );
        assert!(config.has_helper("r.io") && !config.has_helper("docker.io"));
    }
}
