//! psql's own commands, and dumps that are restored: for a login that sees everything, they print and make through Menshen what they print and make
//! without it. (The backslash commands that ask the catalog, and masked dumps, are in `introspection.rs`.)

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use menshen::cli::demo::data;

use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Postgres, Raw, postgres};

/// Everything is clear to the dba, and may be written, stored elsewhere and defined; it is counted all the same.
fn unrestricted() -> String {
    unlimited_policy()
        + "\n[[grants]]\nrole = \"dba\"\nclear = [\"*\"]\nwrite = [\"*\"]\nderive = [\"*\"]\nddl = true\n"
}

fn program(name: &str, port: u16) -> Command {
    let mut command = Command::new(postgres::programs().join(name));
    command
        .args(["-h", "127.0.0.1", "-U", "dba", "-p", &port.to_string()])
        .env("PGPASSWORD", data::password("dba"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn words(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n--\n{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

const SCRIPT: &str = r#"
\pset null '<null>'
SELECT id, name, phone, birth FROM crm.customers \gdesc
SELECT 1 AS one \; SELECT 2 AS two \; SELECT 3 AS three;
SELECT format('SELECT %s AS n, ''%s'' AS m', n, n * n) FROM generate_series(1, 3) n \gexec
SELECT id, phone FROM crm.customers ORDER BY id LIMIT 1 \gset first_
\echo :first_id :'first_phone'
SELECT :first_id + 1 AS next;
SELECT grade, id % 3 AS third, count(*) FROM crm.customers GROUP BY 1, 2 ORDER BY 1, 2 \crosstabview grade third
\set FETCH_COUNT 7
SELECT id, name, phone, address FROM crm.customers ORDER BY id;
SELECT id FROM crm.customers WHERE id < 0;
\unset FETCH_COUNT
SELECT id, phone FROM crm.customers ORDER BY id LIMIT 2 \gx
SELECT id, phone FROM crm.customers ORDER BY id LIMIT 2 \g (format=csv) DIRECTORY/g
SELECT id, phone FROM crm.customers ORDER BY id LIMIT 2 \g | sed s/^/piped/
\copy (SELECT id, name, phone FROM crm.customers ORDER BY id LIMIT 5) TO stdout
\copy crm.customers TO 'DIRECTORY/csv' (FORMAT csv, HEADER, FORCE_QUOTE *)
\copy crm.customers TO 'DIRECTORY/text'
\copy crm.customers TO 'DIRECTORY/binary' (FORMAT binary)
\copy crm.customers (id, phone) TO PROGRAM 'cat > DIRECTORY/program' (DELIMITER '|')
CREATE TEMP TABLE loaded (LIKE crm.customers);
\copy loaded FROM 'DIRECTORY/csv' (FORMAT csv, HEADER)
\copy loaded FROM 'DIRECTORY/text'
\copy loaded FROM 'DIRECTORY/binary' (FORMAT binary)
SELECT count(*), count(DISTINCT phone), min(id), max(id) FROM loaded;
\copy loaded (id, name) FROM stdin
900001	one
900002	\N
\.
\copy loaded (id, name) FROM PROGRAM 'printf "900003\tthree\n"'
\copy loaded (id, name) FROM stdin (FORMAT csv)
no number,x
\.
COPY loaded (id, name) FROM STDIN;
900004	four
\.
SELECT id, name FROM loaded WHERE id > 900000 ORDER BY id;
COPY (SELECT id FROM loaded WHERE id > 900000 ORDER BY id) TO STDOUT (FORMAT csv);
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT 1 / 0;
SELECT 'still here' AS state;
COMMIT;
\unset ON_ERROR_ROLLBACK
SELECT nosuch FROM crm.customers;
\errverbose
BEGIN;
SELECT 1 / 0;
SELECT 'not here';
\echo :SQLSTATE :ERROR
ROLLBACK;
\if :ERROR \echo wrong \else \echo right \endif
\sf pg_catalog.generate_series(integer, integer)
\sv crm.v_contacts
LISTEN news;
NOTIFY news, 'of the day';
SELECT pg_notify('news', 'again');
\encoding
SET client_encoding = 'LATIN1';
SELECT 'x' AS ascii;
RESET client_encoding;
PREPARE p (bigint) AS SELECT phone FROM crm.customers WHERE id = $1;
EXECUTE p (3);
DEALLOCATE p;
\pset format unaligned
SHOW search_path;
VALUES (1, 'a'), (2, NULL);
SELECT count(*) FROM crm.customers WHERE id IN (SELECT customer_id FROM crm.orders);
;
\q
"#;

/// Numbers of processes differ from one server session to the next.
fn without_pids(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| match line.split_once("server process with PID ") {
            Some((before, _)) => before,
            None => line,
        });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn psql_s_own_commands_print_what_they_print_without_menshen() {
    let menshen = Menshen::with(&unrestricted(), "");
    let said = |port: u16| {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_str().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, SCRIPT.replace("DIRECTORY", place)).unwrap();
        let output = program("psql", port)
            .args(["-X", "-d", &menshen.database, "-f"])
            .arg(&script)
            .output()
            .unwrap();
        let files = ["g", "csv", "text", "binary", "program"];
        let files = files.map(|name| std::fs::read(directory.path().join(name)).unwrap_or_default());
        (without_pids(&words(&output).replace(place, "DIRECTORY")), files)
    };
    let (direct, files) = said(Postgres::get().port);
    let (through, through_files) = said(menshen.port);
    for (one, two) in direct.lines().zip(through.lines()) {
        assert_eq!(one, two);
    }
    assert_eq!(direct, through);
    assert_eq!(files, through_files);
    assert!(files.iter().all(|f| f.len() > 30), "{:?}", files.map(|f| f.len()));
    // What the script is for did take place.
    for part in [
        "still here",
        "current transaction is aborted",
        "Asynchronous notification",
        "COPY 240",
        "22P02",
        "900004",
    ] {
        assert!(
            through.contains(part) || part == "22P02" && through.contains("invalid input syntax"),
            "{part}: {through}"
        );
    }
}

/// The catalog's definitions are printed under locks: what somebody has locked exclusively is taken from the reading before.
#[test]
fn an_exclusive_lock_beside_a_change_of_the_catalog_hinders_nobody() {
    let menshen = Menshen::with(&unrestricted(), "");
    let mut analyst = menshen.connect("analyst", "");
    let masked = analyst
        .simple("SELECT tel FROM crm.v_contacts ORDER BY id LIMIT 1")
        .text(0, 0);
    let mut holder = menshen.connect("dba", "");
    holder.simple("BEGIN");
    assert_eq!(
        holder.simple("LOCK TABLE crm.customers IN ACCESS EXCLUSIVE MODE").error,
        None
    );
    let mut other = menshen.connect("dba", "");
    assert_eq!(other.simple("CREATE TEMP TABLE beside (a int)").error, None);
    for session in [&mut other, &mut holder, &mut analyst] {
        let begun = Instant::now();
        assert_eq!(session.simple("SELECT count(*) FROM crm.orders").error, None);
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
    assert_eq!(holder.simple("SELECT count(*) FROM crm.v_contacts").error, None);
    assert_eq!(other.simple("CREATE TEMP TABLE beside_it (a int)").error, None);
    holder.simple("ROLLBACK");
    assert_eq!(
        analyst
            .simple("SELECT tel FROM crm.v_contacts ORDER BY id LIMIT 1")
            .text(0, 0),
        masked
    );
    assert!(masked.contains('*'), "{masked}");
}

/// A definition that has changed since is not taken from the reading before: nothing is judged until it can be read.
#[test]
fn a_changed_view_behind_an_exclusive_lock_is_not_judged_by_its_old_definition() {
    let menshen = Menshen::with(&unrestricted(), "");
    let server = Postgres::get();
    let past = |sql: &str| server.sql(&menshen.database, sql);
    past(
        "CREATE VIEW crm.changing AS SELECT id, grade AS shown FROM crm.customers; GRANT SELECT ON crm.changing TO PUBLIC;
         CREATE VIEW crm.renamed AS SELECT id, note FROM crm.notes; GRANT SELECT ON crm.renamed TO PUBLIC",
    );
    let mut analyst = menshen.connect("analyst", "");
    assert_eq!(analyst.simple("SELECT shown FROM crm.changing LIMIT 1").error, None);
    for (change, locked) in [
        (
            "CREATE OR REPLACE VIEW crm.changing AS SELECT id, phone AS shown FROM crm.customers",
            "crm.customers",
        ),
        // The stored definition is the same, and is printed with another name.
        ("ALTER TABLE crm.notes RENAME COLUMN note TO remark", "crm.notes"),
    ] {
        past(change);
        let mut holder = Raw::connect(server.port, &menshen.database, "dba", &data::password("dba"), "").unwrap();
        holder.simple("BEGIN");
        let lock = format!("LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE");
        assert_eq!(holder.simple(&lock).error, None, "{lock}");
        let mut other = menshen.connect("dba", "");
        assert_eq!(other.simple("CREATE TEMP TABLE beside (a int)").error, None);
        let refused = analyst.simple("SELECT count(*) FROM crm.orders");
        let refused = refused.error.is_some_and(|e| e.1.contains("catalog"));
        assert!(refused, "judged by an old catalog after {change}");
        holder.simple("ROLLBACK");
        assert_eq!(analyst.simple("SELECT count(*) FROM crm.orders").error, None);
    }
    let shown = analyst.simple("SELECT shown FROM crm.changing LIMIT 1");
    assert!(shown.error.is_none() && shown.text(0, 0).contains('*'), "{shown:?}");
}

/// Lines that psql has printed so far, as it prints them.
fn until(child: &mut std::process::Child, pid: u32, wanted: usize) -> String {
    use std::io::Read;
    let begun = Instant::now();
    let mut text = String::new();
    let out = child.stdout.as_mut().unwrap();
    let mut byte = [0];
    while text.matches("tick").count() < wanted {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "psql {pid} prints nothing: {text}"
        );
        if out.read(&mut byte).unwrap() == 0 {
            break;
        }
        text.push(char::from(byte[0]));
    }
    text
}

fn interrupt(pid: u32) {
    let sent = Command::new("kill").args(["-INT", &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn watch_goes_on_until_ctrl_c_and_ctrl_c_ends_a_statement() {
    use std::io::Write;
    let menshen = Menshen::with(&unrestricted(), "");
    let mut psql = program("psql", menshen.port)
        .args(["-X", "-A", "-t", "-d", &menshen.database])
        .spawn()
        .unwrap();
    let pid = psql.id();
    let mut input = psql.stdin.take().unwrap();
    writeln!(
        input,
        "SELECT 'tick', phone FROM crm.customers ORDER BY id LIMIT 1 \\watch 0.1"
    )
    .unwrap();
    let ticks = until(&mut psql, pid, 3);
    assert!(ticks.matches("tick").count() >= 3, "{ticks}");
    interrupt(pid);
    // Its own statement is told from a busy server's by the time that it would take.
    let begun = Instant::now();
    writeln!(
        input,
        "SELECT 'tick' AS before;\nSELECT pg_sleep(100);\nSELECT 'after';"
    )
    .unwrap();
    until(&mut psql, pid, 1);
    let server = Postgres::get();
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(100)%' AND usename = 'dba' AND state = 'active'";
    while server.sql(&menshen.database, sleeps).trim() != "1" {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never sleeps");
        std::thread::sleep(Duration::from_millis(50));
    }
    interrupt(pid);
    drop(input);
    let output = psql.wait_with_output().unwrap();
    let text = words(&output);
    assert!(begun.elapsed() < Duration::from_secs(90), "{text}");
    assert!(text.contains("canceling statement due to user request"), "{text}");
    // psql ends a script that it was stopped in.
    assert!(!text.contains("after"), "{text}");
}

#[test]
fn what_is_dumped_and_restored_through_menshen_is_what_was_there() {
    let menshen = Menshen::with(&unrestricted(), "");
    let server = Postgres::get();
    let directory = tempfile::tempdir().unwrap();
    let run = |name: &str, port: u16, arguments: &[&str]| {
        let output = program(name, port).args(arguments).output().unwrap();
        assert!(output.status.success(), "{name} {arguments:?}: {}", words(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let plain = ["--no-owner", "--no-privileges", "--schema=crm"];
    let dump = |port: u16, database: &str| {
        let arguments = [&plain[..], &["-d", database]].concat();
        let text = run("pg_dump", port, &arguments);
        // Newer clients end a dump with a random word.
        let lines = text
            .lines()
            .filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let original = dump(server.port, &menshen.database);
    assert!(original.contains("COPY crm.customers"), "{original}");
    assert_eq!(dump(menshen.port, &menshen.database), original, "as text");
    let formats: [(&str, &[&str], &[&str]); 4] = [
        ("custom", &["-Fc"], &[]),
        ("directory", &["-Fd", "-j", "2"], &["-j", "2"]),
        ("tar", &["-Ft"], &[]),
        (
            "inserts",
            &["-Fc", "--inserts", "--rows-per-insert=50"],
            &["--single-transaction"],
        ),
    ];
    for (name, dumps, restores) in formats {
        let file = directory.path().join(name);
        let file = file.to_str().unwrap();
        run(
            "pg_dump",
            menshen.port,
            &[&plain[..], dumps, &["-d", &menshen.database, "-f", file]].concat(),
        );
        let restored = format!("restored_{name}_{}", std::process::id());
        server.sql("postgres", &format!("CREATE DATABASE {restored} OWNER dba"));
        server.sql(
            &restored,
            "GRANT ALL ON DATABASE current TO dba"
                .replace("current", &restored)
                .as_str(),
        );
        let arguments = ["--no-owner", "--no-privileges", "--exit-on-error"];
        run(
            "pg_restore",
            menshen.port,
            &[&arguments[..], restores, &["-d", &restored, file]].concat(),
        );
        assert_eq!(dump(server.port, &restored), original, "{name}");
        server.sql("postgres", &format!("DROP DATABASE {restored} WITH (FORCE)"));
    }
}
