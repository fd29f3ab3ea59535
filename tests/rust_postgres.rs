//! Rust programs: rust-postgres, which prepares whatever it runs and reads binary values. What it gets through Menshen is what it gets on a masked
//! copy.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use menshen::cli::demo::data;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, Row, SimpleQueryMessage};

use crate::clients::different;
use crate::harness::canary::leaks;
use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Postgres};
use crate::oracle::{ROLES, masked_copy};

/// A value as it came.
struct Raw(Option<Vec<u8>>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw.to_vec())))
    }
    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

fn row(row: &Row) -> String {
    let mut out = String::new();
    for (at, column) in row.columns().iter().enumerate() {
        let Raw(value) = row.get(at);
        let value = value.map_or("NULL".to_owned(), |v| match std::str::from_utf8(&v) {
            Ok(text) if column.type_() == &Type::TEXT => text.to_owned(),
            Ok(_) | Err(_) => format!("{v:?}"),
        });
        let origin = (column.table_oid().is_some(), column.column_id());
        write!(out, "{} {} {origin:?} {value}; ", column.name(), column.type_().oid()).unwrap();
    }
    out
}

fn outcome<T>(result: Result<T, Error>, show: impl Fn(T) -> String) -> String {
    match result {
        Ok(value) => show(value),
        Err(e) => match e.code() {
            Some(code) => format!("error {}", code.code()),
            None => format!("!! {e}"),
        },
    }
}

const TEXTS: [&str; 6] = [
    "SELECT * FROM crm.customers ORDER BY id LIMIT 30",
    "SELECT id, name, phone, birth FROM crm.customers WHERE phone LIKE '1%' ORDER BY id",
    "SELECT c.name, o.item, o.total::text FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id ORDER BY o.id LIMIT 40",
    "SELECT grade, count(*), min(name), array_agg(phone ORDER BY id) FROM crm.customers GROUP BY grade ORDER BY grade",
    "SELECT customer_id, lat, lon FROM crm.customer_locations ORDER BY 1 LIMIT 20",
    "SELECT phone / 2 FROM crm.customers",
];

