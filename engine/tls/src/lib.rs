//! Certificates and TLS: one notion of both for registries, the API and the API's clients. It decides what is believed and shown;
//! the protocol is rustls's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

pub use rustls;

/// A certificate or key that cannot be used, or settings that rustls refuses.
#[derive(Debug)]
pub struct Error {
    doing: String,
    why: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// What was being done, and why it failed, for an error of the caller's own.
    #[must_use]
    pub fn into_parts(self) -> (String, Option<Box<dyn std::error::Error + Send + Sync>>) {
        (self.doing, self.why)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.why.as_deref().map(|why| why as _)
    }
}

/// What a function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

fn bad_file(path: &Path, why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error {
        doing: format!("read {}", path.display()),
        why: Some(Box::new(why)),
    }
}

fn refused(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error {
        doing: "set up TLS".to_owned(),
        why: Some(Box::new(why)),
    }
}

/// A certificate chain and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The certificate, then those that lead to a root.
    pub certificate: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| bad_file(&self.key, e))?;
        Ok((chain, key))
    }
}

/// Whose certificates are believed.
#[derive(Debug)]
pub enum Trust {
    /// Anybody's: the traffic is encrypted, and whoever answers may be anyone.
    Anyone,
    /// Those that lead to one of these.
    Roots(RootCertStore),
}

/// The certificates in a PEM file.
///
/// # Errors
/// When it cannot be read, is no PEM, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let found = found.map_err(|e| bad_file(path, e))?;
    if found.is_empty() {
        return Err(Error {
            doing: format!("{} holds no certificate", path.display()),
            why: None,
        });
    }
    Ok(found)
}

/// Adds a PEM file's certificates to `roots`.
///
/// # Errors
/// Those of [`certificates`], and for a certificate that cannot be a root.
pub fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<()> {
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| bad_file(path, e))?;
    }
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client's side: TLS 1.2 and 1.3.
///
/// # Errors
/// For an identity that cannot be read, or whose key is of another certificate.
pub fn client(trust: Trust, identity: Option<&Identity>) -> Result<ClientConfig> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = match trust {
        Trust::Anyone => {
            let any = Arc::new(AnyCertificate(provider));
            builder.dangerous().with_custom_certificate_verifier(any)
        }
        Trust::Roots(roots) => builder.with_root_certificates(roots),
    };
    let Some(identity) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = identity.read()?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| bad_file(&identity.certificate, e))
}

/// A server's side: TLS 1.2 and 1.3. With `clients`, the file of a CA, a client must show a certificate of it.
///
/// # Errors
/// For files that cannot be read, and for a key of another certificate.
pub fn server(identity: &Identity, clients: Option<&Path>) -> Result<ServerConfig> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            add_roots(&mut roots, path)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| bad_file(path, e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = identity.read()?;
    builder
        .with_single_cert(chain, key)
        .map_err(|e| bad_file(&identity.certificate, e))
}

/// Accepts every certificate, but not a peer without its key.
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
mod tests;
