//! Remove, prune and rename. What is removed is marked first, so that a crash in the middle is finished at the next start.

use std::sync::Arc;

use kelson_api::{ContainersPruneReport, Filters};

use super::container::Container;
use super::record::{MountKind, Record, Status};
use super::{network, stop};
use crate::clock;
use crate::error::{Error, Result};
use crate::inner::{Inner, blocking};
use crate::names;
use crate::store;
use crate::types::RemoveOptions;
use crate::volumes::copy;

/// `docker rm`.
pub(crate) async fn run(inner: &Arc<Inner>, name: &str, options: RemoveOptions) -> Result<()> {
    let container = inner.containers.find(name)?;
    if container.status() == Status::Removing {
        return Err(Error::conflict(format!(
            "removal of container {name} is already in progress"
        )));
    }
    let _operation = container.lock().await?;
    // Somebody removed it while we waited.
    inner.containers.find(&container.id)?;
    let refuse = |why: &str| {
        Err(Error::conflict(format!(
            "cannot remove container \"/{}\": {why}",
            container.record().name
        )))
    };
    match container.status() {
        Status::Running | Status::Paused if options.force => {
            container.no_restart(true);
            stop::kill_all(inner, &container).await?;
        }
        Status::Running => {
            return refuse("container is running: stop the container before removing or force remove");
        }
        Status::Paused => return refuse("container is paused and must be unpaused first"),
        Status::Restarting if !options.force => {
            return refuse("container is restarting: stop the container before removing or force remove");
        }
        _ => container.no_restart(true),
    }
    // A container that removes its volumes by itself does so however it goes.
    let volumes = options.volumes || container.record().host.auto_remove;
    locked(inner, &container, volumes).await
}

/// Removes a container that does not run and whose operation lock the caller holds.
pub(crate) async fn locked(inner: &Arc<Inner>, container: &Arc<Container>, volumes: bool) -> Result<()> {
    container.update(|s| s.status = Status::Removing);
    let record = container.record();
    let result = match inner.images.remove_snapshot(&container.id).await {
        Ok(()) => store::remove_tree(&container.dir),
        Err(e) => Err(e.into()),
    };
    if let Err(e) = result {
        let e = e.wrap(format!("cannot remove container \"/{}\"", record.name));
        container.update(|s| {
            s.status = Status::Dead;
            s.error = e.to_string();
        });
        container.mark_removed(Some(e.to_string()));
        return Err(e);
    }
    inner.containers.remove(&container.id);
    inner.execs.forget_container(&container.id);
    if volumes {
        remove_anonymous(inner, &record).await;
    }
    inner.emit(container, "destroy", &[]);
    container.mark_removed(None);
    Ok(())
}

async fn remove_anonymous(inner: &Arc<Inner>, record: &Record) {
    for mount in record
        .mounts
        .iter()
        .filter(|m| m.kind == MountKind::Volume && m.anonymous)
    {
        let (inner_, name) = (inner.clone(), mount.name.clone());
        let users = inner.volume_users(&name);
        if !users.is_empty() {
            continue;
        }
        let removed = blocking("remove a volume", move || inner_.volumes.remove(&name, true, &[])).await;
        if let Err(e) = removed {
            tracing::warn!(volume = %mount.name, error = %e, "remove an anonymous volume");
        }
    }
}

/// `docker container prune`.
pub(crate) async fn prune(inner: &Arc<Inner>, filters: &Filters) -> Result<ContainersPruneReport> {
    filters
        .only(&["until", "label", "label!"])
        .map_err(|e| Error::invalid(e.to_string()))?;
    let now = clock::now_nanos();
    let mut until = None;
    for text in filters.get("until") {
        let parsed = clock::parse_when(text, now);
        until = Some(parsed.ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))?);
    }
    let mut report = ContainersPruneReport {
        containers_deleted: None,
        space_reclaimed: 0,
    };
    let empty = kelson_api::Map::new();
    for container in inner.containers.all() {
        let record = container.record();
        let labels = record.config.labels.as_ref().unwrap_or(&empty);
        let old = until.is_none_or(|u| clock::nanos(&record.created).is_some_and(|c| c < u));
        let excluded = filters.has("label!") && filters.labels_match("label!", labels);
        if !old || excluded || !filters.labels_match("label", labels) {
            continue;
        }
        let Ok(_operation) = container.lock().await else {
            continue;
        };
        if !matches!(
            container.status(),
            Status::Created | Status::Exited | Status::Dead
        ) {
            continue;
        }
        let dir = container.dir.clone();
        let size = blocking("measure a container", move || Ok(copy::size(&dir)))
            .await
            .unwrap_or(0);
        let size = size + inner.snapshot_size(&container.id).await.unwrap_or(0);
        match locked(inner, &container, false).await {
            Ok(()) => {
                report
                    .containers_deleted
                    .get_or_insert_default()
                    .push(container.id.clone());
                report.space_reclaimed += size;
            }
            Err(e) => tracing::warn!(container = %container.id, error = %e, "prune"),
        }
    }
    inner.events.emit(
        "container",
        "prune",
        "",
        [("reclaimed".to_owned(), report.space_reclaimed.to_string())].into(),
    );
    Ok(report)
}

/// `docker rename`.
pub(crate) async fn rename(inner: &Arc<Inner>, name: &str, new_name: &str) -> Result<()> {
    let new_name = new_name.strip_prefix('/').unwrap_or(new_name);
    if new_name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    let container = inner.containers.find(name)?;
    let _operation = container.lock().await?;
    let mut record = Record::clone(&container.record());
    if record.name == new_name {
        return Err(Error::invalid(
            "Renaming a container with the same name as its current name",
        ));
    }
    if !names::is_valid(new_name) {
        return Err(Error::invalid(format!(
            "Invalid container name ({new_name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    inner.containers.reserve(new_name, &container.id)?;
    let old = std::mem::replace(&mut record.name, new_name.to_owned());
    if let Err(e) = record.save(&container.dir) {
        inner.containers.release(new_name, &container.id);
        return Err(e);
    }
    container.replace_record(record);
    inner.containers.release(&old, &container.id);
    rename_in_networks(inner, &container).await;
    inner.emit(&container, "rename", &[("oldName", format!("/{old}"))]);
    Ok(())
}

/// A running container is found under its new name.
async fn rename_in_networks(inner: &Arc<Inner>, container: &Arc<Container>) {
    let Some(task) = container.task() else { return };
    let (inner, container) = (inner.clone(), container.clone());
    let renamed = blocking("rename in networks", move || {
        let places = container.state().places.clone();
        network::join_names(&inner, &container.record(), &places, task.record.shim_pid)
    });
    if let Err(e) = renamed.await {
        tracing::warn!(error = %e, "rename in networks");
    }
}
