//! Reading a text with PostgreSQL's own grammar, within limits that are checked before anything is parsed.
//!
//! Bytes, tokens and statements are counted with the scanner first: a parse costs memory in proportion to them
//! (PARSERS.md §5). The recursion of a deep tree is bounded by the C parser's own stack guard; decoding it needs a deep stack, which
//! the server's threads have.

use pg_query::protobuf::{ScanToken, Token};

use super::outside::{bytes_outside_literals, is_operator_byte, longest_operator_run};
use super::statement::{Class, classify};
use super::tree::Tree;
use crate::wire::Refusal;

/// Most bytes of one query string, where the configuration says nothing else: mostly literals, or it is refused by the next limit.
pub const STATEMENT_BYTES_DEFAULT: usize = 4 * 1024 * 1024;
/// Most bytes that the configuration may allow. Reading takes several times as much.
pub const STATEMENT_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Most bytes of one query string outside of its literals: each may be a token.
pub const BYTES_OUTSIDE_LITERALS_MAX: usize = 1024 * 1024;
/// Longest run of operator characters: PostgreSQL's scanner reads a run of signs again for each of them (4 s for 80 000).
const OPERATOR_RUN_MAX: usize = 500;
/// Most tokens of one query string.
pub const TOKENS_MAX: usize = 300_000;
/// Most statements of one query string.
pub const STATEMENTS_MAX: usize = 500;

/// A text of so few tokens can't be so deep that an ordinary thread of the server could not read it.
const SHALLOW_TOKENS_MAX: usize = 400;
/// Stack for the others. Only what is used is ever backed by memory; PostgreSQL's own guard ends deeper texts before.
const DEEP_STACK_BYTES: usize = 1024 * 1024 * 1024;
/// Deepest tree that is judged: everything behind the parser recurses on the server's threads, with small frames.
const DEPTH_MAX: usize = 2_000;

/// A text with its tokens (comments left out) and its trees.
pub struct Parsed {
    /// The text.
    pub text: String,
    /// Tokens in order, without comments.
    pub tokens: Vec<ScanToken>,
    /// The class of each statement.
    pub classes: Vec<Class>,
    /// PostgreSQL's tree as plain data: one `RawStmt` per statement.
    pub statements: Vec<Tree>,
}

impl Parsed {
    /// The part of the text that a token covers.
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> &str {
        self.text.get(start..end).unwrap_or("")
    }

    /// Index of the token that begins at a byte offset.
    #[must_use]
    pub fn token_at(&self, offset: usize) -> Option<usize> {
        let offset = i32::try_from(offset).ok()?;
        self.tokens.binary_search_by_key(&offset, |t| t.start).ok()
    }

    /// A token by index.
    #[must_use]
    pub fn token(&self, index: usize) -> Option<Tok> {
        let token = self.tokens.get(index)?;
        Some(Tok {
            kind: Token::try_from(token.token).ok()?,
            start: usize::try_from(token.start).ok()?,
            end: usize::try_from(token.end).ok()?,
        })
    }
}

/// One token: its kind and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tok {
    /// Kind by PostgreSQL's scanner.
    pub kind: Token,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// Reads a text.
///
/// # Errors
/// 54000 beyond a limit; 42601 with PostgreSQL's own words where the grammar does not accept it.
pub fn parse(text: &str) -> Result<Parsed, Refusal> {
    if text.len() > STATEMENT_BYTES_MAX {
        return Err(too_much(
            "statement-bytes",
            &format!("query string is longer than {STATEMENT_BYTES_MAX} bytes"),
        ));
    }
    if text.len() > BYTES_OUTSIDE_LITERALS_MAX && bytes_outside_literals(text) > BYTES_OUTSIDE_LITERALS_MAX {
        return Err(too_much(
            "statement-bytes",
            &format!("query string has more than {BYTES_OUTSIDE_LITERALS_MAX} bytes outside of its literals"),
        ));
    }
    if text.contains('\0') {
        return Err(syntax("query string holds a zero byte", None));
    }
    let tokens = scan(text).map_err(|e| syntax(&plain(&e), None))?;
    if tokens.len() > TOKENS_MAX {
        return Err(too_much(
            "statement-tokens",
            &format!("query string has more than {TOKENS_MAX} tokens"),
        ));
    }
    let separators = tokens.iter().filter(|t| t.token == Token::Ascii59 as i32).count();
    if separators > STATEMENTS_MAX {
        return Err(too_much(
            "statement-count",
            &format!("query string has more than {STATEMENTS_MAX} statements"),
        ));
    }
    // Decoding a deep tree takes tens of kilobytes of stack a level: a text that could be one is read on a thread that has them.
    let (statements, classes) = if tokens.len() <= SHALLOW_TOKENS_MAX {
        trees(text)?
    } else {
        let own = text.to_owned();
        std::thread::Builder::new()
            .name("menshen-parse".to_owned())
            .stack_size(DEEP_STACK_BYTES)
            .spawn(move || trees(&own))
            .map_err(|e| too_much("parse-thread", &format!("the statement cannot be read now: {e}")))?
            .join()
            .map_err(|_| too_much("parse-thread", "the statement cannot be read"))??
    };
    let tokens = tokens
        .into_iter()
        .filter(|t| t.token != Token::SqlComment as i32 && t.token != Token::CComment as i32)
        .collect();
    Ok(Parsed {
        text: text.to_owned(),
        tokens,
        classes,
        statements,
    })
}

