//! One scanner for clear protected values in whatever reached a client: every byte, whatever the protocol, the format or the message.
//! A value is looked for as it is and in disguise: encoded, turned round, taken apart into characters or code points.
//!
//! Values that occur by chance are left out, or a scan would cry wolf: texts of fewer than [`FLOOR`] bytes (names of two characters),
//! dates of birth (the mask makes dates too, and so do statements), sums of money (statements calculate with them).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex, OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::Postgres;

/// Bytes that a value must have at least.
pub const FLOOR: usize = 8;

/// Characters that are looked for where a value is taken apart, and that it must nearly have: so many are no accident.
const PARTS: usize = 8;

/// A clear value that was found, and how it was disguised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub value: String,
    pub form: &'static str,
}

pub struct Canary {
    values: Vec<String>,
    patterns: Vec<Pattern>,
    search: AhoCorasick,
}

struct Pattern {
    value: usize,
    form: &'static str,
    bytes: Vec<u8>,
}

/// Protected columns, and whether support sees them of everybody but `vip+`.
const PROTECTED: [(&str, &str, bool); 9] = [
    ("customers", "name", true),
    ("customers", "phone", true),
    ("customers", "email", true),
    ("customers", "address", true),
    ("customers", "id_card", false),
    ("messages", "body", false),
    ("transactions", "bank_card", false),
    ("customer_locations", "lat", false),
    ("customer_locations", "lon", false),
];

/// Columns that everybody sees.
const PUBLIC: [&str; 4] = [
    "SELECT DISTINCT grade FROM crm.customers",
    "SELECT DISTINCT city FROM crm.customers",
    "SELECT DISTINCT item || ' ' || status FROM crm.orders",
    "SELECT name FROM crm.products",
];

impl Canary {
    /// For what a login of the demo may not see.
    pub fn of(login: &str) -> Arc<Self> {
        static MADE: OnceLock<Mutex<BTreeMap<bool, Arc<Canary>>>> = OnceLock::new();
        // Whoever is not support sees everything masked, or nothing.
        let support = login == "support";
        let mut made = MADE.get_or_init(Mutex::default).lock().unwrap();
        Arc::clone(made.entry(support).or_insert_with(|| Arc::new(Self::make(support))))
    }

    fn make(support: bool) -> Self {
        let server = Postgres::get();
        let database = server.shop();
        let ask = |sql: &str| -> Vec<String> { server.sql(&database, sql).lines().map(str::to_owned).collect() };
        let (mut hidden, mut seen) = (BTreeSet::new(), Vec::new());
        for sql in PUBLIC {
            seen.extend(ask(sql));
        }
        for (table, column, of_support) in PROTECTED {
            let read = format!("SELECT {column} FROM crm.{table} WHERE {column} IS NOT NULL");
            if support && of_support {
                hidden.extend(ask(&format!("{read} AND grade = 'vip+'")));
                seen.extend(ask(&format!("{read} AND grade <> 'vip+'")));
            } else {
                hidden.extend(ask(&read));
            }
        }
        let all = hidden.len();
        let canary = Self::new(hidden.into_iter().filter(|v| v.len() >= FLOOR), &seen);
        assert!(canary.values.len() > 900 && canary.values.len() + 300 > all);
        canary
    }

    /// For values, except what can be seen anyway.
    pub fn new(values: impl IntoIterator<Item = String>, seen: &[String]) -> Self {
        let values: Vec<String> = values.into_iter().collect();
        let seen = seen.join("\n");
        let mut patterns: Vec<Pattern> = Vec::new();
        let mut known: BTreeSet<Vec<u8>> = BTreeSet::new();
        let hidden: Vec<String> = except(&values, &seen);
        let parts: BTreeSet<String> = except(&values.iter().filter_map(|v| part(v)).collect::<Vec<_>>(), &seen)
            .into_iter()
            .collect();
        for (number, value) in hidden.iter().enumerate() {
            let mut forms = whole(value);
            if let Some(part) = part(value).filter(|p| parts.contains(p)) {
                forms.extend(taken_apart(&part));
            }
            for (form, bytes) in forms {
                if known.insert(bytes.clone()) {
                    patterns.push(Pattern {
                        value: number,
                        form,
                        bytes,
                    });
                }
            }
        }
        let search = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .kind(Some(AhoCorasickKind::NoncontiguousNFA))
            .build(patterns.iter().map(|p| &p.bytes))
            .unwrap();
        Self {
            values: hidden,
            patterns,
            search,
        }
    }

