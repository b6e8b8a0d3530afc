//! Commands about networks.

pub mod connect;
pub mod create;
pub mod disconnect;
pub mod inspect;
pub mod ls;
pub mod prune;
pub mod rm;

use crate::client::segment;

/// The API path of a network.
pub fn path(network: &str) -> String {
    format!("/networks/{}", segment(network))
}
