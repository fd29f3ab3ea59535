//! COPY. A protected relation is copied out through a query over its masked scan; the people are hidden columns behind the others, which
//! `meter/copy.rs` takes out of each row again. Copying in is inserting.

use std::collections::HashMap;
use std::sync::Arc;

use pg_query::protobuf::Token;

use super::edit::Intent;
use super::parse::{self, quote};
use super::plan::StatementKind;
use super::protected::{Kind, Protected};
use super::query::{self, Walked, modifies, walked};
use super::scope::{Lookup, People, Walk};
use super::statement::Class;
use super::tree::Tree;
use super::{Judged, Subject, Verdict, late, verify};
use crate::catalog::{RelationKind, UseKind};
use crate::meter::MeterSpec;
use crate::meter::copy::{CopyFormat, CopyStyle};
use crate::policy::InsertMasked;
use crate::wire::Refusal;

/// Encodings in which every byte below 128 is the ASCII character: only there can columns be told apart byte by byte.
const PLAIN_ENCODINGS: [&str; 8] = [
    "utf8",
    "utf-8",
    "unicode",
    "sql_ascii",
    "latin1",
    "iso88591",
    "win1252",
    "euc_cn",
];

pub(super) fn copy(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let tree = subject.tree;
    let server_side = tree.flag("is_program") || !tree.text("filename").is_empty();
    if server_side && !subject.judge.unrestricted {
        return Err(Refusal::denied(
            "copy-server-side",
            "permission denied for COPY with a file or program of the server",
            "use COPY … TO STDOUT or FROM STDIN (psql: \\copy)",
        )
        .into());
    }
    if tree.flag("is_from") {
        return copy_in(subject);
    }
    let query = tree.field("query");
    if !query.is_null() {
        let people = if server_side { People::No } else { People::AtEnd };
        return match walked(subject, query, people)? {
            Walked::Free(kind) => Ok(subject.forward(copy_kind(&kind))),
            Walked::Seen(mut walk, output) => {
                let mut meter = if server_side {
                    MeterSpec::default()
                } else {
                    query::meter(&walk, &output)?
                };
                if !server_side && is_written_back(tree) {
                    meter.late = late::copied(subject, query, &mut walk, &output);
                }
                let kind = out(tree, &meter, walk.writes)?;
                Ok(query::finish(subject, &walk, &query::shown(&output), meter, kind)?)
            }
        };
    }
    subject.functions()?;
    if !subject.touches()? {
        return Ok(subject.forward(copy_kind(&StatementKind::Query)));
    }
    relation_out(subject, server_side)
}

fn copy_kind(inner: &StatementKind) -> StatementKind {
    if matches!(inner, StatementKind::Write) {
        StatementKind::Write
    } else {
        StatementKind::Utility
    }
}

