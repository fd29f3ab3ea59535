//! Server messages, taken against the queue of replies owed. What nobody is owed closes the session.

use std::sync::Arc;

use jiff::Timestamp;
use pgwire::messages::data::DataRow;
use smallvec::SmallVec;

use super::judging::aborted;
use super::notes::Note;
use super::owed::{Cursor, Depends, Owed, Prepared, Running, Shape};
use super::{Hold, Phase, Session};
use crate::guard::{StatementKind, StatementPlan};
use crate::meter::Layout;
use crate::wire::columns::{self, Column, Columns};
use crate::wire::frame::Frame;
use crate::wire::{Refusal, message, shape};

impl Session {
    /// Takes one server message.
    pub(super) fn server_frame(&mut self, frame: Frame, now: Timestamp) {
        if !shape::is_whole_reply(&frame, matches!(self.owed.front(), Some(Owed::Probe { .. }))) {
            return self.violation(&message::Malformed(char::from(frame.kind)).to_string());
        }
        if self.phase == Phase::Startup {
            self.startup_reply(frame);
            return;
        }
        if self.phase == Phase::Closed {
            return;
        }
        if !matches!(frame.kind, b'D' | b'd') && self.batch.is_some() {
            // Rows go before what follows them.
            self.charge_batch(now);
            if self.charging {
                // To the front: it may itself come from the queue, with others behind it.
                self.server.push_front(frame);
                return;
            }
        }
        match frame.kind {
            b'S' => self.parameter_status(frame),
            b'N' => self.notice_response(frame),
            b'A' => self.send_client(frame.bytes),
            b'1' => self.parse_complete(frame),
            b'2' => self.bind_complete(frame),
            b'3' => self.close_complete(frame),
            b't' => self.parameter_description(frame),
            b'T' => self.row_description(frame),
            b'n' => self.no_data(frame),
            b'D' => self.data_row(frame, now),
            // CommandComplete, FunctionCallResponse, EmptyQueryResponse.
            b'C' | b'V' => self.command_complete(frame),
            b'I' => self.command_complete(frame),
            b's' => self.portal_suspended(frame),
            b'E' => self.error_response(frame),
            b'Z' => self.ready_for_query(frame),
            // CopyInResponse, CopyOutResponse, CopyData, CopyDone.
            b'G' | b'H' | b'd' | b'c' => self.copy(frame, now),
            // CopyBothResponse, Authentication, BackendKeyData, NegotiateProtocolVersion: not now.
            other => self.violation(&format!(
                "server message of type {:?} that nobody is owed",
                char::from(other)
            )),
        }
    }

    fn unowed(&mut self, frame: &Frame) {
        self.violation(&format!(
            "server message of type {:?} that nobody is owed",
            char::from(frame.kind)
        ));
    }

    /// The statement whose rows are on their way.
    pub(super) fn running(&mut self) -> Option<&mut Running> {
        match self.owed.front_mut()? {
            Owed::Execute { running, .. } => running.as_mut(),
            Owed::Query { running, at, .. } => running.get_mut(*at),
            Owed::Parse { .. }
            | Owed::Shape { .. }
            | Owed::DescribeStatement { .. }
            | Owed::DescribePortal { .. }
            | Owed::Bind { .. }
            | Owed::Close { .. }
            | Owed::Sync { .. }
            | Owed::Probe { .. }
            | Owed::Refused { .. } => None,
        }
    }

    /// Whether errors and notices of now may carry values of rows.
    fn must_scrub(&self) -> bool {
        let scrubs = |p: Option<Arc<StatementPlan>>| p.is_some_and(|p| p.scrub);
        // COMMIT and SET CONSTRAINTS run what was deferred.
        let deferred = |r: &Running| {
            self.transaction_scrub && matches!(r.plan.kind, StatementKind::Transaction | StatementKind::Utility)
        };
        match self.owed.front() {
            Some(Owed::Execute { running, .. }) => running.as_ref().is_some_and(|r| r.plan.scrub || deferred(r)),
            // What follows an error, whose statements are forgotten, is scrubbed.
            Some(Owed::Query { running, stopped, .. }) => {
                *stopped || running.iter().any(|r| r.plan.scrub || deferred(r))
            }
            Some(Owed::Parse { prepared, .. }) => scrubs(prepared.statement()),
            Some(Owed::Bind { portal, .. }) => scrubs(portal.statement()),
            // Constraint triggers may speak at Sync (COMMIT of the implicit transaction).
            Some(Owed::Sync { .. }) | None => true,
            Some(
                Owed::Shape { .. }
                | Owed::DescribeStatement { .. }
                | Owed::DescribePortal { .. }
                | Owed::Close { .. }
                | Owed::Probe { .. }
                | Owed::Refused { .. },
            ) => false,
        }
    }

