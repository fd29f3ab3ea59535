//! Who has been shown whom: distinct people per principal × legal category × window, exact, on disk, charged before
//! release. [`pack`] holds the law's numbers as data.

pub mod pack;

use std::path::Path;
use std::sync::Arc;

use crate::policy::Limit;
pub use pack::{Categories, Pack};

/// Whom a row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Person {
    /// The person key's text, as PostgreSQL's output function wrote it. Never stored: the ledger keeps a keyed hash.
    Key(Box<[u8]>),
    /// Cannot be told: counts as that many new people (over-counting is allowed and marked).
    Unknown(u64),
}

/// One person's data in one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// The person space: `schema.relation` whose people these are.
    pub space: Arc<str>,
    /// Who.
    pub person: Person,
    /// Legal categories shown.
    pub categories: Categories,
}

/// A batch of rows that wait for release, in the order of the answer.
#[derive(Debug)]
pub struct ChargeRequest {
    /// Whose account: the login, or the end user behind a trusted shared login.
    pub account: Arc<str>,
    /// Every limit that applies.
    pub limits: Arc<[Limit]>,
    /// True where the account is under a sanction (art. 5(1)(9)): its line is the pack's `prior_sanction`.
    pub sanctioned: bool,
    /// One entry a row: the people it shows.
    pub rows: Vec<Vec<Exposure>>,
    /// The moment, for windows.
    pub now: jiff::Timestamp,
}

/// What may be released.
#[derive(Debug, Clone, PartialEq)]
pub struct Charged {
    /// Rows from the front that may go; the row after them would reach `stopped`'s line.
    pub released: usize,
    /// Shares crossed by the released rows, each once per window as long as the score stays above it.
    pub crossings: Vec<Crossing>,
    /// The limit that ended it.
    pub stopped: Option<Stopped>,
    /// Distinct people newly charged by the released rows, by category index of the pack.
    pub new_people: Vec<u64>,
    /// Of them, those counted without a known key.
    pub estimated: u64,
}

/// An `alert_at` share reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// Name of the limit.
    pub limit: String,
    /// The share, e.g. 0.8.
    pub share: f64,
    /// Where the account stands now.
    pub reading: Reading,
}

/// A `stop_at` that held.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopped {
    /// Name of the limit.
    pub limit: String,
    /// Where the account stands (the refused row not included).
    pub reading: Reading,
}

/// One account against one limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Distinct people per category of the pack, each once per category.
    pub people: Vec<u64>,
    /// Integer score: each person once, at the highest category (LEGAL: 100·n1 + 10·n2 + n3).
    pub score: u64,
    /// The line's score that is 1.0.
    pub line: u64,
    /// Level of the pack the line comes from, e.g. `serious_insider`.
    pub level: String,
    /// As written, e.g. `30d`.
    pub window: String,
    /// People of the lightest category that could still be shown before `stop_at` (or the line) holds.
    pub left: u64,
}

/// Why the ledger could not answer. The row is then not released.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store failed.
    #[error("ledger store: {0}")]
    Store(String),
}

/// The ledger of one proxy. Shared by all sessions; `charge` returns only after the charge is durable.
pub struct Ledger {}

impl Ledger {
    /// Opens or creates the embedded store in the directory `path`. `key` keys the person hashes.
    ///
    /// # Errors
    /// Where the store cannot be opened.
    pub fn open(path: &Path, key: &[u8; 32], pack: Arc<Pack>) -> Result<Self, LedgerError> {
        let _ = (path, key, pack);
        Err(LedgerError::Store("unwritten".into()))
    }

    /// Charges rows in order, as far as the limits allow, durably. Blocking: call it off the reactor.
    ///
    /// # Errors
    /// Where the store fails: nothing may be released.
    pub fn charge(&self, request: &ChargeRequest) -> Result<Charged, LedgerError> {
        let _ = request;
        Err(LedgerError::Store("unwritten".into()))
    }

    /// Where an account stands against limits, without charging.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn readings(
        &self,
        account: &str,
        limits: &[Limit],
        sanctioned: bool,
        now: jiff::Timestamp,
    ) -> Result<Vec<Reading>, LedgerError> {
        let _ = (account, limits, sanctioned, now);
        Err(LedgerError::Store("unwritten".into()))
    }
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = self.score.saturating_mul(100).checked_div(self.line).unwrap_or(100);
        write!(
            f,
            "menshen: exposure {} of {} ({percent} %) of line {} within {}",
            self.score, self.line, self.level, self.window
        )
    }
}

impl Reading {
    /// What is left, in words.
    #[must_use]
    pub fn left_text(&self) -> String {
        format!(
            "{} more people of the lightest category can be shown before the limit holds.",
            self.left
        )
    }
}
