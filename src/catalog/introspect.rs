//! Reading `pg_catalog`: one query, one JSON document, one [`Catalog`].
//!
//! The document holds arrays instead of objects because large catalogs have tens of thousands of columns. The query needs
//! no privilege beyond what every login has; view definitions and function bodies are readable by all in PostgreSQL.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Deserialize;

use super::{Catalog, Column, Function, Oid, Relation, RelationKind, RelationName};

/// To be run before [`QUERY`] on its connection: types and definitions are then printed with qualified names.
pub const PREPARE: &str = "SET search_path = ''";

/// Returns one row with one text column: the JSON document that [`parse`] reads. Works on PostgreSQL 14 to 18.
pub const QUERY: &str = "
WITH RECURSIVE member(role, of) AS (
    SELECT m.member, m.roleid FROM pg_catalog.pg_auth_members m
  UNION
    SELECT member.role, m.roleid FROM member JOIN pg_catalog.pg_auth_members m ON m.member = member.of
), base(oid, base, depth) AS (
    SELECT t.oid, t.oid, 0 FROM pg_catalog.pg_type t WHERE t.typtype = 'd'
  UNION ALL
    SELECT base.oid, t.typbasetype, base.depth + 1 FROM base JOIN pg_catalog.pg_type t ON t.oid = base.base WHERE t.typtype = 'd'
), domain AS (
    SELECT DISTINCT ON (b.oid) b.oid, b.base,
           (SELECT d.typtypmod FROM base p JOIN pg_catalog.pg_type d ON d.oid = p.base
             WHERE p.oid = b.oid AND p.depth = b.depth - 1) AS typmod
      FROM base b ORDER BY b.oid, b.depth DESC
), rel AS (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence,
           n.nspname IN ('pg_catalog', 'information_schema') AS system
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 't')
)
SELECT pg_catalog.json_build_object(
  'database', pg_catalog.current_database(),
  'version', pg_catalog.current_setting('server_version_num')::int,
  'relations', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(r.oid::bigint, r.nspname, r.relname, r.relkind,
        r.relpersistence = 't',
        CASE WHEN r.relkind IN ('v', 'm') AND NOT r.system THEN pg_catalog.pg_get_viewdef(r.oid) END,
        (SELECT pg_catalog.json_agg(pg_catalog.pg_get_ruledef(w.oid) ORDER BY w.oid) FROM pg_catalog.pg_rewrite w
          WHERE w.ev_class = r.oid AND w.rulename <> '_RETURN' AND NOT r.system))
        ORDER BY r.oid) FROM rel r),
  'code', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(code.relation::bigint, code.function::bigint)) FROM (
        SELECT t.tgrelid AS relation, t.tgfoid AS function FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal
      UNION SELECT d.adrelid, x.refobjid FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_depend x
            ON x.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND x.objid = d.oid
           AND x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      UNION SELECT c.conrelid, x.refobjid FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_depend x
            ON x.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND x.objid = c.oid
           AND x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass WHERE c.conrelid <> 0
      UNION SELECT a.attrelid, x.refobjid FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_depend x
            ON x.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND x.objid = c.oid
           AND x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
            JOIN pg_catalog.pg_attribute a ON a.atttypid = c.contypid WHERE c.contypid <> 0
      UNION SELECT i.indrelid, x.refobjid FROM pg_catalog.pg_index i JOIN pg_catalog.pg_depend x
            ON x.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND x.objid = i.indexrelid
           AND x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      UNION SELECT p.polrelid, x.refobjid FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_depend x
            ON x.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND x.objid = p.oid
           AND x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass) code WHERE code.function >= 16384),
  'casts', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(t.typname, c.castfunc::bigint))
      FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_type t ON t.oid IN (c.casttarget, c.castsource) WHERE c.castfunc >= 16384),
  'loose', (SELECT pg_catalog.json_agg(DISTINCT loose.name) FROM (
        SELECT o.oprname AS name, o.oid, 'pg_catalog.pg_operator'::pg_catalog.regclass AS of, o.oprnamespace AS schema
          FROM pg_catalog.pg_operator o
      UNION ALL SELECT t.typname, t.oid, 'pg_catalog.pg_type'::pg_catalog.regclass, t.typnamespace
          FROM pg_catalog.pg_type t WHERE t.typcategory <> 'A') loose
      JOIN pg_catalog.pg_namespace n ON n.oid = loose.schema AND n.nspname NOT IN ('pg_catalog', 'information_schema')
     WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE x.classid = loose.of AND x.objid = loose.oid AND x.deptype = 'e')),
  'types', (SELECT pg_catalog.json_agg(DISTINCT t.typname) FROM pg_catalog.pg_type t WHERE t.typcategory <> 'A'),
  'domains', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(t.typname, x.refobjid::bigint))
      FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_depend x
            ON x.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND x.objid = c.oid
           AND x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.refobjid >= 16384
      JOIN pg_catalog.pg_type t ON t.oid = c.contypid),
  'columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attrelid::bigint, a.attnum, a.attname, a.atttypid::bigint,
        pg_catalog.format_type(a.atttypid, a.atttypmod),
        pg_catalog.format_type(COALESCE(d.base, a.atttypid), COALESCE(d.typmod, a.atttypmod)),
        COALESCE(d.base, a.atttypid)::bigint, t.typcategory, a.attnotnull, pg_catalog.format_type(a.atttypid, -1), 
        CASE WHEN a.attgenerated <> '' THEN (SELECT pg_catalog.pg_get_expr(g.adbin, g.adrelid) FROM pg_catalog.pg_attrdef g
          WHERE g.adrelid = a.attrelid AND g.adnum = a.attnum) END) ORDER BY a.attrelid, a.attnum)
      FROM pg_catalog.pg_attribute a JOIN rel r ON r.oid = a.attrelid AND r.relkind NOT IN ('S', 't')
      LEFT JOIN domain d ON d.oid = a.atttypid
      JOIN pg_catalog.pg_type t ON t.oid = COALESCE(d.base, a.atttypid)
     WHERE a.attnum > 0 AND NOT a.attisdropped),
  'inherits', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(i.inhrelid::bigint, i.inhparent::bigint)
        ORDER BY i.inhrelid, i.inhparent) FROM pg_catalog.pg_inherits i),
  'functions', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(p.oid::bigint, n.nspname, p.proname, l.lanname,
        CASE WHEN p.prokind = 'a' THEN '' ELSE COALESCE(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc) END, p.prokind,
        (SELECT e.extname FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_extension e ON e.oid = x.refobjid
          WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.objid = p.oid AND x.deptype = 'e'
            AND x.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass LIMIT 1),
        (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(fn.nspname, f.proname))
           FROM pg_catalog.pg_aggregate g
           JOIN pg_catalog.pg_proc f ON f.oid IN (g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggserialfn, g.aggdeserialfn,
                g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn)
           JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
          WHERE g.aggfnoid = p.oid AND f.oid >= 16384))
        ORDER BY p.oid)
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      JOIN pg_catalog.pg_language l ON l.oid = p.prolang
     WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') OR p.oid >= 16384),
  'operators', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(o.oprname, n.nspname, p.proname) ORDER BY o.oid)
      FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      JOIN pg_catalog.pg_namespace own ON own.oid = o.oprnamespace
     WHERE own.nspname <> 'pg_catalog' OR o.oid >= 16384),
  'members', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(r.rolname, g.rolname) ORDER BY r.rolname, g.rolname)
      FROM member JOIN pg_catalog.pg_roles r ON r.oid = member.role JOIN pg_catalog.pg_roles g ON g.oid = member.of)
)::pg_catalog.text";

