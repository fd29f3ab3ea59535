//! Which database server a session goes to, as libpq chooses: hosts in turn, all addresses of each, the next one where one does not answer, is
//! starting up, or is not of the wanted kind. Passwords are the client's: what a server is, is asked by the service login before.
//!
//! `socket.rs` opens sockets, `tls.rs` says whom to trust, `service.rs` logs the service in.

mod asked;
mod service;
mod socket;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::Stream;
use crate::config::{Host, SslMode, TargetSessionAttrs, Upstream};
use crate::wire::{frame, message};
pub(super) use service::words;

/// A server that did not answer is tried behind the others for so long.
const DOWN: Duration = Duration::from_secs(5);
/// What a server has said of itself counts for so long.
const ROLE: Duration = Duration::from_secs(1);
/// Most bytes of a server's first answer. It is an authentication request or an error.
const FIRST_BYTES_MAX: usize = 64 * 1024;

/// One address of one host: what sessions, cancel requests and catalogs of one server have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// The host as configured, for its certificate; and where it is.
    Tcp(String, SocketAddr),
    /// A socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name, address) => write!(f, "{name} ({address})"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The servers of a configuration.
pub struct Upstreams {
    config: Upstream,
    tls: Option<Arc<ClientConfig>>,
    down: Mutex<HashMap<Place, Instant>>,
    roles: Mutex<HashMap<Place, Arc<Known>>>,
}

/// What a server was when it was asked last. Whoever asks meanwhile waits for that answer.
type Known = tokio::sync::Mutex<Option<(Instant, Result<Role, String>)>>;

/// What kind of server it is.
#[derive(Debug, Clone, Copy)]
struct Role {
    standby: bool,
    /// `default_transaction_read_only`, but for what is set for the service login alone.
    read_only: bool,
}

impl Role {
    fn is(self, wanted: TargetSessionAttrs) -> bool {
        match wanted {
            TargetSessionAttrs::Any => true,
            TargetSessionAttrs::ReadWrite => !self.standby && !self.read_only,
            TargetSessionAttrs::ReadOnly => self.standby || self.read_only,
            TargetSessionAttrs::Primary => !self.standby,
            TargetSessionAttrs::Standby | TargetSessionAttrs::PreferStandby => self.standby,
        }
    }
}

/// A server that has answered the StartupMessage.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub stream: Stream,
    /// Where it leads.
    pub place: Place,
    /// What was read of the answer.
    pub answer: BytesMut,
}

/// Why no server could be had: a sentence for the client, without addresses. The log has more.
pub type Unreachable = &'static str;

/// `cannot_connect_now`
const UNAVAILABLE: &str = "57P03";
/// `invalid_authorization_specification`: what pg_hba.conf has no line for, or a line that rejects.
pub(super) const NOT_AUTHORIZED: &str = "28000";

impl Upstreams {
    /// Makes ready what a configuration says.
    ///
    /// # Errors
    /// A sentence for the operator: a certificate can't be read.
    pub fn new(config: &Upstream) -> Result<Self, String> {
        Ok(Self {
            tls: tls::client_config(config)?.map(Arc::new),
            config: config.clone(),
            down: Mutex::default(),
            roles: Mutex::default(),
        })
    }

    /// Sends a StartupMessage to the first server that fits and takes it. Where every one says that it is starting up or shutting down, the
    /// client gets those words.
    pub async fn open(&self, startup: &[u8]) -> Result<Opened, Unreachable> {
        let places = self.places().await;
        let mut unavailable = None;
        let mut unfit = false;
        for wanted in self.passes() {
            for place in &places {
                match self.fits(place, wanted).await {
                    Ok(true) => {}
                    Ok(false) => {
                        unfit = true;
                        continue;
                    }
                    Err(why) => {
                        self.failed(place, &why);
                        continue;
                    }
                }
                match self.in_time(self.begin(place, startup)).await {
                    Ok((opened, true)) => {
                        tracing::warn!(server = %place, "the server takes no connections now");
                        unavailable = Some(opened);
                    }
                    Ok((opened, false)) => return Ok(opened),
                    Err(why) => self.failed(place, &why),
                }
            }
        }
        unavailable.ok_or(if unfit {
            "no database server of the kind that target_session_attrs asks for can be reached"
        } else {
            "the database server cannot be reached"
        })
    }

    /// A connection to a server that a session is on, encrypted as sslmode asks.
    pub async fn connect(&self, place: &Place) -> Result<Stream, String> {
        self.in_time(async {
            let stream = socket::open(place, &self.config).await?;
            self.secure(place, stream).await
        })
        .await
    }

    /// A server of the wanted kind that the service login can reach.
    pub async fn pick(&self) -> Result<Place, String> {
        let mut last = "no host has an address".to_owned();
        for wanted in self.passes() {
            for place in self.places().await {
                match self.role(&place).await {
                    Ok(role) if role.is(wanted) => return Ok(place),
                    Ok(_) => "no server of the kind that target_session_attrs asks for".clone_into(&mut last),
                    Err(why) => last = format!("{place}: {why}"),
                }
            }
        }
        Err(last)
    }

