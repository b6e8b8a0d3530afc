//! Black-box conformance cases and benches for OCI runtimes and engines.
//!
//! It links nothing that it judges: a path or a socket goes in, a report comes out.

pub mod bench;
pub mod bundle;
pub mod case;
pub mod cgroup;
pub mod clauses;
pub mod enclosure;
pub mod engine;
pub mod eventually;
pub mod image;
pub mod judge;
pub mod lab;
pub mod report;
pub mod require;
pub mod runner;
pub mod suites;
