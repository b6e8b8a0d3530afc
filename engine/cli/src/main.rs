//! The kelson command.
fn main() {}