/// `COPY relation [(columns)] TO …`
fn relation_out(subject: &Subject<'_>, server_side: bool) -> Result<Judged, Verdict> {
    subject.reserved_names()?;
    let tree = subject.tree;
    let written = tree.field("relation");
    let (protected, kind) = resolved(subject, written)?;
    let what = match kind {
        RelationKind::Table => None,
        RelationKind::PartitionedTable => Some("partitioned table"),
        RelationKind::View => Some("view"),
        RelationKind::MaterializedView => {
            (subject.judge.ground.catalog.server_version_num < 180_000).then_some("materialized view")
        }
        RelationKind::ForeignTable => Some("foreign table"),
        RelationKind::Sequence | RelationKind::Toast | RelationKind::CompositeType => Some("relation of this kind"),
    };
    if let Some(what) = what {
        return Err(Refusal {
            sqlstate: "42809",
            ..Refusal::unsupported(
                "copy-relation-kind",
                format!("cannot copy from {what} \"{}\"", protected.name.name),
                "Try the COPY (SELECT ...) TO variant.",
            )
        }
        .into());
    }
    let columns: Vec<String> = match tree.names("attlist") {
        Some(listed) if !listed.is_empty() => listed,
        _ => protected
            .columns
            .iter()
            .filter(|c| c.column.generation.is_none())
            .map(|c| c.column.name.clone())
            .collect(),
    };
    // COPY of a table leaves out its children.
    let own = format!(
        "SELECT {} FROM ONLY {}.{}",
        columns.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", "),
        quote(&protected.name.schema),
        quote(&protected.name.name)
    );
    let parsed = parse::parse(&own)?;
    let select = parsed.statements.first().map_or(&Tree::Null, |s| s.field("stmt"));
    let inner = Subject {
        parsed: &parsed,
        tree: select,
        class: Class::Query,
        range: (0, own.len()),
        judge: subject.judge,
        earlier: subject.earlier,
        cursors: subject.cursors,
    };
    let people = if server_side { People::No } else { People::AtEnd };
    let (mut walk, output) = Walk::query(subject.judge, &parsed, select, people)?;
    let mut meter = if server_side {
        MeterSpec::default()
    } else {
        query::meter(&walk, &output)?
    };
    if !server_side && is_written_back(tree) {
        meter.late = late::copied(subject, select, &mut walk, &output);
    }
    let kind = out(tree, &meter, false)?;
    let mut judged = query::finish(&inner, &walk, &query::shown(&output), meter, kind)?;
    let Some(query) = judged.text.take() else {
        return Ok(judged); // everything clear, nobody counted
    };
    let (start, end) = relation_range(subject, written).ok_or_else(|| {
        Refusal::unsupported(
            "relation-place",
            "a relation whose place in the text can't be found",
            "use COPY (SELECT …) TO STDOUT",
        )
    })?;
    let text = format!(
        "{}({query}){}",
        subject.parsed.slice(subject.range.0, start),
        subject.parsed.slice(end, subject.range.1)
    );
    let intent = Intent::Query {
        location: written.location().unwrap_or(0),
        text: query,
    };
    verify::verify(tree, &text, &[intent])?;
    judged.text = Some(text);
    judged.plan.report = Arc::new(super::plan::Report {
        fingerprint: subject.fingerprint(),
        ..(*judged.plan.report).clone()
    });
    Ok(judged)
}

/// The bytes of `relation [(columns)]`.
fn relation_range(subject: &Subject<'_>, relation: &Tree) -> Option<(usize, usize)> {
    let start = relation.location()?;
    let mut index = subject.parsed.token_at(start)?;
    while subject.parsed.token(index + 1)?.kind == Token::Ascii46 {
        index += 2;
    }
    if subject.parsed.token(index + 1)?.kind == Token::Ascii40 {
        while subject.parsed.token(index)?.kind != Token::Ascii41 {
            index += 1;
        }
    }
    Some((start, subject.parsed.token(index)?.end))
}

fn resolved(subject: &Subject<'_>, written: &Tree) -> Result<(Arc<Protected>, RelationKind), Verdict> {
    let schema = written.text("schemaname");
    let schema = (!schema.is_empty()).then_some(schema);
    let ground = subject.judge.ground;
    let found = ground
        .catalog
        .resolve(schema, written.text("relname"), subject.judge.request.search_path)
        .and_then(|r| Some((Arc::clone(ground.protected.get(&r.oid)?), r.kind)));
    found.ok_or_else(|| {
        Refusal::unsupported(
            "relation-not-accounted",
            "Menshen did not understand the relation of this COPY",
            "use COPY (SELECT …) TO STDOUT",
        )
        .into()
    })
}

/// `COPY relation FROM`
fn copy_in(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    subject.functions()?;
    let touches = subject.touches()?;
    let written = subject.tree.field("relation");
    let schema = written.text("schemaname");
    let schema = (!schema.is_empty()).then_some(schema);
    let judge = subject.judge;
    if let Some(relation) = judge
        .ground
        .catalog
        .resolve(schema, written.text("relname"), judge.request.search_path)
    {
        judge.code_behind(relation, UseKind::Write)?;
    }
    let mut judged = subject.forward(StatementKind::Write);
    if !touches {
        return Ok(judged);
    }
    let (protected, _) = resolved(subject, written)?;
    let treated = judge.treat(&protected)?;
    let listed = subject.tree.names("attlist").unwrap_or_default();
    for (column, treatment) in protected.columns.iter().zip(&treated.treatments) {
        let named = listed.is_empty() || listed.contains(&column.column.name);
        if let Some(treatment) = treatment
            && named
            && treatment.kind != Kind::Clear
            && !treatment.write
            && judge.ground.policy.insert_masked == InsertMasked::Deny
        {
            return Err(Refusal::denied(
                "insert-masked-column",
                format!(
                    "permission denied to copy into column \"{}\": you see it masked ({})",
                    column.column.name, treatment.rule
                ),
                "the policy says insert_masked = \"deny\"; ask its owners for `write`",
            )
            .into());
        }
    }
    judged.plan.scrub = treated.replaced;
    Ok(judged)
}

