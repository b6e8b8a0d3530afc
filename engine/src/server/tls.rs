//! TLS on TCP sockets of the API: `--tls`, `--tlsverify`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kelson_tls::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to agree on a session.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long, and for how many bytes, a client that was refused is listened to.
const FAREWELL: Duration = Duration::from_secs(1);
const MOST: u64 = 1 << 20;

/// Who we are, and who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Our certificate and key.
    pub identity: Identity,
    /// With `--tlsverify`: clients must have a certificate of this CA.
    pub clients: Option<PathBuf>,
}

/// Makes sessions of connections.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// Reads the files once: a new certificate counts from the next start on, as dockerd's does.
    ///
    /// # Errors
    /// A file that cannot be read, or a key that is another certificate's.
    pub fn new(settings: &TlsSettings) -> anyhow::Result<Acceptor> {
        let mut config = kelson_tls::server(&settings.identity, settings.clients.as_deref())?;
        // The API takes connections over, which HTTP/2 has no notion of.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    /// The session of a connection.
    ///
    /// # Errors
    /// A client that does not speak TLS, shows no certificate where one is asked for, or takes too long.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let agreed = tokio::time::timeout(HANDSHAKE, self.0.accept(stream).into_fallible()).await?;
        match agreed {
            Ok(session) => Ok(session),
            Err((error, stream)) => {
                // What else is in the way ends the connection by itself.
                let _ = tokio::time::timeout(FAREWELL, see_off(stream)).await;
                Err(error)
            }
        }
    }
}

/// Takes what the client has sent and nobody reads any more: to close over it would reset the connection, and the client would
/// lose the alert that says what is wrong with its certificate.
async fn see_off(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(MOST), &mut tokio::io::sink())
        .await
        .map(drop)
}
