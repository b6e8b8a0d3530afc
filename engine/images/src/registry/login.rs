//! Whether a registry takes a name and a password: `docker login`.

use std::sync::Arc;

use http::StatusCode;
use http::header::AUTHORIZATION;
use kelson_formats::credentials::Credential;
use kelson_formats::reference::DEFAULT_DOMAIN;

use super::account::Account;
use super::auth;
use super::client::{ask_of, explanation};
use super::endpoint::{Endpoint, endpoints};
use super::transport::{Transport, read_body};
use crate::config::ImagesConfig;
use crate::limits::ANSWER_MAX;
use crate::{Error, Kind, Result};

/// The registry that a user means by a name or an address: its domain as image names have it.
pub(crate) fn domain_of(server: &str) -> &str {
    let host = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    match host.split('/').next().unwrap_or(host) {
        "" | "index.docker.io" | "registry-1.docker.io" | "docker.io" => DEFAULT_DOMAIN,
        host => host,
    }
}

/// Asks the registry. What its token server gives to use instead of the password, if it does.
///
/// # Errors
/// `Denied` when it refuses the credentials, `Unavailable` when it cannot be reached or is no registry.
pub(crate) async fn login(
    transport: &Arc<Transport>,
    config: &Arc<ImagesConfig>,
    server: &str,
    credential: &Credential,
) -> Result<Option<String>> {
    let domain = domain_of(server);
    if domain.contains(['@', '?', '#', ' ']) {
        return Err(Error::invalid(format!("{server:?} is no address of a registry")));
    }
    let mut failure = Error::new(Kind::Unavailable, format!("no address for {domain}"));
    // A mirror is somebody else, and gets no password.
    for endpoint in endpoints(domain, config)?.into_iter().filter(|e| !e.mirror) {
        match at(transport, config, &endpoint, credential).await {
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
    credential: &Credential,
) -> Result<Option<String>> {
    let url = format!("{}/", endpoint.api);
    let answer = transport.send(ask_of(endpoint, &*url), config).await?;
    if answer.status() == StatusCode::OK {
        return Ok(None);
    }
    let challenge = auth::challenge_of(&answer);
    if answer.status() != StatusCode::UNAUTHORIZED || challenge.is_none() {
        return Err(failed(&url, answer.status()));
    }
    let account = Account::for_login(
        Arc::clone(transport),
        Arc::clone(config),
        credential.clone(),
        endpoint.insecure,
    );
    let mut ask = ask_of(endpoint, &*url);
    let authorization = account
        .authorize(challenge.as_ref(), false)
        .await
        .map_err(|e| Error::new(e.kind(), format!("Get \"{url}\"")).caused_by(e))?;
    ask.headers
        .extend(authorization.map(|value| (AUTHORIZATION, value)));
    let answer = transport.send(ask, config).await?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(account.identity_token());
    }
    let body = read_body(answer.into_body(), ANSWER_MAX, "the registry's error").await;
    let said = explanation(&body.unwrap_or_default(), status, "");
    tracing::debug!("login at {url}: {status}: {said}");
    Err(failed(&url, status))
}

/// docker's sentence.
fn failed(url: &str, status: StatusCode) -> Error {
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
        _ => Kind::Unavailable,
    };
    Error::new(
        kind,
        format!("login attempt to {url} failed with status: {status}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        for (server, domain) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("https://reg.lan:5000/v2/", "reg.lan:5000"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
        ] {
            assert_eq!(domain_of(server), domain);
        }
    }
}
