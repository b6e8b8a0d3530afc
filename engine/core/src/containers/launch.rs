//! What a start needs from this machine: files, devices, user, namespaces, log. Blocking; makes nothing but files in the
//! container's own directory and missing bind sources.

use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_shim_proto::logs::Input;

use super::container::Container;
use super::etc_files::{self, Dns};
use super::init;
use super::links;
use super::logging::{self, Facts};
use super::modes::{NamespaceMode, NetworkMode, SeccompChoice, SecurityOptions};
use super::network;
use super::record::{MountKind, Place, Record};
use crate::config::EngineConfig;
use crate::error::{Doing, Error, Result};
use crate::inner::Inner;
use crate::networks::RESOLVER;
use crate::spec::users::{self, ExecUser};
use crate::spec::{self, BlockLimit, Device, Inputs, Namespace, caps};
use crate::tasks::Stdio;

/// Devices a host may have; a privileged container gets at most so many.
const MAX_DEVICES: usize = 4096;

/// How the shim is to keep the log, and where stdin comes from.
pub(crate) fn stdio(record: &Record, dir: &Path, engine: &EngineConfig) -> Result<Stdio> {
    let config = &record.config;
    let facts = Facts {
        logger: &engine.logger,
        host: &host_name(),
    };
    let output = logging::output(record, dir, &facts)?;
    let stdin = if config.open_stdin {
        Input::Attach {
            // A terminal outlives its first client: whoever detaches may come back and type.
            once: config.stdin_once && !config.tty,
        }
        .to_string()
    } else {
        String::new()
    };
    let stderr = if config.tty {
        String::new()
    } else {
        output.to_string()
    };
    Ok(Stdio {
        terminal: config.tty,
        stdin,
        stdout: output.to_string(),
        stderr,
    })
}

/// Whom it runs as, by the container's own files. A container that never ran has the image's, which are remembered.
pub(crate) fn exec_user(inner: &Inner, record: &Record, spec: &str, fresh: bool) -> Result<ExecUser> {
    let groups = record.host.group_add.clone().unwrap_or_default();
    if fresh && let Some(files) = inner.users.get(&record.image_id) {
        return users::resolve(spec, &groups, &files);
    }
    let root = inner
        .images
        .view_container(&record.id, kelson_images::Access::ReadOnly)?;
    let read = |path: &str| -> Result<String> {
        let bytes = root.read(Path::new(path), users::MAX_FILE)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let files = users::Files {
        passwd: read("/etc/passwd")?,
        group: read("/etc/group")?,
    };
    let user = users::resolve(spec, &groups, &files)?;
    if fresh {
        inner.users.put(&record.image_id, files);
    }
    Ok(user)
}

/// Makes the sources of `-v` that are not there, and checks those of `--mount` again.
pub(crate) fn bind_sources(record: &Record) -> Result<()> {
    for mount in record.mounts.iter().filter(|m| m.kind == MountKind::Bind) {
        if std::fs::symlink_metadata(&mount.source).is_ok() {
            continue;
        }
        let explicit = record.host.mounts.iter().flatten().any(|m| {
            super::create::clean_path(&m.target) == mount.destination
                && !m.bind_options.as_ref().is_some_and(|b| b.create_mountpoint)
        });
        if explicit {
            return Err(Error::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                mount.source.display()
            )));
        }
        std::fs::create_dir_all(&mount.source).doing(|| {
            format!(
                "error while creating mount source path '{}'",
                mount.source.display()
            )
        })?;
    }
    Ok(())
}

/// Devices of `--device`, or all of the host for a privileged container.
pub(crate) fn devices(record: &Record) -> Result<Vec<Device>> {
    let mut out = Vec::new();
    if record.host.privileged {
        scan(Path::new("/dev"), &mut out);
        return Ok(out);
    }
    for mapping in record.host.devices.iter().flatten() {
        let source = Path::new(&mapping.path_on_host);
        let doing = || {
            format!(
                "error gathering device information while adding custom device \"{}\"",
                source.display()
            )
        };
        let meta =
            std::fs::metadata(source).map_err(|e| Error::with_source(crate::Kind::Invalid, doing(), e))?;
        let target = if mapping.path_in_container.is_empty() {
            source
        } else {
            Path::new(&mapping.path_in_container)
        };
        let access = if mapping.cgroup_permissions.is_empty() {
            "rwm"
        } else {
            &mapping.cgroup_permissions
        };
        if meta.is_dir() {
            // A directory stands for all devices in it, under the same names.
            let mut found = Vec::new();
            scan(source, &mut found);
            for mut d in found {
                if let Ok(rest) = d.path.strip_prefix(source) {
                    d.path = target.join(rest);
                }
                d.access = Some(access.to_owned());
                out.push(d);
            }
            continue;
        }
        let device = device(target, &meta, Some(access.to_owned()));
        out.push(device.ok_or_else(|| Error::invalid(format!("{}: not a device node", doing())))?);
    }
    Ok(out)
}

