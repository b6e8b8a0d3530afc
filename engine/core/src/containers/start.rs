//! Start: network and shim side by side, then create, then whoever waits to attach, then the process itself. Whatever fails
//! undoes what was done, in reverse, and leaves the reason in the state.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use kelson_network::{BoundPort, Endpoint, PortMapping};
use kelson_shim_proto::serve::{Proto, RuntimeParams};
use kelson_shim_proto::task::Mount;

use super::container::Container;
use super::launch::{self, Shared};
use super::modes::{self, NetworkMode};
use super::record::Status;
use super::{create, monitor, remove};
use crate::clock;
use crate::error::{Doing, Error, Kind, Result};
use crate::inner::{Inner, blocking};
use crate::names;
use crate::spec::Namespace;
use crate::store::{self, Durability};
use crate::tasks::{ShimPort, Spawn, Task, spawn};

/// Exit code of a container whose start failed for a reason of ours.
const START_FAILED: u8 = 128;

/// `docker start`.
pub(crate) async fn run(inner: &Arc<Inner>, name: &str) -> Result<()> {
    let container = inner.containers.find(name)?;
    let _operation = container.lock().await?;
    match container.status() {
        Status::Running => return Err(Error::not_modified()),
        Status::Paused => {
            return Err(Error::conflict(
                "cannot start a paused container, try unpause instead",
            ));
        }
        Status::Removing => {
            return Err(Error::conflict(
                "container is marked for removal and cannot be started",
            ));
        }
        Status::Dead => return Err(Error::conflict("container is dead and cannot be started")),
        Status::Created | Status::Exited | Status::Restarting => {}
    }
    container.update(|s| {
        s.manually_stopped = false;
        s.restart_count = 0;
    });
    locked(inner, &container, None).await
}

/// Starts a container whose operation lock the caller holds. `delay` is the last pause of its restart policy.
pub(crate) async fn locked(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    delay: Option<Duration>,
) -> Result<()> {
    container.no_restart(false);
    let error = match bring_up(inner, container).await {
        Ok(task) => {
            tokio::spawn(monitor::watch(inner.clone(), container.clone(), task, delay));
            return Ok(());
        }
        Err(error) => error,
    };
    let code = error.exit_code().unwrap_or(START_FAILED);
    container.drop_pending();
    container.update(|s| {
        s.pid = 0;
        s.error = error.to_string();
        s.exit_code = code.into();
        s.endpoint = None;
        s.ports.clear();
        s.endpoint_id.clear();
        if s.status == Status::Restarting {
            s.status = Status::Exited;
        }
    });
    if container.record().host.auto_remove
        && let Err(e) = remove::locked(inner, container, true).await
    {
        tracing::warn!(container = %container.id, error = %e, "remove a container that did not start");
    }
    Err(error)
}

/// What the blocking preparation found and made.
struct Prepared {
    shared: Shared,
    netns: Option<OwnedFd>,
    endpoint: Option<Endpoint>,
    ports: Vec<BoundPort>,
}

