//! How much of a text is outside of its literals: what reading it may cost, told before anything is read.
//!
//! A literal is one token however long it is; outside of literals there may be a token in every byte. What is counted here decides nothing but
//! whether a text is too large to be given to the scanner: the scanner says what is a literal.

/// Bytes of a text outside of string literals, `E'…'` and `$tag$…$tag$`. Comments and quoted names are outside, and hide quotes.
#[must_use]
pub fn bytes_outside_literals(text: &str) -> usize {
    let mut outside = 0;
    walk(text, |bytes, piece| {
        if piece != Piece::Literal {
            outside += bytes.len();
        }
    });
    outside
}

/// Whether a byte may be part of an operator (scan.l's `op_chars`).
#[must_use]
pub fn is_operator_byte(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

/// The longest run of operator characters that stands in no literal, comment or quoted name.
#[must_use]
pub fn longest_operator_run(text: &str) -> usize {
    let (mut run, mut longest) = (0, 0);
    walk(text, |bytes, piece| {
        let operator = piece == Piece::Other && bytes.first().is_some_and(|b| is_operator_byte(*b));
        run = if operator { run + 1 } else { 0 };
        longest = longest.max(run);
    });
    longest
}

/// What a piece of a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Literal,
    /// A comment, or a quoted name.
    Hidden,
    /// One byte.
    Other,
}

/// The pieces of a text in their order.
fn walk(text: &str, mut visit: impl FnMut(&[u8], Piece)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    let (mut escapes, mut ended) = (false, 0);
    while let Some(byte) = bytes.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        let (length, piece) = match byte {
            b'\'' => {
                // Behind a literal, blanks and an end of line stands another part of it, of the same kind.
                escapes = is_escape(bytes, at) || escapes && bytes.get(ended..at).is_some_and(is_continued);
                let length = quoted(rest, b'\'', escapes);
                ended = at + length;
                (length, Piece::Literal)
            }
            b'"' => (quoted(rest, b'"', false), Piece::Hidden),
            b'-' if rest.starts_with(b"--") => (
                rest.iter()
                    .position(|b| matches!(b, b'\n' | b'\r'))
                    .unwrap_or(rest.len()),
                Piece::Hidden,
            ),
            b'/' if rest.starts_with(b"/*") => (comment(rest), Piece::Hidden),
            b'$' if !continues_name(bytes, at) => {
                dollar(rest).map_or((1, Piece::Other), |length| (length, Piece::Literal))
            }
            _ => (1, Piece::Other),
        };
        visit(rest.get(..length).unwrap_or(rest), piece);
        at += length;
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn continues_name(bytes: &[u8], at: usize) -> bool {
    at.checked_sub(1)
        .and_then(|before| bytes.get(before))
        .is_some_and(|b| is_name_byte(*b))
}

/// Whether the quote at a place begins a literal with backslash escapes: behind an `E` that is not part of a name.
fn is_escape(bytes: &[u8], at: usize) -> bool {
    let Some(before) = at.checked_sub(1) else { return false };
    let head = bytes.get(..before).unwrap_or_default();
    let digits = head.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let head = head.get(..head.len() - digits).unwrap_or_default();
    // `$1E'…'` is a parameter and a literal, `1E'…'` a number and one; `x1E'…'` is a name and a plain one.
    let head = head.strip_suffix(b"$").filter(|_| digits > 0).unwrap_or(head);
    matches!(bytes.get(before), Some(b'e' | b'E')) && !head.last().is_some_and(|b| is_name_byte(*b))
}

/// Whether between two literals there is what makes one of them: blanks with an end of line, and comments of a line.
fn is_continued(between: &[u8]) -> bool {
    let text = String::from_utf8_lossy(between);
    let lines = text.split(['\n', '\r']).map(str::trim_ascii_start);
    lines.clone().count() > 1 && lines.clone().all(|line| line.is_empty() || line.starts_with("--"))
}

/// Length of what is quoted, both quotes included. A doubled quote is two pieces, which comes to the same.
fn quoted(bytes: &[u8], quote: u8, escapes: bool) -> usize {
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        if *byte == quote {
            if bytes.get(at) != Some(&quote) {
                break;
            }
            at += 1;
        } else if escapes && *byte == b'\\' {
            at += 1;
        }
    }
    at.min(bytes.len())
}

fn position(bytes: &[u8], of: &[u8]) -> Option<usize> {
    bytes.windows(of.len()).position(|window| window == of)
}

/// Length of a comment. They nest.
fn comment(bytes: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth = depth.saturating_sub(1);
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// Length of a `$tag$…$tag$` that begins here, if one does.
fn dollar(bytes: &[u8]) -> Option<usize> {
    let tag = bytes.get(1..)?.iter().position(|b| *b == b'$')? + 2;
    let (delimiter, body) = bytes.split_at_checked(tag)?;
    let name = delimiter.get(1..tag - 1)?;
    if name.first().is_some_and(u8::is_ascii_digit) || !name.iter().all(|b| is_name_byte(*b)) {
        return None;
    }
    Some(position(body, delimiter).map_or(bytes.len(), |end| tag + end + tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_operator_characters_are_those_that_the_scanner_reads() {
        for (text, longest) in [
            ("SELECT 1", 0),
            ("SELECT ++++1", 4),
            ("a<=b", 2),
            ("'+++++' || \"+++++\" + $$+++++$$", 2),
            ("+++ --+++++\n++++", 4),
            ("++/*+++++*/+", 2),
        ] {
            assert_eq!(longest_operator_run(text), longest, "{text}");
        }
    }

    #[test]
    fn what_is_in_literals_is_not_counted() {
        for (text, outside) in [
            ("SELECT 1", 8),
            ("'xx'", 0),
            ("a'x''y'b", 2),
            ("e'x\\'y'", 1),
            // Not behind a name that ends with an e: the second quote ends it.
            ("type'x\\'y'", 5),
            ("\"a'b\"'x'", 5),
            ("E'a'\n'\\'', x''", 5),
            ("E'a' -- x\n'\\''1", 8),
            ("E'a' '\\',1", 4),
            ("--\r'x'", 3),
            ("$1E'\\''1", 4),
            ("x$1E'\\'1", 5),
            ("--'\n'x'", 4),
            ("/*'/*'*/'*/'x'", 11),
            ("$$x'$$", 0),
            ("$a$x$$y$a$", 0),
            ("$1'x'", 2),
            ("x$a$y$a$", 8),
            ("'open", 0),
            ("$a$open", 0),
            ("/* open '", 9),
        ] {
            assert_eq!(bytes_outside_literals(text), outside, "{text}");
        }
    }
}