fn device(path: &Path, meta: &std::fs::Metadata, access: Option<String>) -> Option<Device> {
    let kind = if meta.file_type().is_char_device() {
        'c'
    } else if meta.file_type().is_block_device() {
        'b'
    } else {
        return None;
    };
    let number = meta.rdev();
    Some(Device {
        path: path.to_owned(),
        kind,
        major: rustix::fs::major(number).into(),
        minor: rustix::fs::minor(number).into(),
        mode: meta.permissions().mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access,
    })
}

/// All device nodes below a directory but those every container has of its own.
fn scan(dir: &Path, out: &mut Vec<Device>) {
    const OWN: [&str; 9] = [
        "pts",
        "shm",
        "fd",
        "mqueue",
        ".lxc",
        ".lxd-mounts",
        ".udev",
        "console",
        "ptmx",
    ];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) || out.len() >= MAX_DEVICES {
            continue;
        }
        let Ok(meta) = entry.path().symlink_metadata() else {
            continue;
        };
        if meta.is_dir() {
            scan(&entry.path(), out);
        } else if let Some(d) = device(&entry.path(), &meta, None) {
            out.push(d);
        }
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
}

/// Numbers of the block devices that limits name.
pub(crate) fn block_limits(record: &Record) -> Result<Vec<BlockLimit>> {
    let host = &record.host;
    let number = |path: &str| -> Result<(u64, u64)> {
        let meta = std::fs::metadata(path).doing(|| format!("look at block device {path}"))?;
        Ok((
            rustix::fs::major(meta.rdev()).into(),
            rustix::fs::minor(meta.rdev()).into(),
        ))
    };
    let mut out = Vec::new();
    for w in host.blkio_weight_device.iter().flatten() {
        let (major, minor) = number(&w.path)?;
        out.push(BlockLimit {
            key: "weightDevice",
            major,
            minor,
            value: w.weight.into(),
        });
    }
    let throttles = [
        ("throttleReadBpsDevice", &host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", &host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", &host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", &host.blkio_device_write_iops),
    ];
    for (key, list) in throttles {
        for t in list.iter().flatten() {
            let (major, minor) = number(&t.path)?;
            out.push(BlockLimit {
                key,
                major,
                minor,
                value: t.rate,
            });
        }
    }
    Ok(out)
}

/// Namespaces and names that come from other containers.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub network: NetworkMode,
    pub hostname: String,
    pub pid: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    /// Another container's network namespace, and its directory (for hosts and resolv.conf).
    pub joined_network: Option<(PathBuf, PathBuf)>,
}

