//! What the daemon decides about images: registries, limits, platforms.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kelson_formats::credentials::Credential;

use crate::{Error, Result};

/// Settings of the image store; the names follow dockerd's `daemon.json`.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// `HOST[:PORT]` or CIDR: plain HTTP or unverified TLS is accepted there. 127.0.0.0/8, ::1 and localhost always are.
    pub insecure_registries: Vec<String>,
    /// URLs asked before Docker Hub for its images.
    pub registry_mirrors: Vec<String>,
    /// Layers fetched and unpacked at the same time.
    pub max_concurrent_downloads: usize,
    /// Layers one push sends at the same time.
    pub max_concurrent_uploads: usize,
    /// Sent to registries.
    pub user_agent: String,
    /// A registry that sends nothing, or next to nothing, for so long is given up.
    pub patience: Duration,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            user_agent: concat!("kelson/", env!("CARGO_PKG_VERSION")).to_owned(),
            patience: Duration::from_secs(60),
        }
    }
}

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Who we are at the registry; anonymous without.
    pub auth: Option<Credential>,
    /// Which entry of a multi-platform image; the host's without.
    pub platform: Option<Platform>,
}

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Who we are at the registry; anonymous without.
    pub auth: Option<Credential>,
}

/// An operating system, architecture and its variant, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, `v8`, ...
    pub variant: Option<String>,
}

impl Platform {
    /// The machine we run on.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether an image built for `other` runs where `self` is asked for; arm64 means arm64/v8.
    #[must_use]
    pub fn accepts(&self, other: &Self) -> bool {
        let variant = |p: &Self| match (&p.variant, p.architecture.as_str()) {
            (Some(v), "arm64") if v == "v8" => None,
            (v, _) => v.clone().filter(|v| !v.is_empty()),
        };
        self.os == other.os
            && self.architecture == other.architecture
            && (variant(self) == variant(other) || variant(self).is_none() || variant(other).is_none())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// `os/arch[/variant]`, or an architecture or operating system alone, with the usual aliases.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(format!(
                "{text:?} is an invalid platform: want os/architecture[/variant]"
            ))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let word = |p: &&str| {
            !p.is_empty()
                && p.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if !parts.iter().all(word) {
            return Err(invalid());
        }
        let host = Self::host();
        let (os, architecture, variant) = match parts.as_slice() {
            ["linux"] => return Ok(host),
            [one] => (host.os, (*one).to_owned(), None),
            [os, arch] => ((*os).to_lowercase(), (*arch).to_owned(), None),
            [os, arch, variant] => (
                (*os).to_lowercase(),
                (*arch).to_owned(),
                Some((*variant).to_owned()),
            ),
            _ => return Err(invalid()),
        };
        let architecture = match architecture.to_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "i386" => "386".to_owned(),
            "armhf" => "arm".to_owned(),
            other => other.to_owned(),
        };
        Ok(Self {
            os,
            architecture,
            variant,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let p = |t: &str| t.parse::<Platform>().unwrap();
        assert_eq!(p("linux/amd64").to_string(), "linux/amd64");
        assert_eq!(p("linux/x86_64"), p("amd64"));
        assert!(p("linux/arm64").accepts(&p("linux/arm64/v8")));
        assert!(!p("linux/arm/v7").accepts(&p("linux/arm/v6")));
        assert!(!p("linux/amd64").accepts(&p("linux/arm64")));
        for bad in ["", "/", "a/b/c/d", "linux/", "linux/a b"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