async fn bring_up(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Arc<Task>> {
    let result = try_bring_up(inner, container).await;
    if result.is_err() {
        disconnect(inner, container).await;
    }
    result
}

async fn try_bring_up(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Arc<Task>> {
    let prepared = {
        let (inner, container) = (inner.clone(), container.clone());
        blocking("prepare a start", move || prepare(&inner, &container)).await?
    };
    let mappings: Vec<PortMapping> = prepared.ports.iter().map(|p| p.mapping).collect();
    let endpoint_id = if prepared.endpoint.is_some() {
        names::new_id()?
    } else {
        String::new()
    };
    // The owner's record comes before the link: after a crash it tells whose it is.
    container.update(|s| {
        s.endpoint.clone_from(&prepared.endpoint);
        s.ports.clone_from(&mappings);
        s.endpoint_id = endpoint_id;
    });
    let connecting = {
        let inner = inner.clone();
        let netns = prepared
            .netns
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .doing(|| "hold the network namespace")?;
        let endpoint = prepared.endpoint.clone();
        blocking("connect the network", move || {
            connect(&inner, endpoint.as_ref(), netns.as_ref(), &mappings)
        })
    };
    let spawning = {
        let (inner, container) = (inner.clone(), container.clone());
        async move {
            let spawned = {
                let (inner, container) = (inner.clone(), container.clone());
                blocking("start a shim", move || start_shim(&inner, &container, prepared)).await?
            };
            let task = spawned.ready(&inner.roots).await?;
            match create_task(&inner, &container, &task).await {
                Ok(pid) => Ok((task, pid)),
                Err(e) => {
                    tear_down(&inner, &task).await;
                    Err(e)
                }
            }
        }
    };
    let (connected, spawned) = tokio::join!(connecting, spawning);
    let (task, pid) = match (connected, spawned) {
        (Ok(()), Ok(up)) => up,
        (Err(e), Ok((task, _))) => {
            tear_down(inner, &task).await;
            return Err(e);
        }
        // A container that cannot be made is the cause to show; without its network it would not run either.
        (_, Err(e)) => return Err(e),
    };
    if let Err(e) = begin(inner, container, &task, pid).await {
        tear_down(inner, &task).await;
        return Err(e);
    }
    Ok(task)
}

/// Address, namespace, ports, bind sources: everything that can be refused before a process exists.
fn prepare(inner: &Inner, container: &Container) -> Result<Prepared> {
    let record = container.record();
    let shared = launch::shared(inner, &record)?;
    launch::bind_sources(&record)?;
    store::remove_file(&container.dir.join("exit.json"))?;
    let mut out = Prepared {
        shared,
        netns: None,
        endpoint: None,
        ports: Vec::new(),
    };
    if out.shared.network != NetworkMode::Bridge {
        return Ok(out);
    }
    let network = inner.network()?;
    let specs = modes::port_specs(&record)?;
    out.ports = network.bind_ports(&container.id, &specs).map_err(|e| {
        Error::from(e).wrap(format!(
            "driver failed programming external connectivity on endpoint {} ({})",
            record.name,
            &container.id[..12]
        ))
    })?;
    let wanted = record
        .networks
        .get("bridge")
        .and_then(|e| e.ipam_config.clone())
        .unwrap_or_default();
    let address = match wanted.ipv4_address.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| Error::invalid(format!("invalid IPv4 address: {text}")))?,
        ),
    };
    out.endpoint = Some(network.allocate(&container.id, address)?);
    out.netns = Some(network.create_netns()?);
    Ok(out)
}

fn connect(
    inner: &Inner,
    endpoint: Option<&Endpoint>,
    netns: Option<&OwnedFd>,
    mappings: &[PortMapping],
) -> Result<()> {
    if let (Some(endpoint), Some(netns)) = (endpoint, netns) {
        let network = inner.network()?;
        network.connect(endpoint, netns.as_fd())?;
        if !mappings.is_empty() {
            network.publish(endpoint, mappings)?;
        }
    }
    Ok(())
}

/// The bundle and the shim. The document names the namespace by the shim's pid, so it is written while the shim sets up.
fn start_shim(inner: &Inner, container: &Container, prepared: Prepared) -> Result<crate::tasks::Spawned> {
    let record = container.record();
    let Prepared {
        shared,
        netns,
        endpoint,
        ports,
    } = prepared;
    let fresh = clock::parse(&container.state().started_at).is_none();
    let user = launch::exec_user(inner, &record, &record.config.user, fresh)?;
    let etc_files = launch::etc_files(inner, &record, &container.dir, &shared, endpoint.as_ref())?;
    let log_path = container.dir.join("shim.log");
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log_path)
        .doing(|| format!("open {}", log_path.display()))?;
    let bundle = inner.roots.bundle(&record.id);
    // Left by a start that a crash cut short.
    store::remove_tree(&bundle)?;
    std::fs::create_dir_all(bundle.join("rootfs")).doing(|| format!("make {}", bundle.display()))?;
    let spawned = spawn(
        Spawn {
            program: &inner.config.shim,
            id: &record.id,
            runtime: RuntimeParams {
                path: create::runtime_of(inner, &record)?,
                root: inner.roots.runtime(&record.runtime),
                systemd_cgroup: inner.config.systemd_cgroup,
            },
            netns,
            ports: shim_ports(endpoint.as_ref(), ports),
            exit_record: container.dir.join("exit.json"),
            log,
        },
        &inner.roots,
    )
    .inspect_err(|_| {
        let _ = store::remove_tree(&bundle);
    })?;
    let network = match (&shared.network, &shared.joined_network) {
        (NetworkMode::Host, _) => Namespace::Host,
        (_, Some((path, _))) => Namespace::Join(path.clone()),
        (NetworkMode::Bridge, _) => Namespace::Join(spawned.netns_path()),
        _ => Namespace::New,
    };
    let written = launch::document(inner, container, &shared, network, etc_files, user)
        .and_then(|document| store::replace(&bundle, "config.json", &document, Durability::Volatile));
    match written {
        Ok(()) => Ok(spawned),
        Err(e) => {
            spawned.abandon(&inner.roots);
            Err(e)
        }
    }
}

