//! `[limits]`: how many, how much and how long.

use std::time::Duration;

use super::bounded;
use crate::policy::reader::{Reader, Section};
use crate::wire::frame;

/// Limits on clients. What is `None` is not limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `statement_bytes_max`: one query string. *Default: 4 MiB; most: 128 MiB*
    pub statement_bytes_max: usize,
    /// `message_bytes_max`: one message of a client: a parameter, a piece of COPY. *Default: 64 MiB; most: PostgreSQL's own, 1 GiB*
    pub message_bytes_max: usize,
    /// `sessions_max`: connections in all, from accept to the end. *Default: 1000*
    pub sessions_max: usize,
    /// `unauthenticated_max`: of them, those whose login the server has not accepted yet. *Default: half of `sessions_max`*
    pub unauthenticated_max: usize,
    /// `sessions_per_login_max`: from the StartupMessage to the end. *Default: none*
    pub sessions_per_login_max: Option<usize>,
    /// `sessions_per_address_max`: from accept (or the PROXY header) to the end. *Default: none*
    pub sessions_per_address_max: Option<usize>,
    /// `startup_seconds_max`: from accept to the end of authentication. *Default: 60*
    pub startup: Duration,
    /// `shutdown_seconds_max`: how long transactions may go on after SIGTERM. Reloadable. *Default: 60*
    pub shutdown: Duration,
    /// `idle_seconds_max`: outside of a transaction, as `idle_session_timeout`. *Default: none*
    pub idle: Option<Duration>,
    /// `idle_in_transaction_seconds_max`, as `idle_in_transaction_session_timeout`. *Default: none*
    pub idle_in_transaction: Option<Duration>,
    /// `statement_seconds_max`, as `statement_timeout`. *Default: none*
    pub statement: Option<Duration>,
    /// `client_write_seconds_max`: bytes wait for a client that takes none. *Default: none*
    pub client_write: Option<Duration>,
    /// `client_message_seconds_max`: part of a message has come, and no more of it. *Default: 60*
    pub client_message: Option<Duration>,
    /// `keepalive_seconds`: silence on a client's connection before TCP asks whether the peer is there. *Default: 60; 0: never*
    pub keepalive: Option<Duration>,
    /// `keepalive_interval_seconds`: between such questions. *Default: 10*
    pub keepalive_interval: Duration,
    /// `keepalive_probes`: unanswered ones that end the connection. *Default: 6*
    pub keepalive_probes: u32,
    /// `tcp_user_timeout_seconds`: sent bytes that stay unacknowledged, or a window that stays closed, this long end the connection.
    /// *Default: the kernel's own*
    pub tcp_user_timeout: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            statement_bytes_max: crate::guard::parse::STATEMENT_BYTES_DEFAULT,
            message_bytes_max: frame::FRONTEND_BYTES_MAX,
            sessions_max: 1000,
            unauthenticated_max: 500,
            sessions_per_login_max: None,
            sessions_per_address_max: None,
            startup: Duration::from_secs(60),
            shutdown: Duration::from_secs(60),
            idle: None,
            idle_in_transaction: None,
            statement: None,
            client_write: None,
            client_message: Some(Duration::from_secs(60)),
            keepalive: Some(Duration::from_secs(60)),
            keepalive_interval: Duration::from_secs(10),
            keepalive_probes: 6,
            tcp_user_timeout: None,
        }
    }
}

impl Limits {
    /// In one line, for `menshen check`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut parts = vec![
            format!("{} connections", self.sessions_max),
            format!("{} of them not logged in", self.unauthenticated_max),
        ];
        let mut count = |n: Option<usize>, what: &str| parts.extend(n.map(|n| format!("{n} {what}")));
        count(self.sessions_per_login_max, "per login");
        count(self.sessions_per_address_max, "per address");
        let mut time = |d: Option<Duration>, what: &str| parts.extend(d.map(|d| format!("{what} {} s", d.as_secs())));
        time(Some(self.startup), "start-up");
        time(self.idle, "idle");
        time(self.idle_in_transaction, "idle in transaction");
        time(self.statement, "statement");
        time(self.client_write, "client write");
        time(self.client_message, "client message");
        format!("limits: {}", parts.join(", "))
    }
}

const DAY: u64 = 86_400;
const MOST: u64 = 100_000;

pub(super) fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Limits {
    let mut limits = Limits::default();
    let Some(section) = reader.section(root, "limits") else {
        return limits;
    };
    reader.known(
        &section,
        &[
            "statement_bytes_max",
            "message_bytes_max",
            "sessions_max",
            "unauthenticated_max",
            "sessions_per_login_max",
            "sessions_per_address_max",
            "startup_seconds_max",
            "shutdown_seconds_max",
            "idle_seconds_max",
            "idle_in_transaction_seconds_max",
            "statement_seconds_max",
            "client_write_seconds_max",
            "client_message_seconds_max",
            "keepalive_seconds",
            "keepalive_interval_seconds",
            "keepalive_probes",
            "tcp_user_timeout_seconds",
        ],
    );
    let (default, most) = (
        limits.statement_bytes_max as u64,
        crate::guard::parse::STATEMENT_BYTES_MAX as u64,
    );
    limits.statement_bytes_max = size(bounded(reader, &section, "statement_bytes_max", default, 1024, most));
    let (default, most) = (limits.message_bytes_max as u64, frame::BACKEND_BYTES_MAX as u64);
    limits.message_bytes_max = size(bounded(
        reader,
        &section,
        "message_bytes_max",
        default,
        1024 * 1024,
        most,
    ));
    let sessions = bounded(reader, &section, "sessions_max", 1000, 1, MOST);
    limits.sessions_max = size(sessions);
    let half = (sessions / 2).max(1);
    limits.unauthenticated_max = size(bounded(reader, &section, "unauthenticated_max", half, 1, MOST));
    let mut count = |key| {
        section
            .get(key)
            .map(|_| size(bounded(reader, &section, key, MOST, 1, MOST)))
    };
    limits.sessions_per_login_max = count("sessions_per_login_max");
    limits.sessions_per_address_max = count("sessions_per_address_max");
    limits.startup = Duration::from_secs(bounded(reader, &section, "startup_seconds_max", 60, 1, 3600));
    limits.shutdown = Duration::from_secs(bounded(reader, &section, "shutdown_seconds_max", 60, 0, DAY));
    let mut seconds = |key: &str, default: Option<Duration>| {
        let default = default.map_or(0, |d| d.as_secs());
        let found = bounded(reader, &section, key, default, 0, 30 * DAY);
        (found > 0).then(|| Duration::from_secs(found))
    };
    limits.idle = seconds("idle_seconds_max", limits.idle);
    limits.idle_in_transaction = seconds("idle_in_transaction_seconds_max", limits.idle_in_transaction);
    limits.statement = seconds("statement_seconds_max", limits.statement);
    limits.client_write = seconds("client_write_seconds_max", limits.client_write);
    limits.client_message = seconds("client_message_seconds_max", limits.client_message);
    limits.keepalive = seconds("keepalive_seconds", limits.keepalive);
    limits.tcp_user_timeout = seconds("tcp_user_timeout_seconds", limits.tcp_user_timeout);
    // The kernel's own bounds.
    limits.keepalive_interval =
        Duration::from_secs(bounded(reader, &section, "keepalive_interval_seconds", 10, 1, 32_767));
    let probes = bounded(reader, &section, "keepalive_probes", 6, 1, 127);
    limits.keepalive_probes = u32::try_from(probes).unwrap_or(6);
    limits
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
