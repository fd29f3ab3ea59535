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
        "client_wire" => conversations().into_iter().map(|(_, bytes)| bytes).collect(),
        "server_wire" => answers(),
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
        for target in ["statement", "edit", "witness", "client_wire", "server_wire"] {
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

/// Messages of the protocol, client's side, with what they should come to: messages for the server but Menshen's own.
fn conversations() -> Vec<(&'static str, Vec<u8>)> {
    use targets::wire::message;
    let query = |sql: &str| message(b'Q', &[sql.as_bytes(), b"\0"].concat());
    let parse = |name: &str, sql: &str| message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    let bind = |portal: &str, name: &str| {
        message(
            b'B',
            &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"].concat(),
        )
    };
    let describe = |what: &str| message(b'D', &[what.as_bytes(), b"\0"].concat());
    let execute = |portal: &str, rows: i32| message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat());
    let close = |what: &str| message(b'C', &[what.as_bytes(), b"\0"].concat());
    let (sync, flush) = (message(b'S', b""), message(b'H', b""));
    let call = message(
        b'F',
        &[&1397_u32.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 1, b'7', 0, 0]].concat(),
    );
    let people = "SELECT id, phone FROM crm.customers";
    let mut all = vec![
        ("a query", query(people)),
        (
            "several",
            [query("BEGIN; SELECT 1"), query(people), query(""), query("COMMIT")].concat(),
        ),
        (
            "in turn",
            query("CREATE TEMP TABLE t (a int); SELECT a FROM t; DROP TABLE t"),
        ),
        (
            "refused",
            [query("COPY crm.customers TO '/tmp/x'"), query("SELECT 1")].concat(),
        ),
        (
            "extended",
            [
                parse("", people),
                bind("", ""),
                describe("P"),
                execute("", 0),
                sync.clone(),
            ]
            .concat(),
        ),
        (
            "named",
            [
                parse("s", people),
                describe("Ss"),
                sync.clone(),
                bind("p", "s"),
                execute("p", 5),
                execute("p", 5),
                close("Pp"),
                close("Ss"),
                sync.clone(),
            ]
            .concat(),
        ),
        (
            "deep",
            [
                [parse("", "SELECT 1"), bind("", ""), execute("", 0)]
                    .concat()
                    .repeat(40),
                sync.clone(),
            ]
            .concat(),
        ),
        (
            "refused in the middle",
            [
                parse("", "SELECT 1"),
                bind("", ""),
                execute("", 0),
                parse("", "SELECT pg_read_file('x')"),
                bind("", ""),
                execute("", 0),
                sync.clone(),
                query(people),
            ]
            .concat(),
        ),
        (
            "flushed",
            [
                parse("", people),
                flush.clone(),
                bind("", ""),
                flush,
                execute("", 1),
                sync.clone(),
            ]
            .concat(),
        ),
        (
            "a cursor",
            [
                query("BEGIN"),
                query("DECLARE c CURSOR FOR SELECT phone FROM crm.customers"),
                query("FETCH 3 FROM c"),
                query("CLOSE c; COMMIT"),
            ]
            .concat(),
        ),
        (
            "by SQL",
            [
                query("PREPARE p AS SELECT phone FROM crm.customers"),
                query("EXECUTE p"),
                query("DEALLOCATE ALL"),
                query("DISCARD ALL"),
            ]
            .concat(),
        ),
        (
            "copy in",
            [
                query("COPY crm.notes FROM STDIN"),
                message(b'd', b"1\t1\tx\n"),
                message(b'c', b""),
                message(b'f', b"no\0"),
            ]
            .concat(),
        ),
        ("a call", [call, query("SELECT 2")].concat()),
        (
            "settings",
            [
                query("SET search_path = crm"),
                query("SELECT phone FROM customers"),
                query("RESET ALL"),
            ]
            .concat(),
        ),
        (
            "listen",
            [query("LISTEN c"), query("NOTIFY c, 'x'"), query("UNLISTEN *")].concat(),
        ),
        ("the end", [query("SELECT 1"), message(b'X', b"")].concat()),
        ("unknown", message(b'y', b"??")),
        ("a wrong length", b"Q\xff\xff\xff\xff".to_vec()),
        ("much claimed", b"Q\x3f\xff\xff\xff".to_vec()),
        ("short bodies", [message(b'B', b""), message(b'P', b"x")].concat()),
    ];
    for (number, (_, bytes)) in all.iter_mut().enumerate() {
        // Every login, portions of every size, a slow server.
        bytes.insert(0, u8::try_from(number % 32).unwrap());
    }
    all
}

