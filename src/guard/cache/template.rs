//! A plan whose literals are holes: made once per shape by judging it a second time with other literals, and filled for each text of the shape.

use std::sync::Arc;

use super::super::plan::{ColumnReport, Plan, RelationReport, Report, Sealed, StatementKind, StatementPlan};
use super::super::{Ground, Request, Verdict};
use super::shape::{Kind, Piece};
use crate::mask::TokenSettings;
use crate::meter::{LateColumn, MeterSpec, TripWire};

/// A part of the text to send.
#[derive(Debug)]
enum Part {
    /// As it is.
    Text(Box<str>),
    /// The text's piece of this number.
    Piece(usize),
    /// The name of the session's setting that holds the token's inner or outer key.
    Inner,
    Outer,
}

/// A plan with holes.
#[derive(Debug)]
pub(super) struct Template {
    /// The text to send; none where it is the client's own.
    parts: Option<Box<[Part]>>,
    statements: Arc<[Arc<StatementPlan>]>,
}

impl Template {
    /// A template of a plan whose text is the same for every text that has its key.
    pub fn of(plan: &Plan, token: &TokenSettings) -> Self {
        Self {
            parts: plan.edited.then(|| parts(&plan.text, &[], token)),
            statements: Arc::clone(&plan.statements),
        }
    }

