//! Whether a client may come in: TLS, its certificate, the `[[access]]` rules. Judged before anything is opened upstream, in
//! pg_hba's order and words.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::config::access::{AccessTls, Rule};
use crate::config::channel::Channel;
use crate::config::tls::{ClientCert, TlsMode};
use crate::wire::Refusal;

/// What is known of a client besides what it says of itself.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// Where it is: behind a balancer, what the balancer says.
    pub address: SocketAddr,
    /// The balancer.
    pub via: Option<SocketAddr>,
    /// Its connection is encrypted.
    pub encrypted: bool,
    /// It has shown a certificate, which is valid: the common name, if it has exactly one.
    pub certificate: Option<Option<String>>,
    /// The certificate that it was shown.
    pub shown: Option<Bytes>,
}

/// Judges a client's wish to be `login` in `database`.
///
/// # Errors
/// 28000, in pg_hba's words.
pub fn judge(channel: &Channel, visitor: &Visitor, login: &str, database: &str) -> Result<(), Refusal> {
    let host = visitor.address.ip().to_canonical();
    let encryption = if visitor.encrypted {
        "SSL encryption"
    } else {
        "no encryption"
    };
    let who = format!("host \"{host}\", user \"{login}\", database \"{database}\", {encryption}");
    let required = channel.tls.as_ref().is_some_and(|t| t.mode == TlsMode::Required);
    if required && !visitor.encrypted {
        return Err(refused(
            "tls-required",
            format!("connections must be encrypted: {who}"),
            "connect with sslmode=require or a stronger one",
        ));
    }
    let named = names_login(channel, visitor, login);
    let asked = channel.tls.as_ref().map_or(ClientCert::Optional, |t| t.client_cert);
    let (shown, fits) = (visitor.certificate.is_some(), named);
    match asked {
        ClientCert::Optional => {}
        ClientCert::VerifyCa | ClientCert::VerifyFull if !shown => {
            return Err(refused(
                "client-certificate",
                "connection requires a valid client certificate".to_owned(),
                "give the client a certificate and its key (sslcert, sslkey)",
            ));
        }
        ClientCert::VerifyFull if !fits => {
            return Err(refused(
                "client-certificate",
                format!("certificate authentication failed for user \"{login}\""),
                "the certificate's common name must be the login, or [[tls.logins]] must map it to the login",
            ));
        }
        ClientCert::VerifyCa | ClientCert::VerifyFull => {}
    }
    if channel.access.is_empty() {
        return Ok(());
    }
    let fits = |rule: &&Rule| {
        let any = |patterns: &Option<Vec<globset::GlobMatcher>>, text: &str| {
            patterns.as_ref().is_none_or(|p| p.iter().any(|g| g.is_match(text)))
        };
        any(&rule.logins, login)
            && any(&rule.databases, database)
            && rule
                .networks
                .as_ref()
                .is_none_or(|n| n.iter().any(|n| n.contains(&host)))
            && match rule.tls {
                None => true,
                Some(AccessTls::Off) => !visitor.encrypted,
                Some(AccessTls::On) => visitor.encrypted,
                Some(AccessTls::Certificate) => visitor.encrypted && named,
            }
    };
    match channel.access.iter().find(fits) {
        Some(rule) if rule.allow => Ok(()),
        Some(_) => Err(refused(
            "access",
            format!("access rule rejects connection for {who}"),
            "ask whoever keeps Menshen's [[access]] rules",
        )),
        None => Err(refused(
            "access",
            format!("no access rule for {who}"),
            "ask whoever keeps Menshen's [[access]] rules",
        )),
    }
}

/// Whether the client's certificate is one of this login.
fn names_login(channel: &Channel, visitor: &Visitor, login: &str) -> bool {
    match (&channel.tls, &visitor.certificate) {
        (Some(tls), Some(Some(cn))) => tls.names(cn, login),
        (Some(_) | None, Some(None) | None) | (None, Some(Some(_))) => false,
    }
}

fn refused(rule: &'static str, message: String, hint: &'static str) -> Refusal {
    Refusal {
        sqlstate: "28000",
        rule,
        message,
        hint: hint.into(),
        position: None,
        incident: false,
    }
}
