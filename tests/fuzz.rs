//! Mutated statements through the whole guard, without a server behind: nothing panics or hangs, what is edited reads again, what is
//! not edited is the client's own text. `MENSHEN_FUZZ` says how many, `MENSHEN_SEED` where to begin. What is called, and what must
//! hold, is that of libFuzzer's targets (`fuzz/`); their corpus is tried as well. `MENSHEN_CORPUS=DIRECTORY` writes seeds for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use menshen::guard;
use menshen::guard::tree::Tree;
use targets::Outcome;

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "libFuzzer's targets call all of it")]
mod targets;

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
    fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
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

/// libFuzzer's dictionary.
static DICTIONARY: LazyLock<Vec<String>> = LazyLock::new(|| {
    let lines = include_str!("../fuzz/sql.dict").lines().filter(|l| l.starts_with('"'));
    lines
        .map(|line| {
            let inner = line.strip_prefix('"').and_then(|l| l.strip_suffix('"')).unwrap();
            let (mut bytes, mut rest) = (Vec::new(), inner.as_bytes());
            while let [first, others @ ..] = rest {
                rest = others;
                match (first, others) {
                    (b'\\', [b'x', a, b, ..]) => {
                        bytes.extend(hex::decode([*a, *b]).unwrap());
                        rest = &others[3..];
                    }
                    (b'\\', [escaped, ..]) => {
                        bytes.push(*escaped);
                        rest = &others[1..];
                    }
                    _ => bytes.push(*first),
                }
            }
            String::from_utf8(bytes).unwrap()
        })
        .collect()
});

/// What can stand in a token's place and leave the statement one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Keyword,
    Name,
    Number,
    String,
    Sign,
}

/// A statement in tokens, as PostgreSQL's scanner sees them, and which of them touch the one before.
type Tokens = Vec<(Kind, bool, String)>;

fn tokens(text: &str) -> Option<Tokens> {
    let (mut end, mut all) = (0, Vec::new());
    for token in guard::parse::scan(text).ok()? {
        let (from, to) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        let written = text.get(from..to)?;
        let kind = match written.as_bytes().first()? {
            b'0'..=b'9' => Kind::Number,
            b'\'' => Kind::String,
            b'a'..=b'z' | b'A'..=b'Z' if token.keyword_kind != 0 => Kind::Keyword,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'"' | 128.. => Kind::Name,
            _ => Kind::Sign,
        };
        all.push((kind, end == from, written.to_owned()));
        end = to;
    }
    Some(all)
}

fn joined(tokens: &Tokens) -> String {
    let mut text = String::new();
    for (_, touches, written) in tokens {
        if !*touches && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(written);
    }
    text
}

/// What mutations are made from.
struct Stock {
    corpus: Vec<String>,
    tokens: Vec<Tokens>,
    by_kind: BTreeMap<Kind, Vec<String>>,
}

impl Stock {
    fn new() -> Self {
        let corpus = corpus();
        let tokens: Vec<Tokens> = corpus
            .iter()
            .filter_map(|t| tokens(t))
            .filter(|t| t.len() > 2)
            .collect();
        let mut by_kind: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
        for (kind, _, written) in tokens.iter().flatten() {
            by_kind.entry(*kind).or_default().push(written.clone());
        }
        Self {
            corpus,
            tokens,
            by_kind,
        }
    }

    /// Mostly in tokens, and mostly such that PostgreSQL's grammar reads them; else in letters.
    fn mutated(&self, dice: &mut Dice) -> String {
        if dice.below(5) == 0 {
            let text = dice.pick(&self.corpus).clone();
            return letters_mutated(&text, &self.corpus, dice);
        }
        let mut text = String::new();
        for _ in 0..6 {
            let mut tokens = dice.pick(&self.tokens).clone();
            for _ in 0..1 + dice.below(3) {
                self.mutate(&mut tokens, dice);
            }
            text = joined(&tokens);
            if guard::parse::parse(&text).is_ok() {
                break;
            }
        }
        text
    }

