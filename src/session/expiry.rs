//! What the clock may end: how long a session has been doing what, is the shell's to measure; here is what it does, and how it ends.

use super::{Action, Hold, Phase, Session};
use crate::wire::frame::Frame;
use crate::wire::{Refusal, message};

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Logging in.
    Starting,
    /// Nothing, outside of a transaction.
    Idle,
    /// Nothing, in a transaction or with a pipeline open.
    IdleInTransaction,
    /// A statement: how many have ended before it.
    Running(u64),
}

impl Session {
    /// What it is doing.
    #[must_use]
    pub fn activity(&self) -> Activity {
        if self.phase == Phase::Startup {
            return Activity::Starting;
        }
        let waits = self.charging || self.hold.is_some() || self.batch.is_some() || !self.turns.is_empty();
        let asked = !self.client.is_empty() && !self.awaits_execute;
        if waits || !self.owed.is_empty() || asked || !self.server.is_empty() {
            return Activity::Running(self.ended);
        }
        if self.status == b'I' && !self.pipeline && !self.awaits_execute {
            Activity::Idle
        } else {
            Activity::IdleInTransaction
        }
    }

    /// Gives back the room that queues have taken. For idle sessions.
    pub fn rest(&mut self) {
        const KEPT: usize = 16;
        self.client.shrink_to(KEPT);
        self.server.shrink_to(KEPT);
        self.owed.shrink_to(KEPT);
        self.out.shrink_to(KEPT);
    }

    /// Ends the session: the client hears why.
    pub fn shed(&mut self, refusal: &Refusal) -> Vec<Action> {
        self.send_client(message::error(refusal, "FATAL"));
        self.close(Some(refusal.to_string()));
        std::mem::take(&mut self.out)
    }

    /// The statement that is running has had its time: it is cancelled, and the client hears PostgreSQL's words for its own
    /// `statement_timeout`.
    pub fn expire(&mut self) -> Vec<Action> {
        if !self.owed.is_empty() && self.phase == Phase::Ready {
            self.expired = true;
            // What the client sends next must not be hit by it. Where something else is waited for, nothing is sent anyway.
            self.hold.get_or_insert(Hold::Cancel);
            self.cancel_upstream();
        }
        std::mem::take(&mut self.out)
    }

    /// A statement has ended. What the server said of it may have waited in its buffer for the end of others.
    pub(super) fn count_end(&mut self) {
        self.ended += 1;
    }

    /// The server says who has cancelled, as far as it knows: a user. Menshen knows better.
    pub(super) fn in_words_of_timeout(&mut self, frame: Frame) -> Frame {
        if !self.expired || message::sqlstate(&frame) != "57014" {
            return frame;
        }
        self.expired = false;
        let text = "canceling statement due to statement timeout";
        message::with_text(&frame, text).map_or(frame.clone(), |bytes| Frame { bytes, ..frame })
    }
}
