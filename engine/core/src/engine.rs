//! The engine's public face: every call of the API, one method each; and what all of them share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use kelson_api::{
    ContainerCreateRequest, ContainerInspect, ContainerSummary, ContainersPruneReport, DiskUsage,
    ExecCreateRequest, ExecInspect, Filters, Map, Network, SystemInfo, TopResponse, Volume,
    VolumeCreateRequest, VolumeList, VolumesPruneReport,
};
use kelson_images::{ImageId, Images, ImagesConfig, InUse, Pruned, Removed};

use crate::config::{EngineConfig, NetworkSettings};
use crate::containers::container::{Container, Registry};
use crate::containers::exec::Execs;
use crate::containers::record::{MountKind, MountRecord};
use crate::containers::{
    attach, create, exec, inspect, list, logs, reconcile, remove, start, stop, top, wait,
};
use crate::error::{Doing, Error, Kind, Result};
use crate::events::Events;
use crate::networks::{self, Networks};
use crate::seccomp::Seccomp;
use crate::spec::caps;
use crate::spec::users;
use crate::store::Roots;
use crate::types::{
    AttachOptions, Attached, Created, EventOptions, EventStream, ExecStartOptions, ListOptions, LogOptions,
    Logs, Nanos, RemoveOptions, StopOptions, WaitCondition, Waiting,
};
use crate::volumes::{Volumes, copy};
use crate::{clock, info};

/// Images whose passwd and group files are remembered.
const CACHED_USERS: usize = 64;

/// The container engine. Cheap to clone; all clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// passwd and group of images, for containers that have not changed theirs yet.
#[derive(Debug, Default)]
pub(crate) struct UserFiles(Mutex<HashMap<String, users::Files>>);

impl UserFiles {
    pub fn get(&self, image: &str) -> Option<users::Files> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(image)
            .cloned()
    }

    pub fn put(&self, image: &str, files: users::Files) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= CACHED_USERS {
            map.clear();
        }
        map.insert(image.to_owned(), files);
    }
}

/// What all operations share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub config: EngineConfig,
    pub roots: Roots,
    pub images: Images,
    pub volumes: Volumes,
    pub networks: Networks,
    pub containers: Registry,
    pub execs: Execs,
    pub events: Arc<Events>,
    pub seccomp: Seccomp,
    pub users: UserFiles,
    /// Capabilities this process may hand on.
    pub held_caps: BTreeSet<String>,
    /// The host has cgroup v2 only.
    pub unified_cgroup: bool,
    network: Option<kelson_network::Network>,
    shutting_down: AtomicBool,
    /// Containers whose record cannot be read: what is theirs is not removed.
    unreadable: Mutex<HashSet<String>>,
}

/// Runs something that blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|e| Err(Error::internal(format!("{what}: {e}"))))
}

