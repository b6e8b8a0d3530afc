//! `docker search`: the one thing of registry's first API that is still alive, at Docker Hub and at a few others.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use kelson_formats::credentials::Credential;
use kelson_formats::reference::DEFAULT_DOMAIN;
use serde::Deserialize;

use super::client::{ask_of, explanation};
use super::endpoint::{Endpoint, endpoints};
use super::login::domain_of;
use super::transport::{Transport, read_body};
use crate::config::ImagesConfig;
use crate::limits::ANSWER_MAX;
use crate::{Error, Kind, Result};

/// The host that answers searches of `docker.io`.
const HUB_INDEX: &str = "https://index.docker.io";

/// One repository that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FoundRepository {
    /// Its name at the registry.
    pub name: String,
    /// A line about it.
    pub description: String,
    /// How many like it.
    pub star_count: i64,
    /// Whether the registry's owner made it.
    pub is_official: bool,
    /// Whether its images were built by the registry: none is today.
    pub is_automated: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<FoundRepository>,
}

/// The registry a term is about, and what is searched there: `reg.lan:5000/word`, or a word at Docker Hub.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (domain_of(host), rest),
        _ => (DEFAULT_DOMAIN, term),
    }
}

/// Asks a registry's index.
///
/// # Errors
/// `NotFound` from a registry that has none (most have none), `Denied`, `Unavailable`.
pub(crate) async fn search(
    transport: &Arc<Transport>,
    config: &Arc<ImagesConfig>,
    term: &str,
    limit: u32,
    credential: Option<&Credential>,
) -> Result<Vec<FoundRepository>> {
    if term.contains("://") {
        return Err(Error::invalid(
            "invalid repository name: repository name should not contain a scheme",
        ));
    }
    let (domain, word) = split(term);
    let mut failure = Error::new(Kind::Unavailable, format!("no address for {domain}"));
    for mut endpoint in endpoints(domain, config)?.into_iter().filter(|e| !e.mirror) {
        if domain == DEFAULT_DOMAIN {
            HUB_INDEX.clone_into(&mut endpoint.base);
        }
        // Docker Hub knows its own images by their short names only.
        let word = match domain {
            DEFAULT_DOMAIN => word.strip_prefix("library/").unwrap_or(word),
            _ => word,
        };
        match at(transport, config, &endpoint, word, limit, credential).await {
            Err(e) if e.kind() == Kind::Unavailable => failure = e,
            done => return done,
        }
    }
    Err(failure)
}

async fn at(
    transport: &Arc<Transport>,
    config: &Arc<ImagesConfig>,
    endpoint: &Endpoint,
    word: &str,
    limit: u32,
    credential: Option<&Credential>,
) -> Result<Vec<FoundRepository>> {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let query = utf8_percent_encode(word, NON_ALPHANUMERIC);
    let url = format!("{}/v1/search?q={query}&n={limit}", endpoint.base);
    let mut ask = ask_of(endpoint, &*url);
    if let Some(c) = credential.filter(|c| !c.username.is_empty() && !c.password.is_empty()) {
        let text = format!(
            "Basic {}",
            STANDARD.encode(format!("{}:{}", c.username, c.password))
        );
        let mut value = HeaderValue::from_str(&text)
            .map_err(|e| Error::invalid("credentials hold odd characters").caused_by(e))?;
        value.set_sensitive(true);
        ask.headers.insert(AUTHORIZATION, value);
    }
    let answer = transport.send(ask, config).await?;
    let status = answer.status();
    let body = read_body(answer.into_body(), ANSWER_MAX, "what was found").await?;
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let said = explanation(&body, status, "");
            return Err(Error::new(
                Kind::Denied,
                format!("search at {}: {said}", endpoint.base),
            ));
        }
        StatusCode::NOT_FOUND => {
            return Err(Error::not_found(format!(
                "{} cannot be searched: it has no index (GET {url}: {status})",
                endpoint.base
            )));
        }
        other => {
            let text = format!("Unexpected status code {} (GET {url})", other.as_u16());
            return Err(Error::new(Kind::Unavailable, text));
        }
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|e| {
        Error::invalid(format!(
            "{} cannot be searched: it has no index that we can read",
            endpoint.base
        ))
        .caused_by(e)
    })?;
    Ok(answer.results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        for (term, want) in [
            ("nginx", ("docker.io", "nginx")),
            ("library/nginx", ("docker.io", "library/nginx")),
            ("reg.lan/a/b", ("reg.lan", "a/b")),
            ("localhost/a", ("localhost", "a")),
            ("127.0.0.1:5000/x", ("127.0.0.1:5000", "x")),
            ("index.docker.io/x", ("docker.io", "x")),
        ] {
            assert_eq!(split(term), want, "{term}");
        }
    }
}
