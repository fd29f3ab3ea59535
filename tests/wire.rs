//! The wire: authentication, pipelines, errors, refusals in every state, bytes as they were.

use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::{Menshen, Postgres, Raw};

#[test]
fn an_unprotected_statement_arrives_byte_for_byte() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    let odd = "sELECT  id ,\t/* stays: 木 */ note  FROM   crm.notes   where id=4711-- end 1f9a";
    assert_eq!(raw.simple(odd).error, None);
    let other = "SELECT\tprice  FROM crm.products WHERE /* 2f9a */ id = $1";
    assert_eq!(raw.extended(other, &["3"], true).error, None);
    let log = std::fs::read_to_string(&Postgres::get().log).unwrap();
    assert!(log.contains(&format!("analyst@{} LOG:  statement: {odd}\n", menshen.database)));
    assert!(log.contains(&format!(": {other}\n")), "the log has no such statement");
}

#[test]
fn every_password_method_passes_through() {
    let menshen = Menshen::demo();
    let login =
        |user: &str, password: &str| Raw::connect(menshen.port, &menshen.database, user, password, "").map(|_| ());
    assert_eq!(login("analyst", "tsylana"), Ok(()));
    assert_eq!(login("md5_login", "nigol_5dm"), Ok(()));
    assert_eq!(login("plain", "nialp"), Ok(()));
    assert_eq!(login("trusted", ""), Ok(()));
    assert!(login("analyst", "wrong").unwrap_err().starts_with("28P01"));
    assert!(login("nobody", "x").unwrap_err().starts_with("28P01"));
}

#[test]
fn errors_in_a_pipeline_skip_to_sync() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    raw.parse("", "SELECT 1/0");
    raw.bind("", "", &[], &[]);
    raw.execute("", 0);
    raw.parse("", "SELECT 2");
    raw.bind("", "", &[], &[]);
    raw.execute("", 0);
    raw.sync();
    let answer = raw.answer();
    assert_eq!(answer.sqlstate(), "22012");
    assert!(answer.rows.is_empty());
    assert_eq!(raw.simple("SELECT 3").text(0, 0), "3");
}

#[test]
fn a_refusal_in_a_pipeline_undoes_what_stood_before_it() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    raw.parse("", "INSERT INTO crm.notes VALUES (900, 1, 'never')");
    raw.bind("", "", &[], &[]);
    raw.execute("", 0);
    raw.parse("", "UPDATE crm.customers SET phone = 'x'");
    raw.bind("", "", &[], &[]);
    raw.execute("", 0);
    raw.sync();
    assert_eq!(raw.answer().sqlstate(), "42501");
    assert_eq!(
        raw.simple("SELECT count(*) FROM crm.notes WHERE id = 900").text(0, 0),
        "0"
    );
}

#[test]
fn a_refusal_aborts_the_transaction_block_as_an_error_would() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    assert_eq!(raw.simple("BEGIN").status, b'T');
    let refused = raw.simple("COPY crm.customers TO '/tmp/x'");
    assert_eq!((refused.sqlstate(), refused.status), ("42501", b'E'));
    assert_eq!(raw.simple("SELECT 1 FROM crm.products").sqlstate(), "25P02");
    assert_eq!(raw.simple("ROLLBACK").status, b'I');
    assert_eq!(raw.simple("SELECT 1").text(0, 0), "1");
    // Without a block nothing went upstream, and the session goes on.
    assert_eq!(raw.simple("COPY crm.customers TO '/tmp/x'").status, b'I');
}

#[test]
fn set_transaction_right_after_begin_works() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    raw.simple("SET search_path = crm");
    for sql in [
        "BEGIN",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT id FROM customers LIMIT 1",
        "COMMIT",
    ] {
        assert_eq!(raw.simple(sql).error, None, "{sql}");
    }
}

