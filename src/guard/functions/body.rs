//! What the body of a function says: its words, and why it is refused by itself.

use std::collections::HashSet;

use pg_query::protobuf::Token;

use super::BUILT_INS;
use crate::catalog::Function;

/// The words of a body, in lower case.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Every identifier, keyword and word inside a string. Strings count because they may be cast to `regclass` or hold SQL;
    /// dollar-quoted bodies inside bodies too.
    pub(super) all: HashSet<String>,
    /// Those that may be calls: before a parenthesis, behind a dot, or inside a string.
    pub(super) called: HashSet<String>,
    /// Operators.
    pub(super) operators: HashSet<String>,
    /// A string inside that can't be read as SQL.
    unread: bool,
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Why {
    /// Completes "it …".
    pub(super) reason: String,
    /// Only what the server shows of itself is in reach.
    pub(super) system: bool,
}

impl Why {
    pub(super) fn data(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            system: false,
        }
    }
}

/// Names in lower case that a body may not hold.
#[derive(Debug, Default)]
pub(super) struct Forbidden {
    /// Protected relations.
    pub(super) protected: HashSet<String>,
    /// Relations of the server's own catalog that show values, statistics or other sessions.
    pub(super) system: HashSet<String>,
}

impl Forbidden {
    /// Why a text with those words is refused: for what it names, or for a built-in function that it may call.
    pub(super) fn named(&self, words: &Words) -> Option<Why> {
        if let Some(name) = words.all.iter().find(|w| self.protected.contains(*w)) {
            return Some(Why::data(format!("could read the protected relation \"{name}\"")));
        }
        let mut listed: Vec<_> = words.called.iter().filter_map(|w| BUILT_INS.function(w)).collect();
        listed.retain(|e| e.class != "settings");
        listed.sort_by_key(|e| (!e.reads_relations(), e.reason.clone()));
        if let Some(entry) = listed.first() {
            return Some(Why {
                reason: entry.reason.clone(),
                system: !entry.reads_relations(),
            });
        }
        words.all.iter().find(|w| self.system.contains(*w)).map(|name| Why {
            reason: format!("could read \"{name}\", which shows more than it should"),
            system: true,
        })
    }
}

impl Words {
    /// Whether something may be written to: triggers, rules and defaults run then.
    pub(super) fn write(&self) -> bool {
        const WRITES: [&str; 15] = [
            "alter", "analyze", "call", "cluster", "copy", "create", "delete", "do", "insert", "merge", "refresh",
            "reindex", "truncate", "update", "vacuum",
        ];
        WRITES.iter().any(|w| self.all.contains(*w))
    }
}

/// What CREATE TYPE … AS RANGE makes of its own accord: a value of two bounds, or of ranges (typecmds.c, makeRangeConstructors).
const CONSTRUCTORS: [&str; 5] = [
    "multirange_constructor0",
    "multirange_constructor1",
    "multirange_constructor2",
    "range_constructor2",
    "range_constructor3",
];

/// Why a function is refused by itself, and the words of its body.
pub(super) fn judge(function: &Function, forbidden: &Forbidden) -> (Option<Why>, Words) {
    if function.kind == 'a' {
        let called = function.support.iter().map(|(_, name)| name.to_lowercase()).collect();
        return (
            None,
            Words {
                called,
                ..Words::default()
            },
        );
    }
    match function.language.as_str() {
        "sql" | "plpgsql" => {}
        "internal" => {
            let symbol = function.body.trim();
            let harmless = function.extension.as_deref().is_some_and(|e| BUILT_INS.is_harmless(e));
            let why = match BUILT_INS.function(symbol) {
                Some(entry) => Some(Why {
                    reason: entry.reason.clone(),
                    system: !entry.reads_relations(),
                }),
                None if harmless || BUILT_INS.knows_function(symbol) || BUILT_INS.keeps(symbol) => None,
                None if CONSTRUCTORS.contains(&symbol) => None,
                // The symbol of one that is on the list may be another than its name.
                None => Some(Why::data(format!(
                    "stands for \"{symbol}\" inside the server, which Menshen does not know"
                ))),
            };
            return (why, Words::default());
        }
        "c" => {
            let harmless = function.extension.as_deref().is_some_and(|e| BUILT_INS.is_harmless(e));
            let reason = (!harmless).then(|| Why::data("is written in C, which Menshen cannot read"));
            return (reason, Words::default());
        }
        other => {
            return (
                Some(Why::data(format!("is written in {other}, which Menshen cannot read"))),
                Words::default(),
            );
        }
    }
    let unreadable = || Why::data("has a body that Menshen cannot read");
    let Some(words) = words(&function.body) else {
        return (Some(unreadable()), Words::default());
    };
    // Whatever changes how a literal is read could make a comment of what is none, and the other way round.
    let reads_otherwise = |s: &String| s.to_lowercase().contains(LITERALS);
    if function.settings.iter().any(reads_otherwise)
        || words.all.contains(LITERALS)
        || words.unread && words.all.contains("do")
    {
        return (Some(unreadable()), words);
    }
    if let Some(why) = forbidden.named(&words) {
        return (Some(why), words);
    }
    // In SQL bodies, too: what the session has prepared may read protected relations.
    if words.all.contains("execute") {
        return (Some(Why::data("runs SQL that is built from text")), words);
    }
    (None, words)
}

