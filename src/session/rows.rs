//! Rows: held until the ledger has charged them, then released; the rest dropped where a limit is reached.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use jiff::Timestamp;

use super::notes::Note;
use super::owed::{Owed, Shape};
use super::{Action, Phase, Session, plans};
use crate::guard::StatementKind;
use crate::ledger::{ChargeRequest, Charged, LedgerError};
use crate::meter::Layout;
use crate::meter::copy::{CopyFormat, CopyReader};
use crate::meter::release::{self, Held, Released};
use crate::wire::frame::{self, Frame};
use crate::wire::{Refusal, message};

/// Rows are charged when the burst they came in ends, or at these bounds.
const BATCH_ROWS: usize = 4096;
const BATCH_BYTES: usize = 64 * 1024;

/// A portal that was bound before client_encoding became another.
const ANOTHER_ENCODING: &str = "rows to be masked in another encoding than they were asked for in";

/// Whether so many rows wait that they must be charged now.
fn is_full(held: &Held) -> bool {
    held.rows() >= BATCH_ROWS || held.bytes() >= BATCH_BYTES
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
        let Some(layout) = running.layout.clone() else { return };
        if !layout.late().is_empty() && !self.masks_late() {
            return self.violation(ANOTHER_ENCODING);
        }
        if let Some(released) = release::unmetered(Some(&layout), frame.bytes.clone()) {
            self.send_client(released.into_bytes());
            return;
        }
        let held = self.batch.get_or_insert_with(|| Held::new(layout.kinds()));
        match held.row(&layout, frame.body()) {
            Ok(()) if is_full(held) => self.charge_batch(now),
            Ok(()) => {}
            Err(bad) => self.violation(&bad.to_string()),
        }
    }

    /// Rows at the front of what the server has sent that are counted: many messages, walked where they stand, until they must be charged.
    /// Whether there were any.
    pub(super) fn rows_that_count(&mut self, bytes: &mut BytesMut, now: Timestamp) -> bool {
        if bytes.first() != Some(&b'D') || self.charging || self.batch.is_none() || !self.server.is_empty() {
            // The first row of a batch goes the long way: then all that is asked there has been asked.
            return false;
        }
        if let Some(Owed::Execute { stopped: true, .. } | Owed::Query { stopped: true, .. }) = self.owed.front() {
            return false;
        }
        let Some(layout) = self.running().and_then(|running| running.layout.clone()) else {
            return false;
        };
        if !layout.late().is_empty() && !self.masks_late() {
            return false;
        }
        let Some(held) = self.batch.as_mut() else { return false };
        let mut taken = 0;
        let mut bad = None;
        while let Some(body) = frame::first_body(b'D', bytes.get(taken..).unwrap_or_default(), frame::BACKEND_BYTES_MAX)
        {
            if let Err(malformed) = held.row(&layout, body) {
                bad = Some(malformed);
                break;
            }
            taken += body.len() + 5;
            if is_full(held) {
                break;
            }
        }
        let full = is_full(held);
        bytes.advance(taken);
        match bad {
            Some(bad) => self.violation(&bad.to_string()),
            None if full => self.charge_batch(now),
            None => {}
        }
        taken > 0
    }

    /// The layout of the rows that an Execute brings now, where they go as they came.
    pub(super) fn layout_of_rows(&mut self) -> Option<Arc<Layout>> {
        let id = match self.owed.front()? {
            Owed::Execute {
                running: Some(running),
                stopped: false,
                id,
                ..
            } if matches!(running.plan.kind, StatementKind::Query) => *id,
            _ => return None,
        };
        if self.running()?.layout.is_none() {
            // What is wrong with it is told the long way.
            let layout = self.late_layout(id).ok()?;
            self.running()?.layout = Some(layout);
        }
        let layout = self.running()?.layout.as_ref()?;
        layout.is_transparent().then(|| Arc::clone(layout))
    }

    /// Rows at the front of what the server has sent that show nobody and go as they came: many messages at once.
    pub(super) fn rows_that_pass(&mut self, bytes: &mut BytesMut) -> Option<Bytes> {
        let kind = *bytes.first()?;
        if !matches!(kind, b'D' | b'd') || self.phase != Phase::Ready || self.charging || self.batch.is_some() {
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
            (b'd', Some(_)) => self.copy_row(&frame, now),
            (b'c', Some(_)) => self.send_client(frame.bytes),
            _ => self.violation("a message of COPY out of turn"),
        }
    }

    fn copy_row(&mut self, frame: &Frame, now: Timestamp) {
        if !self.masks_late()
            && self
                .running()
                .is_some_and(|running| !running.plan.meter.late.is_empty())
        {
            return self.violation(ANOTHER_ENCODING);
        }
        let mut batch = self.batch.take();
        let Some(reader) = self.running().and_then(|running| running.copy.as_mut()) else {
            return self.violation("COPY of no statement");
        };
        let held = batch.get_or_insert_with(|| Held::new(reader.kinds()));
        let taken = held.copy_row(reader, frame.body());
        let full = is_full(held);
        self.batch = batch;
        match taken {
            Ok(()) if full => self.charge_batch(now),
            Ok(()) => {}
            Err(bad) => self.violation(&bad.to_string()),
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
        if self.charging || self.batch.is_none() {
            return;
        }
        let Some(charge) = self.running().map(|r| Arc::clone(&r.charge)) else {
            self.violation("rows of no statement");
            return;
        };
        let Some(held) = self.batch.as_mut() else { return };
        let request = ChargeRequest {
            account: Arc::from(self.login.as_str()),
            limits: Arc::clone(&charge.limits),
            sanctioned: charge.sanctioned,
            shown: held.take_shown(),
            now,
        };
        self.charging = true;
        self.out.push(Action::Charge(Box::new(request)));
    }

    /// The ledger has answered.
    pub(super) fn release_batch(&mut self, result: Result<Charged, LedgerError>, _now: Timestamp) {
        let Some(batch) = self.batch.take() else {
            return self.violation("a charge of no rows");
        };
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
        // Rows that were held to be masked alone are no release of the ledger's.
        if let Some(running) = self.running().filter(|r| !r.plan.meter.is_empty()) {
            running.rows += u64::try_from(charged.released).unwrap_or(u64::MAX);
            running.estimated += charged.estimated;
            running
                .new_people
                .resize(charged.new_people.len().max(running.new_people.len()), 0);
            for (sum, new) in running.new_people.iter_mut().zip(&charged.new_people) {
                *sum += new;
            }
        }
        let released = release::release(batch, &charged).into_bytes();
        if !released.is_empty() {
            self.send_client(released);
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