#[test]
fn settings_are_followed_through_every_change() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("support", "");
    let phone = |raw: &mut Raw| raw.simple("SELECT phone FROM crm.customers WHERE id = 1").text(0, 0);
    assert!(phone(&mut raw).contains("****"));
    raw.simple("SET menshen.purpose = 'customer_service'");
    assert!(phone(&mut raw).contains("****"), "the case is missing");
    raw.simple("SET menshen.\"case\" = 'CS-000001'");
    assert!(!phone(&mut raw).contains('*'));
    raw.simple("SET menshen.\"case\" = 'nonsense'");
    assert!(phone(&mut raw).contains("****"));
    raw.simple("BEGIN");
    raw.simple("SET LOCAL menshen.\"case\" = 'CS-000001'");
    assert!(!phone(&mut raw).contains('*'));
    // Asked a second time within one transaction.
    raw.simple("SET LOCAL menshen.\"case\" = 'none'");
    assert!(phone(&mut raw).contains("****"));
    raw.simple("SET LOCAL menshen.\"case\" = 'CS-000002'");
    assert!(!phone(&mut raw).contains('*'));
    raw.simple("ROLLBACK");
    assert!(phone(&mut raw).contains("****"));
    raw.simple("SELECT set_config('menshen.case', 'CS-000001', false)");
    assert!(!phone(&mut raw).contains('*'));
    raw.simple("RESET ALL");
    assert!(phone(&mut raw).contains("****"));
}

#[test]
fn a_prepared_statement_is_judged_anew_when_the_purpose_changes() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("support", CASE);
    raw.parse("p", "SELECT id, phone FROM crm.customers WHERE id = $1");
    raw.sync();
    assert_eq!(raw.answer().error, None);
    let run = |raw: &mut Raw| {
        raw.bind("", "p", &["1"], &[0, 0]);
        raw.execute("", 0);
        raw.sync();
        let answer = raw.answer();
        assert_eq!(answer.error, None);
        assert_eq!(answer.rows[0].len(), 2);
        answer.text(0, 1)
    };
    assert!(!run(&mut raw).contains('*'));
    raw.simple("SET menshen.purpose = ''");
    assert!(run(&mut raw).contains("****"));
    raw.simple("SET menshen.purpose = 'customer_service'");
    assert!(!run(&mut raw).contains('*'));
}

#[test]
fn a_row_filter_that_cannot_be_proven_through_a_view_refuses() {
    let menshen = Menshen::demo();
    assert_eq!(
        menshen.support().simple("SELECT * FROM crm.v_gradeless").sqlstate(),
        "0A000"
    );
    assert_eq!(
        menshen
            .connect("analyst", "")
            .simple("SELECT * FROM crm.v_gradeless")
            .error,
        None
    );
}

#[test]
fn describe_shows_no_hidden_column() {
    let menshen = Menshen::demo();
    let mut raw = menshen.support();
    raw.parse("d", "SELECT phone FROM crm.customers");
    raw.describe(b'S', "d");
    raw.sync();
    let answer = raw.answer();
    assert_eq!(
        answer.columns.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["phone"]
    );
    // A cursor by SQL is a portal too.
    raw.simple("BEGIN");
    raw.simple("DECLARE c CURSOR FOR SELECT phone FROM crm.customers");
    raw.describe(b'P', "c");
    raw.sync();
    let answer = raw.answer();
    assert_eq!(
        answer.columns.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["phone"]
    );
}

#[test]
fn sql_prepare_and_execute_are_masked_and_counted() {
    let menshen = Menshen::demo();
    let mut raw = menshen.support();
    assert_eq!(
        raw.simple("PREPARE q (bigint) AS SELECT name, phone FROM crm.customers WHERE id = $1")
            .error,
        None
    );
    let answer = raw.simple("EXECUTE q(1)");
    assert_eq!(answer.rows[0].len(), 2);
    assert_eq!(raw.extended("EXECUTE q(2)", &[], true).rows[0].len(), 2);
    assert_eq!(raw.simple("DEALLOCATE q").error, None);
    assert_eq!(raw.simple("EXECUTE q(1)").sqlstate(), "26000");
}

