//! The decision: flags and file become [`Settings`], or one clear error.

use super::ConfigError;
use super::file::{self, FileOnly};
use super::flags::Flags;
use super::values::{absolute, bytes, cgroup_driver, key_values, log_level, pool, runtimes, ulimit};
use crate::server::sockets::Address;
use crate::server::tls::TlsSettings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kelson_images::{Proxies, StorageDriver};

/// An address pool for networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// CIDR.
    pub base: String,
    /// Prefix length of each network taken from it.
    pub size: u8,
}

/// A configured OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Program.
    pub path: PathBuf,
    /// Arguments before the command.
    pub args: Vec<String>,
}

/// The form of the daemon's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// An object in each line.
    Json,
}

/// Everything decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Persistent state.
    pub data_root: PathBuf,
    /// State of running containers.
    pub exec_root: PathBuf,
    /// Where to listen.
    pub hosts: Vec<Address>,
    /// Where figures for Prometheus are served.
    pub metrics: Option<Address>,
    /// TLS on TCP sockets.
    pub tls: Option<TlsSettings>,
    /// Group of unix sockets.
    pub group: Option<String>,
    /// Pid file.
    pub pidfile: Option<PathBuf>,
    /// Debug mode, as `info` shows it.
    pub debug: bool,
    /// Level of the daemon's own log.
    pub log_level: String,
    /// Form of the daemon's own log.
    pub log_format: LogFormat,
    /// Link name of the default bridge.
    pub bridge: Option<String>,
    /// Address of the default bridge.
    pub bip: Option<String>,
    /// Pools.
    pub pools: Vec<Pool>,
    /// Manage the firewall.
    pub firewall: bool,
    /// Switch IP forwarding on.
    pub ip_forward: bool,
    /// Masquerade.
    pub ip_masq: bool,
    /// Containers of the default bridge may talk to each other.
    pub icc: bool,
    /// Default address of published ports.
    pub publish_ip: Option<String>,
    /// MTU.
    pub mtu: Option<u32>,
    /// Parent cgroup.
    pub cgroup_parent: Option<String>,
    /// systemd cgroup driver.
    pub systemd_cgroup: bool,
    /// Default runtime.
    pub default_runtime: Option<String>,
    /// Runtimes by name.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Shim program.
    pub shim: Option<PathBuf>,
    /// Registries without TLS.
    pub insecure_registries: Vec<String>,
    /// Mirrors of Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// The way to registries.
    pub proxies: Proxies,
    /// What makes containers' roots.
    pub storage_driver: StorageDriver,
    /// Layers pulled at a time.
    pub max_concurrent_downloads: Option<u32>,
    /// Layers pushed at a time.
    pub max_concurrent_uploads: Option<u32>,
    /// Default log driver.
    pub log_driver: String,
    /// Its options.
    pub log_opts: BTreeMap<String, String>,
    /// name → (soft, hard).
    pub default_ulimits: BTreeMap<String, (i64, i64)>,
    /// DNS servers.
    pub dns: Vec<String>,
    /// DNS search domains.
    pub dns_search: Vec<String>,
    /// DNS options.
    pub dns_opts: Vec<String>,
    /// Whether every container gets an init.
    pub init: bool,
    /// The init's program, if not our own.
    pub init_path: Option<PathBuf>,
    /// Bytes of /dev/shm.
    pub default_shm_size: Option<i64>,
    /// Seccomp profile file; `Some("unconfined")` for none.
    pub seccomp_profile: Option<String>,
    /// no_new_privs by default.
    pub no_new_privileges: bool,
    /// Labels of the daemon.
    pub labels: Vec<String>,
    /// Things to tell at start.
    pub warnings: Vec<String>,
}