    /// Clear values in what was received, five at most. What the client wrote itself (`own`) may come back.
    pub fn find(&self, received: &[u8], own: &str) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        // PostgreSQL breaks base64 into lines.
        let joined: Vec<u8> = received.iter().copied().filter(|b| *b != b'\n').collect();
        for text in [received, &joined] {
            for hit in self.search.find_overlapping_iter(text) {
                let pattern = &self.patterns[hit.pattern().as_usize()];
                let value = &self.values[pattern.value];
                if own.contains(value.as_str()) || own.contains(&*String::from_utf8_lossy(&pattern.bytes)) {
                    continue;
                }
                if found.len() < 5 && !found.iter().any(|f| f.value == *value && f.form == pattern.form) {
                    found.push(Found {
                        value: value.clone(),
                        form: pattern.form,
                    });
                }
            }
        }
        found
    }

    /// The forms that are looked for.
    pub fn forms(&self) -> impl Iterator<Item = &'static str> {
        let forms: BTreeSet<&'static str> = self.patterns.iter().map(|p| p.form).collect();
        forms.into_iter()
    }

    /// A value that is looked for.
    pub fn some_value(&self, like: &str) -> &str {
        self.values.iter().find(|v| v.starts_with(like)).unwrap()
    }
}

/// Clear values that the login may not see, in what it received.
pub fn leaks(received: &[u8], login: &str, own: &str) -> Vec<Found> {
    Canary::of(login).find(received, own)
}

/// Values that are not part of what is seen.
fn except(values: &[String], seen: &str) -> Vec<String> {
    if values.is_empty() {
        return Vec::new();
    }
    let search = AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::NoncontiguousNFA))
        .build(values)
        .unwrap();
    let gone: BTreeSet<usize> = search
        .find_overlapping_iter(seen)
        .map(|m| m.pattern().as_usize())
        .collect();
    let kept = values.iter().enumerate().filter(|(n, _)| !gone.contains(n));
    kept.map(|(_, v)| v.clone()).collect()
}

/// What is looked for when a value is taken apart: its beginning; of digits the end, where people differ.
fn part(value: &str) -> Option<String> {
    let chars: Vec<char> = value.chars().collect();
    if chars.len() < PARTS {
        return None;
    }
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    let from = if digits { chars.len() - PARTS } else { 0 };
    Some(chars[from..from + PARTS].iter().collect())
}

/// A value in one piece.
fn whole(value: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms: Vec<(&'static str, Vec<u8>)> = vec![
        ("plain", value.into()),
        ("reversed", value.chars().rev().collect::<String>().into()),
        ("hex", hex::encode(value).into()),
        (
            "bytes reversed, in hex",
            hex::encode(value.bytes().rev().collect::<Vec<_>>()).into(),
        ),
    ];
    for shift in 0..3 {
        let form = ["base64", "base64 after one byte", "base64 after two bytes"][shift];
        forms.push((form, base64_of_middle(value, shift).into()));
    }
    let escaped = |escape: &dyn Fn(u8) -> String| -> Vec<u8> {
        let letters = value.bytes().map(|b| {
            if b.is_ascii() {
                char::from(b).to_string()
            } else {
                escape(b)
            }
        });
        letters.collect::<String>().into()
    };
    forms.push(("octal escapes", escaped(&|b| format!("\\{b:03o}"))));
    forms.push(("octal escapes, doubled", escaped(&|b| format!("\\\\{b:03o}"))));
    forms.push(("percent escapes", escaped(&|b| format!("%{b:02x}"))));
    forms.push((
        "percent escapes",
        value.bytes().flat_map(|b| format!("%{b:02x}").into_bytes()).collect(),
    ));
    let json: String = value.chars().fold(String::new(), |mut text, c| {
        if c.is_ascii() {
            text.push(c);
        } else {
            write!(text, "\\u{:04x}", u32::from(c)).unwrap();
        }
        text
    });
    forms.push(("\\u escapes", json.into()));
    if let Ok(number) = value.parse::<f64>() {
        if value.contains('.') {
            forms.push(("binary float8", number.to_be_bytes().to_vec()));
        } else if let Ok(number) = value.parse::<i64>() {
            forms.push(("binary int8", number.to_be_bytes().to_vec()));
            // Numbers in groups of four digits, as numeric's binary format has them.
            let groups = base_ten_thousand(number);
            forms.push(("binary numeric", groups));
        }
    }
    forms
}

