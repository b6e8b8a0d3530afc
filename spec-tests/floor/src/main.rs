//! The bare kernel work of one container, as the physical limit in benches.
fn main() {}
