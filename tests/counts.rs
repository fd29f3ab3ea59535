//! Attacks on the count that must not succeed: more people received than the ledger holds, by packing, by odd orders of messages, by
//! sessions side by side, by ends in mid-stream.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;

use crate::harness::menshen::demo_policy;
use crate::harness::raw::Answer;
use crate::harness::{Menshen, Postgres, Raw};

/// The demo's policy with a line of 100 people: the 100th is not shown.
fn small_line() -> String {
    demo_policy().replace("stop_at = 1.0 ", "stop_at = 0.04 ")
}

const LINE: usize = 99;

type People = BTreeSet<Vec<u8>>;

/// The people of an answer whose first column is `customers.id` and whose second is clear.
fn people(answer: &Answer) -> People {
    answer.rows.iter().filter_map(|r| r[0].clone()).collect()
}

/// Takes whatever the limit still allows: then all that was received is what was charged.
fn drain(raw: &mut Raw, received: &mut People) {
    let rest = raw.simple("SELECT id, phone FROM crm.customers ORDER BY id DESC");
    assert_eq!(rest.sqlstate(), "53400");
    received.extend(people(&rest));
}

/// Whether clear phone numbers stand in what was received.
fn shows_phones(raw: &Raw) -> bool {
    let mut digits = 0;
    raw.received.iter().any(|b| {
        digits = if b.is_ascii_digit() { digits + 1 } else { 0 };
        digits == 11
    })
}

const PACKED: [&str; 30] = [
    "SELECT string_agg(phone, ',' ORDER BY id) FROM crm.customers",
    "SELECT array_agg(phone) FROM crm.customers",
    "SELECT (array_agg(phone))[1:200] FROM crm.customers",
    "SELECT jsonb_object_agg(id, phone) FROM crm.customers",
    "SELECT json_agg(c)::text FROM crm.customers c",
    "SELECT array_agg(c)::text FROM crm.customers c",
    "SELECT xmlagg(xmlelement(name p, phone)) FROM crm.customers",
    "SELECT range_agg(int8range(substr(phone, 1, 11)::int8, substr(phone, 1, 11)::int8 + 1)) FROM crm.customers WHERE phone NOT LIKE '+%'",
    "SELECT percentile_disc(ARRAY(SELECT g / 240.0 FROM generate_series(1, 240) g)) WITHIN GROUP (ORDER BY phone) FROM crm.customers",
    "SELECT string_agg(phone, ',') FILTER (WHERE id > 0) FROM crm.customers",
    "SELECT DISTINCT string_agg(phone, ',') FROM crm.customers GROUP BY grade = 'x'",
    "SELECT grade = 'x', string_agg(phone, ',') FROM crm.customers GROUP BY ROLLUP (1) ORDER BY 1",
    "SELECT string_agg(p, ',') FROM (SELECT phone AS p FROM crm.customers UNION ALL SELECT '') x",
    "SELECT string_agg(p, ',') FROM (SELECT phone AS p FROM crm.customers UNION SELECT '') x",
    "SELECT string_agg(p, ',') FROM (SELECT phone FROM crm.customers EXCEPT SELECT '') x(p)",
    "SELECT string_agg(phone, ',') FROM crm.customers NATURAL JOIN (SELECT 1) x",
    "SELECT string_agg(j.phone, ',') FROM (crm.orders o JOIN crm.customers c ON o.customer_id = c.id) AS j",
    "SELECT string_agg(f, ',') FROM crm.customers c, concat(c.phone) f",
    "SELECT string_agg(v, ',') FROM crm.customers c, LATERAL (VALUES (c.phone)) t(v)",
    "SELECT x.p FROM crm.products pr, LATERAL (SELECT string_agg(phone, ',') p FROM crm.customers WHERE id <> pr.id) x WHERE pr.id = 1",
    "SELECT * FROM concat((SELECT string_agg(phone, ',') FROM crm.customers)) f",
    "SELECT u FROM unnest(ARRAY(SELECT array_to_string(ARRAY(SELECT phone FROM crm.customers), ','))) u",
    "SELECT id, ARRAY(SELECT phone FROM crm.customers d WHERE d.id >= c.id) FROM crm.customers c WHERE id = 1",
    "SELECT CASE WHEN true THEN (SELECT string_agg(phone, ',') FROM crm.customers) END",
    "SELECT json_build_object('a', (SELECT json_agg(phone) FROM crm.customers))",
    "VALUES ((SELECT string_agg(phone, ',') FROM crm.customers))",
    "SELECT v FROM (VALUES (ARRAY(SELECT phone FROM crm.customers))) t(v)",
    "WITH u AS (UPDATE crm.customers SET city = city RETURNING phone) SELECT string_agg(phone, ',') FROM u",
    "SELECT string_agg(phone, ',') FROM crm.v_counts_no_key",
    "SELECT * FROM crm.v_counts_packed",
];

