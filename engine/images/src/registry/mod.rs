//! The registry client: distribution-spec and Docker's registry v2.

mod account;
mod auth;
mod client;
mod dial;
mod download;
mod endpoint;
mod hosts;
pub(crate) mod manifest;
pub(crate) mod referrers;
mod tls;
mod transport;
mod upload;

pub(crate) use client::{Aim, Fetched, Repository};
pub(crate) use download::{Arrived, Download};
pub(crate) use endpoint::{Endpoint, endpoints};
pub(crate) use transport::Transport;
pub(crate) use upload::Uploaded;
