//! INSERT of new rows into protected relations, and INSERT … SELECT from them.
//!
//! New rows may be written by whoever the server lets. What may not happen: clear protected values moved to where nothing
//! protects them (laundering), and values read back through RETURNING or ON CONFLICT.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::plan::StatementKind;
use super::protected::Kind;
use super::query::{all_accounted, finish};
use super::scope::{Atom, Walk};
use super::tree::Tree;
use super::{Judged, Subject, Verdict};
use crate::meter::MeterSpec;
use crate::wire::Refusal;

pub(super) fn insert(subject: &Subject<'_>, tree: &Tree) -> Result<Judged, Verdict> {
    subject.functions()?;
    if !subject.touches()? {
        return Ok(subject.forward(StatementKind::Write));
    }
    subject.reserved_names()?;
    if !tree.field("with_clause").is_null() {
        return Err(unsupported("insert-with", "WITH before an INSERT that touches protected relations").into());
    }
    let target = tree.field("relation");
    let schema = target.text("schemaname");
    let schema = (!schema.is_empty()).then_some(schema);
    let ground = subject.judge.ground;
    let relation = ground
        .catalog
        .resolve(schema, target.text("relname"), subject.judge.request.search_path);
    let protected = relation.and_then(|r| ground.protected.get(&r.oid)).map(Arc::clone);
    if let Some(protected) = &protected {
        if !tree.field("on_conflict_clause").is_null() {
            return Err(unsupported("insert-on-conflict", "ON CONFLICT on a protected relation").into());
        }
        super::scope::Lookup::treat(subject.judge, protected)?;
        returning(tree, protected)?;
    } else if !tree.field("returning_clause").is_null() || !tree.field("on_conflict_clause").is_null() {
        // The rows come from a protected relation: their masked values may return, but nobody has proven it here yet.
        return Err(unsupported(
            "insert-returning",
            "RETURNING or ON CONFLICT of an INSERT that reads protected relations",
        )
        .into());
    }
    let source = tree.field("select_stmt");
    if source.is_null() {
        return Ok(subject.forward(StatementKind::Write));
    }
    let (mut walk, output) = Walk::query(subject.judge, subject.parsed, source, false)?;
    walk.seen.extend(target.location());
    // RETURNING and column lists hold no relations; sub-queries in RETURNING were refused above.
    all_accounted(subject, &walk)?;
    let flowing: BTreeSet<Atom> = output.columns.iter().flat_map(|c| c.taint.iter().copied()).collect();
    if let Some(clear) = flowing
        .iter()
        .find(|a| walk.treatment(**a).is_some_and(|t| t.kind == Kind::Clear))
    {
        let name = walk
            .scans
            .get(clear.scan)
            .and_then(|s| {
                Some(format!(
                    "{}.{}",
                    s.protected.name.name,
                    s.protected.column(clear.attnum)?.column.name
                ))
            })
            .unwrap_or_default();
        return Err(Refusal::denied(
            "laundering",
            format!("permission denied: clear values of \"{name}\" would be copied by INSERT … SELECT"),
            "copy masked or unclassified columns only; a grant `derive` will allow it in a later version",
        )
        .into());
    }
    if walk.scans.is_empty() {
        let mut judged = subject.forward(StatementKind::Write);
        judged.plan.scrub = protected.is_some();
        return Ok(judged);
    }
    let mut judged = finish(
        subject,
        &walk,
        &BTreeSet::new(),
        MeterSpec::default(),
        StatementKind::Write,
    )?;
    judged.plan.scrub = true;
    Ok(judged)
}

/// RETURNING may name unclassified columns of a protected target, nothing else.
fn returning(tree: &Tree, protected: &super::protected::Protected) -> Result<(), Refusal> {
    let clause = tree.field("returning_clause");
    if clause.is_null() {
        return Ok(());
    }
    let mut fits = clause.list("options").is_empty();
    for target in clause.list("exprs") {
        let value = target.field("val");
        let name = match (value.kind(), value.names("fields").as_deref()) {
            ("ColumnRef", Some([.., name])) => name.clone(),
            _ => String::new(),
        };
        fits &= protected
            .columns
            .iter()
            .any(|c| c.column.name == name && c.sources.is_empty());
    }
    if fits {
        Ok(())
    } else {
        Err(Refusal::unsupported(
            "insert-returning",
            "RETURNING of an INSERT into a protected relation may only name unclassified columns",
            "name the columns that you need (e.g. RETURNING id); classified columns can be read by SELECT",
        ))
    }
}

fn unsupported(rule: &'static str, what: &str) -> Refusal {
    Refusal::unsupported(
        rule,
        format!("Menshen cannot judge this yet: {what}"),
        "split the statement: read with SELECT, then INSERT the values",
    )
}