/// Whether somewhere in a text, be it in a literal, stand more operator characters in a row.
fn may_run_long(text: &str) -> bool {
    let mut run = 0;
    text.len() > OPERATOR_RUN_MAX
        && text.bytes().any(|byte| {
            run = if is_operator_byte(byte) { run + 1 } else { 0 };
            run > OPERATOR_RUN_MAX
        })
}

/// The tokens of a text, comments too. A text of blanks has none; the binding would make a slice of a null pointer of it.
///
/// # Errors
/// Where PostgreSQL's scanner does not accept it.
pub fn scan(text: &str) -> Result<Vec<ScanToken>, pg_query::Error> {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    if text.chars().all(blank) {
        return Ok(Vec::new());
    }
    if may_run_long(text) && longest_operator_run(text) > OPERATOR_RUN_MAX {
        return Err(pg_query::Error::Scan("operator too long".to_owned()));
    }
    pg_query::scan_tokens(text)
}

/// Trees and classes of the statements. The typed tree is dropped here, where its depth is borne.
fn trees(text: &str) -> Result<(Vec<Tree>, Vec<Class>), Refusal> {
    let typed = pg_query::parse(text, pg_query::ParserOptions::default())
        .map_err(|e| unread(&e))?
        .protobuf;
    let statements = typed
        .stmts
        .iter()
        .map(Tree::of)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| {
            Refusal::unsupported(
                "parse-tree",
                e.to_string(),
                "report this statement to the Menshen project",
            )
        })?;
    if statements.iter().any(|s| s.depth() > DEPTH_MAX) {
        return Err(too_deep());
    }
    let classes = typed
        .stmts
        .iter()
        .map(|s| {
            s.stmt
                .as_ref()
                .and_then(|s| s.node.as_ref())
                .map_or(Class::NotAStatement, classify)
        })
        .collect();
    Ok((statements, classes))
}

/// The parser's own limit of depth is no error of syntax, as it is none of PostgreSQL's (stack_depth.c).
fn unread(error: &pg_query::Error) -> Refusal {
    let words = plain(error);
    if words.starts_with("stack depth limit exceeded") || words.starts_with("parse tree is nested too deeply") {
        return too_deep();
    }
    syntax(&words, None)
}

fn too_deep() -> Refusal {
    Refusal {
        sqlstate: "54001",
        ..too_much("statement-depth", "statement is nested too deeply to be judged")
    }
}

fn plain(error: &pg_query::Error) -> String {
    match error {
        pg_query::Error::Parse(message) | pg_query::Error::Scan(message) | pg_query::Error::Split(message) => {
            message.clone()
        }
        pg_query::Error::Conversion(_) => "query string holds a zero byte".to_owned(),
        pg_query::Error::Decode(_) => "statement is nested too deeply to be judged".to_owned(),
        pg_query::Error::InvalidJson(_) | pg_query::Error::InvalidPointer | pg_query::Error::IsUtility(_) => {
            "statement cannot be read".to_owned()
        }
    }
}

/// A syntax error in PostgreSQL's words. The words may quote the client's own text; they come from the client itself.
fn syntax(message: &str, position: Option<u32>) -> Refusal {
    Refusal {
        sqlstate: "42601",
        rule: "syntax",
        message: message.to_owned(),
        hint: "PostgreSQL's grammar does not accept this text; nothing was sent to the server".into(),
        position,
        incident: false,
    }
}

