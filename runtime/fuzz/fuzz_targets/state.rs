//! A state.json of any version, or of none.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kelson_runtime::container::store::fuzz(bytes));
