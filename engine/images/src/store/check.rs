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
