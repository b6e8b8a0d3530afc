//! `daemon.json`: dockerd's keys.

use super::ConfigError;
use super::flags::Flags;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// What the file can say and the command line cannot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileOnly {
    /// `runtimes`: name → path and arguments.
    pub runtimes: Vec<(String, String, Vec<String>)>,
}

/// Keys that dockerd knows and that change nothing here; a reader of the log is told.
const WITHOUT_EFFECT: &[&str] = &[
    "allow-nondistributable-artifacts",
    "builder",
    "cdi-spec-dirs",
    "containerd-namespace",
    "containerd-plugins-namespace",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "default-gateway-v6",
    "default-network-opts",
    "deprecated-key-path",
    "features",
    "fixed-cidr-v6",
    "host-gateway-ip",
    "host-gateway-ips",
    "network-control-plane-mtu",
    "network-diagnostic-port",
    "node-generic-resources",
    "oom-score-adjust",
    "raw-logs",
    "swarm-default-advertise-addr",
    "userland-proxy-path",
];

/// Reads the file's text into flags (so that there is one notion of each setting), what only the file has, and the
/// keys that were given.
///
/// # Errors
/// Malformed JSON, an unknown key (docker's sentence), a value of the wrong type.
pub fn read(text: &str) -> Result<(Flags, FileOnly, Vec<String>, Vec<String>), ConfigError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    let map: Map<String, Value> = match text {
        "" => Map::new(),
        _ => serde_json::from_str(text).map_err(|e| ConfigError(format!("not a JSON object: {e}")))?,
    };
    let (mut flags, mut only, mut warnings, mut unknown) =
        (Flags::default(), FileOnly::default(), Vec::new(), Vec::new());
    for (key, value) in &map {
        if WITHOUT_EFFECT.contains(&key.as_str()) {
            warnings.push(format!(
                "the key {key} of the configuration file has no effect in Kelson yet"
            ));
        } else if key == "runtimes" {
            only.runtimes = runtimes(value)?;
        } else if key == "proxies" {
            proxies(&mut flags, value)?;
        } else if !apply(&mut flags, key, value)? {
            unknown.push(key.clone());
        }
    }
    if !unknown.is_empty() {
        return Err(ConfigError(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        )));
    }
    Ok((flags, only, map.keys().cloned().collect(), warnings))
}

/// Sets one key; false if there is none of that name.
fn apply(flags: &mut Flags, key: &str, value: &Value) -> Result<bool, ConfigError> {
    let f = flags;
    match key {
        "data-root" | "graph" => f.data_root = Some(PathBuf::from(text(key, value)?)),
        "exec-root" => f.exec_root = Some(PathBuf::from(text(key, value)?)),
        "hosts" => f.hosts = list(key, value)?,
        "group" => f.group = Some(text(key, value)?),
        "pidfile" => f.pidfile = Some(PathBuf::from(text(key, value)?)),
        "debug" => f.debug = Some(boolean(key, value)?),
        "log-level" => f.log_level = Some(text(key, value)?),
        "log-format" => f.log_format = Some(text(key, value)?),
        "bridge" => f.bridge = Some(text(key, value)?),
        "bip" => f.bip = Some(text(key, value)?),
        "default-address-pools" => f.default_address_pool = pools(value)?,
        "fixed-cidr" => f.fixed_cidr = Some(text(key, value)?),
        "default-gateway" => f.default_gateway = Some(text(key, value)?),
        "iptables" => f.iptables = Some(boolean(key, value)?),
        "ip6tables" => f.ip6tables = Some(boolean(key, value)?),
        "ip-forward" => f.ip_forward = Some(boolean(key, value)?),
        "ip-masq" => f.ip_masq = Some(boolean(key, value)?),
        "icc" => f.icc = Some(boolean(key, value)?),
        "ipv6" => f.ipv6 = Some(boolean(key, value)?),
        "ip" => f.ip = Some(text(key, value)?),
        "cgroup-parent" => f.cgroup_parent = Some(text(key, value)?),
        "exec-opts" => f.exec_opts = list(key, value)?,
        "default-runtime" => f.default_runtime = Some(text(key, value)?),
        "shim" => f.shim = Some(PathBuf::from(text(key, value)?)),
        "insecure-registries" => f.insecure_registry = list(key, value)?,
        "registry-mirrors" => f.registry_mirror = list(key, value)?,
        "log-driver" => f.log_driver = Some(text(key, value)?),
        "log-opts" => f.log_opts = pairs(key, value)?,
        "default-ulimits" => f.default_ulimits = ulimits(value)?,
        "dns" => f.dns = list(key, value)?,
        "dns-search" => f.dns_search = list(key, value)?,
        "dns-opts" => f.dns_opts = list(key, value)?,
        "mtu" => f.mtu = Some(number(key, value)?),
        "live-restore" => f.live_restore = Some(boolean(key, value)?),
        "userland-proxy" => f.userland_proxy = Some(boolean(key, value)?),
        "shutdown-timeout" => {
            f.shutdown_timeout = Some(value.as_i64().ok_or_else(|| wrong(key, "a number"))?)
        }
        _ => return apply_more(f, key, value),
    }
    Ok(true)
}

/// `proxies`: the three of them in an object of their own.
fn proxies(f: &mut Flags, value: &Value) -> Result<(), ConfigError> {
    let map = value.as_object().ok_or_else(|| wrong("proxies", "an object"))?;
    for (key, value) in map {
        if !matches!(key.as_str(), "http-proxy" | "https-proxy" | "no-proxy") {
            return Err(ConfigError(format!(
                "the following directives don't match any configuration option: proxies.{key}"
            )));
        }
        apply_more(f, key, value)?;
    }
    Ok(())
}

