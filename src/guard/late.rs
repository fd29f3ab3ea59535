//! Which masked columns may come clear from the server and be masked as they pass: those that are output and nothing else. Then LIMIT, indexes and
//! parallel plans work as without a mask, and the server computes none.
//!
//! What is allowed is one form that can be seen through: SELECT of plain columns and `*` of one table, with conditions, ORDER BY and LIMIT that name
//! other columns. Everything else keeps the masked scan.

use super::Subject;
use super::protected::Kind;
use super::scope::{Output, Scan, Walk};
use super::statement::Class;
use super::tree::Tree;
use crate::catalog::RelationKind;
use crate::mask::LateMask;
use crate::meter::LateColumn;

/// The client's columns that are masked late; marks them in the walk, for the edit.
pub(super) fn columns(subject: &Subject<'_>, tree: &Tree, walk: &mut Walk<'_>, output: &Output) -> Vec<LateColumn> {
    let request = subject.judge.request;
    // What changes settings may change client_encoding, and the server says so behind the rows only.
    let changes = *subject.judge.user_function.borrow() || *subject.judge.sets.borrow();
    // A portal that Bind has made stays, and code of the user's could read it by its name (a refcursor): the clear values would be in it.
    if !request.late || request.extended || changes || subject.class != Class::Query || !is_simple(tree) {
        return Vec::new();
    }
    let [scan] = walk.scans.as_mut_slice() else {
        return Vec::new();
    };
    let catalog = &subject.judge.ground.catalog;
    let is_table = catalog
        .relation(&scan.protected.name.schema, &scan.protected.name.name)
        .is_some_and(|r| {
            matches!(r.kind, RelationKind::Table | RelationKind::PartitionedTable) && r.oid == scan.protected.oid
        });
    if !is_table || !scan.replaced || scan.target || scan.frame != 0 || scan.table_keyword.is_some() {
        return Vec::new();
    }
    // Every column of the answer must have its place.
    if output.columns.iter().any(|c| c.name.is_none()) || !names_columns_only(tree, scan) {
        return Vec::new();
    }
    let mut late = Vec::new();
    for (position, column) in output.columns.iter().enumerate() {
        let Some(atom) = column.identity.filter(|atom| atom.scan == 0) else {
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
        if is_named_elsewhere(tree, &column.column.name) {
            continue;
        }
        late.push(LateColumn {
            position,
            origin: (scan.protected.oid, atom.attnum),
            mask,
        });
    }
    let shown = |attnum: i16| {
        output
            .columns
            .iter()
            .any(|c| c.identity.is_some_and(|atom| atom.attnum == attnum))
    };
    let unused = scan
        .protected
        .columns
        .iter()
        .filter(|c| !shown(c.column.attnum) && !is_named_elsewhere(tree, &c.column.name));
    // What nothing names needs no mask; should it be shown all the same, the trip-wire does not know of it.
    scan.late = unused
        .map(|c| c.column.attnum)
        .chain(late.iter().map(|l| l.origin.1))
        .collect();
    late
}

/// One SELECT of one table: no set operation, grouping, window, WITH, lock, or sub-query anywhere.
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
    let [from] = tree.list("from_clause") else { return false };
    let mut selects = 0;
    tree.walk(&mut |n| {
        selects += usize::from(n.kind() == "SelectStmt");
        true
    });
    let plain = CLAUSES.iter().all(|clause| {
        tree.field(clause).is_null() || tree.list(clause).is_empty() && matches!(tree.field(clause), Tree::List(_))
    });
    tree.kind() == "SelectStmt"
        && from.kind() == "RangeVar"
        && from.field("alias").list("colnames").is_empty()
        && selects == 1
        && plain
}

/// The elements of the select list that are a column or `*`, bare.
fn is_plain(element: &Tree) -> bool {
    element.kind() == "ResTarget"
        && element.field("val").kind() == "ColumnRef"
        && element.list("indirection").is_empty()
}

/// Whether every reference outside of plain elements is to a column of the table: not to a whole row, a function of one, a system column, or a
/// name of the answer that may stand for another column.
fn names_columns_only(tree: &Tree, scan: &Scan) -> bool {
    let is_column = |name: &str| scan.protected.columns.iter().any(|c| c.column.name == name);
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
            [alias, name] => *alias == scan.alias && (name == "*" || is_column(name)),
            _ => false,
        }
    });
    outside(tree, &mut |reference| {
        let fields = reference.names("fields").unwrap_or_default();
        fine &= match fields.as_slice() {
            // ORDER BY takes a label of the answer before a column.
            [name] => is_column(name) && *name != scan.alias && !labels.contains(&name.as_str()),
            [alias, name] => *alias == scan.alias && is_column(name),
            _ => false,
        };
    });
    // By number, ORDER BY names whatever stands there.
    let by_number = tree
        .list("sort_clause")
        .iter()
        .any(|s| s.field("node").kind() != "ColumnRef");
    fine && !by_number && scan.system.is_empty()
}

/// Whether a column's name is written anywhere but as a plain element of the select list.
fn is_named_elsewhere(tree: &Tree, column: &str) -> bool {
    let mut found = false;
    outside(tree, &mut |reference| {
        let fields = reference.names("fields").unwrap_or_default();
        found |= fields.iter().any(|f| f == column);
    });
    found
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
