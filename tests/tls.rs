//! TLS towards clients: modes, versions, ALPN, certificates of both sides, and files that change.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use menshen::cli::demo::data;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::harness::menshen::demo_policy;
use crate::harness::{Menshen, Postgres, postgres};

/// An authority, a certificate of the server, and one of a client, in a directory.
struct Keys {
    directory: tempfile::TempDir,
    ca: (CertificateParams, KeyPair),
}

impl Keys {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority");
        let key = KeyPair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let keys = Self {
            directory,
            ca: (params, key),
        };
        keys.sign("server", "localhost");
        keys
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes `FILE.pem` and `FILE.key` for a common name.
    fn sign(&self, file: &str, cn: &str) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.ca.0, &self.ca.1);
        let cert = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(self.path().join(format!("{file}.pem")), cert.pem()).unwrap();
        let key_file = self.path().join(format!("{file}.key"));
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        // libpq asks for it.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(&self, more: &str) -> String {
        let at = self.path().display();
        format!("[tls]\ncert = \"{at}/server.pem\"\nkey = \"{at}/server.key\"\n{more}\n")
            .replace("DIR", &at.to_string())
    }
}

fn psql_as(menshen: &Menshen, login: &str, more: &str) -> (bool, String) {
    let output = Command::new(postgres::programs().join("psql"))
        .args([
            "-X",
            "-A",
            "-t",
            "-c",
            "\\conninfo",
            "-c",
            "SELECT name FROM crm.customers WHERE id = 1",
        ])
        .arg(format!(
            "host=127.0.0.1 port={} user={login} dbname={} {more}",
            menshen.port, menshen.database
        ))
        .env("PGPASSWORD", data::password(login))
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    (output.status.success(), format!("{out}{err}"))
}

