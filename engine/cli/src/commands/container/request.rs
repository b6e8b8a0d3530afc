//! From the flags of `create` and `run` to the request's body.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use kelson_api::ports::{ContainerPort, add_binding, parse_publish, parse_range};
use kelson_api::wire::Unit;
use kelson_api::{
    ContainerConfig, ContainerCreateRequest, DeviceRequest, HealthConfig, HostConfig, LogConfig, Mount,
    NetworkingConfig, RestartPolicy,
};

use super::options::devices::{self, Device};
use super::options::mounts::{self, Volume};
use super::options::network::{self, Attachment, Simple};
use super::options::{env, limits, security};
use crate::argv::Parsed;
use crate::error::open_failed;
use crate::format::units;
use crate::tty;

/// Builds the body. Errors are of the command line; the engine has not been asked anything.
pub fn build(parsed: &Parsed) -> anyhow::Result<ContainerCreateRequest> {
    let mut request = ContainerCreateRequest {
        config: config(parsed)?,
        ..ContainerCreateRequest::default()
    };
    let mut host = limits_of(parsed);
    namespaces(parsed, &mut host)?;
    storage(parsed, &mut host, &mut request.config)?;
    devices_of(parsed, &mut host)?;
    ports(parsed, &mut host, &mut request.config)?;
    policies(parsed, &mut host)?;
    request.networking_config = networks(parsed, &mut host)?;
    host.container_id_file = parsed.text("cidfile").unwrap_or_default().into();
    if let Some(size) = tty::size().filter(|_| request.config.tty) {
        host.console_size = [size.rows.into(), size.columns.into()];
    }
    request.host_config = Some(host);
    Ok(request)
}

fn strings<'a>(values: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
    let values: Vec<String> = values.map(str::to_owned).collect();
    (!values.is_empty()).then_some(values)
}

fn read(path: &str) -> anyhow::Result<(String, String)> {
    let bytes = std::fs::read(path).map_err(|error| anyhow!(open_failed(path, &error)))?;
    let text =
        String::from_utf8(bytes).map_err(|_| anyhow!("invalid env file ({path}): invalid utf8 bytes"))?;
    Ok((path.to_owned(), text))
}

fn config(parsed: &Parsed) -> anyhow::Result<ContainerConfig> {
    let text = |flag: &str| parsed.text(flag).unwrap_or_default().to_owned();
    let streams: Vec<String> = parsed.list("attach").map(str::to_ascii_lowercase).collect();
    let interactive = parsed.on("interactive");
    let attached = |stream: &str| {
        if streams.is_empty() {
            stream != "stdin" || interactive
        } else {
            streams.iter().any(|s| s == stream)
        }
    };
    let files = parsed
        .list("env-file")
        .map(read)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let variables = env::merge(&files, parsed.list("env"), |name| std::env::var(name).ok())
        .map_err(|why| anyhow!(why))?;
    let label_files = parsed
        .list("label-file")
        .map(read)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut labels = BTreeMap::new();
    for (name, text) in &label_files {
        labels.extend(env::to_map(env::lines(name, text).map_err(|why| anyhow!(why))?));
    }
    labels.extend(env::to_map(parsed.list("label")));
    let command: Vec<String> = parsed.args[1..].to_vec();
    Ok(ContainerConfig {
        hostname: text("hostname"),
        domainname: text("domainname"),
        user: text("user"),
        attach_stdin: attached("stdin"),
        attach_stdout: attached("stdout"),
        attach_stderr: attached("stderr"),
        tty: parsed.on("tty"),
        open_stdin: interactive,
        stdin_once: interactive && attached("stdin"),
        env: Some(variables),
        cmd: (!command.is_empty()).then(|| command.into()),
        healthcheck: health(parsed)?,
        image: parsed.args[0].clone(),
        working_dir: text("workdir"),
        entrypoint: parsed.text("entrypoint").map(|text| vec![text.to_owned()].into()),
        mac_address: String::new(),
        labels: Some(labels),
        stop_signal: text("stop-signal"),
        stop_timeout: parsed.int("stop-timeout"),
        ..ContainerConfig::default()
    })
}

