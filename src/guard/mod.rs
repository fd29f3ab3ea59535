//! SQL text → [`Plan`]. [`examine`] is the table of contents: parse → resolve → decide → edit → verify → witness.
//!
//! Every statement of a query string is judged before the first is sent; where one depends on what another changes, they are judged and sent
//! in turn ([`Verdict::InTurn`]). A statement that names nothing protected goes as
//! it came, byte for byte. One that does is edited, metered or refused by the
//! rule of its kind: queries and data modifications (`query.rs`), COPY, cursors, EXPLAIN, DDL and code (`define.rs`).

mod copy;
mod cursor;
mod define;
pub mod edit;
mod explain;
pub mod expression;
pub mod functions;
mod judge;
mod lineage;
pub mod live;
pub mod parse;
pub mod plan;
pub mod protected;
mod query;
pub mod scope;
pub mod statement;
#[cfg(test)]
mod tests;
pub mod tree;
mod utility;
mod verify;
pub mod witness;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::{Catalog, Oid, RelationName, UseKind, in_reach};
use crate::ledger::Pack;
use crate::mask::TokenSettings;
use crate::meter::spec::HIDDEN_PREFIX;
use crate::policy::{Policy, Standing, UNCLASSIFIED};
use crate::wire::Refusal;
use functions::Reach;
pub use judge::parameter_type;
use judge::{Judge, SettingRow};
use parse::Parsed;
pub use plan::{Plan, StatementKind, StatementPlan};
use protected::Protected;
use scope::{Lookup, Stop};
use statement::Class;
use tree::Tree;

/// The policy resolved against one catalog: made once per (policy epoch, catalog epoch) and shared by all sessions.
#[derive(Debug)]
pub struct Ground {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// The threshold pack, where the policy names one.
    pub pack: Option<Arc<Pack>>,
    /// Protected relations by oid.
    pub protected: HashMap<Oid, Arc<Protected>>,
    /// What functions could reach.
    pub reach: Reach,
    /// Classified columns by relation, for the trip-wire.
    pub wire: Arc<HashMap<Oid, HashSet<i16>>>,
    /// Schemas that hold protected relations.
    pub schemas: BTreeSet<String>,
    /// Columns of the policy's tables when this policy was loaded: those that come later are unclassified.
    known: Arc<KnownColumns>,
    /// Columns of protected tables that nobody has classified yet, as `schema.table.column`.
    pub unclassified: BTreeSet<String>,
}

/// Columns by table.
pub(crate) type KnownColumns = HashMap<RelationName, BTreeSet<String>>;

impl Ground {
    /// Resolves a policy against a catalog: protected relations, view lineage, unsafe functions.
    #[must_use]
    ///
    /// `before` is what was in force before: under the same policy, columns that it did not have are unclassified.
    pub fn new(policy: Arc<Policy>, catalog: Arc<Catalog>, pack: Option<Arc<Pack>>, before: Option<&Self>) -> Self {
        let known = match before {
            Some(before) if before.policy.epoch == policy.epoch => Arc::clone(&before.known),
            Some(_) | None => Arc::new(columns_now(&policy, &catalog)),
        };
        let protected = lineage::protected_relations(&policy, &catalog, &known);
        let unclassified = protected
            .values()
            .flat_map(|p| {
                let new = p.columns.iter().filter(|c| {
                    c.sources
                        .iter()
                        .any(|s| s.class == UNCLASSIFIED && s.relation == p.name)
                });
                new.map(move |c| format!("{}.{}.{}", p.name.schema, p.name.name, c.column.name))
            })
            .collect();
        let names: BTreeSet<RelationName> = protected.values().map(|p| p.name.clone()).collect();
        let reach = Reach::new(&catalog, &names, &policy.trusted_functions);
        let wire = protected
            .values()
            .map(|p| {
                (
                    p.oid,
                    p.columns
                        .iter()
                        .filter(|c| !c.sources.is_empty())
                        .map(|c| c.column.attnum)
                        .collect::<HashSet<i16>>(),
                )
            })
            .filter(|(_, columns)| !columns.is_empty())
            .collect();
        let schemas = names.into_iter().map(|n| n.schema).collect();
        Self {
            policy,
            catalog,
            pack,
            protected,
            reach,
            wire: Arc::new(wire),
            schemas,
            known,
            unclassified,
        }
    }
}

