//! Start: network and shim side by side, then create, then whoever waits to attach, then the process itself. Whatever fails
//! undoes what was done, in reverse, and leaves the reason in the state.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use kelson_network::{BoundPort, PortMapping};
use kelson_shim_proto::serve::{Proto, RuntimeParams};
use kelson_shim_proto::task::Mount;

use super::container::Container;
use super::launch::{self, Shared};
use super::modes::NetworkMode;
use super::record::{Place, Status};
use super::{create, health, links, monitor, network, remove};
use crate::clock;
use crate::error::{Doing, Error, Result};
use crate::inner::{Inner, blocking};
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
            health::watch(inner, container, &task);
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
        s.leave_networks();
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
    places: Vec<Place>,
    ports: Vec<BoundPort>,
}

async fn bring_up(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Arc<Task>> {
    let result = try_bring_up(inner, container).await;
    if result.is_err() {
        network::disconnect(inner, container).await;
    }
    result
}

async fn try_bring_up(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Arc<Task>> {
    let prepared = {
        let (inner, container) = (inner.clone(), container.clone());
        blocking("prepare a start", move || prepare(&inner, &container)).await?
    };
    let mappings: Vec<PortMapping> = prepared.ports.iter().map(|p| p.mapping).collect();
    // The owner's record comes before the links: after a crash it tells whose they are.
    container.update(|s| {
        s.places.clone_from(&prepared.places);
        s.ports.clone_from(&mappings);
    });
    let connecting = {
        let inner = inner.clone();
        let netns = prepared
            .netns
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .doing(|| "hold the network namespace")?;
        let places = prepared.places.clone();
        blocking("connect the network", move || match &netns {
            Some(netns) => network::connect(&inner, &places, netns, &mappings),
            None => Ok(()),
        })
    };
    let spawning = {
        let (inner, container) = (inner.clone(), container.clone());
        async move {
            let spawned = {
                let (inner, container) = (inner.clone(), container.clone());
                blocking("start a shim", move || start_shim(&inner, &container, prepared)).await?
            };
            let naming = name(&inner, &container, spawned.record.shim_pid);
            let creating = async {
                let task = spawned.ready(&inner.roots).await?;
                let made = create_task(&inner, &container, &task).await;
                Ok::<_, Error>((task, made))
            };
            let ((), up) = tokio::join!(naming, creating);
            let (task, made) = up?;
            match made {
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
        places: Vec::new(),
        ports: Vec::new(),
    };
    if !out.shared.network.has_places() {
        return Ok(out);
    }
    (out.places, out.ports) = network::take(inner, &record)?;
    out.netns = Some(kelson_network::create_netns()?);
    Ok(out)
}

/// Makes the container's names known. One whose resolver fails runs without them: it may not need any, and the resolver is
/// started again.
async fn name(inner: &Arc<Inner>, container: &Arc<Container>, shim_pid: u32) {
    let (record, places) = (container.record(), container.state().places.clone());
    if network::user_networks(inner, &places).is_empty() {
        return;
    }
    let inner = inner.clone();
    let named = blocking("make names known", move || {
        network::join_names(&inner, &record, &places, shim_pid)
    });
    if let Err(e) = named.await {
        tracing::error!(container = %container.id, error = %e, "make its names known");
    }
}

/// The bundle and the shim. The document names the namespace by the shim's pid, so it is written while the shim sets up.
fn start_shim(inner: &Inner, container: &Container, prepared: Prepared) -> Result<crate::tasks::Spawned> {
    let record = container.record();
    let Prepared {
        shared,
        netns,
        places,
        ports,
    } = prepared;
    let fresh = clock::parse(&container.state().started_at).is_none();
    let user = launch::exec_user(inner, &record, &record.config.user, fresh)?;
    let etc_files = launch::etc_files(inner, &record, &container.dir, &shared, &places)?;
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
            ports: shim_ports(&places, ports),
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
        (NetworkMode::Bridge | NetworkMode::User(_), _) => Namespace::Join(spawned.netns_path()),
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

fn shim_ports(places: &[Place], ports: Vec<BoundPort>) -> Vec<ShimPort> {
    let Some(place) = places.iter().find(|p| p.endpoint.default_route) else {
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
            target: (place.endpoint.ip, port.mapping.container_port).into(),
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
async fn begin(inner: &Arc<Inner>, container: &Arc<Container>, task: &Arc<Task>, pid: u32) -> Result<()> {
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
    let record = container.record();
    container.update(|s| {
        s.status = Status::Running;
        s.pid = pid;
        s.started_at = started_at;
        s.exit_code = 0;
        s.error.clear();
        s.oom_killed = false;
        health::begin(&record.config, s);
    });
    if inner.has_links() {
        let (inner, started) = (inner.clone(), container.clone());
        tokio::task::spawn_blocking(move || links::follow(&inner, &started));
    }
    let state = container.state();
    for place in &state.places {
        inner.network_event("connect", place, &container.id);
    }
    for mount in record.mounts.iter().filter(|m| !m.name.is_empty()) {
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
