//! What grants allow beyond seeing: `write`, `derive`, `ddl`; and the switch `insert_masked`.

use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Postgres};

fn with_grant(grant: &str) -> Menshen {
    Menshen::with(
        &format!("{}\n[[grants]]\nrole = \"analyst\"\n{grant}\n", unlimited_policy()),
        "",
    )
}

fn clear(menshen: &Menshen, sql: &str) -> String {
    Postgres::get().sql(&menshen.database, sql).trim().to_owned()
}

#[test]
fn who_may_write_a_masked_column_cannot_destroy_it_with_its_mask() {
    let menshen = with_grant("write = [\"phone\", \"name\", \"birth\"]");
    let before = clear(&menshen, "SELECT phone, name, birth FROM crm.customers WHERE id = 1");
    let mut raw = menshen.connect("analyst", "");
    let seen = raw.simple("SELECT phone, name, birth FROM crm.customers WHERE id = 1");
    let (phone, name, birth) = (seen.text(0, 0), seen.text(0, 1), seen.text(0, 2));
    // An ORM that saves the row as it loaded it, by literals and by parameters of every protocol.
    let saved = raw.simple(&format!(
        "UPDATE crm.customers SET phone = '{phone}', name = '{name}', birth = '{birth}', grade = 'saved' WHERE id = 1"
    ));
    assert_eq!((saved.error, saved.tag.as_str()), (None, "UPDATE 1"));
    let saved = raw.extended(
        "UPDATE crm.customers SET phone = $1, name = $2, birth = $3 WHERE id = 1",
        &[&phone, &name, &birth],
        true,
    );
    assert_eq!(saved.error, None);
    assert_eq!(
        clear(&menshen, "SELECT phone, name, birth FROM crm.customers WHERE id = 1"),
        before
    );
    assert_eq!(clear(&menshen, "SELECT grade FROM crm.customers WHERE id = 1"), "saved");
    // What is really new is written, once for each row, and NULL and DEFAULT too.
    for (sql, wanted) in [
        (
            "UPDATE crm.customers SET phone = '13711112222' WHERE id = 1 RETURNING phone",
            "13711112222",
        ),
        ("UPDATE crm.customers SET phone = NULL WHERE id = 1", ""),
        (
            "UPDATE crm.customers SET phone = concat('1', '2', 3 + 4) WHERE id = 1",
            "127",
        ),
        (
            "UPDATE crm.customers AS x SET phone = CASE WHEN x.id = 1 THEN 'one' ELSE 'other' END WHERE x.id = 1",
            "one",
        ),
        (
            "UPDATE crm.customers SET phone = (SELECT item FROM crm.orders WHERE id = 1) WHERE id = 1",
            "item 1",
        ),
        (
            "INSERT INTO crm.customers (id, name, created_at) VALUES (1, 'x', now()) ON CONFLICT (id) DO UPDATE SET phone = 'conflict'",
            "conflict",
        ),
        (
            "MERGE INTO crm.customers c USING (VALUES (1, 'merged')) v(id, p) ON c.id = v.id WHEN MATCHED THEN UPDATE SET phone = v.p",
            "merged",
        ),
        ("UPDATE crm.customers SET phone = DEFAULT WHERE id = 1", ""),
    ] {
        if sql.starts_with("MERGE") && Postgres::get().version() < 15 {
            continue;
        }
        let answer = raw.simple(sql);
        assert_eq!(answer.error, None, "{sql}");
        assert_eq!(
            clear(&menshen, "SELECT phone FROM crm.customers WHERE id = 1"),
            wanted,
            "{sql}"
        );
        assert!(
            answer.rows.iter().flatten().flatten().all(|v| v.contains(&b'*')),
            "{sql}: {:?}",
            answer.rows
        );
    }
    // Other masked columns stay out of reach, and so do forms that cannot be proven.
    assert_eq!(raw.simple("UPDATE crm.customers SET email = 'x'").sqlstate(), "42501");
    assert_eq!(
        raw.simple("UPDATE crm.customers SET (phone, name) = ('x', 'y')")
            .sqlstate(),
        "0A000"
    );
}