/// Decides from the command line and the file's text (`None`: there is no file).
///
/// # Errors
/// The first thing that is wrong, as one sentence.
pub fn resolve(flags: &Flags, file_text: Option<&str>) -> Result<Settings, ConfigError> {
    let (from_file, only, given, mut warnings) = match file_text {
        Some(text) => {
            file::read(text).map_err(|e| ConfigError(format!("unable to configure the daemon: {e}")))?
        }
        None => (Flags::default(), FileOnly::default(), Vec::new(), Vec::new()),
    };
    let merged = merge(flags, from_file, &given)?;
    refuse(&merged)?;
    warnings.extend(without_effect(&merged));
    build(merged, only, warnings)
}

macro_rules! merge_fields {
    ($flags:ident, $file:ident, $conflicts:ident; one: $($one:ident = $key:literal),* ; many: $($many:ident = $mkey:literal),*) => {{
        let mut merged = $flags.clone();
        $(
            match (&$flags.$one, $file.$one) {
                (Some(a), Some(b)) => $conflicts.push(format!("{}: (from flag: {a:?}, from file: {b:?})", $key)),
                (None, b) => merged.$one = b,
                (Some(_), None) => {}
            }
        )*
        $(
            match ($flags.$many.is_empty(), $file.$many.is_empty()) {
                (false, false) => $conflicts
                    .push(format!("{}: (from flag: {:?}, from file: {:?})", $mkey, $flags.$many, $file.$many)),
                (true, _) => merged.$many = $file.$many,
                (false, true) => {}
            }
        )*
        merged
    }};
}

/// One value of each setting; docker's conflict error where both places have one.
fn merge(flags: &Flags, file: Flags, given: &[String]) -> Result<Flags, ConfigError> {
    let mut conflicts: Vec<String> = Vec::new();
    let merged = merge_fields!(flags, file, conflicts;
        one: data_root = "data-root", exec_root = "exec-root", group = "group", pidfile = "pidfile", debug = "debug",
            log_level = "log-level", log_format = "log-format", bridge = "bridge", bip = "bip", fixed_cidr = "fixed-cidr",
            default_gateway = "default-gateway", iptables = "iptables", ip6tables = "ip6tables",
            ip_forward = "ip-forward", ip_masq = "ip-masq", icc = "icc", ipv6 = "ipv6", ip = "ip",
            cgroup_parent = "cgroup-parent", default_runtime = "default-runtime", shim = "shim",
            log_driver = "log-driver", mtu = "mtu", live_restore = "live-restore", userland_proxy = "userland-proxy",
            shutdown_timeout = "shutdown-timeout", storage_driver = "storage-driver",
            default_shm_size = "default-shm-size", default_cgroupns_mode = "default-cgroupns-mode",
            default_ipc_mode = "default-ipc-mode", init = "init", init_path = "init-path", seccomp_profile = "seccomp-profile",
            selinux_enabled = "selinux-enabled", no_new_privileges = "no-new-privileges",
            max_concurrent_downloads = "max-concurrent-downloads", max_concurrent_uploads = "max-concurrent-uploads",
            max_download_attempts = "max-download-attempts", experimental = "experimental",
            http_proxy = "http-proxy", https_proxy = "https-proxy", no_proxy = "no-proxy",
            userns_remap = "userns-remap", containerd = "containerd", metrics_addr = "metrics-addr", tls = "tls",
            tlsverify = "tlsverify", tlscacert = "tlscacert", tlscert = "tlscert", tlskey = "tlskey";
        many: hosts = "hosts", default_address_pool = "default-address-pools", exec_opts = "exec-opts",
            insecure_registry = "insecure-registries", registry_mirror = "registry-mirrors", log_opts = "log-opts",
            default_ulimits = "default-ulimits", dns = "dns", dns_search = "dns-search", dns_opts = "dns-opts",
            storage_opts = "storage-opts", labels = "labels", authorization_plugins = "authorization-plugins"
    );
    if !flags.add_runtime.is_empty() && given.iter().any(|k| k == "runtimes") {
        conflicts.push("runtimes: (given both as flags and in the file)".to_owned());
    }
    if conflicts.is_empty() {
        return Ok(merged);
    }
    Err(ConfigError(format!(
        "unable to configure the daemon: the following directives are specified both as a flag and in the configuration file: {}",
        conflicts.join(", ")
    )))
}

