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

/// A FunctionCall's body: arguments, and formats (text 0, binary 1) of them and of the result.
fn call(oid: u32, arguments: &[&[u8]], format: i16) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend(1_i16.to_be_bytes());
    body.extend(format.to_be_bytes());
    body.extend(i16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend(i32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend(*argument);
    }
    body.extend(format.to_be_bytes());
    body
}

/// The kinds of messages up to ReadyForQuery, the response's value or the error's SQLSTATE.
fn called(raw: &mut Raw, body: &[u8]) -> (String, Vec<u8>) {
    raw.send(b'F', body);
    let (mut kinds, mut value) = (String::new(), Vec::new());
    loop {
        let message = raw.next().unwrap();
        kinds.push(char::from(message.kind));
        match message.kind {
            b'V' => value = message.body[4..].to_vec(),
            b'E' => value = crate::harness::raw::fields(&message.body).0.into_bytes(),
            b'Z' => return (kinds, value),
            _ => {}
        }
    }
}

#[test]
fn a_function_call_is_judged_by_what_its_number_means() {
    let menshen = Menshen::demo();
    let postgres = Postgres::get();
    postgres.sql(
        &menshen.database,
        "CREATE FUNCTION public.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
         CREATE FUNCTION public.\"a phone\"(int) RETURNS text LANGUAGE sql AS 'SELECT phone FROM crm.customers WHERE id = $1'",
    );
    let oid = |name: &str| -> u32 {
        let text = postgres.sql(&menshen.database, &format!("SELECT '{name}'::regproc::oid"));
        text.trim().parse().unwrap()
    };
    let mut raw = menshen.connect("analyst", "");
    let answer = |raw: &mut Raw, body: &[u8]| called(raw, body);
    // int4abs in both formats, and a function of the database.
    assert_eq!(answer(&mut raw, &call(1397, &[b"-7"], 0)), ("VZ".into(), b"7".to_vec()));
    assert_eq!(
        answer(&mut raw, &call(1397, &[&[255, 255, 255, 249]], 1)),
        ("VZ".into(), vec![0, 0, 0, 7])
    );
    assert_eq!(
        answer(&mut raw, &call(oid("public.twice"), &[b"21"], 0)),
        ("VZ".into(), b"42".to_vec())
    );
    // The server's own errors: a bad value, no such function, an aggregate.
    assert_eq!(
        answer(&mut raw, &call(1397, &[b"x"], 0)),
        ("EZ".into(), b"22P02".to_vec())
    );
    assert_eq!(
        answer(&mut raw, &call(4_000_000_000, &[], 0)),
        ("EZ".into(), b"42883".to_vec())
    );
    // What reaches people, files, large objects or statements.
    for (name, argument) in [
        ("public.\"a phone\"", &b"1"[..]),
        ("pg_catalog.pg_read_file(text)", b"postgresql.conf"),
        ("pg_catalog.lo_creat(int)", b"0"),
        ("pg_catalog.query_to_xml", b"SELECT 1"),
        ("pg_catalog.pg_stat_get_backend_activity", b"1"),
        ("pg_catalog.current_setting(text)", b"menshen.purpose"),
        ("pg_catalog.set_config", b"menshen.purpose"),
    ] {
        let number = if name.contains('(') {
            let text = postgres.sql(&menshen.database, &format!("SELECT '{name}'::regprocedure::oid"));
            text.trim().parse().unwrap()
        } else {
            oid(name)
        };
        let (kinds, code) = answer(&mut raw, &call(number, &[argument], 0));
        assert_eq!(kinds, "EZ", "{name}");
        assert!(
            code == b"42501" || code == b"0A000",
            "{name}: {}",
            String::from_utf8_lossy(&code)
        );
    }
    // A refusal aborts a transaction block as an error does.
    assert_eq!(raw.simple("BEGIN").status, b'T');
    assert_eq!(answer(&mut raw, &call(1397, &[b"-7"], 0)), ("VZ".into(), b"7".to_vec()));
    assert_eq!(answer(&mut raw, &call(oid("public.\"a phone\""), &[b"1"], 0)).0, "EZ");
    assert_eq!(
        answer(&mut raw, &call(1397, &[b"-7"], 0)),
        ("EZ".into(), b"25P02".to_vec())
    );
    assert_eq!(raw.simple("ROLLBACK").status, b'I');
    // Who may see everything may read and write large objects.
    let mut dba = menshen.connect("dba", "");
    let (kinds, code) = answer(&mut dba, &call(957, &[b"0"], 0));
    assert_eq!(kinds, "VZ", "{}", String::from_utf8_lossy(&code));
    // Right behind a statement that changes what a name means.
    raw.send(b'Q', b"BEGIN\0");
    raw.send(b'F', &call(1397, &[b"-8"], 0));
    raw.send(b'Q', b"COMMIT\0");
    let statuses: Vec<u8> = (0..3).map(|_| raw.answer().status).collect();
    assert_eq!(statuses, b"TTI");
    // A body that is none ends the session.
    raw.send(b'F', &[0, 0, 5, 117, 0, 1, 0]);
    assert_eq!(raw.next().map(|m| m.kind), Ok(b'E'));
}

#[test]
fn utf_8_by_any_of_its_names_is_utf_8() {
    let menshen = Menshen::demo();
    let mut raw = menshen.connect("analyst", "");
    for name in ["UNICODE", "utf-8", "Utf_8", "UTF8"] {
        assert_eq!(raw.simple(&format!("SET client_encoding = '{name}'")).error, None);
        assert_eq!(
            raw.simple("SELECT '木' FROM crm.customers LIMIT 1").text(0, 0),
            "木",
            "{name}"
        );
    }
    raw.simple("SET client_encoding = 'GBK'");
    assert_eq!(raw.simple("SELECT '木' FROM crm.customers LIMIT 1").sqlstate(), "0A000");
}
