//! Client messages: judged, then sent upstream with an entry in the queue of replies owed.

use std::sync::Arc;

use jiff::Timestamp;
use pgwire::messages::extendedquery::Bind;

use super::freshness::{Freshened, Renewed, another_shape};
use super::judging::Judging;
use super::late::held_late;
use super::notes::Note;
use super::owed::{Charge, Depends, Owed, Portal, Prepared, Running, Shape};
use super::{Phase, Session, Taken};
use crate::guard::{self, Plan, StatementKind, StatementPlan};
use crate::meter::Layout;
use crate::wire::frame::Frame;
use crate::wire::{Refusal, heads, message, shape};

/// A text that PostgreSQL answers with a syntax error, in words for whoever reads its log.
const REFUSED: &str = "menshen refused a statement here: see its audit log";
/// A statement name that nobody has: Parse with it leaves the client's unnamed statement alone.
const REFUSED_NAME: &str = "menshen.refused";

impl Session {
    /// Whether a client message must wait for replies that are still owed.
    pub(super) fn must_wait(&mut self, frame: &Frame) -> bool {
        let passes = match frame.kind {
            b'd' | b'c' | b'f' | b'p' | b'X' | b'H' => true,
            b'S' => !self.pipeline_wrote,
            _ => false,
        };
        let waits = self.owed.iter().any(Owed::is_barrier) || self.bound_before_sync() || self.may_recover();
        if passes || self.phase != Phase::Ready || !waits {
            return false;
        }
        self.hurry();
        true
    }

    /// A portal with a name was bound before a Sync that is not answered yet: whether it lives on behind it, and whether the name is its own, only
    /// the server knows (BEGIN may be on its way, Bind may fail).
    fn bound_before_sync(&self) -> bool {
        let mut owed = self.owed.iter();
        owed.any(|o| matches!(o, Owed::Bind { name, .. } if !name.is_empty()))
            && owed.any(|o| matches!(o, Owed::Sync { own: false, .. }))
    }

    /// The end of an aborted transaction is on its way: what stands behind it is not refused for that.
    fn may_recover(&self) -> bool {
        let ends = |running: &Running| running.plan.ends_transaction;
        self.status == b'E'
            && self.owed.iter().any(|owed| match owed {
                Owed::Execute { running, .. } => running.as_ref().is_some_and(ends),
                Owed::Query { running, .. } => running.iter().any(ends),
                Owed::Parse { .. }
                | Owed::Shape { .. }
                | Owed::DescribeStatement { .. }
                | Owed::DescribePortal { .. }
                | Owed::Bind { .. }
                | Owed::Close { .. }
                | Owed::Sync { .. }
                | Owed::Probe { .. }
                | Owed::Refused { .. } => false,
            })
    }

    /// The server sends replies of an open pipeline only when asked to.
    fn hurry(&mut self) {
        if self.pipeline && !self.flushed {
            self.flushed = true;
            self.send_server(message::flush());
        }
    }

