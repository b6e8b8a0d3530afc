//! Breakouts that runtimes and engines have had, tried again: each case does what the attacker did, and looks for the damage.
//!
//! Nothing of the machine is at stake: where an attack would write to the host, a canary of the case takes its place.

mod descriptors;
mod images;
mod paths;

use crate::case::Case;
use crate::clauses::{Clauses, Table};

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = descriptors::cases();
    all.extend(paths::cases());
    all.extend(images::cases());
    // Cases name advisories; rows of the table know whom they were of.
    let rows = Clauses::of(Table::Attacks);
    for id in all.iter_mut().flat_map(|case| &mut case.clauses) {
        let row = |of: &str| rows.get(&format!("attack#{of}/{id}")).map(|row| row.id.clone());
        if let Some(row) = row("runtime").or_else(|| row("image")) {
            *id = row;
        }
    }
    all
}
