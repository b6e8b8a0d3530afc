//! From `config.json` to a plan: loading, checking, and resolving, without touching the machine.

pub mod load;
mod locate;
pub mod model;
pub mod validate;

pub use load::{load_bundle, load_process};
pub use model::{Capabilities, Config, ConsoleSize, Linux, Process, User};
