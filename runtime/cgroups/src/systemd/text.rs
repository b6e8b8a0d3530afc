//! Property values of annotations (`org.systemd.property.NAME`), in GVariant's text format: numbers, strings, truth
//! values, arrays of them, and a leading type.

use super::marshal::Value;

/// A property of the unit as an annotation asks for it: its name, and its value. As with runc, a time in seconds
/// (`TimeoutStopSec`) becomes one in microseconds (`TimeoutStopUSec`), which is what systemd knows over D-Bus.
pub(super) fn property(name: &str, text: &str) -> Result<(String, Value), String> {
    if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(format!("{name:?} is not the name of a property"));
    }
    let value = parse(text).ok_or_else(|| format!("{text:?} is not a value in GVariant's text format"))?;
    match name.strip_suffix("Sec").filter(|n| !n.ends_with('U')) {
        Some(stem) => match microseconds(&value) {
            Some(us) => Ok((format!("{stem}USec"), Value::U64(us))),
            None => Err(format!("{text:?} is not a number of seconds")),
        },
        None => Ok((name.to_owned(), value)),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn microseconds(value: &Value) -> Option<u64> {
    match *value {
        Value::F64(n) if n >= 0.0 && n * 1e6 < u64::MAX as f64 => Some((n * 1e6) as u64),
        Value::Byte(n) => u64::from(n).checked_mul(1_000_000),
        Value::I32(n) => u64::try_from(n).ok()?.checked_mul(1_000_000),
        Value::U32(n) => u64::from(n).checked_mul(1_000_000),
        Value::I64(n) => u64::try_from(n).ok()?.checked_mul(1_000_000),
        Value::U64(n) => n.checked_mul(1_000_000),
        _ => None,
    }
}

fn parse(text: &str) -> Option<Value> {
    let mut p = Parser { rest: text, depth: 0 };
    let value = p.value(None)?;
    p.rest.trim().is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    /// Of arrays in arrays; bounded, as each takes a part of the stack.
    depth: usize,
}

const MAX_DEPTH: usize = 8;

impl Parser<'_> {
    fn eat(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &str {
        self.rest = self.rest.trim_start();
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || ",[]'\"".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// `typ` is the signature that is known from before the value.
    fn value(&mut self, typ: Option<&str>) -> Option<Value> {
        if typ.is_none() && self.eat('@') {
            let typ = self.word().to_owned();
            return self.value(Some(&typ));
        }
        if self.eat('[') {
            return self.array(typ);
        }
        if let Some(text) = self.quoted() {
            return match typ {
                None | Some("s") => Some(Value::Str(text?)),
                Some("o") => Some(Value::Path(text?)),
                Some(_) => None,
            };
        }
        let word = self.word().to_owned();
        let named = match word.as_str() {
            "" => return None,
            "true" | "false" => {
                return matches!(typ, None | Some("b")).then_some(Value::Bool(word == "true"));
            }
            "boolean" => "b",
            "byte" => "y",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            _ => return number(&word, typ),
        };
        // Another word instead of the value would be a second type.
        if typ.is_some_and(|t| t != named)
            || self
                .rest
                .trim_start()
                .starts_with(|c: char| c.is_alphabetic() && !"tf".contains(c))
        {
            return None;
        }
        self.value(Some(named))
    }

    /// `None`: not a string; `Some(None)`: one without an end.
    fn quoted(&mut self) -> Option<Option<String>> {
        let quote = ['\'', '"'].into_iter().find(|q| self.eat(*q))?;
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(Some(out));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, c)) => out.push(c),
                    None => return Some(None),
                },
                c => out.push(c),
            }
        }
        Some(None)
    }

    fn array(&mut self, typ: Option<&str>) -> Option<Value> {
        let known = match typ {
            Some(t) => Some(t.strip_prefix('a')?.to_owned()),
            None => None,
        };
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut values: Vec<Value> = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return None;
            }
            // The first element decides the type of the others.
            let first = values.first().map(Value::signature);
            values.push(self.value(known.as_deref().or(first.as_deref()))?);
        }
        self.depth -= 1;
        let element = known.or_else(|| values.first().map(Value::signature))?;
        values
            .iter()
            .all(|v| v.signature() == element)
            .then_some(Value::Array(element, values))
    }
}

/// Without a type it is int32, or a double when it has a fraction.
fn number(word: &str, typ: Option<&str>) -> Option<Value> {
    Some(match typ {
        None if word.contains(['.', 'e']) => Value::F64(word.parse().ok()?),
        None | Some("i") => Value::I32(word.parse().ok()?),
        Some("y") => Value::Byte(word.parse().ok()?),
        Some("u") => Value::U32(word.parse().ok()?),
        Some("x") => Value::I64(word.parse().ok()?),
        Some("t") => Value::U64(word.parse().ok()?),
        Some("d") => Value::F64(word.parse().ok()?),
        Some(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_annotations() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("5", Value::I32(5)),
            (" -5 ", Value::I32(-5)),
            ("uint64 123456789", Value::U64(123_456_789)),
            ("@t 5", Value::U64(5)),
            ("byte 7", Value::Byte(7)),
            ("1.5", Value::F64(1.5)),
            ("'inactive-or-failed'", Value::str("inactive-or-failed")),
            (r#""it\"s""#, Value::str("it\"s")),
            (
                "['a.service', 'b.service']",
                Value::strings(["a.service", "b.service"]),
            ),
            ("@as []", Value::strings::<String>([])),
            (
                "[uint32 1, 2]",
                Value::Array("u".to_owned(), vec![Value::U32(1), Value::U32(2)]),
            ),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for bad in [
            "",
            "'open",
            "[1, 'a']",
            "[]",
            "[1 2]",
            "byte 256",
            "uint32 -1",
            "yes",
            "1 2",
            "@as [1]",
            "'a' b",
            "[[[[[[[[[[1]]]]]]]]]]",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        assert_eq!(
            property("TimeoutStopSec", "1.5").unwrap(),
            ("TimeoutStopUSec".to_owned(), Value::U64(1_500_000))
        );
        assert_eq!(
            property("TimeoutStopUSec", "uint64 9").unwrap(),
            ("TimeoutStopUSec".to_owned(), Value::U64(9))
        );
        assert!(property("TimeoutStopSec", "'x'").is_err());
        assert!(property("TimeoutStopSec", "-1").is_err());
    }

    #[test]
    fn names_are_words() {
        for bad in ["", "ab", "Exec Start", "A.b", "CPU1"] {
            assert!(property(bad, "1").is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in r#"[-\[\]@'",a-z0-9\\ .]{0,40}"#) { let _ = parse(&text); }
    }
}
