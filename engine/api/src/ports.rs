//! Port specifications: `80/tcp` as in `ExposedPorts`, and `[[ip:]hostPort:]containerPort[/proto]` as in `-p`.

use crate::host_config::{PortBinding, PortMap};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Proto {
    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
            Proto::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One container port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// Port number.
    pub port: u16,
    /// Protocol.
    pub proto: Proto,
}

impl fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.proto)
    }
}

/// A port specification that is not one; the text says why, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortError(pub String);

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PortError {}

impl FromStr for ContainerPort {
    type Err = PortError;
    fn from_str(text: &str) -> Result<Self, PortError> {
        let (number, proto) = split_proto(text)?;
        let port = number
            .parse()
            .map_err(|_| PortError(format!("invalid port '{text}'")))?;
        Ok(ContainerPort { port, proto })
    }
}

fn split_proto(text: &str) -> Result<(&str, Proto), PortError> {
    let (number, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let proto = match proto.to_ascii_lowercase().as_str() {
        "tcp" | "" => Proto::Tcp,
        "udp" => Proto::Udp,
        "sctp" => Proto::Sctp,
        other => return Err(PortError(format!("invalid proto: {other}"))),
    };
    Ok((number, proto))
}

/// Inclusive range of ports, `8000-8010` or `80`.
///
/// # Errors
/// Not numbers, 0..=65535 exceeded, or end before start.
pub fn parse_range(text: &str) -> Result<(u16, u16), PortError> {
    let bad = || PortError(format!("invalid port range: {text}"));
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end): (u16, u16) = (start.parse().map_err(|_| bad())?, end.parse().map_err(|_| bad())?);
    if end < start {
        return Err(bad());
    }
    Ok((start, end))
}

/// A parsed `--publish` value, ranges spread out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// The container's port.
    pub container: ContainerPort,
    /// Address on the host, empty for all.
    pub host_ip: String,
    /// Port on the host, empty to let the engine choose; may be a range to choose from (`8000-8010`).
    pub host_port: String,
}

/// Parses `-p`: `80`, `8080:80`, `127.0.0.1:8080:80`, `[::1]:80:80`, `127.0.0.1::80`, `8000-8010:80-90/udp`.
///
/// # Errors
/// A text that is not of these forms, in docker's words.
pub fn parse_publish(text: &str) -> Result<Vec<PublishedPort>, PortError> {
    let (spec, proto) = split_proto(text)?;
    let (host_ip, host, container) = split_publish(spec)?;
    if container.is_empty() {
        return Err(PortError(format!("no port specified: {text}<empty>")));
    }
    if !host_ip.is_empty() && host_ip.parse::<IpAddr>().is_err() {
        return Err(PortError(format!("invalid IP address: {host_ip}")));
    }
    let (first, last) =
        parse_range(container).map_err(|_| PortError(format!("invalid containerPort: {container}")))?;
    if first == 0 {
        return Err(PortError(format!("invalid containerPort: {container}")));
    }
    let host_range = match host {
        "" => None,
        h => Some(parse_range(h).map_err(|_| PortError(format!("invalid hostPort: {h}")))?),
    };
    let one = |port: u16, host_port: String| PublishedPort {
        container: ContainerPort { port, proto },
        host_ip: host_ip.to_owned(),
        host_port,
    };
    match host_range {
        None => Ok((first..=last).map(|p| one(p, String::new())).collect()),
        Some((h1, h2)) if h2 - h1 == last - first => Ok((first..=last)
            .zip(h1..=h2)
            .map(|(p, h)| one(p, h.to_string()))
            .collect()),
        // One container port may be given a range of host ports to choose from.
        Some((h1, h2)) if first == last => Ok(vec![one(first, format!("{h1}-{h2}"))]),
        Some(_) => Err(PortError(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ))),
    }
}

fn split_publish(spec: &str) -> Result<(&str, &str, &str), PortError> {
    if let Some(rest) = spec.strip_prefix('[') {
        let bad = || PortError(format!("invalid IP address: {spec}"));
        let (ip, rest) = rest.split_once(']').ok_or_else(bad)?;
        let rest = rest.strip_prefix(':').ok_or_else(bad)?;
        let (host, container) = rest.split_once(':').unwrap_or(("", rest));
        return Ok((ip, host, container));
    }
    let mut parts = spec.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    Ok((parts.next().unwrap_or_default(), host, container))
}

/// Adds a published port to `PortBindings`.
pub fn add_binding(map: &mut PortMap, port: &PublishedPort) {
    map.entry(port.container.to_string())
        .or_default()
        .get_or_insert_default()
        .push(PortBinding {
            host_ip: port.host_ip.clone(),
            host_port: port.host_port.clone(),
        });
}

/// Any text is parsed or refused, and what is parsed can be published.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(port) = text.parse::<ContainerPort>() {
        assert_eq!(port.to_string().parse(), Ok(port));
    }
    let mut map = PortMap::new();
    for port in parse_publish(&text).into_iter().flatten() {
        add_binding(&mut map, &port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        match parse_publish(text) {
            Ok(ports) => ports
                .iter()
                .map(|p| format!("{}|{}|{}", p.host_ip, p.host_port, p.container))
                .collect::<Vec<_>>()
                .join(" "),
            Err(e) => format!("! {e}"),
        }
    }

    #[test]
    fn publish_forms() {
        assert_eq!(show("80"), "||80/tcp");
        assert_eq!(show("8080:80"), "|8080|80/tcp");
        assert_eq!(show("127.0.0.1:8080:80/udp"), "127.0.0.1|8080|80/udp");
        assert_eq!(show("127.0.0.1::80"), "127.0.0.1||80/tcp");
        assert_eq!(show("[::1]:8080:80"), "::1|8080|80/tcp");
        assert_eq!(show("[::1]::80"), "::1||80/tcp");
        assert_eq!(show("8000-8001:80-81"), "|8000|80/tcp |8001|81/tcp");
        assert_eq!(show("8000-8010:80"), "|8000-8010|80/tcp");
        assert_eq!(show("::80"), "||80/tcp");
    }

    #[test]
    fn bad_publish_forms() {
        for text in [
            "",
            "8080:",
            "a:80",
            "80:b",
            "1.2.3:80:80",
            "8000-8001:80-85",
            "70000:80",
            "80/icmp",
            "90-80",
        ] {
            assert!(show(text).starts_with('!'), "{text}: {}", show(text));
        }
    }

    #[test]
    fn container_ports() {
        assert_eq!("80".parse::<ContainerPort>().unwrap().to_string(), "80/tcp");
        assert_eq!("53/UDP".parse::<ContainerPort>().unwrap().to_string(), "53/udp");
        assert!("x/tcp".parse::<ContainerPort>().is_err());
    }
}
