//! Window functions show people of other rows than their own: the same window, over person keys.

use pg_query::protobuf::Token;

use super::*;

/// A call of a window function, or of an aggregate over a window, in a select list.
#[derive(Debug, Clone)]
pub(super) struct WindowCall {
    /// Byte of its name.
    at: Option<usize>,
    /// What the values it gathers derive from.
    pub taint: Taint,
    /// People whom they show besides.
    pub loose: Loose,
    how: How,
    /// Its window's text must not be repeated.
    odd: bool,
}

/// Which rows' values the call gives.
#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    /// That of one row, found by this function.
    One(String),
    /// Those of the rows of the frame.
    Frame,
    /// Those of any rows.
    Any,
}

impl WindowCall {
    /// Reads a `FuncCall` that has an OVER clause.
    pub fn of(t: &Tree, name: &[String], own: bool, taint: Taint, loose: Loose) -> Self {
        let built_in = match name {
            [_] => !own,
            [schema, _] => schema == "pg_catalog",
            _ => false,
        };
        let function = name.last().map_or("", String::as_str);
        let arguments = t.list("args");
        let fixed = arguments
            .get(1)
            .is_none_or(|a| matches!(a.kind(), "AConst" | "ParamRef"));
        let how = match function {
            "lag" | "lead" if built_in && fixed => How::One(function.to_owned()),
            "lag" | "lead" => How::Any,
            "first_value" | "last_value" | "nth_value" if built_in && fixed => How::One(function.to_owned()),
            // Aggregates, and what walks the frame.
            _ if built_in && (function == "nth_value" || expression::is_aggregate(function)) => How::Frame,
            _ => How::Any,
        };
        let mut odd = false;
        t.field("over").walk(&mut |n| {
            odd |= n.kind() == "SubLink" || n.kind() == "ColumnRef" && n.list("fields").len() > 2;
            odd |= n.kind() == "FuncCall"
                && n.names("funcname")
                    .and_then(|mut f| f.pop())
                    .is_none_or(|f| expression::is_volatile(&f));
            !odd
        });
        Self {
            at: t.location(),
            taint,
            loose,
            how,
            odd,
        }
    }

    /// Whether it gives the value of one row.
    pub fn is_one(&self) -> bool {
        matches!(self.how, How::One(_))
    }
}

/// The parts of a call's text.
struct Parts {
    /// Between the first comma and the second, or the end: `lag`'s offset, `nth_value`'s number.
    second: Option<(usize, usize)>,
    /// Behind OVER.
    window: (usize, usize),
}

impl Walk<'_> {
    /// The hidden column that names, for each row, the people of whom the call shows `people` (a text of this shape, by row).
    pub(super) fn over_window(&self, call: &WindowCall, people: &str, shape: KeyShape) -> Option<(String, KeyShape)> {
        let parts = self.parts(call.at?)?;
        let window = if call.odd || call.how == How::Any {
            "()"
        } else {
            self.parsed.slice(parts.window.0, parts.window.1)
        };
        if let (How::One(function), false) = (&call.how, call.odd) {
            let second = match parts.second {
                Some(range) => format!(", {}", self.parsed.slice(range.0, range.1)),
                None => String::new(),
            };
            return Some((format!("pg_catalog.{function}({people}{second}) OVER {window}"), shape));
        }
        let (gathered, shape) = match shape {
            KeyShape::One => (format!("pg_catalog.jsonb_agg({people})"), KeyShape::List),
            KeyShape::List => (
                format!("pg_catalog.jsonb_agg(({people})::pg_catalog.jsonb)"),
                KeyShape::List,
            ),
            KeyShape::Count => (format!("pg_catalog.sum(({people})::pg_catalog.int8)"), KeyShape::Count),
        };
        Some((format!("({gathered} OVER {window})::pg_catalog.text"), shape))
    }

    fn parts(&self, at: usize) -> Option<Parts> {
        let mut index = self.parsed.token_at(at)?;
        // The name, which may be qualified.
        while self.parsed.token(index)?.kind != Token::Ascii40 {
            index += 1;
        }
        let (commas, mut index) = self.call_end(index)?;
        let close = self.parsed.token(index)?.start;
        let second = commas
            .first()
            .map(|first| (first + 1, commas.get(1).copied().unwrap_or(close)));
        index += 1;
        if self.parsed.token(index)?.kind == Token::Filter {
            index = self.call_end(index + 1)?.1 + 1;
        }
        if self.parsed.token(index)?.kind != Token::Over {
            return None;
        }
        let first = self.parsed.token(index + 1)?;
        let end = if first.kind == Token::Ascii40 {
            self.parsed.token(self.call_end(index + 1)?.1)?.end
        } else {
            if self.parsed.token(index + 2).is_some_and(|k| k.kind == Token::Uescape) {
                return None;
            }
            first.end
        };
        Some(Parts {
            second,
            window: (first.start, end),
        })
    }

    /// From an opening parenthesis: the bytes of the commas directly inside, and the index of the closing one.
    fn call_end(&self, open: usize) -> Option<(Vec<usize>, usize)> {
        if self.parsed.token(open)?.kind != Token::Ascii40 {
            return None;
        }
        let (mut depth, mut index, mut commas) = (1_usize, open, Vec::new());
        while depth > 0 {
            index += 1;
            let token = self.parsed.token(index)?;
            match token.kind {
                Token::Ascii40 | Token::Ascii91 => depth += 1,
                Token::Ascii41 | Token::Ascii93 => depth -= 1,
                Token::Ascii44 if depth == 1 => commas.push(token.start),
                _ => {}
            }
        }
        Some((commas, index))
    }
}