    /// Characters that stand before the text of what runs in what the client has sent.
    fn shift(&self) -> u32 {
        match self.owed.front() {
            Some(Owed::Parse { prepared, .. }) => prepared.turn.unwrap_or(0),
            Some(Owed::Bind { portal, .. }) => portal.prepared.turn.unwrap_or(0),
            Some(Owed::Execute { shift, .. }) => *shift,
            Some(
                Owed::Shape { .. }
                | Owed::DescribeStatement { .. }
                | Owed::DescribePortal { .. }
                | Owed::Close { .. }
                | Owed::Sync { .. }
                | Owed::Query { .. }
                | Owed::Probe { .. }
                | Owed::Refused { .. },
            )
            | None => 0,
        }
    }

    fn words(&self, frame: &Frame) -> bytes::Bytes {
        if !self.must_scrub() {
            return frame.bytes.clone();
        }
        let scrubbed = message::scrubbed(frame);
        if scrubbed.is_empty() {
            let refusal = Refusal {
                sqlstate: "XX000",
                ..Refusal::unsupported(
                    "unreadable-error",
                    "the server raised an error whose text Menshen cannot read",
                    "SET client_encoding = 'UTF8'",
                )
            };
            return if frame.kind == b'N' {
                message::notice(&refusal.message, "")
            } else {
                message::error(&refusal, "ERROR")
            };
        }
        scrubbed
    }

    fn notice_response(&mut self, frame: Frame) {
        // Messages for the log show rows and plans. They come where the role's own settings ask for them.
        let protects = self.ground().is_some_and(|g| !g.protected.is_empty());
        if protects && matches!(message::severity(&frame).as_str(), "DEBUG" | "LOG") {
            return;
        }
        let words = self.words(&frame);
        self.send_client(words);
    }

    fn parse_complete(&mut self, frame: Frame) {
        match self.owed.front() {
            Some(Owed::Parse { .. }) => {
                if let Some(Owed::Parse { own, name, prepared }) = self.owed.pop_front() {
                    self.statements.insert(name, prepared);
                    self.forget_shapes();
                    if !own {
                        self.send_client(frame.bytes);
                    }
                }
            }
            Some(Owed::Probe { .. }) => {}
            _ => self.unowed(&frame),
        }
    }

    /// Shapes of statements that nothing can name any more: each Parse makes one, and the unnamed statement is only ever replaced.
    fn forget_shapes(&mut self) {
        const AT_LEAST: usize = 64;
        if self.shapes.len() < self.shapes_kept.saturating_mul(2).max(AT_LEAST) {
            return;
        }
        let of = |prepared: &Prepared| [Some(prepared.id), prepared.instead_of.as_ref().map(|old| old.id)];
        let mut used = std::collections::HashSet::new();
        used.extend(self.statements.values().flat_map(|p| of(p)));
        used.extend(self.portals.values().flat_map(|p| of(&p.prepared)));
        used.extend(self.owed.iter().flat_map(|owed| match owed {
            Owed::Parse { prepared, .. }
            | Owed::DescribeStatement {
                prepared: Some((_, prepared)),
            } => of(prepared),
            Owed::Bind { portal, .. } => of(&portal.prepared),
            Owed::Shape { id } | Owed::DescribePortal { learns: Some(id), .. } => [Some(*id), None],
            Owed::Execute { id, .. } => [*id, None],
            Owed::DescribeStatement { prepared: None }
            | Owed::DescribePortal { learns: None, .. }
            | Owed::Close { .. }
            | Owed::Sync { .. }
            | Owed::Query { .. }
            | Owed::Probe { .. }
            | Owed::Refused { .. } => [None, None],
        }));
        self.shapes.retain(|id, _| used.contains(&Some(*id)));
        self.shapes_kept = self.shapes.len();
    }

