//! The registry client: distribution-spec and Docker's registry v2, pull side.

mod account;
mod auth;
mod client;
mod endpoint;
pub(crate) mod manifest;
mod transport;

pub(crate) use client::{Fetched, Repository};
pub(crate) use endpoint::endpoints;
pub(crate) use transport::Transport;
