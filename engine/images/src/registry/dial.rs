//! Connections to registries: straight, or through the proxy that the daemon was told of (`HTTPS_PROXY` and kin).

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::config::Proxies;

type Failure = Box<dyn StdError + Send + Sync>;

/// Makes connections.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    tcp: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Dial {
    pub fn new(proxies: &Proxies, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_nodelay(true);
        Self {
            tcp,
            proxies: Arc::new(proxies.matcher()),
        }
    }
}

impl Service<Uri> for Dial {
    type Response = Line;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Line, Failure>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let tcp = self.tcp.clone();
        match Proxies::intercept(&self.proxies, &to) {
            None => Box::pin(straight(tcp, to, false)),
            Some(proxy) => Box::pin(through(tcp, proxy, to)),
        }
    }
}

async fn straight(mut tcp: HttpConnector, to: Uri, proxied: bool) -> Result<Line, Failure> {
    let stream = tcp.call(to).await?;
    Ok(Line { stream, proxied })
}

async fn through(tcp: HttpConnector, proxy: Intercept, to: Uri) -> Result<Line, Failure> {
    let at = proxy.uri().clone();
    let stream = match (at.scheme_str(), to.scheme_str()) {
        // A plain request is handed to the proxy as it is, with the whole URL (RFC 9112, 3.2.2).
        (Some("http"), Some("http")) => return straight(tcp, at, true).await,
        (Some("http"), _) => {
            let mut tunnel = Tunnel::new(at, tcp);
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            tunnel.call(to).await.map_err(|e| refused(&proxy, e))?
        }
        (Some("socks5" | "socks5h"), _) => {
            let mut socks = SocksV5::new(at.clone(), tcp).local_dns(at.scheme_str() == Some("socks5"));
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            socks.call(to).await.map_err(|e| refused(&proxy, e))?
        }
        (other, _) => {
            let text = format!("proxy scheme {:?} is not supported", other.unwrap_or_default());
            return Err(io::Error::new(io::ErrorKind::Unsupported, text).into());
        }
    };
    Ok(Line {
        stream,
        proxied: false,
    })
}

/// Without the user and password that its URL may hold.
fn refused(proxy: &Intercept, why: impl StdError + Send + Sync + 'static) -> Failure {
    let host = proxy.uri().host().unwrap_or_default();
    let cause = why
        .source()
        .map_or_else(String::new, |cause| format!(": {cause}"));
    io::Error::other(format!("proxyconnect tcp: {host}: {why}{cause}")).into()
}

/// A connection that knows whether a proxy reads its requests.
#[derive(Debug)]
pub(crate) struct Line {
    stream: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        self.stream.inner().connected().proxy(self.proxied)
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl Write for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
