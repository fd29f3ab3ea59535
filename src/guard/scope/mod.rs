//! Names and flows: which relation every FROM entry is, which column every reference means, and which protected
//! columns reach which output column.
//!
//! One walk over a query gives all three. It is used twice: on the client's statement (where it also says which hidden
//! columns carry the people up to the answer) and on a view's definition (for its lineage).
//!
//! Masking does not depend on the flows: every protected relation is replaced by its masked scan wherever it stands. The
//! flows decide what is *counted*, what is *denied* by name, and what may be written elsewhere. They err to one side: a
//! reference that can't be pinned to one column is taken to mean every column in reach.

mod again;
mod carry;
mod equality;
mod found;
mod from;
mod levels;
mod lookup;
mod loose;
mod modify;
mod names;
mod references;
mod sets;
mod target;
mod windows;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::expression::{self, only_counts};
use super::parse::{Parsed, quote};
use super::protected::{ColumnTreatment, Kind};
use super::tree::Tree;
use crate::catalog::Catalog;
use crate::ledger::Categories;
use crate::meter::KeyShape;
use crate::meter::spec::{HIDDEN_PREFIX, UNKNOWN_KEY};
use crate::wire::Refusal;
use found::Carried;
pub use found::{
    Addition, Anchor, Atom, Compared, Hidden, Insert, OutColumn, Output, Scan, ScanId, Shorten, Spelled, Taint,
};
pub use lookup::{Given, Lookup, Stop, Treated};
pub use loose::{Loose, Many};
use names::{
    Cte, CteScope, Env, Item, KeyRef, Level, Named, Outer, blur, list_fits, plain_named, rename, side_by_side,
    star_names, star_of, union,
};
use target::targets;
pub use target::{Change, ConditionOf, Part, What};
use windows::WindowCall;

/// Whether the people of the answer are to be named by hidden columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum People {
    /// No: nothing of it reaches the client.
    No,
    /// Wherever they stand: RowDescription names them.
    Named,
    /// Behind all other columns: COPY names none.
    AtEnd,
}

/// Whether a level may add hidden columns to its output, and where its harm would be put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carry {
    /// Hidden columns are welcome.
    Yes,
    /// They would change the meaning.
    No,
}

/// The walk over one statement.
pub struct Walk<'w> {
    look: &'w dyn Lookup,
    parsed: &'w Parsed,
    /// Protected relations in the order of the text.
    pub scans: Vec<Scan>,
    /// Locations of all RangeVars that were understood.
    pub seen: BTreeSet<usize>,
    /// Relations as written: parts. For the witness.
    pub relations: BTreeSet<Vec<String>>,
    /// Hidden columns to add.
    pub inserts: Vec<Insert>,
    /// Byte ranges to delete so that `schema.table.column` becomes `table.column`; with the location of the ColumnRef and fields dropped.
    pub shorten: Vec<Shorten>,
    /// `*` elements to spell out.
    pub spelled: Vec<Spelled>,
    /// Changes that data modifications need.
    pub changes: Vec<Change>,
    /// A data modification is in it.
    pub writes: bool,
    /// Names of the output columns of the query levels that are being walked: ORDER BY and GROUP BY may mean them.
    labels: Vec<Vec<String>>,
    /// How many predicates, orders or groups surround what is being walked: its value does not reach the output as it is.
    predicates: usize,
    /// A name may be that of a column which the catalog does not have yet.
    pub(super) guessed: bool,
    /// Counted columns that the conditions of the level that is being walked compare.
    conditions: Taint,
    /// Sub-queries of the level that is being walked whose own conditions compare counted columns.
    asked: Vec<Asked>,
    /// Window functions met in the select list that is being walked.
    windows: Vec<WindowCall>,
    /// People of sub-queries in expressions, by frame and place.
    inside: HashMap<(usize, usize), Loose>,
    /// References met so far: to the query level that they stand in, and to levels around it.
    met: (usize, usize),
    /// References are not evaluated (index inference): they stay as they are.
    inferring: bool,
    /// Hidden columns of the whole statement must stand behind all others.
    at_end: bool,
    frame: usize,
    frames: usize,
    unthreaded: HashSet<usize>,
    next_thread: usize,
    next_hidden: usize,
    depth: usize,
}