#[test]
fn temporary_tables_do_not_stand_in_for_protected_ones() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    raw.simple("SET search_path = crm");
    assert_eq!(
        raw.simple("CREATE TEMP TABLE customers (id int, phone text)").error,
        None
    );
    assert_eq!(raw.simple("INSERT INTO customers VALUES (1, 'own')").error, None);
    assert_eq!(raw.simple("SELECT phone FROM customers").text(0, 0), "own");
    assert_eq!(raw.simple("DROP TABLE pg_temp.customers").error, None);
    raw.simple("BEGIN");
    assert_eq!(
        raw.simple("CREATE TEMP TABLE customers (id int, phone text)").error,
        None
    );
    // The transaction's own catalog is read on its own connection.
    let own = raw.simple("SELECT phone FROM customers");
    assert_eq!((own.error, own.rows.len()), (None, 0));
    let other = raw.extended("SELECT phone FROM crm.customers WHERE id = 1", &[], false);
    assert!(other.text(0, 0).contains("****"));
    // What could show protected relations is judged before it is there, and before it is committed.
    assert_eq!(
        raw.simple(
            "CREATE FUNCTION pg_temp.peek() RETURNS text LANGUAGE sql AS 'SELECT phone FROM crm.customers LIMIT 1'"
        )
        .sqlstate(),
        "42501"
    );
    raw.simple("ROLLBACK");
    assert!(
        raw.simple("SELECT phone FROM customers WHERE id = 1")
            .text(0, 0)
            .contains("****")
    );
}

#[test]
fn the_token_key_cannot_be_read_by_anybody() {
    let policy = unlimited_policy().replace("mask = \"phone\"", "mask = \"token\"");
    let menshen = Menshen::with(&policy, "");
    let mut raw = menshen.connect("analyst", "");
    let token = raw.simple("SELECT phone FROM crm.customers WHERE id = 1").text(0, 0);
    assert!(token.starts_with("tok_") && token.len() == 28, "{token}");
    let mut again = menshen.connect("analyst", "");
    assert_eq!(
        again.simple("SELECT phone FROM crm.customers WHERE id = 1").text(0, 0),
        token
    );
    assert_eq!(
        raw.simple(&format!("SELECT id FROM crm.customers WHERE phone = '{token}'"))
            .text(0, 0),
        "1"
    );
    for sql in [
        "SHOW menshen.kx",
        "SELECT current_setting('menshen.kx', true)",
        "SET menshen.kx = '1'",
        "SELECT current_setting('men' || 'shen.kx')",
        "SELECT current_query()",
    ] {
        assert!(!raw.simple(sql).sqlstate().is_empty(), "{sql}");
    }
    assert_eq!(
        raw.simple("SELECT name FROM pg_settings WHERE name LIKE 'menshen.%'")
            .rows
            .len(),
        0
    );
    let all = raw.simple("SHOW ALL");
    assert!(!all.rows.is_empty());
    assert!(
        !all.rows
            .iter()
            .flatten()
            .flatten()
            .any(|c| c.windows(9).any(|w| w == b"menshen.k"))
    );
    let key = std::fs::read_to_string(menshen.directory.path().join("var/menshen.key")).unwrap();
    let master: [u8; 32] = hex::decode(key.trim()).unwrap().try_into().unwrap();
    let (inner, outer) = menshen::mask::token_pads(&menshen::mask::token_key(&master));
    let log = std::fs::read(&Postgres::get().log).unwrap();
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("tok_"), "the statement with the mask is in the log");
    assert!(!log.contains(&inner) && !log.contains(&outer) && !log.contains(key.trim()));
}

