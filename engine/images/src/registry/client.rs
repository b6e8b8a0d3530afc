//! One repository of one registry, as one pull sees it: which address answered, who we are there, manifests and blobs.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use serde::Deserialize;

use super::account::Account;
use super::auth::{self, Challenge};
use super::endpoint::Endpoint;
use super::manifest::{self, Descriptor};
use super::transport::{Ask, Transport, parse_url, read_body, same_origin};
use crate::config::ImagesConfig;
use crate::digest::Digest;
use crate::limits::{ANSWER_MAX, MANIFEST_MAX};
use crate::{Error, Kind, Result};

/// A repository at an address that answered.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(super) transport: Arc<Transport>,
    pub(super) config: Arc<ImagesConfig>,
    pub(super) reference: Reference,
    pub(super) endpoint: Endpoint,
    pub(super) challenge: Option<Challenge>,
    pub(super) account: Account,
}

/// What is to be done at the registry: what a token is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Aim {
    Pull,
    /// And to read these other repositories, whose blobs can be mounted instead of sent.
    Push(Vec<String>),
}

impl Aim {
    fn scopes(&self, path: &str) -> Vec<String> {
        match self {
            Self::Pull => vec![format!("repository:{path}:pull")],
            Self::Push(others) => {
                let others = others.iter().map(|other| format!("repository:{other}:pull"));
                [format!("repository:{path}:pull,push")]
                    .into_iter()
                    .chain(others)
                    .collect()
            }
        }
    }
}

/// A question to this address.
pub(super) fn ask_of(endpoint: &Endpoint, url: impl Into<String>) -> Ask {
    Ask {
        headers: endpoint.headers.clone(),
        trust: endpoint.trust.clone(),
        ..Ask::get(url, endpoint.insecure)
    }
}

/// A manifest or index as it came.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub bytes: Bytes,
    pub media_type: Option<String>,
    pub digest: Digest,
}

impl Repository {
    /// Pings one address of a registry.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be reached or is no registry.
    pub async fn connect(
        transport: &Arc<Transport>,
        config: &Arc<ImagesConfig>,
        endpoint: Endpoint,
        reference: &Reference,
        auth: Option<&Credential>,
        aim: &Aim,
    ) -> Result<Self> {
        let url = format!("{}/", endpoint.api);
        let answer = transport.send(ask_of(&endpoint, &*url), config).await?;
        let status = answer.status();
        if !matches!(status, StatusCode::OK | StatusCode::UNAUTHORIZED) {
            return Err(Error::new(
                Kind::Unavailable,
                format!("Get \"{url}\": unexpected status {status}"),
            ));
        }
        let account = Account::new(
            Arc::clone(transport),
            Arc::clone(config),
            // A mirror is somebody else: the registry's password is not for it.
            auth.filter(|_| !endpoint.mirror).cloned(),
            endpoint.insecure,
            aim.scopes(reference.path()),
        );
        let challenge = auth::challenge_of(&answer);
        let (transport, config) = (Arc::clone(transport), Arc::clone(config));
        Ok(Self {
            transport,
            config,
            reference: reference.clone(),
            endpoint,
            challenge,
            account,
        })
    }

    pub(super) fn url(&self, kind: &str, what: &str) -> String {
        let url = format!("{}/{}/{kind}/{what}", self.endpoint.api, self.reference.path());
        match &self.endpoint.namespace {
            Some(namespace) => format!("{url}?ns={namespace}"),
            None => url,
        }
    }

    /// Fetches the manifest or index of a tag or digest, and checks the digest where one is known.
    ///
    /// # Errors
    /// `NotFound` and `Denied` in docker's sentences; `Invalid` when it is too large or not what the digest says.
    pub async fn manifest(&self, what: &str) -> Result<Fetched> {
        let mut headers = HeaderMap::new();
        for accept in manifest::ACCEPT {
            headers.append(ACCEPT, HeaderValue::from_static(accept));
        }
        let answer = self.ask(self.url("manifests", what), headers).await?;
        let answer = self.judge(answer, what).await?;
        let text = |name| {
            answer
                .headers()
                .get(name)
                .and_then(|v: &HeaderValue| v.to_str().ok())
                .map(str::to_owned)
        };
        let media_type = text(CONTENT_TYPE);
        let claimed = answer
            .headers()
            .get("docker-content-digest")
            .and_then(|v| v.to_str().ok());
        let claimed = claimed.and_then(|d| Digest::parse(d).ok());
        let bytes = read_body(
            answer.into_body(),
            MANIFEST_MAX,
            &format!("the manifest of {}", self.reference.familiar()),
        )
        .await?;
        let digest = Digest::of(&bytes);
        let wanted = if what.contains(':') {
            Some(Digest::parse(what)?)
        } else {
            claimed
        };
        if let Some(wanted) = wanted
            && wanted != digest
        {
            return Err(Error::invalid(format!(
                "manifest verification failed for digest {wanted}: the content is {digest}"
            )));
        }
        Ok(Fetched {
            bytes,
            media_type,
            digest,
        })
    }

