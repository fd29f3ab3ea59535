//! Which relations are protected, and what each of their columns derives from.
//!
//! A relation is protected because the policy names it, because it is a partition, child or parent of one, or because it
//! is a view over one (`lineage.rs`). What a principal gets of it is decided later, per standing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::scope::Many;
use crate::catalog::{Column, Oid, RelationName};
use crate::ledger::{Categories, Pack};
use crate::mask;
use crate::policy::{self, Compare, MaskSpec, Policy, Standing, Treatment};

/// A protected relation.
#[derive(Debug, Clone)]
pub struct Protected {
    /// Its oid.
    pub oid: Oid,
    /// Its name.
    pub name: RelationName,
    /// All its columns, by `attnum`.
    pub columns: Vec<ProtectedColumn>,
    /// Whose rows these are; columns point here by index.
    pub keys: Vec<PersonKey>,
    /// Relations whose row filters hold here too.
    pub filters: Vec<FilterSource>,
    /// Why nobody restricted may read it at all (a view that calls an unsafe function, a definition that can't be read).
    pub opaque: Option<String>,
}

/// A column of a protected relation.
#[derive(Debug, Clone)]
pub struct ProtectedColumn {
    /// The catalog's column.
    pub column: Column,
    /// Classified columns it derives from; none: it is not protected.
    pub sources: Vec<Source>,
    /// True where it *is* its one source, unchanged.
    pub identity: bool,
    /// Index of the person key in [`Protected::keys`].
    pub key: usize,
}

/// A classified column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Name of the class.
    pub class: String,
    /// The table the policy names.
    pub relation: RelationName,
    /// Its column.
    pub column: String,
}

/// How to tell the person of a row.
#[derive(Debug, Clone)]
pub struct PersonKey {
    /// The person space.
    pub space: Arc<str>,
    /// The relation's own column that holds the key; `None`: the person can't be told.
    pub column: Option<String>,
    /// Whether the column is never NULL in the relation's own rows.
    pub not_null: bool,
    /// Without the column: how many people a row may show.
    pub most: Many,
}

/// A relation whose row filter holds here.
#[derive(Debug, Clone)]
pub struct FilterSource {
    /// The relation the policy filters.
    pub relation: RelationName,
    /// Its columns → ours, as far as they are visible here; `None` where the filter can't be applied above.
    pub columns: Option<BTreeMap<String, String>>,
}

/// What happens to a column for a standing.
#[derive(Debug, Clone)]
pub struct ColumnTreatment {
    /// What happens.
    pub kind: Kind,
    /// The rule that decided.
    pub rule: String,
    /// Classes, for the report.
    pub class: String,
    /// Categories that showing it counts in.
    pub counts: Categories,
    /// What predicates see of it, where it is masked: the strictest of its classes.
    pub compare: Compare,
    /// Categories that a comparison of the clear value counts in.
    pub compared: Categories,
    /// A grant says `write`: it may be assigned although it is not clear.
    pub write: bool,
    /// A grant says `derive`: its clear values may be stored anywhere.
    pub derive: bool,
}

/// Clear, masked or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Passes as it is.
    Clear,
    /// Replaced.
    Mask(MaskSpec),
    /// May not be named.
    Deny,
}

impl Kind {
    /// As the report shows it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Clear => "clear".to_owned(),
            Self::Mask(spec) => spec.to_string(),
            Self::Deny => "deny".to_owned(),
        }
    }
}

impl Protected {
    /// The column of that attribute number.
    #[must_use]
    pub fn column(&self, attnum: i16) -> Option<&ProtectedColumn> {
        self.columns.iter().find(|c| c.column.attnum == attnum)
    }
}

impl ProtectedColumn {
    fn compare(&self, policy: &Policy) -> Compare {
        let classes = || self.sources.iter().filter_map(|s| policy.classes.get(&s.class));
        if classes().any(|c| c.compare == Compare::Deny) {
            Compare::Deny
        } else if self.identity && self.sources.len() == 1 && classes().all(|c| c.compare == Compare::Equality) {
            Compare::Equality
        } else {
            Compare::Masked
        }
    }

    fn category(&self, policy: &Policy, pack: Option<&Pack>) -> Categories {
        let classes = self.sources.iter().filter_map(|s| policy.classes.get(&s.class));
        classes
            .filter_map(|c| pack?.category(c.category.as_deref()?))
            .fold(Categories::NONE, Categories::union)
    }

    /// What happens to it; `None` where it is not classified.
    #[must_use]
    pub fn treatment(&self, policy: &Policy, pack: Option<&Pack>, standing: &Standing) -> Option<ColumnTreatment> {
        let mut kind: Option<Kind> = None;
        let mut rules: Vec<String> = Vec::new();
        let mut counts = Categories::NONE;
        let mut all_clear = true;
        for source in &self.sources {
            let decision = policy::decide(policy, standing, &source.class, &source.relation, &source.column);
            let category = policy
                .classes
                .get(&source.class)
                .and_then(|class| class.category.as_deref())
                .and_then(|name| pack.and_then(|p| p.category(name)))
                .unwrap_or(Categories::NONE);
            rules.push(decision.rule);
            match decision.treatment {
                Treatment::Clear(_permit) => {
                    counts = counts.union(category);
                    kind = kind.or(Some(Kind::Clear));
                }
                Treatment::Mask(spec) => {
                    all_clear = false;
                    if mask::strength(&spec, &self.column).counts() {
                        counts = counts.union(category);
                    }
                    if kind != Some(Kind::Deny) {
                        kind = Some(Kind::Mask(spec));
                    }
                }
                Treatment::Deny => {
                    all_clear = false;
                    kind = Some(Kind::Deny);
                }
            }
        }
        let mut kind = kind?;
        rules.dedup();
        let mut rule = rules.join("; ");
        if !self.identity && kind != Kind::Deny && !all_clear {
            // A value computed from something masked has no mask of its own that could be proven: all of it goes.
            kind = Kind::Mask(MaskSpec::Null);
            counts = Categories::NONE;
            rule = format!("derived from masked columns ({rule})");
        }
        let mut classes: Vec<&str> = self.sources.iter().map(|s| s.class.as_str()).collect();
        classes.dedup();
        Some(ColumnTreatment {
            kind,
            rule,
            class: classes.join(", "),
            counts,
            compare: self.compare(policy),
            compared: self.category(policy, pack),
            write: self
                .sources
                .iter()
                .all(|s| policy.may_write(standing, &s.class, &s.relation, &s.column)),
            derive: self
                .sources
                .iter()
                .all(|s| policy.may_derive(standing, &s.class, &s.relation, &s.column)),
        })
    }
}
