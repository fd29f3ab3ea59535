//! What a session believes is what the server holds: names made anew, settings undone, cursors and portals under another purpose.

use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::raw::Answer;
use crate::harness::{Menshen, Postgres, Raw};

const PHONES: &str = "SELECT id, phone || '' AS p FROM crm.customers ORDER BY id LIMIT 3";

/// Nothing clear came, and no hidden column: whatever it was, it was judged as what it was.
fn judged(answer: &Answer) {
    let hidden = answer.columns.iter().any(|(name, _)| name.contains("menshen"));
    assert!(!hidden && answer.rows.iter().all(|r| r.len() <= 2), "{answer:?}");
}

fn released(menshen: &Menshen) -> u64 {
    let of = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        (event["event"] == "release").then(|| event["rows"].as_u64().unwrap())
    };
    menshen.audit().lines().filter_map(of).sum()
}

fn run(raw: &mut Raw, statement: &str) -> Answer {
    raw.bind("", statement, &[], &[]);
    raw.describe(b'P', "");
    raw.execute("", 0);
    raw.sync();
    raw.answer()
}

/// Three rows of three people are charged, or nothing comes.
fn charged(menshen: &Menshen, raw: &mut Raw, what: &str, step: impl FnOnce(&mut Raw) -> Answer) {
    let before = released(menshen);
    let answer = step(raw);
    judged(&answer);
    let after = released(menshen);
    let shown = answer.rows.iter().filter(|r| r.len() > 1).count() as u64;
    assert_eq!(after - before, shown, "{what}: {answer:?}");
}

#[test]
fn a_prepared_fetch_or_execute_is_judged_by_what_its_name_means_now() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.support();
    raw.simple("BEGIN");
    raw.simple("DECLARE c CURSOR FOR SELECT 'own'");
    raw.simple("PREPARE e AS SELECT 'own'");
    raw.parse("f", "FETCH ALL FROM c");
    raw.parse("x", "EXECUTE e");
    raw.sync();
    assert_eq!(raw.answer().error, None);
    raw.simple("CLOSE c");
    raw.simple(&format!("DECLARE c CURSOR FOR {PHONES}"));
    charged(&menshen, &mut raw, "FETCH prepared before", |raw| run(raw, "f"));
    raw.simple("ROLLBACK");
    raw.simple("DEALLOCATE e");
    raw.simple(&format!("PREPARE e AS {PHONES}"));
    charged(&menshen, &mut raw, "EXECUTE prepared before", |raw| run(raw, "x"));
}

#[test]
fn a_bound_fetch_or_execute_is_judged_by_what_its_name_means_now() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    for (make, remake, what) in [
        ("DECLARE c CURSOR FOR", "CLOSE c", "FETCH ALL FROM c"),
        ("PREPARE c AS", "DEALLOCATE c", "EXECUTE c"),
    ] {
        let mut raw = menshen.support();
        raw.simple("BEGIN");
        raw.simple(&format!("{make} SELECT 'own'"));
        charged(&menshen, &mut raw, what, |raw| {
            raw.parse("f", what);
            raw.bind("p", "f", &[], &[]);
            for sql in [remake, &format!("{make} {PHONES}")] {
                raw.parse("", sql);
                raw.bind("", "", &[], &[]);
                raw.execute("", 0);
            }
            raw.execute("p", 0);
            raw.sync();
            raw.answer()
        });
    }
}

#[test]
fn a_portal_is_fetched_from_as_what_it_is() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.support();
    // In one pipeline: the name is another portal's when FETCH runs.
    raw.simple("BEGIN");
    raw.parse("own", "SELECT 'own'");
    raw.parse("phones", PHONES);
    raw.bind("p", "own", &[], &[]);
    raw.sync();
    raw.answer();
    charged(&menshen, &mut raw, "portal bound anew", |raw| {
        raw.send(b'C', b"Pp\0");
        raw.bind("p", "phones", &[], &[]);
        raw.parse("f", "FETCH ALL FROM p");
        raw.bind("", "f", &[], &[]);
        raw.execute("", 0);
        raw.sync();
        raw.answer()
    });
    raw.simple("ROLLBACK");
    // A cursor of this name is gone with its transaction.
    raw.simple("BEGIN");
    raw.simple("DECLARE q CURSOR FOR SELECT 'own'");
    raw.simple("COMMIT");
    raw.simple("BEGIN");
    raw.bind("q", "phones", &[], &[]);
    raw.sync();
    raw.answer();
    charged(&menshen, &mut raw, "cursor of an earlier transaction", |raw| {
        raw.simple("FETCH ALL FROM q")
    });
    raw.simple("ROLLBACK");
    // Or with its savepoint.
    raw.simple("BEGIN");
    raw.simple("SAVEPOINT s");
    raw.simple("DECLARE r CURSOR FOR SELECT 'own'");
    raw.simple("ROLLBACK TO s");
    raw.bind("r", "phones", &[], &[]);
    raw.sync();
    raw.answer();
    charged(&menshen, &mut raw, "cursor of a savepoint", |raw| {
        raw.simple("FETCH ALL FROM r")
    });
    raw.simple("ROLLBACK");
}

