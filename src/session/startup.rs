//! Start-up: the StartupMessage rewritten, authentication passed through, up to the first ReadyForQuery.
//!
//! The token mask's key travels here: two settings with random names in the upstream StartupMessage. They are no part of any
//! statement, so no server log or view shows them, and `RESET ALL` keeps them.
//!
//! The version is negotiated as PostgreSQL 18 does it (protocol-message-formats, NegotiateProtocolVersion): a minor version above
//! [`NEWEST`] and every protocol option (`_pq_.…`) stay here, and are named to the client; a server that speaks an older one says so itself.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::decisions::Decisions;
use super::{Action, Names, Note, Phase, Session, Settings};
use crate::mask::{TokenSettings, token_pads};
use crate::wire::authentication::{RequireAuth, Watcher};
use crate::wire::frame::Frame;
use crate::wire::{Refusal, message};

/// The newest version of the protocol that this program knows, 3.2: cancel keys of up to 256 bytes.
pub const NEWEST: i32 = 3 << 16 | 2;
/// PostgreSQL's NAMEDATALEN: names are shorter than that.
const NAME_BYTES: usize = 64;
/// Names of protocol options begin so. None exists yet; one that Menshen does not know could change what messages mean.
const OPTION: &str = "_pq_.";

/// A client's StartupMessage: protocol version and parameters in order.
#[derive(Debug, Clone)]
pub struct Startup {
    /// As sent, e.g. 196608 for 3.0.
    pub version: i32,
    /// Names and values.
    pub parameters: Vec<(String, String)>,
}

impl Startup {
    /// The version to ask the server for, and where the client must be told of another, or of options that are not known, what it is told.
    fn negotiated(&self) -> (i32, Option<Negotiated>) {
        let options: Vec<String> = self
            .parameters
            .iter()
            .filter(|(name, _)| name.starts_with(OPTION))
            .map(|(name, _)| name.clone())
            .collect();
        let version = self.version.min(NEWEST);
        let told = version != self.version || !options.is_empty();
        (version, told.then_some(Negotiated { version, options }))
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The login.
    #[must_use]
    pub fn login(&self) -> &str {
        self.parameter("user").unwrap_or_default()
    }

    /// The database: the login's namesake where none is given.
    #[must_use]
    pub fn database(&self) -> &str {
        self.parameter("database")
            .filter(|d| !d.is_empty())
            .unwrap_or(self.login())
    }
}

/// What NegotiateProtocolVersion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Negotiated {
    version: i32,
    options: Vec<String>,
}

/// Reads the body of a StartupMessage (after its length): version, then pairs of zero-terminated strings.
///
/// # Errors
/// 08P01 where it is not of that form or not version 3; 0A000 for replication.
pub fn parse_startup(body: &[u8]) -> Result<Startup, Refusal> {
    let bad = |what: &str| Refusal {
        sqlstate: "08P01",
        rule: "startup",
        message: format!("invalid startup packet: {what}"),
        hint: "connect with a client of PostgreSQL 7.4 or later".into(),
        position: None,
        incident: false,
    };
    let (version, rest) = body.split_first_chunk::<4>().ok_or_else(|| bad("too short"))?;
    let version = i32::from_be_bytes(*version);
    if version >> 16 != 3 {
        return Err(bad("protocol version is not 3"));
    }
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut strings = rest.split(|b| *b == 0);
    loop {
        let name = strings.next().ok_or_else(|| bad("no end"))?;
        if name.is_empty() {
            // The end of the list is the end of the packet.
            if strings.next() != Some(&[]) || strings.next().is_some() {
                return Err(bad("expected terminator as last byte"));
            }
            break;
        }
        let value = strings.next().ok_or_else(|| bad("a parameter without value"))?;
        let text = |b: &[u8]| {
            std::str::from_utf8(b)
                .map(str::to_owned)
                .map_err(|_| bad("a parameter is not UTF-8"))
        };
        let (name, value) = (text(name)?, text(value)?);
        // The server takes the last of a name, and cuts long ones off: it must log in whom this program takes the client for.
        if parameters.iter().any(|(n, _)| *n == name) {
            return Err(bad("a parameter stands there twice"));
        }
        if matches!(name.as_str(), "user" | "database") && value.len() >= NAME_BYTES {
            return Err(bad("the name of the user or database is too long"));
        }
        parameters.push((name, value));
    }
    let startup = Startup { version, parameters };
    if startup.parameter("user").is_none_or(str::is_empty) {
        return Err(Refusal {
            sqlstate: "28000",
            ..bad("no user name")
        });
    }
    if startup
        .parameter("replication")
        .is_some_and(|v| !matches!(v, "false" | "off" | "no" | "0"))
    {
        return Err(Refusal::unsupported(
            "replication",
            "Menshen does not pass replication connections",
            "replicate from the server itself: its stream carries every row unmasked",
        ));
    }
    for (name, value) in &startup.parameters {
        if name.to_ascii_lowercase().contains("menshen.k") || value.to_ascii_lowercase().contains("menshen.k") {
            return Err(Refusal::denied(
                "key-setting",
                "settings named menshen.k… belong to Menshen itself",
                "leave them out",
            ));
        }
    }
    Ok(startup)
}

