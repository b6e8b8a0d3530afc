//! kelson-runtime: an OCI runtime with runc's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    kelson_runtime::cli::main()
}
