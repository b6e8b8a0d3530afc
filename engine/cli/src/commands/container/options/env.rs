//! Environment and label files, and `-e K` from our own environment.

use std::collections::BTreeMap;

/// The variables of `--env-file` texts, then those of `-e`; a bare name takes its value from
/// `lookup`. Without one a file's is left out; one of `-e` stays bare, which takes the variable away
/// from what the image sets.
pub fn merge<'a>(
    files: &[(String, String)],
    given: impl Iterator<Item = &'a str>,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let mut variables = Vec::new();
    for (name, text) in files {
        for line in lines(name, text)? {
            variables.extend(resolve(line, &lookup));
        }
    }
    for text in given {
        variables.push(resolve(text, &lookup).unwrap_or_else(|| text.to_owned()));
    }
    Ok(variables)
}

fn resolve(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    if text.contains('=') {
        return Some(text.to_owned());
    }
    lookup(text).map(|value| format!("{text}={value}"))
}

/// The lines of a file of `K=V` or `K`: comments and blank lines left out, the rest as it stands.
pub fn lines<'a>(name: &str, text: &'a str) -> Result<Vec<&'a str>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split('=').next().unwrap_or_default();
        if key.contains(char::is_whitespace) {
            return Err(format!(
                "invalid env file ({name}): variable '{key}' contains whitespaces"
            ));
        }
        if key.is_empty() {
            return Err(format!(
                "invalid env file ({name}): no variable name on line '{line}'"
            ));
        }
        lines.push(line);
    }
    Ok(lines)
}

/// `a=b` pairs as a map; a bare name has an empty value.
pub fn to_map<'a>(pairs: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_before_flags() {
        let files = [(
            "f".to_owned(),
            "\u{feff}# comment\n\n  A=1 2\nHOST\nMISSING\nB=x=y\n".to_owned(),
        )];
        let lookup = |name: &str| (name == "HOST").then(|| "here".to_owned());
        let merged = merge(&files, ["A=3", "HOST", "NONE", "E="].into_iter(), lookup).unwrap();
        assert_eq!(
            merged,
            ["A=1 2", "HOST=here", "B=x=y", "A=3", "HOST=here", "NONE", "E="]
        );
    }

    #[test]
    fn bad_lines_are_named() {
        assert_eq!(
            lines("f", "a b=1").unwrap_err(),
            "invalid env file (f): variable 'a b' contains whitespaces"
        );
        assert_eq!(
            lines("f", "=1").unwrap_err(),
            "invalid env file (f): no variable name on line '=1'"
        );
    }

    #[test]
    fn labels() {
        let map = to_map(["a=b", "c", "a=d=e"]);
        assert_eq!((map["a"].as_str(), map["c"].as_str()), ("d=e", ""));
    }
}
