//! Rows → people: the trip-wire, hidden columns stripped, person keys read from rows, charge, release.

pub mod spec;

pub use spec::{HiddenColumn, KeyShape, MeterSpec, TripWire};
