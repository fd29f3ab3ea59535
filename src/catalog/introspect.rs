//! Reading `pg_catalog`: one query, one JSON document, one [`Catalog`].
//!
//! The document holds arrays instead of objects because large catalogs have tens of thousands of columns. The query needs
//! no privilege beyond what every login has; view definitions and function bodies are readable by all in PostgreSQL.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Deserialize;

use super::{
    Catalog, Column, DefinedKind, Function, Oid, Operator, Relation, RelationKind, RelationName, Use, UseKind,
};

/// To be run before [`QUERY`] on its connection: types and definitions are then printed with qualified names.
pub const PREPARE: &str = "SET search_path = ''";

/// Returns one row with one text column: the JSON document that [`parse`] reads. Works on PostgreSQL 14 to 18.
///
/// A cast between a built-in type and another runs when the other is used: whoever makes a type of his own that can be cast to text does not
/// change what the casts of others to text run.
///
/// What compares values by an operator class (ranges, indexes, partitions, types of one's own) runs its functions, though they depend on the class and
/// not it on them.
///
/// Definitions are printed under a lock on the relations that they name. What another session holds or wants exclusively is not waited for: its
/// definitions are left out, and marked: [`parse`] takes them from an earlier reading of the same version (what is stored, and the names of what it
/// names).
///
/// Since 16 a membership may give neither the role's privileges nor the right to become it, only to administer it (what a role
/// that may create roles is given of each that it creates): that is no membership.
pub const QUERY: &str = "
WITH RECURSIVE belongs(member, roleid) AS (
    SELECT m.member, m.roleid FROM pg_catalog.pg_auth_members m
      CROSS JOIN LATERAL pg_catalog.to_jsonb(m) o
     WHERE COALESCE((o ->> 'inherit_option')::bool, true) OR COALESCE((o ->> 'set_option')::bool, true)
), member(role, of) AS (
    SELECT m.member, m.roleid FROM belongs m
  UNION
    SELECT member.role, m.roleid FROM member JOIN belongs m ON m.member = member.of
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
), thing(class, oid, kind, owner, tree) AS (
    SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, t.oid, 'w', t.tgrelid, t.tgqual::pg_catalog.text FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal
  UNION ALL SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid, CASE WHEN a.attgenerated = '' THEN 'w' ELSE 'r' END, d.adrelid, d.adbin::pg_catalog.text
      FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
  UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid, CASE WHEN c.conrelid = 0 THEN 't' ELSE 'm' END,
      CASE WHEN c.conrelid = 0 THEN c.contypid ELSE c.conrelid END, c.conbin::pg_catalog.text FROM pg_catalog.pg_constraint c
  UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid, 'm', i.indrelid, NULL FROM pg_catalog.pg_index i
  UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 'm', c.oid, NULL FROM pg_catalog.pg_class c WHERE c.relkind = 'p'
  UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid, 'm', p.polrelid, pg_catalog.concat(p.polqual::pg_catalog.text, p.polwithcheck::pg_catalog.text) FROM pg_catalog.pg_policy p
  UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid, 'm', s.stxrelid, NULL FROM pg_catalog.pg_statistic_ext s
  UNION ALL SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, w.oid, k.kind, w.ev_class, NULL
      FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
      JOIN (VALUES ('r'), ('m'), ('w')) k(kind) ON k.kind = 'w' OR w.rulename = '_RETURN' AND k.kind = CASE c.relkind WHEN 'v' THEN 'r' ELSE 'm' END
     WHERE w.ev_class >= 16384
  UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 'f', p.oid, NULL FROM pg_catalog.pg_proc p WHERE p.oid >= 16384
  UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 't', t.oid, NULL FROM pg_catalog.pg_type t WHERE t.oid >= 16384
), coded(opclass, code) AS (
    SELECT o.oid, p.amproc::pg_catalog.oid FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_amproc p ON p.amprocfamily = o.opcfamily
     WHERE p.amproc::pg_catalog.oid >= 16384
  UNION SELECT o.oid, w.oprcode::pg_catalog.oid FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_amop a ON a.amopfamily = o.opcfamily
      JOIN pg_catalog.pg_operator w ON w.oid = a.amopopr WHERE w.oprcode::pg_catalog.oid >= 16384
), locked AS MATERIALIZED (
    SELECT l.relation AS oid FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
     WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
       AND d.datname = pg_catalog.current_database()
), barred AS MATERIALIZED (
    SELECT 'r' AS kind, l.oid FROM locked l
  UNION SELECT 'r', w.ev_class FROM locked l JOIN pg_catalog.pg_depend x ON x.refobjid = l.oid
      AND x.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND x.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      JOIN pg_catalog.pg_rewrite w ON w.oid = x.objid
  UNION SELECT 'f', x.objid FROM locked l JOIN pg_catalog.pg_depend x ON x.refobjid = l.oid
      AND x.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
), named(class, oid, text) AS (
    SELECT x.classid, x.objid, pg_catalog.concat('n', x.refobjid, '.', x.refobjsubid, '.', n.nspname, '.', c.relname, '.', a.attname)
      FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_class c ON c.oid = x.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = x.refobjid AND a.attnum = x.refobjsubid
     WHERE x.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  UNION ALL SELECT x.classid, x.objid, pg_catalog.concat('p', p.oid, '.', n.nspname, '.', p.proname)
      FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_proc p ON p.oid = x.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
), version(kind, oid, text) AS (
    SELECT 'r', v.of, pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.string_agg(v.text, ' ' ORDER BY v.text), pg_catalog.getdatabaseencoding()))::pg_catalog.text FROM (
        SELECT w.ev_class AS of, m.text FROM pg_catalog.pg_rewrite w JOIN named m ON m.oid = w.oid
           AND m.class = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      UNION ALL SELECT d.adrelid, m.text FROM pg_catalog.pg_attrdef d JOIN named m ON m.oid = d.oid
           AND m.class = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
      UNION ALL SELECT w.ev_class AS of, pg_catalog.concat('w', w.oid, '.', w.xmin) AS text FROM pg_catalog.pg_rewrite w
      UNION ALL SELECT d.adrelid, pg_catalog.concat('d', d.oid, '.', d.xmin) FROM pg_catalog.pg_attrdef d
          JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> '') v
     WHERE v.of >= 16384 GROUP BY v.of
  UNION ALL SELECT 'f', p.oid, pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat(p.xmin, ' ',
        pg_catalog.string_agg(m.text, ' ' ORDER BY m.text)), pg_catalog.getdatabaseencoding()))::pg_catalog.text
      FROM pg_catalog.pg_proc p LEFT JOIN named m ON m.oid = p.oid AND m.class = 'pg_catalog.pg_proc'::pg_catalog.regclass
     WHERE p.prosqlbody IS NOT NULL AND p.oid >= 16384 GROUP BY p.oid, p.xmin
)
SELECT pg_catalog.json_build_object(
  'versions', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(v.kind, v.oid::bigint, v.text, b.oid IS NOT NULL))
      FROM version v LEFT JOIN barred b ON b.kind = v.kind AND b.oid = v.oid),
  'database', pg_catalog.current_database(),
  'version', pg_catalog.current_setting('server_version_num')::int,
  'relations', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(r.oid::bigint, r.nspname, r.relname, r.relkind,
        r.relpersistence = 't',
        CASE WHEN r.relkind IN ('v', 'm') AND NOT r.system AND NOT EXISTS (SELECT 1 FROM barred b WHERE b.kind = 'r' AND b.oid = r.oid)
          THEN pg_catalog.pg_get_viewdef(r.oid) END,
        (SELECT pg_catalog.json_agg(pg_catalog.pg_get_ruledef(w.oid) ORDER BY w.oid) FROM pg_catalog.pg_rewrite w
          WHERE w.ev_class = r.oid AND w.rulename <> '_RETURN' AND NOT r.system
            AND NOT EXISTS (SELECT 1 FROM barred b WHERE b.kind = 'r' AND b.oid = r.oid)))
        ORDER BY r.oid) FROM rel r),
  'runs', (SELECT pg_catalog.json_agg(DISTINCT pg_catalog.jsonb_build_array(e.kind, e.of::bigint, e.on_kind, e.on_oid::bigint)) FROM (
        SELECT thing.kind, thing.owner AS of, used.kind AS on_kind, used.oid AS on_oid
          FROM thing JOIN pg_catalog.pg_depend x ON x.classid = thing.class AND x.objid = thing.oid AND x.deptype <> 'e'
          CROSS JOIN LATERAL (
                SELECT 'f' AS kind, x.refobjid AS oid WHERE x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
              UNION ALL SELECT 'f', o.oprcode FROM pg_catalog.pg_operator o
                WHERE x.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = x.refobjid
              UNION ALL SELECT 't', x.refobjid WHERE x.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
              UNION ALL SELECT thing.kind, x.refobjid WHERE x.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                AND thing.class = 'pg_catalog.pg_rewrite'::pg_catalog.regclass) used
      UNION ALL SELECT thing.kind, thing.owner, 'f', 2078 FROM thing WHERE thing.tree LIKE '%:funcid 2078 %'
      UNION ALL SELECT 'r', c.oid, 't', c.reltype FROM pg_catalog.pg_class c WHERE c.reltype >= 16384
      UNION ALL SELECT 't', c.reltype, 't', a.atttypid FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped WHERE c.reltype >= 16384
      UNION ALL SELECT 't', t.oid, 't', other.oid FROM pg_catalog.pg_type t CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) other(oid)
          WHERE t.oid >= 16384
      UNION ALL SELECT 't', t.oid, 'f', c.castfunc FROM pg_catalog.pg_cast c CROSS JOIN LATERAL (VALUES (c.castsource, c.casttarget), (c.casttarget, c.castsource)) t(oid, other)
          WHERE t.oid >= 16384 OR t.other < 16384
      UNION ALL SELECT 't', t.oid, 'f', d.code FROM coded d JOIN pg_catalog.pg_range r ON r.rngsubopc = d.opclass
          CROSS JOIN LATERAL (VALUES (r.rngtypid), (r.rngmultitypid)) t(oid)
      UNION ALL SELECT 't', o.opcintype, 'f', d.code FROM coded d JOIN pg_catalog.pg_opclass o ON o.oid = d.opclass WHERE o.opcintype >= 16384
      UNION ALL SELECT k.kind, i.indrelid, 'f', d.code FROM coded d JOIN pg_catalog.pg_index i ON d.opclass = ANY (i.indclass)
          CROSS JOIN (VALUES ('r'), ('m'), ('w')) k(kind)
      UNION ALL SELECT k.kind, i.partrelid, 'f', d.code FROM coded d JOIN pg_catalog.pg_partitioned_table i ON d.opclass = ANY (i.partclass)
          CROSS JOIN (VALUES ('r'), ('m'), ('w')) k(kind)
      UNION ALL SELECT k.kind, i.inhparent, k.kind, i.inhrelid FROM pg_catalog.pg_inherits i CROSS JOIN (VALUES ('r'), ('m'), ('w')) k(kind)
      UNION ALL SELECT 'w', i.inhrelid, 'w', i.inhparent FROM pg_catalog.pg_inherits i
      UNION ALL SELECT 'w', c.confrelid, 'w', c.conrelid FROM pg_catalog.pg_constraint c
          WHERE c.contype = 'f' AND (c.confdeltype IN ('c', 'n', 'd') OR c.confupdtype IN ('c', 'n', 'd'))) e
     WHERE (e.on_oid >= 16384 OR e.on_kind = 'f' AND e.on_oid = 2078) AND e.of <> 0 AND (e.kind, e.of) IS DISTINCT FROM (e.on_kind, e.on_oid)),
  'type_names', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(t.typname, t.oid::bigint, n.nspname))
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid >= 16384 OR EXISTS (SELECT 1 FROM pg_catalog.pg_cast c WHERE t.oid IN (c.castsource, c.casttarget) AND c.castfunc >= 16384)),
  'loose', (SELECT pg_catalog.json_agg(DISTINCT pg_catalog.jsonb_build_array(loose.name, n.nspname)) FROM (
        SELECT o.oprname AS name, o.oid, 'pg_catalog.pg_operator'::pg_catalog.regclass AS of, o.oprnamespace AS schema
          FROM pg_catalog.pg_operator o
      UNION ALL SELECT t.typname, t.oid, 'pg_catalog.pg_type'::pg_catalog.regclass, t.typnamespace
          FROM pg_catalog.pg_type t WHERE t.typcategory <> 'A') loose
      JOIN pg_catalog.pg_namespace n ON n.oid = loose.schema AND n.nspname NOT IN ('pg_catalog', 'information_schema')
     WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE x.classid = loose.of AND x.objid = loose.oid AND x.deptype = 'e')),
  'volatile', (SELECT pg_catalog.json_agg(DISTINCT p.proname) FROM pg_catalog.pg_proc p WHERE p.provolatile = 'v'),
  'types', (SELECT pg_catalog.json_agg(DISTINCT t.typname) FROM pg_catalog.pg_type t WHERE t.typcategory <> 'A'),
  'columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attrelid::bigint, a.attnum, a.attname, a.atttypid::bigint,
        pg_catalog.format_type(a.atttypid, a.atttypmod),
        pg_catalog.format_type(COALESCE(d.base, a.atttypid), COALESCE(d.typmod, a.atttypmod)),
        COALESCE(d.base, a.atttypid)::bigint, t.typcategory, a.attnotnull, pg_catalog.format_type(a.atttypid, -1), 
        CASE WHEN a.attgenerated <> '' AND NOT EXISTS (SELECT 1 FROM barred b WHERE b.kind = 'r' AND b.oid = r.oid) THEN (SELECT pg_catalog.pg_get_expr(g.adbin, g.adrelid) FROM pg_catalog.pg_attrdef g
          WHERE g.adrelid = a.attrelid AND g.adnum = a.attnum) END) ORDER BY a.attrelid, a.attnum)
      FROM pg_catalog.pg_attribute a JOIN rel r ON r.oid = a.attrelid AND r.relkind NOT IN ('S', 't')
      LEFT JOIN domain d ON d.oid = a.atttypid
      JOIN pg_catalog.pg_type t ON t.oid = COALESCE(d.base, a.atttypid)
     WHERE a.attnum > 0 AND NOT a.attisdropped),
  'inherits', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(i.inhrelid::bigint, i.inhparent::bigint)
        ORDER BY i.inhrelid, i.inhparent) FROM pg_catalog.pg_inherits i),
  'functions', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(p.oid::bigint, n.nspname, p.proname, l.lanname,
        CASE WHEN p.prokind = 'a' THEN '' WHEN EXISTS (SELECT 1 FROM barred b WHERE b.kind = 'f' AND b.oid = p.oid) THEN p.prosrc
          ELSE COALESCE(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc) END, p.prokind,
        (SELECT e.extname FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_extension e ON e.oid = x.refobjid
          WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.objid = p.oid AND x.deptype = 'e'
            AND x.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass LIMIT 1),
        (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(fn.nspname, f.proname))
           FROM pg_catalog.pg_aggregate g
           JOIN pg_catalog.pg_proc f ON f.oid IN (g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggserialfn, g.aggdeserialfn,
                g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn)
           JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
          WHERE g.aggfnoid = p.oid AND f.oid >= 16384), p.proconfig)
        ORDER BY p.oid)
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      JOIN pg_catalog.pg_language l ON l.oid = p.prolang
     WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') OR p.oid >= 16384),
  'operators', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(o.oprname, own.nspname, n.nspname, p.proname) ORDER BY o.oid)
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
    versions: Option<Vec<(DefinedKind, Oid, String, bool)>>,
    relations: Option<Vec<RelationRow>>,
    columns: Option<Vec<ColumnRow>>,
    inherits: Option<Vec<(Oid, Oid)>>,
    runs: Option<Vec<(UseKind, Oid, UseKind, Oid)>>,
    type_names: Option<Vec<(String, Oid, String)>>,
    loose: Option<Vec<(String, String)>>,
    volatile: Option<HashSet<String>>,
    types: Option<HashSet<String>>,
    functions: Option<Vec<FunctionRow>>,
    operators: Option<Vec<(String, String, String, String)>>,
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
    Option<Vec<String>>,
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

