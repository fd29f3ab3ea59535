//! Nothing hangs: both directions at once, and one session's work does not stop another's.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::harness::Menshen;
use crate::harness::menshen::unlimited_policy;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

#[test]
fn a_pipeline_larger_than_every_buffer_is_answered_while_it_is_sent() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    const STATEMENTS: usize = 3_000;
    const BYTES: usize = 8_000;
    let mut bytes = message(b'P', b"s\0SELECT $1::text\0\0\0");
    let mut bind = b"\0s\0\0\0\0\x01".to_vec();
    bind.extend(i32::try_from(BYTES).unwrap().to_be_bytes());
    bind.extend(vec![b'x'; BYTES]);
    bind.extend([0, 0]);
    for _ in 0..STATEMENTS {
        bytes.extend(message(b'B', &bind));
        bytes.extend(message(b'E', b"\0\0\0\0\0"));
    }
    bytes.extend(message(b'S', b""));
    let mut writer = raw.writer();
    let sending = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    let mut rows = 0;
    loop {
        // The harness gives up after a minute of silence.
        let message = raw.next().expect("an answer");
        match message.kind {
            b'D' => rows += 1,
            b'Z' => break,
            _ => {}
        }
    }
    sending.join().unwrap();
    assert_eq!(rows, STATEMENTS);
}

#[test]
fn long_judgements_of_some_do_not_stop_others() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let many = "SELECT id FROM crm.customers WHERE id = 1;".repeat(60);
    std::thread::scope(|scope| {
        // More than the proxy has workers.
        for _ in 0..6 {
            let mut busy = menshen.connect("analyst", "");
            let many = &many;
            scope.spawn(move || busy.simple(many));
        }
        let mut other = menshen.connect("analyst", "");
        let begun = Instant::now();
        assert_eq!(other.simple("SELECT 1").text(0, 0), "1");
        // Not a measurement: without it, the answer comes after all of the others.
        assert!(begun.elapsed() < Duration::from_secs(30));
    });
}
