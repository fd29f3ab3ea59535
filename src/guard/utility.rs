//! Session statements, which pass and are followed, EXECUTE, and what has no file of its own: that passes where nothing protected is
//! named.

use std::sync::Arc;

use super::judge::{is_key_setting, key_setting};
use super::plan::{StatementKind, StatementPlan};
use super::scope::Lookup;
use super::statement::Class;
use super::tree::Tree;
use super::{Judged, Subject, Verdict};
use crate::wire::Refusal;

/// Transaction control, SET, SHOW, DISCARD, DEALLOCATE, LISTEN, FETCH: nothing in them names data.
pub(super) fn session(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let tree = subject.tree;
    let mut judged = subject.forward(StatementKind::Utility);
    judged.plan.context_free = true;
    judged.plan.may_change_settings = false;
    match subject.class {
        Class::Transaction => {
            judged.plan.kind = StatementKind::Transaction;
            // 7: ROLLBACK TO SAVEPOINT undoes settings inside the transaction; its other ends are watched by the session.
            judged.plan.may_change_settings = tree.int("kind") == 7;
            // COMMIT, ROLLBACK, PREPARE TRANSACTION; also AND CHAIN.
            judged.plan.ends_transaction = matches!(tree.int("kind"), 3 | 4 | 8);
        }
        Class::Set => set(subject, &mut judged)?,
        Class::Show => {
            if is_key_setting(tree.text("name")) {
                return Err(key_setting().into());
            }
            judged.plan.kind = StatementKind::Query;
        }
        Class::Discard => {
            // 1 ALL, 2 PLANS, 3 SEQUENCES, 4 TEMP: PostgreSQL's DiscardMode.
            let target = tree.int("target");
            if target == 1 {
                judged.plan.kind = StatementKind::DiscardAll;
                judged.plan.may_change_settings = true;
            }
            judged.plan.ddl = matches!(target, 1 | 4);
        }
        Class::Deallocate => {
            let name = (!tree.flag("isall")).then(|| tree.text("name").to_owned());
            judged.plan.kind = StatementKind::Deallocate { name };
        }
        _ => {}
    }
    Ok(judged)
}

fn set(subject: &Subject<'_>, judged: &mut Judged) -> Result<(), Refusal> {
    const FOLLOWED: [&str; 6] = [
        "search_path",
        "role",
        "session_authorization",
        "standard_conforming_strings",
        "client_encoding",
        "row_security",
    ];
    let tree = subject.tree;
    let name = tree.text("name").to_ascii_lowercase();
    if is_key_setting(&name) {
        return Err(key_setting());
    }
    judged.plan.kind = StatementKind::Set;
    // 6: RESET ALL.
    judged.plan.may_change_settings =
        tree.int("kind") == 6 || FOLLOWED.contains(&name.as_str()) || name.starts_with("menshen.");
    let value = tree.list("args").first().map(|a| a.field("val").text("sval"));
    // Without a value: RESET, SET … TO DEFAULT.
    subject.judge.message_level(&name, Some(value.unwrap_or("")))?;
    Ok(())
}

/// `EXECUTE name (…)`
pub(super) fn execute(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    subject.functions()?;
    let name = subject.tree.text("name").to_owned();
    let inner = prepared(subject, &name)?;
    let mut judged = subject.forward(StatementKind::Execute { name });
    judged.plan.meter = Arc::clone(&inner.meter);
    judged.plan.origins = Arc::clone(&inner.origins);
    judged.plan.trip_wire = Arc::clone(&inner.trip_wire);
    judged.plan.scrub = inner.scrub;
    judged.plan.report = Arc::clone(&inner.report);
    judged.plan.may_change_settings |= inner.may_change_settings;
    judged.plan.ddl |= inner.ddl;
    Ok(judged)
}

