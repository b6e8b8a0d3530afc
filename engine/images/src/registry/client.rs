//! One repository of one registry, as one pull sees it: which address answered, who we are there, manifests and blobs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use serde::Deserialize;
use tokio::sync::mpsc::Sender;

use super::auth::{self, Challenge};
use super::endpoint::{Endpoint, endpoints};
use super::manifest::{self, Descriptor};
use super::transport::{Ask, IDLE_TIMEOUT, Transport, read_body};
use crate::config::ImagesConfig;
use crate::digest::Digest;
use crate::limits::{ANSWER_MAX, MANIFEST_MAX};
use crate::{Error, Kind, Result};

/// Tries for one blob without a new byte in between.
const BLOB_TRIES: u32 = 4;
/// Before the second try; doubled for each further one.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// A token that says nothing lives this long (distribution's token specification).
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// A repository at an address that answered.
#[derive(Debug)]
pub(crate) struct Repository {
    transport: Arc<Transport>,
    config: Arc<ImagesConfig>,
    reference: Reference,
    endpoint: Endpoint,
    challenge: Option<Challenge>,
    credential: Option<Credential>,
    token: Mutex<Option<(String, Instant)>>,
}

/// A manifest or index as it came.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub bytes: Bytes,
    pub media_type: Option<String>,
    pub digest: Digest,
}

