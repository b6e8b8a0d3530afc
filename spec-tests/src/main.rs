//! Black-box conformance cases and benches for OCI runtimes and engines.
fn main() {}
