//! kelson-runtime: an OCI runtime with runc's command line.

use kelson_sys::bump::Bump;

/// See its module: this program lives for milliseconds.
#[global_allocator]
static ALLOCATOR: Bump = Bump::new();

fn main() {
    let code = kelson_runtime::cli::main();
    // All is written and nothing is held that the kernel does not take back: unwinding the rest only costs time.
    kelson_sys::spawn::exit_now(i32::from(code))
}
