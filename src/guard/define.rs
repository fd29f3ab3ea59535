//! DDL, maintenance, and statements that define or run code.
//!
//! On protected relations they need a grant's `ddl`, but for those that show and change nothing (LOCK, ANALYZE …). A view needs no more:
//! its columns inherit their classes as soon as the catalog has it. Code is judged by its body when it runs.

use super::judge::{code_behind, split, type_opaque};
use super::plan::StatementKind;
use super::query::{self, Walked, walked};
use super::scope::{Given, Lookup, People};
use super::statement::Class;
use super::tree::Tree;
use super::{Judged, Subject, Verdict, functions, utility};
use crate::catalog::UseKind;
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
    maintained(subject)?;
    harmless(subject)
}

/// TRUNCATE would end rows that a filter hides.
fn truncate(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    // 2: CASCADE, to relations that nobody names.
    let cascades = subject.tree.int("behavior") == 2;
    if (subject.touches()? || cascades) && !subject.judge.all_rows() {
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
            judge.code_behind(found, UseKind::Write)?;
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
    let verdict = subject.judge.ground.reach.judge_body(&language, &body, Vec::new());
    if let functions::Verdict::Refused { reason, system } = verdict
        && !(system && subject.judge.unrestricted)
    {
        return Err(Refusal::denied(
            "code-opaque",
            format!("permission denied for DO: its code {reason}"),
            "send the statements themselves",
        )
        .into());
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

/// CREATE FUNCTION: one that could reach protected relations is a way to them. It is judged when it is made, because it may run where
/// nobody calls it by name (behind a deferred trigger, at the end of a statement that was judged before it was there), and when it is
/// called, because what it names may have become another by then. One that the policy trusts by name is not to be replaced by whoever likes.
fn function(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let names = subject.tree.names("funcname").unwrap_or_default();
    let judge = subject.judge;
    subject.functions()?;
    let trusted = judge.ground.reach.is_trusted(&names, judge.request.search_path);
    let settings = subject
        .tree
        .list("options")
        .iter()
        .filter(|o| o.text("defname") == "set");
    let settings = settings.map(|o| o.field("arg").text("name").to_owned()).collect();
    let verdict = judge
        .ground
        .reach
        .judge_body(&language(subject), &body(subject), settings);
    if let (functions::Verdict::Refused { reason, .. }, false) = (&verdict, trusted)
        && !judge.ground.policy.may_define(judge.request.standing)
    {
        return Err(Refusal::denied(
            "function-reaches-protected-relation",
            format!("permission denied to create function \"{}\": it {reason}", names.join(".")),
            "ask the owners of the policy for a grant with ddl = true, or create it as the owner of the database, past Menshen",
        )
        .into());
    }
    if judge.ground.reach.changers().body(&language(subject), &body(subject)) {
        changes_settings(subject, &format!("function \"{}\"", names.join(".")))?;
    }
    if subject.touches()? || trusted {
        granted(subject)?;
    }
    Ok(defined(subject))
}

/// What is made here would change settings whenever somebody uses it by the way, and every such use be refused or followed by questions.
fn changes_settings(subject: &Subject<'_>, what: &str) -> Result<(), Refusal> {
    let judge = subject.judge;
    if judge.ground.protected.is_empty() || judge.ground.policy.may_define(judge.request.standing) {
        return Ok(());
    }
    Err(Refusal::denied(
        "definition-changes-settings",
        format!("permission denied to create {what}: it changes settings that statements are read by"),
        "let it leave search_path, role and menshen.… alone, or ask the owners of the policy for a grant with ddl = true",
    ))
}

/// Calls that a definition stores (in a check, a default, a rule, a trigger's condition) and operators over functions that keep what they are
/// given: whoever uses what is defined would be refused, so not everybody may define it.
fn stored_calls(subject: &Subject<'_>) -> Result<(), Refusal> {
    let judge = subject.judge;
    let mut sets = false;
    subject.tree.walk(&mut |n| {
        if n.kind() == "FuncCall"
            && n.names("funcname")
                .is_some_and(|name| name.last().is_some_and(|l| l == "set_config"))
        {
            let setting = n.list("args").first().map(|a| a.field("val").text("sval"));
            sets |= setting.is_none_or(functions::is_followed);
        }
        !sets
    });
    if sets {
        changes_settings(subject, "what calls set_config")?;
    }
    // An operator's definition has its function as a type's name.
    let named = subject.tree.list("definition").iter();
    let functions = named.filter(|d| matches!(d.text("defname"), "procedure" | "function"));
    for function in functions {
        let name = function.field("arg").names("names").unwrap_or_default();
        if !name.is_empty() && judge.keeps(Given::Function(&name)) {
            granted(subject)?;
        }
    }
    Ok(())
}

/// The language of a CREATE FUNCTION; that of a body without quotes is SQL.
fn language(subject: &Subject<'_>) -> String {
    option(subject, "language").map_or_else(|| "sql".to_owned(), |o| o.field("arg").text("sval").to_owned())
}

/// The text of a CREATE FUNCTION's body; one without quotes is part of the statement, which is judged whole.
fn body(subject: &Subject<'_>) -> String {
    let strings = option(subject, "as").map(|o| o.field("arg").list("items"));
    // For C: the library and the symbol.
    let last = strings.unwrap_or_default().last();
    last.map(|s| s.text("sval").to_owned()).unwrap_or_default()
}

fn option<'s>(subject: &'s Subject<'_>, name: &str) -> Option<&'s Tree> {
    subject.tree.list("options").iter().find(|o| o.text("defname") == name)
}

/// What runs when a relation is altered, analysed or built anew; and the checks of an altered domain.
fn maintained(subject: &Subject<'_>) -> Result<(), Refusal> {
    let judge = subject.judge;
    let (reach, catalog) = (&judge.ground.reach, &judge.ground.catalog);
    let mut relations = Vec::new();
    subject.tree.walk(&mut |n| {
        if n.kind() == "RangeVar" {
            relations.push(n);
        }
        true
    });
    let mut named = !relations.is_empty();
    for relation in relations {
        let schema = relation.text("schemaname");
        let schema = (!schema.is_empty()).then_some(schema);
        // An index, which is no relation of the catalog, could be any relation's.
        match catalog.resolve(schema, relation.text("relname"), judge.request.search_path) {
            Some(found) => judge.code_behind(found, UseKind::Maintain)?,
            None => named = false,
        }
    }
    let domain = subject.tree.names("type_name").unwrap_or_default();
    if let Some((schema, name)) = split(&domain)
        && let Some(reason) = reach.code_behind_type(catalog, schema, name, judge.request.search_path)
    {
        return Err(type_opaque(name, reason));
    }
    let everything = matches!(subject.tree.kind(), "VacuumStmt" | "ClusterStmt" | "ReindexStmt");
    match reach.code_behind_any() {
        Some(reason) if everything && !named => Err(code_behind("relations that this statement does not name", reason)),
        Some(_) | None => Ok(()),
    }
}

fn other(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    subject.functions()?;
    if subject.touches()? || utility::names_protected(subject) || reaches_out(subject) || takes_a_name(subject) {
        granted(subject)?;
    }
    maintained(subject)?;
    utility::inner_execute(subject)?;
    stored_calls(subject)?;
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
