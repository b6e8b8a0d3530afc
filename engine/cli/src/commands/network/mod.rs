//! Commands about networks.

pub mod inspect;
pub mod ls;

use crate::client::segment;

/// The API path of a network.
pub fn path(network: &str) -> String {
    format!("/networks/{}", segment(network))
}
