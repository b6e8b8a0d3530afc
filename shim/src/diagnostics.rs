//! The shim's own voice: lines on stderr, which the engine made a file. Only what no caller is told.
use std::io::Write;

use kelson_shim_proto::time::Time;

/// Writes one line; a full disk or a closed descriptor is no reason to stop.
pub fn report(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{} {message}", Time::now());
}

/// Writes one line without a time, for a command whose caller shows it.
pub fn say(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}
