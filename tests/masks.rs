//! Masks as PostgreSQL computes them: expected values, no errors on nasty input, types kept, tokens that agree with HMAC.

use hmac::{Hmac, KeyInit, Mac};
use menshen::catalog::Column;
use menshen::mask::{TokenSettings, expression, token_pads};

use crate::harness::Postgres;

fn column(type_sql: &str, oid: u32, category: char) -> Column {
    Column {
        attnum: 1,
        name: "v".into(),
        type_oid: oid,
        type_sql: type_sql.into(),
        base_type_sql: type_sql.into(),
        base_type_oid: oid,
        category,
        not_null: false,
        generation: None,
        assign_type_sql: type_sql.into(),
    }
}

fn token() -> TokenSettings {
    TokenSettings {
        inner: "menshen.ktesti".into(),
        outer: "menshen.ktesto".into(),
    }
}

/// Masked values of a list of SQL values of a type.
fn masked(mask: &str, column: &Column, values: &[&str]) -> Vec<String> {
    let sql = expression(&mask.parse().unwrap(), column, "m.v", &token()).unwrap();
    let (inner, outer) = token_pads(&[9; 32]);
    let rows: Vec<String> = values.iter().map(|v| format!("({v}::{})", column.type_sql)).collect();
    let server = Postgres::get();
    let text = server.sql(
        "shop",
        &format!(
            "SET menshen.ktesti = '{inner}'; SET menshen.ktesto = '{outer}'; SET search_path = pg_catalog;\n\
             SELECT coalesce(({sql})::text, 'NULL') || CASE WHEN pg_typeof({sql}) = pg_typeof(m.v) THEN '' ELSE ' OTHER TYPE' END \
             FROM (VALUES {}) AS m(v);",
            rows.join(", ")
        ),
    );
    text.lines().map(str::to_owned).collect()
}

#[test]
fn masks_give_the_values_they_promise() {
    let text = column("text", 25, 'S');
    for (mask, input, wanted) in [
        ("keep(3, 4)", "'13912345678'", "139****5678"),
        ("keep(3, 4)", "'1234567'", "*******"),
        ("keep(0, 2)", "'abc'", "*bc"),
        ("keep(2, 0)", "'abc'", "ab*"),
        ("name", "'张三丰'", "张**"),
        ("name", "'欧阳修'", "欧阳*"),
        ("name", "'欧阳'", "欧*"),
        ("name", "'John Smith'", "J*** S***"),
        ("phone", "'13912345678'", "139****5678"),
        ("phone", "'+8613912345678'", "+86139****5678"),
        ("phone", "'010-12345678'", "010-****5678"),
        ("phone", "'8881234'", "*****34"),
        ("phone", "'110'", "***"),
        ("email", "'li.lei@example.com'", "l***@example.com"),
        ("email", "'nonsense'", "***"),
        ("id_card", "'11010519491231002X'", "1****************X"),
        ("bank_card", "'6222026006705354217'", "***************4217"),
        ("address(province)", "'广东省深圳市南山区科技路1号'", "广东省***"),
        ("address(city)", "'广东省深圳市南山区科技路1号'", "广东省深圳市***"),
        (
            "address(district)",
            "'广东省深圳市南山区科技路1号'",
            "广东省深圳市南山区***",
        ),
        ("address(city)", "'北京市东城区长安街1号'", "北京市***"),
        ("address(city)", "'12 High Street'", "***"),
        ("full", "'anything'", "***"),
        ("constant(gone)", "'x'", "gone"),
        ("year", "'1990-05-06'", "1990"),
        ("null", "'x'", "NULL"),
    ] {
        assert_eq!(masked(mask, &text, &[input]), [wanted], "{mask} of {input}");
    }
    assert_eq!(
        masked("keep(1, 1)", &column("character varying(5)", 1043, 'S'), &["'abcde'"]),
        ["a***e"]
    );
    assert_eq!(
        masked("bucket(1000)", &column("integer", 23, 'N'), &["1999", "-1", "0"]),
        ["1000", "-1000", "0"]
    );
    assert_eq!(
        masked("bucket(10)", &column("numeric(6,2)", 1700, 'N'), &["123.45"]),
        ["120.00"]
    );
    assert_eq!(
        masked("month", &column("date", 1082, 'D'), &["'1990-05-06'"]),
        ["1990-05-01"]
    );
}

