//! How long a session may do what it does. Time is an argument; `connection.rs` has the clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::limits::Limits;
use crate::session::Activity;
use crate::wire::Refusal;

/// What a cancelled statement may take to end.
const CANCEL: Duration = Duration::from_secs(10);

/// What has lasted too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Logging in.
    Startup,
    /// Idleness.
    Idle,
    /// Idleness in a transaction.
    IdleInTransaction,
    /// A statement: it is cancelled.
    Statement,
    /// A statement that did not end when it was cancelled.
    Cancelled,
    /// Half a message.
    ClientMessage,
    /// The client takes nothing.
    ClientWrite,
}

/// Since when.
#[derive(Debug)]
pub struct Patience {
    startup_ends: Instant,
    activity: Activity,
    since: Instant,
    cancelled: Option<Instant>,
    half_message: Option<Instant>,
    writing: Option<Instant>,
}

impl Patience {
    /// With the end of start-up.
    #[must_use]
    pub fn new(startup_ends: Instant, now: Instant) -> Self {
        Self {
            startup_ends,
            activity: Activity::Starting,
            since: now,
            cancelled: None,
            half_message: None,
            writing: None,
        }
    }

    /// What is the case now. `half`: part of a message is there, and the rest is being waited for. `writing`: bytes wait for the client.
    pub fn observe(&mut self, activity: Activity, half: bool, writing: bool, now: Instant) {
        if activity != self.activity {
            self.activity = activity;
            self.since = now;
            self.cancelled = None;
        }
        keep(&mut self.half_message, half, now);
        keep(&mut self.writing, writing, now);
    }

    /// The client has sent bytes; `whole`: a message at least was among them. Bytes that make no message end no idleness.
    pub fn client_sent(&mut self, whole: bool, now: Instant) {
        self.half_message = None;
        let idle = matches!(self.activity, Activity::Idle | Activity::IdleInTransaction);
        if whole && idle {
            self.since = now;
        }
    }

    /// The client has taken bytes.
    pub fn client_took(&mut self) {
        self.writing = None;
    }

    /// The statement has been cancelled.
    pub fn cancelled(&mut self, now: Instant) {
        self.cancelled = Some(now);
    }

    /// What ends first, and when.
    #[must_use]
    pub fn next(&self, limits: &Limits) -> Option<(Instant, Expiry)> {
        let after = |since: Option<Instant>, most: Option<Duration>, expiry| Some((since? + most?, expiry));
        let since = Some(self.since);
        let doing = match (self.activity, self.cancelled) {
            (Activity::Starting, _) => Some((self.startup_ends, Expiry::Startup)),
            (Activity::Idle, _) => after(since, limits.idle, Expiry::Idle),
            (Activity::IdleInTransaction, _) => after(since, limits.idle_in_transaction, Expiry::IdleInTransaction),
            (Activity::Running(_), None) => after(since, limits.statement, Expiry::Statement),
            (Activity::Running(_), cancelled) => after(cancelled, Some(CANCEL), Expiry::Cancelled),
        };
        let half = after(self.half_message, limits.client_message, Expiry::ClientMessage);
        let writing = after(self.writing, limits.client_write, Expiry::ClientWrite);
        [doing, half, writing].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

fn keep(since: &mut Option<Instant>, lasts: bool, now: Instant) {
    if lasts {
        since.get_or_insert(now);
    } else {
        *since = None;
    }
}

impl Expiry {
    /// How the session ends. PostgreSQL's SQLSTATEs and words, where it has such a time-out.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        let (sqlstate, rule, message, hint) = match self {
            Self::Startup => (
                "57014",
                "startup-seconds-max",
                "canceling authentication due to timeout",
                "",
            ),
            Self::Idle => (
                "57P05",
                "idle-seconds-max",
                "terminating connection due to idle-session timeout",
                "connect again; Menshen's idle_seconds_max is the limit",
            ),
            Self::IdleInTransaction => (
                "25P03",
                "idle-in-transaction-seconds-max",
                "terminating connection due to idle-in-transaction timeout",
                "end transactions without waiting in them; Menshen's idle_in_transaction_seconds_max is the limit",
            ),
            Self::Statement | Self::Cancelled => (
                "57014",
                "statement-seconds-max",
                "terminating connection: the statement did not end when it was canceled due to statement timeout",
                "Menshen's statement_seconds_max is the limit",
            ),
            Self::ClientMessage => (
                "08P01",
                "client-message-seconds-max",
                "terminating connection because the rest of a message did not come",
                "Menshen's client_message_seconds_max is the limit",
            ),
            Self::ClientWrite => (
                "57P05",
                "client-write-seconds-max",
                "terminating connection because the client takes nothing",
                "Menshen's client_write_seconds_max is the limit",
            ),
        };
        Refusal {
            sqlstate,
            rule,
            message: message.to_owned(),
            hint: hint.into(),
            position: None,
            incident: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let seconds = |n| Some(Duration::from_secs(n));
        Limits {
            idle: seconds(100),
            idle_in_transaction: seconds(50),
            statement: seconds(30),
            client_write: seconds(20),
            client_message: seconds(10),
            ..Limits::default()
        }
    }

    #[test]
    fn every_state_has_its_own_time() {
        let begun = Instant::now();
        let at = |n| begun + Duration::from_secs(n);
        let mut p = Patience::new(at(60), begun);
        let limits = limits();
        assert_eq!(p.next(&limits), Some((at(60), Expiry::Startup)));
        p.observe(Activity::Idle, false, false, at(1));
        assert_eq!(p.next(&limits), Some((at(101), Expiry::Idle)));
        // Half a message, byte by byte, is neither an end of idleness nor silence.
        p.client_sent(false, at(5));
        p.observe(Activity::Idle, true, false, at(5));
        assert_eq!(p.next(&limits), Some((at(15), Expiry::ClientMessage)));
        p.client_sent(false, at(14));
        p.observe(Activity::Idle, true, false, at(14));
        assert_eq!(p.next(&limits), Some((at(24), Expiry::ClientMessage)));
        p.client_sent(true, at(95));
        p.observe(Activity::Idle, false, false, at(95));
        assert_eq!(p.next(&limits), Some((at(195), Expiry::Idle)));
        p.observe(Activity::Running(0), false, false, at(100));
        p.observe(Activity::Running(0), false, false, at(120));
        assert_eq!(p.next(&limits), Some((at(130), Expiry::Statement)));
        p.observe(Activity::Running(1), false, true, at(125));
        assert_eq!(p.next(&limits), Some((at(145), Expiry::ClientWrite)));
        p.client_took();
        p.observe(Activity::Running(1), false, true, at(140));
        assert_eq!(p.next(&limits), Some((at(155), Expiry::Statement)));
        p.cancelled(at(155));
        p.observe(Activity::Running(1), false, false, at(155));
        assert_eq!(p.next(&limits), Some((at(165), Expiry::Cancelled)));
        p.observe(Activity::IdleInTransaction, false, false, at(160));
        assert_eq!(p.next(&limits), Some((at(210), Expiry::IdleInTransaction)));
        assert_eq!(
            p.next(&Limits {
                idle_in_transaction: None,
                ..limits
            }),
            None
        );
    }
}
