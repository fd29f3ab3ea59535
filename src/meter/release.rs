//! The only door through which rows of metered statements reach a client.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::copy::CopyReader;
use super::layout::Layout;
use super::row::{self, Malformed};
use crate::ledger::{Charged, Kind, Shown};

/// Rows of one statement that wait for the ledger.
#[derive(Debug)]
pub struct Held {
    /// Their messages for the client, back to back.
    pub(super) messages: BytesMut,
    /// Where each ends.
    pub(super) ends: Vec<usize>,
    /// Whom each shows.
    pub(super) shown: Shown,
}

/// Bytes of rows that have been charged (or need no charge). Only this module makes them.
#[derive(Debug)]
pub struct Released(Bytes);

impl Released {
    /// Whole DataRow or CopyData messages.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Held {
    /// No rows yet, of a statement whose hidden columns show this.
    #[must_use]
    pub fn new(kinds: &Arc<[Kind]>) -> Self {
        Self {
            messages: BytesMut::new(),
            ends: Vec::new(),
            shown: Shown::new(Arc::clone(kinds)),
        }
    }

    /// Takes a DataRow's body in.
    ///
    /// # Errors
    /// Where it is malformed: then nothing that is held may be used any more.
    pub fn row(&mut self, layout: &Layout, body: &[u8]) -> Result<(), Malformed> {
        row::read(layout, body, &mut self.messages, &mut self.shown)?;
        self.end_row();
        Ok(())
    }

    /// Takes a CopyData's body in.
    ///
    /// # Errors
    /// Where it is no row of that COPY: then nothing that is held may be used any more.
    pub fn copy_row(&mut self, reader: &mut CopyReader, body: &[u8]) -> Result<(), Malformed> {
        reader.row(body, &mut self.messages, &mut self.shown)?;
        self.end_row();
        Ok(())
    }

    fn end_row(&mut self) {
        self.shown.end_row();
        self.ends.push(self.messages.len());
    }

    /// How many.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of their messages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.messages.len()
    }

    /// For the ledger, once: whom they show.
    #[must_use]
    pub fn take_shown(&mut self) -> Shown {
        let none = Shown::new(Arc::from([]));
        std::mem::replace(&mut self.shown, none)
    }
}

/// Lets the rows go that the ledger charged; the others are dropped.
#[must_use]
pub fn release(held: Held, charged: &Charged) -> Released {
    let Held { mut messages, ends, .. } = held;
    let end = charged
        .released
        .checked_sub(1)
        .map_or(Some(0), |last| ends.get(last).copied());
    // More than were asked for are none.
    messages.truncate(end.unwrap_or(0));
    Released(messages.freeze())
}

/// Whole DataRow or CopyData messages of a statement that shows nobody.
#[must_use]
pub fn unmetered(layout: Option<&Layout>, message: Bytes) -> Option<Released> {
    layout.is_none_or(Layout::is_transparent).then_some(Released(message))
}
