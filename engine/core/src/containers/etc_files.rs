//! /etc/hosts, /etc/hostname and /etc/resolv.conf of a container: their text (pure), and writing them.

use std::net::IpAddr;
use std::path::Path;

use crate::error::{Doing, Error, Result};

/// Where the host's resolver settings are, the second for hosts whose first names systemd-resolved's stub, which does not
/// answer from another network namespace.
pub(crate) const HOST_RESOLV: &str = "/etc/resolv.conf";
const SYSTEMD_RESOLV: &str = "/run/systemd/resolve/resolv.conf";

/// Servers used when the host names none that a container can reach.
pub(crate) const PUBLIC_DNS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// What a user may say about DNS; the container's own wins over the engine's, both over the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    pub servers: Vec<String>,
    pub options: Vec<String>,
    pub search: Vec<String>,
}

/// The text of /etc/hosts: the extra hosts, lines of links, and the container's own name at each of its addresses.
///
/// # Errors
/// `Invalid` for an extra host that is not `name:address`.
pub(crate) fn hosts(
    addresses: &[IpAddr],
    names: &str,
    extra: &[String],
    gateway: Option<IpAddr>,
    links: &str,
) -> Result<String> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    text.push_str(&extra_hosts(extra, gateway)?);
    text.push_str(links);
    for address in addresses {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    Ok(text)
}

/// What stands behind an address of the container's own.
pub(crate) fn own_names(hostname: &str, domain: &str) -> String {
    if domain.is_empty() {
        hostname.to_owned()
    } else {
        format!("{hostname}.{domain} {hostname}")
    }
}

/// The text without an address.
pub(crate) fn without(text: &str, address: IpAddr) -> String {
    let ours = |line: &&str| line.split_whitespace().next().and_then(|a| a.parse().ok()) == Some(address);
    text.split_inclusive('\n').filter(|line| !ours(line)).collect()
}

/// Lines for `--add-host`.
pub(crate) fn extra_hosts(extra: &[String], gateway: Option<IpAddr>) -> Result<String> {
    let mut text = String::new();
    for item in extra {
        let bad = || Error::invalid(format!("bad format for add-host: \"{item}\""));
        let (name, address) = item.split_once([':', '=']).ok_or_else(bad)?;
        let address = match (address, gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            ("host-gateway", None) => {
                return Err(Error::invalid("unable to derive the IP value for host-gateway"));
            }
            (text, _) => {
                let bare = text.trim_start_matches('[').trim_end_matches(']');
                bare.parse::<IpAddr>()
                    .map_err(|_| Error::invalid(format!("invalid IP address in add-host: \"{text}\"")))?
                    .to_string()
            }
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    Ok(text)
}

/// The words that a resolv.conf(5) has behind a keyword, of all its lines.
pub(crate) fn said_of<'t>(keyword: &'static str, text: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines().flat_map(move |line| {
        let mut words = line.split_whitespace();
        let wanted = words.next() == Some(keyword);
        words.filter(move |_| wanted)
    })
}

/// The text of /etc/resolv.conf. `isolated`: in a network namespace that does not reach the host's loopback.
pub(crate) fn resolv_conf(host: &str, wanted: &Dns, isolated: bool) -> String {
    let of_host = |key: &'static str| -> Vec<&str> { said_of(key, host).collect() };
    let mut servers: Vec<&str> = wanted.servers.iter().map(String::as_str).collect();
    if servers.is_empty() {
        servers = of_host("nameserver");
        if isolated {
            servers.retain(|s| reachable(s));
            if servers.is_empty() {
                servers = PUBLIC_DNS.to_vec();
            }
        }
    }
    let or_host = |own: &[String], key: &'static str| -> Vec<String> {
        if own.is_empty() {
            of_host(key).into_iter().map(str::to_owned).collect()
        } else {
            own.to_vec()
        }
    };
    let (search, options) = (
        or_host(&wanted.search, "search"),
        or_host(&wanted.options, "options"),
    );
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // `--dns-search .` means none.
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// The text of /etc/resolv.conf where names of networks are served, at `resolver`.
pub(crate) fn resolv_conf_of(resolver: IpAddr, host: &str, wanted: &Dns) -> String {
    let mut options: Vec<String> = if wanted.options.is_empty() {
        said_of("options", host).map(str::to_owned).collect()
    } else {
        wanted.options.clone()
    };
    // A name without a dot is one of the network's before it is one of a domain's.
    if !options.iter().any(|o| o.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    let dns = Dns {
        servers: vec![resolver.to_string()],
        options,
        search: wanted.search.clone(),
    };
    resolv_conf(host, &dns, true)
}

/// Not loopback, and no scoped or IPv6 address: containers of the default bridge have IPv4 only.
fn reachable(server: &str) -> bool {
    server
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_ipv4() && !ip.is_loopback())
}

/// The host's settings, as a container may use them.
pub(crate) fn host_resolv() -> String {
    let text = std::fs::read_to_string(HOST_RESOLV).unwrap_or_default();
    let stub_only = said_of("nameserver", &text).all(|server| server == "127.0.0.53");
    if stub_only && let Ok(real) = std::fs::read_to_string(SYSTEMD_RESOLV) {
        return real;
    }
    text
}

/// Writes one of the files into a container's directory, readable for its users. They are made anew at every start, so a
/// torn one harms nobody.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    let doing = || format!("write {}", path.display());
    std::fs::write(&path, text).doing(doing)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_file() {
        let ip: IpAddr = "10.0.0.2".parse().unwrap();
        let gateway = Some("10.0.0.1".parse().unwrap());
        let extra = [
            "db:10.1.1.1".to_owned(),
            "up:host-gateway".to_owned(),
            "six=[::1]".to_owned(),
        ];
        let names = own_names("web", "example.org");
        let text = hosts(&[ip], &names, &extra, gateway, "").unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.1.1.1\tdb\n10.0.0.1\tup\n::1\tsix\n10.0.0.2\tweb.example.org web\n"));
        assert!(without(&text, ip).ends_with("\tup\n::1\tsix\n"));
        assert!(extra_hosts(&["x".into()], None).is_err());
        assert!(extra_hosts(&["x:host-gateway".into()], None).is_err());
    }

    #[test]
    fn resolver_settings() {
        let host = "# c\nnameserver 127.0.0.1\nnameserver 9.9.9.9\nsearch a b\noptions ndots:1\n";
        let none = Dns::default();
        assert_eq!(
            resolv_conf(host, &none, true),
            "nameserver 9.9.9.9\nsearch a b\noptions ndots:1\n"
        );
        assert!(resolv_conf(host, &none, false).starts_with("nameserver 127.0.0.1\nnameserver 9.9.9.9\n"));
        assert!(resolv_conf("", &none, true).starts_with("nameserver 8.8.8.8\n"));
        let resolver = "127.0.0.11".parse().unwrap();
        assert_eq!(
            resolv_conf_of(resolver, "nameserver 9.9.9.9\nsearch a\noptions edns0\n", &none),
            "nameserver 127.0.0.11\nsearch a\noptions edns0 ndots:0\n"
        );
        let own = Dns {
            servers: vec!["1.1.1.1".into()],
            options: vec![],
            search: vec![".".into()],
        };
        assert_eq!(
            resolv_conf(host, &own, true),
            "nameserver 1.1.1.1\noptions ndots:1\n"
        );
    }
}
