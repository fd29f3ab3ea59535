//! TLS towards a database server: whom to trust, by sslmode, and the handshake.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::config::{RootCert, SslMode, Upstream};
use crate::server::stream::Stream;
use crate::server::tls::{certificates, provider};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The protocol's name in ALPN (PostgreSQL 17; older servers do not look).
const ALPN: &[u8] = b"postgresql";

/// The client configuration; `None` for `disable`.
pub(super) fn client_config(config: &Upstream) -> Result<Option<ClientConfig>, String> {
    let provider = provider();
    let chain = |roots| {
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|e| e.to_string())
    };
    let verifier: Arc<dyn ServerCertVerifier> = match (config.sslmode, &config.root_cert) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Allow | SslMode::Prefer, _) | (SslMode::Require, None) => Arc::new(Unchecked(Arc::clone(&provider))),
        (SslMode::Require | SslMode::VerifyCa, Some(roots)) => Arc::new(AnyName(chain(root_store(roots)?)?)),
        (SslMode::VerifyFull, Some(roots)) => chain(root_store(roots)?)?,
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => return Err("sslmode asks for a root_cert".to_owned()),
    };
    let versions: &[&rustls::SupportedProtocolVersion] = if config.tls13_only {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut made = match &config.cert {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("key {}: {e}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(cert)?, key_der)
                .map_err(|e| format!("certificate {}: {e}", cert.display()))?
        }
    };
    made.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Some(made))
}

fn root_store(roots: &RootCert) -> Result<Arc<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    match roots {
        RootCert::File(path) => {
            for cert in certificates(path)? {
                store.add(cert).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            if store.is_empty() {
                return Err(format!("{} has no certificate", path.display()));
            }
        }
        RootCert::System => {
            let found = rustls_native_certs::load_native_certs();
            // Systems carry some that nobody can read.
            let (added, _unreadable) = store.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(format!("the system has no certificate authorities: {:?}", found.errors));
            }
        }
    }
    Ok(Arc::new(store))
}

/// Asks for TLS and shakes hands. Exactly one byte is read before: what an attacker puts behind the server's `S` becomes part of
/// the handshake, and breaks it (CVE-2021-23222).
pub(super) async fn secure(
    tls: &Arc<ClientConfig>,
    config: &Upstream,
    host: &str,
    mut stream: Stream,
) -> Result<Stream, String> {
    let words = |e: std::io::Error| format!("TLS: {e}");
    if !config.direct_tls {
        stream.write_all(&SSL_REQUEST).await.map_err(words)?;
        match (stream.read_u8().await.map_err(words)?, config.sslmode) {
            (b'S', _) => {}
            (b'N', SslMode::Allow | SslMode::Prefer) => return Ok(stream),
            (b'N', _) => return Err("the server does not offer TLS, and sslmode asks for it".to_owned()),
            // An error's text comes from whoever is in between (CVE-2024-10977).
            (other, _) => return Err(format!("the server answers {:?} to SSLRequest", char::from(other))),
        }
    }
    let Stream::Plain(tcp) = stream else {
        return Err("TLS is for TCP".to_owned());
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let connected = connector.connect(name, tcp).await.map_err(words)?;
    if config.direct_tls && connected.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err("the server does not say by ALPN that it speaks PostgreSQL's protocol".to_owned());
    }
    Ok(Stream::Connected(Box::new(connected)))
}

/// `verify-ca`: the certificate must come from the authority, whatever its name. The chain is checked before the name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// `prefer` and `require` of libpq encrypt without asking who answers. Signatures are still checked.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