/// Whether a whole phone number came.
fn clear(answer: &Answer) -> bool {
    let digits = |v: &Vec<u8>| v.len() >= 11 && v.iter().all(|b| b.is_ascii_digit() || *b == b'+');
    answer.rows.iter().flatten().flatten().any(digits)
}

#[test]
fn settings_undone_by_the_end_of_a_transaction_are_not_believed_in() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    const SHOWN: &str = "SELECT phone || '' FROM crm.customers WHERE id = 1";
    for end in [
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "ROLLBACK",
        "COMMIT",
        "ABORT",
        "END",
        "PREPARE TRANSACTION 'x'",
    ] {
        let declared = |raw: &mut Raw| {
            raw.simple("SET menshen.purpose = 'customer_service'");
            raw.simple("BEGIN");
            raw.simple("SET LOCAL menshen.\"case\" = 'CS-000001'");
            assert!(clear(&raw.simple(SHOWN)), "the case is declared");
        };
        // Message by message.
        let mut raw = menshen.connect("support", "");
        declared(&mut raw);
        raw.simple(end);
        assert!(!clear(&raw.simple(SHOWN)), "after {end}");
        // In one string.
        let mut raw = menshen.connect("support", "");
        declared(&mut raw);
        assert!(!clear(&raw.simple(&format!("{end}; {SHOWN}"))), "behind {end}");
        // In one pipeline.
        let mut raw = menshen.connect("support", "");
        declared(&mut raw);
        for sql in [end, SHOWN] {
            raw.parse("", sql);
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
        }
        raw.sync();
        assert!(!clear(&raw.answer()), "in a pipeline behind {end}");
    }
}

#[test]
fn names_resolve_by_the_path_that_is_left_when_a_transaction_has_ended() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(
        &menshen.database,
        "CREATE SCHEMA own; CREATE TABLE own.customers (id int, phone text); GRANT ALL ON SCHEMA own TO PUBLIC; GRANT ALL ON own.customers TO PUBLIC",
    );
    const SHOWN: &str = "SELECT phone || '' FROM customers WHERE id = 1";
    for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "ROLLBACK", "COMMIT"] {
        let begun = || {
            let mut raw = menshen.connect("analyst", "");
            raw.simple("SET search_path = crm");
            raw.simple("BEGIN");
            raw.simple("SET LOCAL search_path = own");
            assert!(raw.simple(SHOWN).rows.is_empty());
            raw
        };
        let mut raw = begun();
        raw.simple(end);
        assert!(!clear(&raw.simple(SHOWN)), "after {end}");
        let mut raw = begun();
        assert!(!clear(&raw.simple(&format!("{end}; {SHOWN}"))), "behind {end}");
        let mut raw = begun();
        raw.parse("s", SHOWN);
        for sql in [end, SHOWN] {
            raw.parse("", sql);
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
        }
        raw.bind("", "s", &[], &[]);
        raw.execute("", 0);
        raw.sync();
        assert!(!clear(&raw.answer()), "in a pipeline behind {end}");
    }
}

#[test]
fn cursors_and_portals_show_nothing_under_another_purpose() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("support", CASE);
    raw.simple("BEGIN");
    raw.simple(&format!("DECLARE c CURSOR FOR {PHONES}"));
    raw.parse("f", "FETCH 1 FROM c");
    raw.parse("s", PHONES);
    raw.bind("p", "s", &[], &[]);
    raw.execute("p", 1);
    raw.sync();
    let first = raw.answer();
    assert_eq!((first.error.clone(), clear(&first)), (None, true));
    assert!(clear(&run(&mut raw, "f")));
    raw.simple("SAVEPOINT s");
    raw.simple("SET menshen.\"case\" = 'none'");
    let fetched = run(&mut raw, "f");
    assert_eq!((fetched.sqlstate(), clear(&fetched)), ("0A000", false));
    raw.simple("ROLLBACK TO s");
    raw.simple("SET menshen.\"case\" = 'none'");
    raw.execute("p", 1);
    raw.sync();
    let resumed = raw.answer();
    assert_eq!((resumed.sqlstate(), clear(&resumed)), ("0A000", false));
    // And works on under the old one, also right after an error.
    raw.simple("ROLLBACK TO s");
    raw.simple("SELECT 1/0");
    raw.simple("ROLLBACK TO s");
    assert!(clear(&raw.simple("FETCH 1 FROM c")));
    raw.execute("p", 1);
    raw.sync();
    assert!(clear(&raw.answer()));
}

