//! Decide: what this principal gets of each protected relation, and which functions it may call.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::functions::{Call, Change, SettingCall};
use super::parse::{self, quote};
use super::plan::{Meaning, StatementPlan};
use super::protected::{Kind, Protected};
use super::scope::{Given, Lookup, Treated};
use super::tree::Tree;
use super::{Ground, Request, functions};
use crate::catalog::{Catalog, Function, Oid, Relation, RelationKind, RelationName, UseKind};
use crate::policy::{InsertMasked, Standing, UnknownLogins};
use crate::wire::Refusal;

/// What the column `name` means in a statement that may read `pg_settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SettingRow {
    /// The statement reads something else too, or is no such statement.
    None,
    /// Any setting that pg_settings lists.
    Any,
    /// This one.
    One(String),
}

/// The decisions for one statement of one principal.
pub struct Judge<'j> {
    pub(super) ground: &'j Ground,
    pub(super) request: &'j Request<'j>,
    /// The principal has everything clear and all rows.
    pub(super) unrestricted: bool,
    /// A function outside `pg_catalog` is called: it may change settings.
    pub(super) user_function: RefCell<bool>,
    /// A call of `set_config`.
    pub(super) sets: RefCell<bool>,
    /// What the column `name` of the statement's one relation is, where that is `pg_settings`.
    pub(super) setting_row: RefCell<SettingRow>,
    /// The statement's parameters are those of a Bind message, whose values the session sees.
    pub(super) binds: RefCell<bool>,
    /// Parameters that name a setting which is read: number and place.
    pub(super) setting_parameters: RefCell<BTreeSet<(i64, i64)>>,
    /// Function names as written, for the witness.
    pub(super) functions: RefCell<BTreeSet<Vec<String>>>,
    /// Names of the session that were looked up.
    pub(super) meanings: RefCell<Vec<Meaning>>,
}

impl<'j> Judge<'j> {
    pub(super) fn new(ground: &'j Ground, request: &'j Request<'j>) -> Self {
        Self {
            ground,
            request,
            unrestricted: unrestricted(ground, request.standing),
            user_function: RefCell::new(false),
            sets: RefCell::new(false),
            setting_row: RefCell::new(SettingRow::None),
            binds: RefCell::new(false),
            setting_parameters: RefCell::new(BTreeSet::new()),
            functions: RefCell::new(BTreeSet::new()),
            meanings: RefCell::new(Vec::new()),
        }
    }

    /// The plan of what FETCH of a name shows.
    pub(super) fn cursor(&self, name: &str) -> Option<Arc<StatementPlan>> {
        let plan = (self.request.cursor)(name);
        self.meanings.borrow_mut().push(Meaning::Cursor {
            name: name.to_owned(),
            plan: plan.clone(),
        });
        plan
    }

    /// The plan of what EXECUTE of a name runs.
    pub(super) fn prepared(&self, name: &str) -> Option<Arc<StatementPlan>> {
        let plan = (self.request.prepared)(name)?;
        self.meanings.borrow_mut().push(Meaning::Prepared {
            name: name.to_owned(),
            plan: Arc::clone(&plan),
        });
        Some(plan)
    }

    /// Judges the relations of the server's own catalog that show values, statistics or other sessions' statements.
    pub(super) fn system_relation(&self, relation: &Relation) -> Result<(), Refusal> {
        if self.unrestricted {
            return Ok(());
        }
        let (schema, name) = (&relation.name.schema, &relation.name.name);
        if matches!(schema.as_str(), "pg_catalog" | "information_schema")
            && relation.kind != RelationKind::Toast
            && !functions::BUILT_INS.knows_relation(schema, name)
        {
            return Err(Refusal::denied(
                "system-relation-unknown",
                format!("permission denied for relation \"{name}\": this Menshen does not know it"),
                "a newer Menshen may; only a principal for whom nothing is masked may read it now",
            ));
        }
        if let Some(entry) = functions::BUILT_INS.relation(&relation.name.schema, &relation.name.name) {
            return Err(Refusal::denied(
                "system-relation",
                format!(
                    "permission denied for relation \"{}\": it {}",
                    relation.name.name, entry.reason
                ),
                "only a principal for whom nothing is masked may read it",
            ));
        }
        Ok(())
    }