#[test]
fn clear_values_go_elsewhere_only_with_derive() {
    let launder = [
        "CREATE TABLE public.copied AS SELECT phone FROM crm.customers",
        "INSERT INTO crm.notes (id, note) SELECT id + 1000, phone FROM crm.customers",
        "UPDATE crm.customers SET city = phone WHERE id = 4",
        "UPDATE crm.customers SET email = phone WHERE id = 4",
        "MERGE INTO crm.notes n USING crm.customers c ON c.id = n.id WHEN MATCHED THEN UPDATE SET note = c.phone",
        "WITH x AS (SELECT phone AS p FROM crm.customers) INSERT INTO crm.notes (id, note) SELECT 2000, max(p) FROM x",
    ];
    let may = with_grant("clear = [\"phone\", \"email\"]\nderive = [\"phone\"]");
    let may_not = with_grant("clear = [\"phone\", \"email\"]");
    Postgres::get().sql(&may.database, "GRANT CREATE ON SCHEMA public TO PUBLIC");
    let (mut one, mut two) = (may.connect("analyst", ""), may_not.connect("analyst", ""));
    let merges = Postgres::get().version() >= 15;
    for sql in launder.iter().filter(|sql| merges || !sql.starts_with("MERGE")) {
        one.simple("BEGIN");
        assert_eq!(one.simple(sql).error, None, "{sql}");
        one.simple("ROLLBACK");
        let refused = two.simple(sql);
        assert!(
            refused
                .error
                .as_ref()
                .is_some_and(|(code, text)| code == "42501" && text.contains("to store clear values")),
            "{sql}: {:?}",
            refused.error
        );
    }
    // Within its own class and column a clear value may be changed.
    assert_eq!(
        two.simple("UPDATE crm.customers SET phone = replace(phone, '138', '139')")
            .error,
        None
    );
}

#[test]
fn ddl_needs_a_grant_and_is_seen_by_every_session() {
    let menshen = with_grant("ddl = true");
    Postgres::get().sql(
        &menshen.database,
        "ALTER TABLE crm.customers OWNER TO analyst; GRANT CREATE ON SCHEMA crm TO PUBLIC",
    );
    let mut raw = menshen.connect("analyst", "");
    let mut other = menshen.connect("intern", "");
    assert_eq!(
        other.simple("ALTER TABLE crm.customers RENAME TO people").sqlstate(),
        "42501"
    );
    assert_eq!(
        raw.simple("CREATE VIEW crm.v_new AS SELECT id, phone AS p, grade FROM crm.customers")
            .error,
        None
    );
    // The next statement of any session knows what the view shows.
    assert_eq!(other.simple("SELECT p FROM crm.v_new").sqlstate(), "42501");
    assert!(
        raw.simple("SELECT p FROM crm.v_new WHERE id = 1")
            .text(0, 0)
            .contains("****")
    );
    assert_eq!(
        raw.simple("ALTER TABLE crm.customers ADD COLUMN extra text DEFAULT 'secret'")
            .error,
        None
    );
    let mut third = menshen.connect("support", "");
    assert_eq!(
        third.simple("SELECT extra FROM crm.customers WHERE id = 1").text(0, 0),
        "NULL"
    );
    assert_eq!(raw.simple("ALTER TABLE crm.customers DROP COLUMN extra").error, None);
    assert_eq!(raw.simple("CREATE INDEX ON crm.customers (city)").error, None);
}

#[test]
fn insert_masked_closes_the_answer_of_unique_indexes() {
    let open = Menshen::with(&unlimited_policy(), "");
    let shut = Menshen::on(
        &open.database,
        &unlimited_policy().replace("version = 1", "version = 1\ninsert_masked = \"deny\""),
        "",
    );
    Postgres::get().sql(&open.database, "CREATE UNIQUE INDEX ON crm.customers (phone)");
    let probe = "INSERT INTO crm.customers (id, name, phone, created_at) SELECT 5000, 'x', '13900007919', now()";
    let mut raw = open.connect("analyst", "");
    let answer = raw.simple(probe);
    // The presence of the error tells that the value is there: the documentation says so. Its text tells nothing.
    assert_eq!(answer.sqlstate(), "23505");
    assert!(!format!("{:?}", answer.error).contains("13900007919"));
    let mut raw = shut.connect("analyst", "");
    assert_eq!(raw.simple(probe).sqlstate(), "42501");
    assert_eq!(raw.simple("COPY crm.customers FROM STDIN").sqlstate(), "42501");
    assert_eq!(
        raw.simple("INSERT INTO crm.orders (id, customer_id, item) VALUES (90000, 1, 'x')")
            .error,
        None
    );
}

