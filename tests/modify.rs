//! Data modifications, COPY and cursors against the masked copy: the same statements, in a transaction that is rolled back; the
//! answers are the same, and so is everything that can be read afterwards.

use std::collections::BTreeMap;

use menshen::cli::demo::data;
use serde::Deserialize;

use crate::harness::canary::leaks;
use crate::harness::menshen::unlimited_policy;
use crate::harness::raw::Answer;
use crate::harness::{Menshen, Postgres, Raw};
use crate::oracle::{ROLES, difference, masked_copy, other_origins};

#[derive(Deserialize)]
struct Case {
    /// Statements of one transaction. Data for COPY FROM STDIN stands behind a line `----`.
    sql: Vec<String>,
    /// First major version of PostgreSQL that has what they use.
    #[serde(default)]
    since: u32,
    /// Rows come in an order of their own.
    #[serde(default)]
    unordered: bool,
    /// Roles for which this is refused or another answer is right; they are left out.
    #[serde(default)]
    not: Vec<String>,
}

const TABLES: [&str; 6] = [
    "customers",
    "customer_locations",
    "messages",
    "transactions",
    "orders",
    "products",
];

#[test]
fn modifications_copies_and_cursors_are_those_of_a_masked_copy() {
    let themes: BTreeMap<String, Vec<Case>> = toml::from_str(include_str!("cases/modify.toml")).unwrap();
    let server = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut failures = Vec::new();
    for (login, options, masking, masked) in ROLES {
        let copy = masked_copy(masking);
        let mut through = menshen.connect(login, options);
        let mut direct = Raw::connect(server.port, &copy, login, &data::password(login), "").unwrap();
        for (theme, case) in themes.iter().flat_map(|(t, cases)| cases.iter().map(move |c| (t, c))) {
            if !server.has(case.since) || case.not.iter().any(|n| n == login) {
                continue;
            }
            for mode in ["simple", "extended text", "extended binary"] {
                if let Some(why) = compare(&mut through, &mut direct, case, mode) {
                    failures.push(format!("{login}, {theme}, {mode}: {why}"));
                    through.simple("ROLLBACK");
                    direct.simple("ROLLBACK");
                    break;
                }
            }
        }
        if masked {
            let leaks = leaks(&through.received, login, "");
            assert!(leaks.is_empty(), "{login} received clear values: {leaks:?}");
        }
    }
    assert!(
        failures.is_empty(),
        "{} failed\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn compare(through: &mut Raw, direct: &mut Raw, case: &Case, mode: &str) -> Option<String> {
    through.simple("BEGIN");
    direct.simple("BEGIN");
    let mut failed = false;
    for sql in &case.sql {
        let (got, wanted) = (ask(through, sql, mode), ask(direct, sql, mode));
        if let Some(why) = difference(&got, &wanted, !case.unordered).or_else(|| other_origins(sql, &got, &wanted)) {
            return Some(format!("{sql}\n    {why}"));
        }
        failed |= wanted.error.is_some();
    }
    for table in TABLES.iter().filter(|_| !failed) {
        let sql = format!("SELECT * FROM crm.{table} ORDER BY id");
        let (got, wanted) = (through.simple(&sql), direct.simple(&sql));
        if let Some(why) = difference(&got, &wanted, true) {
            return Some(format!("{:?}\n    leaves another state: {why}", case.sql));
        }
    }
    through.simple("ROLLBACK");
    direct.simple("ROLLBACK");
    None
}

fn ask(raw: &mut Raw, sql: &str, mode: &str) -> Answer {
    let (sql, data) = sql.split_once("\n----\n").unwrap_or((sql, ""));
    raw.copy_data = data.to_owned();
    match mode {
        "extended text" if data.is_empty() => raw.extended(sql, &[], false),
        "extended binary" if data.is_empty() => raw.extended(sql, &[], true),
        _ => raw.simple(sql),
    }
}

#[test]
fn a_materialized_view_is_copied_where_the_server_does() {
    let server = Postgres::get();
    let database = server.shop();
    server.sql(
        &database,
        "CREATE MATERIALIZED VIEW crm.kept AS SELECT id, phone FROM crm.customers; GRANT SELECT ON crm.kept TO PUBLIC",
    );
    let menshen = Menshen::on(&database, &unlimited_policy(), "");
    let mut analyst = menshen.connect("analyst", "");
    let copied = analyst.simple("COPY crm.kept (phone) TO STDOUT");
    if server.version() < 18 {
        assert_eq!(copied.sqlstate(), "42809");
    } else {
        assert_eq!((copied.error.clone(), copied.rows.len()), (None, 240));
        assert!((0..240).all(|row| copied.text(row, 0).contains("****")), "{copied:?}");
    }
}
