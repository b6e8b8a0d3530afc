//! Image store, registry client, unpacking and snapshots.
