//! The HTTP server: connections, the way of one request, and what all requests share.
//!
//! A request passes: sniffing stream (`listen`) → hyper → version (`versions`) → table (`routes`) → handler in a task
//! of its own. The task makes two things true: a client that leaves does not cancel a half-done create, and a panic
//! becomes a 500 and ends nothing else. See `docs/request-lifecycle.md`.

pub mod body;
pub mod call;
pub mod errors;
pub mod listen;
pub mod query;
pub mod router;
pub mod routes;
pub mod sockets;
pub mod tls;
pub mod upload;
pub mod versions;

use body::{Body, Reply};
use call::Call;
use errors::ApiError;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use listen::{Sniff, Socket};
use query::Query;
use std::convert::Infallible;
use std::sync::Arc;
use tls::Acceptor;
use tracing::Instrument;

pub use app::App;
mod app;
#[cfg(test)]
mod tests;

/// Largest request head and hyper's read buffer.
const MAX_HEAD: usize = 64 << 10;

/// Serves one connection until it ends or is taken over. One over TCP must first agree on TLS, if there is an acceptor.
pub async fn serve(app: Arc<App>, socket: Socket, tls: Option<Acceptor>) {
    let socket = match (socket, tls) {
        (Socket::Tcp(stream), Some(acceptor)) => match acceptor.accept(stream).await {
            Ok(session) => Socket::Tls(Box::new(session)),
            Err(error) => {
                tracing::info!("TLS handshake: {error}");
                return;
            }
        },
        (socket, _) => socket,
    };
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(answer(app, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Sniff::new(socket)), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        // A client that goes away in the middle of a response is everyday life.
        tracing::debug!(%error, "connection ended");
    }
}

/// Answers one request.
async fn answer(app: Arc<App>, request: Request<Incoming>) -> Reply {
    let span = tracing::debug_span!("request", method = %request.method(), uri = %request.uri());
    let head = request.method() == Method::HEAD;
    let task = tokio::spawn(dispatch(app, request).instrument(span.clone()));
    let mut reply = match task.await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            // 501 and 503 are answers, not accidents.
            if error.status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(parent: &span, status = error.status.as_u16(), "{}", error.message);
            } else {
                tracing::debug!(parent: &span, status = error.status.as_u16(), "{}", error.message);
            }
            error.into_reply()
        }
        Err(panicked) => {
            tracing::error!(parent: &span, "handler ended abnormally: {panicked}");
            ApiError::internal("internal error: the request's handler ended abnormally").into_reply()
        }
    };
    stamp(&mut reply);
    crate::metrics::answered(reply.status());
    if head {
        *reply.body_mut() = Body::empty();
    }
    reply
}

/// The headers every answer carries, errors included: clients negotiate by them.
fn stamp(reply: &mut Reply) {
    let headers = reply.headers_mut();
    if let Ok(version) = HeaderValue::from_str(&versions::MAX.to_string()) {
        headers.insert("api-version", version);
    }
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(
        "server",
        HeaderValue::from_static(concat!("Kelson/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
}

async fn dispatch(app: Arc<App>, mut request: Request<Incoming>) -> Result<Reply, ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(body::status(StatusCode::OK));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let raw = parts.uri.path();
    let path = percent_encoding::percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| ApiError::invalid("the path is not UTF-8"))?;
    let (version, path) = versions::split(&path).map_err(|e| ApiError::invalid(e.to_string()))?;
    let (route, vars) =
        routes::find(&parts.method, path).ok_or_else(|| ApiError::not_found("page not found"))?;
    if version < route.since {
        return Err(ApiError::invalid(format!(
            "{} {} requires API version {}, but the client asked for {version}",
            parts.method, route.pattern, route.since
        )));
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let call = Call {
        app,
        version,
        vars,
        query,
        headers: parts.headers,
        body,
        upgrade: Some(upgrade),
    };
    (route.handler)(call).await
}
