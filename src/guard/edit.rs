//! The edit: byte ranges of the client's text replaced by masked scans, hidden columns added behind select lists. Every
//! other byte stays as the client wrote it.
//!
//! Each edit is kept twice: as text to splice, and as the place in the client's tree that it replaces. `verify.rs` builds
//! the intended tree from the second and compares it with what PostgreSQL reads in the first.

use super::parse::{Parsed, quote};
use super::protected::Kind;
use super::scope::{Addition, Anchor, Change, ConditionOf, Insert, Part, Scan, ScanId, Walk, What};
use crate::mask::{self, TokenSettings};
use crate::meter::KeyShape;
use crate::meter::spec::UNKNOWN_KEY;
use crate::wire::Refusal;

/// A replacement of bytes.
#[derive(Debug, Clone)]
struct Splice {
    start: usize,
    end: usize,
    text: String,
}

/// What an edit does to the tree.
#[derive(Debug, Clone)]
pub enum Intent {
    /// The RangeVar at this location becomes the FROM entry of `SELECT FROM <text>`.
    Relation {
        /// Location of the RangeVar.
        location: usize,
        /// The masked scan with its alias.
        text: String,
    },
    /// The RangeTableSample over the RangeVar at this location becomes the FROM entry of `SELECT FROM <text>`, with the client's sampling
    /// inside.
    Sample {
        /// Location of the RangeVar.
        location: usize,
        /// The masked scan with its alias.
        text: String,
    },
    /// The target list with this anchor gets `SELECT <text>` as a further element.
    Target {
        /// The list.
        anchor: Anchor,
        /// Expression and name.
        text: String,
    },
    /// The ColumnRef at this location loses fields from the front.
    Shorten {
        /// Location of the ColumnRef.
        location: usize,
        /// How many.
        fields: usize,
    },
    /// The `*` element at this location becomes the elements of `SELECT <text>`.
    Spell {
        /// Location of the element.
        location: usize,
        /// Elements.
        text: String,
    },
    /// The ColumnRef at this location becomes the expression of `SELECT <text>`.
    Reference {
        /// Location of the ColumnRef.
        location: usize,
        /// The expression.
        text: String,
    },
    /// The ResTarget at this location gets this name.
    Label {
        /// Location of the ResTarget.
        location: usize,
        /// The name.
        name: String,
    },
    /// The value of the ResTarget at this location becomes the expression of `SELECT <before>value<after>`.
    Value {
        /// Location of the ResTarget.
        location: usize,
        /// Text before.
        before: String,
        /// Text behind.
        after: String,
    },
    /// `COPY relation …`, whose relation begins at this byte, becomes `COPY (<text>) …`.
    Query {
        /// Location of the RangeVar.
        location: usize,
        /// The query.
        text: String,
    },
    /// The AExpr at this location becomes the expression of `SELECT <text>`.
    Comparison {
        /// Location of the AExpr: that of its operator.
        location: usize,
        /// The expression.
        text: String,
    },
    /// The options of EXPLAIN become these.
    Options {
        /// As in `EXPLAIN (<text>)`.
        text: String,
    },
    /// The condition becomes that of `SELECT WHERE <before>condition<after>`; where there is none, of `SELECT WHERE <before>`.
    Condition {
        /// Whose condition.
        of: ConditionOf,
        /// Text before.
        before: String,
        /// Text behind; `None` where the client wrote no condition.
        after: Option<String>,
    },
}

/// The edited text of a range, with what was intended.
#[derive(Debug)]
pub struct Edit {
    /// The text.
    pub text: String,
    /// Changes of the tree.
    pub intents: Vec<Intent>,
}

/// Edits the bytes `range` of the text by everything that the walk found in them (frame 0).
///
/// # Errors
/// Where a mask does not fit its column, or edits overlap.
pub fn edit(
    parsed: &Parsed,
    walk: &Walk<'_>,
    token: &TokenSettings,
    fence: bool,
    range: (usize, usize),
) -> Result<Edit, Refusal> {
    let mut editor = Editor {
        parsed,
        walk,
        token,
        fence,
        intents: Vec::new(),
    };
    let text = editor.render(range, 0)?;
    Ok(Edit {
        text,
        intents: editor.intents,
    })
}

struct Editor<'e, 'w> {
    parsed: &'e Parsed,
    walk: &'e Walk<'w>,
    token: &'e TokenSettings,
    fence: bool,
    intents: Vec<Intent>,
}

