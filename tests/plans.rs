//! What the server makes of an edited text: masks stand in the way of no index, and cost nothing where they are not used.

use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::{Menshen, Postgres};
use crate::oracle::EARLY;

/// Login, options, a query, and the scans that its plan must have where sequential scans are dear.
const QUERIES: [(&str, &str, &str, &[&str]); 6] = [
    (
        "analyst",
        "",
        "SELECT phone, name FROM crm.customers WHERE id = 3",
        &["Index Scan using customers_pkey"],
    ),
    (
        "analyst",
        "",
        "SELECT c.phone, o.item FROM crm.orders o JOIN crm.customers c ON c.id = o.customer_id WHERE o.id = 5",
        &["Index Scan using orders_pkey", "Index Scan using customers_pkey"],
    ),
    (
        "analyst",
        "",
        "SELECT upper(phone) FROM crm.customers ORDER BY id LIMIT 3",
        &["Index Scan using customers_pkey"],
    ),
    (
        "analyst",
        "",
        "SELECT phone FROM (SELECT * FROM crm.customers) x WHERE id BETWEEN 3 AND 5",
        &["Index Scan using customers_pkey"],
    ),
    (
        "support",
        CASE,
        "SELECT phone FROM crm.customers WHERE id = 3",
        &["Index Scan using customers_pkey"],
    ),
    (
        "support",
        CASE,
        "SELECT phone FROM crm.customers WHERE grade = 'gold' AND city = 'x'",
        &["Index Scan using customers_grade"],
    ),
];

#[test]
fn masks_and_row_filters_leave_indexes_and_unused_columns_alone() {
    let server = Postgres::get();
    let database = server.shop();
    server.sql(&database, "CREATE INDEX customers_grade ON crm.customers (grade)");
    for config in ["", EARLY] {
        let menshen = Menshen::on(&database, &unlimited_policy(), config);
        for (n, (login, options, sql, scans)) in QUERIES.iter().enumerate() {
            let mut raw = menshen.connect(login, options);
            assert_eq!(raw.simple("SET enable_seqscan = off").error, None);
            let mark = format!("/* plans {n} {} */", config.len());
            let answer = raw.simple(&format!("{sql} {mark}"));
            assert_eq!(answer.error, None, "{sql}");
            // The text that came to the server, in its own words.
            let log = std::fs::read(&server.log).unwrap();
            let log = String::from_utf8_lossy(&log).into_owned();
            let line = log.lines().find(|l| l.contains(&mark)).unwrap();
            let edited = &line[line.find("SELECT").unwrap()..];
            assert_ne!(edited.trim(), format!("{sql} {mark}"), "not edited");
            let plan = server.sql(
                &database,
                &format!(
                    "SET enable_seqscan = off; SET search_path = crm, public; EXPLAIN (VERBOSE, COSTS off) {edited}"
                ),
            );
            for scan in *scans {
                assert!(plan.contains(scan), "{config} {sql}:\n{edited}\n{plan}");
            }
            // Columns may be carried along; masks of columns that are not used are not computed.
            for wasted in [
                "Seq Scan",
                "Sort",
                "Subquery Scan",
                "date_trunc",
                "substring(",
                "(m.id_card",
                "(m_1.id_card",
            ] {
                assert!(!plan.contains(wasted), "{config} {sql}, {wasted}:\n{edited}\n{plan}");
            }
        }
    }
}
