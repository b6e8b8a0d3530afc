//! A config.json, or the process.json of exec: whatever it holds is accepted, or refused by an error that names a field.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kelson_runtime::config::load::fuzz(bytes));
