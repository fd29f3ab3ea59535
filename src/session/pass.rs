//! Server messages that go to the client as they came, many at once: no message is taken out of the buffer that it was read into. What is not as
//! simple goes the long way, by `replies.rs`, which does the same for each.

use bytes::{Bytes, BytesMut};

use super::owed::Owed;
use super::{Phase, Session};
use crate::guard::StatementKind;
use crate::meter::release::{self, Released};
use crate::wire::{frame, shape};

impl Session {
    /// Messages at the front of what the server has sent that go as they came: the answers to Bind, Describe, Execute and Sync of statements that
    /// change nothing of the session, and rows that show nobody.
    pub(super) fn messages_that_pass(&mut self, bytes: &mut BytesMut) -> Option<Bytes> {
        if self.phase != Phase::Ready || self.charging || self.batch.is_some() || !self.server.is_empty() {
            return None;
        }
        let mut taken = 0;
        let mut layout = None;
        while let Some((kind, body)) = frame::first(bytes.get(taken..)?, frame::BACKEND_BYTES_MAX) {
            let passes = match kind {
                b'2' => body.is_empty() && self.bind_passes(),
                b'T' => shape::is_row_description(body) && self.description_passes(),
                b'D' => match self.layout_of_rows() {
                    // One of another layout is the next one's to begin with.
                    Some(of_rows) if layout.as_ref().is_none_or(|l| std::sync::Arc::ptr_eq(l, &of_rows)) => {
                        layout = Some(of_rows);
                        true
                    }
                    Some(_) | None => false,
                },
                b'C' => self.completion_passes(),
                b'Z' => match body {
                    [status @ (b'I' | b'T' | b'E')] => self.sync_passes(*status),
                    _ => false,
                },
                _ => false,
            };
            if !passes {
                break;
            }
            taken += body.len() + 5;
        }
        if taken == 0 {
            return None;
        }
        release::unmetered(layout.as_deref(), bytes.split_to(taken).freeze()).map(Released::into_bytes)
    }

    fn bind_passes(&mut self) -> bool {
        let passes = matches!(self.owed.front(), Some(Owed::Bind { portal, .. }) if portal.prepared.turn.is_none());
        passes && self.bound().is_some()
    }

    fn description_passes(&mut self) -> bool {
        let passes = match self.owed.front() {
            Some(Owed::DescribePortal { plan, learns: None, .. }) => plan
                .as_ref()
                .is_none_or(|p| p.meter.hidden.is_empty() && p.origins.is_empty()),
            Some(_) | None => false,
        };
        if passes {
            self.owed.pop_front();
        }
        passes
    }

    fn completion_passes(&mut self) -> bool {
        let passes = match self.owed.front() {
            Some(Owed::Execute {
                running: Some(running),
                stopped: false,
                ..
            }) => {
                let plan = &running.plan;
                let changes = plan.may_change_settings || plan.ddl || plan.ends_transaction;
                !changes && running.rows == 0 && matches!(plan.kind, StatementKind::Query | StatementKind::Write)
            }
            Some(_) | None => false,
        };
        if passes {
            self.count_end();
            self.owed.pop_front();
        }
        passes
    }

    fn sync_passes(&mut self, status: u8) -> bool {
        let passes = matches!(self.owed.front(), Some(Owed::Sync { own: false, .. }));
        if passes {
            self.owed.pop_front();
            self.synced(status);
        }
        passes
    }
}
