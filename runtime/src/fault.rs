//! Faults for tests: points to be killed at, and deliberate faults.
//!
//! Fault points: places at which a test stops the runtime or a process of its making, to kill the runtime just there.
//!
//! A program built without debug assertions has none of it. Otherwise the process that reaches the point named in
//! `KELSON_FAULT` takes the name `kelson-fault`, by which a test finds it in any pid namespace, and waits: to be killed, to
//! be told to go on (by another nice value), or for a minute.

/// Waits here if the test asks for it. `docs/stages.md` shows where the points are.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::time::Duration;

    if std::env::var_os("KELSON_FAULT").is_none_or(|wanted| wanted != name) {
        return;
    }
    // What fails here fails the test, which then finds nobody of that name.
    let _ = rustix::thread::set_name(c"kelson-fault");
    let nice = || rustix::process::getpriority_process(None).ok();
    let before = nice();
    for _ in 0..6000 {
        if nice() != before {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &str) {}

/// Whether the deliberate fault of this name is planted, for the check that the conformance suite notices. Without the feature
/// `deliberate-faults`, which only `faulty/main.rs` is built with, none ever is, and nothing of it is in the program.
#[cfg(feature = "deliberate-faults")]
pub fn is_planted(name: &str) -> bool {
    std::env::var_os("KELSON_PLANTED_FAULT").is_some_and(|planted| planted == name)
}

/// Never.
#[cfg(not(feature = "deliberate-faults"))]
#[inline(always)]
pub const fn is_planted(_: &str) -> bool {
    false
}
