//! Names in reach: of FROM entries and their columns, of common table expressions, of query levels around.

use crate::wire::Refusal;
use std::rc::Rc;

use super::{Hidden, Loose, OutColumn, ScanId, Taint};
use crate::guard::parse::quote;
use crate::guard::tree::Tree;
use crate::meter::KeyShape;

/// How a person key is reached from a FROM entry.
#[derive(Debug, Clone)]
pub(super) struct KeyRef {
    pub(super) key: (ScanId, usize),
    /// Column of the FROM entry.
    pub(super) column: String,
    pub(super) shape: KeyShape,
    /// The raw person column (to be cast to text), not a hidden column of a query below.
    pub(super) fresh: bool,
    pub(super) nullable: bool,
}

/// Something that a qualified reference can name.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) alias: String,
    /// Schema, for a table without alias: three-part references mean it.
    pub(super) schema: Option<String>,
    pub(super) columns: Vec<OutColumn>,
    pub(super) keys: Vec<KeyRef>,
    pub(super) scan: Option<ScanId>,
    /// Threads whose hidden columns show through `*` here.
    pub(super) threads: Vec<usize>,
    /// True where the entry itself has hidden columns in its row (sub-query, CTE, scan with extra column).
    pub(super) carries: bool,
    /// Hidden columns in its row.
    pub(super) hidden: Vec<Hidden>,
    /// People in its rows whom no key names.
    pub(super) loose: Loose,
    /// Counted columns whose values decided which rows there are.
    pub(super) rows: Taint,
    /// Its rows come from a relation that is restricted.
    pub(super) restricted: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Item {
    /// What `*` gives, in order.
    pub(super) star: Vec<OutColumn>,
    pub(super) named: Vec<Named>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Level {
    pub(super) items: Vec<Item>,
}

impl Level {
    pub(super) fn named(&self) -> impl Iterator<Item = &Named> {
        self.items.iter().flat_map(|i| &i.named)
    }
    pub(super) fn star(&self) -> impl Iterator<Item = &OutColumn> {
        self.items.iter().flat_map(|i| &i.star)
    }
}

#[derive(Debug)]
pub(super) struct Cte {
    pub(super) name: String,
    pub(super) columns: Vec<OutColumn>,
    pub(super) hidden: Vec<Hidden>,
    pub(super) loose: Loose,
    pub(super) rows: Taint,
    pub(super) restricted: bool,
    pub(super) thread: usize,
}

/// CTEs and outer query levels in reach.
#[derive(Clone, Copy)]
pub(super) struct Env<'e> {
    pub(super) ctes: Option<&'e CteScope<'e>>,
    pub(super) outer: Option<&'e Outer<'e>>,
}

pub(super) struct CteScope<'e> {
    pub(super) ctes: Vec<Rc<Cte>>,
    pub(super) parent: Option<&'e CteScope<'e>>,
}

pub(super) struct Outer<'e> {
    pub(super) level: &'e Level,
    pub(super) parent: Option<&'e Outer<'e>>,
}

impl Env<'_> {
    pub(super) fn cte(&self, name: &str) -> Option<Rc<Cte>> {
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

pub(super) fn plain_named(alias: &str, columns: Vec<OutColumn>) -> Named {
    Named {
        alias: alias.to_owned(),
        schema: None,
        columns,
        keys: Vec::new(),
        scan: None,
        threads: Vec::new(),
        carries: false,
        hidden: Vec::new(),
        loose: Loose::default(),
        rows: Taint::new(),
        restricted: false,
    }
}

/// For `*` and `alias.*` (also `(row).*`): the qualifier. `None` for other expressions.
pub(super) fn star_of(value: &Tree) -> Option<Vec<String>> {
    match value.kind() {
        "ColumnRef" => {
            let mut fields = value.names("fields")?;
            (fields.pop()? == "*").then_some(fields)
        }
        "AIndirection" => (value.list("indirection").last()?.kind() == "AStar").then(Vec::new),
        _ => None,
    }
}

/// The columns that `*` or `alias.*` means in `of`, a part of `level`, as references; `None` where they can't be told.
pub(super) fn star_names(level: &Level, of: &Level, qualifier: Option<&String>) -> Option<Vec<String>> {
    if let Some(alias) = qualifier {
        let named = of.named().find(|n| n.alias == *alias)?;
        return named
            .columns
            .iter()
            .map(|c| c.name.as_ref().map(|n| format!("{}.{}", quote(alias), quote(n))))
            .collect();
    }
    let mut names = Vec::new();
    for item in &of.items {
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

pub(super) fn union(columns: &[OutColumn]) -> Taint {
    columns.iter().flat_map(|c| c.taint.iter().copied()).collect()
}

/// An alias list may not be longer than what it names: behind the client's columns stand hidden ones, which are not the client's to name.
/// parse_clause.c's and parse_relation.c's words.
///
/// # Errors
/// 42P10, where the columns are known.
pub(super) fn list_fits(columns: &[OutColumn], names: &[String], what: &str) -> Result<(), Refusal> {
    let (has, wanted) = (columns.len(), names.len());
    if wanted <= has || columns.iter().any(|c| c.name.is_none()) {
        return Ok(());
    }
    Err(Refusal {
        sqlstate: "42P10",
        ..Refusal::unsupported(
            "column-list",
            format!("{what} has {has} columns available but {wanted} columns specified"),
            "name no more columns than there are",
        )
    })
}

/// Renames columns from the front by an alias list. Behind a column of unknown number, any name may be any column.
pub(super) fn rename(mut columns: Vec<OutColumn>, names: &[String]) -> Vec<OutColumn> {
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
pub(super) fn side_by_side(mut left: Vec<OutColumn>, right: &[OutColumn]) -> Vec<OutColumn> {
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
pub(super) fn blur(columns: &mut [OutColumn], more: &Taint) {
    let taint: Taint = union(columns).union(more).copied().collect();
    for column in columns {
        column.taint.clone_from(&taint);
        column.identity = None;
    }
}
