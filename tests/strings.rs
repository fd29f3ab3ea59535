//! Query strings of several statements that depend on one another: judged and run in turn, answered as a string is.

use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::raw::Message;
use crate::harness::{Menshen, Postgres, Raw};

/// Everything up to ReadyForQuery but what differs between two servers (routine, line, file of an error).
fn messages(raw: &mut Raw, sql: &str) -> Vec<(char, String)> {
    raw.send(b'Q', &[sql.as_bytes(), b"\0"].concat());
    let mut all = Vec::new();
    loop {
        let Message { kind, body } = raw.next().unwrap();
        let text = if kind == b'E' {
            let fields = body.split(|b| *b == 0).map(|f| String::from_utf8_lossy(f).into_owned());
            // Menshen says by which rule it knows that a relation does not exist.
            let own = ["DMenshen rule: relation-unknown.", "Hcheck the name and search_path"];
            let kept = fields.filter(|f| f.starts_with(['S', 'C', 'M', 'P', 'D', 'H']) && !own.contains(&f.as_str()));
            kept.collect::<Vec<_>>().join("|")
        } else if kind == b'T' {
            columns(&body)
        } else {
            String::from_utf8_lossy(&body).into_owned()
        };
        all.push((char::from(kind), text));
        if kind == b'Z' {
            return all;
        }
    }
}

/// A RowDescription without the numbers that each database has of its own.
fn columns(body: &[u8]) -> String {
    let mut rest = &body[2..];
    let mut text = String::new();
    while let Some(end) = rest.iter().position(|b| *b == 0) {
        let (name, fixed) = (String::from_utf8_lossy(&rest[..end]), &rest[end + 1..end + 19]);
        let ty = u32::from_be_bytes(fixed[6..10].try_into().unwrap());
        text.push_str(&format!(
            "{name} {} {} {:?};",
            &fixed[..4] != b"\0\0\0\0",
            ty.min(16384),
            &fixed[10..]
        ));
        rest = &rest[end + 19..];
    }
    text
}

/// Strings that are answered as the server itself answers them.
const STRINGS: [&str; 22] = [
    "CREATE TABLE t1 (a int); INSERT INTO t1 VALUES (1), (2); SELECT * FROM t1 ORDER BY a",
    "CREATE TABLE t2 (a int, b text DEFAULT 'x'); INSERT INTO t2 VALUES (1) RETURNING *; ALTER TABLE t2 ADD c int; SELECT * FROM t2; DROP TABLE t2",
    "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t3 (m mood); INSERT INTO t3 VALUES ('ok'); SELECT m, m::text FROM t3",
    "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2'; SELECT twice(21)",
    // An error undoes all of it, at its place in the string.
    "CREATE TABLE t4 (a int); INSERT INTO t4 VALUES (1); SELECT 1/0; INSERT INTO t4 VALUES (2)",
    "SELECT count(*) FROM pg_class WHERE relname = 't4'",
    "CREATE TABLE t5 (a int); INSERT INTO t5 VALUES (1);\n\n  SELECT /* 木 */ nosuch FROM t5",
    "CREATE TABLE t5 (a int); SELECT a FROM t5 WHERE a = 'no number'",
    "CREATE TABLE t5 (a int); INSERT INTO t5 VALUES (1); CREATE TABLE t6 (a nosuchtype)",
    "CREATE TABLE t5 (a int); SELECT 1 FROM t5; SELECT FROM WHERE",
    // Transactions in the string.
    "BEGIN; CREATE TABLE t7 (a int); INSERT INTO t7 VALUES (1); COMMIT; SELECT * FROM t7",
    "BEGIN; CREATE TABLE t8 (a int); INSERT INTO t8 VALUES (1); ROLLBACK; SELECT to_regclass('t8')",
    "BEGIN; CREATE TABLE t9 (a int); SELECT * FROM t9",
    "INSERT INTO t9 VALUES (9); SELECT * FROM t9; COMMIT",
    "BEGIN; CREATE TABLE t10 (a int); SELECT nosuch FROM t10; COMMIT",
    "SELECT 1",
    "ROLLBACK",
    // Settings.
    "SET search_path = pg_catalog; SELECT count(*) > 0 FROM pg_class; RESET search_path; SHOW search_path",
    "SET search_path = nowhere; SELECT * FROM t1",
    "SHOW search_path",
    "RESET search_path; SELECT * FROM t1 ORDER BY a; PREPARE p AS SELECT a + 1 FROM t1 ORDER BY a; EXECUTE p; EXPLAIN (COSTS OFF) EXECUTE p; DEALLOCATE p",
    "CREATE TEMP TABLE t11 (a int); INSERT INTO t11 SELECT generate_series(1, 3); COPY t11 TO STDOUT; DECLARE c CURSOR WITH HOLD FOR SELECT a FROM t11; FETCH 2 FROM c; CLOSE c;; ",
];

