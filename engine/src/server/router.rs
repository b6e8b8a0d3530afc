//! Matching of paths: literal segments and wildcards, one of which may span several segments (image names).

use std::collections::BTreeMap;

/// Values of a pattern's wildcards.
pub type Vars = BTreeMap<&'static str, String>;

/// Matches a decoded path against a pattern such as `/images/{name...}/json`. `{x}` is one segment, `{x...}` one or
/// more; the latter may stand once in a pattern, at any place.
pub fn matches(pattern: &'static str, path: &str) -> Option<Vars> {
    let wanted: Vec<&'static str> = pattern.split('/').skip(1).collect();
    let given: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let spread = wanted.iter().position(|w| w.ends_with("...}"));
    let mut vars = Vars::new();
    let Some(at) = spread else {
        return (wanted.len() == given.len() && take(&wanted, &given, &mut vars)).then_some(vars);
    };
    let behind = wanted.len() - at - 1;
    if given.len() < wanted.len() {
        return None;
    }
    let (head, rest) = given.split_at(at);
    let (middle, tail) = rest.split_at(rest.len() - behind);
    if !take(&wanted[..at], head, &mut vars) || !take(&wanted[at + 1..], tail, &mut vars) {
        return None;
    }
    let value = middle.join("/");
    if value.is_empty() {
        return None;
    }
    vars.insert(wanted[at].trim_start_matches('{').trim_end_matches("...}"), value);
    Some(vars)
}

fn take(wanted: &[&'static str], given: &[&str], vars: &mut Vars) -> bool {
    wanted.iter().zip(given).all(
        |(w, g)| match w.strip_prefix('{').and_then(|w| w.strip_suffix('}')) {
            None => w == g,
            Some(_) if g.is_empty() => false,
            Some(name) => {
                vars.insert(name, (*g).to_owned());
                true
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(pattern: &'static str, path: &str, name: &str) -> Option<String> {
        matches(pattern, path).and_then(|v| v.get(name).cloned())
    }

    #[test]
    fn literals_and_single_wildcards() {
        assert!(matches("/info", "/info").is_some());
        assert!(matches("/info", "/info/").is_none());
        assert!(matches("/info", "info").is_none());
        assert_eq!(
            var("/containers/{id}/json", "/containers/web/json", "id").as_deref(),
            Some("web")
        );
        assert!(matches("/containers/{id}/json", "/containers//json").is_none());
        assert!(matches("/containers/{id}/json", "/containers/a/b/json").is_none());
    }

    #[test]
    fn wildcards_that_hold_slashes() {
        let inspect = "/images/{name...}/json";
        assert_eq!(var(inspect, "/images/a/json", "name").as_deref(), Some("a"));
        assert_eq!(
            var(inspect, "/images/r:5/a/b:c/json", "name").as_deref(),
            Some("r:5/a/b:c")
        );
        assert_eq!(var(inspect, "/images/json/json", "name").as_deref(), Some("json"));
        assert!(matches(inspect, "/images/json").is_none());
        assert!(matches(inspect, "/images//json").is_none());
        assert_eq!(
            var("/images/{name...}", "/images/x/y", "name").as_deref(),
            Some("x/y")
        );
    }
}