async fn parts(
    client: &mut Client,
    other: &Client,
    heard: &mut tokio::sync::mpsc::UnboundedReceiver<String>,
) -> Result<String, Error> {
    let mut out = String::new();
    let mut say = |line: String| {
        out.push_str(&line.replace('\n', " "));
        out.push('\n');
    };
    say("== query".to_owned());
    for text in TEXTS {
        say(outcome(client.query(text, &[]).await, |rows| {
            rows.iter().map(row).collect()
        }));
    }
    say("== prepared".to_owned());
    let statement = client
        .prepare("SELECT id, name, email, phone FROM crm.customers WHERE id = $1 OR phone = $2")
        .await?;
    say(format!("{:?}", statement.params()));
    for id in 0_i64..20 {
        let rows = client.query(&statement, &[&id, &"138****0000"]).await?;
        say(rows.iter().map(row).collect());
    }
    say("== pipelined".to_owned());
    let all = (0_i64..30).map(|id| {
        let (client, statement) = (&*client, &statement);
        async move { client.query(statement, &[&id, &"none"]).await }
    });
    for rows in futures_util::future::try_join_all(all).await? {
        say(rows.iter().map(row).collect());
    }
    say("== simple".to_owned());
    for message in client
        .simple_query("SELECT id, phone FROM crm.customers ORDER BY id LIMIT 5; SELECT count(*) FROM crm.products")
        .await?
    {
        match message {
            SimpleQueryMessage::Row(row) => say(format!("{:?} {:?}", row.get(0), row.try_get(1).ok())),
            SimpleQueryMessage::CommandComplete(rows) => say(format!("{rows} rows")),
            other => say(format!("{other:?}")),
        }
    }
    say("== portals".to_owned());
    let transaction = client.transaction().await?;
    let portal = transaction
        .bind("SELECT id, name, phone FROM crm.customers ORDER BY id", &[])
        .await?;
    loop {
        let rows = transaction.query_portal(&portal, 13).await?;
        if rows.is_empty() {
            break;
        }
        say(rows.iter().map(row).collect());
    }
    transaction.commit().await?;
    say("== copy".to_owned());
    let transaction = client.transaction().await?;
    for form in ["", " (FORMAT csv, HEADER)", " (FORMAT binary)"] {
        let data: Vec<Bytes> = transaction
            .copy_out(&format!(
                "COPY (SELECT id, phone, birth FROM crm.customers ORDER BY id LIMIT 50) TO STDOUT{form}"
            ))
            .await?
            .try_collect()
            .await?;
        say(format!("{:?}", data.concat()));
    }
    let sink = transaction
        .copy_in("COPY crm.orders (id, customer_id, item) FROM STDIN")
        .await?;
    let mut sink = std::pin::pin!(sink);
    let rows = (0..300).map(|n| Ok(Bytes::from(format!("{}\t{}\titem {n}\n", 90_000 + n, 1 + n % 30))));
    sink.send_all(&mut stream::iter(rows)).await?;
    say(format!("{} copied", sink.finish().await?));
    say(row(&transaction
        .query_one("SELECT count(*), max(item) FROM crm.orders WHERE id >= 90000", &[])
        .await?));
    transaction.rollback().await?;
    say("== errors".to_owned());
    for text in [
        "SELECT nothing FROM crm.products",
        "SELEC 1",
        "SELECT 1 / 0",
        "SELECT * FROM crm.nothing",
    ] {
        say(outcome(client.query(text, &[]).await, |rows| {
            format!("{} rows", rows.len())
        }));
    }
    say("== notifications while idle".to_owned());
    client.batch_execute("LISTEN shop").await?;
    for n in 0..3 {
        other.batch_execute(&format!("NOTIFY shop, 'number {n}'")).await?;
        say(tokio::time::timeout(Duration::from_secs(20), heard.recv())
            .await
            .ok()
            .flatten()
            .unwrap_or_default());
    }
    say("== cancel".to_owned());
    let token = client.cancel_token();
    let cancelling = async {
        // One that comes before the statement has begun is lost.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _lost = token.cancel_query(NoTls).await;
        }
    };
    tokio::select! {
        result = client.batch_execute("SELECT pg_sleep(30)") => say(outcome(result, |()| "slept".to_owned())),
        () = cancelling => say("!! never cancelled".to_owned()),
    }
    say(row(&client.query_one("SELECT 1 AS one", &[]).await?));
    Ok(out)
}

fn transcript(port: u16, database: &str, login: &str, options: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(port)
            .dbname(database)
            .user(login)
            .password(data::password(login))
            .options(options);
        let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let (mut client, mut connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(heard) = message {
                    let _gone = sender.send(format!("{} {}", heard.channel(), heard.payload()));
                }
            }
        });
        let (other, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        match parts(&mut client, &other, &mut heard).await {
            Ok(out) => out,
            Err(e) => format!("!! {e}"),
        }
    })
}

#[test]
fn rust_programs_get_what_they_get_on_a_masked_copy() {
    for (login, options, masking, masked) in ROLES {
        let menshen = Menshen::with(&unlimited_policy(), "");
        let copy = masked_copy(masking);
        let wanted = transcript(Postgres::get().port, &copy, login, options);
        let thrown: Vec<&str> = wanted.lines().filter(|l| l.starts_with("!! ")).collect();
        let lines = wanted.lines().count();
        assert!(thrown.is_empty() && lines > 80, "{lines} lines on the copy: {thrown:?}");
        let got = transcript(menshen.port, &menshen.database, login, options);
        let found = leaks(got.as_bytes(), login, "");
        assert!(!masked || found.is_empty(), "{login}: {found:?}");
        let different = different(&got, &wanted);
        assert!(different.is_empty(), "{login}: {different}");
    }
}