fn too_much(rule: &'static str, message: &str) -> Refusal {
    Refusal {
        sqlstate: "54000",
        rule,
        message: message.to_owned(),
        hint: "send it in smaller parts; a bulk load belongs into COPY".into(),
        position: None,
        incident: false,
    }
}

/// `"name"`, with quotes inside doubled.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_tokens_is_an_empty_query() {
        for text in ["", " ", "\n\t \x0b\x0c", ";", ";;", "-- x", "/* x */"] {
            assert_eq!(parse(text).unwrap().statements.len(), 0, "{text:?}");
        }
    }

    fn rule(text: &str) -> &'static str {
        parse(text).err().map_or("", |refusal| refusal.rule)
    }

    #[test]
    fn limits_hold_to_the_byte_the_token_and_the_statement() {
        let bytes = |n: usize| format!("SELECT {}1", " ".repeat(n - 8));
        assert_eq!(bytes(100).len(), 100);
        assert_eq!(rule(&bytes(BYTES_OUTSIDE_LITERALS_MAX)), "");
        assert_eq!(rule(&bytes(BYTES_OUTSIDE_LITERALS_MAX + 1)), "statement-bytes");
        // Literals are not counted.
        assert_eq!(
            rule(&format!(
                "{} + length('{}')",
                bytes(BYTES_OUTSIDE_LITERALS_MAX - 11),
                "x".repeat(1_000_000)
            )),
            ""
        );
        assert_eq!(
            rule(&format!(
                "{} + length('{}')",
                bytes(BYTES_OUTSIDE_LITERALS_MAX - 10),
                "x".repeat(1_000_000)
            )),
            "statement-bytes"
        );
        // `SELECT 1,1` has four tokens.
        let tokens = |n: usize| format!("SELECT {}", vec!["1"; n / 2].join(","));
        assert_eq!(rule(&tokens(TOKENS_MAX)), "");
        assert_eq!(rule(&format!("{};", tokens(TOKENS_MAX))), "statement-tokens");
        let signs = |n: usize| rule(&format!("SELECT {}1", "+".repeat(n)));
        assert_eq!(signs(OPERATOR_RUN_MAX + 1), "syntax");
        assert_ne!(signs(OPERATOR_RUN_MAX), "syntax");
        assert_eq!(rule(&format!("SELECT '{0}' -- {0}", "+".repeat(1_000))), "");
        assert_eq!(rule(&";".repeat(STATEMENTS_MAX)), "");
        assert_eq!(rule(&";".repeat(STATEMENTS_MAX + 1)), "statement-count");
        assert_eq!(rule("SELECT '\0'"), "syntax");
    }

    #[test]
    fn deep_texts_are_read_or_refused_and_end_no_thread() {
        // With the stack that the server's threads have.
        let deep = || {
            let sum = |n: usize| format!("SELECT {}", vec!["1"; n].join("+"));
            assert_eq!(rule(&sum(500)), "");
            let refusal = parse(&sum(3_000)).err().unwrap();
            assert_eq!((refusal.rule, refusal.sqlstate), ("statement-depth", "54001"));
            // As many tokens as are read on the caller's own thread, as deep as they can be.
            assert_eq!(rule(&format!("SELECT {}1", "NOT ".repeat(398))), "");
        };
        let thread = std::thread::Builder::new().stack_size(64 * 1024 * 1024);
        thread.spawn(deep).unwrap().join().unwrap();
    }

    #[test]
    fn tokens_are_found_by_their_first_byte_and_comments_are_none() {
        let parsed = parse("SELECT /* a */ 1 -- b").unwrap();
        assert_eq!(parsed.tokens.len(), 2);
        assert_eq!(
            (parsed.token_at(0), parsed.token_at(15), parsed.token_at(7)),
            (Some(0), Some(1), None)
        );
        let token = parsed.token(1).unwrap();
        assert_eq!((token.kind, token.start, token.end), (Token::Iconst, 15, 16));
        assert_eq!(parsed.slice(15, 16), "1");
        assert_eq!(parsed.token(2), None);
    }

    #[test]
    fn errors_are_in_the_parsers_own_words() {
        for (text, words) in [
            ("SELEC 1", "syntax error at or near \"SELEC\""),
            ("SELECT 'x", "unterminated quoted string at or near \"'x\""),
        ] {
            let refusal = parse(text).err().unwrap();
            assert_eq!((refusal.rule, refusal.message.as_str()), ("syntax", words));
        }
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }
}
