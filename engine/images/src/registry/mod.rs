//! The registry client: distribution-spec and Docker's registry v2.

mod account;
mod auth;
mod client;
mod dial;
mod download;
mod endpoint;
mod hosts;
mod login;
pub(crate) mod manifest;
pub(crate) mod referrers;
mod search;
mod tls;
mod transport;
mod upload;

pub(crate) use client::{Aim, Fetched, Repository};
pub(crate) use download::{Arrived, Download};
pub(crate) use endpoint::{Endpoint, endpoints};
pub(crate) use login::login;
pub use search::FoundRepository;
pub(crate) use search::search;
pub(crate) use transport::{Ask, Transport, read_body};
pub(crate) use upload::Uploaded;
