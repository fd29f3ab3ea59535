//! The edit read again: PostgreSQL's tree of the edited text must be the client's own tree with exactly the intended
//! changes. Where they differ, nothing is sent. Masked scans are read once and remembered.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::edit::Intent;
use super::parse;
use super::scope::{Anchor, ConditionOf};
use super::tree::Tree;
use crate::wire::Refusal;

/// Stands in an inserted part for what the client wrote. No client text that is edited may hold it.
const PLACE: &str = "menshen_kplace";

/// Begins the names that stand for masked scans while the rest of an edit is read. Nobody can know it, in whatever spelling: it is never sent.
static STAND_IN: LazyLock<Option<String>> = LazyLock::new(|| {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).ok()?;
    Some(format!("menshen_kscan_{}_", hex::encode(random)))
});

/// Most different masked scans, and most changes, of an edit that is proven in parts: each scan is looked for in the whole text, and each change at
/// each node.
const SCANS_MAX: usize = 32;
const INTENTS_MAX: usize = 256;

/// Compares the edited text with the client's tree (the statement's `stmt`) after the intended changes.
///
/// # Errors
/// Where they differ, with an incident: one of the two readings is wrong.
pub fn verify(client: &Tree, edited: &str, intents: &[Intent]) -> Result<(), Refusal> {
    if !proven_in_parts(client, edited, intents)? {
        return verify_whole(client, edited, intents);
    }
    // What is proven in parts is proven as a whole: every test of the guard tries it again.
    if cfg!(debug_assertions) {
        return verify_whole(client, edited, intents);
    }
    Ok(())
}

/// The same, by reading the edited text as it is sent.
pub(super) fn verify_whole(client: &Tree, edited: &str, intents: &[Intent]) -> Result<(), Refusal> {
    let mut parts = Vec::with_capacity(intents.len());
    for intent in intents {
        parts.push(PartOf {
            intent,
            elements: elements(intent)?,
        });
    }
    compare(client, edited, &parts)
}

/// Whether the edit is proven with each masked scan read by itself, once for all statements in which it stands, and a short stand-in read in its
/// place. A sub-select in parentheses is one symbol of the grammar (`select_with_parens`), of which the text around sees nothing: where one is
/// accepted in FROM, each other is, and the trees differ in nothing else. Masks are long, and reading them again is most of a plan.
///
/// False says nothing: the text is read as a whole then.
pub(super) fn proven_in_parts(client: &Tree, edited: &str, intents: &[Intent]) -> Result<bool, Refusal> {
    let Some(stand_in) = &*STAND_IN else {
        return Ok(false);
    };
    // What is larger has the parser's limits, which hold for what is sent.
    if intents.len() > INTENTS_MAX || edited.len() > parse::BYTES_OUTSIDE_LITERALS_MAX {
        return Ok(false);
    }
    let stand_in = |number: usize| format!("(SELECT {stand_in}{number})");
    // Each masked scan, and how often it was put in.
    let mut scans: Vec<(&str, usize)> = Vec::new();
    let mut parts = Vec::with_capacity(intents.len());
    for intent in intents {
        let elements = match part_text(intent) {
            Some(text) => {
                let scan = scan(text)?;
                let Some((masked, alias)) = scan.parentheses.and_then(|end| text.split_at_checked(end)) else {
                    return Ok(false);
                };
                let number = scans.iter().position(|(known, _)| *known == masked);
                let number = number.unwrap_or_else(|| {
                    scans.push((masked, 0));
                    scans.len() - 1
                });
                if scans.len() > SCANS_MAX {
                    return Ok(false);
                }
                if let Some((_, times)) = scans.get_mut(number) {
                    *times += 1;
                }
                Arc::clone(&self::scan(&format!("{}{alias}", stand_in(number)))?.elements)
            }
            None => elements(intent)?,
        };
        parts.push(PartOf { intent, elements });
    }
    if scans.is_empty() {
        return Ok(false);
    }
    let mut numbered: Vec<(usize, &str, usize)> = (0..).zip(&scans).map(|(n, (s, times))| (n, *s, *times)).collect();
    // One may be part of another.
    numbered.sort_by_key(|(_, masked, _)| std::cmp::Reverse(masked.len()));
    let mut frame = edited.to_owned();
    for (number, masked, times) in numbered {
        // As many as were put in: one more would stand in a literal or a comment of the client's, or in another part.
        if frame.matches(masked).count() != times {
            return Ok(false);
        }
        frame = frame.replace(masked, &stand_in(number));
    }
    Ok(compare(client, &frame, &parts).is_ok())
}