/// The same of a server.
fn answers() -> Vec<Vec<u8>> {
    use targets::wire::message;
    let column = |name: &str| [name.as_bytes(), b"\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"].concat();
    let described = |names: &[&str]| {
        let count = i16::try_from(names.len()).unwrap().to_be_bytes();
        message(
            b'T',
            &[count.to_vec(), names.iter().flat_map(|n| column(n)).collect()].concat(),
        )
    };
    let row = |values: &[&str]| {
        let mut body = i16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(value.as_bytes());
        }
        message(b'D', &body)
    };
    let done = [message(b'C', b"SELECT 2\0"), message(b'Z', b"I")].concat();
    let hidden = ["id", "phone", "menshen_k1"];
    let extended = [
        message(b'1', b""),
        message(b't', b"\0\0"),
        described(&hidden),
        message(b'2', b""),
        described(&hidden),
    ]
    .concat();
    let mut all = vec![
        [
            described(&hidden),
            row(&["1", "138", "1"]),
            row(&["2", "139", "2"]),
            done.clone(),
        ]
        .concat(),
        [described(&["id", "phone"]), row(&["1", "138"]), done.clone()].concat(),
        [extended, row(&["1", "138", "1"]), done.clone()].concat(),
        [row(&["1", "138", "1"]), done.clone()].concat(),
        [
            message(b'H', b"\0\0\x03\0\0\0\0\0\0"),
            message(b'd', b"1\t138\t1\n"),
            message(b'c', b""),
            done.clone(),
        ]
        .concat(),
        [message(b'G', b"\0\0\0"), done.clone()].concat(),
        [
            message(b'N', b"SNOTICE\0C01000\0Mhello\0\0"),
            message(b'A', b"\0\0\0\x01c\0p\0"),
            message(b'S', b"TimeZone\0UTC\0"),
            done.clone(),
        ]
        .concat(),
        [
            message(b'E', b"SERROR\0C22012\0Mdivision by zero\0\0"),
            message(b'Z', b"E"),
        ]
        .concat(),
        [message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0")].concat(),
        [
            message(b'R', b"\0\0\0\0"),
            message(b'K', b"12345678"),
            message(b'v', b"\0\x03\0\0\0\0\0\0"),
        ]
        .concat(),
        [
            message(b'W', b"\0\0\0"),
            message(b'V', b"\xff\xff\xff\xff"),
            message(b's', b""),
            message(b'I', b""),
        ]
        .concat(),
        b"D\x3f\xff\xff\xff".to_vec(),
        b"T\0\0\0\x03".to_vec(),
    ];
    let plain = all.clone();
    for (number, bytes) in all.iter_mut().enumerate() {
        bytes.insert(0, u8::try_from(number % 4 * 5).unwrap());
    }
    all.extend(plain.into_iter().enumerate().map(|(number, mut bytes)| {
        bytes.insert(0, u8::try_from(16 + number % 16).unwrap());
        bytes
    }));
    all
}

/// Bytes of the wire with something removed, doubled, moved or changed.
fn bytes_mutated(data: &[u8], others: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..1 + dice.below(3) {
        let (from, length) = (dice.below(data.len() + 1), dice.below(12));
        let to = (from + length).min(data.len());
        match dice.below(6) {
            0 => drop(data.drain(from..to)),
            1 => {
                let again = data[from..to].to_vec();
                data.splice(from..from, again);
            }
            2 => data[from..to].iter_mut().for_each(|b| *b ^= 1 << (length % 8)),
            3 => data[from..to].fill([0, 255, b'1', b'D'][length % 4]),
            4 => data.truncate(from),
            _ => {
                let other = dice.pick(others);
                let cut = dice.below(other.len());
                data.splice(from..from, other[cut..].iter().copied());
            }
        }
    }
    data
}

/// Both directions: no panic, nothing upstream that the guard has not planned, no row of people that has not been charged, nothing after the end.
#[test]
fn mutated_conversations_pass_nothing_unjudged_or_uncounted() {
    let (count, seed) = (number("MENSHEN_FUZZ", 4_000) / 4, number("MENSHEN_SEED", 1));
    let mut dice = Dice::seeded(seed ^ 0x77);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let (mut upstream, mut rows, mut closed) = (0, 0, 0);
    for (target, call) in [
        (
            "client_wire",
            targets::wire::client as fn(&[u8]) -> targets::wire::Outcome,
        ),
        ("server_wire", targets::wire::server),
    ] {
        let mut files: Vec<Vec<u8>> = std::fs::read_dir(root.join(target))
            .unwrap()
            .map(|f| std::fs::read(f.unwrap().path()).unwrap())
            .collect();
        files.sort();
        assert!(files.len() >= 20, "{target}: {} files", files.len());
        let mut run = |data: &[u8]| {
            watched(&format!("{target} {}", hex::encode(data)), || {
                let outcome = call(data);
                upstream += outcome.upstream;
                rows += outcome.rows;
                closed += usize::from(outcome.closed);
            });
        };
        files.iter().for_each(|file| run(file));
        // Each is a conversation: fewer of them take as long as the statements.
        for _ in 0..count / 2 {
            let file = dice.pick(&files).clone();
            run(&bytes_mutated(&file, &files, &mut dice));
        }
    }
    println!("{upstream} messages upstream, {rows} rows, {closed} of {count} sessions ended");
    assert!(upstream > 500 && rows > 5 && closed > 10);
}