impl Inner {
    /// The bridge network.
    ///
    /// # Errors
    /// `Unsupported` when it is switched off.
    pub fn network(&self) -> Result<&kelson_network::Network> {
        self.network
            .as_ref()
            .ok_or_else(|| Error::unsupported("the bridge network is switched off (--bridge none)"))
    }

    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Relaxed)
    }

    /// Emits an event of a container, with docker's attributes: image, name, labels, and the action's own.
    pub fn emit(&self, container: &Container, action: &str, extra: &[(&str, String)]) {
        self.emit_at(container, action, extra, None);
    }

    pub fn emit_at(&self, container: &Container, action: &str, extra: &[(&str, String)], at: Option<Nanos>) {
        let record = container.record();
        let mut attributes: Map<String> = record.config.labels.clone().unwrap_or_default();
        attributes.insert("image".into(), record.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        let at = at.unwrap_or_else(clock::now_nanos);
        self.events
            .emit_at("container", action, &container.id, attributes, at);
    }

    pub fn network_event(&self, action: &str, container: &str) {
        let attributes = [("container", container), ("name", "bridge"), ("type", "bridge")];
        let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        self.events
            .emit("network", action, &self.networks.id("bridge"), attributes);
    }

    pub fn volume_event(&self, action: &str, container: &Container, mount: &MountRecord) {
        let mut attributes: Map<String> = [
            ("container".to_owned(), container.id.clone()),
            ("driver".to_owned(), "local".to_owned()),
        ]
        .into();
        if action == "mount" {
            attributes.insert("destination".into(), mount.destination.display().to_string());
            attributes.insert("propagation".into(), mount.propagation.clone());
            attributes.insert("read/write".into(), mount.rw.to_string());
        }
        self.events.emit("volume", action, &mount.name, attributes);
    }

    /// Ids of containers that mention a volume.
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        let mentions = |c: &Arc<Container>| {
            c.record()
                .mounts
                .iter()
                .any(|m| m.kind == MountKind::Volume && m.name == name)
        };
        self.containers
            .all()
            .iter()
            .filter(|c| mentions(c))
            .map(|c| c.id.clone())
            .collect()
    }

    /// Bytes of a container's writable layer.
    pub async fn snapshot_size(&self, id: &str) -> Result<u64> {
        let mount = self.images.root_mount(id)?;
        let upper = mount
            .options
            .iter()
            .find_map(|o| o.strip_prefix("upperdir=").map(str::to_owned));
        let Some(upper) = upper else { return Ok(0) };
        blocking("measure a container", move || Ok(copy::size(Path::new(&upper)))).await
    }

    pub fn keep_snapshot(&self, dir: &Path) {
        if let Some(id) = dir.file_name().and_then(|n| n.to_str()) {
            self.unreadable
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id.to_owned());
        }
    }

    pub fn kept_snapshots(&self) -> HashSet<String> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Who uses an image; one that runs counts most.
    fn image_user(&self, id: &ImageId) -> Option<InUse> {
        let id = id.to_string();
        let mut found = None;
        for container in self.containers.all().iter().filter(|c| c.record().image_id == id) {
            let running = container.status().has_process();
            if running || found.is_none() {
                found = Some(InUse {
                    container: container.id.clone(),
                    running,
                });
            }
            if running {
                break;
            }
        }
        found
    }

    fn removed_events(&self, removed: &[Removed], name: &str) {
        for item in removed {
            match item {
                Removed::Untagged(reference) => {
                    self.events.emit(
                        "image",
                        "untag",
                        name,
                        [("name".to_owned(), reference.clone())].into(),
                    );
                }
                Removed::Deleted(digest) => {
                    let id = digest.to_string();
                    self.events
                        .emit("image", "delete", &id, [("name".to_owned(), id.clone())].into());
                }
            }
        }
    }
}

fn network_config(settings: &NetworkSettings) -> Result<kelson_network::NetworkConfig> {
    let net = |text: &str| {
        text.parse::<kelson_network::Ipv4Net>()
            .map_err(|e| Error::with_source(Kind::Invalid, format!("read the network address {text}"), e))
    };
    let mut config = kelson_network::NetworkConfig {
        bridge: (!settings.bridge.is_empty()).then(|| settings.bridge.clone()),
        bip: settings.bip.as_deref().map(net).transpose()?,
        mtu: settings.mtu,
        default_host_ip: settings.default_host_ip,
        ip_forward: settings.ip_forward,
        firewall: settings.firewall,
        masquerade: settings.masquerade,
        inter_container: settings.icc,
        ..kelson_network::NetworkConfig::default()
    };
    // The default name lets a second daemon on the host take the next one.
    if settings.bridge == NetworkSettings::default().bridge {
        config.bridge = None;
    }
    if !settings.pools.is_empty() {
        config.pools = Vec::new();
        for (base, size) in &settings.pools {
            let base = net(base)?;
            let subnets = base.subnets(*size).map_err(|e| {
                Error::with_source(
                    Kind::Invalid,
                    format!("cut the address pool {base} into networks of /{size}"),
                    e,
                )
            })?;
            // A handful is enough for one bridge.
            config.pools.extend(subnets.take(16));
        }
    }
    Ok(config)
}