impl Repository {
    /// Pings the registry's addresses until one answers.
    ///
    /// # Errors
    /// What the last address said. `Unavailable` when none can be reached.
    pub async fn connect(
        transport: &Arc<Transport>,
        config: &Arc<ImagesConfig>,
        reference: &Reference,
        auth: Option<&Credential>,
    ) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        let mut failure = None;
        for endpoint in endpoints(reference.domain(), config) {
            let base = endpoint.base.clone();
            match transport
                .send(
                    Ask::get(format!("{base}/v2/"), endpoint.insecure),
                    &config.user_agent,
                )
                .await
            {
                Ok(answer) if matches!(answer.status(), StatusCode::OK | StatusCode::UNAUTHORIZED) => {
                    let credential = auth.filter(|_| !endpoint.mirror).cloned();
                    let challenge = challenge_of(&answer);
                    let mirror = endpoint.mirror;
                    found.push(Self {
                        transport: Arc::clone(transport),
                        config: Arc::clone(config),
                        reference: reference.clone(),
                        endpoint,
                        challenge,
                        credential,
                        token: Mutex::new(None),
                    });
                    if !mirror {
                        return Ok(found);
                    }
                }
                Ok(answer) => {
                    let status = answer.status();
                    failure = Some(Error::new(
                        Kind::Unavailable,
                        format!("Get \"{base}/v2/\": unexpected status {status}"),
                    ));
                }
                Err(e) => failure = Some(e),
            }
        }
        match failure {
            Some(e) if found.is_empty() => Err(e),
            _ => Ok(found),
        }
    }

    fn url(&self, kind: &str, what: &str) -> String {
        format!(
            "{}/v2/{}/{kind}/{what}",
            self.endpoint.base,
            self.reference.path()
        )
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

    /// Streams a blob into `sink`; goes on where a broken connection left off. The receiver checks the digest; more bytes than
    /// the manifest says are never taken. Ends quietly when the receiver is gone: it knows why.
    ///
    /// # Errors
    /// `Invalid` for a wrong size, `Unavailable` when the connection broke too often, `NotFound`, `Denied`.
    pub async fn blob(
        &self,
        descriptor: &Descriptor,
        sink: &Sender<Result<Bytes>>,
        on_bytes: impl Fn(u64),
    ) -> Result<()> {
        let mut done = 0u64;
        let mut tries = 0;
        loop {
            let before = done;
            match self.blob_part(descriptor, &mut done, sink, &on_bytes).await {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() != Kind::Unavailable => return Err(e),
                Err(e) => {
                    tries = if done > before { 1 } else { tries + 1 };
                    if tries >= BLOB_TRIES {
                        return Err(e);
                    }
                    tokio::time::sleep(RETRY_FIRST * 2u32.pow(tries - 1)).await;
                }
            }
        }
    }

    async fn blob_part(
        &self,
        descriptor: &Descriptor,
        done: &mut u64,
        sink: &Sender<Result<Bytes>>,
        on_bytes: &impl Fn(u64),
    ) -> Result<()> {
        let what = descriptor.digest.to_string();
        let mut headers = HeaderMap::new();
        if *done > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={done}-"))
        {
            headers.insert(RANGE, range);
        }
        let answer = self.ask(self.url("blobs", &what), headers).await?;
        let answer = self.judge(answer, &what).await?;
        // A registry that does not know ranges begins again; what we have is skipped.
        let mut skip = if answer.status() == StatusCode::PARTIAL_CONTENT {
            0
        } else {
            *done
        };
        let start = *done - skip;
        let length = answer
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        if let Some(length) = length
            && start + length != descriptor.size
        {
            let sent = start + length;
            return Err(Error::invalid(format!(
                "blob {what}: the registry has {sent} bytes, the manifest says {}",
                descriptor.size
            )));
        }
        let broke = |why: &str, done: u64| {
            let text = format!(
                "download of blob {what} broke off after {done} of {} bytes: {why}",
                descriptor.size
            );
            Error::new(Kind::Unavailable, text)
        };
        let mut body = answer.into_body();
        loop {
            let frame = match tokio::time::timeout(IDLE_TIMEOUT, body.frame()).await {
                Err(_) => return Err(broke("context deadline exceeded", *done)),
                Ok(None) => break,
                Ok(Some(Err(e))) => return Err(broke(&e.to_string(), *done)),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(mut chunk) = frame.into_data() else {
                continue;
            };
            let skipped = usize::try_from(skip).map_or(chunk.len(), |s| s.min(chunk.len()));
            skip -= skipped as u64;
            bytes::Buf::advance(&mut chunk, skipped);
            if chunk.is_empty() {
                continue;
            }
            *done += chunk.len() as u64;
            if *done > descriptor.size {
                return Err(Error::invalid(format!(
                    "blob {what} is longer than the {} bytes its manifest says",
                    descriptor.size
                )));
            }
            on_bytes(*done);
            if sink.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        if *done < descriptor.size {
            return Err(broke("unexpected EOF", *done));
        }
        Ok(())
    }

    /// Asks, with credentials as the registry wants them; a token that ran out is renewed once.
    async fn ask(&self, url: String, headers: HeaderMap) -> Result<Response<Incoming>> {
        let mut challenge = self.challenge.clone();
        for last in [false, true] {
            let mut ask = Ask::get(url.clone(), self.endpoint.insecure);
            ask.headers.clone_from(&headers);
            if let Some(authorization) = self.authorize(challenge.as_ref(), last).await? {
                ask.headers.insert(AUTHORIZATION, authorization);
            }
            let answer = self.transport.send(ask, &self.config.user_agent).await?;
            if last || answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            challenge = challenge_of(&answer);
            let can_renew = matches!(challenge, Some(Challenge::Bearer { .. }));
            if !can_renew && (self.credential.is_none() || self.challenge == challenge) {
                return Ok(answer);
            }
        }
        Err(Error::new(Kind::Internal, "ask a registry"))
    }

    async fn authorize(&self, challenge: Option<&Challenge>, renew: bool) -> Result<Option<HeaderValue>> {
        let credential = self.credential.as_ref();
        if let Some(token) = credential
            .map(|c| c.registry_token.as_str())
            .filter(|t| !t.is_empty())
        {
            return header(&format!("Bearer {token}")).map(Some);
        }
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => basic(credential),
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                if let Some((token, until)) = self.token.lock().unwrap_or_else(|e| e.into_inner()).as_ref()
                    && !renew
                    && Instant::now() < *until
                {
                    return header(&format!("Bearer {token}")).map(Some);
                }
                let default = format!("repository:{}:pull", self.reference.path());
                let scope = scope.clone().unwrap_or(default);
                let (token, life) = self.fetch_token(realm, service.as_deref(), &scope).await?;
                let value = header(&format!("Bearer {token}"))?;
                *self.token.lock().unwrap_or_else(|e| e.into_inner()) = Some((token, Instant::now() + life));
                Ok(Some(value))
            }
        }
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<(String, Duration)> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let credential = self
            .credential
            .as_ref()
            .filter(|c| !c.username.is_empty() || !c.identity_token.is_empty());
        if credential.is_some() && realm.starts_with("http://") && self.endpoint.base.starts_with("https://")
        {
            return Err(Error::new(
                Kind::Denied,
                format!("the token server {realm} is not on https; no password goes there"),
            ));
        }
        let mut ask = Ask::get("", self.endpoint.insecure);
        let mut form = vec![("service", service.unwrap_or_default()), ("scope", scope)];
        match credential {
            Some(c) if !c.identity_token.is_empty() => {
                form.extend([
                    ("grant_type", "refresh_token"),
                    ("refresh_token", &c.identity_token),
                    ("client_id", "docker"),
                ]);
                (ask.method, ask.url) = (Method::POST, realm.to_owned());
                ask.body = encode(&form).into();
                ask.headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
            }
            other => {
                if let Some(c) = other {
                    form.push(("account", &c.username));
                    ask.headers
                        .extend(basic(Some(c))?.map(|value| (AUTHORIZATION, value)));
                }
                let join = if realm.contains('?') { '&' } else { '?' };
                ask.url = format!("{realm}{join}{}", encode(&form));
            }
        }
        let answer = self.transport.send(ask, &self.config.user_agent).await?;
        let answer = self.judge(answer, "token").await?;
        let bytes = read_body(answer.into_body(), ANSWER_MAX, "a token").await?;
        let bad = || Error::invalid(format!("the token server {realm} sent no token"));
        let parsed: Answer = serde_json::from_slice(&bytes).map_err(|e| bad().caused_by(e))?;
        let token = parsed
            .token
            .or(parsed.access_token)
            .filter(|t| !t.is_empty())
            .ok_or_else(bad)?;
        Ok((token, parsed.expires_in.map_or(TOKEN_LIFE, Duration::from_secs)))
    }

    /// Turns an error answer into docker's sentence.
    async fn judge(&self, answer: Response<Incoming>, what: &str) -> Result<Response<Incoming>> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let no_basic = status == StatusCode::UNAUTHORIZED
            && self.credential.is_none()
            && matches!(challenge_of(&answer), Some(Challenge::Basic));
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

fn challenge_of<T>(answer: &Response<T>) -> Option<Challenge> {
    let headers = answer
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .into_iter()
        .filter_map(|h| h.to_str().ok());
    let mut found: Vec<Challenge> = headers.filter_map(auth::parse).collect();
    found.sort_by_key(|c| matches!(c, Challenge::Basic));
    found.into_iter().next()
}

fn header(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|e| Error::invalid("credentials hold odd characters").caused_by(e))?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(credential: Option<&Credential>) -> Result<Option<HeaderValue>> {
    let Some(c) = credential.filter(|c| !c.username.is_empty()) else {
        return Ok(None);
    };
    header(&format!(
        "Basic {}",
        STANDARD.encode(format!("{}:{}", c.username, c.password))
    ))
    .map(Some)
}

fn encode(form: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let pairs = form.iter().filter(|(_, v)| !v.is_empty());
    let pairs: Vec<String> = pairs
        .map(|(k, v)| format!("{k}={}", utf8_percent_encode(v, NON_ALPHANUMERIC)))
        .collect();
    pairs.join("&")
}

/// `CODE: message` of a registry's error body, as docker prints it; something of our own without one.
fn explanation(body: &[u8], status: StatusCode, what: &str) -> String {
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
        assert_eq!(encode(&[("a", "b c/d"), ("e", "")]), "a=b%20c%2Fd");
    }
}
