//! Columns that are only output come clear from the server and are masked by Menshen: the client sees what it sees with every mask in SQL, whichever
//! way the rows come, and nothing else than the client can take them.

use crate::harness::menshen::unlimited_policy;
use crate::harness::raw::Answer;
use crate::harness::{Menshen, Postgres, Raw};

use crate::oracle::EARLY;

/// Masked late, by the text that reaches the server: then the mask is not in it.
const LATE: [&str; 23] = [
    "SELECT name, phone FROM crm.customers ORDER BY id",
    "SELECT * FROM crm.customers ORDER BY id LIMIT 7",
    "SELECT c.*, c.phone FROM crm.customers AS c WHERE c.id < 9 ORDER BY c.id DESC",
    "SELECT phone, id, phone AS again FROM crm.customers WHERE id = 3",
    "SELECT id + 1 AS next, email FROM crm.customers WHERE city = 'x' OR id BETWEEN 3 AND 20 ORDER BY id",
    "SELECT \"phone\" AS \"a b\" FROM crm.customers ORDER BY id OFFSET 5 ROWS FETCH FIRST 3 ROWS ONLY",
    "SELECT crm_c.name, upper('x'), 7 FROM crm.customers crm_c ORDER BY crm_c.id LIMIT 2",
    "SELECT phone FROM ONLY crm.customers ORDER BY id",
    "SELECT name FROM customers WHERE id IN (1, 2, 3) ORDER BY id",
    "SELECT count(*) OVER (), phone FROM crm.customers ORDER BY id LIMIT 4",
    "SELECT phone FROM crm.customers WHERE false",
    "SELECT NULLIF(id, 3), name, phone, email FROM crm.customers ORDER BY id",
    "SELECT a.phone FROM crm.customers a JOIN crm.customers b USING (id) ORDER BY id",
    "SELECT c.name, c.phone, o.id FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id ORDER BY o.id LIMIT 9",
    "SELECT o.*, c.* FROM crm.orders o LEFT JOIN crm.customers c ON c.id = o.customer_id AND c.id < 4 ORDER BY o.id",
    "SELECT * FROM crm.orders o, crm.customers c WHERE o.customer_id = c.id AND o.id < 30 ORDER BY o.id",
    "SELECT a.name, b.name, b.phone AS other FROM crm.customers a FULL JOIN crm.customers b ON b.id = a.id + 30 ORDER BY a.id, b.id",
    "SELECT c.phone, count(*) OVER (), o.id FROM crm.customers c RIGHT JOIN crm.orders o ON o.customer_id = c.id + 35 ORDER BY o.id",
    "SELECT customers.phone FROM crm.customers CROSS JOIN crm.orders WHERE orders.id = 3 ORDER BY customers.id",
    "SELECT c.phone, o.id, d.email FROM (crm.customers c JOIN crm.orders o ON o.customer_id = c.id) JOIN crm.customers d ON d.id = c.id ORDER BY o.id, d.id",
    "SELECT c.*, x.phone AS p FROM crm.customers c JOIN (crm.orders JOIN crm.customers x USING (id)) ON orders.id = c.id ORDER BY c.id",
    "SELECT phone, city FROM crm.customers JOIN crm.orders ON customer_id = customers.id ORDER BY orders.id",
    "SELECT p.name, c.phone FROM crm.products p JOIN crm.customers c ON c.id = p.id ORDER BY c.id",
];

/// The mask is the server's work: the column is used for something, or the form is not one that is seen through.
const NOT_LATE: [&str; 26] = [
    "SELECT phone FROM crm.customers ORDER BY phone, id",
    "SELECT phone FROM crm.customers ORDER BY 1",
    "SELECT phone AS id FROM crm.customers ORDER BY id",
    "SELECT phone FROM crm.customers WHERE phone LIKE '13%' ORDER BY id",
    "SELECT DISTINCT phone FROM crm.customers",
    "SELECT phone || '' AS phone FROM crm.customers ORDER BY id",
    "SELECT phone, max(id) FROM crm.customers GROUP BY phone ORDER BY 2",
    "SELECT c FROM crm.customers c ORDER BY id",
    "SELECT customers FROM crm.customers ORDER BY id",
    "SELECT row_to_json(c), phone FROM crm.customers c ORDER BY id",
    "SELECT phone FROM (SELECT phone, id FROM crm.customers) x ORDER BY id",
    "SELECT phone FROM crm.customers UNION ALL SELECT name FROM crm.customers ORDER BY 1",
    "WITH x AS (SELECT 1) SELECT phone FROM crm.customers ORDER BY id",
    "SELECT a.phone FROM crm.customers a JOIN crm.customers b USING (id, phone) ORDER BY id",
    "SELECT a.phone FROM crm.customers a NATURAL JOIN crm.customers b ORDER BY id",
    "SELECT a.phone, b.phone FROM crm.customers a JOIN crm.customers b ON a.phone = b.phone ORDER BY a.id",
    "SELECT m, o1 FROM (crm.customers a JOIN crm.orders o ON o.customer_id = a.id) AS j (c1, n, p, m, c5, c6, c7, c8, c9, c10, o1) ORDER BY 2",
    "SELECT c.phone, o FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id ORDER BY o.id",
    "SELECT c.phone, d FROM crm.customers c JOIN crm.customers d ON d.id = c.id ORDER BY c.id",
    "SELECT c.phone FROM crm.customers c, LATERAL (SELECT c.phone) x ORDER BY c.id",
    "SELECT c.phone FROM crm.customers c, upper(c.phone) x ORDER BY c.id",
    "SELECT p.*, c.phone FROM crm.products p JOIN crm.customers c ON c.id = p.id ORDER BY c.id",
    "SELECT phone, row_number() OVER (ORDER BY phone, id) FROM crm.customers ORDER BY id",
    "SELECT phone, (SELECT 1) FROM crm.customers ORDER BY id",
    "SELECT phone FROM crm.customers ORDER BY id FOR SHARE",
    "SELECT set_config('my.x', 'y', false), phone FROM crm.customers ORDER BY id",
];

fn same(one: &Answer, two: &Answer, what: &str) {
    assert_eq!(
        (&one.error, &one.tag, &one.columns),
        (&two.error, &two.tag, &two.columns),
        "{what}"
    );
    assert_eq!((&one.origins, &one.modifiers), (&two.origins, &two.modifiers), "{what}");
    let (mut first, mut second) = (one.rows.clone(), two.rows.clone());
    first.sort();
    second.sort();
    assert_eq!(first, second, "{what}");
}

/// What the server has been asked, by its log, for a statement with this mark.
fn asked(mark: &str) -> String {
    let log = std::fs::read(&Postgres::get().log).unwrap();
    let log = String::from_utf8_lossy(&log).into_owned();
    log.lines().filter(|l| l.contains(mark)).map(str::to_owned).collect()
}

