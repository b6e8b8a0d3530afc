//! The runtime specification, clause by clause, by its own operations.

mod create;
mod operations;

use crate::case::Case;

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(create::cases());
    all.extend(operations::cases());
    all
}