#[test]
fn one_value_of_many_people_does_not_arrive_by_any_protocol() {
    let menshen = Menshen::with(&small_line(), "");
    Postgres::get().sql(
        &menshen.database,
        "CREATE VIEW crm.v_counts_no_key AS SELECT name, phone FROM crm.customers WHERE grade <> 'vip+';
         CREATE VIEW crm.v_counts_packed AS SELECT max(id) AS id, string_agg(phone, ',') AS phones FROM crm.customers;
         GRANT SELECT ON crm.v_counts_no_key, crm.v_counts_packed TO PUBLIC",
    );
    let mut raw = menshen.support();
    let refused = |answer: &Answer, sql: &str| {
        let code = answer.sqlstate();
        assert!(
            answer.rows.is_empty() && matches!(code, "53400" | "0A000"),
            "{sql}: {answer:?}"
        );
    };
    for sql in PACKED {
        refused(&raw.simple(sql), sql);
        refused(&raw.extended(sql, &[], false), sql);
        refused(&raw.extended(sql, &[], true), sql);
        if sql.starts_with("WITH u") {
            continue;
        }
        refused(&raw.simple(&format!("COPY ({sql}) TO STDOUT")), sql);
        raw.simple("BEGIN");
        if raw.simple(&format!("DECLARE c CURSOR FOR {sql}")).error.is_none() {
            refused(&raw.simple("FETCH ALL FROM c"), sql);
        }
        raw.simple("ROLLBACK");
    }
    assert!(!shows_phones(&raw));
    // Nobody was charged for what was not shown.
    let mut received = People::new();
    drain(&mut raw, &mut received);
    assert_eq!(received.len(), LINE);
}

#[test]
fn sessions_of_one_login_share_one_count() {
    let menshen = Menshen::with(&small_line(), "");
    let received: People = std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..6)
            .map(|k| {
                let menshen = &menshen;
                scope.spawn(move || {
                    let mut raw = menshen.support();
                    let mut received = People::new();
                    for _ in 0..8 {
                        received.extend(people(&raw.simple(&format!(
                            "SELECT id, phone FROM crm.customers WHERE id % 6 = {k} ORDER BY random() LIMIT 9"
                        ))));
                    }
                    received
                })
            })
            .collect();
        sessions.into_iter().flat_map(|s| s.join().unwrap()).collect()
    });
    assert!(received.len() <= LINE, "{}", received.len());
    let mut received = received;
    drain(&mut menshen.support(), &mut received);
    assert_eq!(received.len(), LINE);
}

/// Reads what still comes, as rows of (id, phone).
fn rest(raw: &mut Raw, received: &mut People) {
    while let Ok(message) = raw.next() {
        match message.kind {
            b'D' => {
                let length = u32::from_be_bytes(message.body[2..6].try_into().unwrap()) as usize;
                received.insert(message.body[6..6 + length].to_vec());
            }
            b'd' => {
                let end = message.body.iter().position(|b| *b == b'\t').unwrap();
                received.insert(message.body[..end].to_vec());
            }
            b'Z' => return,
            _ => {}
        }
    }
}

