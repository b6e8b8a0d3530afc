//! kelson-runtime: an OCI runtime with runc's command line.
#![cfg_attr(not(test), no_main)]

use kelson_sys::bump::Bump;

/// See its module: this program lives for milliseconds.
#[global_allocator]
static ALLOCATOR: Bump = Bump::new();

// When it returns all is written and nothing is held that the kernel does not take back: unwinding the rest only costs time.
#[cfg(not(test))]
kelson_sys::main!(kelson_runtime::cli::main);