#[test]
fn what_fails_while_settings_are_asked_for_leaves_nothing_hanging() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    for failing in ["SELECT 1/(id - 1) FROM crm.products", "SAVEPOINT s", "SHOW no.such"] {
        for changing in [
            "SET search_path = crm",
            "SELECT set_config('search_path', 'crm', false)",
        ] {
            let mut raw = menshen.connect("analyst", "");
            raw.simple("SELECT id FROM crm.customers LIMIT 1");
            for sql in [changing, failing, "SELECT id FROM customers LIMIT 1", "SELECT 'last'"] {
                raw.parse("", sql);
                raw.bind("", "", &[], &[]);
                raw.execute("", 0);
            }
            raw.sync();
            assert!(raw.answer().error.is_some());
            // Nobody waits for the failing one before the settings are asked for.
            for first in ["SET search_path = crm", "SELECT 1/0"] {
                raw.simple(first);
                for sql in [
                    failing,
                    "SELECT set_config('search_path', 'crm', false)",
                    "SELECT id FROM customers LIMIT 1",
                ] {
                    raw.parse("", sql);
                    raw.bind("", "", &[], &[]);
                    raw.execute("", 0);
                }
                raw.sync();
                assert!(raw.answer().error.is_some());
            }
            assert_eq!(raw.simple("SELECT 'next'").text(0, 0), "next");
        }
    }
}

#[test]
fn what_is_prepared_over_a_prepared_statement_is_judged_by_what_that_is_now() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    for (over, refused) in [
        ("CREATE TEMP TABLE t AS EXECUTE e", "0A000"),
        ("EXPLAIN (FORMAT json) EXECUTE e", ""),
    ] {
        let mut raw = menshen.support();
        raw.simple("PREPARE e AS SELECT 'own'");
        raw.parse("x", over);
        raw.sync();
        assert_eq!(raw.answer().error, None, "{over}");
        raw.simple("DEALLOCATE e");
        raw.simple("PREPARE e AS SELECT phone, grade FROM crm.customers WHERE grade <> 'gold-4711'");
        let answer = run(&mut raw, "x");
        assert_eq!(answer.sqlstate(), refused, "{over}: {answer:?}");
        assert!(!format!("{answer:?}").contains("4711"));
    }
}

#[test]
fn an_implicit_transaction_ends_with_what_it_set() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("support", "-c menshen.purpose=customer_service");
    const SHOWN: &str = "SELECT phone || '' FROM crm.customers WHERE id = 1";
    // All in one go: the second pipeline is judged when the first has ended.
    for pipeline in [&["SET LOCAL menshen.\"case\" = 'CS-000001'", SHOWN][..], &[SHOWN]] {
        for sql in pipeline {
            raw.parse("", sql);
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
        }
        raw.sync();
    }
    assert!(clear(&raw.answer()));
    assert!(!clear(&raw.answer()));
}