const DEPTH_MAX: usize = 200;

impl<'w> Walk<'w> {
    /// Walks a query or data modification as the whole statement. Restarts itself where a hidden column does harm.
    pub fn query(
        look: &'w dyn Lookup,
        parsed: &'w Parsed,
        select: &Tree,
        people: People,
    ) -> Result<(Self, Output), Stop> {
        let mut unthreaded = HashSet::new();
        loop {
            let mut walk = Self {
                look,
                parsed,
                scans: Vec::new(),
                seen: BTreeSet::new(),
                relations: BTreeSet::new(),
                inserts: Vec::new(),
                shorten: Vec::new(),
                spelled: Vec::new(),
                changes: Vec::new(),
                writes: false,
                labels: Vec::new(),
                predicates: 0,
                guessed: false,
                conditions: Taint::new(),
                asked: Vec::new(),
                windows: Vec::new(),
                inside: HashMap::new(),
                met: (0, 0),
                inferring: false,
                at_end: people == People::AtEnd,
                frame: 0,
                frames: 0,
                unthreaded,
                next_thread: 0,
                next_hidden: 0,
                depth: 0,
            };
            let env = Env {
                ctes: None,
                outer: None,
            };
            let carry = if people != People::No && look.metered() {
                Carry::Yes
            } else {
                Carry::No
            };
            match walk.statement(select, env, carry, true) {
                Err(Stop::Again) => unthreaded = walk.unthreaded,
                Err(stop) => return Err(stop),
                Ok(output) => return Ok((walk, output)),
            }
        }
    }

    /// Categories that showing a column counts in.
    #[must_use]
    pub fn counts(&self, atom: Atom) -> Categories {
        self.treatment(atom).map_or(Categories::NONE, |t| t.counts)
    }

    /// The treatment of a column; `None` where it is not classified or in lineage mode.
    #[must_use]
    pub fn treatment(&self, atom: Atom) -> Option<&ColumnTreatment> {
        let scan = self.scans.get(atom.scan)?;
        let index = scan
            .protected
            .columns
            .iter()
            .position(|c| c.column.attnum == atom.attnum)?;
        scan.treatments.get(index)?.as_ref()
    }

    fn key_of(&self, atom: Atom) -> (ScanId, usize) {
        let index = self
            .scans
            .get(atom.scan)
            .and_then(|s| s.protected.column(atom.attnum))
            .map_or(0, |c| c.key);
        (atom.scan, index)
    }

    fn no_thread(&mut self, threads: &[usize]) -> Stop {
        self.unthreaded.extend(threads);
        Stop::Again
    }
}

// ── small parts ─────────────────────────────────────────────────────────────────────────────────────────────

/// What a value derives from.
#[derive(Debug, Default, Clone)]
struct Flow {
    taint: Taint,
    /// Of these, those of the row itself: not only by way of a window function.
    direct: Taint,
    identity: Option<Atom>,
    /// People of sub-queries in it.
    loose: Loose,
}

impl Flow {
    fn add(&mut self, other: Flow) {
        self.taint.extend(other.taint);
        self.direct.extend(other.direct);
        self.loose.extend(&other.loose);
        self.identity = None;
    }
    fn of_column(taint: Taint, identity: Option<Atom>) -> Self {
        Self {
            direct: taint.clone(),
            taint,
            identity,
            loose: Loose::default(),
        }
    }
    fn of_query(output: &Output) -> Self {
        Self {
            loose: output.loose.clone(),
            ..Self::of_column(union(&output.columns), None)
        }
    }
    fn derived(mut self) -> Self {
        self.identity = None;
        self
    }
}

/// The grouping of a query level.
struct Shape {
    grouped: bool,
    /// One of several groupings: a column that is grouped by may be NULL for rows that have a value in it.
    grouping_sets: bool,
    distinct: bool,
    plain: bool,
}

