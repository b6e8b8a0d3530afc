//! The words of `--network`, `--pid`, `--ipc`, `--uts`, `--cgroupns` and `--security-opt`, and port specifications. Pure.

use kelson_api::HostConfig;
use kelson_api::ports::{ContainerPort, parse_range};
use kelson_network::{PortSpec, Proto};

use super::record::Record;
use crate::error::{Error, Result};

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkMode {
    /// The default bridge.
    Bridge,
    Host,
    /// A namespace with loopback only.
    None,
    /// Another container's, by name or id.
    Container(String),
    /// One of the user's own, by name or id.
    User(String),
}

impl NetworkMode {
    /// # Errors
    /// `Invalid` for `container:` without a name.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "" | "default" | "bridge" => Ok(Self::Bridge),
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            other => match other.strip_prefix("container:") {
                Some("") => Err(Error::invalid("invalid container format container:<name|id>")),
                Some(name) => Ok(Self::Container(name.to_owned())),
                None => Ok(Self::User(other.to_owned())),
            },
        }
    }

    /// Whether it has places on networks.
    pub fn has_places(&self) -> bool {
        matches!(self, Self::Bridge | Self::User(_))
    }

    pub fn of(record: &Record) -> Result<Self> {
        if record.config.network_disabled {
            return Ok(Self::None);
        }
        Self::parse(&record.host.network_mode)
    }
}

/// Where a pid, ipc or uts namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamespaceMode {
    Own,
    Host,
    Container(String),
}

impl NamespaceMode {
    /// # Errors
    /// `Invalid` with docker's "invalid X mode".
    fn parse(text: &str, what: &str, own: &[&str]) -> Result<Self> {
        match text {
            "host" => Ok(Self::Host),
            t if own.contains(&t) => Ok(Self::Own),
            t => match t.strip_prefix("container:") {
                Some(name) if !name.is_empty() && what != "UTS" => Ok(Self::Container(name.to_owned())),
                _ => Err(Error::invalid(format!("invalid {what} mode: {t}"))),
            },
        }
    }

    pub fn pid(host: &HostConfig) -> Result<Self> {
        Self::parse(&host.pid_mode, "PID", &["", "private"])
    }

    pub fn ipc(host: &HostConfig) -> Result<Self> {
        Self::parse(&host.ipc_mode, "IPC", &["", "private", "shareable", "none"])
    }

    pub fn uts(host: &HostConfig) -> Result<Self> {
        Self::parse(&host.uts_mode, "UTS", &[""])
    }
}

/// What `--security-opt` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    pub no_new_privileges: Option<bool>,
    pub seccomp: SeccompChoice,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum SeccompChoice {
    /// The engine's.
    #[default]
    Default,
    Unconfined,
    /// A profile's text.
    Profile(String),
}

impl SecurityOptions {
    /// # Errors
    /// `Invalid` for an unknown option.
    pub fn parse(host: &HostConfig) -> Result<Self> {
        let mut out = Self::default();
        for option in host.security_opt.iter().flatten() {
            // docker still takes the colon of its first releases.
            let (key, value) = option
                .split_once('=')
                .or_else(|| option.split_once(':'))
                .unwrap_or((option, ""));
            match (key, value) {
                ("no-new-privileges", "" | "true") => out.no_new_privileges = Some(true),
                ("no-new-privileges", "false") => out.no_new_privileges = Some(false),
                ("seccomp", "unconfined") => out.seccomp = SeccompChoice::Unconfined,
                ("seccomp", "builtin") => out.seccomp = SeccompChoice::Default,
                ("seccomp", profile) if !profile.is_empty() => {
                    out.seccomp = SeccompChoice::Profile(profile.to_owned())
                }
                // Neither is there to be switched off, or on.
                ("apparmor" | "label", "unconfined" | "disable" | "docker-default") => {}
                ("systempaths", "unconfined") => {}
                ("apparmor", _) => {
                    return Err(Error::unsupported("AppArmor is not enabled on this host"));
                }
                ("label", _) => {}
                _ => return Err(Error::invalid(format!("invalid --security-opt 2: \"{option}\""))),
            }
        }
        Ok(out)
    }
}

/// Ports to publish, from `PortBindings` and, with `PublishAllPorts`, from the exposed ones.
///
/// # Errors
/// `Invalid` for a malformed port, address or range.
pub(crate) fn port_specs(record: &Record) -> Result<Vec<PortSpec>> {
    let mut specs = Vec::new();
    let bindings = record.host.port_bindings.iter().flatten();
    for (port, bindings) in bindings {
        let (proto, container_port) = container_port(port)?;
        for binding in bindings.iter().flatten() {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                ip => Some(
                    ip.parse()
                        .map_err(|_| Error::invalid(format!("invalid IP address: {ip}")))?,
                ),
            };
            let (host_port, host_port_end) = match binding.host_port.as_str() {
                "" => (0, 0),
                range => parse_range(range)
                    .map_err(|_| Error::invalid(format!("invalid port specification: \"{range}\"")))?,
            };
            specs.push(PortSpec {
                proto,
                host_ip,
                host_port,
                host_port_end,
                container_port,
            });
        }
    }
    if record.host.publish_all_ports {
        for port in record.config.exposed_ports.iter().flatten().map(|(p, _)| p) {
            let (proto, number) = container_port(port)?;
            if !specs
                .iter()
                .any(|s| s.proto == proto && s.container_port == number)
            {
                specs.push(PortSpec::new(proto, 0, number));
            }
        }
    }
    Ok(specs)
}

