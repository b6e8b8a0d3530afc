//! The engine's public face: every call of the API, one method each.

use std::sync::Arc;
use std::time::Duration;

use kelson_api::{
    ContainerCreateRequest, ContainerInspect, ContainerSummary, ContainersPruneReport, DiskUsage,
    ExecCreateRequest, ExecInspect, Filters, Network, SystemInfo, TopResponse, Volume, VolumeCreateRequest,
    VolumeList, VolumesPruneReport,
};
use kelson_images::{ImageId, Images, Pruned, Removed};

use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::types::{
    AttachOptions, Attached, Created, EventOptions, EventStream, ExecStartOptions, ListOptions, LogOptions,
    Logs, RemoveOptions, StopOptions, WaitCondition, Waiting,
};

/// The container engine. Cheap to clone; all clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: EngineConfig,
    images: Images,
}

fn unfinished<T>() -> Result<T> {
    Err(Error::unsupported("not built yet"))
}

impl Engine {
    /// Opens both roots (locked: a second daemon is refused), reads all records, takes over what runs, starts what its restart policy says.
    ///
    /// # Errors
    /// `Conflict` when another daemon holds a root, `Internal` when a root cannot be used.
    #[allow(unused_variables)]
    pub async fn open(config: EngineConfig) -> Result<Self> {
        unfinished()
    }

    /// The configuration it was opened with.
    #[allow(unused_variables)]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// The image store. Remove and prune through [`Engine::image_remove`] and [`Engine::image_prune`], which know what is in use; the other calls emit their events by [`Engine::image_event`].
    #[allow(unused_variables)]
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// `docker rmi`. Emits `untag` and `delete`.
    #[allow(unused_variables)]
    pub async fn image_remove(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        unfinished()
    }

    /// `docker image prune`.
    #[allow(unused_variables)]
    pub async fn image_prune(&self, all: bool, unused_for: Option<Duration>) -> Result<Pruned> {
        unfinished()
    }

    /// Emits an image event (`pull`, `tag`, `load`, `import`, ...); the server calls it after such a call on [`Engine::images`]. `name` is the usual attribute.
    #[allow(unused_variables)]
    pub fn image_event(&self, action: &str, id: &str, attributes: &[(&str, &str)]) {}

    /// Ids of containers made from the image.
    #[allow(unused_variables)]
    pub fn containers_using_image(&self, id: &ImageId) -> Vec<String> {
        Vec::new()
    }

    /// Makes a container. The whole request is checked first; nothing is left when it fails.
    #[allow(unused_variables)]
    pub async fn container_create(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        request: ContainerCreateRequest,
    ) -> Result<Created> {
        unfinished()
    }

    /// Starts it. `NotModified` when it runs already.
    #[allow(unused_variables)]
    pub async fn container_start(&self, name: &str) -> Result<()> {
        unfinished()
    }

    /// Stops it. `NotModified` when it does not run.
    #[allow(unused_variables)]
    pub async fn container_stop(&self, name: &str, options: StopOptions) -> Result<()> {
        unfinished()
    }

    /// Sends a signal, SIGKILL if none is named (then it returns once the container has ended).
    #[allow(unused_variables)]
    pub async fn container_kill(&self, name: &str, signal: Option<&str>) -> Result<()> {
        unfinished()
    }

    /// Stops and starts it; starts one that does not run.
    #[allow(unused_variables)]
    pub async fn container_restart(&self, name: &str, options: StopOptions) -> Result<()> {
        unfinished()
    }

    /// Freezes it.
    #[allow(unused_variables)]
    pub async fn container_pause(&self, name: &str) -> Result<()> {
        unfinished()
    }

    /// Thaws it.
    #[allow(unused_variables)]
    pub async fn container_unpause(&self, name: &str) -> Result<()> {
        unfinished()
    }

    /// Registers the wait; it misses nothing that happens after this returns.
    #[allow(unused_variables)]
    pub async fn container_wait(&self, name: &str, condition: WaitCondition) -> Result<Waiting> {
        unfinished()
    }