#[test]
fn compare_deny_keeps_a_column_out_of_every_predicate() {
    let policy = unlimited_policy().replace("mask = \"phone\" ", "mask = \"phone\"\ncompare = \"deny\" ");
    let menshen = Menshen::with(&policy, "");
    let mut raw = menshen.connect("analyst", "");
    for sql in [
        "SELECT id FROM crm.customers WHERE phone LIKE '138%'",
        "SELECT id FROM crm.customers WHERE id = 1 OR phone = '1'",
        "SELECT id FROM crm.customers ORDER BY phone",
        "SELECT phone FROM crm.customers ORDER BY 1",
        "SELECT phone AS p FROM crm.customers ORDER BY p",
        "SELECT phone FROM crm.customers UNION ALL SELECT phone FROM crm.customers ORDER BY 1",
        "SELECT phone FROM crm.customers UNION ALL SELECT phone FROM crm.customers ORDER BY phone",
        "SELECT phone, count(*) FROM crm.customers GROUP BY phone",
        "SELECT phone, count(*) FROM crm.customers GROUP BY 1",
        "SELECT count(*) FROM crm.customers GROUP BY grade HAVING max(phone) > '1'",
        "SELECT phone = '1' FROM crm.customers",
        "SELECT phone LIKE '1%' FROM crm.customers",
        "SELECT CASE WHEN phone > '1' THEN 1 END FROM crm.customers",
        "SELECT DISTINCT ON (phone) id FROM crm.customers",
        "SELECT rank() OVER (ORDER BY phone) FROM crm.customers",
        "SELECT a.id FROM crm.customers a JOIN crm.customers b USING (phone)",
        "SELECT a.id FROM crm.customers a JOIN crm.customers b ON a.phone = b.phone",
        "SELECT id FROM (SELECT id, phone AS x FROM crm.customers) s WHERE x > '1'",
        "SELECT 1 WHERE '1' IN (SELECT phone FROM crm.customers)",
        "UPDATE crm.customers SET grade = 'x' WHERE phone = '1'",
        "DELETE FROM crm.customers WHERE phone = '1'",
    ] {
        assert_eq!(raw.simple(sql).sqlstate(), "42501", "{sql}");
    }
    assert_eq!(
        raw.simple("SELECT phone, upper(phone) FROM crm.customers WHERE name LIKE '王%' ORDER BY id")
            .error,
        None
    );
    let mut dba = menshen.connect("dba", "");
    assert_eq!(
        dba.simple("SELECT id FROM crm.customers WHERE phone LIKE '138%'").error,
        None
    );
}