#[test]
fn ends_in_mid_stream_leave_no_row_uncounted() {
    let mut menshen = Menshen::with(&small_line(), "");
    let mut received = People::new();
    let slow = "SELECT id, phone, pg_sleep(0.005) FROM crm.customers ORDER BY id";
    // CancelRequest.
    let mut raw = menshen.support();
    raw.send(b'Q', format!("COPY ({slow}) TO STDOUT\0").as_bytes());
    std::thread::sleep(std::time::Duration::from_millis(80));
    let mut cancel = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
    cancel
        .write_all(&[&16_i32.to_be_bytes(), &80_877_102_i32.to_be_bytes(), raw.key.as_slice()].concat())
        .unwrap();
    rest(&mut raw, &mut received);
    // statement_timeout.
    raw.simple("SET statement_timeout = '60ms'");
    raw.send(b'Q', format!("{slow} DESC\0").as_bytes());
    rest(&mut raw, &mut received);
    // The backend is ended.
    let mut raw = menshen.support();
    let pid = raw.simple("SELECT pg_backend_pid()").text(0, 0);
    raw.send(b'Q', format!("{slow} OFFSET 30\0").as_bytes());
    std::thread::sleep(std::time::Duration::from_millis(80));
    Postgres::get().sql(&menshen.database, &format!("SELECT pg_terminate_backend({pid})"));
    rest(&mut raw, &mut received);
    // The client goes away in the middle, and Menshen is killed in the middle.
    let mut raw = menshen.support();
    raw.send(b'Q', format!("{slow} OFFSET 60\0").as_bytes());
    std::thread::sleep(std::time::Duration::from_millis(60));
    drop(raw);
    for _ in 0..2 {
        let mut raw = menshen.support();
        raw.send(b'Q', format!("{slow} OFFSET 50\0").as_bytes());
        std::thread::sleep(std::time::Duration::from_millis(60));
        menshen.kill_and_restart();
        rest(&mut raw, &mut received);
    }
    assert!(!received.is_empty());
    let mut raw = menshen.support();
    drain(&mut raw, &mut received);
    assert!(received.len() <= LINE, "{}", received.len());
}

#[test]
fn a_stop_never_cancels_the_statement_behind_it() {
    let menshen = Menshen::with(&small_line(), "");
    let mut raw = menshen.support();
    drain(&mut raw, &mut People::new());
    let metered = "SELECT id, phone FROM crm.customers ORDER BY id LIMIT 1";
    for _ in 0..30 {
        // Both in one go: the second is on its way when the first is stopped.
        raw.send(b'Q', format!("{metered}\0").as_bytes());
        raw.send(b'Q', b"SELECT 7, pg_sleep(0.005)\0");
        assert_eq!(raw.answer().sqlstate(), "53400");
        let next = raw.answer();
        assert_eq!((next.error.clone(), next.text(0, 0)), (None, "7".to_owned()));
        for sql in [metered, "SELECT 7, pg_sleep(0.005)"] {
            raw.parse("", sql);
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
            raw.sync();
        }
        assert_eq!(raw.answer().sqlstate(), "53400");
        assert_eq!(raw.answer().text(0, 0), "7");
    }
}

#[test]
fn scrolling_holding_and_moving_count_each_person_once_and_all_of_them() {
    let menshen = Menshen::with(&small_line(), "");
    let mut raw = menshen.support();
    let mut received = People::new();
    raw.simple("BEGIN");
    raw.simple("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT id, phone FROM crm.customers ORDER BY id");
    for sql in [
        "FETCH FORWARD 5 FROM c",
        "MOVE ALL FROM c",
        "FETCH BACKWARD 7 FROM c",
        "FETCH ABSOLUTE 100 FROM c",
        "FETCH RELATIVE -20 FROM c",
        "FETCH LAST FROM c",
        "FETCH FIRST FROM c",
        "MOVE 40 IN c",
        "COMMIT",
        "FETCH 6 FROM c",
        "FETCH PRIOR FROM c",
    ] {
        let answer = if sql.len() % 2 == 0 {
            raw.simple(sql)
        } else {
            raw.extended(sql, &[], false)
        };
        assert_eq!(answer.error, None, "{sql}");
        received.extend(people(&answer));
    }
    assert_eq!(received.len(), 5 + 7 + 1 + 1 + 6);
    let fetched = raw.simple("FETCH ABSOLUTE 1 FROM c");
    received.extend(people(&fetched));
    let rest = raw.simple("FETCH ALL FROM c");
    assert_eq!(rest.sqlstate(), "53400");
    received.extend(people(&rest));
    drain(&mut raw, &mut received);
    assert_eq!(received.len(), LINE);
}

