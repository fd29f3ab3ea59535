//! The policy: one TOML file a security team can read aloud, resolved into [`Policy`], and the pure decision.
//!
//! `load.rs` reads the file and reports every mistake at once, with file, line and a suggestion. [`Policy::standing`] says
//! which grants a principal holds now, under its declared purpose; [`decide`] says what happens to one column, and why.
//! Nothing here knows SQL or sockets, and `now` is an argument.

mod hours;
mod load;
pub mod mask_spec;
pub mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use globset::GlobMatcher;
use ipnet::IpNet;
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use regex::Regex;

use crate::catalog::RelationName;
use crate::principal::{Declared, Principal};
use hours::Hours;
pub use mask_spec::MaskSpec;
pub use reader::{Problem, Severity};

/// Index of a grant in [`Policy::grants`].
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
    /// What predicates on a masked column of this class see.
    pub compare: Compare,
    /// Line of the file.
    pub line: u32,
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
    /// Line of the file.
    pub line: u32,
    /// Columns that the owners of the policy have looked at and left unclassified, where they list them (`plain`): any other column is
    /// then unclassified. Without the list, those that the table has when the policy is loaded are taken as looked at.
    pub plain: Option<BTreeSet<String>>,
    /// Lines of the columns.
    pub column_lines: BTreeMap<String, u32>,
}

/// A role of the policy.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    logins: Vec<GlobMatcher>,
    groups: Vec<GlobMatcher>,
    purpose: Option<String>,
}

/// A purpose and what it requires.
#[derive(Debug, Clone)]
pub(crate) struct Purpose {
    require: Vec<(String, Regex, String)>,
    networks: Vec<IpNet>,
    hours: Option<Hours>,
}

/// What a login that no role names gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownLogins {
    /// Refused protected relations altogether.
    #[default]
    Deny,
    /// Everything classified is masked.
    Mask,
}

/// The class of columns of protected tables that nobody has classified yet.
pub const UNCLASSIFIED: &str = "unclassified";

/// What predicates see of a column that is masked (PEERS B15: a mask that is shown may be compared; the clear value behind it not).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compare {
    /// The mask, as everything else does.
    #[default]
    Masked,
    /// The mask; but `column = constant` in WHERE compares the clear value, and whoever matches counts as shown.
    Equality,
    /// Nothing: no predicate, order or group may name the column.
    Deny,
}

/// What happens to a column of a protected table that is new since the policy was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unclassified {
    /// Masked whole.
    #[default]
    Mask,
    /// May not be named.
    Deny,
    /// Passes.
    Clear,
}

/// Whether new rows may hold values in columns that the principal sees masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InsertMasked {
    /// They may: registering a customer is everyday work. A unique index then answers, by its error, whether a value is there.
    #[default]
    Allow,
    /// Only with a grant's `write`: closes that answer.
    Deny,
}

/// Which columns a `clear` or `deny` entry means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Class(String),
    Relation(RelationName),
    Column(RelationName, String),
}

impl Scope {
    fn covers(&self, class: &str, relation: &RelationName, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::Class(name) => name == class,
            Self::Relation(name) => name == relation,
            Self::Column(name, own) => name == relation && own == column,
        }
    }
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
    /// Where several grants speak of one column or relation, the lowest order wins.
    pub order: Option<i64>,
    pub(crate) clear: Vec<Scope>,
    pub(crate) deny: Vec<Scope>,
    /// Columns that may be assigned although they are shown masked.
    pub(crate) write: Vec<Scope>,
    /// Columns whose clear values may be stored elsewhere.
    pub(crate) derive: Vec<Scope>,
    /// Whether it allows DDL on protected relations.
    pub ddl: bool,
    pub(crate) hours: Option<Hours>,
    pub(crate) until: Option<Date>,
}

/// A sanction that art. 5(1)(9) of 法释〔2017〕10号 counts: criminal ever, administrative within two years.
#[derive(Debug, Clone)]
pub(crate) struct Sanction {
    login: GlobMatcher,
    criminal: bool,
    on: Date,
}

/// A limit that applies to a principal.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Stable name for alerts and audit, e.g. `limit at line 60`.
    pub name: String,
    /// Length of the rolling window.
    pub window: Duration,
    /// As written, e.g. `30d`.
    pub window_text: String,
    /// Level of the threshold pack that is 1.0; `serious_insider` by default.
    pub level: String,
    /// Shares of the line at which to alert, ascending.
    pub alert_at: Vec<f64>,
    /// Share of the line whose reaching is not released.
    pub stop_at: Option<f64>,
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
    /// Fewest people that a group of an aggregate over protected rows may stand for, where the principal has something masked.
    pub min_group: Option<u32>,
    /// What happens to new columns of protected tables.
    pub unclassified: Unclassified,
    /// Whether new rows may hold values in columns that the principal sees masked.
    pub insert_masked: InsertMasked,
    /// Grants in the order of the file.
    pub grants: Vec<Grant>,
    /// Functions outside pg_catalog that the policy vouches for: `schema.name` globs (`[functions] trust = […]`).
    pub trusted_functions: Vec<String>,
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) purposes: BTreeMap<String, Purpose>,
    pub(crate) limits: Vec<(String, Limit)>,
    pub(crate) sanctions: Vec<Sanction>,
}