impl Editor<'_, '_> {
    fn render(&mut self, range: (usize, usize), frame: usize) -> Result<String, Refusal> {
        let inside = |start: usize| start >= range.0 && start <= range.1;
        let mut splices: Vec<Splice> = Vec::new();
        let walk = self.walk;
        for scan in walk.scans.iter().filter(|s| s.frame == frame && inside(s.span.0)) {
            let hidden: Vec<&Insert> = walk
                .inserts
                .iter()
                .filter(|i| i.frame == frame && i.anchor == Anchor::Table(scan.location))
                .collect();
            if scan.replaced {
                self.replace(scan, &hidden, frame, &mut splices)?;
            } else if !hidden.is_empty() {
                self.open_table_command(scan, &hidden, frame, &mut splices)?;
            }
        }
        for change in walk.changes.iter().filter(|c| c.frame == frame && inside(c.start)) {
            self.change(change, frame, &mut splices)?;
        }
        for insert in walk.inserts.iter().filter(|i| i.frame == frame && inside(i.at)) {
            if let Anchor::Last(_) = insert.anchor {
                let text = self.addition(insert)?;
                if frame == 0 {
                    self.intents.push(Intent::Target {
                        anchor: insert.anchor,
                        text: text.clone(),
                    });
                }
                splices.push(Splice {
                    start: insert.at,
                    end: insert.at,
                    text: format!(", {text}"),
                });
            }
        }
        for cut in walk.shorten.iter().filter(|s| s.frame == frame && inside(s.start)) {
            if frame == 0 {
                self.intents.push(Intent::Shorten {
                    location: cut.start,
                    fields: cut.fields,
                });
            }
            splices.push(Splice {
                start: cut.start,
                end: cut.end,
                text: String::new(),
            });
        }
        for star in walk.spelled.iter().filter(|s| s.frame == frame && inside(s.start)) {
            let mut columns = Vec::new();
            for part in &star.parts {
                columns.push(self.part(part, true)?);
            }
            let text = columns.join(", ");
            if frame == 0 {
                self.intents.push(Intent::Spell {
                    location: star.start,
                    text: text.clone(),
                });
            }
            // `RETURNING*` has no blank before its star.
            splices.push(Splice {
                start: star.start,
                end: star.end,
                text: format!(" {text}"),
            });
        }
        self.splice(range, splices)
    }

    /// What a data modification needs.
    fn change(&mut self, change: &Change, frame: usize, out: &mut Vec<Splice>) -> Result<(), Refusal> {
        let (start, end) = (change.start, change.end);
        let mut put = |start: usize, end: usize, text: String| out.push(Splice { start, end, text });
        let intent = match &change.what {
            What::Mask(part) => {
                let text = self.part(part, false)?;
                put(start, end, text.clone());
                Intent::Reference { location: start, text }
            }
            What::Row { scan, alias } => {
                let text = self.row(*scan, alias)?;
                put(start, end, text.clone());
                Intent::Reference { location: start, text }
            }
            What::Label { target, name } => {
                put(end, end, format!(" AS {}", quote(name)));
                Intent::Label {
                    location: *target,
                    name: name.clone(),
                }
            }
            What::Comparison { location, text } => {
                put(start, end, text.clone());
                Intent::Comparison {
                    location: *location,
                    text: text.clone(),
                }
            }
            What::Options { text } => {
                put(start, end, format!(" ({text}) "));
                Intent::Options { text: text.clone() }
            }
            What::Keep { target, column } => {
                let (before, after) = self.keep(column)?;
                put(start, start, before.clone());
                put(end, end, after.clone());
                Intent::Value {
                    location: *target,
                    before,
                    after,
                }
            }
            What::Filter {
                of,
                filter,
                condition: false,
                ..
            } => {
                let before = format!("({filter})");
                let keyword = if matches!(of, ConditionOf::Having(_)) {
                    "HAVING"
                } else {
                    "WHERE"
                };
                put(end, end, format!(" {keyword} {before}"));
                Intent::Condition {
                    of: *of,
                    before,
                    after: None,
                }
            }
            What::Filter { of, filter, leaks, .. } => {
                // CASE fixes the order: a condition that may raise an error or a notice runs on visible rows alone.
                let (before, after) = if *leaks {
                    (format!("CASE WHEN ({filter}) THEN ("), ") ELSE false END".to_owned())
                } else {
                    (format!("({filter}) AND ("), ")".to_owned())
                };
                // `WHERE-a < 0` has no blank before its condition.
                put(start, start, format!(" {before}"));
                put(end, end, after.clone());
                Intent::Condition {
                    of: *of,
                    before,
                    after: Some(after),
                }
            }
        };
        if frame == 0 {
            self.intents.push(intent);
        }
        Ok(())
    }