/// Somebody's own schema, in which everything changes `search_path` when it is used.
const FLIPPING: &str = "
    CREATE SCHEMA own; GRANT ALL ON SCHEMA own TO PUBLIC; CREATE TABLE own.customers (id bigint, phone text);
    CREATE FUNCTION own.flip(a text) RETURNS boolean LANGUAGE sql AS $$ SELECT set_config('search_path', 'crm, own', false) IS NOT NULL $$;
    CREATE FUNCTION own.flips(a int, b int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET search_path = crm, own; RETURN 1; END $$;
    CREATE FUNCTION own.immutable(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM own.flips(a, 1); RETURN 1; END $$;
    CREATE FUNCTION own.trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM own.flip('x'); RETURN NEW; END $$;
    CREATE OPERATOR own.### (leftarg = int, rightarg = int, function = own.flips);
    CREATE AGGREGATE own.together(int) (sfunc = own.flips, stype = int, initcond = '0');
    CREATE DOMAIN own.flipping AS text CHECK (own.flip(VALUE));
    CREATE DOMAIN own.age AS text CHECK (own.flip(VALUE));
    CREATE DOMAIN own.setting AS text CHECK (set_config('search_path', 'crm, own', false) IS NOT NULL);
    CREATE FUNCTION own.takes(own.flipping) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE TYPE own.pair AS (a int, b int);
    CREATE FUNCTION own.to_pair(int) RETURNS own.pair LANGUAGE plpgsql AS $$ BEGIN PERFORM own.flips(1, 1); RETURN NULL; END $$;
    CREATE CAST (int AS own.pair) WITH FUNCTION own.to_pair(int);
    CREATE TABLE own.triggered (id int); CREATE TRIGGER t BEFORE INSERT ON own.triggered FOR EACH ROW EXECUTE FUNCTION own.trigger();
    CREATE FUNCTION own.of_row(own.triggered) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM own.flips(1, 1); RETURN 1; END $$;
    CREATE TABLE own.defaulted (id int, b boolean DEFAULT own.flip('x'));
    CREATE TABLE own.defaulting (id int, s text DEFAULT set_config('search_path', 'crm, own', false));
    CREATE TABLE own.checked (id int CHECK (own.flips(id, 1) = 1));
    CREATE TABLE own.domained (d own.flipping);
    CREATE TABLE own.ruled (id int); CREATE RULE r AS ON INSERT TO own.ruled DO ALSO SELECT own.flip('x');
    CREATE TABLE own.guarded (id int); INSERT INTO own.guarded VALUES (1); ALTER TABLE own.guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON own.guarded USING (set_config('search_path', 'crm, own', false) IS NOT NULL);
    CREATE TABLE own.generated (id int, g int GENERATED ALWAYS AS (own.immutable(id)) STORED);
    CREATE TABLE own.indexed (id int); CREATE INDEX ON own.indexed (own.immutable(id));
    CREATE VIEW own.viewed AS SELECT own.flip('x'); CREATE VIEW own.viewing AS SELECT set_config('search_path', 'crm, own', false);
    CREATE VIEW own.over AS SELECT * FROM own.viewing;
    GRANT ALL ON ALL TABLES IN SCHEMA own TO PUBLIC";

const FLIPS: [&str; 35] = [
    "SELECT own.flip('x')",
    "SELECT 1 OPERATOR(own.###) 2",
    "SELECT own.flipping('x')",
    "SELECT ('x'::pg_catalog.text).flipping",
    "SELECT own.age('x')",
    "SELECT ('x'::pg_catalog.text).age",
    "SELECT own.together(1)",
    "SELECT 'x'::own.flipping",
    "SELECT NULL::own.setting",
    "SELECT own.takes('x')",
    "SELECT 1::own.pair",
    "SELECT t.of_row FROM (SELECT NULL::own.triggered) t",
    "SELECT (ROW(1)::own.triggered).of_row",
    "INSERT INTO own.triggered VALUES (1)",
    "INSERT INTO own.defaulted VALUES (1)",
    "INSERT INTO own.defaulting VALUES (1)",
    "INSERT INTO own.checked VALUES (1)",
    "INSERT INTO own.domained VALUES ('x')",
    "INSERT INTO own.ruled VALUES (1)",
    "INSERT INTO own.generated (id) VALUES (1)",
    "INSERT INTO own.indexed VALUES (1)",
    "UPDATE own.checked SET id = 2",
    "DELETE FROM own.viewed",
    "MERGE INTO own.triggered USING (VALUES (1)) v(a) ON false WHEN NOT MATCHED THEN INSERT VALUES (1)",
    "SELECT * FROM own.viewed",
    "SELECT * FROM own.over",
    "SELECT * FROM own.guarded",
    "EXPLAIN ANALYZE INSERT INTO own.triggered VALUES (1)",
    "EXPLAIN SELECT 1 WHERE own.immutable(1) = 1",
    "DO $$ BEGIN INSERT INTO own.triggered VALUES (1); END $$",
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM own.viewed",
    "CREATE TEMP TABLE x AS SELECT * FROM own.viewing",
    "COPY (SELECT * FROM own.viewed) TO STDOUT",
    "PREPARE p AS SELECT * FROM own.viewed; EXECUTE p",
    "PREPARE q AS SELECT * FROM own.viewed; EXPLAIN ANALYZE EXECUTE q",
];

#[test]
fn what_changes_the_path_by_the_way_is_not_overlooked() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(&menshen.database, FLIPPING);
    let mut raw = menshen.connect("analyst", "");
    const SHOWN: &str = "SELECT phone || '' FROM customers WHERE id = 1";
    for flip in FLIPS {
        let begin = |raw: &mut Raw| {
            raw.simple("SET search_path = own");
            raw.simple("DROP TABLE IF EXISTS pg_temp.x");
            assert_eq!(raw.simple(SHOWN).error, None);
        };
        // One after the other, in one string, in one pipeline; the statement prepared before.
        begin(&mut raw);
        raw.simple(flip);
        assert!(!clear(&raw.simple(SHOWN)), "{flip}");
        begin(&mut raw);
        assert!(!clear(&raw.simple(&format!("{flip}; {SHOWN}"))), "{flip}");
        begin(&mut raw);
        raw.parse("shown", SHOWN);
        if !flip.contains(';') {
            raw.parse("", flip);
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
        }
        for name in ["shown", ""] {
            if name.is_empty() {
                raw.parse(name, SHOWN);
            }
            raw.bind("", name, &[], &[]);
            raw.execute("", 0);
        }
        raw.sync();
        assert!(!clear(&raw.answer()), "{flip}");
        raw.simple("DEALLOCATE ALL");
        raw.simple("CLOSE ALL");
    }
    // What does nothing of the kind goes on as it did.
    for sql in [
        "SELECT set_config('app.tenant', 'x', false)",
        "INSERT INTO crm.notes (id, note) VALUES (7000, 'x')",
    ] {
        assert_eq!(raw.simple(sql).error, None, "{sql}");
    }
}

#[test]
fn the_check_of_a_parameter_does_not_move_names_between_bind_and_execute() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(&menshen.database, FLIPPING);
    let oid: u32 = Postgres::get()
        .sql(&menshen.database, "SELECT 'own.flipping'::regtype::oid")
        .trim()
        .parse()
        .unwrap();
    let mut raw = menshen.connect("analyst", "");
    for sql in [
        "SELECT phone || '' FROM customers WHERE id = 1 AND $1::own.flipping IS NOT NULL",
        "SELECT phone || '' FROM customers WHERE id = 1 AND $1 IS NOT NULL",
        "SELECT phone || '' FROM customers WHERE id = 1 AND own.takes($1) = 1",
        "SELECT phone || '' FROM customers, own.domained WHERE id = 1 AND d = $1",
        "WITH x AS (INSERT INTO own.domained VALUES ($1) RETURNING 1) SELECT phone || '' FROM customers, x WHERE id = 1",
    ] {
        raw.simple("SET search_path = own");
        let mut body = [b"\0", sql.as_bytes(), b"\0"].concat();
        body.extend(1_i16.to_be_bytes());
        body.extend(if sql.contains("$1 IS") { oid } else { 0 }.to_be_bytes());
        raw.send(b'P', &body);
        raw.bind("", "", &["x"], &[]);
        raw.execute("", 0);
        raw.sync();
        let answer = raw.answer();
        assert_eq!((answer.sqlstate(), clear(&answer)), ("42501", false), "{sql}");
        raw.simple("SET search_path = own");
        let by_sql = sql.replace("$1", "($1)");
        raw.simple(&format!("PREPARE q(own.flipping) AS {by_sql}"));
        assert!(!clear(&raw.simple("EXECUTE q('x')")), "{sql}");
        raw.simple(&format!("PREPARE r AS {by_sql}"));
        assert!(!clear(&raw.simple("EXECUTE r('x')")), "{sql}");
    }
}

