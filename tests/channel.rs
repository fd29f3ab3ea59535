//! TLS towards the database server: whom Menshen trusts, what it refuses, and SCRAM's binding to the channel.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use menshen::cli::demo::data;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Postgres, Raw, postgres};

/// An authority, and certificates of it.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "tests");
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key, for names, until a year.
    fn certificate(&self, names: &[&str], common: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

const HOSTSSL: &str = "local all postgres trust\n\
    hostssl all menshen 127.0.0.1/32 cert\n\
    hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n";

/// A server with TLS, and who has signed its certificate.
pub fn encrypted() -> (Postgres, Authority) {
    let server = Postgres::own(&[]);
    let authority = Authority::new();
    show(&server, &authority.certificate(&["localhost"], "db", 2100));
    server.sql("postgres", "ALTER SYSTEM SET ssl = on");
    server.sql("postgres", "SELECT pg_reload_conf()");
    settle(&server, "SHOW ssl", "on");
    (server, authority)
}

/// Gives a server another certificate. New connections see it once the postmaster has read it.
fn show(server: &Postgres, (cert, key): &(String, String)) {
    // Not both at once: a pair that does not fit is not taken, and the old one stays.
    server.configure("server.crt", cert);
    server.configure("server.key", key);
    std::thread::sleep(std::time::Duration::from_millis(500));
}

fn settle(server: &Postgres, sql: &str, value: &str) {
    let begun = std::time::Instant::now();
    while server.sql("postgres", sql).trim() != value {
        assert!(begun.elapsed().as_secs() < 20, "{sql} is not {value}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Menshen behind a server's TLS, reached as `localhost`. Files of the directory can be named in the keys.
fn behind(port: u16, files: &Path, keys: &str) -> Menshen {
    let at = files.display().to_string();
    let upstream = format!("hosts = [\"localhost:{port}\"]\n{}", keys.replace("@", &at));
    Menshen::behind(&upstream, "shop", &unlimited_policy(), "")
}

fn try_connect(menshen: &Menshen) -> Result<Raw, String> {
    Raw::connect(menshen.port, "shop", "analyst", &data::password("analyst"), "")
}

/// Whether the session of analyst and the service login are encrypted, as the server sees it.
fn seen(server: &Postgres) -> String {
    let sql = "SELECT string_agg(DISTINCT ssl::text, ',') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'analyst'";
    server.sql("postgres", sql).trim().to_owned()
}

#[test]
fn a_server_s_certificate_is_checked_as_sslmode_says() {
    let (server, authority) = encrypted();
    let other = Authority::new();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("ca.pem"), &authority.pem).unwrap();
    std::fs::write(files.path().join("other.pem"), &other.pem).unwrap();
    let (full, ca, require) = (
        "sslmode = \"verify-full\"\nroot_cert = \"@/ca.pem\"",
        "sslmode = \"verify-ca\"\nroot_cert = \"@/ca.pem\"",
        "sslmode = \"require\"",
    );
    let wrong_ca = "sslmode = \"verify-full\"\nroot_cert = \"@/other.pem\"";
    let check = |keys: &str, fine: bool, what: &str| {
        let menshen = behind(server.port, files.path(), keys);
        match try_connect(&menshen) {
            Ok(mut raw) => {
                assert!(fine, "{what}: {keys}");
                let phone = raw.simple("SELECT phone FROM crm.customers WHERE id = 1").text(0, 0);
                assert!(phone.contains('*'));
                assert_eq!(seen(&server), if keys.contains("disable") { "false" } else { "true" });
            }
            Err(e) => {
                assert!(!fine, "{what}: {keys}: {e}\n{}", menshen.log());
                assert_eq!(e, "08001: the database server cannot be reached");
            }
        }
    };
    for keys in [
        full,
        ca,
        require,
        "sslmode = \"prefer\"",
        "sslmode = \"disable\"",
        "sslmode = \"verify-full\"\nroot_cert = \"@/ca.pem\"\nssl_min_protocol_version = \"TLSv1.3\"",
    ] {
        check(keys, true, "right certificate");
    }
    check(wrong_ca, false, "wrong authority");
    check(
        "sslmode = \"verify-ca\"\nroot_cert = \"@/other.pem\"",
        false,
        "wrong authority",
    );
    check(
        "sslmode = \"require\"\nroot_cert = \"@/other.pem\"",
        false,
        "wrong authority, as libpq",
    );
    check(
        "sslmode = \"verify-full\"\nroot_cert = \"system\"",
        false,
        "no public authority",
    );
    show(&server, &authority.certificate(&["db.example.com"], "localhost", 2100));
    check(full, false, "wrong name");
    check(ca, true, "wrong name");
    show(&server, &authority.certificate(&["localhost"], "db", 2020));
    check(full, false, "expired");
    check(ca, false, "expired");
    check(require, true, "expired, and nobody asks");
    server.sql("postgres", "ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'");
    show(&server, &authority.certificate(&["localhost"], "db", 2100));
    check(full, true, "TLS 1.2");
    check(
        "sslmode = \"require\"\nssl_min_protocol_version = \"TLSv1.3\"",
        false,
        "TLS 1.2",
    );
    // A cancel request goes the same way.
    let menshen = behind(server.port, files.path(), full);
    let mut raw = try_connect(&menshen).unwrap();
    assert_eq!(raw.cancelled(menshen.port, "SELECT pg_sleep(50)").sqlstate(), "57014");
    // Off: the server answers N.
    server.sql("postgres", "ALTER SYSTEM SET ssl = off");
    server.sql("postgres", "SELECT pg_reload_conf()");
    settle(&server, "SHOW ssl", "off");
    for keys in [full, ca, require] {
        check(keys, false, "no TLS");
    }
    for mode in ["prefer", "allow"] {
        let menshen = behind(server.port, files.path(), &format!("sslmode = \"{mode}\""));
        try_connect(&menshen).unwrap();
    }
}

#[test]
fn sslmode_allow_encrypts_where_the_server_takes_nothing_else() {
    let (server, _authority) = encrypted();
    let files = tempfile::tempdir().unwrap();
    let menshen = behind(server.port, files.path(), "sslmode = \"allow\"");
    let raw = try_connect(&menshen).unwrap();
    assert_eq!(seen(&server), "false");
    drop(raw);
    server.configure(
        "pg_hba.conf",
        "local all postgres trust\nhostssl all menshen 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n",
    );
    std::thread::sleep(std::time::Duration::from_millis(500));
    let menshen = behind(server.port, files.path(), "sslmode = \"allow\"");
    let mut raw = try_connect(&menshen).unwrap();
    assert_eq!(seen(&server), "true");
    assert_eq!(raw.cancelled(menshen.port, "SELECT pg_sleep(50)").sqlstate(), "57014");
    // Another error of the start-up is no reason to try again.
    let error = Raw::connect(menshen.port, "nosuch", "analyst", &data::password("analyst"), "")
        .map(|_| ())
        .unwrap_err();
    assert!(error.starts_with("3D000"), "{error}");
}

#[test]
fn menshen_shows_its_own_certificate_where_the_server_asks_for_one() {
    let (server, authority) = encrypted();
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = authority.certificate(&[], "menshen", 2100);
    std::fs::write(files.path().join("cert.pem"), cert).unwrap();
    std::fs::write(files.path().join("key.pem"), key).unwrap();
    server.configure("root.crt", &authority.pem);
    server.sql("postgres", "ALTER SYSTEM SET ssl_ca_file = 'root.crt'");
    server.configure("pg_hba.conf", HOSTSSL);
    settle(&server, "SHOW ssl_ca_file", "root.crt");
    let menshen = behind(
        server.port,
        files.path(),
        "sslmode = \"require\"\ncert = \"@/cert.pem\"\nkey = \"@/key.pem\"",
    );
    let mut raw = try_connect(&menshen).unwrap();
    assert!(
        raw.simple("SELECT phone FROM crm.customers WHERE id = 1")
            .text(0, 0)
            .contains('*')
    );
    let menshen = behind(server.port, files.path(), "sslmode = \"require\"");
    let error = try_connect(&menshen).unwrap_err();
    assert_eq!(error, "28000: connection requires a valid client certificate");
}

/// Plays a server that answers SSLRequest with some bytes, and gives what it received after that.
fn play(answer: &'static [u8]) -> (u16, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream
                .set_read_timeout(Some(std::time::Duration::from_secs(3)))
                .unwrap();
            let mut request = [0_u8; 8];
            if stream.read_exact(&mut request).is_err() {
                continue;
            }
            let _gone = stream.write_all(answer);
            let mut rest = Vec::new();
            let _ended = stream.read_to_end(&mut rest);
            if tell.send(rest).is_err() {
                return;
            }
        }
    });
    (port, told)
}

