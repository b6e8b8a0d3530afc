//! Memory of a shim that has been busy and is so no more.
//!
//! A shim waits for hours and works for milliseconds, and nearly all it costs is code that has been read in: of its start, of
//! making a container, of an exec. A moment after the last work that code, and what the allocator kept, is given back. A shim
//! that is busy pays one flag for each piece of work, and one that is idle is woken once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long after work; more of it within that time costs nothing.
const QUIET: Duration = Duration::from_secs(1);

static PLANNED: AtomicBool = AtomicBool::new(false);

/// To be called at the end of a piece of work, on the reactor.
pub fn soon() {
    if PLANNED.swap(true, Ordering::Relaxed) {
        return;
    }
    tokio::spawn(async {
        tokio::time::sleep(QUIET).await;
        PLANNED.store(false, Ordering::Relaxed);
        kelson_sys::malloc::trim();
        // Without it the shim is larger, and as good.
        let _ = kelson_sys::text::release();
    });
}
