//! Decisions for the audit. One that shows or touches protected relations is told each time. One that touches none is told when the session meets it
//! first; how often it was met again is told later ([`Note::Repeated`]): an application sends the same statements for ever.

use std::sync::Arc;

use jiff::Timestamp;

use super::notes::Note;
use super::{Known, Session};
use crate::guard::plan::Report;
use crate::guard::{StatementKind, StatementPlan};

/// Different decisions that are remembered, and for how long their repetitions may go untold.
const REMEMBERED: usize = 256;
const UNTOLD_SECONDS: i64 = 60;

/// Decisions that were told, and how often they have come again since.
#[derive(Default)]
pub(super) struct Decisions {
    /// By the address of the report, which is kept alive here.
    told: super::Names<usize, (Arc<Report>, u64)>,
    /// Under which settings.
    known: Option<Arc<Known>>,
    /// Second of the last telling.
    since: i64,
}

impl Session {
    /// Notes a decision.
    pub(super) fn note_decided(&mut self, plan: &StatementPlan, now: Timestamp) {
        if matches!(plan.kind, StatementKind::Transaction) {
            return;
        }
        let report = &plan.report;
        if report.relations.is_empty() {
            let same = match (&self.decisions.known, &self.known) {
                (Some(then), Some(now)) => Arc::ptr_eq(then, now),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            let late = now.as_second() - self.decisions.since >= UNTOLD_SECONDS;
            if !same || late || self.decisions.told.len() >= REMEMBERED {
                self.tell_repeated(!same || self.decisions.told.len() >= REMEMBERED);
                self.decisions.since = now.as_second();
                self.decisions.known = self.known.clone();
            }
            let place = Arc::as_ptr(report).addr();
            if let Some((_, again)) = self.decisions.told.get_mut(&place) {
                *again += 1;
                return;
            }
            self.decisions.told.insert(place, (Arc::clone(report), 0));
        }
        let purpose = self.key_now(now).and_then(|k| k.standing.purpose.clone());
        let declared = self
            .known
            .iter()
            .flat_map(|k| &k.declared.settings)
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        self.note(Note::Decided {
            report: Arc::clone(report),
            purpose,
            declared,
        });
    }

    /// Tells what has come again; `forget`: the next time will be told as the first.
    pub(super) fn tell_repeated(&mut self, forget: bool) {
        let mut told = std::mem::take(&mut self.decisions.told);
        for (report, again) in told.values_mut() {
            let times = std::mem::take(again);
            if times > 0 {
                self.note(Note::Repeated {
                    fingerprint: report.fingerprint.clone(),
                    times,
                });
            }
        }
        if !forget {
            self.decisions.told = told;
        }
    }
}
