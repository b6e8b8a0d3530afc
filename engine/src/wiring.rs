//! Settings to engine: which programs, which limits, and the embedded image. Everything is wired here explicitly.

use crate::config::Settings;
use anyhow::{Context, bail};
use kelson_core::{Engine, EngineConfig, NetworkSettings, RuntimeEntry};
use kelson_images::EmbeddedImage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Name of the runtime that comes with Kelson.
const OWN_RUNTIME: &str = "kelson";

/// The static program of `kelson/hello`, built by build.rs.
static HELLO: &[u8] = include_bytes!(env!("KELSON_HELLO"));

/// What the engine is told.
///
/// # Errors
/// A setting that only turns out wrong together with this machine (a program that is missing, an unknown runtime).
pub fn engine_config(settings: &Settings) -> anyhow::Result<EngineConfig> {
    let beside = std::env::current_exe().context("find kelsond's own executable")?;
    let beside = beside.parent().unwrap_or(Path::new("/"));
    let defaults = EngineConfig::default();
    let (runtimes, default_runtime) = runtimes(settings, beside)?;
    Ok(EngineConfig {
        data_root: settings.data_root.clone(),
        exec_root: settings.exec_root.clone(),
        shim: settings
            .shim
            .clone()
            .unwrap_or_else(|| beside.join("kelson-shim")),
        logger: beside.join("kelson-logger"),
        runtimes,
        default_runtime,
        cgroup_parent: settings.cgroup_parent.clone().unwrap_or(defaults.cgroup_parent),
        systemd_cgroup: settings.systemd_cgroup,
        network: network(settings)?,
        log_driver: settings.log_driver.clone(),
        log_opts: settings.log_opts.clone(),
        init: settings.init,
        init_path: settings.init_path.clone(),
        dns: settings.dns.clone(),
        dns_opts: settings.dns_opts.clone(),
        dns_search: settings.dns_search.clone(),
        labels: settings.labels.clone(),
        shm_size: settings
            .default_shm_size
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(defaults.shm_size),
        default_ulimits: settings
            .default_ulimits
            .iter()
            .map(|(n, (s, h))| (n.clone(), *s, *h))
            .collect(),
        seccomp_profile: settings.seccomp_profile.clone().map(PathBuf::from),
        no_new_privileges: settings.no_new_privileges,
        insecure_registries: settings.insecure_registries.clone(),
        registry_mirrors: settings.registry_mirrors.clone(),
        proxies: settings.proxies.clone(),
        storage_driver: settings.storage_driver,
        max_concurrent_downloads: settings
            .max_concurrent_downloads
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(defaults.max_concurrent_downloads),
        max_concurrent_uploads: settings
            .max_concurrent_uploads
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(defaults.max_concurrent_uploads),
        stop_timeout: defaults.stop_timeout,
        live_restore: true,
    })
}

fn runtimes(settings: &Settings, beside: &Path) -> anyhow::Result<(BTreeMap<String, RuntimeEntry>, String)> {
    let mut runtimes: BTreeMap<String, RuntimeEntry> = settings
        .runtimes
        .iter()
        .map(|(name, r)| {
            (
                name.clone(),
                RuntimeEntry {
                    path: r.path.clone(),
                    args: r.args.clone(),
                },
            )
        })
        .collect();
    runtimes
        .entry(OWN_RUNTIME.to_owned())
        .or_insert_with(|| RuntimeEntry {
            path: beside.join("kelson-runtime"),
            args: Vec::new(),
        });
    let default_runtime = settings
        .default_runtime
        .clone()
        .unwrap_or_else(|| OWN_RUNTIME.to_owned());
    if !runtimes.contains_key(&default_runtime) && !matches!(default_runtime.as_str(), "runc" | "crun") {
        bail!("specified default runtime {default_runtime:?} does not exist");
    }
    Ok((runtimes, default_runtime))
}

fn network(settings: &Settings) -> anyhow::Result<NetworkSettings> {
    let defaults = NetworkSettings::default();
    let ip = settings.publish_ip.as_deref().map(str::parse).transpose();
    let bridge = settings.bridge.clone().filter(|b| !b.is_empty());
    Ok(NetworkSettings {
        enabled: bridge.as_deref() != Some("none"),
        bridge: bridge.filter(|b| b != "none").unwrap_or(defaults.bridge),
        bip: settings.bip.clone(),
        pools: settings.pools.iter().map(|p| (p.base.clone(), p.size)).collect(),
        mtu: settings.mtu,
        firewall: settings.firewall,
        masquerade: settings.ip_masq,
        ip_forward: settings.ip_forward,
        icc: settings.icc,
        default_host_ip: ip.context("invalid --ip")?,
    })
}

/// Opens the engine and gives it to those who wait.
///
/// # Errors
/// What keeps the engine from opening.
pub async fn open(config: EngineConfig, opened: watch::Sender<Option<Engine>>) -> anyhow::Result<()> {
    let engine = Engine::open(config).await?;
    // Nobody waits when the daemon is already ending.
    opened.send_replace(Some(engine));
    tracing::info!("engine ready");
    Ok(())
}

/// Whether this process has looked at the embedded image: an older kelsond may have left its own.
static HELLO_IS_CURRENT: AtomicBool = AtomicBool::new(false);

/// When the embedded web server last changed.
const HELLO_CREATED: &str = "2026-11-21T00:00:00Z";

/// Makes the embedded image if `name` asks for it, so that `kelson run kelson/hello` needs no registry. A user's own
/// image of that name stays his.
pub async fn ensure_hello(engine: &Engine, name: &str) {
    let Ok(reference) = kelson_formats::Reference::parse(name) else {
        return;
    };
    if reference.with_default_tag().familiar() != "kelson/hello:latest" {
        return;
    }
    if HELLO_IS_CURRENT.load(Ordering::Relaxed) && engine.images().resolve(name).is_ok() {
        return;
    }
    let image = EmbeddedImage {
        name: "kelson/hello:latest",
        path: "/hello",
        binary: HELLO,
        cmd: &[],
        exposed_ports: &["80/tcp"],
        // Its pid 1 has no signal handlers (see hello/main.rs), and the kernel drops what such a pid 1 is sent.
        stop_signal: "SIGKILL",
        labels: &[("org.opencontainers.image.title", "kelson/hello")],
        created: HELLO_CREATED,
    };
    match engine.images().ensure_embedded(image).await {
        Ok(_) => HELLO_IS_CURRENT.store(true, Ordering::Relaxed),
        Err(error) => tracing::error!("make the embedded image {name}: {error}"),
    }
}
