//! What the second reader says, asked whether the first has seen everything.

use std::collections::BTreeSet;

use super::judge::Judge;
use super::parse::Parsed;
use super::statement::Class;
use super::tree::Tree;
use super::witness;
use crate::wire::Refusal;

/// Asks the second reader; says what it said.
pub(super) fn ask(parsed: &Parsed, judge: &Judge<'_>) -> Result<&'static str, Refusal> {
    let accounted = account(parsed, judge);
    match witness::object(&parsed.text, &accounted) {
        witness::Testimony::Agrees => Ok("agrees"),
        witness::Testimony::Abstains(cause) => Ok(cause.label()),
        witness::Testimony::Objects(objections) => {
            let names: Vec<String> = objections.iter().map(ToString::to_string).collect();
            Err(Refusal {
                sqlstate: "0A000",
                rule: "guards-disagree",
                message: format!("the two guards read this statement differently ({})", names.join("; ")),
                hint: "write the statement in a plainer form; the security team has been told".into(),
                position: None,
                incident: true,
            })
        }
    }
}

/// Everything the first guard saw, by kind of name.
fn account(parsed: &Parsed, judge: &Judge<'_>) -> witness::Accounted {
    let mut seen = witness::Accounted {
        statements: parsed.statements.len(),
        ..Default::default()
    };
    seen.functions.extend(judge.functions.borrow().iter().cloned());
    account_trees(parsed, &mut seen);
    seen
}

pub(super) fn account_trees(parsed: &Parsed, seen: &mut witness::Accounted) {
    for statement in &parsed.statements {
        statement.walk(&mut |n| {
            match n.kind() {
                "RangeVar" => {
                    let parts = [n.text("catalogname"), n.text("schemaname"), n.text("relname")];
                    seen.relations.insert(
                        parts
                            .iter()
                            .filter(|p| !p.is_empty())
                            .map(|p| (*p).to_owned())
                            .collect(),
                    );
                    return true;
                }
                "CommonTableExpr" => {
                    seen.ctes.insert(n.text("ctename").to_owned());
                }
                "Alias" => {
                    seen.aliases.insert(n.text("aliasname").to_owned());
                }
                "FuncCall" => {
                    seen.functions.extend(n.names("funcname"));
                }
                // The witness takes some sampling methods for functions, which they are.
                "RangeTableSample" => {
                    seen.functions.extend(n.names("method"));
                }
                "ColumnRef" => {
                    seen.columns.extend(n.names("fields").into_iter().flatten());
                }
                // Inside GROUPING SETS these are functions to the witness. There are functions of such names, too: elsewhere they count.
                "GroupingSet" => {
                    for form in ["rollup", "cube"] {
                        seen.functions.insert(vec![form.to_owned()]);
                        seen.other_names.insert(form.to_owned());
                    }
                }
                _ => {}
            }
            texts(n, &mut seen.other_names);
            true
        });
    }
    // `SET a.b` is one name to PostgreSQL and two to the witness.
    let parts: Vec<String> = seen
        .other_names
        .iter()
        .flat_map(|n| n.split('.').map(str::to_owned))
        .collect();
    seen.other_names.extend(parts);
    seen.names_matter = parsed.classes.iter().all(|class| {
        matches!(
            class,
            Class::Query | Class::Insert | Class::Modify | Class::Prepare | Class::Execute | Class::Explain
        )
    });
}

fn texts(node: &Tree, into: &mut BTreeSet<String>) {
    if let Tree::Node(_, fields) = node {
        for (_, value) in fields {
            if let Tree::Text(text) = value
                && !text.is_empty()
            {
                into.insert(text.clone());
            }
        }
    }
}
