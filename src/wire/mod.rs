//! The PostgreSQL frontend/backend protocol, version 3: messages under PostgreSQL's names, framing, and the
//! one place that turns a refusal into an ErrorResponse.

pub mod authentication;
pub mod columns;
pub mod frame;
pub mod heads;
pub mod message;
pub mod refusal;
pub mod shape;

pub use frame::Frame;
pub use refusal::Refusal;
