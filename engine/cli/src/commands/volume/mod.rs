//! Commands about volumes.

pub mod create;
pub mod inspect;
pub mod ls;
pub mod prune;
pub mod rm;

use crate::client::segment;

/// The API path of a volume.
pub fn path(volume: &str) -> String {
    format!("/volumes/{}", segment(volume))
}
