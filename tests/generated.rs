//! The masked-copy oracle over generated statements. `MENSHEN_GENERATED` says how many (for each role), `MENSHEN_SEED` where to begin.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use menshen::cli::demo::data;

use crate::generator::Generator;
use crate::harness::canary::leaks;
use crate::harness::menshen::unlimited_policy;
use crate::harness::raw::{Answer, rule};
use crate::harness::{Menshen, Postgres, Raw};
use crate::oracle::{EARLY, ROLES, difference, mask};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Objects beside the shop's, their classes, and what masks them on a copy.
const OBJECTS: &str = include_str!("cases/generated.sql");
const CLASSES: &str = r#"
[tables."crm.profiles"]
person = "customer_id"
of = "crm.customers"
columns = { nick = "message", phones = "location", extra = "location", spare = "location" }
[tables."crm.visits"]
person = "customer_id"
of = "crm.customers"
columns = { place = "address" }
"#;
const MASKING: &str = "UPDATE crm.profiles SET nick = '***', phones = NULL, extra = NULL, spare = NULL;";
const PLACES: &str = "UPDATE crm.visits SET place = CASE WHEN place LIKE '%市%' THEN regexp_replace(place, '市.*$', '市***') ELSE '***' END;";

/// A shop with them. The types of all copies have the same numbers.
fn shop() -> String {
    static TEMPLATE: OnceLock<String> = OnceLock::new();
    let server = Postgres::get();
    let template = TEMPLATE.get_or_init(|| {
        let template = server.shop();
        server.sql(&template, OBJECTS);
        template
    });
    server.copy(template)
}

fn copy(login: &str, masking: &str) -> String {
    let copy = shop();
    mask(&copy, masking);
    match login {
        "analyst" => mask(&copy, &format!("{MASKING}{PLACES}")),
        "support" => mask(&copy, MASKING),
        _ => {}
    }
    copy
}

#[test]
fn generated_statements_equal_the_masked_copy() {
    let (count, first) = (number("MENSHEN_GENERATED", 800), number("MENSHEN_SEED", 1));
    let server = Postgres::get();
    let policy = unlimited_policy().replace("[roles.analyst]", &format!("{CLASSES}\n[roles.analyst]"));
    // Both ways to mask.
    let shop = shop();
    let menshens = ["", EARLY].map(|config| Menshen::on(&shop, &policy, config));
    let mut failures = Vec::new();
    let mut refusals: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let (mut answered, mut refused, mut wrong) = (0, 0, 0);
    for (login, options, masking, masked) in ROLES {
        let copy = copy(login, masking);
        let mut ways = menshens.each_ref().map(|menshen| menshen.connect(login, options));
        let mut direct = Raw::connect(server.port, &copy, login, &data::password(login), "").unwrap();
        for raw in ways.iter_mut().chain([&mut direct]) {
            raw.simple("SET statement_timeout = '8s'");
        }
        for seed in first..first + count {
            let [late, early] = &mut ways;
            let through = if seed % 2 == 0 { late } else { early };
            let sql = Generator::new(seed).statement();
            match run(through, &mut direct, &sql, seed) {
                Outcome::Same => answered += 1,
                Outcome::Error => wrong += 1,
                Outcome::Refused(why) => {
                    refused += 1;
                    let entry = refusals.entry(why).or_default();
                    entry.0 += 1;
                    if entry.1.is_empty() || entry.1.len() > sql.len() {
                        entry.1.clone_from(&sql);
                    }
                }
                Outcome::Different(why) => {
                    let small = shrink(through, &mut direct, &sql, seed);
                    failures.push(format!("{login}, seed {seed}: {sql}\n  shrunk: {small}\n    {why}"));
                }
            }
            if failures.len() > 5 {
                break;
            }
        }
        if masked {
            for through in &ways {
                let leaks = leaks(&through.received, login, "");
                assert!(leaks.is_empty(), "{login} received clear values: {leaks:?}");
            }
        }
    }
    println!("{answered} answered alike, {refused} refused, {wrong} in error on both sides");
    for (why, (count, example)) in &refusals {
        println!("{count:5}  {why}\n       {example}");
    }
    assert!(
        failures.is_empty(),
        "{} differ\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(refused * 10 < answered, "{refused} refused of {answered}: {refusals:?}");
    assert!(wrong * 10 < answered, "{wrong} in error of {answered}");
}

enum Outcome {
    Same,
    /// The same error on both sides.
    Error,
    Refused(String),
    Different(String),
}

fn run(through: &mut Raw, direct: &mut Raw, sql: &str, seed: u64) -> Outcome {
    let ask = |raw: &mut Raw| -> Answer {
        raw.simple("BEGIN");
        let answer = match seed % 3 {
            // Cursors and prepared statements: several in one string.
            _ if sql.contains("; ") => raw.simple(sql),
            0 => raw.simple(sql),
            1 => raw.extended(sql, &[], false),
            _ => raw.extended(sql, &[], true),
        };
        raw.simple("ROLLBACK");
        answer
    };
    let before = through.received.len();
    let (got, wanted) = (ask(through), ask(direct));
    if let Some((code, message)) = &got.error
        && matches!(code.as_str(), "0A000" | "42501")
        && wanted.sqlstate() != code
    {
        let rule = rule(&through.received[before..]).unwrap_or_default();
        return Outcome::Refused(format!("{rule}: {}", message.chars().take(110).collect::<String>()));
    }
    if wanted.error.is_some() && got.sqlstate() == wanted.sqlstate() {
        return Outcome::Error;
    }
    match difference(&got, &wanted, false) {
        None => Outcome::Same,
        Some(why) => Outcome::Different(why),
    }
}

/// Leaves tokens out, the longest runs first, as long as the answers still differ and the copy answers at all.
fn shrink(through: &mut Raw, direct: &mut Raw, sql: &str, seed: u64) -> String {
    let mut small = sql.to_owned();
    let mut tries = 0;
    loop {
        let Ok(parsed) = menshen::guard::parse::parse(&small) else {
            return small;
        };
        let words: Vec<String> = parsed
            .tokens
            .iter()
            .map(|t| {
                parsed
                    .slice(usize::try_from(t.start).unwrap(), usize::try_from(t.end).unwrap())
                    .to_owned()
            })
            .collect();
        let mut smaller = None;
        let mut length = words.len() / 2;
        'search: while length > 0 {
            for at in 0..=words.len() - length {
                let text = [&words[..at], &words[at + length..]].concat().join(" ");
                if menshen::guard::parse::parse(&text).is_err() {
                    continue;
                }
                tries += 1;
                if tries > 400 {
                    return small;
                }
                if matches!(run(through, direct, &text, seed), Outcome::Different(ref why) if !why.starts_with("error"))
                {
                    smaller = Some(text);
                    break 'search;
                }
            }
            length /= 2;
        }
        match smaller {
            Some(text) => small = text,
            None => return small,
        }
    }
}