    fn bind_complete(&mut self, frame: Frame) {
        match self.owed.front() {
            Some(Owed::Bind { .. }) => {
                if self.bound() == Some(false) {
                    self.send_client(frame.bytes);
                }
            }
            Some(Owed::Probe { .. }) => {}
            _ => self.unowed(&frame),
        }
    }

    /// The Bind at the front has made its portal; whether it is one of our own.
    pub(super) fn bound(&mut self) -> Option<bool> {
        let Some(Owed::Bind { name, portal }) = self.owed.pop_front() else {
            return None;
        };
        // A cursor that had the name is gone, or Bind would have failed.
        self.cursors.remove(&name);
        let own = portal.prepared.turn.is_some();
        self.portals.insert(name, portal);
        Some(own)
    }

    fn close_complete(&mut self, frame: Frame) {
        if let Some(Owed::Probe { closed, .. }) = self.owed.front_mut()
            && !std::mem::replace(closed, true)
        {
            return; // its portal; its statement follows
        }
        match self.owed.pop_front() {
            Some(Owed::Close { own, statement, portal }) => {
                // The server keeps portals of a statement that is closed, and so do their shapes stay.
                if let Some(name) = statement {
                    self.statements.remove(&name);
                }
                if let Some(name) = portal {
                    self.portals.remove(&name);
                }
                if !own {
                    self.send_client(frame.bytes);
                }
            }
            Some(Owed::Probe { question, values, .. }) => self.answered(question, values),
            _ => self.unowed(&frame),
        }
    }

    fn parameter_description(&mut self, frame: Frame) {
        match self.owed.front() {
            Some(Owed::Shape { .. }) => {}
            Some(Owed::DescribeStatement { .. }) => self.send_client(frame.bytes),
            _ => self.unowed(&frame),
        }
    }

    fn row_description(&mut self, frame: Frame) {
        let mut columns = Columns::new();
        if !columns::read(&frame, &mut columns) {
            return self.violation(&message::Malformed('T').to_string());
        }
        match self.owed.front() {
            Some(Owed::Shape { .. }) => {
                if let Some(Owed::Shape { id }) = self.owed.pop_front() {
                    self.shapes.insert(id, Shape::of(&columns));
                }
            }
            Some(Owed::DescribeStatement { .. }) => {
                if let Some(Owed::DescribeStatement { prepared }) = self.owed.pop_front() {
                    if let Some((_, prepared)) = &prepared {
                        self.shapes.entry(prepared.id).or_insert_with(|| Shape::of(&columns));
                    }
                    let plan = prepared.and_then(|(name, p)| if p.by_sql { p.inner(&name) } else { p.statement() });
                    self.describe_to_client(plan.as_deref(), &frame, &mut columns);
                }
            }
            Some(Owed::DescribePortal { .. }) => {
                if let Some(Owed::DescribePortal { plan, learns, .. }) = self.owed.pop_front() {
                    if let Some(id) = learns {
                        self.shapes.insert(id, Shape::of(&columns));
                    }
                    self.describe_to_client(plan.as_deref(), &frame, &mut columns);
                }
            }
            Some(Owed::Query { stopped: true, .. }) => {}
            Some(Owed::Query { running, at, .. }) => {
                let Some(plan) = running.get(*at).map(|r| Arc::clone(&r.plan)) else {
                    return self.unowed(&frame);
                };
                let names: SmallVec<[_; 16]> = columns.iter().map(|c| String::from_utf8_lossy(c.name)).collect();
                let names: SmallVec<[&str; 16]> = names.iter().map(AsRef::as_ref).collect();
                match self.checked_layout(&plan, &names, columns.iter().map(|c| (c.relation, c.attribute))) {
                    Ok(layout) => {
                        self.describe_to_client(Some(&plan), &frame, &mut columns);
                        if let Some(running) = self.running() {
                            running.layout = Some(layout);
                        }
                    }
                    Err((rule, what)) => self.trip(rule, what),
                }
            }
            _ => self.unowed(&frame),
        }
    }

