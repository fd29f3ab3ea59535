//! Queries and data modifications: SELECT, VALUES, TABLE, INSERT, UPDATE, DELETE, MERGE, and what PREPARE holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::plan::{ColumnReport, RelationReport, Report, StatementKind, StatementPlan};
use super::protected::{ColumnTreatment, Kind};
use super::scope::{Atom, Given, Lookup, Many, Output, People, Scan, Walk};
use super::tree::Tree;
use super::{Judged, Subject, Verdict, edit, late, verify};
use crate::catalog::{Oid, UseKind, in_reach};
use crate::ledger::Categories;
use crate::meter::{HiddenColumn, KeyShape, MeterSpec};
use crate::wire::Refusal;

/// Kinds of node that modify data.
pub(super) fn modifies(kind: &str) -> bool {
    matches!(kind, "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt")
}

/// A query or data modification as a whole statement (`tree` is its node; the statement around it may be PREPARE).
pub(super) fn statement(subject: &Subject<'_>, tree: &Tree) -> Result<Judged, Verdict> {
    let into = !tree.field("into_clause").is_null();
    let (walk, output) = match walked(subject, tree, if into { People::No } else { People::Named })? {
        Walked::Free(kind) => {
            let mut judged = subject.forward(kind);
            judged.plan.context_free = is_context_free(tree);
            judged.plan.ddl = into;
            return Ok(judged);
        }
        Walked::Seen(walk, output) => (walk, output),
    };
    let mut walk = walk;
    if into {
        stored(&walk, &output)?;
        let mut judged = finish(
            subject,
            &walk,
            &BTreeSet::new(),
            MeterSpec::default(),
            StatementKind::Utility,
        )?;
        judged.plan.ddl = true;
        return Ok(judged);
    }
    let mut meter = meter(&walk, &output)?;
    meter.late = late::columns(subject, tree, &mut walk, &output);
    let kind = if walk.writes {
        StatementKind::Write
    } else {
        StatementKind::Query
    };
    let mut judged = finish(subject, &walk, &shown(&output), meter, kind)?;
    judged.plan.origins = origins(&walk, &output);
    Ok(judged)
}

/// The columns of the catalog that the output's columns are, unchanged but for masks.
pub(super) fn origins(walk: &Walk<'_>, output: &Output) -> Arc<[Option<(Oid, i16)>]> {
    if output.columns.iter().any(|c| c.name.is_none()) {
        return Arc::default();
    }
    let origin = |atom: Atom| walk.scans.get(atom.scan).map(|s| (s.protected.oid, atom.attnum));
    output.columns.iter().map(|c| c.identity.and_then(origin)).collect()
}

/// What a walk over a statement's query found.
pub(super) enum Walked<'w> {
    /// Nothing protected: it goes as it came.
    Free(StatementKind),
    /// Protected relations.
    Seen(Box<Walk<'w>>, Output),
}

/// Judges functions, types and names of a statement, and walks the query or data modification in it.
pub(super) fn walked<'w>(subject: &Subject<'w>, tree: &Tree, people: People) -> Result<Walked<'w>, Verdict> {
    subject.functions()?;
    settings_are_not_updated(tree)?;
    if !subject.touches()? {
        return Ok(Walked::Free(unprotected(subject, tree)?));
    }
    subject.reserved_names()?;
    let (walk, output) = Walk::query(subject.judge, subject.parsed, tree, people)?;
    all_accounted(tree, &walk)?;
    if walk.scans.is_empty() {
        return Ok(Walked::Free(unprotected(subject, tree)?));
    }
    kept_by_the_way(subject, tree, &walk)?;
    Ok(Walked::Seen(Box::new(walk), output))
}

/// `UPDATE pg_settings` is `set_config` for rows that nobody can name (its rule `pg_settings_u` is built in).
fn settings_are_not_updated(tree: &Tree) -> Result<(), Refusal> {
    let mut writes = false;
    tree.walk(&mut |n| {
        writes |= modifies(n.kind()) && n.field("relation").text("relname") == "pg_settings";
        true
    });
    if writes {
        return Err(Refusal::unsupported(
            "setting-name",
            "settings are not changed by writing to \"pg_settings\": Menshen must know which",
            "use SET, or set_config with the setting's name",
        ));
    }
    Ok(())
}