/// What is not said here is the environment's to say. A proxy without a scheme is one of `http`.
fn proxies(http: Option<String>, https: Option<String>, no: Option<String>) -> Result<Proxies, ConfigError> {
    let own = Proxies::from_env();
    let url = |key: &str, given: Option<String>, own: String| {
        let Some(given) = given else { return Ok(own) };
        let url = match given.is_empty() || given.contains("://") {
            true => given,
            false => format!("http://{given}"),
        };
        let known = ["http://", "socks5://", "socks5h://"];
        let host = known.iter().find_map(|scheme| url.strip_prefix(scheme));
        match url.is_empty() || host.is_some_and(|h| !h.is_empty() && !h.starts_with(['/', ':'])) {
            true => Ok(url),
            // It may hold a password.
            false => Err(ConfigError(format!(
                "invalid {key}: want http://HOST:PORT or socks5://HOST:PORT"
            ))),
        }
    };
    Ok(Proxies {
        http: url("http-proxy", http, own.http)?,
        https: url("https-proxy", https, own.https)?,
        no: no.unwrap_or(own.no),
    })
}

/// Settings that would weaken or surprise if they were ignored.
fn refuse(f: &Flags) -> Result<(), ConfigError> {
    let refused = |what: &str| Err(ConfigError(format!("{what} is not supported by Kelson yet")));
    if f.userns_remap.as_deref().is_some_and(|v| !v.is_empty()) {
        return refused("userns-remap");
    }
    if !f.authorization_plugins.is_empty() {
        return refused("authorization-plugin");
    }
    if f.selinux_enabled == Some(true) {
        return refused("selinux-enabled");
    }
    if f.ipv6 == Some(true) {
        return refused("ipv6 on the default bridge");
    }
    if f.default_gateway.is_some() {
        return refused("default-gateway");
    }
    if f.fixed_cidr.is_some() {
        return refused("fixed-cidr");
    }
    Ok(())
}

fn metrics(address: Option<&str>) -> Result<Option<Address>, ConfigError> {
    let Some(text) = address.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match Address::parse(text, Path::new("/"), false) {
        Ok(Address::Tcp(at)) if text.rsplit_once(':').is_some() => Ok(Some(Address::Tcp(at))),
        _ => Err(ConfigError(format!("metrics-addr: {text} is not HOST:PORT"))),
    }
}

fn log_format(name: Option<&str>) -> Result<LogFormat, ConfigError> {
    match name {
        None | Some("" | "text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(name) => Err(ConfigError(format!(
            "invalid log format: {name} (log-format is text or json)"
        ))),
    }
}

fn storage_driver(name: Option<&str>) -> Result<StorageDriver, ConfigError> {
    let parsed = name.unwrap_or_default().parse::<StorageDriver>();
    parsed.map_err(|e| ConfigError(e.to_string()))
}

fn without_effect(f: &Flags) -> Vec<String> {
    let said = [
        (
            "live-restore=false",
            f.live_restore == Some(false),
            "containers always live on without kelsond",
        ),
        (
            "userland-proxy",
            f.userland_proxy.is_some(),
            "each container's shim forwards its published ports",
        ),
        (
            "shutdown-timeout",
            f.shutdown_timeout.is_some(),
            "kelsond's end stops no container",
        ),
        (
            "storage-opt",
            !f.storage_opts.is_empty(),
            "the overlay driver has no options yet",
        ),
        (
            "max-download-attempts",
            f.max_download_attempts.is_some(),
            "the number of attempts is fixed",
        ),
        (
            "experimental",
            f.experimental == Some(true),
            "there are no experimental features",
        ),
        ("containerd", f.containerd.is_some(), "Kelson needs no containerd"),
        (
            "ip6tables",
            f.ip6tables.is_some(),
            "the firewall table covers both families",
        ),
        (
            "default-cgroupns-mode",
            f.default_cgroupns_mode.is_some(),
            "the default follows the cgroup layout",
        ),
        (
            "default-ipc-mode",
            f.default_ipc_mode.as_deref().is_some_and(|m| m != "private"),
            "the default is private",
        ),
    ];
    let told = said.into_iter().filter(|(_, given, _)| *given);
    told.map(|(name, _, why)| format!("{name} has no effect: {why}"))
        .collect()
}