/// The plan of a prepared statement by name.
pub(super) fn prepared(subject: &Subject<'_>, name: &str) -> Result<Arc<StatementPlan>, Refusal> {
    let plan = subject
        .earlier
        .get(name)
        .cloned()
        .or_else(|| subject.judge.prepared(name))
        .ok_or_else(|| no_such_statement(name))?;
    if !plan.setting_parameters.is_empty() {
        return Err(Refusal::unsupported(
            "setting-name",
            format!("prepared statement \"{name}\" reads a setting that its parameters name: only Bind may give them"),
            "write the setting's name as a string literal",
        ));
    }
    if !plan.meter.late.is_empty() && subject.class != Class::Execute {
        return Err(Refusal::unsupported(
            "late-mask",
            format!(
                "prepared statement \"{name}\" has columns that are masked on their way to the client: nothing else may take its rows"
            ),
            "write the query itself",
        ));
    }
    // What it may change, whatever runs it may change.
    *subject.judge.user_function.borrow_mut() |= plan.may_change_settings;
    Ok(plan)
}

/// Passes only where nothing protected is named.
pub(super) fn other(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    subject.functions()?;
    if subject.touches()? || names_protected(subject) {
        return Err(Refusal::denied(
            "statement-on-protected-relation",
            "permission denied: this statement names a protected relation",
            "use SELECT",
        )
        .into());
    }
    inner_execute(subject)?;
    let kind = if subject.class == Class::Explain {
        StatementKind::Query
    } else {
        StatementKind::Utility
    };
    Ok(subject.forward(kind))
}

/// EXECUTE inside another statement, of something that reads protected relations.
pub(super) fn inner_execute(subject: &Subject<'_>) -> Result<(), Refusal> {
    let mut result = Ok(());
    subject.tree.walk(&mut |n| {
        if n.kind() == "ExecuteStmt" && result.is_ok() {
            result = match prepared(subject, n.text("name")) {
                Ok(plan) if plan.report.relations.is_empty() => Ok(()),
                Ok(_) => Err(execute_into()),
                Err(unknown) => Err(unknown),
            };
        }
        result.is_ok()
    });
    result
}

/// The refusal for storing rows of a prepared statement on protected relations.
pub(super) fn execute_into() -> Refusal {
    Refusal::unsupported(
        "execute-into",
        "Menshen cannot judge EXECUTE of a statement on protected relations inside another statement",
        "write the query itself in its place",
    )
}

/// Whether a statement names a protected relation, or a schema that holds one, otherwise than by a RangeVar (`DROP TABLE`, `COMMENT ON`,
/// `ALTER SCHEMA … RENAME`). Errs to yes.
pub(super) fn names_protected(subject: &Subject<'_>) -> bool {
    if !matches!(subject.class, Class::Define | Class::Code | Class::Maintain) {
        return false;
    }
    let ground = subject.judge.ground;
    let path = subject.judge.path();
    let is = |schema: Option<&str>, name: &str| {
        ground
            .catalog
            .resolve(schema, name, path)
            .is_some_and(|r| ground.protected.contains_key(&r.oid))
    };
    let schema_matters = matches!(
        subject.tree.kind(),
        "DropStmt" | "RenameStmt" | "AlterOwnerStmt" | "GrantStmt" | "AlterObjectSchemaStmt" | "ReindexStmt"
    );
    let mut found = false;
    subject.tree.walk(&mut |n| {
        if let Tree::List(items) = n {
            let names: Option<Vec<&str>> = items
                .iter()
                .map(|i| (i.kind() == "String").then(|| i.text("sval")))
                .collect();
            found |= match names.as_deref() {
                Some([name]) => is(None, name),
                // `schema.relation`, or `relation.column`
                Some([first, second]) => is(Some(first), second) || is(None, first),
                Some([first, second, third]) => is(Some(second), third) || is(Some(first), second),
                Some(_) | None => false,
            };
        }
        if schema_matters {
            let named = |t: &str| ground.schemas.contains(t);
            found |= n.kind() == "String" && named(n.text("sval"));
            found |=
                matches!(n.kind(), "RenameStmt" | "ReindexStmt") && (named(n.text("subname")) || named(n.text("name")));
        }
        !found
    });
    found
}

fn no_such_statement(name: &str) -> Refusal {
    Refusal {
        sqlstate: "26000",
        rule: "prepared-statement-unknown",
        message: format!("prepared statement \"{name}\" does not exist"),
        hint: "prepare it in this session first".into(),
        position: None,
        incident: false,
    }
}