    /// The trip-wire, and the places of hidden columns.
    pub(super) fn checked_layout(
        &self,
        plan: &StatementPlan,
        names: &[&str],
        origins: impl Iterator<Item = (u32, i16)>,
    ) -> Result<Arc<Layout>, (&'static str, String)> {
        let origins: SmallVec<[(u32, i16); 16]> = origins.collect();
        let tripped = |(relation, attribute)| ("trip-wire", format!("relation {relation}, column {attribute}"));
        if let Some(column) = plan.trip_wire.trip(origins.iter().copied()) {
            return Err(tripped(column));
        }
        let layout = Layout::new(&plan.meter, names).map_err(|e| ("hidden-column-missing", e.to_string()))?;
        // What comes clear to be masked comes where it is masked, and each of these places has what was meant for it.
        let masks = |at: usize| layout.late().iter().position(|(place, _)| *place == at);
        for (at, origin) in origins.iter().enumerate() {
            let meant = masks(at)
                .and_then(|number| plan.meter.late.get(number))
                .map(|late| late.origin);
            let is_late = plan.trip_wire.late.contains(origin);
            if is_late && meant != Some(*origin) || meant.is_some_and(|meant| origin.0 != 0 && meant != *origin) {
                return Err(tripped(*origin));
            }
        }
        Ok(Arc::new(layout))
    }

    /// A RowDescription without hidden columns, and with the columns that masked ones stand for: the server names no table for a mask.
    fn describe_to_client(&mut self, plan: Option<&StatementPlan>, frame: &Frame, columns: &mut Columns<'_>) {
        let mut changed = false;
        if let Some(plan) = plan.filter(|p| !p.meter.hidden.is_empty() || !p.origins.is_empty()) {
            let hidden = |c: &Column<'_>| plan.meter.hidden.iter().any(|h| h.name.as_bytes() == c.name);
            let all = columns.len();
            columns.retain(|c| !hidden(c));
            changed = columns.len() != all;
            if columns.len() == plan.origins.len() {
                for (column, origin) in columns.iter_mut().zip(plan.origins.iter()) {
                    if let (0, Some((relation, attribute))) = (column.relation, origin) {
                        (column.relation, column.attribute) = (*relation, *attribute);
                        changed = true;
                    }
                }
            }
        }
        self.send_client(if changed {
            columns::message(columns)
        } else {
            frame.bytes.clone()
        });
    }

    fn no_data(&mut self, frame: Frame) {
        match self.owed.pop_front() {
            Some(Owed::Shape { id }) => {
                self.shapes.insert(id, Shape::Nothing);
            }
            Some(Owed::DescribePortal { quiet, learns, .. }) => {
                if let Some(id) = learns {
                    self.shapes.insert(id, Shape::Nothing);
                }
                if !quiet {
                    self.send_client(frame.bytes);
                }
            }
            Some(Owed::DescribeStatement { prepared }) => {
                if let Some((_, prepared)) = prepared {
                    self.shapes.entry(prepared.id).or_insert(Shape::Nothing);
                }
                self.send_client(frame.bytes);
            }
            _ => self.unowed(&frame),
        }
    }

    fn command_complete(&mut self, frame: Frame) {
        self.count_end();
        match self.owed.front_mut() {
            Some(Owed::Execute { .. } | Owed::Probe { .. }) if frame.kind == b'V' => self.unowed(&frame),
            Some(Owed::Execute { .. }) => {
                if let Some(Owed::Execute {
                    running,
                    stopped,
                    prepared,
                    ..
                }) = self.owed.pop_front()
                {
                    if stopped {
                        self.after_stopped_execute();
                    } else {
                        if let Some(running) = running {
                            self.completed(running, prepared);
                        }
                        self.send_client(frame.bytes);
                    }
                }
            }
            Some(Owed::Query { stopped: true, .. }) => {}
            Some(Owed::Query { call, .. }) if *call != (frame.kind == b'V') => self.unowed(&frame),
            Some(Owed::Query {
                running, at, prepared, ..
            }) => {
                let finished = running.get_mut(*at).map(|r| {
                    let plan = Arc::clone(&r.plan);
                    std::mem::replace(r, Running::new(plan, Arc::clone(&r.charge)))
                });
                *at += 1;
                let kept: Option<Arc<Prepared>> = finished.as_ref().and_then(|f| match &f.plan.kind {
                    StatementKind::Prepare { name, .. } => {
                        prepared.iter().find(|(n, _)| n == name).map(|(_, p)| Arc::clone(p))
                    }
                    _ => None,
                });
                if let Some(finished) = finished {
                    self.completed(finished, kept);
                } else if frame.kind != b'I' {
                    // More completions than statements: a rule or trigger does not make them; the readings differ.
                    return self.unowed(&frame);
                }
                self.send_client(frame.bytes);
            }
            Some(Owed::Probe { .. }) => {}
            _ => self.unowed(&frame),
        }
    }

