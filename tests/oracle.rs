//! The masked-copy oracle (DESIGN §1): what a caller receives through Menshen is what they would receive from a database that
//! physically contains only what they may see. The copy is masked by formulas of its own, not by Menshen's.

use std::collections::BTreeMap;

use menshen::cli::demo::data;
use serde::Deserialize;

use crate::harness::canary::leaks;
use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::raw::Answer;
use crate::harness::{Menshen, Postgres, Raw};

#[derive(Deserialize)]
struct Theme {
    /// First major version of PostgreSQL that has what they use.
    #[serde(default)]
    since: u32,
    #[serde(default)]
    ordered: Vec<String>,
    #[serde(default)]
    unordered: Vec<String>,
}

/// Login, options, and SQL that makes a copy hold only what the role may see.
pub const ROLES: [(&str, &str, &str, bool); 3] = [
    (
        "analyst",
        "",
        "UPDATE crm.customers SET name = NAME_MASK, phone = PHONE_MASK, email = left(email, 1) || '***' || regexp_replace(email, '^[^@]*', ''),
             address = CASE WHEN address LIKE '%市%' THEN regexp_replace(address, '市.*$', '市***') ELSE '***' END;
         OTHERS",
        true,
    ),
    ("support", CASE, "DELETE FROM crm.customers WHERE NOT (grade <> 'vip+'); OTHERS", true),
    ("dba", "", "", false),
];

const NAME_MASK: &str = "CASE WHEN name ~ '^[A-Za-z]' THEN (SELECT string_agg(left(w, 1) || '***', ' ' ORDER BY n) FROM regexp_split_to_table(name, ' ') WITH ORDINALITY AS p(w, n))
    WHEN name ~ '^(欧阳|司马|诸葛)' THEN left(name, 2) || repeat('*', length(name) - 2) ELSE left(name, 1) || repeat('*', length(name) - 1) END";
const PHONE_MASK: &str = "overlay(phone PLACING '****' FROM length(phone) - 7 FOR 4)";
const OTHERS: &str = "UPDATE crm.customers SET id_card = left(id_card, 1) || repeat('*', length(id_card) - 2) || right(id_card, 1),
        birth = make_date(extract(year FROM birth)::int, 1, 1);
    UPDATE crm.customer_locations SET lat = NULL, lon = NULL;
    UPDATE crm.messages SET body = '***';
    UPDATE crm.transactions SET bank_card = repeat('*', length(bank_card) - 4) || right(bank_card, 4), amount = div(amount, 1000) * 1000;
    UPDATE crm.orders SET total = div(total, 1000) * 1000;";

#[test]
fn answers_are_those_of_a_masked_copy() {
    answers("");
}

#[test]
fn answers_are_those_of_a_masked_copy_where_the_server_makes_every_mask() {
    answers(EARLY);
}

/// Every mask is SQL.
pub const EARLY: &str = "[plans]\nlate_masking = false";

