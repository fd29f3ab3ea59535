//! The policy: one TOML file a security team can read aloud, resolved into [`Policy`], and the pure decision.
//!
//! [`raw`] is the file as written; [`Policy::load`] resolves it and reports every mistake at once, with file, line
//! and a suggestion. [`Policy::standing`] says which grants a principal holds now, under its declared purpose;
//! [`decide`] says what happens to one column, and why. Nothing here knows SQL or sockets.

pub mod mask_spec;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::catalog::RelationName;
use crate::principal::{Declared, Principal};
pub use mask_spec::MaskSpec;

/// A mistake or a warning in a configuration or policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as given.
    pub file: PathBuf,
    /// 1-based line and column; 0 where the problem has no place.
    pub line: u32,
    /// 1-based column in characters.
    pub column: u32,
    /// Errors stop the load; warnings are printed.
    pub severity: Severity,
    /// Lower case, no full stop, user input in backticks.
    pub message: String,
    /// e.g. ``did you mean `phone`?``
    pub suggestion: Option<String>,
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used; somebody should look.
    Warning,
}

/// Index of a grant in [`Policy::grants`]; rule ids in reasons are `grant 3` with the line of the file.
pub type GrantIndex = usize;

/// A kind of personal data.
#[derive(Debug, Clone)]
pub struct Class {
    /// The name under `[classes.…]`.
    pub name: String,
    /// Legal category by the threshold pack, e.g. `general`; `None` counts nowhere.
    pub category: Option<String>,
    /// Default mask.
    pub mask: MaskSpec,
}

/// What the policy says of one relation under `[tables."schema.name"]`.
#[derive(Debug, Clone)]
pub struct TableRule {
    /// The column that identifies the person a row is about.
    pub person: Option<String>,
    /// The relation whose people these are (`of`), itself where not given: the person *space*.
    pub of: RelationName,
    /// Classified columns: column → class name.
    pub columns: BTreeMap<String, String>,
}

/// A resolved policy. Immutable; a reload makes a new one with a higher epoch.
#[derive(Debug)]
pub struct Policy {
    /// Grows with every successful load.
    pub epoch: u64,
    /// Name of the threshold pack.
    pub thresholds: Option<String>,
    /// Classes by name.
    pub classes: BTreeMap<String, Class>,
    /// Rules by relation.
    pub tables: BTreeMap<RelationName, TableRule>,
    /// What a login that no role names gets.
    pub unknown_logins: UnknownLogins,
    /// Grants in the order of the file.
    pub grants: Vec<Grant>,
    /// Functions outside pg_catalog that the policy vouches for: `schema.name` globs (`[functions] trust = […]`).
    pub trusted_functions: Vec<String>,
    // the rest (roles, purposes, limits, sanctions) is private to this module
}

/// `unknown_logins`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownLogins {
    /// Refused protected relations altogether.
    #[default]
    Deny,
    /// Everything classified is masked.
    Mask,
}

/// One `[[grants]]` entry, resolved.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Line of the file where it begins.
    pub line: u32,
    /// Role it is for.
    pub role: String,
    /// Purpose under which it holds; `None` holds under any and none.
    pub purpose: Option<String>,
    /// Row filters: relation → SQL boolean expression over that relation's columns.
    pub rows: BTreeMap<RelationName, String>,
    // clear, deny, hours, until … as the author needs
}

/// What a principal holds at a moment: part of the key under which plans are cached, so equal standings must mean
/// equal decisions for every column and row filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Roles of the policy whose `logins` or `groups` match.
    pub roles: BTreeSet<String>,
    /// False where no role matched.
    pub known: bool,
    /// Purpose in force: declared (or the role's default) and its requirements met.
    pub purpose: Option<String>,
    /// Grants in force now.
    pub grants: BTreeSet<GrantIndex>,
    /// Why grants or purposes that could have applied do not: for explain, audit and hints.
    pub unmet: Vec<String>,
}

/// Proof that the policy lets a column through unmasked. Only [`decide`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearPermit(());

/// What happens to a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Treatment {
    /// Passes as it is.
    Clear(ClearPermit),
    /// Replaced by a mask.
    Mask(MaskSpec),
    /// Any reference to the column refuses the statement. In `*` it is refused too.
    Deny,
}

/// A treatment with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What happens.
    pub treatment: Treatment,
    /// Class of the column; `None` for a column that the policy does not classify (then `Clear`).
    pub class: Option<String>,
    /// The rule that decided, e.g. ``grant at line 41``, ``class `phone` default mask``, `unknown login`.
    pub rule: String,
}

/// A limit that applies to a principal.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Stable name for alerts and audit, e.g. `limit at line 60`.
    pub name: String,
    /// Length of the rolling window.
    pub window: std::time::Duration,
    /// As written, e.g. `30d`.
    pub window_text: String,
    /// Level of the threshold pack that is 1.0; `serious_insider` by default.
    pub level: String,
    /// Shares of the line at which to alert, ascending.
    pub alert_at: Vec<f64>,
    /// Share of the line whose reaching is not released.
    pub stop_at: Option<f64>,
}

/// The rows a principal may see of one relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFilter {
    /// SQL boolean expression over the relation's own columns; several are joined (OR between grants, each in parentheses).
    pub sql: String,
    /// The rules it comes from.
    pub rule: String,
}

impl Policy {
    /// Reads and resolves a policy file.
    ///
    /// # Errors
    /// Every mistake of the file at once.
    pub fn load(path: &Path, epoch: u64) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let _ = (path, epoch);
        Err(Vec::new())
    }

    /// Which roles, purpose and grants are in force for a principal now.
    #[must_use]
    pub fn standing(&self, principal: &Principal, declared: &Declared, now: jiff::Timestamp) -> Standing {
        let _ = (principal, declared, now);
        Standing {
            roles: BTreeSet::new(),
            known: false,
            purpose: None,
            grants: BTreeSet::new(),
            unmet: Vec::new(),
        }
    }

    /// Names of the settings (without `menshen.`) whose values decisions need: `purpose` and what purposes require.
    #[must_use]
    pub fn setting_names(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// The row filter on a relation; `None` means all rows. A role none of whose grants in force filters the relation sees all rows.
    #[must_use]
    pub fn row_filter(&self, standing: &Standing, relation: &RelationName) -> Option<RowFilter> {
        let _ = (standing, relation);
        None
    }

    /// Limits that apply, all of them at once.
    #[must_use]
    pub fn limits(&self, standing: &Standing) -> Vec<Limit> {
        let _ = standing;
        Vec::new()
    }

    /// Whether the login is under a sanction that the interpretation's art. 5(1)(9) counts, at this moment.
    #[must_use]
    pub fn sanctioned(&self, login: &str, now: jiff::Timestamp) -> bool {
        let _ = (login, now);
        false
    }
}

/// What happens to a column of a class for a standing, and why. The default is the class's mask; a `deny` beats a `clear`.
/// `relation` is only for grants that name columns or relations; the class decides otherwise.
#[must_use]
pub fn decide(policy: &Policy, standing: &Standing, class: &str, relation: &RelationName, column: &str) -> Decision {
    let _ = (policy, standing, class, relation, column);
    Decision {
        treatment: Treatment::Deny,
        class: None,
        rule: String::new(),
    }
}
