//! What the guard says of every statement of `cases/*.toml`, kept in `cases/verdicts.txt`: a change of the guard shows there what it
//! changes, and a mutant of the guard that changes anything fails here (docs/MUTANTS.md).
//!
//! After an intended change: `MENSHEN_VERDICTS=renew cargo test --test main verdicts`, then read the difference. The digits
//! behind a verdict stand for the sent text, its meter and its report; `MENSHEN_VERDICTS_OUT=DIRECTORY` writes them out.

pub mod corpus;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use menshen::catalog::introspect;
use menshen::guard::{Context, Ground, Late, Plans, Request};
use sha2::{Digest, Sha256};

use crate::attacks;
use crate::harness::Postgres;
use crate::harness::menshen::demo_policy;
use corpus::{Judges, LOGINS, On, Said, Sequence, sequences};

const FILE: &str = "tests/cases/verdicts.txt";

const HEAD: &str = "# What the guard says of each statement of cases/*.toml, by login. Made by `MENSHEN_VERDICTS=renew cargo test --test main verdicts`.\n";

fn judges() -> (Judges, [String; 3]) {
    let server = Postgres::get();
    let attacked = server.shop();
    server.sql(&attacked, include_str!("cases/attacks.sql"));
    let limited = server.shop();
    server.sql(&limited, include_str!("cases/limited.sql"));
    let documents = [server.shop(), attacked, limited].map(|database| document(&database));
    let [shop, attacked, limited] = &documents;
    let judges = Judges::new(shop, attacked, limited, attacks::TABLES, &demo_policy());
    (judges, documents)
}

fn document(database: &str) -> String {
    Postgres::get().sql(database, &format!("{}; {}", introspect::PREPARE, introspect::QUERY))
}