/// What somebody makes in a schema of his own, to have the statements of others refused.
const OBSTACLES: &str = "
    CREATE FUNCTION own.equal(own.flipping, own.flipping) RETURNS boolean LANGUAGE sql AS 'SELECT true';
    CREATE OPERATOR own.= (leftarg = own.flipping, rightarg = own.flipping, function = own.equal);
    CREATE DOMAIN own.text AS pg_catalog.text CHECK (own.flip(VALUE));
    CREATE FUNCTION own.opaque(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'x'; RETURN true; END $$;
    CREATE OPERATOR own.<> (leftarg = text, rightarg = text, function = own.opaque);
    CREATE FUNCTION own.reads() RETURNS boolean LANGUAGE sql AS 'SELECT count(phone) > 0 FROM crm.customers';
    CREATE DOMAIN own.int8 AS bigint CHECK (own.reads());
    CREATE TYPE own.mine AS (a int);
    CREATE FUNCTION own.to_text(own.mine) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'x'; RETURN ''; END $$;
    CREATE CAST (own.mine AS text) WITH FUNCTION own.to_text(own.mine)";

#[test]
fn what_is_in_nobodys_path_stands_in_nobodys_way() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(&menshen.database, FLIPPING);
    Postgres::get().sql(&menshen.database, OBSTACLES);
    let mut analyst = menshen.connect("analyst", "");
    let mut support = menshen.connect("support", "");
    let all = [
        "SELECT id FROM crm.customers WHERE id = 1",
        "SELECT id::text, 1::int8 FROM crm.customers WHERE name <> 'x'",
        "SELECT CAST(id AS text), 'x'::text FROM crm.customers ORDER BY 1",
        "SELECT a.id FROM crm.customers a JOIN crm.customers b USING (id)",
    ];
    for sql in all {
        assert_eq!(analyst.simple(sql).error, None, "{sql}");
        // Her row filter is written with an operator of such a name.
        assert_eq!(support.simple(sql).error, None, "{sql}");
    }
    // Who has that schema in his path, or names it, is refused.
    for sql in [
        "SELECT id FROM crm.customers WHERE (grade::own.flipping OPERATOR(own.=) 'x')",
        "SELECT 1 WHERE 'x' OPERATOR(own.=) 'y'",
        "SELECT 1 WHERE 'x' OPERATOR(own.<>) 'y'",
        "SELECT 'x'::own.text",
        "SELECT 1::own.int8",
        "SELECT ROW(1)::own.mine::text",
    ] {
        assert_eq!(analyst.simple(sql).sqlstate(), "42501", "{sql}");
    }
    analyst.simple("SET search_path = own, public");
    for sql in ["SELECT 1 WHERE 1 = 1", "SELECT 1 WHERE 'x' <> 'y'"] {
        assert_eq!(analyst.simple(sql).sqlstate(), "42501", "{sql}");
    }
    // And nobody makes such things in a schema of everybody's without the right to define.
    Postgres::get().sql(&menshen.database, "GRANT CREATE ON SCHEMA public TO PUBLIC");
    let mut maker = menshen.connect("analyst", "");
    for sql in [
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET search_path = crm; RETURN 1; END $$",
        "CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$ SELECT set_config('role', 'x', false) $$",
        "CREATE FUNCTION public.f() RETURNS boolean LANGUAGE sql AS $$ SELECT own.flip('x') $$",
        "CREATE DOMAIN public.d AS text CHECK (set_config('search_path', 'crm', false) IS NOT NULL)",
        "CREATE TABLE public.t (a text DEFAULT set_config('Role', 'x', false))",
    ] {
        assert_eq!(maker.simple(sql).sqlstate(), "42501", "{sql}");
    }
    for sql in [
        "CREATE FUNCTION public.f() RETURNS text LANGUAGE sql SET search_path = crm AS $$ SELECT set_config('app.tenant', 'x', false) $$",
        "CREATE TABLE public.t (a text DEFAULT set_config('app.x', 'x', false), b text DEFAULT current_setting('search_path'))",
    ] {
        assert_eq!(maker.simple(sql).error, None, "{sql}");
    }
}