impl Shape {
    fn of(t: &Tree, catalog: &Catalog) -> Self {
        let mut aggregates = false;
        let mut windows = false;
        let mut look = |part: &Tree| {
            part.walk(&mut |n| match n.kind() {
                "SubLink" | "SelectStmt" => false,
                "JsonObjectAgg" | "JsonArrayAgg" => {
                    aggregates = true;
                    true
                }
                "FuncCall" => {
                    windows |= !n.field("over").is_null();
                    aggregates |= is_aggregate_call(n, catalog);
                    true
                }
                _ => true,
            });
        };
        for list in ["target_list", "sort_clause"] {
            t.list(list).iter().for_each(&mut look);
        }
        look(t.field("having_clause"));
        let grouped = aggregates || !t.list("group_clause").is_empty() || !t.field("having_clause").is_null();
        // `DISTINCT` alone is a list of one empty node; `DISTINCT ON (…)` keeps whole rows.
        let distinct_clause = t.list("distinct_clause");
        let distinct = !distinct_clause.is_empty() && distinct_clause.iter().all(Tree::is_null);
        let limited = !t.field("limit_count").is_null() || !t.field("limit_offset").is_null();
        let plain = !grouped && distinct_clause.is_empty() && !limited && !windows;
        let grouping_sets = t.list("group_clause").iter().any(|g| g.kind() == "GroupingSet");
        Self {
            grouped,
            grouping_sets,
            distinct,
            plain,
        }
    }
}

/// Whether a `FuncCall` is a call of an aggregate, and not over a window.
fn is_aggregate_call(t: &Tree, catalog: &Catalog) -> bool {
    let name = t.names("funcname").and_then(|mut f| f.pop()).unwrap_or_default();
    let user = catalog
        .functions
        .get(&name)
        .is_some_and(|f| f.iter().any(|f| f.kind == 'a'));
    let marked =
        t.flag("agg_star") || t.flag("agg_distinct") || t.flag("agg_within_group") || !t.list("agg_order").is_empty();
    t.field("over").is_null() && (marked || user || expression::is_aggregate(&name))
}

/// What a select list gives besides its columns.
#[derive(Default)]
struct ListParts<'t> {
    /// What its values derive from by way of the row itself.
    direct: Taint,
    /// People of sub-queries outside of window functions.
    loose: Loose,
    sublinks: Vec<SubUse<'t>>,
    windows: Vec<WindowCall>,
    /// Whom the level's conditions show.
    compared: BTreeSet<(ScanId, usize)>,
}

/// A sub-query that tells something of people by which rows it has.
struct Asked {
    tree: Tree,
    /// The counted columns.
    rows: Taint,
    /// It names columns of levels around it.
    correlated: bool,
}

/// A sub-query in an output expression.
struct SubUse<'t> {
    tree: &'t Tree,
    place: Place,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    Aggregate,
    Window,
}

fn collect_sublinks<'t>(t: &'t Tree, place: Place, catalog: &Catalog, out: &mut Vec<SubUse<'t>>) {
    match t.kind() {
        "SubLink" => {
            if matches!(t.int("sub_link_type"), 5 | 7) {
                out.push(SubUse { tree: t, place });
            }
            collect_sublinks(t.field("testexpr"), place, catalog, out);
        }
        "FuncCall" => {
            let inside = if !t.field("over").is_null() || place == Place::Window {
                Place::Window
            } else if is_aggregate_call(t, catalog) {
                Place::Aggregate
            } else {
                place
            };
            for child in t.children() {
                collect_sublinks(child, inside, catalog, out);
            }
        }
        "JsonObjectAgg" | "JsonArrayAgg" => {
            for child in t.children() {
                collect_sublinks(child, Place::Aggregate, catalog, out);
            }
        }
        _ => {
            for child in t.children() {
                collect_sublinks(child, place, catalog, out);
            }
        }
    }
}

