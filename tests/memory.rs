//! What a session costs: next to nothing while it is idle, and no more than a stated bound while one side is slower than the other
//! (docs/CHANNEL.md).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::menshen::{CASE, demo_policy, unlimited_policy};
use crate::harness::{Menshen, Postgres, Raw};

/// The stated bound.
const BOUND_KIB: u64 = 6 * 1024;
/// Pages that the allocator has at hand, whoever has used them last: 13 MiB have been seen.
const ALLOCATOR_KIB: u64 = 14 * 1024;
/// At most this much for an idle session.
const IDLE_KIB: u64 = 30;

/// Waits until it grows no more, and gives what it is then.
fn settled(menshen: &Menshen) -> u64 {
    let (mut last, mut since) = (menshen.rss_kib(), Instant::now());
    let begun = Instant::now();
    while since.elapsed() < Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(100));
        let now = menshen.rss_kib();
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    menshen.rss_kib()
}

fn bounded(menshen: &Menshen, before: u64, what: &str) {
    let now = settled(menshen);
    println!("{what}: {before} KiB, then {now} KiB");
    assert!(
        now <= before + BOUND_KIB + ALLOCATOR_KIB,
        "{what}: {before} KiB grew to {now} KiB"
    );
}

/// Rows that have been received when the answer is over.
fn rows(raw: &mut Raw) -> usize {
    let mut rows = 0;
    loop {
        let message = raw.next().unwrap();
        raw.received.clear();
        match message.kind {
            b'D' => rows += 1,
            b'Z' => return rows,
            b'E' => panic!("{}", String::from_utf8_lossy(&message.body)),
            _ => {}
        }
    }
}

#[test]
fn a_client_that_does_not_read_costs_no_more_than_the_bound() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    // 200 MB and more each: unmetered, metered row by row, COPY.
    let texts = [
        "SELECT repeat('x', 10000) FROM generate_series(1, LAST)",
        "SELECT c.phone, repeat('x', 10000) FROM crm.customers c, generate_series(1, LAST) g WHERE c.id <= 200",
        "COPY (SELECT repeat('x', 10000) FROM generate_series(1, LAST)) TO STDOUT",
    ];
    for (text, (few, all)) in texts.into_iter().zip([("10", "20000"), ("1", "110"), ("10", "20000")]) {
        let mut raw = menshen.connect("support", CASE);
        // What judging takes, it takes once.
        raw.send(b'Q', format!("{}\0", text.replace("LAST", few)).as_bytes());
        rows(&mut raw);
        let before = settled(&menshen);
        raw.send(b'Q', format!("{}\0", text.replace("LAST", all)).as_bytes());
        bounded(&menshen, before, text);
        rows(&mut raw);
        bounded(&menshen, before, "when all of it has been read");
    }
}

#[test]
fn a_pipeline_whose_answers_nobody_reads_costs_no_more_than_the_bound() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let message = |kind: u8, body: &[u8]| {
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    };
    let mut large = b"\0s\0\0\0\0\x01".to_vec();
    large.extend(10_000_i32.to_be_bytes());
    large.extend(vec![b'x'; 10_000]);
    large.extend([0, 0]);
    let pipelines = [
        // Answers as large as the questions.
        [message(b'B', &large), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat(),
        // The shortest questions there are, and short ones in one pipeline.
        message(b'S', b""),
        message(b'Q', b"SELECT 1\0"),
        [message(b'B', b"\0one\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0")].concat(),
    ];
    for pipeline in pipelines {
        let mut raw = menshen.connect("analyst", "");
        for (name, text) in [("s", "SELECT $1::text"), ("one", "SELECT 1")] {
            raw.parse(name, text);
            raw.sync();
            assert_eq!(raw.answer().error, None);
        }
        assert_eq!(raw.simple("SELECT 1").error, None);
        let before = settled(&menshen);
        let mut writer = raw.writer();
        writer.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
        let many = pipeline.repeat(64 * 1024 / pipeline.len() + 1);
        let mut sent = 0;
        // Until nobody takes any more: then every buffer on the way is full.
        while sent < 200_000_000 {
            match writer.write(&many) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        bounded(&menshen, before, &format!("a pipeline of {sent} bytes"));
    }
}

#[test]
fn a_server_that_does_not_read_costs_no_more_than_the_bound() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    assert_eq!(raw.simple("SELECT pg_sleep(0)").error, None);
    let before = settled(&menshen);
    raw.send(b'Q', b"SELECT pg_sleep(20)\0");
    // CopyData, which the server ignores outside of COPY, when it comes to read it.
    let mut data = b"d".to_vec();
    data.extend(30_004_i32.to_be_bytes());
    data.extend(vec![b'x'; 30_000]);
    let mut writer = raw.writer();
    writer.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut sent = 0;
    while sent < 200_000_000 {
        match writer.write(&data.repeat(10)) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
    }
    bounded(&menshen, before, &format!("{sent} bytes for a server that sleeps"));
}