    /// Messages below NOTICE carry values of rows and other people's statements: nobody may ask for them.
    pub(super) fn message_level(&self, setting: &str, value: Option<&str>) -> Result<(), Refusal> {
        if !setting.eq_ignore_ascii_case("client_min_messages") || self.ground.protected.is_empty() {
            return Ok(());
        }
        const HARMLESS: [&str; 5] = ["info", "notice", "warning", "error", ""];
        if value.is_some_and(|v| HARMLESS.contains(&v.to_ascii_lowercase().as_str())) {
            return Ok(());
        }
        Err(Refusal::denied(
            "client-min-messages",
            "permission denied to set client_min_messages below notice",
            "messages of that level can carry values of rows",
        ))
    }

    /// Whether no row filter is in force.
    pub(super) fn all_rows(&self) -> bool {
        let policy = &self.ground.policy;
        let mut filters = self.ground.protected.values().flat_map(|p| &p.filters);
        filters.all(|f| policy.row_filter(self.request.standing, &f.relation).is_none())
    }

    /// Settings may be others after this; a type whose code does so is refused.
    pub(super) fn changed_by(&self, change: Option<Change>, what: impl FnOnce() -> String) -> Result<(), Refusal> {
        match change {
            None => Ok(()),
            Some(Change::Code) => {
                *self.user_function.borrow_mut() = true;
                Ok(())
            }
            Some(Change::Type) => Err(type_changes_settings(&what())),
        }
    }

    /// What casts to and from a type run, and its checks.
    pub(super) fn cast(&self, schema: Option<&str>, name: &str) -> Result<(), Refusal> {
        let (ground, path) = (self.ground, self.request.search_path);
        if ground.reach.changers().type_name(schema, name, path) {
            return Err(type_changes_settings(&format!("type \"{name}\"")));
        }
        match ground.reach.code_behind_type(&ground.catalog, schema, name, path) {
            None => Ok(()),
            Some(reason) => Err(type_opaque(name, reason)),
        }
    }

    /// What runs when a relation is read, maintained or written to must not reach protected relations by itself.
    pub(super) fn code_behind(&self, relation: &Relation, kind: UseKind) -> Result<(), Refusal> {
        let change = self.ground.reach.changers().relation(relation.oid);
        self.changed_by(change, || {
            format!("relation \"{}.{}\"", relation.name.schema, relation.name.name)
        })?;
        let Some(reason) = self.ground.reach.code_behind(relation.oid, kind, self.unrestricted) else {
            return Ok(());
        };
        let name = format!("{}.{}", relation.name.schema, relation.name.name);
        Err(code_behind(&format!("relation \"{name}\""), reason))
    }

    fn setting(&self, name: &[String], call: &Tree, kind: SettingCall) -> Result<(), Refusal> {
        let row = self.setting_row.borrow();
        let literal = call.list("args").first().and_then(|a| match a.kind() {
            "AConst" => Some(a.field("val").text("sval")),
            "ColumnRef" if a.names("fields").is_some_and(|f| f.last().is_some_and(|n| n == "name")) => match &*row {
                // pg_dump asks so for a setting that the server may not have.
                SettingRow::One(setting) => Some(setting.as_str()),
                // psql's \dconfig
                SettingRow::Any if kind == SettingCall::Reads => Some(""),
                SettingRow::Any | SettingRow::None => None,
            },
            _ => None,
        });
        if kind == SettingCall::Writes {
            *self.sets.borrow_mut() = true;
        }
        match literal {
            Some(setting) if is_key_setting(setting) => Err(key_setting()),
            Some(setting) if kind == SettingCall::Writes => {
                let value = call.list("args").get(1);
                let value = value
                    .filter(|a| a.kind() == "AConst")
                    .map(|a| a.field("val").text("sval"));
                self.message_level(setting, value)
            }
            Some(_) => Ok(()),
            None if kind == SettingCall::Reads && self.named_at_bind(call) => Ok(()),
            None => Err(Refusal::unsupported(
                SETTING_NAME,
                format!(
                    "Menshen cannot judge a call of {} whose setting name is not a literal",
                    name.join(".")
                ),
                "write the setting's name as a string literal",
            )),
        }
    }