fn health(parsed: &Parsed) -> anyhow::Result<Option<HealthConfig>> {
    let duration = |flag: &str| {
        parsed
            .text(flag)
            .and_then(|text| units::parse_duration(text).ok())
            .unwrap_or(0)
    };
    let config = HealthConfig {
        test: parsed
            .text("health-cmd")
            .map(|command| vec!["CMD-SHELL".into(), command.into()]),
        interval: duration("health-interval"),
        timeout: duration("health-timeout"),
        start_period: duration("health-start-period"),
        start_interval: duration("health-start-interval"),
        retries: parsed.int("health-retries").unwrap_or(0),
    };
    let said = config != HealthConfig::default();
    if parsed.on("no-healthcheck") {
        if said {
            bail!("--no-healthcheck conflicts with --health-* options");
        }
        return Ok(Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..config
        }));
    }
    for (value, flag) in [
        (config.interval, "health-interval"),
        (config.timeout, "health-timeout"),
        (config.retries, "health-retries"),
        (config.start_period, "health-start-period"),
        (config.start_interval, "health-start-interval"),
    ] {
        if value < 0 {
            bail!("--{flag} cannot be negative");
        }
    }
    Ok(said.then_some(config))
}

fn limits_of(parsed: &Parsed) -> HostConfig {
    let size = |flag: &str| {
        parsed
            .text(flag)
            .and_then(|text| units::parse_size(text).ok())
            .unwrap_or(0)
    };
    let int = |flag: &str| parsed.int(flag).unwrap_or(0);
    let text = |flag: &str| parsed.text(flag).unwrap_or_default().to_owned();
    let throttles = |flag: &str, bytes: bool| {
        let items: Vec<_> = parsed
            .list(flag)
            .filter_map(|text| limits::throttle(text, bytes).ok())
            .collect();
        (!items.is_empty()).then_some(items)
    };
    let weights: Vec<_> = parsed
        .list("blkio-weight-device")
        .filter_map(|text| limits::weight(text).ok())
        .collect();
    let ulimits: Vec<_> = parsed
        .list("ulimit")
        .filter_map(|text| limits::ulimit(text).ok())
        .collect();
    HostConfig {
        cpu_shares: int("cpu-shares"),
        cpu_period: int("cpu-period"),
        cpu_quota: int("cpu-quota"),
        cpu_realtime_period: int("cpu-rt-period"),
        cpu_realtime_runtime: int("cpu-rt-runtime"),
        cpuset_cpus: text("cpuset-cpus"),
        cpuset_mems: text("cpuset-mems"),
        nano_cpus: parsed
            .text("cpus")
            .and_then(|text| limits::nano_cpus(text).ok())
            .unwrap_or(0),
        memory: size("memory"),
        memory_reservation: size("memory-reservation"),
        memory_swap: parsed
            .text("memory-swap")
            .and_then(|text| limits::swap(text).ok())
            .unwrap_or(0),
        memory_swappiness: parsed.int("memory-swappiness"),
        kernel_memory: size("kernel-memory"),
        oom_kill_disable: parsed.switch("oom-kill-disable"),
        oom_score_adj: int("oom-score-adj"),
        pids_limit: parsed.int("pids-limit"),
        shm_size: size("shm-size"),
        blkio_weight: parsed
            .text("blkio-weight")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        blkio_weight_device: (!weights.is_empty()).then_some(weights),
        blkio_device_read_bps: throttles("device-read-bps", true),
        blkio_device_write_bps: throttles("device-write-bps", true),
        blkio_device_read_iops: throttles("device-read-iops", false),
        blkio_device_write_iops: throttles("device-write-iops", false),
        ulimits: (!ulimits.is_empty()).then_some(ulimits),
        cgroup_parent: text("cgroup-parent"),
        ..HostConfig::default()
    }
}

fn namespaces(parsed: &Parsed, host: &mut HostConfig) -> anyhow::Result<()> {
    let text = |flag: &str| parsed.text(flag).unwrap_or_default().to_owned();
    let mode = |flag: &str, allowed: &[&str], what: &str| -> anyhow::Result<String> {
        let text = parsed.text(flag).unwrap_or_default();
        let joins = text
            .strip_prefix("container:")
            .is_some_and(|name| !name.is_empty());
        if text.is_empty() || allowed.contains(&text) || (joins && flag == "pid") {
            Ok(text.to_owned())
        } else {
            bail!("--{flag}: invalid {what} mode")
        }
    };
    host.pid_mode = mode("pid", &["host"], "PID")?;
    host.uts_mode = mode("uts", &["host"], "UTS")?;
    host.userns_mode = mode("userns", &["host"], "USER")?;
    host.cgroupns_mode = mode("cgroupns", &["host", "private"], "CGROUP")?;
    host.ipc_mode = text("ipc");
    host.isolation = text("isolation");
    host.privileged = parsed.on("privileged");
    host.cap_add = strings(parsed.list("cap-add")).map(Into::into);
    host.cap_drop = strings(parsed.list("cap-drop")).map(Into::into);
    host.group_add = strings(parsed.list("group-add"));
    host.sysctls = Some(env::to_map(parsed.list("sysctl"))).filter(|map| !map.is_empty());
    host.annotations = Some(env::to_map(parsed.list("annotation"))).filter(|map| !map.is_empty());
    host.runtime = text("runtime");
    host.init = parsed.switch("init");
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| open_failed(path, &error));
    let security = security::parse(parsed.list("security-opt"), read).map_err(|why| anyhow!(why))?;
    host.security_opt = (!security.options.is_empty()).then_some(security.options);
    if security.system_paths_unconfined {
        host.masked_paths = Some(Vec::new());
        host.readonly_paths = Some(Vec::new());
    }
    Ok(())
}