fn base_ten_thousand(mut number: i64) -> Vec<u8> {
    let mut groups = Vec::new();
    while number > 0 {
        groups.push(i16::try_from(number % 10_000).unwrap());
        number /= 10_000;
    }
    groups.iter().rev().flat_map(|g| g.to_be_bytes()).collect()
}

/// The letters of base64 that a value decides alone, where it begins `shift` bytes behind a group.
fn base64_of_middle(value: &str, shift: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = [&vec![0; shift], value.as_bytes()].concat();
    let bit = |n: usize| (bytes[n / 8] >> (7 - n % 8)) & 1;
    let letter = |at: usize| (0..6).fold(0, |sum, n| sum * 2 + usize::from(bit(at * 6 + n)));
    let first = (shift * 8).div_ceil(6);
    (first..bytes.len() * 8 / 6)
        .map(|at| char::from(LETTERS[letter(at)]))
        .collect()
}

/// What stands between the pieces of a text, by where pieces come from: lists, PostgreSQL's arrays, JSON, SQL, lines.
const BETWEEN: [&str; 17] = [
    ",", ", ", " ", "|", ";", "-", "_", ".", "/", ":", "\t", "\n", "\",\"", "\", \"", "','", "', '", "\\n",
];

/// A value in pieces.
fn taken_apart(value: &str) -> Vec<(&'static str, Vec<u8>)> {
    let characters: Vec<Vec<u8>> = value.chars().map(|c| c.to_string().into()).collect();
    let decimal: Vec<Vec<u8>> = value.chars().map(|c| u32::from(c).to_string().into()).collect();
    let hexadecimal: Vec<Vec<u8>> = value.chars().map(|c| format!("{:x}", u32::from(c)).into()).collect();
    let bytes: Vec<Vec<u8>> = value.bytes().map(|b| b.to_string().into()).collect();
    let hex_bytes: Vec<Vec<u8>> = value.bytes().map(|b| format!("{b:02x}").into()).collect();
    let numbers: Vec<Vec<u8>> = value.chars().map(|c| u32::from(c).to_be_bytes().to_vec()).collect();
    let mut forms: Vec<(&'static str, Vec<u8>)> = Vec::new();
    for between in BETWEEN {
        forms.push(("characters in a list", characters.join(between.as_bytes())));
    }
    for between in [",", ", ", " ", "|", ";", "-", "\n", "\",\"", "\", \""] {
        forms.push(("code points in a list", decimal.join(between.as_bytes())));
    }
    for between in [
        "", ",", ", ", " ", "-", ":", "\\x", "0x", ",0x", ", 0x", "\",\"", "\", \"",
    ] {
        forms.push(("code points in hex", hexadecimal.join(between.as_bytes())));
    }
    for between in [",", ", ", " "] {
        forms.push(("bytes in a list", bytes.join(between.as_bytes())));
        forms.push(("bytes in hex", hex_bytes.join(between.as_bytes())));
    }
    forms.push(("\\u escapes", hexadecimal.iter().flat_map(|h| padded(h)).collect()));
    // One piece in each row of one column, each line of COPY, and each element of an array in binary.
    for (pieces, names) in [
        (
            &characters,
            [
                "characters in rows",
                "characters in lines of COPY",
                "characters in a binary array",
            ],
        ),
        (
            &decimal,
            [
                "code points in rows",
                "code points in lines of COPY",
                "code points in a binary array",
            ],
        ),
        (
            &numbers,
            ["binary code points in rows", "", "binary code points in a binary array"],
        ),
    ] {
        forms.push((names[0], pieces.iter().flat_map(|p| row(p)).collect()));
        if !names[1].is_empty() {
            forms.push((names[1], pieces.iter().flat_map(|p| line(p)).collect()));
        }
        forms.push((names[2], pieces.iter().flat_map(|p| element(p)).collect()));
    }
    forms
}

fn padded(hexadecimal: &[u8]) -> Vec<u8> {
    let zeros = vec![b'0'; 4_usize.saturating_sub(hexadecimal.len())];
    [b"\\u".as_slice(), &zeros, hexadecimal].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap().to_be_bytes()
}

fn element(piece: &[u8]) -> Vec<u8> {
    [&length(piece.len()), piece].concat()
}

fn row(piece: &[u8]) -> Vec<u8> {
    [b"D".as_slice(), &length(10 + piece.len()), &[0, 1], &element(piece)].concat()
}

fn line(piece: &[u8]) -> Vec<u8> {
    [b"d".as_slice(), &length(5 + piece.len()), piece, b"\n"].concat()
}
