//! What the daemon decides about images: registries, limits, platforms.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use kelson_formats::credentials::Credential;

use crate::snapshots::StorageDriver;
use crate::{Error, Result};

/// Where certificates of registries lie: ours, and docker's.
const CERTS_DIRS: [&str; 2] = ["/etc/kelson/certs.d", "/etc/docker/certs.d"];

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
    /// What makes new containers' roots; those that are there stay with what made them.
    pub storage_driver: StorageDriver,
    /// Directories with one folder for each registry: its certificates (docker's `certs.d`), and `hosts.toml`. The first that has
    /// one counts.
    pub certs_dirs: Vec<PathBuf>,
    /// The way to registries; the environment's, unless the daemon's configuration says otherwise.
    pub proxies: Proxies,
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
            storage_driver: StorageDriver::default(),
            certs_dirs: CERTS_DIRS.iter().map(PathBuf::from).collect(),
            proxies: Proxies::from_env(),
            patience: Duration::from_secs(60),
        }
    }
}

/// Proxies, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them. This machine is never asked through one.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Proxies {
    /// URL of the proxy for `http` addresses; empty for none.
    pub http: String,
    /// URL of the proxy for `https` addresses; empty for none.
    pub https: String,
    /// Hosts, domains and address ranges that are asked directly, with commas between them.
    pub no: String,
}

impl Proxies {
    /// What the environment says; a name in lower case counts as well.
    #[must_use]
    pub fn from_env() -> Self {
        let var = |name: &str| {
            let value = std::env::var(name).ok().filter(|v| !v.is_empty());
            value
                .or_else(|| std::env::var(name.to_lowercase()).ok())
                .unwrap_or_default()
        };
        Self {
            http: var("HTTP_PROXY"),
            https: var("HTTPS_PROXY"),
            no: var("NO_PROXY"),
        }
    }

    pub(crate) fn matcher(&self) -> Matcher {
        let builder = Matcher::builder()
            .http(self.http.as_str())
            .https(self.https.as_str());
        builder.no(self.no.as_str()).build()
    }

    /// The proxy for a request.
    pub(crate) fn intercept(matcher: &Matcher, to: &Uri) -> Option<Intercept> {
        let host = to.host()?.trim_start_matches('[').trim_end_matches(']');
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
        matcher.intercept(to).filter(|_| !here)
    }

    /// What a plain request tells the proxy that reads it of who we are.
    pub(crate) fn authorization(&self, to: &Uri) -> Option<HeaderValue> {
        if self.http.is_empty() || to.scheme_str() != Some("http") {
            return None;
        }
        Self::intercept(&self.matcher(), to)?.basic_auth().cloned()
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's URL may hold a password.
        f.debug_struct("Proxies")
            .field("no", &self.no)
            .finish_non_exhaustive()
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
    /// How layers that lie here plain are packed. Those that came packed go as they are.
    pub compression: Compression,
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// What every registry and engine knows.
    #[default]
    Gzip,
    /// Smaller, and faster to unpack.
    Zstd,
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
    fn proxies() {
        let proxies = Proxies {
            http: "http://p:1".into(),
            https: "http://me:secret@p:2".into(),
            no: "a.lan,.b.lan,10.0.0.0/8".into(),
        };
        let matcher = proxies.matcher();
        let by = |to: &str| {
            let found = Proxies::intercept(&matcher, &to.parse().unwrap());
            found.and_then(|p| p.uri().port_u16())
        };
        assert_eq!(
            (by("http://reg.lan/"), by("https://reg.lan:5000/")),
            (Some(1), Some(2))
        );
        for direct in [
            "https://a.lan",
            "https://x.a.lan",
            "http://10.9.8.7",
            "https://localhost:5000",
            "http://127.0.0.9",
            "http://[::1]:1",
        ] {
            assert_eq!(by(direct), None, "{direct}");
        }
        assert_eq!(proxies.authorization(&"http://reg.lan".parse().unwrap()), None);
        assert!(!format!("{proxies:?}").contains("secret"));
    }

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