/// Finds them; the others must run.
pub(crate) fn shared(inner: &Inner, record: &Record) -> Result<Shared> {
    let running = |name: &str, what: &str| -> Result<(Arc<Container>, u32)> {
        let other = inner.containers.find(name)?;
        let state = other.state();
        if !state.status.has_process() {
            return Err(Error::conflict(format!(
                "cannot join {what} of a non running container: {}",
                other.id
            )));
        }
        Ok((other, state.pid))
    };
    let namespace = |mode: NamespaceMode, file: &str, what: &str| -> Result<Namespace> {
        Ok(match mode {
            NamespaceMode::Own => Namespace::New,
            NamespaceMode::Host => Namespace::Host,
            NamespaceMode::Container(name) => {
                Namespace::Join(format!("/proc/{}/ns/{file}", running(&name, what)?.1).into())
            }
        })
    };
    let network = NetworkMode::of(record)?;
    let mut hostname = record.config.hostname.clone();
    let mut joined_network = None;
    match &network {
        NetworkMode::Container(name) => {
            let (other, pid) = running(name, "network")?;
            hostname.clone_from(&other.record().config.hostname);
            joined_network = Some((format!("/proc/{pid}/ns/net").into(), other.dir.clone()));
        }
        NetworkMode::Host if hostname.is_empty() => hostname = host_name(),
        _ => {}
    }
    if hostname.is_empty() {
        hostname = host_name();
    }
    Ok(Shared {
        network,
        hostname,
        pid: namespace(NamespaceMode::pid(&record.host)?, "pid", "PID")?,
        ipc: namespace(NamespaceMode::ipc(&record.host)?, "ipc", "IPC")?,
        uts: namespace(NamespaceMode::uts(&record.host)?, "uts", "UTS")?,
        joined_network,
    })
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Writes hosts, hostname and resolv.conf, and says what to bind where.
pub(crate) fn etc_files(
    inner: &Inner,
    record: &Record,
    dir: &Path,
    shared: &Shared,
    places: &[Place],
) -> Result<Vec<(PathBuf, &'static str)>> {
    let names = [
        ("resolv.conf", "/etc/resolv.conf"),
        ("hostname", "/etc/hostname"),
        ("hosts", "/etc/hosts"),
    ];
    let bind_from = |dir: &Path| names.map(|(file, target)| (dir.join(file), target)).to_vec();
    if let Some((_, other)) = &shared.joined_network {
        return Ok(bind_from(other));
    }
    let on_host = shared.network == NetworkMode::Host;
    let extra = record.host.extra_hosts.clone().unwrap_or_default();
    let by = places
        .iter()
        .find(|p| p.endpoint.default_route)
        .or(places.first());
    let gateway = by
        .map(|p| IpAddr::from(p.endpoint.gateway))
        .or(on_host.then_some(IpAddr::from([127, 0, 0, 1])));
    let hosts = if on_host {
        let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        text.push_str(&etc_files::extra_hosts(&extra, gateway)?);
        text
    } else {
        let addresses: Vec<IpAddr> = places.iter().map(|p| IpAddr::from(p.endpoint.ip)).collect();
        let names = etc_files::own_names(&shared.hostname, &record.config.domainname);
        let links = links::hosts(inner, record)?;
        etc_files::hosts(&addresses, &names, &extra, gateway, &links)?
    };
    etc_files::write(dir, "hosts", &hosts)?;
    etc_files::write(dir, "hostname", &format!("{}\n", shared.hostname))?;
    let named = !network::user_networks(inner, places).is_empty();
    etc_files::write(
        dir,
        "resolv.conf",
        &resolver_settings(inner, record, named, on_host),
    )?;
    Ok(bind_from(dir))
}

/// The text of resolv.conf. `named`: in a network with names of its own.
pub(crate) fn resolver_settings(inner: &Inner, record: &Record, named: bool, on_host: bool) -> String {
    let (host, engine) = (&record.host, &inner.config);
    let or = |own: &Option<Vec<String>>, default: &[String]| match own {
        Some(list) if !list.is_empty() => list.clone(),
        _ => default.to_vec(),
    };
    let dns = Dns {
        servers: or(&host.dns, &engine.dns),
        options: or(&host.dns_options, &engine.dns_opts),
        search: or(&host.dns_search, &engine.dns_search),
    };
    if named {
        etc_files::resolv_conf_of(RESOLVER.into(), &etc_files::host_resolv(), &dns)
    } else {
        etc_files::resolv_conf(&etc_files::host_resolv(), &dns, !on_host)
    }
}

/// The runtime's document, with everything in it.
pub(crate) fn document(
    inner: &Inner,
    container: &Container,
    shared: &Shared,
    network: Namespace,
    etc_files: Vec<(PathBuf, &'static str)>,
    user: ExecUser,
) -> Result<Vec<u8>> {
    let mut record = container.record();
    let links = links::environment(inner, &record)?;
    if !links.is_empty() {
        let own = Arc::make_mut(&mut record).config.env.get_or_insert_default();
        own.splice(0..0, links);
    }
    let host = &record.host;
    let list = |l: &Option<kelson_api::wire::StrSlice>| l.as_ref().map(|s| s.0.clone()).unwrap_or_default();
    let caps = caps::tweak(
        &list(&host.cap_add),
        &list(&host.cap_drop),
        host.privileged,
        &inner.held_caps,
    )?;
    let security = SecurityOptions::parse(host)?;
    let seccomp = match &security.seccomp {
        _ if host.privileged => None,
        SeccompChoice::Unconfined => None,
        SeccompChoice::Default => Some(inner.seccomp.for_caps(&caps)?),
        SeccompChoice::Profile(text) => Some(inner.seccomp.expand(text, &caps)?),
    };
    let inputs = Inputs {
        record: &record,
        user,
        hostname: &shared.hostname,
        network,
        pid: shared.pid.clone(),
        ipc: shared.ipc.clone(),
        uts: shared.uts.clone(),
        cgroup: if host.cgroupns_mode == "private" {
            Namespace::New
        } else {
            Namespace::Host
        },
        cgroups_path: cgroups_path(inner, &record),
        caps,
        devices: devices(&record)?,
        block_limits: block_limits(&record)?,
        etc_files,
        init: if init::wanted(host, &inner.config) {
            Some(init::program(&inner.config, &inner.roots)?)
        } else {
            None
        },
        shm_size: u64::try_from(host.shm_size)
            .ok()
            .filter(|n| *n > 0)
            .unwrap_or(inner.config.shm_size),
        default_ulimits: &inner.config.default_ulimits,
        no_new_privileges: security
            .no_new_privileges
            .unwrap_or(inner.config.no_new_privileges),
        seccomp,
    };
    serde_json::to_vec(&spec::build(&inputs)).doing(|| "encode the runtime's configuration")
}

/// Absolute below the engine's parent, or systemd's `slice:prefix:name`.
pub(crate) fn cgroups_path(inner: &Inner, record: &Record) -> String {
    let own = record.host.cgroup_parent.as_str();
    if inner.config.systemd_cgroup {
        let slice = if own.is_empty() { "system.slice" } else { own };
        return format!("{slice}:kelson:{}", record.id);
    }
    let parent = if own.is_empty() {
        inner.config.cgroup_parent.as_str()
    } else {
        own
    };
    format!("/{}/{}", parent.trim_matches('/'), record.id)
}
