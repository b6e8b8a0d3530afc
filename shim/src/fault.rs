//! Fault points: places at which a test has the shim die as if by `kill -9`.
//!
//! A program built without debug assertions has none of it. Otherwise the point that `KELSON_SHIM_FAULT` names ends the process
//! there and then; `docs/exit-ordering.md` shows where they are.

/// Dies here if the test asks for it.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    if std::env::var_os("KELSON_SHIM_FAULT").is_some_and(|wanted| wanted == name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &str) {}
