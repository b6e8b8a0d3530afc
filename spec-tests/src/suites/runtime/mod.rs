//! The runtime specification, clause by clause, by its own operations.

mod lifecycle;

use crate::case::Case;

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(lifecycle::cases());
    all
}
