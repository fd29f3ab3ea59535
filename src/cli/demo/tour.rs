//! The tour: what each login gets for the same SELECT, then paging to the limit. Every step checks what it shows.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

use super::data;
use super::stage::Stage;

const SELECT: &str = "SELECT id, name, phone, id_card, birth FROM crm.customers ORDER BY id LIMIT 4";
const CASE: &str = "-c menshen.purpose=customer_service -c menshen.case=CS-004711";
/// The insider line of art. 5(1)(8): half of 5 000. The 2 500th person is not released.
const LINE: usize = 2500;
const PAGE: usize = 250;

struct Login {
    client: Client,
    notices: Arc<Mutex<Vec<String>>>,
}

/// Sets the stage, leads the tour, stays until Ctrl-C unless `once`.
pub async fn run(people: u32, once: bool) -> Result<(), String> {
    let interrupted = async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(|e| e.to_string())?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        Ok::<(), String>(())
    };
    tokio::pin!(interrupted);
    // The stage is struck when it is dropped, also on the way out by an error or Ctrl-C.
    let tour = async {
        let stage = Stage::set(people).await?;
        lead(&stage).await?;
        Ok::<Stage, String>(stage)
    };
    let stage = tokio::select! {
        stage = tour => stage?,
        _ = &mut interrupted => return Err("interrupted".to_owned()),
    };
    try_by_hand(&stage);
    if !once {
        println!("\nEverything stays up until Ctrl-C.");
        interrupted.await?;
    }
    println!("Removing everything …");
    Ok(())
}

async fn lead(stage: &Stage) -> Result<(), String> {
    title("The same SELECT, three logins");
    println!("{SELECT}\n");
    let analyst = login(stage, "analyst", "").await?;
    let rows = show("analyst (masks only)", &analyst, SELECT).await?;
    expect(
        rows.len() == 4
            && rows
                .iter()
                .all(|r| cell(r, 1).contains('*') && cell(r, 2).contains("****")),
        "masked rows for the analyst",
    )?;
    let support = login(stage, "support", CASE).await?;
    let rows = show("support, with purpose and case number", &support, SELECT).await?;
    expect(
        rows.len() == 4
            && rows
                .iter()
                .all(|r| !cell(r, 1).contains('*') && !cell(r, 2).contains('*')),
        "clear names and phones for support",
    )?;
    expect(
        rows.iter().all(|r| cell(r, 3).is_empty() || cell(r, 3).contains('*')),
        "masked identity cards for support",
    )?;
    let intern = login(stage, "intern", "").await?;
    println!("intern:");
    match intern.client.simple_query(SELECT).await {
        Ok(_) => return Err("the intern was not refused".to_owned()),
        Err(e) => {
            let error = e.as_db_error().ok_or_else(|| e.to_string())?;
            println!(
                "  ERROR {}: {}\n  {}",
                error.code().code(),
                error.message(),
                error.detail().unwrap_or_default()
            );
            expect(error.code().code() == "42501", "a refusal by policy")?;
        }
    }
    page(stage, &support).await
}

