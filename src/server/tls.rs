//! TLS by rustls: what both sides need. Towards clients: `client_tls.rs`; towards the server: `upstream/tls.rs`.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

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

/// The certificate of a PEM file that is the server's own: the first.
pub(super) fn leaf(path: &Path) -> Result<bytes::Bytes, String> {
    let all = certificates(path)?;
    let first = all
        .first()
        .ok_or_else(|| format!("{} has no certificate", path.display()))?;
    Ok(bytes::Bytes::copy_from_slice(first))
}
