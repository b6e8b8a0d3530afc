//! HTTP to registries: TLS by the system's roots, deadlines on every wait, redirects that carry no credentials to another host.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::{Error, Kind, Result};

/// To a connected socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// From the request to the answer's head; includes connecting and TLS.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of a body: a registry that drips slower than this is dead (or means harm).
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often an upload says how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// An idle connection kept for the next layer.
const POOL_IDLE: Duration = Duration::from_secs(20);
const REDIRECTS_MAX: usize = 10;

/// A request's body: a few bytes, or a blob read from the disk as it is sent.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Http = Client<HttpsConnector<HttpConnector>, Body>;

/// The two ways of speaking: with verified certificates and without. Made when first needed: reading the system's roots
/// takes milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Transport {
    verified: OnceLock<Http>,
    unverified: OnceLock<Http>,
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
    pub insecure: bool,
}

impl Ask {
    pub fn get(url: impl Into<String>, insecure: bool) -> Self {
        Self {
            method: Method::GET,
            url: url.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            insecure,
        }
    }
}

impl Transport {
    fn client(&self, insecure: bool) -> Result<&Http> {
        let slot = if insecure {
            &self.unverified
        } else {
            &self.verified
        };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = build(insecure)?;
        Ok(slot.get_or_init(|| client))
    }

    /// Sends, following redirects. The answer's status is the caller's to judge.
    ///
    /// # Errors
    /// `Unavailable`, in the words of docker: `Get "URL": dial tcp ADDRESS: connect: connection refused`.
    pub async fn send(&self, ask: Ask, user_agent: &str) -> Result<Response<Incoming>> {
        let client = self.client(ask.insecure)?;
        let mut url = parse_url(&ask.url)?;
        let mut elsewhere = false;
        let mut headers = ask.headers.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::builder().method(ask.method.clone()).uri(url.clone());
            if let Some(slot) = request.headers_mut() {
                slot.extend(headers.clone());
                if let Ok(agent) = HeaderValue::from_str(user_agent) {
                    slot.insert(USER_AGENT, agent);
                }
            }
            let bad = |e: http::Error| Error::invalid(format!("ask for {url}")).caused_by(e);
            let request = request.body(whole(ask.body.clone())).map_err(bad)?;
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
        user_agent: &str,
        sent: &AtomicU64,
        on_bytes: impl Fn(u64),
    ) -> Result<Response<Incoming>> {
        let client = self.client(ask.insecure)?;
        let url = parse_url(&ask.url)?;
        let mut request = Request::builder().method(ask.method.clone()).uri(url.clone());
        if let Some(slot) = request.headers_mut() {
            slot.extend(ask.headers);
            if let Ok(agent) = HeaderValue::from_str(user_agent) {
                slot.insert(USER_AGENT, agent);
            }
        }
        let request = request
            .body(body)
            .map_err(|e| Error::invalid(format!("ask for {url}")).caused_by(e))?;
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
                    } else if since.elapsed() > IDLE_TIMEOUT {
                        return Err(unreachable(&ask.method, &url, "context deadline exceeded"));
                    }
                }
            }
        }
    }
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
    match tokio::time::timeout(IDLE_TIMEOUT, Limited::new(body, limit).collect()).await {
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

fn build(insecure: bool) -> Result<Http> {
    let internal = |e: rustls::Error| Error::new(Kind::Internal, "set up TLS").caused_by(e);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    let builder = hyper_rustls::HttpsConnectorBuilder::new();
    let builder = if insecure {
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(internal)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        builder.with_tls_config(config)
    } else {
        // hint: a machine without any root certificate can still talk to insecure registries.
        builder.with_provider_and_native_roots(provider).map_err(|e| {
            let hint = "read the system's certificates (hint: install ca-certificates)";
            Error::new(Kind::Internal, hint).caused_by(e)
        })?
    };
    let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
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

/// Accepts every certificate, for registries the operator called insecure.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