    fn portal_suspended(&mut self, frame: Frame) {
        match self.owed.pop_front() {
            Some(Owed::Execute { stopped: true, .. }) => self.after_stopped_execute(),
            Some(Owed::Execute { running, .. }) => {
                if let Some(running) = running {
                    self.note_released(&running);
                }
                self.send_client(frame.bytes);
            }
            _ => self.unowed(&frame),
        }
    }

    /// The client had its error in mid-statement, but the server finished before it was cancelled: it must come to the state
    /// that the client believes in.
    fn after_stopped_execute(&mut self) {
        self.stale = true;
        let synced = self.owed.iter().any(|o| matches!(o, Owed::Sync { .. }));
        if !synced {
            self.provoke_skip(None);
        }
    }

    /// A statement has done its work.
    fn completed(&mut self, running: Running, prepared: Option<Arc<Prepared>>) {
        let plan = &running.plan;
        self.encoding_unsure |= plan.may_change_settings || running.settles;
        if plan.may_change_settings {
            self.stale = true;
            self.transaction_changed = true;
        }
        if plan.ddl {
            // The first temporary table puts its schema into the path.
            self.stale = true;
            self.transaction_ddl = true;
            self.own_stale = true;
        } else if self.transaction_ddl && matches!(plan.kind, StatementKind::Transaction) {
            // ROLLBACK TO SAVEPOINT may have undone some of it.
            self.own_stale = true;
        }
        if plan.ends_transaction {
            // In a pipeline the server says so only at its end.
            if self.status == b'E' {
                self.status = b'I';
            }
            self.transaction_ended();
        }
        match &plan.kind {
            StatementKind::Prepare { name, .. } => {
                if let Some(prepared) = prepared {
                    self.statements.insert(name.clone(), prepared);
                }
            }
            StatementKind::Deallocate { name: Some(name) } => {
                self.statements.remove(name);
            }
            StatementKind::Deallocate { name: None } => self.statements.clear(),
            StatementKind::DiscardAll => {
                self.statements.clear();
                self.portals.clear();
                self.cursors.clear();
                // As pools hand sessions on: the next client may not care for portals.
                self.holds_portals = false;
            }
            StatementKind::Declare { name, inner, hold } => {
                let under = Depends::of(inner, &running.charge);
                let plan = Arc::clone(inner);
                self.portals.remove(name);
                let hold = *hold;
                self.cursors.insert(name.clone(), Cursor { plan, under, hold });
            }
            StatementKind::CloseCursor { name: Some(name) } => {
                self.cursors.remove(name);
            }
            StatementKind::CloseCursor { name: None } => self.cursors.clear(),
            StatementKind::Query
            | StatementKind::Write
            | StatementKind::Transaction
            | StatementKind::Set
            | StatementKind::Execute { .. }
            | StatementKind::Fetch { .. }
            | StatementKind::CopyOut(_)
            | StatementKind::Explain { .. }
            | StatementKind::Utility => {}
        }
        self.note_released(&running);
    }

    pub(super) fn note_released(&mut self, running: &Running) {
        if running.rows > 0 {
            self.note(Note::Released {
                fingerprint: running.plan.report.fingerprint.clone(),
                rows: running.rows,
                new_people: running.new_people.clone(),
                estimated: running.estimated,
            });
        }
    }