#[test]
fn what_is_masked_late_is_what_the_server_would_have_masked() {
    let late = Menshen::with(&unlimited_policy(), "");
    let early = Menshen::on(&late.database, &unlimited_policy(), EARLY);
    for login in ["analyst", "support"] {
        let mut one = late.connect(login, "");
        let mut two = early.connect(login, "");
        for raw in [&mut one, &mut two] {
            raw.simple("SET search_path = crm, public");
        }
        for (n, sql) in LATE.iter().chain(&NOT_LATE).enumerate() {
            for binary in [None, Some(false), Some(true)] {
                let ask = |raw: &mut Raw, by: &str| {
                    let sql = format!("{sql} /* {by} {login} {n} {binary:?} */");
                    match binary {
                        None => raw.simple(&sql),
                        Some(binary) => raw.extended(&sql, &[], binary),
                    }
                };
                let (by_menshen, by_server) = (ask(&mut one, "late"), ask(&mut two, "early"));
                same(&by_menshen, &by_server, &format!("{login}: {sql}, binary {binary:?}"));
                assert_eq!(by_menshen.error, None, "{login}: {sql}");
                let clear = Postgres::get().sql(&late.database, "SELECT phone FROM crm.customers WHERE id = 3");
                assert!(!format!("{by_menshen:?}").contains(clear.trim()), "{login}: {sql}");
            }
            for binary in ["None", "Some(false)", "Some(true)"]
                .iter()
                .filter(|_| login == "analyst")
            {
                let (one, two) = (
                    asked(&format!("late {login} {n} {binary}")),
                    asked(&format!("early {login} {n} {binary}")),
                );
                let masks = |text: &str| text.contains("pg_catalog.repeat(");
                assert!(masks(&two), "{sql}: {two}");
                assert_eq!(masks(&one), n >= LATE.len(), "{sql}, {binary}: {one}");
            }
        }
    }
}

#[test]
fn nobody_else_takes_the_rows_of_what_is_masked_late() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let clear = Postgres::get().sql(&menshen.database, "SELECT phone FROM crm.customers WHERE id = 3");
    let clear = clear.trim();
    let mut raw = menshen.connect("analyst", "");
    raw.parse("late", "SELECT id, phone FROM crm.customers WHERE id < 6 ORDER BY id");
    raw.sync();
    assert_eq!(raw.answer().error, None);
    let masked = raw.simple("EXECUTE late");
    assert_eq!((masked.rows.len(), masked.error.clone()), (5, None));
    assert_eq!(
        raw.extended("EXECUTE late", &[], true).rows,
        masked
            .rows
            .iter()
            .map(|r| {
                let id: i64 = String::from_utf8_lossy(r[0].as_ref().unwrap()).parse().unwrap();
                vec![Some(id.to_be_bytes().to_vec()), r[1].clone()]
            })
            .collect::<Vec<_>>()
    );
    for sql in [
        "CREATE TEMP TABLE stolen AS EXECUTE late",
        "EXPLAIN ANALYZE EXECUTE late",
        "EXPLAIN (ANALYZE, VERBOSE) CREATE TEMP TABLE stolen AS EXECUTE late",
        "PREPARE again AS EXECUTE late",
        "DECLARE stolen CURSOR FOR EXECUTE late",
        "COPY (EXECUTE late) TO STDOUT",
    ] {
        for extended in [false, true] {
            let answer = if extended {
                raw.extended(sql, &[], false)
            } else {
                raw.simple(sql)
            };
            assert!(answer.error.is_some(), "{sql}: {answer:?}");
        }
    }
    // A portal: row by row, by FETCH, backwards by MOVE, and under another name.
    assert_eq!(raw.simple("BEGIN").error, None);
    raw.bind("half", "late", &[], &[1]);
    raw.execute("half", 2);
    raw.send(b'H', b"");
    let mut kinds = Vec::new();
    while kinds.last() != Some(&b's') {
        kinds.push(raw.next().unwrap().kind);
    }
    assert_eq!(kinds.iter().filter(|k| **k == b'D').count(), 2);
    raw.execute("half", 1);
    raw.sync();
    assert_eq!(raw.answer().rows.len(), 1);
    let rest = raw.simple("FETCH 1 FROM half");
    assert_eq!(
        (rest.error.clone(), rest.rows[0][1].clone()),
        (None, masked.rows[3][1].clone()),
        "{rest:?}"
    );
    assert_eq!(
        raw.extended("FETCH 1 FROM half", &[], true).rows[0][1],
        masked.rows[4][1]
    );
    assert_eq!(raw.simple("COMMIT").error, None);
    // Cursors, what SQL prepares, COPY, functions, temporary tables, set operations: the masks are the server's.
    for (make, show) in [
        (
            "BEGIN; DECLARE c CURSOR FOR SELECT id, phone FROM crm.customers WHERE id = 3",
            "FETCH ALL FROM c",
        ),
        ("COMMIT", "SELECT 1"),
        (
            "DECLARE h CURSOR WITH HOLD FOR SELECT id, phone FROM crm.customers WHERE id = 3",
            "FETCH ALL FROM h",
        ),
        (
            "PREPARE p AS SELECT id, phone FROM crm.customers WHERE id = 3",
            "EXECUTE p",
        ),
        (
            "CREATE TEMP TABLE t AS SELECT id, phone FROM crm.customers WHERE id = 3",
            "SELECT * FROM t",
        ),
        (
            "SELECT id, phone INTO TEMP w FROM crm.customers WHERE id = 3",
            "SELECT * FROM w",
        ),
        (
            "SELECT 1",
            "COPY (SELECT id, phone FROM crm.customers WHERE id = 3) TO STDOUT",
        ),
        ("SELECT 1", "COPY crm.customers (id, phone) TO STDOUT"),
        ("SELECT 1", "TABLE crm.customers"),
        (
            "SELECT 1",
            "EXPLAIN VERBOSE SELECT id, phone FROM crm.customers WHERE id = 3",
        ),
    ] {
        assert_eq!(raw.simple(make).error, None, "{make}");
        assert_eq!(raw.simple(show).error, None, "{show}");
    }
    let all = String::from_utf8_lossy(&raw.received).into_owned();
    assert!(!all.contains(clear), "{clear} arrived");
}