fn open_blocking(config: EngineConfig) -> Result<Inner> {
    let roots = Roots::open(&config.data_root, &config.exec_root)?;
    let images = Images::open(
        &config.data_root,
        ImagesConfig {
            insecure_registries: config.insecure_registries.clone(),
            registry_mirrors: config.registry_mirrors.clone(),
            max_concurrent_downloads: config.max_concurrent_downloads,
            ..ImagesConfig::default()
        },
    )?;
    let network = if config.network.enabled {
        Some(kelson_network::Network::open(
            &roots.networks(),
            network_config(&config.network)?,
        )?)
    } else {
        None
    };
    let events = Arc::new(Events::new());
    let profile = match &config.seccomp_profile {
        Some(path) => Some(
            std::fs::read_to_string(path).doing(|| format!("read the seccomp profile {}", path.display()))?,
        ),
        None => None,
    };
    let inner = Inner {
        volumes: Volumes::open(roots.volumes(), events.clone())?,
        networks: Networks::open(&roots.networks())?,
        containers: Registry::default(),
        execs: Execs::default(),
        seccomp: Seccomp::new(profile)?,
        users: UserFiles::default(),
        held_caps: caps::held(),
        unified_cgroup: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        shutting_down: AtomicBool::new(false),
        unreadable: Mutex::default(),
        config,
        roots,
        images,
        network,
        events,
    };
    reconcile::load(&inner)?;
    Ok(inner)
}

impl Engine {
    /// Opens both roots (locked: a second daemon is refused), reads all records, takes over what runs, starts what its restart policy says.
    ///
    /// # Errors
    /// `Conflict` when another daemon holds a root, `Internal` when a root cannot be used.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let inner = Arc::new(blocking("open the engine", move || open_blocking(config)).await?);
        reconcile::run(&inner).await?;
        Ok(Self { inner })
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// The image store. Remove and prune through [`Engine::image_remove`] and [`Engine::image_prune`], which know what is in use; the other calls emit their events by [`Engine::image_event`].
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// `docker rmi`. Emits `untag` and `delete`.
    pub async fn image_remove(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        let inner = &self.inner;
        let in_use = |id: &ImageId| inner.image_user(id);
        let id = inner
            .images
            .resolve(name)
            .map(|i| i.id().to_string())
            .unwrap_or_else(|_| name.to_owned());
        let removed = inner.images.remove(name, force, &in_use).await?;
        inner.removed_events(&removed, &id);
        Ok(removed)
    }

    /// `docker image prune`.
    pub async fn image_prune(&self, all: bool, unused_for: Option<Duration>) -> Result<Pruned> {
        let inner = &self.inner;
        let in_use = |id: &ImageId| inner.image_user(id);
        let pruned = inner.images.prune(all, unused_for, &in_use).await?;
        inner.removed_events(&pruned.removed, "");
        Ok(pruned)
    }

    /// Emits an image event (`pull`, `tag`, `load`, `import`, ...); the server calls it after such a call on [`Engine::images`]. `name` is the usual attribute.
    pub fn image_event(&self, action: &str, id: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        self.inner.events.emit("image", action, id, attributes);
    }

    /// Ids of containers made from the image.
    pub fn containers_using_image(&self, id: &ImageId) -> Vec<String> {
        let id = id.to_string();
        let all = self.inner.containers.all();
        all.iter()
            .filter(|c| c.record().image_id == id)
            .map(|c| c.id.clone())
            .collect()
    }

    /// Makes a container. The whole request is checked first; nothing is left when it fails.
    pub async fn container_create(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        request: ContainerCreateRequest,
    ) -> Result<Created> {
        create::run(&self.inner, name, platform, request).await
    }

    /// Starts it. `NotModified` when it runs already.
    pub async fn container_start(&self, name: &str) -> Result<()> {
        start::run(&self.inner, name).await
    }

    /// Stops it. `NotModified` when it does not run.
    pub async fn container_stop(&self, name: &str, options: StopOptions) -> Result<()> {
        stop::stop(&self.inner, name, &options).await
    }

    /// Sends a signal, SIGKILL if none is named (then it returns once the container has ended).
    pub async fn container_kill(&self, name: &str, signal: Option<&str>) -> Result<()> {
        stop::kill(&self.inner, name, signal).await
    }

    /// Stops and starts it; starts one that does not run.
    pub async fn container_restart(&self, name: &str, options: StopOptions) -> Result<()> {
        stop::restart(&self.inner, name, &options).await
    }

