//! TLS towards clients: the acceptor, the name in a client's certificate, and files that change while Menshen runs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Tag, Tagged};

use super::shared::Shared;
use super::tls::{certificates, leaf, provider};
use crate::config::channel::Channel;
use crate::config::tls::{ClientTls, MinVersion};

/// The name of PostgreSQL's protocol in ALPN, registered with IANA.
pub const ALPN: &[u8] = b"postgresql";
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What decides who comes in, with the keys that go with it.
pub struct Gate {
    /// As configured.
    pub channel: Channel,
    /// `None`: SSLRequest is answered `N`.
    pub acceptor: Option<TlsAcceptor>,
    /// The certificate that clients are shown.
    pub leaf: Option<bytes::Bytes>,
}

impl Gate {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(channel: Channel) -> Result<Self, String> {
        let acceptor = channel.tls.as_ref().map(acceptor).transpose()?;
        let leaf = channel.tls.as_ref().map(|t| leaf(&t.cert)).transpose()?;
        Ok(Self {
            channel,
            acceptor,
            leaf,
        })
    }
}

fn acceptor(tls: &ClientTls) -> Result<TlsAcceptor, String> {
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| format!("private key {}: {e}", tls.key.display()))?;
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let bad = |e: &dyn std::fmt::Display| format!("client_ca {}: {e}", path.display());
            let mut roots = RootCertStore::empty();
            for cert in certificates(path)? {
                roots.add(cert).map_err(|e| bad(&e))?;
            }
            let mut lists = Vec::new();
            if let Some(path) = &tls.client_crl {
                lists = CertificateRevocationListDer::pem_file_iter(path)
                    .and_then(Iterator::collect)
                    .map_err(|e| format!("client_crl {}: {e}", path.display()))?;
            }
            // Who must show a certificate and does not is told so in PostgreSQL's protocol, not by a TLS alert.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .with_crls(lists)
                .allow_unauthenticated()
                .build()
                .map_err(|e| bad(&e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates(&tls.cert)?, key)
        .map_err(|e| format!("certificate {} and key {}: {e}", tls.cert.display(), tls.key.display()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The common name of a certificate's subject. `None` where it has none, several, or one that is no plain text: a NUL in it
/// could mean one name to whoever signed and another to whoever compares.
#[must_use]
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let subject = &certificate.tbs_certificate.subject;
    let mut names = subject
        .0
        .iter()
        .flat_map(|rdn| rdn.0.iter())
        .filter(|a| a.oid == COMMON_NAME);
    let (name, second) = (names.next()?, names.next());
    let plain = matches!(
        name.value.tag(),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String
    );
    let text = std::str::from_utf8(name.value.value()).ok()?;
    (second.is_none() && plain && !text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// Inode, length and time of every file: what a symbolic link leads to counts, as tools that renew certificates switch it.
type Stamps = Vec<(PathBuf, Option<(u64, u64, i64, i64)>)>;

fn stamps(gate: &Gate) -> Stamps {
    let files = gate.channel.tls.as_ref().map(ClientTls::files).unwrap_or_default();
    let stamp = |path: &Path| {
        let m = std::fs::metadata(path).ok()?;
        Some((m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
    };
    files.into_iter().map(|f| (f.to_owned(), stamp(f))).collect()
}

/// Takes changed certificates over. A pair that can't be used leaves the old one in force and says so loudly, once.
pub fn watch(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    // Before anybody is let in: what changes right afterwards must be seen to have changed.
    let mut known = stamps(&shared.gate.load());
    tokio::spawn(async move {
        let mut seen = known.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let gate = shared.gate.load_full();
            let now = stamps(&gate);
            // A certificate and its key are written one after the other: they are read when nothing moves any more.
            let quiet = std::mem::replace(&mut seen, now.clone()) == now;
            if !quiet || now == known {
                continue;
            }
            known = now;
            match Gate::open(gate.channel.clone()) {
                Ok(fresh) => {
                    // Where the configuration itself was exchanged meanwhile, that one has read the files anew.
                    shared.gate.compare_and_swap(&gate, Arc::new(fresh));
                    tracing::info!("certificates reloaded");
                    if let Err(e) = shared.audit("certificates-reloaded", json!({})) {
                        tracing::error!("{e}");
                    }
                }
                Err(why) => {
                    tracing::error!("certificates not reloaded, the old ones stay in force: {why}");
                    if let Err(e) = shared.audit("certificates-rejected", json!({ "problem": why })) {
                        tracing::error!("{e}");
                    }
                    shared.raise(
                        "certificates",
                        None,
                        "the certificates for clients have changed and cannot be used; the old ones stay in force"
                            .to_owned(),
                        json!({ "problem": why }),
                    );
                }
            }
        }
    });
}