#[test]
fn a_setting_named_by_a_parameter_is_judged_at_bind() {
    let menshen = Menshen::with(&unlimited_policy().replace("mask = \"phone\"", "mask = \"token\""), "");
    let mut raw = menshen.connect("analyst", "");
    for sql in [
        "SELECT current_setting($1)",
        "SELECT current_setting($1::text, true) WHERE $2 = '1'",
    ] {
        let answer = raw.extended(sql, &["work_mem", "1"][..sql.matches('$').count()], false);
        assert_eq!(answer.sqlstate(), "", "{sql}: {answer:?}");
        assert_eq!(answer.text(0, 0), "4MB", "{sql}");
        for name in ["menshen.kpath", "MENSHEN.Kx", "  menshen.k1"] {
            let answer = raw.extended(sql, &[name, "1"][..sql.matches('$').count()], false);
            assert_eq!(answer.sqlstate(), "42501", "{sql} of {name}: {answer:?}");
        }
    }
    // What Bind does not give, what may be cast by somebody's function on the way, and what writes stay refused.
    for (sql, parameters) in [
        ("SELECT current_setting($1 || 'm')", 1),
        ("SELECT current_setting($1), $1::point", 1),
        ("SELECT current_setting($1::name::text)", 1),
        ("SELECT set_config($1, '1', false)", 1),
        ("PREPARE p AS SELECT current_setting($1)", 0),
        (
            "CREATE FUNCTION public.f(text) RETURNS text RETURN current_setting($1)",
            0,
        ),
    ] {
        let answer = raw.extended(sql, &["work_mem"][..parameters], false);
        assert_eq!(answer.sqlstate(), "0A000", "{sql}: {answer:?}");
    }
    // One that the server reads as another type.
    let mut parse = b"t\0SELECT current_setting($1)\0\0\x01".to_vec();
    parse.extend(17_u32.to_be_bytes());
    raw.send(b'P', &parse);
    raw.sync();
    assert_eq!(raw.answer().sqlstate(), "0A000");
    // A statement of a Parse message is within reach of EXECUTE, whose values no Bind gives.
    raw.parse("s", "SELECT current_setting($1, true)");
    raw.sync();
    assert_eq!(raw.answer().sqlstate(), "");
    for sql in [
        "EXECUTE s('menshen.kx')",
        "CREATE TEMP TABLE c AS EXECUTE s('menshen.kx')",
        "EXPLAIN ANALYZE EXECUTE s('menshen.kx')",
    ] {
        assert_eq!(raw.simple(sql).sqlstate(), "0A000", "{sql}");
        assert_eq!(raw.extended(sql, &[], false).sqlstate(), "0A000", "{sql}");
    }
}

#[test]
fn a_cancel_request_reaches_its_backend_and_no_other() {
    use std::io::Write;
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    let cancel = |key: &[u8]| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
        let mut packet = 16_i32.to_be_bytes().to_vec();
        packet.extend(80_877_102_i32.to_be_bytes());
        packet.extend(key);
        stream.write_all(&packet).unwrap();
    };
    raw.send(b'Q', b"SELECT pg_sleep(20)\0");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut wrong = raw.key.clone();
    wrong[7] ^= 1;
    cancel(&wrong);
    cancel(&raw.key);
    assert_eq!(raw.answer().sqlstate(), "57014");
}

