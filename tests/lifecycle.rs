//! How Menshen ends, reads its configuration anew, and what systemd hears of it.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use menshen::cli::demo::data;

use crate::harness::menshen::{demo_policy, unlimited_policy};
use crate::harness::{Menshen, Postgres, Raw};

/// SQLSTATE and message of the error with which a session ends.
fn last_words(raw: &mut Raw) -> String {
    let last = std::iter::from_fn(|| raw.next().ok()).last();
    let last = last.expect("the session ended without a word");
    assert_eq!(last.kind, b'E', "{last:?}");
    crate::harness::raw::fields(&last.body).0
}

fn try_connect(menshen: &Menshen) -> Result<Raw, String> {
    Raw::connect(
        menshen.port,
        &menshen.database,
        "analyst",
        &data::password("analyst"),
        "",
    )
}

fn audit_is_whole(menshen: &Menshen) {
    let verified = Command::new(env!("CARGO_BIN_EXE_menshen"))
        .args(["audit", "verify"])
        .arg(menshen.directory.path().join("var/audit"))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let audit = menshen.audit();
    assert!(
        audit.contains("\"event\":\"stopping\"") && audit.lines().last().unwrap().contains("\"event\":\"stopped\"")
    );
}

#[test]
fn sigterm_lets_transactions_end_and_tells_new_clients_why_not() {
    let mut menshen = Menshen::with(&unlimited_policy(), "");
    let mut idle = try_connect(&menshen).unwrap();
    let mut busy = try_connect(&menshen).unwrap();
    let mut pipe = try_connect(&menshen).unwrap();
    assert_eq!(busy.simple("BEGIN").status, b'T');
    assert_eq!(busy.simple("INSERT INTO crm.notes VALUES (950, 1, 'kept')").error, None);
    pipe.parse("s", "SELECT 7");
    pipe.send(b'H', b"");
    assert_eq!(pipe.next().unwrap().kind, b'1');
    menshen.signal("TERM");
    assert_eq!(last_words(&mut idle), "57P01");
    // Not at the first address only: whoever asks for TLS first, too.
    let error = try_connect(&menshen).unwrap_err();
    assert_eq!(error, "57P03: Menshen is shutting down");
    let psql = Command::new(crate::harness::postgres::programs().join("psql"))
        .args(["-X", "-c", "SELECT 1"])
        .arg(format!(
            "host=127.0.0.1 port={} user=analyst dbname=shop sslmode=prefer",
            menshen.port
        ))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&psql.stderr).contains("FATAL:  Menshen is shutting down"));
    // One that says nothing does not hold the rest up.
    let _silent = std::net::TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
    pipe.bind("", "s", &[], &[]);
    pipe.execute("", 0);
    pipe.sync();
    assert_eq!(pipe.answer().text(0, 0), "7");
    assert_eq!(last_words(&mut pipe), "57P01");
    assert!(
        busy.simple("SELECT phone FROM crm.customers WHERE id = 1")
            .text(0, 0)
            .contains('*')
    );
    assert_eq!(busy.simple("COMMIT").status, b'I');
    assert_eq!(last_words(&mut busy), "57P01");
    assert!(menshen.wait().success());
    assert_eq!(
        Postgres::get()
            .sql(&menshen.database, "SELECT note FROM crm.notes WHERE id = 950")
            .trim(),
        "kept"
    );
    audit_is_whole(&menshen);
    assert_eq!(menshen.audit().matches("\"event\":\"session-closed\"").count(), 3);
}

/// Backends of a database that still run something of ours.
fn running(database: &str) -> String {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE '%pg_sleep%' AND state = 'active'"
    );
    Postgres::get().sql("postgres", &sql).trim().to_owned()
}

