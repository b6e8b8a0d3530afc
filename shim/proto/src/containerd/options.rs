//! Options of containerd's runc shim, which ours takes too (`containerd.runc.v1.Options` and `CheckpointOptions`), and the
//! generic form that newer configurations use (`runtimeoptions.v1.Options`).
use serde::{Deserialize, Serialize};

use crate::wire::{Value, Writer, read};

/// Type of [`Options`].
pub const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";

/// Type of the generic options: a type, a path and a body of TOML.
pub const GENERIC_TYPE: &str = "runtimeoptions.v1.Options";

/// Type of [`CheckpointOptions`].
pub const CHECKPOINT_TYPE: &str = "containerd.runc.v1.CheckpointOptions";

/// How to run containers. Serialized into the bundle for `delete`, which is not told them again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `--no-pivot` of the runtime.
    pub no_pivot_root: bool,
    /// `--no-new-keyring` of the runtime.
    pub no_new_keyring: bool,
    /// A cgroup for the shim itself.
    pub shim_cgroup: String,
    /// Owner of the pipes of stdio.
    pub io_uid: u32,
    /// Group of the pipes of stdio.
    pub io_gid: u32,
    /// The OCI runtime: a name on PATH, or an absolute path.
    pub binary_name: String,
    /// Parent of the runtime's state directory.
    pub root: String,
    /// The criu program.
    pub criu_path: String,
    /// Whether the runtime makes cgroups through systemd.
    pub systemd_cgroup: bool,
    /// Where checkpoint images go.
    pub criu_image_path: String,
    /// Where criu works.
    pub criu_work_path: String,
}

/// How to checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields have containerd's names")]
pub struct CheckpointOptions {
    pub exit: bool,
    pub open_tcp: bool,
    pub external_unix_sockets: bool,
    pub terminal: bool,
    pub file_locks: bool,
    pub empty_namespaces: Vec<String>,
    pub cgroups_mode: String,
    pub image_path: String,
    pub work_path: String,
    pub parent_path: String,
}

impl Options {
    /// Reads options of type `type_url`; none (an empty type) are the default.
    ///
    /// # Errors
    /// A type that is not known, or bytes that are not of it.
    pub fn decode(type_url: &str, bytes: &[u8]) -> Result<Self, String> {
        match type_url.rsplit('/').next().unwrap_or_default() {
            "" => Ok(Self::default()),
            OPTIONS_TYPE => Self::decode_runc(bytes),
            GENERIC_TYPE => {
                let mut body = String::new();
                read(bytes, |field, value| {
                    if field == 3 {
                        body = value.text();
                    }
                })
                .map_err(|e| format!("runtime options: {e}"))?;
                Self::from_toml(&body)
            }
            other => Err(format!(
                "runtime options of type {other:?}, known is {OPTIONS_TYPE}"
            )),
        }
    }

    /// Reads containerd's configuration of a runtime, `KEY = VALUE` in TOML. Keys that are not known are for others.
    ///
    /// # Errors
    /// A value that its key cannot have.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let (key, value) = (key.trim().trim_matches('"'), value.trim());
            let bad = || format!("runtime option {key}: {value}");
            let plain = value.split('#').next().unwrap_or_default().trim();
            let flag = || plain.parse::<bool>().map_err(|_| bad());
            let number = || plain.parse::<u32>().map_err(|_| bad());
            let text = || quoted(value).ok_or_else(bad);
            match key {
                "NoPivotRoot" => options.no_pivot_root = flag()?,
                "NoNewKeyring" => options.no_new_keyring = flag()?,
                "SystemdCgroup" => options.systemd_cgroup = flag()?,
                "IoUid" => options.io_uid = number()?,
                "IoGid" => options.io_gid = number()?,
                "ShimCgroup" => options.shim_cgroup = text()?,
                "BinaryName" => options.binary_name = text()?,
                "Root" => options.root = text()?,
                "CriuPath" => options.criu_path = text()?,
                "CriuImagePath" => options.criu_image_path = text()?,
                "CriuWorkPath" => options.criu_work_path = text()?,
                _ => {}
            }
        }
        Ok(options)
    }

    fn decode_runc(bytes: &[u8]) -> Result<Self, String> {
        let mut options = Self::default();
        read(bytes, |field, value| match field {
            1 => options.no_pivot_root = value.number() != 0,
            2 => options.no_new_keyring = value.number() != 0,
            3 => options.shim_cgroup = value.text(),
            4 => options.io_uid = value.number32(),
            5 => options.io_gid = value.number32(),
            6 => options.binary_name = value.text(),
            7 => options.root = value.text(),
            8 => options.criu_path = value.text(),
            9 => options.systemd_cgroup = value.number() != 0,
            10 => options.criu_image_path = value.text(),
            11 => options.criu_work_path = value.text(),
            _ => {}
        })
        .map_err(|e| format!("runtime options: {e}"))?;
        Ok(options)
    }
}

