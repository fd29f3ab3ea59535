//! Targets of data modifications. A target can't become a sub-select, so each reference to one of its masked columns is replaced by
//! the mask itself, its row by a row of masks, and its row filter joins the statement's own condition.

use pg_query::protobuf::Token;

use super::*;

/// A change of the text that a data modification needs.
#[derive(Debug, Clone)]
pub struct Change {
    /// First byte.
    pub start: usize,
    /// One past the last byte; equal to `start` for what is only inserted.
    pub end: usize,
    /// What is put there.
    pub what: What,
    /// Frame of the edit.
    pub frame: usize,
}

/// What a [`Change`] puts in.
#[derive(Debug, Clone)]
pub enum What {
    /// The mask of a column, in the place of a reference to it.
    Mask(Part),
    /// The row of a target with its masks, in the place of its name.
    Row {
        /// The target.
        scan: ScanId,
        /// Name under which the query knows it.
        alias: String,
    },
    /// The name that the select list's element at `start` of `target` had before its expression changed.
    Label {
        /// Location of the ResTarget.
        target: usize,
        /// The name.
        name: String,
    },
    /// The value assigned to a masked column: where it is the mask, the stored value stays. `start..end` is the value.
    Keep {
        /// Location of the ResTarget.
        target: usize,
        /// The column.
        column: Part,
    },
    /// A comparison of a masked column's clear value, in the place of `column = constant`.
    Comparison {
        /// Location of the AExpr.
        location: usize,
        /// The comparison.
        text: String,
    },
    /// Other options of EXPLAIN.
    Options {
        /// As in `EXPLAIN (<text>)`.
        text: String,
    },
    /// A row filter beside the condition in `start..end` (empty: there is none yet).
    Filter {
        /// Whose condition.
        of: ConditionOf,
        /// The filter over qualified columns.
        filter: String,
        /// Whether the client wrote a condition.
        condition: bool,
        /// Whether that condition could tell something of hidden rows.
        leaks: bool,
    },
}

/// A piece of a list of columns.
#[derive(Debug, Clone)]
pub enum Part {
    /// SQL text.
    Text(String),
    /// A column of a target, masked where it is not clear.
    Column {
        /// The target.
        scan: ScanId,
        /// Its column.
        attnum: i16,
        /// Qualifier.
        alias: String,
    },
}

/// Which condition a row filter joins; the number is the location of the statement's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionOf {
    /// WHERE of UPDATE or DELETE.
    Modification(usize),
    /// WHERE of ON CONFLICT DO UPDATE.
    Conflict(usize),
    /// ON of MERGE.
    Merge(usize),
    /// HAVING of the query with this select list.
    Having(Anchor),
}

/// The elements of a select list or of RETURNING.
pub(super) fn targets(t: &Tree) -> &[Tree] {
    if t.kind() == "ReturningClause" {
        t.list("exprs")
    } else {
        t.list("target_list")
    }
}

