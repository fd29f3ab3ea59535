//! SQL text → [`Plan`]. [`examine`] is the table of contents: parse → resolve → decide → edit → verify → witness.

pub mod functions;
pub mod plan;
pub mod witness;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::ledger::Pack;
use crate::mask::TokenSettings;
use crate::policy::{Policy, Standing};
use crate::wire::Refusal;
pub use plan::{Plan, StatementKind, StatementPlan};

/// The policy resolved against one catalog: made once per (policy epoch, catalog epoch) and shared by all sessions.
#[derive(Debug)]
pub struct Ground {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// The threshold pack, where the policy names one.
    pub pack: Option<Arc<Pack>>,
}

impl Ground {
    /// Resolves a policy against a catalog: protected relations, view lineage, unsafe functions.
    #[must_use]
    pub fn new(policy: Arc<Policy>, catalog: Arc<Catalog>, pack: Option<Arc<Pack>>) -> Self {
        Self { policy, catalog, pack }
    }
}

/// What the session knows when it asks.
pub struct Request<'a> {
    /// The client's text, valid UTF-8.
    pub text: &'a str,
    /// The login.
    pub login: &'a str,
    /// What it holds now.
    pub standing: &'a Standing,
    /// The effective search path: `current_schemas(true)` of the session.
    pub search_path: &'a [String],
    /// `current_user` of the session (after SET ROLE).
    pub current_user: &'a str,
    /// Settings that hold the token keys in this session.
    pub token: &'a TokenSettings,
    /// Looks up a prepared statement of the session by name, for EXECUTE.
    pub prepared: &'a dyn Fn(&str) -> Option<Arc<StatementPlan>>,
    /// True where the text came as a Parse message (one statement only, parameters allowed).
    pub extended: bool,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The statement is refused.
    Refuse(Refusal),
    /// A relation is named that the catalog does not have: refresh it and ask once more; if it is still missing, answer with this
    /// refusal (42P01 as PostgreSQL would).
    Missing {
        /// Names as written, for the log.
        names: BTreeSet<String>,
        /// The answer if the refreshed catalog does not have them either.
        otherwise: Refusal,
    },
}

/// Judges a query string: every statement in it before the first is sent.
///
/// # Errors
/// A refusal, or the wish for a fresh catalog.
pub fn examine(ground: &Ground, request: &Request<'_>) -> Result<Plan, Verdict> {
    let _ = (ground, request);
    Err(Verdict::Refuse(Refusal::unsupported("unwritten", "unwritten", "")))
}
