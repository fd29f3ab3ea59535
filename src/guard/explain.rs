//! EXPLAIN. Where something is masked or rows are hidden from the principal, the plan's shape is shown and nothing else: no costs, row
//! counts, conditions or timings, which tell of values and of hidden rows. `session/plans.rs` takes the details out of the answer.

use std::collections::BTreeSet;

use pg_query::protobuf::Token;

use super::edit::Intent;
use super::plan::{ExplainFormat, StatementKind};
use super::query::{self, Walked, modifies, walked};
use super::scope::People;
use super::tree::Tree;
use super::{Judged, Subject, Verdict, utility, verify};
use crate::meter::MeterSpec;
use crate::wire::Refusal;

pub(super) fn explain(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let inner = subject.tree.field("query");
    let analyze = option(subject, "analyze").is_some_and(is_on);
    let (query, stores) = match inner.kind() {
        "DeclareCursorStmt" => (inner.field("query"), false),
        "CreateTableAsStmt" => (inner.field("query"), true),
        _ => (inner, !inner.field("into_clause").is_null()),
    };
    if query.kind() == "ExecuteStmt" {
        return execute(subject, query, analyze, stores);
    }
    if query.kind() != "SelectStmt" && !modifies(query.kind()) {
        return utility::other(subject);
    }
    let kind = |writes: bool| {
        if writes && analyze {
            StatementKind::Write
        } else {
            StatementKind::Query
        }
    };
    let mut judged = match walked(subject, query, People::No)? {
        Walked::Free(inner) => subject.forward(kind(matches!(inner, StatementKind::Write))),
        Walked::Seen(mut walk, output) => {
            if stores {
                query::stored(&walk, &output)?;
            }
            let restricted = walk.scans.iter().any(|s| s.restricted);
            let mut kind = kind(walk.writes);
            if restricted {
                let (format, options) = restricted_options(subject, analyze)?;
                let (start, end) = options_range(subject).ok_or_else(no_place)?;
                walk.explain_options(start, end, options);
                kind = StatementKind::Explain { format };
            }
            query::finish(subject, &walk, &BTreeSet::new(), MeterSpec::default(), kind)?
        }
    };
    judged.plan.ddl = analyze && stores;
    Ok(judged)
}

/// `EXPLAIN [CREATE TABLE … AS] EXECUTE name`
fn execute(subject: &Subject<'_>, execute: &Tree, analyze: bool, stores: bool) -> Result<Judged, Verdict> {
    subject.functions()?;
    let prepared = utility::prepared(subject, execute.text("name"))?;
    let mut judged = subject.forward(if analyze && prepared.kind_writes() {
        StatementKind::Write
    } else {
        StatementKind::Query
    });
    judged.plan.ddl = analyze && stores;
    if prepared.report.relations.is_empty() {
        return Ok(judged);
    }
    if stores {
        return Err(utility::execute_into().into());
    }
    judged.plan.report = std::sync::Arc::clone(&prepared.report);
    if !prepared.scrub {
        return Ok(judged);
    }
    let (format, options) = restricted_options(subject, analyze)?;
    let (start, end) = options_range(subject).ok_or_else(no_place)?;
    let text = format!(
        "{} ({options}) {}",
        subject.parsed.slice(subject.range.0, start),
        subject.parsed.slice(end, subject.range.1)
    );
    verify::verify(subject.tree, &text, &[Intent::Options { text: options }])?;
    judged.text = Some(text);
    judged.plan.scrub = true;
    judged.plan.kind = StatementKind::Explain { format };
    Ok(judged)
}

fn option<'t>(subject: &Subject<'t>, name: &str) -> Option<&'t Tree> {
    subject
        .tree
        .list("options")
        .iter()
        .rev()
        .find(|o| o.text("defname") == name)
}

fn is_on(option: &Tree) -> bool {
    let arg = option.field("arg");
    match arg.kind() {
        "" => true,
        "Integer" => arg.int("ival") != 0,
        "Boolean" => arg.flag("boolval"),
        _ => !matches!(
            arg.text("sval").to_ascii_lowercase().as_str(),
            "false" | "off" | "0" | "f" | "no"
        ),
    }
}

/// The options under which nothing is told but the plan's shape.
fn restricted_options(subject: &Subject<'_>, analyze: bool) -> Result<(ExplainFormat, String), Refusal> {
    if analyze {
        return Err(Refusal::denied(
            "explain-analyze",
            "permission denied for EXPLAIN ANALYZE: row counts and timings tell of values and rows that are masked or hidden from you",
            "EXPLAIN without ANALYZE shows the plan's shape",
        ));
    }
    let format = option(subject, "format").map_or_else(String::new, |o| o.field("arg").text("sval").to_lowercase());
    let (format, name) = match format.as_str() {
        "" | "text" => (ExplainFormat::Text, "TEXT"),
        "json" => (ExplainFormat::Json, "JSON"),
        _ => {
            return Err(Refusal::unsupported(
                "explain-format",
                "Menshen takes values out of plans in the formats TEXT and JSON only",
                "use EXPLAIN (FORMAT JSON)",
            ));
        }
    };
    let generic = if option(subject, "generic_plan").is_some_and(is_on) {
        ", GENERIC_PLAN"
    } else {
        ""
    };
    Ok((format, format!("COSTS OFF, FORMAT {name}{generic}")))
}

/// The bytes between EXPLAIN and the statement.
fn options_range(subject: &Subject<'_>) -> Option<(usize, usize)> {
    let explain = subject.parsed.token_at(subject.range.0)?;
    let start = subject.parsed.token(explain)?.end;
    let mut index = explain + 1;
    let next = subject.parsed.token(index)?;
    if next.kind == Token::Ascii40 && !subject.tree.list("options").is_empty() {
        let mut depth = 0_usize;
        loop {
            match subject.parsed.token(index)?.kind {
                Token::Ascii40 => depth += 1,
                Token::Ascii41 => depth = depth.checked_sub(1)?,
                _ => {}
            }
            index += 1;
            if depth == 0 {
                break;
            }
        }
    } else {
        while matches!(
            subject.parsed.token(index)?.kind,
            Token::Analyze | Token::Analyse | Token::Verbose
        ) {
            index += 1;
        }
    }
    Some((start, subject.parsed.token(index)?.start))
}

fn no_place() -> Refusal {
    Refusal::unsupported(
        "explain-place",
        "EXPLAIN whose options' place can't be found",
        "write EXPLAIN (options) statement",
    )
}
