//! Rows: held until the ledger has charged them, then released; the rest dropped where a limit is reached.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::notes::Note;
use super::owed::{Owed, Shape};
use super::{Action, Phase, Session, plans};
use crate::guard::StatementKind;
use crate::ledger::{ChargeRequest, Charged, LedgerError};
use crate::meter::Layout;
use crate::meter::copy::{CopyFormat, CopyReader};
use crate::meter::release::{self, Held, Released};
use crate::meter::row::Malformed;
use crate::wire::frame::{self, Frame};
use crate::wire::{Refusal, message};

/// Rows are charged when the burst they came in ends, or at these bounds.
const BATCH_ROWS: usize = 512;
const BATCH_BYTES: usize = 64 * 1024;

/// Rows that wait for the ledger.
#[derive(Debug, Default)]
pub(super) struct Batch {
    rows: Vec<Held>,
    bytes: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Session {
    pub(super) fn data_row(&mut self, frame: Frame, now: Timestamp) {
        let id = match self.owed.front() {
            Some(Owed::Probe { .. }) => return self.probe_row(&frame),
            Some(Owed::Execute { stopped: true, .. } | Owed::Query { stopped: true, .. }) => return,
            Some(Owed::Execute { id, .. }) => *id,
            Some(Owed::Query { .. }) => None,
            _ => return self.violation("a row that nobody is owed"),
        };
        if self.running().is_none_or(|r| r.layout.is_none()) {
            match self.late_layout(id) {
                Ok(layout) => {
                    if let Some(running) = self.running() {
                        running.layout = Some(layout);
                    }
                }
                Err((rule, what)) => return self.trip(rule, what),
            }
        }
        let Some(running) = self.running() else {
            return self.violation("a row of no statement");
        };
        if let StatementKind::Explain { format } = running.plan.kind {
            return match plans::shape_only(format, frame.body()) {
                Ok(Some(row)) => self.send_client(row),
                Ok(None) => {}
                Err(bad) => self.violation(bad),
            };
        }
        let Some(layout) = &running.layout else { return };
        if let Some(released) = release::unmetered(Some(layout), frame.bytes.clone()) {
            self.send_client(released.into_bytes());
            return;
        }
        let held = release::hold(layout, frame.body());
        self.keep(held, frame.bytes.len(), now);
    }

    /// Rows at the front of what the server has sent that show nobody and go as they came: many messages at once.
    pub(super) fn rows_that_pass(&mut self, bytes: &mut BytesMut) -> Option<Bytes> {
        let kind = *bytes.first()?;
        if !matches!(kind, b'D' | b'd') || self.phase != Phase::Ready || self.charging || !self.batch.is_empty() {
            return None;
        }
        if !self.server.is_empty() {
            return None;
        }
        let running = match self.owed.front()? {
            Owed::Execute {
                running: Some(running),
                stopped: false,
                ..
            } => running,
            Owed::Query {
                running,
                at,
                stopped: false,
                ..
            } => running.get(*at)?,
            Owed::Execute { .. }
            | Owed::Query { .. }
            | Owed::Parse { .. }
            | Owed::Shape { .. }
            | Owed::DescribeStatement { .. }
            | Owed::DescribePortal { .. }
            | Owed::Bind { .. }
            | Owed::Close { .. }
            | Owed::Sync { .. }
            | Owed::Probe { .. }
            | Owed::Refused { .. } => return None,
        };
        match &running.plan.kind {
            StatementKind::Explain { .. } | StatementKind::CopyOut(_) => return None,
            StatementKind::Query
            | StatementKind::Write
            | StatementKind::Transaction
            | StatementKind::Set
            | StatementKind::Prepare { .. }
            | StatementKind::Declare { .. }
            | StatementKind::Fetch { .. }
            | StatementKind::CloseCursor { .. }
            | StatementKind::Execute { .. }
            | StatementKind::Deallocate { .. }
            | StatementKind::DiscardAll
            | StatementKind::Utility => {}
        }
        let layout = running.layout.as_deref();
        let passes = match kind {
            b'D' => layout.is_some_and(Layout::is_transparent),
            _ => layout.is_none(),
        };
        let run = frame::run_of(kind, bytes, frame::BACKEND_BYTES_MAX);
        if !passes || run == 0 {
            return None;
        }
        release::unmetered(layout, bytes.split_to(run).freeze()).map(Released::into_bytes)
    }

    fn keep(&mut self, held: Result<Held, Malformed>, bytes: usize, now: Timestamp) {
        match held {
            Ok(held) => {
                self.batch.bytes += bytes;
                self.batch.rows.push(held);
            }
            Err(bad) => return self.violation(&bad.to_string()),
        }
        if self.batch.rows.len() >= BATCH_ROWS || self.batch.bytes >= BATCH_BYTES {
            self.charge_batch(now);
        }
    }

    /// The messages of a metered COPY … TO STDOUT.
    pub(super) fn copy_out(&mut self, frame: Frame, format: Arc<CopyFormat>, now: Timestamp) {
        let Some(running) = self.running() else {
            return self.violation("COPY of no statement");
        };
        match (frame.kind, &mut running.copy) {
            (b'H', None) => match CopyReader::new(format, Arc::clone(&running.plan.meter), frame.body()) {
                Ok((reader, message)) => {
                    running.copy = Some(reader);
                    self.send_client(message);
                }
                Err(bad) => self.violation(&bad.to_string()),
            },
            (b'd', Some(reader)) => {
                let held = release::hold_copy(reader, frame.body());
                self.keep(held, frame.bytes.len(), now);
            }
            (b'c', Some(_)) => self.send_client(frame.bytes),
            _ => self.violation("a message of COPY out of turn"),
        }
    }

    /// The layout of an Execute's rows, from our own Describe of its statement.
    fn late_layout(&mut self, id: Option<u64>) -> Result<Arc<Layout>, (&'static str, String)> {
        let missing = || ("hidden-column-missing", "rows without a description".to_owned());
        let plan = self.running().map(|r| Arc::clone(&r.plan)).ok_or_else(missing)?;
        let id = id.ok_or_else(missing)?;
        let layout = match self.shapes.get(&id) {
            Some(Shape::Rows {
                checked: Some((checked, layout)),
                ..
            }) if Arc::ptr_eq(checked, &plan) => return Ok(Arc::clone(layout)),
            Some(Shape::Rows { names, origins, .. }) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.checked_layout(&plan, &names, origins.iter().copied())?
            }
            Some(Shape::Nothing) | None => return Err(missing()),
        };
        if let Some(Shape::Rows { checked, .. }) = self.shapes.get_mut(&id) {
            *checked = Some((plan, Arc::clone(&layout)));
        }
        Ok(layout)
    }

