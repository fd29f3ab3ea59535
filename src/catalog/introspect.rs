//! Reading `pg_catalog`: one query, one JSON document, one [`Catalog`].

use super::Catalog;

/// Returns one row with one text column: the JSON document that [`parse`] reads. Must be run with
/// `search_path = pg_catalog`… (filled in by the catalog's author).
pub const QUERY: &str = "";

/// Why the document could not be read.
#[derive(Debug, thiserror::Error)]
#[error("catalog document: {0}")]
pub struct Unreadable(String);

/// Builds a catalog from the document that [`QUERY`] returned; its epoch is `epoch`.
///
/// # Errors
/// Where the document is not of the expected shape.
pub fn parse(_document: &str, _epoch: u64) -> Result<Catalog, Unreadable> {
    Err(Unreadable(String::new()))
}
