//! The engine's public face: every call of the API, one method each.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kelson_api::{
    ContainerCreateRequest, ContainerInspect, ContainerSummary, ContainerUpdateRequest,
    ContainersPruneReport, DiskUsage, EndpointSettings, ExecCreateRequest, ExecInspect, Filters, Network,
    NetworkCreateRequest, NetworksPruneReport, SystemInfo, TopResponse, Volume, VolumeCreateRequest,
    VolumeList, VolumesPruneReport,
};
use kelson_images::{Change, Image, ImageId, Images, PathStat, Pruned, Removed};

use crate::config::EngineConfig;
use crate::containers::commit::Commit;
use crate::containers::files::{ExtractArchive, TarSource};
use crate::containers::{
    attach, commit, connect, create, exec, files, inspect, links, list, logs, reconcile, remove, start,
    stats, stop, top, update, wait,
};
use crate::error::Result;
use crate::info;
use crate::inner::{Inner, blocking, open_blocking};
use crate::networks;
use crate::types::{
    AttachOptions, Attached, Created, EventOptions, EventStream, ExecStartOptions, ListOptions, LogOptions,
    Logs, RemoveOptions, StatsMode, StatsStream, StopOptions, WaitCondition, Waiting,
};
use crate::volumes::copy;

/// The container engine. Cheap to clone; all clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
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

    /// `docker commit`: the new image's id. Emits `commit`, and `tag` for a name.
    pub async fn container_commit(&self, name: &str, commit: Commit) -> Result<ImageId> {
        commit::run(&self.inner, name, commit).await
    }

    /// `docker rmi`. Emits `untag` and `delete`. With `parents` the images without a name go that it was committed on.
    pub async fn image_remove(&self, name: &str, force: bool, parents: bool) -> Result<Vec<Removed>> {
        let inner = &self.inner;
        let in_use = |id: &ImageId| inner.image_user(id);
        let id = inner
            .images
            .resolve(name)
            .map(|i| i.id().to_string())
            .unwrap_or_else(|_| name.to_owned());
        let removed = inner.images.remove(name, force, parents, &in_use).await?;
        inner.removed_events(&removed, &id);
        Ok(removed)
    }

    /// `docker image prune`, of those images only that are `wanted`.
    pub async fn image_prune(
        &self,
        all: bool,
        unused_for: Option<Duration>,
        wanted: &(dyn Fn(&Image) -> bool + Send + Sync),
    ) -> Result<Pruned> {
        let inner = &self.inner;
        let in_use = |id: &ImageId| inner.image_user(id);
        let pruned = inner.images.prune(all, unused_for, wanted, &in_use).await?;
        inner.removed_events(&pruned.removed, "");
        let reclaimed = [("reclaimed".to_owned(), pruned.reclaimed.to_string())].into();
        inner.events.emit("image", "prune", "", reclaimed);
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

    /// Removes a link of a container's, `CONTAINER/ALIAS`, and not the container.
    ///
    /// # Errors
    /// `NotFound` for either.
    pub async fn container_remove_link(&self, name: &str) -> Result<()> {
        links::remove(&self.inner, name).await
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

    /// Changes its limits and its restart policy; returns what the user should know.
    ///
    /// # Errors
    /// `Invalid` and `Conflict` in docker's words; what the kernel said of a limit it does not take. Nothing is changed then.
    pub async fn container_update(&self, name: &str, request: ContainerUpdateRequest) -> Result<Vec<String>> {
        update::run(&self.inner, name, request).await
    }

    /// What it uses. Of a container that does not run all figures are zero.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn container_stats(&self, name: &str, mode: StatsMode) -> Result<StatsStream> {
        stats::run(&self.inner, name, mode)
    }

    /// Gives it another name.
    pub async fn container_rename(&self, name: &str, new_name: &str) -> Result<()> {
        remove::rename(&self.inner, name, new_name).await
    }

    /// Looks at a path of a container, without following a link at its end.
    pub async fn container_path_stat(&self, name: &str, path: &Path) -> Result<PathStat> {
        files::stat(&self.inner, name, path).await
    }

    /// A tar of one path of a container, running or not.
    pub async fn container_archive(&self, name: &str, path: &Path) -> Result<(PathStat, TarSource)> {
        files::archive(&self.inner, name, path).await
    }

    /// A tar of a container's whole root, without its volumes.
    pub async fn container_export(&self, name: &str) -> Result<TarSource> {
        files::export(&self.inner, name).await
    }

    /// Extracts a tar, plain or packed, into a directory of a container, running or not. `input` is read where it may block.
    pub async fn container_extract(
        &self,
        name: &str,
        path: &Path,
        input: impl std::io::Read + Send + 'static,
        how: ExtractArchive,
    ) -> Result<()> {
        files::extract(&self.inner, name, path, input, how).await
    }

    /// What a container changed in its image's tree, sorted by path.
    pub async fn container_changes(&self, name: &str) -> Result<Vec<Change>> {
        files::changes(&self.inner, name).await
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

    /// Makes a network and returns its id.
    ///
    /// # Errors
    /// `Conflict` for a name in use, `Denied` for a subnet in use or a predefined name, `Invalid` and `Unsupported` for
    /// what cannot be done.
    pub async fn network_create(&self, request: NetworkCreateRequest) -> Result<String> {
        let inner = self.inner.clone();
        blocking("create a network", move || networks::create(&inner, request)).await
    }

    /// Removes a network.
    ///
    /// # Errors
    /// `NotFound`; `Denied` for a predefined one and for one in use.
    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        blocking("remove a network", move || networks::remove(&inner, &name)).await
    }

    /// Removes the networks that no container refers to.
    ///
    /// # Errors
    /// `Invalid` for an unknown filter.
    pub async fn network_prune(&self, filters: &Filters) -> Result<NetworksPruneReport> {
        let (inner, filters) = (self.inner.clone(), filters.clone());
        blocking("prune networks", move || networks::prune(&inner, &filters)).await
    }

    /// Gives a container a place on one more network.
    ///
    /// # Errors
    /// `NotFound`; `Denied` when it has one; `Invalid` for a container or a network that takes none.
    pub async fn network_connect(
        &self,
        network: &str,
        container: &str,
        settings: EndpointSettings,
    ) -> Result<()> {
        connect::connect(&self.inner, network, container, settings).await
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    /// `NotFound` (of a container unless `force`); `Internal`, as docker, when it has no place there.
    pub async fn network_disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        connect::disconnect(&self.inner, network, container, force).await
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

    /// How many containers were made from each image, by id.
    pub fn image_uses(&self) -> HashMap<String, usize> {
        let mut uses = HashMap::new();
        for container in self.inner.containers.all() {
            *uses.entry(container.record().image_id.clone()).or_default() += 1;
        }
        uses
    }

    /// Bytes used by layers, and by containers and volumes where they are asked for: those are measured. The server adds
    /// `Images`.
    pub async fn disk_usage(&self, containers: bool, volumes: bool) -> Result<DiskUsage> {
        let inner = &self.inner;
        let everything = ListOptions {
            all: true,
            size: true,
            ..ListOptions::default()
        };
        let containers = match containers {
            true => Some(list::run(inner, &everything).await?),
            false => None,
        };
        let volumes = match volumes {
            true => {
                let inner = inner.clone();
                let measure = move || Ok(inner.volumes.usage(&|name| inner.volume_users(name).len()));
                Some(blocking("measure volumes", measure).await?)
            }
            false => None,
        };
        Ok(DiskUsage {
            layers_size: i64::try_from(inner.images.usage().layers).unwrap_or(i64::MAX),
            images: None,
            containers,
            volumes,
            build_cache: Some(Vec::new()),
            builder_size: None,
        })
    }

    /// Ends the engine: with `live_restore` containers go on, else they are stopped. Collects nothing, logs what went wrong.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.shut_down();
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
        let done = blocking("shut the network down", move || networks::shutdown(&down));
        if let Err(e) = done.await {
            tracing::warn!(error = %e, "shut the network down");
        }
        if !running {
            inner.roots.unmount();
            remove_cgroup_parent(&inner.config.cgroup_parent);
        }
    }
}

/// Whichever runtime was the first to need the directory made it, and it is nobody's once no container runs. One
/// that still has another engine's containers stays, because it is not empty; so does systemd's slice.
fn remove_cgroup_parent(path: &str) {
    let host = kelson_cgroups::Host::detect();
    let Ok(cgroup) = host.and_then(|host| host.container(Some(path), "")) else {
        return;
    };
    for dir in cgroup.dirs() {
        let _ = std::fs::remove_dir(&dir.path);
    }
}
