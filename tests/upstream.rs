//! The database servers: several of them, the kind that is wanted, the next one when one dies.

use std::time::{Duration, Instant};

use menshen::cli::demo::data;

use crate::harness::menshen::{demo_policy, unlimited_policy};
use crate::harness::postgres::free_port;
use crate::harness::{Menshen, Postgres, Raw};

fn behind(upstream: &str) -> Menshen {
    Menshen::behind(upstream, "shop", &unlimited_policy(), "")
}

fn try_connect(menshen: &Menshen) -> Result<Raw, String> {
    Raw::connect(menshen.port, "shop", "analyst", &data::password("analyst"), "")
}

fn port(raw: &mut Raw) -> String {
    raw.simple("SHOW port").text(0, 0)
}

fn hosts(ports: &[u16], more: &str) -> String {
    let hosts: Vec<String> = ports.iter().map(|p| format!("\"127.0.0.1:{p}\"")).collect();
    format!("hosts = [{}]\n{more}", hosts.join(", "))
}

#[test]
fn the_wanted_kind_of_server_is_found_and_the_next_one_when_it_dies() {
    let primary = Postgres::own(&[]);
    let standby = primary.standby();
    let nobody = free_port();
    let (p, s) = (primary.port, standby.port);
    let both = [nobody, s, p];
    let expect = |attrs: &str, ports: &[u16]| {
        let menshen = behind(&hosts(&both, &format!("target_session_attrs = \"{attrs}\"")));
        let mut raw = try_connect(&menshen).unwrap();
        let found = port(&mut raw);
        assert!(ports.iter().any(|p| p.to_string() == found), "{attrs}: {found}");
        (menshen, raw)
    };
    expect("any", &[s]);
    expect("read-write", &[p]);
    expect("read-only", &[s]);
    expect("prefer-standby", &[s]);
    let (_menshen, mut raw) = expect("standby", &[s]);
    // A standby serves what it may, masked, and refuses the rest in its own words.
    assert!(
        raw.simple("SELECT phone FROM crm.customers WHERE id = 1")
            .text(0, 0)
            .contains('*')
    );
    assert_eq!(
        raw.simple("INSERT INTO crm.notes VALUES (901, 1, 'x')").sqlstate(),
        "25006"
    );
    let (menshen, mut raw) = expect("primary", &[p]);
    assert_eq!(raw.simple("INSERT INTO crm.notes VALUES (901, 1, 'x')").error, None);
    // The primary goes, the standby becomes one.
    primary.stop("QUIT");
    // SIGQUIT lets the backend warn, not say farewell: that is Menshen's.
    let last = std::iter::from_fn(|| raw.next().ok()).last().unwrap();
    assert!(
        last.kind == b'E' && String::from_utf8_lossy(&last.body).contains("C08006\0"),
        "{last:?}"
    );
    assert!(
        try_connect(&menshen)
            .unwrap_err()
            .starts_with("08001: no database server of the kind")
    );
    standby.sql("postgres", "SELECT pg_promote()");
    let begun = Instant::now();
    let mut raw = loop {
        match try_connect(&menshen) {
            Ok(raw) => break raw,
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(30), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(port(&mut raw), s.to_string());
    assert_eq!(raw.simple("INSERT INTO crm.notes VALUES (902, 1, 'x')").error, None);
    assert!(
        raw.simple("SELECT phone FROM crm.customers WHERE id = 1")
            .text(0, 0)
            .contains('*')
    );
    drop(menshen);
    // A server that is read-only by default is none for read-write, and one for read-only.
    standby.sql("postgres", "ALTER SYSTEM SET default_transaction_read_only = on");
    standby.sql("postgres", "SELECT pg_reload_conf()");
    let menshen = behind(&hosts(&[s], "target_session_attrs = \"read-write\""));
    assert!(try_connect(&menshen).is_err());
    let menshen = behind(&hosts(&[s], "target_session_attrs = \"read-only\""));
    assert_eq!(port(&mut try_connect(&menshen).unwrap()), s.to_string());
}

#[test]
fn a_changed_catalog_is_known_on_every_server_and_by_every_address() {
    let primary = Postgres::own(&[]);
    let standby = primary.standby();
    primary.sql("shop", "GRANT CREATE ON SCHEMA crm TO analyst");
    // The primary by two addresses: both have a keeper of the catalog.
    let upstream = format!(
        "hosts = [\"127.0.0.1:{}\", \"{}:{}\", \"127.0.0.1:{}\"]\nload_balance_hosts = \"random\"",
        primary.port,
        primary.root.display(),
        primary.port,
        standby.port
    );
    let policy = format!("{}\n[[grants]]\nrole = \"analyst\"\nddl = true\n", unlimited_policy());
    let menshen = Menshen::behind(&upstream, "shop", &policy, "[catalog]\nrefresh_seconds = 86400\n");
    let mut sessions: std::collections::BTreeMap<String, Raw> = std::collections::BTreeMap::new();
    for _ in 0..100 {
        let mut raw = try_connect(&menshen).unwrap();
        let place = format!(
            "{} {}",
            port(&mut raw),
            raw.simple("SELECT inet_server_addr()").text(0, 0)
        );
        sessions.entry(place).or_insert(raw);
    }
    assert_eq!(sessions.len(), 3, "{:?}", sessions.keys());
    let writer = format!("{} 127.0.0.1", primary.port);
    let view = |columns: &str| format!("CREATE OR REPLACE VIEW crm.v_moves AS SELECT id, {columns} FROM crm.customers");
    let replaced = sessions.get_mut(&writer).unwrap().simple(&view("city"));
    assert_eq!(replaced.error, None);
    let read = |raw: &mut Raw| raw.simple("SELECT city FROM crm.v_moves WHERE id = 1");
    let clear = primary.sql("shop", "SELECT phone FROM crm.customers WHERE id = 1");
    for raw in sessions.values_mut() {
        // A standby comes to know it when it has replayed it.
        let begun = Instant::now();
        while read(raw).error.is_some() {
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
    }
    assert_eq!(
        sessions.get_mut(&writer).unwrap().simple(&view("phone AS city")).error,
        None
    );
    for (place, raw) in &mut sessions {
        let begun = Instant::now();
        loop {
            let answer = read(raw);
            assert_eq!(answer.error, None, "{place}");
            let seen = answer.text(0, 0);
            assert_ne!(seen, clear.trim(), "{place}");
            if seen.contains('*') {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{place}: {seen}");
        }
    }
    // A statement that comes to the standby before the change is judged when the change is there: between would be the other column, in clear.
    for (columns, masked) in [("city", false), ("phone AS city", true)] {
        standby.sql("shop", "SELECT pg_wal_replay_pause()");
        assert_eq!(sessions.get_mut(&writer).unwrap().simple(&view(columns)).error, None);
        let resumed = std::thread::scope(|scope| {
            let resumed = scope.spawn(|| {
                std::thread::sleep(Duration::from_secs(1));
                standby.sql("shop", "SELECT pg_wal_replay_resume()");
            });
            for (place, raw) in &mut sessions {
                let answer = read(raw);
                assert_eq!(answer.error, None, "{place}");
                assert_eq!(
                    answer.text(0, 0).contains('*'),
                    masked,
                    "{place} by {columns}: {answer:?}"
                );
            }
            resumed.join()
        });
        resumed.unwrap();
    }
}

/// Processes of a server.
fn processes(server: &Postgres) -> Vec<String> {
    let text = std::fs::read_to_string(server.root.join("data/postmaster.pid")).unwrap();
    let postmaster = text.lines().next().unwrap().to_owned();
    let children = std::process::Command::new("ps")
        .args(["-o", "pid=", "--ppid", &postmaster])
        .output()
        .unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    std::iter::once(postmaster)
        .chain(children.split_whitespace().map(str::to_owned))
        .collect()
}

/// What a change waits for has an end: an open transaction whose log is not written, many changes, a server that does not answer any more.
#[test]
fn a_standby_waits_for_a_change_and_not_for_ever() {
    let primary = Postgres::own(&[]);
    let standby = primary.standby();
    primary.sql("shop", "GRANT CREATE ON SCHEMA crm TO analyst");
    let policy = format!("{}\n[[grants]]\nrole = \"analyst\"\nddl = true\n", unlimited_policy());
    let both = hosts(&[primary.port, standby.port], "load_balance_hosts = \"random\"");
    let menshen = Menshen::behind(&both, "shop", &policy, "[catalog]\nrefresh_seconds = 1\n");
    let find = |wanted: u16| {
        let raws = (0..100).map(|_| try_connect(&menshen).unwrap());
        let mut there = raws.filter_map(|mut raw| (port(&mut raw) == wanted.to_string()).then_some(raw));
        there.next().unwrap()
    };
    let (mut writer, mut others, mut reader) = (
        find(primary.port),
        [find(primary.port), find(primary.port)],
        find(standby.port),
    );
    let view = |columns: &str| format!("CREATE OR REPLACE VIEW crm.v_moves AS SELECT id, {columns} FROM crm.customers");
    let read = "SELECT city FROM crm.v_moves WHERE id = 1";
    assert_eq!(writer.simple(&view("city")).error, None);
    let mut open = Raw::connect(primary.port, "shop", "postgres", "", "").unwrap();
    for columns in ["phone AS city", "city", "phone AS city"] {
        assert_eq!(writer.simple(&view(columns)).error, None);
        open.simple("BEGIN");
        assert_eq!(open.simple("INSERT INTO crm.notes VALUES (9000, 1, 'x')").error, None);
        let begun = Instant::now();
        assert_eq!(reader.simple(read).text(0, 0).contains('*'), columns != "city");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        open.simple("ROLLBACK");
    }
    std::thread::scope(|scope| {
        let begun = Instant::now();
        for (n, other) in others.iter_mut().enumerate() {
            scope.spawn(move || {
                while begun.elapsed() < Duration::from_secs(4) {
                    let made = other.simple(&format!("CREATE OR REPLACE VIEW crm.v_many{n} AS SELECT 1 AS x"));
                    assert_eq!(made.error, None);
                }
            });
        }
        while begun.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            assert!(reader.simple(read).text(0, 0).contains('*'));
            assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
        }
    });
    assert_eq!(writer.simple(&view("city")).error, None);
    let stopped = processes(&primary);
    let signal = |signal: &str, to: &[String]| std::process::Command::new("kill").arg(signal).args(to).status();
    signal("-STOP", &stopped).unwrap();
    let begun = Instant::now();
    let answer = reader.simple(read);
    let took = begun.elapsed();
    // The timer goes on for the standby while the primary says nothing.
    standby.sql("postgres", "SELECT pg_promote()");
    standby.sql("shop", &view("phone AS city"));
    let begun = Instant::now();
    let mut later = reader.simple(read);
    while !later.text(0, 0).contains('*') && begun.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(200));
        later = reader.simple(read);
    }
    signal("-CONT", &stopped).unwrap();
    // runuser stops with its child, and nobody else wakes it.
    let started_by = std::process::Command::new("ps")
        .args(["-o", "ppid=", "-p", &stopped[0]])
        .output()
        .unwrap();
    let started_by = String::from_utf8(started_by.stdout).unwrap().trim().to_owned();
    signal("-CONT", &[started_by]).unwrap();
    assert_eq!(answer.error, None);
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(later.text(0, 0).contains('*'), "{later:?}");
}

#[test]
fn a_cancel_request_goes_to_the_server_of_its_session() {
    let other = Postgres::own(&[]);
    let both = hosts(&[other.port, Postgres::get().port], "load_balance_hosts = \"random\"");
    let menshen = behind(&both);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let mut raw = try_connect(&menshen).unwrap();
        if !seen.insert(port(&mut raw)) {
            continue;
        }
        let begun = Instant::now();
        assert_eq!(raw.cancelled(menshen.port, "SELECT pg_sleep(50)").sqlstate(), "57014");
        assert!(begun.elapsed() < Duration::from_secs(45));
    }
    assert_eq!(seen.len(), 2, "only {seen:?} were used");
}

