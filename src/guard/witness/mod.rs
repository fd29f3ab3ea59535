//! The second reader: `sqlparser` and a walk of its own. It shares nothing with the first guard but the names that are
//! compared, and it can only object.
//!
//! The statement list is walked through its `serde` derivation, so that no field of any variant can be forgotten
//! (`sqlparser`'s own visitor misses tables: PARSERS §3.2). What it sees as relation, function or column must be accounted for by the
//! first guard. Where it can't read the text it abstains. Its known misreadings are data: `misreadings.rs`.

mod misreadings;
mod part;
mod walk;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserOptions};

use super::outside::bytes_outside_literals;

/// Texts with more bytes outside of literals are not read a second time.
const BYTES_MAX: usize = 64 * 1024;
/// More tokens could make a tree deeper than the stack of [`STACK_BYTES`] bears: `sqlparser` does not bound chains of operators.
const TOKENS_MAX: usize = 8_000;
/// Stack of the reading thread. 8 000 tokens of `1+1+…` were measured to need less than 16 MiB in an unoptimised build.
const STACK_BYTES: usize = 128 * 1024 * 1024;

/// A text of so few tokens needs less than a MiB of it.
const SHALLOW_TOKENS_MAX: usize = 400;

/// Everything that the first guard saw, by kind of name, as PostgreSQL's grammar folded it.
#[derive(Debug, Default)]
pub struct Accounted {
    /// Statements of the text.
    pub statements: usize,
    /// Relations as written: one to three parts.
    pub relations: BTreeSet<Vec<String>>,
    /// Names of CTEs.
    pub ctes: BTreeSet<String>,
    /// Aliases.
    pub aliases: BTreeSet<String>,
    /// Functions as written.
    pub functions: BTreeSet<Vec<String>>,
    /// Fields of column references.
    pub columns: BTreeSet<String>,
    /// Every other string of the tree.
    pub other_names: BTreeSet<String>,
    /// Whether every identifier must be accounted for: in queries and data modifications. Utility statements are full of option words
    /// that `sqlparser` keeps as identifiers; of them only relations and functions are compared.
    pub names_matter: bool,
}

/// What the witness says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Testimony {
    /// It saw nothing that is not accounted for.
    Agrees,
    /// It could not read the text.
    Abstains(Cause),
    /// It saw more than the first guard.
    Objects(Vec<Objection>),
}

/// Why the witness could not read a text. Never its own words: they quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Outside of literals longer than [`BYTES_MAX`].
    Bytes,
    /// More tokens than [`TOKENS_MAX`].
    Tokens,
    /// Names or strings with Unicode escapes.
    UnicodeEscapes,
    /// Syntax that `sqlparser` does not know.
    Syntax,
    /// `sqlparser` panicked.
    Panic,
    /// No thread could be started.
    Thread,
}

impl Cause {
    /// All of them, in the order of [`ABSTENTIONS`].
    const ALL: [Self; 6] = [
        Self::Bytes,
        Self::Tokens,
        Self::UnicodeEscapes,
        Self::Syntax,
        Self::Panic,
        Self::Thread,
    ];

    /// As logs and the audit show it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Tokens => "tokens",
            Self::UnicodeEscapes => "unicode-escapes",
            Self::Syntax => "syntax",
            Self::Panic => "panic",
            Self::Thread => "thread",
        }
    }
}

static ABSTENTIONS: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];

/// How often the witness of this process abstained, by cause.
#[must_use]
pub fn abstentions() -> Vec<(Cause, u64)> {
    Cause::ALL
        .into_iter()
        .zip(&ABSTENTIONS)
        .map(|(cause, count)| (cause, count.load(Ordering::Relaxed)))
        .collect()
}

fn abstain(cause: Cause) -> Testimony {
    if let Some((_, count)) = Cause::ALL.iter().zip(&ABSTENTIONS).find(|(c, _)| **c == cause) {
        count.fetch_add(1, Ordering::Relaxed);
    }
    Testimony::Abstains(cause)
}

/// A name that the first guard did not account for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Objection {
    /// Another number of statements.
    Statements(usize),
    /// A relation.
    Relation(String),
    /// A function.
    Function(String),
    /// Any other identifier.
    Name(String),
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statements(n) => write!(f, "{n} statements"),
            Self::Relation(name) => write!(f, "relation \"{name}\""),
            Self::Function(name) => write!(f, "function \"{name}\""),
            Self::Name(name) => write!(f, "name \"{name}\""),
        }
    }
}