#[test]
fn no_mask_raises_an_error_or_changes_the_type_on_any_value() {
    let texts = [
        "NULL",
        "''",
        "'a'",
        "'张'",
        "'👩‍👩‍👧 x'",
        "repeat('长', 3000)",
        "'@'",
        "'a@'",
        "E'\\t\\\\1'",
        "'省市区'",
        "'   '",
        "'%_('",
    ];
    let dates = [
        "NULL",
        "'infinity'",
        "'-infinity'",
        "'0001-01-01'",
        "'4713-01-01 BC'",
        "'5874897-12-31'",
        "'1990-02-28'",
    ];
    let stamps = [
        "NULL",
        "'infinity'",
        "'-infinity'",
        "'4713-01-01 BC'",
        "'294276-12-31'",
        "'1990-02-28 10:00'",
    ];
    let cases: [(&str, u32, char, &[&str]); 11] = [
        ("text", 25, 'S', &texts),
        (
            "character varying(30)",
            1043,
            'S',
            &["NULL", "''", "'张三'", "'abcdefghijklmnopqrstuvwxyzabcd'"],
        ),
        (
            "character(30)",
            1042,
            'S',
            &["NULL", "''", "'张三'", "'abcdefghijklmnopqrstuvwxyzabcd'"],
        ),
        (
            "bigint",
            20,
            'N',
            &["NULL", "0", "'-9223372036854775808'", "9223372036854775807"],
        ),
        ("integer", 23, 'N', &["NULL", "'-2147483648'", "2147483647"]),
        (
            "numeric(12,2)",
            1700,
            'N',
            &["NULL", "'-9999999999.99'", "9999999999.99", "'NaN'"],
        ),
        ("numeric", 1700, 'N', &["NULL", "'NaN'", "'Infinity'", "1e100"]),
        (
            "double precision",
            701,
            'N',
            &["NULL", "'NaN'", "'Infinity'", "'-Infinity'", "1e308", "'-1.7e308'"],
        ),
        ("date", 1082, 'D', &dates),
        ("timestamp with time zone", 1184, 'D', &stamps),
        ("uuid", 2950, 'U', &["NULL", "'00000000-0000-0000-0000-00000000000f'"]),
    ];
    let masks = [
        "null",
        "full",
        "keep(3, 4)",
        "keep(0, 0)",
        "name",
        "email",
        "phone",
        "id_card",
        "bank_card",
        "address(province)",
        "address(city)",
        "address(district)",
        "year",
        "month",
        "bucket(7)",
        "bucket(1000000000000)",
        "token",
    ];
    let mut tried = 0;
    for (ty, oid, category, values) in cases {
        let column = column(ty, oid, category);
        for mask in masks {
            if expression(&mask.parse().unwrap(), &column, "m.v", &token()).is_err() {
                continue;
            }
            let got = masked(mask, &column, values);
            tried += 1;
            assert_eq!(got.len(), values.len(), "{mask} on {ty}");
            assert!(!got.iter().any(|g| g.contains("OTHER TYPE")), "{mask} on {ty}: {got:?}");
            assert_eq!(got[0], "NULL", "{mask} on {ty} of NULL");
        }
    }
    assert!(tried > 70, "{tried}");
}

#[test]
fn a_token_is_the_keyed_hash_of_the_value() {
    let got = masked("token", &column("text", 25, 'S'), &["'13912345678'", "'张三'"]);
    for (value, token) in ["13912345678", "张三"].iter().zip(got) {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&[9; 32]).unwrap();
        mac.update(value.as_bytes());
        assert_eq!(
            token,
            format!("tok_{}", &hex::encode(mac.finalize().into_bytes())[..24])
        );
    }
}