#[test]
fn groups_of_too_few_people_are_not_shown() {
    let policy = unlimited_policy().replace("version = 1", "version = 1\nmin_group = 35");
    let menshen = Menshen::with(&policy, "");
    let wanted = clear(
        &menshen,
        "SELECT grade, count(*) FROM crm.customers GROUP BY grade HAVING count(DISTINCT id) >= 35 ORDER BY 1",
    );
    let mut raw = menshen.connect("analyst", "");
    let all = |raw: &mut crate::harness::Raw, sql: &str| {
        let answer = raw.simple(sql);
        assert_eq!(answer.error, None, "{sql}");
        (0..answer.rows.len())
            .map(|r| format!("{}|{}", answer.text(r, 0), answer.text(r, 1)))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let seen = all(
        &mut raw,
        "SELECT grade, count(*) FROM crm.customers GROUP BY grade ORDER BY 1",
    );
    assert!(seen == wanted && !seen.is_empty(), "{seen} instead of {wanted}");
    for (sql, rows) in [
        ("SELECT count(*) FROM crm.customers WHERE id < 5", 0),
        ("SELECT count(*) FROM crm.customers", 1),
        (
            "SELECT grade, count(*) FROM crm.customers GROUP BY grade HAVING count(*) > 1 AND true ORDER BY 1 LIMIT 1",
            1,
        ),
        (
            "SELECT c.city, sum(o.total) FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id WHERE c.id < 9 GROUP BY c.city",
            0,
        ),
        ("SELECT name, count(*) FROM crm.products GROUP BY name LIMIT 3", 3),
        (
            "SELECT 1 FROM crm.products WHERE EXISTS (SELECT max(grade) FROM crm.customers WHERE id = 1)",
            0,
        ),
        (
            "SELECT count(*) FROM crm.customers WHERE id = 1 UNION ALL SELECT count(*) FROM crm.customers",
            1,
        ),
        ("SELECT id, grade FROM crm.customers WHERE id < 3", 2),
    ] {
        let answer = raw.simple(sql);
        assert_eq!((answer.error, answer.rows.len()), (None, rows), "{sql}");
    }
    for sql in [
        "SELECT count(*) FROM (SELECT grade FROM crm.customers WHERE id = 1) s",
        "WITH x AS (SELECT grade FROM crm.customers) SELECT count(*) FROM x",
        "SELECT count(*) FROM (SELECT 1 FROM crm.customers UNION ALL SELECT 2) s",
    ] {
        assert_eq!(raw.simple(sql).sqlstate(), "42501", "{sql}");
    }
    assert_eq!(
        menshen
            .connect("dba", "")
            .simple("SELECT count(*) FROM crm.customers WHERE id < 5")
            .text(0, 0),
        "4"
    );
}

#[test]
fn compare_equality_finds_the_person_and_counts_them() {
    let policy = unlimited_policy().replace("mask = \"phone\" ", "mask = \"phone\"\ncompare = \"equality\" ");
    let menshen = Menshen::with(&policy, "");
    let phone = clear(&menshen, "SELECT phone FROM crm.customers WHERE id = 7");
    let mut raw = menshen.connect("analyst", "");
    let found = raw.simple(&format!("SELECT id, phone FROM crm.customers WHERE phone = '{phone}'"));
    assert_eq!((found.error.clone(), found.rows.len()), (None, 1), "{found:?}");
    assert!(found.text(0, 0) == "7" && found.text(0, 1).contains("****"));
    for (sql, parameters) in [
        (
            "SELECT count(*) FROM crm.customers c WHERE c.phone = $1",
            vec![phone.as_str()],
        ),
        (
            "SELECT * FROM crm.customers WHERE $1::character varying = phone AND grade <> 'x'",
            vec![&phone],
        ),
        (
            "SELECT o.id FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id WHERE c.phone = $1::text LIMIT 1",
            vec![&phone],
        ),
    ] {
        let answer = raw.extended(sql, &parameters, true);
        assert_eq!((answer.error, answer.rows.len()), (None, 1), "{sql}");
    }
    // Only this form, and only there: everything else sees the mask.
    for sql in [
        format!("SELECT id FROM crm.customers WHERE phone LIKE '{phone}%'"),
        format!("SELECT id FROM crm.customers WHERE NOT (phone <> '{phone}')"),
        format!("SELECT id FROM crm.customers WHERE phone = '{phone}' OR false"),
        format!("SELECT id FROM crm.customers WHERE phone = concat('{phone}', '')"),
        format!("SELECT 1 FROM crm.products WHERE EXISTS (SELECT 1 FROM crm.customers WHERE phone = '{phone}')"),
        format!("SELECT id FROM (SELECT * FROM crm.customers) s WHERE phone = '{phone}'"),
    ] {
        let answer = raw.simple(&sql);
        assert_eq!((answer.error, answer.rows.len()), (None, 0), "{sql}");
    }
    // The search counted the person, although the number was shown masked.
    let counted = |line: &str| line.contains("\"release\"") && line.contains("\"new_people\":[0,0,1]");
    assert_eq!(
        menshen.audit().lines().filter(|l| counted(l)).count(),
        1,
        "{}",
        menshen.audit()
    );
}

#[test]
fn a_row_filter_cannot_be_taken_over_by_an_operator_of_the_caller() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    Postgres::get().sql(&menshen.database, "GRANT CREATE ON SCHEMA public TO PUBLIC");
    let mut raw = menshen.support();
    let hidden = "SELECT count(*) FROM crm.customers WHERE grade = 'vip+'";
    assert_eq!(raw.simple(hidden).text(0, 0), "0");
    for sql in [
        "CREATE FUNCTION public.always(a text, b text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR public.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = public.always)",
    ] {
        assert_eq!(raw.simple(sql).error, None, "{sql}");
    }
    raw.simple("SET search_path = public, pg_catalog");
    let answer = raw.simple(hidden);
    assert!(answer.error.is_some() || answer.text(0, 0) == "0", "{answer:?}");
    raw.simple("RESET search_path");
    assert_eq!(raw.simple(hidden).sqlstate(), "42501");
    // What has no filter for its caller goes on.
    assert_eq!(
        menshen
            .connect("analyst", "")
            .simple("SELECT count(*) FROM crm.customers")
            .text(0, 0),
        "240"
    );
}

