//! What a session costs: next to nothing while it is idle, and no more than a stated bound while one side is slower than the other
//! (docs/CHANNEL.md).

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use menshen::cli::demo::data;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::menshen::{CASE, demo_policy, unlimited_policy};
use crate::harness::{Menshen, Postgres, Raw};

/// The stated bound.
const BOUND_KIB: u64 = 6 * 1024;
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
    assert!(now <= before + BOUND_KIB, "{what}: {before} KiB grew to {now} KiB");
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
    while client.read(&mut rest).await? > 0 {}
    Ok(())
}

#[test]
fn an_idle_connection_costs_at_most_thirty_kib() {
    // Two descriptors for each in this process and in Menshen.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = files.current.unwrap_or(u64::MAX).min(files.maximum.unwrap_or(u64::MAX));
    let many = usize::try_from((most.saturating_sub(500) / 2).min(5000)).unwrap();
    assert!(many > 200, "too few open files are allowed: {most}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let real = Postgres::get().port;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(lenient(client, real));
        }
    });
    let menshen = Menshen::behind(
        &format!("hosts = [\"127.0.0.1:{port}\"]"),
        &Postgres::get().shop(),
        &demo_policy(),
        "[limits]\nsessions_max = 6000\n",
    );
    let connect = |n: usize| -> Vec<Raw> {
        (0..n)
            .map(|_| {
                let stream = TcpStream::connect(("127.0.0.1", menshen.port)).unwrap();
                Raw::on_stream(stream, &menshen.database, "analyst", &data::password("analyst"), &[]).unwrap()
            })
            .collect()
    };
    // The first ones pay for what all of them use.
    let first = connect(100);
    let before = settled(&menshen);
    let others = connect(many - first.len());
    let after = settled(&menshen);
    let each = (after.saturating_sub(before)) * 1024 / others.len() as u64;
    println!(
        "{} idle connections: {before} KiB, then {after} KiB: {each} bytes each",
        others.len()
    );
    assert!(
        each <= IDLE_KIB * 1024,
        "{each} bytes for each of {} idle connections",
        others.len()
    );
}
