//! The walk, the edit and its verification over many shapes of query, without a server.

mod forms;
mod parts;

use std::sync::Arc;

use super::scope::{Given, Lookup, Many, Output, People, Stop, Treated, Walk};
use super::tree::Tree;
use super::{edit, parse, protected, verify};
use crate::catalog::{Catalog, Column, Relation, RelationKind, RelationName};
use crate::ledger::Categories;
use crate::mask::TokenSettings;
use crate::policy::MaskSpec;
use crate::wire::Refusal;
use protected::{ColumnTreatment, Kind, PersonKey, Protected, ProtectedColumn, Source};

fn relation(oid: u32, name: &str, columns: &[(&str, &str)]) -> Relation {
    Relation {
        oid,
        name: RelationName {
            schema: "crm".into(),
            name: name.into(),
        },
        kind: RelationKind::Table,
        temporary: false,
        columns: columns
            .iter()
            .enumerate()
            .map(|(i, (name, ty))| Column {
                attnum: i16::try_from(i + 1).unwrap(),
                name: (*name).into(),
                type_oid: 25,
                type_sql: (*ty).into(),
                base_type_sql: (*ty).into(),
                base_type_oid: 25,
                category: 'S',
                not_null: *name == "id" || *name == "customer_id",
                generation: None,
                assign_type_sql: (*ty).into(),
            })
            .collect(),
        view_definition: None,
        parents: vec![],
        children: vec![],
        rules: vec![],
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog {
        database: "shop".into(),
        ..Default::default()
    };
    for r in [
        relation(
            1,
            "customers",
            &[
                ("id", "bigint"),
                ("name", "text"),
                ("id_card", "text"),
                ("phone", "text"),
                ("email", "text"),
                ("address", "text"),
                ("birth", "date"),
                ("grade", "text"),
                ("city", "text"),
                ("created_at", "timestamptz"),
            ],
        ),
        relation(
            2,
            "messages",
            &[
                ("id", "bigint"),
                ("customer_id", "bigint"),
                ("sent_at", "timestamptz"),
                ("body", "text"),
            ],
        ),
        relation(
            3,
            "orders",
            &[
                ("id", "bigint"),
                ("customer_id", "bigint"),
                ("item", "text"),
                ("total", "numeric"),
                ("status", "text"),
                ("at", "timestamptz"),
            ],
        ),
        relation(4, "products", &[("id", "int"), ("name", "text"), ("price", "numeric")]),
        relation(5, "phones", &[("phone", "text")]),
    ] {
        catalog
            .by_name
            .entry("crm".into())
            .or_default()
            .insert(r.name.name.clone(), r.oid);
        catalog.relations.insert(r.oid, r);
    }
    catalog
}

struct Look {
    catalog: Catalog,
    path: Vec<String>,
    /// Classified columns are clear and counted, else masked and not counted.
    clear: bool,
    /// Whether what cannot be counted is refused; else it is told.
    metered: bool,
}

impl Lookup for Look {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }
    fn path(&self) -> &[String] {
        &self.path
    }
    fn protected(&self, relation: &Relation) -> Result<Option<Arc<Protected>>, Refusal> {
        let (classified, person): (&[&str], &str) = match relation.name.name.as_str() {
            "customers" => (&["name", "id_card", "phone", "email", "address", "birth"], "id"),
            "messages" => (&["body"], "customer_id"),
            // Whom a row is about is not to be told.
            "phones" => (&["phone"], "id"),
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Protected {
            oid: relation.oid,
            name: relation.name.clone(),
            columns: relation
                .columns
                .iter()
                .map(|c| ProtectedColumn {
                    column: c.clone(),
                    sources: if classified.contains(&c.name.as_str()) {
                        vec![Source {
                            class: c.name.clone(),
                            relation: relation.name.clone(),
                            column: c.name.clone(),
                        }]
                    } else {
                        vec![]
                    },
                    identity: true,
                    key: 0,
                })
                .collect(),
            keys: vec![PersonKey {
                space: "crm.customers".into(),
                column: Some(person.to_owned()).filter(|p| relation.columns.iter().any(|c| c.name == *p)),
                not_null: true,
                most: Many::AtMost(1),
            }],
            filters: vec![],
            opaque: None,
        })))
    }
    fn treat(&self, protected: &Arc<Protected>) -> Result<Treated, Refusal> {
        Ok(Treated {
            treatments: protected
                .columns
                .iter()
                .map(|c| {
                    (!c.sources.is_empty()).then(|| ColumnTreatment {
                        kind: if self.clear {
                            Kind::Clear
                        } else {
                            Kind::Mask(MaskSpec::Null)
                        },
                        rule: "test".into(),
                        class: c.column.name.clone(),
                        compare: crate::policy::Compare::Masked,
                        compared: Categories::NONE,
                        write: false,
                        derive: false,
                        counts: if self.clear { Categories(1) } else { Categories::NONE },
                    })
                })
                .collect(),
            // With a filter so that clear scans are replaced too.
            replaced: true,
            filter: Some(("test".into(), "\"grade\" IS NOT NULL".into()))
                .filter(|_| protected.name.name == "customers"),
        })
    }
    fn keeps(&self, _: Given<'_>) -> bool {
        false
    }

    fn function(&self, _: &[String], _: &Tree) -> Result<(), Refusal> {
        Ok(())
    }
    fn modifies(&self, _: &Relation) -> Result<(), Refusal> {
        Ok(())
    }
    fn may_insert_masked(&self) -> bool {
        true
    }
    fn min_group(&self) -> Option<u32> {
        None
    }
    fn metered(&self) -> bool {
        self.metered
    }
}