#[test]
fn portals_in_pieces_with_flushes_and_other_portals_between() {
    let menshen = Menshen::with(&small_line(), "");
    let mut raw = menshen.support();
    let mut received = People::new();
    let metered = "SELECT id, phone FROM crm.customers ORDER BY id";
    raw.parse("plain", "SELECT 'a'::text, 'b'::text");
    raw.parse("metered", metered);
    raw.bind("p", "plain", &[], &[]);
    raw.bind("m", "metered", &[], &[0, 1]);
    // The unnamed portal is bound twice; the unnamed statement is parsed again under a living portal.
    raw.bind("", "plain", &[], &[]);
    raw.bind("", "metered", &[], &[]);
    raw.parse("", metered);
    raw.bind("u", "", &[], &[]);
    raw.parse("", "SELECT 'c'::text, 'd'::text");
    for (portal, rows) in [("m", 3), ("p", 0), ("m", 4), ("u", 2), ("", 9), ("m", 1)] {
        raw.execute(portal, rows);
        raw.send(b'H', b"");
    }
    raw.sync();
    let answer = raw.answer();
    assert_eq!(answer.error, None);
    assert_eq!(answer.rows.len(), 3 + 1 + 4 + 2 + 9 + 1);
    received.extend(people(&answer).into_iter().filter(|p| p != b"a"));
    drain(&mut raw, &mut received);
    assert_eq!(received.len(), LINE);
}

#[test]
fn names_made_anew_in_one_string_mean_the_new_statement() {
    let menshen = Menshen::with(&small_line(), "");
    let mut raw = menshen.support();
    let mut received = People::new();
    raw.simple("PREPARE s AS SELECT 'a'::text, 'b'::text");
    for (sql, rows) in [
        (
            "DEALLOCATE s; PREPARE s AS SELECT id, phone FROM crm.customers ORDER BY id LIMIT 12; EXECUTE s",
            12,
        ),
        (
            "BEGIN; DECLARE x CURSOR FOR SELECT 'a'::text; CLOSE x; DECLARE x CURSOR FOR SELECT id, phone FROM crm.customers ORDER BY id DESC; FETCH 13 FROM x",
            13,
        ),
        (
            "CLOSE x; DECLARE x CURSOR FOR SELECT id, phone FROM crm.customers ORDER BY id OFFSET 50; FETCH 14 FROM x",
            14,
        ),
    ] {
        let answer = raw.simple(sql);
        assert_eq!((answer.error.clone(), answer.rows.len()), (None, rows), "{sql}");
        received.extend(people(&answer));
    }
    raw.simple("ROLLBACK");
    drain(&mut raw, &mut received);
    assert_eq!(received.len(), LINE);
}

#[test]
fn copy_with_odd_characters_counts_every_line() {
    let people_sql = "SELECT phone, id FROM crm.customers ORDER BY id LIMIT 120";
    for options in [
        "DELIMITER '|', HEADER",
        "FORMAT csv, QUOTE '1', ESCAPE '2', DELIMITER '3'",
        "FORMAT csv, QUOTE '7', FORCE_QUOTE *, DELIMITER E'\\t'",
        "FORMAT csv, NULL '1', HEADER",
        "FORMAT csv, NULL 'x', DELIMITER ';', ENCODING 'LATIN1'",
        "FORMAT binary",
    ] {
        // Before 15 only CSV has a header.
        if Postgres::get().version() < 15 && options.ends_with("'|', HEADER") {
            continue;
        }
        let menshen = Menshen::with(&small_line(), "");
        let mut raw = menshen.support();
        let header = usize::from(options.contains("HEADER"));
        let answer = raw.simple(&format!("COPY ({people_sql}) TO STDOUT ({options})"));
        assert_eq!(
            (answer.sqlstate(), answer.rows.len() - header),
            ("53400", LINE),
            "{options}"
        );
        // The line is reached: nobody else is shown.
        let other = raw.simple("SELECT id, phone FROM crm.customers ORDER BY id DESC LIMIT 1");
        assert_eq!((other.sqlstate(), other.rows.len()), ("53400", 0), "{options}");
    }
}

