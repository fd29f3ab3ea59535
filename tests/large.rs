//! Inputs that are too large, too deep or too many: each is answered, nobody else waits for it, and what it took is given back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Raw};

/// What a healthy session may have to wait while others ask for what is large, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// What may stay of it, over several rounds.
const KEPT_KIB: u64 = 48 * 1024;

/// Ends the healthy session's work.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What answers it: SQLSTATE, or nothing where it is run.
type Answers = &'static [&'static str];

fn inputs() -> Vec<(&'static str, String, Answers)> {
    let nested = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
    vec![
        ("10 000 nested parentheses", nested(10_000), &["54001", "42601"]),
        (
            "a sum of 64 000 terms",
            format!("SELECT {}", vec!["1"; 64_000].join("+")),
            &["54001"],
        ),
        (
            "a sum of 20 000 terms",
            format!("SELECT {}", vec!["1"; 20_000].join("+")),
            &["54001"],
        ),
        (
            "10 000 casts",
            format!("SELECT 1{}", "::int".repeat(10_000)),
            &["54001", "42601"],
        ),
        (
            "10 000 joins",
            format!("SELECT 1 FROM pg_class{}", " CROSS JOIN pg_class".repeat(10_000)),
            &["54001"],
        ),
        ("5 000 unions", vec!["SELECT 1"; 5_000].join(" UNION ALL "), &["54001"]),
        (
            "2 000 subqueries",
            format!("{}1{}", "SELECT (".repeat(2_000), ")".repeat(2_000)),
            &["54001", "42601"],
        ),
        (
            "an IN list of 25 000",
            format!(
                "SELECT count(*) FROM crm.customers WHERE id IN ({})",
                vec!["7"; 25_000].join(",")
            ),
            &[""],
        ),
        (
            "VALUES of 65 535 rows",
            format!(
                "SELECT count(*) FROM (VALUES {}) v",
                (0..65_535).map(|i| format!("({i})")).collect::<Vec<_>>().join(",")
            ),
            &[""],
        ),
        ("100 000 statements", "SELECT 1;".repeat(100_000), &["54000"]),
        ("500 statements", "SELECT 1;".repeat(499), &[""]),
        (
            "a literal of 4 MB",
            format!("SELECT length('{}')", "x".repeat(4_000_000)),
            &[""],
        ),
        (
            "a literal of 5 MB",
            format!("SELECT length('{}')", "x".repeat(5_000_000)),
            &["54000"],
        ),
        ("80 000 signs", format!("SELECT {}1", "+".repeat(80_000)), &["42601"]),
        (
            "80 000 signs in a literal",
            format!("SELECT length('{}')", "+".repeat(80_000)),
            &[""],
        ),
        (
            "10 MB of commas",
            format!("SELECT {}1", "1,".repeat(5_000_000)),
            &["54000"],
        ),
        ("4 MB of quotes", format!("SELECT {}", "''".repeat(2_000_000)), &[""]),
        (
            "a comment of 10 MB",
            format!("/*{}*/ SELECT 1", "x".repeat(10_000_000)),
            &["54000"],
        ),
        (
            "a name of 200 kB",
            format!("SELECT 1 AS {}", "x".repeat(200_000)),
            &[""],
        ),
    ]
}