fn psql(menshen: &Menshen, sslmode: &str) -> (bool, String) {
    psql_as(menshen, "analyst", &format!("sslmode={sslmode}"))
}

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// TLS from the first byte.
fn direct(menshen: &Menshen, keys: &Keys, alpn: &[&[u8]]) -> Tls {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(keys.path().join("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    rustls::StreamOwned::new(connection, tcp)
}

fn startup(login: &str, database: &str) -> Vec<u8> {
    let body = format!("user\0{login}\0database\0{database}\0\0");
    let length = i32::try_from(body.len() + 8).unwrap().to_be_bytes();
    [&length, &196_608_i32.to_be_bytes(), body.as_bytes()].concat()
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

#[test]
fn clients_may_encrypt_where_a_certificate_is_configured() {
    let keys = Keys::new();
    let menshen = Menshen::with(&demo_policy(), &keys.config(""));
    // SCRAM without channel binding: the TLS channel ends at Menshen.
    let (fine, text) = psql(&menshen, "require");
    assert!(fine && text.contains("SSL connection") && text.contains('*'), "{text}");
    let (fine, text) = psql(&menshen, "disable");
    assert!(fine && !text.contains("SSL connection"), "{text}");
    for off in ["", &keys.config("mode = \"off\"")] {
        let plain = Menshen::on(&menshen.database, &demo_policy(), off);
        assert!(!psql(&plain, "require").0);
        assert!(psql(&plain, "prefer").0);
        let mut raw = TcpStream::connect(("127.0.0.1", plain.port)).unwrap();
        raw.write_all(&SSL_REQUEST).unwrap();
        let mut answer = [0_u8; 1];
        raw.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"N");
        assert!(direct(&plain, &keys, &[b"postgresql"]).write_all(b"x").is_err());
    }
}

#[test]
fn required_tls_is_required_before_anything_is_opened_upstream() {
    let keys = Keys::new();
    let menshen = Menshen::with(
        &demo_policy(),
        &keys.config("mode = \"required\"\nmin_version = \"1.3\""),
    );
    let (fine, text) = psql(&menshen, "prefer");
    assert!(fine && text.contains("TLSv1.3"), "{text}");
    let (fine, text) = psql(&menshen, "disable");
    assert!(!fine && text.contains("connections must be encrypted"), "{text}");
    assert!(text.contains("no encryption"), "{text}");
    assert!(menshen.audit().contains("\"tls-required\""));
    let (fine, text) = psql_as(&menshen, "analyst", "sslmode=require ssl_max_protocol_version=TLSv1.2");
    assert!(!fine && text.contains("protocol version"), "{text}");
}

#[test]
fn a_cancel_request_passes_where_tls_is_required() {
    let keys = Keys::new();
    let menshen = Menshen::with(&demo_policy(), &keys.config("mode = \"required\""));
    let mut psql = Command::new(postgres::programs().join("psql"));
    psql.args(["-X", "-q", "-c", "SELECT pg_sleep(600) /* to be cancelled */"])
        .arg(format!(
            "host=127.0.0.1 port={} user=analyst dbname={} sslmode=require",
            menshen.port, menshen.database
        ));
    psql.env("PGPASSWORD", data::password("analyst"));
    let psql = psql.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%to be cancelled%' AND state = 'active' AND pid <> pg_backend_pid()";
    let begun = std::time::Instant::now();
    while Postgres::get().sql("postgres", running).trim() == "0" {
        assert!(begun.elapsed().as_secs() < 60, "psql does not run");
        std::thread::sleep(Duration::from_millis(50));
    }
    // As Ctrl-C. libpq sends its cancel requests in the clear, until version 17.
    let sent = Command::new("kill")
        .args(["-INT", &psql.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let output = psql.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("canceling statement due to user request"), "{text}");
}

#[test]
fn check_tells_who_may_come_in_and_reads_the_files() {
    let keys = Keys::new();
    let menshen = Menshen::with(&demo_policy(), "");
    let check = |config: &str| {
        let host = format!("hosts = [\"127.0.0.1:{}\"]", Postgres::get().port);
        menshen.write_config(&host, config);
        let output = Command::new(env!("CARGO_BIN_EXE_menshen"))
            .args([
                "check",
                "policy.toml",
                "--config",
                "menshen.toml",
                "--database",
                &menshen.database,
            ])
            .current_dir(menshen.directory.path())
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        (output.status.code(), format!("{out}{err}"))
    };
    let rules = "[[access]]\naction = \"allow\"\n[limits]\nidle_seconds_max = 600\nsessions_per_login_max = 9\n";
    let tls = keys.config("mode = \"required\"\nclient_ca = \"DIR/ca.pem\"");
    let (code, text) = check(&format!("proxy_protocol = \"10.0.0.0/8\"\n{tls}{rules}"));
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "clients: TLS required (from 1.2 on, client certificates verify-full); 1 access rule; PROXY headers from 10.0.0.0/8",
        "limits: 1000 connections, 500 of them not logged in, 9 per login, start-up 60 s, idle 600 s, client message 60 s",
    ] {
        assert!(text.contains(part), "{part} not in\n{text}");
    }
    let (code, text) = check("[tls]\ncert = \"none.pem\"\nkey = \"none.key\"\n");
    assert!(code == Some(1) && text.contains("none.key"), "{text}");
    let (code, text) = check("[tls]\ncert = \"c\"\nkey = \"k\"\nmod = \"off\"\n[[access]]\naction = \"no\"\n");
    assert!(
        code == Some(2) && text.contains("did you mean `mode`?") && text.contains("none of allow, deny"),
        "{text}"
    );
}

#[test]
fn tls_may_begin_at_once_with_alpn_and_only_with_it() {
    let keys = Keys::new();
    let menshen = Menshen::with(&demo_policy(), &keys.config(""));
    let mut tls = direct(&menshen, &keys, &[b"postgresql"]);
    tls.write_all(&startup("analyst", &menshen.database)).unwrap();
    let mut kind = [0_u8; 9];
    tls.read_exact(&mut kind).unwrap();
    // AuthenticationSASL, from the server.
    assert_eq!((kind[0], kind[8]), (b'R', 10));
    // Without ALPN: an error in the protocol's own words. With another protocol's name: a TLS alert.
    let mut tls = direct(&menshen, &keys, &[]);
    tls.write_all(&startup("analyst", &menshen.database)).unwrap();
    let mut said = Vec::new();
    let _reset = tls.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with('E') && said.contains("without ALPN"), "{said}");
    let mut tls = direct(&menshen, &keys, &[b"http/1.1"]);
    let failed = tls.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap_err().to_string();
    assert!(failed.contains("NoApplicationProtocol"), "{failed}");
}

#[test]
fn bytes_between_an_ssl_request_and_the_handshake_end_the_connection() {
    let keys = Keys::new();
    let menshen = Menshen::with(&demo_policy(), &keys.config(""));
    for behind in [
        startup("analyst", &menshen.database),
        b"\x16".to_vec(),
        SSL_REQUEST.to_vec(),
    ] {
        let mut raw = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
        raw.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        raw.write_all(&[SSL_REQUEST.as_slice(), &behind].concat()).unwrap();
        let mut said = Vec::new();
        let _reset = raw.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            said.starts_with('E') && said.contains("unencrypted data after SSL request"),
            "{said}"
        );
    }
    assert!(!menshen.audit().contains("analyst"));
}