    /// Takes one client message.
    pub(super) fn client_frame(&mut self, frame: Frame, now: Timestamp) -> Taken {
        if self.phase == Phase::Startup {
            // PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse.
            if frame.kind == b'p' {
                if let Err(refusal) = self.binding_fits(&frame) {
                    self.send_client(message::error(&refusal, "FATAL"));
                    self.close(Some(refusal.to_string()));
                    return Taken::Done;
                }
                self.send_server(frame.bytes);
            } else if frame.kind == b'X' {
                self.send_server(frame.bytes);
                self.close(None);
            } else {
                self.violation(&format!(
                    "client message of type {:?} during start-up",
                    char::from(frame.kind)
                ));
            }
            return Taken::Done;
        }
        if (self.skipping || self.skipping_here)
            && matches!(frame.kind, b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' | b'H')
        {
            return Taken::Done; // as the server does until Sync
        }
        match frame.kind {
            b'Q' => self.query(frame, now),
            b'P' => self.parse(frame, now),
            b'B' => self.bind(frame, now),
            b'D' => self.describe(frame),
            b'E' => self.execute(frame, now),
            b'C' => self.close_message(frame),
            b'S' => self.sync(frame),
            b'H' => {
                self.send_server(frame.bytes);
                Taken::Done
            }
            b'F' => self.function_call(frame, now),
            // CopyData, CopyDone, CopyFail: outside of COPY the server ignores them.
            b'd' | b'c' | b'f' => {
                if frame.kind != b'd' {
                    self.copying_in = false;
                    self.copy_ended = true;
                }
                self.send_server(frame.bytes);
                Taken::Done
            }
            // The server answers what it has been asked before it closes.
            b'X' => {
                self.send_server(frame.bytes);
                self.leaving = true;
                Taken::Done
            }
            other => {
                self.violation(&format!("client message of type {:?}", char::from(other)));
                Taken::Done
            }
        }
    }

    /// Reads a message; one that is not laid out as it must be ends the session.
    fn read<'f, T>(&mut self, frame: &'f Frame, read: impl Fn(&'f Frame) -> Option<T>) -> Option<T> {
        let whole = shape::is_whole(frame).then(|| read(frame)).flatten();
        if whole.is_none() {
            self.violation(&message::Malformed(char::from(frame.kind)).to_string());
        }
        whole
    }

    fn query(&mut self, frame: Frame, now: Timestamp) -> Taken {
        let Some(text) = self.read(&frame, heads::query) else {
            return Taken::Done;
        };
        let text = match self.in_utf8(text) {
            Ok(text) => text,
            Err(refusal) => {
                self.refuse_query(refusal);
                return Taken::Done;
            }
        };
        let (plan, key) = match self.judge_text(text, false, now) {
            Judging::Plan(plan, key) => (plan, key),
            Judging::Wait => return Taken::Later(frame),
            Judging::InTurn(pieces) => {
                self.in_turn(text, &pieces);
                return Taken::Done;
            }
            Judging::Refuse(refusal) => {
                self.refuse_query(refusal);
                return Taken::Done;
            }
        };
        match self.renew_executed(&plan, now) {
            Renewed::Nothing => {}
            Renewed::Again(away) => {
                return if away {
                    Taken::Later(frame)
                } else {
                    self.query(frame, now)
                };
            }
            Renewed::Refuse(refusal) => {
                self.refuse_query(refusal);
                return Taken::Done;
            }
        }
        if let Err(refusal) = self.fit_to_run(&plan, now) {
            self.refuse_query(refusal);
            return Taken::Done;
        }
        let charge = self.charge_now(now);
        let mut prepared = Vec::new();
        for statement in plan.statements.iter() {
            self.note_decided(statement, now);
            if let StatementKind::Prepare { name, source, .. } = &statement.kind {
                prepared.push((
                    name.clone(),
                    self.prepared(source, Vec::new(), plan.clone(), key.clone(), true),
                ));
            }
        }
        let running = plan
            .statements
            .iter()
            .map(|s| self.running_of(Arc::clone(s), &charge))
            .collect();
        self.copy_ended = false;
        self.close_late_portal();
        self.owed.push_back(Owed::Query {
            call: false,
            running,
            at: 0,
            stopped: false,
            prepared,
        });
        self.send_server(if plan.edited {
            message::query(&plan.text)
        } else {
            frame.bytes
        });
        Taken::Done
    }

    pub(super) fn prepared(
        &mut self,
        text: &str,
        types: Vec<u32>,
        plan: Plan,
        key: Option<Arc<super::owed::Key>>,
        by_sql: bool,
    ) -> Arc<Prepared> {
        self.next_prepared += 1;
        Arc::new(Prepared {
            id: self.next_prepared,
            text: Arc::from(text),
            types,
            plan,
            key,
            by_sql,
            turn: self.turn,
            instead_of: None,
            lost: false,
        })
    }

    /// What can only be judged with the session's own state: FETCH from a stale cursor, and metered rows before writes.
    fn fit_to_run(&mut self, plan: &Plan, now: Timestamp) -> Result<(), Refusal> {
        let mut metered = false;
        for statement in plan.statements.iter() {
            if let StatementKind::Fetch { name } = &statement.kind {
                self.fresh_cursor(name, now)?;
            }
            if metered && statement.kind_writes() {
                return Err(Refusal::unsupported(
                    "metered-then-write",
                    "a statement that writes stands behind one whose rows are counted, in one query string",
                    "send the statements separately: a limit that ends the first must be able to keep back the second",
                ));
            }
            metered |= !statement.meter.is_empty();
        }
        Ok(())
    }

    fn parse(&mut self, frame: Frame, now: Timestamp) -> Taken {
        let Some((name, text, types)) = self.read(&frame, heads::parse) else {
            return Taken::Done;
        };
        let (name, text) = match self.name(name).and_then(|name| Ok((name, self.in_utf8(text)?))) {
            Ok(read) => read,
            Err(refusal) => {
                self.refuse_extended(refusal);
                return Taken::Done;
            }
        };
        let (plan, key) = match self.judge_text(text, true, now) {
            Judging::Plan(plan, key) => (plan, key),
            Judging::Wait => return Taken::Later(frame),
            Judging::InTurn(_) => {
                self.violation("several statements in a Parse message");
                return Taken::Done;
            }
            Judging::Refuse(refusal) => {
                if name.is_empty() {
                    // As the server does, whatever becomes of the new one.
                    self.statements.remove(name);
                }
                self.refuse_extended(refusal);
                return Taken::Done;
            }
        };
        // The types that the client says its parameters have: their checks run at Bind.
        let ground = self.ground();
        let refused = |oid: &u32| ground.as_ref().and_then(|g| guard::parameter_type(g, *oid));
        let mut named = plan.statements.iter().flat_map(|s| s.setting_parameters.iter());
        let type_of = |number: &i64| usize::try_from(number - 1).ok().and_then(|at| types.get(at)).copied();
        let unreadable = named.find_map(|n| guard::names_a_setting(type_of(n).unwrap_or(0)).err());
        if let Some(refusal) = types.iter().find_map(refused).or(unreadable) {
            self.refuse_extended(refusal);
            return Taken::Done;
        }
        let bytes = if plan.edited {
            message::parse(name, &plan.text, &types)
        } else {
            frame.bytes.clone()
        };
        let prepared = self.prepared(text, types.to_vec(), plan, key, false);
        let own = prepared.turn.is_some();
        self.send_parse(bytes, name.to_owned(), prepared, own);
        Taken::Done
    }

    /// Parse, and our own Describe, unless the client's next message makes it superfluous.
    pub(super) fn send_parse(&mut self, bytes: bytes::Bytes, name: String, prepared: Arc<Prepared>, own: bool) {
        self.open_pipeline();
        self.send_server(bytes);
        let (id, asks) = (prepared.id, own || !self.may_learn_later(&prepared, &name));
        let describe = asks.then(|| message::describe_statement(&name));
        self.owed.push_back(Owed::Parse { own, name, prepared });
        if let Some(describe) = describe {
            self.send_server(describe);
            self.owed.push_back(Owed::Shape { id });
        }
    }

    pub(super) fn open_pipeline(&mut self) {
        self.pipeline = true;
        self.flushed = false;
    }

    fn bind(&mut self, frame: Frame, now: Timestamp) -> Taken {
        let Some((portal, name, formats)) = self.read(&frame, heads::bind) else {
            return Taken::Done;
        };
        let names = self
            .name(portal)
            .and_then(|portal| Ok((portal.to_owned(), self.name(name)?.to_owned())));
        let (portal_name, name) = match names {
            Ok(names) => names,
            Err(refusal) => {
                self.refuse_extended(refusal);
                return Taken::Done;
            }
        };
        let Some(mut prepared) = self.lookup(&name) else {
            self.refuse_extended(Refusal {
                sqlstate: "26000",
                ..Refusal::unsupported(
                    "prepared-statement-unknown",
                    format!("prepared statement \"{name}\" does not exist"),
                    "",
                )
            });
            return Taken::Done;
        };
        loop {
            // EXECUTE runs what another name means: that first.
            if let Some(StatementKind::Execute { name: inner }) = prepared.statement().map(|s| s.kind.clone()) {
                match self.freshen_executed(&inner, now) {
                    Freshened::Same | Freshened::New(_) => {}
                    Freshened::Wait => return Taken::Later(frame),
                    Freshened::Refuse(refusal) => {
                        self.refuse_extended(refusal);
                        return Taken::Done;
                    }
                }
            }
            match self.freshen(&name, &prepared, now) {
                Freshened::Same => {}
                Freshened::New(new) => prepared = new,
                Freshened::Wait => return Taken::Later(frame),
                Freshened::Refuse(refusal) => {
                    self.refuse_extended(refusal);
                    return Taken::Done;
                }
            }
            if !prepared.is_late(&name) {
                break;
            }
            match self.runs_at_once(&portal_name, &frame) {
                Some(true) => break,
                Some(false) if self.holds_portals => {
                    self.refuse_extended(held_late(&name));
                    return Taken::Done;
                }
                // From now on the server masks what portals show.
                Some(false) => self.holds_portals = true,
                None => {
                    self.awaits_execute = true;
                    return Taken::Later(frame);
                }
            }
        }
        match self.shows_the_same(&prepared) {
            Some(true) => {}
            Some(false) => {
                self.refuse_extended(another_shape());
                return Taken::Done;
            }
            None => {
                self.hurry();
                return Taken::Later(frame);
            }
        }
        let statement = if prepared.by_sql {
            prepared.inner(&name)
        } else {
            prepared.statement()
        };
        let mut bytes = frame.bytes.clone();
        if let Some(statement) = &statement {
            let mut named = statement.setting_parameters.iter();
            if named.any(|n| heads::parameter(&frame, *n).is_some_and(guard::may_name_key_setting)) {
                self.refuse_extended(guard::key_setting());
                return Taken::Done;
            }
            if let StatementKind::Fetch { name } = &statement.kind
                && let Err(refusal) = self.fresh_cursor(name, now)
            {
                self.refuse_extended(refusal);
                return Taken::Done;
            }
            if formats > 1 && !statement.meter.hidden.is_empty() {
                // One code a column: those of hidden columns must be put in, so their places must be known.
                let layout = match self.shapes.get(&prepared.id) {
                    None => {
                        self.hurry();
                        return Taken::Later(frame);
                    }
                    Some(Shape::Nothing) => None,
                    Some(Shape::Rows { names, .. }) => {
                        let names: Vec<&str> = names.iter().map(String::as_str).collect();
                        Layout::new(&statement.meter, &names).ok()
                    }
                };
                if let Some(layout) = layout {
                    let mut bind: Bind = match message::decode(&frame) {
                        Ok(bind) => bind,
                        Err(bad) => {
                            self.violation(&bad.to_string());
                            return Taken::Done;
                        }
                    };
                    bind.result_column_format_codes = layout.formats(&bind.result_column_format_codes);
                    bytes = message::encode(&bind);
                }
            }
            self.note_decided(statement, now);
        }
        if portal_name.is_empty() {
            // It is replaced before anything of the new one runs.
            self.late_portal = false;
        } else {
            self.close_late_portal();
        }
        self.open_pipeline();
        if !self.shape_is_known(prepared.id) && !self.learns_of(&prepared, &portal_name) {
            self.send_server(message::describe_statement(&name));
            self.owed.push_back(Owed::Shape { id: prepared.id });
        }
        self.send_server(bytes);
        let charge = self.charge_now(now);
        let under = statement.map_or(Depends::OnNothing, |s| Depends::of(&s, &charge));
        let portal = Portal {
            prepared,
            charge,
            under,
        };
        self.owed.push_back(Owed::Bind {
            name: portal_name,
            portal,
        });
        Taken::Done
    }

    pub(super) fn find_portal(&self, name: &str) -> Option<Portal> {
        self.pending_portal(name)
            .unwrap_or_else(|| self.portals.get(name).cloned())
            .filter(|portal| self.may_name(&portal.prepared))
    }

    /// What stands for a part of a query string is no statement or portal of the client's: after a Query none without a name is left.
    pub(super) fn may_name(&self, prepared: &Prepared) -> bool {
        prepared.turn.is_none() || self.turn.is_some()
    }

    /// What the messages that are not yet answered make of a portal's name: `Some(None)` where they end it.
    pub(super) fn pending_portal(&self, name: &str) -> Option<Option<Portal>> {
        for owed in self.owed.iter().rev() {
            match owed {
                Owed::Bind { name: n, portal } if super::same_name(n, name) => return Some(Some(portal.clone())),
                Owed::Close { portal: Some(n), .. } if super::same_name(n, name) => return Some(None),
                Owed::Sync { .. } if self.status == b'I' => return Some(None),
                _ => {}
            }
        }
        None
    }

    /// A statement that is about to run.
    pub(super) fn running_of(&mut self, plan: Arc<StatementPlan>, charge: &Arc<Charge>) -> Running {
        self.transaction_scrub |= plan.scrub && plan.kind_writes();
        let settles = plan.ends_transaction && (self.transaction_changed || self.transaction_ddl);
        Running {
            settles,
            ..Running::new(plan, Arc::clone(charge))
        }
    }

    fn describe(&mut self, frame: Frame) -> Taken {
        let Some((target, name)) = self.read(&frame, heads::target) else {
            return Taken::Done;
        };
        let name = match self.name(name) {
            Ok(name) => name,
            Err(refusal) => {
                self.refuse_extended(refusal);
                return Taken::Done;
            }
        };
        let owed = if target == b'S' {
            Owed::DescribeStatement {
                prepared: self.lookup(name).map(|p| (name.to_owned(), p)),
            }
        } else {
            Owed::DescribePortal {
                plan: self.cursor(name),
                learns: self.bound_to(name).filter(|id| !self.shape_is_known(*id)),
                quiet: self.turn.is_some(),
            }
        };
        self.open_pipeline();
        self.send_server(frame.bytes);
        self.owed.push_back(owed);
        Taken::Done
    }

    fn execute(&mut self, frame: Frame, now: Timestamp) -> Taken {
        let Some((name, _)) = self.read(&frame, heads::execute) else {
            return Taken::Done;
        };
        let name = match self.name(name) {
            Ok(name) => name.to_owned(),
            Err(refusal) => {
                self.refuse_extended(refusal);
                return Taken::Done;
            }
        };
        let Some(portal) = self.find_portal(&name) else {
            self.refuse_extended(Refusal {
                sqlstate: "34000",
                ..Refusal::unsupported("portal-unknown", format!("portal \"{name}\" does not exist"), "")
            });
            return Taken::Done;
        };
        let plan = portal.statement();
        // Right behind its Bind nothing has changed since.
        let mut behind = self.owed.iter().rev();
        let just_bound = behind
            .find(|owed| !matches!(owed, Owed::DescribePortal { .. }))
            .is_some_and(|owed| matches!(owed, Owed::Bind { name: n, .. } if super::same_name(n, &name)));
        // But the clock, and the policy, where the client takes its time.
        let depends = portal.under != Depends::OnNothing;
        if (depends || !just_bound)
            && let Some(plan) = &plan
        {
            match self.fresh_portal(&name, &portal, plan, now) {
                Ok(true) => {}
                Ok(false) => return Taken::Later(frame),
                Err(refusal) => {
                    self.refuse_extended(refusal);
                    return Taken::Done;
                }
            }
        }
        self.pipeline_wrote |= plan.as_ref().is_some_and(|p| p.kind_writes());
        let prepared = plan
            .as_ref()
            .filter(|p| matches!(p.kind, StatementKind::Prepare { .. }))
            .map(|_| {
                Arc::new(Prepared {
                    by_sql: true,
                    turn: None,
                    ..(*portal.prepared).clone()
                })
            });
        let is_late = plan.as_ref().is_some_and(|p| !p.meter.late.is_empty());
        let running = plan.map(|p| self.running_of(p, &portal.charge));
        self.copy_ended = false;
        if !name.is_empty() {
            self.close_late_portal();
        }
        self.open_pipeline();
        self.pipeline_runs += 1;
        self.send_server(frame.bytes);
        self.owed.push_back(Owed::Execute {
            running,
            id: Some(portal.prepared.id),
            stopped: false,
            prepared,
            shift: portal.prepared.turn.unwrap_or(0),
        });
        self.late_portal |= is_late;
        Taken::Done
    }

    fn close_message(&mut self, frame: Frame) -> Taken {
        let Some((target, name)) = self.read(&frame, heads::target) else {
            return Taken::Done;
        };
        let name = match self.name(name) {
            Ok(name) => name.to_owned(),
            Err(refusal) => {
                self.refuse_extended(refusal);
                return Taken::Done;
            }
        };
        let (statement, portal) = if target == b'S' {
            (Some(name), None)
        } else {
            (None, Some(name))
        };
        self.open_pipeline();
        self.send_server(frame.bytes);
        self.owed.push_back(Owed::Close {
            own: false,
            statement,
            portal,
        });
        Taken::Done
    }

    fn sync(&mut self, frame: Frame) -> Taken {
        if self.skipping_here {
            self.skipping_here = false;
            self.send_client(message::ready(b'I'));
            return Taken::Done;
        }
        if self.copying_in {
            self.send_server(frame.bytes);
            return Taken::Done;
        }
        // The end of an implicit transaction runs what earlier statements of it have deferred. A server that skips would not answer.
        if self.pipeline_runs > 1 && !self.skipping {
            self.close_late_portal();
        }
        self.skipping = false;
        self.pipeline = false;
        self.pipeline_runs = 0;
        self.pipeline_wrote = false;
        self.send_server(frame.bytes);
        let settles = self.transaction_changed || self.transaction_ddl;
        self.owed.push_back(Owed::Sync {
            own: false,
            settles,
            behind_copy: self.copy_ended,
        });
        Taken::Done
    }

    /// Nothing has gone upstream that the server would have to undo, and no transaction is open.
    fn is_clean(&self) -> bool {
        self.status == b'I' && self.owed.is_empty() && !self.pipeline
    }

    pub(super) fn note_refused(&mut self, refusal: &Refusal) {
        self.note(Note::Refused {
            sqlstate: refusal.sqlstate,
            rule: refusal.rule,
            // PostgreSQL's words for a syntax error quote the text, which may be a literal.
            message: if refusal.rule == "syntax" {
                "syntax error".to_owned()
            } else {
                refusal.message.clone()
            },
            incident: refusal.incident,
        });
    }

    /// Answers a Query (or FunctionCall) with a refusal, so that the server's state is what its own error would have left.
    pub(super) fn refuse_query(&mut self, refusal: Refusal) {
        self.note_refused(&refusal);
        if self.is_clean() {
            self.send_client(message::error(&refusal, "ERROR"));
            self.send_client(message::ready(b'I'));
        } else {
            self.send_server(message::query(REFUSED));
            self.owed.push_back(Owed::Refused {
                refusal: Some(refusal),
                query: true,
            });
        }
    }

    /// The same for a message of the extended protocol: what follows is skipped until Sync.
    pub(super) fn refuse_extended(&mut self, mut refusal: Refusal) {
        self.note_refused(&refusal);
        if let (Some(shift), Some(position)) = (self.turn, &mut refusal.position) {
            *position = position.saturating_add(shift);
        }
        if self.is_clean() {
            self.send_client(message::error(&refusal, "ERROR"));
            self.skipping_here = true;
        } else {
            self.provoke_skip(Some(refusal));
        }
    }

    /// Brings the server to skip everything until Sync.
    pub(super) fn provoke_skip(&mut self, refusal: Option<Refusal>) {
        self.open_pipeline();
        self.send_server(message::parse(REFUSED_NAME, REFUSED, &[]));
        self.send_server(message::flush());
        self.owed.push_back(Owed::Refused { refusal, query: false });
        // Whatever the client sends until its Sync would be skipped by the server too.
        self.skipping = true;
    }

    /// Brings an open transaction block to be aborted, after the client has had its error.
    pub(super) fn provoke_abort(&mut self) {
        self.send_server(message::query(REFUSED));
        self.owed.push_front(Owed::Refused {
            refusal: None,
            query: true,
        });
    }
}

impl Portal {
    /// The plan of what an Execute of it runs.
    pub(super) fn statement(&self) -> Option<Arc<crate::guard::StatementPlan>> {
        if self.prepared.by_sql {
            self.prepared.plan.statements.iter().find_map(|s| match &s.kind {
                StatementKind::Prepare { inner, .. } => Some(Arc::clone(inner)),
                _ => None,
            })
        } else {
            self.prepared.statement()
        }
    }
}
