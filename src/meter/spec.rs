//! What the guard tells the meter about one statement's answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::Oid;
use crate::ledger::{Categories, Kind};
use crate::mask::LateMask;

/// Every hidden column's name begins with this; the guard refuses client text that contains it.
pub const HIDDEN_PREFIX: &str = "menshen_k";

/// How a hidden column names people. Its type is always `text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyShape {
    /// One person key. NULL is nobody (the row of an outer join that has no match); [`UNKNOWN_KEY`] is a person that
    /// cannot be told.
    One,
    /// A JSON value: person keys as strings or numbers in nested arrays; null leaves and NULL are nobody.
    List,
    /// A decimal number of people that cannot be told; NULL is none.
    Count,
}

/// The key text of a person that cannot be told (the person column is NULL in the row).
pub const UNKNOWN_KEY: &str = "?";

/// A column that the guard added to the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenColumn {
    /// Its name in RowDescription; unique in the statement. It stands anywhere in the row, mostly last.
    pub name: String,
    /// How to read it.
    pub shape: KeyShape,
    /// Person space, `schema.relation`.
    pub space: Arc<str>,
    /// Categories that a row shows of these people.
    pub categories: Categories,
}

/// How the rows of one statement are metered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeterSpec {
    /// Columns to read and strip. A row that lacks one of them is not released.
    pub hidden: Vec<HiddenColumn>,
    /// Where set, each row also counts as one person that cannot be told, in each of these spaces and categories.
    pub per_row: Vec<(Arc<str>, Categories)>,
    /// Columns that come clear and are masked as they pass; ascending.
    pub late: Vec<LateColumn>,
}

/// A column of the answer that Menshen masks itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateColumn {
    /// Its place among the client's columns, from 0.
    pub position: usize,
    /// Relation and attribute number that the server must name for it.
    pub origin: (Oid, i16),
    /// What becomes of its values.
    pub mask: LateMask,
}

impl MeterSpec {
    /// What hidden columns show, in their order, and behind them what each row shows besides.
    #[must_use]
    pub fn kinds(&self) -> Arc<[Kind]> {
        let hidden = self.hidden.iter().map(|h| (&h.space, h.categories));
        let besides = self.per_row.iter().map(|(space, categories)| (space, *categories));
        let kind = |(space, categories): (&Arc<str>, Categories)| Kind {
            space: Arc::clone(space),
            categories,
        };
        hidden.chain(besides).map(kind).collect()
    }

    /// Whether rows need neither stripping nor charging.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hidden.is_empty() && self.per_row.is_empty()
    }
}

/// What a RowDescription may name: the third, free, line of defence.
#[derive(Debug, Clone, Default)]
pub struct TripWire {
    /// Protected columns of the whole database: relation → attribute numbers (empty set: the whole relation).
    pub protected: Arc<HashMap<Oid, HashSet<i16>>>,
    /// Of them, those that this statement's plan cleared.
    pub cleared: HashSet<(Oid, i16)>,
    /// Those that come clear to be masked as they pass: each at its own place, and nowhere else.
    pub late: HashSet<(Oid, i16)>,
    /// True for a plan whose principal may see everything: nothing trips.
    pub unrestricted: bool,
}

impl TripWire {
    /// The first output column that the plan did not clear, as (relation, attribute).
    #[must_use]
    pub fn trip(&self, columns: impl IntoIterator<Item = (Oid, i16)>) -> Option<(Oid, i16)> {
        if self.unrestricted {
            return None;
        }
        columns.into_iter().find(|(relation, attribute)| {
            self.protected
                .get(relation)
                .is_some_and(|set| set.is_empty() || set.contains(attribute))
                && !self.cleared.contains(&(*relation, *attribute))
                && !self.late.contains(&(*relation, *attribute))
        })
    }
}