fn storage(parsed: &Parsed, host: &mut HostConfig, config: &mut ContainerConfig) -> anyhow::Result<()> {
    let current = std::env::current_dir().context("find the current folder")?;
    let mut binds = Vec::new();
    let mut anonymous = BTreeMap::new();
    for text in parsed.list("volume") {
        match mounts::parse_volume(text, &current).map_err(|why| anyhow!(why))? {
            Volume::Anonymous(path) if path == "/" => bail!("invalid volume: path can't be '/'"),
            Volume::Anonymous(path) => {
                anonymous.insert(path, Unit {});
            }
            Volume::Bind(bind) => binds.push(bind),
        }
    }
    config.volumes = (!anonymous.is_empty()).then_some(anonymous);
    if parsed.on("use-api-socket") {
        bail!("--use-api-socket is not supported");
    }
    host.binds = (!binds.is_empty()).then_some(binds);
    let mounted: Vec<Mount> = parsed
        .list("mount")
        .map(|text| mounts::parse_mount(text).map_err(|why| anyhow!(why)))
        .collect::<anyhow::Result<_>>()?;
    host.mounts = (!mounted.is_empty()).then_some(mounted);
    let mut tmpfs = BTreeMap::new();
    for text in parsed.list("tmpfs") {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        tmpfs.insert(path.to_owned(), options.to_owned());
    }
    host.tmpfs = (!tmpfs.is_empty()).then_some(tmpfs);
    host.volumes_from = strings(parsed.list("volumes-from"));
    host.volume_driver = parsed.text("volume-driver").unwrap_or_default().into();
    host.readonly_rootfs = parsed.on("read-only");
    let options = pairs(parsed, "storage-opt", "invalid storage option")?;
    host.storage_opt = (!options.is_empty()).then_some(options);
    Ok(())
}