#[test]
fn nobody_in_between_can_talk_menshen_out_of_tls() {
    let files = tempfile::tempdir().unwrap();
    // AuthenticationOk and ReadyForQuery, in clear, behind the S: whoever kept them for after the handshake would believe them.
    const INJECTED: &[u8] = b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    for (answer, mode) in [
        (INJECTED, "require"),
        (INJECTED, "prefer"),
        (b"N".as_slice(), "require"),
        (b"E\0\0\0\x10SFATAL\0C28000\0\0", "require"),
        (b"E\0\0\0\x10SFATAL\0C28000\0\0", "prefer"),
        (b"R\0\0\0\x08\0\0\0\0", "require"),
        (b"", "require"),
    ] {
        let (port, told) = play(answer);
        let keys = format!("sslmode = \"{mode}\"\nconnect_timeout = 2");
        let menshen = behind(port, files.path(), &keys);
        assert_eq!(
            try_connect(&menshen).unwrap_err(),
            "08001: the database server cannot be reached",
            "{answer:?}"
        );
        // Never a StartupMessage in clear.
        let received = told.recv().unwrap();
        let text = String::from_utf8_lossy(&received);
        assert!(
            !text.contains("analyst") && !text.contains("user"),
            "{answer:?}: {text}"
        );
    }
}

