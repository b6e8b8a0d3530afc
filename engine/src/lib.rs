//! kelsond, the daemon that speaks the Docker Engine API: configuration, wiring, and the HTTP server.
//!
//! It decides nothing about containers: every route translates one request into one call of `kelson-core`.

pub mod config;
pub mod daemon;
mod metrics;
mod reload;
pub mod server;
mod service;
mod wiring;

pub use server::versions::MAX as API_VERSION;
