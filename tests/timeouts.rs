//! Nobody keeps what they do not use: start-up, idle sessions, idle transactions, statements, half messages, clients that take
//! nothing, peers that are gone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::menshen::demo_policy;
use crate::harness::{Menshen, Postgres, Raw};

fn with(limits: &str) -> Menshen {
    Menshen::with(&demo_policy(), &format!("[limits]\n{limits}\n"))
}

/// The SQLSTATE of the error that ends the connection.
fn end(raw: &mut Raw) -> String {
    loop {
        let message = raw.next().expect("an error before the end");
        if message.kind == b'E' {
            let text = String::from_utf8_lossy(&message.body).into_owned();
            assert!(text.contains("FATAL"), "{text}");
            assert!(raw.next().is_err(), "it goes on");
            let code = text.split('\0').find_map(|f| f.strip_prefix('C')).unwrap();
            return code.to_owned();
        }
    }
}

/// Waits until the server has no backend of this database but those that are asked for.
fn backends(menshen: &Menshen, wanted: &str) {
    let begun = Instant::now();
    let question = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND usename <> 'menshen' AND usename <> 'postgres'",
        menshen.database
    );
    loop {
        let now = Postgres::get().sql("postgres", &question);
        if now.trim() == wanted {
            return;
        }
        assert!(
            begun.elapsed().as_secs() < 60,
            "{} backends instead of {wanted}",
            now.trim()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_idle_session_is_ended_and_trickling_bytes_do_not_keep_it() {
    let menshen = with("idle_seconds_max = 2");
    let mut raw = menshen.connect("analyst", "");
    assert_eq!(raw.simple("SELECT 1").text(0, 0), "1");
    assert_eq!(end(&mut raw), "57P05");
    // One byte of a message now and then.
    let mut raw = menshen.connect("analyst", "");
    let mut writer = raw.writer();
    let trickle = std::thread::spawn(move || {
        let message = [b"Q\0\0\x10\0".as_slice(), &[b' '; 1000]].concat();
        for byte in message {
            if writer.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert_eq!(end(&mut raw), "57P05");
    drop(raw);
    trickle.join().unwrap();
    // A transaction is not idle in that sense; nor is a statement.
    let mut raw = menshen.connect("analyst", "");
    assert_eq!(raw.simple("SELECT pg_sleep(4)").error, None);
    assert_eq!(raw.simple("BEGIN").error, None);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(raw.simple("COMMIT").error, None);
    assert!(menshen.audit().contains("idle-session timeout"));
    drop(raw);
    backends(&menshen, "0");
}

#[test]
fn an_idle_transaction_is_ended_with_what_it_holds() {
    let menshen = with("idle_in_transaction_seconds_max = 2");
    let mut idle = menshen.connect("analyst", "");
    let mut raw = menshen.connect("dba", "");
    raw.simple("BEGIN");
    assert_eq!(raw.simple("INSERT INTO crm.notes VALUES (901, 1, 'never')").error, None);
    assert_eq!(end(&mut raw), "25P03");
    // A pipeline without its Sync is a transaction, too.
    let mut raw = menshen.connect("dba", "");
    raw.parse("", "INSERT INTO crm.notes VALUES (901, 1, 'never')");
    raw.bind("", "", &[], &[]);
    raw.execute("", 0);
    raw.send(b'H', b"");
    assert_eq!(end(&mut raw), "25P03");
    let count = idle.simple("SELECT count(*) FROM crm.notes WHERE id = 901").text(0, 0);
    assert_eq!(count, "0");
}

#[test]
fn a_statement_that_takes_too_long_is_cancelled_and_the_session_goes_on() {
    let menshen = with("statement_seconds_max = 3");
    let mut raw = menshen.connect("analyst", "");
    let words = Some((
        "57014".to_owned(),
        "canceling statement due to statement timeout".to_owned(),
    ));
    for _ in 0..2 {
        assert_eq!(raw.simple("SELECT pg_sleep(60)").error, words);
        assert_eq!(raw.extended("SELECT pg_sleep(60)", &[], false).error, words);
        assert_eq!(raw.simple("SELECT 1").text(0, 0), "1");
    }
    raw.simple("BEGIN");
    let late = raw.simple("SELECT 1; SELECT pg_sleep(60)");
    assert_eq!((late.error, late.status), (words, b'E'));
    assert_eq!(raw.simple("ROLLBACK").status, b'I');
    // Each statement has its own time, and idle time is not its.
    for _ in 0..3 {
        assert_eq!(raw.simple("SELECT pg_sleep(1.2)").error, None);
    }
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(raw.simple("SELECT 2").text(0, 0), "2");
    // A cancel request of the client's own keeps the server's words.
    let mut canceller = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
    let key = raw.key.clone();
    raw.send(b'Q', b"SELECT pg_sleep(60)\0");
    std::thread::sleep(Duration::from_millis(300));
    let length = i32::try_from(key.len() + 8).unwrap().to_be_bytes();
    let request = [&length, 80_877_102_i32.to_be_bytes().as_slice(), &key].concat();
    canceller.write_all(&request).unwrap();
    let text = raw.answer().error.unwrap().1;
    assert!(text.starts_with("canceling statement due to"), "{text}");
}

#[test]
fn half_a_message_and_silence_end_the_session() {
    let menshen = with("client_message_seconds_max = 1");
    let mut raw = menshen.connect("analyst", "");
    raw.write_raw(b"Q\0\0\x01\0SELECT");
    assert_eq!(end(&mut raw), "08P01");
    // Whole messages and silence do not.
    let mut raw = menshen.connect("analyst", "");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(raw.simple("SELECT 1").text(0, 0), "1");
    drop(raw);
    backends(&menshen, "0");
}

#[test]
fn a_client_that_takes_nothing_is_shed() {
    let menshen = with("client_write_seconds_max = 3");
    let mut raw = menshen.connect("analyst", "");
    raw.send(b'Q', b"SELECT repeat('x', 1000000) FROM generate_series(1, 200)\0");
    backends(&menshen, "0");
    menshen.wait_for("the client takes nothing");
    // One that is slow but takes something is not.
    let mut raw = menshen.connect("analyst", "");
    raw.send(b'Q', b"SELECT repeat('x', 100000) FROM generate_series(1, 200)\0");
    let mut rows = 0;
    loop {
        let message = raw.next().unwrap();
        match message.kind {
            b'D' => {
                rows += 1;
                std::thread::sleep(Duration::from_millis(15));
            }
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(rows, 200);
}

fn silent(menshen: &Menshen, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn startup(login: &str, database: &str) -> Vec<u8> {
    let body = format!("user\0{login}\0database\0{database}\0\0");
    let length = i32::try_from(body.len() + 8).unwrap().to_be_bytes();
    [&length, &196_608_i32.to_be_bytes(), body.as_bytes()].concat()
}

#[test]
fn start_up_has_an_end_at_every_step() {
    let menshen = with("startup_seconds_max = 5");
    let whole = startup("analyst", &menshen.database);
    let half = whole[..20].to_vec();
    for bytes in [b"".to_vec(), half, b"\r\n\r\n\0\r\nQUIT\n".to_vec()] {
        let mut said = Vec::new();
        let _reset = silent(&menshen, &bytes).read_to_end(&mut said);
    }
    // Byte by byte.
    let mut slow = silent(&menshen, b"");
    let begun = Instant::now();
    let mut open = true;
    for byte in whole.iter().cycle() {
        if slow.write_all(&[*byte]).is_err() {
            open = false;
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        if begun.elapsed().as_secs() > 50 {
            break;
        }
    }
    assert!(!open, "a slow client keeps its place");
    // No password.
    let mut said = Vec::new();
    silent(&menshen, &whole).read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        said.contains("57014") && said.contains("canceling authentication due to timeout"),
        "{said}"
    );
    backends(&menshen, "0");
    let mut raw = menshen.connect("analyst", "");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(raw.simple("SELECT 1").text(0, 0), "1");
}

#[test]
fn a_stalled_handshake_has_an_end_too() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(keys.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let at = keys.path().display();
    let menshen = with(&format!(
        "startup_seconds_max = 3\n[tls]\ncert = \"{at}/cert.pem\"\nkey = \"{at}/key.pem\""
    ));
    for hello in [b"".as_slice(), b"\x16\x03\x01"] {
        let mut stream = silent(&menshen, &[0, 0, 0, 8, 4, 210, 22, 47]);
        let mut answer = [0_u8; 1];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"S");
        stream.write_all(hello).unwrap();
        let _reset = stream.read_to_end(&mut Vec::new());
    }
    let _reset = silent(&menshen, b"\x16\x03\x01\x02").read_to_end(&mut Vec::new());
}

#[test]
fn peers_that_are_gone_are_asked_for() {
    let menshen = with("keepalive_seconds = 5");
    let off = Menshen::on(&menshen.database, &demo_policy(), "[limits]\nkeepalive_seconds = 0\n");
    let _sessions = [menshen.connect("analyst", ""), off.connect("analyst", "")];
    // Local port and timer of every connection; timer 02 is keepalive, 01 an answer that is waited for.
    let timer = |port: u16| loop {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mark = format!(":{port:04X} ");
        let line = table
            .lines()
            .find(|l| {
                let fields: Vec<&str> = l.split_whitespace().collect();
                fields.get(1).is_some_and(|local| format!("{local} ").ends_with(&mark)) && fields.get(3) == Some(&"01")
            })
            .unwrap_or_else(|| panic!("no connection of port {port}"));
        match line.split_whitespace().nth(5).unwrap()[..2].to_owned() {
            busy if busy == "01" => std::thread::sleep(Duration::from_millis(50)),
            timer => break timer,
        }
    };
    assert_eq!(timer(menshen.port), "02");
    assert_eq!(timer(off.port), "00");
}