    /// A template of a plan in whose shape some pieces vary: the text is judged again with other pieces, and everything but they must come out the
    /// same. `None` where it does not.
    pub fn lifted(
        plan: &Plan,
        ground: &Ground,
        request: &Request<'_>,
        pieces: &[Piece],
        lifted: &[bool],
        judge: impl Fn(&Ground, &Request<'_>) -> Result<Plan, Verdict>,
    ) -> Option<Self> {
        let stand_ins: Vec<(usize, String)> = pieces
            .iter()
            .enumerate()
            .filter(|(index, _)| lifted.get(*index) == Some(&true))
            .map(|(index, piece)| stand_in(index, piece.kind).map(|s| (index, s)))
            .collect::<Option<_>>()?;
        // Equal pieces have equal stand-ins, where all of them may vary.
        let own = |index: usize| stand_ins.iter().find(|(i, _)| *i == index).map(|(_, s)| s.clone());
        let first = |index: usize| pieces.get(index).map(|p| usize::from(p.first));
        let stand_ins: Vec<(usize, String)> = stand_ins
            .iter()
            .map(|(index, s)| (*index, first(*index).and_then(own).unwrap_or_else(|| s.clone())))
            .collect();
        let used = |s: &String| request.text.contains(s.as_str()) || plan.text.contains(s.as_str());
        if stand_ins.iter().any(|(_, s)| used(s)) {
            return None;
        }
        let mut text = String::with_capacity(request.text.len() + 32 * stand_ins.len());
        let mut at = 0;
        for (index, stand_in) in &stand_ins {
            let piece = pieces.get(*index)?;
            text.push_str(request.text.get(at..piece.start)?);
            text.push_str(stand_in);
            at = piece.end;
        }
        text.push_str(request.text.get(at..)?);
        let other = judge(
            ground,
            &Request {
                text: &text,
                ..*request
            },
        )
        .ok()?;
        let alike = other.edited == plan.edited
            && other.statements.len() == plan.statements.len()
            && plan
                .statements
                .iter()
                .zip(other.statements.iter())
                .all(|(a, b)| same(a, b));
        if !alike {
            return None;
        }
        let template = Self {
            parts: other.edited.then(|| parts(&other.text, &stand_ins, request.token)),
            statements: Arc::clone(&plan.statements),
        };
        let again = template.fill(request.text, pieces, request.token);
        (again.text == plan.text).then_some(template)
    }

    /// The plan for a text of this shape.
    pub fn fill(&self, text: &str, pieces: &[Piece], token: &TokenSettings) -> Plan {
        let filled = self.parts.as_ref().map_or_else(
            || Arc::from(text),
            |parts| {
                let mut filled = String::with_capacity(text.len() + 64 * parts.len());
                for part in parts {
                    filled.push_str(match part {
                        Part::Text(text) => text,
                        Part::Piece(index) => pieces
                            .get(*index)
                            .and_then(|p| text.get(p.start..p.end))
                            .unwrap_or_default(),
                        Part::Inner => &token.inner,
                        Part::Outer => &token.outer,
                    });
                }
                Arc::from(filled)
            },
        );
        Plan {
            text: filled,
            edited: self.parts.is_some(),
            statements: Arc::clone(&self.statements),
            sealed: Sealed(()),
        }
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let parts = self.parts.iter().flatten().map(|part| match part {
            Part::Text(text) => text.len(),
            Part::Piece(_) | Part::Inner | Part::Outer => 0,
        });
        let own: usize = parts.map(|text| text + size_of::<Part>()).sum();
        own + self.statements.iter().map(|s| statement_bytes(s)).sum::<usize>()
    }
}

fn statement_bytes(plan: &StatementPlan) -> usize {
    let report = &plan.report;
    let column = |c: &ColumnReport| {
        let texts = c.column.len() + c.class.len() + c.treatment.len() + c.rule.len();
        texts + c.counts.as_ref().map_or(0, String::len) + size_of::<ColumnReport>()
    };
    let relation = |r: &RelationReport| {
        let columns: usize = r.columns.iter().map(column).sum();
        r.relation.len() + r.row_filter.as_ref().map_or(0, String::len) + columns + size_of::<RelationReport>()
    };
    let hidden = plan.meter.hidden.iter().map(|h| h.name.len() + size_of_val(h));
    // A table of hashes is half empty, or nothing at all.
    let places = (plan.trip_wire.cleared.capacity() + plan.trip_wire.late.capacity()) * 2 * size_of::<(u32, i16)>();
    let per_row = plan.meter.per_row.iter().map(|(space, _)| space.len() + 48);
    size_of::<StatementPlan>()
        + size_of::<Report>()
        + size_of::<MeterSpec>()
        + size_of::<TripWire>()
        // Counts of references, and what the allocator rounds up.
        + 8 * 32
        + places
        + plan.meter.late.len() * size_of::<LateColumn>()
        + per_row.sum::<usize>()
        + report.fingerprint.len()
        + report.relations.iter().map(relation).sum::<usize>()
        + report.charges.iter().map(|c| c.len() + 24).sum::<usize>()
        + hidden.sum::<usize>()
        + plan.origins.len() * 12
}

/// Another piece of the same kind, which stands nowhere else.
fn stand_in(index: usize, kind: Kind) -> Option<String> {
    let mut random = [0_u8; 4];
    getrandom::fill(&mut random).ok()?;
    // Eight digits, whose last three are the piece's number: no stand-in is part of another.
    let number = u64::from(u32::from_be_bytes(random)) % 90_000 * 1_000 + 10_000_000 + u64::try_from(index).ok()?;
    Some(match kind {
        Kind::Integer => format!("19{number:08}"),
        Kind::Long => format!("77{number:016}"),
        Kind::Decimal => format!("18{number:08}.625"),
        Kind::Text => format!("'menshen stand-in {number:08}'"),
        Kind::Block => format!("/* menshen stand-in {number:08} */"),
        Kind::Line => format!("-- menshen stand-in {number:08}"),
    })
}

/// The text cut at what stands for pieces, and at the names of the session's settings.
fn parts(text: &str, stand_ins: &[(usize, String)], token: &TokenSettings) -> Box<[Part]> {
    let mut holes: Vec<(usize, usize, Part)> = Vec::new();
    let mut met: Vec<&str> = Vec::new();
    for (index, stand_in) in stand_ins {
        // The first of equal pieces stands for all of them.
        if met.contains(&stand_in.as_str()) {
            continue;
        }
        met.push(stand_in);
        holes.extend(
            text.match_indices(stand_in.as_str())
                .map(|(at, s)| (at, s.len(), Part::Piece(*index))),
        );
    }
    holes.extend(
        text.match_indices(token.inner.as_str())
            .map(|(at, s)| (at, s.len(), Part::Inner)),
    );
    holes.extend(
        text.match_indices(token.outer.as_str())
            .map(|(at, s)| (at, s.len(), Part::Outer)),
    );
    holes.sort_by_key(|(at, ..)| *at);
    let mut parts = Vec::new();
    let mut at = 0;
    for (start, length, hole) in holes {
        parts.push(Part::Text(text.get(at..start).unwrap_or_default().into()));
        parts.push(hole);
        at = start + length;
    }
    parts.push(Part::Text(text.get(at..).unwrap_or_default().into()));
    parts.into()
}

/// Whether two plans of one statement are the same but for their literals.
fn same(one: &StatementPlan, two: &StatementPlan) -> bool {
    let StatementPlan {
        kind,
        meter,
        trip_wire,
        origins,
        may_change_settings,
        ddl,
        context_free,
        ends_transaction,
        meanings,
        scrub,
        setting_parameters,
        guesses,
        report,
    } = one;
    let kinds = matches!(
        (kind, &two.kind),
        (StatementKind::Query, StatementKind::Query) | (StatementKind::Write, StatementKind::Write)
    );
    kinds
        && *meter == two.meter
        && trip_wire.cleared == two.trip_wire.cleared
        && trip_wire.late == two.trip_wire.late
        && trip_wire.unrestricted == two.trip_wire.unrestricted
        && Arc::ptr_eq(&trip_wire.protected, &two.trip_wire.protected)
        && *origins == two.origins
        && *may_change_settings == two.may_change_settings
        && *ddl == two.ddl
        && *context_free == two.context_free
        && *ends_transaction == two.ends_transaction
        && meanings.is_empty()
        && two.meanings.is_empty()
        && *scrub == two.scrub
        && *setting_parameters == two.setting_parameters
        && *guesses == two.guesses
        && *report == two.report
}
