//! SQL text → [`Plan`]. [`examine`] is the table of contents: parse → resolve → decide → edit → verify → witness.
//!
//! Every statement of a query string is judged before the first is sent; where one depends on what another changes, they are judged and sent
//! in turn ([`Verdict::InTurn`]). A statement that names nothing protected goes as
//! it came, byte for byte. One that does is edited, metered or refused by the
//! rule of its kind: queries and data modifications (`query.rs`), COPY, cursors, EXPLAIN, DDL and code (`define.rs`).

pub mod cache;
mod calls;
mod copy;
mod cursor;
mod define;
pub mod edit;
mod explain;
pub mod expression;
pub mod functions;
mod ground;
mod judge;
mod late;
mod lineage;
pub mod live;
pub mod outside;
pub mod parse;
pub mod plan;
pub mod protected;
mod query;
mod relations;
pub mod scope;
pub mod statement;
mod testimony;
#[cfg(test)]
mod tests;
pub mod tree;
mod utility;
mod verify;
pub mod witness;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::Oid;
use crate::mask::TokenSettings;
use crate::meter::spec::HIDDEN_PREFIX;
use crate::policy::Standing;
use crate::wire::Refusal;
pub use cache::{Context, ContextNumber, Plans};
pub use ground::Ground;
pub(crate) use ground::KnownColumns;
use judge::Judge;
pub use judge::{key_setting, may_name_key_setting, names_a_setting, parameter_type};
pub use late::Late;
use parse::Parsed;
pub use plan::{Plan, StatementKind, StatementPlan};
use scope::Stop;
use statement::Class;
use tree::Tree;

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
    /// Looks up a cursor or portal of the session by name, for FETCH.
    pub cursor: &'a dyn Fn(&str) -> Option<Arc<StatementPlan>>,
    /// Looks up a prepared statement of the session by name, for EXECUTE.
    pub prepared: &'a dyn Fn(&str) -> Option<Arc<StatementPlan>>,
    /// True where the open transaction has changed settings or the catalog: its end may undo that.
    pub undone_at_end: bool,
    /// True where the text came as a Parse message (one statement only, parameters allowed).
    pub extended: bool,
    /// True where the session can mask what the server sends clear, and nobody else can take it ([`Late`]).
    pub late: bool,
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
    /// A statement depends on what one before it in the same string changes. The whole string has been read; its statements can be judged and
    /// run one after the other, as a pipeline with one Sync, which is one implicit transaction as the string is.
    InTurn {
        /// The bytes of each statement.
        pieces: Box<[std::ops::Range<usize>]>,
        /// The answer where that can't be.
        otherwise: Refusal,
    },
}

impl Verdict {
    /// What the client is told where nothing more can be done about it.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Refuse(refusal)
            | Self::Missing { otherwise: refusal, .. }
            | Self::InTurn { otherwise: refusal, .. } => refusal,
        }
    }
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Self {
        if refusal.rule == judge::UNKNOWN_FUNCTION {
            return Self::Missing {
                names: BTreeSet::new(),
                otherwise: refusal,
            };
        }
        Self::Refuse(refusal)
    }
}

impl From<Stop> for Verdict {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refuse(refusal) => refusal.into(),
            Stop::Missing(name, otherwise) => Self::Missing {
                names: BTreeSet::from([name]),
                otherwise,
            },
            Stop::Again => Self::Refuse(Refusal::unsupported(
                "walk",
                "Menshen could not settle this statement",
                "write it in another form",
            )),
        }
    }
}

/// One statement on its way through.
struct Subject<'s> {
    parsed: &'s Parsed,
    /// The statement's tree (`RawStmt.stmt`).
    tree: &'s Tree,
    class: Class,
    /// Its bytes in the text.
    range: (usize, usize),
    judge: &'s Judge<'s>,
    /// Prepared by an earlier statement of the same string.
    earlier: &'s HashMap<String, Arc<StatementPlan>>,
    /// Declared by an earlier statement of the same string.
    cursors: &'s HashMap<String, Arc<StatementPlan>>,
}

/// A statement judged: what to send in the place of its bytes, and its plan.
struct Judged {
    text: Option<String>,
    plan: StatementPlan,
}

