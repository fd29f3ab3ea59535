//! A statement's shape: its text with literals and comments lifted out, as PostgreSQL's own scanner tells them apart.
//!
//! Two texts of one shape differ in nothing but the spelling of these pieces, each of the same kind, and where one of them has the same piece twice, so
//! has the other (GROUP BY and its like compare expressions). PostgreSQL's grammar does not look into pieces: it reads both texts as the same tree with
//! other values in it.

use std::collections::HashMap;

use pg_query::protobuf::Token;
use smallvec::SmallVec;

use super::super::parse;

/// Kinds of piece that may vary. What a scanner of another version might read otherwise (`0x1F`, `1_000`, `E'…'`, `$$…$$`) is none of them: it
/// stays part of the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Digits that are an `int4`.
    Integer = b'i',
    /// Digits that are more.
    Long = b'n',
    /// Digits with a point.
    Decimal = b'f',
    /// `'…'`, with no backslash in it.
    Text = b's',
    /// `/* … */`
    Block = b'b',
    /// `-- …`
    Line = b'l',
}

/// A piece of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
    /// The number of the first piece that is written as this one is: its own, most often.
    pub first: u8,
}

/// Pieces in the order of the text.
pub(super) type Pieces = SmallVec<[Piece; 16]>;

/// Most pieces of a shape: longer lists of values are not worth remembering. Their numbers fit into a byte.
const PIECES_MAX: usize = 250;
/// From so many on, equal pieces are found by a table.
const MANY: usize = 24;

/// The pieces of a text; `None` where the scanner does not accept it, or there are too many.
pub(super) fn pieces(text: &str) -> Option<Pieces> {
    let mut found = Pieces::new();
    let mut table: HashMap<&str, u8, foldhash::fast::RandomState> = HashMap::default();
    for token in parse::scan(text).ok()? {
        let kind = match Token::try_from(token.token) {
            Ok(Token::Iconst) => Kind::Integer,
            Ok(Token::Fconst) => Kind::Long,
            Ok(Token::Sconst) => Kind::Text,
            Ok(Token::CComment) => Kind::Block,
            Ok(Token::SqlComment) => Kind::Line,
            Ok(_) => continue,
            Err(_) => return None,
        };
        let (start, end) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        let Some(kind) = plain(kind, text.get(start..end)?) else {
            continue;
        };
        if found.len() >= PIECES_MAX {
            return None;
        }
        let own = u8::try_from(found.len()).ok()?;
        let written = text.get(start..end)?;
        let first = if found.len() < MANY {
            let equal = found.iter().find(|p| text.get(p.start..p.end) == Some(written));
            equal.map_or(own, |p| p.first)
        } else {
            if found.len() == MANY {
                table.extend(
                    found
                        .iter()
                        .rev()
                        .filter_map(|p| Some((text.get(p.start..p.end)?, p.first))),
                );
            }
            *table.entry(written).or_insert(own)
        };
        found.push(Piece {
            start,
            end,
            kind,
            first,
        });
    }
    Some(found)
}

/// The kind of a token as it is written; `None` where it is written in a way that is no piece.
fn plain(kind: Kind, written: &str) -> Option<Kind> {
    let bytes = written.as_bytes();
    match kind {
        Kind::Integer => bytes.iter().all(u8::is_ascii_digit).then_some(kind),
        Kind::Long | Kind::Decimal => {
            let points = bytes.iter().filter(|b| **b == b'.').count();
            let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
            match (points, digits + points == bytes.len() && digits > 0) {
                (0, true) => Some(Kind::Long),
                (1, true) => Some(Kind::Decimal),
                (_, true | false) => None,
            }
        }
        Kind::Text => (bytes.first() == Some(&b'\'') && !bytes.contains(&b'\\')).then_some(kind),
        Kind::Block | Kind::Line => Some(kind),
    }
}

/// A key's bytes.
pub(super) type Bytes = SmallVec<[u8; 512]>;

