//! Where a registry is: its addresses in the order they are tried, and whether plain HTTP or an unverified certificate will do.

use std::net::IpAddr;

use kelson_formats::reference::DEFAULT_DOMAIN;

use crate::config::ImagesConfig;

/// The host that really serves `docker.io`.
const HUB_HOST: &str = "registry-1.docker.io";

/// One address of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// `https://registry-1.docker.io`, without a slash at the end.
    pub base: String,
    /// Certificates need not verify.
    pub insecure: bool,
    /// Not the registry of the name itself: its failure is not the pull's, and the user's credentials are not for it.
    pub mirror: bool,
}

impl Endpoint {
    fn new(base: impl Into<String>, insecure: bool, mirror: bool) -> Self {
        Self {
            base: base.into(),
            insecure,
            mirror,
        }
    }
}

/// The addresses of a registry, best first. Docker's rules: mirrors serve Docker Hub only; an insecure registry is tried with
/// TLS, then without.
pub(crate) fn endpoints(domain: &str, config: &ImagesConfig) -> Vec<Endpoint> {
    let mut found = Vec::new();
    if domain == DEFAULT_DOMAIN {
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
        found.push(Endpoint::new(format!("https://{HUB_HOST}"), false, false));
        return found;
    }
    let insecure = is_insecure(domain, config);
    found.push(Endpoint::new(format!("https://{domain}"), insecure, false));
    if insecure {
        found.push(Endpoint::new(format!("http://{domain}"), true, false));
    }
    found
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
            ..ImagesConfig::default()
        };
        let bases = |domain: &str| {
            endpoints(domain, &config)
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
