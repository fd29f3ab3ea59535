//! A query string whose statements depend on one another (`CREATE TABLE t …; INSERT INTO t …`) is judged and run statement by statement, as a
//! pipeline of the extended protocol with one Sync: both are one implicit transaction, in which an error undoes what stood before it and ends
//! what stands behind it. The client sees the answer of a Query (protocol-flow: no ParseComplete, BindComplete or NoData).

use std::ops::Range;

use jiff::Timestamp;

use super::{Session, Taken};
use crate::wire::Frame;
use crate::wire::message;

/// A message that stands for a part of a query string.
#[derive(Debug)]
pub(super) struct Turn {
    frame: Frame,
    /// Characters before its statement in the string: positions in errors count from the string's beginning.
    shift: u32,
}

impl Session {
    /// Takes a string apart.
    pub(super) fn in_turn(&mut self, text: &str, pieces: &[Range<usize>]) {
        let mut before = 0;
        let mut counted = 0;
        for piece in pieces {
            let (Some(gap), Some(statement)) = (text.get(counted..piece.start), text.get(piece.clone())) else {
                // The guard's places are of this text; what lies outside of it must not be left out silently.
                self.turns.clear();
                return self.violation("a statement whose place is outside of its string");
            };
            before += gap.chars().count();
            let shift = u32::try_from(before).unwrap_or(u32::MAX);
            before += statement.chars().count();
            counted = piece.end;
            for bytes in [
                message::parse("", statement, &[]),
                message::bind_plain("", ""),
                message::describe_portal(""),
                message::execute(""),
            ] {
                self.turns.push_back(Turn::new(bytes, shift));
            }
        }
        self.turns.push_back(Turn::new(message::sync(), 0));
    }

    /// Takes the next message of a string. False: it must wait.
    pub(super) fn take_turn(&mut self, now: Timestamp) -> bool {
        let Some(turn) = self.turns.pop_front() else {
            return false;
        };
        if self.must_wait(&turn.frame) {
            self.turns.push_front(turn);
            return false;
        }
        self.turn = Some(turn.shift);
        let taken = self.client_frame(turn.frame, now);
        self.turn = None;
        if let Taken::Later(frame) = taken {
            let shift = turn.shift;
            self.turns.push_front(Turn { frame, shift });
            return false;
        }
        self.refreshed_for_front = None;
        true
    }

    /// The message that waits for an answer to a question of our own is dropped; its type.
    pub(super) fn drop_waiting(&mut self) -> Option<u8> {
        let turn = self.turns.pop_front().map(|t| t.frame);
        turn.or_else(|| self.client.pop_front()).map(|f| f.kind)
    }
}

impl Turn {
    /// The message's type.
    pub fn kind(&self) -> u8 {
        self.frame.kind
    }

    /// The message.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.frame.bytes.len()
    }

    fn new(bytes: bytes::Bytes, shift: u32) -> Self {
        let kind = bytes.first().copied().unwrap_or_default();
        Self {
            frame: Frame { kind, bytes },
            shift,
        }
    }
}