impl Walk<'_> {
    fn is_masked_target(&self, atom: Atom) -> bool {
        self.scans.get(atom.scan).is_some_and(|s| s.target)
            && self.treatment(atom).is_some_and(|t| t.kind != Kind::Clear)
    }

    /// A reference that was found to mean `hits`: where that is a masked column of a target, the mask takes its place.
    pub(super) fn of_target(
        &mut self,
        t: &Tree,
        hits: &[&OutColumn],
        qualifier: Option<&str>,
        levels: &[&Level],
        depth: usize,
    ) -> Result<(), Stop> {
        // What RETURNING in WITH has handed on is masked already: only the target itself, at this level, is meant.
        let here = |atom: &Atom| {
            levels
                .get(depth)
                .is_some_and(|l| l.named().any(|n| n.scan == Some(atom.scan)))
        };
        let atoms: Vec<Atom> = hits.iter().filter_map(|h| h.identity).filter(here).collect();
        let Some(atom) = atoms.iter().copied().find(|a| self.is_masked_target(*a)) else {
            return Ok(());
        };
        if self.inferring {
            return Ok(());
        }
        if hits.len() != 1 {
            return Err(unsupported("ambiguous-column", "a column reference that may mean several columns").into());
        }
        let alias = match qualifier {
            Some(alias) => alias.to_owned(),
            None => self.scans.get(atom.scan).map(|s| s.alias.clone()).unwrap_or_default(),
        };
        not_shadowed(&alias, levels, depth)?;
        let (start, end) = self.reference_span(t)?;
        let part = Part::Column {
            scan: atom.scan,
            attnum: atom.attnum,
            alias,
        };
        self.change(start, end, What::Mask(part));
        Ok(())
    }

    /// A whole-row reference to a target that is not clear becomes a row of its masks, where that has a plain form.
    pub(super) fn row_of_target(
        &mut self,
        t: &Tree,
        named: &Named,
        levels: &[&Level],
        depth: usize,
        plain: bool,
    ) -> Result<(), Stop> {
        let Some(scan) = named.scan else { return Ok(()) };
        if !self.scans.get(scan).is_some_and(|s| s.target && s.restricted) {
            return Ok(());
        }
        if !plain {
            return Err(unsupported("row-of-target", "the whole row of the modified relation in this form").into());
        }
        not_shadowed(&named.alias, levels, depth)?;
        let (start, end) = self.reference_span(t)?;
        let alias = named.alias.clone();
        self.change(start, end, What::Row { scan, alias });
        Ok(())
    }

    fn in_reach_of_masked_target(&self, levels: &[&Level]) -> bool {
        levels.iter().any(|l| {
            l.named()
                .filter_map(|n| self.scans.get(n.scan?))
                .any(|s| s.target && s.restricted)
        })
    }

    /// Where a target is masked, a qualified name that means nothing here must not be left to the server.
    pub(super) fn must_resolve(&self, alias: &str, levels: &[&Level]) -> Result<(), Stop> {
        if !self.in_reach_of_masked_target(levels) {
            return Ok(());
        }
        Err(Refusal {
            sqlstate: "42P01",
            ..unsupported(
                "qualifier-unknown",
                format!("missing FROM-clause entry for table \"{alias}\""),
            )
        }
        .into())
    }

    /// Nor a column that the catalog does not have: it may be new, and then it is not classified.
    pub(super) fn must_be_known(&self, name: &str, levels: &[&Level]) -> Result<(), Stop> {
        if !self.in_reach_of_masked_target(levels) {
            return Ok(());
        }
        let refusal = Refusal {
            sqlstate: "42703",
            ..unsupported("column-unknown", format!("column \"{name}\" does not exist"))
        };
        Err(Stop::Missing(name.to_owned(), refusal))
    }

    pub(super) fn change(&mut self, start: usize, end: usize, what: What) {
        let frame = self.frame;
        let known = self
            .changes
            .iter()
            .any(|c| c.start == start && c.end == end && c.frame == frame && same_kind(&c.what, &what));
        if !known {
            self.changes.push(Change {
                start,
                end,
                what,
                frame,
            });
        }
    }

    /// Puts other options in the place of EXPLAIN's own.
    pub fn explain_options(&mut self, start: usize, end: usize, text: String) {
        self.change(start, end, What::Options { text });
    }

    /// The bytes of a ColumnRef: names joined by dots.
    pub(super) fn reference_span(&self, t: &Tree) -> Result<(usize, usize), Stop> {
        let place = || {
            unsupported(
                "column-place",
                "a column reference whose place in the text can't be found",
            )
        };
        let start = t.location().ok_or_else(place)?;
        let mut index = self.parsed.token_at(start).ok_or_else(place)?;
        for _ in 1..t.list("fields").len() {
            index += 1;
            if self.parsed.token(index).is_none_or(|k| k.kind != Token::Ascii46) {
                return Err(place().into());
            }
            index += 1;
        }
        let last = self.parsed.token(index).ok_or_else(place)?;
        let escaped = self.parsed.token(index + 1).is_some_and(|k| k.kind == Token::Uescape);
        if escaped || last.kind == Token::Uident {
            return Err(place().into());
        }
        Ok((start, last.end))
    }

    /// Keeps the name of an element of a select list whose expression changes.
    pub(super) fn label(&mut self, list: &Tree, element: &Tree, name: &str) -> Result<(), Stop> {
        let place = || unsupported("column-place", "a select list whose elements can't be told apart");
        let at = element.location().ok_or_else(place)?;
        let elements = targets(list);
        let index = elements
            .iter()
            .position(|e| e.location() == Some(at))
            .ok_or_else(place)?;
        let end = match elements.get(index + 1) {
            None => self.end_of_targets(list).ok_or_else(place)?.0,
            Some(next) => {
                let next = next
                    .location()
                    .and_then(|l| self.parsed.token_at(l))
                    .ok_or_else(place)?;
                let comma = next
                    .checked_sub(1)
                    .and_then(|i| self.parsed.token(i))
                    .ok_or_else(place)?;
                let last = next
                    .checked_sub(2)
                    .and_then(|i| self.parsed.token(i))
                    .ok_or_else(place)?;
                if comma.kind != Token::Ascii44 {
                    return Err(place().into());
                }
                last.end
            }
        };
        let name = name.to_owned();
        self.change(end, end, What::Label { target: at, name });
        Ok(())
    }

    /// The columns that `*` or `alias.*` means, with the masks of targets; `None` where they can't be told.
    pub(super) fn star_parts(&self, level: &Level, qualifier: Option<&String>) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        for item in &level.items {
            if qualifier.is_none() && item.star.is_empty() {
                continue;
            }
            let target = item.named.iter().find(|n| {
                n.scan
                    .and_then(|s| self.scans.get(s))
                    .is_some_and(|s| s.target && s.restricted)
            });
            let covered = |n: &Named| qualifier.is_none_or(|q| *q == n.alias);
            match target {
                Some(named) if covered(named) => {
                    for column in &named.columns {
                        let atom = column.identity?;
                        parts.push(Part::Column {
                            scan: atom.scan,
                            attnum: atom.attnum,
                            alias: named.alias.clone(),
                        });
                    }
                }
                _ => {
                    let alone = Level {
                        items: vec![item.clone()],
                    };
                    let names = match qualifier {
                        None => star_names(level, &alone, None)?,
                        Some(q) if item.named.iter().any(|n| n.alias == *q) => star_names(level, &alone, Some(q))?,
                        Some(_) => Vec::new(),
                    };
                    parts.extend(names.into_iter().map(Part::Text));
                }
            }
        }
        Some(parts)
    }

    /// Index of the first token at or after `from`, outside parentheses, brackets and CASE, whose kind is one of `stops`, or where the
    /// clause around it ends.
    pub(super) fn find_token(&self, from: usize, stops: &[Token]) -> usize {
        let mut depth = 0_usize;
        let mut index = from;
        while let Some(token) = self.parsed.token(index) {
            let label = index > from
                && self
                    .parsed
                    .token(index - 1)
                    .is_some_and(|p| matches!(p.kind, Token::As | Token::Ascii46));
            if !label {
                if depth == 0 && stops.contains(&token.kind) {
                    return index;
                }
                match token.kind {
                    Token::Ascii40 | Token::Ascii91 | Token::Case => depth += 1,
                    Token::Ascii41 | Token::Ascii93 | Token::EndP => match depth.checked_sub(1) {
                        Some(less) => depth = less,
                        None => return index,
                    },
                    Token::Ascii59 if depth == 0 => return index,
                    _ => {}
                }
            }
            index += 1;
        }
        index
    }

    /// Puts a target's row filter beside the condition whose keyword (`WHERE`, `ON`) is the token `keyword`; where there is none, at the
    /// end of what stands before the token `end`.
    pub(super) fn filter_target(
        &mut self,
        scan: ScanId,
        of: ConditionOf,
        condition: &Tree,
        keyword: Option<usize>,
        end: usize,
    ) -> Result<(), Stop> {
        let Some(own) = self.scans.get(scan) else { return Ok(()) };
        let Some((_, filter)) = own.filter.clone() else {
            return Ok(());
        };
        if condition.kind() == "CurrentOfExpr" {
            return Ok(());
        }
        let alias = own.alias.clone();
        let place = || unsupported("condition-place", "a condition whose place in the text can't be found");
        let filter = super::super::judge::qualify_filter(&filter, &alias).ok_or_else(|| {
            unsupported(
                "row-filter-on-target",
                "a row filter of this form on the relation that is modified",
            )
        })?;
        let last = end
            .checked_sub(1)
            .and_then(|i| self.parsed.token(i))
            .ok_or_else(place)?
            .end;
        let (start, condition_written) = match keyword {
            None => (last, false),
            Some(keyword) => (self.parsed.token(keyword + 1).ok_or_else(place)?.start, true),
        };
        let leaks = condition_written && super::super::query::may_leak(condition, self.look);
        let what = What::Filter {
            of,
            filter,
            condition: condition_written,
            leaks,
        };
        self.change(start, last, what);
        Ok(())
    }
}

fn same_kind(one: &What, two: &What) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(two)
}

/// The mask is written with the target's alias: no query level between may give that name to something else.
fn not_shadowed(alias: &str, levels: &[&Level], depth: usize) -> Result<(), Stop> {
    let shadowed = levels.iter().take(depth).any(|l| l.named().any(|n| n.alias == alias));
    if shadowed {
        return Err(unsupported(
            "shadowed-target",
            format!("a reference to the modified relation where \"{alias}\" means another"),
        )
        .into());
    }
    Ok(())
}