    /// Fetches a small blob whole and checks it.
    ///
    /// # Errors
    /// As [`Self::blob`].
    pub async fn small_blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        let what = descriptor.digest.to_string();
        let answer = self.ask(self.url("blobs", &what), HeaderMap::new()).await?;
        let answer = self.judge(answer, &what).await?;
        let bytes = read_body(answer.into_body(), limit, &format!("blob {what}")).await?;
        if bytes.len() as u64 != descriptor.size || Digest::of(&bytes) != descriptor.digest {
            return Err(Error::invalid(format!(
                "verification failed for digest {what}: the content is {}",
                Digest::of(&bytes)
            )));
        }
        Ok(bytes)
    }

    pub(super) async fn ask(&self, url: String, headers: HeaderMap) -> Result<Response<Incoming>> {
        let mut ask = ask_of(&self.endpoint, url);
        ask.headers.extend(headers);
        self.send(ask).await
    }

    /// Asks, with credentials as the registry wants them; a token that ran out is renewed once.
    /// An upload's place may be another host's: that gets no credentials.
    pub(super) async fn send(&self, what: Ask) -> Result<Response<Incoming>> {
        if !same_origin(&parse_url(&what.url)?, &parse_url(&self.endpoint.base)?) {
            return self.transport.send(what, &self.config).await;
        }
        let mut challenge = self.challenge.clone();
        for last in [false, true] {
            let mut ask = what.clone();
            if let Some(authorization) = self.account.authorize(challenge.as_ref(), last).await? {
                ask.headers.insert(AUTHORIZATION, authorization);
            }
            let answer = self.transport.send(ask, &self.config).await?;
            if last || answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            challenge = auth::challenge_of(&answer);
            if challenge.is_none() {
                return Ok(answer);
            }
            let can_renew = matches!(challenge, Some(Challenge::Bearer { .. }));
            if !can_renew && (self.account.is_anonymous() || self.challenge == challenge) {
                return Ok(answer);
            }
        }
        Err(Error::new(Kind::Internal, "ask a registry"))
    }

    /// Turns an error answer into docker's sentence.
    pub(super) async fn judge(&self, answer: Response<Incoming>, what: &str) -> Result<Response<Incoming>> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let no_basic = status == StatusCode::UNAUTHORIZED
            && self.account.is_anonymous()
            && matches!(auth::challenge_of(&answer), Some(Challenge::Basic));
        let body = read_body(answer.into_body(), ANSWER_MAX, "the registry's error")
            .await
            .unwrap_or_default();
        let said = if no_basic {
            "no basic auth credentials".to_owned()
        } else {
            explanation(&body, status, what)
        };
        let name = self.reference.familiar_name();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::new(
                Kind::Denied,
                format!(
                    "pull access denied for {name}, repository does not exist or may require 'docker login': {said}"
                ),
            ),
            StatusCode::NOT_FOUND if what.starts_with("sha256:") && self.reference.digest() != Some(what) => {
                Error::not_found(format!("{what} of {name} not found: {said}"))
            }
            StatusCode::NOT_FOUND if said.starts_with("name unknown") => {
                Error::not_found(format!("repository {name} not found: {said}"))
            }
            StatusCode::NOT_FOUND => Error::not_found(format!(
                "manifest for {} not found: {said}",
                self.reference.familiar()
            )),
            StatusCode::TOO_MANY_REQUESTS => {
                Error::new(Kind::Unavailable, format!("toomanyrequests: {said}"))
            }
            _ => Error::new(
                Kind::Unavailable,
                format!(
                    "{}: received unexpected HTTP status: {status}: {said}",
                    self.endpoint.base
                ),
            ),
        })
    }
}

/// `CODE: message` of a registry's error body, as docker prints it; something of our own without one.
pub(super) fn explanation(body: &[u8], status: StatusCode, what: &str) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(body) = serde_json::from_slice::<Body>(body)
        && let Some(first) = body.errors.first()
        && !first.code.is_empty()
    {
        return format!(
            "{}: {}",
            first.code.to_lowercase().replace('_', " "),
            first.message
        );
    }
    match status {
        StatusCode::NOT_FOUND if !what.contains(':') => "manifest unknown: manifest unknown".to_owned(),
        StatusCode::UNAUTHORIZED => "unauthorized: authentication required".to_owned(),
        StatusCode::FORBIDDEN => "denied: requested access to the resource is denied".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(
            explanation(body, StatusCode::NOT_FOUND, "x"),
            "manifest unknown: manifest unknown"
        );
        assert_eq!(
            explanation(b"<html>", StatusCode::NOT_FOUND, "x"),
            "manifest unknown: manifest unknown"
        );
        assert_eq!(explanation(b"", StatusCode::BAD_GATEWAY, "x"), "502 Bad Gateway");
    }
}
