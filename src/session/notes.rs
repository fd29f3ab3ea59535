//! What a session has to tell: facts for the audit log, without values or SQL text.

use std::sync::Arc;

use crate::guard::plan::Report;
use crate::ledger::{Reading, Stopped};

/// A fact for the audit.
#[derive(Debug, Clone)]
pub enum Note {
    /// The server accepted the login.
    Authenticated,
    /// A statement was judged and sent.
    Decided {
        /// What was decided.
        report: Arc<Report>,
        /// Purpose in force.
        purpose: Option<String>,
        /// What the session declared (`menshen.…`), names and values.
        declared: Vec<(String, String)>,
    },
    /// A statement that touches nothing protected was judged and sent again, as it had been told before.
    Repeated {
        /// Fingerprint of the statement.
        fingerprint: String,
        /// How often since.
        times: u64,
    },
    /// A statement was refused.
    Refused {
        /// SQLSTATE.
        sqlstate: &'static str,
        /// The rule.
        rule: &'static str,
        /// Our own message: names, never values.
        message: String,
        /// Whether it is an incident.
        incident: bool,
    },
    /// Rows of a statement were released.
    Released {
        /// Fingerprint of the statement.
        fingerprint: String,
        /// Rows.
        rows: u64,
        /// New people per category of the pack.
        new_people: Vec<u64>,
        /// Of them, counted without a key.
        estimated: u64,
    },
    /// A share of a limit was reached.
    Crossed {
        /// Name of the limit.
        limit: String,
        /// The share.
        share: f64,
        /// Where the account stands.
        reading: Reading,
    },
    /// A limit ended a statement.
    Stopped(Stopped),
    /// The trip-wire or a missing hidden column ended a statement.
    Tripped {
        /// Rule.
        rule: &'static str,
        /// Relation and attribute, or the column's name.
        what: String,
    },
    /// The ledger could not charge; nothing was released.
    LedgerFailed(String),
    /// The connection ended.
    Closed {
        /// Why, where it was not the client's own wish.
        reason: Option<String>,
    },
}
