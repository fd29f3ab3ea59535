//! Ways round that rivals fell to, tried on the bytes: `cases/attacks.toml`, over the objects of `cases/attacks.sql`.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::harness::canary::leaks;
use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::postgres::left_out;
use crate::harness::{Menshen, Postgres, Raw};

#[derive(Deserialize)]
struct Attacks {
    attacks: Vec<Attack>,
    elsewhere: Vec<Elsewhere>,
    promises: Vec<Promise>,
}

/// What is promised for a kind of statement, and what tries it.
#[derive(Deserialize)]
struct Promise {
    name: String,
    tests: Vec<String>,
    attacks: Vec<String>,
}

#[derive(Deserialize)]
struct Attack {
    name: String,
    /// Numbers of the known bypasses that it tries.
    #[serde(default)]
    covers: BTreeSet<u32>,
    /// First major version of PostgreSQL that has what they use.
    #[serde(default)]
    since: u32,
    /// Each must be refused, too.
    #[serde(default)]
    refused: bool,
    /// Each in a transaction of its own, in which whatever could have been filled is read; then it is rolled back.
    #[serde(default)]
    transaction: bool,
    sql: Vec<String>,
}

/// A bypass that another test tries, or that can't be tried here.
#[derive(Deserialize)]
struct Elsewhere {
    covers: u32,
    #[serde(default)]
    test: String,
    #[serde(default)]
    why_not: String,
}

/// Where stolen values could have been put.
const READ_BACK: [&str; 7] = [
    "SELECT * FROM crm.notes",
    "SELECT id, grade, city FROM crm.customers",
    "SELECT * FROM crm.staff",
    "SELECT * FROM crm.cards",
    "TABLE public.mine",
    "TABLE mine",
    "SELECT * FROM crm.inbox",
];

/// Classified columns of the attacks' own objects.
pub const TABLES: &str = r#"
[tables."crm.visits"]
person = "customer_id"
of = "crm.customers"
columns = { place = "address" }
[tables."crm.staff"]
person = "customer_id"
of = "crm.customers"
columns = { phone = "phone" }
[tables."crm.cards"]
person = "customer_id"
of = "crm.customers"
columns = { phone = "phone", phones = "location", extra = "location" }
[tables."crm.virtual"]
person = "customer_id"
of = "crm.customers"
columns = { phone = "phone" }
"#;

fn cases() -> Attacks {
    toml::from_str(include_str!("cases/attacks.toml")).unwrap()
}

fn attacked() -> Menshen {
    let server = Postgres::get();
    let database = server.shop();
    server.sql(&database, include_str!("cases/attacks.sql"));
    if server.version() >= 18 {
        server.sql(&database, include_str!("cases/attacks_18.sql"));
    }
    Menshen::on(
        &database,
        &unlimited_policy().replace("[roles.analyst]", &format!("{TABLES}\n[roles.analyst]")),
        "",
    )
}

#[test]
fn no_attack_brings_a_clear_value() {
    let server = Postgres::get();
    let menshen = attacked();
    let cases = cases();
    let mut passed = Vec::new();
    for (login, options) in [("analyst", ""), ("support", CASE), ("intern", "")] {
        let mut raw = menshen.connect(login, options);
        for attack in cases.attacks.iter().filter(|a| server.has(a.since)) {
            for sql in &attack.sql {
                let before = raw.received.len();
                for extended in [false, true] {
                    let answered = try_it(&mut raw, sql, extended, attack.transaction);
                    if attack.refused && answered && login == "analyst" {
                        passed.push(format!("{}: not refused: {sql}", attack.name));
                    }
                }
                // What the attacker wrote may come back in an error's words.
                if let Some(found) = leaks(&raw.received[before..], login, sql).first() {
                    passed.push(format!("{login}, {}: {found:?} leaked by {sql}", attack.name));
                }
            }
            // Whatever was tried, the session still stands and answers.
            raw.simple("ROLLBACK");
            raw.simple("DISCARD ALL");
            assert_eq!(raw.simple("SELECT 1").text(0, 0), "1", "{}", attack.name);
        }
    }
    let these = cases.attacks.iter().filter(|a| server.has(a.since));
    let tried: usize = these.map(|a| a.sql.len()).sum();
    assert!(tried >= if left_out() == 0 { 300 } else { 100 }, "only {tried} attacks");
    assert!(
        passed.is_empty(),
        "{} of {tried} attacks passed\n{}",
        passed.len(),
        passed.join("\n")
    );
    // Nothing has been destroyed either.
    assert_eq!(
        server
            .sql(
                &menshen.database,
                "SELECT count(*) FROM crm.customers WHERE phone NOT LIKE '%*%'"
            )
            .trim(),
        "240"
    );
}

/// Whether it was answered.
fn try_it(raw: &mut Raw, sql: &str, extended: bool, transaction: bool) -> bool {
    if transaction {
        raw.simple("BEGIN");
    }
    // While rows are awaited, a Sync that was already sent counts for nothing.
    let answer = if extended && !sql.contains("FROM STDIN") {
        raw.extended(sql, &[], true)
    } else {
        raw.simple(sql)
    };
    if transaction {
        if answer.error.is_none() {
            for read in READ_BACK {
                raw.simple("SAVEPOINT s");
                raw.simple(read);
                raw.simple("ROLLBACK TO s");
            }
        }
        raw.simple("ROLLBACK");
    }
    answer.error.is_none()
}

