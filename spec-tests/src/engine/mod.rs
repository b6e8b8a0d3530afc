//! What a case works with that judges an engine: a socket that speaks Docker's API, and nothing else of it.
//!
//! A [`Dock`] belongs to one case. Requests are raw HTTP, and every JSON answer is held to the API's description. All that a case
//! makes carries its label, by which it is found and removed afterwards.

pub mod address;
pub mod clock;
pub mod container;
pub mod description;
pub mod dock;
pub mod frames;
pub mod http;
pub mod image;
pub mod setup;
pub mod sweep;
pub mod worker;

pub use address::Address;
pub use container::{Container, Exec};
pub use dock::{Dock, query};
pub use frames::Output;
pub use http::{Answer, Hijacked, Payload, Request};
pub use image::Recipe;
pub use setup::Subject;

/// On everything that a run makes; the value is the run's id.
pub const RUN_LABEL: &str = "org.kelson.spec-tests.run";
/// On everything that a case makes; the value names it.
pub const CASE_LABEL: &str = "org.kelson.spec-tests.case";