/// The mechanism that binds to the TLS channel.
const BINDING: &[u8] = b"SCRAM-SHA-256-PLUS";

impl Session {
    /// A session for a StartupMessage, with the one to send upstream.
    #[must_use]
    pub fn new(startup: &Startup, settings: Settings) -> (Self, Bytes) {
        let login = startup.login().to_owned();
        let database = startup.database().to_owned();
        let authentication = Watcher::new(settings.require_auth.clone());
        let token = TokenSettings {
            inner: format!("menshen.k{}i", settings.nonce),
            outer: format!("menshen.k{}o", settings.nonce),
        };
        let (inner, outer) = token_pads(&settings.token_key);
        let mut body = BytesMut::new();
        let (version, negotiated) = startup.negotiated();
        body.put_i32(version);
        let own = [(token.inner.clone(), inner), (token.outer.clone(), outer)];
        let known = startup.parameters.iter().filter(|(name, _)| !name.starts_with(OPTION));
        for (name, value) in known.chain(&own) {
            body.put_slice(name.as_bytes());
            body.put_u8(0);
            body.put_slice(value.as_bytes());
            body.put_u8(0);
        }
        body.put_u8(0);
        let mut packet = BytesMut::new();
        packet.put_i32(i32::try_from(body.len() + 4).unwrap_or(i32::MAX));
        packet.put_slice(&body);
        let session = Self {
            settings,
            judge: None,
            phase: Phase::Startup,
            login,
            database,
            version,
            negotiated,
            token,
            status: b'I',
            client: VecDeque::new(),
            turns: VecDeque::new(),
            turn: None,
            server: VecDeque::new(),
            owed: VecDeque::new(),
            hold: None,
            function: None,
            known: None,
            standpoint: None,
            decisions: Decisions::default(),
            is_away: false,
            stale: true,
            server_negotiated: false,
            transaction_changed: false,
            transaction_scrub: false,
            transaction_ddl: false,
            own_ground: None,
            own_stale: false,
            own_catalogs: 0,
            catalog_behind: false,
            refreshed_for_front: None,
            looked_again: None,
            refresh: 0,
            cancels: 0,
            cancel_front: false,
            statements: Names::default(),
            portals: Names::default(),
            cursors: Names::default(),
            shapes: Names::default(),
            encoding_unsure: false,
            late_portal: false,
            awaits_execute: false,
            holds_portals: false,
            shapes_kept: 0,
            next_prepared: 0,
            pipeline: false,
            pipeline_runs: 0,
            pipeline_wrote: false,
            skipping: false,
            skipping_here: false,
            flushed: false,
            copying_in: false,
            copy_ended: false,
            encoding: "UTF8".to_owned(),
            server_utf8: false,
            standard_strings: true,
            batch: None,
            charging: false,
            authentication,
            leaving: false,
            binding_passes: false,
            binding_withheld: false,
            ended: 0,
            expired: false,
            out: Vec::new(),
        };
        (session, packet.freeze())
    }

    /// What stands for a session that is elsewhere, or lost: it has ended, and does nothing.
    #[must_use]
    pub fn elsewhere(id: u64) -> Self {
        let settings = Settings {
            id,
            address: None,
            token_key: [0; 32],
            nonce: String::new(),
            statement_bytes_max: 0,
            message_bytes_max: 0,
            late_masking: false,
            require_auth: RequireAuth::default(),
        };
        let nobody = Startup {
            version: 0,
            parameters: Vec::new(),
        };
        let (mut session, _) = Self::new(&nobody, settings);
        session.phase = Phase::Closed;
        session
    }

    /// A server message before the first ReadyForQuery.
    pub(super) fn startup_reply(&mut self, frame: Frame) {
        match frame.kind {
            b'R' => {
                if let Some(told) = self.negotiated.take() {
                    self.send_client(message::negotiate(told.version, &told.options));
                }
                self.authentication(frame);
            }
            b'v' => self.server_negotiates(&frame),
            // Process id, and a secret of 4 bytes before version 3.2, up to 256 since.
            b'K' if !matches!(frame.body().len(), 8..=260) => self.violation("a cancel key of an unknown length"),
            b'K' => {
                self.out.push(Action::Key(Bytes::copy_from_slice(frame.body())));
                self.send_client(frame.bytes);
            }
            b'S' => self.parameter_status(frame),
            b'E' => {
                // The server refuses: its own words, and it closes.
                self.send_client(frame.bytes);
                self.close(Some("the server refused the connection".to_owned()));
            }
            b'N' => self.send_client(frame.bytes),
            b'Z' => {
                // Only now the database is known to exist, and the login to be let into it.
                self.out.push(Action::Admitted);
                self.phase = Phase::Ready;
                self.send_client(frame.bytes);
            }
            other => self.violation(&format!(
                "server message of type {:?} during start-up",
                char::from(other)
            )),
        }
    }

