//! kelsond's command line: dockerd's flags.

use clap::{ArgAction, Parser};
use std::path::PathBuf;

/// kelsond, the Kelson daemon. It speaks the Docker Engine API.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "kelsond", disable_version_flag = true, args_override_self = false)]
pub struct Flags {
    /// Root directory of persistent state
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Root directory for state of running containers
    #[arg(long, value_name = "DIR")]
    pub exec_root: Option<PathBuf>,
    /// Addresses to listen on (unix:///path, tcp://host:port)
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub hosts: Vec<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Group of the unix socket
    #[arg(short = 'G', long, value_name = "GROUP")]
    pub group: Option<String>,
    /// File to write the daemon's pid to
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Debug mode
    #[arg(short = 'D', long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub debug: Option<bool>,
    /// Logging level (debug, info, warn, error, fatal)
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Format of the daemon's own log (text, json)
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Bridge for containers; "none" disables container networking
    #[arg(short = 'b', long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// Address and prefix of the default bridge
    #[arg(long, value_name = "CIDR")]
    pub bip: Option<String>,
    /// Pools for networks, base=CIDR,size=BITS
    #[arg(long, value_name = "POOL")]
    pub default_address_pool: Vec<String>,
    /// Range of container addresses on the default bridge
    #[arg(long, value_name = "CIDR")]
    pub fixed_cidr: Option<String>,
    /// Default gateway of containers
    #[arg(long, value_name = "IP")]
    pub default_gateway: Option<String>,
    /// Manage firewall rules
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub iptables: Option<bool>,
    /// Manage firewall rules for IPv6
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ip6tables: Option<bool>,
    /// Switch on IP forwarding
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ip_forward: Option<bool>,
    /// Masquerade what leaves the host
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ip_masq: Option<bool>,
    /// Communication among containers of the default bridge
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub icc: Option<bool>,
    /// IPv6 on the default bridge
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ipv6: Option<bool>,
    /// Default address when publishing ports
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// Parent cgroup of all containers
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// Runtime options (native.cgroupdriver=cgroupfs|systemd)
    #[arg(long = "exec-opt", value_name = "KEY=VALUE")]
    pub exec_opts: Vec<String>,
    /// Runtime used when a container names none
    #[arg(long, value_name = "NAME")]
    pub default_runtime: Option<String>,
    /// Further runtimes, name=path
    #[arg(long, value_name = "NAME=PATH")]
    pub add_runtime: Vec<String>,
    /// Program that supervises containers (default: kelson-shim beside kelsond)
    #[arg(long, value_name = "PATH")]
    pub shim: Option<PathBuf>,
    /// Registries to use without TLS or its checks
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Mirrors of Docker Hub
    #[arg(long, value_name = "URL")]
    pub registry_mirror: Vec<String>,
    /// Proxy for registries without TLS
    #[arg(long, value_name = "URL")]
    pub http_proxy: Option<String>,
    /// Proxy for registries with TLS
    #[arg(long, value_name = "URL")]
    pub https_proxy: Option<String>,
    /// Hosts, domains and address ranges that are asked without a proxy
    #[arg(long, value_name = "LIST")]
    pub no_proxy: Option<String>,
    /// Default log driver of containers
    #[arg(long, value_name = "NAME")]
    pub log_driver: Option<String>,
    /// Default options of the log driver
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    pub log_opts: Vec<String>,
    /// Default limits of containers, name=soft[:hard]
    #[arg(long = "default-ulimit", value_name = "LIMIT")]
    pub default_ulimits: Vec<String>,
    /// DNS servers of containers
    #[arg(long, value_name = "IP")]
    pub dns: Vec<String>,
    /// DNS search domains of containers
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// DNS options of containers
    #[arg(long = "dns-opt", value_name = "OPTION")]
    pub dns_opts: Vec<String>,
    /// MTU of the default bridge
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Accepted for dockerd's sake: containers always live on without kelsond
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub live_restore: Option<bool>,
    /// Accepted for dockerd's sake: loopback traffic is forwarded by each container's shim
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub userland_proxy: Option<bool>,
    /// Accepted for dockerd's sake: kelsond's end stops no container
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub shutdown_timeout: Option<i64>,
    /// Check the configuration and exit
    #[arg(long)]
    pub validate: bool,
    /// Storage driver (overlay2, fuse-overlayfs, vfs, btrfs)
    #[arg(short = 's', long, value_name = "NAME")]
    pub storage_driver: Option<String>,
    /// Storage driver options
    #[arg(long = "storage-opt", value_name = "KEY=VALUE")]
    pub storage_opts: Vec<String>,
    /// Default size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub default_shm_size: Option<String>,
    /// Default cgroup namespace mode (private, host)
    #[arg(long, value_name = "MODE")]
    pub default_cgroupns_mode: Option<String>,
    /// Default IPC mode (private, shareable)
    #[arg(long, value_name = "MODE")]
    pub default_ipc_mode: Option<String>,
    /// Run an init in every container
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub init: Option<bool>,
    /// The init's program, if not our own
    #[arg(long, value_name = "PATH")]
    pub init_path: Option<PathBuf>,
    /// Seccomp profile (path, "builtin", "unconfined")
    #[arg(long, value_name = "PROFILE")]
    pub seccomp_profile: Option<String>,
    /// SELinux support
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub selinux_enabled: Option<bool>,
    /// Set no_new_privs by default
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub no_new_privileges: Option<bool>,
    /// Layers pulled at a time
    #[arg(long, value_name = "N")]
    pub max_concurrent_downloads: Option<u32>,
    /// Layers pushed at a time
    #[arg(long, value_name = "N")]
    pub max_concurrent_uploads: Option<u32>,
    /// Attempts per layer
    #[arg(long, value_name = "N")]
    pub max_download_attempts: Option<u32>,
    /// Labels of the daemon
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Experimental features
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub experimental: Option<bool>,
    /// User namespace remapping
    #[arg(long, value_name = "USER")]
    pub userns_remap: Option<String>,
    /// Authorization plugins
    #[arg(long = "authorization-plugin", value_name = "NAME")]
    pub authorization_plugins: Vec<String>,
    /// Containerd socket (Kelson needs no containerd)
    #[arg(long, value_name = "PATH")]
    pub containerd: Option<String>,
    /// Address of a metrics endpoint
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_addr: Option<String>,
    /// Use TLS
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tls: Option<bool>,
    /// Use TLS and verify clients
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tlsverify: Option<bool>,
    /// CA certificate
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<String>,
    /// Server certificate
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<String>,
    /// Server key
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<String>,
    /// Print version and exit
    #[arg(short = 'v', long, action = ArgAction::SetTrue)]
    pub version: bool,
}
