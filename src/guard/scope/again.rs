//! Whether a sub-query that is asked again for its people, later in the same statement, gives the rows that it gave.
//!
//! Both read one snapshot. That leaves what is not in it (settings, sequences, locks, activity), what differs from call to call, and
//! what picks rows at will.

use super::*;
use crate::catalog::{RelationKind, Use, UseKind, in_reach};
use crate::guard::{calls, parse};

/// Views over views that are followed.
const VIEWS_DEEP: usize = 16;

/// `CTEMaterialize` of PostgreSQL as `pg_query` numbers it: `NOT MATERIALIZED`. Every other CTE that is read twice is computed once.
const NEVER_MATERIALIZED: i64 = 3;

impl Walk<'_> {
    /// Whether the sub-query gives the same rows wherever in the statement it is asked.
    pub(super) fn repeats(&self, select: &Tree) -> bool {
        let mut repeats = self.same_rows(select, self.look.path(), 0);
        for statement in &self.parsed.statements {
            statement.walk(&mut |n| {
                repeats &= !self.may_interfere(n);
                if n.kind() == "CommonTableExpr" && n.int("ctematerialized") == NEVER_MATERIALIZED {
                    repeats &= self.same_rows(n.field("ctequery"), self.look.path(), 0);
                }
                repeats
            });
        }
        repeats
    }

    /// What stands anywhere in the statement may change, between two askings, what is read outside of the snapshot: a setting, say.
    fn may_interfere(&self, n: &Tree) -> bool {
        let path = self.look.path();
        let changes = |name: &Vec<String>| {
            let bare = name.last();
            let volatile = |f: &String| {
                f == "set_config" || self.look.catalog().volatile.contains(f) && !expression::is_volatile(f)
            };
            bare.is_some_and(volatile) || self.made(name, path)
        };
        called(n).iter().any(changes) || self.runs_code(n, path) || self.runs_on_writing(n)
    }

    /// A function that is neither built in nor an extension's: it may say of itself that it is stable, and not be.
    fn made(&self, name: &[String], path: &[String]) -> bool {
        let Some((bare, schema)) = name.split_last() else {
            return true;
        };
        let schema = schema.last().map(String::as_str);
        let functions = self.look.catalog().functions.get(bare).into_iter().flatten();
        functions
            .filter(|f| in_reach(&f.schema, schema, path))
            .any(|f| f.extension.is_none())
    }

    /// Operators and types that are not built in: what runs behind them may be anything.
    fn runs_code(&self, n: &Tree, path: &[String]) -> bool {
        let catalog = self.look.catalog();
        let operator = calls::operators(n).iter().any(|name| {
            let Some((bare, schema)) = name.split_last() else {
                return false;
            };
            let made = catalog.operators.get(bare).into_iter().flatten();
            made.filter(|o| in_reach(&o.schema, schema.last().map(String::as_str), path))
                .any(|o| {
                    let (schema, function) = &o.function;
                    catalog.volatile.contains(function) || self.made(&[schema.clone(), function.clone()], path)
                })
        });
        let names = if n.kind() == "TypeName" { n.names("names") } else { None };
        let cast = names.is_some_and(|name| {
            let Some((bare, schema)) = name.split_last() else {
                return false;
            };
            let made = catalog.type_names.get(bare).into_iter().flatten();
            made.filter(|(_, home)| in_reach(home, schema.last().map(String::as_str), path))
                .filter_map(|(oid, _)| catalog.runs.get(&Use::cast(*oid)))
                .flatten()
                .any(|behind| !self.is_steady(*behind))
        });
        operator || cast
    }

    /// Triggers, rules, defaults and checks of what the statement writes to.
    fn runs_on_writing(&self, n: &Tree) -> bool {
        if !crate::guard::query::modifies(n.kind()) {
            return false;
        }
        let target = n.field("relation");
        let schema = target.text("schemaname");
        let schema = (!schema.is_empty()).then_some(schema);
        let catalog = self.look.catalog();
        let found = catalog.resolve(schema, target.text("relname"), self.look.path());
        found.is_none_or(|relation| {
            let writing = Use {
                kind: UseKind::Write,
                oid: relation.oid,
            };
            catalog.runs.get(&writing).is_some_and(|runs| !runs.is_empty())
        })
    }

    /// An extension's functions that do not say that they are volatile. What else runs is not followed.
    fn is_steady(&self, behind: Use) -> bool {
        let catalog = self.look.catalog();
        let mut functions = catalog.functions.values().flatten();
        behind.kind == UseKind::Call
            && functions
                .find(|f| f.oid == behind.oid)
                .is_some_and(|f| f.extension.is_some() && !catalog.volatile.contains(&f.name))
    }

    /// Whether a query gives the same rows twice, if nothing interferes.
    fn same_rows(&self, query: &Tree, path: &[String], deep: usize) -> bool {
        let differs = |name: &[String]| {
            let volatile = |f: &String| expression::is_volatile(f) || self.look.catalog().volatile.contains(f);
            name.last().is_none_or(volatile) || self.made(name, path)
        };
        let mut same = true;
        query.walk(&mut |n| {
            same &= match n.kind() {
                // Which rows a limit leaves is sure only where the order is; what is locked is read as it is then.
                "SelectStmt" => {
                    let limited = !n.field("limit_count").is_null() || !n.field("limit_offset").is_null();
                    !(limited && n.list("sort_clause").is_empty()) && n.list("locking_clause").is_empty()
                }
                "RangeTableSample" => false,
                "RangeVar" => self.in_snapshot(n, path, deep),
                _ => true,
            } && !called(n).iter().any(|name| differs(name))
                && !self.runs_code(n, path);
            same
        });
        same
    }

    /// Whether what a name in FROM gives is read through the statement's snapshot. A name that is no relation is that of a CTE.
    fn in_snapshot(&self, name: &Tree, path: &[String], deep: usize) -> bool {
        let schema = name.text("schemaname");
        let schema = (!schema.is_empty()).then_some(schema);
        let Some(relation) = self.look.catalog().resolve(schema, name.text("relname"), path) else {
            return true;
        };
        match relation.kind {
            RelationKind::Table | RelationKind::PartitionedTable | RelationKind::MaterializedView => true,
            RelationKind::View => {
                // Those of the server show settings, locks and activity. The others are printed under an empty search_path.
                let own = !matches!(relation.name.schema.as_str(), "pg_catalog" | "information_schema");
                let text = relation.view_definition.as_ref().filter(|_| own && deep < VIEWS_DEEP);
                text.and_then(|text| parse::parse(text).ok()).is_some_and(|parsed| {
                    let printed = ["pg_catalog".to_owned()];
                    parsed.statements.iter().all(|s| self.same_rows(s, &printed, deep + 1))
                })
            }
            RelationKind::ForeignTable | RelationKind::Sequence | RelationKind::Toast | RelationKind::CompositeType => {
                false
            }
        }
    }
}

/// Names of functions that a node calls, or may call: what stands behind a dot is a column or a function of one argument.
fn called(n: &Tree) -> Vec<Vec<String>> {
    match n.kind() {
        "FuncCall" => vec![n.names("funcname").unwrap_or_default()],
        "ColumnRef" => {
            let fields = n.names("fields").unwrap_or_default();
            fields.into_iter().skip(1).map(|name| vec![name]).collect()
        }
        "AIndirection" => {
            let parts = n.list("indirection").iter().filter(|part| part.kind() == "String");
            parts.map(|part| vec![part.text("sval").to_owned()]).collect()
        }
        _ => Vec::new(),
    }
}
