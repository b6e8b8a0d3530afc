//! What containerd and its shims tell each other besides the Task calls. Names and numbers are those of containerd's
//! published interface.
pub mod bootstrap;
pub mod events;
pub mod metrics;
pub mod options;
pub mod sandbox;