/// The text of a masked scan that stands in for a relation.
fn part_text(intent: &Intent) -> Option<&str> {
    match intent {
        Intent::Relation { text, .. } => Some(text),
        Intent::Sample { .. }
        | Intent::Target { .. }
        | Intent::Spell { .. }
        | Intent::Reference { .. }
        | Intent::Comparison { .. }
        | Intent::Value { .. }
        | Intent::Condition { .. }
        | Intent::Query { .. }
        | Intent::Options { .. }
        | Intent::Shorten { .. }
        | Intent::Label { .. } => None,
    }
}

fn compare(client: &Tree, edited: &str, parts: &[PartOf<'_>]) -> Result<(), Refusal> {
    let mut reread = parse::parse(edited).map_err(|_| differs("the edited text does not parse"))?;
    let [statement] = reread.statements.as_mut_slice() else {
        return Err(differs("the edited text is not one statement"));
    };
    let mut intended = client.clone();
    let mut applied = BTreeSet::new();
    apply(&mut intended, parts, &mut applied);
    if applied.len() != parts.len() {
        return Err(differs("an intended change has no place in the tree"));
    }
    intended.strip_locations();
    statement.strip_locations();
    if intended == *statement.field("stmt") {
        Ok(())
    } else {
        Err(differs("PostgreSQL reads the edited text otherwise than intended"))
    }
}

/// An intent with the tree elements that it puts in.
struct PartOf<'i> {
    intent: &'i Intent,
    elements: Arc<[Tree]>,
}

/// Bytes of the trees of masked scans that are kept, about: the same few stand in most statements.
const SCANS_BYTES: u64 = 8 * 1024 * 1024;

/// What the text of a masked scan is read as. It depends on nothing but the text.
static SCANS: LazyLock<Cache<Box<str>, ScanRead, Weight>> =
    LazyLock::new(|| Cache::with_weighter(256, SCANS_BYTES, Weight));