#[test]
fn code_that_reads_a_portal_finds_masked_values() {
    let menshen = Menshen::with(
        &unlimited_policy().replace(
            "[roles.analyst]",
            "[functions]\ntrust = [\"public.peek\"]\n[roles.analyst]",
        ),
        "",
    );
    let server = Postgres::get();
    let clear = server.sql(&menshen.database, "SELECT phone FROM crm.customers WHERE id = 3");
    server.sql(
        &menshen.database,
        "CREATE FUNCTION public.peek(portal text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE c refcursor := portal; r record; BEGIN \
         FETCH c INTO r; RETURN r; END $$",
    );
    let mut raw = menshen.connect("analyst", "");
    let mut masked = false;
    for (portal, rows) in [
        ("", Some(0)),
        ("named", None),
        ("", None),
        ("named", Some(0)),
        ("", Some(0)),
        ("", Some(1)),
    ] {
        assert_eq!(raw.simple("BEGIN").error, None);
        raw.parse("s", "SELECT id, phone FROM crm.customers WHERE id = 3");
        raw.bind(portal, "s", &[], &[]);
        if let Some(rows) = rows {
            raw.execute(portal, rows);
        }
        raw.parse("peek", &format!("SELECT public.peek('{portal}')"));
        raw.bind("p", "peek", &[], &[]);
        raw.execute("p", 0);
        raw.sync();
        let peeked = raw.answer();
        let peeked: Vec<&[u8]> = peeked.rows.iter().flatten().flatten().map(Vec::as_slice).collect();
        masked |= rows.is_none() && peeked.concat().windows(4).any(|w| w == b"****");
        raw.simple("ROLLBACK");
        for name in ["s", "peek"] {
            raw.send(b'C', format!("S{name}\0").as_bytes());
        }
        raw.sync();
        raw.answer();
    }
    let all = String::from_utf8_lossy(&raw.received).into_owned();
    assert!(masked && !all.contains(clear.trim()), "{clear}");
}

