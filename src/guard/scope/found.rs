//! What a walk finds: scans of protected relations, what flows into which column, and what is to be added to the text.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Loose;
use super::target::Part;
use crate::guard::protected::{ColumnTreatment, Protected};
use crate::ledger::Categories;
use crate::meter::KeyShape;

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
    /// It is the target of a data modification, which can't become a sub-select: references are replaced one by one.
    pub target: bool,
    /// Something of it is not clear, or rows of it are hidden.
    pub restricted: bool,
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
    /// Masked columns that come clear from the server and are masked as they pass (`late.rs`).
    pub late: BTreeSet<i16>,
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
    /// Byte range of its TABLESAMPLE clause, which belongs to the relation: it moves into the masked scan.
    pub sample: Option<(usize, usize)>,
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
    pub parts: Vec<Part>,
    /// Frame of the edit.
    pub frame: usize,
}

/// People whom a comparison of clear values shows: their scan and person key, and the categories.
pub type Compared = ((ScanId, usize), Categories);

/// A hidden column to add: what it computes, how to read it, whom it names.
pub(super) type Carried = (Addition, KeyShape, (ScanId, usize));

/// What a query level gives.
#[derive(Debug, Default)]
pub struct Output {
    /// Columns the client wrote.
    pub columns: Vec<OutColumn>,
    /// Hidden columns that the level carries besides.
    pub hidden: Vec<Hidden>,
    /// People whom no hidden column names.
    pub loose: Loose,
    /// Counted columns whose values decided which rows there are.
    pub rows: Taint,
    /// For lineage: no grouping, DISTINCT, LIMIT, window or set operation.
    pub plain: bool,
    /// Whom comparisons of clear values show besides.
    pub compared: Vec<Compared>,
    /// Its rows come from a relation that is restricted.
    pub restricted: bool,
    /// How many of `hidden`, from the front, stand in the row because a `*` brings them.
    pub flowing: usize,
}