#[test]
fn direct_negotiation_needs_no_request() {
    let server = Postgres::of_version(18, &[]);
    let authority = Authority::new();
    show(&server, &authority.certificate(&["localhost"], "db", 2100));
    server.sql("postgres", "ALTER SYSTEM SET ssl = on");
    server.sql("postgres", "SELECT pg_reload_conf()");
    settle(&server, "SHOW ssl", "on");
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("ca.pem"), &authority.pem).unwrap();
    let keys = "sslmode = \"verify-full\"\nroot_cert = \"@/ca.pem\"\nsslnegotiation = \"direct\"";
    let menshen = behind(server.port, files.path(), keys);
    let mut raw = try_connect(&menshen).unwrap();
    assert!(
        raw.simple("SELECT phone FROM crm.customers WHERE id = 1")
            .text(0, 0)
            .contains('*')
    );
    assert_eq!(seen(&server), "true");
    // A server before 17 takes it for nonsense.
    let older = behind(Postgres::get().port, files.path(), keys);
    if Postgres::get().version() < 17 {
        assert!(try_connect(&older).is_err());
    }
}

fn psql(menshen: &Menshen, more: &str) -> (bool, String) {
    let output = Command::new(postgres::programs().join("psql"))
        .args(["-X", "-A", "-t", "-c", "SELECT 'as ' || current_user"])
        .arg(format!(
            "host=127.0.0.1 port={} user=analyst dbname=shop sslmode=require {more}",
            menshen.port
        ))
        .env("PGPASSWORD", data::password("analyst"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn scram_binds_to_the_channel_where_both_show_one_certificate_and_says_so_where_not() {
    let (server, authority) = encrypted();
    let files = tempfile::tempdir().unwrap();
    let pair = authority.certificate(&["localhost"], "db", 2100);
    show(&server, &pair);
    let write = |name: &str, (cert, key): &(String, String)| {
        std::fs::write(files.path().join(format!("{name}.crt")), cert).unwrap();
        std::fs::write(files.path().join(format!("{name}.key")), key).unwrap();
    };
    write("same", &pair);
    write("other", &authority.certificate(&["localhost"], "menshen", 2100));
    let with = |sslmode: &str, name: &str| {
        let at = files.path().display();
        Menshen::behind(
            &format!("hosts = [\"localhost:{}\"]\nsslmode = \"{sslmode}\"", server.port),
            "shop",
            &unlimited_policy(),
            &format!("[tls]\ncert = \"{at}/{name}.crt\"\nkey = \"{at}/{name}.key\"\n"),
        )
    };
    let fine = (true, "as analyst\n".to_owned());
    let same = with("require", "same");
    assert_eq!(psql(&same, "channel_binding=require"), fine);
    assert_eq!(psql(&same, "channel_binding=prefer"), fine);
    assert_eq!(psql(&same, "channel_binding=disable"), fine);
    let other = with("require", "other");
    assert_eq!(psql(&other, "channel_binding=disable"), fine);
    let (_, text) = psql(&other, "channel_binding=prefer");
    for part in [
        "channel binding cannot pass Menshen",
        "HINT:  connect with channel_binding=disable",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let (_, text) = psql(&other, "channel_binding=require");
    assert!(text.contains("channel binding"), "{text}");
    // Towards a server without TLS there is nothing to bind to.
    let plain = with("disable", "other");
    assert_eq!(psql(&plain, "channel_binding=prefer"), fine);
}
