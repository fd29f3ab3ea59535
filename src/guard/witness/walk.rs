//! Collecting names from `sqlparser`'s tree in its serde form: every key of every variant is visited.

use std::collections::BTreeSet;

use super::misreadings;
use super::part::Part;

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Statements.
    pub statements: usize,
    /// Names in the places of relations.
    pub relations: BTreeSet<Vec<String>>,
    /// Names in the places of functions.
    pub functions: BTreeSet<Vec<String>>,
    /// Every identifier anywhere.
    pub names: BTreeSet<String>,
}

/// Variants and fields whose name is a relation, wherever they stand.
const RELATION_FIELDS: [&str; 3] = ["table_name", "table", "TableName"];

/// Visits everything.
pub fn collect(part: &Part, seen: &mut Seen) {
    match part {
        Part::Null | Part::Scalar | Part::Text(_) => {}
        Part::List(items) => items.iter().for_each(|item| collect(item, seen)),
        Part::Fields(fields) => {
            if let Some(name) = identifier(part) {
                seen.names.insert(name);
                return;
            }
            for (key, inner) in fields {
                match &**key {
                    // TableFactor::Table { name, args, … }
                    "Table" => {
                        let parts = inner.get("name").and_then(object_name).or_else(|| table_command(inner));
                        let call = inner.get("args").is_some_and(|args| *args != Part::Null);
                        match parts {
                            Some(parts) if call => {
                                seen.functions.insert(parts);
                            }
                            Some(parts) => {
                                seen.relations.insert(parts);
                            }
                            None => {}
                        }
                    }
                    "Function" => {
                        if let Some(parts) = inner.get("name").and_then(object_name) {
                            seen.functions.insert(parts);
                        }
                    }
                    // CREATE TABLE … PARTITION BY LIST (…): a strategy and its columns, read as a call.
                    "partition_by" if strategy(inner).is_some() => {
                        strategy(inner)
                            .into_iter()
                            .for_each(|arguments| collect(arguments, seen));
                        continue;
                    }
                    key if RELATION_FIELDS.contains(&key) => {
                        if let Some(parts) = object_name(inner) {
                            seen.relations.insert(parts);
                        }
                    }
                    _ => {}
                }
                collect(inner, seen);
            }
        }
    }
}

/// `Ident { value, quote_style, span }`, folded as PostgreSQL folds it.
fn identifier(part: &Part) -> Option<String> {
    let (value, quote) = (part.get("value")?, part.get("quote_style")?);
    // A `Word` token has a `keyword` besides: the tree keeps some tokens for their places.
    if part.get("keyword").is_some() {
        return None;
    }
    let text = value.text()?;
    match quote.text() {
        // With unescaping off, doubled quotes are still doubled.
        Some(quote) => Some(text.replace(&format!("{quote}{quote}"), quote)),
        None => Some(text.to_ascii_lowercase()),
    }
}

/// What a table is partitioned by, where that is a strategy of PostgreSQL's: the arguments of what is no function.
fn strategy(part: &Part) -> Option<&Part> {
    let call = part.get("Function")?;
    let name = call.get("name").and_then(object_name)?;
    let known = matches!(name.as_slice(), [one] if misreadings::STRATEGIES.contains(&one.as_str()));
    known.then(|| call.get("args")).flatten()
}

/// `ObjectName([Identifier(Ident), …])`
fn object_name(part: &Part) -> Option<Vec<String>> {
    let Part::List(items) = part else { return None };
    let parts: Option<Vec<String>> = items
        .iter()
        .map(|part| part.get("Identifier").and_then(identifier).or_else(|| identifier(part)))
        .collect();
    parts.filter(|p| !p.is_empty())
}

/// `SetExpr::Table { table_name, schema_name }`: strings, quoted or not.
fn table_command(part: &Part) -> Option<Vec<String>> {
    let named = |key: &str| match part.get(key) {
        Some(Part::Text(text)) => Some(text.to_ascii_lowercase()),
        Some(other) => identifier(other),
        None => None,
    };
    let name = named("table_name")?;
    Some(named("schema_name").into_iter().chain([name]).collect())
}
