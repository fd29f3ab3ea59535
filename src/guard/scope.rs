//! Names and flows: which relation every FROM entry is, which column every reference means, and which protected
//! columns reach which output column.
//!
//! One walk over a query gives all three. It is used twice: on the client's statement (where it also says which hidden
//! columns carry the people up to the answer) and on a view's definition (for its lineage).
//!
//! Masking does not depend on the flows: every protected relation is replaced by its masked scan wherever it stands. The
//! flows decide what is *counted*, what is *denied* by name, and what may be written elsewhere. They err to one side: a
//! reference that can't be pinned to one column is taken to mean every column in reach.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::expression::{self, only_counts};
use super::parse::{Parsed, quote};
use super::protected::{ColumnTreatment, Kind, Protected};
use super::tree::Tree;
use crate::catalog::{Catalog, Relation};
use crate::ledger::Categories;
use crate::meter::KeyShape;
use crate::meter::spec::{HIDDEN_PREFIX, UNKNOWN_KEY};
use crate::wire::Refusal;

/// Index of a scan in [`Walk::scans`].
pub type ScanId = usize;

/// One column of one scan of a protected relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Atom {
    /// The scan.
    pub scan: ScanId,
    /// `attnum` in its relation.
    pub attnum: i16,
}

/// The classified columns that a value derives from.
pub type Taint = BTreeSet<Atom>;

/// A column of something in FROM, or of an output.
#[derive(Debug, Clone)]
pub struct OutColumn {
    /// Its name; `None` stands for any number of columns whose names can't be known.
    pub name: Option<String>,
    /// What it derives from.
    pub taint: Taint,
    /// The one column that it is, unchanged (also an unclassified one).
    pub identity: Option<Atom>,
}

/// A protected relation in FROM.
#[derive(Debug)]
pub struct Scan {
    /// The relation.
    pub protected: Arc<Protected>,
    /// Treatments by index of `protected.columns`; empty in lineage mode.
    pub treatments: Vec<Option<ColumnTreatment>>,
    /// Whether it must be replaced by a masked scan (else it passes as written).
    pub replaced: bool,
    /// Byte range of the relation in the text, `ONLY` and `*` included, alias not.
    pub span: (usize, usize),
    /// `ONLY`
    pub only: bool,
    /// The alias is written in the text.
    pub aliased: bool,
    /// Name under which the query knows it.
    pub alias: String,
    /// System columns that the query uses.
    pub system: BTreeSet<String>,
    /// Hidden key columns to add to the masked scan: (name, index of person key).
    pub extra: Vec<(String, usize)>,
    /// Columns that reach the answer (filled in at the end).
    pub shown: BTreeSet<i16>,
    /// For lineage: it stands in the top query's FROM, under inner joins only.
    pub simple: bool,
    /// Written as `TABLE name`: (byte offset of the keyword).
    pub table_keyword: Option<usize>,
    /// Rule of the row filter, and its text over the scan's columns.
    pub filter: Option<(String, String)>,
    /// Frame of the edit: 0 is the statement itself, others are copies of sub-queries.
    pub frame: usize,
    /// Location of the RangeVar.
    pub location: usize,
}

/// A hidden column in the output of a query level.
#[derive(Debug, Clone)]
pub struct Hidden {
    /// Its name.
    pub name: String,
    /// How to read it.
    pub shape: KeyShape,
    /// Whom it names: scan and index of its person key.
    pub key: (ScanId, usize),
}

/// A column to insert behind a target list: `, expression AS "name"`.
#[derive(Debug, Clone)]
pub struct Insert {
    /// Byte offset.
    pub at: usize,
    /// What it computes.
    pub expression: Addition,
    /// Name of the hidden column.
    pub name: String,
    /// Names the target list in the tree.
    pub anchor: Anchor,
    /// Frame of the edit.
    pub frame: usize,
}

/// Which target list an [`Insert`] follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anchor {
    /// The one whose last element begins at this byte.
    Last(usize),
    /// That of `TABLE name`, whose relation begins at this byte.
    Table(usize),
}

/// What a hidden column computes.
#[derive(Debug, Clone)]
pub enum Addition {
    /// SQL text.
    Text(String),
    /// The people of a copy of the sub-query in these bytes, edited as `frame`; `name` is the hidden column inside it.
    Copy {
        /// Byte range inside the parentheses.
        range: (usize, usize),
        /// Edits of the copy.
        frame: usize,
        /// Hidden column of the copy.
        name: String,
        /// Its shape inside the copy.
        shape: KeyShape,
    },
}

/// `schema.table.column` whose schema must go, because the table became a sub-select.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shorten {
    /// First byte of the reference: its location in the tree.
    pub start: usize,
    /// First byte that stays.
    pub end: usize,
    /// Fields dropped.
    pub fields: usize,
    /// Frame of the edit.
    pub frame: usize,
}

/// A `*` that is spelled out.
#[derive(Debug, Clone)]
pub struct Spelled {
    /// First byte of the element.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// The columns.
    pub text: String,
    /// Frame of the edit.
    pub frame: usize,
}

/// A hidden column to add: what it computes, how to read it, whom it names.
type Carried = (Addition, KeyShape, (ScanId, usize));

/// What a query level gives.
#[derive(Debug, Default)]
pub struct Output {
    /// Columns the client wrote.
    pub columns: Vec<OutColumn>,
    /// Hidden columns that the level carries besides.
    pub hidden: Vec<Hidden>,
    /// One row may hold values of several rows (aggregates, arrays) whose people no hidden column names.
    pub packed: bool,
    /// For lineage: no grouping, DISTINCT, LIMIT, window or set operation.
    pub plain: bool,
    /// How many of `hidden`, from the front, stand in the row because a `*` brings them.
    pub flowing: usize,
}

/// Why the walk stopped.
#[derive(Debug)]
pub enum Stop {
    /// The statement is refused.
    Refuse(Refusal),
    /// A relation is not in the catalog.
    Missing(String, Refusal),
    /// A hidden column would do harm somewhere: walk again without it.
    Again,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// How relations are looked up and treated.
pub trait Lookup {
    /// The catalog.
    fn catalog(&self) -> &Catalog;
    /// Search path.
    fn path(&self) -> &[String];
    /// The protected form of a relation, if it is.
    fn protected(&self, relation: &Relation) -> Result<Option<Arc<Protected>>, Refusal>;
    /// Treatments of its columns and whether it must be replaced; the row filter.
    fn treat(&self, protected: &Arc<Protected>) -> Result<Treated, Refusal>;
    /// Called for every function name in the query.
    fn function(&self, name: &[String], call: &Tree) -> Result<(), Refusal>;
    /// True on the client's statement: people must be carried to the answer.
    fn metered(&self) -> bool;
}

/// What [`Lookup::treat`] says.
#[derive(Debug, Default)]
pub struct Treated {
    /// By index of the relation's columns.
    pub treatments: Vec<Option<ColumnTreatment>>,
    /// Must be replaced.
    pub replaced: bool,
    /// Rule and SQL.
    pub filter: Option<(String, String)>,
}

/// How a person key is reached from a FROM entry.
#[derive(Debug, Clone)]
struct KeyRef {
    key: (ScanId, usize),
    /// Column of the FROM entry.
    column: String,
    shape: KeyShape,
    /// The raw person column (to be cast to text), not a hidden column of a query below.
    fresh: bool,
    nullable: bool,
}

/// Something that a qualified reference can name.
#[derive(Debug, Clone)]
struct Named {
    alias: String,
    /// Schema, for a table without alias: three-part references mean it.
    schema: Option<String>,
    columns: Vec<OutColumn>,
    keys: Vec<KeyRef>,
    scan: Option<ScanId>,
    /// Threads whose hidden columns show through `*` here.
    threads: Vec<usize>,
    /// True where the entry itself has hidden columns in its row (sub-query, CTE, scan with extra column).
    carries: bool,
    /// Hidden columns in its row.
    hidden: Vec<Hidden>,
    /// One row may hold several people whom no key names.
    packed: bool,
}

#[derive(Debug, Clone, Default)]
struct Item {
    /// What `*` gives, in order.
    star: Vec<OutColumn>,
    named: Vec<Named>,
}

#[derive(Debug, Clone, Default)]
struct Level {
    items: Vec<Item>,
}

impl Level {
    fn named(&self) -> impl Iterator<Item = &Named> {
        self.items.iter().flat_map(|i| &i.named)
    }
    fn star(&self) -> impl Iterator<Item = &OutColumn> {
        self.items.iter().flat_map(|i| &i.star)
    }
}

#[derive(Debug)]
struct Cte {
    name: String,
    columns: Vec<OutColumn>,
    hidden: Vec<Hidden>,
    packed: bool,
    thread: usize,
}

/// CTEs and outer query levels in reach.
#[derive(Clone, Copy)]
struct Env<'e> {
    ctes: Option<&'e CteScope<'e>>,
    outer: Option<&'e Outer<'e>>,
}

