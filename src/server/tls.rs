//! TLS by rustls, towards clients where a certificate is configured. Towards the server: `upstream/tls.rs`.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// What does the cryptography.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Certificates of a PEM file.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| format!("certificate {}: {e}", path.display()))
}

/// For clients.
pub(super) fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("key {}: {e}", key.display()))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(certificates(cert)?, key_der)
        .map_err(|e| format!("certificate {}: {e}", cert.display()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificate of a PEM file that is the server's own: the first.
pub(super) fn leaf(path: &Path) -> Result<bytes::Bytes, String> {
    let all = certificates(path)?;
    let first = all
        .first()
        .ok_or_else(|| format!("{} has no certificate", path.display()))?;
    Ok(bytes::Bytes::copy_from_slice(first))
}