#[test]
fn a_parameter_of_a_type_whose_check_is_refused_is_refused() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(&menshen.database, FLIPPING);
    Postgres::get().sql(&menshen.database, OBSTACLES);
    let oid = Postgres::get().sql(&menshen.database, "SELECT 'own.int8'::regtype::oid");
    let oid: u32 = oid.trim().parse().unwrap();
    let mut raw = menshen.connect("analyst", "");
    let mut body = b"\0SELECT $1 IS NULL\0".to_vec();
    body.extend(1_i16.to_be_bytes());
    body.extend(oid.to_be_bytes());
    raw.send(b'P', &body);
    raw.bind("", "", &["1"], &[]);
    raw.execute("", 0);
    raw.sync();
    assert_eq!(raw.answer().sqlstate(), "42501");
}

#[test]
fn others_who_change_the_catalog_all_the_time_do_not_stop_anybody() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(&menshen.database, "GRANT ALL ON SCHEMA public TO PUBLIC");
    let work = |number: usize| {
        let mut raw = menshen.connect(["support", "analyst"][number % 2], CASE);
        for round in 0..12 {
            let table = format!("made_{number}_{round}");
            let made = raw.simple(&format!("CREATE TABLE {table} (a int)"));
            assert_eq!(made.error, None, "{number} {round}");
            for answer in [
                raw.simple(&format!("INSERT INTO {table} VALUES (1) RETURNING a")),
                raw.extended("SELECT phone FROM crm.customers WHERE id = 1", &[], false),
                raw.simple(&format!("SELECT a FROM {table}")),
            ] {
                assert_eq!((&answer.error, answer.rows.len()), (&None, 1), "{number} {round}");
            }
            raw.simple("BEGIN");
            raw.simple("DECLARE c CURSOR FOR SELECT phone FROM crm.customers ORDER BY id");
            let fetched = raw.simple("FETCH 2 FROM c");
            assert_eq!((&fetched.error, fetched.rows.len()), (&None, 2), "{number} {round}");
            raw.simple("COMMIT");
            assert_eq!(
                raw.simple(&format!("DROP TABLE {table}")).error,
                None,
                "{number} {round}"
            );
        }
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || work(number));
        }
    });
}