    /// The server speaks an older version: the client hears so, and of the options that have stayed here.
    fn server_negotiates(&mut self, frame: &Frame) {
        let version = frame.body().first_chunk::<4>().map(|v| i32::from_be_bytes(*v));
        let version = version.filter(|v| v >> 16 == 3 && *v <= self.version);
        let Some(version) = version.filter(|_| !std::mem::replace(&mut self.server_negotiated, true)) else {
            return self.violation("a negotiation of the protocol that nobody asked for");
        };
        let options = self.negotiated.take().map(|told| told.options).unwrap_or_default();
        self.version = version;
        self.send_client(message::negotiate(version, &options));
    }

    fn authentication(&mut self, frame: Frame) {
        let Some((code, rest)) = frame.body().split_first_chunk::<4>() else {
            self.violation("authentication request without a code");
            return;
        };
        if let Err(what) = self.authentication.judge(frame.body()) {
            self.refuse_method(what);
            return;
        }
        let required = self.authentication.required().clone();
        match i32::from_be_bytes(*code) {
            // AuthenticationOk
            0 => {
                self.note(Note::Authenticated);
                self.send_client(frame.bytes);
            }
            10 if self.binding_passes && !required.restricts() => self.send_client(frame.bytes),
            // AuthenticationSASL: the TLS channel ends here, so binding to it can't be offered.
            10 => {
                let offered: Vec<&[u8]> = rest.split(|b| *b == 0).filter(|m| !m.is_empty()).collect();
                let mut kept = offered.clone();
                kept.retain(|m| *m != BINDING || self.binding_passes);
                self.binding_withheld = kept.len() < offered.len();
                kept.retain(|m| required.allows_mechanism(m));
                if kept.is_empty() {
                    let refusal = Refusal::unsupported(
                        "channel-binding",
                        "the server offers only authentication with channel binding, which cannot pass a proxy",
                        "allow SCRAM-SHA-256 without channel binding",
                    );
                    self.send_client(message::error(&refusal, "FATAL"));
                    self.close(Some("no authentication method remains".to_owned()));
                    return;
                }
                let mut body = BytesMut::new();
                body.put_i32(10);
                for method in kept {
                    body.put_slice(method);
                    body.put_u8(0);
                }
                body.put_u8(0);
                let mut packet = BytesMut::new();
                packet.put_u8(b'R');
                packet.put_i32(i32::try_from(body.len() + 4).unwrap_or(i32::MAX));
                packet.put_slice(&body);
                self.send_client(packet.freeze());
            }
            // Cleartext, MD5, GSS, GSS continue, SSPI, SASL continue, SASL final: the client's and server's own affair.
            3 | 5 | 7 | 8 | 9 | 11 | 12 => self.send_client(frame.bytes),
            other => self.violation(&format!("authentication request {other}")),
        }
    }

    /// The server asks in a way that is not acceptable: it gets no answer. It may not be who it seems.
    fn refuse_method(&mut self, what: String) {
        let refusal = Refusal {
            sqlstate: "28000",
            rule: "require-auth",
            message: what,
            hint: "the database server, or somebody in its place, asks otherwise than Menshen's require_auth allows"
                .into(),
            position: None,
            incident: true,
        };
        self.note(Note::Refused {
            sqlstate: refusal.sqlstate,
            rule: refusal.rule,
            message: refusal.message.clone(),
            incident: refusal.incident,
        });
        self.send_client(message::error(&refusal, "FATAL"));
        self.close(Some(refusal.to_string()));
    }

    /// Whether a SASLInitialResponse can succeed. A client with TLS that says it could have bound to the channel, had it been offered, is taken
    /// by the server for the victim of a downgrade: the flag is under the client's signature, so nobody in between can help.
    pub(super) fn binding_fits(&mut self, frame: &Frame) -> Result<(), Refusal> {
        let withheld = std::mem::take(&mut self.binding_withheld);
        let mut parts = frame.body().splitn(2, |b| *b == 0);
        let (mechanism, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let flag = rest.get(4);
        if !withheld || (mechanism != BINDING && flag != Some(&b'y')) {
            return Ok(());
        }
        Err(Refusal {
            sqlstate: "28000",
            rule: "channel-binding",
            message: "SCRAM channel binding cannot pass Menshen: its certificate is not the database server's"
                .to_owned(),
            hint:
                "connect with channel_binding=disable; or give Menshen the database server's own certificate and key, \
                   or let it reach the server by a Unix-domain socket"
                    .into(),
            position: None,
            incident: false,
        })
    }

    /// Says that the client's TLS channel shows the certificate of the server's own: what is bound to one is bound to the other
    /// (tls-server-end-point, RFC 5929).
    pub fn pass_channel_binding(&mut self) {
        self.binding_passes = true;
    }

    /// ParameterStatus, at any time: two settings decide how the server reads texts.
    pub(super) fn parameter_status(&mut self, frame: Frame) {
        let mut parts = frame.body().split(|b| *b == 0);
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let value = String::from_utf8_lossy(value);
        match name {
            b"client_encoding" => self.encoding = value.to_ascii_uppercase(),
            b"server_encoding" => self.server_utf8 = value == "UTF8",
            b"standard_conforming_strings" => self.standard_strings = value == "on",
            _ => {}
        }
        self.send_client(frame.bytes);
    }
}