fn build(f: Flags, only: FileOnly, warnings: Vec<String>) -> Result<Settings, ConfigError> {
    let tls = super::tls::decide(&f, |name| std::env::var_os(name))?;
    let exec_root = f.exec_root.unwrap_or_else(|| PathBuf::from("/run/kelson"));
    let default_socket = Path::new("/run/kelson/kelson.sock");
    let hosts = match f.hosts.is_empty() {
        true => vec![Address::Unix(default_socket.to_owned())],
        false => f
            .hosts
            .iter()
            .map(|h| Address::parse(h, default_socket, tls.is_some()))
            .collect::<Result<_, _>>()
            .map_err(ConfigError)?,
    };
    let debug = f.debug.unwrap_or(false);
    let settings = Settings {
        data_root: absolute(
            "data-root",
            f.data_root.unwrap_or_else(|| PathBuf::from("/var/lib/kelson")),
        )?,
        exec_root: absolute("exec-root", exec_root)?,
        hosts,
        metrics: metrics(f.metrics_addr.as_deref())?,
        tls,
        group: f.group,
        pidfile: f.pidfile,
        debug,
        log_level: log_level(f.log_level.as_deref(), debug)?,
        log_format: log_format(f.log_format.as_deref())?,
        bridge: f.bridge,
        bip: f.bip,
        pools: f
            .default_address_pool
            .iter()
            .map(|p| pool(p))
            .collect::<Result<_, _>>()?,
        firewall: f.iptables.unwrap_or(true),
        ip_forward: f.ip_forward.unwrap_or(true),
        ip_masq: f.ip_masq.unwrap_or(true),
        icc: f.icc.unwrap_or(true),
        publish_ip: f.ip,
        mtu: f.mtu.filter(|m| *m != 0),
        cgroup_parent: f.cgroup_parent,
        systemd_cgroup: cgroup_driver(&f.exec_opts)?,
        runtimes: runtimes(&f.add_runtime, only)?,
        default_runtime: f.default_runtime,
        shim: f.shim,
        insecure_registries: f.insecure_registry,
        registry_mirrors: f.registry_mirror,
        proxies: proxies(f.http_proxy, f.https_proxy, f.no_proxy)?,
        storage_driver: storage_driver(f.storage_driver.as_deref())?,
        max_concurrent_downloads: f.max_concurrent_downloads,
        max_concurrent_uploads: f.max_concurrent_uploads,
        log_driver: f.log_driver.unwrap_or_else(|| "json-file".to_owned()),
        log_opts: key_values("log-opt", &f.log_opts)?,
        default_ulimits: f
            .default_ulimits
            .iter()
            .map(|u| ulimit(u))
            .collect::<Result<_, _>>()?,
        init: f.init.unwrap_or(false),
        init_path: f.init_path.map(init_path).transpose()?,
        dns: f.dns,
        dns_search: f.dns_search,
        dns_opts: f.dns_opts,
        default_shm_size: f.default_shm_size.map(|s| bytes(&s)).transpose()?,
        seccomp_profile: f.seccomp_profile.filter(|p| p != "builtin" && !p.is_empty()),
        no_new_privileges: f.no_new_privileges.unwrap_or(false),
        labels: f.labels,
        warnings,
    };
    Ok(settings)
}

