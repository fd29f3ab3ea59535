//! Prepared statements that the catalog or the policy overtakes: prepared again under the client's feet, or refused in the server's own words
//! where they would show other columns.

use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::raw::Answer;
use crate::harness::{Menshen, Postgres, Raw};

/// A login that DDL reaches the database by, past Menshen's sessions under test.
fn dba(menshen: &Menshen, statement: &str) {
    let answer = menshen.connect("dba", "").simple(statement);
    assert_eq!(answer.error, None, "{statement}");
}

/// Runs a prepared statement, as a driver does that has described it long ago.
fn run(raw: &mut Raw, name: &str) -> Answer {
    raw.bind("", name, &[], &[]);
    raw.execute("", 0);
    raw.sync();
    raw.answer()
}

fn prepare(raw: &mut Raw, name: &str, text: &str) -> Answer {
    raw.parse(name, text);
    raw.describe(b'S', name);
    raw.sync();
    let answer = raw.answer();
    assert_eq!(answer.error, None, "{text}");
    answer
}

/// SQLSTATE, message and routine, as drivers look at them.
fn result_type(raw: &mut Raw, name: &str) {
    let at = raw.received.len();
    let answer = run(raw, name);
    let said = String::from_utf8_lossy(&raw.received[at..]).into_owned();
    assert_eq!(answer.sqlstate(), "0A000", "{answer:?}");
    assert!(
        said.contains("Mcached plan must not change result type\0") && said.contains("RRevalidateCachedQuery\0"),
        "{said}"
    );
    assert!(answer.rows.is_empty());
}

#[test]
fn a_statement_whose_columns_ddl_has_changed_is_refused_in_the_servers_words() {
    let granted = unlimited_policy().replace("clear = [\"*\"]", "clear = [\"*\"]\nddl = true");
    let menshen = Menshen::with(&granted, "");
    Postgres::get().sql(&menshen.database, "ALTER TABLE crm.customers OWNER TO dba");
    for (login, options) in [("analyst", ""), ("support", CASE), ("dba", "")] {
        let mut raw = menshen.connect(login, options);
        let columns = prepare(&mut raw, "all", "SELECT * FROM crm.customers WHERE id < 4").columns;
        prepare(
            &mut raw,
            "some",
            "SELECT id, phone FROM crm.customers WHERE id < 4 ORDER BY id",
        );
        let before = run(&mut raw, "some");
        assert_eq!(run(&mut raw, "all").rows[0].len(), columns.len());
        dba(
            &menshen,
            "ALTER TABLE crm.customers ADD COLUMN remark text DEFAULT 'none'",
        );
        result_type(&mut raw, "all");
        result_type(&mut raw, "all");
        assert_eq!(run(&mut raw, "some").rows, before.rows, "{login}");
        // What is prepared now shows it, also under the old name.
        raw.send(b'C', b"Sall\0");
        let columns = prepare(&mut raw, "all", "SELECT * FROM crm.customers WHERE id < 4").columns;
        assert_eq!(columns.last().unwrap().0, "remark");
        assert_eq!(run(&mut raw, "all").rows[0].len(), columns.len());
        // In a transaction the error ends it, as the server's own does.
        prepare(&mut raw, "in_transaction", "SELECT * FROM crm.customers WHERE id < 4");
        dba(&menshen, "ALTER TABLE crm.customers DROP COLUMN remark");
        assert_eq!(raw.simple("BEGIN").status, b'T');
        assert_eq!(run(&mut raw, "in_transaction").sqlstate(), "0A000");
        assert_eq!(run(&mut raw, "some").sqlstate(), "25P02", "{login}");
        assert_eq!(raw.simple("ROLLBACK").status, b'I');
        assert_eq!(run(&mut raw, "some").rows, before.rows, "{login}");
    }
}

#[test]
fn a_statement_whose_column_is_dropped_runs_again_when_it_is_back() {
    let granted = unlimited_policy().replace("clear = [\"*\"]", "clear = [\"*\"]\nddl = true");
    let menshen = Menshen::with(&granted, "");
    Postgres::get().sql(
        &menshen.database,
        "ALTER TABLE crm.customers OWNER TO dba; ALTER TABLE crm.customers ADD COLUMN extra text DEFAULT 'e'",
    );
    let mut raw = menshen.connect("support", CASE);
    let text = "SELECT id, phone FROM crm.customers WHERE extra IS NOT DISTINCT FROM extra AND id = 1";
    for name in ["s", ""] {
        prepare(&mut raw, name, text);
        let before = run(&mut raw, name);
        assert_eq!(before.rows.len(), 1);
        dba(&menshen, "ALTER TABLE crm.customers DROP COLUMN extra");
        for _ in 0..2 {
            assert_eq!(run(&mut raw, name).sqlstate(), "42703", "{name:?}");
        }
        dba(&menshen, "ALTER TABLE crm.customers ADD COLUMN extra text DEFAULT 'e'");
        for _ in 0..2 {
            assert_eq!(run(&mut raw, name).rows, before.rows, "{name:?}");
        }
    }
    // One that the client has closed meanwhile does not come back.
    prepare(&mut raw, "closed", text);
    dba(&menshen, "ALTER TABLE crm.customers DROP COLUMN extra");
    assert_eq!(run(&mut raw, "closed").sqlstate(), "42703");
    raw.send(b'C', b"Sclosed\0");
    raw.sync();
    raw.answer();
    dba(&menshen, "ALTER TABLE crm.customers ADD COLUMN extra text DEFAULT 'e'");
    assert_eq!(run(&mut raw, "closed").sqlstate(), "26000");
}