#[test]
fn strings_that_define_and_use_are_answered_as_the_server_does() {
    let postgres = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), "");
    let other = postgres.shop();
    for database in [&menshen.database, &other] {
        postgres.sql(
            database,
            "GRANT ALL ON SCHEMA public TO PUBLIC; ALTER ROLE dba CREATEDB",
        );
    }
    let mut through = menshen.connect("dba", "");
    let mut direct = Raw::connect(postgres.port, &other, "dba", "abd", "").unwrap();
    for sql in STRINGS {
        let one = messages(&mut direct, sql);
        let two = messages(&mut through, sql);
        if sql.contains("FROM WHERE") {
            assert_eq!(two.iter().map(|m| m.0).collect::<String>(), "EZ");
            continue;
        }
        assert_eq!(one, two, "{sql}");
    }
}

#[test]
fn a_part_of_a_string_is_masked_refused_and_counted_like_a_statement() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(&menshen.database, "GRANT ALL ON SCHEMA public TO PUBLIC");
    let mut raw = menshen.connect("analyst", "");
    let masked = raw.simple("CREATE TABLE s1 (a int); INSERT INTO s1 VALUES (1); SELECT c.phone FROM crm.customers c JOIN s1 ON c.id = s1.a");
    assert_eq!(masked.error, None);
    assert!(masked.text(0, 0).contains("****"), "{masked:?}");
    // What an earlier part makes does not hide what a later one reads.
    let view = "CREATE TEMP VIEW customers AS SELECT 1 AS id; SET search_path = crm; SELECT phone FROM crm.customers WHERE id = 1";
    assert!(raw.simple(view).text(0, 0).contains("****"));
    let refused = raw.simple("CREATE TABLE s2 (a int); INSERT INTO s2 VALUES (1); COPY crm.customers TO '/tmp/x'");
    assert_eq!((refused.sqlstate(), refused.status), ("42501", b'I'));
    assert_eq!(
        raw.simple("SELECT to_regclass('s2')").text(0, 0),
        "NULL",
        "what stood before the refusal is undone"
    );
    // Without a purpose masked, with it clear and charged: in one string.
    let mut support = menshen.connect("support", "");
    let both = support.simple("SET menshen.purpose = 'customer_service'; SET menshen.\"case\" = 'CS-000001'; SELECT phone FROM crm.customers WHERE id = 1");
    assert!(!both.text(0, 0).contains('*'), "{both:?}");
    assert!(menshen.audit().contains("\"new_people\""));
}

#[test]
fn the_nameless_statement_of_a_string_is_nobody_s() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("dba", CASE);
    assert_eq!(
        raw.simple("SET search_path = crm; SELECT id FROM customers LIMIT 1")
            .error,
        None
    );
    raw.bind("", "", &[], &[]);
    raw.execute("", 0);
    raw.sync();
    assert_eq!(raw.answer().sqlstate(), "26000");
    // Right behind the string, before its answer.
    raw.send(
        b'Q',
        b"SET search_path = public, crm; SELECT id FROM customers LIMIT 1\0",
    );
    raw.bind("", "", &[], &[]);
    raw.execute("", 0);
    raw.sync();
    assert_eq!(raw.answer().error, None);
    assert_eq!(raw.answer().sqlstate(), "26000");
    raw.send(b'Q', b"SET search_path = crm; SELECT id FROM customers LIMIT 2\0");
    raw.send(b'Q', b"SELECT 7\0");
    assert_eq!(raw.answer().rows.len(), 2);
    assert_eq!(raw.answer().text(0, 0), "7");
}