/// Operators that stand in no expression (of ORDER BY … USING, of joins, of CASE and IN) may keep what they compare. What they compare is not
/// followed: any clear column counts.
fn kept_by_the_way(subject: &Subject<'_>, tree: &Tree, walk: &Walk<'_>) -> Result<(), Refusal> {
    let mut keeper = None;
    tree.walk(&mut |n| {
        // What an expression names itself is followed to its values.
        let names = match n.kind() {
            "SubLink" | "SortBy" | "CaseExpr" | "JoinExpr" => super::calls::operators(n),
            "AExpr" => super::calls::implied(n),
            _ => Vec::new(),
        };
        let found = names
            .into_iter()
            .find(|name| subject.judge.keeps(Given::Operator(name)));
        keeper = keeper.take().or(found);
        true
    });
    let Some(keeper) = keeper else { return Ok(()) };
    let clear = |t: &ColumnTreatment| t.kind == Kind::Clear && !t.derive;
    let mut treatments = walk.scans.iter().flat_map(|s| &s.treatments).flatten();
    if treatments.any(clear) {
        return Err(Refusal::denied(
            "laundering",
            format!(
                "permission denied for operator {}, which keeps what it compares where the policy does not protect it",
                keeper.join(".")
            ),
            "write OPERATOR(pg_catalog.…), or ask the owners of the policy for `derive`",
        ));
    }
    Ok(())
}

/// A statement that names nothing protected: what runs behind the relations it writes to is judged all the same.
fn unprotected(subject: &Subject<'_>, tree: &Tree) -> Result<StatementKind, Refusal> {
    let mut kind = StatementKind::Query;
    let mut result = Ok(());
    tree.walk(&mut |n| {
        if modifies(n.kind()) {
            kind = StatementKind::Write;
            let target = n.field("relation");
            let schema = target.text("schemaname");
            let schema = (!schema.is_empty()).then_some(schema);
            let judge = subject.judge;
            if let Some(relation) =
                judge
                    .ground
                    .catalog
                    .resolve(schema, target.text("relname"), judge.request.search_path)
                && result.is_ok()
            {
                result = judge.code_behind(relation, UseKind::Write);
            }
        }
        true
    });
    result.map(|()| kind)
}

/// Rows that are stored where nothing protects them: clear values may go there only with `derive`.
pub(super) fn stored(walk: &Walk<'_>, output: &Output) -> Result<(), Refusal> {
    for atom in shown(output) {
        if walk.treatment(atom).is_some_and(|t| t.kind == Kind::Clear && !t.derive) {
            return Err(walk.laundering(atom, "a new relation"));
        }
    }
    Ok(())
}

/// `PREPARE name AS …`
pub(super) fn prepare(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let inner = subject.tree.field("query");
    let name = subject.tree.text("name").to_owned();
    if inner.kind() != "SelectStmt" && !modifies(inner.kind()) || !inner.field("into_clause").is_null() {
        return Err(Refusal::unsupported(
            "prepare",
            "PREPARE of this kind of statement",
            "send the statement itself",
        )
        .into());
    }
    let mut judged = statement(subject, inner)?;
    // Preparing runs nothing: what the inner statement may change, it changes when it is executed.
    let plan = StatementPlan {
        kind: StatementKind::Prepare {
            name,
            inner: Arc::new(judged.plan.clone()),
            source: Arc::from(subject.parsed.slice(subject.range.0, subject.range.1)),
        },
        meter: Arc::default(),
        origins: Arc::default(),
        may_change_settings: false,
        ddl: false,
        context_free: false,
        ..judged.plan
    };
    judged.plan = plan;
    Ok(judged)
}