    /// Whether the setting's name is a parameter that Bind will give.
    fn named_at_bind(&self, call: &Tree) -> bool {
        let Some(argument) = call.list("args").first().filter(|_| *self.binds.borrow()) else {
            return false;
        };
        let parameter = match argument.kind() {
            "ParamRef" => argument,
            "TypeCast" => {
                let to = argument.field("type_name").names("names").unwrap_or_default();
                let text = to.last().is_some_and(|n| n == "text")
                    && (to.len() == 1 || to.first().is_some_and(|s| s == "pg_catalog"));
                let inner = argument.field("arg");
                if !text || inner.kind() != "ParamRef" {
                    return false;
                }
                inner
            }
            _ => return false,
        };
        let place = (parameter.int("number"), parameter.int("location"));
        self.setting_parameters.borrow_mut().insert(place);
        true
    }

    /// A parameter that names a setting may stand for nothing else in the statement: another place could make it of a type with a cast of its
    /// own.
    pub(super) fn setting_parameters_are_text(&self, tree: &Tree) -> Result<(), Refusal> {
        let named = self.setting_parameters.borrow();
        let mut alone = true;
        if !named.is_empty() {
            tree.walk(&mut |n| {
                let place = (n.int("number"), n.int("location"));
                let is_named = n.kind() == "ParamRef" && named.iter().any(|(number, _)| *number == place.0);
                alone &= !is_named || named.contains(&place);
                true
            });
        }
        if alone {
            return Ok(());
        }
        Err(Refusal::unsupported(
            SETTING_NAME,
            "a parameter that names a setting is used for something else, too",
            "use a parameter of its own, or write the setting's name as a string literal",
        ))
    }
}

/// A name as written: the schema, where there is one, and the bare name.
pub(super) fn split(name: &[String]) -> Option<(Option<&str>, &str)> {
    let (bare, schema) = name.split_last()?;
    Some((schema.last().map(String::as_str), bare))
}

/// The refusal for what would run code that could reach protected relations.
pub(super) fn code_behind(what: &str, reason: &str) -> Refusal {
    Refusal::denied(
        "code-behind-relation",
        format!("permission denied for {what}: it {reason}"),
        "ask the owners of the policy to trust the function ([functions] trust)",
    )
}

/// The refusal for a type whose casts or checks call a function that is refused.
pub(super) fn type_opaque(name: &str, reason: &str) -> Refusal {
    Refusal::denied(
        "type-opaque",
        format!("permission denied for type {name}: it {reason}"),
        "use another type, or ask the owners of the policy to trust the function",
    )
}

/// The refusal for a type whose checks or casts change settings: a parameter of it runs them between the reading of a statement and its execution.
pub(super) fn type_changes_settings(what: &str) -> Refusal {
    Refusal::denied(
        "type-changes-settings",
        format!("permission denied for {what}: a type's checks or casts change settings that statements are read by"),
        "let checks and casts leave search_path, role and menshen.… alone",
    )
}

/// Why a parameter may not be of a type, if so: what its checks and casts run.
#[must_use]
pub fn parameter_type(ground: &Ground, oid: Oid) -> Option<Refusal> {
    if ground.reach.changers().type_oid(oid) {
        return Some(type_changes_settings("the type of a parameter"));
    }
    let reason = ground.reach.code_behind_type_oid(oid)?;
    Some(type_opaque("of a parameter", reason))
}

/// The rule of a call that neither the catalog nor the list of built-in functions knows: the catalog may have to be read anew.
pub(super) const UNKNOWN_FUNCTION: &str = "function-unknown";

fn unknown_function(name: &str) -> Refusal {
    Refusal {
        sqlstate: "42883",
        rule: UNKNOWN_FUNCTION,
        message: format!("function {name} does not exist, or Menshen does not know it"),
        hint: "check the name, schema and search_path".into(),
        position: None,
        incident: false,
    }
}