#[test]
fn names_have_several_addresses_and_sockets_are_paths() {
    let server = Postgres::get();
    // localhost may be ::1 first, where nobody listens.
    let menshen = behind(&format!("hosts = [\"localhost:{}\"]", server.port));
    assert_eq!(port(&mut try_connect(&menshen).unwrap()), server.port.to_string());
    let menshen = behind(&format!(
        "hosts = [\"{}:{}\"]\nsslmode = \"require\"",
        server.root.display(),
        server.port
    ));
    let mut raw = try_connect(&menshen).unwrap();
    assert_eq!(raw.simple("SELECT inet_client_addr()").text(0, 0), "NULL");
    assert!(
        raw.simple("SELECT phone FROM crm.customers WHERE id = 1")
            .text(0, 0)
            .contains('*')
    );
}

#[test]
fn what_cannot_be_reached_is_told_without_its_address() {
    let nobody = free_port();
    // 192.0.2.0/24 is for documentation: nobody answers, or the network says so at once.
    let upstream = format!(
        "hosts = [\"127.0.0.1:{nobody}\", \"no-such-host.invalid\", \"192.0.2.1:5432\", \"/no/such/directory\"]\nconnect_timeout = 1"
    );
    let menshen = behind(&upstream);
    let begun = Instant::now();
    let error = try_connect(&menshen).unwrap_err();
    assert_eq!(error, "08001: the database server cannot be reached");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let log = menshen.log();
    for part in [
        &format!("127.0.0.1:{nobody}"),
        "no-such-host.invalid",
        "192.0.2.1",
        "/no/such/directory",
    ] {
        assert!(log.contains(part), "{part} is not in the log");
    }
}