/// The end of every edit: splice, read again, report.
pub(super) fn finish(
    subject: &Subject<'_>,
    walk: &Walk<'_>,
    shown: &BTreeSet<Atom>,
    meter: MeterSpec,
    kind: StatementKind,
) -> Result<Judged, Verdict> {
    let filtered = walk.scans.iter().any(|s| s.filter.is_some() && !s.target);
    let fence = filtered && may_leak(subject.tree, subject.judge);
    let edit = edit::edit(subject.parsed, walk, subject.judge.request.token, fence, subject.range)?;
    let edited = !edit.intents.is_empty();
    if edited {
        verify::verify(subject.tree, &edit.text, &edit.intents)?;
    }
    let mut cleared: HashSet<(Oid, i16)> = HashSet::new();
    for scan in &walk.scans {
        for (column, treatment) in scan.protected.columns.iter().zip(&scan.treatments) {
            if treatment.as_ref().is_some_and(|t| t.kind == Kind::Clear) {
                cleared.insert((scan.protected.oid, column.column.attnum));
            }
        }
    }
    let late: HashSet<(Oid, i16)> = meter.late.iter().map(|l| l.origin).collect();
    let mut judged = subject.forward(kind);
    judged.text = edited.then_some(edit.text);
    judged.plan.trip_wire = subject.trip_wire(cleared, late);
    judged.plan.guesses = walk.guessed;
    // What is masked must not show in an error, and what is counted must not come uncounted.
    let counts = |s: &Scan| s.treatments.iter().flatten().any(|t| t.counts != Categories::NONE);
    judged.plan.scrub = walk.scans.iter().any(|s| s.restricted || counts(s));
    judged.plan.report = Arc::new(Report {
        fingerprint: judged.plan.report.fingerprint.clone(),
        action: if edited { "edit" } else { "forward" },
        relations: reports(subject, walk, shown),
        charges: charges(subject, &meter),
        witness: "",
    });
    judged.plan.meter = Arc::new(meter);
    Ok(judged)
}

/// Columns that reach the answer.
pub(super) fn shown(output: &Output) -> BTreeSet<Atom> {
    output.columns.iter().flat_map(|c| c.taint.iter().copied()).collect()
}

/// Whom the answer's rows show.
pub(super) fn meter(walk: &Walk<'_>, output: &Output) -> Result<MeterSpec, Refusal> {
    let mut by_key: BTreeMap<(usize, usize), Categories> = BTreeMap::new();
    for atom in shown(output).union(&output.rows).copied() {
        let Some(scan) = walk.scans.get(atom.scan) else {
            continue;
        };
        let counts = walk.counts(atom);
        if counts.is_empty() {
            continue;
        }
        let key = scan.protected.column(atom.attnum).map_or(0, |c| c.key);
        let entry = by_key.entry((atom.scan, key)).or_default();
        *entry = entry.union(counts);
    }
    for (key, categories) in &output.compared {
        let entry = by_key.entry(*key).or_default();
        *entry = entry.union(*categories);
    }
    by_key.retain(|_, categories| !categories.is_empty());
    let space = |key: &(usize, usize)| {
        walk.scans
            .get(key.0)
            .and_then(|s| s.protected.keys.get(key.1))
            .map_or_else(|| Arc::from("?"), |k| Arc::clone(&k.space))
    };
    let mut spec = MeterSpec::default();
    let mut carried = BTreeSet::new();
    for hidden in &output.hidden {
        carried.insert(hidden.key);
        spec.hidden.push(HiddenColumn {
            name: hidden.name.clone(),
            shape: hidden.shape,
            space: space(&hidden.key),
            categories: by_key.get(&hidden.key).copied().unwrap_or(Categories::NONE),
        });
    }
    for (key, categories) in &by_key {
        let people = match output.loose.get(*key) {
            None if carried.contains(key) => 0,
            Some(Many::AtMost(people)) => people,
            None | Some(Many::Any) => u64::MAX,
        };
        if people == u64::MAX {
            return Err(Refusal::unsupported(
                "cannot-be-metered",
                "this query packs clear values of many people into one value, and they could not be counted",
                "select the rows themselves, or put sub-queries into FROM",
            ));
        }
        for _ in 0..people {
            spec.per_row.push((space(key), *categories));
        }
    }
    Ok(spec)
}

/// The walk must have understood exactly the relations that stand in the tree.
pub(super) fn all_accounted(tree: &Tree, walk: &Walk<'_>) -> Result<(), Refusal> {
    let mut standing: BTreeSet<usize> = BTreeSet::new();
    let mut placeless = false;
    tree.walk(&mut |n| {
        if n.kind() == "RangeVar" {
            match n.location() {
                Some(at) => {
                    standing.insert(at);
                }
                None => placeless = true,
            }
        }
        true
    });
    if placeless || !standing.is_subset(&walk.seen) {
        return Err(Refusal {
            incident: true,
            ..Refusal::unsupported(
                "relation-not-accounted",
                "Menshen did not understand the place of every relation in this statement",
                "write it in another form; the security team has been told",
            )
        });
    }
    Ok(())
}

