//! Ids and names: how they are made, which are allowed, and how a user's word finds a container.

use std::collections::HashMap;

use crate::error::{Error, Result};

const ADJECTIVES: [&str; 48] = [
    "able", "amber", "ample", "awake", "bold", "brave", "brisk", "calm", "candid", "clear", "clever",
    "crisp", "deft", "eager", "early", "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden",
    "grand", "hardy", "honest", "keen", "kind", "light", "lively", "loyal", "lucid", "mellow", "merry",
    "modest", "noble", "patient", "plain", "proud", "quick", "quiet", "ready", "sharp", "steady", "sturdy",
    "sunny", "vivid", "wise",
];

/// Shipwrights, navigators and engineers of the sea.
const NAMES: [&str; 48] = [
    "amundsen",
    "anning",
    "baird",
    "barents",
    "beaufort",
    "bering",
    "bligh",
    "bowditch",
    "brunel",
    "cabot",
    "cartier",
    "chapman",
    "colomb",
    "cook",
    "cousteau",
    "dampier",
    "drake",
    "earle",
    "ericsson",
    "fitzroy",
    "flinders",
    "franklin",
    "froude",
    "fulton",
    "gama",
    "griffiths",
    "harrison",
    "henslow",
    "herreshoff",
    "hudson",
    "humboldt",
    "magellan",
    "maury",
    "mercator",
    "nansen",
    "parsons",
    "piccard",
    "plimsoll",
    "reber",
    "ross",
    "scoresby",
    "shackleton",
    "slocum",
    "tasman",
    "tharp",
    "vancouver",
    "watts",
    "zheng",
];

/// Longest name, bytes. Docker has no limit; a name becomes a host name and a DNS record here and there.
const MAX_NAME: usize = 255;

/// 64 hex digits from the kernel.
pub(crate) fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal(format!("get random bytes: {e}")))?;
    Ok(hex(&bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// A name made of an id's digits; a further attempt gives another one, and gets a number at its end.
pub(crate) fn generate(id: &str, attempt: usize) -> String {
    let word = |at: usize| {
        id.get(at..at + 4)
            .and_then(|h| usize::from_str_radix(h, 16).ok())
            .unwrap_or(0)
    };
    let at = (attempt * 8) % 56;
    let base = format!(
        "{}_{}",
        ADJECTIVES[word(at) % ADJECTIVES.len()],
        NAMES[word(at + 4) % NAMES.len()]
    );
    if attempt < 4 {
        base
    } else {
        format!("{base}{}", word(at + 4) % 1000)
    }
}

/// Docker's rule for container and volume names.
pub(crate) fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() >= 2
        && name.len() <= MAX_NAME
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Names and ids of everything there is, for look-up.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_name: HashMap<String, String>,
    ids: std::collections::BTreeSet<String>,
}

impl Index {
    /// Takes a name for an id; the present owner's id if it is taken.
    pub fn reserve(&mut self, name: &str, id: &str) -> std::result::Result<(), String> {
        match self.by_name.get(name) {
            Some(owner) if owner != id => Err(owner.clone()),
            _ => {
                self.by_name.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    pub fn add_id(&mut self, id: &str) {
        self.ids.insert(id.to_owned());
    }

    pub fn release(&mut self, name: &str, id: &str) {
        if self.by_name.get(name).is_some_and(|owner| owner == id) {
            self.by_name.remove(name);
        }
    }

    pub fn remove_id(&mut self, id: &str) {
        self.ids.remove(id);
        self.by_name.retain(|_, owner| owner != id);
    }

    /// Full id, then name (with or without its slash), then the beginning of an id, as docker.
    ///
    /// # Errors
    /// `NotFound` and `Invalid` (several ids begin so) in docker's words.
    pub fn resolve(&self, word: &str) -> Result<String> {
        if self.ids.contains(word) {
            return Ok(word.to_owned());
        }
        if let Some(id) = self.by_name.get(word.strip_prefix('/').unwrap_or(word)) {
            return Ok(id.clone());
        }
        if !word.is_empty() {
            let mut found = self
                .ids
                .range(word.to_owned()..)
                .take_while(|id| id.starts_with(word));
            match (found.next(), found.next()) {
                (Some(id), None) => return Ok(id.clone()),
                (Some(_), Some(_)) => {
                    return Err(Error::invalid(format!(
                        "Multiple IDs found with provided prefix: {word}"
                    )));
                }
                _ => {}
            }
        }
        Err(Error::not_found(format!("No such container: {word}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn ids_are_64_hex_digits_and_differ() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert_eq!(a.len(), 64);
        assert!(a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }

    #[test]
    fn generated_names_are_valid_and_vary() {
        let id = new_id().unwrap();
        let names: std::collections::HashSet<_> = (0..10).map(|n| generate(&id, n)).collect();
        assert!(names.iter().all(|n| is_valid(n)));
        assert!(names.len() > 1);
    }

    #[test]
    fn dockers_name_rule() {
        for good in ["ab", "a_b.c-d", "0a", "A1"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "a", "-ab", ".ab", "_a", "a b", "a/b", "ä1", "a\n"] {
            assert!(!is_valid(bad), "{bad}");
        }
        assert!(!is_valid(&"a".repeat(256)));
    }

    #[test]
    fn a_word_finds_by_id_then_name_then_prefix() {
        let mut index = Index::default();
        for (id, name) in [("abc1", "web"), ("abd2", "abc"), ("ffff", "db")] {
            index.add_id(id);
            index.reserve(name, id).unwrap();
        }
        assert_eq!(index.resolve("abc1").unwrap(), "abc1");
        assert_eq!(index.resolve("abc").unwrap(), "abd2", "a name wins over a prefix");
        assert_eq!(index.resolve("/web").unwrap(), "abc1");
        assert_eq!(index.resolve("f").unwrap(), "ffff");
        assert_eq!(index.resolve("ab").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(
            index.resolve("x").unwrap_err().to_string(),
            "No such container: x"
        );
        assert_eq!(index.resolve("").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_taken_name_names_its_owner() {
        let mut index = Index::default();
        index.reserve("web", "1").unwrap();
        assert_eq!(index.reserve("web", "2"), Err("1".into()));
        index.release("web", "2");
        assert_eq!(
            index.reserve("web", "2"),
            Err("1".into()),
            "only the owner gives it back"
        );
        index.release("web", "1");
        index.reserve("web", "2").unwrap();
    }
}
