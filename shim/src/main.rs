//! `kelson-shim serve`: see the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    kelson_shim::cli::run(std::env::args_os().skip(1))
}