/// A query that names nothing: no relation, function or setting. It may be judged while settings are unknown.
fn is_context_free(tree: &Tree) -> bool {
    let mut free = true;
    tree.walk(&mut |n| {
        free &= !matches!(
            n.kind(),
            "RangeVar" | "FuncCall" | "TypeCast" | "AExpr" | "CollateClause" | "TypeName" | "IntoClause"
        );
        free
    });
    free
}

/// Whether the query's own conditions could tell something about rows that a row filter hides, were the planner to run them
/// first: anything but plain comparisons of columns, constants and parameters might raise an error or a notice.
pub(super) fn may_leak(tree: &Tree, look: &dyn Lookup) -> bool {
    const PLAIN: [&str; 6] = ["=", "<>", "<", ">", "<=", ">="];
    let mut leaks = false;
    tree.walk(&mut |n| {
        match n.kind() {
            "FuncCall" | "SubLink" | "TypeCast" | "CaseExpr" | "AIndirection" | "CollateClause" | "RowExpr"
            | "XmlExpr" | "CoalesceExpr" | "MinMaxExpr" => leaks = true,
            "AExpr" => {
                // 1: a plain operator, 7: IN.
                let known = matches!(n.int("kind"), 1 | 7);
                let names = n.names("name").unwrap_or_default();
                let plain = matches!(names.as_slice(), [one] if PLAIN.contains(&one.as_str()));
                let operators = names.last().and_then(|o| look.catalog().operators.get(o));
                let own = operators.is_some_and(|all| all.iter().any(|o| in_reach(&o.schema, None, look.path())));
                leaks |= !known || !plain || own;
            }
            _ => {}
        }
        !leaks
    });
    leaks
}

fn reports(subject: &Subject<'_>, walk: &Walk<'_>, shown: &BTreeSet<Atom>) -> Vec<RelationReport> {
    let mut by_relation: BTreeMap<String, RelationReport> = BTreeMap::new();
    for (id, scan) in walk.scans.iter().enumerate() {
        let name = format!("{}.{}", scan.protected.name.schema, scan.protected.name.name);
        let columns = columns_of(subject, scan, id, walk, shown);
        let entry = by_relation.entry(name.clone()).or_insert_with(|| RelationReport {
            relation: name,
            row_filter: scan.filter.as_ref().map(|(rule, _)| rule.clone()),
            columns: columns.clone(),
        });
        for (old, new) in entry.columns.iter_mut().zip(columns) {
            old.shown |= new.shown;
        }
    }
    by_relation.into_values().collect()
}

fn columns_of(
    subject: &Subject<'_>,
    scan: &Scan,
    id: usize,
    walk: &Walk<'_>,
    shown: &BTreeSet<Atom>,
) -> Vec<ColumnReport> {
    scan.protected
        .columns
        .iter()
        .zip(&scan.treatments)
        .filter_map(|(column, treatment)| {
            let treatment = treatment.as_ref()?;
            let atom = Atom {
                scan: id,
                attnum: column.column.attnum,
            };
            Some(ColumnReport {
                column: column.column.name.clone(),
                class: treatment.class.clone(),
                treatment: treatment.kind.describe(),
                rule: treatment.rule.clone(),
                counts: category_names(subject, walk.counts(atom)),
                shown: shown.contains(&atom),
            })
        })
        .collect()
}

fn category_names(subject: &Subject<'_>, categories: Categories) -> Option<String> {
    let pack = subject.judge.ground.pack.as_ref()?;
    let names: Vec<&str> = pack
        .categories
        .iter()
        .enumerate()
        .filter(|(bit, _)| categories.0 & (1 << bit) != 0)
        .map(|(_, c)| c.name.as_str())
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn charges(subject: &Subject<'_>, meter: &MeterSpec) -> Vec<String> {
    let mut lines = Vec::new();
    for hidden in &meter.hidden {
        let Some(categories) = category_names(subject, hidden.categories) else {
            continue;
        };
        let how = match hidden.shape {
            KeyShape::One => "one person a row",
            KeyShape::List => "every person of the row's list",
            KeyShape::Count => "rows counted as new people (over-counts)",
        };
        lines.push(format!(
            "hidden column {}: {how}, people of {}, category {categories}",
            hidden.name, hidden.space
        ));
    }
    for (space, categories) in &meter.per_row {
        if let Some(categories) = category_names(subject, *categories) {
            lines.push(format!(
                "each row counts as a new person of {space}, category {categories} (over-counts)"
            ));
        }
    }
    lines
}
