//! The edit read again: PostgreSQL's tree of the edited text must be the client's own tree with exactly the intended
//! changes. Where they differ, nothing is sent.

use super::edit::Intent;
use super::parse;
use super::scope::Anchor;
use super::tree::Tree;
use crate::wire::Refusal;

/// Compares the edited text with the client's tree (the statement's `stmt`) after the intended changes.
///
/// # Errors
/// Where they differ, with an incident: one of the two readings is wrong.
pub fn verify(client: &Tree, edited: &str, intents: &[Intent]) -> Result<(), Refusal> {
    let reread = parse::parse(edited).map_err(|_| differs("the edited text does not parse"))?;
    let [statement] = reread.statements.as_slice() else {
        return Err(differs("the edited text is not one statement"));
    };
    let mut intended = client.clone();
    let mut applied = 0_usize;
    let mut parts = Vec::new();
    for intent in intents {
        parts.push((intent, elements(intent)?));
    }
    apply(&mut intended, &parts, &mut applied);
    if applied != intents.len() {
        return Err(differs("an intended change has no place in the tree"));
    }
    let mut actual = statement.field("stmt").clone();
    intended.strip_locations();
    actual.strip_locations();
    if intended == actual {
        Ok(())
    } else {
        Err(differs("PostgreSQL reads the edited text otherwise than intended"))
    }
}

/// The tree elements that an intent puts in, read from their own text alone.
fn elements(intent: &Intent) -> Result<Vec<Tree>, Refusal> {
    let (text, field) = match intent {
        Intent::Relation { text, .. } => (format!("SELECT FROM {text}"), "from_clause"),
        Intent::Target { text, .. } | Intent::Spell { text, .. } => (format!("SELECT {text}"), "target_list"),
        Intent::Shorten { .. } => return Ok(Vec::new()),
    };
    let parsed = parse::parse(&text).map_err(|_| differs("an inserted part does not parse"))?;
    let [statement] = parsed.statements.as_slice() else {
        return Err(differs("an inserted part is not one statement"));
    };
    let mut elements = statement.field("stmt").list(field).to_vec();
    // Their places are places of another text: they must not be taken for places of the client's.
    elements.iter_mut().for_each(Tree::strip_locations);
    Ok(elements)
}

fn apply(tree: &mut Tree, parts: &[(&Intent, Vec<Tree>)], applied: &mut usize) {
    if let Tree::Node(kind, _) = tree {
        let kind: &'static str = kind;
        let location = tree.location();
        if kind == "RangeVar" {
            for (intent, elements) in parts {
                if let (Intent::Relation { location: at, .. }, [element]) = (intent, elements.as_slice())
                    && location == Some(*at)
                {
                    *applied += 1;
                    let alias = tree.field("alias").clone();
                    let mut element = element.clone();
                    if !alias.is_null() {
                        set(&mut element, "alias", alias);
                    }
                    *tree = element;
                    return;
                }
            }
        }
        if kind == "ColumnRef" {
            for (intent, _) in parts {
                if let Intent::Shorten { location: at, fields } = intent
                    && location == Some(*at)
                    && let Some(items) = items_mut(tree, "fields")
                    && items.len() > *fields
                {
                    *applied += 1;
                    items.drain(..fields);
                }
            }
        }
        if kind == "SelectStmt" {
            let anchor = anchor(tree);
            let mut added: Vec<Tree> = Vec::new();
            for (intent, elements) in parts {
                if let Intent::Target { anchor: at, .. } = intent
                    && anchor == Some(*at)
                {
                    *applied += 1;
                    added.extend(elements.iter().cloned());
                }
            }
            if let Some(items) = items_mut(tree, "target_list") {
                let mut spelled: Vec<Tree> = Vec::with_capacity(items.len());
                for item in items.drain(..) {
                    let star = parts.iter().find(|(intent, _)| {
                        matches!(intent, Intent::Spell { location, .. } if item.location() == Some(*location))
                    });
                    match star {
                        Some((_, elements)) => {
                            *applied += 1;
                            spelled.extend(elements.iter().cloned());
                        }
                        None => spelled.push(item),
                    }
                }
                spelled.extend(added);
                *items = spelled;
            }
        }
    }
    match tree {
        Tree::Node(_, fields) => fields.iter_mut().for_each(|(_, t)| apply(t, parts, applied)),
        Tree::List(items) => items.iter_mut().for_each(|t| apply(t, parts, applied)),
        Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => {}
    }
}

fn anchor(select: &Tree) -> Option<Anchor> {
    let last = select.list("target_list").last()?;
    match last.location() {
        Some(at) => Some(Anchor::Last(at)),
        None => Some(Anchor::Table(select.list("from_clause").first()?.location()?)),
    }
}

fn items_mut<'t>(tree: &'t mut Tree, name: &str) -> Option<&'t mut Vec<Tree>> {
    let Tree::Node(_, fields) = tree else { return None };
    fields.iter_mut().find(|(n, _)| *n == name).and_then(|(_, t)| match t {
        Tree::List(items) => Some(items),
        Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) | Tree::Node(..) => None,
    })
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
