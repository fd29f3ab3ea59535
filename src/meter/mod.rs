//! Rows → people: the trip-wire, hidden columns stripped, person keys read from rows, charge, release.
//!
//! Everything here works on the bytes of messages and does no I/O. A row of a metered statement becomes a [`Held`] one;
//! only [`release`] makes bytes for the client of it, and it asks for the ledger's answer.

pub mod copy;
pub mod layout;
pub mod release;
pub mod row;
pub mod spec;

pub use layout::Layout;
pub use release::{Held, Released};
pub use spec::{HiddenColumn, KeyShape, LateColumn, MeterSpec, TripWire};
