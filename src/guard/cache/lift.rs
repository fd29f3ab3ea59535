//! Which literals of a statement no decision can depend on, by where they stand in PostgreSQL's tree.
//!
//! A literal is lifted only where it is a plain operand of an operator, a value to store, or a cast of one to a type whose input looks nothing up.
//! Everything else (arguments of functions, LIMIT, ordinals of ORDER BY and GROUP BY, type modifiers, names of settings) stays as it is written:
//! other values there are other shapes.

use std::collections::HashSet;

use super::super::parse::Parsed;
use super::super::statement::Class;
use super::super::tree::Tree;
use super::shape::{Kind, Piece};

/// Types whose input functions look at nothing but the text.
const PLAIN_TYPES: [&str; 26] = [
    "bool",
    "bpchar",
    "bytea",
    "date",
    "decimal",
    "float4",
    "float8",
    "inet",
    "int2",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "macaddr",
    "money",
    "numeric",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "uuid",
    "varbit",
    "varchar",
    "xml",
];

/// For each piece, whether it may vary. Comments may wherever literals may.
pub(super) fn lifted(parsed: &Parsed, pieces: &[Piece]) -> Vec<bool> {
    let one = match (parsed.statements.as_slice(), parsed.classes.as_slice()) {
        ([one], [Class::Query | Class::Insert | Class::Modify]) => one,
        _ => return vec![false; pieces.len()],
    };
    let mut free = HashSet::new();
    let mut looks_up = false;
    one.walk(&mut |n| {
        // Rows of pg_settings and their like are judged by what they are compared with.
        looks_up |= n.kind() == "RangeVar"
            && (n.text("relname").starts_with("pg_")
                || matches!(n.text("schemaname"), "pg_catalog" | "information_schema"));
        true
    });
    if !looks_up {
        visit(one, Place::Fixed, &mut free);
    }
    let stands_free = |piece: &Piece| {
        // A minus before a number is part of its constant.
        let token = parsed.token_at(piece.start);
        let before = token.and_then(|i| parsed.token(i.checked_sub(1)?));
        let sign = before.filter(|t| parsed.slice(t.start, t.end) == "-");
        free.contains(&piece.start) || sign.is_some_and(|t| free.contains(&t.start))
    };
    pieces
        .iter()
        .map(|piece| match piece.kind {
            Kind::Block | Kind::Line => true,
            Kind::Integer | Kind::Long | Kind::Decimal | Kind::Text => stands_free(piece),
        })
        .collect()
}

/// Whether a constant that stands here may vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    Fixed,
}

fn visit(tree: &Tree, place: Place, free: &mut HashSet<usize>) {
    let all = |trees: &[Tree], place: Place, free: &mut HashSet<usize>| {
        trees.iter().for_each(|t| visit(t, place, free));
    };
    match tree.kind() {
        "AConst" if place == Place::Free => free.extend(tree.location()),
        "AConst" => {}
        "AExpr" => {
            // Operators, `= ANY`, IS DISTINCT FROM, IN, LIKE, ILIKE, BETWEEN; not NULLIF and SIMILAR TO, which are functions.
            let operator = matches!(tree.int("kind"), 1..=5 | 7..=9 | 11..=14);
            let place = if operator { Place::Free } else { Place::Fixed };
            for side in ["lexpr", "rexpr"] {
                match tree.field(side) {
                    list if list.kind() == "List" => all(list.list("items"), place, free),
                    one => visit(one, place, free),
                }
            }
        }
        "TypeCast" => {
            let names = tree.field("type_name").names("names").unwrap_or_default();
            let plain = match names.as_slice() {
                [name] => PLAIN_TYPES.contains(&name.as_str()),
                [schema, name] => schema == "pg_catalog" && PLAIN_TYPES.contains(&name.as_str()),
                _ => false,
            };
            let here = tree.field("arg").kind() == "AConst";
            visit(
                tree.field("arg"),
                if plain && here { place } else { Place::Fixed },
                free,
            );
        }
        "SelectStmt" => {
            for row in tree.list("values_lists") {
                all(row.list("items"), Place::Free, free);
            }
            below(tree, "values_lists", free);
        }
        "UpdateStmt" | "OnConflictClause" | "MergeWhenClause" => {
            for target in tree.list("target_list") {
                visit(target.field("val"), Place::Free, free);
                all(target.list("indirection"), Place::Fixed, free);
            }
            for value in tree.list("values") {
                visit(value, Place::Free, free);
            }
            below(tree, "target_list", free);
        }
        _ => below(tree, "", free),
    }
}