    fn error_response(&mut self, frame: Frame) {
        if message::sqlstate(&frame) == "57014" {
            self.cancel_front = false;
        }
        let frame = self.in_words_of_timeout(frame);
        let words = message::shifted(self.words(&frame), self.shift());
        self.copying_in = false;
        if matches!(message::severity(&frame).as_str(), "FATAL" | "PANIC") {
            // The server's last words (57P01 …): it closes, and so does Menshen.
            self.send_client(words);
            self.close(Some("the server ended the session".to_owned()));
            return;
        }
        self.stale = true;
        match self.owed.front_mut() {
            Some(Owed::Query { stopped, running, .. }) => {
                let silent = *stopped;
                running.clear();
                *stopped = true;
                if !silent {
                    self.send_client(words);
                }
            }
            Some(Owed::Refused { refusal, query }) => {
                let (refusal, query) = (refusal.take(), *query);
                if let Some(refusal) = refusal {
                    self.send_client(message::error(&refusal, "ERROR"));
                }
                if !query {
                    self.skip_to_sync();
                }
            }
            Some(Owed::Execute { stopped: true, .. }) => self.skip_to_sync(),
            Some(Owed::Probe { .. }) => {
                // An aborted transaction that we could not know of: the client's message gets the server's own answer.
                while matches!(self.owed.front(), Some(Owed::Probe { .. })) {
                    self.owed.pop_front();
                }
                self.hold = None;
                let aborting = message::sqlstate(&frame) == "25P02";
                let alone = matches!(self.owed.front(), Some(Owed::Sync { own: true, .. }));
                if alone && aborting {
                    self.status = b'E';
                    return;
                }
                // A time-out, a cancel request: the client's message ends as if it had met it.
                let words = if aborting {
                    message::error(&aborted(), "ERROR")
                } else {
                    frame.bytes
                };
                self.send_client(words);
                let waiting = self.drop_waiting();
                match self.owed.front_mut() {
                    Some(Owed::Sync { own, .. }) if alone => match waiting {
                        Some(b'Q' | b'F') => *own = false,
                        Some(_) | None => self.skipping = true,
                    },
                    Some(_) | None => self.skip_to_sync(),
                }
            }
            Some(_) => {
                self.send_client(words);
                if !self.failed_to_renew() {
                    self.skip_to_sync();
                }
            }
            None => self.send_client(words),
        }
    }

    /// After an error the server ignores everything until Sync, and owes nothing for it.
    fn skip_to_sync(&mut self) {
        while let Some(owed) = self.owed.front() {
            match owed {
                Owed::Sync { own: false, .. } => return,
                // Nobody will answer it; the message that waits for it is skipped.
                Owed::Probe { .. } if self.hold == Some(Hold::Probe) => self.hold = None,
                _ => {}
            }
            if let Some(Owed::Parse {
                own: true,
                name,
                prepared,
            }) = self.owed.pop_front()
            {
                self.lost(name, &prepared);
            }
        }
        self.skipping = true;
    }

    /// What was to be prepared again under the client's feet has not been: where the old one is closed already, the client's next Bind tries again.
    pub(super) fn lost(&mut self, name: String, prepared: &Arc<Prepared>) {
        if prepared.instead_of.is_some() && (name.is_empty() || !self.statements.contains_key(&name)) {
            let lost = Prepared {
                lost: true,
                ..(**prepared).clone()
            };
            self.statements.insert(name, Arc::new(lost));
        }
    }

    fn ready_for_query(&mut self, frame: Frame) {
        let status = match frame.body() {
            [status @ (b'I' | b'T' | b'E')] => *status,
            _ => return self.violation(&message::Malformed('Z').to_string()),
        };
        let own = match self.owed.pop_front() {
            Some(Owed::Sync { own, .. }) => own,
            Some(Owed::Query {
                stopped,
                running,
                at,
                call,
                ..
            }) => {
                if !stopped && at < running.len() {
                    // The server ran fewer statements than were judged.
                    return self.unowed(&frame);
                }
                if !call {
                    self.statements.remove("");
                }
                if stopped && status == b'T' && !running.is_empty() {
                    self.provoke_abort();
                    return;
                }
                false
            }
            Some(Owed::Refused { query: true, .. }) => false,
            _ => return self.unowed(&frame),
        };
        self.synced(status);
        if !own {
            self.send_client(frame.bytes);
        }
    }