/// The hidden column's SQL for a key that a FROM entry gives, lifted over the level's grouping.
fn lift(named: &Named, key: &KeyRef, shape: &Shape, partition: Option<&str>) -> (String, KeyShape) {
    let column = if named.alias.is_empty() {
        quote(&key.column)
    } else {
        format!("{}.{}", quote(&named.alias), quote(&key.column))
    };
    let one = if key.fresh && key.nullable {
        format!("COALESCE({column}::pg_catalog.text, '{UNKNOWN_KEY}')")
    } else if key.fresh {
        format!("{column}::pg_catalog.text")
    } else {
        column
    };
    let grouped = |distinct: &str| match key.shape {
        // People that cannot be told are not the same one.
        KeyShape::One if !distinct.is_empty() && (key.nullable || !key.fresh) => (
            format!(
                "pg_catalog.jsonb_build_array(pg_catalog.jsonb_agg(DISTINCT {one}), \
                 pg_catalog.jsonb_agg({one}) FILTER (WHERE {one} OPERATOR(pg_catalog.=) '{UNKNOWN_KEY}'::pg_catalog.text))"
            ),
            KeyShape::List,
        ),
        KeyShape::One => (format!("pg_catalog.jsonb_agg({distinct}{one})"), KeyShape::List),
        KeyShape::List => (format!("pg_catalog.jsonb_agg({one}::pg_catalog.jsonb)"), KeyShape::List),
        KeyShape::Count => (format!("pg_catalog.sum({one}::pg_catalog.int8)"), KeyShape::Count),
    };
    match (shape.grouped, partition) {
        (false, None) => (one, key.shape),
        (true, None) => {
            let (text, shape) = grouped("DISTINCT ");
            (format!("{text}::pg_catalog.text"), shape)
        }
        (false, Some(by)) => {
            let (text, shape) = grouped("");
            (format!("({text} OVER (PARTITION BY {by}))::pg_catalog.text"), shape)
        }
        (true, Some(by)) => {
            let (inner, shape) = grouped("DISTINCT ");
            let outer = if shape == KeyShape::Count { "sum" } else { "jsonb_agg" };
            (
                format!("(pg_catalog.{outer}({inner}) OVER (PARTITION BY {by}))::pg_catalog.text"),
                shape,
            )
        }
    }
}

/// Leaves of a tree of `UNION ALL`; false where another operation is in it, or a branch has clauses of its own.
fn union_all_leaves<'t>(t: &'t Tree, leaves: &mut Vec<&'t Tree>) -> bool {
    if t.int("op") == 2 && t.flag("all") {
        return ["larg", "rarg"].iter().all(|side| {
            let branch = t.field(side);
            union_all_leaves(branch, leaves) && (branch.int("op") <= 1 || !has_own_clauses(branch))
        });
    }
    leaves.push(t);
    t.int("op") <= 1 && t.list("values_lists").is_empty() && t.kind() == "SelectStmt"
}

/// Whether a set operation in parentheses has clauses of its own.
fn has_own_clauses(t: &Tree) -> bool {
    ["sort_clause", "locking_clause"].iter().any(|c| !t.list(c).is_empty())
        || ["limit_count", "limit_offset", "with_clause"]
            .iter()
            .any(|c| !t.field(c).is_null())
}

fn dotted(name: &crate::catalog::RelationName) -> String {
    format!("{}.{}", name.schema, name.name)
}

fn unsupported(rule: &'static str, what: impl Into<String>) -> Refusal {
    Refusal::unsupported(
        rule,
        format!("Menshen cannot judge this: {}", what.into()),
        "write the query in another form; protected relations allow only what can be proven",
    )
}

fn unmeterable() -> Refusal {
    Refusal::unsupported(
        "cannot-be-metered",
        "this query packs clear values of many people into one value, and they could not be counted",
        "put the sub-query into FROM (LATERAL), or select the rows themselves",
    )
}

fn unknown_node(kind: &str) -> Refusal {
    unsupported(
        "unknown-node",
        format!("a construct (`{kind}`) that it does not know in a query on protected relations"),
    )
}

fn missing(schema: Option<&str>, name: &str) -> Stop {
    let full = schema.map_or_else(|| name.to_owned(), |s| format!("{s}.{name}"));
    let refusal = Refusal {
        sqlstate: "42P01",
        rule: "relation-unknown",
        message: format!("relation \"{full}\" does not exist"),
        hint: "the database's catalog does not have it".into(),
        position: None,
        incident: false,
    };
    Stop::Missing(full, refusal)
}
