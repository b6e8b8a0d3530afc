//! Made by `examples/generate.rs` from `protos/`; not edited by hand.
pub mod mount;
pub mod process;
pub mod task;
pub mod task_ttrpc;
