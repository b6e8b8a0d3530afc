//! What the engine knows about itself and its host.

use std::path::Path;

use kelson_api::{
    AddressPool, Commit, Map, PluginsInfo, RegistryServiceConfig, RuntimeInfo, SwarmInfo, SystemInfo,
};

use crate::clock;
use crate::containers::logging;
use crate::containers::record::Status;
use crate::inner::Inner;

/// The facts core knows. The server adds its own.
pub(crate) fn collect(inner: &Inner) -> SystemInfo {
    let config = &inner.config;
    let mut counts = [0i64; 3];
    for container in inner.containers.all() {
        let index = match container.status() {
            Status::Running | Status::Restarting => 0,
            Status::Paused => 1,
            _ => 2,
        };
        counts[index] += 1;
    }
    let [running, paused, stopped] = counts;
    let uname = nix::sys::utsname::uname().ok();
    let word = |get: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        uname
            .as_ref()
            .map(|u| get(u).to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let has = |controller: &str, file: &str| cgroup_has(inner.unified_cgroup, controller, file);
    let pool = |(base, size): &(String, u8)| AddressPool {
        base: base.clone(),
        size: (*size).into(),
    };
    let os = os_release();
    SystemInfo {
        id: inner.networks.predefined_id("bridge"),
        containers: running + paused + stopped,
        containers_running: running,
        containers_paused: paused,
        containers_stopped: stopped,
        images: i64::try_from(inner.images.list().len()).unwrap_or(i64::MAX),
        driver: inner.config.storage_driver.name().into(),
        driver_status: [
            ["Backing Filesystem", &filesystem(&config.data_root)],
            ["Supports d_type", "true"],
        ]
        .map(|pair| pair.map(str::to_owned))
        .to_vec(),
        plugins: PluginsInfo {
            volume: Some(vec!["local".into()]),
            network: Some(["bridge", "host", "null"].map(String::from).to_vec()),
            authorization: None,
            log: Some(logging::NAMES.map(String::from).to_vec()),
        },
        memory_limit: has("memory", "memory.limit_in_bytes"),
        swap_limit: has("memory", "memory.memsw.limit_in_bytes"),
        cpu_cfs_period: has("cpu", "cpu.cfs_period_us"),
        cpu_cfs_quota: has("cpu", "cpu.cfs_quota_us"),
        cpu_shares: has("cpu", "cpu.shares"),
        cpu_set: has("cpuset", "cpuset.cpus"),
        pids_limit: has("pids", ""),
        oom_kill_disable: !inner.unified_cgroup && has("memory", "memory.oom_control"),
        ipv4_forwarding: flag("/proc/sys/net/ipv4/ip_forward"),
        bridge_nf_iptables: flag("/proc/sys/net/bridge/bridge-nf-call-iptables"),
        bridge_nf_ip6tables: flag("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
        system_time: clock::now(),
        logging_driver: config.log_driver.clone(),
        cgroup_driver: if config.systemd_cgroup {
            "systemd"
        } else {
            "cgroupfs"
        }
        .into(),
        cgroup_version: if inner.unified_cgroup { "2" } else { "1" }.into(),
        n_events_listener: i64::try_from(inner.events.listeners()).unwrap_or(i64::MAX),
        kernel_version: word(|u| u.release()),
        operating_system: os.0,
        os_version: os.1,
        os_type: "linux".into(),
        architecture: word(|u| u.machine()),
        index_server_address: "https://index.docker.io/v1/".into(),
        registry_config: Some(RegistryServiceConfig {
            insecure_registry_cidrs: vec!["127.0.0.0/8".into(), "::1/128".into()],
            index_configs: Map::new(),
            mirrors: (!config.registry_mirrors.is_empty()).then(|| config.registry_mirrors.clone()),
        }),
        ncpu: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(i64::MAX)),
        mem_total: mem_total(),
        docker_root_dir: config.data_root.display().to_string(),
        name: word(|u| u.nodename()),
        labels: config.labels.clone(),
        runtimes: config
            .runtimes
            .iter()
            .map(|(name, r)| {
                let args = (!r.args.is_empty()).then(|| r.args.clone());
                (
                    name.clone(),
                    RuntimeInfo {
                        path: r.path.display().to_string(),
                        runtime_args: args,
                        status: None,
                    },
                )
            })
            .collect(),
        default_runtime: config.default_runtime.clone(),
        swarm: SwarmInfo {
            local_node_state: "inactive".into(),
            ..SwarmInfo::default()
        },
        live_restore_enabled: config.live_restore,
        init_binary: config
            .init_path
            .as_ref()
            .map_or_else(|| "docker-init".to_owned(), |path| path.display().to_string()),
        containerd_commit: Commit::default(),
        runc_commit: Commit::default(),
        init_commit: Commit::default(),
        security_options: security(inner),
        default_address_pools: (!config.network.pools.is_empty())
            .then(|| config.network.pools.iter().map(pool).collect()),
        ..SystemInfo::default()
    }
}

fn security(inner: &Inner) -> Vec<String> {
    let profile = if inner.config.seccomp_profile.is_some() {
        "custom"
    } else {
        "builtin"
    };
    let mut out = vec![format!("name=seccomp,profile={profile}")];
    if inner.unified_cgroup {
        out.push("name=cgroupns".into());
    }
    if inner.config.no_new_privileges {
        out.push("name=no-new-privileges".into());
    }
    out
}

fn flag(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|t| t.trim() == "1")
}

/// Whether containers can be limited so. On v2 a controller brings all its files.
fn cgroup_has(unified: bool, controller: &str, file: &str) -> bool {
    if unified {
        let text = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        return text.split_whitespace().any(|c| c == controller);
    }
    Path::new("/sys/fs/cgroup").join(controller).join(file).exists()
}

pub(crate) fn mem_total() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: Option<i64> = text.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}

/// Name and version of the distribution.
fn os_release() -> (String, String) {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key));
        line.map(|v| v.trim_matches('"').to_owned()).unwrap_or_default()
    };
    let name = value("PRETTY_NAME=");
    (
        if name.is_empty() { "Linux".into() } else { name },
        value("VERSION_ID="),
    )
}

fn filesystem(path: &Path) -> String {
    match nix::sys::statfs::statfs(path).map(|s| s.filesystem_type()) {
        Ok(nix::sys::statfs::EXT4_SUPER_MAGIC) => "extfs".into(),
        Ok(nix::sys::statfs::XFS_SUPER_MAGIC) => "xfs".into(),
        Ok(nix::sys::statfs::BTRFS_SUPER_MAGIC) => "btrfs".into(),
        Ok(nix::sys::statfs::TMPFS_MAGIC) => "tmpfs".into(),
        _ => "<unknown>".into(),
    }
}
