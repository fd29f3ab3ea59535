//! `menshen demo`: the tour.

pub mod data;
