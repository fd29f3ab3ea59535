//! DDL, maintenance, and statements that define or run code.
//!
//! On protected relations they need a grant's `ddl`, but for those that show and change nothing (LOCK, ANALYZE …). A view needs no more:
//! its columns inherit their classes as soon as the catalog has it. Code is judged by its body when it runs.

use super::plan::StatementKind;
use super::query::{self, Walked, walked};
use super::scope::People;
use super::statement::Class;
use super::{Judged, Subject, Verdict, functions, utility};
use crate::meter::MeterSpec;
use crate::wire::Refusal;

pub(super) fn define(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    match subject.tree.kind() {
        "CreateTableAsStmt" => table_as(subject),
        "LockStmt" | "ConstraintsSetStmt" | "CheckPointStmt" => harmless(subject),
        "VacuumStmt" => vacuum(subject),
        "TruncateStmt" => truncate(subject),
        "DoStmt" => run(subject),
        "CallStmt" => call(subject),
        "CreateFunctionStmt" => function(subject),
        _ => other(subject),
    }
}

/// `CREATE TABLE … AS`, `CREATE MATERIALIZED VIEW … AS`
fn table_as(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let query = subject.tree.field("query");
    if query.kind() == "ExecuteStmt" {
        subject.functions()?;
        let prepared = utility::prepared(subject, query.text("name"))?;
        if !prepared.report.relations.is_empty() {
            return Err(utility::execute_into().into());
        }
        return Ok(defined(subject));
    }
    // ObjectType of PostgreSQL, as `pg_query` numbers it.
    const MATERIALIZED_VIEW: i64 = 24;
    let view = subject.tree.int("objtype") == MATERIALIZED_VIEW;
    match walked(subject, query, People::No)? {
        Walked::Free(_) => Ok(defined(subject)),
        Walked::Seen(walk, output) => {
            if view {
                // Its definition is kept: it must be the client's own, not one with masks of this session's keys.
                query::stored(&walk, &output)?;
                granted(subject)?;
                return Ok(defined(subject));
            }
            query::stored(&walk, &output)?;
            let nobody = std::collections::BTreeSet::new();
            let mut judged = query::finish(subject, &walk, &nobody, MeterSpec::default(), StatementKind::Utility)?;
            judged.plan.ddl = true;
            Ok(judged)
        }
    }
}

/// Shows nothing and changes nothing: the server's own privileges decide.
fn harmless(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    Ok(subject.forward(StatementKind::Utility))
}

/// VACUUM and ANALYZE; VERBOSE tells row counts.
fn vacuum(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let verbose = subject
        .tree
        .list("options")
        .iter()
        .any(|o| o.text("defname") == "verbose");
    if verbose && !subject.judge.unrestricted {
        return Err(Refusal::denied(
            "vacuum-verbose",
            "permission denied for VERBOSE: it tells how many rows there are, hidden ones included",
            "leave VERBOSE out",
        )
        .into());
    }
    harmless(subject)
}

/// TRUNCATE would end rows that a filter hides.
fn truncate(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    if subject.touches()? && !subject.judge.all_rows() {
        return Err(Refusal::denied(
            "truncate-hidden-rows",
            "permission denied to truncate: the relation may hold rows that are hidden from you",
            "use DELETE, which leaves hidden rows alone",
        )
        .into());
    }
    for relation in subject.tree.list("relations") {
        let schema = relation.text("schemaname");
        let schema = (!schema.is_empty()).then_some(schema);
        let judge = subject.judge;
        if let Some(found) = judge
            .ground
            .catalog
            .resolve(schema, relation.text("relname"), judge.request.search_path)
        {
            judge.code_behind(found)?;
        }
    }
    Ok(subject.forward(StatementKind::Write))
}

