//! Which masked columns may come clear from the server and be masked as they pass: those that are output and nothing else. Then LIMIT, indexes and
//! parallel plans work as without a mask, and the server computes none.
//!
//! What is allowed is one form that can be seen through: SELECT of tables and of joins of them, with conditions, ORDER BY and LIMIT that name other
//! columns. Everything else keeps the masked scan.

use std::collections::{BTreeSet, HashSet};

use super::Subject;
use super::protected::{Kind, ProtectedColumn};
use super::scope::{Atom, Output, Scan, Walk};
use super::statement::Class;
use super::tree::Tree;
use crate::catalog::{Relation, RelationKind};
use crate::mask::LateMask;
use crate::meter::LateColumn;

/// Of which statements masked columns may come clear from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Late {
    /// Of none: an encoding stands between, or the configuration says so.
    #[default]
    Never,
    /// Of simple queries: their portals are gone before anything else runs.
    Queries,
    /// Of those that Bind brings, too: the session runs each portal to its end at once.
    Portals,
}

impl Late {
    /// Whether it holds for a text of a Query, or of a Parse (`extended`).
    #[must_use]
    pub fn allows(self, extended: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Queries => !extended,
            Self::Portals => true,
        }
    }
}

/// The client's columns of a query that are masked late; marks them in the walk, for the edit.
pub(super) fn columns(subject: &Subject<'_>, tree: &Tree, walk: &mut Walk<'_>, output: &Output) -> Vec<LateColumn> {
    if subject.class != Class::Query {
        return Vec::new();
    }
    copied(subject, tree, walk, output)
}

/// The same for the query of COPY … TO STDOUT, whose columns no RowDescription names: what is sent says where each comes from.
pub(super) fn copied(subject: &Subject<'_>, tree: &Tree, walk: &mut Walk<'_>, output: &Output) -> Vec<LateColumn> {
    let request = subject.judge.request;
    // What changes settings may change client_encoding, and the server says so behind the rows only.
    let changes = *subject.judge.user_function.borrow() || *subject.judge.sets.borrow();
    if !request.late || changes || !is_simple(tree) {
        return Vec::new();
    }
    let Some(tables) = Table::all(subject, tree, walk) else {
        return Vec::new();
    };
    // Every column of the answer must have its place, whatever the server's catalog has become: `*` is so of a masked scan, whose columns are spelled
    // out, and not of a table that goes as it came.
    let stars = tree.list("target_list").iter().any(|element| {
        let names = element.field("val").names("fields").unwrap_or_default();
        names.iter().any(|name| name == "*")
    });
    let replaced = walk.scans.iter().filter(|scan| scan.replaced).count();
    if stars && replaced != tables.len() {
        return Vec::new();
    }
    if output.columns.iter().any(|c| c.name.is_none()) || !names_columns_only(tree, &tables) {
        return Vec::new();
    }
    let elsewhere = Elsewhere::of(tree);
    let mut late = Vec::new();
    for (position, column) in output.columns.iter().enumerate() {
        let Some((atom, scan)) = column
            .identity
            .and_then(|atom| Some((atom, walk.scans.get(atom.scan)?)))
        else {
            continue;
        };
        let found = scan.protected.columns.iter().zip(&scan.treatments);
        let mut found = found.filter(|(c, _)| c.column.attnum == atom.attnum);
        let Some((column, Some(treatment))) = found.next() else {
            continue;
        };
        let Kind::Mask(spec) = &treatment.kind else { continue };
        let Some(mask) = LateMask::of(spec, &column.column) else {
            continue;
        };
        if !scan.replaced || elsewhere.names(&column.column.name) {
            continue;
        }
        late.push(LateColumn {
            position,
            origin: (scan.protected.oid, atom.attnum),
            mask,
        });
    }
    for (number, scan) in walk.scans.iter_mut().enumerate().filter(|(_, scan)| scan.replaced) {
        let is_late = |attnum: i16| late.iter().any(|l| l.origin == (scan.protected.oid, attnum));
        let is_shown = |attnum: i16| {
            let is_it = |atom: Atom| (atom.scan, atom.attnum) == (number, attnum);
            output.columns.iter().any(|c| c.identity.is_some_and(is_it))
        };
        // What nothing names needs no mask; should it be shown all the same, the trip-wire does not know of it.
        let comes_clear = |c: &ProtectedColumn| {
            is_late(c.column.attnum) || !is_shown(c.column.attnum) && !elsewhere.names(&c.column.name)
        };
        let clear = scan.protected.columns.iter().filter(|c| comes_clear(c));
        scan.late = clear.map(|c| c.column.attnum).collect();
    }
    late
}

