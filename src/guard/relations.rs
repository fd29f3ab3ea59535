//! Which relations a statement names, by any reading of its names.

use std::collections::BTreeSet;

use super::functions::BUILT_INS;
use super::parse::Parsed;
use super::scope::Lookup;
use super::statement::Class;
use super::tree::Tree;
use super::{Subject, Verdict};
use crate::catalog::UseKind;
use crate::wire::Refusal;

impl Subject<'_> {
    /// Whether the statement may name a protected relation anywhere, by any reading of its names; and whether every relation
    /// it names is in the catalog. System relations that show values are refused here.
    pub(super) fn touches(&self) -> Result<bool, Verdict> {
        let mut relations: Vec<&Tree> = Vec::new();
        named_relations(self.tree, &mut Vec::new(), &mut relations);
        let mut created: BTreeSet<usize> = BTreeSet::new();
        self.tree.walk(&mut |n| {
            match n.kind() {
                // What is being made is not yet there; should it be, the server says so.
                "CreateStmt" => created.extend(n.field("relation").location()),
                "IntoClause" => created.extend(n.field("rel").location()),
                _ => {}
            }
            true
        });
        let ground = self.judge.ground;
        let mut touches = false;
        let strict = matches!(
            self.class,
            Class::Query
                | Class::Insert
                | Class::Modify
                | Class::Copy
                | Class::Prepare
                | Class::Cursor
                | Class::Explain
        );
        for relation in relations {
            if relation.location().is_some_and(|at| created.contains(&at)) {
                continue;
            }
            let (schema, name) = (relation.text("schemaname"), relation.text("relname"));
            let written = (!schema.is_empty()).then_some(schema);
            match ground.catalog.resolve(written, name, self.judge.path()) {
                Some(found) => {
                    self.judge.system_relation(found)?;
                    if strict {
                        self.judge.code_behind(found, UseKind::Read)?;
                    }
                    self.system_columns(found)?;
                    if written.is_none() && strict {
                        self.shadowed(found)?;
                    }
                    touches |= ground.protected.contains_key(&found.oid);
                }
                None if strict => {
                    return Err(missing(written, name, relation.location(), self.parsed));
                }
                None => {}
            }
        }
        Ok(touches)
    }

    /// A name without a schema is looked up again by the server after it waited for a lock: it must not come to mean a protected relation
    /// that stands further down the path. What is the session's own temporary table, nobody else can take away meanwhile.
    fn shadowed(&self, found: &crate::catalog::Relation) -> Result<(), Refusal> {
        let ground = self.judge.ground;
        if found.temporary || ground.protected.contains_key(&found.oid) {
            return Ok(());
        }
        let below = self
            .judge
            .path()
            .iter()
            .skip_while(|s| **s != found.name.schema)
            .skip(1);
        let hidden = below
            .filter_map(|s| ground.catalog.relation(s, &found.name.name))
            .find(|r| ground.protected.contains_key(&r.oid));
        match hidden {
            None => Ok(()),
            Some(hidden) => Err(Refusal::unsupported(
                "name-of-protected-relation",
                format!(
                    "\"{}\" without a schema could come to mean \"{}.{}\"",
                    found.name.name, hidden.name.schema, hidden.name.name
                ),
                "write the schema before the name",
            )),
        }
    }

    /// Columns of the server's own catalog that hold secrets: neither their name nor `*` may stand in the statement, nor the relation's row.
    fn system_columns(&self, relation: &crate::catalog::Relation) -> Result<(), Refusal> {
        if self.judge.unrestricted {
            return Ok(());
        }
        for (column, entry) in BUILT_INS.columns(&relation.name.schema, &relation.name.name) {
            let mut named = false;
            let mut aliases: BTreeSet<&str> = BTreeSet::from([relation.name.name.as_str()]);
            self.tree.walk(&mut |n| {
                if n.kind() == "Alias" {
                    aliases.insert(n.text("aliasname"));
                    // A list of new names would hide the column's own.
                    named |= !n.list("colnames").is_empty();
                }
                true
            });
            self.tree.walk(&mut |n| {
                named |= match n.kind() {
                    "AStar" => true,
                    "ColumnRef" => {
                        let fields = n.names("fields").unwrap_or_default();
                        let last = fields.last().map(String::as_str);
                        last == Some(column) || fields.len() == 1 && last.is_some_and(|f| aliases.contains(f))
                    }
                    "CopyStmt" => !n.field("relation").is_null(),
                    _ => false,
                };
                !named
            });
            if named {
                return Err(Refusal::denied(
                    "system-column",
                    format!(
                        "permission denied for column \"{column}\" of relation \"{}\": it {}",
                        relation.name.name, entry.reason
                    ),
                    "name the columns that you need; `*` and whole rows would show this one too",
                ));
            }
        }
        Ok(())
    }
}

/// Every relation that a statement names, but for references to its common table expressions: a name of WITH stands for itself only
/// where PostgreSQL would take it so, in what follows it and in the statement it belongs to.
fn named_relations<'t>(tree: &'t Tree, ctes: &mut Vec<&'t str>, into: &mut Vec<&'t Tree>) {
    match tree.kind() {
        "RangeVar" => {
            let hidden = tree.text("schemaname").is_empty() && ctes.contains(&tree.text("relname"));
            if !hidden {
                into.push(tree);
            }
            return;
        }
        // It names aliases.
        "LockingClause" => return,
        _ => {}
    }
    let outer = ctes.len();
    let with = tree.field("with_clause");
    if with.flag("recursive") {
        ctes.extend(with.list("ctes").iter().map(|c| c.text("ctename")));
    }
    for cte in with.list("ctes") {
        named_relations(cte, ctes, into);
        ctes.push(cte.text("ctename"));
    }
    for child in tree.children() {
        // What is written to is never a common table expression.
        let target = matches!(tree.kind(), "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt")
            && std::ptr::eq(child, tree.field("relation"));
        if target {
            into.push(child);
        } else if !std::ptr::eq(child, with) {
            named_relations(child, ctes, into);
        }
    }
    ctes.truncate(outer);
}

fn missing(schema: Option<&str>, name: &str, location: Option<usize>, parsed: &Parsed) -> Verdict {
    let full = schema.map_or_else(|| name.to_owned(), |s| format!("{s}.{name}"));
    let position = location
        .and_then(|at| parsed.text.get(..at))
        .and_then(|before| u32::try_from(before.chars().count() + 1).ok());
    Verdict::Missing {
        names: BTreeSet::from([full.clone()]),
        otherwise: Refusal {
            sqlstate: "42P01",
            rule: "relation-unknown",
            message: format!("relation \"{full}\" does not exist"),
            hint: "check the name and search_path".into(),
            position,
            incident: false,
        },
    }
}