#[test]
fn the_guard_says_what_it_said() {
    let (judges, [shop, attacked, limited]) = judges();
    let out = std::env::var_os("MENSHEN_VERDICTS_OUT");
    if let Some(directory) = &out {
        let directory = Path::new(directory);
        std::fs::write(directory.join("shop.json"), &shop).unwrap();
        std::fs::write(directory.join("attacked.json"), &attacked).unwrap();
        std::fs::write(directory.join("limited.json"), &limited).unwrap();
        std::fs::write(directory.join("attacks.toml"), attacks::TABLES).unwrap();
    }
    let (mut now, mut whole) = (Vec::new(), String::new());
    for sequence in sequences() {
        let mut said: Vec<Vec<Said>> = vec![Vec::new(); sequence.statements.len()];
        for login in 0..LOGINS.len() {
            judges.judge(&sequence, login, |at, s| {
                said[at].push(s);
                true
            });
        }
        for (sql, said) in sequence.statements.iter().zip(said) {
            for (s, (login, _)) in said.iter().zip(LOGINS) {
                let _ = writeln!(whole, "{} {login} {sql}\n  {}\n  {}", sequence.theme, s.short, s.whole);
            }
            now.push((sequence.theme.clone(), key(sql), together(&said)));
        }
    }
    if let Some(directory) = &out {
        std::fs::write(Path::new(directory).join("verdicts-whole.txt"), whole).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var("MENSHEN_VERDICTS").is_ok_and(|v| v == "renew") {
        let mut text = HEAD.to_owned();
        let mut last = String::new();
        for (theme, sql, said) in &now {
            if *theme != last {
                let _ = writeln!(text, "\n[{theme}]");
                last.clone_from(theme);
            }
            let _ = writeln!(text, "{sql}\n    {said}");
        }
        std::fs::write(&path, text).unwrap();
    }
    let kept = kept(&std::fs::read_to_string(&path).unwrap());
    assert!(now.len() > 900, "only {} statements", now.len());
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    let (mut new, mut changed) = (0, Vec::new());
    for (theme, sql, said) in now {
        let place = (theme, sql);
        let nth = seen.entry(place.clone()).or_default();
        match kept.get(&place).and_then(|k| k.get(*nth)) {
            None => new += 1,
            Some(before) if *before == said => {}
            Some(before) => changed.push(format!("{}: {}\n    was {before}\n    now {said}", place.0, place.1)),
        }
        *nth += 1;
    }
    assert!(
        changed.is_empty(),
        "{} verdicts have changed\n{}",
        changed.len(),
        changed.join("\n")
    );
    // A new case does not have to be written down at once; many do.
    assert!(new <= 40, "{new} statements are not in {FILE}: renew it");
}

/// A text with other literals. `pick` chooses among a few, some of which have a meaning somewhere.
fn other_literals(text: &str, mut pick: usize) -> String {
    const NUMBERS: [&str; 5] = ["0", "1", "2", "3", "2147483647"];
    const TEXTS: [&str; 6] = [
        "''",
        "'phone'",
        "'crm.customers'",
        "'search_path'",
        "'it''s -- /*'",
        "'menshen_k1'",
    ];
    let Ok(tokens) = menshen::guard::parse::scan(text) else {
        return text.to_owned();
    };
    let mut out = String::new();
    let mut at = 0;
    for token in tokens {
        let (start, end) = (
            usize::try_from(token.start).unwrap(),
            usize::try_from(token.end).unwrap(),
        );
        let written = &text[start..end];
        let other = if written.bytes().all(|b| b.is_ascii_digit()) {
            NUMBERS[pick % NUMBERS.len()]
        } else if written.starts_with('\'') {
            TEXTS[pick % TEXTS.len()]
        } else {
            continue;
        };
        pick = pick / 2 + 7;
        out.push_str(&text[at..start]);
        out.push_str(other);
        at = end;
    }
    out.push_str(&text[at..]);
    out
}

/// Promise 7 must not cost any other: what is kept for a shape is what would be decided for each text of it.
#[test]
fn plans_by_shape_are_those_that_would_be_made() {
    let (mut judges, _) = judges();
    judges.late = true;
    let plans: Vec<(On, [Plans; 2])> = On::ALL
        .into_iter()
        .map(|on| (on, [Plans::new(256 << 20), Plans::new(256 << 20)]))
        .collect();
    // All of them take minutes: MENSHEN_PLANS=all.
    let every = if std::env::var("MENSHEN_PLANS").is_ok_and(|v| v == "all") {
        1
    } else {
        5
    };
    let mut wrong = Vec::new();
    let mut judged = 0;
    for (n, sequence) in sequences().iter().enumerate().filter(|(n, _)| n % every == 0) {
        let mut variants = vec![sequence.clone(), sequence.clone(), sequence.clone()];
        for pick in [n, n + 11, n + 23] {
            let statements = sequence
                .statements
                .iter()
                .map(|sql| other_literals(sql, pick))
                .collect();
            variants.push(Sequence {
                statements,
                ..sequence.clone()
            });
        }
        for login in [0, 1] {
            let (_, kept) = plans.iter().find(|(on, _)| *on == sequence.on).unwrap();
            for variant in &variants {
                let by_plans = |ground: &Ground, request: &Request<'_>| {
                    let context = Context {
                        standing: request.standing.clone(),
                        search_path: request.search_path.to_vec(),
                        current_user: request.current_user.to_owned(),
                        policy: ground.policy.epoch,
                        catalog: ground.catalog.epoch,
                        late: if request.late { Late::Portals } else { Late::Never },
                    };
                    kept[login].examine(ground, request, kept[login].number(&context).unwrap())
                };
                let (mut by_shape, mut anew) = (Vec::new(), Vec::new());
                judges.judge_by(variant, login, by_plans, |_, said| {
                    by_shape.push(said);
                    true
                });
                judges.judge(variant, login, |_, said| {
                    anew.push(said);
                    true
                });
                judged += anew.len();
                for ((sql, one), two) in variant.statements.iter().zip(&by_shape).zip(&anew) {
                    if one != two {
                        wrong.push(format!("{sql}\n  kept {}\n  anew {}", one.whole, two.whole));
                    }
                }
            }
        }
    }
    let sizes: Vec<(u64, usize)> = plans.iter().flat_map(|(_, p)| p).map(Plans::size).collect();
    println!("{judged} judgements, bytes and shapes kept: {sizes:?}");
    assert!(
        sizes.iter().any(|(_, shapes)| *shapes > 30),
        "nothing is kept: {sizes:?}"
    );
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

/// A statement on one line, shortened; what is cut off is in the digits.
fn key(sql: &str) -> String {
    let line = sql.replace('\n', "\\n").replace('\t', "\\t");
    if line.chars().count() <= 75 {
        return line;
    }
    let start: String = line.chars().take(65).collect();
    format!("{start}… {}", hex::encode(&Sha256::digest(sql)[..3]))
}

/// One line for all logins: those that are told the same stand together.
fn together(said: &[Said]) -> String {
    let mut groups: Vec<(Vec<&str>, &str)> = Vec::new();
    for (s, (login, _)) in said.iter().zip(LOGINS) {
        match groups.iter_mut().find(|(_, short)| *short == s.short) {
            Some((logins, _)) => logins.push(login),
            None => groups.push((vec![login], &s.short)),
        }
    }
    if let [(_, one)] = groups.as_slice() {
        return (*one).to_owned();
    }
    let parts: Vec<String> = groups.iter().map(|(l, s)| format!("{}: {s}", l.join(" "))).collect();
    parts.join("; ")
}

fn kept(text: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut kept: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let (mut theme, mut sql) = (String::new(), String::new());
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(said) = line.strip_prefix("    ") {
            let place = (theme.clone(), sql.clone());
            kept.entry(place).or_default().push(said.to_owned());
        } else if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut theme);
        } else {
            line.clone_into(&mut sql);
        }
    }
    kept
}
