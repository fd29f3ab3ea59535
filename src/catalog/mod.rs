//! What the database contains, as its `pg_catalog` says: relations, columns, types, functions, role memberships.
//!
//! A [`Catalog`] is an immutable snapshot with an epoch; a newer one replaces it whole. It knows nothing of
//! policies. It is built from one JSON document that one query returns ([`introspect::QUERY`]), so the service
//! login and a session inside an uncommitted DDL transaction read it by the same way.

pub mod introspect;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Object identifier of PostgreSQL.
pub type Oid = u32;

/// A schema-qualified relation name, unquoted and case-exact as in `pg_class`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelationName {
    /// `pg_namespace.nspname`
    pub schema: String,
    /// `pg_class.relname`
    pub name: String,
}

/// `pg_class.relkind`, by name. Indexes and other relations that no FROM clause can name are not loaded, except
/// sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
pub enum RelationKind {
    /// `r`
    #[serde(rename = "r")]
    Table,
    /// `p`
    #[serde(rename = "p")]
    PartitionedTable,
    /// `v`
    #[serde(rename = "v")]
    View,
    /// `m`
    #[serde(rename = "m")]
    MaterializedView,
    /// `f`
    #[serde(rename = "f")]
    ForeignTable,
    /// `S`
    #[serde(rename = "S")]
    Sequence,
    /// `t`
    #[serde(rename = "t")]
    Toast,
    /// `c`
    #[serde(rename = "c")]
    CompositeType,
}

/// A column of a relation. Dropped columns are not loaded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Column {
    /// `pg_attribute.attnum`, from 1.
    pub attnum: i16,
    /// `pg_attribute.attname`
    pub name: String,
    /// `pg_attribute.atttypid`
    pub type_oid: Oid,
    /// `format_type(atttypid, atttypmod)` written under an empty search_path, e.g. `character varying(20)`,
    /// `crm.grade`: can be used as a cast target anywhere.
    pub type_sql: String,
    /// The same for the type below any domains: equal to `type_sql` where the type is no domain.
    pub base_type_sql: String,
    /// The type without modifier, domains kept: what a value may be cast to and still be checked on assignment.
    pub assign_type_sql: String,
    /// Oid of the type below any domains.
    pub base_type_oid: Oid,
    /// `pg_type.typcategory` of the base type: `S` string, `N` numeric, `D` date/time, `B` boolean, `U` user, `A` array, `E` enum …
    pub category: char,
    /// `pg_attribute.attnotnull`
    pub not_null: bool,
    /// The expression that a generated column is computed by.
    pub generation: Option<String>,
}

/// A relation: anything a FROM clause can name, and sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`
    pub oid: Oid,
    /// Schema and name.
    pub name: RelationName,
    /// `pg_class.relkind`
    pub kind: RelationKind,
    /// True for `relpersistence = 't'`.
    pub temporary: bool,
    /// Columns by `attnum`.
    pub columns: Vec<Column>,
    /// `pg_get_viewdef` under an empty search_path, for views and materialized views.
    pub view_definition: Option<String>,
    /// Relations it inherits from or is a partition of (`pg_inherits.inhparent`), nearest only.
    pub parents: Vec<Oid>,
    /// Relations that inherit from it, nearest only.
    pub children: Vec<Oid>,
    /// Definitions of its rewrite rules, other than a view's `_RETURN`.
    pub rules: Vec<String>,
}

impl Relation {
    /// The column of that name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}

/// A way of using an object of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// How.
    pub kind: UseKind,
    /// What: an oid of `pg_proc`, `pg_type` or `pg_class`.
    pub oid: Oid,
}

impl Use {
    /// A function is called.
    #[must_use]
    pub const fn call(oid: Oid) -> Self {
        Self {
            kind: UseKind::Call,
            oid,
        }
    }

