//! CancelRequests of the client: what runs on the server is cancelled there, what waits here is answered here.

use jiff::Timestamp;

use super::expiry::Activity;
use super::{Action, Hold, Phase, Session};
use crate::wire::Refusal;

impl Session {
    /// The client has sent a CancelRequest for this session (protocol-flow, Canceling Requests in Progress). The server knows nothing of a
    /// message that waits here for settings or the catalog: it is answered as the server would have, and not sent. Where nothing is under
    /// way, nothing happens, as on the server.
    pub fn cancel_asked(&mut self, now: Timestamp) -> Vec<Action> {
        let idle = matches!(self.activity(), Activity::Idle | Activity::IdleInTransaction);
        if self.phase != Phase::Ready || idle || self.hold == Some(Hold::Cancel) {
            return Vec::new();
        }
        // A Bind that waits for the client is nothing under way.
        let waits = !self.turns.is_empty() || !self.client.is_empty() && !self.awaits_execute;
        // Of separate Queries, the one that runs is meant. A pipeline ends, wherever in it the server is.
        let front = self.pipeline || self.owed.is_empty() || self.hold == Some(Hold::Probe);
        self.cancel_front = waits && front;
        if self.cancel_front && self.hold == Some(Hold::Catalog) {
            self.hold = None;
            self.refresh += 1;
        }
        if !self.owed.is_empty() {
            self.cancel_upstream();
        }
        self.pump(now);
        std::mem::take(&mut self.out)
    }

    /// Has the backend's statement cancelled. Nothing is sent until that is over.
    pub(super) fn cancel_upstream(&mut self) {
        self.cancels += 1;
        self.out.push(Action::CancelUpstream);
    }

    /// Answers the message at the front as one that was cancelled while it ran. What starts no work is left where it is.
    pub(super) fn cancel_waiting(&mut self) {
        let front = self.turns.front().map(super::turns::Turn::kind);
        let turn = front.is_some();
        let Some(kind) = front.or_else(|| self.client.front().map(|f| f.kind)) else {
            return;
        };
        if self.skipping || self.skipping_here {
            return;
        }
        match kind {
            b'Q' | b'F' if !turn => {
                self.drop_waiting();
                self.function = None;
                self.refuse_query(cancelled());
            }
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                self.drop_waiting();
                self.refuse_extended(cancelled());
            }
            // Sync, Flush, Terminate, COPY's.
            _ => return,
        }
        self.refreshed_for_front = None;
    }
}

/// In the server's own words.
fn cancelled() -> Refusal {
    Refusal {
        sqlstate: "57014",
        rule: "cancel-request",
        message: "canceling statement due to user request".to_owned(),
        hint: "".into(),
        position: None,
        incident: false,
    }
}
