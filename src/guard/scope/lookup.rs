//! What a walk asks of whoever started it.

use std::sync::Arc;

use crate::catalog::{Catalog, Relation};
use crate::guard::protected::{ColumnTreatment, Protected};
use crate::guard::tree::Tree;
use crate::wire::Refusal;

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
    /// What is given to it can be read when the statement is over.
    fn keeps(&self, what: Given<'_>) -> bool;
    /// True on the client's statement: people must be carried to the answer.
    fn metered(&self) -> bool;
    /// Called for the target of every data modification: rules, triggers and defaults run code.
    fn modifies(&self, relation: &Relation) -> Result<(), Refusal>;
    /// Fewest people of a group over restricted rows.
    fn min_group(&self) -> Option<u32>;
    /// Whether new rows may hold values in columns that are not clear.
    fn may_insert_masked(&self) -> bool;
}

/// What a value is given to.
#[derive(Debug, Clone, Copy)]
pub enum Given<'n> {
    /// A function, by its name as written.
    Function(&'n [String]),
    /// An operator, the same.
    Operator(&'n [String]),
    /// A cast to a type, the same.
    Type(&'n [String]),
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