#[test]
fn a_policy_is_reloaded_and_a_broken_one_is_not() {
    let policy = unlimited_policy();
    let menshen = Menshen::with(&policy, "");
    let mut raw = menshen.connect("analyst", "");
    let phone = |raw: &mut Raw| raw.simple("SELECT phone FROM crm.customers WHERE id = 1").text(0, 0);
    assert!(phone(&mut raw).contains("****"));
    let until = |raw: &mut Raw, wanted: &dyn Fn(&str) -> bool| {
        for _ in 0..100 {
            if wanted(&phone(raw)) {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        false
    };
    menshen.write_policy(&policy.replace("mask = \"phone\"", "mask = \"full\""));
    assert!(until(&mut raw, &|p| p == "***"), "the change of the file is noticed");
    menshen.write_policy(&policy.replace("mask = \"phone\"", "mask = \"phoney\""));
    menshen.signal("HUP");
    std::thread::sleep(std::time::Duration::from_millis(800));
    assert_eq!(phone(&mut raw), "***");
    assert!(menshen.audit().contains("policy-rejected"));
    menshen.write_policy(&policy);
    menshen.signal("HUP");
    assert!(until(&mut raw, &|p| p.contains("****")));
}

#[test]
fn sigterm_ends_sessions_and_the_process() {
    let mut menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    raw.simple("SELECT 1");
    menshen.signal("TERM");
    assert!(menshen.wait().success());
    assert_eq!(raw.next().unwrap().kind, b'E');
}

#[test]
fn deep_texts_are_answered_and_do_not_end_the_process() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    let sum = |n: usize| vec!["1"; n].join("+");
    for n in [50, 300, 600, 900, 1_500, 3_000, 5_000, 8_000, 20_000] {
        let answer = raw.simple(&format!("SELECT {} FROM crm.customers LIMIT 1", sum(n)));
        if n <= 600 {
            assert_eq!(answer.text(0, 0), n.to_string());
        } else {
            assert!(answer.error.is_some() || answer.rows.len() == 1);
        }
    }
    let nested = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(raw.simple(&nested).error.is_some());
    assert_eq!(raw.simple("SELECT 1").text(0, 0), "1");
}

#[test]
fn a_replication_connection_is_refused() {
    let menshen = Menshen::demo();
    for kind in ["database", "true"] {
        let refused = Raw::connect_with(menshen.port, &menshen.database, "dba", "abd", &[("replication", kind)]);
        assert!(refused.is_err(), "replication={kind} was let in");
    }
}

#[test]
fn a_column_that_was_added_past_menshen_is_known_when_it_is_named() {
    let server = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), "");
    for (n, sql) in [
        "SELECT c1, id FROM crm.customers WHERE id = 1",
        "SELECT id FROM crm.customers WHERE c2 IS NULL LIMIT 1",
        "SELECT x.c3, x.id FROM crm.customers x WHERE id = 1",
        "SELECT (SELECT max(c4) FROM crm.customers), 1",
        "INSERT INTO crm.customers (id, name, phone, created_at, c5) VALUES (90001, 'n', 'p', now(), 'x')",
        "UPDATE crm.customers SET grade = 'x' WHERE c6 = 'x'",
    ]
    .into_iter()
    .enumerate()
    {
        // Its catalog is known, and now is old.
        let mut session = menshen.connect("analyst", "");
        assert_eq!(session.simple("SELECT id FROM crm.customers LIMIT 1").rows.len(), 1);
        let column = format!("c{}", n + 1);
        server.sql(
            &menshen.database,
            &format!("ALTER TABLE crm.customers ADD COLUMN {column} text DEFAULT 'secret'"),
        );
        let answer = if n % 2 == 0 {
            session.simple(sql)
        } else {
            session.extended(sql, &[], false)
        };
        assert_eq!(answer.error, None, "{sql}");
        assert!(!format!("{answer:?}").contains("secret"), "{sql}: {answer:?}");
        // A name that nobody knows has the server's own answer, and the catalog is not read for it each time.
        let answer = session.simple(&sql.replace(&column, "nobody"));
        assert_eq!(answer.sqlstate(), "42703", "{sql}: {answer:?}");
    }
}