#[test]
fn errors_and_refusals_in_a_pipeline_keep_answers_apart() {
    let menshen = Menshen::with(&small_line(), "");
    let mut raw = menshen.support();
    raw.simple("SELECT id FROM crm.customers LIMIT 1");
    for broken in [
        "SELECT 1/0",
        "SELECT pg_read_file('x')",
        "SELEC",
        "SELECT id FROM crm.nothing",
    ] {
        // One Sync for all: what stands behind the error is skipped.
        for sql in [
            "SELECT 'first'",
            broken,
            "SELECT id, phone FROM crm.customers",
            "SELECT 'last'",
        ] {
            raw.parse("", sql);
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
        }
        raw.sync();
        let answer = raw.answer();
        assert!(answer.error.is_some() && answer.rows.len() <= 1, "{broken}: {answer:?}");
        // One Sync each: every answer is its own.
        let all = [
            "SELECT 'first'",
            broken,
            "SELECT id, phone FROM crm.customers WHERE id = 1",
            "SELECT 'last'",
        ];
        for sql in all {
            raw.parse("", sql);
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
            raw.sync();
        }
        let answers: Vec<Answer> = all.iter().map(|_| raw.answer()).collect();
        assert_eq!(answers[0].text(0, 0), "first", "{broken}");
        assert!(answers[1].error.is_some() && answers[1].rows.is_empty(), "{broken}");
        assert_eq!(answers[2].text(0, 0), "1", "{broken}");
        assert_eq!(answers[3].text(0, 0), "last", "{broken}");
    }
    assert_eq!(raw.simple("SELECT 'next'").text(0, 0), "next");
}

#[test]
fn binds_of_wrong_sizes_are_the_servers_to_refuse() {
    let menshen = Menshen::with(&small_line(), "");
    let mut raw = menshen.support();
    raw.parse("s", "SELECT id, phone FROM crm.customers WHERE id = $1::int");
    raw.sync();
    assert_eq!(raw.answer().error, None);
    for (params, formats) in [
        (&[][..], &[][..]),
        (&["1", "2"][..], &[0, 1][..]),
        // Two columns are visible, a third is hidden: three codes are one too many, as without Menshen.
        (&["1"][..], &[0, 1, 0][..]),
        (&["1"][..], &[0, 1, 0, 1][..]),
    ] {
        raw.bind("", "s", params, formats);
        raw.execute("", 0);
        raw.sync();
        let answer = raw.answer();
        assert_eq!(
            (answer.sqlstate(), answer.rows.len()),
            ("08P01", 0),
            "{params:?} {formats:?}"
        );
    }
    raw.bind("", "s", &["1"], &[1, 0]);
    raw.describe(b'P', "");
    raw.describe(b'P', "");
    raw.execute("", 0);
    raw.sync();
    let answer = raw.answer();
    assert_eq!((answer.error.clone(), answer.columns.len()), (None, 2));
    assert_eq!(answer.rows[0][0].as_deref(), Some(&1_i64.to_be_bytes()[..]));
    assert_eq!(answer.rows[0].len(), 2);
}

#[test]
fn broken_clients_harm_nobody_else() {
    let menshen = Menshen::with(&small_line(), "");
    let mut well = menshen.support();
    for broken in [
        b"Q\0\0\xff\xffSELECT".as_slice(),
        b"Q\x7f\xff\xff\xff",
        b"Q\xff\xff\xff\xff",
        b"P\0\0\0\x0b\0SELEC",
        b"B\0\0\0\x08\0\0\0\x05",
        b"~\0\0\0\x04",
        b"d\0\0\0\x05x",
        b"H\0\0\0\x04",
    ] {
        for _ in 0..3 {
            let mut raw = menshen.support();
            raw.send(b'P', b"\0SELECT id, phone FROM crm.customers\0\0\0");
            raw.write_raw(broken);
            drop(raw);
        }
    }
    assert_eq!(well.simple("SELECT 1").text(0, 0), "1");
    let mut received = People::new();
    drain(&mut well, &mut received);
    assert_eq!(received.len(), LINE);
}

