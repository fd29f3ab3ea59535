//! `[upstream]`: where the database servers are and how they are reached. Keys that libpq has too bear its names and mean the same.

use std::fmt;
use std::path::{Path, PathBuf};

use super::bounded;
use crate::policy::reader::{Reader, Section};
use crate::wire::authentication::RequireAuth;

/// PostgreSQL's port.
const PORT: u16 = 5432;

/// `[upstream]`, resolved. Every key has a default; all of them can be changed by a reload and count for new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `hosts`, in the order in which they are tried. *Default: `127.0.0.1:5432`*
    pub hosts: Vec<Host>,
    /// `target_session_attrs`. *Default: `any`*
    pub target_session_attrs: TargetSessionAttrs,
    /// `load_balance_hosts = "random"`: hosts and their addresses in random order. *Default: `disable`*
    pub load_balance_hosts: bool,
    /// `connect_timeout`, in seconds, for each address: TCP, TLS and the server's first answer. *Default: 10*
    pub connect_timeout: u64,
    /// `keepalives_idle`, in seconds; 0: the system's. *Default: 60*
    pub keepalives_idle: u64,
    /// `keepalives_interval`, in seconds; 0: the system's. *Default: 10*
    pub keepalives_interval: u64,
    /// `keepalives_count`; 0: the system's. *Default: 6*
    pub keepalives_count: u64,
    /// `tcp_user_timeout`, in milliseconds; 0: the system's. *Default: 0*
    pub tcp_user_timeout: u64,
    /// `sslmode`. *Default: `prefer`*
    pub sslmode: SslMode,
    /// `sslnegotiation = "direct"`: TLS from the first byte (PostgreSQL 17). *Default: `postgres`*
    pub direct_tls: bool,
    /// `root_cert`: PEM, or `system`; for `verify-ca` and `verify-full`.
    pub root_cert: Option<RootCert>,
    /// `cert` and `key`: PEM, Menshen's own certificate towards the server.
    pub cert: Option<(PathBuf, PathBuf)>,
    /// `ssl_min_protocol_version`. *Default: `TLSv1.2`*
    pub tls13_only: bool,
    /// `require_auth`: how the server may ask who is there, clients and the service login alike. *Default: as it likes*
    pub require_auth: RequireAuth,
    /// `service.user`: the login that reads pg_catalog. *Default: `menshen`*
    pub service_user: String,
    /// `service.password_file`: its trimmed content; none for trust, peer and cert.
    pub service_password_file: Option<PathBuf>,
    /// `service.database`: where a server is asked what it is, for `target_session_attrs`. *Default: `postgres`*
    pub service_database: String,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            hosts: vec![Host::Tcp("127.0.0.1".to_owned(), PORT)],
            target_session_attrs: TargetSessionAttrs::Any,
            load_balance_hosts: false,
            connect_timeout: 10,
            keepalives_idle: 60,
            keepalives_interval: 10,
            keepalives_count: 6,
            tcp_user_timeout: 0,
            sslmode: SslMode::Prefer,
            direct_tls: false,
            root_cert: None,
            cert: None,
            tls13_only: false,
            require_auth: RequireAuth::default(),
            service_user: "menshen".to_owned(),
            service_password_file: None,
            service_database: "postgres".to_owned(),
        }
    }
}

impl Upstream {
    /// In one line, for `menshen check`.
    #[must_use]
    pub fn summary(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        let attrs = ATTRS.iter().find(|(_, a)| *a == self.target_session_attrs);
        let mode = MODES.iter().find(|(_, m)| *m == self.sslmode);
        format!(
            "servers: {}; target_session_attrs {}, sslmode {}",
            hosts.join(", "),
            attrs.map_or("", |(name, _)| name),
            mode.map_or("", |(name, _)| name)
        )
    }
}

/// One of `hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Name or address, and port. A name is asked for at each connection.
    Tcp(String, u16),
    /// The socket's path: `/run/postgresql/.s.PGSQL.5432`.
    Unix(PathBuf),
}

