//! The fault matrix: one conversation, and everything that can go wrong with its bytes on both sides of Menshen. In none of it the process
//! may abort, a session hang, memory leak, or anything come out that the undisturbed conversation has not.
//!
//! Places are sampled, the same ones each time; `MENSHEN_FAULTS=all` tries every byte.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use menshen::cli::demo::data;

use crate::harness::faults::{Fault, Faults, Way, boundaries};
use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Postgres, Raw, canary, postgres};

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// What a client sends, and the type of message that it waits for before it goes on.
fn conversation() -> Vec<(Vec<u8>, u8)> {
    let parse = |name: &str, sql: &str| message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    let bind = |name: &str, value: &str| {
        let length = i32::try_from(value.len()).unwrap().to_be_bytes();
        let parts: [&[u8]; 7] = [
            b"\0",
            name.as_bytes(),
            b"\0\0\0\0\x01",
            &length,
            value.as_bytes(),
            b"\0\0",
            b"",
        ];
        message(b'B', &parts.concat())
    };
    let execute = |rows: i32| message(b'E', &[b"\0".as_slice(), &rows.to_be_bytes()].concat());
    let describe = message(b'D', b"P\0");
    let sync = message(b'S', b"");
    let many = "SELECT id, phone FROM crm.customers WHERE id <= $1::int ORDER BY id";
    vec![
        (
            query("SELECT id, name, phone FROM crm.customers ORDER BY id LIMIT 3"),
            b'Z',
        ),
        (
            [
                parse("s", many),
                bind("s", "4"),
                describe,
                execute(2),
                execute(0),
                sync.clone(),
            ]
            .concat(),
            b'Z',
        ),
        (query("BEGIN"), b'Z'),
        (query("COPY crm.scratch FROM STDIN"), b'G'),
        (
            [
                message(b'd', b"970\tone\n"),
                message(b'd', b"971\ttwo\n"),
                message(b'c', b""),
            ]
            .concat(),
            b'Z',
        ),
        (
            query("COPY (SELECT id, phone FROM crm.customers ORDER BY id LIMIT 3) TO STDOUT"),
            b'Z',
        ),
        (query("SELECT 1/0"), b'Z'),
        (query("ROLLBACK"), b'Z'),
        (
            [
                parse("", "SELECT pg_catalog.now() IS NULL"),
                bind("s", "1"),
                execute(0),
                sync,
            ]
            .concat(),
            b'Z',
        ),
        (message(b'X', b""), 0),
    ]
}

fn startup(name: &str) -> Vec<u8> {
    let parameters = format!("user\0analyst\0database\0shop\0client_encoding\0UTF8\0application_name\0{name}\0\0");
    let body = [196_608_i32.to_be_bytes().as_slice(), parameters.as_bytes()].concat();
    [i32::try_from(body.len() + 4).unwrap().to_be_bytes().as_slice(), &body].concat()
}

/// How a conversation has ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// All answers came.
    Whole,
    /// The connection was closed before.
    Closed,
    /// Nothing came for a while, and the client left.
    Silent,
}

/// Plays the client; what it received.
fn converse(port: u16, name: &str, at_once: bool, patience: Duration) -> (Vec<u8>, End) {
    let mut received = Vec::new();
    let end = talk(port, name, at_once, patience, &mut received);
    (received, end)
}

fn talk(port: u16, name: &str, at_once: bool, patience: Duration, received: &mut Vec<u8>) -> End {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut steps = conversation();
    steps.insert(0, (startup(name), b'Z'));
    if at_once {
        let after = steps.split_off(1);
        let all: Vec<u8> = after.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        steps.push((all, 0));
    }
    let mut seen = 0;
    let mut buffer = vec![0_u8; 64 * 1024];
    for (bytes, awaited) in steps {
        if stream.write_all(&bytes).is_err() {
            // What the other side has said before it closed is still to be read.
            let _rest = stream.read_to_end(received);
            return End::Closed;
        }
        // Up to the message that is awaited; an error in its place is as good.
        loop {
            let head = received
                .get(seen..seen + 5)
                .map(|h| (h[0], i32::from_be_bytes(h[1..].try_into().unwrap())));
            if let Some((kind, length)) = head {
                let whole = usize::try_from(length).unwrap_or(0).max(4) + 1;
                if received.len() >= seen + whole {
                    seen += whole;
                    if kind == awaited || (awaited == b'G' && kind == b'Z') {
                        break;
                    }
                    continue;
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) if awaited == 0 => return End::Whole,
                Ok(0) => return End::Closed,
                Ok(n) => received.extend(&buffer[..n]),
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return End::Silent;
                }
                Err(_) => return End::Closed,
            }
        }
    }
    End::Whole
}