fn columns_now(policy: &Policy, catalog: &Catalog) -> KnownColumns {
    let tables = policy.tables.keys();
    tables
        .filter_map(|name| {
            let relation = catalog.relation(&name.schema, &name.name)?;
            Some((name.clone(), relation.columns.iter().map(|c| c.name.clone()).collect()))
        })
        .collect()
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
    /// Looks up a cursor or portal of the session by name, for FETCH.
    pub cursor: &'a dyn Fn(&str) -> Option<Arc<StatementPlan>>,
    /// Looks up a prepared statement of the session by name, for EXECUTE.
    pub prepared: &'a dyn Fn(&str) -> Option<Arc<StatementPlan>>,
    /// True where the open transaction has changed settings or the catalog: its end may undo that.
    pub undone_at_end: bool,
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
    let testimony = witness(&parsed, &judge)?;
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
        statements: plans,
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
    /// Whether the statement may name a protected relation anywhere, by any reading of its names; and whether every relation
    /// it names is in the catalog. System relations that show values are refused here.
    fn touches(&self) -> Result<bool, Verdict> {
        let mut relations: Vec<&Tree> = Vec::new();
        named_relations(self.tree, &mut Vec::new(), &mut relations);
        let mut created: BTreeSet<usize> = BTreeSet::new();
        self.tree.walk(&mut |n| {
            match n.kind() {
                // What is being made is not yet there; should it be, the server says so.
                "CreateStmt" => created.extend(n.field("relation").location()),
                "IntoClause" => created.extend(n.field("rel").location()),
                _ => {}
            }
            true
        });
        let ground = self.judge.ground;
        let mut touches = false;
        let strict = matches!(
            self.class,
            Class::Query
                | Class::Insert
                | Class::Modify
                | Class::Copy
                | Class::Prepare
                | Class::Cursor
                | Class::Explain
        );
        for relation in relations {
            if relation.location().is_some_and(|at| created.contains(&at)) {
                continue;
            }
            let (schema, name) = (relation.text("schemaname"), relation.text("relname"));
            let written = (!schema.is_empty()).then_some(schema);
            match ground.catalog.resolve(written, name, self.judge.path()) {
                Some(found) => {
                    self.judge.system_relation(found)?;
                    if strict {
                        self.judge.code_behind(found, UseKind::Read)?;
                    }
                    self.system_columns(found)?;
                    if written.is_none() && strict {
                        self.shadowed(found)?;
                    }
                    touches |= ground.protected.contains_key(&found.oid);
                }
                None if strict => {
                    return Err(missing(written, name, relation.location(), self.parsed));
                }
                None => {}
            }
        }
        Ok(touches)
    }

    /// A name without a schema is looked up again by the server after it waited for a lock: it must not come to mean a protected relation
    /// that stands further down the path. What is the session's own temporary table, nobody else can take away meanwhile.
    fn shadowed(&self, found: &crate::catalog::Relation) -> Result<(), Refusal> {
        let ground = self.judge.ground;
        if found.temporary || ground.protected.contains_key(&found.oid) {
            return Ok(());
        }
        let below = self
            .judge
            .path()
            .iter()
            .skip_while(|s| **s != found.name.schema)
            .skip(1);
        let hidden = below
            .filter_map(|s| ground.catalog.relation(s, &found.name.name))
            .find(|r| ground.protected.contains_key(&r.oid));
        match hidden {
            None => Ok(()),
            Some(hidden) => Err(Refusal::unsupported(
                "name-of-protected-relation",
                format!(
                    "\"{}\" without a schema could come to mean \"{}.{}\"",
                    found.name.name, hidden.name.schema, hidden.name.name
                ),
                "write the schema before the name",
            )),
        }
    }

    /// Columns of the server's own catalog that hold secrets: neither their name nor `*` may stand in the statement, nor the relation's row.
    fn system_columns(&self, relation: &crate::catalog::Relation) -> Result<(), Refusal> {
        if self.judge.unrestricted {
            return Ok(());
        }
        for (column, entry) in functions::BUILT_INS.columns(&relation.name.schema, &relation.name.name) {
            let mut named = false;
            let mut aliases: BTreeSet<&str> = BTreeSet::from([relation.name.name.as_str()]);
            self.tree.walk(&mut |n| {
                if n.kind() == "Alias" {
                    aliases.insert(n.text("aliasname"));
                    // A list of new names would hide the column's own.
                    named |= !n.list("colnames").is_empty();
                }
                true
            });
            self.tree.walk(&mut |n| {
                named |= match n.kind() {
                    "AStar" => true,
                    "ColumnRef" => {
                        let fields = n.names("fields").unwrap_or_default();
                        let last = fields.last().map(String::as_str);
                        last == Some(column) || fields.len() == 1 && last.is_some_and(|f| aliases.contains(f))
                    }
                    "CopyStmt" => !n.field("relation").is_null(),
                    _ => false,
                };
                !named
            });
            if named {
                return Err(Refusal::denied(
                    "system-column",
                    format!(
                        "permission denied for column \"{column}\" of relation \"{}\": it {}",
                        relation.name.name, entry.reason
                    ),
                    "name the columns that you need; `*` and whole rows would show this one too",
                ));
            }
        }
        Ok(())
    }

    /// Judges every function and operator named in the statement.
    fn functions(&self) -> Result<(), Refusal> {
        *self.judge.setting_row.borrow_mut() = self.setting_row();
        let mut result = Ok(());
        self.tree.walk(&mut |n| {
            if result.is_err() {
                return false;
            }
            match n.kind() {
                "FuncCall" => {
                    if let Some(name) = n.names("funcname") {
                        result = self.judge.function(&name, n);
                    }
                }
                kind if kind.starts_with("Json") || kind == "MergeSupportFunc" => {
                    result = expression::NEWER_FORMS.iter().try_for_each(|name| self.form(name));
                }
                // `value.function` calls a function of one argument.
                "ColumnRef" => {
                    let fields = n.names("fields").unwrap_or_default();
                    result = fields
                        .iter()
                        .zip(fields.iter().skip(1))
                        .try_for_each(|(of, name)| self.attribute(Some(of), name));
                }
                "AIndirection" => {
                    result = n
                        .list("indirection")
                        .iter()
                        .try_for_each(|part| self.attribute(None, part.text("sval")));
                }
                "TypeName" => {
                    if let Some((schema, name)) = n.names("names").as_deref().and_then(judge::split) {
                        result = self.type_name(schema, name);
                    }
                }
                "AExpr" | "SubLink" | "SortBy" | "CaseExpr" | "JoinExpr" => {
                    result = operators(n).iter().try_for_each(|name| self.operator(name));
                }
                _ => {}
            }
            true
        });
        result
    }

    /// Where the statement reads `pg_settings` and nothing else: what its column `name` is. pg_settings does not list the settings that hold
    /// the token's keys.
    fn setting_row(&self) -> SettingRow {
        let mut only = true;
        let mut relation = None;
        self.tree.walk(&mut |n| {
            match n.kind() {
                "RangeVar" if relation.is_none() => relation = Some(n),
                "RangeVar" | "RangeSubselect" | "RangeFunction" | "RangeTableFunc" | "JsonTable" | "WithClause" => {
                    only = false
                }
                _ => {}
            }
            true
        });
        let Some(relation) = relation.filter(|r| only && r.field("alias").list("colnames").is_empty()) else {
            return SettingRow::None;
        };
        let schema = relation.text("schemaname");
        let written = (!schema.is_empty()).then_some(schema);
        let catalog = &self.judge.ground.catalog;
        let found = catalog.resolve(written, relation.text("relname"), self.judge.path());
        if !found.is_some_and(|r| r.name.schema == "pg_catalog" && r.name.name == "pg_settings") {
            return SettingRow::None;
        }
        let condition = self.tree.field("where_clause");
        let value = condition.field("rexpr");
        let equals = condition.kind() == "AExpr"
            && condition.names("name").is_some_and(|o| o == ["="])
            && condition.field("lexpr").names("fields").is_some_and(|f| f == ["name"])
            && value.kind() == "AConst";
        if equals {
            SettingRow::One(value.field("val").text("sval").to_owned())
        } else {
            SettingRow::Any
        }
    }

    /// A form of the grammar that an older server reads as a call: a user function of that name is judged.
    fn form(&self, name: &str) -> Result<(), Refusal> {
        match self.judge.ground.reach.judge_call(None, name, self.judge.path()) {
            functions::Call::User(functions::Verdict::Refused { reason, .. }) => Err(Refusal::denied(
                "function-opaque",
                format!("permission denied for function \"{name}\": {reason}"),
                "query the relations directly, or ask the owners of the policy to trust the function",
            )),
            functions::Call::User(functions::Verdict::Safe)
            | functions::Call::BuiltIn(_)
            | functions::Call::Unknown => Ok(()),
        }
    }

    /// A name behind a dot may call a function of one argument, where it is no column of what stands before the dot (`of`).
    fn attribute(&self, of: Option<&str>, name: &str) -> Result<(), Refusal> {
        let ground = self.judge.ground;
        let denied = match ground.reach.judge_call(None, name, self.judge.path()) {
            functions::Call::BuiltIn(entry) => entry.map(|e| e.reason.clone()),
            functions::Call::User(functions::Verdict::Refused { reason, .. }) => Some(reason),
            functions::Call::User(functions::Verdict::Safe) => {
                *self.judge.user_function.borrow_mut() = true;
                None
            }
            functions::Call::Unknown => None,
        };
        let Some(reason) = denied else { return Ok(()) };
        if of.is_some_and(|of| self.has_column(of, name)) {
            return Ok(());
        }
        Err(Refusal::denied(
            "function-denied",
            format!("permission denied for function \"{name}\": it {reason}"),
            "call functions that work on their arguments alone",
        ))
    }

    /// Whether `alias.column` can only mean a column: everything in the statement that has that alias is known to have the column.
    fn has_column(&self, alias: &str, column: &str) -> bool {
        let mut named: Vec<bool> = Vec::new();
        let mut ctes: Vec<&Tree> = Vec::new();
        self.tree.walk(&mut |n| {
            if n.kind() == "CommonTableExpr" {
                ctes.push(n);
            }
            true
        });
        self.tree.walk(&mut |n| {
            let own = n.field("alias");
            let renamed = own.names("colnames").unwrap_or_default().iter().any(|c| c == column);
            match n.kind() {
                "RangeVar" => {
                    let shown = own.text("aliasname");
                    let name = if shown.is_empty() { n.text("relname") } else { shown };
                    // In INSERT, MERGE and RETURNING the target has these names too.
                    let target = matches!(alias, "excluded" | "old" | "new") && named.is_empty();
                    if alias == name || alias == n.text("schemaname") || target {
                        let of =
                            |cte: &&Tree| n.text("schemaname").is_empty() && cte.text("ctename") == n.text("relname");
                        let mut of = ctes.iter().copied().filter(of).peekable();
                        let has = if of.peek().is_some() {
                            of.all(|cte| cte_gives(cte, column))
                        } else {
                            let schema = n.text("schemaname");
                            let written = (!schema.is_empty()).then_some(schema);
                            let catalog = &self.judge.ground.catalog;
                            let found = catalog.resolve(written, n.text("relname"), self.judge.path());
                            found.is_some_and(|r| r.column(column).is_some())
                        };
                        named.push(has || renamed);
                    }
                }
                "RangeSubselect" if own.text("aliasname") == alias => {
                    named.push(renamed || gives(n.field("subquery"), column));
                }
                "RangeFunction" | "RangeTableFunc" | "JsonTable" if own.text("aliasname") == alias => {
                    let defined = ["coldeflist", "columns"].iter().flat_map(|f| n.list(f));
                    let mut defined = defined.map(|c| [c.text("colname"), c.text("name")]);
                    named.push(renamed || defined.any(|names| names.contains(&column)));
                }
                "JoinExpr"
                    if own.text("aliasname") == alias || n.field("join_using_alias").text("aliasname") == alias =>
                {
                    named.push(renamed);
                }
                _ => {}
            }
            true
        });
        !named.is_empty() && named.iter().all(|has| *has)
    }

    /// A type whose casts or checks call a user function.
    fn type_name(&self, schema: Option<&str>, name: &str) -> Result<(), Refusal> {
        let (ground, path) = (self.judge.ground, self.judge.path());
        if ground.reach.changers().type_name(schema, name, path) {
            return Err(judge::type_changes_settings(&format!("type \"{name}\"")));
        }
        match ground.reach.code_behind_type(&ground.catalog, schema, name, path) {
            None => Ok(()),
            Some(reason) => Err(judge::type_opaque(name, reason)),
        }
    }

    fn operator(&self, name: &[String]) -> Result<(), Refusal> {
        let Some((written, name)) = judge::split(name) else {
            return Ok(());
        };
        let (ground, path) = (self.judge.ground, self.judge.path());
        let change = ground.reach.changers().operator(written, name, path);
        self.judge.changed_by(change, || format!("operator {name}"))?;
        let operators = ground.catalog.operators.get(name).into_iter().flatten();
        for operator in operators.filter(|o| in_reach(&o.schema, written, path)) {
            let (schema, function) = &operator.function;
            if let functions::Call::User(functions::Verdict::Refused { reason, .. }) =
                ground.reach.judge_call(Some(schema), function, path)
            {
                return Err(Refusal::denied(
                    "operator-opaque",
                    format!("permission denied for operator {name}: its function \"{schema}.{function}\" {reason}"),
                    "write OPERATOR(pg_catalog.…) or use another expression",
                ));
            }
        }
        Ok(())
    }

    /// A statement that may not contain names that Menshen keeps for itself.
    fn reserved_names(&self) -> Result<(), Refusal> {
        let text = self.parsed.slice(self.range.0, self.range.1);
        if text.to_ascii_lowercase().contains(HIDDEN_PREFIX) {
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
                trip_wire: self.trip_wire(HashSet::new()),
                origins: Arc::default(),
                may_change_settings: calls,
                ends_transaction: false,
                meanings: Vec::new(),
                ddl: false,
                context_free: false,
                scrub: false,
                report: Arc::new(plan::Report {
                    fingerprint: self.fingerprint(),
                    action: "forward",
                    ..Default::default()
                }),
            },
        }
    }

    fn trip_wire(&self, cleared: HashSet<(Oid, i16)>) -> Arc<crate::meter::TripWire> {
        Arc::new(crate::meter::TripWire {
            protected: Arc::clone(&self.judge.ground.wire),
            cleared,
            unrestricted: false,
        })
    }
}

