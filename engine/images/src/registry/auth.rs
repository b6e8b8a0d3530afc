//! What a registry asks for in `WWW-Authenticate` (RFC 9110, 11.6.1; distribution's token specification).

use http::Response;
use http::header::WWW_AUTHENTICATE;

use super::transport::FromElsewhere;

/// A challenge we can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// Finds the best challenge of a header: Bearer before Basic.
pub(crate) fn parse(header: &str) -> Option<Challenge> {
    let mut best = None;
    let mut rest = header;
    while let Some((scheme, params, next)) = one(rest) {
        let get = |key: &str| {
            params
                .iter()
                .find(|(k, _)| k.eq_ignore_ascii_case(key))
                .map(|(_, v)| v.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            return Some(Challenge::Bearer {
                realm,
                service: get("service"),
                scope: get("scope"),
            });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            best = Some(Challenge::Basic);
        }
        rest = next;
    }
    best
}

/// The best challenge of an answer. None from another host than the one that was asked: it could name a token server of its
/// own, which would get the user's password.
pub(crate) fn challenge_of<T>(answer: &Response<T>) -> Option<Challenge> {
    if answer.extensions().get::<FromElsewhere>().is_some() {
        return None;
    }
    let headers = answer
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .into_iter()
        .filter_map(|h| h.to_str().ok());
    let mut found: Vec<Challenge> = headers.filter_map(parse).collect();
    found.sort_by_key(|c| matches!(c, Challenge::Basic));
    found.into_iter().next()
}

type Params = Vec<(String, String)>;

/// Reads one challenge: a scheme and its parameters, up to the next scheme.
fn one(text: &str) -> Option<(&str, Params, &str)> {
    let text = text.trim_start_matches([' ', ',']);
    if text.is_empty() {
        return None;
    }
    let end = text.find([' ', ',']).unwrap_or(text.len());
    let (scheme, mut rest) = text.split_at(end);
    let mut params = Params::new();
    loop {
        let trimmed = rest.trim_start_matches([' ', ',']);
        let key_end = trimmed.find(['=', ' ', ',']).unwrap_or(trimmed.len());
        // A word without `=` begins the next challenge.
        let Some(after) = trimmed[key_end..].strip_prefix('=') else {
            return Some((scheme, params, trimmed));
        };
        let key = &trimmed[..key_end];
        let (value, next) = value(after);
        params.push((key.to_owned(), value));
        rest = next;
    }
}

fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (out, &quoted[i + 1..]),
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |o: Option<&str>| o.map(str::to_owned);
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: owned(service),
                scope: owned(scope),
            })
        };
        let table = [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull,push\"",
                bearer("https://a/t", Some("s"), Some("repository:a/b:pull,push")),
            ),
            ("bearer realm=https://a/t", bearer("https://a/t", None, None)),
            ("Basic realm=\"x\", Bearer realm=\"y\"", bearer("y", None, None)),
            ("Negotiate, Basic realm=\"a, b\"", Some(Challenge::Basic)),
            ("Bearer realm=\"a\\\"b\"", bearer("a\"b", None, None)),
            ("Negotiate", None),
            ("Bearer service=\"no realm\"", None),
            ("", None),
        ];
        for (header, want) in table {
            assert_eq!(parse(header), want, "{header}");
        }
    }
}