/// Why the document could not be read.
#[derive(Debug, thiserror::Error)]
#[error("catalog document: {0}")]
pub struct Unreadable(String);

#[derive(Deserialize)]
struct Document {
    database: String,
    version: u32,
    relations: Option<Vec<RelationRow>>,
    columns: Option<Vec<ColumnRow>>,
    inherits: Option<Vec<(Oid, Oid)>>,
    code: Option<Vec<(Oid, Oid)>>,
    casts: Option<Vec<(String, Oid)>>,
    domains: Option<Vec<(String, Oid)>>,
    loose: Option<HashSet<String>>,
    types: Option<HashSet<String>>,
    functions: Option<Vec<FunctionRow>>,
    operators: Option<Vec<(String, String, String)>>,
    members: Option<Vec<(String, String)>>,
}

type RelationRow = (
    Oid,
    String,
    String,
    RelationKind,
    bool,
    Option<String>,
    Option<Vec<String>>,
);
type ColumnRow = (
    Oid,
    i16,
    String,
    Oid,
    String,
    String,
    Oid,
    char,
    bool,
    String,
    Option<String>,
);
type FunctionRow = (
    Oid,
    String,
    String,
    String,
    Option<String>,
    char,
    Option<String>,
    Option<Vec<(String, String)>>,
);

/// Types of the grammar's own: their names mean PostgreSQL's types whatever the search path holds.
const GRAMMAR_TYPES: [&str; 16] = [
    "bigint",
    "bit",
    "boolean",
    "character",
    "dec",
    "decimal",
    "double",
    "float",
    "int",
    "integer",
    "interval",
    "numeric",
    "real",
    "smallint",
    "time",
    "timestamp",
];