    /// The server is ready for more.
    pub(super) fn synced(&mut self, status: u8) {
        self.count_end();
        self.expired = false;
        self.encoding_unsure = false;
        self.status = status;
        if status == b'I' {
            self.transaction_ended();
        }
    }

    /// A transaction is over: what it set for itself, and the names it gave, are gone. With AND CHAIN the next has begun already.
    fn transaction_ended(&mut self) {
        self.portals.clear();
        self.late_portal = false;
        self.cursors.retain(|_, c| c.hold);
        if self.transaction_changed {
            self.stale = true;
        }
        self.transaction_changed = false;
        if self.transaction_ddl {
            self.catalog_behind = true;
            // Before the client hears of it: others may act on its word.
            self.out.push(super::Action::CatalogChanged);
        }
        self.transaction_ddl = false;
        self.transaction_scrub = false;
        self.own_ground = None;
        self.own_stale = false;
    }

    fn copy(&mut self, frame: Frame, now: Timestamp) {
        match self.owed.front() {
            Some(Owed::Execute { stopped, .. } | Owed::Query { stopped, .. }) => {
                if *stopped {
                    return;
                }
            }
            _ => return self.unowed(&frame),
        }
        let out = match self.running().map(|running| &running.plan.kind) {
            Some(StatementKind::CopyOut(format)) => Some(Arc::clone(format)),
            Some(_) => None,
            // Behind the end of what was asked for: its rows may be clear.
            None => return self.unowed(&frame),
        };
        if frame.kind == b'G' {
            self.copy_begins();
        }
        match out {
            Some(format) => self.copy_out(frame, format, now),
            None => self.send_client(frame.bytes),
        }
    }

    /// The server takes data from now on. Drivers send Sync behind Execute at once, and another behind the data (protocol-flow, COPY
    /// operations: Flush and Sync are ignored in between): the first is never answered.
    fn copy_begins(&mut self) {
        while let Some(Owed::Sync {
            own: false,
            behind_copy: false,
            ..
        }) = self.owed.get(1)
        {
            self.owed.remove(1);
            self.pipeline = true;
        }
        // Where more has been sent behind the statement, or the end of its data, all of it is on its way.
        self.copying_in = self.owed.len() == 1 && !self.copy_ended;
    }

    /// A row's values, for the probe.
    pub(super) fn probe_row(&mut self, frame: &Frame) {
        let row: Result<DataRow, _> = message::decode(frame);
        let Ok(row) = row else {
            return self.violation("malformed row");
        };
        let mut data: &[u8] = &row.data;
        let mut cells = Vec::new();
        for _ in 0..row.field_count {
            let Some((length, rest)) = data.split_first_chunk::<4>() else {
                return self.violation("malformed row");
            };
            data = rest;
            match usize::try_from(i32::from_be_bytes(*length)) {
                Err(_) => cells.push(None),
                Ok(length) => {
                    let Some((cell, rest)) = data.split_at_checked(length) else {
                        return self.violation("malformed row");
                    };
                    cells.push(Some(String::from_utf8_lossy(cell).into_owned()));
                    data = rest;
                }
            }
        }
        if let Some(Owed::Probe { values, .. }) = self.owed.front_mut() {
            *values = Some(cells);
        }
    }

    /// Ends the statement at the front before (more of) its rows reach the client.
    pub(super) fn end_statement(&mut self, refusal: &Refusal) {
        self.send_client(message::error(refusal, "ERROR"));
        if let Some(Owed::Execute { stopped, .. } | Owed::Query { stopped, .. }) = self.owed.front_mut() {
            *stopped = true;
        }
        self.hold = Some(Hold::Cancel);
        self.cancel_upstream();
    }

    /// The third line of defence.
    pub(super) fn trip(&mut self, rule: &'static str, what: String) {
        self.note(Note::Tripped { rule, what });
        let refusal = Refusal {
            incident: true,
            ..Refusal::denied(
                rule,
                "the answer holds columns that this statement's plan did not clear",
                "the security team has been told",
            )
        };
        self.end_statement(&refusal);
    }
}
