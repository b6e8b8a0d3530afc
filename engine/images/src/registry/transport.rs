//! HTTP to registries: TLS by the system's roots, deadlines on every wait, redirects that carry no credentials to another host.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::dial::Dial;
use super::tls::{Stamp, Trust};
use crate::config::{ImagesConfig, Proxies};
use crate::{Error, Kind, Result};

/// To a connected socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// From the request to the answer's head; includes connecting and TLS.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// For a small body as a whole: a registry that drips slower than this is dead (or means harm).
const SMALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often an upload says how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// An idle connection kept for the next layer.
const POOL_IDLE: Duration = Duration::from_secs(20);
const REDIRECTS_MAX: usize = 10;
/// Clients kept: one for each host with certificates of its own, and two for all others.
const CLIENTS_MAX: usize = 64;
/// Read from a connection at a time; what is larger only costs memory, for each connection.
const READ_MAX: usize = 256 << 10;
/// How often a registry may ask us to come again later, and how long we follow.
const LATER_TRIES: u32 = 5;
const LATER_MAX: Duration = Duration::from_secs(60);

/// A request's body: a few bytes, or a blob read from the disk as it is sent.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Http = Client<HttpsConnector<Dial>, Body>;

/// Clients by whom they trust and how they get there. Made when first needed: reading the system's roots takes milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Transport {
    clients: Mutex<HashMap<(Stamp, Trust, Proxies), Http>>,
}

/// Marks an answer that a redirect brought from another origin: what it asks for is not the registry's word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FromElsewhere;

/// One request with a small body, which can be sent again after a redirect or a refused token.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Any certificate will do.
    pub insecure: bool,
    /// Certificates for this request beside those that `certs.d` has for its host.
    pub trust: Option<Arc<Trust>>,
}

impl Ask {
    pub fn get(url: impl Into<String>, insecure: bool) -> Self {
        Self {
            method: Method::GET,
            url: url.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            insecure,
            trust: None,
        }
    }
}

impl Transport {
    fn client(&self, ask: &Ask, url: &Uri, config: &ImagesConfig) -> Result<Http> {
        let mut trust = ask.trust.as_deref().cloned().unwrap_or_default();
        trust.insecure |= ask.insecure;
        let host = url.authority().map_or("", |a| a.as_str());
        trust.add_host(&config.certs_dirs, host.rsplit('@').next().unwrap_or(host))?;
        let key = (trust.stamp(), trust, config.proxies.clone());
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(&key.1, &key.2)?;
        if clients.len() >= CLIENTS_MAX {
            // Their requests go on; what is lost is idle connections.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Sends, following redirects. A registry that asks to come again later is asked again, if that is soon. The answer's status
    /// is the caller's to judge.
    ///
    /// # Errors
    /// `Unavailable`, in the words of docker: `Get "URL": dial tcp ADDRESS: connect: connection refused`.
    pub async fn send(&self, ask: Ask, config: &ImagesConfig) -> Result<Response<Incoming>> {
        let mut waited = Duration::ZERO;
        for tries in 0.. {
            let answer = self.send_once(&ask, config).await?;
            match later(&answer, tries) {
                Some(wait) if waited + wait <= LATER_MAX => {
                    waited += wait;
                    tokio::time::sleep(wait).await;
                }
                _ => return Ok(answer),
            }
        }
        Err(Error::new(Kind::Internal, "ask a registry"))
    }

    async fn send_once(&self, ask: &Ask, config: &ImagesConfig) -> Result<Response<Incoming>> {
        let mut url = parse_url(&ask.url)?;
        let mut elsewhere = false;
        let mut headers = ask.headers.clone();
        for _ in 0..=REDIRECTS_MAX {
            let client = self.client(ask, &url, config)?;
            let request = request(
                &ask.method,
                &url,
                headers.clone(),
                config,
                whole(ask.body.clone()),
            )?;
            let answer = tokio::time::timeout(HEAD_TIMEOUT, client.request(request)).await;
            let answer = match answer {
                Err(_) => return Err(unreachable(&ask.method, &url, "context deadline exceeded")),
                Ok(Err(e)) => return Err(unreachable(&ask.method, &url, &explain(&e, &url))),
                Ok(Ok(mut answer)) => {
                    if elsewhere {
                        answer.extensions_mut().insert(FromElsewhere);
                    }
                    answer
                }
            };
            if !answer.status().is_redirection() || ask.method != Method::GET && ask.method != Method::HEAD {
                return Ok(answer);
            }
            let Some(location) = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok()) else {
                return Ok(answer);
            };
            let next = resolve(&url, location)?;
            if !same_origin(&url, &next) {
                // The storage behind a registry gets its own signed URL and must not learn the user's token.
                headers.remove(AUTHORIZATION);
                elsewhere = true;
            }
            if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") && !ask.insecure {
                return Err(unreachable(
                    &ask.method,
                    &url,
                    "refused a redirect from https to http",
                ));
            }
            url = next;
        }
        Err(unreachable(
            &ask.method,
            &url,
            &format!("stopped after {REDIRECTS_MAX} redirects"),
        ))
    }