#[test]
fn a_new_column_is_masked_until_somebody_classifies_it() {
    let server = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut analyst = menshen.connect("analyst", "");
    assert_eq!(
        analyst.simple("SELECT * FROM crm.customers WHERE id = 1").columns.len(),
        10
    );
    server.sql(
        &menshen.database,
        "ALTER TABLE crm.customers ADD COLUMN wechat text; UPDATE crm.customers SET wechat = 'wx' || phone",
    );
    // The target's references are replaced one by one: one that the catalog does not know has it read anew.
    let returned = analyst.simple("UPDATE crm.customers SET grade = 'x' WHERE id = 1 RETURNING wechat, id");
    assert_eq!((returned.error.clone(), returned.text(0, 0)), (None, "NULL".to_owned()));
    assert_eq!(
        analyst
            .simple("SELECT wechat FROM crm.customers WHERE id = 1")
            .text(0, 0),
        "NULL"
    );
    assert_eq!(
        analyst.simple("SELECT * FROM crm.customers WHERE id = 1").columns.len(),
        11
    );
    let mut dba = menshen.connect("dba", "");
    assert!(
        dba.simple("SELECT wechat FROM crm.customers WHERE id = 1")
            .text(0, 0)
            .starts_with("wx")
    );
    // One that is computed of classified columns shows them: who sees it clear is counted.
    server.sql(
        &menshen.database,
        "ALTER TABLE crm.customers ADD COLUMN loud text GENERATED ALWAYS AS (upper(phone)) STORED",
    );
    analyst.simple("UPDATE crm.customers SET grade = 'x' WHERE id = 1 RETURNING loud");
    let loud = "SELECT loud FROM crm.customers WHERE id = 7";
    let people = || {
        let counted = |line: &&str| line.contains("\"release\"") && line.contains("\"new_people\":[0,0,1]");
        menshen.audit().lines().filter(counted).count()
    };
    let before = people();
    assert_eq!(dba.simple(loud).rows.len(), 1);
    assert_eq!(people(), before + 1);
    let shown = analyst.simple(loud);
    assert!(
        shown.error.is_none() && !format!("{shown:?}").contains("1770"),
        "{shown:?}"
    );
    let log = std::fs::read_to_string(menshen.directory.path().join("log")).unwrap();
    assert!(log.contains("crm.customers.wechat"), "{log}");
    // A list of plain columns says it for good; the policy decides what becomes of others.
    let plain = "person = \"id\"\nplain = [\"grade\", \"city\", \"created_at\"]";
    let policy = unlimited_policy().replacen("person = \"id\"", plain, 1);
    let strict = Menshen::on(
        &menshen.database,
        &policy.replace("version = 1", "version = 1\nunclassified = \"deny\""),
        "",
    );
    let mut raw = strict.connect("analyst", "");
    assert_eq!(raw.simple("SELECT wechat FROM crm.customers").sqlstate(), "42501");
    assert_eq!(raw.simple("SELECT grade FROM crm.customers WHERE id = 2").error, None);
}

#[test]
fn a_cursor_shows_nothing_under_another_purpose_than_it_was_declared_under() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.support();
    raw.simple("BEGIN");
    assert_eq!(
        raw.simple("DECLARE c CURSOR FOR SELECT phone FROM crm.customers ORDER BY id")
            .error,
        None
    );
    assert!(!raw.simple("FETCH c").text(0, 0).contains('*'));
    raw.simple("SET LOCAL menshen.purpose = ''");
    assert_eq!(raw.simple("FETCH c").sqlstate(), "0A000");
}

#[test]
fn a_temporary_type_does_not_stand_in_for_a_built_in_one() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    raw.simple("BEGIN");
    assert_eq!(raw.simple("CREATE TEMP TABLE text (a int)").error, None);
    assert_eq!(raw.simple("CREATE TEMP TABLE date (a int)").error, None);
    let answer = raw.simple("SELECT phone, name, birth FROM crm.customers WHERE id = 1");
    assert_eq!((answer.error.clone(), answer.rows.len()), (None, 1), "{answer:?}");
    assert!(answer.text(0, 0).contains("****"));
}

