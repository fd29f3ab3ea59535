//! Crossings and incidents → sinks: log, file, webhook with an outbox on disk.

use serde::Serialize;

/// Something people should hear about.
#[derive(Debug, Clone, Serialize)]
pub struct Alert {
    /// `threshold`, `stop`, `incident`, `policy` …
    pub kind: &'static str,
    /// RFC 3339 UTC.
    pub at: jiff::Timestamp,
    /// Account (login), where there is one.
    pub account: Option<String>,
    /// One line for people.
    pub message: String,
    /// Machine-readable rest; never a value of a protected column, never a literal.
    pub details: serde_json::Value,
}