/// Judges a query string: every statement in it before the first is sent.
///
/// # Errors
/// A refusal, or the wish for a fresh catalog.
pub fn examine(ground: &Ground, request: &Request<'_>) -> Result<Plan, Verdict> {
    let parsed = parse::parse(request.text)?;
    if request.extended && parsed.statements.len() > 1 {
        return Err(one_statement().into());
    }
    let mut text = String::new();
    let mut at = 0;
    let mut plans: Vec<Arc<StatementPlan>> = Vec::new();
    let mut edited = false;
    let mut earlier: HashMap<String, Arc<StatementPlan>> = HashMap::new();
    let mut cursors: HashMap<String, Arc<StatementPlan>> = HashMap::new();
    let mut changed: Option<&'static str> = None;
    let judge = Judge::new(ground, request);
    for (raw, class) in parsed.statements.iter().zip(parsed.classes.iter().copied()) {
        let range = range_of(raw, &parsed)?;
        let subject = Subject {
            parsed: &parsed,
            tree: raw.field("stmt"),
            class,
            range,
            judge: &judge,
            earlier: &earlier,
            cursors: &cursors,
        };
        *judge.binds.borrow_mut() = request.extended && matches!(class, Class::Query | Class::Insert | Class::Modify);
        let mut judged = match judge_statement(&subject) {
            Ok(judged) => judged,
            // What stands before it may give it another meaning.
            Err(verdict) if changed.is_some() => return Err(in_turn(&parsed, verdict)),
            Err(verdict) => return Err(verdict),
        };
        judged.plan.meanings = judge.meanings.take();
        if let Some(by) = changed
            && !judged.plan.context_free
        {
            return Err(in_turn(&parsed, after_change(by).into()));
        }
        if judged.plan.may_change_settings {
            changed = Some("a statement that changes settings");
        } else if judged.plan.ddl {
            changed = Some("a statement that changes the catalog");
        } else if judged.plan.ends_transaction && request.undone_at_end {
            changed = Some("the end of a transaction that has changed settings or the catalog");
        }
        if let Some(new) = &judged.text {
            edited = true;
            text.push_str(parsed.slice(at, range.0));
            text.push_str(new);
            at = range.1;
        }
        let plan = Arc::new(judged.plan);
        if let StatementKind::Prepare { name, inner, .. } = &plan.kind {
            earlier.insert(name.clone(), Arc::clone(inner));
        }
        if let StatementKind::Declare { name, inner, .. } = &plan.kind {
            cursors.insert(name.clone(), Arc::clone(inner));
        }
        plans.push(plan);
    }
    let text: Arc<str> = if edited {
        text.push_str(parsed.slice(at, parsed.text.len()));
        Arc::from(text)
    } else {
        Arc::from(request.text)
    };
    let testimony = testimony::ask(&parsed, &judge)?;
    for plan in &mut plans {
        let report = Arc::clone(&plan.report);
        Arc::make_mut(plan).report = Arc::new(plan::Report {
            witness: testimony,
            ..(*report).clone()
        });
    }
    Ok(Plan {
        text,
        edited,
        statements: plans.into(),
        sealed: plan::Sealed(()),
    })
}

/// The string's statements one after the other, where they can run so: the data of COPY FROM STDIN stand behind the whole string.
fn in_turn(parsed: &Parsed, verdict: Verdict) -> Verdict {
    let copies = |raw: &Tree, class: &Class| matches!(class, Class::Copy) && raw.field("stmt").flag("is_from");
    if parsed
        .statements
        .iter()
        .zip(&parsed.classes)
        .any(|(raw, class)| copies(raw, class))
    {
        return verdict;
    }
    let ranges = parsed.statements.iter().map(|raw| range_of(raw, parsed));
    match ranges.collect::<Result<Vec<_>, _>>() {
        Ok(ranges) => Verdict::InTurn {
            pieces: ranges.into_iter().map(|(start, end)| start..end).collect(),
            otherwise: verdict.refusal(),
        },
        Err(_) => verdict,
    }
}

fn judge_statement(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    match subject.class {
        Class::Transaction | Class::Set | Class::Show | Class::Discard | Class::Deallocate | Class::Channel => {
            utility::session(subject)
        }
        Class::CursorUse => Ok(cursor::used(subject)),
        Class::Notify => notify(subject),
        Class::Maintain | Class::Define | Class::Code => define::define(subject),
        Class::Copy => copy::copy(subject),
        Class::Cursor => cursor::declare(subject),
        Class::Explain => explain::explain(subject),
        Class::Execute => utility::execute(subject),
        Class::Query | Class::Insert | Class::Modify => query::statement(subject, subject.tree),
        Class::Prepare => query::prepare(subject),
        Class::NotAStatement => Err(Refusal::unsupported(
            "unknown-statement",
            "Menshen does not know this kind of statement",
            "report it to the Menshen project",
        )
        .into()),
    }
}