#[test]
fn a_new_policy_holds_for_statements_that_were_prepared_before() {
    let policy = unlimited_policy();
    let menshen = Menshen::with(&policy, "");
    let mut raw = menshen.connect("support", CASE);
    let text = "SELECT id, phone FROM crm.customers WHERE id < 4 ORDER BY id";
    let whole = "SELECT c FROM crm.customers c WHERE id < 4 ORDER BY id";
    let shown = prepare(&mut raw, "s", text);
    prepare(&mut raw, "whole", whole);
    assert_eq!(raw.simple(&format!("PREPARE by_sql AS {text}")).error, None);
    let clear = run(&mut raw, "s");
    assert!(!clear.text(0, 1).contains('*'), "{clear:?}");
    assert_eq!(run(&mut raw, "whole").error, None);
    // Half of a portal's rows under the old one.
    assert_eq!(raw.simple("BEGIN").error, None);
    raw.bind("half", "s", &[], &[]);
    raw.execute("half", 1);
    raw.send(b'H', b"");
    let mut suspended = Vec::new();
    while suspended.last() != Some(&b's') {
        suspended.push(raw.next().unwrap().kind);
    }
    menshen.write_policy(&policy.replace("clear = [\"name\", \"phone\", ", "clear = [\"name\", "));
    menshen.wait_for("\"epoch\":2");
    raw.execute("half", 0);
    raw.sync();
    let rest = raw.answer();
    assert!(rest.rows.is_empty() && rest.sqlstate() == "0A000", "{rest:?}");
    assert_eq!(raw.simple("ROLLBACK").error, None);
    // Prepared again, invisibly: the same columns, masked.
    let masked = run(&mut raw, "s");
    assert!(masked.error.is_none() && masked.rows.len() == 2, "{masked:?}");
    assert!((0..2).all(|row| masked.text(row, 1).contains("****")), "{masked:?}");
    raw.describe(b'S', "s");
    raw.sync();
    assert_eq!(raw.answer().columns, shown.columns);
    // By SQL it can't be: the name is the client's.
    let by_sql = raw.simple("EXECUTE by_sql");
    assert!(by_sql.sqlstate() == "0A000" && by_sql.rows.is_empty(), "{by_sql:?}");
    // A policy that shows nothing.
    menshen.write_policy(&policy.replace("logins = [\"support\", \"support_*\"]", "logins = [\"nobody\"]"));
    menshen.wait_for("\"epoch\":3");
    let refused = run(&mut raw, "s");
    assert!(refused.rows.is_empty() && refused.sqlstate() == "42501", "{refused:?}");
}

#[test]
fn a_policy_that_is_loaded_meanwhile_holds_for_what_was_bound_and_after_ddl() {
    let policy = unlimited_policy().replace("\"address\"]", "\"address\"]\nddl = true");
    let without = policy.replace("clear = [\"name\", \"phone\", ", "clear = [\"name\", ");
    let menshen = Menshen::with(&policy, "");
    let text = "SELECT id, phone FROM crm.customers WHERE id < 3 ORDER BY id";
    let mut bound = menshen.support();
    prepare(&mut bound, "s", text);
    bound.bind("", "s", &[], &[]);
    let mut transaction = menshen.support();
    for statement in ["BEGIN", "CREATE TEMP TABLE mine (a int)", text] {
        assert_eq!(transaction.simple(statement).error, None, "{statement}");
    }
    prepare(&mut transaction, "s", text);
    assert!(!run(&mut transaction, "s").text(0, 1).contains('*'));
    menshen.write_policy(&without);
    menshen.wait_for("\"epoch\":2");
    bound.execute("", 0);
    bound.sync();
    let late = bound.answer();
    assert!(late.rows.is_empty() && late.sqlstate() == "0A000", "{late:?}");
    for text in [
        text,
        "SELECT phone, phone AS p FROM crm.customers WHERE id < 3 ORDER BY id",
    ] {
        let answer = transaction.simple(text);
        assert!(answer.text(0, 1).contains("****"), "{answer:?}");
    }
    assert!(run(&mut transaction, "s").text(0, 1).contains("****"));
}
