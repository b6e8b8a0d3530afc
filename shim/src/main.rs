//! One supervisor per container: stdio, logs, attach, exec, exit status.
fn main() {}