/// Drivers over libpq send Sync behind Execute at once and another behind the data; the server ignores the first.
#[test]
fn a_sync_while_copy_data_are_awaited_is_not_answered() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("dba", "");
    raw.simple("CREATE TEMP TABLE copied (a int)");
    for (data, end, sqlstate) in [("1\n2\n", b'c', ""), ("1\nx\n", b'c', "22P02"), ("1\n", b'f', "57014")] {
        for waits in [true, false] {
            for syncs in 0..3 {
                raw.parse("", "COPY copied FROM STDIN");
                raw.bind("", "", &[], &[]);
                raw.execute("", 0);
                (0..syncs).for_each(|_| raw.sync());
                if waits {
                    raw.send(b'H', b"");
                    while raw.next().unwrap().kind != b'G' {}
                }
                raw.send(b'd', data.as_bytes());
                raw.send(end, if end == b'f' { b"no\0" } else { b"" });
                raw.sync();
                let answer = raw.answer_to_copy();
                assert_eq!(
                    (answer.sqlstate(), answer.status),
                    (sqlstate, b'I'),
                    "{data:?} {waits} {syncs}"
                );
                assert_eq!(raw.simple("SELECT 7").text(0, 0), "7", "{data:?} {waits} {syncs}");
            }
        }
    }
    assert_eq!(raw.simple("SELECT count(*) FROM copied").text(0, 0), "12");
}

/// Parse, whose name need not be text.
fn parse_as(raw: &mut Raw, name: &[u8], sql: &str) {
    raw.send(b'P', &[name, b"\0", sql.as_bytes(), b"\0\0\0"].concat());
}

/// Bind of a statement and Execute of all rows.
fn run_as(raw: &mut Raw, name: &[u8]) {
    raw.send(b'B', &[b"\0", name, b"\0\0\0\0\0\0\0"].concat());
    raw.execute("", 0);
}

#[test]
fn a_statement_is_known_by_its_name_as_the_server_knows_it() {
    const SHOWS: &str = "SELECT phone FROM crm.customers WHERE grade <> 'vip+' ORDER BY id LIMIT 20";
    let menshen = Menshen::with(&unlimited_policy(), "");
    let shown = |raw: &mut Raw, what: &str| {
        let answer = raw.answer();
        let rows = answer
            .rows
            .iter()
            .filter(|r| r[0].as_deref().is_some_and(|v| v.starts_with(b"1")))
            .count();
        (what.to_owned(), rows, answer.error.clone().map(|e| e.0))
    };
    let mut seen = Vec::new();
    // Two names that are no UTF-8, and the same to whoever puts a sign in the place of what is not.
    let mut raw = menshen.support();
    raw.simple("SET client_encoding = 'LATIN1'");
    parse_as(&mut raw, b"\xff", SHOWS);
    parse_as(&mut raw, b"\xfe", "SELECT 'x'");
    run_as(&mut raw, b"\xff");
    raw.sync();
    seen.push(shown(&mut raw, "latin1"));
    // A name in UTF-8 that is another in LATIN1.
    let mut raw = menshen.support();
    parse_as(&mut raw, "ÿ".as_bytes(), SHOWS);
    raw.sync();
    raw.answer();
    raw.simple("SET client_encoding = 'LATIN1'");
    parse_as(&mut raw, "ÿ".as_bytes(), "SELECT 'x'");
    raw.sync();
    raw.answer();
    raw.simple("SET client_encoding = 'UTF8'");
    run_as(&mut raw, "ÿ".as_bytes());
    raw.sync();
    seen.push(shown(&mut raw, "utf8"));
    // The server looks at the first 63 bytes of a name.
    let long = |last: &str| [&b"a".repeat(63)[..], last.as_bytes()].concat();
    let mut raw = menshen.support();
    parse_as(&mut raw, &long("1"), "SELECT 'x'");
    raw.send(b'C', &[b"S", &long("2")[..], b"\0"].concat());
    parse_as(&mut raw, &long("3"), SHOWS);
    run_as(&mut raw, &long("1"));
    raw.sync();
    seen.push(shown(&mut raw, "long"));
    let released = menshen
        .audit()
        .lines()
        .filter(|l| l.contains("\"event\":\"release\""))
        .count();
    let with_rows = seen.iter().filter(|(_, rows, _)| *rows > 0).count();
    assert_eq!(released, with_rows, "people were shown and not counted: {seen:?}");
}