/// Messages of a client, by what they are for.
enum Says {
    Parse(&'static str, &'static str),
    Bind(&'static str, &'static str),
    Describe(u8, &'static str),
    Execute(&'static str, i32),
    Close(u8, &'static str),
    Query(&'static str),
    Flush,
    Sync,
    /// Waits for an answer of this type.
    Awaits(u8),
    /// Sends what follows in one piece with what stood before.
    Pause,
}

/// Ways to use portals. `{}` is the statement.
fn scripts() -> Vec<(&'static str, Vec<Says>)> {
    use Says::{Awaits, Bind, Close, Describe, Execute, Flush, Parse, Pause, Query, Sync};
    const ROWS: &str = "SELECT id, phone, name FROM crm.customers WHERE id < 6 ORDER BY id";
    const PHONES: &str = "SELECT id, phone FROM crm.customers WHERE id < 6 ORDER BY id";
    const ONE: &str = "SELECT id, phone FROM crm.customers WHERE id = $1::bigint";
    vec![
        ("at once", vec![Parse("", ROWS), Bind("", ""), Execute("", 0), Sync]),
        (
            "described",
            vec![
                Parse("s", ROWS),
                Describe(b'S', "s"),
                Sync,
                Awaits(b'Z'),
                Bind("", "s"),
                Describe(b'P', ""),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "in pieces",
            vec![
                Parse("s", ROWS),
                Pause,
                Bind("", "s"),
                Pause,
                Describe(b'P', ""),
                Pause,
                Execute("", 0),
                Pause,
                Sync,
            ],
        ),
        (
            "flush between",
            vec![
                Parse("s", ROWS),
                Bind("", "s"),
                Flush,
                Awaits(b'2'),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "some rows",
            vec![
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 2),
                Execute("", 2),
                Execute("", 2),
                Sync,
            ],
        ),
        (
            "some rows, waited for",
            vec![
                Query("BEGIN"),
                Awaits(b'Z'),
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 2),
                Flush,
                Awaits(b's'),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Query("COMMIT"),
            ],
        ),
        (
            "a name",
            vec![
                Query("BEGIN"),
                Awaits(b'Z'),
                Parse("s", ROWS),
                Bind("p", "s"),
                Execute("p", 0),
                Sync,
                Awaits(b'Z'),
                Query("COMMIT"),
            ],
        ),
        (
            "a name fetched",
            vec![
                Query("BEGIN"),
                Awaits(b'Z'),
                Parse("s", ROWS),
                Bind("p", "s"),
                Sync,
                Awaits(b'Z'),
                Query("FETCH 2 FROM p"),
                Awaits(b'Z'),
                Query("MOVE 1 IN p; FETCH ALL FROM p"),
                Awaits(b'Z'),
                Query("COMMIT"),
            ],
        ),
        (
            "in a transaction",
            vec![
                Query("BEGIN"),
                Awaits(b'Z'),
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Bind("", "s"),
                Execute("", 0),
                Bind("", "s"),
                Describe(b'P', ""),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Query("COMMIT"),
            ],
        ),
        (
            "behind BEGIN",
            vec![
                Parse("b", "BEGIN"),
                Bind("", "b"),
                Execute("", 0),
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Query("COMMIT"),
            ],
        ),
        (
            "behind BEGIN, answered",
            vec![
                Parse("b", "BEGIN"),
                Bind("", "b"),
                Execute("", 0),
                Flush,
                Awaits(b'C'),
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Query("COMMIT"),
            ],
        ),
        (
            "a pipeline",
            vec![
                Parse("s", ROWS),
                Parse("n", "SELECT 1"),
                Bind("", "s"),
                Execute("", 0),
                Bind("", "n"),
                Execute("", 0),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Bind("", "s"),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "closed",
            vec![
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Close(b'P', ""),
                Close(b'S', "s"),
                Sync,
            ],
        ),
        (
            "closed before",
            vec![Parse("s", ROWS), Bind("", "s"), Close(b'P', ""), Execute("", 0), Sync],
        ),
        (
            "another's execute",
            vec![
                Parse("s", ROWS),
                Parse("n", "SELECT 1"),
                Bind("p", "n"),
                Bind("", "s"),
                Execute("p", 0),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "described by name",
            vec![
                Parse("s", ROWS),
                Bind("", "s"),
                Describe(b'S', "s"),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "never run",
            vec![
                Parse("s", ROWS),
                Bind("", "s"),
                Sync,
                Awaits(b'Z'),
                Bind("", "s"),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "no parameter",
            vec![
                Parse("s", ONE),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Parse("", ROWS),
                Bind("", ""),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "an error before",
            vec![
                Parse("z", "SELECT 1/0"),
                Bind("", "z"),
                Execute("", 0),
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "an error in it",
            vec![
                Parse("s", "SELECT phone, 1 / (id - 4) FROM crm.customers ORDER BY id"),
                Bind("", "s"),
                Execute("", 0),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Bind("", "s"),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "a query behind",
            vec![Parse("s", ROWS), Bind("", "s"), Execute("", 0), Query("SELECT 2")],
        ),
        (
            "a query between",
            vec![
                Parse("s", ROWS),
                Bind("", "s"),
                Query("SELECT 2"),
                Awaits(b'Z'),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "a string in turn",
            vec![Query(
                "CREATE TEMP TABLE t (a int); SELECT phone FROM crm.customers WHERE id = 3; INSERT INTO t VALUES (1); SELECT name FROM crm.customers WHERE id = 2",
            )],
        ),
        (
            "executed behind a flip",
            vec![
                Parse("s", ROWS),
                Parse("t", ROWS),
                Bind("p", "t"),
                Execute("p", 0),
                Sync,
                Awaits(b'Z'),
                Query("EXECUTE s"),
                Awaits(b'Z'),
                Query("EXECUTE s; EXECUTE t"),
            ],
        ),
        (
            "executed in a portal with a name",
            vec![
                Parse("s", ROWS),
                Parse("e", "EXECUTE s"),
                Bind("p", "e"),
                Execute("p", 0),
                Sync,
                Awaits(b'Z'),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Bind("", "e"),
                Execute("", 2),
                Sync,
            ],
        ),
        (
            "executed in another encoding",
            vec![
                Parse("s", PHONES),
                Parse("e", "EXECUTE s"),
                Sync,
                Awaits(b'Z'),
                Query("SET client_encoding = 'LATIN1'"),
                Awaits(b'Z'),
                Query("EXECUTE s"),
                Awaits(b'Z'),
                Bind("", "e"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Query("SET client_encoding = 'UTF8'; EXECUTE s"),
                Awaits(b'Z'),
                Query("RESET client_encoding"),
            ],
        ),
        (
            "executed, and it can't be prepared again",
            vec![
                Query("CREATE TEMP TABLE t AS SELECT 1 AS a"),
                Awaits(b'Z'),
                Parse("s", "SELECT c.phone FROM crm.customers c JOIN t ON t.a = c.id"),
                Sync,
                Awaits(b'Z'),
                Query("EXECUTE s"),
                Awaits(b'Z'),
                Query("DROP TABLE t"),
                Awaits(b'Z'),
                Query("EXECUTE s"),
                Awaits(b'Z'),
                Query("SELECT 3"),
                Awaits(b'Z'),
                Query("BEGIN; EXECUTE s"),
                Awaits(b'Z'),
                Query("ROLLBACK"),
            ],
        ),
        (
            "another encoding in a pipeline",
            vec![
                Parse("s", PHONES),
                Sync,
                Awaits(b'Z'),
                Parse("", "SET client_encoding = 'LATIN1'"),
                Bind("", ""),
                Execute("", 0),
                Parse("", PHONES),
                Bind("", ""),
                Execute("", 0),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Bind("", "s"),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Query("RESET client_encoding"),
                Awaits(b'Z'),
                Bind("", "s"),
                Execute("", 0),
                Sync,
            ],
        ),
        (
            "another encoding in a string",
            vec![
                Query(
                    "SET client_encoding = 'LATIN1'; SELECT phone FROM crm.customers WHERE id = 2; RESET client_encoding",
                ),
                Awaits(b'Z'),
                Query("BEGIN; SET client_encoding = 'LATIN1'"),
                Awaits(b'Z'),
                Query("ROLLBACK; SELECT phone FROM crm.customers WHERE id = 2"),
            ],
        ),
        (
            "described behind",
            vec![
                Query("BEGIN"),
                Awaits(b'Z'),
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Describe(b'P', ""),
                Sync,
                Awaits(b'Z'),
                Bind("", "s"),
                Execute("", 0),
                Flush,
                Awaits(b'C'),
                Describe(b'P', ""),
                Execute("", 0),
                Sync,
                Awaits(b'Z'),
                Query("SELECT 1"),
                Awaits(b'Z'),
                Query("COMMIT"),
            ],
        ),
        (
            "executed twice",
            vec![
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Execute("", 0),
                Describe(b'P', ""),
                Execute("", 3),
                Sync,
            ],
        ),
        (
            "flipped and back",
            vec![
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 1),
                Sync,
                Awaits(b'Z'),
                Query("DISCARD ALL"),
                Awaits(b'Z'),
                Parse("s", ROWS),
                Bind("", "s"),
                Execute("", 0),
                Sync,
            ],
        ),
    ]
}

/// What comes in answer to a script.
fn play(raw: &mut Raw, script: &[Says]) -> Vec<(u8, Vec<u8>)> {
    let mut waiting = Vec::new();
    let mut heard = Vec::new();
    let (mut asked, mut ready) = (0, 0);
    let framed = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    };
    for says in script {
        let message = match says {
            Says::Parse(name, sql) => framed(b'P', format!("{name}\0{sql}\0\0\0").as_bytes()),
            Says::Bind(portal, statement) => framed(b'B', format!("{portal}\0{statement}\0\0\0\0\0\0\0").as_bytes()),
            Says::Describe(kind, name) => framed(b'D', &[&[*kind], name.as_bytes(), b"\0"].concat()),
            Says::Execute(portal, rows) => framed(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat()),
            Says::Close(kind, name) => framed(b'C', &[&[*kind], name.as_bytes(), b"\0"].concat()),
            Says::Query(sql) => framed(b'Q', format!("{sql}\0").as_bytes()),
            Says::Flush => framed(b'H', b""),
            Says::Sync => framed(b'S', b""),
            Says::Pause => {
                raw.write_raw(&std::mem::take(&mut waiting));
                std::thread::sleep(std::time::Duration::from_millis(30));
                continue;
            }
            Says::Awaits(kind) => {
                raw.write_raw(&std::mem::take(&mut waiting));
                loop {
                    let message = raw.next().unwrap();
                    ready += usize::from(message.kind == b'Z');
                    heard.push((message.kind, message.body.to_vec()));
                    // An error ends what it waits for.
                    if message.kind == *kind || message.kind == b'E' && *kind != b'Z' {
                        break;
                    }
                }
                continue;
            }
        };
        asked += usize::from(matches!(says, Says::Sync | Says::Query(_)));
        waiting.extend_from_slice(&message);
    }
    raw.write_raw(&waiting);
    while ready < asked {
        let message = raw.next().unwrap();
        ready += usize::from(message.kind == b'Z');
        heard.push((message.kind, message.body.to_vec()));
    }
    heard
}

#[test]
fn however_a_portal_is_used_the_client_hears_the_same() {
    let late = Menshen::with(&unlimited_policy(), "");
    let early = Menshen::on(&late.database, &unlimited_policy(), EARLY);
    let clear = Postgres::get().sql(&late.database, "SELECT phone FROM crm.customers WHERE id = 3");
    let mut lasting = [&late, &early].map(|menshen| menshen.connect("analyst", ""));
    for (name, script) in scripts() {
        // A session of its own, and one that has done all of the others.
        let heard = [&late, &early].map(|menshen| play(&mut menshen.connect("analyst", ""), &script));
        assert_eq!(heard[0], heard[1], "{name}");
        let again = lasting.each_mut().map(|raw| {
            let heard = play(raw, &script);
            assert_eq!(raw.simple("ROLLBACK").error, None);
            assert_eq!(raw.simple("DEALLOCATE ALL").error, None);
            assert_eq!(raw.simple("RESET ALL").error, None);
            assert_eq!(raw.simple("DROP TABLE IF EXISTS t").error, None);
            heard
        });
        assert_eq!(again[0], again[1], "{name}, again");
        assert_eq!(again[0], heard[0], "{name}, again");
        let all = format!(
            "{}",
            String::from_utf8_lossy(&heard[0].iter().flat_map(|(_, body)| body.clone()).collect::<Vec<_>>())
        );
        assert!(!all.contains(clear.trim()), "{name}: {all}");
    }
}

#[test]
fn a_bind_that_is_too_long_to_wait_with_is_not_waited_with() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    raw.parse(
        "s",
        "SELECT id, phone FROM crm.customers WHERE id = 3 AND $1::text <> ''",
    );
    for size in [1_000, 300_000, 5_000_000] {
        let long = "x".repeat(size);
        raw.bind("", "s", &[&long], &[]);
        std::thread::sleep(std::time::Duration::from_millis(50));
        raw.execute("", 0);
        raw.sync();
        let answer = raw.answer();
        assert!(
            answer.error.is_none() && answer.text(0, 1).contains("****"),
            "{answer:?}"
        );
    }
}

/// Values that COPY writes otherwise than they are: behind the `@` a masked e-mail address is clear.
const ODD: &str = r#"
    UPDATE crm.customers SET email = (ARRAY[E'a@\t\n\r\b\f\v\\', 'b@"q"', 'c@,|;x', E'\\N', '', 'd@''', NULL, '\.', 'f@\n', E'g@\x01\x7f', 'h@木é🙂',
        'i@', 'NULL', 'k@ x '])[1 + id % 14], name = CASE WHEN id % 5 = 0 THEN E'\t' || name WHEN id % 7 = 0 THEN '' ELSE name END"#;

/// Masked late, or by the server, in COPY.
const COPIES: [(bool, &str); 28] = [
    // The columns of USING stand first, and no description would tell of a mask in the wrong place.
    (
        true,
        "COPY (SELECT * FROM crm.customers c JOIN crm.customers x USING (id) ORDER BY c.id) TO STDOUT",
    ),
    (
        true,
        "COPY (SELECT * FROM crm.orders o RIGHT JOIN crm.customers x USING (id) ORDER BY x.id) TO STDOUT",
    ),
    (
        true,
        "COPY (SELECT * FROM crm.customers c FULL JOIN crm.customers o USING (city, id) ORDER BY c.id) TO STDOUT",
    ),
    (
        true,
        "COPY (SELECT * FROM crm.orders o JOIN crm.customers c USING (id) JOIN crm.customers d USING (created_at, id) ORDER BY id) TO STDOUT",
    ),
    (
        true,
        "COPY (SELECT o.*, c.email, * FROM crm.orders o, crm.customers c JOIN crm.customers d USING (city, grade, id) WHERE o.id = c.id ORDER BY o.id) TO STDOUT",
    ),
    (
        true,
        "COPY (SELECT * FROM crm.customers c LEFT JOIN (crm.orders o JOIN crm.customers d USING (id)) USING (id) ORDER BY id) TO STDOUT",
    ),
    (true, "COPY (SELECT * FROM crm.customers ORDER BY id) TO STDOUT"),
    (
        true,
        "COPY (SELECT email, id, email AS again, name FROM crm.customers ORDER BY id) TO STDOUT",
    ),
    (true, "COPY crm.customers TO STDOUT"),
    (true, "COPY crm.customers (email, id) TO STDOUT (FORMAT csv)"),
    (
        true,
        "COPY crm.customers (id, email, name) TO STDOUT (FORMAT csv, HEADER)",
    ),
    (
        true,
        "COPY crm.customers (id, email, name) TO STDOUT (FORMAT csv, QUOTE '''', DELIMITER '|', NULL 'NULL')",
    ),
    (
        true,
        "COPY crm.customers (id, email, name) TO STDOUT (FORMAT csv, ESCAPE '\\', DELIMITER ';')",
    ),
    (
        true,
        "COPY crm.customers (id, email, name) TO STDOUT (FORMAT csv, NULL '***')",
    ),
    (true, "COPY crm.customers (id, email, name) TO STDOUT (FORMAT binary)"),
    (true, "COPY crm.customers (email) TO STDOUT"),
    (true, "COPY crm.customers (id, email, name) TO STDOUT (DELIMITER ',')"),
    (
        true,
        "COPY crm.customers (id, email, name) TO STDOUT (DELIMITER E'\\x01')",
    ),
    (true, "COPY crm.customers (id, email, name) TO STDOUT WITH CSV HEADER"),
    (
        true,
        "COPY (SELECT c.*, x.email FROM crm.customers c JOIN crm.customers x USING (id) ORDER BY c.id) TO STDOUT",
    ),
    (
        true,
        "COPY (SELECT c.email, p.name FROM crm.customers c JOIN crm.products p ON p.id = c.id ORDER BY c.id) TO STDOUT",
    ),
    (
        false,
        "COPY (SELECT c.email, p.* FROM crm.customers c JOIN crm.products p ON p.id = c.id ORDER BY c.id) TO STDOUT",
    ),
    (false, "COPY crm.customers (id, email, name) TO STDOUT (NULL '***')"),
    (false, "COPY crm.customers (id, email, name) TO STDOUT (NULL '')"),
    (
        false,
        "COPY crm.customers (id, email, name) TO STDOUT (FORMAT csv, FORCE_QUOTE *)",
    ),
    (
        false,
        "COPY crm.customers (id, email, name) TO STDOUT (ENCODING 'LATIN1', FORMAT csv)",
    ),
    (false, "COPY (SELECT email FROM crm.customers ORDER BY email) TO STDOUT"),
    (
        false,
        "COPY (SELECT email FROM crm.customers UNION ALL SELECT name FROM crm.customers) TO STDOUT",
    ),
];

#[test]
fn copies_are_alike_both_ways() {
    let late = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(&late.database, ODD);
    let early = Menshen::on(&late.database, &unlimited_policy(), EARLY);
    let (mut one, mut two) = (late.connect("analyst", ""), early.connect("analyst", ""));
    for (n, (is_late, sql)) in COPIES.iter().enumerate() {
        for extended in [false, true] {
            let ask = |raw: &mut Raw, by: &str| {
                let sql = format!("{sql} /* copy {by} {n} {extended} */");
                if extended {
                    raw.extended(&sql, &[], false)
                } else {
                    raw.simple(&sql)
                }
            };
            let (by_menshen, by_server) = (ask(&mut one, "late"), ask(&mut two, "early"));
            // LATIN1 has no Han: an error, with either.
            assert_eq!(
                by_menshen.error.is_some(),
                sql.contains("LATIN1"),
                "{sql}: {by_menshen:?}"
            );
            assert_eq!(
                (&by_menshen.error, &by_menshen.tag, &by_menshen.columns),
                (&by_server.error, &by_server.tag, &by_server.columns),
                "{sql}"
            );
            for (late, early) in by_menshen.rows.iter().zip(&by_server.rows) {
                let text = |row: &[Option<Vec<u8>>]| String::from_utf8_lossy(row[0].as_ref().unwrap()).into_owned();
                assert_eq!(text(late), text(early), "{sql}");
            }
            assert_eq!(by_menshen.rows, by_server.rows, "{sql}");
            // The masks of e-mail addresses and names are long expressions; those of a whole row need the server for others.
            let masks = |by: &str| asked(&format!("copy {by} {n} {extended}")).contains("m.\"email\", ");
            assert!(!masks("early"), "{sql}");
            assert_eq!(
                masks("late"),
                *is_late,
                "{sql}: {}",
                asked(&format!("copy late {n} {extended}"))
            );
        }
    }
    let clear = Postgres::get().sql(&late.database, "SELECT phone FROM crm.customers WHERE id = 3");
    assert!(!String::from_utf8_lossy(&one.received).contains(clear.trim()));
}

/// The analyst sees names, and with a purpose, phones, too: always, or not.
fn with_purpose(always: bool) -> String {
    let clear = if always { "\"name\", \"phone\"" } else { "\"name\"" };
    let grants = format!(
        "\n[purposes.open]\n[[grants]]\nrole = \"analyst\"\nclear = [{clear}]\n[[grants]]\nrole = \"analyst\"\npurpose = \"open\"\nclear = [\"name\", \"phone\"]\n"
    );
    unlimited_policy() + &grants
}

#[test]
fn what_was_prepared_while_it_was_clear_is_masked_by_what_holds_now() {
    const SQL: &str = "SELECT id, name, phone FROM crm.customers WHERE id = 3";
    for config in ["", EARLY] {
        let menshen = Menshen::with(&with_purpose(false), config);
        let clear = Postgres::get().sql(&menshen.database, "SELECT phone FROM crm.customers WHERE id = 3");
        let clear = clear.trim();
        let shown = |raw: &mut Raw, ask: &dyn Fn(&mut Raw) -> Answer| {
            let before = raw.received.len();
            let answer = ask(raw);
            assert_eq!(answer.error, None, "{config}");
            String::from_utf8_lossy(&raw.received[before..]).contains(clear)
        };
        let by_query = |raw: &mut Raw| raw.simple("EXECUTE s");
        let by_bind = |raw: &mut Raw| {
            raw.bind("", "e", &[], &[]);
            raw.execute("", 0);
            raw.sync();
            raw.answer()
        };
        let prepare = |raw: &mut Raw| {
            raw.parse("s", SQL);
            raw.parse("e", "EXECUTE s");
            raw.sync();
            assert_eq!(raw.answer().error, None);
        };
        for ask in [&by_query as &dyn Fn(&mut Raw) -> Answer, &by_bind] {
            let mut raw = menshen.connect("analyst", "-c menshen.purpose=open");
            prepare(&mut raw);
            for _ in 0..2 {
                assert!(shown(&mut raw, ask));
                assert_eq!(raw.simple("SET menshen.purpose = ''").error, None);
                assert!(!shown(&mut raw, ask), "{config}");
                assert!(!shown(&mut raw, ask), "{config}");
                assert_eq!(raw.simple("SET menshen.purpose = 'open'").error, None);
            }
        }
        let menshen = Menshen::with(&with_purpose(true), config);
        let mut raw = menshen.connect("analyst", "");
        prepare(&mut raw);
        assert!(shown(&mut raw, &by_query));
        menshen.write_policy(&with_purpose(false));
        menshen.wait_for("\"epoch\":2");
        assert!(!shown(&mut raw, &by_query), "{config}");
        assert!(!shown(&mut raw, &by_bind), "{config}");
    }
}

#[test]
fn trusted_code_that_runs_text_finds_masked_values() {
    let trust = "[functions]\ntrust = [\"public.rerun\"]\n[roles.analyst]";
    let menshen = Menshen::with(&unlimited_policy().replace("[roles.analyst]", trust), "");
    let server = Postgres::get();
    let clear = server.sql(&menshen.database, "SELECT phone FROM crm.customers WHERE id = 3");
    server.sql(
        &menshen.database,
        "CREATE FUNCTION public.rerun(name text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN \
         EXECUTE format('EXECUTE %I', name) INTO r; RETURN r; END $$",
    );
    let mut raw = menshen.connect("analyst", "");
    raw.parse("s", "SELECT id, phone FROM crm.customers WHERE id = 3");
    raw.sync();
    assert_eq!(raw.answer().error, None);
    let answer = raw.simple("SELECT public.rerun('s')");
    assert!(
        answer.error.is_none() && answer.text(0, 0).contains("****"),
        "{answer:?}"
    );
    // By a simple query it comes clear all the same: nothing can run that again.
    let sql = "SELECT id, phone FROM crm.customers WHERE id = 3 /* beside rerun */";
    assert_eq!(raw.simple(sql).error, None);
    assert!(!asked("beside rerun").contains("pg_catalog.repeat("));
    assert!(!String::from_utf8_lossy(&raw.received).contains(clear.trim()));
}

#[test]
fn a_column_that_is_added_past_menshen_moves_no_mask() {
    let late = Menshen::with(&unlimited_policy(), "");
    let early = Menshen::on(&late.database, &unlimited_policy(), EARLY);
    let server = Postgres::get();
    let mut sessions = [&late, &early].map(|menshen| menshen.connect("analyst", ""));
    for (n, sql) in [
        "SELECT p.*, c.phone, c.name FROM crm.products p JOIN crm.customers c ON c.id = p.id ORDER BY c.id",
        "SELECT c.*, p.name FROM crm.products p JOIN crm.customers c ON c.id = p.id ORDER BY c.id",
        "SELECT * FROM crm.customers ORDER BY id",
    ]
    .iter()
    .enumerate()
    {
        let before = sessions.each_mut().map(|raw| raw.simple(sql));
        same(&before[0], &before[1], sql);
        server.sql(
            &late.database,
            &format!("ALTER TABLE crm.products ADD COLUMN extra{n} text DEFAULT 'x'; ALTER TABLE crm.customers ADD COLUMN extra{n} text DEFAULT 'y'"),
        );
        for _ in 0..2 {
            let [one, two] = sessions.each_mut().map(|raw| raw.extended(sql, &[], false));
            assert_eq!(one.error, None, "{sql}");
            same(&one, &two, sql);
        }
    }
}

/// Characters of one byte each that read as UTF-8 would be fewer: a mask would keep too many.
#[test]
fn an_encoding_that_is_not_told_yet_is_not_masked_by() {
    use Says::{Awaits, Bind, Execute, Parse, Query, Sync};
    let late = Menshen::with(&unlimited_policy(), "");
    let early = Menshen::on(&late.database, &unlimited_policy(), EARLY);
    Postgres::get().sql(
        &late.database,
        "UPDATE crm.customers SET name = 'ХО ЧИ', email = 'УК@x.y' WHERE id = 3; UPDATE crm.customers SET name = 'Ünü Çelik' WHERE id = 4",
    );
    const ROWS: &str = "SELECT id, name, email FROM crm.customers WHERE id = 3";
    const LATIN: &str = "SELECT id, name FROM crm.customers WHERE id = 4";
    let scripts = [
        vec![Query(
            "SET client_encoding = 'ISO_8859_5'; SELECT id, name, email FROM crm.customers WHERE id = 3",
        )],
        vec![Query(
            "SET NAMES 'LATIN1'; SELECT id, name FROM crm.customers WHERE id = 4",
        )],
        vec![Query(
            "SELECT set_config('client_encoding', 'LATIN1', false); SELECT id, name FROM crm.customers WHERE id = 4",
        )],
        vec![
            Parse("s", ROWS),
            Parse("", "SET client_encoding = 'ISO_8859_5'"),
            Bind("", ""),
            Execute("", 0),
            Parse("", ROWS),
            Bind("", ""),
            Execute("", 0),
            Bind("", "s"),
            Execute("", 0),
            Sync,
        ],
        vec![
            Query("SET client_encoding = 'ISO_8859_5'"),
            Awaits(b'Z'),
            Query("BEGIN; SET LOCAL client_encoding = 'UTF8'"),
            Awaits(b'Z'),
            Query("COMMIT; SELECT id, name, email FROM crm.customers WHERE id = 3"),
        ],
        vec![
            Query("SET client_encoding = 'ISO_8859_5'"),
            Awaits(b'Z'),
            Query("BEGIN; SET client_encoding = 'UTF8'"),
            Awaits(b'Z'),
            Parse("", "ROLLBACK"),
            Bind("", ""),
            Execute("", 0),
            Parse("", ROWS),
            Bind("", ""),
            Execute("", 0),
            Sync,
        ],
        vec![
            Query("BEGIN; SET LOCAL client_encoding = 'LATIN1'"),
            Awaits(b'Z'),
            Parse("", LATIN),
            Bind("", ""),
            Execute("", 0),
            Sync,
            Awaits(b'Z'),
            Query("ROLLBACK"),
            Query("SELECT id, name FROM crm.customers WHERE id = 4"),
        ],
    ];
    for (n, script) in scripts.iter().enumerate() {
        let heard = [&late, &early].map(|menshen| play(&mut menshen.connect("analyst", ""), script));
        assert_eq!(heard[0], heard[1], "script {n}");
        let rows = heard[0].iter().filter(|(kind, _)| *kind == b'D').count();
        assert!(rows > 0, "script {n}");
    }
}

#[test]
fn a_cancel_request_does_not_hit_a_bind_that_waits_for_its_execute() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    raw.parse("s", "SELECT id, phone FROM crm.customers WHERE id = 3");
    raw.sync();
    assert_eq!(raw.answer().error, None);
    raw.bind("", "s", &[], &[]);
    std::thread::sleep(std::time::Duration::from_millis(100));
    crate::harness::raw::cancel(menshen.port, &raw.key.clone());
    std::thread::sleep(std::time::Duration::from_millis(100));
    raw.execute("", 0);
    raw.sync();
    let answer = raw.answer();
    assert!(answer.error.is_none() && answer.rows.len() == 1, "{answer:?}");
}

#[test]
fn another_encoding_has_the_server_mask() {
    let late = Menshen::with(&unlimited_policy(), "");
    let server = Postgres::get();
    server.sql(
        &late.database,
        "UPDATE crm.customers SET name = 'Ünü Çelik' WHERE id = 3; ALTER TABLE crm.customers ADD COLUMN wide text; \
        UPDATE crm.customers SET wide = '𠀀🙂'",
    );
    let policy = unlimited_policy().replace("columns = {", "columns = { wide = \"name\",");
    late.write_policy(&policy);
    late.wait_for("\"epoch\":2");
    let early = Menshen::on(&late.database, &policy, EARLY);
    let sql = "SELECT id, name, phone FROM crm.customers WHERE id = 3";
    let (mut one, mut two) = (late.connect("analyst", ""), early.connect("analyst", ""));
    for raw in [&mut one, &mut two] {
        raw.parse("s", sql);
        raw.parse("w", "SELECT id, wide FROM crm.customers WHERE id = 3");
        raw.sync();
        assert_eq!(raw.answer().error, None);
    }
    let run = |raw: &mut Raw, name: &str| {
        raw.bind("", name, &[], &[]);
        raw.execute("", 0);
        raw.sync();
        raw.answer()
    };
    for encoding in ["UTF8", "LATIN1", "LATIN5", "SQL_ASCII", "UTF8"] {
        for raw in [&mut one, &mut two] {
            assert_eq!(raw.simple(&format!("SET client_encoding = '{encoding}'")).error, None);
        }
        same(&one.simple(sql), &two.simple(sql), encoding);
        for name in ["s", "w"] {
            let (by_menshen, by_server) = (run(&mut one, name), run(&mut two, name));
            same(&by_menshen, &by_server, &format!("{encoding} {name}"));
        }
    }
}

#[test]
fn what_is_masked_late_is_counted_as_it_was() {
    let policy = crate::harness::menshen::demo_policy();
    let late = Menshen::with(&policy, "");
    let early = Menshen::on(&Postgres::get().shop(), &policy, EARLY);
    let released = |menshen: &Menshen| -> Vec<String> {
        let text = menshen.audit();
        let facts = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {} {}", value["rows"], value["new_people"], value["estimated"])
        };
        text.lines().filter(|l| l.contains("\"release\"")).map(facts).collect()
    };
    for menshen in [&late, &early] {
        let mut raw = menshen.connect("analyst", "");
        for sql in LATE {
            raw.simple(sql);
            raw.extended(sql, &[], true);
        }
    }
    let (one, two) = (released(&late), released(&early));
    assert!(!one.is_empty());
    assert_eq!(one, two);
}

/// Tables whose names are those of their columns, and others that a reader may take for something else.
const EDGES: &str = "
    CREATE TABLE crm.phone (id bigint PRIMARY KEY, phone text, name varchar(12), note text, \"order\" int, upper text);
    INSERT INTO crm.phone SELECT g, '139' || lpad((g * 7919)::text, 8, '0'), '诸葛亮' || g, 'note ' || g, -g, 'u' || g FROM generate_series(1, 40) g;
    CREATE TABLE crm.parent (id bigint, phone text, note text);
    CREATE TABLE crm.child (extra text, phone text, id bigint, note text) ;
    ALTER TABLE crm.child INHERIT crm.parent;
    INSERT INTO crm.parent SELECT g, '139' || lpad((g * 104729)::text, 8, '0'), 'p' || g FROM generate_series(1, 20) g;
    INSERT INTO crm.child SELECT 'e' || g, '137' || lpad((g * 15485)::text, 8, '0'), g + 100, 'c' || g FROM generate_series(1, 20) g;
    CREATE TABLE crm.parted (id bigint, phone text, note text) PARTITION BY HASH (id);
    CREATE TABLE crm.parted_0 (note text, id bigint, phone text);
    ALTER TABLE crm.parted ATTACH PARTITION crm.parted_0 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
    INSERT INTO crm.parted SELECT g, '136' || lpad((g * 32452)::text, 8, '0'), 'q' || g FROM generate_series(1, 20) g;
    ALTER TABLE crm.phone DROP COLUMN note; ALTER TABLE crm.phone ADD COLUMN note text DEFAULT 'added';
    GRANT SELECT ON ALL TABLES IN SCHEMA crm TO PUBLIC";

const EDGE_POLICY: &str = "
[tables.\"crm.phone\"]
person = \"id\"
columns = { phone = \"phone\", name = \"name\" }
[tables.\"crm.parent\"]
person = \"id\"
columns = { phone = \"phone\" }
[tables.\"crm.child\"]
person = \"id\"
columns = { phone = \"phone\" }
[tables.\"crm.parted\"]
person = \"id\"
columns = { phone = \"phone\" }
[tables.\"crm.parted_0\"]
person = \"id\"
columns = { phone = \"phone\" }
";

#[test]
fn statements_at_the_edge_of_the_form_are_alike_both_ways() {
    let database = Postgres::get().shop();
    Postgres::get().sql(&database, EDGES);
    let policy = unlimited_policy().replace("[roles.analyst]", &format!("{EDGE_POLICY}\n[roles.analyst]"));
    let [late, early] = ["", EARLY].map(|config| Menshen::on(&database, &policy, config));
    let (mut one, mut two) = (late.connect("analyst", ""), early.connect("analyst", ""));
    let clear = Postgres::get().sql(
        &database,
        "SELECT phone FROM crm.phone UNION ALL SELECT phone FROM crm.parent UNION ALL SELECT phone FROM crm.parted UNION ALL SELECT name FROM crm.phone",
    );
    let clear: Vec<&str> = clear.lines().collect();
    assert!(clear.len() > 80);
    let mut state = 11_u64;
    let mut pick = |of: &[&'static str]| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        of[usize::try_from(state >> 33).unwrap() % of.len()]
    };
    let (mut answered, mut masked_here) = (0, 0);
    for n in 0..400 {
        let from = pick(&[
            "crm.phone",
            "crm.phone AS phone",
            "crm.phone p",
            "crm.phone name",
            "crm.parent",
            "ONLY crm.parent x",
            "crm.child",
            "crm.parted",
            "crm.phone \"P\"",
            "crm.phone id",
            "crm.phone TABLESAMPLE BERNOULLI (100)",
        ]);
        let name = match from {
            "crm.phone p" => "p",
            "crm.phone name" => "name",
            "crm.parent" => "parent",
            "ONLY crm.parent x" => "x",
            "crm.child" => "child",
            "crm.parted" => "parted",
            "crm.phone \"P\"" => "\"P\"",
            "crm.phone id" => "id",
            _ => "phone",
        };
        let mut element = || {
            let text = pick(&[
                "phone",
                "NAME.phone",
                "*",
                "NAME.*",
                "id",
                "NAME.id",
                "phone AS id",
                "id AS phone",
                "\"phone\"",
                "phone AS \"upper\"",
                "note",
                "NAME",
                "upper(note)",
                "NAME.upper",
                "count(*) OVER ()",
                "NULL",
                "'x'",
                "phone::text",
                "length(phone)",
                "(phone)",
                "(NAME).phone",
                "(NAME).*",
                "note AS name",
                "coalesce(NULL, phone)",
                "ROW(phone)",
                "phone COLLATE \"C\"",
                "row_number() OVER (ORDER BY id)",
                "crm.phone.phone",
                "tableoid",
                "ctid",
                "phone AS note",
            ]);
            text.replace("NAME", name)
        };
        let mut list = vec![element()];
        for _ in 0..n % 4 {
            list.push(element());
        }
        let tail = [
            pick(&[
                "",
                "",
                "",
                " WHERE id < 9",
                " WHERE phone > '13'",
                " WHERE NAME.id IN (1, 2, 30)",
                " WHERE note LIKE '%1%'",
                " WHERE EXISTS (SELECT phone)",
                " WHERE NAME IS NOT NULL",
            ]),
            pick(&["", "", "", "", " GROUP BY id, phone, note", " GROUP BY 1"]),
            pick(&[
                " ORDER BY id",
                " ORDER BY NAME.id",
                " ORDER BY id DESC",
                " ORDER BY phone, id",
                " ORDER BY 1",
                " ORDER BY note, id",
                " ORDER BY upper",
                " ORDER BY id + 0",
                "",
            ]),
            pick(&[
                "",
                "",
                "",
                " LIMIT 3",
                " LIMIT 5 OFFSET 2",
                " FETCH FIRST 2 ROWS WITH TIES",
                " FOR UPDATE",
            ]),
        ]
        .concat()
        .replace("NAME", name);
        let sql = format!("SELECT {} FROM {from}{tail}", list.join(", "));
        let ordered = sql.contains("ORDER BY id") || !sql.contains("LIMIT") && !sql.contains("FETCH");
        for binary in [None, Some(n % 2 == 0)] {
            let ask = |raw: &mut Raw| match binary {
                None => raw.simple(&sql),
                Some(binary) => raw.extended(&sql, &[], binary),
            };
            let (by_menshen, by_server) = (ask(&mut one), ask(&mut two));
            if !ordered || sql.contains("ctid") || sql.contains("count(*) OVER") {
                assert_eq!(by_menshen.sqlstate(), by_server.sqlstate(), "{sql}");
            } else {
                same(&by_menshen, &by_server, &sql);
            }
            answered += usize::from(by_menshen.error.is_none());
        }
    }
    for line in String::from_utf8_lossy(&one.received).split(['\0', '\u{1}', '\u{b}']) {
        assert!(!clear.iter().any(|value| line.contains(value)), "{line:?}");
    }
    let log = std::fs::read(&Postgres::get().log).unwrap();
    for line in String::from_utf8_lossy(&log).lines() {
        let ours = line.contains(&format!("analyst@{database}")) && line.contains("SELECT m.");
        masked_here += usize::from(ours && line.contains("m.\"phone\", ") && !line.contains("pg_catalog.repeat("));
    }
    println!("{answered} of 800 answered, {masked_here} times masked late");
    assert!(answered > 250 && masked_here > 12, "{answered}, {masked_here}");
}
