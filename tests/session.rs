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

fn clear(answer: &Answer) -> bool {
    answer
        .rows
        .iter()
        .any(|r| r.iter().flatten().any(|v| v.len() >= 11 && !v.contains(&b'*')))
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