/// Messages, but for those that differ each time: BackendKeyData, and ParameterStatus of the name.
fn comparable(bytes: &[u8]) -> Vec<&[u8]> {
    let all = boundaries(bytes);
    let messages = all
        .windows(2)
        .map(|w| bytes.get(w[0]..w[1]).unwrap_or_else(|| &bytes[w[0]..]));
    messages
        .filter(|m| m[0] != b'K' && !m.windows(16).any(|w| w == b"application_name"))
        .collect()
}

/// SQLSTATE of the last message, where it is an ErrorResponse.
fn last_error(bytes: &[u8]) -> Option<String> {
    let last = *comparable(bytes).last()?;
    let whole = boundaries(last).last() == Some(&last.len());
    (whole && last[0] == b'E').then(|| crate::harness::raw::fields(&last[5..]).0)
}

fn shown(message: Option<&&[u8]>) -> String {
    message.map_or_else(String::new, |m| String::from_utf8_lossy(m).into_owned())
}

/// How often each fault between each two has ended how.
type Counts = BTreeMap<(&'static str, &'static str), BTreeMap<End, usize>>;

struct Matrix {
    counts: Mutex<Counts>,
    wrong: Mutex<Vec<String>>,
    next: AtomicUsize,
    received: Mutex<Vec<u8>>,
}

/// Between which two a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leg {
    ClientToMenshen,
    MenshenToClient,
    MenshenToServer,
    ServerToMenshen,
}

impl Leg {
    fn label(self) -> &'static str {
        match self {
            Self::ClientToMenshen => "client → Menshen",
            Self::MenshenToClient => "Menshen → client",
            Self::MenshenToServer => "Menshen → server",
            Self::ServerToMenshen => "server → Menshen",
        }
    }

    fn way(self) -> Way {
        match self {
            Self::ClientToMenshen | Self::MenshenToServer => Way::Forth,
            Self::MenshenToClient | Self::ServerToMenshen => Way::Back,
        }
    }

    fn is_client_s(self) -> bool {
        matches!(self, Self::ClientToMenshen | Self::MenshenToClient)
    }
}

fn label(fault: &Fault) -> &'static str {
    match fault {
        Fault::Record => "none",
        Fault::Split(_) => "split",
        Fault::Crumbs => "byte by byte",
        Fault::Merge(_) => "merged",
        Fault::Delay(_) => "delayed",
        Fault::Cut(_, false) => "cut",
        Fault::Cut(_, true) => "reset",
        Fault::Corrupt(..) => "corrupted",
        Fault::Insert(..) => "inserted",
    }
}

/// Places of a stream: all message boundaries and some bytes between them, or all bytes.
fn places(bytes: &[u8], beginning: usize, every: usize) -> Vec<usize> {
    let all = std::env::var("MENSHEN_FAULTS").is_ok_and(|v| v == "all");
    let step = if all { 1 } else { every };
    let mut places: Vec<usize> = (1..bytes.len()).step_by(step).collect();
    if beginning < bytes.len() {
        places.extend(boundaries(&bytes[beginning..]).iter().map(|b| b + beginning));
    }
    places.retain(|p| *p < bytes.len());
    places.sort_unstable();
    places.dedup();
    places
}

/// What no peer sends at that place: claims of 1 GB, unknown types, messages out of turn, NULs.
fn hostile(from_client: bool) -> Vec<Vec<u8>> {
    let kinds: &[u8] = if from_client {
        b"QPBDECSHFdcfpX"
    } else {
        b"RSKZTDCEN12t3nsIAGHWcdvV"
    };
    let mut all: Vec<Vec<u8>> = vec![
        vec![0; 9],
        message(b'y', b"what"),
        message(b'?', b""),
        vec![b'Q', 0, 0, 0, 3],
        vec![b'D', 0xff, 0xff, 0xff, 0xff],
    ];
    for kind in kinds {
        all.push(message(*kind, b""));
        all.push(message(*kind, b"\0\0\0\0\0\0\0\0"));
        all.push([&[*kind][..], &0x3fff_ffff_i32.to_be_bytes(), b"xx"].concat());
    }
    all
}

