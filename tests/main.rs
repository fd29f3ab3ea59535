//! The promises, tried against real PostgreSQL with real clients. One binary; modules by behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod access;
mod attacks;
mod canary;
mod cancel;
mod channel;
mod clients;
mod counts;
mod faults;
mod fuzz;
mod generated;
mod generator;
mod grants;
mod harness;
mod introspection;
mod jdbc;
mod large;
mod late;
mod layout;
mod lifecycle;
mod limits;
mod masks;
mod memory;
mod modify;
mod oracle;
mod overtaken;
mod people;
mod pipes;
mod plans;
mod proxied;
mod protocol;
mod rust_postgres;
mod sqlsmith;
mod strings;
mod secrets;
mod session;
mod timeouts;
mod tls;
mod tools;
mod upstream;
mod verdicts;
mod versions;
mod wire;
