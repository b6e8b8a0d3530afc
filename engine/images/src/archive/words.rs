//! Words of Dockerfile instructions: split at blanks outside quotes, then variables put in and quotes taken off.

use crate::{Error, Result};

/// Splits at blanks that are in no quotes; quotes and backslashes stay.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            _ => {}
        }
        word.push(c);
    }
    words.extend(Some(word).filter(|w| !w.is_empty()));
    words
}

/// Puts variables in (`$A`, `${A}`, `${A:-else}`, `${A:+instead}`) outside single quotes, and takes quotes and backslashes off.
///
/// # Errors
/// `Invalid` for a brace that does not end, or a modifier there is not.
pub(super) fn expand(text: &str, env: &[(String, String)]) -> Result<String> {
    let mut out = String::new();
    let mut quote = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => match rest.chars().next() {
                // In double quotes a backslash is one unless it is before what is special there.
                Some(next) if quote.is_none() || matches!(next, '"' | '$' | '\\') => {
                    out.push(next);
                    rest = &rest[next.len_utf8()..];
                }
                _ => out.push(c),
            },
            ('$', None | Some('"')) => {
                let (value, after) = variable(rest, env)?;
                out.push_str(&value);
                rest = after;
            }
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}

/// What stands behind a dollar sign, and what follows it.
fn variable<'a>(text: &'a str, env: &[(String, String)]) -> Result<(String, &'a str)> {
    let value = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
    let end = |text: &str| {
        text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(text.len())
    };
    let Some(inside) = text.strip_prefix('{') else {
        return Ok(match end(text) {
            0 => ("$".to_owned(), text),
            n => (value(&text[..n]).unwrap_or_default().to_owned(), &text[n..]),
        });
    };
    let bad = |why: &str| Error::invalid(format!("failed to process \"${text}\": {why}"));
    let close = inside.find('}').ok_or_else(|| bad("syntax error: missing }"))?;
    let (name, modifier) = inside[..close].split_at(end(&inside[..close]));
    if name.is_empty() {
        return Err(bad("bad substitution"));
    }
    let found = value(name).unwrap_or_default();
    let result = match modifier.split_at_checked(2) {
        None if modifier.is_empty() => found.to_owned(),
        Some((":-", other)) if found.is_empty() => expand(other, env)?,
        Some((":-", _)) => found.to_owned(),
        Some((":+", other)) if !found.is_empty() => expand(other, env)?,
        Some((":+", _)) => String::new(),
        _ => return Err(bad("unsupported modifier in substitution")),
    };
    Ok((result, &inside[close + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(
            split(r#"a "b c"  d\ e 'f "g'"#),
            ["a", "\"b c\"", "d\\ e", "'f \"g'"]
        );
        let env = [("A".to_owned(), "1".to_owned()), ("E".to_owned(), String::new())];
        for (text, want) in [
            ("$A-${A}x", "1-1x"),
            ("'$A' \"$A\"", "$A 1"),
            ("\\$A \"\\$A \\n\"", "$A $A \\n"),
            ("${A:-2}${B:-2}${E:-$A}", "121"),
            ("${A:+y}${B:+y}", "y"),
            ("$", "$"),
            ("a$B.c", "a.c"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), want, "{text}");
        }
        for bad in ["${A", "${}", "${A%x}"] {
            assert!(expand(bad, &env).is_err(), "{bad}");
        }
    }
}
