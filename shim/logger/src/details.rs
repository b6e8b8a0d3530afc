//! What the command line says: options of the driver, and facts about the container that go along with each message.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// Begins the name of an attribute that was asked for (`--log-opt labels=`, `env=`).
const EXTRA: &str = "extra:";

/// Pairs of words.
#[derive(Debug, Default)]
pub struct Details {
    known: BTreeMap<String, String>,
    /// Labels and environment variables that were asked for, in the order of the command line.
    pub extra: Vec<(String, String)>,
}

impl Details {
    /// From `KEY VALUE KEY VALUE...`. Keys that no driver asks for are a newer engine's and have no effect.
    pub fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut details = Self::default();
        let text = |word: OsString| {
            word.into_string()
                .map_err(|word| anyhow!("{}: not UTF-8", word.display()))
        };
        while let Some(key) = args.next() {
            let key = text(key)?;
            let value = text(args.next().with_context(|| format!("{key} has no value"))?)?;
            match key.strip_prefix(EXTRA) {
                Some(name) => details.extra.push((name.to_owned(), value)),
                None => {
                    details.known.insert(key, value);
                }
            }
        }
        Ok(details)
    }

    /// The value of `key`; empty when there is none.
    pub fn get(&self, key: &str) -> &str {
        self.known.get(key).map_or("", String::as_str)
    }

    /// The value of `key`, or another where there is none.
    pub fn get_or<'a>(&'a self, key: &str, other: &'a str) -> &'a str {
        Some(self.get(key))
            .filter(|value| !value.is_empty())
            .unwrap_or(other)
    }

    /// The value of `key` as a number, a switch, ...
    pub fn parsed<T: FromStr>(&self, key: &str, other: T) -> Result<T> {
        match self.get(key) {
            "" => Ok(other),
            text => text.parse().map_err(|_| anyhow!("{key}: invalid value {text:?}")),
        }
    }

    /// The value of `key` in milliseconds.
    pub fn millis(&self, key: &str, other: u64) -> Result<Duration> {
        self.parsed(key, other).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_words() {
        let parse = |words: &[&str]| Details::parse(words.iter().map(OsString::from));
        let details = parse(&["tag", "t", "n", "3", "extra:a", "1", "extra:b", "", "new", "x"]).unwrap();
        assert_eq!((details.get("tag"), details.get("none")), ("t", ""));
        assert_eq!(details.parsed("n", 0_u8).unwrap(), 3);
        assert_eq!(details.parsed("m", 7_u8).unwrap(), 7);
        assert_eq!(
            details.extra,
            [("a".into(), "1".into()), ("b".into(), String::new())]
        );
        assert!(parse(&["tag"]).is_err());
        assert!(details.parsed::<u8>("tag", 0).is_err());
    }
}