/// What a principal holds at a moment: part of the key under which plans are kept, so equal standings mean equal decisions
/// for every column and row filter.
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
    /// Class of the column.
    pub class: String,
    /// The rule that decided, e.g. `grant at line 41`, ``default mask of class `phone` ``, `unknown login`.
    pub rule: String,
}

/// The rows a principal may see of one relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFilter {
    /// SQL boolean expression over the relation's own columns.
    pub sql: String,
    /// The rules it comes from.
    pub rule: String,
}

impl Policy {
    /// Which roles, purpose and grants are in force for a principal now.
    #[must_use]
    pub fn standing(&self, principal: &Principal, declared: &Declared, now: Timestamp) -> Standing {
        let roles: BTreeSet<String> = self
            .roles
            .iter()
            .filter(|(_, role)| {
                role.logins.iter().any(|g| g.is_match(&principal.login))
                    || principal
                        .groups
                        .iter()
                        .any(|group| role.groups.iter().any(|g| g.is_match(group)))
            })
            .map(|(name, _)| name.clone())
            .collect();
        let mut unmet = Vec::new();
        let asked = declared.purpose().map(str::to_owned).or_else(|| {
            roles
                .iter()
                .find_map(|r| self.roles.get(r).and_then(|r| r.purpose.clone()))
        });
        let purpose = asked.filter(|name| match self.purposes.get(name) {
            None => {
                unmet.push(format!("purpose `{name}` is not in the policy"));
                false
            }
            Some(purpose) => purpose.met(name, principal, declared, now, &mut unmet),
        });
        let mut grants = BTreeSet::new();
        for (index, grant) in self.grants.iter().enumerate() {
            if !roles.contains(&grant.role) {
                continue;
            }
            if grant.purpose.is_some() && grant.purpose != purpose {
                if let Some(needed) = &grant.purpose
                    && declared.purpose().is_none()
                {
                    unmet.push(format!(
                        "grant at line {} needs purpose `{needed}` (SET menshen.purpose)",
                        grant.line
                    ));
                }
                continue;
            }
            if let Some(hours) = &grant.hours
                && !hours.contains(now)
            {
                unmet.push(format!("grant at line {} holds only at {}", grant.line, hours.text()));
                continue;
            }
            // The day named is the last on which it holds, everywhere on earth at the latest by UTC.
            if grant
                .until
                .is_some_and(|until| now.to_zoned_datetime(TimeZone::UTC).date() > until)
            {
                unmet.push(format!("grant at line {} has expired", grant.line));
                continue;
            }
            grants.insert(index);
        }
        Standing {
            known: !roles.is_empty(),
            roles,
            purpose,
            grants,
            unmet,
        }
    }