/// Names of the operators that a node applies: as written, and those that the grammar implies.
fn operators(node: &Tree) -> Vec<Vec<String>> {
    let mut all = implied(node);
    all.extend(
        ["name", "oper_name", "use_op"]
            .iter()
            .filter_map(|field| node.names(field)),
    );
    all
}

/// Operators that the grammar implies where the text names none.
fn implied(node: &Tree) -> Vec<Vec<String>> {
    let names: &[&str] = match node.kind() {
        "CaseExpr" if !node.field("arg").is_null() => &["="],
        "JoinExpr" if node.flag("is_natural") || !node.list("using_clause").is_empty() => &["="],
        "SubLink" if !node.field("testexpr").is_null() && node.list("oper_name").is_empty() => &["="],
        "AExpr"
            if node
                .names("name")
                .is_some_and(|n| n.iter().any(|n| n.contains("BETWEEN"))) =>
        {
            &[">=", "<=", "<", ">"]
        }
        _ => &[],
    };
    names.iter().map(|name| vec![(*name).to_owned()]).collect()
}

/// Whether a query has an output column of that name, by the names that are written.
fn gives(query: &Tree, column: &str) -> bool {
    if !query.field("larg").is_null() {
        return gives(query.field("larg"), column);
    }
    let returning = query.field("returning_clause");
    let targets = query.list("target_list").iter().chain(returning.list("exprs"));
    targets.into_iter().any(|target| {
        let name = target.text("name");
        let fields = target.field("val").names("fields").unwrap_or_default();
        if name.is_empty() {
            fields.last().is_some_and(|f| f == column)
        } else {
            name == column
        }
    })
}

