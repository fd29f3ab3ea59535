//! CancelRequests that come while Menshen itself is at work for the session: PostgreSQL knows nothing of the statement yet.

use std::time::{Duration, Instant};

use crate::harness::menshen::demo_policy;
use crate::harness::raw::{Answer, cancel};
use crate::harness::{Menshen, Postgres, Raw};

const WORDS: &str = "canceling statement due to user request";

/// A session for which the catalog must be read, and another that lets nobody read it.
fn blocked() -> (Menshen, Raw, Raw) {
    let menshen = Menshen::with(&demo_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    assert_eq!(raw.simple("SELECT 1").error, None);
    let port = Postgres::get().port;
    let mut locker = Raw::connect(port, &menshen.database, "postgres", "", "").unwrap();
    locker.simple("BEGIN");
    (menshen, raw, locker)
}

fn lock(locker: &mut Raw) {
    let locked = locker.simple("LOCK TABLE pg_catalog.pg_policy IN ACCESS EXCLUSIVE MODE");
    assert_eq!(locked.error, None);
}

/// Sends the request once, when somebody waits for the lock.
fn cancel_when_waiting(menshen: &Menshen, raw: &Raw) {
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pg_policy'::regclass \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let begun = Instant::now();
    while Postgres::get().sql(&menshen.database, waits).trim() == "0" {
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody reads the catalog");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Another session's reading may be what waits: the statement has certainly come by then.
    std::thread::sleep(Duration::from_millis(300));
    cancel(menshen.port, &raw.key);
}

fn is_cancelled(answer: &Answer, status: u8) {
    assert_eq!(answer.error, Some(("57014".to_owned(), WORDS.to_owned())), "{answer:?}");
    assert_eq!(answer.status, status);
    assert!(answer.rows.is_empty());
}

#[test]
fn a_query_that_waits_for_the_catalog_is_cancelled_and_never_sent() {
    let (menshen, mut raw, mut locker) = blocked();
    assert_eq!(raw.simple("CREATE TEMP TABLE fresh (a int)").error, None);
    lock(&mut locker);
    raw.send(b'Q', b"SELECT 41 FROM pg_sleep(30)\0");
    cancel_when_waiting(&menshen, &raw);
    is_cancelled(&raw.answer(), b'I');
    // A pipeline ends at its Sync; what stands behind that is judged by a catalog of its own.
    raw.parse("", "SELECT 42 FROM pg_sleep(30)");
    raw.bind("", "", &[], &[]);
    raw.execute("", 0);
    raw.sync();
    cancel_when_waiting(&menshen, &raw);
    is_cancelled(&raw.answer(), b'I');
    raw.send(b'Q', b"SELECT 43\0");
    locker.simple("ROLLBACK");
    assert_eq!(raw.answer().text(0, 0), "43");
    assert_eq!(raw.simple("SELECT 44").text(0, 0), "44");
    assert!(menshen.audit().contains("cancel-request"));
}

#[test]
fn a_statement_in_a_transaction_that_waits_for_the_catalog_aborts_it() {
    let (menshen, mut raw, mut locker) = blocked();
    for way in ["simple", "extended"] {
        raw.simple("BEGIN");
        assert_eq!(raw.simple("CREATE TEMP TABLE fresh (a int)").error, None);
        lock(&mut locker);
        // The catalog of its own is read on its own connection: the request goes there.
        if way == "extended" {
            raw.parse("", "SELECT a FROM fresh, pg_sleep(30)");
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
            raw.sync();
        } else {
            raw.send(b'Q', b"SELECT a FROM fresh, pg_sleep(30)\0");
        }
        cancel_when_waiting(&menshen, &raw);
        is_cancelled(&raw.answer(), b'E');
        assert_eq!(raw.simple("SELECT 1").sqlstate(), "25P02");
        assert_eq!(raw.simple("ROLLBACK").status, b'I');
        locker.simple("ROLLBACK");
        locker.simple("BEGIN");
    }
    assert_eq!(raw.simple("SELECT 45").text(0, 0), "45");
}

#[test]
fn a_request_that_finds_nothing_under_way_hits_nothing() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    for n in 0..30 {
        cancel(menshen.port, &raw.key);
        assert_eq!(raw.simple(&format!("SELECT {n}")).text(0, 0), n.to_string());
        assert_eq!(raw.extended("SELECT $1", &["x"], false).text(0, 0), "x");
    }
}
