//! The only door through which rows of metered statements reach a client.

use bytes::Bytes;

use super::copy::CopyReader;
use super::layout::Layout;
use super::row::{self, Malformed};
use crate::ledger::{Charged, Exposure};

/// A row that waits for the ledger.
#[derive(Debug)]
pub struct Held {
    message: Bytes,
    /// Whom it shows.
    pub people: Vec<Exposure>,
}

/// Bytes of rows that have been charged (or need no charge). Only this module makes them.
#[derive(Debug)]
pub struct Released(Bytes);

impl Released {
    /// The whole DataRow or CopyData message.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// Takes a DataRow's body in.
///
/// # Errors
/// Where it is malformed.
pub fn hold(layout: &Layout, body: &[u8]) -> Result<Held, Malformed> {
    let (message, people) = row::read(layout, body)?;
    Ok(Held { message, people })
}

/// Takes a CopyData's body in.
///
/// # Errors
/// Where it is no row of that COPY.
pub fn hold_copy(reader: &mut CopyReader, body: &[u8]) -> Result<Held, Malformed> {
    let (message, people) = reader.row(body)?;
    Ok(Held { message, people })
}

/// Lets the rows go that the ledger charged; the others are dropped.
#[must_use]
pub fn release(held: Vec<Held>, charged: &Charged) -> Vec<Released> {
    held.into_iter()
        .take(charged.released)
        .map(|h| Released(h.message))
        .collect()
}

/// Whole DataRow or CopyData messages of a statement that shows nobody.
#[must_use]
pub fn unmetered(layout: Option<&Layout>, message: Bytes) -> Option<Released> {
    layout.is_none_or(Layout::is_transparent).then_some(Released(message))
}
