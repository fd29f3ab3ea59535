//! The protocol's corners, as PostgreSQL has them: versions and options, start-up parameters, cancel keys.

use crate::harness::menshen::demo_policy;
use crate::harness::raw::Startup;
use crate::harness::{Menshen, Postgres, Raw};

fn start(menshen: &Menshen, version: i32, parameters: &[(&str, &str)]) -> Startup {
    Startup::send(menshen.port, version, parameters)
}

const V3_0: i32 = 3 << 16;
const V3_2: i32 = V3_0 | 2;

/// The newest version that the test's server speaks.
fn servers() -> i32 {
    if Postgres::get().version() >= 18 { V3_2 } else { V3_0 }
}

#[test]
fn the_version_is_negotiated_as_the_server_does_it() {
    let menshen = Menshen::demo();
    let trusted = [("user", "trusted"), ("database", menshen.database.as_str())];
    let direct = |version, more: &[(&str, &str)]| {
        Startup::send(Postgres::get().port, version, &[&trusted, more].concat()).negotiated
    };
    for version in [V3_0, V3_2, V3_0 | 77] {
        for options in [&[][..], &[("_pq_.one", "1"), ("_pq_.two", "")]] {
            let through = start(&menshen, version, &[&trusted, options].concat());
            assert_eq!(through.negotiated, direct(version, options), "{version:x} {options:?}");
            assert!(through.ready, "{version:x} {options:?}");
            let key = if version == V3_0 || servers() == V3_0 { 8 } else { 36 };
            assert_eq!(through.key.len(), key, "{version:x}");
        }
    }
    let told = start(&menshen, V3_2, &[&trusted[..], &[("_pq_.one", "1")]].concat()).negotiated;
    assert_eq!(told, Some((servers(), vec!["_pq_.one".to_owned()])));
}

#[test]
fn a_long_cancel_key_cancels_and_a_part_of_it_does_not() {
    let menshen = Menshen::demo();
    let database = menshen.database.clone();
    let mut session = start(&menshen, V3_2, &[("user", "trusted"), ("database", &database)]);
    let key = session.key.clone();
    session.send_message(b'Q', b"SELECT pg_sleep(30)\0");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut longer = key.clone();
    longer.push(0);
    for wrong in [&key[..key.len() - 1], &key[..8.min(key.len() - 1)], &longer] {
        crate::harness::raw::cancel(menshen.port, wrong);
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!session.has_answer(), "a part of a key cancelled");
    crate::harness::raw::cancel(menshen.port, &key);
    assert_eq!(session.sqlstate(), "57014");
}

#[test]
fn who_logs_in_is_whom_the_policy_is_asked_about() {
    let menshen = Menshen::demo();
    let database = menshen.database.clone();
    let refused = |parameters: &[(&str, &str)]| start(&menshen, V3_0, parameters).error;
    // The server takes the last of a name: `trusted` needs no password, `dba` sees everything.
    let twice = refused(&[("user", "dba"), ("user", "trusted"), ("database", &database)]);
    assert_eq!(twice, "08P01");
    let other = refused(&[("user", "trusted"), ("database", "postgres"), ("database", &database)]);
    assert_eq!(other, "08P01");
    let stream = refused(&[
        ("user", "trusted"),
        ("replication", "off"),
        ("replication", "database"),
        ("database", &database),
    ]);
    assert_eq!(stream, "08P01");
    // It cuts names off at 63 bytes.
    let long = format!("{}dba", "a".repeat(63));
    assert_eq!(refused(&[("user", &long), ("database", &database)]), "08P01");
    for replication in ["true", "on", "yes", "1", "database", "t", "DATABASE", "nonsense"] {
        let refusal = refused(&[
            ("user", "trusted"),
            ("database", &database),
            ("replication", replication),
        ]);
        assert_eq!(refusal, "0A000", "{replication}");
    }
    assert_eq!(
        refused(&[("user", "trusted"), ("database", &database), ("replication", "off")]),
        ""
    );
}

#[test]
fn a_startup_packet_ends_where_its_list_ends() {
    let menshen = Menshen::with(&demo_policy(), "");
    let database = menshen.database.clone();
    let body = |tail: &[u8]| {
        let mut body = V3_0.to_be_bytes().to_vec();
        body.extend([b"user\0trusted\0database\0", database.as_bytes(), b"\0\0", tail].concat());
        body
    };
    assert!(Startup::of(menshen.port, &body(b"")).ready);
    for tail in [&b"\0"[..], b"x\0", b"user\0dba\0\0", b"x"] {
        assert_eq!(Startup::of(menshen.port, &body(tail)).error, "08P01", "{tail:?}");
        assert_eq!(
            Startup::of(Postgres::get().port, &body(tail)).error,
            "08P01",
            "{tail:?}"
        );
    }
    assert!(Raw::connect(menshen.port, &database, "trusted", "", "").is_ok());
}

/// libpq of PostgreSQL 18, which psycopg loads in its Python implementation.
#[test]
fn libpq_of_version_18_agrees_with_us_on_a_version() {
    let menshen = Menshen::demo();
    let root = env!("CARGO_MANIFEST_DIR");
    let output = std::process::Command::new(format!("{root}/.venv/bin/python"))
        .arg(format!("{root}/tests/clients/libpq_18.py"))
        .args([menshen.port.to_string().as_str(), &menshen.database])
        .arg(if servers() == V3_2 { "3.2" } else { "3.0" })
        .env("LD_LIBRARY_PATH", format!("{root}/.postgres/18/lib"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("all right"), "{text}");
}
