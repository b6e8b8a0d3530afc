//! One request on its way to its handler.

use super::App;
use super::body::{Body, Reply};
use super::errors::ApiError;
use super::listen::RAW_HIJACK;
use super::query::Query;
use super::router::Vars;
use super::versions::ApiVersion;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Largest JSON body. docker has no limit; the largest honest request (a create with thousands of labels) is far below.
pub const MAX_JSON_BODY: usize = 8 << 20;

/// A client that was told to switch protocols gets this long to let hyper hand the connection over.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(30);

/// A request with its path already matched.
#[derive(Debug)]
pub struct Call {
    /// What the server shares among requests.
    pub app: Arc<App>,
    /// Version the client speaks.
    pub version: ApiVersion,
    /// Values of the path's wildcards.
    pub vars: Vars,
    /// Query parameters.
    pub query: Query,
    /// Request headers.
    pub headers: HeaderMap,
    /// Request body.
    pub body: Incoming,
    /// The connection, where the client asked to take it over (or the sniffing stream did so for it).
    pub upgrade: Option<OnUpgrade>,
}

/// A connection that now carries raw bytes.
pub type Raw = TokioIo<Upgraded>;

impl Call {
    /// A wildcard's value; the router guarantees that it is there.
    pub fn var(&self, name: &str) -> &str {
        self.vars.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The body as bytes, bounded.
    ///
    /// # Errors
    /// 400 when it is too long or breaks off.
    pub async fn bytes(&mut self) -> Result<Bytes, ApiError> {
        match Limited::new(&mut self.body, MAX_JSON_BODY).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(e) if e.is::<LengthLimitError>() => Err(ApiError::invalid(format!(
                "request body is larger than {MAX_JSON_BODY} bytes"
            ))),
            Err(e) => Err(ApiError::invalid(format!("read request body: {e}"))),
        }
    }

    /// The body's bytes after moby's check of the content type; `None` for an empty body.
    ///
    /// # Errors
    /// 400 with moby's texts.
    pub async fn json_bytes(&mut self) -> Result<Option<Bytes>, ApiError> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        check_json(self.headers.get(header::CONTENT_TYPE))?;
        Ok(Some(bytes))
    }

    /// Decodes a JSON body that must be there.
    ///
    /// # Errors
    /// 400 when it is missing, not declared as JSON, or malformed.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        match self.json_bytes().await? {
            None => Err(ApiError::invalid(
                "invalid JSON: got EOF while reading request body",
            )),
            Some(bytes) => decode(&bytes),
        }
    }

    /// Decodes a JSON body, or the zero value if there is none.
    ///
    /// # Errors
    /// As [`Call::json`].
    pub async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, ApiError> {
        match self.json_bytes().await? {
            None => Ok(T::default()),
            Some(bytes) => decode(&bytes),
        }
    }

    /// Whether the connection can be taken over.
    pub fn can_hijack(&self) -> bool {
        self.upgrade.is_some() && self.headers.contains_key(header::UPGRADE)
    }

    /// The answer that hands the connection over, and the connection once hyper has let go of it. A client that did
    /// not ask for the upgrade gets a 200 on the wire (see `listen.rs`), and from 1.42 on both say the media type.
    pub fn hijack(
        &mut self,
        tty: bool,
    ) -> Option<(Reply, impl Future<Output = Option<Raw>> + Send + 'static)> {
        if !self.can_hijack() {
            return None;
        }
        let upgrade = self.upgrade.take()?;
        let asked = !self.headers.contains_key(RAW_HIJACK);
        let mut reply = Response::new(Body::empty());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        // moby's wording; somebody somewhere compares the whole line.
        reply
            .extensions_mut()
            .insert(ReasonPhrase::from_static(b"UPGRADED"));
        let headers = reply.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        let media = stream_type(if asked { self.version } else { super::versions::MIN }, tty);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        Some((reply, taken_over(upgrade)))
    }
}

/// The connection, once hyper has sent the answer and let go of it.
pub async fn taken_over(upgrade: OnUpgrade) -> Option<Raw> {
    match tokio::time::timeout(UPGRADE_DEADLINE, upgrade).await {
        Ok(Ok(upgraded)) => Some(TokioIo::new(upgraded)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "client left before the connection was handed over");
            None
        }
        Err(_) => None,
    }
}

/// Media type of an attach, exec or log stream: before 1.42 always `raw-stream`, since then it tells framed streams.
pub fn stream_type(version: ApiVersion, tty: bool) -> &'static str {
    if version >= ApiVersion(42) && !tty {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    }
}

/// Decodes a request body in Go's manner with moby's words for what is wrong.
///
/// # Errors
/// 400.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    kelson_api::wire::from_slice(bytes).map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))
}

fn check_json(content_type: Option<&HeaderValue>) -> Result<(), ApiError> {
    let text = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match media.as_str() {
        "application/json" => Ok(()),
        "" => Err(ApiError::invalid(
            "malformed Content-Type header (): mime: no media type",
        )),
        _ => Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({text}): must be 'application/json'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let check = |t: &'static str| check_json(Some(&HeaderValue::from_static(t)));
        assert!(check("application/json").is_ok());
        assert!(check("Application/JSON; charset=utf-8").is_ok());
        assert!(
            check_json(None)
                .unwrap_err()
                .message
                .starts_with("malformed Content-Type")
        );
        assert!(
            check("text/plain")
                .unwrap_err()
                .message
                .starts_with("unsupported Content-Type header (text/plain)")
        );
    }

    #[test]
    fn media_types_by_version() {
        assert_eq!(
            stream_type(ApiVersion(41), false),
            "application/vnd.docker.raw-stream"
        );
        assert_eq!(
            stream_type(ApiVersion(42), false),
            "application/vnd.docker.multiplexed-stream"
        );
        assert_eq!(
            stream_type(ApiVersion(51), true),
            "application/vnd.docker.raw-stream"
        );
    }
}