fn shim_ports(endpoint: Option<&Endpoint>, ports: Vec<BoundPort>) -> Vec<ShimPort> {
    let Some(endpoint) = endpoint else {
        return Vec::new();
    };
    ports
        .into_iter()
        .map(|port| ShimPort {
            socket: port.listener,
            proto: match port.mapping.proto {
                kelson_network::Proto::Tcp => Proto::Tcp,
                kelson_network::Proto::Udp => Proto::Udp,
            },
            target: (endpoint.ip, port.mapping.container_port).into(),
        })
        .collect()
}

async fn create_task(inner: &Inner, container: &Container, task: &Task) -> Result<u32> {
    let root = inner.images.root_mount(&container.id)?;
    let mount = Mount {
        type_: root.fs_type,
        source: root.source,
        options: root.options,
        ..Mount::default()
    };
    let record = container.record();
    task.create(
        &inner.roots.bundle(&container.id),
        mount,
        launch::stdio(&record, &container.dir, &inner.config)?,
    )
    .await
}

/// Connects those who wait, then lets the process go.
async fn begin(inner: &Inner, container: &Arc<Container>, task: &Arc<Task>, pid: u32) -> Result<()> {
    for pending in container.go_live(task.clone()) {
        match task.attach(&pending.request).await {
            // A client that went away in the meantime is no reason to fail.
            Ok(connection) => drop(pending.connected.send(connection)),
            Err(e) => tracing::warn!(container = %container.id, error = %e, "attach a waiting client"),
        }
    }
    // Before the call: a short run may have ended when it returns.
    let started_at = clock::now();
    if let Err(e) = task.start("").await {
        container.set_task(None);
        return Err(e);
    }
    container.update(|s| {
        s.status = Status::Running;
        s.pid = pid;
        s.started_at = started_at;
        s.exit_code = 0;
        s.error.clear();
        s.oom_killed = false;
    });
    let state = container.state();
    if let Some(endpoint) = &state.endpoint {
        inner.network_event("connect", &endpoint.container_id);
    }
    for mount in container.record().mounts.iter().filter(|m| !m.name.is_empty()) {
        inner.volume_event("mount", container, mount);
    }
    inner.emit(container, "start", &[]);
    Ok(())
}

/// Ends a shim whose container must not run.
async fn tear_down(inner: &Inner, task: &Task) {
    // Graceful first: the shim runs the runtime's delete and unmounts.
    let _ = task.kill("", 9, true).await;
    let deleted = task.delete("").await;
    let record = &task.record;
    let result = match deleted {
        Ok(()) => record.forget(&inner.roots),
        // Nothing was made, or the shim is stuck: by force.
        Err(_) => Task::destroy(record, &inner.roots).await,
    };
    if let Err(e) = result {
        tracing::warn!(container = %record.id, error = %e, "undo a start");
    }
}

/// Undoes the network of a container that does not run.
pub(crate) async fn disconnect(inner: &Arc<Inner>, container: &Arc<Container>) {
    let had = container.state().endpoint.is_some();
    if !had && !matches!(NetworkMode::of(&container.record()), Ok(NetworkMode::Bridge)) {
        return;
    }
    let (inner_, id) = (inner.clone(), container.id.clone());
    let done = blocking("disconnect the network", move || match inner_.network() {
        Ok(network) => Ok(network.disconnect(&id)?),
        Err(e) if e.kind() == Kind::Unsupported => Ok(()),
        Err(e) => Err(e),
    })
    .await;
    if let Err(e) = done {
        tracing::warn!(container = %container.id, error = %e, "disconnect the network");
    }
    if had {
        inner.network_event("disconnect", &container.id);
    }
}
