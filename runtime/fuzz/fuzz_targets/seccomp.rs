//! A seccomp profile, up to the compiled filter.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kelson_runtime::seccomp::fuzz(bytes));
