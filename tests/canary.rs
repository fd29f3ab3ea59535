//! The canary scan itself: it finds a clear value in every form and through every door, so that it can fail; and through the same doors
//! it finds nothing where values are masked.

use std::collections::BTreeSet;

use menshen::cli::demo::data;

use crate::harness::canary::{Canary, FLOOR, leaks};
use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::{Menshen, Postgres, Raw};

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Simple,
    Text,
    Binary,
    /// The rows of a portal three by three.
    Portal,
    Cursor,
    BinaryCursor,
    Copy,
    BinaryCopy,
    /// As what EXECUTE answers.
    Prepared,
}

const DOORS: [Door; 9] = [
    Door::Simple,
    Door::Text,
    Door::Binary,
    Door::Portal,
    Door::Cursor,
    Door::BinaryCursor,
    Door::Copy,
    Door::BinaryCopy,
    Door::Prepared,
];

/// What PostgreSQL makes of a value, and the form in which it must be found. `@` is the column, `#` its table's rows.
const DISGUISES: [(&str, Door, &str); 47] = [
    ("plain", Door::Simple, "SELECT @ FROM #"),
    ("plain", Door::Binary, "SELECT c FROM # c"),
    ("plain", Door::Simple, "SELECT upper(@), lower(@) FROM #"),
    ("plain", Door::Simple, "SELECT to_jsonb(c), xmlforest(@) FROM # c"),
    (
        "plain",
        Door::Text,
        "SELECT count(*) FROM # GROUP BY @ HAVING @ > '' AND (@ || '(') ~ 'x' OR (@ || '(')::int8 IS NULL",
    ),
    ("plain", Door::Simple, "SELECT (@ || '-')::date FROM #"),
    ("reversed", Door::Simple, "SELECT reverse(@) FROM #"),
    ("hex", Door::Simple, "SELECT convert_to(@, 'UTF8') FROM #"),
    (
        "hex",
        Door::Text,
        "SELECT upper(encode(convert_to('x' || @, 'UTF8'), 'hex')) FROM #",
    ),
    (
        "bytes reversed, in hex",
        Door::Text,
        "SELECT string_agg(to_hex(get_byte(convert_to(@, 'UTF8'), n)), '' ORDER BY n DESC) FROM # c, generate_series(0, length(convert_to(@, 'UTF8')) - 1) n GROUP BY @",
    ),
    (
        "base64",
        Door::Simple,
        "SELECT encode(convert_to(@, 'UTF8'), 'base64') FROM #",
    ),
    (
        "base64 after one byte",
        Door::Simple,
        "SELECT encode(convert_to('x' || @ || 'y', 'UTF8'), 'base64') FROM #",
    ),
    (
        "base64 after two bytes",
        Door::Binary,
        "SELECT encode(convert_to('xy' || @, 'UTF8'), 'base64') FROM #",
    ),
    (
        "base64 after two bytes",
        Door::Simple,
        "SELECT encode(convert_to(repeat('x', 50) || @ || @, 'UTF8'), 'base64') FROM #",
    ),
    (
        "octal escapes",
        Door::Simple,
        "SELECT encode(convert_to(@, 'UTF8'), 'escape') FROM #",
    ),
    (
        "octal escapes, doubled",
        Door::Copy,
        "SELECT encode(convert_to(@, 'UTF8'), 'escape') FROM #",
    ),
    (
        "percent escapes",
        Door::Simple,
        "SELECT regexp_replace(encode(convert_to(@, 'UTF8'), 'hex'), '(..)', '%\\1', 'g') FROM #",
    ),
    (
        "\\u escapes",
        Door::Simple,
        "SELECT string_agg('\\u' || lpad(to_hex(ascii(c)), 4, '0'), '' ORDER BY n) FROM #, string_to_table(@, NULL) WITH ORDINALITY t(c, n) GROUP BY @",
    ),
    (
        "binary float8",
        Door::Binary,
        "SELECT lat, lon FROM crm.customer_locations",
    ),
    (
        "binary float8",
        Door::BinaryCursor,
        "SELECT array_agg(lat) FROM crm.customer_locations",
    ),
    (
        "plain",
        Door::Simple,
        "SELECT lat::text || '!', lon * 1 FROM crm.customer_locations",
    ),
    (
        "binary int8",
        Door::Binary,
        "SELECT ltrim(phone, '+')::int8 FROM crm.customers",
    ),
    (
        "binary numeric",
        Door::Binary,
        "SELECT ltrim(phone, '+')::numeric FROM crm.customers",
    ),
    (
        "characters in a list",
        Door::Simple,
        "SELECT string_to_array(@, NULL) FROM #",
    ),
    (
        "characters in a list",
        Door::Text,
        "SELECT to_jsonb(string_to_array(@, NULL)) FROM #",
    ),
    (
        "characters in a list",
        Door::Simple,
        "SELECT to_json(regexp_split_to_array(@, '')) FROM #",
    ),
    (
        "characters in a list",
        Door::Binary,
        "SELECT array_to_string(string_to_array(@, NULL), '|') FROM #",
    ),
    (
        "characters in a list",
        Door::Simple,
        "SELECT regexp_replace(@, '(.)', '\\1-', 'g') FROM #",
    ),
    (
        "characters in a list",
        Door::Copy,
        "SELECT regexp_replace(@, '(.)', '\\1 ', 'g') FROM #",
    ),
    (
        "characters in rows",
        Door::Simple,
        "SELECT string_to_table(@, NULL) FROM #",
    ),
    (
        "characters in rows",
        Door::Binary,
        "SELECT substr(@, n, 1) FROM #, generate_series(1, length(@)) n ORDER BY @, n",
    ),
    (
        "characters in rows",
        Door::Cursor,
        "SELECT regexp_split_to_table(@, '') FROM #",
    ),
    (
        "characters in lines of COPY",
        Door::Copy,
        "SELECT string_to_table(@, NULL) FROM #",
    ),
    (
        "characters in a binary array",
        Door::Binary,
        "SELECT string_to_array(@, NULL) FROM #",
    ),
    (
        "code points in a list",
        Door::Simple,
        "SELECT array_agg(ascii(c) ORDER BY n) FROM #, string_to_table(@, NULL) WITH ORDINALITY t(c, n) GROUP BY @",
    ),
    (
        "code points in a list",
        Door::Text,
        "SELECT jsonb_agg(ascii(c) ORDER BY n) FROM #, string_to_table(@, NULL) WITH ORDINALITY t(c, n) GROUP BY @",
    ),
    (
        "code points in hex",
        Door::Simple,
        "SELECT string_agg(to_hex(ascii(c)), ', ' ORDER BY n) FROM #, string_to_table(@, NULL) WITH ORDINALITY t(c, n) GROUP BY @",
    ),
    (
        "code points in rows",
        Door::Simple,
        "SELECT ascii(string_to_table(@, NULL)) FROM #",
    ),
    (
        "code points in lines of COPY",
        Door::Copy,
        "SELECT ascii(string_to_table(@, NULL)) FROM #",
    ),
    (
        "code points in a binary array",
        Door::Binary,
        "SELECT array_agg(ascii(c)::text ORDER BY n) FROM #, string_to_table(@, NULL) WITH ORDINALITY t(c, n) GROUP BY @",
    ),
    (
        "binary code points in rows",
        Door::Binary,
        "SELECT ascii(string_to_table(@, NULL)) FROM #",
    ),
    (
        "binary code points in a binary array",
        Door::BinaryCopy,
        "SELECT array_agg(ascii(c) ORDER BY n) FROM #, string_to_table(@, NULL) WITH ORDINALITY t(c, n) GROUP BY @",
    ),
    (
        "bytes in a list",
        Door::Simple,
        "SELECT array_agg(get_byte(convert_to(@, 'UTF8'), n) ORDER BY n) FROM #, generate_series(0, length(convert_to(@, 'UTF8')) - 1) n GROUP BY @",
    ),
    (
        "bytes in hex",
        Door::Simple,
        "SELECT string_agg(to_hex(get_byte(convert_to(@, 'UTF8'), n)), ' ' ORDER BY n) FROM #, generate_series(0, length(convert_to(@, 'UTF8')) - 1) n GROUP BY @",
    ),
    ("plain", Door::Simple, "SELECT loud(@) FROM # WHERE id = 17"),
    ("plain", Door::Simple, "SELECT id FROM # WHERE loud(@) AND id < 30"),
    ("plain", Door::Simple, "UPDATE crm.customers SET created_at = NULL"),
];

