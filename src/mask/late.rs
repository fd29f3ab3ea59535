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
            Kind::Keep(first, last) => keep(Text::of(value)?, *first, *last, out),
            Kind::Name => name(Text::of(value)?, out),
            Kind::Email => email(Text::of(value)?, out),
            Kind::Phone => phone(Text::of(value)?, out),
        }
        if let Some(most) = self.most {
            // Never shorter in characters than in bytes.
            let written = out.get(start + 4..).unwrap_or_default();
            if written.len() > most {
                let cut = Text::of(written)?.split(most).0.len();
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

/// A value: its characters are bytes, or are not.
#[derive(Debug, Clone, Copy)]
enum Text<'t> {
    Ascii(&'t [u8]),
    Wide(&'t str),
}

impl<'t> Text<'t> {
    fn of(value: &'t [u8]) -> Result<Self, NotText> {
        if value.is_ascii() {
            return Ok(Self::Ascii(value));
        }
        std::str::from_utf8(value).map(Self::Wide).map_err(|_| NotText)
    }

    /// As `length` counts.
    fn characters(self) -> usize {
        match self {
            Self::Ascii(bytes) => bytes.len(),
            Self::Wide(text) => text.chars().count(),
        }
    }

    /// The first so many characters, and the rest.
    fn split(self, characters: usize) -> (&'t [u8], &'t [u8]) {
        let at = match self {
            Self::Ascii(bytes) => characters.min(bytes.len()),
            Self::Wide(text) => text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at),
        };
        self.bytes().split_at(at)
    }

    fn bytes(self) -> &'t [u8] {
        match self {
            Self::Ascii(bytes) => bytes,
            Self::Wide(text) => text.as_bytes(),
        }
    }

    /// As `ascii`: the first character's number, 0 where there is none.
    fn first(self) -> u32 {
        match self {
            Self::Ascii(bytes) => bytes.first().copied().map_or(0, u32::from),
            Self::Wide(text) => text.chars().next().map_or(0, u32::from),
        }
    }
}

fn stars(count: usize, out: &mut BytesMut) {
    out.put_bytes(b'*', count);
}

fn keep(text: Text<'_>, first: usize, last: usize, out: &mut BytesMut) {
    let length = text.characters();
    if length <= first + last {
        return stars(length, out);
    }
    out.put_slice(text.split(first).0);
    stars(length - first - last, out);
    out.put_slice(text.split(length - last).1);
}

fn phone(text: Text<'_>, out: &mut BytesMut) {
    let length = text.characters();
    match length {
        0..7 => stars(length, out),
        7..11 => {
            stars(length - 2, out);
            out.put_slice(text.split(length - 2).1);
        }
        11..=16 => {
            out.put_slice(text.split(length - 8).0);
            stars(4, out);
            out.put_slice(text.split(length - 4).1);
        }
        17.. => stars(length, out),
    }
}

fn email(text: Text<'_>, out: &mut BytesMut) {
    match memchr::memchr(b'@', text.bytes()) {
        Some(at) if at > 0 => {
            out.put_slice(text.split(1).0);
            stars(3, out);
            out.put_slice(text.bytes().get(at..).unwrap_or_default());
        }
        Some(_) | None => stars(3, out),
    }
}

static COMPOUND: LazyLock<HashSet<&[u8], foldhash::fast::RandomState>> = LazyLock::new(|| {
    include_str!("surnames.txt")
        .split_whitespace()
        .map(str::as_bytes)
        .collect()
});

fn name(text: Text<'_>, out: &mut BytesMut) {
    if (13_312..=40_959).contains(&text.first()) {
        let length = text.characters();
        let kept = if length > 2 && COMPOUND.contains(text.split(2).0) {
            2
        } else {
            1
        };
        out.put_slice(text.split(kept).0);
        return stars((length - kept).max(1), out);
    }
    // The first letter of each word; blanks as they are. No byte of a wide character is a blank's.
    let mut rest = text.bytes();
    while let Some(byte) = rest.first() {
        if *byte == b' ' {
            out.put_u8(b' ');
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let letter = match *byte {
            0..0x80 => 1,
            0x80..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0.. => 4,
        };
        out.put_slice(rest.get(..letter).unwrap_or(rest));
        stars(3, out);
        let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        rest = rest.get(end..).unwrap_or_default();
    }
}
