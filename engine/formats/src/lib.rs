//! Formats that the command line, the image store and the builder share: what an image is called, and where its
//! passwords lie. Parsing and printing only; nothing here opens a network connection.

pub mod credentials;
pub mod duration;
mod error;
pub mod reference;

pub use error::{Error, Kind, Result};
pub use reference::{Named, Reference};
