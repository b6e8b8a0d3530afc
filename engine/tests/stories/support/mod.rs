//! A playground per test: enclosure, registry with real images, daemon, client, and a look at what is left.

pub mod client;
pub mod command;
pub mod daemon;
pub mod images;
pub mod inventory;
pub mod net;
pub mod outside;
pub mod playground;
pub mod programs;
pub mod terminal;

pub use client::Client;
pub use playground::Playground;