struct CteScope<'e> {
    ctes: Vec<Rc<Cte>>,
    parent: Option<&'e CteScope<'e>>,
}

struct Outer<'e> {
    level: &'e Level,
    parent: Option<&'e Outer<'e>>,
}

impl Env<'_> {
    fn cte(&self, name: &str) -> Option<Rc<Cte>> {
        let mut scope = self.ctes;
        while let Some(s) = scope {
            if let Some(cte) = s.ctes.iter().rev().find(|c| c.name == name) {
                return Some(Rc::clone(cte));
            }
            scope = s.parent;
        }
        None
    }
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
    frame: usize,
    frames: usize,
    unthreaded: HashSet<usize>,
    next_thread: usize,
    next_hidden: usize,
    depth: usize,
}

const DEPTH_MAX: usize = 200;

impl<'w> Walk<'w> {
    /// Walks a query (SelectStmt) as the whole statement. Restarts itself where a hidden column does harm.
    pub fn query(look: &'w dyn Lookup, parsed: &'w Parsed, select: &Tree, carry: bool) -> Result<(Self, Output), Stop> {
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
            let carry = if carry && look.metered() { Carry::Yes } else { Carry::No };
            match walk.select(select, env, carry, true) {
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

    // ── query levels ────────────────────────────────────────────────────────────────────────────────────────

    fn select(&mut self, t: &Tree, env: Env<'_>, carry: Carry, top: bool) -> Result<Output, Stop> {
        if t.kind() != "SelectStmt" {
            return Err(unsupported(
                "statement-in-query",
                "a data-modifying statement inside a query that reads protected relations",
            )
            .into());
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(unsupported("nesting", "queries nested more than 200 deep").into());
        }
        let result = self.select_with(t, env, carry, top);
        self.depth -= 1;
        result
    }

    fn select_with(&mut self, t: &Tree, env: Env<'_>, carry: Carry, top: bool) -> Result<Output, Stop> {
        let with = t.field("with_clause");
        if with.is_null() {
            return self.select_body(t, env, carry, top);
        }
        let mut scope = CteScope {
            ctes: Vec::new(),
            parent: env.ctes,
        };
        let recursive = with.flag("recursive");
        for cte in with.list("ctes") {
            let made = self.cte(cte, &scope, env, recursive)?;
            scope.ctes.push(Rc::new(made));
        }
        let env = Env {
            ctes: Some(&scope),
            outer: env.outer,
        };
        self.select_body(t, env, carry, top)
    }

    fn cte(&mut self, t: &Tree, scope: &CteScope<'_>, env: Env<'_>, recursive: bool) -> Result<Cte, Stop> {
        let thread = self.thread();
        let name = t.text("ctename").to_owned();
        let query = t.field("ctequery");
        let aliases = t.names("aliascolnames").unwrap_or_default();
        let here = Env {
            ctes: Some(scope),
            outer: env.outer,
        };
        let odd = !t.field("search_clause").is_null() || !t.field("cycle_clause").is_null();
        let (mut columns, hidden, packed) = if recursive && self.names_relation(query, &name) {
            self.recursive(query, &name, &aliases, here, thread)?
        } else {
            let carry = if self.unthreaded.contains(&thread) {
                Carry::No
            } else {
                Carry::Yes
            };
            let output = self.select(query, here, carry, false)?;
            (rename(output.columns, &aliases), output.hidden, output.packed)
        };
        if odd {
            let taint = union(&columns);
            columns.push(OutColumn {
                name: None,
                taint,
                identity: None,
            });
        }
        Ok(Cte {
            name,
            columns,
            hidden,
            packed,
            thread,
        })
    }

    /// Whether a query names a relation without schema of that name anywhere: then, under RECURSIVE, it may mean itself.
    fn names_relation(&self, query: &Tree, name: &str) -> bool {
        let mut found = false;
        query.walk(&mut |n| {
            found |= n.kind() == "RangeVar" && n.text("schemaname").is_empty() && n.text("relname") == name;
            !found
        });
        found
    }

    /// A CTE that names itself. Every column may come to hold what any column of either side holds: one walk then covers the
    /// least fixed point. Its people can't be carried (each round adds rows): the row above counts, packed rows are refused.
    fn recursive(
        &mut self,
        query: &Tree,
        name: &str,
        aliases: &[String],
        env: Env<'_>,
        thread: usize,
    ) -> Result<(Vec<OutColumn>, Vec<Hidden>, bool), Stop> {
        let (left, right) = (query.field("larg"), query.field("rarg"));
        if left.is_null() || right.is_null() || !query.field("with_clause").is_null() {
            return Err(unsupported(
                "recursive-query",
                "a recursive query of a form other than `… UNION [ALL] …`",
            )
            .into());
        }
        let first = self.select(left, env, Carry::No, false)?;
        let mut columns = rename(first.columns, aliases);
        blur(&mut columns, &Taint::new());
        let own = Cte {
            name: name.to_owned(),
            columns: columns.clone(),
            hidden: Vec::new(),
            packed: first.packed,
            thread,
        };
        let scope = CteScope {
            ctes: vec![Rc::new(own)],
            parent: env.ctes,
        };
        let second = self.select(
            right,
            Env {
                ctes: Some(&scope),
                outer: env.outer,
            },
            Carry::No,
            false,
        )?;
        blur(&mut columns, &union(&second.columns));
        for part in query.list("sort_clause") {
            self.expression(part, &Level::default(), env)?;
        }
        for part in ["limit_offset", "limit_count"] {
            self.expression(query.field(part), &Level::default(), env)?;
        }
        Ok((columns, Vec::new(), first.packed || second.packed))
    }

    fn thread(&mut self) -> usize {
        self.next_thread += 1;
        self.next_thread
    }

    fn select_body(&mut self, t: &Tree, env: Env<'_>, carry: Carry, top: bool) -> Result<Output, Stop> {
        if !t.field("into_clause").is_null() {
            return Err(unsupported("select-into", "SELECT INTO from protected relations").into());
        }
        if t.int("op") != 1 && t.int("op") != 0 {
            return self.set_operation(t, env, carry);
        }
        if !t.list("values_lists").is_empty() {
            return self.values(t, env);
        }
        let mut level = Level::default();
        let scans_before = self.scans.len();
        for item in t.list("from_clause") {
            let made = self.entry(item, env, &level, top, false)?;
            level.items.push(made);
        }
        let scans_after = self.scans.len();
        if let Some(keyword) = self.table_command(t) {
            for scan in self.scans.iter_mut().skip(scans_before) {
                scan.table_keyword = Some(keyword);
            }
        }
        self.locking(t, &level)?;
        for clause in ["where_clause", "having_clause", "limit_offset", "limit_count"] {
            self.expression(t.field(clause), &level, env)?;
        }
        for clause in ["group_clause", "window_clause", "sort_clause", "distinct_clause"] {
            for part in t.list(clause) {
                self.expression(part, &level, env)?;
            }
        }
        let shape = Shape::of(t, self.look.catalog());
        // Output columns.
        let mut columns = Vec::new();
        let mut sublinks: Vec<SubUse<'_>> = Vec::new();
        let mut stars: Vec<(&Tree, Option<String>)> = Vec::new();
        for target in t.list("target_list") {
            let value = target.field("val");
            if let Some(qualifier) = star_of(value) {
                columns.extend(self.expand_star(value, &qualifier, &level, env)?);
                if value.kind() == "ColumnRef" {
                    stars.push((target, qualifier.last().cloned()));
                }
                continue;
            }
            let before = self.scans.len();
            let flow = self.flow(value, &level, env)?;
            if self.scans.len() > before {
                collect_sublinks(value, false, &mut sublinks);
            }
            let name = if target.text("name").is_empty() {
                expression::column_name(value)
            } else {
                target.text("name").to_owned()
            };
            columns.push(OutColumn {
                name: Some(name),
                taint: flow.taint,
                identity: flow.identity,
            });
        }
        let mut output = Output {
            columns,
            hidden: Vec::new(),
            packed: false,
            plain: shape.plain,
            flowing: 0,
        };
        let from_packed = level
            .named()
            .any(|n| n.packed && !n.columns.iter().all(|c| c.taint.is_empty()));
        self.check_stars(&stars, &level, carry, &shape)?;
        if !self.look.metered() {
            output.packed = shape.grouped || from_packed || !sublinks.is_empty();
            return Ok(output);
        }
        self.spell_stars(&stars, &level)?;
        let shown: BTreeSet<(ScanId, usize)> = union(&output.columns)
            .into_iter()
            .filter(|a| !self.counts(*a).is_empty())
            .map(|a| self.key_of(a))
            .collect();
        if shown.is_empty() {
            return Ok(output);
        }
        if carry == Carry::No {
            output.packed = shape.grouped || from_packed || !sublinks.is_empty();
            return Ok(output);
        }
        self.carry(
            t,
            &level,
            &shape,
            &shown,
            (scans_before, scans_after),
            &stars,
            &sublinks,
            env,
            &mut output,
        )?;
        Ok(output)
    }

    /// `TABLE name`: the grammar makes it a SELECT whose `*` has no place. Gives the place of the keyword.
    fn table_command(&self, t: &Tree) -> Option<usize> {
        let [target] = t.list("target_list") else { return None };
        if target.location().is_some() {
            return None;
        }
        let [relation] = t.list("from_clause") else { return None };
        let mut index = self.parsed.token_at(relation.location()?)?;
        for _ in 0..3 {
            index = index.checked_sub(1)?;
            let token = self.parsed.token(index)?;
            if token.kind == pg_query::protobuf::Token::Table {
                return Some(token.start);
            }
        }
        None
    }

    /// Adds hidden columns that carry the people shown by this level.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one query level; a struct would only rename them"
    )]
    fn carry(
        &mut self,
        t: &Tree,
        level: &Level,
        shape: &Shape,
        shown: &BTreeSet<(ScanId, usize)>,
        own: (usize, usize),
        stars: &[(&Tree, Option<String>)],
        sublinks: &[SubUse<'_>],
        env: Env<'_>,
        output: &mut Output,
    ) -> Result<(), Stop> {
        // Columns that flow through a star stand in the row already.
        let flowing: Vec<Hidden> = level
            .named()
            .filter(|n| stars.iter().any(|(_, q)| q.as_ref().is_none_or(|q| *q == n.alias)))
            .flat_map(|n| n.hidden.clone())
            .collect();
        let mut names = HashSet::new();
        for hidden in &flowing {
            if !names.insert(hidden.name.clone()) {
                let threads: Vec<usize> = level.named().flat_map(|n| n.threads.clone()).collect();
                return Err(self.no_thread(&threads));
            }
        }
        let partition = if shape.distinct {
            Some(self.partition(t, level)?)
        } else {
            None
        };
        let mut additions: Vec<(String, KeyShape, (ScanId, usize))> = Vec::new();
        for key in shown {
            let mut found = false;
            for named in level.named() {
                for reference in named.keys.iter().filter(|r| r.key == *key) {
                    found = true;
                    let through_star = flowing.iter().any(|h| h.name == reference.column && !reference.fresh);
                    if through_star && !shape.grouped && !shape.distinct {
                        continue;
                    }
                    let (text, key_shape) = lift(named, reference, shape, partition.as_deref());
                    additions.push((text, key_shape, *key));
                }
            }
            if found {
                continue;
            }
            if (own.0..own.1).contains(&key.0) {
                // The people of this scan are lost below (DISTINCT set operations, recursion, whole rows): count rows.
                let packed = level
                    .named()
                    .any(|n| n.packed && n.columns.iter().any(|c| c.taint.iter().any(|a| a.scan == key.0)));
                if packed {
                    return Err(unmeterable().into());
                }
                let text = match (&partition, shape.grouped) {
                    (Some(by), false) => format!("pg_catalog.count(*) OVER (PARTITION BY {by})::pg_catalog.text"),
                    (Some(by), true) => {
                        format!("pg_catalog.sum(pg_catalog.count(*)) OVER (PARTITION BY {by})::pg_catalog.text")
                    }
                    (None, true) => "pg_catalog.count(*)::pg_catalog.text".to_owned(),
                    (None, false) => "'1'::pg_catalog.text".to_owned(),
                };
                additions.push((text, KeyShape::Count, *key));
            } else if key.0 >= own.1 {
                // Shown by a sub-query in an expression.
                if shape.grouped || shape.distinct || sublinks.iter().any(|s| s.in_aggregate) {
                    return Err(unmeterable().into());
                }
            }
        }
        output.flowing = flowing.len();
        output.hidden.extend(flowing);
        let Some((at, anchor)) = self.end_of_targets(t) else {
            return Err(unsupported("target-list", "a select list whose end can't be found").into());
        };
        for (text, key_shape, key) in additions {
            self.add_hidden(at, anchor, Addition::Text(text), key_shape, key, output);
        }
        // Sub-queries in output expressions: a copy of each brings its people along.
        let below: BTreeSet<(ScanId, usize)> = shown.iter().copied().filter(|k| k.0 >= own.1).collect();
        if !below.is_empty() {
            let mut carried = BTreeSet::new();
            for sublink in sublinks {
                for (addition, key_shape, key) in self.copy_people(sublink.tree, level, env)? {
                    carried.insert(key);
                    self.add_hidden(at, anchor, addition, key_shape, key, output);
                }
            }
            if !below.is_subset(&carried) {
                return Err(unmeterable().into());
            }
        }
        Ok(())
    }

    fn add_hidden(
        &mut self,
        at: usize,
        anchor: Anchor,
        expression: Addition,
        shape: KeyShape,
        key: (ScanId, usize),
        output: &mut Output,
    ) {
        let name = self.hidden_name();
        self.inserts.push(Insert {
            at,
            expression,
            name: name.clone(),
            anchor,
            frame: self.frame,
        });
        output.hidden.push(Hidden { name, shape, key });
    }

    fn hidden_name(&mut self) -> String {
        self.next_hidden += 1;
        format!("{HIDDEN_PREFIX}{}", self.next_hidden)
    }

    /// People of a sub-query in an output expression: hidden columns computed over a copy of it. The copy reads the same
    /// snapshot, so it sees the same rows, as long as nothing in it is volatile or picks rows at will.
    fn copy_people(&mut self, sublink: &Tree, level: &Level, env: Env<'_>) -> Result<Vec<Carried>, Stop> {
        let select = sublink.field("subselect");
        let limited = !select.field("limit_count").is_null() || !select.field("limit_offset").is_null();
        let mut volatile = limited && select.list("sort_clause").is_empty();
        select.walk(&mut |n| {
            if n.kind() == "FuncCall" {
                volatile |= n
                    .names("funcname")
                    .and_then(|mut f| f.pop())
                    .is_none_or(|f| expression::is_volatile(&f));
            }
            !volatile
        });
        let Some(range) = sublink.location().and_then(|at| self.parenthesised(at)) else {
            return Err(unmeterable().into());
        };
        if volatile {
            return Err(unmeterable().into());
        }
        let saved = self.frame;
        self.frames += 1;
        let frame = self.frames;
        self.frame = frame;
        let outer = Outer {
            level,
            parent: env.outer,
        };
        let inner = self.select(
            select,
            Env {
                ctes: env.ctes,
                outer: Some(&outer),
            },
            Carry::Yes,
            false,
        );
        self.frame = saved;
        let inner = inner?;
        let mut people = Vec::new();
        for hidden in inner.hidden {
            let Some(span) = self.scans.get(hidden.key.0).map(|s| s.span) else {
                return Err(unmeterable().into());
            };
            // The copy's scans are other scans of the same text: the people are those of the original.
            let Some(original) = self.scans.iter().position(|s| s.frame == saved && s.span == span) else {
                return Err(unmeterable().into());
            };
            let shape = if hidden.shape == KeyShape::Count {
                KeyShape::Count
            } else {
                KeyShape::List
            };
            let addition = Addition::Copy {
                range,
                frame,
                name: hidden.name,
                shape: hidden.shape,
            };
            people.push((addition, shape, (original, hidden.key.1)));
        }
        Ok(people)
    }

    /// The bytes inside the first parentheses at or after `at`.
    fn parenthesised(&self, at: usize) -> Option<(usize, usize)> {
        use pg_query::protobuf::Token;
        let mut index = self.parsed.token_at(at)?;
        let mut token = self.parsed.token(index)?;
        if token.kind == Token::Array {
            index += 1;
            token = self.parsed.token(index)?;
        }
        if token.kind != Token::Ascii40 {
            return None;
        }
        let start = token.end;
        let mut depth = 1_usize;
        while depth > 0 {
            index += 1;
            token = self.parsed.token(index)?;
            match token.kind {
                Token::Ascii40 => depth += 1,
                Token::Ascii41 => depth -= 1,
                _ => {}
            }
        }
        Some((start, token.start))
    }

    /// Where the target list ends, and the anchor that names it in the tree.
    fn end_of_targets(&self, t: &Tree) -> Option<(usize, Anchor)> {
        use pg_query::protobuf::Token;
        let last = t.list("target_list").last()?;
        let Some(start) = last.location() else {
            let relation = t.list("from_clause").first()?.location()?;
            return Some((relation, Anchor::Table(relation)));
        };
        let mut index = self.parsed.token_at(start)?;
        let mut depth = 0_usize;
        let mut end = start;
        let mut previous: Option<Token> = None;
        let mut before: Option<Token> = None;
        while let Some(token) = self.parsed.token(index) {
            let label = previous == Some(Token::As) || previous == Some(Token::Ascii46);
            if depth == 0 && index != self.parsed.token_at(start)? && !label {
                let distinct_from = token.kind == Token::From
                    && previous == Some(Token::Distinct)
                    && matches!(before, Some(Token::Is | Token::Not));
                let within_group = token.kind == Token::GroupP
                    && self
                        .parsed
                        .token(index.checked_sub(1)?)
                        .is_some_and(|t| self.parsed.slice(t.start, t.end).eq_ignore_ascii_case("within"));
                let ends = matches!(
                    token.kind,
                    Token::Ascii41
                        | Token::Ascii44
                        | Token::Ascii59
                        | Token::Ascii93
                        | Token::From
                        | Token::Where
                        | Token::GroupP
                        | Token::Having
                        | Token::Window
                        | Token::Union
                        | Token::Intersect
                        | Token::Except
                        | Token::Order
                        | Token::Limit
                        | Token::Offset
                        | Token::Fetch
                        | Token::For
                        | Token::Into
                );
                if ends && !distinct_from && !within_group {
                    break;
                }
            }
            match token.kind {
                Token::Ascii40 | Token::Ascii91 => depth += 1,
                Token::Ascii41 | Token::Ascii93 => depth = depth.checked_sub(1)?,
                _ => {}
            }
            end = token.end;
            before = previous;
            previous = Some(token.kind);
            index += 1;
        }
        Some((end, Anchor::Last(start)))
    }

    /// `PARTITION BY` list over the output columns of a DISTINCT level: rows that DISTINCT folds into one share a window.
    fn partition(&self, t: &Tree, level: &Level) -> Result<String, Stop> {
        use pg_query::protobuf::Token;
        let mut parts: Vec<String> = Vec::new();
        let targets = t.list("target_list");
        for (i, target) in targets.iter().enumerate() {
            let value = target.field("val");
            if let Some(qualifier) = star_of(value) {
                parts.extend(star_names(level, qualifier.last()).ok_or_else(unmeterable)?);
                continue;
            }
            let start = target.location().ok_or_else(unmeterable)?;
            let next = match targets.get(i + 1) {
                Some(next) => next.location().ok_or_else(unmeterable)?,
                None => self.end_of_targets(t).ok_or_else(unmeterable)?.0 + 1,
            };
            let first = self.parsed.token_at(start).ok_or_else(unmeterable)?;
            let mut tokens: Vec<super::parse::Tok> = (first..)
                .map_while(|k| self.parsed.token(k))
                .take_while(|k| k.start < next)
                .collect();
            if targets.get(i + 1).is_some() {
                tokens.pop(); // the comma
            }
            if !target.text("name").is_empty() {
                tokens.pop(); // the label
                if tokens.last().is_some_and(|k| k.kind == Token::As) {
                    tokens.pop();
                }
            }
            let end = tokens.last().ok_or_else(unmeterable)?.end;
            if matches!(value.kind(), "AConst" | "ParamRef") {
                continue; // the same in every row; a bare number would not mean itself here
            }
            parts.push(format!("({})", self.parsed.slice(start, end)));
            let mut odd = false;
            value.walk(&mut |n| {
                odd |= n.kind() == "SubLink" || n.kind() == "ColumnRef" && n.list("fields").len() > 2;
                odd |= n.kind() == "FuncCall"
                    && (n
                        .names("funcname")
                        .and_then(|mut f| f.pop())
                        .is_none_or(|f| expression::is_volatile(&f))
                        || !n.field("over").is_null());
                !odd
            });
            if odd {
                return Err(unmeterable().into());
            }
        }
        if parts.is_empty() {
            parts.push("1::pg_catalog.int4".to_owned());
        }
        Ok(parts.join(", "))
    }

    fn check_stars(
        &mut self,
        stars: &[(&Tree, Option<String>)],
        level: &Level,
        carry: Carry,
        shape: &Shape,
    ) -> Result<(), Stop> {
        if carry == Carry::Yes && !shape.grouped && !shape.distinct {
            return Ok(());
        }
        let threads: Vec<usize> = level
            .named()
            .filter(|n| n.carries && stars.iter().any(|(_, q)| q.as_ref().is_none_or(|q| *q == n.alias)))
            .flat_map(|n| n.threads.clone())
            .collect();
        if threads.is_empty() {
            Ok(())
        } else {
            Err(self.no_thread(&threads))
        }
    }

    /// Where a masked scan gives system columns, `*` must not show them: it is spelled out.
    fn spell_stars(&mut self, stars: &[(&Tree, Option<String>)], level: &Level) -> Result<(), Stop> {
        let with_system = |n: &Named| {
            n.scan
                .and_then(|s| self.scans.get(s))
                .is_some_and(|s| s.replaced && !s.system.is_empty())
        };
        let mut spelled = Vec::new();
        for (target, qualifier) in stars {
            let covered: Vec<&Named> = level
                .named()
                .filter(|n| qualifier.as_ref().is_none_or(|q| *q == n.alias))
                .collect();
            if !covered.iter().any(|n| with_system(n)) {
                continue;
            }
            let names = star_names(level, qualifier.as_ref());
            let hidden = covered.iter().any(|n| n.carries);
            let place = target.location().and_then(|start| {
                let mut index = self.parsed.token_at(start)?;
                loop {
                    let token = self.parsed.token(index)?;
                    if token.kind == pg_query::protobuf::Token::Ascii42 {
                        return Some((start, token.end));
                    }
                    index += 1;
                }
            });
            let (Some(names), Some((start, end)), false) = (names, place, hidden) else {
                return Err(unsupported("system-column-with-star", "a system column beside `*` in this form").into());
            };
            spelled.push(Spelled {
                start,
                end,
                text: names.join(", "),
                frame: self.frame,
            });
        }
        self.spelled.extend(spelled);
        Ok(())
    }

    // ── set operations and VALUES ───────────────────────────────────────────────────────────────────────────

    fn set_operation(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let thread = self.thread();
        let mut leaves = Vec::new();
        let all = union_all_leaves(t, &mut leaves);
        let threadable = all && carry == Carry::Yes && self.look.metered() && !self.unthreaded.contains(&thread);
        let output = if threadable {
            self.union_all(&leaves, env, thread)?
        } else {
            let left = self.select(t.field("larg"), env, Carry::No, false)?;
            let right = self.select(t.field("rarg"), env, Carry::No, false)?;
            let columns = side_by_side(left.columns, &right.columns);
            Output {
                columns,
                hidden: Vec::new(),
                packed: left.packed || right.packed,
                plain: false,
                flowing: 0,
            }
        };
        let level = Level {
            items: vec![Item {
                star: output.columns.clone(),
                named: Vec::new(),
            }],
        };
        for part in t.list("sort_clause") {
            self.expression(part, &level, env)?;
        }
        for part in ["limit_offset", "limit_count"] {
            self.expression(t.field(part), &Level::default(), env)?;
        }
        Ok(output)
    }

    /// UNION ALL keeps rows apart, so each branch can carry its people, with NULL in the places of the others.
    fn union_all(&mut self, leaves: &[&Tree], env: Env<'_>, thread: usize) -> Result<Output, Stop> {
        let mut outputs: Vec<(Output, usize)> = Vec::new();
        for leaf in leaves {
            let before = self.inserts.len();
            let output = self.select(leaf, env, Carry::Yes, false)?;
            if output.flowing > 0 {
                return Err(self.no_thread(&[thread]));
            }
            outputs.push((output, before));
        }
        let total: usize = outputs.iter().map(|(o, _)| o.hidden.len()).sum();
        let mut hidden: Vec<Hidden> = Vec::new();
        if total > 0 {
            let ends: Option<Vec<(usize, Anchor)>> = leaves.iter().map(|l| self.end_of_targets(l)).collect();
            let Some(ends) = ends else {
                return Err(self.no_thread(&[thread]));
            };
            if leaves.iter().any(|l| !l.list("values_lists").is_empty()) {
                return Err(self.no_thread(&[thread]));
            }
            let lists: Vec<Vec<Hidden>> = outputs.iter().map(|(o, _)| o.hidden.clone()).collect();
            let mut rebuilt: Vec<Insert> = Vec::new();
            let first_before = outputs.first().map_or(self.inserts.len(), |(_, b)| *b);
            let own: Vec<Insert> = self.inserts.split_off(first_before);
            // Inserts of levels below a branch stay; those of the branch's own list are put in line.
            let (mine, below): (Vec<Insert>, Vec<Insert>) = own
                .into_iter()
                .partition(|i| ends.iter().any(|(_, a)| *a == i.anchor && i.frame == self.frame));
            rebuilt.extend(below);
            for (leaf, (at, anchor)) in ends.iter().enumerate() {
                for (other, list) in lists.iter().enumerate() {
                    for h in list {
                        let insert = if other == leaf {
                            mine.iter().find(|i| i.name == h.name).cloned()
                        } else {
                            Some(Insert {
                                at: *at,
                                expression: Addition::Text("NULL::pg_catalog.text".to_owned()),
                                name: self.hidden_name(),
                                anchor: *anchor,
                                frame: self.frame,
                            })
                        };
                        let Some(insert) = insert else {
                            return Err(self.no_thread(&[thread]));
                        };
                        if leaf == 0 {
                            hidden.push(Hidden {
                                name: insert.name.clone(),
                                shape: h.shape,
                                key: h.key,
                            });
                        }
                        rebuilt.push(insert);
                    }
                }
            }
            self.inserts.extend(rebuilt);
        }
        let packed = outputs.iter().any(|(o, _)| o.packed);
        let mut parts = outputs.into_iter().map(|(o, _)| o.columns);
        let mut columns = parts.next().unwrap_or_default();
        for more in parts {
            columns = side_by_side(columns, &more);
        }
        Ok(Output {
            columns,
            hidden,
            packed,
            plain: false,
            flowing: 0,
        })
    }

    fn values(&mut self, t: &Tree, env: Env<'_>) -> Result<Output, Stop> {
        let mut columns: Vec<OutColumn> = Vec::new();
        let mut packed = false;
        for row in t.list("values_lists") {
            for (i, value) in row.list("items").iter().enumerate() {
                let flow = self.flow(value, &Level::default(), env)?;
                packed |= flow.packed;
                match columns.get_mut(i) {
                    Some(column) => column.taint.extend(flow.taint),
                    None => columns.push(OutColumn {
                        name: Some(format!("column{}", i + 1)),
                        taint: flow.taint,
                        identity: None,
                    }),
                }
            }
        }
        for part in ["limit_offset", "limit_count"] {
            self.expression(t.field(part), &Level::default(), env)?;
        }
        for part in t.list("sort_clause") {
            self.expression(part, &Level::default(), env)?;
        }
        Ok(Output {
            columns,
            hidden: Vec::new(),
            packed,
            plain: false,
            flowing: 0,
        })
    }

    // ── FROM ────────────────────────────────────────────────────────────────────────────────────────────────

    /// One FROM entry. `so_far` holds the entries to its left, which LATERAL ones may name.
    fn entry(&mut self, t: &Tree, env: Env<'_>, so_far: &Level, simple: bool, nullable: bool) -> Result<Item, Stop> {
        match t.kind() {
            "RangeVar" => self.range_var(t, env, simple && !nullable, nullable),
            "RangeSubselect" => {
                let thread = self.thread();
                let carry = if self.unthreaded.contains(&thread) {
                    Carry::No
                } else {
                    Carry::Yes
                };
                let outer = Outer {
                    level: so_far,
                    parent: env.outer,
                };
                // Without LATERAL the left entries are not in scope; taking them to be can only add to what is counted.
                let inner = Env {
                    ctes: env.ctes,
                    outer: Some(&outer),
                };
                let output = self.select(t.field("subquery"), inner, carry, false)?;
                let alias = t.field("alias");
                Ok(self.derived(
                    output.columns,
                    output.hidden,
                    output.packed,
                    thread,
                    alias,
                    "",
                    nullable,
                ))
            }
            "JoinExpr" => self.join(t, env, so_far, simple, nullable),
            "RangeFunction" | "RangeTableFunc" | "JsonTable" => self.function_item(t, env, so_far),
            "RangeTableSample" => {
                let item = self.entry(t.field("relation"), env, so_far, false, nullable)?;
                for part in t.list("args") {
                    self.expression(part, so_far, env)?;
                }
                self.expression(t.field("repeatable"), so_far, env)?;
                if item
                    .named
                    .iter()
                    .any(|n| n.scan.and_then(|s| self.scans.get(s)).is_some_and(|s| s.replaced))
                {
                    return Err(unsupported("tablesample", "TABLESAMPLE on a protected relation").into());
                }
                Ok(item)
            }
            _ => Err(unknown_node(t.kind()).into()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one derived table")]
    fn derived(
        &mut self,
        columns: Vec<OutColumn>,
        hidden: Vec<Hidden>,
        packed: bool,
        thread: usize,
        alias: &Tree,
        name: &str,
        nullable: bool,
    ) -> Item {
        let columns = rename(columns, &alias.names("colnames").unwrap_or_default());
        let alias = if alias.is_null() { name } else { alias.text("aliasname") };
        let keys = hidden
            .iter()
            .map(|h| KeyRef {
                key: h.key,
                column: h.name.clone(),
                shape: h.shape,
                fresh: false,
                nullable,
            })
            .collect();
        let named = Named {
            alias: alias.to_owned(),
            schema: None,
            columns: columns.clone(),
            keys,
            scan: None,
            threads: vec![thread],
            carries: !hidden.is_empty(),
            hidden,
            packed,
        };
        Item {
            star: columns,
            named: vec![named],
        }
    }

    fn range_var(&mut self, t: &Tree, env: Env<'_>, simple: bool, nullable: bool) -> Result<Item, Stop> {
        let (schema, name) = (t.text("schemaname"), t.text("relname"));
        let location = t
            .location()
            .ok_or_else(|| unsupported("relation-place", "a relation without a place in the text"))?;
        self.seen.insert(location);
        let alias = t.field("alias");
        if schema.is_empty()
            && t.text("catalogname").is_empty()
            && let Some(cte) = env.cte(name)
        {
            return Ok(self.derived(
                cte.columns.clone(),
                cte.hidden.clone(),
                cte.packed,
                cte.thread,
                alias,
                name,
                nullable,
            ));
        }
        let mut written: Vec<String> = Vec::new();
        for part in [t.text("catalogname"), schema, name] {
            if !part.is_empty() {
                written.push(part.to_owned());
            }
        }
        self.relations.insert(written);
        let catalog = self.look.catalog();
        let database = t.text("catalogname");
        if !database.is_empty() && database != catalog.database {
            return Err(unsupported("cross-database", "cross-database references are not implemented").into());
        }
        let schema = (!schema.is_empty()).then_some(schema);
        let Some(relation) = catalog.resolve(schema, name, self.look.path()) else {
            return Err(missing(schema, name));
        };
        let aliased = !alias.is_null();
        let shown = if aliased {
            alias.text("aliasname").to_owned()
        } else {
            name.to_owned()
        };
        let Some(protected) = self.look.protected(relation)? else {
            let columns: Vec<OutColumn> = relation
                .columns
                .iter()
                .map(|c| OutColumn {
                    name: Some(c.name.clone()),
                    taint: Taint::new(),
                    identity: None,
                })
                .collect();
            let columns = rename(columns, &alias.names("colnames").unwrap_or_default());
            let named = Named {
                alias: shown,
                schema: (!aliased).then(|| relation.name.schema.clone()),
                columns: columns.clone(),
                keys: Vec::new(),
                scan: None,
                threads: Vec::new(),
                carries: false,
                hidden: Vec::new(),
                packed: false,
            };
            return Ok(Item {
                star: columns,
                named: vec![named],
            });
        };
        let treated = self.look.treat(&protected)?;
        let id = self.scans.len();
        let thread = self.thread();
        let columns: Vec<OutColumn> = protected
            .columns
            .iter()
            .map(|c| {
                let atom = Atom {
                    scan: id,
                    attnum: c.column.attnum,
                };
                let taint = if c.sources.is_empty() {
                    Taint::new()
                } else {
                    Taint::from([atom])
                };
                OutColumn {
                    name: Some(c.column.name.clone()),
                    taint,
                    identity: Some(atom),
                }
            })
            .collect();
        let columns = rename(columns, &alias.names("colnames").unwrap_or_default());
        let (mut keys, mut hidden, mut extra) = (Vec::new(), Vec::new(), Vec::new());
        for (index, key) in protected.keys.iter().enumerate() {
            let Some(column) = &key.column else { continue };
            let Some(position) = protected.columns.iter().position(|c| c.column.name == *column) else {
                continue;
            };
            let masked = treated
                .treatments
                .get(position)
                .and_then(Option::as_ref)
                .is_some_and(|t| t.kind != Kind::Clear);
            if !masked {
                // Alias column lists rename it.
                let name = columns
                    .get(position)
                    .and_then(|c| c.name.clone())
                    .unwrap_or_else(|| column.clone());
                keys.push(KeyRef {
                    key: (id, index),
                    column: name,
                    shape: KeyShape::One,
                    fresh: true,
                    nullable: !key.not_null,
                });
            } else if self.look.metered() && treated.replaced && !self.unthreaded.contains(&thread) {
                let name = self.hidden_name();
                extra.push((name.clone(), index));
                keys.push(KeyRef {
                    key: (id, index),
                    column: name.clone(),
                    shape: KeyShape::One,
                    fresh: false,
                    nullable,
                });
                hidden.push(Hidden {
                    name,
                    shape: KeyShape::One,
                    key: (id, index),
                });
            }
        }
        let packed = protected.keys.iter().any(|k| k.many && k.column.is_none());
        let (span, only) = self
            .relation_span(location)
            .ok_or_else(|| unsupported("relation-place", "a relation whose place in the text can't be found"))?;
        self.scans.push(Scan {
            treatments: treated.treatments,
            replaced: treated.replaced,
            span,
            only: only || !t.flag("inh"),
            aliased,
            alias: shown.clone(),
            system: BTreeSet::new(),
            extra,
            shown: BTreeSet::new(),
            simple,
            table_keyword: None,
            filter: treated.filter,
            frame: self.frame,
            location,
            protected: Arc::clone(&protected),
        });
        let named = Named {
            alias: shown,
            schema: (!aliased).then(|| relation.name.schema.clone()),
            columns: columns.clone(),
            keys,
            scan: Some(id),
            threads: vec![thread],
            carries: !hidden.is_empty(),
            hidden,
            packed,
        };
        Ok(Item {
            star: columns,
            named: vec![named],
        })
    }

    /// The bytes of a relation name: `[ONLY [(]] [catalog.][schema.]name [)] [*]`, and whether `ONLY` is there.
    fn relation_span(&self, location: usize) -> Option<((usize, usize), bool)> {
        use pg_query::protobuf::Token;
        let first = self.parsed.token_at(location)?;
        let mut last = first;
        // A U&"…" name may be followed by UESCAPE '…'.
        let skip_escape = |mut i: usize| -> Option<usize> {
            while self.parsed.token(i + 1).is_some_and(|t| t.kind == Token::Uescape) {
                i += 2;
                self.parsed.token(i)?;
            }
            Some(i)
        };
        last = skip_escape(last)?;
        while self.parsed.token(last + 1).is_some_and(|t| t.kind == Token::Ascii46) {
            last = skip_escape(last + 2)?;
        }
        let mut start = self.parsed.token(first)?.start;
        let mut only = false;
        if let Some(before) = first.checked_sub(1).and_then(|i| self.parsed.token(i)) {
            if before.kind == Token::Only {
                start = before.start;
                only = true;
            } else if before.kind == Token::Ascii40
                && let Some(keyword) = first.checked_sub(2).and_then(|i| self.parsed.token(i))
                && keyword.kind == Token::Only
            {
                start = keyword.start;
                only = true;
                last += 1;
                if self.parsed.token(last)?.kind != Token::Ascii41 {
                    return None;
                }
            }
        }
        if !only && self.parsed.token(last + 1).is_some_and(|t| t.kind == Token::Ascii42) {
            last += 1;
        }
        Some(((start, self.parsed.token(last)?.end), only))
    }

    fn join(&mut self, t: &Tree, env: Env<'_>, so_far: &Level, simple: bool, nullable: bool) -> Result<Item, Stop> {
        // 1 inner, 2 left, 3 full, 4 right: PostgreSQL's JoinType.
        let kind = t.int("jointype");
        let left = self.entry(t.field("larg"), env, so_far, simple, nullable || kind == 3 || kind == 4)?;
        let mut with_left = so_far.clone();
        with_left.items.push(left.clone());
        let right = self.entry(
            t.field("rarg"),
            env,
            &with_left,
            simple,
            nullable || kind == 2 || kind == 3,
        )?;
        let natural = t.flag("is_natural");
        let mut named: Vec<Named> = left.named.into_iter().chain(right.named).collect();
        if natural {
            let threads: Vec<usize> = named
                .iter()
                .filter(|n| n.carries)
                .flat_map(|n| n.threads.clone())
                .collect();
            if !threads.is_empty() {
                return Err(self.no_thread(&threads));
            }
            if named.iter().any(|n| {
                n.scan
                    .and_then(|s| self.scans.get(s))
                    .is_some_and(|s| !s.system.is_empty())
            }) {
                return Err(unsupported("system-column-with-natural", "a system column beside NATURAL JOIN").into());
            }
        }
        let mut both = so_far.clone();
        both.items.push(Item {
            star: left.star.iter().chain(&right.star).cloned().collect(),
            named: named.clone(),
        });
        self.expression(t.field("quals"), &both, env)?;
        let common: Vec<String> = if natural {
            left.star
                .iter()
                .filter_map(|c| c.name.clone())
                .filter(|n| right.star.iter().any(|c| c.name.as_ref() == Some(n)))
                .collect()
        } else {
            t.names("using_clause").unwrap_or_default()
        };
        let mut star: Vec<OutColumn> = Vec::new();
        for name in &common {
            let mut taint = Taint::new();
            for c in left
                .star
                .iter()
                .chain(&right.star)
                .filter(|c| c.name.as_ref() == Some(name))
            {
                taint.extend(c.taint.iter().copied());
            }
            self.touch(&taint)?;
            let identity = left
                .star
                .iter()
                .find(|c| c.name.as_ref() == Some(name))
                .and_then(|c| c.identity);
            star.push(OutColumn {
                name: Some(name.clone()),
                taint,
                identity: if kind == 1 { identity } else { None },
            });
        }
        let rest = |c: &&OutColumn| c.name.as_ref().is_none_or(|n| !common.contains(n));
        star.extend(left.star.iter().filter(rest).cloned());
        star.extend(right.star.iter().filter(rest).cloned());
        let using_alias = t.field("join_using_alias");
        if !using_alias.is_null() {
            let columns = star.iter().take(common.len()).cloned().collect();
            named.push(plain_named(using_alias.text("aliasname"), columns));
        }
        let alias = t.field("alias");
        if alias.is_null() {
            return Ok(Item { star, named });
        }
        // An alias hides the names inside; keys stay in reach where their column name is unique.
        let star = rename(star, &alias.names("colnames").unwrap_or_default());
        let renamed = !alias.list("colnames").is_empty();
        let unique = |name: &str| !renamed && star.iter().filter(|c| c.name.as_deref() == Some(name)).count() == 1;
        let mut keys = Vec::new();
        let mut hidden = Vec::new();
        for n in &named {
            keys.extend(n.keys.iter().filter(|k| !k.fresh || unique(&k.column)).cloned());
            hidden.extend(n.hidden.clone());
        }
        let joined = Named {
            alias: alias.text("aliasname").to_owned(),
            schema: None,
            columns: star.clone(),
            keys,
            scan: None,
            threads: named.iter().flat_map(|n| n.threads.clone()).collect(),
            carries: named.iter().any(|n| n.carries),
            hidden,
            packed: named.iter().any(|n| n.packed),
        };
        Ok(Item {
            star,
            named: vec![joined],
        })
    }

    /// Functions, XMLTABLE and JSON_TABLE in FROM: their columns derive from their arguments.
    fn function_item(&mut self, t: &Tree, env: Env<'_>, so_far: &Level) -> Result<Item, Stop> {
        let mut taint = Taint::new();
        let mut packed = false;
        for field in [
            "functions",
            "docexpr",
            "rowexpr",
            "namespaces",
            "columns",
            "context_item",
            "pathspec",
            "passing",
            "on_error",
        ] {
            let part = t.field(field);
            if !part.is_null() {
                let flow = self.flow_any(part, so_far, env)?;
                taint.extend(flow.taint);
                packed |= flow.packed;
            }
        }
        let alias = t.field("alias");
        let mut names: Vec<String> = t
            .list("coldeflist")
            .iter()
            .map(|c| c.text("colname").to_owned())
            .collect();
        let closed = !names.is_empty() && !t.flag("ordinality");
        if names.is_empty() {
            names = alias.names("colnames").unwrap_or_default();
        }
        let shown = if alias.is_null() {
            t.list("functions").first().map_or_else(String::new, |f| {
                f.list("items")
                    .first()
                    .map_or_else(String::new, expression::column_name)
            })
        } else {
            alias.text("aliasname").to_owned()
        };
        if names.is_empty() {
            // A function of one unnamed column names it after the alias.
            names.push(shown.clone());
        }
        let mut columns: Vec<OutColumn> = names
            .into_iter()
            .map(|n| OutColumn {
                name: Some(n),
                taint: taint.clone(),
                identity: None,
            })
            .collect();
        if !closed {
            columns.push(OutColumn {
                name: None,
                taint: taint.clone(),
                identity: None,
            });
        }
        let mut named = plain_named(&shown, columns.clone());
        named.packed = packed;
        Ok(Item {
            star: columns,
            named: vec![named],
        })
    }

    fn locking(&mut self, t: &Tree, level: &Level) -> Result<(), Stop> {
        for clause in t.list("locking_clause") {
            for relation in clause.list("locked_rels") {
                if let Some(location) = relation.location() {
                    self.seen.insert(location);
                }
                let name = relation.text("relname");
                if !relation.text("schemaname").is_empty() || !level.named().any(|n| n.alias == name) {
                    return Err(Refusal {
                        sqlstate: "42P01",
                        ..unsupported(
                            "locking-clause",
                            format!("relation \"{name}\" in FOR clause not found in FROM clause"),
                        )
                    }
                    .into());
                }
            }
        }
        Ok(())
    }

    // ── expressions ─────────────────────────────────────────────────────────────────────────────────────────

    /// Walks an expression whose value does not reach the output.
    fn expression(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<(), Stop> {
        if !t.is_null() {
            self.flow_any(t, level, env)?;
        }
        Ok(())
    }

    /// What the value of an expression derives from.
    fn flow(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        self.flow_any(t, level, env)
    }

    fn flow_any(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        match t {
            Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => return Ok(Flow::default()),
            Tree::List(items) => {
                let mut all = Flow::default();
                for item in items {
                    all.add(self.flow_any(item, level, env)?);
                }
                return Ok(all);
            }
            Tree::Node(..) => {}
        }
        self.depth += 1;
        if self.depth > 4 * DEPTH_MAX {
            return Err(unsupported("nesting", "expressions nested more than 800 deep").into());
        }
        let flow = self.flow_node(t, level, env);
        self.depth -= 1;
        flow
    }

    fn flow_node(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        match t.kind() {
            "ColumnRef" => self.column(t, level, env),
            "SubLink" => self.sublink(t, level, env),
            "SelectStmt" => {
                // A query inside an SQL/JSON constructor.
                let outer = Outer {
                    level,
                    parent: env.outer,
                };
                let output = self.select(
                    t,
                    Env {
                        ctes: env.ctes,
                        outer: Some(&outer),
                    },
                    Carry::No,
                    false,
                )?;
                Ok(Flow {
                    taint: union(&output.columns),
                    identity: None,
                    packed: true,
                })
            }
            "FuncCall" => {
                let name = t.names("funcname").ok_or_else(|| unknown_node("function name"))?;
                self.look.function(&name, t)?;
                let mut flow = Flow::default();
                for arg in t.list("args") {
                    flow.add(self.flow_any(arg, level, env)?);
                }
                let ordered = self.flow_any(t.field("agg_order"), level, env)?;
                if t.flag("agg_within_group") {
                    // An ordered-set aggregate answers with one of the values it orders.
                    flow.add(ordered);
                }
                for field in ["agg_filter", "over"] {
                    self.expression(t.field(field), level, env)?;
                }
                if name.last().is_some_and(|n| only_counts(n)) {
                    flow = Flow::default();
                }
                Ok(flow.derived())
            }
            "NullTest" => {
                self.expression(t.field("arg"), level, env)?;
                Ok(Flow::default())
            }
            // JSON_TABLE's and XMLTABLE's columns stand only in FROM.
            "JsonTableColumn" | "RangeTableFuncCol" | "JsonTablePath" => self.children(t, level, env),
            kind if expression::is_known(kind) => self.children(t, level, env),
            kind => Err(unknown_node(kind).into()),
        }
    }

    fn children(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        let mut flow = Flow::default();
        for child in t.children() {
            flow.add(self.flow_any(child, level, env)?);
        }
        Ok(flow.derived())
    }

    fn sublink(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        let test = self.flow_any(t.field("testexpr"), level, env)?;
        let outer = Outer {
            level,
            parent: env.outer,
        };
        let inner = Env {
            ctes: env.ctes,
            outer: Some(&outer),
        };
        let output = self.select(t.field("subselect"), inner, Carry::No, false)?;
        // PostgreSQL's SubLinkType: 1 EXISTS, 2 ALL, 3 ANY, 4 row comparison, 5 expression, 6 multi-assignment, 7 ARRAY.
        Ok(match t.int("sub_link_type") {
            1 => Flow::default(),
            2..=4 => test.derived(),
            5 => Flow {
                taint: union(&output.columns),
                identity: None,
                packed: output.packed,
            },
            7 => Flow {
                taint: union(&output.columns),
                identity: None,
                packed: true,
            },
            _ => return Err(unknown_node("sub-query kind").into()),
        })
    }

    /// Refuses where one of these columns is denied.
    fn touch(&self, taint: &Taint) -> Result<(), Stop> {
        for atom in taint {
            if let Some(treatment) = self.treatment(*atom)
                && treatment.kind == Kind::Deny
            {
                let scan = self.scans.get(atom.scan);
                let column = scan
                    .and_then(|s| s.protected.column(atom.attnum))
                    .map_or_else(String::new, |c| c.column.name.clone());
                let relation = scan.map_or_else(String::new, |s| dotted(&s.protected.name));
                return Err(Refusal::denied(
                    "column-denied",
                    format!(
                        "permission denied for column \"{column}\" of relation \"{relation}\" ({})",
                        treatment.rule
                    ),
                    "name only the columns that you need, or ask the owners of the policy for a grant",
                )
                .into());
            }
        }
        Ok(())
    }

    fn column(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        let fields = t.names("fields").ok_or_else(|| unknown_node("column reference"))?;
        let mut levels: Vec<&Level> = vec![level];
        let mut outer = env.outer;
        while let Some(o) = outer {
            levels.push(o.level);
            outer = o.parent;
        }
        let parts: Vec<&str> = fields.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [name] => self.bare(name, &levels),
            [alias, column] => self.qualified(None, alias, column, &levels),
            [schema, table, column] => {
                self.shorten(t, schema, table, 1, &levels)?;
                self.qualified(Some(schema), table, column, &levels)
            }
            [_, schema, table, column] => {
                self.shorten(t, schema, table, 2, &levels)?;
                self.qualified(Some(schema), table, column, &levels)
            }
            _ => Err(unknown_node("column reference").into()),
        }
    }

    fn bare(&mut self, name: &str, levels: &[&Level]) -> Result<Flow, Stop> {
        let mut guess = Taint::new();
        for level in levels {
            let hits: Vec<&OutColumn> = level.star().filter(|c| c.name.as_deref() == Some(name)).collect();
            if !hits.is_empty() {
                let mut taint: Taint = hits.iter().flat_map(|c| c.taint.iter().copied()).collect();
                self.touch(&taint)?;
                taint.extend(guess);
                let identity = if let [one] = hits.as_slice() {
                    one.identity
                } else {
                    None
                };
                return Ok(Flow {
                    taint,
                    identity,
                    packed: false,
                });
            }
            if let Some(named) = level.named().find(|n| n.alias == name) {
                return self.whole_row(named);
            }
            if expression::is_system_column(name) {
                let scans: Vec<ScanId> = level.named().filter_map(|n| n.scan).collect();
                if let [scan] = scans.as_slice() {
                    self.system(*scan, name);
                }
                if level.named().next().is_some() {
                    return Ok(Flow::default());
                }
            }
            guess.extend(
                level
                    .star()
                    .filter(|c| c.name.is_none())
                    .flat_map(|c| c.taint.iter().copied()),
            );
        }
        // Output names in ORDER BY and GROUP BY end here too; otherwise it is whatever is in reach.
        for level in levels {
            guess.extend(level.star().flat_map(|c| c.taint.iter().copied()));
        }
        Ok(Flow {
            taint: guess,
            identity: None,
            packed: false,
        })
    }

    fn qualified(&mut self, schema: Option<&str>, alias: &str, column: &str, levels: &[&Level]) -> Result<Flow, Stop> {
        for level in levels {
            let Some(named) = level
                .named()
                .find(|n| n.alias == alias && (schema.is_none() || n.schema.as_deref() == schema))
            else {
                continue;
            };
            if column == "*" {
                return self.whole_row(named);
            }
            let hits: Vec<&OutColumn> = named
                .columns
                .iter()
                .filter(|c| c.name.as_deref() == Some(column))
                .collect();
            if !hits.is_empty() {
                let taint: Taint = hits.iter().flat_map(|c| c.taint.iter().copied()).collect();
                self.touch(&taint)?;
                let identity = if let [one] = hits.as_slice() {
                    one.identity
                } else {
                    None
                };
                return Ok(Flow {
                    taint,
                    identity,
                    packed: false,
                });
            }
            if expression::is_system_column(column) {
                if let Some(scan) = named.scan {
                    self.system(scan, column);
                }
                return Ok(Flow::default());
            }
            // `alias.function` is function notation on the whole row.
            return self.whole_row(named);
        }
        let mut taint = Taint::new();
        for level in levels {
            taint.extend(level.star().flat_map(|c| c.taint.iter().copied()));
        }
        Ok(Flow {
            taint,
            identity: None,
            packed: false,
        })
    }

    fn system(&mut self, scan: ScanId, name: &str) {
        if let Some(scan) = self.scans.get_mut(scan) {
            scan.system.insert(name.to_owned());
        }
    }

    fn whole_row(&mut self, named: &Named) -> Result<Flow, Stop> {
        if named.carries {
            return Err(self.no_thread(&named.threads.clone()));
        }
        let taint = union(&named.columns);
        self.touch(&taint)?;
        if let Some(scan) = named.scan.and_then(|s| self.scans.get(s))
            && scan.replaced
            && !scan.system.is_empty()
        {
            return Err(unsupported("system-column-with-row", "a system column beside a whole-row reference").into());
        }
        Ok(Flow {
            taint,
            identity: None,
            packed: named.packed,
        })
    }

    /// `schema.table.column` must lose its schema where the table becomes a sub-select.
    fn shorten(&mut self, t: &Tree, schema: &str, table: &str, fields: usize, levels: &[&Level]) -> Result<(), Stop> {
        for level in levels {
            let Some(named) = level
                .named()
                .find(|n| n.alias == table && n.schema.as_deref() == Some(schema))
            else {
                continue;
            };
            let replaced = named.scan.and_then(|s| self.scans.get(s)).is_some_and(|s| s.replaced);
            if !replaced {
                return Ok(());
            }
            let place = t.location().and_then(|start| {
                let index = self.parsed.token_at(start)?;
                let end = self.parsed.token(index + 2 * fields)?.start;
                Some((start, end))
            });
            let Some((start, end)) = place else {
                return Err(unsupported(
                    "column-place",
                    "a column reference whose place in the text can't be found",
                )
                .into());
            };
            let entry = Shorten {
                start,
                end,
                fields,
                frame: self.frame,
            };
            if !self.shorten.contains(&entry) {
                self.shorten.push(entry);
            }
            return Ok(());
        }
        Ok(())
    }

    fn expand_star(
        &mut self,
        value: &Tree,
        qualifier: &[String],
        level: &Level,
        env: Env<'_>,
    ) -> Result<Vec<OutColumn>, Stop> {
        if value.kind() == "AIndirection" {
            let flow = self.flow_any(value.field("arg"), level, env)?;
            return Ok(vec![OutColumn {
                name: None,
                taint: flow.taint,
                identity: None,
            }]);
        }
        let columns: Vec<OutColumn> = match qualifier {
            [] => level.star().cloned().collect(),
            [.., alias] => {
                if let [.., schema, table] = qualifier {
                    self.shorten(value, schema, table, qualifier.len() - 1, &[level])?;
                }
                match level.named().find(|n| n.alias == *alias) {
                    Some(named) => named.columns.clone(),
                    None => {
                        // A row of an outer level: `(SELECT c.*)`.
                        let mut levels = vec![level];
                        let mut outer = env.outer;
                        while let Some(o) = outer {
                            levels.push(o.level);
                            outer = o.parent;
                        }
                        let flow = self.qualified(None, alias, "*", &levels)?;
                        vec![OutColumn {
                            name: None,
                            taint: flow.taint,
                            identity: None,
                        }]
                    }
                }
            }
        };
        self.touch(&union(&columns))?;
        Ok(columns)
    }
}

// ── small parts ─────────────────────────────────────────────────────────────────────────────────────────────

/// What a value derives from.
#[derive(Debug, Default)]
struct Flow {
    taint: Taint,
    identity: Option<Atom>,
    packed: bool,
}

impl Flow {
    fn add(&mut self, other: Flow) {
        self.taint.extend(other.taint);
        self.packed |= other.packed;
        self.identity = None;
    }
    fn derived(mut self) -> Self {
        self.identity = None;
        self
    }
}

/// The grouping of a query level.
struct Shape {
    grouped: bool,
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
                    let over = !n.field("over").is_null();
                    windows |= over;
                    let name = n.names("funcname").and_then(|mut f| f.pop()).unwrap_or_default();
                    let user = catalog
                        .functions
                        .get(&name)
                        .is_some_and(|f| f.iter().any(|f| f.kind == 'a'));
                    let marked = n.flag("agg_star")
                        || n.flag("agg_distinct")
                        || n.flag("agg_within_group")
                        || !n.list("agg_order").is_empty();
                    aggregates |= !over && (marked || user || expression::is_aggregate(&name));
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
        Self {
            grouped,
            distinct,
            plain,
        }
    }
}

/// A sub-query in an output expression.
struct SubUse<'t> {
    tree: &'t Tree,
    in_aggregate: bool,
}

fn collect_sublinks<'t>(t: &'t Tree, in_aggregate: bool, out: &mut Vec<SubUse<'t>>) {
    match t.kind() {
        "SubLink" => {
            if matches!(t.int("sub_link_type"), 5 | 7) {
                out.push(SubUse { tree: t, in_aggregate });
            }
            collect_sublinks(t.field("testexpr"), in_aggregate, out);
        }
        "FuncCall" => {
            let name = t.names("funcname").and_then(|mut f| f.pop()).unwrap_or_default();
            let inside = in_aggregate || expression::is_aggregate(&name) || !t.field("over").is_null();
            for child in t.children() {
                collect_sublinks(child, inside, out);
            }
        }
        _ => {
            for child in t.children() {
                collect_sublinks(child, in_aggregate, out);
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

fn plain_named(alias: &str, columns: Vec<OutColumn>) -> Named {
    Named {
        alias: alias.to_owned(),
        schema: None,
        columns,
        keys: Vec::new(),
        scan: None,
        threads: Vec::new(),
        carries: false,
        hidden: Vec::new(),
        packed: false,
    }
}

/// For `*` and `alias.*` (also `(row).*`): the qualifier. `None` for other expressions.
fn star_of(value: &Tree) -> Option<Vec<String>> {
    match value.kind() {
        "ColumnRef" => {
            let mut fields = value.names("fields")?;
            (fields.pop()? == "*").then_some(fields)
        }
        "AIndirection" => (value.list("indirection").last()?.kind() == "AStar").then(Vec::new),
        _ => None,
    }
}

/// The columns that `*` or `alias.*` means, as references; `None` where they can't be told.
fn star_names(level: &Level, qualifier: Option<&String>) -> Option<Vec<String>> {
    if let Some(alias) = qualifier {
        let named = level.named().find(|n| n.alias == *alias)?;
        return named
            .columns
            .iter()
            .map(|c| c.name.as_ref().map(|n| format!("{}.{}", quote(alias), quote(n))))
            .collect();
    }
    let mut names = Vec::new();
    for item in &level.items {
        for column in &item.star {
            let name = column.name.as_ref()?;
            let owners: Vec<&Named> = item
                .named
                .iter()
                .filter(|n| n.columns.iter().any(|c| c.name.as_ref() == Some(name)))
                .collect();
            let merged = item.star.iter().filter(|c| c.name.as_ref() == Some(name)).count() == 1;
            let in_other_items = level.star().filter(|c| c.name.as_ref() == Some(name)).count() > 1;
            match owners.as_slice() {
                [one] => names.push(format!("{}.{}", quote(&one.alias), quote(name))),
                _ if merged && !in_other_items => names.push(quote(name)),
                _ => return None,
            }
        }
    }
    Some(names)
}

fn union(columns: &[OutColumn]) -> Taint {
    columns.iter().flat_map(|c| c.taint.iter().copied()).collect()
}

/// Renames columns from the front by an alias list. Behind a column of unknown number, any name may be any column.
fn rename(mut columns: Vec<OutColumn>, names: &[String]) -> Vec<OutColumn> {
    if names.is_empty() {
        return columns;
    }
    let known = columns.iter().take_while(|c| c.name.is_some()).count();
    if names.len() <= known {
        for (column, name) in columns.iter_mut().zip(names) {
            column.name = Some(name.clone());
        }
        return columns;
    }
    let taint = union(&columns);
    let mut renamed: Vec<OutColumn> = names
        .iter()
        .map(|n| OutColumn {
            name: Some(n.clone()),
            taint: taint.clone(),
            identity: None,
        })
        .collect();
    renamed.push(OutColumn {
        name: None,
        taint,
        identity: None,
    });
    renamed
}

/// Columns of a set operation: the left's names, both sides' flows.
fn side_by_side(mut left: Vec<OutColumn>, right: &[OutColumn]) -> Vec<OutColumn> {
    let regular = left.iter().chain(right).all(|c| c.name.is_some()) && left.len() == right.len();
    if regular {
        for (column, other) in left.iter_mut().zip(right) {
            column.taint.extend(other.taint.iter().copied());
            column.identity = None;
        }
    } else {
        let taint: Taint = union(&left).union(&union(right)).copied().collect();
        blur(&mut left, &taint);
    }
    left
}

/// Makes every column derive from what any of them, or `more`, derives from.
fn blur(columns: &mut [OutColumn], more: &Taint) {
    let taint: Taint = union(columns).union(more).copied().collect();
    for column in columns {
        column.taint.clone_from(&taint);
        column.identity = None;
    }
}

/// Leaves of a tree of `UNION ALL`; false where another operation is in it, or a branch has clauses of its own.
fn union_all_leaves<'t>(t: &'t Tree, leaves: &mut Vec<&'t Tree>) -> bool {
    if t.int("op") == 2 && t.flag("all") {
        let own = ["sort_clause", "locking_clause"].iter().any(|c| !t.list(c).is_empty());
        let outermost = leaves.is_empty();
        let limited = !t.field("limit_count").is_null()
            || !t.field("limit_offset").is_null()
            || !t.field("with_clause").is_null();
        let left = union_all_leaves(t.field("larg"), leaves);
        let right = union_all_leaves(t.field("rarg"), leaves);
        return left && right && (outermost || !(own || limited));
    }
    leaves.push(t);
    t.int("op") <= 1 && t.list("values_lists").is_empty() && t.kind() == "SelectStmt"
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
