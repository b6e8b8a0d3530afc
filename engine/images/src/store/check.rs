//! Whether the disk and the records agree: what `system check` tells of images.

use std::path::Path;
use std::sync::Arc;

use super::inner::Inner;
use crate::Result;
use crate::digest::Digest;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Finding {
    /// On the disk, and nothing needs it: the next start removes it.
    Orphan {
        /// Below DATA_ROOT.
        path: String,
    },
    /// A record needs it, and it is not on the disk, or not as it was.
    Missing {
        /// The image, name or container that needs it.
        owner: String,
        /// What is not there.
        what: String,
    },
}

/// Compares. Blocking; looks at every blob's and layer's name, and reads no content.
///
/// # Errors
/// `Internal` when a directory cannot be listed.
pub(super) fn check(inner: &Arc<Inner>) -> Result<Vec<Finding>> {
    // Listed first: what is stored meanwhile is then in the records, and what is removed meanwhile was there.
    let busy = inner.content.is_busy() || inner.snapshots.is_busy();
    let (blobs, partial) = inner.content.list()?;
    let snapshots = inner.snapshots.list()?;
    let mut found = Vec::new();
    let mut orphan = |path: String| found.push(Finding::Orphan { path });
    {
        let state = inner.state();
        let idle = |d: &Digest| !state.is_needed(d) && !state.deleting.contains(d);
        blobs
            .iter()
            .filter(|d| idle(d))
            .for_each(|d| orphan(format!("content/sha256/{}", d.hex())));
        partial
            .iter()
            .filter(|d| idle(d))
            .for_each(|d| orphan(format!("content/partial/{}", d.hex())));
        let known: std::collections::HashSet<u64> = state
            .layers
            .values()
            .map(|l| l.number)
            .chain(state.containers.values().map(|c| c.number))
            .collect();
        // A number without a record may be in the making or on its way out; that it is neither shows only when all is quiet.
        if !busy && state.deleting.is_empty() {
            let unknown = snapshots.iter().filter(|(number, _)| !known.contains(number));
            unknown.for_each(|(_, name)| orphan(format!("snapshots/{name}")));
        }
    }
    found.retain(|finding| match finding {
        // Gone while we looked.
        Finding::Orphan { path } => inner.root.join(Path::new(path)).exists(),
        Finding::Missing { .. } => true,
    });
    found.extend(missing(inner));
    found.sort();
    Ok(found)
}

/// What was found, and whether it is as it should be now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// What was wrong.
    pub finding: Finding,
    /// Whether it is right.
    pub done: bool,
}

/// Compares, removes orphans, unpacks missing layers again from their blobs, and compares again. What only a registry has, and
/// what a container wrote, is left alone. Blocking.
///
/// # Errors
/// As [`check`]; what cannot be repaired is no error.
pub(super) fn repair(inner: &Arc<Inner>) -> Result<Vec<Repair>> {
    let found = check(inner)?;
    for finding in &found {
        if let Finding::Orphan { path } = finding
            && let Err(e) = remove_orphan(inner, path)
        {
            tracing::warn!(path, error = %e, "an orphan stays");
        }
    }
    if found.iter().any(|f| matches!(f, Finding::Missing { .. })) {
        unpack_missing(inner);
    }
    let left = check(inner)?;
    let repaired = found.into_iter().map(|finding| Repair {
        done: !left.contains(&finding),
        finding,
    });
    Ok(repaired.collect())
}

fn remove_orphan(inner: &Arc<Inner>, path: &str) -> Result<()> {
    let Some(name) = path.strip_prefix("snapshots/") else {
        // Asked for once more there: a pull may want it by now.
        let digest = path.rsplit('/').next().and_then(Digest::from_hex);
        return inner.collect(&Vec::from_iter(digest)).map(drop);
    };
    // Nobody may make one now, or it could be taken for one that was left.
    let _writer = inner.writer();
    inner.snapshots.remove_orphan(name)
}

fn unpack_missing(inner: &Arc<Inner>) {
    let records: Vec<_> = {
        let state = inner.state();
        state.images.values().map(|e| e.record.clone()).collect()
    };
    for layer in records.iter().flat_map(|record| &record.layers) {
        let known = inner.state().layers.get(&layer.diff_id).map(|l| l.number);
        if known.is_some_and(|n| inner.snapshots.tree(n).is_dir())
            || inner.content.size(&layer.blob).is_none()
        {
            continue;
        }
        if let Some(number) = known {
            inner.state().layers.remove(&layer.diff_id);
            if let Err(e) = inner.snapshots.remove(number) {
                tracing::warn!(layer = %layer.diff_id, error = %e, "what is left of a layer stays");
            }
        }
        if let Err(e) = super::flight::unpack_stored(inner, layer) {
            tracing::warn!(layer = %layer.diff_id, error = %e, "layer could not be restored");
        }
    }
}

fn missing(inner: &Inner) -> Vec<Finding> {
    let (images, containers, refs) = {
        let state = inner.state();
        let images: Vec<_> = state.images.values().map(|e| e.record.clone()).collect();
        let containers: Vec<_> = state.containers.values().cloned().collect();
        let refs: Vec<_> = state.refs.values().cloned().collect();
        (images, containers, refs)
    };
    let mut found = Vec::new();
    let mut miss = |owner: String, what: String| found.push(Finding::Missing { owner, what });
    let layer_is_there = |diff_id: &Digest| {
        let number = inner.state().layers.get(diff_id).map(|l| l.number);
        number.is_some_and(|n| inner.snapshots.tree(n).is_dir())
    };
    for record in images {
        let owner = || format!("image {}", record.id);
        for layer in &record.layers {
            if inner.content.size(&layer.blob) != Some(layer.size) {
                miss(owner(), format!("blob {}", layer.blob));
            }
            if !layer_is_there(&layer.diff_id) {
                miss(owner(), format!("layer {}", layer.diff_id));
            }
        }
        for blob in [Some(record.id), record.manifest].into_iter().flatten() {
            if inner.content.size(&blob).is_none() {
                miss(owner(), format!("blob {blob}"));
            }
        }
    }
    for record in refs {
        if let Some(target) = record.target.filter(|t| inner.content.size(t).is_none()) {
            miss(format!("name {}", record.reference), format!("blob {target}"));
        }
    }
    for container in containers {
        let owner = || format!("container {}", container.container);
        for layer in container.layers.iter().filter(|l| !layer_is_there(l)) {
            miss(owner(), format!("layer {layer}"));
        }
        if !inner.snapshots.tree(container.number).is_dir() {
            miss(owner(), format!("snapshots/{}", container.number));
        }
    }
    found
}