    /// Removes it and everything it owns.
    #[allow(unused_variables)]
    pub async fn container_remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        unfinished()
    }

    /// Removes those that do not run (filters `until`, `label`, `label!`).
    #[allow(unused_variables)]
    pub async fn container_prune(&self, filters: &Filters) -> Result<ContainersPruneReport> {
        unfinished()
    }

    /// Newest first. Never waits for a container.
    #[allow(unused_variables)]
    pub async fn container_list(&self, options: ListOptions) -> Result<Vec<ContainerSummary>> {
        unfinished()
    }

    /// Never waits for the container.
    #[allow(unused_variables)]
    pub async fn container_inspect(&self, name: &str, size: bool) -> Result<ContainerInspect> {
        unfinished()
    }

    /// Its log. `Unsupported` for a log driver that cannot be read.
    #[allow(unused_variables)]
    pub async fn container_logs(&self, name: &str, options: LogOptions) -> Result<Logs> {
        unfinished()
    }

    /// Connects to its standard streams. Before the start it waits for the start and misses nothing.
    #[allow(unused_variables)]
    pub async fn container_attach(&self, name: &str, options: AttachOptions) -> Result<Attached> {
        unfinished()
    }

    /// Sets the size of its terminal, in rows and columns.
    #[allow(unused_variables)]
    pub async fn container_resize(&self, name: &str, height: u16, width: u16) -> Result<()> {
        unfinished()
    }

    /// Gives it another name.
    #[allow(unused_variables)]
    pub async fn container_rename(&self, name: &str, new_name: &str) -> Result<()> {
        unfinished()
    }

    /// Its processes, as `ps` with `ps_args` shows them.
    #[allow(unused_variables)]
    pub async fn container_top(&self, name: &str, ps_args: &str) -> Result<TopResponse> {
        unfinished()
    }

    /// Prepares a further process; returns its id.
    #[allow(unused_variables)]
    pub async fn exec_create(&self, container: &str, request: ExecCreateRequest) -> Result<String> {
        unfinished()
    }

    /// Starts it and connects to it.
    #[allow(unused_variables)]
    pub async fn exec_start(&self, exec: &str, options: ExecStartOptions) -> Result<Attached> {
        unfinished()
    }

    /// Starts it, nobody listens.
    #[allow(unused_variables)]
    pub async fn exec_start_detached(&self, exec: &str, options: ExecStartOptions) -> Result<()> {
        unfinished()
    }

    /// Sets the size of its terminal.
    #[allow(unused_variables)]
    pub async fn exec_resize(&self, exec: &str, height: u16, width: u16) -> Result<()> {
        unfinished()
    }

    /// What became of it.
    #[allow(unused_variables)]
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecInspect> {
        unfinished()
    }

    /// Makes a volume, or returns the one of that name.
    #[allow(unused_variables)]
    pub async fn volume_create(&self, request: VolumeCreateRequest) -> Result<Volume> {
        unfinished()
    }

    /// Filters `name`, `label`, `driver`, `dangling`.
    #[allow(unused_variables)]
    pub async fn volume_list(&self, filters: &Filters) -> Result<VolumeList> {
        unfinished()
    }

    /// One volume.
    #[allow(unused_variables)]
    pub async fn volume_inspect(&self, name: &str) -> Result<Volume> {
        unfinished()
    }

    /// Removes it with its data. `Conflict` while a container uses it; `force` only makes a missing one no error.
    #[allow(unused_variables)]
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        unfinished()
    }

    /// Removes unused anonymous volumes, or all unused with filter `all=1`.
    #[allow(unused_variables)]
    pub async fn volume_prune(&self, filters: &Filters) -> Result<VolumesPruneReport> {
        unfinished()
    }

    /// `bridge`, `host`, `none`.
    #[allow(unused_variables)]
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<Network>> {
        unfinished()
    }

    /// One network with its containers.
    #[allow(unused_variables)]
    pub async fn network_inspect(&self, name: &str) -> Result<Network> {
        unfinished()
    }

    /// Remembered events since `since`, then live ones until `until`.
    #[allow(unused_variables)]
    pub fn events(&self, options: EventOptions) -> Result<EventStream> {
        unfinished()
    }

    /// Facts core knows: counts, drivers, host, runtimes. The server adds its own (`Debug`, `NFd`, `ServerVersion`, proxies).
    #[allow(unused_variables)]
    pub async fn info(&self) -> Result<SystemInfo> {
        unfinished()
    }

    /// Bytes used by layers, containers and volumes. The server adds `Images`.
    #[allow(unused_variables)]
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        unfinished()
    }

    /// Ends the engine: with `live_restore` containers go on, else they are stopped. Collects nothing, logs what went wrong.
    #[allow(unused_variables)]
    pub async fn shutdown(&self) {}
}