/// Sub-queries that pick another person whenever they are asked: what names the people must not ask them again.
#[test]
fn who_is_shown_is_who_is_counted_where_a_sub_query_picks_at_will() {
    let menshen = Menshen::with(&small_line(), "");
    Postgres::get().sql(
        &menshen.database,
        "CREATE SEQUENCE crm.turns;
         CREATE FUNCTION crm.turn() RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''crm.turns'')';
         CREATE FUNCTION crm.steady() RETURNS bigint STABLE LANGUAGE plpgsql AS 'BEGIN RETURN nextval(''crm.turns''); END';
         CREATE FUNCTION crm.steadily(a int, b int) RETURNS boolean STABLE LANGUAGE plpgsql AS 'BEGIN RETURN crm.steady() % 2 = a; END';
         CREATE OPERATOR crm.<%> (leftarg = int, rightarg = int, function = crm.steadily);
         CREATE VIEW crm.turned AS SELECT crm.steady() % 2 AS n;
         GRANT SELECT ON crm.turned TO PUBLIC;
         GRANT USAGE, SELECT, UPDATE ON crm.turns TO PUBLIC",
    );
    let mut raw = menshen.support();
    let mut received = People::new();
    let forms = [
        "SELECT set_config('application_name', '{id}', false),
            (SELECT phone FROM crm.customers WHERE id = CASE current_setting('application_name') WHEN '{id}' THEN {id} ELSE 240 END),
            set_config('application_name', '240', false)",
        "SELECT set_config('application_name', '{id}', false),
            (SELECT phone FROM crm.customers WHERE id = (SELECT CASE setting WHEN '{id}' THEN {id} ELSE 240 END
                FROM pg_settings WHERE name = 'application_name')),
            set_config('application_name', '240', false)",
        "SELECT setval('crm.turns', {id}),
            (SELECT phone FROM crm.customers WHERE id = (SELECT last_value FROM crm.turns)), setval('crm.turns', 240)",
        "SELECT setval('crm.turns', 2 * {id}),
            (SELECT phone FROM crm.customers WHERE id = (SELECT CASE crm.turn() WHEN 2 * {id} + 1 THEN {id} ELSE 240 END)), 1",
        "SELECT pg_advisory_lock({id}),
            (SELECT phone FROM crm.customers WHERE id = (SELECT CASE count(*) WHEN 0 THEN 240 ELSE {id} END
                FROM pg_locks WHERE locktype = 'advisory' AND objid = {id})), pg_advisory_unlock({id})",
        "SELECT pg_advisory_lock({id}),
            (SELECT phone FROM crm.customers WHERE id = CASE WHEN pg_advisory_unlock({id}) THEN {id} ELSE 240 END), 1",
        // A function behind a dot.
        "SELECT 1, (SELECT phone FROM crm.customers WHERE id = (SELECT CASE ('crm.turns'::regclass).nextval % 2 WHEN 1 THEN {id} ELSE 240 END))",
        // Functions that say of themselves what is not so.
        "SELECT 1, (SELECT phone FROM crm.customers WHERE id = (SELECT CASE crm.steady() % 2 WHEN 1 THEN {id} ELSE 240 END))",
        "SELECT 1, (SELECT phone FROM crm.customers WHERE id = (SELECT CASE WHEN 1 OPERATOR(crm.<%>) 2 THEN {id} ELSE 240 END))",
        "SELECT 1, (SELECT phone FROM crm.customers WHERE id = (SELECT CASE n WHEN 1 THEN {id} ELSE 240 END FROM crm.turned))",
    ];
    for (form, sql) in forms.iter().enumerate() {
        for id in (form * 9 + 1)..=(form * 9 + 9) {
            raw.simple("SELECT setval('crm.turns', 1000)");
            let answer = raw.simple(&sql.replace("{id}", &id.to_string()));
            assert_eq!(answer.rows.len(), 1, "{sql}: {answer:?}");
            // Some are hidden from this login.
            if answer.rows[0][1].is_some() {
                received.insert(id.to_string().into_bytes());
            }
        }
    }
    let shown = received.len();
    assert!(shown > 50, "{shown}");
    drain(&mut raw, &mut received);
    assert!(received.len() <= LINE, "{shown} shown, {} in all", received.len());
}
