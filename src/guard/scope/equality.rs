//! `compare = "equality"`: `WHERE column = constant` compares the clear value of a masked column, and whoever matches counts as shown.
//!
//! The masked scan cannot give the clear value without giving it to the whole query. So the comparison is asked of the table itself,
//! and the rows it finds are named by their `ctid`. Only in the WHERE of the whole statement, where rows that do not match are gone:
//! elsewhere the predicate sees the mask.

use pg_query::protobuf::Token;

use super::*;
use crate::catalog::RelationKind;
use crate::policy::Compare;

impl Walk<'_> {
    /// Finds the comparisons among the conditions of the statement's WHERE, and whom they show.
    pub(super) fn equalities(&mut self, condition: &Tree, level: &Level) -> Result<Vec<Compared>, Stop> {
        // BoolExprType: 1 AND
        let conditions: Vec<&Tree> = if condition.kind() == "BoolExpr" && condition.int("boolop") == 1 {
            condition.list("args").iter().collect()
        } else {
            vec![condition]
        };
        let mut shown = Vec::new();
        for condition in conditions {
            shown.extend(self.equality(condition, level)?);
        }
        Ok(shown)
    }

    fn equality(&mut self, t: &Tree, level: &Level) -> Result<Option<Compared>, Stop> {
        let plain = t.kind() == "AExpr" && t.int("kind") == 1 && t.names("name").is_some_and(|n| n == ["="]);
        if !plain {
            return Ok(None);
        }
        let (left, right) = (t.field("lexpr"), t.field("rexpr"));
        let (column, value) = match (left.kind(), is_constant(right), is_constant(left), right.kind()) {
            ("ColumnRef", true, _, _) => (left, right),
            (_, _, true, "ColumnRef") => (right, left),
            _ => return Ok(None),
        };
        let Some((atom, alias)) = column_of(column, level) else {
            return Ok(None);
        };
        let Some(treatment) = self.treatment(atom) else {
            return Ok(None);
        };
        if treatment.compare != Compare::Equality || !matches!(treatment.kind, Kind::Mask(_)) {
            return Ok(None);
        }
        let compared = treatment.compared;
        let Some(scan) = self
            .scans
            .get(atom.scan)
            .filter(|s| s.replaced && s.frame == self.frame)
        else {
            return Ok(None);
        };
        // A row's ctid names it within one table only.
        let relation = self.look.catalog().relations.get(&scan.protected.oid);
        if !relation.is_some_and(|r| r.kind == RelationKind::Table && r.children.is_empty()) {
            return Ok(None);
        }
        let (Some(span), Some(value), Some(at)) = (
            self.comparison_span(left, right),
            self.constant_span(value),
            t.location(),
        ) else {
            return Ok(None);
        };
        let name = &scan.protected.name;
        let Some(found) = scan.protected.column(atom.attnum) else {
            return Ok(None);
        };
        let text = format!(
            "{}.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT m.ctid FROM ONLY {}.{} AS m WHERE m.{} OPERATOR(pg_catalog.=) {}))",
            quote(&alias),
            quote(&name.schema),
            quote(&name.name),
            quote(&found.column.name),
            self.parsed.slice(value.0, value.1)
        );
        self.change(span.0, span.1, What::Comparison { location: at, text });
        self.system(atom.scan, "ctid");
        Ok(Some((self.key_of(atom), compared)))
    }

    /// The bytes of a constant or parameter, with a cast behind it.
    fn constant_span(&self, t: &Tree) -> Option<(usize, usize)> {
        let inner = if t.kind() == "TypeCast" { t.field("arg") } else { t };
        let start = inner.location()?;
        let mut index = self.parsed.token_at(start)?;
        if t.kind() == "TypeCast" {
            index += 1;
            if self.parsed.token(index)?.kind != Token::Typecast {
                return None;
            }
            index += 1;
            if self.parsed.token(index)?.kind == Token::Character {
                let varying = self.parsed.token(index + 1).is_some_and(|k| k.kind == Token::Varying);
                index += usize::from(varying);
            }
            if self.parsed.token(index + 1).is_some_and(|k| k.kind == Token::Ascii46) {
                index += 2;
            }
            if self.parsed.token(index + 1).is_some_and(|k| k.kind == Token::Ascii40) {
                index = self.find_token(index + 2, &[Token::Ascii41]);
            }
        }
        Some((start, self.parsed.token(index)?.end))
    }

    fn comparison_span(&self, left: &Tree, right: &Tree) -> Option<(usize, usize)> {
        let of = |t: &Tree| {
            if t.kind() == "ColumnRef" {
                self.reference_span(t).ok()
            } else {
                self.constant_span(t)
            }
        };
        let (left, right) = (of(left)?, of(right)?);
        // One operator between them and nothing else.
        let between = self.parsed.token(
            self.parsed
                .tokens
                .partition_point(|k| usize::try_from(k.start).is_ok_and(|s| s < left.1)),
        )?;
        let next = self.parsed.token_at(between.start)? + 1;
        (between.kind == Token::Ascii61 && self.parsed.token(next)?.start == right.0).then_some((left.0, right.1))
    }
}

fn is_constant(t: &Tree) -> bool {
    match t.kind() {
        "AConst" | "ParamRef" => true,
        "TypeCast" => matches!(t.field("arg").kind(), "AConst" | "ParamRef"),
        _ => false,
    }
}

/// The one column of a scan of this level that a reference means, and the scan's name.
fn column_of(t: &Tree, level: &Level) -> Option<(Atom, String)> {
    let fields = t.names("fields")?;
    let (alias, name) = match fields.as_slice() {
        [name] => (None, name),
        [alias, name] => (Some(alias), name),
        _ => return None,
    };
    let mut found = level
        .named()
        .filter(|n| alias.is_none_or(|a| *a == n.alias))
        .flat_map(|n| n.columns.iter().map(move |c| (n, c)))
        .filter(|(_, c)| c.name.as_ref() == Some(name));
    let (named, column) = found.next()?;
    let atom = column.identity?;
    (found.next().is_none() && named.scan == Some(atom.scan)).then(|| (atom, named.alias.clone()))
}
