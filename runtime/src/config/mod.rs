//! From `config.json` to a plan: loading, checking, and resolving, without touching the machine.

mod keep;
pub mod load;
pub(crate) mod locate;
pub mod model;
pub mod validate;

pub use keep::{keep, kept};
pub use load::{load_bundle, load_process};
pub use model::{Capabilities, Config, ConsoleSize, Linux, Process, User};