/// Whether the standing sees every classified column and every row.
#[must_use]
pub fn unrestricted(ground: &Ground, standing: &Standing) -> bool {
    if ground.protected.is_empty() {
        return true;
    }
    if !standing.known && ground.policy.unknown_logins == UnknownLogins::Deny {
        return false;
    }
    let names: BTreeSet<&RelationName> = ground
        .protected
        .values()
        .flat_map(|p| p.filters.iter().map(|f| &f.relation))
        .collect();
    names
        .iter()
        .all(|name| ground.policy.row_filter(standing, name).is_none())
        && ground.protected.values().all(|p| {
            p.columns.iter().all(|c| {
                c.treatment(&ground.policy, ground.pack.as_deref(), standing)
                    .is_none_or(|t| t.kind == Kind::Clear)
            })
        })
}

/// Settings that hold the token keys: nobody may read or write them.
#[must_use]
pub fn is_key_setting(name: &str) -> bool {
    name.to_ascii_lowercase().starts_with(KEY_SETTING)
}

/// The rule of a setting's name that nobody can know.
const SETTING_NAME: &str = "setting-name";

/// Whether a parameter that names a setting may have a type that Parse declares: one whose values are the text's own bytes. Zero leaves it to
/// the server, which makes it text.
///
/// # Errors
/// The refusal.
pub fn names_a_setting(oid: Oid) -> Result<(), Refusal> {
    // text, unknown, bpchar, varchar, name.
    if matches!(oid, 0 | 25 | 705 | 1042 | 1043 | 19) {
        return Ok(());
    }
    Err(Refusal::unsupported(
        SETTING_NAME,
        "a parameter that names a setting is of a type that Menshen cannot read",
        "declare it as text, or write the setting's name as a string literal",
    ))
}

/// Whether a Bind's value for such a parameter may name a setting that is kept. Blanks and cuts, as other types make them, find no way round.
#[must_use]
pub fn may_name_key_setting(value: &[u8]) -> bool {
    value
        .to_ascii_lowercase()
        .windows(KEY_SETTING.len())
        .any(|part| part == KEY_SETTING.as_bytes())
}

/// What names of settings that nobody may read or write begin with.
const KEY_SETTING: &str = "menshen.k";

/// The refusal for touching them.
#[must_use]
pub fn key_setting() -> Refusal {
    Refusal::denied(
        "key-setting",
        "permission denied for settings named menshen.k…",
        "they belong to Menshen itself",
    )
}

