//! Each mask: its SQL expression by type, and its strength.
//!
//! Masks are SQL expressions that PostgreSQL evaluates, so that every operator above them sees the masked value.
//! They keep the column's type, and NULL stays NULL (but for `null`).

use crate::catalog::Column;
use crate::policy::MaskSpec;

/// What a mask leaves of a person, which the meter uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strength {
    /// Cannot be restored: not counted (法释〔2017〕10号 art. 3).
    Anonymous,
    /// The same person can be told again: counted.
    Pseudonymous,
    /// Enough is left to find the person: counted.
    Identifying,
}

impl Strength {
    /// Whether showing it counts.
    #[must_use]
    pub fn counts(self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Pseudonymous | Self::Identifying => true,
        }
    }
}

/// Names of the two session settings that hold the token keys, hex, placed in the upstream StartupMessage by the
/// session so that no key is ever part of a statement: see [`token`-mask docs](self).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenSettings {
    /// Setting with the inner HMAC pad block (64 bytes, hex).
    pub inner: String,
    /// Setting with the outer HMAC pad block (64 bytes, hex).
    pub outer: String,
}

/// Why a mask does not fit a column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// The SQL expression that masks `column`, whose own quoted reference in the masked scan is `reference` (e.g. `t.phone`).
/// Its type is the column's base type with its typmod. Every function and operator in it is written with `pg_catalog`.
///
/// # Errors
/// Where the mask cannot keep the column's type.
pub fn expression(spec: &MaskSpec, column: &Column, reference: &str, token: &TokenSettings) -> Result<String, Unfit> {
    let _ = (reference, token);
    if *spec == MaskSpec::Null {
        return Ok(format!("NULL::{}", column.base_type_sql));
    }
    Err(Unfit("unwritten".into()))
}

/// The strength of a mask on a column.
#[must_use]
pub fn strength(spec: &MaskSpec, column: &Column) -> Strength {
    let _ = (spec, column);
    Strength::Identifying
}
