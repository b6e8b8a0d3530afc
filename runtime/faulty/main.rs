//! kelson-runtime with faults that can be planted: see `fault::is_planted`. Nothing but the mutation check of the conformance suite
//! builds it.
#![cfg_attr(not(test), no_main)]

use kelson_sys::bump::Bump;

#[global_allocator]
static ALLOCATOR: Bump = Bump::new();

#[cfg(not(test))]
kelson_sys::main!(kelson_runtime::cli::main);