impl Lookup for Judge<'_> {
    fn catalog(&self) -> &Catalog {
        &self.ground.catalog
    }

    fn path(&self) -> &[String] {
        self.request.search_path
    }

    fn protected(&self, relation: &Relation) -> Result<Option<Arc<Protected>>, Refusal> {
        self.system_relation(relation)?;
        self.code_behind(relation, UseKind::Read)?;
        Ok(self.ground.protected.get(&relation.oid).cloned())
    }

    fn treat(&self, protected: &Arc<Protected>) -> Result<Treated, Refusal> {
        let (policy, standing) = (&self.ground.policy, self.request.standing);
        let name = format!("{}.{}", protected.name.schema, protected.name.name);
        if !standing.known && policy.unknown_logins == UnknownLogins::Deny {
            return Err(Refusal::denied(
                "unknown-login",
                format!(
                    "permission denied for relation \"{name}\": no role of the policy names login \"{}\"",
                    self.request.login
                ),
                "ask the owners of the policy to name this login in a role",
            ));
        }
        if let (Some(reason), false) = (&protected.opaque, self.unrestricted) {
            return Err(Refusal::denied(
                "opaque-relation",
                format!("permission denied for relation \"{name}\": {reason}"),
                "read the underlying relations instead",
            ));
        }
        let treatments: Vec<_> = protected
            .columns
            .iter()
            .map(|c| c.treatment(policy, self.ground.pack.as_deref(), standing))
            .collect();
        let filter = self.filter(protected)?;
        let replaced = filter.is_some() || treatments.iter().flatten().any(|t| !matches!(t.kind, Kind::Clear));
        if replaced {
            let first = self.request.search_path.iter().find(|s| !s.starts_with("pg_temp_"));
            if first.is_none_or(|s| s != "pg_catalog") {
                return Err(Refusal::unsupported(
                    "search-path-before-pg-catalog",
                    "Menshen cannot mask while search_path names pg_catalog behind another schema",
                    "leave pg_catalog out of search_path, or put it first",
                ));
            }
        }
        Ok(Treated {
            treatments,
            replaced,
            filter,
        })
    }

    fn function(&self, name: &[String], call: &Tree) -> Result<(), Refusal> {
        self.functions.borrow_mut().insert(name.to_vec());
        let (schema, bare) = match name {
            [bare] => (None, bare),
            [schema, bare] => (Some(schema.as_str()), bare),
            [_, schema, bare] => (Some(schema.as_str()), bare),
            _ => {
                return Err(Refusal::unsupported(
                    "function-name",
                    "a function name of more than three parts",
                    "use at most three",
                ));
            }
        };
        if self
            .ground
            .reach
            .changers()
            .function(schema, bare, self.request.search_path)
        {
            return Err(type_changes_settings(&format!("function \"{bare}\"")));
        }
        // A type may have the name of a function that does not fit the argument.
        if call.list("args").len() == 1 {
            self.cast(schema, bare)?;
        }
        match self.ground.reach.judge_call(schema, bare, self.request.search_path) {
            Call::BuiltIn(None) => {}
            Call::BuiltIn(Some(entry)) => {
                if let Some(kind) = functions::setting_call(bare) {
                    return self.setting(name, call, kind);
                }
                if !self.unrestricted || entry.reads_relations() {
                    return Err(Refusal::denied(
                        "function-denied",
                        format!("permission denied for function \"{bare}\": it {}", entry.reason),
                        "call functions that work on their arguments alone",
                    ));
                }
            }
            // `type(value)` is a cast.
            Call::Unknown if self.ground.catalog.types.contains(bare) => {
                self.cast(schema, bare)?;
            }
            Call::Unknown => return Err(unknown_function(&name.join("."))),
            Call::User(functions::Verdict::Safe) => *self.user_function.borrow_mut() = true,
            Call::User(functions::Verdict::Refused { system: true, .. }) if self.unrestricted => {
                *self.user_function.borrow_mut() = true;
            }
            Call::User(functions::Verdict::Refused { reason, .. }) => {
                return Err(Refusal::denied(
                    "function-opaque",
                    format!("permission denied for function \"{bare}\": {reason}"),
                    "query the relations directly, or ask the owners of the policy to trust the function",
                ));
            }
        }
        if let Some(kind) = functions::setting_call(bare) {
            return self.setting(name, call, kind);
        }
        Ok(())
    }

    fn keeps(&self, what: Given<'_>) -> bool {
        let (keepers, path) = (self.ground.reach.keepers(), self.request.search_path);
        match what {
            // `type(value)` is a cast.
            Given::Function(name) => split(name).is_none_or(|(schema, bare)| {
                keepers.function(schema, bare, path) || keepers.type_name(schema, bare, path)
            }),
            Given::Operator(name) => split(name).is_some_and(|(schema, bare)| keepers.operator(schema, bare, path)),
            Given::Type(name) => split(name).is_some_and(|(schema, bare)| keepers.type_name(schema, bare, path)),
        }
    }

    fn metered(&self) -> bool {
        true
    }

    fn modifies(&self, relation: &Relation) -> Result<(), Refusal> {
        self.code_behind(relation, UseKind::Write)
    }

    fn min_group(&self) -> Option<u32> {
        self.ground.policy.min_group
    }

    fn may_insert_masked(&self) -> bool {
        self.ground.policy.insert_masked == InsertMasked::Allow
    }
}

