//! Why a statement was not let through, in words for the client. All client text of a refusal is made here or
//! where the refusal is constructed; it never holds a value or SQL text of anybody.

use std::borrow::Cow;

/// A refusal: becomes an ErrorResponse (severity ERROR) with these fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (rule {rule})")]
pub struct Refusal {
    /// Five characters of the manual's appendix A, e.g. `42501` insufficient_privilege, `0A000` feature_not_supported.
    pub sqlstate: &'static str,
    /// The rule's stable name, e.g. `copy-of-protected-relation`; shown in DETAIL and in the audit log.
    pub rule: &'static str,
    /// Primary message: lower case, no full stop, identifiers in double quotes as PostgreSQL writes them.
    pub message: String,
    /// What to do about it (HINT).
    pub hint: Cow<'static, str>,
    /// 1-based character position in the client's statement text, where it is known.
    pub position: Option<u32>,
    /// True where this must also raise an incident (guards disagree, trip-wire): not a normal denial.
    pub incident: bool,
}

impl Refusal {
    /// A refusal by policy: SQLSTATE 42501.
    #[must_use]
    pub fn denied(rule: &'static str, message: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self {
            sqlstate: "42501",
            rule,
            message: message.into(),
            hint: hint.into(),
            position: None,
            incident: false,
        }
    }

    /// A refusal because Menshen cannot judge this form (yet): SQLSTATE 0A000.
    #[must_use]
    pub fn unsupported(rule: &'static str, message: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self {
            sqlstate: "0A000",
            rule,
            message: message.into(),
            hint: hint.into(),
            position: None,
            incident: false,
        }
    }

    /// The DETAIL field: names the rule.
    #[must_use]
    pub fn detail(&self) -> String {
        format!("Menshen rule: {}.", self.rule)
    }
}
