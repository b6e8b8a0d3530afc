//! Create: check everything, reserve the name, then make snapshot, volumes and record; a failure undoes in reverse.

mod check;
pub(super) mod merge;
mod mounts;

use std::fs::DirBuilder;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use kelson_api::{ContainerConfig, ContainerCreateRequest, EndpointSettings, Map, VolumeCreateRequest};
use kelson_images::{Image, Platform, RootFs};
use rustix::fs::{Mode, OFlags};

use super::container::Container;
use super::network::{self, Attachment};
use super::record::{MountKind, MountRecord, Record, State};
use super::{links, modes, runtime_path};
use crate::clock;
use crate::error::{Doing, Error, Result};
use crate::inner::Inner;
use crate::names;
use crate::store::{self, FORMAT};
use crate::types::Created;
use crate::volumes::copy;
use mounts::Wanted;

pub(crate) use mounts::clean as clean_path;

/// Attempts to find a generated name nobody has.
const NAME_ATTEMPTS: usize = 16;

/// Makes a container.
pub(crate) async fn run(
    inner: &Arc<Inner>,
    name: Option<&str>,
    platform: Option<&str>,
    request: ContainerCreateRequest,
) -> Result<Created> {
    let ContainerCreateRequest {
        mut config,
        host_config,
        networking_config,
    } = request;
    let mut host = host_config.unwrap_or_default();
    let name = name
        .map(|n| n.strip_prefix('/').unwrap_or(n))
        .filter(|n| !n.is_empty());
    if let Some(name) = name.filter(|n| !names::is_valid(n)) {
        return Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    let image = resolve_image(inner, &config.image, platform)?;
    let of_image: ContainerConfig = serde_json::from_value(image.run_config().clone()).unwrap_or_default();
    merge::merge(&mut config, &of_image);
    let (path, args) = merge::command(&config)?;
    let mut warnings = check::check(&config, &host, &inner.config)?;
    let runtime = check::runtime(&host.runtime, &inner.config)?;
    let networks = endpoints(inner, networking_config, &mut host, &config)?;
    adapt(inner, &mut host);
    let wanted = mounts::wanted(&config, &host, volumes_from(inner, &host)?)?;

    let id = names::new_id()?;
    let name = reserve(inner, name, &id)?;
    if config.hostname.is_empty() && host.uts_mode != "host" && host.network_mode != "host" {
        config.hostname = id[..12].to_owned();
    }
    host.runtime = runtime.clone();
    let record = Record {
        format: FORMAT,
        id: id.clone(),
        name: name.clone(),
        created: clock::now(),
        image: config.image.clone(),
        image_id: image.id().to_string(),
        path,
        args,
        config,
        host,
        networks,
        mounts: Vec::new(),
        runtime,
        unknown: Map::new(),
    };
    // Ports are read again at start; a malformed one is refused here.
    let checked = modes::port_specs(&record)
        .and_then(|_| links::check(inner, &record, &modes::NetworkMode::of(&record)?));
    let made = match checked {
        Ok(()) => make(inner, record, wanted, &image).await,
        Err(e) => Err(e),
    };
    match made {
        Ok(container) => {
            inner.images.touch(image.id());
            inner.note_links(&container.record());
            inner.containers.insert(container.clone());
            inner.emit(&container, "create", &[]);
            warnings.sort();
            Ok(Created { id, warnings })
        }
        Err(e) => {
            inner.containers.release(&name, &id);
            Err(e)
        }
    }
}

fn resolve_image(inner: &Inner, name: &str, platform: Option<&str>) -> Result<Image> {
    if name.is_empty() {
        return Err(Error::invalid(
            "config cannot be empty in order to create a container: no image",
        ));
    }
    let image = inner.images.resolve(name)?;
    if let Some(text) = platform.filter(|p| !p.is_empty()) {
        let wanted: Platform = text.parse()?;
        let config = image.config();
        let has = Platform {
            os: config.os().to_string(),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone(),
        };
        if !wanted.accepts(&has) {
            return Err(Error::not_found(format!(
                "image with reference {name} was found but its platform ({has}) does not match the specified platform ({wanted})"
            )));
        }
    }
    Ok(image)
}

/// Endpoints by network name, that of the network mode among them. A network that is only there names the mode.
fn endpoints(
    inner: &Inner,
    config: Option<kelson_api::NetworkingConfig>,
    host: &mut kelson_api::HostConfig,
    of_container: &ContainerConfig,
) -> Result<Map<EndpointSettings>> {
    let given = config.and_then(|c| c.endpoints_config).unwrap_or_default();
    if matches!(host.network_mode.as_str(), "" | "default") {
        let first = given.keys().find(|name| *name != "default");
        let default = if inner.config.network.enabled {
            "bridge"
        } else {
            "none"
        };
        host.network_mode = first.map_or(default, String::as_str).to_owned();
    }
    if of_container.network_disabled {
        host.network_mode = "none".into();
    }
    let mode = modes::NetworkMode::parse(&host.network_mode)?;
    if let modes::NetworkMode::User(word) = &mode {
        inner.networks.find(word)?;
    }
    let mut out = Map::new();
    if !mode.has_places() {
        let same = |name: &String| *name == host.network_mode || name == "default";
        return match given.keys().find(|name| !same(name)) {
            Some(name) => Err(Error::invalid(format!(
                "conflicting options: network {name} and the network mode {}",
                host.network_mode
            ))),
            None => Ok(out),
        };
    }
    let primary = network::primary(inner, &mode);
    for (name, endpoint) in given {
        let attachment = Attachment::new(inner, &name, endpoint.unwrap_or_default())?;
        out.insert(attachment.name, attachment.settings);
    }
    let own = out.entry(primary).or_default();
    if own.mac_address.is_empty() {
        own.mac_address.clone_from(&of_container.mac_address);
    }
    for (name, settings) in &out {
        Attachment::new(inner, name, settings.clone())?.check()?;
    }
    Ok(out)
}

/// The engine's defaults where the request says nothing.
fn adapt(inner: &Inner, host: &mut kelson_api::HostConfig) {
    let engine = &inner.config;
    if host.shm_size == 0 {
        host.shm_size = i64::try_from(engine.shm_size).unwrap_or(i64::MAX);
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode = "private".into();
    }
    if host.cgroupns_mode.is_empty() {
        host.cgroupns_mode = if inner.unified_cgroup && !host.privileged {
            "private"
        } else {
            "host"
        }
        .into();
    }
    if host.restart_policy.name.is_empty() {
        host.restart_policy.name = "no".into();
    }
    if host.log_config.r#type.is_empty() {
        host.log_config.r#type.clone_from(&engine.log_driver);
        let options = host.log_config.config.get_or_insert_default();
        for (key, value) in &engine.log_opts {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    if host.pid_mode == "private" {
        host.pid_mode.clear();
    }
}

fn volumes_from(inner: &Inner, host: &kelson_api::HostConfig) -> Result<Vec<MountRecord>> {
    let mut out: Vec<MountRecord> = Vec::new();
    for word in host.volumes_from.iter().flatten() {
        let (name, mode) = word.split_once(':').unwrap_or((word, "rw"));
        if !mode.split(',').all(|m| matches!(m, "ro" | "rw" | "z" | "Z")) {
            return Err(Error::invalid(format!("invalid mode for volumes-from: {mode}")));
        }
        for mount in &inner.containers.find(name)?.record().mounts {
            let mut mount = mount.clone();
            mount.rw &= !mode.split(',').any(|m| m == "ro");
            // It belongs to the container it was made for.
            mount.anonymous = false;
            out.retain(|m| m.destination != mount.destination);
            out.push(mount);
        }
    }
    Ok(out)
}

fn reserve(inner: &Inner, name: Option<&str>, id: &str) -> Result<String> {
    if let Some(name) = name {
        inner.containers.reserve(name, id)?;
        return Ok(name.to_owned());
    }
    for attempt in 0..NAME_ATTEMPTS {
        let name = names::generate(id, attempt);
        if inner.containers.reserve(&name, id).is_ok() {
            return Ok(name);
        }
    }
    let name = id[..12].to_owned();
    inner.containers.reserve(&name, id)?;
    Ok(name)
}

/// Snapshot, volumes and record.
async fn make(
    inner: &Arc<Inner>,
    mut record: Record,
    wanted: Vec<Wanted>,
    image: &Image,
) -> Result<Arc<Container>> {
    let id = record.id.clone();
    let options = check::root_options(&record.host)?;
    inner.images.prepare(&id, image, options).await?;
    let mut volumes = Vec::new();
    let result = match make_volumes(inner, wanted, image, &mut volumes).await {
        Ok(mounts) => {
            record.mounts = mounts;
            write(inner, record)
        }
        Err(e) => Err(e),
    };
    if result.is_err() {
        for volume in volumes {
            if let Err(e) = inner.volumes.remove(&volume, true, &[]) {
                tracing::warn!(volume, error = %e, "undo a create");
            }
        }
        if let Err(e) = inner.images.remove_snapshot(&id).await {
            tracing::warn!(container = %id, error = %e, "undo a create");
        }
        if let Err(e) = store::remove_tree(&inner.roots.container(&id)) {
            tracing::warn!(container = %id, error = %e, "undo a create");
        }
    }
    result
}

fn write(inner: &Inner, record: Record) -> Result<Arc<Container>> {
    let dir = inner.roots.container(&record.id);
    // 0701: bind sources of the container lie here (hosts, resolv.conf), and its user passes through.
    DirBuilder::new()
        .mode(0o701)
        .create(&dir)
        .doing(|| format!("make {}", dir.display()))?;
    let state = State::default();
    state.save(&dir)?;
    record.save(&dir)?;
    Ok(Arc::new(Container::new(record, state, dir)))
}

/// Makes the volumes that are not there, filled from the image; `made` names those, for the undo.
async fn make_volumes(
    inner: &Arc<Inner>,
    wanted: Vec<Wanted>,
    image: &Image,
    made: &mut Vec<String>,
) -> Result<Vec<MountRecord>> {
    let mut out = Vec::with_capacity(wanted.len());
    let mut view: Option<Arc<RootFs>> = None;
    for Wanted { mut record, labels } in wanted {
        if record.kind == MountKind::Volume {
            let request = VolumeCreateRequest {
                name: record.name.clone(),
                labels,
                ..VolumeCreateRequest::default()
            };
            let (volume, new) = inner.volumes.create(request)?;
            if new {
                made.push(volume.name.clone());
            }
            record.name = volume.name;
            record.source = inner.volumes.data(&record.name);
            if !record.no_copy {
                let (images, image, have) = (inner.images.clone(), image.clone(), view.take());
                let (source, target) = (record.destination.clone(), record.source.clone());
                let filled = tokio::task::spawn_blocking(move || -> Result<Arc<RootFs>> {
                    let view = match have {
                        Some(view) => view,
                        None => Arc::new(images.view_image(&image)?),
                    };
                    fill(&view, &source, &target)?;
                    Ok(view)
                });
                view = Some(
                    filled
                        .await
                        .map_err(|e| Error::internal(format!("fill a volume: {e}")))??,
                );
            }
        }
        out.push(record);
    }
    Ok(out)
}

fn fill(view: &RootFs, source: &Path, target: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match view.open(source, flags, Mode::empty())? {
        Some(dir) => copy::copy_up(dir.as_fd(), target),
        // Not there, or no directory: the volume starts empty.
        None => Ok(()),
    }
}

/// The program of a record's runtime.
pub(crate) fn runtime_of(inner: &Inner, record: &Record) -> Result<std::path::PathBuf> {
    runtime_path(&inner.config, &record.runtime)
        .ok_or_else(|| Error::invalid(format!("unknown or invalid runtime name: {}", record.runtime)))
}