    /// A column of a target as an expression; `named`: with its name behind it.
    fn part(&self, part: &Part, named: bool) -> Result<String, Refusal> {
        let (scan, attnum, alias) = match part {
            Part::Text(text) => return Ok(text.clone()),
            Part::Column { scan, attnum, alias } => (self.scan(*scan)?, *attnum, alias),
        };
        let index = scan
            .protected
            .columns
            .iter()
            .position(|c| c.column.attnum == attnum)
            .ok_or_else(|| internal("column of a target"))?;
        let name = scan.protected.columns.get(index).map_or("", |c| c.column.name.as_str());
        let expression = shown(scan, index, &format!("{}.{}", quote(alias), quote(name)), self.token)?;
        Ok(if named {
            format!("{expression} AS {}", quote(name))
        } else {
            format!("({expression})")
        })
    }

    fn scan(&self, id: ScanId) -> Result<&Scan, Refusal> {
        self.walk.scans.get(id).ok_or_else(|| internal("scan"))
    }

    /// The row of a target with its masks.
    fn row(&self, id: ScanId, alias: &str) -> Result<String, Refusal> {
        let scan = self.scan(id)?;
        let mut columns = Vec::new();
        for column in &scan.protected.columns {
            columns.push(self.part(
                &Part::Column {
                    scan: id,
                    attnum: column.column.attnum,
                    alias: alias.to_owned(),
                },
                false,
            )?);
        }
        let name = &scan.protected.name;
        Ok(format!(
            "(ROW({})::{}.{})",
            columns.join(", "),
            quote(&name.schema),
            quote(&name.name)
        ))
    }

    /// Round an assigned value: the stored value stays where the new one is its mask. The value is evaluated once.
    fn keep(&self, column: &Part) -> Result<(String, String), Refusal> {
        let Part::Column { scan, attnum, alias } = column else {
            return Err(internal("assigned column"));
        };
        let mask = self.part(column, false)?;
        let found = self
            .scan(*scan)?
            .protected
            .column(*attnum)
            .ok_or_else(|| internal("assigned column"))?;
        let stored = format!("{}.{}", quote(alias), quote(&found.column.name));
        let before = format!(
            "(SELECT CASE WHEN menshen_kv.v IS NOT DISTINCT FROM {mask} THEN {stored} ELSE menshen_kv.v END FROM (SELECT ("
        );
        let after = format!(")::{}) AS menshen_kv(v))", found.column.assign_type_sql);
        Ok((before, after))
    }

    fn splice(&self, range: (usize, usize), mut splices: Vec<Splice>) -> Result<String, Refusal> {
        // Stable: insertions at one place keep their order; a replacement that begins where an insertion stands comes after it.
        splices.sort_by_key(|s| (s.start, s.end));
        let mut text = String::with_capacity(range.1 - range.0 + 256);
        let mut at = range.0;
        for splice in splices {
            if splice.start < at || splice.end > range.1 {
                return Err(internal("edits overlap"));
            }
            text.push_str(
                self.parsed
                    .text
                    .get(at..splice.start)
                    .ok_or_else(|| internal("edit is not on a character"))?,
            );
            text.push_str(&splice.text);
            at = splice.end;
        }
        text.push_str(
            self.parsed
                .text
                .get(at..range.1)
                .ok_or_else(|| internal("edit is not on a character"))?,
        );
        Ok(text)
    }

    fn replace(&mut self, scan: &Scan, hidden: &[&Insert], frame: usize, out: &mut Vec<Splice>) -> Result<(), Refusal> {
        let sample = match scan.sample {
            Some((start, end)) => {
                out.push(Splice {
                    start,
                    end,
                    text: String::new(),
                });
                let clause = self.parsed.text.get(start..end);
                format!(" {}", clause.ok_or_else(|| internal("TABLESAMPLE"))?)
            }
            None => String::new(),
        };
        let masked = masked_scan(scan, &sample, self.token, self.fence)?;
        let with_alias = format!("{masked} AS {}", quote(&scan.alias));
        if frame == 0 {
            let (location, text) = (scan.location, with_alias.clone());
            self.intents.push(if scan.sample.is_some() {
                Intent::Sample { location, text }
            } else {
                Intent::Relation { location, text }
            });
        }
        if let Some(keyword) = scan.table_keyword {
            let targets = self.table_targets(scan, hidden, frame)?;
            out.push(Splice {
                start: keyword,
                end: scan.span.1,
                text: format!("SELECT {targets} FROM {with_alias}"),
            });
            return Ok(());
        }
        let text = if scan.aliased { masked } else { with_alias };
        // A parenthesis may follow a keyword without a blank between (`FROM"t"`): keep them apart.
        out.push(Splice {
            start: scan.span.0,
            end: scan.span.1,
            text: format!(" {text}"),
        });
        Ok(())
    }

    /// `TABLE name` that only gets hidden columns.
    fn open_table_command(
        &mut self,
        scan: &Scan,
        hidden: &[&Insert],
        frame: usize,
        out: &mut Vec<Splice>,
    ) -> Result<(), Refusal> {
        let keyword = scan
            .table_keyword
            .ok_or_else(|| internal("TABLE command without its keyword"))?;
        let targets = self.table_targets(scan, hidden, frame)?;
        out.push(Splice {
            start: keyword,
            end: scan.span.0,
            text: format!("SELECT {targets} FROM "),
        });
        Ok(())
    }