/// Reads the client's text and compares.
#[must_use]
pub fn object(text: &str, accounted: &Accounted) -> Testimony {
    if text.len() > BYTES_MAX && bytes_outside_literals(text) > BYTES_MAX {
        return abstain(Cause::Bytes);
    }
    let shallow = match super::parse::scan(text) {
        // It reads U&"name" as `u & "name"` (PARSERS §2): a text with such names is not for it.
        Ok(tokens) if tokens.iter().any(|t| unicode_escape(t.token)) => {
            return abstain(Cause::UnicodeEscapes);
        }
        Ok(tokens) if tokens.len() <= TOKENS_MAX => tokens.len() <= SHALLOW_TOKENS_MAX,
        Ok(_) => return abstain(Cause::Tokens),
        Err(_) => return abstain(Cause::Syntax),
    };
    // The depth of sqlparser's trees has no bound of its own: a text that could be deep is read on a thread of its own. A panic ends here.
    let seen = if shallow {
        Ok(std::panic::catch_unwind(|| read(text)))
    } else {
        let own = text.to_owned();
        std::thread::Builder::new()
            .name("menshen-witness".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || read(&own))
            .map(std::thread::JoinHandle::join)
    };
    match seen {
        Ok(Ok(Ok(seen))) => compare(&seen, accounted),
        Ok(Ok(Err(Unread))) => abstain(Cause::Syntax),
        Ok(Err(_panic)) => abstain(Cause::Panic),
        Err(_) => abstain(Cause::Thread),
    }
}

fn unicode_escape(token: i32) -> bool {
    use pg_query::protobuf::Token;
    token == Token::Uident as i32 || token == Token::Usconst as i32
}

/// `sqlparser` does not know the syntax.
struct Unread;

fn read(text: &str) -> Result<walk::Seen, Unread> {
    let dialect = PostgreSqlDialect {};
    let options = ParserOptions::new().with_unescape(false);
    let statements = Parser::new(&dialect)
        .with_options(options)
        .with_recursion_limit(200)
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|_| Unread)?;
    let tree = part::Part::of(&statements).map_err(|_| Unread)?;
    let mut seen = walk::Seen {
        statements: statements.len(),
        ..Default::default()
    };
    walk::collect(&tree, &mut seen);
    Ok(seen)
}

fn compare(seen: &walk::Seen, accounted: &Accounted) -> Testimony {
    let mut objections = BTreeSet::new();
    if seen.statements != accounted.statements {
        objections.insert(Objection::Statements(seen.statements));
    }
    let known = |name: &str| {
        let name = truncated(name);
        accounted.columns.contains(name)
            || accounted.aliases.contains(name)
            || accounted.ctes.contains(name)
            || accounted.other_names.contains(name)
            || accounted.relations.iter().flatten().any(|p| p == name)
            || accounted.functions.iter().flatten().any(|p| p == name)
    };
    for relation in &seen.relations {
        let parts: Vec<String> = relation.iter().map(|p| truncated(p).to_owned()).collect();
        let one = if let [one] = parts.as_slice() { Some(one) } else { None };
        let accounted_for = accounted.relations.contains(&parts)
            || one.is_some_and(|n| accounted.ctes.contains(n) || accounted.aliases.contains(n))
            // A function in FROM without arguments' parentheses understood, or with them.
            || accounted.functions.contains(&parts);
        if !accounted_for && !misreadings::relation(&parts) {
            objections.insert(Objection::Relation(parts.join(".")));
        }
    }
    for function in &seen.functions {
        let parts: Vec<String> = function.iter().map(|p| truncated(p).to_owned()).collect();
        let last = parts.last().cloned().unwrap_or_default();
        let accounted_for = accounted
            .functions
            .iter()
            .any(|f| *f == parts || f.last() == Some(&last));
        if !accounted_for && !misreadings::function(&last) {
            objections.insert(Objection::Function(parts.join(".")));
        }
    }
    for name in seen.names.iter().filter(|_| accounted.names_matter) {
        let functions = seen.functions.iter().filter_map(|f| f.last());
        if !known(name) && !misreadings::name(name, functions.map(String::as_str)) {
            objections.insert(Objection::Name(name.clone()));
        }
    }
    if objections.is_empty() {
        Testimony::Agrees
    } else {
        Testimony::Objects(objections.into_iter().collect())
    }
}

/// PostgreSQL's lexer cuts identifiers to 63 bytes, on a character.
fn truncated(name: &str) -> &str {
    if name.len() <= 63 {
        return name;
    }
    let mut end = 63;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or(name)
}

#[cfg(test)]
mod tests;
