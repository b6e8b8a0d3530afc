//! Containers by a regular expression over their ids, as crun's `--regex` selects them.

use kelson_sys::regex::Regex;

use crate::container::Store;
use crate::error::{Error, Kind, Result};

/// Does the same to every container whose id matches, and goes on after errors: all of them are told at the end.
///
/// # Errors
/// `Invalid` for a pattern that is none, `NotFound` when nothing matches, or what happened to each container.
pub(super) fn each(store: &Store, pattern: &str, mut act: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let regex = Regex::extended(pattern)
        .map_err(|e| Error::new(Kind::Invalid, format!("--regex {pattern:?}: {e}")))?;
    let mut errors = Vec::new();
    let mut found = false;
    for id in store.list(false)?.iter().map(|entry| entry.id()) {
        if !regex.matches(&id) {
            continue;
        }
        found = true;
        match act(&id) {
            // Somebody else was faster.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => errors.push((id, e)),
            Ok(()) => {}
        }
    }
    if !found {
        return Err(Error::new(
            Kind::NotFound,
            format!("--regex {pattern:?}: no container matches"),
        ));
    }
    let Some((_, first)) = errors.first() else {
        return Ok(());
    };
    let kind = first.kind();
    let each: Vec<String> = errors
        .iter()
        .map(|(id, e)| format!("{id}: {}", e.chain()))
        .collect();
    Err(Error::new(kind, each.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_match_and_no_other_and_errors_do_not_stop_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        for id in ["web-1", "web-2", "db-1"] {
            drop(store.create(id).unwrap());
        }
        let mut seen = Vec::new();
        let error = each(&store, "^web-[0-9]+$", |id| {
            seen.push(id.to_owned());
            Err(Error::new(Kind::Conflict, "busy"))
        })
        .unwrap_err();
        assert_eq!(seen, ["web-1", "web-2"]);
        assert_eq!(
            (error.kind(), error.chain().as_str()),
            (Kind::Conflict, "web-1: busy; web-2: busy")
        );
        assert_eq!(
            each(&store, "^nope", |_| Ok(())).unwrap_err().kind(),
            Kind::NotFound
        );
        assert_eq!(each(&store, "(", |_| Ok(())).unwrap_err().kind(), Kind::Invalid);
    }
}
