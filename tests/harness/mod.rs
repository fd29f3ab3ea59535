//! Private servers for tests: a PostgreSQL per test process, a Menshen per test, a client that speaks the protocol byte by byte, a
//! receiver of webhooks. Nothing is taken for granted on the machine but PostgreSQL's programs, and nothing stays behind.

pub mod canary;
pub mod faults;
pub mod menshen;
pub mod postgres;
pub mod raw;
pub mod webhook;

pub use menshen::Menshen;
pub use postgres::Postgres;
pub use raw::Raw;
