//! What users do, typed on a real command line against a real daemon, and looked at through the kernel.
//!
//! Each story runs with our client and with the stock docker client, in an enclosure of its own
//! (`kelson_spec_tests::enclosure`) with a registry inside. `KELSON_BIN_DIR` names the programs under test
//! (default: `target/kelson/bin`, where `make build` puts them). `KELSON_TEST_ENGINE=dockerd` runs them
//! against Debian's dockerd: with docker's client that tests the tests, with ours it tests the client.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by panicking, and why it skips"
)]

mod bad_input;
mod compose;
mod crash;
mod everyday;
mod files;
mod health;
mod images;
mod init;
mod killing;
mod limits;
mod log_drivers;
mod metrics;
mod networks;
mod peers;
mod redis;
mod stock;
mod support;
mod tls;
mod web;
mod websocket;