pub(crate) fn container_port(text: &str) -> Result<(Proto, u16)> {
    let port: ContainerPort = text
        .parse()
        .map_err(|_| Error::invalid(format!("invalid port specification: \"{text}\"")))?;
    match port.proto {
        kelson_api::ports::Proto::Tcp => Ok((Proto::Tcp, port.port)),
        kelson_api::ports::Proto::Udp => Ok((Proto::Udp, port.port)),
        kelson_api::ports::Proto::Sctp => Err(Error::unsupported("publishing SCTP ports is not supported")),
    }
}

/// `max-size` (`10m`) and the like: bytes.
pub(crate) fn parse_size(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, unit) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 1 << 10),
        'm' => (&lower[..lower.len() - 1], 1 << 20),
        'g' => (&lower[..lower.len() - 1], 1 << 30),
        't' => (&lower[..lower.len() - 1], 1i64 << 40),
        _ => (lower, 1),
    };
    digits.trim().parse::<i64>().ok()?.checked_mul(unit)
}

/// Signals by name, with or without `SIG`, or number, as `docker kill` takes them.
pub(crate) fn parse_signal(text: &str) -> Result<u32> {
    let bad = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(bad())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |base: u32, rest: &str, sign: i64| {
        let offset: i64 = if rest.is_empty() {
            0
        } else {
            rest[1..].parse().ok()?
        };
        u32::try_from(i64::from(base) + sign * offset)
            .ok()
            .filter(|n| (34..=64).contains(n))
    };
    let by_name = || match name {
        "CLD" => Some(17),
        "POLL" => Some(29),
        n if n.starts_with("RTMIN") && (n.len() == 5 || n[5..].starts_with('+')) => realtime(34, &n[5..], 1),
        n if n.starts_with("RTMAX") && (n.len() == 5 || n[5..].starts_with('-')) => realtime(64, &n[5..], -1),
        n => {
            let signal: nix::sys::signal::Signal = format!("SIG{n}").parse().ok()?;
            u32::try_from(signal as i32).ok()
        }
    };
    by_name().ok_or_else(bad)
}

/// How often and whether a container is started again after its end. docker's rules, pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    No,
    Always,
    UnlessStopped,
    /// At most so many times; 0 is without limit.
    OnFailure(i64),
    /// The same, and when its health check says that it is unhealthy; our own.
    OnUnhealthy(i64),
}

impl RestartPolicy {
    /// # Errors
    /// `Invalid` in docker's words.
    pub fn parse(host: &HostConfig) -> Result<Self> {
        let count = host.restart_policy.maximum_retry_count;
        let policy = match host.restart_policy.name.as_str() {
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" | "on-unhealthy" if count < 0 => {
                return Err(Error::invalid(
                    "invalid restart policy: maximum retry count cannot be negative",
                ));
            }
            "on-failure" => return Ok(Self::OnFailure(count)),
            "on-unhealthy" => return Ok(Self::OnUnhealthy(count)),
            other => {
                return Err(Error::invalid(format!(
                    "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', 'on-unhealthy', or 'unless-stopped'"
                )));
            }
        };
        if count != 0 {
            return Err(Error::invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ));
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_and_namespace_words() {
        assert_eq!(NetworkMode::parse("").unwrap(), NetworkMode::Bridge);
        assert_eq!(
            NetworkMode::parse("container:x").unwrap(),
            NetworkMode::Container("x".into())
        );
        assert_eq!(
            NetworkMode::parse("mine").unwrap(),
            NetworkMode::User("mine".into())
        );
        assert!(NetworkMode::parse("container:").is_err());
        let host = |pid: &str| HostConfig {
            pid_mode: pid.into(),
            ..Default::default()
        };
        assert_eq!(NamespaceMode::pid(&host("host")).unwrap(), NamespaceMode::Host);
        assert!(NamespaceMode::pid(&host("nope")).is_err());
    }

    #[test]
    fn signals() {
        for (text, number) in [
            ("TERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("HUP", 1),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("CLD", 17),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "NOPE", "RTMIN+99", "-1", "RTMINX"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10m"), Some(10 << 20));
        assert_eq!(parse_size("1KB"), Some(1024));
        assert_eq!(parse_size("-1"), Some(-1));
        assert_eq!(parse_size("x"), None);
        assert_eq!(parse_size(""), None);
    }

    #[test]
    fn security_options() {
        let parse = |o: &str| {
            SecurityOptions::parse(&HostConfig {
                security_opt: Some(vec![o.into()]),
                ..Default::default()
            })
        };
        assert_eq!(parse("no-new-privileges").unwrap().no_new_privileges, Some(true));
        assert_eq!(
            parse("seccomp=unconfined").unwrap().seccomp,
            SeccompChoice::Unconfined
        );
        assert_eq!(
            parse("seccomp:unconfined").unwrap().seccomp,
            SeccompChoice::Unconfined
        );
        assert!(parse("nope=1").is_err());
    }

    #[test]
    fn restart_policies() {
        let parse = |name: &str, count| {
            let policy = kelson_api::RestartPolicy {
                name: name.into(),
                maximum_retry_count: count,
            };
            RestartPolicy::parse(&HostConfig {
                restart_policy: policy,
                ..Default::default()
            })
        };
        assert_eq!(parse("", 0).unwrap(), RestartPolicy::No);
        assert_eq!(parse("on-failure", 3).unwrap(), RestartPolicy::OnFailure(3));
        assert!(parse("always", 1).is_err());
        assert!(parse("sometimes", 0).is_err());
    }
}
