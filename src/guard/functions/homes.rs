//! Things of a kind by name, with the schemas that have them.

use std::collections::{BTreeSet, HashMap};

use crate::catalog::in_reach;

/// Names with the schemas that they live in.
#[derive(Debug, Default)]
pub(super) struct Homes(HashMap<String, BTreeSet<String>>);

impl Homes {
    pub(super) fn add(&mut self, schema: &str, name: &str) {
        self.0.entry(name.to_owned()).or_default().insert(schema.to_owned());
    }

    /// Whether one of them may be meant: by its name, behind `schema` where one is written, under the effective path.
    pub(super) fn meant(&self, schema: Option<&str>, name: &str, path: &[String]) -> bool {
        self.0
            .get(name)
            .is_some_and(|homes| homes.iter().any(|home| in_reach(home, schema, path)))
    }

    /// Whether one has exactly this name.
    pub(super) fn has(&self, schema: &str, name: &str) -> bool {
        self.0.get(name).is_some_and(|homes| homes.contains(schema))
    }
}
