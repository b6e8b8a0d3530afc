//! The query string, read as moby's handlers read it.

use super::errors::ApiError;
use kelson_api::Filters;
use percent_encoding::percent_decode_str;

/// Decoded `key=value` pairs in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the text after `?`. Bytes that are not UTF-8 become U+FFFD, as no known parameter may hold them.
    pub fn parse(text: &str) -> Self {
        let decode = |s: &str| {
            percent_decode_str(&s.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Query(pairs.collect())
    }

    /// First value of a key, empty if absent.
    pub fn get(&self, key: &str) -> &str {
        self.values(key).next().unwrap_or_default()
    }

    /// Value of a key, if it is there and not empty.
    pub fn some(&self, key: &str) -> Option<&str> {
        Some(self.get(key)).filter(|v| !v.is_empty())
    }

    /// Whether the key is there at all.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// All values of a key.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// moby's `BoolValue`: everything but empty, 0, no, false and none is true.
    pub fn flag(&self, key: &str) -> bool {
        let value = self.get(key).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// Like [`Query::flag`], with a default for an absent key.
    pub fn flag_or(&self, key: &str, default: bool) -> bool {
        if self.has(key) { self.flag(key) } else { default }
    }

    /// An integer, `None` when absent or empty.
    ///
    /// # Errors
    /// 400 in Go's words.
    pub fn int(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.some(key) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(ApiError::invalid(format!(
                    "strconv.Atoi: parsing {text:?}: invalid syntax"
                ))),
            },
        }
    }

    /// The `filters` parameter.
    ///
    /// # Errors
    /// 400 when it is not JSON of either form.
    pub fn filters(&self) -> Result<Filters, ApiError> {
        Filters::parse(self.get("filters")).map_err(|e| ApiError::invalid(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads() {
        let q = Query::parse("a=1&b=x%20y+z&c&d=&t=1&t=2&e=False&n=-5&bad=x");
        assert!(q.flag("a") && !q.flag("c") && !q.flag("e") && !q.flag("missing"));
        assert!(q.flag_or("missing", true) && !q.flag_or("d", true));
        assert_eq!(q.get("b"), "x y z");
        assert_eq!(q.values("t").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(q.int("n").unwrap(), Some(-5));
        assert_eq!(q.int("d").unwrap(), None);
        assert_eq!(
            q.int("bad").unwrap_err().message,
            "strconv.Atoi: parsing \"x\": invalid syntax"
        );
        assert!(q.filters().unwrap().is_empty());
    }
}