#[test]
fn errors_of_start_up_are_the_server_s_own() {
    let menshen = Menshen::demo();
    let error = |database: &str, login: &str, password: &str| {
        Raw::connect(menshen.port, database, login, password, "")
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(
        error("nowhere", "postgres", ""),
        "3D000: database \"nowhere\" does not exist"
    );
    assert_eq!(
        error("shop", "analyst", "wrong"),
        "28P01: password authentication failed for user \"analyst\""
    );
    assert_eq!(
        Raw::connect(menshen.port, "shop", "postgres", "", "-c no_such_setting=1")
            .map(|_| ())
            .unwrap_err(),
        "42704: unrecognized configuration parameter \"no_such_setting\""
    );
    let small = Postgres::own(&[
        "max_connections=5",
        "superuser_reserved_connections=0",
        "max_wal_senders=0",
    ]);
    let menshen = Menshen::behind(&hosts(&[small.port], ""), "shop", &demo_policy(), "");
    let mut open = Vec::new();
    let error = loop {
        match try_connect(&menshen) {
            Ok(raw) => open.push(raw),
            Err(e) => break e,
        }
        assert!(open.len() < 6);
    };
    assert!(error.starts_with("53300: "), "{error}");
    drop(open);
    // One that is shutting down says so itself; it waits for this session.
    let begun = Instant::now();
    let direct = loop {
        match Raw::connect(small.port, "shop", "postgres", "", "") {
            Ok(raw) => break raw,
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(30), "{e}"),
        }
    };
    let pid = std::fs::read_to_string(small.root.join("data/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().to_owned();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let begun = Instant::now();
    loop {
        match try_connect(&menshen) {
            Err(e) if e.starts_with("57P03: ") => {
                assert_eq!(e, "57P03: the database system is shutting down");
                break;
            }
            Ok(_) | Err(_) => assert!(begun.elapsed() < Duration::from_secs(30)),
        }
    }
    // With another server at hand, that one is used.
    let menshen = Menshen::behind(
        &hosts(&[small.port, Postgres::get().port], ""),
        "shop",
        &demo_policy(),
        "",
    );
    assert_eq!(
        port(&mut try_connect(&menshen).unwrap()),
        Postgres::get().port.to_string()
    );
    drop(direct);
}

#[test]
fn mistakes_of_the_configuration_are_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("menshen.toml");
    std::fs::write(
        &path,
        "[upstream]\nhosts = [\"db:x\", \"a b\"]\ntarget_session_attrs = \"primry\"\nsslmode = \"encrypt\"\nconnect_timeout = 0\n\
         sslnegotiation = \"direct\"\ncert = \"c.pem\"\nkeepalive = 1\n",
    )
    .unwrap();
    let problems = menshen::config::Config::load(&path, &menshen::config::Overrides::default()).unwrap_err();
    let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for part in [
        "host `db:x`: `x` is not a port",
        "host `a b`: it is no host name",
        "did you mean `primary`?",
        "`encrypt` is none of disable, allow, prefer, require, verify-ca, verify-full",
        "`connect_timeout` must lie between 1 and 3600",
        "unknown key `keepalive`",
    ] {
        assert!(all.contains(part), "{part} not in\n{all}");
    }
}
