//! Docker Engine API messages: requests, responses, the error body, stream framing, filters and port specifications.
//!
//! Go's JSON encoding is the contract, because the clients were written against it:
//! a nil slice or map is `null` (`None` here), an empty one `[]` or `{}`, a field with `omitempty` is absent when it
//! holds its zero value, and a `null` in a request means the zero value. See [`wire`] for how that is declared.
//! This crate holds shapes and their grammar; it decides nothing.

#[macro_use]
pub mod wire;
pub mod container;
pub mod container_config;
pub mod df;
pub mod error;
pub mod events;
pub mod exec;
pub mod filters;
pub mod host_config;
pub mod image;
pub mod info;
pub mod network;
pub mod ports;
pub mod progress;
pub mod stats;
pub mod stream;
pub mod version;
pub mod volume;

pub use container::*;
pub use container_config::*;
pub use df::*;
pub use error::*;
pub use events::*;
pub use exec::*;
pub use filters::Filters;
pub use host_config::*;
pub use image::*;
pub use info::*;
pub use network::*;
pub use progress::*;
pub use stats::*;
pub use version::*;
pub use volume::*;

use std::collections::BTreeMap;

/// A Go map with string keys: encoding/json writes it in key order.
pub type Map<V> = BTreeMap<String, V>;

/// What Go's zero `time.Time` looks like in JSON: a container that was never started carries it.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";