/// The file that generic options name instead of saying something themselves (`ConfigPath`).
#[must_use]
pub fn config_path(type_url: &str, bytes: &[u8]) -> Option<std::path::PathBuf> {
    let (mut path, mut body) = (String::new(), false);
    if type_url.rsplit('/').next() == Some(GENERIC_TYPE) {
        // What is no message is told by `Options::decode`.
        let _ = read(bytes, |field, value| match field {
            2 => path = value.text(),
            3 => body = !value.bytes().is_empty(),
            _ => {}
        });
    }
    (!path.is_empty() && !body).then(|| path.into())
}

/// A quoted TOML string; none of the options needs escapes.
fn quoted(value: &str) -> Option<String> {
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let (text, rest) = value[1..].split_once(quote)?;
    let rest = rest.trim_start();
    ((rest.is_empty() || rest.starts_with('#')) && !text.contains('\\')).then(|| text.to_owned())
}

impl CheckpointOptions {
    /// Reads options of type `type_url`; none are the default.
    ///
    /// # Errors
    /// A type that is not known, or bytes that are not of it.
    pub fn decode(type_url: &str, bytes: &[u8]) -> Result<Self, String> {
        let known = type_url.rsplit('/').next().unwrap_or_default();
        if known.is_empty() {
            return Ok(Self::default());
        }
        if known != CHECKPOINT_TYPE {
            return Err(format!(
                "checkpoint options of type {known:?}, known is {CHECKPOINT_TYPE}"
            ));
        }
        let mut options = Self::default();
        let flag = |value: Value<'_>| value.number() != 0;
        read(bytes, |field, value| match field {
            1 => options.exit = flag(value),
            2 => options.open_tcp = flag(value),
            3 => options.external_unix_sockets = flag(value),
            4 => options.terminal = flag(value),
            5 => options.file_locks = flag(value),
            6 => options.empty_namespaces.push(value.text()),
            7 => options.cgroups_mode = value.text(),
            8 => options.image_path = value.text(),
            9 => options.work_path = value.text(),
            10 => options.parent_path = value.text(),
            _ => {}
        })
        .map_err(|e| format!("checkpoint options: {e}"))?;
        Ok(options)
    }
}

/// The answer to `-info` (`containerd.types.RuntimeInfo`): name, version, the options as they came, and the runtime's
/// answer to `features`, JSON of the runtime-spec.
#[must_use]
pub fn runtime_info(
    name: &str,
    version: &str,
    options: Option<(&str, &[u8])>,
    features: Option<&[u8]>,
) -> Vec<u8> {
    const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
    let mut out = Writer::default();
    out.bytes(1, name).message(2, |inner| {
        inner.bytes(1, version);
    });
    if let Some((type_url, value)) = options {
        out.any(3, type_url, value);
    }
    if let Some(features) = features {
        out.any(4, FEATURES, features);
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let mut out = Writer::default();
        out.uint(1, true)
            .uint(5, 1000_u32)
            .bytes(6, "crun")
            .uint(9, true)
            .uint(99, 1_u32);
        let options = Options::decode(OPTIONS_TYPE, &out.finish()).unwrap();
        assert_eq!(
            (options.no_pivot_root, options.io_gid, options.systemd_cgroup),
            (true, 1000, true)
        );
        assert_eq!(options.binary_name, "crun");
        assert_eq!(Options::decode("", b"").unwrap(), Options::default());
        assert!(Options::decode("x.Y", b"").unwrap_err().contains("\"x.Y\""));
        assert!(Options::decode(OPTIONS_TYPE, b"\xff").is_err());
    }

    #[test]
    fn generic_options_are_read() {
        let mut out = Writer::default();
        out.bytes(2, "/etc/x.toml");
        let path_only = out.clone().finish();
        assert_eq!(config_path(GENERIC_TYPE, &path_only), Some("/etc/x.toml".into()));
        assert_eq!(config_path(OPTIONS_TYPE, &path_only), None);
        out.bytes(3, "BinaryName = \"/usr/bin/crun\" # ours\n[x]\nSystemdCgroup = true\nIoUid=7\nOther = [1]\nRoot = '/r#'\n");
        let bytes = out.finish();
        assert_eq!(config_path(GENERIC_TYPE, &bytes), None);
        let options = Options::decode(GENERIC_TYPE, &bytes).unwrap();
        assert_eq!(
            (options.binary_name.as_str(), options.root.as_str()),
            ("/usr/bin/crun", "/r#")
        );
        assert!(options.systemd_cgroup && options.io_uid == 7);
        for bad in [
            "BinaryName = crun",
            "SystemdCgroup = yes",
            "IoGid = -1",
            "Root = \"a\" b",
        ] {
            let error = Options::from_toml(bad).unwrap_err();
            assert!(error.contains(bad.split(' ').next().unwrap()), "{error}");
        }
    }

    #[test]
    fn checkpoint_options_are_read() {
        let mut out = Writer::default();
        out.uint(1, true)
            .element(6, "network")
            .element(6, "ipc")
            .bytes(8, "/i");
        let options = CheckpointOptions::decode(CHECKPOINT_TYPE, &out.finish()).unwrap();
        assert!(options.exit && !options.open_tcp);
        assert_eq!(
            (options.empty_namespaces.len(), options.image_path.as_str()),
            (2, "/i")
        );
    }
}
