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

/// Nasty texts: of every length that masks tell apart, of letters of one to four bytes, with what masks look for.
fn texts() -> Vec<String> {
    let parts = [
        "",
        "a",
        "é",
        "张",
        "欧阳",
        "司马",
        "𠀀",
        "🙂",
        "@",
        " ",
        "  ",
        "\n",
        "\t",
        "1",
        "13912345678",
        "ab@cd",
        "x\u{301}",
        "\u{3400}",
        "\u{9fff}",
        "\u{a000}",
        "'",
        "\\",
        "%",
        "三丰",
        "John",
        "\u{ad}",
        "\u{200d}",
        "\u{feff}",
    ];
    let mut texts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    let mut state = 7_u64;
    let mut random = |n: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % n
    };
    for _ in 0..3_000 {
        let count = random(9);
        texts.push((0..count).map(|_| parts[random(parts.len())]).collect());
    }
    texts
}

#[test]
fn what_menshen_masks_itself_is_what_the_server_would_make_of_it() {
    use menshen::mask::LateMask;
    let texts = texts();
    let literals: Vec<String> = texts
        .iter()
        .map(|t| format!("'{}'", t.replace('\'', "''")))
        .chain(["NULL".to_owned()])
        .collect();
    for (type_sql, oid) in [
        ("text", 25),
        ("character varying(7)", 1043),
        ("character varying", 1043),
    ] {
        let column = column(type_sql, oid, 'S');
        for mask in [
            "null",
            "full",
            "constant(gone away)",
            "constant(他走了)",
            "keep(3, 4)",
            "keep(0, 2)",
            "keep(2, 0)",
            "keep(0, 0)",
            "keep(1, 1)",
            "id_card",
            "bank_card",
            "name",
            "email",
            "phone",
        ] {
            let spec = mask.parse().unwrap();
            let sql = expression(&spec, &column, "m.v", &token()).unwrap();
            let text = Postgres::get().sql(
                "shop",
                &format!(
                    "SELECT coalesce(encode(convert_to(({sql})::text, 'UTF8'), 'hex'), 'NULL') || ' ' || coalesce(encode(convert_to(m.v, 'UTF8'), 'hex'), 'NULL') \
                     FROM (VALUES {}) AS w(n, t), LATERAL (SELECT w.t::{type_sql}) AS m(v) ORDER BY n;",
                    literals.iter().enumerate().map(|(n, l)| format!("({n}, {l})")).collect::<Vec<_>>().join(", ")
                ),
            );
            let late = LateMask::of(&spec, &column).unwrap();
            let mut compared = 0;
            for line in text.lines() {
                let (theirs, stored) = line.split_once(' ').unwrap();
                let stored = (stored != "NULL").then(|| hex::decode(stored).unwrap());
                let mut out = bytes::BytesMut::from(&b"before"[..]);
                late.column(stored.as_deref(), &mut out).unwrap();
                let column = out.strip_prefix(b"before").unwrap();
                let ours = match i32::from_be_bytes(column[..4].try_into().unwrap()) {
                    -1 => "NULL".to_owned(),
                    length => {
                        assert_eq!(usize::try_from(length).unwrap(), column.len() - 4);
                        hex::encode(&column[4..])
                    }
                };
                assert_eq!(ours, theirs, "{mask} of {stored:?} as {type_sql}");
                compared += 1;
            }
            assert_eq!(compared, literals.len(), "{mask}");
        }
    }
    // What only the server does.
    for (mask, type_sql, oid, category) in [
        ("token", "text", 25, 'S'),
        ("address(city)", "text", 25, 'S'),
        ("year", "text", 25, 'S'),
        ("full", "integer", 23, 'N'),
        ("keep(1, 1)", "character(9)", 1042, 'S'),
        ("keep(1, 1)", "name", 19, 'S'),
    ] {
        assert!(
            LateMask::of(&mask.parse().unwrap(), &column(type_sql, oid, category)).is_none(),
            "{mask} of {type_sql}"
        );
    }
    let domain = Column {
        type_oid: 20_000,
        ..column("text", 25, 'S')
    };
    assert!(LateMask::of(&"full".parse().unwrap(), &domain).is_none());
    let keep = LateMask::of(&"keep(1, 1)".parse().unwrap(), &column("text", 25, 'S')).unwrap();
    assert!(keep.column(Some(b"\xff\xfe"), &mut bytes::BytesMut::new()).is_err());
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