    fn table_targets(&mut self, scan: &Scan, hidden: &[&Insert], frame: usize) -> Result<String, Refusal> {
        let mut targets = "*".to_owned();
        for insert in hidden {
            let text = self.addition(insert)?;
            if frame == 0 {
                self.intents.push(Intent::Target {
                    anchor: Anchor::Table(scan.location),
                    text: text.clone(),
                });
            }
            targets.push_str(", ");
            targets.push_str(&text);
        }
        Ok(targets)
    }

    fn addition(&mut self, insert: &Insert) -> Result<String, Refusal> {
        let name = quote(&insert.name);
        match &insert.expression {
            Addition::Text(text) => Ok(format!("{text} AS {name}")),
            Addition::Copy {
                range,
                frame,
                name: inner,
                shape,
            } => {
                let copy = self.render(*range, *frame)?;
                let inner = quote(inner);
                let gather = match shape {
                    KeyShape::One => format!("pg_catalog.jsonb_agg(h.{inner})"),
                    KeyShape::List => format!("pg_catalog.jsonb_agg(h.{inner}::pg_catalog.jsonb)"),
                    KeyShape::Count => format!("pg_catalog.sum(h.{inner}::pg_catalog.int8)"),
                };
                Ok(format!(
                    "(SELECT {gather} FROM ({copy}) AS h)::pg_catalog.text AS {name}"
                ))
            }
        }
    }
}

/// The sub-select that stands in for a protected relation, in parentheses and without alias.
///
/// # Errors
/// Where a mask does not fit.
pub fn masked_scan(scan: &Scan, sample: &str, token: &TokenSettings, fence: bool) -> Result<String, Refusal> {
    let mut columns: Vec<String> = Vec::new();
    for (index, column) in scan.protected.columns.iter().enumerate() {
        let name = quote(&column.column.name);
        let reference = format!("m.{name}");
        let expression = shown(scan, index, &reference, token)?;
        columns.push(if expression == reference {
            reference
        } else {
            format!("{expression} AS {name}")
        });
    }
    for name in &scan.system {
        columns.push(format!("m.{}", quote(name)));
    }
    for (name, key) in &scan.extra {
        let person = scan.protected.keys.get(*key).ok_or_else(|| internal("person key"))?;
        let column = person.column.as_ref().ok_or_else(|| internal("person key"))?;
        let reference = format!("m.{}::pg_catalog.text", quote(column));
        let text = if person.not_null {
            reference
        } else {
            format!("COALESCE({reference}, '{UNKNOWN_KEY}')")
        };
        columns.push(format!("{text} AS {}", quote(name)));
    }
    let only = if scan.only { "ONLY " } else { "" };
    let relation = format!(
        "{}.{}",
        quote(&scan.protected.name.schema),
        quote(&scan.protected.name.name)
    );
    let mut text = format!("(SELECT {} FROM {only}{relation} AS m{sample}", columns.join(", "));
    if let Some((_, filter)) = &scan.filter {
        text.push_str(&format!(" WHERE ({filter})"));
        if fence {
            // Keeps the planner from running the query's own conditions on rows that the filter hides.
            text.push_str(" OFFSET 0");
        }
    }
    text.push(')');
    Ok(text)
}

/// What the principal is shown of a column: the reference itself where it is clear, else its mask.
fn shown(scan: &Scan, index: usize, reference: &str, token: &TokenSettings) -> Result<String, Refusal> {
    let column = scan.protected.columns.get(index).ok_or_else(|| internal("column"))?;
    match scan.treatments.get(index).and_then(Option::as_ref).map(|t| &t.kind) {
        None | Some(Kind::Clear) => Ok(reference.to_owned()),
        Some(Kind::Mask(_)) if scan.late.contains(&column.column.attnum) => Ok(reference.to_owned()),
        // Nobody may name a denied column; should one be reached all the same, it holds nothing.
        Some(Kind::Deny) => Ok(format!("NULL::{}", column.column.base_type_sql)),
        Some(Kind::Mask(spec)) => mask::expression(spec, &column.column, reference, token).map_err(|e| {
            Refusal::unsupported(
                "mask-does-not-fit",
                format!(
                    "the policy's mask for column \"{}\" cannot be applied: {e}",
                    column.column.name
                ),
                "run `menshen check` with the configuration; the owners of the policy must choose another mask",
            )
        }),
    }
}

fn internal(what: &str) -> Refusal {
    Refusal::unsupported(
        "edit",
        format!("Menshen could not edit this statement: {what}"),
        "report this statement's shape to the Menshen project",
    )
}