/// The setting on which the reading of backslashes depends.
const LITERALS: &str = "standard_conforming_strings";

/// Whether a function could run SQL that is built from text, as far as its body says or hides it.
pub(super) fn runs_text(function: &Function) -> bool {
    let harmless = || function.extension.as_deref().is_some_and(|e| BUILT_INS.is_harmless(e));
    match function.language.as_str() {
        _ if function.kind == 'a' => false,
        "sql" | "plpgsql" => words(&function.body).is_none_or(|words| {
            let reads = |word: &String| {
                BUILT_INS
                    .function(word)
                    .is_some_and(super::data::Entry::reads_relations)
            };
            words.unread || words.all.contains("execute") || words.called.iter().any(reads)
        }),
        "internal" => BUILT_INS.function(function.body.trim()).is_some(),
        _ => !harmless(),
    }
}

/// The words of a text; `None` where it can't be read.
pub(super) fn words(body: &str) -> Option<Words> {
    let mut words = Words::default();
    collect(body, 0, &mut words)?;
    Some(words)
}

fn collect(body: &str, depth: u8, words: &mut Words) -> Option<()> {
    let tokens = super::super::parse::scan(body).ok()?;
    // The word before the token in hand, and whether a dot stood before it.
    let mut last: Option<String> = None;
    let mut dot = false;
    for token in tokens {
        let (start, end) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        let text = body.get(start..end)?;
        match Token::try_from(token.token) {
            Ok(Token::SqlComment | Token::CComment) => continue,
            Ok(Token::Uident) => return None,
            Ok(Token::Ascii40) => words.called.extend(last.take()),
            Ok(kind) => {
                let string = text.ends_with(['\'', '$']);
                let split = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()));
                for word in split.filter(|w| !w.is_empty()) {
                    if string {
                        words.called.insert(word.to_lowercase());
                    }
                    words.all.insert(word.to_lowercase());
                }
                if text.chars().all(|c| "+-*/<>=~!@#%^&|`?".contains(c)) {
                    words.operators.insert(text.to_owned());
                }
                if string && depth < NESTED_MAX {
                    words.unread |= collect(inside(text), depth + 1, words).is_none();
                } else if string {
                    words.unread = true;
                }
                let whole = identifier(text);
                if dot || string {
                    words.called.insert(whole.clone());
                }
                words.all.insert(whole.clone());
                dot = kind == Token::Ascii46;
                last = Some(whole);
            }
            Err(_) => return None,
        }
    }
    Some(())
}

/// How deep strings in strings are read.
const NESTED_MAX: u8 = 4;

/// What stands between a string's quotes.
fn inside(text: &str) -> &str {
    if text.starts_with('$') {
        let tag = text.get(1..).and_then(|rest| rest.find('$')).map_or(0, |at| at + 2);
        return text.get(tag..text.len().saturating_sub(tag)).unwrap_or(text);
    }
    let from = text.find('\'').map_or(0, |at| at + 1);
    text.get(from..text.len().saturating_sub(1)).unwrap_or(text)
}

/// A name as PostgreSQL reads it, in lower case: without its quotes, doubled ones halved, cut to 63 bytes.
fn identifier(text: &str) -> String {
    let bare = match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => text.trim_matches('\'').to_owned(),
    };
    let mut end = bare.len().min(63);
    while !bare.is_char_boundary(end) {
        end -= 1;
    }
    bare.get(..end).unwrap_or(&bare).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_63_bytes_on_a_character() {
        let long = |bytes: usize| "A".repeat(bytes);
        assert_eq!(identifier(&long(70)), "a".repeat(63));
        assert_eq!(identifier(&format!("{}éé", long(62))), "a".repeat(62));
        assert_eq!(identifier(&format!("\"{}木木\"", long(61))), "a".repeat(61));
        assert_eq!(identifier(&format!("{}é", long(61))), format!("{}é", "a".repeat(61)));
    }

    #[test]
    fn names_are_read_as_postgresql_reads_them() {
        let long = "a".repeat(63);
        for (body, name) in [
            ("SELECT public.\"z\"\"z\"()", "z\"z"),
            (&format!("SELECT {long}bbb()"), long.as_str()),
            ("SELECT f /* x */ (1)", "f"),
            ("SELECT a.f FROM a", "f"),
            ("DO $$ BEGIN PERFORM \"my f\"(); END $$", "my f"),
        ] {
            assert!(words(body).unwrap().called.contains(name), "{body}");
        }
        assert!(!words("SELECT f FROM a -- g(1)").unwrap().called.contains("g"));
        assert!(!words("DECLARE c int; BEGIN c := 1; END").unwrap().called.contains("c"));
        assert!(words("SELECT 1 #%# 2").unwrap().operators.contains("#%#"));
    }
}
