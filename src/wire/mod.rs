//! The PostgreSQL frontend/backend protocol, version 3: messages under PostgreSQL's names, framing, and the
//! one place that turns a refusal into an ErrorResponse.

pub mod refusal;

pub use refusal::Refusal;