/// The key of a text under a context: pieces for which `lifted` says so stand as their kind and the number of the first that is written so, all
/// others as they are written. Zero bytes, which no text has, mark them.
pub(super) fn key(head: &[u8], text: &str, pieces: &[Piece], lifted: impl Fn(usize) -> bool) -> Bytes {
    let bytes = text.as_bytes();
    let mut key = Bytes::with_capacity(head.len() + bytes.len());
    key.extend_from_slice(head);
    let mut at = 0;
    for (index, piece) in pieces.iter().enumerate() {
        if lifted(index) {
            key.extend_from_slice(bytes.get(at..piece.start).unwrap_or(&[]));
            key.extend_from_slice(&[0, piece.kind as u8, piece.first]);
            at = piece.end;
        }
    }
    key.extend_from_slice(bytes.get(at..).unwrap_or(&[]));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Vec<u8> {
        key(b"", text, &pieces(text).unwrap(), |_| true).to_vec()
    }

    #[test]
    fn texts_that_differ_in_pieces_alone_have_one_shape() {
        for (one, two) in [
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 2147483647"),
            ("SELECT 'a'", "SELECT 'it''s'"),
            ("SELECT 1.5", "SELECT .25"),
            ("SELECT 9999999999", "SELECT 99999999999999999999999"),
            ("SELECT /* a */ 1 -- x", "SELECT /* b /* c */ ' */ 2 -- y 'z"),
        ] {
            assert_eq!(whole(one), whole(two), "{one} | {two}");
        }
    }

    #[test]
    fn equal_pieces_are_equal_in_every_text_of_a_shape() {
        let many = |values: &[usize]| {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            whole(&format!("SELECT {}", values.join(",")))
        };
        assert_eq!(many(&[1, 2, 1]), many(&[7, 8, 7]));
        assert_ne!(many(&[1, 2, 1]), many(&[1, 2, 3]));
        assert_ne!(many(&[1, 2, 1]), many(&[1, 2, 2]));
        // As well where a table is used.
        let line = |last: usize| (0..100).chain([last]).collect::<Vec<_>>();
        assert_eq!(
            many(&line(3)),
            many(&line(3).iter().map(|n| n + 500).collect::<Vec<_>>())
        );
        for other in [4, 30, 99, 100] {
            assert_ne!(many(&line(3)), many(&line(other)), "{other}");
        }
        assert_ne!(whole("SELECT '1', 1"), whole("SELECT 1, '1'"));
    }

    #[test]
    fn texts_that_are_read_otherwise_have_others() {
        let texts = [
            "SELECT 1",
            "SELECT 9999999999",
            "SELECT 1.5",
            "SELECT 1e5",
            "SELECT '1'",
            "SELECT E'1'",
            "SELECT B'1'",
            "SELECT X'1'",
            "SELECT N'1'",
            "SELECT U&'1'",
            "SELECT $$1$$",
            "SELECT $a$1$a$",
            "SELECT $1",
            "SELECT \"1\"",
            "SELECT 0x1F",
            "SELECT 1_000",
            "SELECT -1",
            "SELECT 1 -- 1",
            "SELECT 1 /* 1 */",
            "SELECT  1",
            "SELECT '\\1'",
            "SELECT '\\2'",
            "SELECT a",
            "select 1",
        ];
        for (n, one) in texts.iter().enumerate() {
            for two in texts.iter().skip(n + 1) {
                assert_ne!(whole(one), whole(two), "{one} | {two}");
            }
        }
    }

    #[test]
    fn what_the_scanner_does_not_accept_has_none() {
        assert!(pieces("SELECT 'x").is_none());
        assert!(pieces("SELECT '\0'").is_none());
        assert!(pieces(&format!("SELECT {}", vec!["1"; PIECES_MAX + 1].join(","))).is_none());
        assert!(pieces("").unwrap().is_empty());
    }
}