#[test]
fn settings_are_not_changed_by_writing_to_their_view() {
    let menshen = Menshen::demo();
    for login in ["analyst", "intern"] {
        let mut raw = menshen.connect(login, "");
        assert_eq!(
            raw.simple("CREATE TEMP TABLE customers (id int, phone text)").error,
            None
        );
        for set in [
            "UPDATE pg_settings SET setting = 'crm, pg_temp' WHERE name = 'search_path'",
            "UPDATE pg_catalog.pg_settings SET setting = 'debug5' WHERE name = 'client_min_messages'",
            "UPDATE U&\"pg\\005fsettings\" SET setting = 'crm, pg_temp' WHERE name = 'search_path'",
            "MERGE INTO pg_settings p USING (SELECT 1) x ON p.name = 'search_path' WHEN MATCHED THEN UPDATE SET setting = 'crm, pg_temp'",
            "WITH u AS (UPDATE pg_settings SET setting = 'crm, pg_temp' WHERE name = 'search_path') SELECT 1",
            "PREPARE u AS UPDATE pg_settings SET setting = 'crm, pg_temp' WHERE name = 'search_path'",
            "EXPLAIN ANALYZE UPDATE pg_settings SET setting = 'crm, pg_temp' WHERE name = 'search_path'",
        ] {
            assert!(raw.simple(set).error.is_some(), "{login}: {set}");
            assert!(raw.extended(set, &[], false).error.is_some(), "{login}: {set}");
            assert_eq!(raw.simple("SELECT upper(phone) FROM customers").rows.len(), 0, "{set}");
        }
        // By a view of one's own it sets, and Menshen asks.
        raw.simple("CREATE TEMP VIEW v AS SELECT name, setting FROM pg_settings");
        raw.simple("UPDATE v SET setting = 'crm, pg_temp' WHERE name = 'search_path'");
        let shown = raw.simple("SELECT upper(phone) FROM customers WHERE id < 4");
        let clear = shown
            .rows
            .iter()
            .any(|r| !String::from_utf8_lossy(r[0].as_deref().unwrap_or(b"*")).contains('*'));
        assert!(!clear, "{login}: {shown:?}");
    }
}

#[test]
fn a_portal_outlives_its_statement_and_is_metered() {
    let policy = crate::harness::menshen::demo_policy().replace("stop_at = 1.0 ", "stop_at = 0.01 ");
    let menshen = Menshen::with(&policy, "");
    let message = |kind: u8, body: &[u8]| {
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    };
    let text = "SELECT upper(phone) FROM crm.customers UNION SELECT 'x'";
    let parse = message(b'P', &[b"s\0", text.as_bytes(), b"\0\0\0"].concat());
    let bind = message(b'B', b"x\0s\0\0\0\0\0\0\0");
    let sync = message(b'S', b"");
    let fetch = |raw: &mut Raw| {
        let answer = raw.simple("FETCH ALL FROM x");
        assert!(answer.rows.len() < 26 && answer.error.is_some(), "{answer:?}");
    };
    // Its statement is closed.
    let mut raw = menshen.support();
    assert_eq!(raw.simple("BEGIN").error, None);
    raw.write_raw(&[parse.clone(), bind.clone(), message(b'C', b"Ss\0"), sync.clone()].concat());
    assert_eq!(raw.answer().error, None);
    fetch(&mut raw);
    raw.simple("ROLLBACK");
    // BEGIN is on its way when it is bound and fetched from; the text is known.
    for _ in 0..3 {
        let mut raw = menshen.support();
        let begin = message(b'Q', b"BEGIN\0");
        let fetch = message(b'Q', b"FETCH ALL FROM x\0");
        raw.write_raw(&[begin, parse.clone(), bind.clone(), sync.clone(), fetch].concat());
        for _ in 0..2 {
            assert_eq!(raw.answer().error, None);
        }
        let answer = raw.answer();
        assert!(answer.rows.len() < 26 && answer.error.is_some(), "{answer:?}");
        raw.simple("ROLLBACK");
    }
}

#[test]
fn a_range_type_of_one_s_own_is_used_like_any_other() {
    let policy = crate::harness::menshen::unlimited_policy().replace("clear = [\"*\"]", "clear = [\"*\"]\nddl = true");
    let menshen = Menshen::with(&policy, "");
    let mut raw = menshen.connect("dba", "");
    let made = raw.simple("CREATE TYPE pg_temp.floatrange AS RANGE (subtype = float8, subtype_diff = float8mi)");
    assert_eq!(made.error, None);
    assert_eq!(
        raw.extended("SELECT $1::floatrange", &["[1,2)"], false).text(0, 0),
        "[1,2)"
    );
    let text = "SELECT pg_temp.floatrange(1, 2), pg_temp.floatrange(1, 2, '[]'), pg_temp.floatmultirange(pg_temp.floatrange(1, 2))";
    let answer = raw.simple(text);
    assert_eq!(answer.error, None);
    assert_eq!(
        (answer.text(0, 1), answer.text(0, 2)),
        ("[1,2]".to_owned(), "{[1,2)}".to_owned())
    );
}

