//! Passwords: never given to a server that asks otherwise than `require_auth` allows, and never in a log.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use menshen::cli::demo::data;

use crate::channel::encrypted;
use crate::harness::menshen::{demo_policy, unlimited_policy};
use crate::harness::{Menshen, Postgres, Raw};

fn behind(port: u16, database: &str, keys: &str) -> Menshen {
    let upstream = format!("hosts = [\"localhost:{port}\"]\n{keys}");
    Menshen::behind(&upstream, database, &unlimited_policy(), "")
}

fn login(menshen: &Menshen, login: &str, password: &str) -> Result<(), String> {
    Raw::connect(menshen.port, &menshen.database, login, password, "").map(|_| ())
}

#[test]
fn the_server_may_ask_only_as_require_auth_allows() {
    let server = Postgres::get();
    let database = server.shop();
    let scram = behind(server.port, &database, "require_auth = [\"scram-sha-256\"]");
    assert_eq!(login(&scram, "analyst", "tsylana"), Ok(()));
    for (who, password, what) in [
        ("plain", "nialp", "server requested a cleartext password"),
        ("md5_login", "nigol_5dm", "server requested a hashed password"),
        ("trusted", "", "server did not request authentication"),
    ] {
        let text = format!("28000: authentication method requirement \"scram-sha-256\" failed: {what}");
        assert_eq!(login(&scram, who, password), Err(text));
    }
    let audit = scram.audit();
    assert!(
        audit.contains("\"require-auth\"") && audit.contains("\"incident\":true"),
        "{audit}"
    );
    let not = behind(server.port, &database, "require_auth = [\"!password\", \"!none\"]");
    assert_eq!(login(&not, "analyst", "tsylana"), Ok(()));
    assert_eq!(login(&not, "md5_login", "nigol_5dm"), Ok(()));
    assert!(login(&not, "plain", "nialp").unwrap_err().starts_with("28000"));
    assert!(login(&not, "trusted", "").unwrap_err().starts_with("28000"));
}

#[test]
fn a_false_server_gets_no_password() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0_u8; 8];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(b"N").unwrap();
            let mut length = [0_u8; 4];
            stream.read_exact(&mut length).unwrap();
            let mut startup = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap() - 4];
            stream.read_exact(&mut startup).unwrap();
            // AuthenticationCleartextPassword.
            stream.write_all(b"R\0\0\0\x08\0\0\0\x03").unwrap();
            let mut rest = Vec::new();
            let _reset = stream.read_to_end(&mut rest);
            if tell.send(rest).is_err() {
                return;
            }
        }
    });
    let menshen = behind(port, "shop", "require_auth = [\"scram-sha-256\"]");
    assert!(login(&menshen, "analyst", "tsylana").unwrap_err().starts_with("28000"));
    assert_eq!(told.recv().unwrap(), b"");
    // The service login asks what the server is, and is asked for its password.
    let keys = "require_auth = [\"scram-sha-256\"]\ntarget_session_attrs = \"primary\"";
    let menshen = behind(port, "shop", keys);
    assert!(login(&menshen, "analyst", "tsylana").unwrap_err().starts_with("08001"));
    assert_eq!(told.recv().unwrap(), b"");
    menshen.wait_for("server requested a cleartext password");
}

#[test]
fn the_service_login_keeps_to_it_inside_tls_too() {
    let (server, _authority) = encrypted();
    let keys = |methods: &str| format!("sslmode = \"require\"\nrequire_auth = [{methods}]");
    assert_eq!(
        login(
            &behind(server.port, "shop", &keys("\"scram-sha-256\"")),
            "analyst",
            "tsylana"
        ),
        Ok(())
    );
    server.configure(
        "pg_hba.conf",
        "local all postgres trust\nhostssl all menshen 127.0.0.1/32 password\nhostssl all all 127.0.0.1/32 scram-sha-256\n",
    );
    let menshen = behind(server.port, "shop", &keys("\"scram-sha-256\""));
    let text = login(&menshen, "analyst", "tsylana").unwrap_err();
    assert!(text.contains("cannot read this database's catalog"), "{text}");
    menshen.wait_for(
        "authentication method requirement \\\"scram-sha-256\\\" failed: server requested a cleartext password",
    );
    assert_eq!(
        login(&behind(server.port, "shop", &keys("")), "analyst", "tsylana"),
        Ok(())
    );
}

#[test]
fn no_log_holds_a_password() {
    let server = Postgres::get();
    let mut menshen = Menshen::with(&demo_policy(), "");
    menshen.restart_with("MENSHEN_LOG", Path::new("trace"));
    let right = [("analyst", "tsylana"), ("md5_login", "nigol_5dm"), ("plain", "nialp")];
    for (who, password) in right {
        assert_eq!(login(&menshen, who, password), Ok(()));
        assert!(login(&menshen, who, "a-wrong-1f9a-password").is_err());
    }
    // At the lower levels it tells more than by default.
    drop(
        std::net::TcpStream::connect(("127.0.0.1", menshen.port))
            .unwrap()
            .write_all(b"\0\0\0\x01"),
    );
    menshen.wait_for("start-up failed");
    let mut raw = menshen.connect("dba", "");
    raw.simple("ALTER ROLE plain PASSWORD 'nialp'");
    raw.extended("ALTER ROLE plain PASSWORD 'nialp'", &[], false);
    // Messages of authentication in the wrong place.
    raw.send(b'p', b"in-the-wrong-1f9a-place\0");
    let _ended = raw.next();
    let log = menshen.log();
    assert!(log.contains("start-up failed"), "it does not log everything");
    let all = format!("{log}{}", menshen.audit());
    let secrets = right.map(|(_, password)| password.to_owned());
    let service = data::password("menshen");
    assert!(!service.is_empty());
    for secret in secrets.iter().chain([&service]) {
        assert!(!all.contains(secret.as_str()), "{secret} is in a log");
    }
    for part in ["wrong-1f9a", "SCRAM-SHA-256$", "c=biws", "n,,n="] {
        assert!(!all.contains(part), "{part} is in a log");
    }
    server.sql("postgres", "SELECT 1");
}
