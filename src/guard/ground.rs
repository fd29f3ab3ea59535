//! What statements are judged on: a policy resolved against one catalog.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::functions::Reach;
use super::lineage;
use super::protected::Protected;
use crate::catalog::{Catalog, Oid, RelationName};
use crate::ledger::Pack;
use crate::policy::{Policy, UNCLASSIFIED};

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