impl Host {
    /// Reads `name`, `name:port`, `[::1]:port`, `/directory` or `/directory:port`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let port = |digits: &str| {
            digits
                .parse::<u16>()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(|| format!("`{digits}` is not a port"))
        };
        let (name, port) = match text.rsplit_once(':') {
            // An IPv6 address without port has more colons, and no brackets.
            Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, port(digits)?),
            Some(_) | None => (text, PORT),
        };
        if name.starts_with('/') {
            return Ok(Self::Unix(Path::new(name).join(format!(".s.PGSQL.{port}"))));
        }
        let name = name.trim_matches(['[', ']']);
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
        if name.is_empty() || !name.chars().all(fits) {
            return Err("it is no host name".to_owned());
        }
        Ok(Self::Tcp(name.to_owned(), port))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Which servers a session may go to: libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Whichever answers.
    Any,
    /// Not in recovery, and transactions are not read-only by default.
    ReadWrite,
    /// In recovery, or read-only by default.
    ReadOnly,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
    /// In recovery; where no such server answers, any.
    PreferStandby,
}

/// How the connection to the server is encrypted: libpq's `sslmode`. A Unix-domain socket never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only where the server's pg_hba.conf takes no connection without; its certificate is not checked.
    Allow,
    /// Where the server can; its certificate is not checked.
    Prefer,
    /// Always; its certificate is not checked, but for `root_cert` where there is one (as libpq: then it is `verify-ca`).
    Require,
    /// Always; the certificate must come from `root_cert`.
    VerifyCa,
    /// Always; the certificate must come from `root_cert` and bear the host's name.
    VerifyFull,
}

/// Whom a server's certificate must come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The operating system's certificate authorities.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

const MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const ATTRS: [(&str, TargetSessionAttrs); 6] = [
    ("any", TargetSessionAttrs::Any),
    ("read-write", TargetSessionAttrs::ReadWrite),
    ("read-only", TargetSessionAttrs::ReadOnly),
    ("primary", TargetSessionAttrs::Primary),
    ("standby", TargetSessionAttrs::Standby),
    ("prefer-standby", TargetSessionAttrs::PreferStandby),
];

/// Reads the section.
pub(super) fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>, base: &Path) -> Upstream {
    let mut upstream = Upstream::default();
    let Some(section) = reader.section(root, "upstream") else {
        return upstream;
    };
    reader.known(
        &section,
        &[
            "hosts",
            "target_session_attrs",
            "load_balance_hosts",
            "connect_timeout",
            "keepalives_idle",
            "keepalives_interval",
            "keepalives_count",
            "tcp_user_timeout",
            "sslmode",
            "sslnegotiation",
            "root_cert",
            "cert",
            "key",
            "ssl_min_protocol_version",
            "require_auth",
            "service",
        ],
    );
    if section.get("hosts").is_some() {
        upstream.hosts = hosts(reader, &section);
    }
    if let Some(attrs) = one_of(reader, &section, "target_session_attrs", &ATTRS) {
        upstream.target_session_attrs = attrs;
    }
    if let Some(random) = one_of(
        reader,
        &section,
        "load_balance_hosts",
        &[("disable", false), ("random", true)],
    ) {
        upstream.load_balance_hosts = random;
    }
    for (key, place, least, most) in [
        ("connect_timeout", &mut upstream.connect_timeout, 1, 3600),
        ("keepalives_idle", &mut upstream.keepalives_idle, 0, 32_767),
        ("keepalives_interval", &mut upstream.keepalives_interval, 0, 32_767),
        ("keepalives_count", &mut upstream.keepalives_count, 0, 127),
        ("tcp_user_timeout", &mut upstream.tcp_user_timeout, 0, 86_400_000),
    ] {
        *place = bounded(reader, &section, key, *place, least, most);
    }
    tls(reader, &section, base, &mut upstream);
    let methods = reader.strings(&section, "require_auth");
    let span = methods.first().map_or(0..0, |(_, span)| span.clone());
    match RequireAuth::parse(methods.into_iter().map(|(method, _)| method).collect()) {
        Ok(required) => upstream.require_auth = required,
        Err(why) => reader.error(&span, format!("require_auth: {why}"), None),
    }
    if let Some(service) = reader.section(&section, "service") {
        reader.known(&service, &["user", "password_file", "database"]);
        if let Some((user, _)) = reader.string(&service, "user") {
            upstream.service_user = user;
        }
        if let Some((database, _)) = reader.string(&service, "database") {
            upstream.service_database = database;
        }
        upstream.service_password_file = reader.string(&service, "password_file").map(|(p, _)| base.join(p));
    }
    upstream
}