    /// A value of a type is made or cast.
    #[must_use]
    pub const fn cast(oid: Oid) -> Self {
        Self {
            kind: UseKind::Cast,
            oid,
        }
    }
}

/// How an object is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
pub enum UseKind {
    /// A function is called: its arguments' defaults and types, an aggregate's support functions.
    #[serde(rename = "f")]
    Call,
    /// A value of a type is made or cast: checks of domains, casts, and the same of its parts.
    #[serde(rename = "t")]
    Cast,
    /// A relation is read: a view's query, generated columns, its columns' types.
    #[serde(rename = "r")]
    Read,
    /// A relation is altered, analysed or built anew: checks, indexes, statistics, policies, a materialized view's query.
    #[serde(rename = "m")]
    Maintain,
    /// A relation is written to: triggers, rules, defaults, cascades, and all of the above.
    #[serde(rename = "w")]
    Write,
}

/// A function, procedure or aggregate that is not built in (its oid is 16384 or more, or its schema is not `pg_catalog`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `pg_proc.oid`
    pub oid: Oid,
    /// Schema and name.
    pub schema: String,
    /// `pg_proc.proname`
    pub name: String,
    /// `pg_language.lanname`
    pub language: String,
    /// Source text: `prosrc`, or `pg_get_function_sqlbody` for `BEGIN ATOMIC` bodies.
    pub body: String,
    /// `f` function, `p` procedure, `a` aggregate, `w` window.
    pub kind: char,
    /// For aggregates: qualified names of the support functions that are not built in.
    pub support: Vec<(String, String)>,
    /// Name of the extension it belongs to (`pg_depend` deptype `e`), if any.
    pub extension: Option<String>,
    /// Settings in force while it runs (`SET` clauses), as `name=value`.
    pub settings: Vec<String>,
}

/// An operator that is not built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The schema it is in.
    pub schema: String,
    /// Schema and name of the function behind it.
    pub function: (String, String),
}

/// Whether what is in the schema `home` may be meant by a name before which the text wrote `schema`, or nothing, under the effective path.
/// `pg_temp` is an alias for the session's own temporary schema; those of other sessions only add to what is judged.
#[must_use]
pub fn in_reach(home: &str, schema: Option<&str>, path: &[String]) -> bool {
    match schema {
        Some("pg_temp") => home.starts_with("pg_temp_"),
        Some(schema) => home == schema,
        None => path.iter().any(|s| s == home),
    }
}

/// The oid of `set_config`, the same in every version (pg_proc.dat).
pub const SET_CONFIG: Oid = 2078;

/// One database's catalog at one moment.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Grows with every refresh that changed anything.
    pub epoch: u64,
    /// `current_database()`
    pub database: String,
    /// `server_version_num`, e.g. 150018.
    pub server_version_num: u32,
    /// All relations by oid.
    pub relations: HashMap<Oid, Relation>,
    /// Oids by schema, then name.
    pub by_name: HashMap<String, HashMap<String, Oid>>,
    /// User functions by name (any schema).
    pub functions: HashMap<String, Vec<Function>>,
    /// Operators that are not built in, by name (e.g. `=`).
    pub operators: HashMap<String, Vec<Operator>>,
    /// What runs, or may run, when an object is used: objects that are not built in, and [`SET_CONFIG`].
    pub runs: HashMap<Use, BTreeSet<Use>>,
    /// Types that are not built in, or have casts that are not, by bare name (also the row types of relations), with their schemas.
    pub type_names: HashMap<String, BTreeMap<Oid, String>>,
    /// Bare names of operators and types that are neither built in nor an extension's, with their schemas: anybody may have made them.
    pub loose: HashMap<String, BTreeSet<String>>,
    /// Bare names of the functions, built in or not, that are volatile by their own word (`pg_proc.provolatile`).
    pub volatile: HashSet<String>,
    /// Bare names of all types that are no arrays: `type(value)` is a cast.
    pub types: HashSet<String>,
    /// Role → every role it is a member of, directly or not.
    pub memberships: BTreeMap<String, BTreeSet<String>>,
    /// Versions of the definitions of relations (views, rules, generated columns) and of functions that have a parsed body.
    pub versions: HashMap<(DefinedKind, Oid), String>,
}