impl Judge<'_> {
    /// The row filter over the relation's own columns: (rules, SQL).
    fn filter(&self, protected: &Protected) -> Result<Option<(String, String)>, Refusal> {
        let mut rules: Vec<String> = Vec::new();
        let mut parts: Vec<String> = Vec::new();
        for source in &protected.filters {
            let Some(filter) = self.ground.policy.row_filter(self.request.standing, &source.relation) else {
                continue;
            };
            let unfit = || {
                Refusal::unsupported(
                    "row-filter-above-view",
                    format!(
                        "Menshen cannot prove the row filter of \"{}.{}\" through \"{}.{}\"",
                        source.relation.schema, source.relation.name, protected.name.schema, protected.name.name
                    ),
                    "read the filtered relation itself",
                )
            };
            let map = source.columns.as_ref().ok_or_else(unfit)?;
            parts.push(rewrite_filter(&filter.sql, map).ok_or_else(unfit)?);
            rules.push(filter.rule);
        }
        parts.dedup();
        if parts.is_empty() {
            return Ok(None);
        }
        rules.dedup();
        let sql = if let [one] = parts.as_slice() {
            one.clone()
        } else {
            parts.iter().map(|p| format!("({p})")).collect::<Vec<_>>().join(" AND ")
        };
        self.not_shadowed(&sql)?;
        Ok(Some((rules.join("; "), sql)))
    }

    /// A filter's operators, functions and types are written without schema. Where somebody has made one of the same name, it could stand
    /// in for PostgreSQL's own and let hidden rows through.
    fn not_shadowed(&self, sql: &str) -> Result<(), Refusal> {
        let catalog = &self.ground.catalog;
        let parsed = parse::parse(&format!("SELECT WHERE {sql}"))?;
        let mut shadowed: Option<String> = None;
        for statement in &parsed.statements {
            statement.walk(&mut |n| {
                let names = match n.kind() {
                    "AExpr" => n.names("name"),
                    "TypeName" => n.names("names"),
                    "FuncCall" => n.names("funcname"),
                    _ => None,
                };
                let own = |name: &String| {
                    let functions = || catalog.functions.get(name).into_iter().flatten();
                    let in_path = |home: &String| self.request.search_path.contains(home);
                    let loose = catalog.loose.get(name).into_iter().flatten().any(in_path);
                    let made = |f: &&Function| f.extension.is_none() && in_path(&f.schema);
                    loose || n.kind() == "FuncCall" && functions().any(|f| made(&f))
                };
                if let Some([name]) = names.as_deref()
                    && own(name)
                {
                    shadowed = Some(name.clone());
                }
                shadowed.is_none()
            });
        }
        match shadowed {
            None => Ok(()),
            Some(name) => Err(Refusal::denied(
                "row-filter-shadowed",
                format!("permission denied: the row filter's \"{name}\" could mean another than PostgreSQL's own"),
                "the database has an operator, function or type of that name; the policy can write it as OPERATOR(pg_catalog.…)",
            )),
        }
    }
}

/// A filter over a relation's own columns, with each of them qualified by an alias. `None` where it is of another form.
pub(super) fn qualify_filter(sql: &str, alias: &str) -> Option<String> {
    rewrite_columns(sql, |name| Some(format!("{}.{}", quote(alias), quote(name))))
}

/// Writes a filter over other column names. `None` where it names a column that is not there, or more than columns.
fn rewrite_filter(sql: &str, map: &BTreeMap<String, String>) -> Option<String> {
    rewrite_columns(sql, |name| Some(quote(map.get(name)?)))
}

fn rewrite_columns(sql: &str, rename: impl Fn(&str) -> Option<String>) -> Option<String> {
    const HEAD: &str = "SELECT WHERE ";
    let parsed = parse::parse(&format!("{HEAD}{sql}")).ok()?;
    let [statement] = parsed.statements.as_slice() else {
        return None;
    };
    let mut references: Vec<(usize, String)> = Vec::new();
    let mut fits = true;
    statement.field("stmt").walk(&mut |n| {
        match n.kind() {
            "SubLink" => fits = false,
            "ColumnRef" => match (n.names("fields").as_deref(), n.location()) {
                (Some([name]), Some(at)) => references.push((at, name.clone())),
                _ => fits = false,
            },
            _ => {}
        }
        fits
    });
    if !fits {
        return None;
    }
    references.sort();
    let mut text = String::new();
    let mut at = HEAD.len();
    for (start, name) in references {
        let token = parsed.token(parsed.token_at(start)?)?;
        text.push_str(parsed.text.get(at..start)?);
        text.push_str(&rename(&name)?);
        at = token.end;
    }
    text.push_str(parsed.text.get(at..)?);
    Some(text)
}