fn hosts<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Vec<Host> {
    let written = reader.strings(section, "hosts");
    if written.is_empty() {
        reader.error(&section.span, "`hosts` names no host", None);
    }
    let mut hosts = Vec::new();
    for (text, span) in written {
        match Host::parse(&text) {
            Ok(host) if hosts.contains(&host) => reader.warn(&span, format!("host `{text}` is named twice"), None),
            Ok(host) => hosts.push(host),
            Err(why) => reader.error(
                &span,
                format!("host `{text}`: {why}"),
                Some("write name:port, [address]:port or /directory:port".to_owned()),
            ),
        }
    }
    hosts
}

/// What encrypts the connection, and that the keys fit each other.
fn tls<'t>(reader: &mut Reader<'t>, section: &Section<'t>, base: &Path, upstream: &mut Upstream) {
    upstream.sslmode = one_of(reader, section, "sslmode", &MODES).unwrap_or(SslMode::Prefer);
    if let Some((path, _)) = reader.string(section, "root_cert") {
        upstream.root_cert = Some(match path.as_str() {
            "system" => RootCert::System,
            _ => RootCert::File(base.join(path)),
        });
    }
    let verifies = matches!(upstream.sslmode, SslMode::VerifyCa | SslMode::VerifyFull);
    match upstream.root_cert {
        None if verifies => reader.error(
            &section.span,
            "sslmode verify-ca and verify-full need `root_cert`",
            Some("a PEM file, or \"system\"".to_owned()),
        ),
        // As libpq: a name is the only thing that tells one customer of a public authority from another.
        Some(RootCert::System) if upstream.sslmode != SslMode::VerifyFull => reader.error(
            &section.span,
            "root_cert \"system\" needs sslmode verify-full: anybody can have a certificate of a public authority",
            None,
        ),
        Some(RootCert::System | RootCert::File(_)) | None => {}
    }
    let direct = [("postgres", false), ("direct", true)];
    upstream.direct_tls = one_of(reader, section, "sslnegotiation", &direct).unwrap_or(false);
    if upstream.direct_tls && matches!(upstream.sslmode, SslMode::Disable | SslMode::Allow | SslMode::Prefer) {
        reader.error(
            &section.span,
            "sslnegotiation direct needs sslmode require, verify-ca or verify-full",
            None,
        );
    }
    let versions = [("TLSv1.2", false), ("TLSv1.3", true)];
    upstream.tls13_only = one_of(reader, section, "ssl_min_protocol_version", &versions).unwrap_or(false);
    let cert = reader.string(section, "cert").map(|(p, _)| base.join(p));
    let key = reader.string(section, "key").map(|(p, _)| base.join(p));
    if cert.is_some() != key.is_some() {
        reader.error(&section.span, "`cert` and `key` belong together: one is missing", None);
    }
    upstream.cert = cert.zip(key);
    if upstream.cert.is_some() && upstream.sslmode == SslMode::Disable {
        reader.error(&section.span, "`cert` has no use with sslmode disable", None);
    }
}

/// A key with a fixed set of values.
fn one_of<'t, T: Copy>(reader: &mut Reader<'t>, section: &Section<'t>, key: &str, values: &[(&str, T)]) -> Option<T> {
    let (text, span) = reader.string(section, key)?;
    let found = values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        reader.error(
            &span,
            format!("{key} `{text}` is none of {}", names.join(", ")),
            crate::policy::reader::did_you_mean(&text, names),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_people_write_them() {
        let shown = |text: &str| Host::parse(text).map(|h| h.to_string());
        for (text, host) in [
            ("db", "db:5432"),
            ("db.example.com:5433", "db.example.com:5433"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("::1", "[::1]:5432"),
            ("[::1]:5433", "[::1]:5433"),
            ("/run/postgresql", "/run/postgresql/.s.PGSQL.5432"),
            ("/run/postgresql:5433", "/run/postgresql/.s.PGSQL.5433"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(host));
        }
        for bad in ["", ":5432", "db:", "db:0", "db:70000", "a b", "postgres://db"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }
}
