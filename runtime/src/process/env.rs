//! The environment a program gets.

use std::collections::BTreeSet;

/// `entries` with each name once, the last value counting, and with a `HOME`: one that is unset or empty is what
/// `home` gives.
pub fn resolve<'a>(
    entries: impl DoubleEndedIterator<Item = &'a str>,
    home: impl FnOnce() -> String,
) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut out: Vec<String> = Vec::new();
    for entry in entries.rev() {
        if seen.insert(name(entry)) && entry != "HOME=" {
            out.push(entry.to_owned());
        }
    }
    out.reverse();
    if !out.iter().any(|e| name(e) == "HOME") {
        out.push(format!("HOME={}", home()));
    }
    out
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(entries: &[&str]) -> Vec<String> {
        resolve(entries.iter().copied(), || "/home/me".to_owned())
    }

    #[test]
    fn the_last_value_counts_at_its_place() {
        assert_eq!(
            resolved(&["A=1", "HOME=/h", "B=2", "A=", "odd"]),
            ["HOME=/h", "B=2", "A=", "odd"]
        );
    }

    #[test]
    fn home_is_there_and_not_empty() {
        assert_eq!(resolved(&["A=1"]), ["A=1", "HOME=/home/me"]);
        assert_eq!(resolved(&["HOME=/h", "HOME="]), ["HOME=/home/me"]);
        assert_eq!(resolved(&["HOME=", "HOME=/h"]), ["HOME=/h"]);
    }
}