/// A masked scan as it is read alone.
#[derive(Debug, Clone)]
struct ScanRead {
    elements: Arc<[Tree]>,
    /// Where its parentheses end, where it is one sub-select in parentheses with nothing behind but `AS` and a name.
    parentheses: Option<usize>,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Box<str>, ScanRead> for Weight {
    fn weight(&self, text: &Box<str>, scan: &ScanRead) -> u64 {
        let bytes: usize = scan.elements.iter().map(Tree::bytes).sum();
        u64::try_from(text.len() + bytes).unwrap_or(u64::MAX)
    }
}

/// The tree elements that an intent puts in, read from their own text alone.
fn elements(intent: &Intent) -> Result<Arc<[Tree]>, Refusal> {
    match part_text(intent) {
        Some(text) => Ok(scan(text)?.elements),
        None => Ok(read(intent)?.0.into()),
    }
}

/// The FROM entry of `SELECT FROM <text>`.
fn scan(text: &str) -> Result<ScanRead, Refusal> {
    if let Some(known) = SCANS.get(text) {
        return Ok(known);
    }
    let (elements, parsed) = read(&Intent::Relation {
        location: 0,
        text: text.to_owned(),
    })?;
    let is_one = matches!(elements.as_slice(), [one] if one.kind() == "RangeSubselect");
    let parentheses = parsed.and_then(|parsed| parentheses(&parsed, parsed.text.len().checked_sub(text.len())?));
    let scan = ScanRead {
        elements: elements.into(),
        parentheses: parentheses.filter(|_| is_one),
    };
    SCANS.insert(text.into(), scan.clone());
    Ok(scan)
}

/// Where the parentheses end that begin at a byte, counted from there; only where `AS` and one more token are all that follows.
fn parentheses(parsed: &parse::Parsed, start: usize) -> Option<usize> {
    use pg_query::protobuf::Token;
    let first = parsed.token_at(start)?;
    let (mut depth, mut at) = (0_usize, first);
    let end = loop {
        let token = parsed.token(at)?;
        at += 1;
        if token.kind == Token::Ascii40 {
            depth += 1;
        } else if token.kind == Token::Ascii41 {
            depth = depth.checked_sub(1)?;
        }
        if depth == 0 {
            break token.end;
        }
    };
    let named = parsed.token(at)?.kind == Token::As && parsed.token(at + 1)?.end == parsed.text.len();
    (named && parsed.tokens.len() == at + 2).then_some(end - start)
}

/// The elements, and the reading that they are from.
fn read(intent: &Intent) -> Result<(Vec<Tree>, Option<parse::Parsed>), Refusal> {
    let (text, field) = match intent {
        Intent::Relation { text, .. } | Intent::Sample { text, .. } => (format!("SELECT FROM {text}"), "from_clause"),
        Intent::Target { text, .. }
        | Intent::Spell { text, .. }
        | Intent::Reference { text, .. }
        | Intent::Comparison { text, .. } => (format!("SELECT {text}"), "target_list"),
        Intent::Value { before, after, .. } => (format!("SELECT {before}{PLACE}{after}"), "target_list"),
        Intent::Condition {
            before,
            after: Some(after),
            ..
        } => (format!("SELECT WHERE {before}{PLACE}{after}"), "where_clause"),
        Intent::Condition {
            before, after: None, ..
        } => (format!("SELECT WHERE {before}"), "where_clause"),
        Intent::Query { text, .. } => (text.clone(), ""),
        Intent::Options { text, .. } => (format!("EXPLAIN ({text}) SELECT"), "options"),
        Intent::Shorten { .. } | Intent::Label { .. } => return Ok((Vec::new(), None)),
    };
    let parsed = parse::parse(&text).map_err(|_| differs("an inserted part does not parse"))?;
    let [statement] = parsed.statements.as_slice() else {
        return Err(differs("an inserted part is not one statement"));
    };
    let whole = statement.field("stmt");
    let mut elements = match (field, whole.field(field)) {
        ("", _) => vec![whole.clone()],
        (_, Tree::List(items)) => items.clone(),
        (_, Tree::Null) => Vec::new(),
        (_, one) => vec![one.clone()],
    };
    // Their places are places of another text: they must not be taken for places of the client's.
    elements.iter_mut().for_each(Tree::strip_locations);
    Ok((elements, Some(parsed)))
}

/// Makes the intended changes. What is put in is not walked again.
fn apply(tree: &mut Tree, parts: &[PartOf<'_>], applied: &mut BTreeSet<usize>) {
    let (kind, location) = (tree.kind(), tree.location());
    for (number, part) in parts.iter().enumerate() {
        match (kind, part.intent, &part.elements[..]) {
            ("RangeVar", Intent::Relation { location: at, .. }, [element]) if location == Some(*at) => {
                applied.insert(number);
                let alias = tree.field("alias").clone();
                let mut element = element.clone();
                if !alias.is_null() {
                    set(&mut element, "alias", alias);
                }
                *tree = element;
                return;
            }
            ("RangeTableSample", Intent::Sample { location: at, .. }, [element])
                if tree.field("relation").location() == Some(*at) =>
            {
                if let Some(element) = sampled(element, tree) {
                    applied.insert(number);
                    *tree = element;
                    return;
                }
            }
            ("ColumnRef", Intent::Reference { location: at, .. }, [element])
            | ("AExpr", Intent::Comparison { location: at, .. }, [element])
                if location == Some(*at) =>
            {
                applied.insert(number);
                *tree = element.field("val").clone();
                return;
            }
            ("ColumnRef", Intent::Shorten { location: at, fields }, _) if location == Some(*at) => {
                if let Some(items) = items_mut(tree, "fields")
                    && items.len() > *fields
                {
                    applied.insert(number);
                    items.drain(..fields);
                }
            }
            ("CopyStmt", Intent::Query { location: at, .. }, [element])
                if tree.field("relation").location() == Some(*at) =>
            {
                applied.insert(number);
                set(tree, "relation", Tree::Null);
                set(tree, "attlist", Tree::List(Vec::new()));
                set(tree, "query", element.clone());
                return;
            }
            ("ExplainStmt", Intent::Options { .. }, options) => {
                applied.insert(number);
                set(tree, "options", Tree::List(options.to_vec()));
            }
            _ => {}
        }
    }
    let list = match kind {
        "SelectStmt" => Some("target_list"),
        "ReturningClause" => Some("exprs"),
        _ => None,
    };
    let anchor = list.and_then(|l| anchor(tree, l));
    match tree {
        Tree::Node(_, fields) => fields.iter_mut().for_each(|(_, t)| apply(t, parts, applied)),
        Tree::List(items) => items.iter_mut().for_each(|t| apply(t, parts, applied)),
        Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => {}
    }
    if let Some(list) = list {
        lists(tree, list, anchor, parts, applied);
    }
    for (number, part) in parts.iter().enumerate() {
        match (part.intent, &part.elements[..]) {
            (Intent::Label { location: at, name }, _) if kind == "ResTarget" && location == Some(*at) => {
                applied.insert(number);
                set(tree, "name", Tree::Text(name.clone()));
            }
            (Intent::Value { location: at, .. }, [element]) if kind == "ResTarget" && location == Some(*at) => {
                applied.insert(number);
                let client = tree.field("val").clone();
                set(tree, "val", filled(element.field("val"), &client));
            }
            (Intent::Condition { of, after, .. }, [element])
                if condition(tree, anchor, *of, after.is_some(), element) =>
            {
                applied.insert(number);
            }
            _ => {}
        }
    }
}

/// A masked scan that samples as the client's `RangeTableSample` does, under the client's alias.
fn sampled(scan: &Tree, client: &Tree) -> Option<Tree> {
    let mut scan = scan.clone();
    let alias = client.field("relation").field("alias").clone();
    if !alias.is_null() {
        set(&mut scan, "alias", alias);
    }
    let from = items_mut(field_mut(&mut scan, "subquery")?, "from_clause")?;
    let [inner] = from.as_mut_slice() else { return None };
    if inner.kind() != "RangeTableSample" {
        return None;
    }
    for part in ["method", "args", "repeatable"] {
        set(inner, part, client.field(part).clone());
    }
    Some(scan)
}

/// Select lists and RETURNING: `*` spelled out, hidden columns behind.
fn lists(tree: &mut Tree, list: &str, anchor: Option<Anchor>, parts: &[PartOf<'_>], applied: &mut BTreeSet<usize>) {
    let Some(items) = items_mut(tree, list) else { return };
    let mut made: Vec<Tree> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        let star = parts.iter().enumerate().find(
            |(_, part)| matches!(part.intent, Intent::Spell { location, .. } if item.location() == Some(*location)),
        );
        match star {
            Some((number, part)) => {
                applied.insert(number);
                made.extend(part.elements.iter().cloned());
            }
            None => made.push(item),
        }
    }
    for (number, part) in parts.iter().enumerate() {
        if let Intent::Target { anchor: at, .. } = part.intent
            && anchor == Some(*at)
        {
            applied.insert(number);
            made.extend(part.elements.iter().cloned());
        }
    }
    *items = made;
}

/// A row filter beside a condition. Says whether this is the statement that is meant, and has a condition or none as intended.
fn condition(tree: &mut Tree, anchor: Option<Anchor>, of: ConditionOf, written: bool, element: &Tree) -> bool {
    let (kinds, at, within, field): (&[&str], usize, Option<&str>, &str) = match of {
        ConditionOf::Modification(at) => (&["UpdateStmt", "DeleteStmt"], at, None, "where_clause"),
        ConditionOf::Conflict(at) => (&["InsertStmt"], at, Some("on_conflict_clause"), "where_clause"),
        ConditionOf::Merge(at) => (&["MergeStmt"], at, None, "join_condition"),
        ConditionOf::Having(at) => {
            if tree.kind() != "SelectStmt" || anchor != Some(at) {
                return false;
            }
            (&["SelectStmt"], usize::MAX, None, "having_clause")
        }
    };
    let place = tree.field("relation").location();
    if !kinds.contains(&tree.kind()) || place != Some(at) && at != usize::MAX {
        return false;
    }
    let node = match within {
        None => tree,
        Some(name) => match field_mut(tree, name) {
            Some(inner) => inner,
            None => return false,
        },
    };
    let client = node.field(field).clone();
    if client.is_null() == written {
        return false;
    }
    set(node, field, filled(element, &client));
    true
}

/// An inserted part with what the client wrote in its place.
fn filled(part: &Tree, client: &Tree) -> Tree {
    if part.kind() == "ColumnRef" && part.names("fields").is_some_and(|f| f == [PLACE]) {
        return client.clone();
    }
    match part {
        Tree::Node(kind, fields) => Tree::Node(kind, fields.iter().map(|(n, t)| (*n, filled(t, client))).collect()),
        Tree::List(items) => Tree::List(items.iter().map(|t| filled(t, client)).collect()),
        Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => part.clone(),
    }
}

fn anchor(node: &Tree, list: &str) -> Option<Anchor> {
    let last = node.list(list).last()?;
    match last.location() {
        Some(at) => Some(Anchor::Last(at)),
        None => Some(Anchor::Table(node.list("from_clause").first()?.location()?)),
    }
}

fn items_mut<'t>(tree: &'t mut Tree, name: &str) -> Option<&'t mut Vec<Tree>> {
    let Tree::Node(_, fields) = tree else { return None };
    fields.iter_mut().find(|(n, _)| *n == name).and_then(|(_, t)| match t {
        Tree::List(items) => Some(items),
        Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) | Tree::Node(..) => None,
    })
}

fn field_mut<'t>(tree: &'t mut Tree, name: &str) -> Option<&'t mut Tree> {
    let Tree::Node(_, fields) = tree else { return None };
    fields.iter_mut().find(|(n, _)| *n == name).map(|(_, t)| t)
}

fn set(tree: &mut Tree, name: &str, value: Tree) {
    if let Tree::Node(_, fields) = tree {
        for (field, old) in fields {
            if *field == name {
                *old = value;
                return;
            }
        }
    }
}

fn differs(what: &str) -> Refusal {
    Refusal {
        sqlstate: "0A000",
        rule: "edit-differs",
        message: format!("Menshen could not prove its edit of this statement: {what}"),
        hint: "write the statement in another form; the security team has been told".into(),
        position: None,
        incident: true,
    }
}
