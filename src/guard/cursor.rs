//! Cursors: the query is judged when the cursor is declared; FETCH shows its rows, so FETCH is metered as the query would be.

use std::sync::Arc;

use super::plan::{StatementKind, StatementPlan};
use super::query::{self, Walked, walked};
use super::scope::People;
use super::{Judged, Subject, Verdict};
use crate::meter::MeterSpec;

/// `DECLARE name CURSOR … FOR query`
pub(super) fn declare(subject: &Subject<'_>) -> Result<Judged, Verdict> {
    let name = subject.tree.text("portalname").to_owned();
    let (mut judged, meter, origins) = match walked(subject, subject.tree.field("query"), People::Named)? {
        Walked::Free(kind) => (subject.forward(kind), MeterSpec::default(), Arc::default()),
        Walked::Seen(walk, output) => {
            let meter = query::meter(&walk, &output)?;
            let shown = query::shown(&output);
            (
                query::finish(subject, &walk, &shown, meter.clone(), StatementKind::Query)?,
                meter,
                query::origins(&walk, &output),
            )
        }
    };
    // Declaring shows no row.
    let inner = Arc::new(StatementPlan {
        kind: StatementKind::Query,
        meter: Arc::new(meter),
        origins,
        ..judged.plan.clone()
    });
    judged.plan.meter = Arc::default();
    // CURSOR_OPT_HOLD of PostgreSQL's parsenodes.h.
    let hold = subject.tree.int("options") & 0x20 != 0;
    judged.plan.kind = StatementKind::Declare { name, inner, hold };
    Ok(judged)
}

/// FETCH, MOVE and CLOSE. A cursor that this session has not declared may be a portal, or a function may have opened it: then nothing
/// of it is metered, and the trip-wire lets no protected column through.
pub(super) fn used(subject: &Subject<'_>) -> Judged {
    let name = subject.tree.text("portalname").to_owned();
    let mut judged = subject.forward(StatementKind::Query);
    judged.plan.context_free = true;
    // What nobody knows may run anything.
    judged.plan.may_change_settings = true;
    if subject.tree.kind() == "ClosePortalStmt" {
        judged.plan.may_change_settings = false;
        let name = (!name.is_empty()).then_some(name);
        judged.plan.kind = StatementKind::CloseCursor { name };
        return judged;
    }
    let declared = subject
        .cursors
        .get(&name)
        .cloned()
        .or_else(|| subject.judge.cursor(&name));
    if let Some(inner) = declared {
        // What a cursor on protected relations may show depends on the purpose that is in force now.
        judged.plan.context_free = inner.report.relations.is_empty();
        judged.plan.trip_wire = Arc::clone(&inner.trip_wire);
        judged.plan.scrub = inner.scrub;
        judged.plan.may_change_settings = inner.may_change_settings;
        if !subject.tree.flag("ismove") {
            judged.plan.meter = Arc::clone(&inner.meter);
            judged.plan.origins = Arc::clone(&inner.origins);
            judged.plan.report = Arc::clone(&inner.report);
        }
    }
    judged.plan.kind = StatementKind::Fetch { name };
    judged
}