/// What a version is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
pub enum DefinedKind {
    /// A relation.
    #[serde(rename = "r")]
    Relation,
    /// A function.
    #[serde(rename = "f")]
    Function,
}

impl Catalog {
    /// The relation of that qualified name.
    #[must_use]
    pub fn relation(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relations.get(self.by_name.get(schema)?.get(name)?)
    }

    /// The relation that PostgreSQL would pick for `name` (with `schema` where the text wrote one) under the
    /// effective path, the answer of `current_schemas(true)`: `pg_temp_…` and `pg_catalog` are in it where they
    /// are searched. `pg_temp` as a written schema means the path's own temporary schema.
    #[must_use]
    pub fn resolve(&self, schema: Option<&str>, name: &str, path: &[String]) -> Option<&Relation> {
        match schema {
            Some("pg_temp") => {
                let own = path.iter().find(|s| s.starts_with("pg_temp_"))?;
                self.relation(own, name)
            }
            Some(schema) => self.relation(schema, name),
            None => path.iter().find_map(|s| self.relation(s, name)),
        }
    }

    /// Takes what could not be read (`barred`) from an earlier catalog of the same database, where that has it in the same version. The error is the
    /// first thing whose definition is not known.
    fn complete(&mut self, barred: BTreeSet<(DefinedKind, Oid)>, before: &Self) -> Result<(), String> {
        for (kind, oid) in barred {
            let known = self.versions.get(&(kind, oid)) == before.versions.get(&(kind, oid));
            let done = known
                && match kind {
                    DefinedKind::Relation => self.relation_from(before, oid),
                    DefinedKind::Function => self.function_from(before, oid),
                };
            if !done {
                let name = self
                    .relations
                    .get(&oid)
                    .map(|r| format!("{}.{}", r.name.schema, r.name.name));
                let name = name.unwrap_or_else(|| format!("function {oid}"));
                return Err(format!(
                    "the definition of {name} cannot be read while another session has what it names locked exclusively"
                ));
            }
        }
        Ok(())
    }

    fn relation_from(&mut self, before: &Self, oid: Oid) -> bool {
        let (Some(new), Some(old)) = (self.relations.get_mut(&oid), before.relations.get(&oid)) else {
            return false;
        };
        new.view_definition.clone_from(&old.view_definition);
        new.rules.clone_from(&old.rules);
        for column in &mut new.columns {
            let same = old.columns.iter().find(|c| c.attnum == column.attnum);
            column.generation = same.and_then(|c| c.generation.clone());
        }
        true
    }

    fn function_from(&mut self, before: &Self, oid: Oid) -> bool {
        let new = self.functions.values_mut().flatten().find(|f| f.oid == oid);
        let old = before.functions.values().flatten().find(|f| f.oid == oid);
        match (new, old) {
            (Some(new), Some(old)) => {
                new.body.clone_from(&old.body);
                true
            }
            (Some(_) | None, _) => false,
        }
    }

    /// Every role that `login` is a member of, directly or not, without itself.
    #[must_use]
    pub fn groups_of(&self, login: &str) -> BTreeSet<String> {
        self.memberships.get(login).cloned().unwrap_or_default()
    }
}

impl Catalog {
    /// Whether another snapshot says the same, whatever its epoch.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.relations == other.relations
            && self.functions == other.functions
            && self.operators == other.operators
            && self.runs == other.runs
            && self.type_names == other.type_names
            && self.volatile == other.volatile
            && self.types == other.types
            && self.loose == other.loose
            && self.memberships == other.memberships
            && self.versions == other.versions
            && self.server_version_num == other.server_version_num
    }
}
