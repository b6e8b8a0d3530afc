//! What kelsond tells the engine at start. No defaults are looked up here: the caller parsed flags and file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use kelson_images::{Proxies, StorageDriver};

/// An OCI runtime the engine may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeEntry {
    /// Absolute path of the runtime's binary.
    pub path: PathBuf,
    /// Extra arguments, as in dockerd's `runtimeArgs` (kept for `info`; the shim takes none yet).
    pub args: Vec<String>,
}

/// The default bridge network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Link name of the default bridge, at most 15 bytes.
    pub bridge: String,
    /// Address and prefix of the bridge (`--bip`); the first free pool is used if absent.
    pub bip: Option<String>,
    /// Address pools (`base` in CIDR notation, prefix length of one network).
    pub pools: Vec<(String, u8)>,
    /// MTU of the bridge and of the containers' links.
    pub mtu: Option<u32>,
    /// Whether firewall rules are written at all (`--iptables`).
    pub firewall: bool,
    /// Whether containers' outgoing traffic is masqueraded (`--ip-masq`).
    pub masquerade: bool,
    /// Whether ip_forward is turned on (`--ip-forward`).
    pub ip_forward: bool,
    /// Whether containers on the bridge may talk to each other (`--icc`).
    pub icc: bool,
    /// Address that `-p` binds when none is given (`--ip`).
    pub default_host_ip: Option<IpAddr>,
    /// False: no bridge is made and `bridge` is not offered (`--bridge none`).
    pub enabled: bool,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            bridge: "kls0".into(),
            bip: None,
            pools: Vec::new(),
            mtu: None,
            firewall: true,
            masquerade: true,
            ip_forward: true,
            icc: true,
            default_host_ip: None,
            enabled: true,
        }
    }
}

/// Everything `Engine::open` needs.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Whether containers get an init that say nothing about it (`--init`).
    pub init: bool,
    /// A program to be that init instead of our own (`--init-path`).
    pub init_path: Option<PathBuf>,
    /// Persistent state; `/var/lib/kelson`.
    pub data_root: PathBuf,
    /// State that ends with the boot; `/run/kelson`.
    pub exec_root: PathBuf,
    /// Absolute path of `kelson-shim`.
    pub shim: PathBuf,
    /// Absolute path of `kelson-logger`, which carries output to log drivers.
    pub logger: PathBuf,
    /// Runtimes by name.
    pub runtimes: BTreeMap<String, RuntimeEntry>,
    /// Name of the runtime a container gets that names none.
    pub default_runtime: String,
    /// Absolute cgroup path below which containers' cgroups are made.
    pub cgroup_parent: String,
    /// systemd makes the cgroups (`native.cgroupdriver=systemd`).
    pub systemd_cgroup: bool,
    /// Default bridge network.
    pub network: NetworkSettings,
    /// Default log driver.
    pub log_driver: String,
    /// Default log options (`max-size`, `max-file`).
    pub log_opts: BTreeMap<String, String>,
    /// How long `stop` waits before SIGKILL when neither request nor container says.
    pub stop_timeout: Duration,
    /// Containers keep running when kelsond ends. False: `shutdown` stops them.
    pub live_restore: bool,
    /// DNS servers for containers; the host's are used if empty.
    pub dns: Vec<String>,
    /// DNS options for containers.
    pub dns_opts: Vec<String>,
    /// DNS search domains for containers.
    pub dns_search: Vec<String>,
    /// Labels of the daemon, for `info`.
    pub labels: Vec<String>,
    /// Default size of /dev/shm in bytes.
    pub shm_size: u64,
    /// Default ulimits (name, soft, hard).
    pub default_ulimits: Vec<(String, i64, i64)>,
    /// Path of a seccomp profile that replaces the built-in one (`--seccomp-profile`).
    pub seccomp_profile: Option<PathBuf>,
    /// `no-new-privileges` for every container.
    pub no_new_privileges: bool,
    /// Registries spoken to over plain HTTP or with an unverified certificate.
    pub insecure_registries: Vec<String>,
    /// Mirrors of Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// The way to registries.
    pub proxies: Proxies,
    /// What makes containers' roots.
    pub storage_driver: StorageDriver,
    /// Layers fetched at once by one pull.
    pub max_concurrent_downloads: usize,
    /// Layers sent at once by one push.
    pub max_concurrent_uploads: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            init: false,
            init_path: None,
            data_root: "/var/lib/kelson".into(),
            exec_root: "/run/kelson".into(),
            shim: "kelson-shim".into(),
            logger: "kelson-logger".into(),
            runtimes: BTreeMap::new(),
            default_runtime: "kelson".into(),
            cgroup_parent: "/kelson".into(),
            systemd_cgroup: false,
            network: NetworkSettings::default(),
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            stop_timeout: Duration::from_secs(10),
            live_restore: true,
            dns: Vec::new(),
            dns_opts: Vec::new(),
            dns_search: Vec::new(),
            labels: Vec::new(),
            shm_size: 64 << 20,
            default_ulimits: Vec::new(),
            seccomp_profile: None,
            no_new_privileges: false,
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            proxies: Proxies::from_env(),
            storage_driver: StorageDriver::default(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
        }
    }
}
