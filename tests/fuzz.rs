//! Mutated statements through the whole guard, without a server behind: nothing panics or hangs, what is edited reads again, what is
//! not edited is the client's own text. `MENSHEN_FUZZ` says how many, `MENSHEN_SEED` where to begin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use menshen::catalog::introspect;
use menshen::guard::{self, Ground, Request};
use menshen::mask::TokenSettings;
use menshen::policy::Policy;
use menshen::principal::{Declared, Principal};

use crate::harness::Postgres;
use crate::harness::menshen::unlimited_policy;

/// Statements to begin with: every case of the other tests.
fn corpus() -> Vec<String> {
    let mut all: Vec<String> = include_str!("../src/guard/shapes.sql")
        .lines()
        .map(str::to_owned)
        .collect();
    for text in [
        include_str!("cases/select.toml"),
        include_str!("cases/modify.toml"),
        include_str!("cases/attacks.toml"),
    ] {
        let table: BTreeMap<String, toml::Value> = toml::from_str(text).unwrap();
        // What is tried, and not what is said about it.
        for (key, value) in table
            .iter()
            .filter(|(k, _)| !matches!(k.as_str(), "promises" | "elsewhere"))
        {
            strings(key, value, &mut all);
        }
    }
    all.retain(|s| s.len() > 8);
    all.extend([String::new(), " ".to_owned(), "\n\t".to_owned(), ";".to_owned()]);
    all
}

fn strings(key: &str, value: &toml::Value, all: &mut Vec<String>) {
    match value {
        toml::Value::String(text) if !matches!(key, "name" | "not") => all.push(text.clone()),
        toml::Value::String(_) => {}
        toml::Value::Array(items) => items.iter().for_each(|v| strings(key, v, all)),
        toml::Value::Table(table) => table.iter().for_each(|(k, v)| strings(k, v, all)),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) => {}
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n.max(1) as u64).unwrap()
    }
}

/// Odd bytes: quotes, comments, names kept for Menshen, letters of several bytes, look-alikes of blanks.
const ODD: [&str; 24] = [
    "'",
    "\"",
    "$$",
    "$x$",
    "--",
    "/*",
    "*/",
    ";",
    "(",
    ")",
    ".",
    "\\",
    "E'",
    "U&\"",
    "menshen_k1",
    "门神",
    "\u{a0}",
    "\u{200b}",
    "crm.customers",
    " UNION ",
    " FROM ",
    "::text",
    "$1",
    "\0",
];

/// Half of the time in words, so that many still parse; half of the time in letters.
fn mutated(corpus: &[String], dice: &mut Dice) -> String {
    let text = corpus[dice.below(corpus.len())].clone();
    if dice.below(2) == 0 {
        words_mutated(&text, corpus, dice)
    } else {
        letters_mutated(&text, corpus, dice)
    }
}

/// Words are exchanged, left out, doubled, or taken from another statement.
fn words_mutated(text: &str, corpus: &[String], dice: &mut Dice) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    let other: Vec<&str> = corpus[dice.below(corpus.len())].split(' ').collect();
    for _ in 0..1 + dice.below(2) {
        let at = dice.below(words.len());
        let from = dice.below(other.len());
        let end = (from + 1 + dice.below(4)).min(other.len());
        match dice.below(4) {
            0 => words[at] = other[from],
            1 if words.len() > 1 => {
                words.remove(at);
            }
            2 => {
                let to = dice.below(words.len());
                words.swap(at, to);
            }
            _ => {
                words.splice(at..at, other[from..end].iter().copied());
            }
        }
    }
    words.join(" ")
}

fn letters_mutated(text: &str, corpus: &[String], dice: &mut Dice) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for _ in 0..1 + dice.below(2) {
        let at = dice.below(text.len() + 1);
        match dice.below(6) {
            0 => {
                let odd = ODD[dice.below(ODD.len())];
                text.splice(at..at, odd.chars());
            }
            1 if !text.is_empty() => {
                let end = (at + 1 + dice.below(6)).min(text.len());
                text.drain(at.min(end)..end);
            }
            2 => {
                let other: Vec<char> = corpus[dice.below(corpus.len())].chars().collect();
                let from = dice.below(other.len());
                let end = (from + dice.below(40)).min(other.len());
                text.splice(at..at, other[from..end].iter().copied());
            }
            3 if text.len() > 2 => {
                let to = dice.below(text.len());
                let at = dice.below(text.len());
                text.swap(at, to);
            }
            4 => {
                let end = (at + dice.below(30)).min(text.len());
                let copy: Vec<char> = text[at.min(end)..end].to_vec();
                text.splice(at..at, copy);
            }
            _ => {
                let word: String = corpus[dice.below(corpus.len())]
                    .split(' ')
                    .next_back()
                    .unwrap_or("x")
                    .to_owned();
                text.splice(at..at, word.chars());
            }
        }
    }
    text.into_iter().collect()
}

#[test]
fn mutated_statements_end_in_a_plan_or_a_refusal() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (count, seed) = (number("MENSHEN_FUZZ", 4_000), number("MENSHEN_SEED", 1));
    let server = Postgres::get();
    let document = server.sql(
        &server.shop(),
        &format!("{}; {}", introspect::PREPARE, introspect::QUERY),
    );
    let catalog = introspect::parse(document.trim().trim_start_matches("SET").trim(), 1).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    std::fs::write(&file, unlimited_policy()).unwrap();
    let (policy, _) = Policy::load(&file, 1).unwrap();
    let grounds: Vec<_> = ["analyst", "intern", "dba"]
        .into_iter()
        .map(|login| {
            let principal = Principal {
                login: login.into(),
                groups: Default::default(),
                address: None,
            };
            (
                login,
                policy.standing(&principal, &Declared::default(), jiff::Timestamp::now()),
            )
        })
        .collect();
    let ground = Ground::new(Arc::new(policy), Arc::new(catalog), None, None);
    let token = TokenSettings {
        inner: "menshen.ki".into(),
        outer: "menshen.ko".into(),
    };
    let corpus = corpus();
    assert!(corpus.len() > 800, "{}", corpus.len());
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut planned, mut edited, mut slowest) = (0_u32, 0_u32, Duration::ZERO);
    for round in 0..count {
        let text = mutated(&corpus, &mut dice);
        let (login, standing) = &grounds[dice.below(grounds.len())];
        let request = Request {
            text: &text,
            login,
            standing,
            search_path: &["pg_catalog".into(), "crm".into(), "public".into()],
            current_user: login,
            token: &token,
            cursor: &|_| None,
            prepared: &|_| None,
            undone_at_end: false,
            extended: round % 2 == 0,
        };
        let begun = Instant::now();
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| guard::examine(&ground, &request)));
        slowest = slowest.max(begun.elapsed());
        let judged = judged.unwrap_or_else(|_| panic!("panicked on {text:?}"));
        if let Ok(plan) = judged {
            planned += 1;
            if plan.edited {
                edited += 1;
                assert!(
                    guard::parse::parse(&plan.text).is_ok(),
                    "{text:?} became {:?}",
                    plan.text
                );
            } else {
                assert_eq!(*plan.text, *text);
            }
        }
    }
    assert!(
        planned > 150 && edited > 50,
        "{planned} planned, {edited} edited of {count}"
    );
    assert!(slowest < Duration::from_secs(10), "one statement took {slowest:?}");
}
