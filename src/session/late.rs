//! Portals whose masked columns come clear from the server. Code of the user's could read an open portal by its name (a refcursor) and find the clear
//! values in it. So while there is such a portal, no code runs: it is bound and run to its end without anything between, and replaced or closed before
//! anything else runs.
//!
//! A client that does anything else with a portal (a name, a limit of rows, a Flush in between) has the server mask what portals show, from then
//! on: the statement is prepared again under its feet.

use super::Session;
use super::owed::{Owed, Prepared};
use super::turns::Turn;
use crate::wire::frame::Frame;
use crate::wire::{Refusal, heads, message, shape};

impl Prepared {
    /// Whether what is bound to it shows columns that are masked as they pass.
    pub(super) fn is_late(&self, name: &str) -> bool {
        let plan = if self.by_sql {
            self.inner(name)
        } else {
            self.statement()
        };
        plan.is_some_and(|plan| !plan.meter.late.is_empty())
    }
}

impl Session {
    /// Whether the client has a portal run to its end right behind its Bind, which is at hand. `None`: it has not said yet what comes next.
    pub(super) fn runs_at_once(&self, portal: &str, bind: &Frame) -> Option<bool> {
        if !portal.is_empty() {
            return Some(false);
        }
        let behind = |frame: &Frame| match frame.kind {
            b'D' if heads::target(frame) == Some((b'P', b"")) => None,
            b'E' if shape::is_whole(frame) => Some(heads::execute(frame) == Some((b"", 0))),
            _ => Some(false),
        };
        if self.turn.is_some() {
            return self.turns.iter().map(Turn::frame).find_map(behind);
        }
        let next = self.client.iter().find_map(behind);
        // Where no more is read before the Bind is taken, it will not be said.
        next.or((!self.has_room_for(bind)).then_some(false))
    }

    /// Something is about to be sent that may run code: a portal that holds clear values is closed before it.
    pub(super) fn close_late_portal(&mut self) {
        if std::mem::take(&mut self.late_portal) {
            self.send_server(message::close_portal(""));
            self.owed.push_back(Owed::Close {
                own: true,
                statement: None,
                portal: Some(String::new()),
            });
        }
    }
}

/// EXECUTE of a statement whose masked columns come clear, in a portal that stays.
pub(super) fn held_late(name: &str) -> Refusal {
    Refusal::unsupported(
        "late-mask",
        format!(
            "prepared statement \"{name}\" has columns that are masked on their way to the client: no portal may hold its rows"
        ),
        "prepare the query itself again",
    )
}