fn apply_more(f: &mut Flags, key: &str, value: &Value) -> Result<bool, ConfigError> {
    match key {
        "storage-driver" => f.storage_driver = Some(text(key, value)?),
        "storage-opts" => f.storage_opts = list(key, value)?,
        "default-shm-size" => f.default_shm_size = Some(scalar(key, value)?),
        "default-cgroupns-mode" => f.default_cgroupns_mode = Some(text(key, value)?),
        "default-ipc-mode" => f.default_ipc_mode = Some(text(key, value)?),
        "init" => f.init = Some(boolean(key, value)?),
        "init-path" => f.init_path = Some(PathBuf::from(text(key, value)?)),
        "seccomp-profile" => f.seccomp_profile = Some(text(key, value)?),
        "selinux-enabled" => f.selinux_enabled = Some(boolean(key, value)?),
        "no-new-privileges" => f.no_new_privileges = Some(boolean(key, value)?),
        "max-concurrent-downloads" => f.max_concurrent_downloads = Some(number(key, value)?),
        "max-concurrent-uploads" => f.max_concurrent_uploads = Some(number(key, value)?),
        "max-download-attempts" => f.max_download_attempts = Some(number(key, value)?),
        "labels" => f.labels = list(key, value)?,
        "http-proxy" => f.http_proxy = Some(text(key, value)?),
        "https-proxy" => f.https_proxy = Some(text(key, value)?),
        "no-proxy" => f.no_proxy = Some(text(key, value)?),
        "experimental" => f.experimental = Some(boolean(key, value)?),
        "userns-remap" => f.userns_remap = Some(text(key, value)?),
        "authorization-plugins" => f.authorization_plugins = list(key, value)?,
        "containerd" => f.containerd = Some(text(key, value)?),
        "metrics-addr" => f.metrics_addr = Some(text(key, value)?),
        "tls" => f.tls = Some(boolean(key, value)?),
        "tlsverify" => f.tlsverify = Some(boolean(key, value)?),
        "tlscacert" => f.tlscacert = Some(text(key, value)?),
        "tlscert" => f.tlscert = Some(text(key, value)?),
        "tlskey" => f.tlskey = Some(text(key, value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn wrong(key: &str, wanted: &str) -> ConfigError {
    ConfigError(format!("{key} must be {wanted}"))
}

fn text(key: &str, value: &Value) -> Result<String, ConfigError> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| wrong(key, "a string"))
}

fn boolean(key: &str, value: &Value) -> Result<bool, ConfigError> {
    value.as_bool().ok_or_else(|| wrong(key, "true or false"))
}

fn number(key: &str, value: &Value) -> Result<u32, ConfigError> {
    value
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| wrong(key, "a number from 0 to 4294967295"))
}

fn scalar(key: &str, value: &Value) -> Result<String, ConfigError> {
    match value {
        Value::String(s) => Ok(s.clone()),
        Value::Number(n) => Ok(n.to_string()),
        _ => Err(wrong(key, "a string or a number")),
    }
}

fn list(key: &str, value: &Value) -> Result<Vec<String>, ConfigError> {
    let items = value.as_array().ok_or_else(|| wrong(key, "a list of strings"))?;
    items.iter().map(|item| text(key, item)).collect()
}

fn pairs(key: &str, value: &Value) -> Result<Vec<String>, ConfigError> {
    let map = value
        .as_object()
        .ok_or_else(|| wrong(key, "an object with string values"))?;
    map.iter()
        .map(|(k, v)| Ok(format!("{k}={}", scalar(key, v)?)))
        .collect()
}

fn pools(value: &Value) -> Result<Vec<String>, ConfigError> {
    let key = "default-address-pools";
    let items = value.as_array().ok_or_else(|| wrong(key, "a list"))?;
    let one = |item: &Value| {
        let base = text(key, item.get("base").unwrap_or(&Value::Null))?;
        let size = number(key, item.get("size").unwrap_or(&Value::Null))?;
        Ok(format!("base={base},size={size}"))
    };
    items.iter().map(one).collect()
}

fn ulimits(value: &Value) -> Result<Vec<String>, ConfigError> {
    let key = "default-ulimits";
    let map = value.as_object().ok_or_else(|| wrong(key, "an object"))?;
    let one = |(name, limit): (&String, &Value)| {
        let at = |field: &str| {
            limit
                .get(field)
                .and_then(Value::as_i64)
                .ok_or_else(|| wrong(key, "Soft and Hard"))
        };
        Ok(format!("{name}={}:{}", at("Soft")?, at("Hard")?))
    };
    map.iter().map(one).collect()
}

fn runtimes(value: &Value) -> Result<Vec<(String, String, Vec<String>)>, ConfigError> {
    let map = value.as_object().ok_or_else(|| wrong("runtimes", "an object"))?;
    let one = |(name, runtime): (&String, &Value)| {
        if runtime.get("runtimeType").is_some() {
            return Err(ConfigError(format!(
                "runtime {name}: runtimeType is not supported; give the path of an OCI runtime as \"path\""
            )));
        }
        let path = text(
            &format!("runtimes.{name}.path"),
            runtime.get("path").unwrap_or(&Value::Null),
        )?;
        let args = runtime
            .get("runtimeArgs")
            .map_or(Ok(Vec::new()), |a| list("runtimeArgs", a))?;
        Ok((name.clone(), path, args))
    };
    map.iter().map(one).collect()
}
