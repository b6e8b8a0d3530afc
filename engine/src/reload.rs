//! SIGHUP: the configuration is read again, and what can change while kelsond runs changes.

use crate::config::Settings;
use crate::server::App;
use std::sync::atomic::Ordering;

/// What takes effect at once.
const AT_ONCE: &[&str] = &["debug", "log-level"];

/// Applies new settings. A change that needs a restart is named in the log and left alone; so is a level that
/// RUST_LOG has set.
pub fn apply(app: &App, new: &Settings, set_level: impl FnOnce(&str) -> Result<(), String>) {
    app.debug.store(new.debug, Ordering::Relaxed);
    if let Err(error) = set_level(&new.log_level) {
        tracing::error!("reload: set the log level to {}: {error}", new.log_level);
    }
    for key in waiting(&app.settings, new) {
        tracing::warn!("reload: the new {key} takes effect when kelsond is started again");
    }
    tracing::info!("configuration reloaded ({})", AT_ONCE.join(", "));
}

/// The settings that differ and cannot change now.
fn waiting(old: &Settings, new: &Settings) -> Vec<&'static str> {
    macro_rules! differ {
        ($($field:ident = $key:literal),* $(,)?) => {
            [$((old.$field != new.$field, $key)),*]
        };
    }
    let all = differ!(
        data_root = "data-root",
        exec_root = "exec-root",
        hosts = "hosts",
        tls = "tls",
        metrics = "metrics-addr",
        log_format = "log-format",
        group = "group",
        bridge = "bridge",
        bip = "bip",
        pools = "default-address-pools",
        firewall = "iptables",
        icc = "icc",
        mtu = "mtu",
        cgroup_parent = "cgroup-parent",
        systemd_cgroup = "exec-opts",
        default_runtime = "default-runtime",
        runtimes = "runtimes",
        insecure_registries = "insecure-registries",
        registry_mirrors = "registry-mirrors",
        proxies = "proxies",
        max_concurrent_downloads = "max-concurrent-downloads",
        max_concurrent_uploads = "max-concurrent-uploads",
        log_driver = "log-driver",
        log_opts = "log-opts",
        default_ulimits = "default-ulimits",
        dns = "dns",
        dns_search = "dns-search",
        dns_opts = "dns-opts",
        init = "init",
        default_shm_size = "default-shm-size",
        seccomp_profile = "seccomp-profile",
        labels = "labels",
    );
    all.into_iter()
        .filter_map(|(differs, key)| differs.then_some(key))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, resolve};

    #[test]
    fn what_cannot_change_is_named() {
        let settings = |text: &str| resolve(&Flags::default(), Some(text)).unwrap();
        let old = settings("{}");
        assert!(waiting(&old, &settings(r#"{"debug": true, "log-level": "warn"}"#)).is_empty());
        assert_eq!(
            waiting(&old, &settings(r#"{"labels": ["a=b"], "mtu": 1400}"#)),
            ["mtu", "labels"]
        );
    }
}
