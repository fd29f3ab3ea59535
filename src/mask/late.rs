//! Masks that Menshen applies itself, to values that the server sends clear: byte for byte what the SQL expression of the same mask gives for a
//! `text` or `character varying` in UTF-8. Text and binary format of such a value are the same bytes.

use std::collections::HashSet;
use std::sync::LazyLock;

use bytes::{BufMut, BytesMut};

use crate::catalog::Column;
use crate::policy::MaskSpec;

const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;

/// A mask on the values of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateMask {
    kind: Kind,
    /// Most characters: the cast to the column's own type cuts off the rest.
    most: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Null,
    Fixed(Box<str>),
    Keep(usize, usize),
    Name,
    Email,
    Phone,
}

/// A value that is no UTF-8: the server would not store it in such a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value that is no UTF-8")]
pub struct NotText;

impl LateMask {
    /// The mask that does what the SQL expression of `spec` does on this column; `None` where only the server can do it.
    #[must_use]
    pub fn of(spec: &MaskSpec, column: &Column) -> Option<Self> {
        // Not a domain: its base type differs.
        if column.type_oid != column.base_type_oid || !matches!(column.type_oid, TEXT | VARCHAR) {
            return None;
        }
        let most = match column.type_oid {
            VARCHAR => super::text_length(&column.base_type_sql),
            _ => None,
        };
        let kind = match spec {
            MaskSpec::Null => Kind::Null,
            MaskSpec::Full => Kind::Fixed("***".into()),
            MaskSpec::Constant(value) => Kind::Fixed(value.as_str().into()),
            MaskSpec::Keep(first, last) => Kind::Keep(usize::from(*first), usize::from(*last)),
            MaskSpec::IdCard => Kind::Keep(1, 1),
            MaskSpec::BankCard => Kind::Keep(0, 4),
            MaskSpec::Name => Kind::Name,
            MaskSpec::Email => Kind::Email,
            MaskSpec::Phone => Kind::Phone,
            // Regular expressions, and keys that no answer may come near.
            MaskSpec::Address(_) | MaskSpec::Year | MaskSpec::Month | MaskSpec::Bucket(_) | MaskSpec::Token => {
                return None;
            }
        };
        Some(Self { kind, most })
    }

    /// Adds a column of a DataRow (int32 length, bytes; -1 is NULL) with the masked value to `out`.
    ///
    /// # Errors
    /// Where the value is no UTF-8. Then a part may have been added.
    pub fn column(&self, value: Option<&[u8]>, out: &mut BytesMut) -> Result<(), NotText> {
        let Some(value) = value.filter(|_| self.kind != Kind::Null) else {
            out.put_i32(-1);
            return Ok(());
        };
        let start = out.len();
        out.put_i32(0);
        match &self.kind {
            Kind::Null => {}
            Kind::Fixed(text) => out.put_slice(text.as_bytes()),
            Kind::Keep(first, last) => keep(text(value)?, *first, *last, out),
            Kind::Name => name(text(value)?, out),
            Kind::Email => email(text(value)?, out),
            Kind::Phone => phone(text(value)?, out),
        }
        if let Some(most) = self.most {
            // Never shorter in characters than in bytes.
            let written = out.get(start + 4..).unwrap_or_default();
            if written.len() > most {
                let cut = split(text(written)?, most).0.len();
                out.truncate(start + 4 + cut);
            }
        }
        let length = i32::try_from(out.len() - start - 4).map_err(|_| NotText)?;
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

fn text(value: &[u8]) -> Result<&str, NotText> {
    std::str::from_utf8(value).map_err(|_| NotText)
}

/// Characters, as `length` counts them.
fn characters(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().count()
    }
}

/// The first so many characters, and the rest.
fn split(text: &str, characters: usize) -> (&str, &str) {
    let at = if text.is_ascii() {
        characters.min(text.len())
    } else {
        text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at)
    };
    text.split_at(at)
}

fn stars(count: usize, out: &mut BytesMut) {
    out.put_bytes(b'*', count);
}

fn keep(text: &str, first: usize, last: usize, out: &mut BytesMut) {
    let length = characters(text);
    if length <= first + last {
        return stars(length, out);
    }
    out.put_slice(split(text, first).0.as_bytes());
    stars(length - first - last, out);
    out.put_slice(split(text, length - last).1.as_bytes());
}

fn phone(text: &str, out: &mut BytesMut) {
    let length = characters(text);
    match length {
        0..7 => stars(length, out),
        7..11 => {
            stars(length - 2, out);
            out.put_slice(split(text, length - 2).1.as_bytes());
        }
        11..=16 => {
            out.put_slice(split(text, length - 8).0.as_bytes());
            stars(4, out);
            out.put_slice(split(text, length - 4).1.as_bytes());
        }
        17.. => stars(length, out),
    }
}

fn email(text: &str, out: &mut BytesMut) {
    match text.find('@') {
        Some(at) if at > 0 => {
            out.put_slice(split(text, 1).0.as_bytes());
            stars(3, out);
            out.put_slice(text.get(at..).unwrap_or_default().as_bytes());
        }
        Some(_) | None => stars(3, out),
    }
}

static COMPOUND: LazyLock<HashSet<&str>> = LazyLock::new(|| include_str!("surnames.txt").split_whitespace().collect());

fn name(text: &str, out: &mut BytesMut) {
    let first = text.chars().next().map_or(0, u32::from);
    if (13_312..=40_959).contains(&first) {
        let length = characters(text);
        let two = split(text, 2).0;
        let kept = if length > 2 && COMPOUND.contains(two) { 2 } else { 1 };
        out.put_slice(split(text, kept).0.as_bytes());
        return stars((length - kept).max(1), out);
    }
    // The first letter of each word; blanks as they are.
    let mut inside = false;
    for character in text.chars() {
        if character == ' ' {
            out.put_u8(b' ');
        } else if !inside {
            let mut bytes = [0; 4];
            out.put_slice(character.encode_utf8(&mut bytes).as_bytes());
            stars(3, out);
        }
        inside = character != ' ';
    }
}