#[test]
fn what_an_operator_class_runs_is_not_overlooked() {
    let menshen = Menshen::with(&crate::harness::menshen::unlimited_policy(), "");
    Postgres::get().sql(
        &menshen.database,
        "CREATE SCHEMA own; GRANT USAGE ON SCHEMA own TO PUBLIC;
         CREATE FUNCTION own.cmp(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             'BEGIN PERFORM set_config(''search_path'', ''crm, pg_temp'', false); RETURN btint4cmp($1, $2); END';
         CREATE OPERATOR CLASS own.ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
             FUNCTION 1 own.cmp(int, int);
         CREATE TYPE own.r AS RANGE (subtype = int, subtype_opclass = own.ops, multirange_type_name = own.m);
         CREATE TABLE own.indexed (a int); INSERT INTO own.indexed SELECT generate_series(1, 100);
         CREATE INDEX ON own.indexed (a own.ops); GRANT ALL ON own.indexed TO PUBLIC;",
    );
    for (sql, refused) in [
        ("SELECT '[1,2)'::own.r", true),
        ("SELECT '{[1,2)}'::own.m", true),
        ("SELECT own.r(1, 2)", true),
        ("SELECT own.m(own.r(1, 2))", true),
        ("INSERT INTO own.indexed VALUES (1), (2)", false),
        ("SELECT a FROM own.indexed WHERE a < 3", false),
    ] {
        for extended in [false, true] {
            let mut raw = menshen.connect("analyst", "");
            assert_eq!(
                raw.simple("CREATE TEMP TABLE customers (id int, phone text)").error,
                None
            );
            assert_eq!(raw.simple("SET enable_seqscan = off").error, None);
            let set = if extended {
                raw.extended(sql, &[], false)
            } else {
                raw.simple(sql)
            };
            assert_eq!(set.error.is_some(), refused, "{sql}: {set:?}");
            let shown = raw.simple("SELECT upper(phone) FROM customers WHERE id < 3");
            let clear =
                |row: &Vec<Option<Vec<u8>>>| !String::from_utf8_lossy(row[0].as_deref().unwrap_or(b"*")).contains('*');
            assert!(!shown.rows.iter().any(clear), "{sql}, extended {extended}: {shown:?}");
        }
    }
}

#[test]
fn a_hidden_column_has_no_number() {
    let by_card = crate::harness::menshen::unlimited_policy().replace(
        "[tables.\"crm.customers\"]\nperson = \"id\"",
        "[tables.\"crm.customers\"]\nperson = \"id_card\"",
    );
    assert!(by_card.contains("person = \"id_card\""));
    let menshen = Menshen::with(&by_card, "");
    for login in ["analyst", "support"] {
        let mut raw = menshen.connect(
            login,
            if login == "support" {
                crate::harness::menshen::CASE
            } else {
                ""
            },
        );
        let both = "SELECT id, phone FROM crm.customers";
        for sql in [
            format!("{both} ORDER BY 3"),
            format!("{both} UNION ALL {both} ORDER BY 3"),
            format!("{both} UNION {both} ORDER BY 3"),
            "SELECT DISTINCT ON (3) id, phone FROM crm.customers".to_owned(),
            "SELECT phone, count(*) FROM crm.customers GROUP BY 1, 3".to_owned(),
            format!("SELECT * FROM ({both} ORDER BY 3 LIMIT 5) x"),
            format!("{both} ORDER BY 0"),
            // More names than columns: the next would be the hidden one.
            format!("SELECT * FROM ({both}) x(a, b, c)"),
            format!("SELECT c FROM ({both} UNION ALL {both}) x(a, b, c)"),
            format!("WITH x(a, b, c) AS ({both}) SELECT * FROM x"),
            format!("WITH x AS ({both}) SELECT c FROM x y(a, b, c)"),
            "SELECT k FROM crm.customers x(a, b, c, d, e, f, g, h, i, j, k)".to_owned(),
        ] {
            for extended in [false, true] {
                let answer = if extended {
                    raw.extended(&sql, &[], false)
                } else {
                    raw.simple(&sql)
                };
                assert_eq!(answer.sqlstate(), "42P10", "{login}: {sql}");
            }
        }
        for sql in [
            format!("{both} UNION ALL {both} ORDER BY 2, 1 LIMIT 3"),
            "SELECT *, 1 FROM crm.customers ORDER BY 11 LIMIT 3".to_owned(),
        ] {
            let answer = raw.simple(&sql);
            assert!(answer.error.is_none() && answer.rows.len() == 3, "{answer:?}");
        }
    }
}
