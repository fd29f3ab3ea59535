use super::super::parse;
use super::*;

/// The first guard's account, as `guard::account` makes it, without a session.
fn account(sql: &str) -> Accounted {
    let parsed = parse::parse(sql).unwrap();
    let mut seen = Accounted {
        statements: parsed.statements.len(),
        ..Default::default()
    };
    super::super::testimony::account_trees(&parsed, &mut seen);
    seen
}

fn testimony(sql: &str) -> Testimony {
    object(sql, &account(sql))
}

#[test]
fn honest_statements_raise_no_objection() {
    let mut objected = Vec::new();
    let mut read = 0;
    for sql in include_str!("../shapes.sql").lines().filter(|l| !l.trim().is_empty()) {
        match testimony(sql) {
            Testimony::Agrees => read += 1,
            Testimony::Abstains(_) => {}
            Testimony::Objects(o) => objected.push(format!("{sql}\n    {o:?}")),
        }
    }
    assert!(objected.is_empty(), "{}", objected.join("\n"));
    assert!(read > 60, "only {read} were read at all");
}

#[test]
fn a_relation_that_the_first_guard_missed_is_objected_to() {
    for (sql, hidden) in [
        ("SELECT 1 UNION TABLE secret", "secret"),
        ("SELECT * FROM a WHERE EXISTS (TABLE secret)", "secret"),
        ("SELECT (SELECT max(x) FROM crm.secret) FROM a", "secret"),
        ("WITH x AS (SELECT * FROM secret) SELECT * FROM x", "secret"),
        (
            "SELECT * FROM a JOIN LATERAL (SELECT * FROM secret) s ON true",
            "secret",
        ),
    ] {
        let mut accounted = account(sql);
        accounted.relations.retain(|r| r.last().is_none_or(|n| n != hidden));
        accounted.other_names.remove(hidden);
        match object(sql, &accounted) {
            Testimony::Objects(objections) => {
                assert!(
                    objections.iter().any(|o| o.to_string().contains(hidden)),
                    "{sql}: {objections:?}"
                );
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[test]
fn a_function_or_column_that_the_first_guard_missed_is_objected_to() {
    for (sql, hidden) in [
        ("SELECT query_to_xml('x', true, true, '') FROM a", "query_to_xml"),
        ("SELECT phone FROM a", "phone"),
    ] {
        let mut accounted = account(sql);
        accounted.functions.retain(|f| f.last().is_none_or(|n| n != hidden));
        accounted.columns.remove(hidden);
        accounted.other_names.remove(hidden);
        assert!(matches!(object(sql, &accounted), Testimony::Objects(_)), "{sql}");
    }
}

#[test]
fn known_misreadings_are_excused_and_nothing_more() {
    for sql in [
        "SELECT current_role FROM a",
        "SELECT * FROM current_date",
        "SELECT b ISNULL FROM a",
        "SELECT coalesce(a, b) FROM t",
        "SELECT json_value(a, '$.x'), json_exists(b, '$'), json_query(a, '$'), json_scalar(1), json_serialize(a) FROM t",
        "SELECT json_objectagg(a: b), json_arrayagg(a) FROM t",
        "SELECT a = ALL (ARRAY[b]) FROM t",
        "SELECT (VALUES (a)) FROM t",
        "SELECT a FROM t TABLESAMPLE pg_catalog.bernoulli (10)",
        "SELECT a FROM t AS u TABLESAMPLE system ((10)::real) REPEATABLE (0)",
        "SELECT xmlparse(content a), xmlparse(document a), xmlroot(b, version '1.0'), xmlforest(a, b), xmlelement(name x, a) FROM t",
        "SELECT xmlserialize(content a AS text) FROM t",
        "CREATE TABLE p (a text) PARTITION BY LIST (left(upper(a), 1))",
        "CREATE TABLE p (a int, b int) PARTITION BY RANGE (a, (b + 1))",
        "CREATE TABLE p (a int) PARTITION BY HASH (a)",
    ] {
        assert!(!matches!(testimony(sql), Testimony::Objects(_)), "{sql}");
    }
    let nested = "SELECT a FROM t GROUP BY GROUPING SETS (ROLLUP (a), CUBE (a, b), ())";
    assert!(
        !matches!(testimony(nested), Testimony::Objects(_)),
        "{:?}",
        testimony(nested)
    );
    assert!(matches!(
        object("SELECT rollup(a) FROM t", &account("SELECT a FROM t")),
        Testimony::Objects(_)
    ));
    let mut objected = Vec::new();
    for form in [
        "xmlforest(a)",
        "xmlforest(a AS x, b AS y)",
        "xmlconcat(a, b)",
        "xmlelement(name x, a)",
        "xmlpi(name x, 'y')",
        "xmlroot(a, version '1.0', standalone yes)",
        "xmlparse(document a)",
        "xmlserialize(content a AS text)",
        "xmlexists('//x' PASSING b)",
        "trim(both FROM a)",
        "trim(leading 'x' FROM a)",
        "overlay(a PLACING b FROM 1)",
        "substring(a FROM 1 FOR 2)",
        "substring(a SIMILAR b ESCAPE '#')",
        "position(a IN b)",
        "treat(a AS text)",
        "extract(dow FROM a)",
        "extract(epoch FROM a)",
        "a AT TIME ZONE 'UTC'",
        "a AT LOCAL",
        "a IS NORMALIZED",
        "normalize(a, NFC)",
        "a IS DOCUMENT",
        "a IS JSON",
        "a IS NOT JSON ARRAY",
        "(a, b) OVERLAPS (c, d)",
        "a IS NOT DISTINCT FROM b",
        "collation for (a)",
        "a COLLATE \"C\"",
        "ROW(a, b)",
        "ARRAY[[a], [b]]",
        "interval '1 day'",
        "interval(3) '1'",
        "interval '1' year to month",
        "date '2020-01-01'",
        "a::int[3]",
        "cast(a AS numeric(3, 1))",
        "a BETWEEN SYMMETRIC b AND c",
        "a SIMILAR TO b",
        "a ILIKE ANY (ARRAY[b])",
        "a[1:2]",
        "a[:]",
        "(a).b",
        "(a).*",
        "count(*) FILTER (WHERE a)",
        "percentile_cont(0.5) WITHIN GROUP (ORDER BY a)",
        "rank() OVER (ORDER BY a GROUPS 2 PRECEDING EXCLUDE TIES)",
        "json_object('a': b)",
        "json_array(a, b)",
        "grouping(a)",
        "localtime(3)",
        "current_timestamp(2)",
        "bit '101'",
        "B'101'",
        "X'1f'",
        "a ->> 'x'",
        "a #>> '{x}'",
        "a @> b",
        "a OPERATOR(pg_catalog.+) b",
        "- a",
        "@ a",
        "|/ a",
        "a !~* b",
        "U&'\\0061'",
        "E'\\n'",
        "$$x$$",
    ] {
        let sql = format!("SELECT {form} FROM t");
        if let Testimony::Objects(why) = testimony(&sql) {
            objected.push(format!("{sql}: {why:?}"));
        }
    }
    assert!(objected.is_empty(), "{}", objected.join("\n"));
    // A function of such a name, and what stands in a strategy's parentheses.
    let accounted = account("CREATE TABLE p (a text) PARTITION BY LIST (upper(a))");
    assert!(!matches!(
        object("CREATE TABLE p (a text) PARTITION BY LIST (upper(a))", &accounted),
        Testimony::Objects(_)
    ));
    for sql in [
        "CREATE TABLE p (a text) PARTITION BY LIST (lower(upper(a)))",
        "CREATE TABLE p (a text) PARTITION BY RANGE (list(upper(a)))",
        "SELECT list(a), upper(a) FROM p",
        "SELECT upper(a), sum(a) OVER (PARTITION BY list(a)) FROM p",
    ] {
        assert!(matches!(object(sql, &accounted), Testimony::Objects(_)), "{sql}");
    }
    assert!(!misreadings::relation(&["customers".to_owned()]));
    assert!(!misreadings::relation(&["crm".to_owned(), "user".to_owned()]));
    assert!(!misreadings::function("query_to_xml"));
    assert!(misreadings::name("content", ["xmlparse"].into_iter()));
    assert!(!misreadings::name("content", ["coalesce"].into_iter()));
    assert!(!misreadings::name("phone", ["xmlparse"].into_iter()));
}

#[test]
fn hostile_texts_end_in_abstention() {
    let sum = format!("SELECT {}", vec!["1"; 30_000].join("+"));
    assert!(matches!(object(&sum, &Accounted::default()), Testimony::Abstains(_)));
    let nested = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(matches!(object(&nested, &Accounted::default()), Testimony::Abstains(_)));
    let chain = format!("SELECT {}", vec!["1"; 3_900].join("+"));
    // Deep, but within bounds: it must come back at all.
    let _ = object(&chain, &Accounted::default());
}

/// The first guard blinded to a kind of node: whatever it holds is missing from the account.
fn blinded(sql: &str, kind: &str) -> Accounted {
    let mut parsed = parse::parse(sql).unwrap();
    for statement in &mut parsed.statements {
        *statement = without(statement, kind);
    }
    let mut seen = Accounted {
        statements: parsed.statements.len(),
        ..Default::default()
    };
    super::super::testimony::account_trees(&parsed, &mut seen);
    seen
}

fn without(tree: &super::super::tree::Tree, kind: &str) -> super::super::tree::Tree {
    use super::super::tree::Tree;
    match tree {
        Tree::Node(k, _) if *k == kind => Tree::Null,
        Tree::Node(k, fields) => Tree::Node(k, fields.iter().map(|(n, t)| (*n, without(t, kind))).collect()),
        Tree::List(items) => Tree::List(items.iter().map(|t| without(t, kind)).collect()),
        Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => tree.clone(),
    }
}

#[test]
fn a_first_guard_that_is_blind_to_a_kind_of_node_is_objected_to() {
    for (kind, sql) in [
        ("RangeVar", "SELECT 1 FROM secret"),
        ("SubLink", "SELECT 1 FROM a WHERE EXISTS (SELECT hidden FROM secret)"),
        ("RangeSubselect", "SELECT 1 FROM (SELECT hidden FROM secret) x"),
        ("CommonTableExpr", "WITH x AS (SELECT hidden FROM secret) SELECT 1"),
        ("JoinExpr", "SELECT 1 FROM a JOIN secret ON a.x = secret.hidden"),
        ("FuncCall", "SELECT leak(1) FROM a"),
        ("ColumnRef", "SELECT hidden FROM a"),
        ("CaseExpr", "SELECT CASE WHEN hidden = 1 THEN 2 END FROM a"),
        ("CoalesceExpr", "SELECT coalesce(hidden, 1) FROM a"),
        ("MinMaxExpr", "SELECT greatest(hidden, 1) FROM a"),
        ("AArrayExpr", "SELECT ARRAY[hidden] FROM a"),
        ("RowExpr", "SELECT ROW(hidden, 1) FROM a"),
        ("AIndirection", "SELECT (hidden)[1] FROM a"),
        ("TypeCast", "SELECT hidden::text FROM a"),
        ("BoolExpr", "SELECT 1 FROM a WHERE x = 1 AND hidden = 2"),
        ("NullTest", "SELECT 1 FROM a WHERE hidden IS NULL"),
        ("BooleanTest", "SELECT 1 FROM a WHERE hidden IS TRUE"),
        ("AExpr", "SELECT 1 FROM a WHERE hidden + 1 > 2"),
        ("CollateClause", "SELECT hidden COLLATE \"C\" FROM a"),
        ("SortBy", "SELECT 1 FROM a ORDER BY hidden"),
        ("WindowDef", "SELECT rank() OVER (PARTITION BY hidden) FROM a"),
        ("GroupingSet", "SELECT 1 FROM a GROUP BY ROLLUP (hidden)"),
        ("RangeFunction", "SELECT 1 FROM leak(1) AS x"),
        ("ReturningClause", "DELETE FROM a RETURNING hidden"),
        (
            "OnConflictClause",
            "INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = hidden",
        ),
        (
            "MergeWhenClause",
            "MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN UPDATE SET y = hidden",
        ),
        ("ResTarget", "UPDATE a SET x = hidden"),
    ] {
        assert!(!matches!(testimony(sql), Testimony::Objects(_)), "{sql}");
        let said = object(sql, &blinded(sql, kind));
        assert!(
            matches!(said, Testimony::Objects(_)),
            "blind to {kind}: {sql}: {said:?}"
        );
    }
}

#[test]
fn abstentions_are_counted_by_cause() {
    for (sql, cause) in [
        ("SELECT U&\"x\" FROM a", Cause::UnicodeEscapes),
        ("DELETE FROM a WHERE CURRENT OF c", Cause::Syntax),
        (&format!("SELECT 1{}", " ".repeat(BYTES_MAX)), Cause::Bytes),
        (&format!("SELECT {}", vec!["1"; TOKENS_MAX].join(",")), Cause::Tokens),
    ] {
        let count = || {
            abstentions()
                .into_iter()
                .find(|(c, _)| *c == cause)
                .map_or(0, |(_, n)| n)
        };
        let before = count();
        assert_eq!(testimony(sql), Testimony::Abstains(cause));
        assert!(count() > before, "{cause:?}");
    }
}

#[test]
fn names_are_cut_as_postgresql_cuts_them() {
    let long = "n".repeat(70);
    // 62 bytes and a character of three: cut before it.
    let wide = format!("{}客户", "n".repeat(62));
    assert_eq!(truncated(&long).len(), 63);
    assert_eq!(truncated(&wide).len(), 62);
    assert_eq!(truncated("n"), "n");
    for name in [&long, &wide, &"n".repeat(63)] {
        let sql = format!("SELECT {name}.{name}, {name}({name}) FROM {name}.{name} AS {name}, {name}");
        assert_eq!(testimony(&sql), Testimony::Agrees, "{sql}");
    }
}

#[test]
fn what_the_witness_reads_has_the_bounds_it_says() {
    let text = |bytes: usize| format!("SELECT {}1", " ".repeat(bytes - 8));
    assert_eq!(
        testimony(&format!("SELECT '{}'", "x".repeat(1_000_000))),
        Testimony::Agrees
    );
    assert_eq!(testimony(&text(64 * 1024)), Testimony::Agrees);
    assert_eq!(testimony(&text(64 * 1024 + 1)), Testimony::Abstains(Cause::Bytes));
    let tokens = |n: usize| format!("SELECT {}", vec!["1"; n / 2].join(","));
    assert_eq!(testimony(&tokens(TOKENS_MAX)), Testimony::Agrees);
    assert_eq!(
        testimony(&format!("{};", tokens(TOKENS_MAX))),
        Testimony::Abstains(Cause::Tokens)
    );
}

#[test]
fn a_number_of_statements_is_compared_and_objections_say_what_was_seen() {
    let mut accounted = account("SELECT 1; SELECT 2");
    accounted.statements = 1;
    let Testimony::Objects(objections) = object("SELECT 1; SELECT 2", &accounted) else {
        panic!("no objection");
    };
    assert_eq!(objections, [Objection::Statements(2)]);
    for (objection, words) in [
        (Objection::Statements(2), "2 statements"),
        (Objection::Relation("a.b".into()), "relation \"a.b\""),
        (Objection::Function("f".into()), "function \"f\""),
        (Objection::Name("n".into()), "name \"n\""),
    ] {
        assert_eq!(objection.to_string(), words);
    }
    let labels: BTreeSet<&str> = Cause::ALL.into_iter().map(Cause::label).collect();
    assert_eq!(labels.len(), Cause::ALL.len());
    assert_eq!(Cause::Syntax.label(), "syntax");
}

#[test]
fn what_stands_in_the_place_of_a_relation_or_function_is_objected_to_as_such() {
    let relation = || Objection::Relation("crm.secret".into());
    let function = || Objection::Function("crm.leak".into());
    for (sql, objection) in [
        ("SELECT 1 FROM crm.secret", relation()),
        ("SELECT 1 FROM a, LATERAL (TABLE crm.secret) x", relation()),
        ("INSERT INTO crm.secret VALUES (1)", relation()),
        ("UPDATE crm.secret SET x = 1", relation()),
        ("DELETE FROM crm.secret", relation()),
        ("DELETE FROM a USING crm.secret", relation()),
        (
            "MERGE INTO crm.secret USING a ON a.x = secret.x WHEN MATCHED THEN DELETE",
            relation(),
        ),
        ("COPY crm.secret TO STDOUT", relation()),
        ("SELECT crm.leak(1)", function()),
        ("SELECT upper(x), crm.leak(1) FROM a", function()),
        ("SELECT * FROM crm.leak(1)", function()),
    ] {
        let accounted = Accounted {
            statements: 1,
            functions: BTreeSet::from([vec!["upper".to_owned()]]),
            ..Default::default()
        };
        let Testimony::Objects(objections) = object(sql, &accounted) else {
            panic!("no objection: {sql}");
        };
        assert!(objections.contains(&objection), "{sql}: {objections:?}");
    }
    // PostgreSQL's grammar gives some functions their schema: by their last name they are the same.
    let accounted = Accounted {
        statements: 1,
        functions: BTreeSet::from([vec!["pg_catalog".to_owned(), "timezone".to_owned()]]),
        ..Default::default()
    };
    assert_eq!(object("SELECT timezone(1, 2)", &accounted), Testimony::Agrees);
}