    /// Tokens exchanged, left out, doubled, grafted from another statement or the dictionary.
    fn mutate(&self, tokens: &mut Tokens, dice: &mut Dice) {
        if tokens.is_empty() {
            return;
        }
        let mut at = dice.below(tokens.len());
        // Names and values are what a statement is about; another keyword is mostly another grammar.
        if dice.below(4) > 0 {
            let open: Vec<usize> = (0..tokens.len())
                .filter(|i| !matches!(tokens[*i].0, Kind::Keyword | Kind::Sign))
                .collect();
            at = open.get(dice.below(open.len())).copied().unwrap_or(at);
        }
        let kind = tokens[at].0;
        match dice.below(12) {
            // Another of its kind.
            0..5 => tokens[at].2.clone_from(dice.pick(&self.by_kind[&kind])),
            5 => {
                tokens.remove(at);
            }
            6 => {
                let to = dice.below(tokens.len());
                tokens.swap(at, to);
            }
            7 => {
                let again = tokens[at].clone();
                tokens.insert(at, again);
            }
            8 => tokens[at].2.clone_from(dice.pick(&DICTIONARY)),
            9 => tokens.insert(at, (Kind::Sign, false, dice.pick(&DICTIONARY).clone())),
            // What stands in parentheses, in the place of what stands in others.
            10 => {
                let other = dice.pick(&self.tokens);
                if let (Some(mine), Some(theirs)) = (group(tokens, dice), group(other, dice)) {
                    tokens.splice(mine, other[theirs].to_vec());
                }
            }
            // A run from another statement.
            _ => {
                let other = dice.pick(&self.tokens);
                let from = dice.below(other.len());
                let end = (from + 1 + dice.below(6)).min(other.len());
                tokens.splice(at..at, other[from..end].to_vec());
            }
        }
    }
}

/// The inside of some parentheses.
fn group(tokens: &Tokens, dice: &mut Dice) -> Option<std::ops::Range<usize>> {
    let opened: Vec<usize> = (0..tokens.len()).filter(|i| tokens[*i].2 == "(").collect();
    let from = *opened.get(dice.below(opened.len()))? + 1;
    let mut depth = 1;
    for (at, (_, _, written)) in tokens.iter().enumerate().skip(from) {
        depth += match written.as_str() {
            "(" => 1,
            ")" => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some(from..at);
        }
    }
    None
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

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Calls with the text in hand when it panics.
fn watched(text: &str, call: impl FnOnce()) {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    assert!(done.is_ok(), "panicked on {text:?}");
}

#[test]
fn mutated_statements_end_in_a_plan_or_a_refusal() {
    let (count, seed) = (number("MENSHEN_FUZZ", 4_000), number("MENSHEN_SEED", 1));
    let stock = Stock::new();
    assert!(
        stock.corpus.len() > 800 && stock.tokens.len() > 800,
        "{}",
        stock.corpus.len()
    );
    let mut dice = Dice::seeded(seed);
    let mut sum = Outcome::default();
    let mut rules: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..count {
        let text = stock.mutated(&mut dice);
        let login = dice.below(targets::LOGINS);
        let mut outcome = Outcome::default();
        watched(&text, || drop(targets::judged(&text, login, &mut outcome)));
        sum.planned += outcome.planned;
        sum.edited += outcome.edited;
        for rule in outcome.refused {
            *rules.entry(rule).or_default() += 1;
            if rule == "guards-disagree" {
                println!("the guards disagree about {text:?}");
            }
        }
    }
    println!(
        "{} planned, {} edited of {count}; refused {rules:?}",
        sum.planned, sum.edited
    );
    let (planned, edited) = (u64::from(sum.planned), u64::from(sum.edited));
    assert!(
        planned * 100 > count * PLANNED && edited * 100 > count * EDITED,
        "{planned} planned, {edited} edited of {count}"
    );
}

/// Percent of the mutants that must at least be planned, and edited: fewer would mean that the fuzzing has gone blind.
const PLANNED: u64 = 20;
const EDITED: u64 = 10;

/// Seeds of a target of libFuzzer.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let all = corpus();
    match target {
        "edit" => {
            let mut dice = Dice::seeded(7);
            let of_dictionary = |dice: &mut Dice| -> Vec<u8> {
                let pieces: Vec<&str> = (0..4)
                    .map(|_| dice.pick(&DICTIONARY).as_str())
                    .filter(|p| *p != "\0")
                    .collect();
                let choice = u8::try_from(dice.below(12)).unwrap();
                [&[choice], pieces.join("\u{1}").as_bytes()].concat()
            };
            (0..60).map(|_| of_dictionary(&mut dice)).collect()
        }
        "witness" => covering(all, |_, _| {}),
        _ => covering(all, |text, met| {
            met.extend(
                targets::statement(text.as_bytes())
                    .refused
                    .iter()
                    .map(|r| (*r).to_owned()),
            )
        }),
    }
}