/// DO: the body is judged as a function's would be.
fn run(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let mut language = "plpgsql".to_owned();
    let mut body = String::new();
    for argument in subject.tree.list("args") {
        let value = argument.field("arg").text("sval").to_owned();
        match argument.text("defname") {
            "language" => language = value,
            _ => body = value,
        }
    }
    let ground = subject.judge.ground;
    if !ground.protected.is_empty() {
        let names = ground.protected.values().map(|p| p.name.name.clone()).collect();
        if let functions::Verdict::Refused { reason } = ground.reach.judge_body(&language, &body, &names) {
            return Err(Refusal::denied(
                "code-opaque",
                format!("permission denied for DO: its code {reason}"),
                "send the statements themselves",
            )
            .into());
        }
    }
    let mut judged = subject.forward(StatementKind::Utility);
    judged.plan.may_change_settings = true;
    judged.plan.ddl = true;
    Ok(judged)
}

/// CALL: the procedure is judged by name, like any function.
fn call(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    subject.functions()?;
    subject.touches()?;
    let mut judged = subject.forward(StatementKind::Utility);
    judged.plan.may_change_settings = true;
    Ok(judged)
}

/// CREATE FUNCTION: a body is judged whenever it is called, so that making it is harmless; one that the policy trusts by name is not
/// to be replaced by whoever likes.
fn function(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let names = subject.tree.names("funcname").unwrap_or_default();
    let judge = subject.judge;
    if judge.ground.reach.is_trusted(&names, judge.request.search_path) {
        granted(subject)?;
    }
    subject.functions()?;
    Ok(defined(subject))
}

fn other(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    subject.functions()?;
    if subject.touches()? || utility::names_protected(subject) || reaches_out(subject) || takes_a_name(subject) {
        granted(subject)?;
    }
    utility::inner_execute(subject)?;
    let maintains = subject.class == Class::Maintain;
    let mut judged = defined(subject);
    judged.plan.ddl = !maintains;
    // ALTER ROLE … SET and ALTER DATABASE … SET change later sessions only.
    judged.plan.may_change_settings |= subject.class == Class::Code;
    Ok(judged)
}

/// Statements that open other ways to the data, wherever they are aimed.
fn reaches_out(subject: &Subject<'_>) -> bool {
    if subject.judge.ground.protected.is_empty() {
        return false;
    }
    match subject.tree.kind() {
        "CreatePublicationStmt"
        | "AlterPublicationStmt"
        | "CreateSubscriptionStmt"
        | "AlterSubscriptionStmt"
        | "CreateForeignServerStmt"
        | "AlterForeignServerStmt"
        | "CreateFdwStmt"
        | "AlterFdwStmt"
        | "CreateUserMappingStmt"
        | "AlterUserMappingStmt"
        | "CreateForeignTableStmt"
        | "ImportForeignSchemaStmt"
        | "AlterSystemStmt"
        | "LoadStmt"
        | "CreatePlangStmt"
        | "CreateEventTrigStmt"
        | "AlterEventTrigStmt"
        | "CreateTransformStmt"
        | "CreateAmStmt"
        | "CreateExtensionStmt"
        | "AlterExtensionStmt" => true,
        // A rule or trigger of a relation that is not protected runs code that is judged when the relation is written to.
        _ => false,
    }
}

/// A new name, schema or aggregate could come to stand under a name that the policy trusts.
fn takes_a_name(subject: &Subject<'_>) -> bool {
    !subject.judge.ground.policy.trusted_functions.is_empty()
        && matches!(
            subject.tree.kind(),
            "RenameStmt" | "AlterObjectSchemaStmt" | "DefineStmt" | "AlterExtensionContentsStmt"
        )
}

fn defined(subject: &Subject<'_>) -> Judged {
    let mut judged = subject.forward(StatementKind::Utility);
    judged.plan.ddl = true;
    judged
}

/// DDL on protected relations needs a grant.
fn granted(subject: &Subject<'_>) -> Result<(), Refusal> {
    let judge = subject.judge;
    if judge.ground.policy.may_define(judge.request.standing) {
        return Ok(());
    }
    Err(Refusal::denied(
        "ddl-on-protected-relation",
        "permission denied: this statement defines, changes or opens a way to a protected relation",
        "ask the owners of the policy for a grant with ddl = true, or run it as the owner of the database, past Menshen",
    ))
}