    /// Sends the waiting rows to the ledger.
    pub(super) fn charge_batch(&mut self, now: Timestamp) {
        if self.charging || self.batch.is_empty() {
            return;
        }
        let Some(charge) = self.running().map(|r| Arc::clone(&r.charge)) else {
            self.violation("rows of no statement");
            return;
        };
        self.charging = true;
        let rows = self
            .batch
            .rows
            .iter_mut()
            .map(|h| std::mem::take(&mut h.people))
            .collect();
        self.out.push(Action::Charge(Box::new(ChargeRequest {
            account: Arc::from(self.login.as_str()),
            limits: Arc::clone(&charge.limits),
            sanctioned: charge.sanctioned,
            rows,
            now,
        })));
    }

    /// The ledger has answered.
    pub(super) fn release_batch(&mut self, result: Result<Charged, LedgerError>, _now: Timestamp) {
        let batch = std::mem::take(&mut self.batch);
        let charged = match result {
            Ok(charged) => charged,
            Err(error) => {
                self.note(Note::LedgerFailed(error.to_string()));
                let refusal = Refusal {
                    sqlstate: "58000",
                    rule: "ledger",
                    message: "rows could not be counted, so they are not released".to_owned(),
                    hint: "the ledger of Menshen is out of order; tell its operators".into(),
                    position: None,
                    incident: true,
                };
                self.end_statement(&refusal);
                return;
            }
        };
        if let Some(running) = self.running() {
            running.rows += u64::try_from(charged.released).unwrap_or(u64::MAX);
            running.estimated += charged.estimated;
            running
                .new_people
                .resize(charged.new_people.len().max(running.new_people.len()), 0);
            for (sum, new) in running.new_people.iter_mut().zip(&charged.new_people) {
                *sum += new;
            }
        }
        for row in release::release(batch.rows, &charged) {
            self.send_client(row.into_bytes());
        }
        for crossing in &charged.crossings {
            self.send_client(message::notice(
                &crossing.reading.to_string(),
                &crossing.reading.left_text(),
            ));
            self.note(Note::Crossed {
                limit: crossing.limit.clone(),
                share: crossing.share,
                reading: crossing.reading.clone(),
            });
        }
        if let Some(stopped) = charged.stopped {
            let refusal = Refusal {
                sqlstate: "53400",
                rule: "stop-at",
                message: format!("exposure limit reached: {}", stopped.reading),
                hint: "the next person's record would reach the line; ask your security team, or wait for the window to move on".into(),
                position: None,
                incident: false,
            };
            if let Some(running) = self.running() {
                let plan = Arc::clone(&running.plan);
                let finished = std::mem::replace(running, super::owed::Running::new(plan, Arc::clone(&running.charge)));
                self.note_released(&finished);
            }
            self.note(Note::Stopped(stopped));
            self.end_statement(&refusal);
        }
    }
}
