//! What the rows of a prepared statement are must be known before one comes: where hidden columns stand, and what the trip-wire looks at. The client
//! may never ask for it. Mostly it does, right away: then its own Describe tells Menshen, too, and no second one is sent.

use super::Session;
use super::owed::{Owed, Prepared};
use crate::wire::frame::Frame;
use crate::wire::heads;

impl Session {
    /// Whether it is known what the rows of this prepared statement are, or will be by what the server has been asked.
    pub(super) fn shape_is_known(&self, id: u64) -> bool {
        self.shapes.contains_key(&id)
            || self.owed.iter().rev().any(|owed| match owed {
                Owed::Shape { id: asked } => *asked == id,
                Owed::DescribeStatement { prepared } => prepared.as_ref().is_some_and(|(_, p)| p.id == id),
                Owed::DescribePortal { learns, .. } => *learns == Some(id),
                Owed::Parse { .. }
                | Owed::Bind { .. }
                | Owed::Execute { .. }
                | Owed::Close { .. }
                | Owed::Sync { .. }
                | Owed::Query { .. }
                | Owed::Probe { .. }
                | Owed::Refused { .. } => false,
            })
    }

    /// Whether the message behind a Parse binds or describes its statement: then Bind sees to it, or that Describe.
    pub(super) fn may_learn_later(&self, prepared: &Prepared, name: &str) -> bool {
        let next = self.next_message().filter(|_| may_do_without(prepared));
        next.is_some_and(|frame| match frame.kind {
            b'B' => heads::bind(frame).is_some_and(|(_, statement, _)| statement == name.as_bytes()),
            b'D' => heads::target(frame) == Some((b'S', name.as_bytes())),
            _ => false,
        })
    }

    /// Whether the message behind a Bind describes its portal.
    pub(super) fn learns_of(&self, prepared: &Prepared, portal: &str) -> bool {
        let next = self.next_message().filter(|_| may_do_without(prepared));
        next.is_some_and(|frame| frame.kind == b'D' && heads::target(frame) == Some((b'P', portal.as_bytes())))
    }

    /// Number of the prepared statement that a portal was bound to; `None` for a cursor of SQL.
    pub(super) fn bound_to(&self, portal: &str) -> Option<u64> {
        for owed in self.owed.iter().rev() {
            match owed {
                Owed::Bind { name, portal: bound } if super::same_name(name, portal) => return Some(bound.prepared.id),
                Owed::Close { portal: Some(name), .. } if super::same_name(name, portal) => return None,
                Owed::Sync { .. } if self.status == b'I' => return None,
                Owed::Bind { .. }
                | Owed::Close { .. }
                | Owed::Sync { .. }
                | Owed::Parse { .. }
                | Owed::Shape { .. }
                | Owed::DescribeStatement { .. }
                | Owed::DescribePortal { .. }
                | Owed::Execute { .. }
                | Owed::Query { .. }
                | Owed::Probe { .. }
                | Owed::Refused { .. } => {}
            }
        }
        let declared = self.cursors.contains_key(portal);
        self.portals.get(portal).filter(|_| !declared).map(|p| p.prepared.id)
    }

    /// The message that the client has sent behind the one at hand, if it is here. What stands for parts of a query string has descriptions of
    /// its own kind.
    fn next_message(&self) -> Option<&Frame> {
        self.client.front().filter(|_| self.turn.is_none())
    }
}

/// Formats of results are given for each column: those of hidden columns are put in at Bind, by their places.
fn may_do_without(prepared: &Prepared) -> bool {
    let statements = &prepared.plan.statements;
    statements.iter().all(|statement| statement.meter.hidden.is_empty())
}