fn answers(config: &str) {
    let themes: BTreeMap<String, Theme> = toml::from_str(include_str!("cases/select.toml")).unwrap();
    let shapes: usize = themes.values().map(|t| t.ordered.len() + t.unordered.len()).sum();
    assert!(shapes >= 150, "only {shapes} shapes");
    let server = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), config);
    let mut failures = Vec::new();
    for (login, options, masking, masked) in ROLES {
        let copy = masked_copy(masking);
        let mut through = menshen.connect(login, options);
        let mut direct = Raw::connect(server.port, &copy, login, &data::password(login), "").unwrap();
        for (theme, cases) in themes.iter().filter(|(_, t)| t.since <= server.version()) {
            let all = cases
                .ordered
                .iter()
                .map(|c| (c, true))
                .chain(cases.unordered.iter().map(|c| (c, false)));
            for (sql, ordered) in all {
                for mode in ["simple", "extended text", "extended binary"] {
                    let ask = |raw: &mut Raw| match mode {
                        "simple" => raw.simple(sql),
                        "extended text" => raw.extended(sql, &[], false),
                        _ => raw.extended(sql, &[], true),
                    };
                    let (got, wanted) = (ask(&mut through), ask(&mut direct));
                    if let Some(why) = difference(&got, &wanted, ordered).or_else(|| other_origins(sql, &got, &wanted))
                    {
                        failures.push(format!("{login}, {theme}, {mode}: {sql}\n    {why}"));
                        break;
                    }
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
        "{} of {} failed\n{}",
        failures.len(),
        shapes * 3,
        failures.join("\n")
    );
}

/// A shop that physically holds only what a role may see.
pub fn masked_copy(masking: &str) -> String {
    let copy = Postgres::get().shop();
    mask(&copy, masking);
    copy
}

/// Makes a shop hold only what a role may see.
pub fn mask(copy: &str, masking: &str) {
    let masking = masking
        .replace("NAME_MASK", NAME_MASK)
        .replace("PHONE_MASK", PHONE_MASK)
        .replace("OTHERS", OTHERS);
    Postgres::get().sql(copy, &masking);
}

/// What is not the same. Anonymous records stand for row types, and texts of errors are not compared.
pub fn difference(got: &Answer, wanted: &Answer, ordered: bool) -> Option<String> {
    if got.sqlstate() != wanted.sqlstate() {
        return Some(format!("error {:?} instead of {:?}", got.error, wanted.error));
    }
    if got.error.is_some() {
        return (got.status != wanted.status).then(|| "another transaction status".to_owned());
    }
    let names = |a: &Answer| a.columns.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    if names(got) != names(wanted) {
        return Some(format!("columns {:?} instead of {:?}", names(got), names(wanted)));
    }
    for ((name, a), (_, b)) in got.columns.iter().zip(&wanted.columns) {
        if a != b && *a != 2249 && *a != 2287 {
            return Some(format!("column {name} has type {a} instead of {b}"));
        }
    }
    if got.modifiers != wanted.modifiers {
        return Some(format!(
            "lengths and modifiers of types {:?} instead of {:?}",
            got.modifiers, wanted.modifiers
        ));
    }
    if got.tag != wanted.tag {
        return Some(format!("tag {} instead of {}", got.tag, wanted.tag));
    }
    let (mut a, mut b) = (got.rows.clone(), wanted.rows.clone());
    if !ordered {
        a.sort();
        b.sort();
    }
    if a != b {
        let at = a
            .iter()
            .zip(&b)
            .position(|(x, y)| x != y)
            .unwrap_or(a.len().min(b.len()));
        let show = |rows: &[Vec<Option<Vec<u8>>>]| {
            rows.get(at).map(|r| {
                r.iter()
                    .map(|c| c.as_ref().map(|c| String::from_utf8_lossy(c).into_owned()))
                    .collect::<Vec<_>>()
            })
        };
        return Some(format!(
            "{} rows, {} wanted; row {at}: {:?} instead of {:?}",
            a.len(),
            b.len(),
            show(&a),
            show(&b)
        ));
    }
    None
}

/// Where RowDescription names other tables and columns. Fields of whole rows have no name of a mask, and tables that the tests
/// made have other numbers on the copy: that they are named is compared, and the column.
pub fn other_origins(sql: &str, got: &Answer, wanted: &Answer) -> Option<String> {
    let named = |a: &Answer| -> Vec<(bool, i16)> {
        // Rows as a whole are of an anonymous type.
        a.origins.iter().map(|(t, c)| (*t != 0 && *c != 0, *c)).collect()
    };
    (!sql.contains(").") && got.error.is_none() && named(got) != named(wanted))
        .then(|| format!("columns are {:?} instead of {:?}", got.origins, wanted.origins))
}

#[test]
fn a_role_that_may_see_nothing_is_refused_by_name_and_gets_the_rest() {
    let menshen = Menshen::demo();
    let mut intern = menshen.connect("intern", "");
    assert_eq!(intern.simple("SELECT phone FROM crm.customers").sqlstate(), "42501");
    assert_eq!(intern.simple("SELECT * FROM crm.customers").sqlstate(), "42501");
    assert_eq!(
        intern.extended("SELECT c FROM crm.customers c", &[], true).sqlstate(),
        "42501"
    );
    assert_eq!(
        intern
            .simple("SELECT id FROM crm.customers WHERE name = 'x'")
            .sqlstate(),
        "42501"
    );
    assert_eq!(
        intern
            .simple("SELECT id, grade FROM crm.customers WHERE id < 4")
            .rows
            .len(),
        3
    );
    let mut stranger = Raw::connect(menshen.port, &menshen.database, "stranger", "regnarts", "").unwrap();
    assert_eq!(stranger.simple("SELECT id FROM crm.customers").sqlstate(), "42501");
    assert_eq!(stranger.simple("SELECT id FROM crm.products").error, None);
}
