//! `docker rmi`: which names and images go, and when it is a conflict.

use crate::digest::Digest;

/// Who uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The container's id.
    pub container: String,
    /// Whether it runs (paused counts); such an image cannot be removed even by force.
    pub running: bool,
}

/// One line of `docker rmi`'s answer, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name, in people's form.
    Untagged(String),
    /// An image's id or a layer's chain id.
    Deleted(Digest),
}