/// Everything below a node but one of its fields, which has been visited.
fn below(tree: &Tree, but: &str, free: &mut HashSet<usize>) {
    match tree {
        Tree::Node(_, fields) => {
            for (_, child) in fields.iter().filter(|(name, _)| *name != but) {
                visit(child, Place::Fixed, free);
            }
        }
        Tree::List(items) => items.iter().for_each(|t| visit(t, Place::Fixed, free)),
        Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::pieces;
    use super::*;
    use crate::guard::parse;

    /// The text with every piece that may vary written as `?`.
    fn lift(text: &str) -> String {
        let parsed = parse::parse(text).unwrap();
        let pieces = pieces(text).unwrap();
        let lifted = lifted(&parsed, &pieces);
        let mut out = String::new();
        let mut at = 0;
        for (piece, _) in pieces.iter().zip(lifted).filter(|(_, lifted)| *lifted) {
            out.push_str(&text[at..piece.start]);
            out.push('?');
            at = piece.end;
        }
        out.push_str(&text[at..]);
        out
    }

    #[test]
    fn values_vary() {
        for (text, shape) in [
            (
                "SELECT a FROM t WHERE b = 1 AND c <> 'x'",
                "SELECT a FROM t WHERE b = ? AND c <> ?",
            ),
            ("SELECT a FROM t WHERE b = -1", "SELECT a FROM t WHERE b = -?"),
            (
                "UPDATE t SET a = a + -5 WHERE b = 3",
                "UPDATE t SET a = a + -? WHERE b = ?",
            ),
            (
                "SELECT a FROM t WHERE b IN (1, 2) OR c BETWEEN 3 AND 4",
                "SELECT a FROM t WHERE b IN (?, ?) OR c BETWEEN ? AND ?",
            ),
            (
                "INSERT INTO t VALUES (1, 'x', now()), (2, '', 1.5)",
                "INSERT INTO t VALUES (?, ?, now()), (?, ?, ?)",
            ),
            (
                "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2",
                "INSERT INTO t VALUES (?) ON CONFLICT (a) DO UPDATE SET a = ?",
            ),
            (
                "DELETE FROM t WHERE d > '2026-01-01'::date",
                "DELETE FROM t WHERE d > ?::date",
            ),
            (
                "SELECT a FROM t WHERE n LIKE 'x%' /* c */ -- d",
                "SELECT a FROM t WHERE n LIKE ? ? ?",
            ),
            (
                "SELECT a FROM t WHERE EXISTS (SELECT FROM u WHERE u.b = 7)",
                "SELECT a FROM t WHERE EXISTS (SELECT FROM u WHERE u.b = ?)",
            ),
        ] {
            assert_eq!(lift(text), shape);
        }
    }

    #[test]
    fn what_a_decision_may_depend_on_does_not() {
        for text in [
            "SELECT set_config('search_path', 'x', false)",
            "SELECT current_setting('a') FROM t LIMIT 5 OFFSET 3",
            "SELECT a FROM t ORDER BY 1",
            "SELECT a, count(*) FROM t GROUP BY 1",
            "SELECT DISTINCT ON (1) a FROM t",
            "SELECT a::varchar(5), 'crm.t'::regclass, cast(3 AS own.t) FROM t",
            "SELECT a[1], lag(a, 2) OVER (ROWS 5 PRECEDING) FROM t TABLESAMPLE SYSTEM (10)",
            "SELECT setting FROM pg_settings WHERE name = 'x'",
            "SELECT setting FROM information_schema.x WHERE name = 'x'",
            "SELECT nullif(a, 1), a SIMILAR TO 'x' FROM t",
            "SELECT EXTRACT('year' FROM a), coalesce(a, 5), ARRAY[1, 2] FROM t",
            "SET a = 5",
            "FETCH 5 FROM c",
            "COPY t TO STDOUT (DELIMITER ',')",
            "SELECT 1; SELECT a FROM t WHERE b = 1",
        ] {
            assert_eq!(lift(text), text);
        }
    }
}
