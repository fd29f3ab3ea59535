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
        match &self.kind {
            Kind::Null => {}
            Kind::Fixed(text) => fill(room(out, text.len())?, text.as_bytes(), b""),
            Kind::Keep(first, last) => keep(Text::of(value)?, *first, *last, out)?,
            Kind::Name => name(Text::of(value)?, out)?,
            Kind::Email => email(Text::of(value)?, out)?,
            Kind::Phone => phone(Text::of(value)?, out)?,
        }
        match self.most {
            // Never shorter in characters than in bytes.
            Some(most) if out.len() - start - 4 > most => cut(out, start, most),
            Some(_) | None => Ok(()),
        }
    }
}

/// Leaves so many characters of the column that begins at `start`.
fn cut(out: &mut BytesMut, start: usize, most: usize) -> Result<(), NotText> {
    let length = Text::of(out.get(start + 4..).unwrap_or_default())?.split(most).0.len();
    end(out, start, length)
}

/// Ends the column that begins at `start` behind so many bytes.
fn end(out: &mut BytesMut, start: usize, length: usize) -> Result<(), NotText> {
    out.truncate(start + 4 + length);
    let place = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut);
    *place.ok_or(NotText)? = i32::try_from(length).map_err(|_| NotText)?.to_be_bytes();
    Ok(())
}

/// A new column of so many stars, to write others over. All of its room is made at once: that is half of what a mask costs.
fn room(out: &mut BytesMut, length: usize) -> Result<&mut [u8], NotText> {
    let start = out.len();
    out.resize(start + 4 + length, b'*');
    let column = out.get_mut(start..).and_then(<[u8]>::split_first_chunk_mut);
    let (place, stars) = column.ok_or(NotText)?;
    *place = i32::try_from(length).map_err(|_| NotText)?.to_be_bytes();
    Ok(stars)
}

/// Writes at the beginning and at the end.
fn fill(stars: &mut [u8], first: &[u8], last: &[u8]) {
    if let Some(place) = stars.get_mut(..first.len()) {
        place.copy_from_slice(first);
    }
    let from = stars.len().saturating_sub(last.len());
    if let Some(place) = stars.get_mut(from..).filter(|place| place.len() == last.len()) {
        place.copy_from_slice(last);
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
            // The bytes that begin one.
            Self::Wide(text) => text.bytes().filter(|b| b.cast_signed() >= -0x40).count(),
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

fn keep(text: Text<'_>, first: usize, last: usize, out: &mut BytesMut) -> Result<(), NotText> {
    let length = text.characters();
    let Some(hidden) = length.checked_sub(first + last).filter(|n| *n > 0) else {
        return room(out, length).map(|_| ());
    };
    let (first, last) = (text.split(first).0, text.split(length - last).1);
    fill(room(out, first.len() + hidden + last.len())?, first, last);
    Ok(())
}

fn phone(text: Text<'_>, out: &mut BytesMut) -> Result<(), NotText> {
    match text.characters() {
        7..11 => keep(text, 0, 2, out),
        length @ 11..=16 => keep(text, length - 8, 4, out),
        length @ (0..7 | 17..) => room(out, length).map(|_| ()),
    }
}

fn email(text: Text<'_>, out: &mut BytesMut) -> Result<(), NotText> {
    let (first, last) = match text.bytes().iter().position(|b| *b == b'@') {
        Some(at) if at > 0 => (text.split(1).0, text.bytes().get(at..).unwrap_or_default()),
        Some(_) | None => (&b""[..], &b""[..]),
    };
    fill(room(out, first.len() + 3 + last.len())?, first, last);
    Ok(())
}

/// Surnames of two characters, and which characters they begin with: few do.
struct Compound {
    all: HashSet<&'static [u8], foldhash::fast::RandomState>,
    begin: Box<[bool]>,
}

static COMPOUND: LazyLock<Compound> = LazyLock::new(|| {
    let all: HashSet<_, _> = include_str!("surnames.txt")
        .split_whitespace()
        .map(str::as_bytes)
        .collect();
    let mut begin = vec![false; HAN.count()];
    for surname in include_str!("surnames.txt").split_whitespace() {
        if let Some(place) = surname
            .chars()
            .next()
            .and_then(|c| begin.get_mut(place_of(u32::from(c))))
        {
            *place = true;
        }
    }
    Compound {
        all,
        begin: begin.into(),
    }
});

/// Numbers of the characters that begin a Chinese name; all have three bytes.
const HAN: std::ops::RangeInclusive<u32> = 13_312..=40_959;

fn place_of(character: u32) -> usize {
    usize::try_from(character.wrapping_sub(*HAN.start())).unwrap_or(usize::MAX)
}

fn name(text: Text<'_>, out: &mut BytesMut) -> Result<(), NotText> {
    let first = text.first();
    if HAN.contains(&first) {
        let length = text.characters();
        let compound = &*COMPOUND;
        let may_be = length > 2 && compound.begin.get(place_of(first)).copied().unwrap_or(true);
        let kept = if may_be && compound.all.contains(text.split(2).0) {
            2
        } else {
            1
        };
        let first = text.split(kept).0;
        fill(room(out, first.len() + (length - kept).max(1))?, first, b"");
        return Ok(());
    }
    // The first letter of each word; blanks as they are. No byte of a wide character is a blank's.
    let bytes = text.bytes();
    let blanks = bytes.iter().filter(|b| **b == b' ').count();
    if blanks == 0 {
        let first = text.split(1).0;
        let stars = if first.is_empty() { 0 } else { 3 };
        fill(room(out, first.len() + stars)?, first, b"");
        return Ok(());
    }
    let start = out.len();
    let stars = room(out, blanks + (blanks + 1) * (4 + 3))?;
    let mut length = 0;
    let mut letters = 0;
    let mut before = b' ';
    for byte in bytes {
        // A letter begins a word; the bytes that make it up follow.
        if before == b' ' && *byte != b' ' {
            letters = match *byte {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0.. => 4,
            };
        }
        before = *byte;
        if *byte == b' ' || letters > 0 {
            *stars.get_mut(length).ok_or(NotText)? = *byte;
            length += 1;
            if *byte != b' ' {
                letters -= 1;
                length += if letters == 0 { 3 } else { 0 };
            }
        }
    }
    end(out, start, length)
}
