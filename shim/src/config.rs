//! The little that the shim itself reads of a bundle's `config.json`.
use std::path::Path;

use serde::Deserialize;

use crate::error::{Doing, Error, Kind, Result};

/// A container's configuration, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(default)]
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    cgroups_path: Option<String>,
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Config {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).doing(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::new(Kind::Invalid, format!("{}: {e}", path.display())))
    }

    /// `linux.cgroupsPath`.
    pub fn cgroups_path(&self) -> Option<&str> {
        self.linux.cgroups_path.as_deref()
    }

    /// Whether the end of the first process is the end of all: the kernel kills what is left in a pid namespace
    /// whose init ends. One that is joined by path has another init.
    pub fn has_own_pid_namespace(&self) -> bool {
        self.linux
            .namespaces
            .iter()
            .any(|ns| ns.kind == "pid" && ns.path.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_pid_namespace() {
        for (json, own) in [
            ("{}", false),
            (r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#, false),
            (
                r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
                false,
            ),
            (
                r#"{"linux":{"cgroupsPath":"/a","namespaces":[{"type":"pid"}]}}"#,
                true,
            ),
        ] {
            let config: Config = serde_json::from_str(json).unwrap();
            assert_eq!(config.has_own_pid_namespace(), own, "{json}");
        }
    }
}
