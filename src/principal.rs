//! Who asks, and why.
//!
//! A principal is the authenticated PostgreSQL login with the roles it is a member of. What it declares about
//! itself (purpose, case number, …) is kept apart in [`Declared`], because a declaration is a claim.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The authenticated PostgreSQL login behind a session. Fixed at authentication: `SET ROLE` and
/// `SET SESSION AUTHORIZATION` never change it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The login (`user` of the StartupMessage), as PostgreSQL authenticated it.
    pub login: String,
    /// Every PostgreSQL role the login is a member of, directly or through other roles; without the login.
    pub groups: BTreeSet<String>,
    /// Where the client connected from; `None` for a Unix-domain socket or an offline `explain`.
    pub address: Option<IpAddr>,
}

/// What the session has declared about itself in settings named `menshen.…`: `menshen.purpose`,
/// `menshen.case` and so on, as the server holds them at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Declared {
    /// Setting values under their names without the prefix `menshen.`; unset and empty ones are absent.
    pub settings: BTreeMap<String, String>,
}

impl Declared {
    /// The purpose the session acts under, if it declared one.
    #[must_use]
    pub fn purpose(&self) -> Option<&str> {
        self.settings.get("purpose").map(String::as_str)
    }
}