    /// Freezes it.
    pub async fn container_pause(&self, name: &str) -> Result<()> {
        stop::pause(&self.inner, name).await
    }

    /// Thaws it.
    pub async fn container_unpause(&self, name: &str) -> Result<()> {
        stop::unpause(&self.inner, name).await
    }

    /// Registers the wait; it misses nothing that happens after this returns.
    pub async fn container_wait(&self, name: &str, condition: WaitCondition) -> Result<Waiting> {
        wait::run(&self.inner, name, condition)
    }

    /// Removes it and everything it owns.
    pub async fn container_remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        remove::run(&self.inner, name, options).await
    }

    /// Removes those that do not run (filters `until`, `label`, `label!`).
    pub async fn container_prune(&self, filters: &Filters) -> Result<ContainersPruneReport> {
        remove::prune(&self.inner, filters).await
    }

    /// Newest first. Never waits for a container.
    pub async fn container_list(&self, options: ListOptions) -> Result<Vec<ContainerSummary>> {
        list::run(&self.inner, &options).await
    }

    /// Never waits for the container.
    pub async fn container_inspect(&self, name: &str, size: bool) -> Result<ContainerInspect> {
        inspect::run(&self.inner, name, size).await
    }

    /// Its log. `Unsupported` for a log driver that cannot be read.
    pub async fn container_logs(&self, name: &str, options: LogOptions) -> Result<Logs> {
        logs::run(&self.inner, name, options)
    }

    /// Connects to its standard streams. Before the start it waits for the start and misses nothing.
    pub async fn container_attach(&self, name: &str, options: AttachOptions) -> Result<Attached> {
        attach::run(&self.inner, name, options).await
    }

    /// Sets the size of its terminal, in rows and columns.
    pub async fn container_resize(&self, name: &str, height: u16, width: u16) -> Result<()> {
        let container = self.inner.containers.find(name)?;
        container.running_task()?.resize("", height, width).await?;
        let size = [("height", height.to_string()), ("width", width.to_string())];
        self.inner.emit(&container, "resize", &size);
        Ok(())
    }

    /// Gives it another name.
    pub async fn container_rename(&self, name: &str, new_name: &str) -> Result<()> {
        remove::rename(&self.inner, name, new_name).await
    }

    /// Its processes, as `ps` with `ps_args` shows them.
    pub async fn container_top(&self, name: &str, ps_args: &str) -> Result<TopResponse> {
        top::run(&self.inner, name, ps_args).await
    }

    /// Prepares a further process; returns its id.
    pub async fn exec_create(&self, container: &str, request: ExecCreateRequest) -> Result<String> {
        exec::create(&self.inner, container, request)
    }

    /// Starts it and connects to it.
    pub async fn exec_start(&self, exec: &str, options: ExecStartOptions) -> Result<Attached> {
        exec::start(&self.inner, exec, options).await
    }

    /// Starts it, nobody listens.
    pub async fn exec_start_detached(&self, exec: &str, options: ExecStartOptions) -> Result<()> {
        exec::start_detached(&self.inner, exec, options).await
    }

    /// Sets the size of its terminal.
    pub async fn exec_resize(&self, exec: &str, height: u16, width: u16) -> Result<()> {
        exec::resize(&self.inner, exec, height, width).await
    }

    /// What became of it.
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecInspect> {
        exec::inspect(&self.inner, exec)
    }

    /// Makes a volume, or returns the one of that name.
    pub async fn volume_create(&self, request: VolumeCreateRequest) -> Result<Volume> {
        let inner = self.inner.clone();
        blocking("create a volume", move || {
            inner.volumes.create(request).map(|(volume, _)| volume)
        })
        .await
    }

    /// Filters `name`, `label`, `driver`, `dangling`.
    pub async fn volume_list(&self, filters: &Filters) -> Result<VolumeList> {
        let used = |name: &str| self.inner.volume_users(name).len();
        Ok(VolumeList {
            volumes: self.inner.volumes.list(filters, &used)?,
            warnings: None,
        })
    }

    /// One volume.
    pub async fn volume_inspect(&self, name: &str) -> Result<Volume> {
        self.inner.volumes.inspect(name)
    }

    /// Removes it with its data. `Conflict` while a container uses it; `force` only makes a missing one no error.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        blocking("remove a volume", move || {
            let users = inner.volume_users(&name);
            inner.volumes.remove(&name, force, &users)
        })
        .await
    }

    /// Removes unused anonymous volumes, or all unused with filter `all=1`.
    pub async fn volume_prune(&self, filters: &Filters) -> Result<VolumesPruneReport> {
        let inner = self.inner.clone();
        let used = |name: &str| inner.volume_users(name).len();
        let names = inner.volumes.prunable(filters, &used)?;
        let report = blocking("prune volumes", {
            let inner = inner.clone();
            move || {
                let mut report = VolumesPruneReport {
                    volumes_deleted: None,
                    space_reclaimed: 0,
                };
                for name in names {
                    let size = copy::size(&inner.volumes.data(&name));
                    match inner.volumes.remove(&name, true, &inner.volume_users(&name)) {
                        Ok(()) => {
                            report.volumes_deleted.get_or_insert_default().push(name);
                            report.space_reclaimed += size;
                        }
                        Err(e) => tracing::warn!(volume = name, error = %e, "prune"),
                    }
                }
                Ok(report)
            }
        })
        .await?;
        let reclaimed = [("reclaimed".to_owned(), report.space_reclaimed.to_string())].into();
        inner.events.emit("volume", "prune", "", reclaimed);
        Ok(report)
    }

    /// `bridge`, `host`, `none`.
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<Network>> {
        let (inner, filters) = (self.inner.clone(), filters.clone());
        blocking("list networks", move || networks::list(&inner, &filters)).await
    }

    /// One network with its containers.
    pub async fn network_inspect(&self, name: &str) -> Result<Network> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        blocking("inspect a network", move || networks::inspect(&inner, &name)).await
    }

    /// Remembered events since `since`, then live ones until `until`.
    pub fn events(&self, options: EventOptions) -> Result<EventStream> {
        self.inner.events.subscribe(options)
    }

    /// Facts core knows: counts, drivers, host, runtimes. The server adds its own (`Debug`, `NFd`, `ServerVersion`, proxies).
    pub async fn info(&self) -> Result<SystemInfo> {
        let inner = self.inner.clone();
        blocking("collect facts", move || Ok(info::collect(&inner))).await
    }

    /// Bytes used by layers, containers and volumes. The server adds `Images`.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let inner = &self.inner;
        let everything = ListOptions {
            all: true,
            size: true,
            ..ListOptions::default()
        };
        let containers = list::run(inner, &everything).await?;
        let volumes = {
            let inner = inner.clone();
            blocking("measure volumes", move || {
                Ok(inner.volumes.usage(&|name| inner.volume_users(name).len()))
            })
            .await?
        };
        Ok(DiskUsage {
            layers_size: i64::try_from(inner.images.usage().layers).unwrap_or(i64::MAX),
            images: None,
            containers: Some(containers),
            volumes: Some(volumes),
            build_cache: Some(Vec::new()),
            builder_size: None,
        })
    }

    /// Ends the engine: with `live_restore` containers go on, else they are stopped. Collects nothing, logs what went wrong.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.shutting_down.store(true, Ordering::Relaxed);
        if !inner.config.live_restore {
            let running = inner
                .containers
                .all()
                .into_iter()
                .filter(|c| c.status().has_process());
            let stops = running.map(|container| async move {
                container.no_restart(true);
                if let Err(e) = stop::bring_down(inner, &container, None, None).await {
                    tracing::warn!(container = %container.id, error = %e, "stop a container");
                }
            });
            join_all(stops).await;
        }
        let running = inner.containers.all().iter().any(|c| c.status().has_process());
        let down = inner.clone();
        let done = blocking("shut the network down", move || match down.network() {
            Ok(network) => Ok(network.shutdown()?),
            Err(_) => Ok(()),
        });
        if let Err(e) = done.await {
            tracing::warn!(error = %e, "shut the network down");
        }
        if !running {
            inner.roots.unmount();
        }
    }
}
