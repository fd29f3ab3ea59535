//! The PROXY protocol: the real address goes to access rules, limits and the audit, and only named balancers may tell it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use menshen::cli::demo::data;

use crate::harness::menshen::demo_policy;
use crate::harness::{Menshen, Raw};

/// A header of version 2 for IPv4, with a TLV behind it.
fn header(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    let rest = [
        source.as_slice(),
        &[10, 0, 0, 1, 0x30, 0x39, 0x19, 0x20],
        &[0x04, 0, 2, 7, 7],
    ]
    .concat();
    header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    header.extend(rest);
    header
}

fn begin(menshen: &Menshen, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn login(menshen: &Menshen, bytes: &[u8]) -> Result<Raw, String> {
    let stream = begin(menshen, bytes);
    Raw::on_stream(stream, &menshen.database, "analyst", &data::password("analyst"), &[])
}

fn said(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    let _reset = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn a_named_balancer_tells_the_real_address() {
    let config = "proxy_protocol = [\"127.0.0.0/8\"]\n\
                  [limits]\nsessions_per_address_max = 2\n\
                  [[access]]\naction = \"deny\"\nnetworks = [\"203.0.113.0/24\"]\n\
                  [[access]]\naction = \"allow\"\nnetworks = [\"198.51.100.0/24\", \"127.0.0.1\"]\n";
    let menshen = Menshen::with(&demo_policy(), config);
    let mut first = login(&menshen, &header([198, 51, 100, 7])).unwrap();
    assert_eq!(first.simple("SELECT 1").text(0, 0), "1");
    assert!(menshen.audit().contains("\"address\":\"198.51.100.7:12345\""));
    assert!(menshen.audit().contains("\"via\":\"127.0.0.1:"));
    let text = login(&menshen, &header([203, 0, 113, 9])).err().unwrap();
    assert!(
        text.starts_with("28000: access rule rejects connection for host \"203.0.113.9\""),
        "{text}"
    );
    let _second = login(&menshen, &header([198, 51, 100, 7])).unwrap();
    let text = login(&menshen, &header([198, 51, 100, 7])).err().unwrap();
    assert_eq!(text, "53300: too many connections from address 198.51.100.7");
    assert!(login(&menshen, &header([198, 51, 100, 8])).is_ok());
    // LOCAL: the balancer itself, a health check.
    assert!(login(&menshen, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").is_ok());
    drop(begin(&menshen, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"));
    // Without a header, or with one of version 1, nobody comes in from a balancer.
    let text = login(&menshen, b"").err().unwrap();
    assert!(
        text.starts_with("08P01: connections from this address must begin with a PROXY header"),
        "{text}"
    );
    let text = said(begin(&menshen, b"PROXY TCP4 198.51.100.7 10.0.0.1 12345 6432\r\n"));
    assert!(text.contains("PROXY header of version 1 is not taken"), "{text}");
    // A header that is too long, or broken, ends the connection without a word.
    assert_eq!(said(begin(&menshen, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff")), "");
    assert_eq!(said(begin(&menshen, b"\r\n\r\n\0\r\nQUIT?\x21\x11\0\0")), "");
}

#[test]
fn nobody_else_may_choose_an_address() {
    let menshen = Menshen::with(&demo_policy(), "proxy_protocol = [\"10.0.0.0/8\"]\n");
    assert!(login(&menshen, b"").is_ok());
    let text = login(&menshen, &header([198, 51, 100, 7])).err().unwrap();
    assert!(
        text.starts_with("08P01: a PROXY header is not taken from this address"),
        "{text}"
    );
    assert!(menshen.audit().contains("\"proxy-protocol\""));
    let plain = Menshen::on(&menshen.database, &demo_policy(), "");
    assert!(login(&plain, &header([198, 51, 100, 7])).is_err());
}

/// A greeting with everything that there is: header, SSLRequest, GSSENCRequest, StartupMessage.
fn greeting(database: &str) -> Vec<u8> {
    let body = format!("user\0analyst\0database\0{database}\0\0");
    let length = i32::try_from(body.len() + 8).unwrap().to_be_bytes();
    let startup = [&length, &196_608_i32.to_be_bytes(), body.as_bytes()].concat();
    let requests = [[0, 0, 0, 8, 4, 210, 22, 47], [0, 0, 0, 8, 4, 210, 22, 48]].concat();
    [header([198, 51, 100, 7]), requests, startup].concat()
}

#[test]
fn a_greeting_may_end_or_be_wrong_at_any_byte() {
    // No more seats than a leak of one in twenty would take.
    let config = "proxy_protocol = [\"127.0.0.0/8\"]\n[limits]\nsessions_max = 20\nstartup_seconds_max = 20\n";
    let menshen = Menshen::with(&demo_policy(), config);
    let whole = greeting(&menshen.database);
    let mut seen = std::collections::BTreeMap::new();
    let mut tell = |bytes: &[u8]| {
        // Whoever is turned away for want of a seat tries again: those before it are still being closed.
        for _ in 0..1000 {
            let mut stream = begin(&menshen, bytes);
            let _gone = stream.shutdown(std::net::Shutdown::Write);
            let mut said = Vec::new();
            let _reset = stream.read_to_end(&mut said);
            if !String::from_utf8_lossy(&said).contains("too many clients") {
                // After the answers to both requests: what kind of message.
                let kind = said.iter().find(|b| **b != b'N').map_or('-', |b| char::from(*b));
                *seen.entry(kind).or_insert(0) += 1;
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("seats are not given back");
    };
    for end in 0..whole.len() {
        tell(&whole[..end]);
    }
    for at in 0..whole.len() {
        for change in [0x00, 0x01, 0x7f, 0xff] {
            let mut wrong = whole.clone();
            wrong[at] ^= change;
            tell(&wrong);
        }
    }
    println!("{} greetings: {seen:?}", seen.values().sum::<u32>());
    assert!(
        seen.contains_key(&'R') && seen.contains_key(&'E') && seen.contains_key(&'-'),
        "{seen:?}"
    );
    let mut raw = login(&menshen, &header([198, 51, 100, 7])).unwrap();
    assert_eq!(raw.simple("SELECT 1").text(0, 0), "1");
    assert!(!menshen.log().contains("error of Menshen itself"));
}