#[test]
fn what_is_prepared_without_a_name_is_forgotten_when_it_is_replaced() {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    let round = |raw: &mut Raw| {
        for _ in 0..200 {
            raw.parse("", "SELECT id, name, grade, city FROM crm.customers WHERE id = $1");
            raw.bind("", "", &["7"], &[]);
            raw.execute("", 0);
        }
        raw.sync();
        assert_eq!(raw.answer().error, None);
        raw.received.clear();
    };
    for _ in 0..20 {
        round(&mut raw);
    }
    let before = settled(&menshen);
    for _ in 0..200 {
        round(&mut raw);
    }
    let now = settled(&menshen);
    println!("40000 statements: {before} KiB, then {now} KiB");
    assert!(now <= before + 2 * 1024, "{before} KiB grew to {now} KiB");
}

#[test]
fn a_large_message_costs_four_times_its_size_at_most() {
    const BYTES: usize = 30_000_000;
    let most = |run: &dyn Fn(&mut Raw)| {
        let menshen = Menshen::with(&unlimited_policy(), "");
        let mut raw = menshen.connect("analyst", "");
        assert_eq!(raw.simple("SELECT repeat('x', 3)").error, None);
        let before = settled(&menshen);
        run(&mut raw);
        let most = menshen.rss_most_kib() - before;
        println!("a message of {BYTES} bytes: {most} KiB more");
        assert!(most <= BOUND_KIB + 4 * BYTES as u64 / 1024, "{most} KiB");
    };
    // From the server, and from the client.
    most(&|raw| {
        let answer = raw.simple(&format!("SELECT repeat('x', {BYTES})"));
        assert_eq!(answer.text(0, 0).len(), BYTES);
    });
    most(&|raw| {
        let text = "x".repeat(BYTES);
        assert_eq!(
            raw.extended("SELECT length($1)", &[&text], false).text(0, 0),
            BYTES.to_string()
        );
    });
}

#[test]
fn a_large_answer_costs_no_more_than_the_bound() {
    // MENSHEN_STREAM_MIB=10240 streams 10 GiB: some minutes without optimization.
    let mib: u64 = std::env::var("MENSHEN_STREAM_MIB").map_or(256, |m| m.parse().unwrap());
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut raw = menshen.connect("analyst", "");
    let ask = |raw: &mut Raw, rows: u64| {
        let text = format!("SELECT g, repeat('x', 1048560) FROM generate_series(1, {rows}) g\0");
        raw.send(b'Q', text.as_bytes());
        let (mut most, mut bytes) = (0, 0);
        loop {
            let message = raw.next().unwrap();
            raw.received.clear();
            match message.kind {
                b'D' => bytes += message.body.len() as u64,
                b'Z' => return (most, bytes),
                b'E' => panic!("{}", String::from_utf8_lossy(&message.body)),
                _ => {}
            }
            if bytes >> 20 & 63 == 0 {
                most = most.max(menshen.rss_kib());
            }
        }
    };
    ask(&mut raw, 20);
    let before = settled(&menshen);
    let (most, bytes) = ask(&mut raw, mib);
    println!("{bytes} bytes: {before} KiB, then {most} KiB at most");
    assert!(
        bytes >= mib * 1_000_000 && most <= before + BOUND_KIB,
        "{before} KiB grew to {most} KiB"
    );
}

/// A server that lets everybody in and says no more. The service login is passed on to a real one.
async fn lenient(mut client: tokio::net::TcpStream, real: u16) -> std::io::Result<()> {
    let mut startup;
    loop {
        let length = usize::try_from(client.read_i32().await?).unwrap();
        startup = vec![0_u8; length - 4];
        client.read_exact(&mut startup).await?;
        if length != 8 {
            break;
        }
        client.write_all(b"N").await?;
    }
    if startup.windows(13).any(|w| w == b"user\0menshen\0") {
        let mut server = tokio::net::TcpStream::connect(("127.0.0.1", real)).await?;
        server.write_i32(i32::try_from(startup.len() + 4).unwrap()).await?;
        server.write_all(&startup).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let mut answer = b"R\0\0\0\x08\0\0\0\0".to_vec();
    for setting in [
        b"server_version\x0015.0\0".as_slice(),
        b"client_encoding\0UTF8\0",
        b"standard_conforming_strings\0on\0",
        b"TimeZone\0Etc/UTC\0",
    ] {
        answer.push(b'S');
        answer.extend(i32::try_from(setting.len() + 4).unwrap().to_be_bytes());
        answer.extend(setting);
    }
    answer.extend(b"K\0\0\0\x0c");
    answer.extend(client.peer_addr()?.port().to_be_bytes().repeat(4));
    answer.extend(b"Z\0\0\0\x05I");
    client.write_all(&answer).await?;
    let mut rest = [0_u8; 64];
    // It does not close for a Terminate: Menshen must.
    while client.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Such a server, for as long as the runtime lives.
fn lenient_server(runtime: &tokio::runtime::Runtime) -> u16 {
    let real = Postgres::get().port;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(lenient(client, real));
        }
    });
    port
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// How many connections this process and Menshen may have: two descriptors for each.
fn most_connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = files.current.unwrap_or(u64::MAX).min(files.maximum.unwrap_or(u64::MAX));
    let many = usize::try_from((most.saturating_sub(500) / 2).min(5000)).unwrap();
    assert!(many > 200, "too few open files are allowed: {most}");
    many
}

