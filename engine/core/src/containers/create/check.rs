//! Everything that can be wrong with a create request, found before anything is made.

use kelson_api::{ContainerConfig, HostConfig};
use kelson_images::RootOptions;

use crate::config::EngineConfig;
use crate::containers::modes::{
    NamespaceMode, NetworkMode, RestartPolicy, SecurityOptions, parse_signal, parse_size,
};
use crate::error::{Error, Result};
use crate::spec;

/// Longest host name the kernel takes.
const MAX_HOSTNAME: usize = 63;

/// Refuses what cannot be done, and returns what the user should know nonetheless.
pub(super) fn check(
    config: &ContainerConfig,
    host: &HostConfig,
    engine: &EngineConfig,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    names(config)?;
    warnings.extend(crate::containers::health::check(config)?);
    let network = NetworkMode::parse(&host.network_mode)?;
    conflicts(config, host, &network, &mut warnings)?;
    NamespaceMode::pid(host)?;
    NamespaceMode::ipc(host)?;
    NamespaceMode::uts(host)?;
    SecurityOptions::parse(host)?;
    spec::check_resources(host)?;
    unsupported(config, host)?;
    runtime(&host.runtime, engine)?;
    crate::containers::logging::check(host)?;
    if host.restart_policy.name != "no" && !host.restart_policy.name.is_empty() && host.auto_remove {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    RestartPolicy::parse(host)?;
    if !config.stop_signal.is_empty() {
        parse_signal(&config.stop_signal)?;
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "host" | "private") {
        return Err(Error::invalid(format!(
            "invalid cgroup namespace mode: {}",
            host.cgroupns_mode
        )));
    }
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    Ok(warnings)
}

fn names(config: &ContainerConfig) -> Result<()> {
    if config.hostname.len() > MAX_HOSTNAME {
        return Err(Error::invalid(format!(
            "invalid hostname: longer than {MAX_HOSTNAME} characters"
        )));
    }
    for env in config.env.iter().flatten() {
        if env.is_empty() || env.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {env}")));
        }
        if env.contains('\0') {
            return Err(Error::invalid("invalid environment variable: it contains a NUL"));
        }
    }
    Ok(())
}

fn conflicts(
    config: &ContainerConfig,
    host: &HostConfig,
    network: &NetworkMode,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let published = host.port_bindings.as_ref().is_some_and(|p| !p.is_empty()) || host.publish_all_ports;
    let conflict = |text: &str| Err(Error::invalid(format!("conflicting options: {text}")));
    match network {
        NetworkMode::Container(_) => {
            if !config.hostname.is_empty() && host.uts_mode.is_empty() {
                return conflict("hostname and the network mode");
            }
            if published {
                return conflict("port publishing and the container type network mode");
            }
            if config.exposed_ports.as_ref().is_some_and(|p| !p.is_empty()) {
                return conflict("port exposing and the container type network mode");
            }
            if host.dns.as_ref().is_some_and(|d| !d.is_empty()) {
                return conflict("dns and the network mode");
            }
            if host.extra_hosts.as_ref().is_some_and(|h| !h.is_empty()) {
                return conflict("custom host-to-IP mapping and the network mode");
            }
        }
        NetworkMode::Host if published => {
            warnings.push("Published ports are discarded when using host network mode".into());
        }
        _ => {}
    }
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return conflict("hostname and the UTS mode");
    }
    if host.memory > 0 && host.oom_kill_disable == Some(true) {
        // It is what docker warns about the other way round: without a limit it is dangerous.
    } else if host.oom_kill_disable == Some(true) {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .into(),
        );
    }
    Ok(())
}

