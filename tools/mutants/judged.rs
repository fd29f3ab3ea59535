//! `judged DIRECTORY NUMBER…`: which woven mutants change what the guard says of the statements of `tests/cases/*.toml`.
//!
//! DIRECTORY is what `tests/verdicts.rs` wrote with `MENSHEN_VERDICTS_OUT`. For each mutant two lines: `begin N`, then one of
//! `unreached N`, `same N`, `killed N …`, `panicked N …`. `tools/mutants/run` copies this to `examples/` beside woven sources.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a tool for developers"
)]

#[path = "../tests/verdicts/corpus.rs"]
mod corpus;

use std::collections::BTreeSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use corpus::{Judges, LOGINS, On, Said, Sequence, sequences};
use menshen::guard::Ground;
use menshen::mutant;
use menshen::policy::Standing;

/// One sequence for one login, what was said with no mutant on, and which mutants it reaches.
struct Unit<'s> {
    sequence: &'s Sequence,
    login: usize,
    said: Vec<Said>,
    reaches: BTreeSet<u32>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("usage: judged DIRECTORY NUMBER…");
    let read = |name: &str| std::fs::read_to_string(format!("{directory}/{name}")).expect("input");
    let numbers: Vec<u32> = arguments.map(|a| a.parse().expect("number")).collect();
    let policy = std::fs::read_to_string("policies/demo.toml").expect("policy");
    mutant::set(None);
    let judges = Judges::new(
        &read("shop.json"),
        &read("attacked.json"),
        &read("limited.json"),
        &read("attacks.toml"),
        &policy,
    );
    let _while_loading = mutant::asked();
    let _again = again(&judges);
    let ground: BTreeSet<u32> = mutant::asked().into_iter().collect();
    let mut sequences = sequences();
    // Where set, only the sequences whose theme begins so.
    if let Ok(theme) = std::env::var("MUTANTS_THEME") {
        sequences.retain(|s| s.theme.starts_with(&theme));
    }
    let mut units = Vec::new();
    for sequence in &sequences {
        for login in 0..LOGINS.len() {
            let mut said = Vec::new();
            judges.judge(sequence, login, |_, s| {
                said.push(s);
                true
            });
            let reaches = mutant::asked().into_iter().collect();
            units.push(Unit {
                sequence,
                login,
                said,
                reaches,
            });
        }
    }
    std::panic::set_hook(Box::new(|_| {}));
    for number in numbers {
        say(&format!("begin {number}"));
        let grounded = ground.contains(&number);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            mutant::set(Some(number));
            let own = grounded.then(|| again(&judges));
            try_one(number, own.as_ref().unwrap_or(&judges), grounded, &units)
        }));
        mutant::set(None);
        say(&outcome.unwrap_or_else(|_| format!("panicked {number}")));
    }
}

/// The same, resolved anew.
fn again(judges: &Judges) -> Judges {
    let anew = |(on, ground, standings): &(On, Ground, Vec<Standing>)| {
        let (policy, catalog) = (Arc::clone(&ground.policy), Arc::clone(&ground.catalog));
        let ground = Ground::new(policy, catalog, ground.pack.clone(), None);
        (*on, ground, standings.clone())
    };
    Judges {
        grounds: judges.grounds.iter().map(anew).collect(),
    }
}

fn try_one(number: u32, judges: &Judges, grounded: bool, units: &[Unit<'_>]) -> String {
    let reaching: Vec<&Unit<'_>> = units.iter().filter(|u| grounded || u.reaches.contains(&number)).collect();
    // Where set, about so many are tried, at even distances (odd, so that every login comes up): fewer are killed, none wrongly.
    let most = std::env::var("MUTANTS_UNITS").ok().and_then(|v| v.parse().ok()).unwrap_or(usize::MAX);
    let step = reaching.len().div_ceil(most) | 1;
    for unit in reaching.iter().step_by(step) {
        let mut changed = None;
        judges.judge(unit.sequence, unit.login, |at, now| {
            if unit.said[at] == now {
                return true;
            }
            changed = Some((at, now));
            false
        });
        if let Some((at, now)) = changed {
            return format!(
                "killed {number}\t{}\t{}\t{}\t{}\t{}",
                unit.sequence.theme,
                LOGINS[unit.login].0,
                unit.said[at].short,
                now.short,
                unit.sequence.statements[at].replace(['\n', '\t'], " ")
            );
        }
    }
    format!("{} {number}", if reaching.is_empty() { "unreached" } else { "same" })
}

fn say(line: &str) {
    println!("{line}");
    let _flushed = std::io::stdout().flush();
}