fn look(clear: bool) -> Look {
    Look {
        catalog: catalog(),
        path: vec!["pg_catalog".into(), "crm".into()],
        clear,
        metered: true,
    }
}

/// Edited text, hidden columns, number of scans.
type Edited = (String, Vec<(String, crate::meter::KeyShape)>, usize);

fn edited(look: &Look, sql: &str) -> Result<Edited, String> {
    let parsed = parse::parse(sql).map_err(|r| format!("{r}"))?;
    let statement = &parsed.statements[0];
    let (walk, output): (Walk<'_>, Output) = Walk::query(look, &parsed, statement.field("stmt"), People::Named)
        .map_err(|s| match s {
            Stop::Refuse(r) => format!("{r}"),
            Stop::Missing(name, _) => format!("missing {name}"),
            Stop::Again => "again".to_owned(),
        })?;
    let token = TokenSettings {
        inner: "menshen.ki".into(),
        outer: "menshen.ko".into(),
    };
    let edit = edit::edit(&parsed, &walk, &token, true, (0, sql.len())).map_err(|r| format!("{r}"))?;
    if !edit.intents.is_empty() {
        verify::verify(statement.field("stmt"), &edit.text, &edit.intents)
            .map_err(|r| format!("{r}\n    {}", edit.text))?;
    }
    Ok((
        edit.text,
        output.hidden.into_iter().map(|h| (h.name, h.shape)).collect(),
        walk.scans.len(),
    ))
}

#[test]
fn a_relation_that_the_walk_has_not_met_stops_the_statement() {
    let look = look(false);
    let parsed = parse::parse("SELECT c.phone FROM crm.customers c, crm.orders o WHERE c.id = o.customer_id").unwrap();
    let statement = parsed.statements[0].field("stmt");
    let (mut walk, _) = Walk::query(&look, &parsed, statement, People::Named).unwrap();
    assert_eq!(super::query::all_accounted(statement, &walk), Ok(()));
    let met = walk.seen.pop_last();
    assert!(met.is_some() && !walk.seen.is_empty());
    let refusal = super::query::all_accounted(statement, &walk).unwrap_err();
    assert_eq!((refusal.rule, refusal.incident), ("relation-not-accounted", true));
}

const SHAPES: &str = include_str!("shapes.sql");

#[test]
fn every_shape_is_edited_and_its_edit_is_verified() {
    let mut failures = Vec::new();
    for clear in [false, true] {
        let look = look(clear);
        let mut out = String::new();
        for line in SHAPES.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("--")) {
            match edited(&look, line) {
                Ok((text, hidden, scans)) => {
                    out.push_str(&format!("{text};\n"));
                    if clear && hidden.is_empty() && !line.contains("/* uncounted */") {
                        failures.push(format!("no people carried ({scans} scans): {line}\n    {text}"));
                    }
                }
                Err(why) => failures.push(format!("clear={clear}: {line}\n    {why}")),
            }
        }
        if let Ok(dir) = std::env::var("MENSHEN_SHAPES_OUT") {
            std::fs::write(format!("{dir}/shapes-{clear}.sql"), out).unwrap();
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// A statement, its edit, and what the edit intends.
fn edit_of(sql: &str) -> (Tree, String, Vec<edit::Intent>) {
    let look = look(false);
    let parsed = parse::parse(sql).unwrap();
    let statement = parsed.statements[0].field("stmt");
    let (walk, _) = Walk::query(&look, &parsed, statement, People::Named).unwrap_or_else(|s| panic!("{sql}: {s:?}"));
    let token = TokenSettings {
        inner: "menshen.ki".into(),
        outer: "menshen.ko".into(),
    };
    let edit = edit::edit(&parsed, &walk, &token, true, (0, sql.len())).unwrap();
    (statement.clone(), edit.text, edit.intents)
}

/// Statements in which every kind of edit stands.
const EDITED: [&str; 8] = [
    "SELECT c.phone, crm.customers.id FROM crm.customers, crm.customers c WHERE c.id > 1 GROUP BY c.phone, crm.customers.id HAVING count(*) > 0 ORDER BY 1 LIMIT 5",
    "WITH x AS (SELECT ctid, * FROM crm.customers) SELECT * FROM x JOIN crm.messages m ON m.customer_id = x.id",
    "UPDATE crm.customers SET grade = upper(phone), city = 'x' FROM crm.messages m WHERE m.customer_id = customers.id AND phone > '1' RETURNING phone, customers.name || 'x', *",
    "DELETE FROM crm.customers RETURNING *",
    "INSERT INTO crm.customers AS c (id, grade) SELECT id, phone FROM crm.customers ON CONFLICT (id) DO UPDATE SET grade = c.phone WHERE c.name <> '' RETURNING c.email",
    "MERGE INTO crm.customers c USING crm.orders o ON c.id = o.customer_id WHEN MATCHED AND c.phone > '' THEN UPDATE SET grade = c.name WHEN NOT MATCHED THEN INSERT (id) VALUES (o.id)",
    "SELECT c.phone FROM crm.customers AS c TABLESAMPLE BERNOULLI (50) REPEATABLE (3) WHERE id < 3",
    "SELECT phone FROM crm.customers TABLESAMPLE pg_catalog.system ((20)::real)",
];

/// Whether one of the two ways to prove an edit accepts it.
fn accepted(client: &Tree, text: &str, intents: &[edit::Intent]) -> bool {
    verify::proven_in_parts(client, text, intents) == Ok(true) || verify::verify(client, text, intents).is_ok()
}

/// A masked scan is read alone and a stand-in in its place: that must not hide where it stands, how often, and which one it is.
#[test]
fn an_edit_is_proven_in_parts_only_where_its_scans_stand() {
    let join =
        "SELECT a.phone, b.grade FROM crm.customers a, crm.customers b, crm.messages m WHERE m.customer_id = a.id";
    let (client, right, intents) = edit_of(join);
    let proven = |text: &str| verify::proven_in_parts(&client, text, &intents);
    assert_eq!(proven(&right), Ok(true), "{right}");
    let scans: Vec<&str> = intents
        .iter()
        .filter_map(|i| match i {
            edit::Intent::Relation { text, .. } => text.rsplit_once(" AS ").map(|(masked, _)| masked),
            _ => None,
        })
        .collect();
    let [customers, again, messages] = scans.as_slice() else {
        panic!("{scans:?}")
    };
    assert_eq!(customers, again);
    let swapped = right
        .replace(customers, "@")
        .replace(messages, customers)
        .replacen('@', messages, 2);
    let less = right.replacen(customers, "crm.customers", 1);
    let in_a_comment = format!("{} /* {customers} */", less);
    let in_a_literal = less.replace(
        "m.customer_id = a.id",
        &format!("'{}' > ''", customers.replace('\'', "''")),
    );
    let elsewhere = less.replace("m.customer_id = a.id", &format!("EXISTS {customers}"));
    let behind = right.replacen(customers, &format!("{customers} UNION ALL {customers}"), 1);
    let doubled = right.replacen(customers, &format!("{customers} x, {customers}"), 1);
    let with_stand_in = right.replacen(customers, "(SELECT menshen_kscan0)", 1);
    let in_another_spelling = right.replacen(customers, "(SELECT U&\"menshen\\005fkscan0\")", 1);
    let clear = right.replacen("NULL::text", "m.\"phone\"", 1);
    for wrong in [
        swapped,
        less,
        in_a_comment,
        in_a_literal,
        elsewhere,
        behind,
        doubled,
        with_stand_in,
        in_another_spelling,
        clear,
    ] {
        assert_ne!(wrong, right);
        assert_eq!(proven(&wrong), Ok(false), "{wrong}");
    }
    // What a scan is followed by, or what is in it, must not reach out of its parentheses.
    for text in [
        "(SELECT 1) AS a, crm.customers",
        "(SELECT 1) AS a JOIN crm.customers ON true",
        "(SELECT 1) AS a -- ",
        "(SELECT 1) AS a(x)",
        "((SELECT 1) AS a CROSS JOIN crm.customers) AS b",
        "crm.customers AS b",
        "LATERAL (SELECT 1) AS b",
    ] {
        let client = parse::parse("SELECT FROM crm.customers").unwrap().statements[0]
            .field("stmt")
            .clone();
        let (location, text) = (12, text.to_owned());
        let edited = format!("SELECT FROM {text}");
        let proven = verify::proven_in_parts(&client, &edited, &[edit::Intent::Relation { location, text }]);
        assert_eq!(proven, Ok(false), "{edited}");
    }
}

#[test]
fn verify_refuses_every_wrong_edit() {
    let mut passed = Vec::new();
    let (mut tried, mut in_parts) = (0, 0);
    for sql in EDITED {
        let (client, right, intents) = edit_of(sql);
        verify::verify(&client, &right, &intents).unwrap_or_else(|r| panic!("{sql}: {r}\n{right}"));
        in_parts += usize::from(verify::proven_in_parts(&client, &right, &intents).unwrap());
        let mut wrong: Vec<String> = vec![sql.to_owned(), format!("{right}; SELECT 1"), format!("EXPLAIN {right}")];
        // A mask widened or dropped, another schema, a filter weakened, a relation swapped.
        for (from, to) in [
            ("NULL::text", "m.\"phone\""),
            ("NULL::text", "(\"customers\".\"phone\")"),
            ("NULL::date", "m.\"birth\""),
            ("\"crm\".\"customers\"", "\"pg_temp\".\"customers\""),
            ("\"crm\".\"customers\"", "\"customers\""),
            ("\"crm\".\"messages\"", "\"crm\".\"customers\""),
            ("IS NOT NULL", "IS NULL"),
            (" OFFSET 0", ""),
            ("CASE WHEN", "CASE WHEN true OR"),
            ("ELSE false", "ELSE true"),
            ("SELECT", "SELECT DISTINCT"),
            (" AS m", " AS n"),
            ("upper(", "pg_read_file("),
            ("upper(", "public.upper("),
        ] {
            wrong.push(right.replacen(from, to, 1));
        }
        // A relation, a function or a condition smuggled in behind any token; a token left out or doubled.
        let tokens = parse::parse(&right).unwrap().tokens;
        for token in &tokens {
            let (start, end) = (
                usize::try_from(token.start).unwrap(),
                usize::try_from(token.end).unwrap(),
            );
            for smuggled in [
                ", crm.customers",
                ", (SELECT max(phone) FROM crm.customers)",
                " OR EXISTS (TABLE crm.customers)",
                " AND pg_read_file('x') IS NULL",
                " UNION ALL TABLE crm.customers",
                ", query_to_xml('x', true, true, '')",
                "::peeked",
                ".*",
                " NOT",
                " ALL",
            ] {
                wrong.push(format!("{}{smuggled}{}", &right[..end], &right[end..]));
            }
            wrong.push(format!("{}{}", &right[..start], &right[end..]));
            wrong.push(format!("{} {}", &right[..end], &right[start..]));
        }
        // The same for what is intended: an edit with fewer or more places than it says.
        for at in 0..intents.len() {
            let mut fewer = intents.clone();
            fewer.remove(at);
            if accepted(&client, &right, &fewer) {
                passed.push(format!("without intent {at}: {sql}"));
            }
        }
        for text in wrong {
            let same = parse::parse(&text).is_ok_and(|p| {
                let mut a = p.statements.clone();
                let mut b = parse::parse(&right).unwrap().statements;
                a.iter_mut().chain(&mut b).for_each(Tree::strip_locations);
                a == b
            });
            tried += 1;
            if !same && accepted(&client, &text, &intents) {
                passed.push(text);
            }
        }
    }
    assert!(in_parts >= 3, "only {in_parts} edits are proven in parts");
    assert!(tried > 5_000, "only {tried} wrong edits");
    assert!(
        passed.is_empty(),
        "{} wrong edits passed\n{}",
        passed.len(),
        passed.join("\n")
    );
}

/// The same intent for the byte behind. EXPLAIN has one place for its options.
fn moved(intent: &edit::Intent) -> Option<edit::Intent> {
    use super::scope::{Anchor, ConditionOf};
    use edit::Intent;
    let further = |anchor: &mut Anchor| match anchor {
        Anchor::Last(at) | Anchor::Table(at) => *at += 1,
    };
    let mut moved = intent.clone();
    match &mut moved {
        Intent::Options { .. } => return None,
        Intent::Relation { location, .. }
        | Intent::Sample { location, .. }
        | Intent::Spell { location, .. }
        | Intent::Reference { location, .. }
        | Intent::Comparison { location, .. }
        | Intent::Value { location, .. }
        | Intent::Query { location, .. }
        | Intent::Shorten { location, .. }
        | Intent::Label { location, .. } => *location += 1,
        Intent::Target { anchor, .. } => further(anchor),
        Intent::Condition { of, .. } => match of {
            ConditionOf::Modification(at) | ConditionOf::Conflict(at) | ConditionOf::Merge(at) => *at += 1,
            ConditionOf::Having(anchor) => further(anchor),
        },
    }
    Some(moved)
}

#[test]
fn verify_checks_every_kind_of_intent_by_place_and_text() {
    use super::scope::{Anchor, ConditionOf};
    use edit::Intent;
    let at = |sql: &str, part: &str| sql.find(part).unwrap();
    let copy = "COPY crm.customers (id) TO STDOUT";
    let explain = "EXPLAIN (ANALYZE) SELECT 1";
    let update = "UPDATE a SET x = y + 1, z = 2 WHERE b = 1";
    let insert = "INSERT INTO a VALUES (1) ON CONFLICT (x) DO UPDATE SET y = 2 WHERE a.z = 3";
    let merge = "MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN DELETE";
    let group = "SELECT count(*) FROM a GROUP BY x HAVING max(y) > 1";
    let none = "SELECT count(*) FROM a";
    let qualified = "SELECT s.a.x FROM s.a";
    let condition = |of, after: Option<&str>| Intent::Condition {
        of,
        before: if after.is_some() {
            "(f) AND (".into()
        } else {
            "(f)".into()
        },
        after: after.map(str::to_owned),
    };
    let cases: Vec<(&str, Intent, &str)> = vec![
        (
            copy,
            Intent::Query {
                location: at(copy, "crm"),
                text: "SELECT 1".into(),
            },
            "COPY (SELECT 1) TO STDOUT",
        ),
        (
            explain,
            Intent::Options {
                text: "COSTS OFF".into(),
            },
            "EXPLAIN (COSTS OFF) SELECT 1",
        ),
        (
            update,
            Intent::Value {
                location: at(update, "x ="),
                before: "f((".into(),
                after: ")::int)".into(),
            },
            "UPDATE a SET x = f((y + 1)::int), z = 2 WHERE b = 1",
        ),
        (
            update,
            Intent::Comparison {
                location: at(update, "= 1"),
                text: "g(1)".into(),
            },
            "UPDATE a SET x = y + 1, z = 2 WHERE g(1)",
        ),
        (
            update,
            condition(ConditionOf::Modification(at(update, "a SET")), Some(")")),
            "UPDATE a SET x = y + 1, z = 2 WHERE (f) AND (b = 1)",
        ),
        (
            insert,
            condition(ConditionOf::Conflict(at(insert, "a VALUES")), Some(")")),
            "INSERT INTO a VALUES (1) ON CONFLICT (x) DO UPDATE SET y = 2 WHERE (f) AND (a.z = 3)",
        ),
        (
            merge,
            condition(ConditionOf::Merge(at(merge, "a USING")), Some(")")),
            "MERGE INTO a USING b ON (f) AND (a.x = b.x) WHEN MATCHED THEN DELETE",
        ),
        (
            group,
            condition(ConditionOf::Having(Anchor::Last(at(group, "count"))), Some(")")),
            "SELECT count(*) FROM a GROUP BY x HAVING (f) AND (max(y) > 1)",
        ),
        (
            none,
            condition(ConditionOf::Having(Anchor::Last(at(none, "count"))), None),
            "SELECT count(*) FROM a HAVING (f)",
        ),
        (
            none,
            Intent::Label {
                location: at(none, "count"),
                name: "n".into(),
            },
            "SELECT count(*) AS n FROM a",
        ),
        (
            qualified,
            Intent::Shorten {
                location: at(qualified, "s.a.x"),
                fields: 1,
            },
            "SELECT a.x FROM s.a",
        ),
    ];
    for (number, (sql, intent, right)) in cases.iter().enumerate() {
        let parsed = parse::parse(sql).unwrap();
        let client = parsed.statements[0].field("stmt");
        let check = |text: &str, intents: &[Intent]| verify::verify(client, text, intents).is_ok();
        assert!(check(right, std::slice::from_ref(intent)), "{sql} -> {right}");
        assert!(!check(sql, std::slice::from_ref(intent)), "unchanged: {sql}");
        assert!(!check(right, &[]), "without intent: {right}");
        // Another place or another statement's intent.
        for (other, (_, foreign, _)) in cases.iter().enumerate().filter(|(n, _)| *n != number) {
            assert!(
                !check(right, std::slice::from_ref(foreign)),
                "{right} by intent {other}"
            );
        }
        if let Some(moved) = moved(intent) {
            assert!(!check(right, &[moved]), "{right} by an intent for another place");
        }
        for (from, to) in [
            ("1", "2"),
            ("(f)", "(g)"),
            ("COSTS OFF", "COSTS ON"),
            ("::int", "::text"),
            (" AS n", " AS m"),
            ("a.x", "b.x"),
        ] {
            let wrong = right.replace(from, to);
            assert!(
                wrong == *right || !check(&wrong, std::slice::from_ref(intent)),
                "{wrong}"
            );
        }
    }
    // A reference of as many fields as are to go is left alone, and that is no success.
    let parsed = parse::parse("SELECT x FROM a").unwrap();
    let cut = Intent::Shorten { location: 7, fields: 1 };
    assert!(verify::verify(parsed.statements[0].field("stmt"), "SELECT x FROM a", &[cut]).is_err());
}