#[test]
fn every_known_bypass_is_tried() {
    let cases = cases();
    let sources = [
        include_str!("access.rs"),
        include_str!("attacks.rs"),
        include_str!("canary.rs"),
        include_str!("channel.rs"),
        include_str!("counts.rs"),
        include_str!("faults.rs"),
        include_str!("fuzz.rs"),
        include_str!("generated.rs"),
        include_str!("grants.rs"),
        include_str!("introspection.rs"),
        include_str!("jdbc.rs"),
        include_str!("large.rs"),
        include_str!("../src/guard/tests.rs"),
        include_str!("../src/guard/witness/tests.rs"),
        include_str!("../src/meter/copy.rs"),
        include_str!("../src/session/plans.rs"),
        include_str!("cancel.rs"),
        include_str!("lifecycle.rs"),
        include_str!("limits.rs"),
        include_str!("masks.rs"),
        include_str!("memory.rs"),
        include_str!("modify.rs"),
        include_str!("oracle.rs"),
        include_str!("overtaken.rs"),
        include_str!("people.rs"),
        include_str!("proxied.rs"),
        include_str!("protocol.rs"),
        include_str!("rust_postgres.rs"),
        include_str!("secrets.rs"),
        include_str!("session.rs"),
        include_str!("upstream.rs"),
        include_str!("strings.rs"),
        include_str!("versions.rs"),
        include_str!("sqlsmith.rs"),
        include_str!("timeouts.rs"),
        include_str!("tls.rs"),
        include_str!("tools.rs"),
        include_str!("wire.rs"),
    ];
    let mut covered: BTreeSet<u32> = cases.attacks.iter().flat_map(|a| a.covers.clone()).collect();
    for other in &cases.elsewhere {
        let known = sources.iter().any(|s| s.contains(&format!("fn {}(", other.test)));
        assert!(known || !other.why_not.is_empty(), "bypass {}", other.covers);
        covered.insert(other.covers);
    }
    for promise in &cases.promises {
        assert!(promise.tests.len() + promise.attacks.len() > 0, "{}", promise.name);
        for test in &promise.tests {
            let known = sources.iter().any(|s| s.contains(&format!("fn {test}(")));
            assert!(known, "{}: no test is called {test}", promise.name);
        }
        for attack in &promise.attacks {
            assert!(
                cases.attacks.iter().any(|a| a.name == *attack),
                "{}: no attack {attack}",
                promise.name
            );
        }
    }
    let missing: Vec<u32> = (1..=44).filter(|n| !covered.contains(n)).collect();
    assert!(missing.is_empty(), "nothing tries {missing:?}");
}

/// U&"…" is another spelling of a name. Where the person key is itself masked, the hidden column that holds it is the only place where it is clear.
#[test]
fn hidden_columns_have_no_other_spelling() {
    let by_card = unlimited_policy().replace(
        "[tables.\"crm.customers\"]\nperson = \"id\"",
        "[tables.\"crm.customers\"]\nperson = \"id_card\"",
    );
    assert!(by_card.contains("person = \"id_card\""));
    let menshen = Menshen::with(&by_card, "");
    let clear = Postgres::get().sql(&menshen.database, "SELECT id_card FROM crm.customers WHERE id = 1");
    for (login, options) in [("analyst", ""), ("support", CASE)] {
        let mut raw = menshen.connect(login, options);
        let masked = raw.simple("SELECT id_card FROM crm.customers WHERE id = 1");
        assert!(masked.text(0, 0).contains('*'), "{masked:?}");
        for sql in [
            "SELECT menshen_k1 AS x FROM crm.customers WHERE id = 1",
            "SELECT U&\"menshen\\005fk1\" AS x FROM crm.customers WHERE id = 1",
            "SELECT U&\"menshen!005fk1\" UESCAPE '!' AS x FROM crm.customers WHERE id = 1",
            "SELECT upper(c.U&\"\\006denshen_\\006b1\") FROM crm.customers c WHERE id = 1",
            "SELECT min(U&\"menshen\\005fk1\") FROM crm.customers WHERE id = 1",
            "SELECT (SELECT string_agg(k, ',') FROM (SELECT U&\"menshen\\005fk1\" AS k) q) FROM crm.customers WHERE id = 1",
            "WITH w AS (SELECT U&\"menshen\\005fk1\" AS z FROM crm.customers WHERE id = 1) SELECT * FROM w",
            "SELECT count(*) FROM crm.customers WHERE U&\"menshen\\005fk1\" LIKE '4%'",
            "SELECT id, phone FROM crm.customers ORDER BY U&\"menshen\\005fk1\" LIMIT 1",
            "COPY (SELECT U&\"menshen\\005fk1\" AS z FROM crm.customers WHERE id = 1) TO STDOUT",
            "DECLARE c CURSOR WITH HOLD FOR SELECT U&\"menshen\\005fk1\" AS z FROM crm.customers WHERE id = 1",
            "CREATE TEMP TABLE stolen AS SELECT U&\"menshen\\005fk1\" AS z FROM crm.customers",
            "UPDATE crm.customers SET city = U&\"menshen\\005fk1\" WHERE id = 1",
            "PREPARE p AS SELECT U&\"menshen\\005fk1\" AS x FROM crm.customers WHERE id = 1",
        ] {
            let refused = raw.simple(sql).error;
            assert!(
                refused.as_ref().is_some_and(|(state, _)| state == "0A000"),
                "{login}: {sql}: {refused:?}"
            );
        }
        let said = String::from_utf8_lossy(&raw.received).into_owned();
        assert!(!said.contains(clear.trim()));
        // A literal is no name.
        assert_eq!(
            raw.simple("SELECT id FROM crm.customers WHERE city = U&'menshen\\005fk1'")
                .error,
            None
        );
    }
}