/// NOTIFY with a literal: what it carries, the client wrote itself.
fn notify(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let mut judged = subject.forward(StatementKind::Utility);
    judged.plan.may_change_settings = false;
    Ok(judged)
}
impl Subject<'_> {
    /// A statement that may not contain names that Menshen keeps for itself.
    fn reserved_names(&self) -> Result<(), Refusal> {
        let text = self.parsed.slice(self.range.0, self.range.1);
        // U&"menshen\005fk1" is the same name in another spelling: the tree has it as it is meant. What a literal says is no name.
        let mut named = false;
        let names_one = |tree: &Tree| matches!(tree, Tree::Text(text) if text.contains(HIDDEN_PREFIX));
        self.tree.walk(&mut |node| {
            named |= match node {
                Tree::Node(_, fields) => fields.iter().any(|(_, field)| names_one(field)),
                Tree::List(items) => items.iter().any(names_one),
                Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => false,
            };
            node.kind() != "AConst"
        });
        if named || text.to_ascii_lowercase().contains(HIDDEN_PREFIX) {
            return Err(Refusal::unsupported(
                "reserved-name",
                format!("names that begin with {HIDDEN_PREFIX} are kept for hidden columns"),
                "use another name",
            ));
        }
        Ok(())
    }

    /// Hex fingerprint of the statement's shape: no literals.
    fn fingerprint(&self) -> String {
        let text = self.parsed.slice(self.range.0, self.range.1);
        pg_query::fingerprint(
            text,
            pg_query::ParserOptions::default(),
            pg_query::FingerprintOptions::default(),
        )
        .map(|f| f.hex)
        .unwrap_or_default()
    }

    /// A plan for a statement that goes as it came.
    fn forward(&self, kind: StatementKind) -> Judged {
        let calls = *self.judge.user_function.borrow() || *self.judge.sets.borrow();
        Judged {
            text: None,
            plan: StatementPlan {
                kind,
                meter: Arc::default(),
                trip_wire: self.trip_wire(HashSet::new(), HashSet::new()),
                origins: Arc::default(),
                may_change_settings: calls,
                ends_transaction: false,
                meanings: Vec::new(),
                ddl: false,
                context_free: false,
                scrub: false,
                guesses: false,
                setting_parameters: self
                    .judge
                    .setting_parameters
                    .borrow()
                    .iter()
                    .map(|(number, _)| *number)
                    .collect(),
                report: Arc::new(plan::Report {
                    fingerprint: self.fingerprint(),
                    action: "forward",
                    ..Default::default()
                }),
            },
        }
    }

    fn trip_wire(&self, cleared: HashSet<(Oid, i16)>, late: HashSet<(Oid, i16)>) -> Arc<crate::meter::TripWire> {
        Arc::new(crate::meter::TripWire {
            protected: Arc::clone(&self.judge.ground.wire),
            cleared,
            late,
            unrestricted: false,
        })
    }
}

/// The bytes of a statement, without the blanks and comments before it.
fn range_of(raw: &Tree, parsed: &Parsed) -> Result<(usize, usize), Refusal> {
    let bad = || {
        Refusal::unsupported(
            "statement-place",
            "a statement whose place can't be found",
            "send it alone",
        )
    };
    let start = usize::try_from(raw.int("stmt_location")).map_err(|_| bad())?;
    let length = usize::try_from(raw.int("stmt_len")).map_err(|_| bad())?;
    let end = if length == 0 { parsed.text.len() } else { start + length };
    let first = parsed
        .tokens
        .iter()
        .filter_map(|t| usize::try_from(t.start).ok())
        .find(|s| *s >= start && *s < end && parsed.text.as_bytes().get(*s) != Some(&b';'))
        .unwrap_or(start);
    if first > end || !parsed.text.is_char_boundary(first) || !parsed.text.is_char_boundary(end) {
        return Err(bad());
    }
    Ok((first, end))
}

fn one_statement() -> Refusal {
    Refusal {
        sqlstate: "42601",
        rule: "one-statement",
        message: "cannot insert multiple commands into a prepared statement".to_owned(),
        hint: "send them one by one".into(),
        position: None,
        incident: false,
    }
}

fn after_change(by: &str) -> Refusal {
    Refusal::unsupported(
        "judged-before-change",
        format!(
            "Menshen judges a whole query string before it sends it, and {by} stands before a statement that depends on it"
        ),
        "send the statements in separate query strings",
    )
}
