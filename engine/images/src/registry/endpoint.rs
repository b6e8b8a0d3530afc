//! Where a registry is: its addresses in the order they are tried, and whether plain HTTP or an unverified certificate will do.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use kelson_formats::reference::DEFAULT_DOMAIN;

use super::hosts;
use super::tls::Trust;
use crate::Result;
use crate::config::ImagesConfig;

/// The host that really serves `docker.io`.
const HUB_HOST: &str = "registry-1.docker.io";

/// What an address may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Can {
    pub pull: bool,
    /// What a tag means.
    pub resolve: bool,
    pub push: bool,
}

impl Default for Can {
    fn default() -> Self {
        Self {
            pull: true,
            resolve: true,
            push: true,
        }
    }
}

/// One address of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://registry-1.docker.io`, without a slash at the end.
    pub base: String,
    /// The same with what the API's paths begin with: `https://registry-1.docker.io/v2`.
    pub api: String,
    /// Certificates need not verify.
    pub insecure: bool,
    /// Not the registry of the name itself: its failure is not the pull's, and the user's credentials are not for it.
    pub mirror: bool,
    /// Told to a mirror of several registries: whose images these are (`ns`, as containerd does).
    pub namespace: Option<String>,
    pub can: Can,
    /// Certificates of this address alone.
    pub trust: Option<Arc<Trust>>,
    /// Sent with every request to it.
    pub headers: HeaderMap,
}

impl Endpoint {
    fn new(base: impl Into<String>, insecure: bool, mirror: bool) -> Self {
        let base = base.into();
        Self {
            api: format!("{base}/v2"),
            base,
            insecure,
            mirror,
            namespace: None,
            can: Can {
                push: !mirror,
                ..Can::default()
            },
            trust: None,
            headers: HeaderMap::new(),
        }
    }
}

/// The addresses of a registry, best first: what `hosts.toml` says of it, else by docker's rules: the mirrors of `daemon.json`
/// serve Docker Hub only, and an insecure registry is tried with TLS, then without.
///
/// # Errors
/// `Invalid` for a malformed `hosts.toml`.
pub(crate) fn endpoints(domain: &str, config: &ImagesConfig) -> Result<Vec<Endpoint>> {
    let host = if domain == DEFAULT_DOMAIN {
        HUB_HOST
    } else {
        domain
    };
    let own = format!("https://{host}");
    let insecure = domain != DEFAULT_DOMAIN && is_insecure(domain, config);
    let mut found = Vec::new();
    if let Some(said) = hosts::read(&config.certs_dirs, domain, &own)? {
        found.extend(said);
    } else if domain == DEFAULT_DOMAIN {
        for mirror in &config.registry_mirrors {
            let base = mirror.trim_end_matches('/');
            let base = if base.contains("://") {
                base.to_owned()
            } else {
                format!("https://{base}")
            };
            let host = base.split_once("://").map_or("", |(_, host)| host);
            found.push(Endpoint::new(base.clone(), is_insecure(host, config), true));
        }
        found.push(Endpoint::new(own.clone(), false, false));
    } else {
        found.push(Endpoint::new(own.clone(), false, false));
    }
    if insecure && let Some(last) = found.last_mut().filter(|e| e.base == own) {
        last.insecure = true;
        found.push(Endpoint::new(format!("http://{host}"), true, false));
    }
    Ok(found)
}

/// Loopback always is; else what the configuration lists, by name or by address range.
fn is_insecure(domain: &str, config: &ImagesConfig) -> bool {
    let host = host_of(domain);
    let address = host.parse::<IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|a| a.is_loopback()) {
        return true;
    }
    config.insecure_registries.iter().any(|entry| {
        let entry = entry
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .trim_end_matches('/');
        match (entry.split_once('/'), address) {
            (Some((net, bits)), Some(address)) => in_range(address, net, bits),
            _ => entry == domain || entry == host,
        }
    })
}

fn host_of(domain: &str) -> &str {
    if let Some(rest) = domain.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    domain.split(':').next().unwrap_or(domain)
}

fn in_range(address: IpAddr, net: &str, bits: &str) -> bool {
    let (Ok(net), Ok(bits)) = (net.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let prefix = |address: u128, width: u32| {
        if bits == 0 {
            0
        } else {
            address >> width.saturating_sub(bits)
        }
    };
    match (address, net) {
        (IpAddr::V4(a), IpAddr::V4(n)) if bits <= 32 => {
            prefix(u32::from(a).into(), 32) == prefix(u32::from(n).into(), 32)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if bits <= 128 => prefix(a.into(), 128) == prefix(n.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_trust() {
        let config = ImagesConfig {
            insecure_registries: vec!["reg.lan:5000".into(), "10.1.0.0/16".into(), "bare.lan".into()],
            registry_mirrors: vec!["http://127.0.0.1:5000/".into(), "https://m.example".into()],
            certs_dirs: Vec::new(),
            ..ImagesConfig::default()
        };
        let bases = |domain: &str| {
            endpoints(domain, &config)
                .unwrap()
                .into_iter()
                .map(|e| e.base)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            bases("docker.io"),
            [
                "http://127.0.0.1:5000",
                "https://m.example",
                "https://registry-1.docker.io"
            ]
        );
        assert_eq!(bases("ghcr.io"), ["https://ghcr.io"]);
        for insecure in [
            "localhost:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
            "reg.lan:5000",
            "10.1.2.3:80",
            "bare.lan:1",
        ] {
            assert_eq!(
                bases(insecure),
                [format!("https://{insecure}"), format!("http://{insecure}")]
            );
        }
        for secure in ["reg.lan:5001", "10.2.0.1", "localhost.example", "128.0.0.1"] {
            assert_eq!(bases(secure), [format!("https://{secure}")]);
        }
    }
}