#[test]
fn the_fault_matrix_has_no_abort_no_hang_and_no_leak() {
    let server = Postgres::own(&["max_connections=120", "log_statement=all", "log_line_prefix=%u "]);
    server.configure(
        "pg_hba.conf",
        &format!("host all analyst 127.0.0.1/32 trust\n{}", postgres::HBA),
    );
    // Without a key: where BEGIN is what a fault hits, the rows stay.
    server.sql(
        "shop",
        "CREATE TABLE crm.scratch (id int, note text); GRANT ALL ON crm.scratch TO PUBLIC",
    );
    let upstream = Faults::before(server.port);
    let hosts = format!("hosts = [\"127.0.0.1:{}\"]\nsslmode = \"disable\"", upstream.port);
    // Nothing may read the catalog but sessions that need it.
    let menshen = Menshen::behind(
        &hosts,
        "shop",
        &unlimited_policy(),
        "[catalog]\nrefresh_seconds = 86400\n",
    );
    let client = Faults::before(menshen.port);
    let patience = Duration::from_secs(30);

    // Undisturbed, once to warm up, and once to be recorded.
    converse(client.port, "warm", false, patience);
    client.arm("none-00000", Way::Forth, Fault::Record);
    upstream.arm("none-00000", Way::Forth, Fault::Record);
    let (baseline, end) = converse(client.port, "none-00000", false, patience);
    assert_eq!(end, End::Whole);
    assert!(String::from_utf8_lossy(&baseline).contains('*'));
    let expected = comparable(&baseline);
    let mut script = startup("none-00000");
    let begin = script.len();
    script.extend(conversation().into_iter().flat_map(|(bytes, _)| bytes));
    assert_eq!(client.recorded("none-00000", Way::Forth), script);
    let to_server = upstream.recorded("none-00000", Way::Forth);
    let from_server = upstream.recorded("none-00000", Way::Back);
    let started = usize::try_from(i32::from_be_bytes(to_server[..4].try_into().unwrap())).unwrap();

    let mut faults: Vec<(Leg, Fault)> = Vec::new();
    use Leg::{ClientToMenshen, MenshenToClient, MenshenToServer, ServerToMenshen};
    for (leg, bytes, beginning, every) in [
        (ClientToMenshen, &script, begin, 13),
        (MenshenToClient, &baseline, 0, 61),
        (MenshenToServer, &to_server, started, 97),
        (ServerToMenshen, &from_server, 0, 41),
    ] {
        faults.push((leg, Fault::Crumbs));
        faults.push((leg, Fault::Merge(Duration::from_millis(15))));
        faults.push((leg, Fault::Delay(Duration::from_millis(15))));
        for (n, place) in places(bytes, beginning, every).into_iter().enumerate() {
            faults.push((leg, Fault::Split(place)));
            faults.push((leg, Fault::Cut(place, n % 3 == 0)));
            if matches!(leg, ClientToMenshen | ServerToMenshen) {
                faults.push((leg, Fault::Corrupt(place, [1, 0x80, 0xff][n % 3])));
            }
        }
    }
    for (leg, bytes, beginning) in [(ClientToMenshen, &script, begin), (ServerToMenshen, &from_server, 0)] {
        let all = boundaries(&bytes[beginning..]);
        for (n, hostile) in hostile(leg == ClientToMenshen).into_iter().enumerate() {
            // At one place each; together they are spread over the conversation. And at the first, before anybody has logged in.
            let place = all[(n * 7) % (all.len() - 1)] + beginning;
            faults.push((leg, Fault::Insert(place, hostile.clone())));
            if leg == ServerToMenshen && n % 2 == 0 {
                faults.push((leg, Fault::Insert(0, hostile)));
            }
        }
    }

    let matrix = Matrix {
        counts: Mutex::default(),
        wrong: Mutex::default(),
        next: AtomicUsize::new(0),
        received: Mutex::default(),
    };
    let begun = Instant::now();
    let done = AtomicBool::new(false);
    let mut slowest = Duration::ZERO;
    // Once threads and caches are there: what grows after that would grow without end.
    let early = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    while let Some((number, (leg, fault))) = {
                        let n = matrix.next.fetch_add(1, Ordering::SeqCst);
                        faults.get(n).map(|f| (n + 1, f))
                    } {
                        if number == faults.len() / 3 {
                            early.store(usize::try_from(menshen.rss_kib()).unwrap(), Ordering::SeqCst);
                        }
                        try_fault(number, *leg, fault, &client, &upstream, &expected, &matrix);
                    }
                })
            })
            .collect();
        // A session that nobody disturbs goes on.
        let healthy = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            let mut raw = Raw::connect(menshen.port, "shop", "analyst", &data::password("analyst"), "").unwrap();
            while !done.load(Ordering::SeqCst) {
                let asked = Instant::now();
                assert!(
                    raw.simple("SELECT phone FROM crm.customers WHERE id = 1")
                        .text(0, 0)
                        .contains('*')
                );
                slowest = slowest.max(asked.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        let ended: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
        done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok));
        slowest = healthy.join().unwrap();
    });
    let took = begun.elapsed();
    // Every session has ended, on both sides.
    let open = |sql: &str| server.sql("postgres", sql).trim().to_owned();
    let left = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'analyst'";
    let begun = Instant::now();
    while open(left) != "0" && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let hanging = open(left);
    let (early, after) = (early.into_inner(), usize::try_from(menshen.rss_kib()).unwrap());
    let log = menshen.log();
    let aborts = log.matches("an error of Menshen itself").count();
    let mut tried = 0;
    println!(
        "{:14} {:18} {:>6} {:>6} {:>6} {:>6}",
        "fault", "between", "tried", "whole", "closed", "left"
    );
    for ((fault, leg), ends) in matrix.counts.lock().unwrap().iter() {
        let count = |end: End| ends.get(&end).copied().unwrap_or(0);
        let all: usize = ends.values().sum();
        tried += all;
        println!(
            "{fault:14} {leg:18} {all:6} {:6} {:6} {:6}",
            count(End::Whole),
            count(End::Closed),
            count(End::Silent)
        );
    }
    let wrong = matrix.wrong.lock().unwrap();
    println!(
        "{tried} faults tried, {} survived, {aborts} aborts, {hanging} hangs; {took:.1?}; slowest answer of a healthy session {slowest:.1?}; \
         \
         resident {early} KiB after a third, {after} KiB at the end",
        tried - wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong, first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(8)].join("\n")
    );
    assert_eq!((tried, aborts, hanging.as_str()), (faults.len(), 0, "0"));
    assert!(
        slowest < Duration::from_secs(20),
        "a healthy session waited {slowest:?}"
    );
    // An allocator keeps some. A session has buffers of up to 128 KiB.
    assert!(
        after < early + 40_000,
        "{early} KiB after a third, {after} KiB at the end"
    );
    // Whatever reached the server was edited: the client's own words are not among it.
    let seen = std::fs::read_to_string(&server.log).unwrap();
    assert!(
        seen.lines()
            .any(|l| l.starts_with("analyst ") && l.contains("customers"))
    );
    for own in [
        "SELECT id, name, phone FROM crm.customers",
        "SELECT id, phone FROM crm.customers",
    ] {
        let line = seen.lines().find(|l| l.starts_with("analyst ") && l.contains(own));
        assert_eq!(line, None, "{own} has reached the server");
    }
    let leaks = canary::leaks(&matrix.received.lock().unwrap(), "analyst", "");
    assert!(leaks.is_empty(), "{leaks:?}");
}