/// One SELECT: no set operation, grouping, window, WITH, lock, or sub-query anywhere.
fn is_simple(tree: &Tree) -> bool {
    const CLAUSES: [&str; 9] = [
        "distinct_clause",
        "into_clause",
        "group_clause",
        "having_clause",
        "window_clause",
        "values_lists",
        "locking_clause",
        "with_clause",
        "larg",
    ];
    let mut selects = 0;
    tree.walk(&mut |n| {
        selects += usize::from(n.kind() == "SelectStmt");
        true
    });
    let plain = CLAUSES.iter().all(|clause| {
        tree.field(clause).is_null() || tree.list(clause).is_empty() && matches!(tree.field(clause), Tree::List(_))
    });
    tree.kind() == "SelectStmt" && selects == 1 && plain
}

/// A table in FROM.
struct Table {
    /// Name under which the query knows it.
    alias: String,
    columns: Vec<String>,
    /// Something is known of it that makes a difference: system columns are used.
    system: bool,
}

impl Table {
    /// All that stand in FROM, side by side or joined by ON or USING; `None` where anything else stands there.
    fn all(subject: &Subject<'_>, tree: &Tree, walk: &Walk<'_>) -> Option<Vec<Self>> {
        let mut tables = Vec::new();
        for item in tree.list("from_clause") {
            Self::of(subject, item, walk, &mut tables)?;
        }
        let named: BTreeSet<&str> = tables.iter().map(|t| t.alias.as_str()).collect();
        let protected = |scan: &&Scan| !scan.target && scan.frame == 0 && scan.table_keyword.is_none();
        // Each scan is one of them, and there is one.
        let scans = walk.scans.iter().filter(protected).count();
        (named.len() == tables.len() && scans == walk.scans.len() && scans > 0).then_some(tables)
    }

    fn of(subject: &Subject<'_>, item: &Tree, walk: &Walk<'_>, tables: &mut Vec<Self>) -> Option<()> {
        match item.kind() {
            "RangeVar" if item.field("alias").list("colnames").is_empty() => {
                tables.push(Self::named(subject, item, walk)?);
                Some(())
            }
            "JoinExpr"
                if item.field("alias").is_null()
                    && item.field("join_using_alias").is_null()
                    && !item.flag("is_natural") =>
            {
                Self::of(subject, item.field("larg"), walk, tables)?;
                Self::of(subject, item.field("rarg"), walk, tables)
            }
            _ => None,
        }
    }

    fn named(subject: &Subject<'_>, item: &Tree, walk: &Walk<'_>) -> Option<Self> {
        let judge = subject.judge;
        let catalog = &judge.ground.catalog;
        let is_table = |r: &Relation| matches!(r.kind, RelationKind::Table | RelationKind::PartitionedTable);
        let location = item.location()?;
        if let Some(scan) = walk.scans.iter().find(|scan| scan.location == location) {
            let name = &scan.protected.name;
            let relation = catalog.relation(&name.schema, &name.name)?;
            let columns = scan.protected.columns.iter().map(|c| c.column.name.clone());
            return (is_table(relation) && relation.oid == scan.protected.oid).then(|| Self {
                alias: scan.alias.clone(),
                columns: columns.collect(),
                system: !scan.system.is_empty(),
            });
        }
        let schema = Some(item.text("schemaname")).filter(|s| !s.is_empty());
        let relation = catalog.resolve(schema, item.text("relname"), judge.request.search_path)?;
        let alias = Some(item.field("alias").text("aliasname")).filter(|a| !a.is_empty());
        is_table(relation).then(|| Self {
            alias: alias.unwrap_or(item.text("relname")).to_owned(),
            columns: relation.columns.iter().map(|c| c.name.clone()).collect(),
            system: false,
        })
    }

    fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|c| c == column)
    }
}

/// The elements of the select list that are a column or `*`, bare.
fn is_plain(element: &Tree) -> bool {
    element.kind() == "ResTarget"
        && element.field("val").kind() == "ColumnRef"
        && element.list("indirection").is_empty()
}

/// Whether every reference is to columns of the tables: not to a whole row, a function of one, a system column, or, outside of plain elements, a
/// name of the answer that may stand for another column.
fn names_columns_only(tree: &Tree, tables: &[Table]) -> bool {
    let is_column = |name: &str| tables.iter().any(|t| t.has(name));
    let is_alias = |name: &str| tables.iter().any(|t| t.alias == name);
    let of_one = |alias: &str, name: &str| tables.iter().any(|t| t.alias == alias && (name == "*" || t.has(name)));
    let labels: Vec<&str> = tree
        .list("target_list")
        .iter()
        .filter(|e| !e.text("name").is_empty())
        .map(|e| e.text("name"))
        .collect();
    // A bare name that is no column is the whole row, or another thing that is not looked into here.
    let mut fine = tree.list("target_list").iter().filter(|e| is_plain(e)).all(|element| {
        let fields = element.field("val").names("fields").unwrap_or_default();
        match fields.as_slice() {
            [name] => name == "*" || is_column(name),
            [alias, name] => of_one(alias, name),
            _ => false,
        }
    });
    outside(tree, &mut |reference| {
        let fields = reference.names("fields").unwrap_or_default();
        fine &= match fields.as_slice() {
            // ORDER BY takes a label of the answer before a column.
            [name] => is_column(name) && !is_alias(name) && !labels.contains(&name.as_str()),
            [alias, name] => name != "*" && of_one(alias, name),
            _ => false,
        };
    });
    // By number, ORDER BY names whatever stands there.
    let by_number = tree
        .list("sort_clause")
        .iter()
        .any(|s| s.field("node").kind() != "ColumnRef");
    fine && !by_number && !tables.iter().any(|t| t.system)
}

/// What is named anywhere but as a plain element of the select list. Of which table is not asked.
#[derive(Default)]
struct Elsewhere {
    names: HashSet<String>,
    /// A list of names could not be read.
    unreadable: bool,
}

impl Elsewhere {
    fn of(tree: &Tree) -> Self {
        let mut all = Self::default();
        let mut add = |names: Option<Vec<String>>| match names {
            Some(names) => all.names.extend(names),
            None => all.unreadable = true,
        };
        outside(tree, &mut |reference| {
            add(Some(reference.names("fields").unwrap_or_default()))
        });
        tree.walk(&mut |n| {
            if n.kind() == "JoinExpr" {
                add(n.names("using_clause"));
            }
            true
        });
        all
    }

    fn names(&self, column: &str) -> bool {
        self.unreadable || self.names.contains(column)
    }
}

/// References outside of the plain elements of the select list.
fn outside(tree: &Tree, visit: &mut impl FnMut(&Tree)) {
    let plain: Vec<Option<usize>> = tree
        .list("target_list")
        .iter()
        .filter(|e| is_plain(e))
        .map(|e| e.field("val").location())
        .collect();
    tree.walk(&mut |n| {
        // A reference without a place is none of them.
        if n.kind() == "ColumnRef" && (n.location().is_none() || !plain.contains(&n.location())) {
            visit(n);
        }
        true
    });
}
