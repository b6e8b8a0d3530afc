//! `kelson-shim serve` and `containerd-shim-kelson-v2`: see the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    kelson_shim::cli::run(&program, args)
}