/// Pages through customers by the very query an application would use, until the line holds.
async fn page(stage: &Stage, support: &Login) -> Result<(), String> {
    title("A support agent pages through the customers");
    println!("Line: {LINE} people within 30 days (half of 5 000, 法释〔2017〕10号 art. 5(1)(8))\n");
    let mut seen = std::collections::BTreeSet::new();
    // The four of the tour's SELECT count already; showing them again does not.
    let statement = support
        .client
        .prepare("SELECT id, name, phone FROM crm.customers WHERE id > $1 ORDER BY id LIMIT $2")
        .await
        .map_err(|e| e.to_string())?;
    let mut last = 0_i64;
    let stopped = loop {
        let limit = i64::try_from(PAGE).map_err(|e| e.to_string())?;
        // Row by row: what was released before the stop has been seen.
        let rows = support
            .client
            .query_raw(&statement, [last, limit])
            .await
            .map_err(|e| e.to_string())?;
        let mut rows = Box::pin(rows);
        let mut error = None;
        let mut got = 0;
        while let Some(row) = std::future::poll_fn(|cx| futures_next(rows.as_mut(), cx)).await {
            match row {
                Ok(row) => {
                    last = row.try_get(0).map_err(|e| e.to_string())?;
                    seen.insert(last);
                    got += 1;
                }
                Err(e) => error = Some(e),
            }
        }
        println!("  page of {got:>3}: {} people so far", seen.len());
        for notice in support
            .notices
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .drain(..)
        {
            println!("    NOTICE  {notice}");
        }
        match error {
            Some(e) => break e,
            None if got == 0 => return Err("the customers came to an end before the line".to_owned()),
            None => {}
        }
    };
    let error = stopped.as_db_error().ok_or_else(|| stopped.to_string())?;
    println!(
        "    ERROR {}: {}\n    {}",
        error.code().code(),
        error.message(),
        error.hint().unwrap_or_default()
    );
    expect(error.code().code() == "53400", "the stop's SQLSTATE")?;
    expect(
        seen.len() == LINE - 1,
        &format!("exactly {} people before the stop, not {}", LINE - 1, seen.len()),
    )?;
    title("What the webhook has received");
    for _ in 0..100 {
        if stage
            .alerts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .len()
            >= 3
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let alerts = stage
        .alerts
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    let mut kinds = Vec::new();
    for alert in &alerts {
        let alert: serde_json::Value = serde_json::from_str(alert).map_err(|e| e.to_string())?;
        println!("  {}: {}", text(&alert, "kind"), text(&alert, "message"));
        kinds.push((
            text(&alert, "kind"),
            alert.pointer("/details/share").and_then(serde_json::Value::as_f64),
        ));
    }
    let has = |kind: &str, share: Option<f64>| kinds.iter().any(|(k, s)| k == kind && *s == share);
    expect(has("threshold", Some(0.5)), "the alert at 50 %")?;
    expect(has("threshold", Some(0.8)), "the alert at 80 %")?;
    expect(has("stop", None), "the alert of the stop")
}

fn text(alert: &serde_json::Value, key: &str) -> String {
    alert
        .get(key)
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn futures_next(
    stream: std::pin::Pin<&mut tokio_postgres::RowStream>,
    cx: &mut std::task::Context<'_>,
) -> std::task::Poll<Option<Result<tokio_postgres::Row, tokio_postgres::Error>>> {
    use futures_core::Stream;
    stream.poll_next(cx)
}

async fn login(stage: &Stage, user: &str, options: &str) -> Result<Login, String> {
    let (client, mut connection) = Config::new()
        .host("127.0.0.1")
        .port(stage.menshen)
        .user(user)
        .password(data::password(user))
        .dbname("shop")
        .options(options)
        .connect(NoTls)
        .await
        .map_err(|e| format!("{user}: {e}"))?;
    let notices: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&notices);
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                let text = format!("{} {}", notice.message(), notice.detail().unwrap_or_default());
                kept.lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push(text);
            }
        }
    });
    Ok(Login { client, notices })
}

async fn show(who: &str, login: &Login, sql: &str) -> Result<Vec<Vec<String>>, String> {
    println!("{who}:");
    let messages = login
        .client
        .simple_query(sql)
        .await
        .map_err(|e| format!("{who}: {e}"))?;
    let mut rows = Vec::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            let cells: Vec<String> = (0..row.len())
                .map(|i| row.get(i).unwrap_or_default().to_owned())
                .collect();
            println!("  {}", cells.join(" | "));
            rows.push(cells);
        }
    }
    println!();
    Ok(rows)
}

fn cell(row: &[String], index: usize) -> &str {
    row.get(index).map_or("", String::as_str)
}

fn expect(shown: bool, what: &str) -> Result<(), String> {
    if shown { Ok(()) } else { Err(what.to_owned()) }
}

fn title(text: &str) {
    println!("\n── {text} ──");
}

fn try_by_hand(stage: &Stage) {
    title("Try it by hand");
    let port = stage.menshen;
    println!(
        "  PGPASSWORD={} psql -h 127.0.0.1 -p {port} -U analyst shop",
        data::password("analyst")
    );
    println!(
        "  PGPASSWORD={} PGOPTIONS='{CASE}' psql -h 127.0.0.1 -p {port} -U support shop",
        data::password("support")
    );
    println!(
        "  PGPASSWORD={} psql -h 127.0.0.1 -p {port} -U intern shop",
        data::password("intern")
    );
    println!(
        "  PGPASSWORD={} psql -h 127.0.0.1 -p {port} -U dba shop",
        data::password("dba")
    );
    println!("  e.g. SELECT grade, count(*), max(phone) FROM crm.customers GROUP BY grade;");
}