/// Tries one, and judges what the client has received.
fn try_fault(
    number: usize,
    leg: Leg,
    fault: &Fault,
    client: &Faults,
    upstream: &Faults,
    expected: &[&[u8]],
    matrix: &Matrix,
) {
    let name = format!("none-{number:05}");
    let proxy = if leg.is_client_s() { client } else { upstream };
    proxy.arm(&name, leg.way(), fault.clone());
    let harmless = matches!(
        fault,
        Fault::Record | Fault::Split(_) | Fault::Crumbs | Fault::Merge(_) | Fault::Delay(_)
    );
    let cut = matches!(fault, Fault::Cut(..));
    // A changed length makes one side wait for more, as without Menshen: the client's patience decides then.
    let patience = Duration::from_millis(if harmless || cut { 30_000 } else { 700 });
    let at_once = matches!(fault, Fault::Merge(_));
    let (received, end) = converse(client.port, &name, at_once, patience);
    let mut problem = None;
    let messages = comparable(&received);
    if harmless && (end != End::Whole || messages != expected) {
        problem = Some("a harmless fault has changed the answers");
    }
    if cut {
        let whole = match messages.last() {
            // The last message may be half.
            Some(_) if leg == Leg::MenshenToClient => &messages[..messages.len() - 1],
            Some(last) if last[0] == b'E' && last.windows(10).any(|w| w == b"upstream-l" || w == b"rule: upst") => {
                &messages[..messages.len() - 1]
            }
            Some(_) | None => messages.as_slice(),
        };
        if !expected.starts_with(whole) {
            problem = Some("what came before the cut is not what it should be");
        }
        if end == End::Silent {
            problem = Some("the client was left waiting");
        }
        let told = last_error(&received).is_some_and(|code| code.starts_with("08"));
        // Behind the client's Terminate nobody needs to be told.
        let over = messages.len() >= expected.len();
        if !leg.is_client_s() && !told && !over {
            problem = Some("the client was not told that the server is lost");
        }
    }
    if let Some(problem) = problem {
        let mut wrong = matrix.wrong.lock().unwrap();
        wrong.push(format!(
            "{} {fault:?}: {problem}: {end:?}, {} of {} messages, different from {:?} in place of {:?}",
            leg.label(),
            messages.len(),
            expected.len(),
            shown(
                messages
                    .iter()
                    .zip(expected)
                    .find(|(m, e)| m != e)
                    .map(|(m, _)| m)
                    .or(messages.last())
            ),
            shown(messages.iter().zip(expected).find(|(m, e)| m != e).map(|(_, e)| e)),
        ));
    }
    // Rows that were forged on the way are not Menshen's.
    matrix.received.lock().unwrap().extend(&received);
    let mut counts = matrix.counts.lock().unwrap();
    *counts
        .entry((label(fault), leg.label()))
        .or_default()
        .entry(end)
        .or_default() += 1;
}