/// How rows of this COPY are to be read, where they are.
fn out(tree: &Tree, meter: &MeterSpec, writes: bool) -> Result<StatementKind, Refusal> {
    if meter.is_empty() && meter.late.is_empty() {
        return Ok(if writes {
            StatementKind::Write
        } else {
            StatementKind::Utility
        });
    }
    if modifies(tree.field("query").kind()) || writes {
        return Err(Refusal::unsupported(
            "copy-returning",
            "COPY of a data modification whose rows are counted",
            "send the statement itself: RETURNING gives the rows",
        ));
    }
    Ok(StatementKind::CopyOut(Arc::new(format(tree)?)))
}

/// Whether a value that has been read from its rows can be written as the server would have: what is NULL is certain, and nothing but its own
/// characters says whether it is quoted.
fn is_written_back(tree: &Tree) -> bool {
    const KNOWN: [&str; 6] = ["format", "delimiter", "null", "quote", "escape", "header"];
    let known = |option: &Tree| KNOWN.contains(&option.text("defname"));
    tree.list("options").iter().all(known)
        && format(tree).is_ok_and(|format| match format.style {
            CopyStyle::Text => format.null == "\\N",
            CopyStyle::Csv | CopyStyle::Binary => true,
        })
}

fn format(tree: &Tree) -> Result<CopyFormat, Refusal> {
    let mut options: HashMap<&str, String> = HashMap::new();
    for option in tree.list("options") {
        let arg = option.field("arg");
        let value = match arg.kind() {
            "Boolean" => arg.flag("boolval").to_string(),
            "Integer" => arg.int("ival").to_string(),
            "TypeName" => arg.names("names").and_then(|mut n| n.pop()).unwrap_or_default(),
            _ => arg.text("sval").to_owned(),
        };
        options.insert(option.text("defname"), value);
    }
    let one = |name: &str, default: u8| -> Result<u8, Refusal> {
        match options.get(name).map(|v| v.as_bytes()) {
            None => Ok(default),
            Some([byte]) => Ok(*byte),
            Some(_) => Err(unreadable(name)),
        }
    };
    if let Some(encoding) = options.get("encoding")
        && !PLAIN_ENCODINGS.contains(&encoding.to_ascii_lowercase().as_str())
    {
        return Err(unreadable("encoding"));
    }
    let style = match options.get("format").map(String::as_str) {
        None | Some("text") => CopyStyle::Text,
        Some("csv") => CopyStyle::Csv,
        Some("binary") => CopyStyle::Binary,
        Some(_) => return Err(unreadable("format")),
    };
    let csv = style == CopyStyle::Csv;
    let quote = one("quote", b'"')?;
    let header = match options.get("header").map(String::as_str) {
        None | Some("false" | "off" | "0") => false,
        Some("" | "true" | "on" | "1") => true,
        Some(_) => return Err(unreadable("header")),
    };
    Ok(CopyFormat {
        style,
        delimiter: one("delimiter", if csv { b',' } else { b'\t' })?,
        null: options
            .get("null")
            .cloned()
            .unwrap_or_else(|| if csv { String::new() } else { "\\N".to_owned() }),
        quote,
        escape: one("escape", quote)?,
        header,
    })
}

fn unreadable(option: &str) -> Refusal {
    Refusal::unsupported(
        "copy-option",
        format!(
            "Menshen cannot count the people in rows of this COPY: its option {option} has a value that is not known"
        ),
        "use format text, csv or binary with one-byte delimiters, in UTF8",
    )
}