    fn passes(&self) -> Vec<TargetSessionAttrs> {
        match self.config.target_session_attrs {
            TargetSessionAttrs::PreferStandby => vec![TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
            wanted => vec![wanted],
        }
    }

    /// Every address of every host, as they are now. Those that did not answer lately come last.
    async fn places(&self) -> Vec<Place> {
        let mut hosts = self.config.hosts.clone();
        if self.config.load_balance_hosts {
            shuffle(&mut hosts);
        }
        let mut places = Vec::new();
        for host in hosts {
            match host {
                Host::Unix(path) => places.push(Place::Unix(path)),
                Host::Tcp(name, port) => {
                    let asked = async {
                        let found = tokio::net::lookup_host((name.as_str(), port)).await;
                        found.map(Iterator::collect::<Vec<_>>).map_err(|e| e.to_string())
                    };
                    match self.in_time(asked).await {
                        Ok(mut addresses) => {
                            if self.config.load_balance_hosts {
                                shuffle(&mut addresses);
                            }
                            places.extend(addresses.into_iter().map(|a| Place::Tcp(name.clone(), a)));
                        }
                        Err(why) => tracing::warn!(host = name, "no address: {why}"),
                    }
                }
            }
        }
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.retain(|_, since| since.elapsed() < DOWN);
        places.sort_by_key(|p| down.contains_key(p));
        places
    }

    fn failed(&self, place: &Place, why: &str) {
        tracing::warn!(server = %place, "{why}");
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.insert(place.clone(), Instant::now());
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let patience = Duration::from_secs(self.config.connect_timeout);
        let done = tokio::time::timeout(patience, work).await;
        done.unwrap_or_else(|_| Err(format!("no answer within {} s", self.config.connect_timeout)))
    }

    async fn fits(&self, place: &Place, wanted: TargetSessionAttrs) -> Result<bool, String> {
        if wanted == TargetSessionAttrs::Any {
            return Ok(true);
        }
        Ok(self.role(place).await?.is(wanted))
    }

    async fn role(&self, place: &Place) -> Result<Role, String> {
        let known = {
            let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(roles.entry(place.clone()).or_default())
        };
        let mut known = known.lock().await;
        if let Some((at, role)) = &*known
            && at.elapsed() < ROLE
        {
            return role.clone();
        }
        let role = self.in_time(self.ask_role(place)).await;
        *known = Some((Instant::now(), role.clone()));
        role
    }

    /// The server's first answer to a StartupMessage, and whether it is that it takes no connections now (57P03), where libpq tries the next.
    async fn begin(&self, place: &Place, startup: &[u8]) -> Result<(Opened, bool), String> {
        if self.config.sslmode == SslMode::Allow {
            let stream = socket::open(place, &self.config).await?;
            let (opened, sqlstate) = self.greet(place, stream, startup).await?;
            if !matches!(place, Place::Tcp(..)) || sqlstate.as_deref() != Some(NOT_AUTHORIZED) {
                return Ok((opened, sqlstate.as_deref() == Some(UNAVAILABLE)));
            }
        }
        let stream = socket::open(place, &self.config).await?;
        let stream = self.secure(place, stream).await?;
        let (opened, sqlstate) = self.greet(place, stream, startup).await?;
        Ok((opened, sqlstate.as_deref() == Some(UNAVAILABLE)))
    }

    /// Sends a StartupMessage and reads the first answer; its SQLSTATE where it is an error.
    async fn greet(
        &self,
        place: &Place,
        mut stream: Stream,
        startup: &[u8],
    ) -> Result<(Opened, Option<String>), String> {
        let closed = "the server closed the connection during start-up";
        stream.write_all(startup).await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        let mut answer = BytesMut::new();
        let sqlstate = loop {
            if stream.read_buf(&mut answer).await.map_err(|e| e.to_string())? == 0 {
                return Err(closed.to_owned());
            }
            if answer.first() != Some(&b'E') {
                break None;
            }
            let whole = frame::next(&mut answer.clone(), FIRST_BYTES_MAX).map_err(|e| e.to_string())?;
            if let Some(error) = whole {
                break Some(message::sqlstate(&error).to_owned());
            }
        };
        let place = place.clone();
        Ok((Opened { stream, place, answer }, sqlstate))
    }

    /// Encrypts a connection as sslmode asks.
    async fn secure(&self, place: &Place, stream: Stream) -> Result<Stream, String> {
        match (&self.tls, place) {
            (Some(config), Place::Tcp(name, _)) => tls::secure(config, &self.config, name, stream).await,
            (None, _) | (_, Place::Unix(_)) => Ok(stream),
        }
    }
}

/// In random order. Without randomness the order stays.
fn shuffle<T>(items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let Ok(random) = getrandom::u64() else { return };
        let other = random % (last as u64 + 1);
        items.swap(last, usize::try_from(other).unwrap_or(last));
    }
}

impl Opened {
    /// The certificate that the server has shown; none without TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<Bytes> {
        let Stream::Connected(tls) = &self.stream else {
            return None;
        };
        let shown = tls.get_ref().1.peer_certificates()?.first()?;
        Some(Bytes::copy_from_slice(shown))
    }
}