#[test]
fn the_rest_is_ended_after_the_deadline_a_second_signal_or_sigint() {
    for (config, signals) in [
        ("[limits]\nshutdown_seconds_max = 1\n", ["TERM"].as_slice()),
        ("", &["TERM", "TERM"]),
        ("", &["INT"]),
    ] {
        let mut menshen = Menshen::with(&demo_policy(), config);
        let mut open = try_connect(&menshen).unwrap();
        open.simple("BEGIN");
        let mut sleeps = try_connect(&menshen).unwrap();
        sleeps.send(b'Q', b"SELECT pg_sleep(120)\0");
        let begun = Instant::now();
        while running(&menshen.database) != "1" {
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        let begun = Instant::now();
        for signal in signals {
            menshen.signal(signal);
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(last_words(&mut open), "57P01", "{signals:?}");
        assert_eq!(last_words(&mut sleeps), "57P01", "{signals:?}");
        assert!(menshen.wait().success());
        assert!(begun.elapsed() < Duration::from_secs(30), "{signals:?}");
        audit_is_whole(&menshen);
        // The server has been told, and does not sleep on.
        let begun = Instant::now();
        while running(&menshen.database) != "0" {
            assert!(begun.elapsed() < Duration::from_secs(20), "{signals:?}");
        }
    }
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn sighup_reads_the_configuration_anew() {
    // Servers of its own: nobody may be connected to the database that others copy.
    let (one, other) = (Postgres::own(&[]), Postgres::own(&[]));
    let host = |server: &Postgres| format!("hosts = [\"127.0.0.1:{}\"]", server.port);
    let menshen = Menshen::behind(&host(&one), "shop", &unlimited_policy(), "");
    let port = |raw: &mut Raw| raw.simple("SHOW port").text(0, 0);
    let mut old = try_connect(&menshen).unwrap();
    let first = port(&mut old);
    assert_eq!(first, one.port.to_string());
    menshen.write_config("hosts = [\"not a host\"]", "");
    menshen.signal("HUP");
    eventually("the broken file is not noticed", || {
        menshen.log().contains("the configuration is broken")
    });
    assert_eq!(port(&mut try_connect(&menshen).unwrap()), first);
    menshen.write_config(
        "hosts = [\"127.0.0.1:1\"]\nsslmode = \"verify-full\"\nroot_cert = \"no-such-file\"",
        "",
    );
    menshen.signal("HUP");
    eventually("the missing file is not noticed", || {
        menshen.log().contains("no-such-file")
    });
    assert_eq!(port(&mut try_connect(&menshen).unwrap()), first);
    menshen.write_config(&host(&other), "[limits]\nsessions_max = 7\nsessions_per_login_max = 2\n[catalog]\nrefresh_seconds = 50\n[[access]]\naction = \"deny\"\nlogins = [\"clerk\"]\n[[access]]\naction = \"allow\"\n");
    menshen.signal("HUP");
    eventually("the new host is not used", || {
        try_connect(&menshen).is_ok_and(|mut raw| port(&mut raw) == other.port.to_string())
    });
    // Sessions that are open stay where they are.
    assert_eq!(port(&mut old), first);
    let log = menshen.log();
    let line = |key: &str| {
        log.lines()
            .find(|l| l.contains(&format!("\"key\":\"{key}\"")))
            .unwrap_or_default()
    };
    for key in ["upstream", "limits", "tls, access, proxy_protocol"] {
        assert!(line(key).contains("configuration reloaded"), "{key}: {log}");
    }
    assert!(line("catalog").contains("needs a restart"), "{log}");
    let denied = Raw::connect(menshen.port, "shop", "clerk", "x", "").unwrap_err();
    assert!(denied.starts_with("28000"), "{denied}");
    // Who was in before a limit was set is not counted by it.
    let _two = [try_connect(&menshen).unwrap(), try_connect(&menshen).unwrap()];
    let third = try_connect(&menshen).err().unwrap();
    assert!(third.starts_with("53300"), "{third}");
    assert!(menshen.audit().contains("\"needs_restart\":[\"catalog\"]"));
}

#[test]
fn systemd_is_told() {
    let mut menshen = Menshen::demo();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    menshen.restart_with("NOTIFY_SOCKET", &path);
    let next = || {
        let mut text = [0; 500];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    assert!(next().starts_with("READY=1\n"));
    menshen.signal("HUP");
    let reloading = next();
    let at: u64 = reloading
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .unwrap()
        .parse()
        .unwrap();
    assert!(at > 0);
    assert!(next().starts_with("READY=1\n"));
    menshen.signal("TERM");
    assert!(next().starts_with("STOPPING=1\n"));
    assert!(menshen.wait().success());
}
