//! `[[access]]`: who may connect to what, from where. As in pg_hba.conf the first rule that fits decides, and where there are
//! rules but none fits, the connection is refused.

use globset::GlobMatcher;
use ipnet::IpNet;

use super::channel::networks;
use super::tls::{ClientTls, choice, globs};
use crate::policy::reader::{Reader, Section};

/// What a rule asks of the encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTls {
    /// The connection is not encrypted (pg_hba's `hostnossl`).
    Off,
    /// It is (`hostssl`).
    On,
    /// It is, and the client's certificate names its login.
    Certificate,
}

/// One rule. What it does not name fits everything.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `action`: `allow` or `deny`.
    pub allow: bool,
    /// `logins`: patterns.
    pub logins: Option<Vec<GlobMatcher>>,
    /// `databases`: patterns.
    pub databases: Option<Vec<GlobMatcher>>,
    /// `networks`
    pub networks: Option<Vec<IpNet>>,
    /// `tls`
    pub tls: Option<AccessTls>,
    /// Line of the file, for messages.
    pub line: u32,
}

pub(super) fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>, tls: Option<&ClientTls>) -> Vec<Rule> {
    if root.get("access").is_none() {
        return Vec::new();
    }
    let sections = reader.array(root, "access");
    let mut rules = Vec::new();
    for section in sections {
        reader.known(&section, &["action", "logins", "databases", "networks", "tls"]);
        if section.get("action").is_none() {
            reader.error(
                &section.span,
                "[[access]] lacks the key `action`",
                Some("write action = \"allow\" or action = \"deny\"".to_owned()),
            );
        }
        let allow = choice(reader, &section, "action", &[("allow", true), ("deny", false)]);
        let wanted = choice(
            reader,
            &section,
            "tls",
            &[
                ("off", AccessTls::Off),
                ("on", AccessTls::On),
                ("certificate", AccessTls::Certificate),
            ],
        );
        match wanted {
            Some(AccessTls::On) if tls.is_none() => {
                reader.warn(&section.span, "no connection fits: [tls] gives no certificate", None);
            }
            Some(AccessTls::Certificate) if tls.is_none_or(|t| t.client_ca.is_none()) => {
                reader.warn(&section.span, "no connection fits: [tls] has no `client_ca`", None);
            }
            Some(AccessTls::Off | AccessTls::On | AccessTls::Certificate) | None => {}
        }
        // An empty list fits nothing: the rule would never be used, which is nobody's wish.
        for key in ["logins", "databases", "networks"] {
            let list = section.get(key).and_then(|v| v.get_ref().as_array());
            if list.is_some_and(|l| l.iter().next().is_none()) {
                reader.error(&section.span, format!("`{key}` in [[access]] is empty"), None);
            }
        }
        rules.push(Rule {
            allow: allow.unwrap_or(false),
            logins: section.get("logins").map(|_| globs(reader, &section, "logins")),
            databases: section.get("databases").map(|_| globs(reader, &section, "databases")),
            networks: section.get("networks").map(|_| networks(reader, &section, "networks")),
            tls: wanted,
            line: reader.line(&section.span),
        });
    }
    rules
}