#[test]
fn a_name_that_could_come_to_mean_a_protected_relation_needs_its_schema() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let server = Postgres::get();
    server.sql(
        &menshen.database,
        "CREATE TABLE public.customers (phone text, id int); GRANT SELECT ON public.customers TO PUBLIC",
    );
    let mut analyst = menshen.connect("analyst", "-c search_path=public,crm");
    // Another session could drop it while this one waits for its lock.
    assert_eq!(
        analyst.simple("SELECT phone || '' FROM customers LIMIT 1").sqlstate(),
        "0A000"
    );
    assert_eq!(analyst.simple("SELECT phone || '' FROM public.customers").error, None);
    assert_eq!(analyst.simple("SET search_path = public").error, None);
    assert_eq!(analyst.simple("SELECT phone || '' FROM customers").error, None);
}

/// Things of the owner's that an attacker would give clear values to.
const KEEPERS: &str = "
    CREATE SEQUENCE crm.numbers; GRANT ALL ON SEQUENCE crm.numbers TO PUBLIC;
    CREATE FUNCTION public.kept(t text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO crm.notes (id, note) VALUES (5000, t); RETURN true; END $$;
    CREATE FUNCTION public.kept_too(t text) RETURNS boolean LANGUAGE sql AS $$ SELECT public.kept(t) $$;
    CREATE FUNCTION public.both(a text, b text) RETURNS boolean LANGUAGE sql AS $$ SELECT public.kept(a) $$;
    CREATE OPERATOR public.### (leftarg = text, rightarg = text, function = public.both);
    CREATE FUNCTION public.by_operator(t text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN t ### ''; END $$;
    CREATE SCHEMA own; GRANT ALL ON SCHEMA own TO PUBLIC;
    CREATE OPERATOR own.= (leftarg = text, rightarg = text, function = public.both);
    CREATE OPERATOR own.> (leftarg = text, rightarg = text, function = public.both);
    CREATE OPERATOR own.>= (leftarg = text, rightarg = text, function = public.both);
    CREATE DOMAIN public.kept_text AS text CHECK (public.kept(VALUE));
    CREATE FUNCTION public.pure(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF t IS NULL THEN RAISE EXCEPTION 'none'; END IF; RETURN upper(t); END $$";

#[test]
fn clear_values_are_not_given_to_what_keeps_them() {
    let menshen = with_grant("clear = [\"phone\"]");
    Postgres::get().sql(&menshen.database, KEEPERS);
    let mut raw = menshen.connect("analyst", "");
    for sql in [
        "SELECT count(*) FROM crm.customers WHERE set_config('my.x', concat(current_setting('my.x', true), phone), false) <> ''",
        "SELECT 1 FROM crm.customers WHERE setval('crm.numbers', substr(phone, 1, 11)::int8) > 0 AND id = 4",
        "SELECT setval('crm.numbers', (SELECT max(substr(phone, 1, 11)::int8) FROM crm.customers WHERE id = 4))",
        "SELECT setval('crm.numbers', x) FROM (SELECT max(substr(phone, 1, 11))::int8 AS x FROM crm.customers WHERE id = 4) s",
        "WITH w AS (SELECT phone AS p FROM crm.customers) SELECT set_config('my.x', p, false) IS NULL FROM w",
        "SELECT nextval(CASE WHEN phone LIKE '139%' THEN 'crm.numbers' END) IS NULL FROM crm.customers",
        "SELECT count(pg_try_advisory_lock(substr(phone, 1, 11)::int8)) FROM crm.customers WHERE id = 4",
        "SELECT count(pg_advisory_xact_lock(1, length(phone))) FROM crm.customers WHERE id = 4",
        "SELECT pg_notify('x', phone) IS NULL FROM crm.customers",
        "SELECT count(pg_sleep(length(phone) / 1000.0)) FROM crm.customers WHERE id = 4",
        "SELECT setseed(substr(phone, 8, 4)::int / 10000.0) IS NULL FROM crm.customers WHERE id = 4",
        "SELECT count(*) FROM crm.customers WHERE kept(phone)",
        "SELECT count(*) FROM crm.customers WHERE public.kept_too(phone || '')",
        "SELECT count(*) FROM crm.customers c, kept(c.phone) f",
        "SELECT count(*) FROM crm.customers WHERE phone ### ''",
        "SELECT count(*) FROM crm.customers WHERE by_operator(phone)",
        "SELECT count(phone::kept_text) FROM crm.customers",
        "SELECT count(kept_text(phone)) FROM crm.customers",
        "SELECT count((phone).kept_text) FROM crm.customers",
        "SELECT count((c.phone).kept_text) FROM crm.customers c",
        "SELECT count(public.kept_text(phone)) FROM crm.customers",
        "SELECT count(*) FROM crm.customers WHERE phone OPERATOR(own.=) ''",
        "UPDATE crm.notes SET note = note FROM crm.customers c WHERE kept(c.phone)",
        "DELETE FROM crm.customers WHERE kept(phone)",
        "COPY (SELECT 1 FROM crm.customers WHERE kept(phone)) TO STDOUT",
    ] {
        let refused = raw.simple(sql);
        let why = refused.error.clone().unwrap_or_default();
        assert!(
            why.0 == "42501" && why.1.contains("clear values of"),
            "{sql}: {refused:?}"
        );
    }
    // Operators that nobody names, by a path that puts them before PostgreSQL's own.
    let mut dba = menshen.connect("dba", "-c search_path=own,pg_catalog");
    for sql in [
        "SELECT count(*) FROM crm.customers WHERE phone = ''",
        "SELECT count(*) FROM crm.customers WHERE CASE phone WHEN '' THEN true ELSE false END",
        "SELECT count(*) FROM crm.customers WHERE phone BETWEEN '' AND 'x'",
        "SELECT count(*) FROM crm.customers WHERE phone IN (SELECT note FROM crm.notes)",
        "SELECT count(*) FROM crm.customers WHERE phone >= ANY (SELECT note FROM crm.notes)",
        "SELECT count(*) FROM crm.customers JOIN (SELECT note AS phone FROM crm.notes) n USING (phone)",
        "SELECT count(*) FROM crm.customers NATURAL JOIN (SELECT note AS phone FROM crm.notes) n",
        "SELECT count(*) FROM crm.customers WHERE id = 4 AND NULLIF(phone, '') IS NULL",
    ] {
        let refused = dba.simple(sql);
        let why = refused.error.clone().unwrap_or_default();
        assert!(why.0 == "42501" && why.1.contains("keeps"), "{sql}: {refused:?}");
    }
    assert_eq!(clear(&menshen, "SELECT count(*) FROM crm.notes WHERE id = 5000"), "0");
    for sql in [
        // What keeps values stands in a schema that is not looked into.
        "SELECT count(*) FROM crm.customers WHERE phone = '' OR phone BETWEEN '' AND 'x' OR CASE phone WHEN '' THEN true END",
        "SELECT count(*) FROM crm.customers NATURAL JOIN (SELECT note AS phone FROM crm.notes) n",
        // What is masked or not classified may go there.
        "SELECT set_config('my.x', name, false), setval('crm.numbers', id) FROM crm.customers WHERE id = 4",
        "SELECT count(*) FROM crm.customers WHERE kept(name) AND id = 4",
        "SELECT pg_notify('x', 'y')",
        "SELECT pure(phone), set_config('my.x', 'y', true) FROM crm.customers WHERE id = 4",
        "SELECT pg_advisory_lock(4711), pg_advisory_unlock(4711), nextval('crm.numbers') FROM crm.customers WHERE phone LIKE '177%'",
    ] {
        assert_eq!(raw.simple(sql).error, None, "{sql}");
    }
}

#[test]
fn errors_bring_no_value_that_is_counted_or_masked_and_keep_the_names() {
    let menshen = with_grant("clear = [\"phone\"]");
    Postgres::get().sql(
        &menshen.database,
        "CREATE FUNCTION public.cry(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'got %', t
            USING ERRCODE = '0A000', DETAIL = t, HINT = t, COLUMN = t, TABLE = t, SCHEMA = t, DATATYPE = t, CONSTRAINT = t; END $$;
         CREATE FUNCTION public.say(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'got %', t; RAISE INFO '%', t; RETURN ''; END $$;
         CREATE FUNCTION public.claim(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN ASSERT false, t; RETURN ''; END $$;
         CREATE FUNCTION public.shut(t text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE c refcursor; BEGIN c := t; CLOSE c; RETURN ''; END $$;
         CREATE FUNCTION public.told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'was %', OLD.name; RETURN NEW; END $$;
         CREATE TRIGGER told BEFORE UPDATE ON crm.customers FOR EACH ROW EXECUTE FUNCTION public.told();
         CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'was %', OLD.name; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON crm.customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.late();
         CREATE TABLE crm.children (id int PRIMARY KEY, customer bigint REFERENCES crm.customers); INSERT INTO crm.children VALUES (1, 4);
         GRANT ALL ON crm.children TO PUBLIC",
    );
    let phone = clear(&menshen, "SELECT phone FROM crm.customers WHERE id = 4");
    let name = clear(&menshen, "SELECT name FROM crm.customers WHERE id = 4");
    let mut raw = menshen.connect("analyst", "");
    for value in [
        "cry(phone)",
        "say(phone) FILTER (WHERE false)",
        "claim(phone)",
        "shut(phone)",
        "phone::int",
        "('a' || phone)::regrole",
        "phone::regclass",
        "('a' || phone)::regnamespace",
        "('a' || phone)::regtype",
        "('\"' || phone)::jsonpath",
        "(phone || ' x')::tsquery",
        "repeat(phone, 300)::tsquery",
        "phone::inet",
        "to_date(phone, 'YYYY-MM-DD')",
        "date_trunc(phone, now())",
        "encode('', phone)",
        "has_table_privilege(phone, 'select')",
        "pg_get_serial_sequence(phone, 'x')",
        "format(phone || '%z')",
        "xmlparse(content '<' || phone)",
        "phone::int4range",
    ] {
        for sql in [
            format!("SELECT {value} FROM crm.customers WHERE id = 4"),
            format!("SELECT count(*) FROM crm.customers WHERE id = 4 AND ({value}) IS NULL"),
        ] {
            let sql = sql.replace(" FILTER (WHERE false)", "");
            let from = raw.received.len();
            let answer = raw.simple(&sql);
            assert!(answer.error.is_some() || value.starts_with("say"), "{sql}");
            let shown = String::from_utf8_lossy(&raw.received[from..]).into_owned();
            assert!(!shown.contains(&phone), "{sql}: {shown}");
        }
    }
    let from = raw.received.len();
    // The trigger's words come with the statement, with the constraint's, or at the end.
    for sql in [
        "UPDATE crm.customers SET city = '' WHERE id = 4",
        "BEGIN",
        "UPDATE crm.customers SET city = '' WHERE id = 4",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "COMMIT",
        "BEGIN",
        "UPDATE crm.customers SET city = '' WHERE id = 4",
        "COMMIT",
    ] {
        assert_eq!(raw.simple(sql).error, None, "{sql}");
    }
    raw.simple("BEGIN");
    raw.extended("UPDATE crm.customers SET city = '' WHERE id = 4", &[], false);
    assert!(!raw.extended("COMMIT", &[], false).notices.is_empty());
    assert!(!String::from_utf8_lossy(&raw.received[from..]).contains(&name));
    // What only names objects, or points into the client's own text, is worth its words.
    for (sql, words) in [
        ("DELETE FROM crm.customers WHERE id = 4", "children_customer_fkey"),
        (
            "INSERT INTO crm.customers (id, name) VALUES (4, 'x')",
            "null value in column \"created_at\"",
        ),
        (
            "INSERT INTO crm.customers SELECT * FROM crm.customers WHERE id = 5",
            "customers_pkey",
        ),
        ("SELECT nothing FROM crm.customers", "column \"nothing\" does not exist"),
        (
            "SELECT phone FROM crm.customers WHERE id = 'x'",
            "invalid input syntax for type bigint: \"x\"",
        ),
        ("SELECT phone + 1 FROM crm.customers", "operator does not exist"),
    ] {
        let why = raw.simple(sql).error.unwrap_or_default().1;
        assert!(why.contains(words), "{sql}: {why}");
    }
}

#[test]
fn truncate_ends_no_row_that_is_hidden() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let postgres = Postgres::get();
    postgres.sql(
        &menshen.database,
        "CREATE TABLE crm.regions (id int PRIMARY KEY); CREATE TABLE crm.plain (id int);
         ALTER TABLE crm.customers ADD COLUMN region int REFERENCES crm.regions; GRANT ALL ON crm.regions, crm.plain, crm.customers TO PUBLIC",
    );
    let mut raw = menshen.support();
    for sql in [
        "TRUNCATE crm.customers",
        "TRUNCATE crm.regions CASCADE",
        "TRUNCATE crm.plain, crm.customers CASCADE",
    ] {
        assert_eq!(raw.simple(sql).sqlstate(), "42501", "{sql}");
    }
    assert_eq!(raw.simple("TRUNCATE crm.plain").error, None);
    assert_eq!(clear(&menshen, "SELECT count(*) FROM crm.customers"), "240");
}

#[test]
fn a_role_that_one_may_only_administer_is_no_group() {
    let server = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), "");
    let login = |name: &str| {
        let options = crate::harness::menshen::CASE;
        let raw = crate::harness::Raw::connect(menshen.port, &menshen.database, name, "secret", options);
        raw.unwrap()
            .simple("SELECT phone FROM crm.customers WHERE id = 2")
            .sqlstate()
            .to_owned()
    };
    server.sql(
        &menshen.database,
        "CREATE ROLE customer_service; CREATE ROLE in_between IN ROLE customer_service;
         CREATE ROLE member LOGIN PASSWORD 'secret' IN ROLE in_between; CREATE ROLE administers LOGIN PASSWORD 'secret';",
    );
    if server.version() >= 16 {
        // What a role that may create roles is given of each that it creates: it neither inherits it nor may become it.
        server.sql(
            &menshen.database,
            "GRANT customer_service TO administers WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
             CREATE ROLE becomes LOGIN PASSWORD 'secret'; GRANT customer_service TO becomes WITH INHERIT FALSE, SET TRUE;
             CREATE ROLE inherits LOGIN PASSWORD 'secret'; GRANT in_between TO inherits WITH INHERIT TRUE, SET FALSE;",
        );
        assert_eq!((login("becomes").as_str(), login("inherits").as_str()), ("", ""));
    }
    assert_eq!((login("member").as_str(), login("administers").as_str()), ("", "42501"));
}