    /// Sends a body that cannot be sent twice; follows no redirect. `sent` counts its bytes as they leave: as long as it grows
    /// the registry has time to answer.
    ///
    /// # Errors
    /// `Unavailable`, as [`Self::send`].
    pub async fn stream(
        &self,
        ask: Ask,
        body: Body,
        config: &ImagesConfig,
        sent: &AtomicU64,
        on_bytes: impl Fn(u64),
    ) -> Result<Response<Incoming>> {
        let url = parse_url(&ask.url)?;
        let client = self.client(&ask, &url, config)?;
        let request = request(&ask.method, &url, ask.headers.clone(), config, body)?;
        let mut answer = std::pin::pin!(client.request(request));
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            match tokio::time::timeout(TOLD_EVERY, &mut answer).await {
                Ok(done) => return done.map_err(|e| unreachable(&ask.method, &url, &explain(&e, &url))),
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now > seen {
                        (seen, since) = (now, Instant::now());
                        on_bytes(now);
                    } else if since.elapsed() > config.patience {
                        return Err(unreachable(&ask.method, &url, "context deadline exceeded"));
                    }
                }
            }
        }
    }
}

fn request(
    method: &Method,
    url: &Uri,
    headers: HeaderMap,
    config: &ImagesConfig,
    body: Body,
) -> Result<Request<Body>> {
    let mut request = Request::builder().method(method.clone()).uri(url.clone());
    if let Some(slot) = request.headers_mut() {
        slot.extend(headers);
        slot.extend(
            HeaderValue::from_str(&config.user_agent)
                .ok()
                .map(|agent| (USER_AGENT, agent)),
        );
        slot.extend(
            config
                .proxies
                .authorization(url)
                .map(|value| (PROXY_AUTHORIZATION, value)),
        );
    }
    let bad = |e: http::Error| Error::invalid(format!("ask for {url}")).caused_by(e);
    request.body(body).map_err(bad)
}

/// How long a registry wants us to wait before we ask again (RFC 9110, 10.2.3; RFC 6585, 4).
fn later(answer: &Response<Incoming>, tries: u32) -> Option<Duration> {
    let too_many = answer.status() == StatusCode::TOO_MANY_REQUESTS;
    if tries >= LATER_TRIES || !too_many && answer.status() != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let said = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
    match said {
        Some(text) => retry_after(text, jiff::Timestamp::now()),
        None => too_many.then(|| Duration::from_secs(1 << tries)),
    }
}

/// Seconds, or a date.
fn retry_after(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(Duration::try_from(date.timestamp().duration_since(now)).unwrap_or_default())
}

/// A small body.
fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Reads a small body whole.
///
/// # Errors
/// `Invalid` when it is larger than `limit`, `Unavailable` when it breaks off or drips.
pub(crate) async fn read_body(body: Incoming, limit: u64, what: &str) -> Result<Bytes> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    match tokio::time::timeout(SMALL_TIMEOUT, Limited::new(body, limit).collect()).await {
        Err(_) => Err(Error::new(
            Kind::Unavailable,
            format!("read {what}: context deadline exceeded"),
        )),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            Err(Error::invalid(format!("{what} is larger than {limit} bytes")))
        }
        Ok(Err(e)) => Err(Error::new(Kind::Unavailable, format!("read {what}")).caused_by(e)),
    }
}