/// A type as `format_type` writes it, so that no temporary table or type of its name can stand in for it: `text` → `pg_catalog.text`.
fn qualified(name: String) -> String {
    let end = if name.starts_with('"') {
        name.get(1..)
            .and_then(|rest| rest.find('"'))
            .map_or(name.len(), |at| at + 2)
    } else {
        name.find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(name.len())
    };
    let (word, rest) = name.split_at(end);
    if rest.starts_with('.') || GRAMMAR_TYPES.contains(&word) {
        return name;
    }
    format!("pg_catalog.{name}")
}

/// Builds a catalog from the document that [`QUERY`] returned; its epoch is `epoch`.
///
/// # Errors
/// Where the document is not of the expected shape.
pub fn parse(document: &str, epoch: u64) -> Result<Catalog, Unreadable> {
    let document: Document = serde_json::from_str(document).map_err(|e| Unreadable(e.to_string()))?;
    let mut relations: HashMap<Oid, Relation> = HashMap::new();
    let mut by_name: HashMap<String, HashMap<String, Oid>> = HashMap::new();
    for (oid, schema, name, kind, temporary, view_definition, rules) in document.relations.unwrap_or_default() {
        by_name.entry(schema.clone()).or_default().insert(name.clone(), oid);
        relations.insert(
            oid,
            Relation {
                oid,
                name: RelationName { schema, name },
                kind,
                temporary,
                columns: Vec::new(),
                view_definition,
                parents: Vec::new(),
                children: Vec::new(),
                rules: rules.unwrap_or_default(),
                code: Vec::new(),
            },
        );
    }
    for (
        relation,
        attnum,
        name,
        type_oid,
        type_sql,
        base_type_sql,
        base_type_oid,
        category,
        not_null,
        assign_type_sql,
        generation,
    ) in document.columns.unwrap_or_default()
    {
        let column = Column {
            attnum,
            name,
            type_oid,
            type_sql: qualified(type_sql),
            base_type_sql: qualified(base_type_sql),
            base_type_oid,
            category,
            not_null,
            assign_type_sql: qualified(assign_type_sql),
            generation,
        };
        if let Some(relation) = relations.get_mut(&relation) {
            relation.columns.push(column);
        }
    }
    for (child, parent) in document.inherits.unwrap_or_default() {
        // Indexes of partitioned tables inherit too; they are not in `relations`.
        if relations.contains_key(&child) && relations.contains_key(&parent) {
            if let Some(relation) = relations.get_mut(&child) {
                relation.parents.push(parent);
            }
            if let Some(relation) = relations.get_mut(&parent) {
                relation.children.push(child);
            }
        }
    }
    for (relation, function) in document.code.unwrap_or_default() {
        if let Some(relation) = relations.get_mut(&relation) {
            relation.code.push(function);
        }
    }
    let mut type_code: HashMap<String, Vec<Oid>> = HashMap::new();
    let casts = document.casts.unwrap_or_default().into_iter();
    for (name, function) in casts.chain(document.domains.unwrap_or_default()) {
        type_code.entry(name).or_default().push(function);
    }
    let mut functions: HashMap<String, Vec<Function>> = HashMap::new();
    for (oid, schema, name, language, body, kind, extension, support) in document.functions.unwrap_or_default() {
        functions.entry(name.clone()).or_default().push(Function {
            oid,
            schema,
            name,
            language,
            body: body.unwrap_or_default(),
            kind,
            support: support.unwrap_or_default(),
            extension,
        });
    }
    let mut operators: HashMap<String, Vec<(String, String)>> = HashMap::new();
    for (name, schema, function) in document.operators.unwrap_or_default() {
        operators.entry(name).or_default().push((schema, function));
    }
    let mut memberships: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (role, of) in document.members.unwrap_or_default() {
        memberships.entry(role).or_default().insert(of);
    }
    Ok(Catalog {
        epoch,
        database: document.database,
        server_version_num: document.version,
        relations,
        by_name,
        functions,
        operators,
        type_code,
        loose: document.loose.unwrap_or_default(),
        types: document.types.unwrap_or_default(),
        memberships,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_qualified_unless_the_grammar_owns_them() {
        assert!(GRAMMAR_TYPES.is_sorted());
        for (name, wanted) in [
            ("text", "pg_catalog.text"),
            ("text[]", "pg_catalog.text[]"),
            ("\"char\"", "pg_catalog.\"char\""),
            ("bpchar", "pg_catalog.bpchar"),
            ("character varying(20)", "character varying(20)"),
            ("timestamp(3) with time zone", "timestamp(3) with time zone"),
            ("crm.phone_number", "crm.phone_number"),
            ("\"My schema\".t", "\"My schema\".t"),
            ("numeric(10,2)", "numeric(10,2)"),
        ] {
            assert_eq!(qualified(name.to_owned()), wanted);
        }
    }
}
