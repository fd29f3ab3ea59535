//! Everything that is neither a query nor an INSERT: session statements pass and are followed; the rest passes on relations that are
//! not protected, and is refused on those that are, by a rule of its own.

use std::sync::Arc;

use super::judge::{is_key_setting, key_setting};
use super::plan::StatementKind;
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
        // A cursor could only be declared on what is not protected: see `other`.
        Class::CursorUse => judged.plan.kind = StatementKind::Query,
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
    if name == "client_min_messages" && !subject.judge.ground.protected.is_empty() {
        let level = tree
            .list("args")
            .first()
            .map(|a| a.field("val").text("sval").to_ascii_lowercase())
            .unwrap_or_default();
        if level.starts_with("debug") || level == "log" {
            return Err(Refusal::denied(
                "client-min-messages",
                "permission denied to set client_min_messages below notice",
                "messages of that level can carry values of rows",
            ));
        }
    }
    Ok(())
}

/// `EXECUTE name (…)`
pub(super) fn execute(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    subject.functions()?;
    let name = subject.tree.text("name").to_owned();
    let Some(inner) = subject
        .earlier
        .get(&name)
        .cloned()
        .or_else(|| (subject.judge.request.prepared)(&name))
    else {
        return Err(no_such_statement(&name).into());
    };
    let mut judged = subject.forward(StatementKind::Execute { name });
    judged.plan.meter = Arc::clone(&inner.meter);
    judged.plan.trip_wire = Arc::clone(&inner.trip_wire);
    judged.plan.scrub = inner.scrub;
    judged.plan.report = Arc::clone(&inner.report);
    judged.plan.may_change_settings |= inner.may_change_settings;
    judged.plan.ddl |= inner.ddl;
    Ok(judged)
}

/// DDL, COPY, UPDATE, EXPLAIN and the rest: only where nothing protected is named.
pub(super) fn other(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    subject.functions()?;
    let protected_exists = !subject.judge.ground.protected.is_empty();
    if subject.touches()? || names_protected(subject) {
        return Err(on_protected(subject).into());
    }
    inner_execute(subject)?;
    match subject.class {
        Class::Code if protected_exists => {
            return Err(Refusal::unsupported(
                "code",
                "Menshen cannot judge yet what this statement's code will read",
                "run it past Menshen as the owner of the database, or define it in SQL that names no protected relation",
            )
            .into());
        }
        Class::Copy => {
            let to_server = subject.tree.flag("is_program") || !subject.tree.text("filename").is_empty();
            if to_server && !subject.judge.unrestricted {
                return Err(Refusal::denied(
                    "copy-server-side",
                    "permission denied for COPY with a file or program of the server",
                    "use COPY … TO STDOUT or FROM STDIN",
                )
                .into());
            }
        }
        _ => {}
    }
    let kind = match subject.class {
        Class::Modify => StatementKind::Write,
        Class::Explain => StatementKind::Query,
        _ => StatementKind::Utility,
    };
    let mut judged = subject.forward(kind);
    judged.plan.ddl = matches!(subject.class, Class::Define | Class::Code)
        || subject.class == Class::Explain && subject.tree.field("query").kind() == "CreateTableAsStmt";
    // ALTER ROLE … SET and ALTER DATABASE … SET change later sessions only.
    judged.plan.may_change_settings |= subject.class == Class::Code;
    Ok(judged)
}

/// EXECUTE inside another statement (EXPLAIN EXECUTE, CREATE TABLE AS EXECUTE) of something that reads protected relations.
fn inner_execute(subject: &Subject<'_>) -> Result<(), Refusal> {
    let mut result = Ok(());
    subject.tree.walk(&mut |n| {
        if n.kind() == "ExecuteStmt" && result.is_ok() {
            let name = n.text("name");
            let known = subject
                .earlier
                .get(name)
                .cloned()
                .or_else(|| (subject.judge.request.prepared)(name));
            result = match known {
                None => Err(no_such_statement(name)),
                Some(plan) if plan.report.relations.is_empty() => Ok(()),
                Some(_) => Err(on_protected(subject)),
            };
        }
        result.is_ok()
    });
    result
}

/// Whether a statement names a protected relation, or a schema that holds one, otherwise than by a RangeVar (`DROP TABLE`, `COMMENT ON`,
/// `ALTER SCHEMA … RENAME`). Errs to yes.
fn names_protected(subject: &Subject<'_>) -> bool {
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

fn on_protected(subject: &Subject<'_>) -> Refusal {
    let unsupported = |rule, what: &str, hint: &'static str| {
        Refusal::unsupported(
            rule,
            format!("{what} on a protected relation is not supported yet"),
            hint,
        )
    };
    match subject.class {
        Class::Copy => unsupported(
            "copy-of-protected-relation",
            "COPY",
            "use SELECT; psql's \\g writes an answer to a file",
        ),
        Class::Explain => unsupported(
            "explain-of-protected-relation",
            "EXPLAIN",
            "plans can show values and hidden rows' counts",
        ),
        Class::Cursor => unsupported(
            "cursor-on-protected-relation",
            "DECLARE CURSOR",
            "use SELECT with the driver's own paging (portals)",
        ),
        Class::Modify => {
            let verb = match subject.tree.kind() {
                "UpdateStmt" => "UPDATE",
                "DeleteStmt" => "DELETE",
                _ => "this data modification",
            };
            unsupported(
                "write-to-protected-relation",
                verb,
                "only INSERT of new rows is judged so far",
            )
        }
        Class::Maintain | Class::Define | Class::Code => Refusal::denied(
            "ddl-on-protected-relation",
            "permission denied: this statement would change, lock or copy a protected relation",
            "run schema changes as the owner of the database, past Menshen",
        ),
        _ => Refusal::denied(
            "statement-on-protected-relation",
            "permission denied: this statement names a protected relation",
            "use SELECT",
        ),
    }
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
