//! Menshen (门神): a PostgreSQL proxy that masks sensitive columns and counts the people whose records each
//! user has been shown.
//!
//! ```text
//! client ─▶ wire ─▶ session ─▶ guard ───────────────▶ wire ─▶ PostgreSQL
//!                     │   ▲      parse → resolve → decide → edit → verify → witness
//!                     │   └ principal (who), purpose (why), search_path, policy epoch, catalog epoch
//!                     ▼
//! client ◀─ wire ◀─ session ◀─ meter ◀──────────────  wire ◀─ PostgreSQL
//!                               trip-wire → strip hidden columns → charge ledger → release
//!                                                         └▶ thresholds ─▶ alerts
//!                               (every decision and every charge) ─▶ audit
//! ```
//!
//! The modules below stand in reading order, and imports point down this list only: a module may use what
//! stands below it, never above. `tests/layout.rs` checks it.

pub mod cli;
pub mod server;
pub mod config;
pub mod session;
pub mod guard;
pub mod meter;
pub mod mask;
pub mod alert;
pub mod audit;
pub mod ledger;
pub mod policy;
pub mod catalog;
pub mod wire;
pub mod principal;