fn unsupported(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    // A driver that nothing is asked of is only a word.
    let volumes = config.volumes.as_ref().is_some_and(|v| !v.is_empty())
        || host.binds.as_ref().is_some_and(|b| !b.is_empty());
    let cases = [
        (
            !matches!(host.userns_mode.as_str(), "" | "host"),
            "user namespaces (--userns) are not supported yet",
        ),
        (
            !matches!(host.isolation.as_str(), "" | "default"),
            "isolation technologies are for Windows",
        ),
        (
            volumes && !matches!(host.volume_driver.as_str(), "" | "local"),
            "volume drivers other than local are not supported",
        ),
        (
            host.device_requests.as_ref().is_some_and(|d| !d.is_empty()),
            "device requests (--gpus) are not supported yet",
        ),
        (
            !host.cgroup.is_empty(),
            "joining another container's cgroup is not supported",
        ),
    ];
    match cases.iter().find(|(hit, _)| *hit) {
        Some((_, text)) => Err(Error::unsupported(*text)),
        None => Ok(()),
    }
}

/// The name of the runtime, checked.
pub(super) fn runtime(wanted: &str, engine: &EngineConfig) -> Result<String> {
    let name = if wanted.is_empty() {
        &engine.default_runtime
    } else {
        wanted
    };
    if crate::containers::runtime_path(engine, name).is_none() {
        return Err(Error::invalid(format!("unknown or invalid runtime name: {name}")));
    }
    Ok(name.to_owned())
}

/// `--storage-opt`: how large what the container writes may become.
///
/// # Errors
/// `Invalid` for another option, and for a size that is none.
pub(crate) fn root_options(host: &HostConfig) -> Result<RootOptions> {
    let mut options = RootOptions::default();
    for (key, value) in host.storage_opt.iter().flatten() {
        if key != "size" {
            return Err(Error::invalid(format!("Unknown option {key}")));
        }
        let bytes = parse_size(value)
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| *n > 0);
        let bad = || Error::invalid(format!("invalid size: '{value}' (--storage-opt size)"));
        options.limit = Some(bytes.ok_or_else(bad)?);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn engine() -> EngineConfig {
        let mut engine = EngineConfig::default();
        engine.runtimes.insert("kelson".into(), Default::default());
        engine
    }

    fn error(change: impl Fn(&mut ContainerConfig, &mut HostConfig)) -> (Kind, String) {
        let (mut config, mut host) = (ContainerConfig::default(), HostConfig::default());
        change(&mut config, &mut host);
        let e = check(&config, &host, &engine()).unwrap_err();
        (e.kind(), e.to_string())
    }

    #[test]
    fn bad_requests_are_refused_in_dockers_words() {
        assert_eq!(
            check(&ContainerConfig::default(), &HostConfig::default(), &engine()).unwrap(),
            [""; 0]
        );
        assert_eq!(
            error(|_, h| h.runtime = "nope".into()).1,
            "unknown or invalid runtime name: nope"
        );
        let (_, text) = error(|_, h| {
            h.auto_remove = true;
            h.restart_policy.name = "always".into();
        });
        assert_eq!(text, "can't create 'AutoRemove' container with restart policy");
        assert!(
            error(|c, h| {
                c.hostname = "x".into();
                h.uts_mode = "host".into();
            })
            .1
            .contains("UTS mode")
        );
        assert!(error(|_, h| h.userns_mode = "x".into()).0 == Kind::Unsupported);
        assert!(
            error(|c, _| c.working_dir = "rel".into())
                .1
                .contains("absolute path")
        );
        assert!(
            error(|c, _| c.stop_signal = "NOPE".into())
                .1
                .contains("invalid signal")
        );
        assert!(
            error(|c, _| c.env = Some(vec!["=x".into()]))
                .1
                .contains("invalid environment")
        );
        assert!(
            error(|_, h| h.log_config.r#type = "loki".into())
                .1
                .contains("no log driver named 'loki'")
        );
        assert!(
            error(|_, h| h.pid_mode = "x".into())
                .1
                .contains("invalid PID mode")
        );
    }

    #[test]
    fn what_is_harmless_is_a_warning() {
        let host = HostConfig {
            network_mode: "host".into(),
            publish_all_ports: true,
            ..Default::default()
        };
        assert_eq!(
            check(&ContainerConfig::default(), &host, &engine()).unwrap(),
            ["Published ports are discarded when using host network mode"]
        );
    }
}