fn pairs(parsed: &Parsed, flag: &str, wrong: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for text in parsed.list(flag) {
        let (key, value) = text.split_once('=').ok_or_else(|| anyhow!(wrong.to_owned()))?;
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(map)
}

fn devices_of(parsed: &Parsed, host: &mut HostConfig) -> anyhow::Result<()> {
    let (mut nodes, mut requests, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for text in parsed.list("device") {
        match devices::parse(text).map_err(|why| anyhow!(why))? {
            Device::Node(node) => nodes.push(node),
            Device::Cdi(name) => names.push(name),
        }
    }
    for text in parsed.list("gpus") {
        requests.push(devices::gpus(text).map_err(|why| parsed.invalid("gpus", text, &why))?);
    }
    if !names.is_empty() {
        requests.push(DeviceRequest {
            driver: "cdi".into(),
            device_ids: Some(names),
            ..DeviceRequest::default()
        });
    }
    host.devices = (!nodes.is_empty()).then_some(nodes);
    host.device_requests = (!requests.is_empty()).then_some(requests);
    host.device_cgroup_rules = strings(parsed.list("device-cgroup-rule"));
    Ok(())
}

fn ports(parsed: &Parsed, host: &mut HostConfig, config: &mut ContainerConfig) -> anyhow::Result<()> {
    let mut bindings = BTreeMap::new();
    let mut exposed = BTreeMap::new();
    for text in parsed.list("publish") {
        for port in parse_publish(text).map_err(|why| anyhow!(why))? {
            exposed.insert(port.container.to_string(), Unit {});
            add_binding(&mut bindings, &port);
        }
    }
    for text in parsed.list("expose") {
        if text.contains(':') {
            bail!("invalid port format for --expose: {text}");
        }
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = parse_range(range).map_err(|why| {
            anyhow!(
                "invalid range format for --expose: {text}, error: {}",
                range_error(range, &why)
            )
        })?;
        for number in first..=last {
            let port: ContainerPort = format!("{number}/{protocol}")
                .parse()
                .map_err(|why| anyhow!("{why}"))?;
            exposed.insert(port.to_string(), Unit {});
        }
    }
    host.port_bindings = (!bindings.is_empty()).then_some(bindings);
    host.publish_all_ports = parsed.on("publish-all");
    config.exposed_ports = (!exposed.is_empty()).then_some(exposed);
    Ok(())
}

fn policies(parsed: &Parsed, host: &mut HostConfig) -> anyhow::Result<()> {
    host.auto_remove = parsed.on("rm");
    host.restart_policy = restart_policy(parsed.text("restart").unwrap_or("no"))?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "no" | "") {
        bail!("conflicting options: cannot specify both --restart and --rm");
    }
    let options = env::to_map(parsed.list("log-opt"));
    let driver = parsed.text("log-driver").unwrap_or_default();
    if driver == "none" && !options.is_empty() {
        bail!("invalid logging opts for driver {driver}");
    }
    host.log_config = LogConfig {
        r#type: driver.into(),
        config: Some(options),
    };
    Ok(())
}

/// Reads `--restart`: `no`, `always`, `unless-stopped`, `on-failure[:3]`. Which names exist is for the engine to say.
pub fn restart_policy(text: &str) -> anyhow::Result<RestartPolicy> {
    let (name, count) = match text.split_once(':') {
        None => (text, 0),
        Some(("", _)) => bail!("invalid restart policy format: no policy provided before colon"),
        Some((name, count)) => {
            let count: u32 = count.parse().map_err(|_| {
                anyhow!("invalid restart policy format: maximum retry count must be an integer")
            })?;
            (name, i64::from(count))
        }
    };
    Ok(RestartPolicy {
        name: name.into(),
        maximum_retry_count: count,
    })
}

fn networks(parsed: &Parsed, host: &mut HostConfig) -> anyhow::Result<Option<NetworkingConfig>> {
    let named = parsed.list("network").chain(parsed.list("net"));
    let attachments: Vec<Attachment> = named
        .map(|text| network::parse(text).map_err(|why| parsed.invalid("network", text, &why)))
        .collect::<anyhow::Result<_>>()?;
    let simple = Simple {
        ip: parsed.text("ip"),
        ip6: parsed.text("ip6"),
        link_local: parsed.list("link-local-ip").collect(),
        aliases: parsed
            .list("network-alias")
            .chain(parsed.list("net-alias"))
            .collect(),
        mac: parsed.text("mac-address"),
        links: parsed.list("link").collect(),
    };
    let networks = network::combine(attachments, &simple).map_err(|why| anyhow!(why))?;
    host.network_mode = networks[0].target.clone();
    host.dns = strings(parsed.list("dns").map(str::trim));
    host.dns_options = strings(parsed.list("dns-option").chain(parsed.list("dns-opt")));
    host.dns_search = strings(parsed.list("dns-search"));
    host.extra_hosts =
        strings(parsed.list("add-host")).map(|hosts| hosts.iter().map(|host| extra_host(host)).collect());
    host.links = strings(parsed.list("link"));
    let several = networks.len() > 1;
    let endpoints: BTreeMap<_, _> = networks
        .into_iter()
        .filter(|network| several || network.settings.is_some())
        .map(|network| (network.target, Some(network.settings.unwrap_or_default())))
        .collect();
    Ok((!endpoints.is_empty()).then_some(NetworkingConfig {
        endpoints_config: Some(endpoints),
    }))
}

/// `name=address` and brackets are for people; the engine takes `name:address`.
fn extra_host(text: &str) -> String {
    let (name, address) = text.split_once(['=', ':']).unwrap_or((text, ""));
    format!("{name}:{}", address.trim_start_matches('[').trim_end_matches(']'))
}

/// Docker's words for the common case, a port that is no number.
fn range_error(range: &str, why: &impl std::fmt::Display) -> String {
    let wrong = range.split('-').find(|part| part.parse::<u16>().is_err());
    wrong.map_or_else(
        || why.to_string(),
        |part| format!("strconv.ParseUint: parsing {part:?}: invalid syntax"),
    )
}

/// Checks that `path` can be the container id's file: it must not exist.
pub fn check_cidfile(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        bail!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
