//! Ways round that rivals fell to, tried on the bytes: `cases/attacks.toml`.

use serde::Deserialize;

use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Postgres};
use crate::oracle::leaks;

#[derive(Deserialize)]
struct Attacks {
    attacks: Vec<Attack>,
}

#[derive(Deserialize)]
struct Attack {
    name: String,
    #[serde(default)]
    refused: bool,
    sql: Vec<String>,
}

const FUNCTIONS: &str = "
    CREATE FUNCTION peek_phone(n bigint) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT phone FROM crm.customers WHERE id = n';
    CREATE FUNCTION peek_dynamic(n bigint) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS
        $$ DECLARE r text; BEGIN EXECUTE 'SELECT ph' || 'one FROM crm.cust' || 'omers WHERE id = ' || n INTO r; RETURN r; END $$;
    CREATE FUNCTION peek_twice(n bigint) RETURNS text LANGUAGE sql AS 'SELECT peek_phone(n)';";

#[test]
fn no_attack_brings_a_clear_value() {
    let server = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), "");
    server.sql(&menshen.database, FUNCTIONS);
    server.sql(&menshen.database, "ANALYZE");
    let cases: Attacks = toml::from_str(include_str!("cases/attacks.toml")).unwrap();
    let mut raw = menshen.connect("analyst", "");
    let mut passed = Vec::new();
    for attack in &cases.attacks {
        for sql in &attack.sql {
            let before = raw.received.len();
            for extended in [false, true] {
                let answer = if extended {
                    raw.extended(sql, &[], true)
                } else {
                    raw.simple(sql)
                };
                if attack.refused && answer.error.is_none() {
                    passed.push(format!("{}: not refused: {sql}", attack.name));
                }
            }
            let found = leaks(&raw.received[before..], server, &menshen.database, "analyst");
            // What the attacker wrote may come back in an error's words.
            if let Some(value) = found.iter().find(|v| !sql.contains(v.as_str())) {
                passed.push(format!("{}: {value} leaked by {sql}", attack.name));
            }
        }
    }
    assert!(
        passed.is_empty(),
        "{} attacks passed\n{}",
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