fn init_path(path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    let path = path.display();
    Err(ConfigError(format!("init-path: {path} is not an absolute path")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn decide(args: &[&str], file: Option<&str>) -> Result<Settings, String> {
        let flags = Flags::try_parse_from(["kelsond"].iter().chain(args)).map_err(|e| e.to_string())?;
        resolve(&flags, file).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let s = decide(&[], None).unwrap();
        assert_eq!(s.data_root, Path::new("/var/lib/kelson"));
        assert_eq!(s.exec_root, Path::new("/run/kelson"));
        assert_eq!(s.hosts, [Address::Unix("/run/kelson/kelson.sock".into())]);
        assert_eq!(
            (s.log_level.as_str(), s.log_driver.as_str()),
            ("info", "json-file")
        );
        assert!(s.firewall && s.ip_forward && !s.systemd_cgroup && s.warnings.is_empty());
    }

    #[test]
    fn flags_and_file_join() {
        let file = r#"{"data-root":"/d","hosts":["unix:///x.sock","tcp://127.0.0.1:0"],"debug":true,"mtu":1400,
            "default-address-pools":[{"base":"10.1.0.0/16","size":24}],"runtimes":{"r":{"path":"/bin/r","runtimeArgs":["-x"]}},
            "init":true,"init-path":"/i","log-opts":{"max-size":"10m","max-file":"3"},"default-ulimits":{"nofile":{"Name":"nofile","Soft":10,"Hard":20}},
            "default-shm-size":"64M","insecure-registries":["a:5000"],"features":{"buildkit":true}}"#;
        let s = decide(
            &["--exec-root", "/e", "--exec-opt", "native.cgroupdriver=systemd"],
            Some(file),
        )
        .unwrap();
        assert_eq!(
            (s.data_root.as_path(), s.exec_root.as_path()),
            (Path::new("/d"), Path::new("/e"))
        );
        assert_eq!(s.hosts.len(), 2);
        assert_eq!((s.init, s.init_path.as_deref()), (true, Some(Path::new("/i"))));
        assert_eq!(s.log_level, "debug");
        assert_eq!(s.mtu, Some(1400));
        assert_eq!(
            s.pools,
            [Pool {
                base: "10.1.0.0/16".into(),
                size: 24
            }]
        );
        assert_eq!(s.runtimes["r"].args, ["-x"]);
        assert_eq!(s.log_opts["max-file"], "3");
        assert_eq!(s.default_ulimits["nofile"], (10, 20));
        assert_eq!(s.default_shm_size, Some(64 << 20));
        assert!(s.systemd_cgroup);
        assert_eq!(s.warnings.len(), 1);
    }

    #[test]
    fn a_key_in_both_places_is_a_conflict() {
        let e = decide(&["--log-level", "debug"], Some(r#"{"log-level":"info"}"#)).unwrap_err();
        assert!(
            e.contains("specified both as a flag and in the configuration file: log-level: (from flag:"),
            "{e}"
        );
        let e = decide(&["-H", "tcp://:1"], Some(r#"{"hosts":["unix:///x"]}"#)).unwrap_err();
        assert!(e.contains("hosts:"), "{e}");
    }

    #[test]
    fn wrong_files() {
        let e = decide(&[], Some(r#"{"nope":1,"debug":true}"#)).unwrap_err();
        assert!(
            e.ends_with("the following directives don't match any configuration option: nope"),
            "{e}"
        );
        assert!(
            decide(&[], Some(r#"{"debug":"yes"}"#))
                .unwrap_err()
                .ends_with("debug must be true or false")
        );
        assert!(decide(&[], Some("{")).unwrap_err().contains("not a JSON object"));
        assert!(decide(&[], Some("")).is_ok());
    }

    #[test]
    fn refused_settings_are_named() {
        for args in [
            &["--tlskey", "/k"][..],
            &["--userns-remap", "default"],
            &["--storage-driver", "zfs"],
            &["--log-level", "loud"],
            &["--log-format", "xml"],
            &["--metrics-addr", "localhost"],
            &["--metrics-addr", "unix:///x"],
            &["--exec-opt", "x"],
            &["--init-path", "relative"],
            &["--add-runtime", "x"],
            &["--default-ulimit", "nofile=5:1"],
        ] {
            assert!(decide(args, None).is_err(), "{args:?}");
        }
        assert!(decide(&["--tlsverify=false", "--storage-driver", "overlay2"], None).is_ok());
        assert_eq!(
            decide(&["--userland-proxy=false"], None).unwrap().warnings.len(),
            1
        );
    }
}