fn cte_gives(cte: &Tree, column: &str) -> bool {
    let renamed = cte.names("aliascolnames").unwrap_or_default();
    renamed.iter().any(|c| c == column) || gives(cte.field("ctequery"), column)
}

/// Every relation that a statement names, but for references to its common table expressions: a name of WITH stands for itself only
/// where PostgreSQL would take it so, in what follows it and in the statement it belongs to.
fn named_relations<'t>(tree: &'t Tree, ctes: &mut Vec<&'t str>, into: &mut Vec<&'t Tree>) {
    match tree.kind() {
        "RangeVar" => {
            let hidden = tree.text("schemaname").is_empty() && ctes.contains(&tree.text("relname"));
            if !hidden {
                into.push(tree);
            }
            return;
        }
        // It names aliases.
        "LockingClause" => return,
        _ => {}
    }
    let outer = ctes.len();
    let with = tree.field("with_clause");
    if with.flag("recursive") {
        ctes.extend(with.list("ctes").iter().map(|c| c.text("ctename")));
    }
    for cte in with.list("ctes") {
        named_relations(cte, ctes, into);
        ctes.push(cte.text("ctename"));
    }
    for child in tree.children() {
        // What is written to is never a common table expression.
        let target = matches!(tree.kind(), "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt")
            && std::ptr::eq(child, tree.field("relation"));
        if target {
            into.push(child);
        } else if !std::ptr::eq(child, with) {
            named_relations(child, ctes, into);
        }
    }
    ctes.truncate(outer);
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

/// Asks the second reader; says what it said.
fn witness(parsed: &Parsed, judge: &Judge<'_>) -> Result<&'static str, Refusal> {
    let accounted = account(parsed, judge);
    match witness::object(&parsed.text, &accounted) {
        witness::Testimony::Agrees => Ok("agrees"),
        witness::Testimony::Abstains(cause) => Ok(cause.label()),
        witness::Testimony::Objects(objections) => {
            let names: Vec<String> = objections.iter().map(ToString::to_string).collect();
            Err(Refusal {
                sqlstate: "0A000",
                rule: "guards-disagree",
                message: format!("the two guards read this statement differently ({})", names.join("; ")),
                hint: "write the statement in a plainer form; the security team has been told".into(),
                position: None,
                incident: true,
            })
        }
    }
}

/// Everything the first guard saw, by kind of name.
fn account(parsed: &Parsed, judge: &Judge<'_>) -> witness::Accounted {
    let mut seen = witness::Accounted {
        statements: parsed.statements.len(),
        ..Default::default()
    };
    seen.functions.extend(judge.functions.borrow().iter().cloned());
    account_trees(parsed, &mut seen);
    seen
}

fn account_trees(parsed: &Parsed, seen: &mut witness::Accounted) {
    for statement in &parsed.statements {
        statement.walk(&mut |n| {
            match n.kind() {
                "RangeVar" => {
                    let parts = [n.text("catalogname"), n.text("schemaname"), n.text("relname")];
                    seen.relations.insert(
                        parts
                            .iter()
                            .filter(|p| !p.is_empty())
                            .map(|p| (*p).to_owned())
                            .collect(),
                    );
                    return true;
                }
                "CommonTableExpr" => {
                    seen.ctes.insert(n.text("ctename").to_owned());
                }
                "Alias" => {
                    seen.aliases.insert(n.text("aliasname").to_owned());
                }
                "FuncCall" => {
                    seen.functions.extend(n.names("funcname"));
                }
                // The witness takes some sampling methods for functions, which they are.
                "RangeTableSample" => {
                    seen.functions.extend(n.names("method"));
                }
                "ColumnRef" => {
                    seen.columns.extend(n.names("fields").into_iter().flatten());
                }
                // Inside GROUPING SETS these are functions to the witness. There are functions of such names, too: elsewhere they count.
                "GroupingSet" => {
                    for form in ["rollup", "cube"] {
                        seen.functions.insert(vec![form.to_owned()]);
                        seen.other_names.insert(form.to_owned());
                    }
                }
                _ => {}
            }
            texts(n, &mut seen.other_names);
            true
        });
    }
    // `SET a.b` is one name to PostgreSQL and two to the witness.
    let parts: Vec<String> = seen
        .other_names
        .iter()
        .flat_map(|n| n.split('.').map(str::to_owned))
        .collect();
    seen.other_names.extend(parts);
    seen.names_matter = parsed.classes.iter().all(|class| {
        matches!(
            class,
            Class::Query | Class::Insert | Class::Modify | Class::Prepare | Class::Execute | Class::Explain
        )
    });
}

fn texts(node: &Tree, into: &mut BTreeSet<String>) {
    if let Tree::Node(_, fields) = node {
        for (_, value) in fields {
            if let Tree::Text(text) = value
                && !text.is_empty()
            {
                into.insert(text.clone());
            }
        }
    }
}

fn missing(schema: Option<&str>, name: &str, location: Option<usize>, parsed: &Parsed) -> Verdict {
    let full = schema.map_or_else(|| name.to_owned(), |s| format!("{s}.{name}"));
    let position = location
        .and_then(|at| parsed.text.get(..at))
        .and_then(|before| u32::try_from(before.chars().count() + 1).ok());
    Verdict::Missing {
        names: BTreeSet::from([full.clone()]),
        otherwise: Refusal {
            sqlstate: "42P01",
            rule: "relation-unknown",
            message: format!("relation \"{full}\" does not exist"),
            hint: "check the name and search_path".into(),
            position,
            incident: false,
        },
    }
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
