//! `[[access]]` rules and limits on connections: judged before anything is opened upstream.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use menshen::cli::demo::data;

use crate::harness::menshen::demo_policy;
use crate::harness::{Menshen, Postgres, Raw};

fn login(menshen: &Menshen, database: &str, login: &str) -> Result<Raw, String> {
    Raw::connect(menshen.port, database, login, &data::password(login), "")
}

fn refused(result: Result<Raw, String>) -> String {
    match result {
        Ok(_) => panic!("it was let in"),
        Err(text) => text,
    }
}

#[test]
fn the_first_access_rule_that_fits_decides() {
    let server = Postgres::get();
    let other = server.shop();
    let rules = format!(
        "[[access]]\naction = \"deny\"\nlogins = [\"support\"]\ndatabases = [\"{other}\"]\n\
         [[access]]\naction = \"deny\"\nlogins = \"dba\"\nnetworks = [\"10.0.0.0/8\", \"127.0.0.0/8\"]\n\
         [[access]]\naction = \"allow\"\nlogins = [\"support\", \"dba\"]\n\
         [[access]]\naction = \"allow\"\nlogins = [\"anal*\"]\ndatabases = [\"shop_*\"]\nnetworks = [\"127.0.0.1\"]\ntls = \"off\"\n"
    );
    let menshen = Menshen::with(&demo_policy(), &rules);
    assert!(login(&menshen, &menshen.database, "support").is_ok());
    assert!(login(&menshen, &menshen.database, "analyst").is_ok());
    let before = std::fs::read_to_string(&server.log)
        .unwrap()
        .matches(other.as_str())
        .count();
    let text = refused(login(&menshen, &other, "support"));
    assert_eq!(
        text,
        format!(
            "28000: access rule rejects connection for host \"127.0.0.1\", user \"support\", database \"{other}\", no encryption"
        )
    );
    assert!(refused(login(&menshen, &menshen.database, "dba")).starts_with("28000: access rule rejects"));
    let text = refused(login(&menshen, "postgres", "analyst"));
    let words = "28000: no access rule for host \"127.0.0.1\", user \"analyst\", database \"postgres\", no encryption";
    assert_eq!(text, words);
    assert!(refused(login(&menshen, &menshen.database, "intern")).starts_with("28000: no access rule"));
    let audit = menshen.audit();
    for part in [
        "\"event\":\"connection-refused\"",
        "\"rule\":\"access\"",
        "\"login\":\"intern\"",
    ] {
        assert!(audit.contains(part), "{part} not in\n{audit}");
    }
    // Nothing was opened upstream for those who were refused.
    let log = std::fs::read_to_string(&server.log).unwrap();
    assert_eq!(log.matches(other.as_str()).count(), before);
    assert!(!log.contains("intern@"));
}

#[test]
fn connections_are_limited_per_login_and_in_all_and_places_are_given_back() {
    let config = "[limits]\nsessions_max = 4\nsessions_per_login_max = 2\n";
    let menshen = Menshen::with(&demo_policy(), config);
    let database = menshen.database.clone();
    let connect = |name: &str| login(&menshen, &database, name);
    let first = connect("analyst").unwrap();
    let _second = connect("analyst").unwrap();
    let text = refused(connect("analyst"));
    assert_eq!(text, "53300: too many connections for role \"analyst\"");
    // Whoever was refused may still have a seat while it is being told.
    let patient = |name: &str| {
        let begun = std::time::Instant::now();
        loop {
            match connect(name) {
                Ok(raw) => return raw,
                Err(text) => assert!(text.starts_with("53300") && begun.elapsed().as_secs() < 60, "{text}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let _third = patient("support");
    let _fourth = patient("dba");
    assert_eq!(refused(connect("support")), "53300: sorry, too many clients already");
    drop(first);
    let begun = std::time::Instant::now();
    // A place is given back when the session has ended; wrong passwords take none for long.
    loop {
        match connect("analyst") {
            Ok(_) => break,
            Err(text) => assert!(text.starts_with("53300"), "{text}"),
        }
        assert!(begun.elapsed().as_secs() < 60, "the place is not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..10 {
        let wrong = Raw::connect(menshen.port, &database, "support", "wrong", "")
            .err()
            .unwrap();
        assert!(wrong.starts_with("28P01") || wrong.starts_with("53300"), "{wrong}");
    }
    assert!(menshen.audit().contains("\"sessions-per-login-max\""));
}

#[test]
fn those_who_have_not_logged_in_are_limited_by_themselves() {
    let config = "[limits]\nunauthenticated_max = 3\n";
    let menshen = Menshen::with(&demo_policy(), config);
    let _in: Vec<Raw> = (0..5).map(|_| menshen.connect("analyst", "")).collect();
    let mut silent: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(("127.0.0.1", menshen.port)).unwrap())
        .collect();
    // They count when they have been accepted.
    let begun = std::time::Instant::now();
    let text = loop {
        match login(&menshen, &menshen.database, "analyst") {
            Err(text) => break text,
            Ok(_) => assert!(begun.elapsed().as_secs() < 60),
        }
    };
    assert_eq!(text, "53300: sorry, too many clients are logging in already");
    silent.clear();
    let begun = std::time::Instant::now();
    while login(&menshen, &menshen.database, "analyst").is_err() {
        assert!(begun.elapsed().as_secs() < 60, "the places are not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_refusal_reaches_a_client_that_has_already_sent_much() {
    let menshen = Menshen::with(&demo_policy(), "[[access]]\naction = \"deny\"\n");
    let mut raw = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
    raw.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = b"user\0analyst\0\0";
    let length = i32::try_from(body.len() + 8).unwrap().to_be_bytes();
    let mut bytes = [&length, &196_608_i32.to_be_bytes(), body.as_slice()].concat();
    bytes.extend([b'x'; 4000]);
    raw.write_all(&bytes).unwrap();
    let mut said = Vec::new();
    raw.read_to_end(&mut said).expect("no reset");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("28000") && said.contains("access rule rejects"), "{said}");
    assert!(said.contains("Menshen rule: access."), "{said}");
}
