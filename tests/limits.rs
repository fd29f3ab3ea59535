//! Counting people: the exact stop by every route, over crashes, with alerts that arrive.

use std::collections::BTreeSet;

use crate::harness::menshen::demo_policy;
use crate::harness::webhook::Webhook;
use crate::harness::{Menshen, Raw};

/// The demo's policy with a line of 100 people.
fn small_line() -> String {
    demo_policy()
        .replace("stop_at = 1.0 ", "stop_at = 0.04 ")
        .replace("alert_at = [0.5, 0.8, 1.0]", "alert_at = [0.02, 0.032]")
}

/// People 1, 2, 3 … of those whom support may see, until the stop: how many, and the error.
fn page(
    raw: &mut Raw,
    mut next: impl FnMut(&mut Raw, i64) -> crate::harness::raw::Answer,
) -> (BTreeSet<String>, String) {
    let mut seen = BTreeSet::new();
    for from in (0..).step_by(30) {
        let answer = next(raw, from);
        seen.extend(
            answer
                .rows
                .iter()
                .map(|r| String::from_utf8_lossy(r[1].as_ref().unwrap()).into_owned()),
        );
        if answer.error.is_some() {
            return (seen, answer.sqlstate().to_owned());
        }
        if answer.rows.is_empty() && !answer.suspended {
            return (seen, "end".to_owned());
        }
    }
    unreachable!()
}

#[test]
fn three_routes_stop_at_the_same_person() {
    let plain = Menshen::with(&small_line(), "");
    let (by_select, code) = page(&mut plain.support(), |raw, from| {
        raw.simple(&format!(
            "SELECT id, phone FROM crm.customers ORDER BY id OFFSET {from} LIMIT 30"
        ))
    });
    assert_eq!((by_select.len(), code.as_str()), (99, "53400"));

    let portal = Menshen::with(&small_line(), "");
    let mut raw = portal.support();
    raw.simple("BEGIN");
    raw.parse("", "SELECT id, phone FROM crm.customers ORDER BY id");
    raw.bind("c", "", &[], &[]);
    raw.sync();
    assert_eq!(raw.answer().error, None);
    let (by_portal, code) = page(&mut raw, |raw, _| {
        raw.execute("c", 30);
        raw.sync();
        raw.answer()
    });
    assert_eq!(code, "53400");
    assert_eq!(by_portal, by_select);

    let prepared = Menshen::with(&small_line(), "");
    let mut raw = prepared.support();
    raw.parse(
        "s",
        "SELECT id, phone FROM crm.customers ORDER BY id OFFSET $1 LIMIT 30",
    );
    raw.sync();
    raw.answer();
    let (by_prepared, code) = page(&mut raw, |raw, from| {
        raw.bind("", "s", &[&from.to_string()], &[1, 1]);
        raw.execute("", 0);
        raw.sync();
        raw.answer()
    });
    assert_eq!(code, "53400");
    assert_eq!(by_prepared, by_select);
}

#[test]
fn one_row_that_packs_many_people_counts_them_all() {
    let menshen = Menshen::with(&small_line(), "");
    let mut raw = menshen.support();
    let packed = raw.simple("SELECT string_agg(phone, ',') FROM crm.customers");
    assert_eq!((packed.sqlstate(), packed.rows.len()), ("53400", 0));
    assert_eq!(
        raw.simple("SELECT json_agg(c) FROM crm.customers c").sqlstate(),
        "53400"
    );
    assert_eq!(
        raw.simple("SELECT ARRAY(SELECT phone FROM crm.customers)").sqlstate(),
        "53400"
    );
    assert_eq!(
        raw.simple("SELECT DISTINCT grade, phone FROM crm.customers").rows.len(),
        99
    );
    // Counting them shows nobody.
    assert_eq!(raw.simple("SELECT count(*) FROM crm.customers").rows.len(), 1);
    assert_eq!(raw.simple("SELECT id, grade FROM crm.customers").error, None);
}