/// Sends a statement and gives what came back, byte for byte; whether any of it was an answer.
fn received(raw: &mut Raw, door: Door, sql: &str) -> Vec<u8> {
    let before = raw.received.len();
    raw.simple("BEGIN");
    match door {
        Door::Simple => drop(raw.simple(sql)),
        Door::Text => drop(raw.extended(sql, &[], false)),
        Door::Binary => drop(raw.extended(sql, &[], true)),
        Door::Portal => {
            raw.parse("", sql);
            raw.bind("p", "", &[], &[]);
            raw.execute("p", 3);
            raw.execute("p", 0);
            raw.sync();
            drop(raw.answer());
        }
        Door::Cursor | Door::BinaryCursor => {
            let binary = if door == Door::BinaryCursor { "BINARY " } else { "" };
            raw.simple(&format!("DECLARE c {binary}SCROLL CURSOR FOR {sql}"));
            raw.simple("FETCH ALL FROM c");
            raw.simple("FETCH BACKWARD 2 FROM c");
        }
        Door::Copy => drop(raw.simple(&format!("COPY ({sql}) TO STDOUT"))),
        Door::BinaryCopy => drop(raw.simple(&format!("COPY ({sql}) TO STDOUT (FORMAT binary)"))),
        Door::Prepared => {
            raw.simple(&format!("PREPARE s AS {sql}"));
            raw.extended("EXECUTE s", &[], true);
            raw.simple("DEALLOCATE ALL");
        }
    }
    raw.simple("ROLLBACK");
    raw.received[before..].to_vec()
}

