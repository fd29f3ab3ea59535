//! What the walk says of forms that the catalogs of the tests do not let through, and of limits.

use super::*;
use crate::meter::KeyShape;

/// Forms of PostgreSQL 16 and later, which no older server's catalog lets through to the walk.
#[test]
fn sql_json_packs_people_as_other_aggregates_do() {
    let look = look(true);
    let refused = |sql: &str| edited(&look, sql).is_err_and(|why| why.contains("could not be counted"));
    for sql in [
        "SELECT (SELECT JSON_ARRAYAGG(c.phone)) FROM crm.customers c",
        "SELECT (SELECT JSON_OBJECTAGG(c.id: c.phone)) FROM crm.customers c",
        "SELECT JSON_ARRAY(SELECT phone FROM crm.customers)",
        "SELECT id, JSON_ARRAY(SELECT body FROM crm.messages m WHERE m.customer_id = c.id) FROM crm.customers c",
        "SELECT JSON_ARRAYAGG((SELECT JSON_ARRAY(SELECT c.phone FROM crm.customers c))) FROM crm.products",
    ] {
        assert!(refused(sql), "{sql}: {:?}", edited(&look, sql));
    }
    let hidden = |sql: &str| edited(&look, sql).unwrap_or_else(|why| panic!("{sql}: {why}")).1;
    for sql in [
        "SELECT id FROM crm.products p WHERE JSON_ARRAY(SELECT name FROM crm.products) IS NULL",
        "SELECT (SELECT JSON_ARRAYAGG(c.grade)) FROM crm.customers c",
        "SELECT JSON_ARRAY(SELECT grade FROM crm.customers)",
    ] {
        assert!(hidden(sql).is_empty(), "{sql}");
    }
    for (sql, shape) in [
        ("SELECT JSON_ARRAYAGG(phone) FROM crm.customers", KeyShape::List),
        (
            "SELECT (SELECT JSON_ARRAYAGG(c.phone || p.name) FROM crm.products p) FROM crm.customers c",
            KeyShape::One,
        ),
        (
            "SELECT JSON_ARRAYAGG((SELECT c.phone FROM crm.customers c WHERE c.id = p.id)) FROM crm.products p",
            KeyShape::Count,
        ),
        (
            "SELECT JSON_OBJECTAGG(p.id: (SELECT c.phone FROM crm.customers c WHERE c.id = p.id)) FROM crm.products p",
            KeyShape::Count,
        ),
        (
            "SELECT id FROM crm.products WHERE JSON_ARRAY(SELECT phone FROM crm.customers) IS NOT NULL AND (SELECT 1 FROM crm.customers WHERE phone = '1') = 1",
            KeyShape::List,
        ),
    ] {
        let shapes: Vec<KeyShape> = hidden(sql).into_iter().map(|h| h.1).collect();
        assert_eq!(shapes, [shape], "{sql}");
    }
}

/// Where nothing is counted (a view's definition is read so), people whom nobody can name are told instead of refused.
#[test]
fn sql_json_over_a_query_tells_of_its_people() {
    let look = Look {
        metered: false,
        ..look(true)
    };
    let many = |sql: &str| {
        let parsed = parse::parse(sql).unwrap();
        let walked = Walk::query(&look, &parsed, parsed.statements[0].field("stmt"), People::Named);
        let (_, output) = walked.unwrap_or_else(|_| panic!("{sql}"));
        output.loose.get((0, 0))
    };
    // One array holds them all.
    assert_eq!(
        many("SELECT JSON_ARRAY(SELECT phone FROM crm.customers)"),
        Some(Many::Any)
    );
    assert_eq!(many("SELECT JSON_ARRAY(SELECT grade FROM crm.customers)"), None);
}

/// An aggregate over a sub-query that names no column is one of its own level, whatever the sub-query shows.
#[test]
fn sql_json_over_a_query_without_names_is_of_its_own_level() {
    let look = look(true);
    for sql in [
        "SELECT JSON_ARRAYAGG((TABLE crm.phones)) FROM crm.products",
        "SELECT max((TABLE crm.phones)) FROM crm.products",
    ] {
        let shapes: Vec<KeyShape> = match edited(&look, sql) {
            Ok((_, hidden, _)) => hidden.into_iter().map(|h| h.1).collect(),
            Err(why) => panic!("{sql}: {why}"),
        };
        assert_eq!(shapes, [KeyShape::Count], "{sql}");
    }
}

#[test]
fn what_is_nested_too_deep_is_refused_and_nothing_before_it() {
    let queries = |n: usize| {
        let (open, close) = ("SELECT phone FROM (".repeat(n - 1), ") s".repeat(n - 1));
        edited(&look(true), &format!("{open}SELECT phone FROM crm.customers{close}"))
    };
    let operators = |n: usize| {
        edited(
            &look(true),
            &format!("SELECT phone{} FROM crm.customers", " || grade".repeat(n)),
        )
    };
    let refused = |e: Result<Edited, String>| e.is_err_and(|why| why.contains("nested more than"));
    let deep = std::thread::Builder::new().stack_size(512 << 20);
    let tried = deep.spawn(move || {
        assert!(queries(200).is_ok(), "{:?}", queries(200));
        assert!(refused(queries(201)));
        // The statement's query and the last operator's sides are levels of their own.
        assert!(operators(798).is_ok(), "{:?}", operators(798));
        assert!(refused(operators(799)));
    });
    tried.unwrap().join().unwrap();
}
