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

/// Why a function is refused by itself, and the words of its body. `protected`: names of protected relations, in lower case.
pub(super) fn judge(function: &Function, protected: &HashSet<String>) -> (Option<String>, Words) {
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
            let listed = BUILT_INS.function(&function.body).map(|e| e.reason.clone());
            return (listed, Words::default());
        }
        "c" => {
            let harmless = function.extension.as_deref().is_some_and(|e| BUILT_INS.is_harmless(e));
            let reason = (!harmless).then(|| "is written in C, which Menshen cannot read".to_owned());
            return (reason, Words::default());
        }
        other => {
            return (
                Some(format!("is written in {other}, which Menshen cannot read")),
                Words::default(),
            );
        }
    }
    let Some(words) = words(&function.body) else {
        return (Some("has a body that Menshen cannot read".to_owned()), Words::default());
    };
    if let Some(name) = words.all.iter().find(|w| protected.contains(*w)) {
        return (Some(format!("could read the protected relation \"{name}\"")), words);
    }
    // In SQL bodies, too: what the session has prepared may read protected relations.
    if words.all.contains("execute") {
        return (Some("runs SQL that is built from text".to_owned()), words);
    }
    if let Some(entry) = words
        .all
        .iter()
        .find_map(|w| BUILT_INS.function(w).filter(|e| e.class != "settings"))
    {
        return (Some(entry.reason.clone()), words);
    }
    (None, words)
}

/// The words of a text; `None` where it can't be read.
pub(super) fn words(body: &str) -> Option<Words> {
    let tokens = super::super::parse::scan(body).ok()?;
    let mut words = Words::default();
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
                let whole = text.trim_matches(['"', '\'']).to_lowercase();
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
    Some(words)
}
