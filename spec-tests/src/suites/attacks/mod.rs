//! Breakouts that runtimes have had, tried again: each case does what the attacker did, and looks for the damage.
//!
//! Nothing of the machine is at stake: where an attack would write to the host, a canary of the case takes its place.

mod descriptors;
mod paths;

use crate::case::Case;

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = descriptors::cases();
    all.extend(paths::cases());
    all
}
