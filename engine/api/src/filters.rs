//! The `filters` query parameter: `{"label":["a","b=c"]}`, or the older `{"label":{"a":true,"b=c":true}}`.

use crate::Map;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;

/// Filter values by key. Values of one key are alternatives unless its meaning says otherwise (labels: all must hold).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub Map<BTreeSet<String>>);

/// Why a `filters` parameter was refused. Docker answers 400 to each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterError {
    /// Not JSON of either form.
    Malformed(String),
    /// A key that this endpoint does not know.
    UnknownKey(String),
    /// A value that is not one the key allows.
    BadValue {
        /// The key.
        key: String,
        /// What was given.
        values: Vec<String>,
    },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterError::Malformed(why) => write!(f, "invalid filter: {why}"),
            FilterError::UnknownKey(key) => write!(f, "invalid filter '{key}'"),
            FilterError::BadValue { key, values } => {
                write!(f, "invalid filter '{key}=[{}]'", values.join(" "))
            }
        }
    }
}

impl std::error::Error for FilterError {}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Legacy(Map<bool>),
}

impl Filters {
    /// Decodes the parameter; the empty string is no filter.
    ///
    /// # Errors
    /// [`FilterError::Malformed`] for anything but the two JSON forms.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let raw: Map<Values> =
            serde_json::from_str(text).map_err(|e| FilterError::Malformed(e.to_string()))?;
        let sets = raw.into_iter().map(|(key, values)| {
            let set = match values {
                Values::List(items) => items.into_iter().collect(),
                Values::Legacy(items) => items
                    .into_iter()
                    .filter(|(_, on)| *on)
                    .map(|(item, _)| item)
                    .collect(),
            };
            (key, set)
        });
        Ok(Filters(sets.collect()))
    }

    /// The parameter's text, in the current form.
    pub fn encode(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Adds one value.
    pub fn add(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_default().insert(value.to_owned());
    }

    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of a key; none if it was not given.
    pub fn get(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether a key was given.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Refuses keys outside `known`.
    ///
    /// # Errors
    /// [`FilterError::UnknownKey`] with the first such key.
    pub fn only(&self, known: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FilterError::UnknownKey(key.clone())),
            None => Ok(()),
        }
    }

    /// A boolean key (`dangling`): `None` if not given, as Go's `GetBoolOrDefault`.
    ///
    /// # Errors
    /// [`FilterError::BadValue`] for anything but one of 1, true, 0, false.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, FilterError> {
        let Some(values) = self.0.get(key) else {
            return Ok(None);
        };
        let (yes, no) = (
            values.contains("1") || values.contains("true"),
            values.contains("0") || values.contains("false"),
        );
        if yes != no {
            return Ok(Some(yes));
        }
        Err(FilterError::BadValue {
            key: key.to_owned(),
            values: values.iter().cloned().collect(),
        })
    }

    /// Whether labels satisfy every value of `key`: `name` asks for presence, `name=value` for equality.
    pub fn labels_match(&self, key: &str, labels: &Map<String>) -> bool {
        self.get(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        })
    }
}

/// Any text is parsed or refused, and what is parsed survives its own encoding.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    if let Ok(filters) = Filters::parse(&String::from_utf8_lossy(data)) {
        assert_eq!(Filters::parse(&filters.encode()), Ok(filters));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_decode_alike() {
        let new = Filters::parse(r#"{"status":["running","exited"]}"#).unwrap();
        let old = Filters::parse(r#"{"status":{"running":true,"exited":true,"dead":false}}"#).unwrap();
        assert_eq!(new, old);
        assert_eq!(new.encode(), r#"{"status":["exited","running"]}"#);
        assert!(Filters::parse("").unwrap().is_empty());
    }

    #[test]
    fn malformed_is_refused() {
        for text in ["x", "[]", r#"{"a":"b"}"#, r#"{"a":[1]}"#] {
            assert!(
                matches!(Filters::parse(text), Err(FilterError::Malformed(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_keys_and_booleans() {
        let f = Filters::parse(r#"{"dangling":["true"],"nope":["1"]}"#).unwrap();
        assert_eq!(
            f.only(&["dangling"]).unwrap_err().to_string(),
            "invalid filter 'nope'"
        );
        assert_eq!(f.boolean("dangling"), Ok(Some(true)));
        assert_eq!(f.boolean("other"), Ok(None));
        let bad = Filters::parse(r#"{"dangling":["maybe"]}"#).unwrap();
        assert_eq!(
            bad.boolean("dangling").unwrap_err().to_string(),
            "invalid filter 'dangling=[maybe]'"
        );
    }

    #[test]
    fn labels() {
        let labels = Map::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        let f = |t: &str| {
            Filters::parse(&format!(r#"{{"label":[{t}]}}"#))
                .unwrap()
                .labels_match("label", &labels)
        };
        assert!(f(r#""a","b""#));
        assert!(f(r#""a=1""#));
        assert!(!f(r#""a=2""#));
        assert!(!f(r#""a","c""#));
    }
}