fn build(trust: &Trust, proxies: &Proxies) -> Result<Http> {
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(trust.config()?);
    let connector = builder
        .https_or_http()
        .enable_http1()
        .wrap_connector(Dial::new(proxies, CONNECT_TIMEOUT));
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .http1_max_buf_size(READ_MAX)
        .build(connector))
}

pub(crate) fn parse_url(url: &str) -> Result<Uri> {
    url.parse()
        .map_err(|e: http::uri::InvalidUri| Error::invalid(format!("bad URL {url:?}")).caused_by(e))
}

/// A redirect's target: absolute, or a path on the same host.
pub(crate) fn resolve(base: &Uri, location: &str) -> Result<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return parse_url(location);
    }
    let scheme = base.scheme_str().unwrap_or("https");
    if let Some(rest) = location.strip_prefix("//") {
        return parse_url(&format!("{scheme}://{rest}"));
    }
    let host = base.authority().map_or("", |a| a.as_str());
    if location.starts_with('/') {
        return parse_url(&format!("{scheme}://{host}{location}"));
    }
    let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
    parse_url(&format!("{scheme}://{host}{dir}/{location}"))
}

pub(crate) fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

fn unreachable(method: &Method, url: &Uri, why: &str) -> Error {
    let verb = match *method {
        Method::GET => "Get",
        Method::HEAD => "Head",
        Method::PUT => "Put",
        Method::PATCH => "Patch",
        _ => "Post",
    };
    Error::new(Kind::Unavailable, format!("{verb} \"{url}\": {why}"))
}

/// The cause in Go's words, which is what people search for.
fn explain(error: &ClientError, url: &Uri) -> String {
    let port = url
        .port_u16()
        .unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    let address = format!("{}:{port}", url.host().unwrap_or_default());
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(e) = cause {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidMessage(_) => {
                    "http: server gave HTTP response to HTTPS client".to_owned()
                }
                rustls::Error::InvalidCertificate(why) => format!("tls: failed to verify certificate: {why}"),
                other => format!("tls: {other}"),
            };
        }
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && let Some(text) = explain_io(io, &address)
        {
            return text;
        }
        last = e.to_string();
        // `io::Error::other(x)` shows x's text but hides x itself from `source`.
        let inner = e.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        cause = inner
            .map(|i| i as &(dyn StdError + 'static))
            .or_else(|| e.source());
    }
    if last.contains("failed to lookup address") {
        return format!(
            "dial tcp: lookup {}: no such host",
            url.host().unwrap_or_default()
        );
    }
    last
}

fn explain_io(io: &std::io::Error, address: &str) -> Option<String> {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    let what = match io.kind() {
        ConnectionRefused => "connection refused",
        NetworkUnreachable => "network is unreachable",
        HostUnreachable => "no route to host",
        TimedOut => return Some(format!("dial tcp {address}: i/o timeout")),
        std::io::ErrorKind::ConnectionReset => {
            return Some(format!("read tcp {address}: connection reset by peer"));
        }
        std::io::ErrorKind::UnexpectedEof => return Some("EOF".to_owned()),
        _ => return None,
    };
    Some(format!("dial tcp {address}: connect: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_again() {
        let now: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let wait = |text| retry_after(text, now).map(|d| d.as_secs());
        assert_eq!((wait("0"), wait(" 7 ")), (Some(0), Some(7)));
        assert_eq!(wait("Fri, 02 Jan 2026 03:05:05 GMT"), Some(60));
        assert_eq!(wait("Thu, 01 Jan 2026 03:05:05 GMT"), Some(0), "it is past");
        assert_eq!((wait("soon"), wait("-1")), (None, None));
    }

    #[test]
    fn redirects() {
        let base: Uri = "https://a:1/v2/x/blobs/y".parse().unwrap();
        for (location, want) in [
            ("https://b/z?q", "https://b/z?q"),
            ("/z", "https://a:1/z"),
            ("//b/z", "https://b/z"),
            ("z", "https://a:1/v2/x/blobs/z"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), want);
        }
        let uri = |t: &str| t.parse::<Uri>().unwrap();
        assert!(same_origin(&base, &uri("https://a:1/other")));
        for other in ["https://a/other", "http://a:1/", "https://b:1/"] {
            assert!(!same_origin(&base, &uri(other)), "{other}");
        }
    }
}