    /// Names of the settings (without `menshen.`) whose values decisions need: `purpose` and what purposes require.
    #[must_use]
    pub fn setting_names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::from(["purpose".to_owned()]);
        names.extend(
            self.purposes
                .values()
                .flat_map(|p| p.require.iter().map(|(name, _, _)| name.clone())),
        );
        names
    }

    /// The row filter on a relation; `None` means all rows. Grants in force that filter it are alternatives (OR), unless an order
    /// decides; where a grant in force clears something of the relation without filtering it, the filters of others still hold.
    #[must_use]
    pub fn row_filter(&self, standing: &Standing, relation: &RelationName) -> Option<RowFilter> {
        let mut filters: Vec<(&Grant, &String)> = standing
            .grants
            .iter()
            .filter_map(|i| self.grants.get(*i))
            .filter_map(|g| Some((g, g.rows.get(relation)?)))
            .collect();
        if let Some(least) = filters.iter().filter_map(|(g, _)| g.order).min() {
            filters.retain(|(g, _)| g.order == Some(least));
        }
        let rule = filters
            .iter()
            .map(|(g, _)| format!("grant at line {}", g.line))
            .collect::<Vec<_>>()
            .join(", ");
        let sql = match filters.as_slice() {
            [] => return None,
            [(_, one)] => (*one).clone(),
            several => several
                .iter()
                .map(|(_, f)| format!("({f})"))
                .collect::<Vec<_>>()
                .join(" OR "),
        };
        Some(RowFilter { sql, rule })
    }

    /// Whether a grant in force lets the column be assigned although it is not clear.
    #[must_use]
    pub fn may_write(&self, standing: &Standing, class: &str, relation: &RelationName, column: &str) -> bool {
        self.holds(standing, |g| g.write.iter().any(|s| s.covers(class, relation, column)))
    }

    /// Whether a grant in force lets clear values of the column be stored elsewhere.
    #[must_use]
    pub fn may_derive(&self, standing: &Standing, class: &str, relation: &RelationName, column: &str) -> bool {
        self.holds(standing, |g| g.derive.iter().any(|s| s.covers(class, relation, column)))
    }

    /// Whether a grant in force allows DDL on protected relations.
    #[must_use]
    pub fn may_define(&self, standing: &Standing) -> bool {
        self.holds(standing, |g| g.ddl)
    }

    fn holds(&self, standing: &Standing, what: impl Fn(&Grant) -> bool) -> bool {
        standing.grants.iter().filter_map(|i| self.grants.get(*i)).any(what)
    }

    /// Limits that apply, all of them at once.
    #[must_use]
    pub fn limits(&self, standing: &Standing) -> Vec<Limit> {
        self.limits
            .iter()
            .filter(|(role, _)| role == "*" || standing.roles.contains(role))
            .map(|(_, limit)| limit.clone())
            .collect()
    }

    /// Whether the login is under a sanction that the interpretation's art. 5(1)(9) counts, at this moment.
    #[must_use]
    pub fn sanctioned(&self, login: &str, now: Timestamp) -> bool {
        let today = now.to_zoned_datetime(TimeZone::UTC).date();
        self.sanctions.iter().any(|s| {
            let in_time = s.criminal
                || s.on
                    .checked_add(jiff::Span::new().years(2))
                    .map_or(true, |end| today <= end);
            s.login.is_match(login) && s.on <= today && in_time
        })
    }
}

impl Purpose {
    fn met(
        &self,
        name: &str,
        principal: &Principal,
        declared: &Declared,
        now: Timestamp,
        unmet: &mut Vec<String>,
    ) -> bool {
        let before = unmet.len();
        for (setting, pattern, text) in &self.require {
            if !declared.settings.get(setting).is_some_and(|v| pattern.is_match(v)) {
                unmet.push(format!("purpose `{name}` needs menshen.{setting} to match `{text}`"));
            }
        }
        if !self.networks.is_empty()
            && !principal
                .address
                .is_some_and(|a| self.networks.iter().any(|n| n.contains(&a)))
        {
            unmet.push(format!("purpose `{name}` is allowed only from certain networks"));
        }
        if let Some(hours) = &self.hours
            && !hours.contains(now)
        {
            unmet.push(format!("purpose `{name}` holds only at {}", hours.text()));
        }
        unmet.len() == before
    }
}

/// What happens to a column of a class for a standing, and why. The default is the class's mask; a `deny` beats a `clear`
/// unless an order decides.
#[must_use]
pub fn decide(policy: &Policy, standing: &Standing, class: &str, relation: &RelationName, column: &str) -> Decision {
    let decision = |treatment, rule: String| Decision {
        treatment,
        class: class.to_owned(),
        rule,
    };
    if !standing.known && policy.unknown_logins == UnknownLogins::Deny {
        return decision(Treatment::Deny, "unknown login".to_owned());
    }
    let covers = |scopes: &[Scope]| scopes.iter().any(|s| s.covers(class, relation, column));
    let mut speaking: Vec<(&Grant, bool)> = Vec::new();
    for grant in standing.grants.iter().filter_map(|i| policy.grants.get(*i)) {
        if covers(&grant.deny) {
            speaking.push((grant, false));
        } else if covers(&grant.clear) {
            speaking.push((grant, true));
        }
    }
    if let Some(least) = speaking.iter().filter_map(|(g, _)| g.order).min() {
        speaking.retain(|(g, _)| g.order == Some(least));
    }
    if let Some((grant, _)) = speaking.iter().find(|(_, clear)| !clear) {
        return decision(Treatment::Deny, format!("grant at line {}", grant.line));
    }
    if let Some((grant, _)) = speaking.first() {
        return decision(
            Treatment::Clear(ClearPermit(())),
            format!("grant at line {}", grant.line),
        );
    }
    match policy.classes.get(class) {
        Some(known) => decision(
            Treatment::Mask(known.mask.clone()),
            format!("default mask of class `{class}`"),
        ),
        None if class == UNCLASSIFIED => {
            let treatment = match policy.unclassified {
                Unclassified::Mask => Treatment::Mask(MaskSpec::Null),
                Unclassified::Deny => Treatment::Deny,
                Unclassified::Clear => Treatment::Clear(ClearPermit(())),
            };
            decision(treatment, "the column is not classified yet".to_owned())
        }
        None => decision(Treatment::Deny, format!("class `{class}` is not in the policy")),
    }
}

#[cfg(test)]
mod tests;