#[test]
fn what_is_large_is_answered_and_nobody_waits_for_it() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    let mut healthy = menshen.connect("support", "");
    let over = AtomicBool::new(false);
    let mut after = Vec::new();
    std::thread::scope(|scope| {
        let waited = scope.spawn(|| {
            let (mut most, mut n) = (Duration::ZERO, 0);
            while !over.load(Ordering::SeqCst) {
                let begun = Instant::now();
                // Not two of one text: each is judged.
                n += 1;
                let answer = healthy.simple(&format!("SELECT phone AS p{n} FROM crm.customers WHERE id = {n}"));
                assert_eq!(answer.error, None);
                most = most.max(begun.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        // Also where an assertion fails.
        let ending = Over(&over);
        for round in 0..4 {
            for (what, text, answers) in inputs() {
                for extended in [false, true] {
                    let answer = if extended {
                        raw.extended(&text, &[], false)
                    } else {
                        raw.simple(&text)
                    };
                    let several = extended && what == "500 statements";
                    let expected = if several { &["42601"] } else { answers };
                    assert!(
                        expected.contains(&answer.sqlstate()),
                        "{what}, extended {extended}: {:?}",
                        answer.error
                    );
                    assert_eq!(raw.simple("SELECT 7").text(0, 0), "7", "after {what}");
                    raw.received.clear();
                }
            }
            std::thread::sleep(Duration::from_secs(1));
            after.push(menshen.rss_kib());
            println!("round {round}: {} KiB", after[round]);
        }
        drop(ending);
        let most = waited.join().unwrap();
        println!("the healthy session waited {most:?} at most");
        assert!(most < PATIENCE, "{most:?}");
    });
    // The allocator keeps some for the next; it does not grow. Not every thread has had the largest in the first round.
    assert!(after[3] <= after[1] + KEPT_KIB, "{after:?} KiB after each round");
}

#[test]
fn large_texts_of_many_at_once_wait_for_one_another() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let text = format!(
        "SELECT count(*) FROM (VALUES {}) v",
        (0..65_535).map(|i| format!("({i})")).collect::<Vec<_>>().join(",")
    );
    let mut alone = menshen.connect("analyst", "");
    assert_eq!(alone.simple(&text).text(0, 0), "65535");
    let one = menshen.rss_most_kib();
    std::thread::scope(|scope| {
        for n in 0..16 {
            let (menshen, text) = (&menshen, &text);
            // Each is judged: no two are equal.
            scope.spawn(move || {
                let answer = menshen
                    .connect("analyst", "")
                    .simple(&text.replace("(0)", &format!("({n}), (-{n})")));
                assert_eq!(answer.text(0, 0), "65536");
            });
        }
    });
    let all = menshen.rss_most_kib();
    println!("at most {one} KiB for one, {all} KiB for 16 at once");
    assert!(all < one * 4, "{one} KiB for one, {all} KiB for 16 at once");
}

#[test]
fn a_message_that_is_too_long_is_told_so() {
    let menshen = Menshen::with(&unlimited_policy(), "[limits]\nmessage_bytes_max = 2000000");
    let mut raw = menshen.connect("analyst", "");
    let large = "x".repeat(1_999_000);
    assert_eq!(
        raw.extended("SELECT length($1)", &[&large], false).text(0, 0),
        "1999000"
    );
    for text in [
        format!("SELECT length('{}')", "x".repeat(100_000_000)),
        "x".repeat(2_000_000),
    ] {
        let mut raw = menshen.connect("analyst", "");
        // It is still being sent when it is answered.
        let mut writer = raw.writer();
        let sending = std::thread::spawn(move || {
            let length = i32::try_from(text.len() + 5).unwrap().to_be_bytes();
            let message = [b"Q".as_slice(), &length, text.as_bytes(), b"\0"].concat();
            let _closed = std::io::Write::write_all(&mut writer, &message);
        });
        let last = raw.next().unwrap();
        let words = String::from_utf8_lossy(&last.body).into_owned();
        assert!(
            last.kind == b'E' && words.contains("C54000\0") && words.contains("message_bytes_max"),
            "{words}"
        );
        assert!(raw.next().is_err());
        sending.join().unwrap();
    }
    // A length that PostgreSQL does not know either.
    let mut raw: Raw = menshen.connect("analyst", "");
    raw.write_raw(b"Q\x7f\xff\xff\xff");
    let words = String::from_utf8_lossy(&raw.next().unwrap().body).into_owned();
    assert!(words.contains("C08P01\0"), "{words}");
    assert!(menshen.audit().contains("message-bytes"));
}

#[test]
fn who_has_not_logged_in_is_not_waited_for_with_much() {
    use std::io::{Read, Write};
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let body = [
        &196_608_i32.to_be_bytes()[..],
        b"user\0analyst\0database\0",
        menshen.database.as_bytes(),
        b"\0\0",
    ]
    .concat();
    let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &body].concat()).unwrap();
    let mut asked = [0; 9];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(asked[0], b'R');
    // A password message that claims more than PostgreSQL would take; not a byte of it follows.
    stream
        .write_all(&[&b"p"[..], &65_536_i32.to_be_bytes()].concat())
        .unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("C08P01\0") && said.contains("65536"), "{said}");
}
