//! Images: the store on disk, the registry client, unpacking, and the directories containers run on.
//!
//! [`Images`] is the one entrance. `DATA_ROOT` holds three trees of ours: `content/` (blobs by digest), `images/` (records)
//! and `snapshots/` (one directory per layer and per container). All of it is plain files; what is in memory is read from
//! them at [`Images::open`].

mod archive;
mod config;
mod content;
mod digest;
mod error;
mod files;
mod image;
pub mod limits;
mod progress;
mod registry;
mod remove;
mod snapshots;
mod store;
mod unpack;

pub use archive::changes::apply as apply_changes;
pub use config::{Compression, ImagesConfig, Platform, Proxies, PullOptions, PushOptions};
pub use digest::{Digest, ImageId};
pub use error::{Error, Kind, Result};
pub use image::{HistoryEntry, Image, Layer};
pub use progress::Progress;
pub use registry::FoundRepository;
pub use registry::referrers::Referrer;
pub use remove::{InUse, Removed};
pub use snapshots::{
    Access, Change, ChangeKind, ExtractOptions, PathStat, RootFs, RootMount, RootOptions, StorageDriver,
};
pub use store::{
    CommitOptions, EmbeddedImage, Finding, Images, ImportOptions, Loaded, Pruned, Pulled, Pushed,
    RemoteManifest, Repair, Usage,
};