#[test]
fn the_count_survives_kill_and_is_never_lower_than_what_was_received() {
    let mut menshen = Menshen::with(&small_line(), "");
    let mut received = BTreeSet::new();
    for round in 0..3 {
        let mut raw = menshen.support();
        let answer = raw.simple(&format!(
            "SELECT id, phone FROM crm.customers ORDER BY id OFFSET {} LIMIT 20",
            round * 20
        ));
        received.extend(answer.rows.iter().map(|r| r[1].clone()));
        menshen.kill_and_restart();
    }
    let mut raw = menshen.support();
    let rest = raw.simple("SELECT id, phone FROM crm.customers ORDER BY id DESC");
    assert_eq!(rest.sqlstate(), "53400");
    received.extend(rest.rows.iter().map(|r| r[1].clone()));
    assert!(received.len() <= 99, "{} people were received", received.len());
    assert_eq!(received.len(), 99);
}

#[test]
fn notices_alerts_and_the_stop_arrive() {
    let hook = Webhook::start(2);
    let config = format!("[[alerts]]\nsink = \"webhook\"\nurl = \"{}\"\n", hook.url);
    let menshen = Menshen::with(&small_line(), &config);
    let mut raw = menshen.support();
    let first = raw.simple("SELECT id, phone FROM crm.customers ORDER BY id LIMIT 60");
    assert!(
        first.notices.iter().any(|n| n.contains("exposure 60 of 2500")),
        "{:?}",
        first.notices
    );
    let rest = raw.simple("SELECT id, phone FROM crm.customers ORDER BY id");
    assert_eq!(rest.sqlstate(), "53400");
    let kinds = || {
        let bodies = hook.bodies.lock().unwrap();
        bodies
            .iter()
            .map(|b| {
                serde_json::from_str::<serde_json::Value>(b).unwrap()["kind"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    for _ in 0..100 {
        if kinds().len() >= 3 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(kinds(), ["threshold", "threshold", "stop"]);
    let audit = menshen.audit();
    for event in ["session-opened", "decision", "release", "threshold", "stop"] {
        assert!(audit.contains(&format!("\"event\":\"{event}\"")), "{event}");
    }
    assert!(menshen::audit::verify(&menshen.directory.path().join("var/audit")).is_ok());
    // Literals and values never reach the audit.
    raw.simple("SELECT id FROM crm.customers WHERE phone = '13912345678'");
    raw.simple("SELECT id FROM crm.customers WHERE phone = = '13912345678'");
    assert!(!menshen.audit().contains("13912345678"));
}

#[test]
fn the_session_goes_on_after_a_stop() {
    let menshen = Menshen::with(&small_line(), "");
    let mut raw = menshen.support();
    raw.simple("BEGIN");
    let stopped = raw.simple("SELECT id, phone FROM crm.customers");
    assert_eq!((stopped.sqlstate(), stopped.status), ("53400", b'E'));
    assert_eq!(raw.simple("ROLLBACK").status, b'I');
    assert_eq!(raw.simple("SELECT count(*) FROM crm.products").text(0, 0), "50");
    assert_eq!(
        raw.extended("SELECT id, phone FROM crm.customers ORDER BY id DESC", &[], true)
            .sqlstate(),
        "53400"
    );
    assert_eq!(raw.extended("SELECT 7", &[], false).text(0, 0), "7");
}

#[test]
fn answers_of_many_batches_stay_in_order() {
    let menshen = Menshen::with(&crate::harness::menshen::unlimited_policy(), "");
    let mut raw = menshen.support();
    for extended in [false, true] {
        // More rows than a batch holds, with the statement's end in the same burst as the last of them.
        let sql = "SELECT a.phone, b.id FROM crm.customers a, crm.products b ORDER BY 2, 1";
        let answer = if extended {
            raw.extended(sql, &[], true)
        } else {
            raw.simple(sql)
        };
        assert_eq!(answer.error, None);
        assert_eq!(answer.tag, format!("SELECT {}", answer.rows.len()));
        assert!(answer.rows.len() > 5_000);
    }
}
