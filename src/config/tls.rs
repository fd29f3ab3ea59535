//! `[tls]`: encryption towards clients, and their certificates.

use std::path::{Path, PathBuf};

use globset::{Glob, GlobMatcher};

use crate::policy::reader::{Reader, Section};

/// Whether clients encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// As they like.
    Optional,
    /// All of them; CancelRequests excepted, which libpq sends in the clear.
    Required,
}

/// The oldest version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

/// What is asked of a client's certificate. One that is shown is always verified against `client_ca`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCert {
    /// Nothing. `[[access]]` rules may ask for it by `tls = "certificate"`.
    Optional,
    /// It is there and valid (PostgreSQL's `clientcert=verify-ca`).
    VerifyCa,
    /// It also names the login (PostgreSQL's `clientcert=verify-full`).
    VerifyFull,
}

/// A line of the map from certificates to logins, as of pg_ident.conf.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Pattern of common names.
    pub cn: GlobMatcher,
    /// Patterns of the logins they may use.
    pub logins: Vec<GlobMatcher>,
}

/// The resolved section.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// `mode`. *Default: `required` with a `client_cert` that must be there, else `optional`*
    pub mode: TlsMode,
    /// `cert`: PEM, with its chain.
    pub cert: PathBuf,
    /// `key`: PEM.
    pub key: PathBuf,
    /// `min_version`. *Default: `1.2`*
    pub min_version: MinVersion,
    /// `client_ca`: PEM of the authorities of client certificates. *Default: none, no certificate is asked for*
    pub client_ca: Option<PathBuf>,
    /// `client_crl`: PEM of their revocation lists. *Default: none*
    pub client_crl: Option<PathBuf>,
    /// `client_cert`. *Default with `client_ca`: `verify-full`*
    pub client_cert: ClientCert,
    /// `[[tls.logins]]`. *Default: the common name is the login*
    pub mappings: Vec<Mapping>,
}

impl ClientTls {
    /// Whether a certificate with this common name is one of this login.
    #[must_use]
    pub fn names(&self, cn: &str, login: &str) -> bool {
        if self.mappings.is_empty() {
            return cn == login;
        }
        self.mappings
            .iter()
            .any(|m| m.cn.is_match(cn) && m.logins.iter().any(|l| l.is_match(login)))
    }

    pub(super) fn summary(&self) -> String {
        let mode = match self.mode {
            TlsMode::Optional => "optional",
            TlsMode::Required => "required",
        };
        let version = match self.min_version {
            MinVersion::Tls12 => "1.2",
            MinVersion::Tls13 => "1.3",
        };
        let certificates = match (&self.client_ca, self.client_cert) {
            (None, _) => "no client certificates",
            (Some(_), ClientCert::Optional) => "client certificates optional",
            (Some(_), ClientCert::VerifyCa) => "client certificates verify-ca",
            (Some(_), ClientCert::VerifyFull) => "client certificates verify-full",
        };
        format!("{mode} (from {version} on, {certificates})")
    }

    /// Every file that it is made of.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let own = [
            Some(&self.cert),
            Some(&self.key),
            self.client_ca.as_ref(),
            self.client_crl.as_ref(),
        ];
        own.into_iter().flatten().map(PathBuf::as_path).collect()
    }
}

pub(super) fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>, base: &Path) -> Option<ClientTls> {
    let section = reader.section(root, "tls")?;
    reader.known(
        &section,
        &[
            "mode",
            "cert",
            "key",
            "min_version",
            "client_ca",
            "client_crl",
            "client_cert",
            "logins",
        ],
    );
    let client_ca = reader.string(&section, "client_ca").map(|(p, _)| base.join(p));
    let client_crl = reader.string(&section, "client_crl").map(|(p, _)| base.join(p));
    let asked = choice(
        reader,
        &section,
        "client_cert",
        &[
            ("optional", ClientCert::Optional),
            ("verify-ca", ClientCert::VerifyCa),
            ("verify-full", ClientCert::VerifyFull),
        ],
    );
    let client_cert = match (asked, &client_ca) {
        (Some(asked), _) => asked,
        (None, Some(_)) => ClientCert::VerifyFull,
        (None, None) => ClientCert::Optional,
    };
    let mode = choice(
        reader,
        &section,
        "mode",
        &[
            ("off", None),
            ("optional", Some(TlsMode::Optional)),
            ("required", Some(TlsMode::Required)),
        ],
    );
    let min_version = choice(
        reader,
        &section,
        "min_version",
        &[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)],
    );
    let mappings = mappings(reader, &section);
    if mode == Some(None) {
        return None;
    }
    if client_ca.is_none() && (asked.is_some() || client_crl.is_some() || !mappings.is_empty()) {
        reader.error(
            &section.span,
            "`client_cert`, `client_crl` and `logins` in [tls] need `client_ca`",
            Some("name the PEM file of the authority that signs client certificates".to_owned()),
        );
    }
    if client_cert != ClientCert::Optional && mode == Some(Some(TlsMode::Optional)) {
        reader.error(
            &section.span,
            "who must show a certificate must encrypt: mode `optional` contradicts `client_cert`",
            Some("write mode = \"required\", or client_cert = \"optional\" and `[[access]]` rules".to_owned()),
        );
    }
    let cert = reader.required(&section, "cert");
    let key = reader.required(&section, "key");
    let (cert, key) = cert.zip(key)?;
    Some(ClientTls {
        mode: mode.flatten().unwrap_or(match client_cert {
            ClientCert::Optional => TlsMode::Optional,
            ClientCert::VerifyCa | ClientCert::VerifyFull => TlsMode::Required,
        }),
        cert: base.join(cert.0),
        key: base.join(key.0),
        min_version: min_version.unwrap_or(MinVersion::Tls12),
        client_ca,
        client_crl,
        client_cert,
        mappings,
    })
}

fn mappings<'t>(reader: &mut Reader<'t>, tls: &Section<'t>) -> Vec<Mapping> {
    let mut found = Vec::new();
    for section in reader.array(tls, "logins") {
        reader.known(&section, &["cn", "logins"]);
        let logins = globs(reader, &section, "logins");
        if logins.is_empty() {
            reader.error(&section.span, "[[tls.logins]] lacks `logins`", None);
        }
        if let Some((text, span)) = reader.required(&section, "cn")
            && let Some(cn) = glob(reader, &text, &span)
        {
            found.push(Mapping { cn, logins });
        }
    }
    found
}

/// One of some words.
pub(super) fn choice<'t, T: Copy>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    key: &str,
    among: &[(&str, T)],
) -> Option<T> {
    let (text, span) = reader.string(section, key)?;
    let found = among.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let words: Vec<&str> = among.iter().map(|(word, _)| *word).collect();
        reader.error(&span, format!("{key} `{text}` is none of {}", words.join(", ")), None);
    }
    found
}

pub(super) fn glob(reader: &mut Reader<'_>, text: &str, span: &std::ops::Range<usize>) -> Option<GlobMatcher> {
    match Glob::new(text) {
        Ok(glob) => Some(glob.compile_matcher()),
        Err(e) => {
            reader.error(span, format!("`{text}` is not a pattern: {}", e.kind()), None);
            None
        }
    }
}

pub(super) fn globs<'t>(reader: &mut Reader<'t>, section: &Section<'t>, key: &str) -> Vec<GlobMatcher> {
    let texts = reader.strings(section, key);
    texts
        .iter()
        .filter_map(|(text, span)| glob(reader, text, span))
        .collect()
}