/// Those texts, the shortest first, that have something which none before has: a node below another, or what `more` says.
fn covering(mut texts: Vec<String>, more: impl Fn(&str, &mut BTreeSet<String>)) -> Vec<Vec<u8>> {
    texts.sort_by_key(String::len);
    let (mut met, mut kept) = (BTreeSet::new(), Vec::new());
    for text in texts {
        let mut own = BTreeSet::new();
        more(&text, &mut own);
        for statement in guard::parse::parse(&text).iter().flat_map(|p| &p.statements) {
            edges(statement, "", &mut own);
        }
        let before = met.len();
        met.extend(own);
        if met.len() > before {
            kept.push(text.into_bytes());
        }
    }
    kept
}

fn edges(tree: &Tree, above: &str, met: &mut BTreeSet<String>) {
    match tree {
        Tree::Node(kind, fields) => {
            met.insert(format!("{above}>{kind}"));
            fields.iter().for_each(|(_, t)| edges(t, kind, met));
        }
        Tree::List(items) => items.iter().for_each(|t| edges(t, above, met)),
        Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => {}
    }
}

#[test]
fn the_corpus_of_libfuzzer_and_mutations_of_it_find_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    if let Some(directory) = std::env::var_os("MENSHEN_CORPUS") {
        for target in ["statement", "edit", "witness"] {
            let directory = Path::new(&directory).join(target);
            std::fs::create_dir_all(&directory).unwrap();
            for (number, seed) in seeds(target).iter().enumerate() {
                std::fs::write(directory.join(format!("{number:03}")), seed).unwrap();
            }
        }
    }
    let mut dice = Dice::seeded(number("MENSHEN_SEED", 1));
    let (mut edited, mut read) = (0, 0);
    for target in ["statement", "edit", "witness"] {
        let files: Vec<Vec<u8>> = std::fs::read_dir(root.join(target))
            .unwrap()
            .map(|f| std::fs::read(f.unwrap().path()).unwrap())
            .collect();
        assert!(files.len() > 20, "{target}: {} files", files.len());
        for file in &files {
            for mutate in [false, true] {
                let mut data = file.clone();
                if mutate && !data.is_empty() {
                    let at = dice.below(data.len());
                    let new: Vec<u8> = dice.pick(&DICTIONARY).bytes().collect();
                    data.splice(at..at + dice.below(2), new);
                }
                let shown = String::from_utf8_lossy(&data).into_owned();
                let login = dice.below(targets::LOGINS);
                let mut outcome = Outcome::default();
                watched(&shown, || match target {
                    "statement" => drop(targets::judged(&shown, login, &mut outcome)),
                    "edit" => outcome = targets::edit(&data),
                    _ => read += u32::from(targets::witness(&data) == "objects"),
                });
                edited += outcome.edited;
            }
        }
    }
    assert!(edited > 60 && read > 20, "{edited} edited, {read} read by the witness");
}