#[test]
fn a_client_certificate_must_be_valid_and_name_the_login() {
    let keys = Keys::new();
    keys.sign("analyst", "analyst");
    keys.sign("batch", "batch-7");
    // Another authority of the same name.
    let other = Keys::new();
    other.sign("analyst", "analyst");
    let with = |directory: &Path, file: &str| {
        let at = directory.display();
        format!("sslmode=require sslcert={at}/{file}.pem sslkey={at}/{file}.key")
    };
    // With an authority, a certificate must be there and name the login, unless the configuration says less.
    let full = Menshen::with(&demo_policy(), &keys.config("client_ca = \"DIR/ca.pem\""));
    let (fine, text) = psql_as(&full, "analyst", &with(keys.path(), "analyst"));
    assert!(fine && text.contains('*'), "{text}");
    let (fine, text) = psql_as(&full, "support", &with(keys.path(), "analyst"));
    assert!(
        !fine && text.contains("certificate authentication failed for user \"support\""),
        "{text}"
    );
    let (fine, text) = psql_as(&full, "analyst", "sslmode=require");
    assert!(
        !fine && text.contains("connection requires a valid client certificate"),
        "{text}"
    );
    let (fine, text) = psql_as(&full, "analyst", &with(other.path(), "analyst"));
    assert!(!fine && text.contains("alert"), "{text}");
    let (fine, text) = psql_as(&full, "analyst", "sslmode=disable");
    assert!(!fine && text.contains("must be encrypted"), "{text}");
    assert!(full.audit().contains("\"client-certificate\""));
    // A map of names to logins.
    let map = "client_ca = \"DIR/ca.pem\"\n[[tls.logins]]\ncn = \"batch-*\"\nlogins = [\"analyst\", \"support_*\"]";
    let mapped = Menshen::on(&full.database, &demo_policy(), &keys.config(map));
    assert!(psql_as(&mapped, "analyst", &with(keys.path(), "batch")).0);
    assert!(!psql_as(&mapped, "support", &with(keys.path(), "batch")).0);
    assert!(!psql_as(&mapped, "analyst", &with(keys.path(), "analyst")).0);
    // Any valid certificate.
    let ca = "client_ca = \"DIR/ca.pem\"\nclient_cert = \"verify-ca\"";
    let any = Menshen::on(&full.database, &demo_policy(), &keys.config(ca));
    assert!(psql_as(&any, "analyst", &with(keys.path(), "batch")).0);
    assert!(!psql_as(&any, "analyst", "sslmode=require").0);
    // A rule may ask for one where the section does not.
    let rules = "client_ca = \"DIR/ca.pem\"\nclient_cert = \"optional\"\n\
                 [[access]]\naction = \"allow\"\nlogins = [\"analyst\"]\ntls = \"certificate\"\n\
                 [[access]]\naction = \"allow\"\nlogins = [\"support\"]\ntls = \"on\"\n";
    let ruled = Menshen::on(&full.database, &demo_policy(), &keys.config(rules));
    assert!(psql_as(&ruled, "analyst", &with(keys.path(), "analyst")).0);
    assert!(psql_as(&ruled, "support", "sslmode=require").0);
    assert!(!psql_as(&ruled, "support", "sslmode=disable").0);
    for wrong in ["sslmode=require".to_owned(), with(keys.path(), "batch")] {
        let (fine, text) = psql_as(&ruled, "analyst", &wrong);
        assert!(!fine && text.contains("no access rule for host"), "{text}");
    }
}

#[test]
fn changed_certificates_are_taken_over_and_a_broken_pair_is_not() {
    let keys = Keys::new();
    let menshen = Menshen::with(&demo_policy(), &keys.config(""));
    let serial = || {
        let mut tls = direct(&menshen, &keys, &[b"postgresql"]);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).unwrap();
        }
        tls.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let first = serial();
    // The key alone: it does not belong to the certificate.
    let old_key = std::fs::read(keys.path().join("server.key")).unwrap();
    std::fs::write(
        keys.path().join("server.key"),
        KeyPair::generate().unwrap().serialize_pem(),
    )
    .unwrap();
    menshen.wait_for("certificates not reloaded, the old ones stay in force");
    menshen.wait_for("\"certificates-rejected\"");
    assert_eq!(serial(), first);
    std::fs::write(keys.path().join("server.key"), old_key).unwrap();
    menshen.wait_for("\"certificates-reloaded\"");
    assert_eq!(serial(), first);
    // A new pair, put there by renaming a link, as renewers do.
    let session = menshen.connect("analyst", "");
    keys.sign("next", "localhost");
    for end in ["pem", "key"] {
        let link = keys.path().join("link");
        std::os::unix::fs::symlink(format!("next.{end}"), &link).unwrap();
        std::fs::rename(&link, keys.path().join(format!("server.{end}"))).unwrap();
    }
    let begun = std::time::Instant::now();
    while serial() == first {
        assert!(begun.elapsed().as_secs() < 60, "the new certificate is not used");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut session = session;
    assert_eq!(session.simple("SELECT 1").text(0, 0), "1");
}