/// What tells of values in notices.
const NOISE: &str = "CREATE FUNCTION loud(t text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'seen %', t; RETURN true; END $$";

const COLUMNS: [(&str, &str); 5] = [
    ("phone", "crm.customers"),
    ("address", "crm.customers"),
    ("id_card", "crm.customers"),
    ("body", "crm.messages"),
    ("bank_card", "crm.transactions"),
];

#[test]
fn the_scan_finds_every_disguise_and_the_guard_lets_none_through() {
    let database = Postgres::get().shop();
    Postgres::get().sql(&database, NOISE);
    let menshen = Menshen::on(&database, &unlimited_policy(), "");
    // Past Menshen, which withholds the words of errors from everybody who is counted.
    let mut dba = Raw::connect(Postgres::get().port, &database, "dba", &data::password("dba"), "").unwrap();
    let mut masked = [
        ("analyst", menshen.connect("analyst", "")),
        ("support", menshen.connect("support", CASE)),
    ];
    let canary = Canary::of("analyst");
    let (mut blind, mut leaked, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (form, door, disguise) in DISGUISES {
        let mut found = false;
        for (column, table) in COLUMNS {
            let sql = disguise.replace('@', column).replace('#', table);
            let forms = canary.find(&received(&mut dba, door, &sql), "");
            found |= forms.iter().any(|f| f.form == form);
            seen.extend(forms.iter().map(|f| f.form));
            for (login, raw) in &mut masked {
                if let Some(found) = leaks(&received(raw, door, &sql), login, "").first() {
                    leaked.push(format!("{login}: {found:?} through {door:?}: {sql}"));
                }
            }
        }
        if !found {
            blind.push(format!("{form} through {door:?}: {disguise}"));
        }
    }
    assert!(leaked.is_empty(), "{} leaks\n{}", leaked.len(), leaked.join("\n"));
    assert!(blind.is_empty(), "not found by the scan\n{}", blind.join("\n"));
    let untried: Vec<&str> = canary.forms().filter(|f| !seen.contains(f)).collect();
    assert!(untried.is_empty(), "no statement makes {untried:?}");
}

#[test]
fn the_scan_sees_through_every_door() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut dba = menshen.connect("dba", "");
    let mut analyst = menshen.connect("analyst", "");
    let canary = Canary::of("analyst");
    for door in DOORS {
        for (column, table) in COLUMNS {
            let sql = format!("SELECT id, {column} FROM {table} WHERE {column} IS NOT NULL");
            assert!(
                !canary.find(&received(&mut dba, door, &sql), "").is_empty(),
                "{door:?}: {sql}"
            );
            assert_eq!(
                canary.find(&received(&mut analyst, door, &sql), ""),
                [],
                "{door:?}: {sql}"
            );
        }
    }
    // What support may see of most people is not looked for, what it may not see is.
    let mut support = menshen.support();
    let bytes = received(&mut support, Door::Simple, "SELECT * FROM crm.customers");
    assert_eq!(leaks(&bytes, "support", ""), []);
    assert!(!canary.find(&bytes, "").is_empty());
    let bytes = received(
        &mut dba,
        Door::Simple,
        "SELECT phone FROM crm.customers WHERE grade = 'vip+'",
    );
    assert!(!leaks(&bytes, "support", "").is_empty());
}

#[test]
fn the_scan_is_not_alarmed_without_need() {
    let canary = Canary::of("analyst");
    let phone = canary.some_value("139");
    assert!(!canary.find(format!("x{phone}y").as_bytes(), "").is_empty());
    // What the client wrote comes back in error messages; another value does not.
    assert_eq!(
        canary.find(format!("x{phone}y").as_bytes(), &format!("SELECT '{phone}'")),
        []
    );
    let other = canary.some_value("150");
    let both = format!("{phone} {other}");
    let found = canary.find(both.as_bytes(), &format!("SELECT '{phone}'"));
    assert!(found.len() == 1 && found[0].value == other, "{found:?}");
    // Masks, parts and numbers by chance are no values.
    let masks: String = (0..20_000)
        .map(|n| format!("{n},138****{:04}|王**|c***@example.com ", n % 10_000))
        .collect();
    assert_eq!(canary.find(masks.as_bytes(), ""), []);
    assert_eq!(canary.find(&phone.as_bytes()[..FLOOR], ""), []);
}
