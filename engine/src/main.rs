//! kelsond, the daemon that speaks the Docker Engine API.
fn main() {}