/// Builds a catalog from the document that [`QUERY`] returned; its epoch is `epoch`. What could not be read now is taken from `before`, an earlier
/// catalog of the same database.
///
/// # Errors
/// Where the document is not of the expected shape, or lacks what `before` does not have in the same version.
pub fn parse(document: &str, epoch: u64, before: Option<&Catalog>) -> Result<Catalog, Unreadable> {
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
    let mut runs: HashMap<Use, BTreeSet<Use>> = HashMap::new();
    for (kind, of, on_kind, on) in document.runs.unwrap_or_default() {
        runs.entry(Use { kind, oid: of })
            .or_default()
            .insert(Use { kind: on_kind, oid: on });
    }
    let mut type_names: HashMap<String, BTreeMap<Oid, String>> = HashMap::new();
    for (name, oid, schema) in document.type_names.unwrap_or_default() {
        type_names.entry(name).or_default().insert(oid, schema);
    }
    let mut loose: HashMap<String, BTreeSet<String>> = HashMap::new();
    for (name, schema) in document.loose.unwrap_or_default() {
        loose.entry(name).or_default().insert(schema);
    }
    let mut functions: HashMap<String, Vec<Function>> = HashMap::new();
    for (oid, schema, name, language, body, kind, extension, support, settings) in
        document.functions.unwrap_or_default()
    {
        functions.entry(name.clone()).or_default().push(Function {
            oid,
            schema,
            name,
            language,
            body: body.unwrap_or_default(),
            kind,
            support: support.unwrap_or_default(),
            extension,
            settings: settings.unwrap_or_default(),
        });
    }
    let mut operators: HashMap<String, Vec<Operator>> = HashMap::new();
    for (name, schema, function_schema, function) in document.operators.unwrap_or_default() {
        operators.entry(name).or_default().push(Operator {
            schema,
            function: (function_schema, function),
        });
    }
    let mut memberships: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (role, of) in document.members.unwrap_or_default() {
        memberships.entry(role).or_default().insert(of);
    }
    let mut versions = HashMap::new();
    let mut barred = BTreeSet::new();
    for (kind, oid, version, is_barred) in document.versions.unwrap_or_default() {
        versions.insert((kind, oid), version);
        if is_barred {
            barred.insert((kind, oid));
        }
    }
    let mut catalog = Catalog {
        versions,
        epoch,
        database: document.database,
        server_version_num: document.version,
        relations,
        by_name,
        functions,
        operators,
        runs,
        type_names,
        loose,
        volatile: document.volatile.unwrap_or_default(),
        types: document.types.unwrap_or_default(),
        memberships,
    };
    let nothing = Catalog::default();
    catalog
        .complete(barred, before.unwrap_or(&nothing))
        .map_err(Unreadable)?;
    Ok(catalog)
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