#[test]
fn a_server_that_is_lost_at_any_message_of_authentication_is_told_of() {
    let server = Postgres::get();
    let upstream = Faults::before(server.port);
    let menshen = Menshen::behind(
        &format!("hosts = [\"127.0.0.1:{}\"]\nsslmode = \"disable\"", upstream.port),
        "shop",
        &unlimited_policy(),
        "",
    );
    let connect = |name: &str| {
        let parameters = [("application_name", name)];
        Raw::connect_with(menshen.port, "shop", "analyst", &data::password("analyst"), &parameters)
    };
    upstream.arm("whole", Way::Forth, Fault::Record);
    connect("whole").unwrap();
    let recorded = upstream.recorded("whole", Way::Back);
    for place in boundaries(&recorded) {
        for place in [place, place + 3] {
            if place >= recorded.len() {
                continue;
            }
            let name = format!("cut-{place}");
            upstream.arm(&name, Way::Back, Fault::Cut(place, false));
            match connect(&name) {
                // Cut behind ReadyForQuery.
                Ok(_) => assert!(place >= recorded.len() - 40, "{place}"),
                Err(e) => assert!(e.starts_with("08"), "{place}: {e}"),
            }
        }
    }
}

#[test]
fn a_backend_that_is_ended_says_so_in_its_own_words() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let server = Postgres::get();
    let end = |state: &str| {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}' AND usename = 'analyst' AND {state}",
            menshen.database
        );
        let begun = Instant::now();
        while server.sql("postgres", &sql).trim() != "1" {
            assert!(begun.elapsed() < Duration::from_secs(20), "{state}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    type Begin = fn(&mut Raw);
    let cases: [(&str, &str, Begin); 6] = [
        ("idle", "state = 'idle'", |_| {}),
        ("in a transaction", "state = 'idle in transaction'", |raw| {
            assert_eq!(raw.simple("BEGIN").status, b'T');
        }),
        ("in a query", "query LIKE '%pg_sleep%' AND state = 'active'", |raw| {
            raw.send(b'Q', b"SELECT pg_sleep(100)\0");
        }),
        ("in a pipeline", "query LIKE '%pg_sleep%' AND state = 'active'", |raw| {
            raw.parse("", "SELECT pg_sleep(100)");
            raw.bind("", "", &[], &[]);
            raw.execute("", 0);
            raw.send(b'H', b"");
        }),
        ("in COPY FROM", "query LIKE 'COPY%' AND state = 'active'", |raw| {
            raw.send(b'Q', b"COPY crm.notes FROM STDIN\0");
            while raw.next().unwrap().kind != b'G' {}
        }),
        ("in COPY TO", "query LIKE 'COPY%' AND state = 'active'", |raw| {
            raw.send(b'Q', b"COPY (SELECT id, pg_sleep(0.1) FROM crm.notes) TO STDOUT\0");
        }),
    ];
    for (what, state, begin) in cases {
        let mut raw = menshen.connect("analyst", "");
        begin(&mut raw);
        end(state);
        let last = std::iter::from_fn(|| raw.next().ok())
            .last()
            .unwrap_or_else(|| panic!("{what}: no word"));
        assert_eq!(last.kind, b'E', "{what}: {last:?}");
        assert_eq!(crate::harness::raw::fields(&last.body).0, "57P01", "{what}");
    }
    assert_eq!(menshen.connect("analyst", "").simple("SELECT 1").text(0, 0), "1");
}
