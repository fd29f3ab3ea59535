//! SQLsmith's statements as restricted logins: odd ones, over the shop and the whole catalog, from a generator that nobody here wrote.
//! It reads its catalog through Menshen; what it makes is sent from here, so that every byte of the answers is scanned.
//! `MENSHEN_SQLSMITH` says how many statements for the first login, half of it for the other, `MENSHEN_SEED` which.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use menshen::cli::demo::data;

use crate::harness::canary::leaks;
use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::raw::rule;
use crate::harness::{Menshen, Raw};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// What SQLsmith makes for a login, from what it can read of the catalog through Menshen.
fn made(menshen: &Menshen, login: &str, options: &str, more: &[&str], count: u64, seed: u64) -> Vec<String> {
    let target = format!(
        "host=127.0.0.1 port={} user={login} password={} dbname={}",
        menshen.port,
        data::password(login),
        menshen.database
    );
    let output = Command::new("sqlsmith")
        .arg(format!("--target={target}"))
        .args([
            format!("--max-queries={count}"),
            format!("--seed={seed}"),
            "--dry-run".to_owned(),
        ])
        .args(more)
        .env("PGOPTIONS", options)
        .output()
        .expect("sqlsmith is installed; run `make setup`");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !words.contains("ERROR"), "{login}: {words}");
    let statements: Vec<String> = text
        .split(";\n")
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect();
    assert!(
        statements.len() as u64 >= count,
        "{login}: {} statements; {words}",
        statements.len()
    );
    statements
}

#[test]
fn what_sqlsmith_makes_shows_nothing_and_breaks_nothing() {
    let (count, seed) = (number("MENSHEN_SQLSMITH", 120), number("MENSHEN_SEED", 1));
    let menshen = Menshen::with(&unlimited_policy(), "");
    let mut rules: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let (mut answered, mut refused, mut wrong, mut rows) = (0_u32, 0_u32, 0_u32, 0);
    let mut failures = Vec::new();
    // It asks some three thousand questions before it begins: once a login is enough.
    for (login, options, more, count) in [
        ("analyst", "", &["--exclude-catalog"][..], count),
        ("support", CASE, &[], count / 2),
    ] {
        let mut raw = menshen.connect(login, options);
        raw.simple("SET statement_timeout = '2s'");
        let statements = made(&menshen, login, options, more, count, seed);
        for (n, sql) in statements.iter().enumerate() {
            // Each second relation of SQLsmith is a sample: some go without, so that more than one reason is met.
            let sql = if n % 4 == 0 { sql.clone() } else { without_samples(sql) };
            let (before, begun) = (raw.received.len(), Instant::now());
            raw.simple("BEGIN");
            let own = raw.received.len();
            let answer = ask(&mut raw, &sql, n);
            let bytes = raw.received[own..].to_vec();
            raw.simple("ROLLBACK");
            if begun.elapsed() > Duration::from_secs(30) {
                failures.push(format!("{login}: took {:?}: {sql}", begun.elapsed()));
            }
            if let Some(found) = leaks(&raw.received[before..], login, &sql).first() {
                failures.push(format!("{login}: {found:?} leaked by {sql}"));
            }
            match (answer, rule(&bytes)) {
                (Ok(shown), _) => {
                    answered += 1;
                    rows += shown;
                }
                (Err(_), Some(rule)) => {
                    refused += 1;
                    let entry = rules.entry(rule).or_insert((0, sql.clone()));
                    entry.0 += 1;
                    if entry.1.len() > sql.len() {
                        entry.1.clone_from(&sql);
                    }
                }
                (Err(sqlstate), None) => {
                    // Internal errors of ours, and edits that the server does not accept, would show here.
                    if matches!(sqlstate.as_str(), "XX000" | "08P01" | "42601") {
                        failures.push(format!("{login}: {sqlstate}: {sql}"));
                    }
                    wrong += 1;
                }
            }
        }
        assert_eq!(raw.simple("SELECT 1").text(0, 0), "1");
    }
    println!("{answered} answered with {rows} rows, {refused} refused, {wrong} in error on the server");
    for (rule, (times, example)) in &rules {
        let example: Vec<&str> = example.split_whitespace().take(60).collect();
        println!("{times:5}  {rule}\n       {}", example.join(" "));
    }
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n")
    );
    // A disagreement or an edit that could not be proven is never the client's fault.
    for rule in ["guards-disagree", "edit-differs", "unreadable-error"] {
        assert!(!rules.contains_key(rule), "{rule}: {:?}", rules[rule]);
    }
    assert!(answered > 0 && u64::from(answered + refused + wrong) >= count + count / 2);
}

/// The number of rows, or the SQLSTATE.
fn ask(raw: &mut Raw, sql: &str, n: usize) -> Result<usize, String> {
    let answer = match n % 3 {
        0 => raw.simple(sql),
        1 => raw.extended(sql, &[], false),
        _ => raw.extended(sql, &[], true),
    };
    match answer.error {
        None => Ok(answer.rows.len()),
        Some((sqlstate, _)) => Err(sqlstate),
    }
}

fn without_samples(sql: &str) -> String {
    let mut parts = sql.split(" tablesample ");
    let mut text = parts.next().unwrap_or("").to_owned();
    for part in parts {
        text.push(' ');
        text.push_str(part.split_once(") ").map_or("", |(_, rest)| rest));
    }
    text
}