/// Opens connections one by one, and gives the bytes that each costs. The first ones pay for what all of them use.
fn cost<C>(menshen: &Menshen, many: usize, connect: impl Fn() -> C) -> u64 {
    let first: Vec<C> = (0..100).map(|_| connect()).collect();
    let before = settled(menshen);
    let others: Vec<C> = (first.len()..many).map(|_| connect()).collect();
    let after = settled(menshen);
    let each = after.saturating_sub(before) * 1024 / others.len() as u64;
    println!(
        "{} idle connections: {before} KiB, then {after} KiB: {each} bytes each",
        others.len()
    );
    each
}

#[test]
fn an_idle_connection_costs_at_most_thirty_kib() {
    let runtime = runtime();
    let port = lenient_server(&runtime);
    let menshen = Menshen::behind(
        &format!("hosts = [\"127.0.0.1:{port}\"]"),
        &Postgres::get().shop(),
        &demo_policy(),
        "[limits]\nsessions_max = 6000\n",
    );
    let each = cost(&menshen, most_connections(), || menshen.connect("analyst", ""));
    assert!(each <= IDLE_KIB * 1024, "{each} bytes for each idle connection");
}

#[test]
fn an_idle_connection_with_tls_costs_no_more_than_that() {
    let runtime = runtime();
    let port = lenient_server(&runtime);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(keys.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let at = keys.path().display();
    let menshen = Menshen::behind(
        &format!("hosts = [\"127.0.0.1:{port}\"]"),
        &Postgres::get().shop(),
        &demo_policy(),
        &format!("[tls]\ncert = \"{at}/cert.pem\"\nkey = \"{at}/key.pem\"\n"),
    );
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let config = std::sync::Arc::new(config);
    let body = format!("user\0analyst\0database\0{}\0\0", menshen.database);
    let length = i32::try_from(body.len() + 8).unwrap().to_be_bytes();
    let startup = [&length, &196_608_i32.to_be_bytes(), body.as_bytes()].concat();
    let each = cost(&menshen, 900, || {
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let connection = rustls::ClientConnection::new(config.clone(), name).unwrap();
        let tcp = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, tcp);
        tls.write_all(&startup).unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"Z\0\0\0\x05I") {
            let mut some = [0_u8; 512];
            let n = tls.read(&mut some).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&said));
            said.extend(&some[..n]);
        }
        tls
    });
    assert!(each <= IDLE_KIB * 1024, "{each} bytes for each idle connection");
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let runtime = runtime();
    let port = lenient_server(&runtime);
    let menshen = Menshen::behind(
        &format!("hosts = [\"127.0.0.1:{port}\"]"),
        &Postgres::get().shop(),
        &demo_policy(),
        "[limits]\nsessions_max = 50\nsessions_per_login_max = 50\nsessions_per_address_max = 50\n",
    );
    // A seat is free when whoever had it has been closed, which may take its time.
    let connect = || {
        let begun = Instant::now();
        loop {
            match Raw::connect(menshen.port, &menshen.database, "analyst", "", "") {
                Ok(raw) => return raw,
                Err(why) => assert!(why.starts_with("53300") && begun.elapsed().as_secs() < 60, "{why}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let churn = |rounds: usize| {
        for round in 0..rounds {
            let sessions: Vec<Raw> = (0..10).map(|_| connect()).collect();
            for mut raw in sessions {
                match round % 3 {
                    0 => raw.send(b'X', b""),
                    1 => raw.write_raw(b"Q\0\0"),
                    _ => {}
                }
            }
            // Some who do not come in.
            let mut half = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
            half.write_all(b"\0\0\x01").unwrap();
        }
    };
    churn(30);
    let before = settled(&menshen);
    churn(200);
    bounded(&menshen, before, "2000 connections later");
}
