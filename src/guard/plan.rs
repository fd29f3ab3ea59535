//! The outcome for one query string.

use std::sync::Arc;

use crate::catalog::Oid;
use crate::meter::copy::CopyFormat;
use crate::meter::{MeterSpec, TripWire};

/// What may be sent, and what the session must do with the answers. Only [`super::examine`] makes one.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The text to send: the client's own bytes where `edited` is false.
    pub text: Arc<str>,
    /// Whether it differs from the client's text.
    pub edited: bool,
    /// One entry per statement of the string; none for an empty query.
    pub statements: Arc<[Arc<StatementPlan>]>,
    #[expect(dead_code, reason = "it is there so that only the guard can make a plan")]
    pub(super) sealed: Sealed,
}

/// Proof that the guard made it: nothing outside can.
#[derive(Debug, Clone)]
pub struct Sealed(pub(super) ());

/// One statement of the string.
#[derive(Debug, Clone)]
pub struct StatementPlan {
    /// What kind it is, with what the session needs to follow it.
    pub kind: StatementKind,
    /// Metering of its rows (for `EXECUTE`, those of the prepared statement).
    pub meter: Arc<MeterSpec>,
    /// What its RowDescription may name.
    pub trip_wire: Arc<TripWire>,
    /// Columns of the catalog that the client's columns are, by position: RowDescription shall name them also where they are
    /// masked, as drivers look up types, nullability and keys by them. Empty where not every column's place is known.
    pub origins: Arc<[Option<(Oid, i16)>]>,
    /// True where settings that decisions depend on (search_path, role, `menshen.*`, client_encoding,
    /// standard_conforming_strings …) may be different after it: ask the server again before the next judgement, and hold back
    /// what the client sends until it is done.
    pub may_change_settings: bool,
    /// True where the catalog may be different after it.
    pub ddl: bool,
    /// True where the decision depends on nothing but the text (no relation, function or setting was looked up): such a plan may
    /// be made while settings are unknown (transaction control, SET, SHOW, DISCARD …).
    pub context_free: bool,
    /// COMMIT, ROLLBACK and PREPARE TRANSACTION: settings and names that the transaction has changed may be others after it.
    pub ends_transaction: bool,
    /// What names of the session meant when this was decided. Where one means another thing by now, the plan is void.
    pub meanings: Vec<Meaning>,
    /// True where error and notice fields of this statement must be scrubbed of values (the principal has something masked in it).
    pub scrub: bool,
    /// Parameters (`$n`) that name a setting which is read: Bind's value must be no name that Menshen keeps for itself. Only a statement of
    /// a Parse message has any.
    pub setting_parameters: Arc<[i64]>,
    /// A name in it may be that of a column which the catalog does not have: where that is only old, what the server knows would be missing.
    pub guesses: bool,
    /// For the audit and for explain.
    pub report: Arc<Report>,
}

/// A name that only the session can resolve, and the plan of what it meant.
#[derive(Debug, Clone)]
pub enum Meaning {
    /// Of FETCH and MOVE. `None`: a name that the session did not know.
    Cursor {
        /// Name, unquoted.
        name: String,
        /// What FETCH shows.
        plan: Option<Arc<StatementPlan>>,
    },
    /// Of EXECUTE, also inside another statement.
    Prepared {
        /// Name, unquoted.
        name: String,
        /// What EXECUTE runs.
        plan: Arc<StatementPlan>,
    },
}

/// Kinds of statement that the session tells apart.
#[derive(Debug, Clone)]
pub enum StatementKind {
    /// SELECT, VALUES, TABLE, SHOW, EXPLAIN …: returns rows, changes no session state by itself.
    Query,
    /// INSERT, UPDATE, DELETE, MERGE.
    Write,
    /// BEGIN, START TRANSACTION, COMMIT, ROLLBACK, SAVEPOINT …
    Transaction,
    /// SET, RESET, `SELECT set_config(…)` and the like.
    Set,
    /// `PREPARE name AS …`: the name and the plan of the inner statement. `source` is the inner statement's client text with its
    /// declared parameter types, to make the plan again when it is stale.
    Prepare {
        /// Name, unquoted.
        name: String,
        /// Plan of the inner statement.
        inner: Arc<StatementPlan>,
        /// The whole `PREPARE …` text of the client.
        source: Arc<str>,
    },
    /// `DECLARE name CURSOR …`: the plan that FETCH from it has.
    Declare {
        /// Name, unquoted.
        name: String,
        /// What FETCH shows.
        inner: Arc<StatementPlan>,
        /// WITH HOLD: it may outlive its transaction.
        hold: bool,
    },
    /// FETCH or MOVE.
    Fetch {
        /// Name of the cursor, unquoted.
        name: String,
    },
    /// CLOSE; `None` for ALL.
    CloseCursor {
        /// Name, unquoted.
        name: Option<String>,
    },
    /// `COPY … TO STDOUT` whose rows are metered: hidden columns stand behind the others.
    CopyOut(Arc<CopyFormat>),
    /// EXPLAIN whose details are to be taken out.
    Explain {
        /// Format of the answer.
        format: ExplainFormat,
    },
    /// `EXECUTE name (…)`
    Execute {
        /// Name, unquoted.
        name: String,
    },
    /// `DEALLOCATE name`; `None` for ALL.
    Deallocate {
        /// Name, unquoted.
        name: Option<String>,
    },
    /// `DISCARD ALL`: prepared statements, settings and temporary tables go.
    DiscardAll,
    /// Everything else that passes (DDL on unprotected relations, LISTEN, COPY of unprotected relations …).
    Utility,
}

/// Formats of EXPLAIN that details can be taken out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainFormat {
    /// One line a row.
    Text,
    /// One document.
    Json,
}

/// What was decided and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Keyed on nothing secret: hex fingerprint of the statement's shape (pg_query), never literals.
    pub fingerprint: String,
    /// `forward` or `edit`.
    pub action: &'static str,
    /// What the witness said: `agrees`, or why it abstained.
    pub witness: &'static str,
    /// Every protected relation in it.
    pub relations: Vec<RelationReport>,
    /// Hidden columns with what they charge, in words, for explain.
    pub charges: Vec<String>,
}

/// One protected relation of a statement.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RelationReport {
    /// `schema.name`
    pub relation: String,
    /// Row filter's rule, if any.
    pub row_filter: Option<String>,
    /// Classified columns.
    pub columns: Vec<ColumnReport>,
}

/// One classified column.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ColumnReport {
    /// Its name.
    pub column: String,
    /// Its class.
    pub class: String,
    /// `clear`, `keep(3, 4)` …, `deny`
    pub treatment: String,
    /// The rule that decided.
    pub rule: String,
    /// Whether showing it counts, and in which category.
    pub counts: Option<String>,
    /// Whether it reaches the answer.
    pub shown: bool,
}

impl StatementPlan {
    /// Whether it writes data (so that undoing it matters).
    #[must_use]
    pub fn kind_writes(&self) -> bool {
        match &self.kind {
            StatementKind::Write | StatementKind::Utility => true,
            StatementKind::Query
            | StatementKind::Transaction
            | StatementKind::Set
            | StatementKind::Prepare { .. }
            | StatementKind::Execute { .. }
            | StatementKind::Deallocate { .. }
            | StatementKind::Declare { .. }
            | StatementKind::Fetch { .. }
            | StatementKind::CloseCursor { .. }
            | StatementKind::CopyOut(_)
            | StatementKind::Explain { .. }
            | StatementKind::DiscardAll => false,
        }
    }
}
