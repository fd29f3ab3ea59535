//! Walking a RowDescription in place.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::Frame;

/// One column of a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'b> {
    /// Its name, as sent.
    pub name: &'b [u8],
    /// The relation that it is of, or 0.
    pub relation: u32,
    /// The attribute that it is, or 0.
    pub attribute: i16,
    /// Type, length, modifier, format: what stands behind.
    rest: &'b [u8],
}

impl Column<'_> {
    /// Number of its type, and type modifier.
    #[must_use]
    pub fn of_type(&self) -> (u32, i32) {
        let mut rest = self.rest;
        let ty = rest.try_get_u32().unwrap_or_default();
        let _length = rest.try_get_i16();
        (ty, rest.try_get_i32().unwrap_or(-1))
    }
}

/// The columns of one.
pub type Columns<'b> = SmallVec<[Column<'b>; 16]>;

/// Reads a RowDescription's columns: a name, then relation (int32), attribute (int16), type (int32), length (int16), modifier (int32), format (int16)
/// each. False where it is not laid out so.
#[must_use]
pub fn read<'f>(frame: &'f Frame, columns: &mut Columns<'f>) -> bool {
    read_all(frame.body(), columns).is_some()
}

fn read_all<'f>(mut body: &'f [u8], columns: &mut Columns<'f>) -> Option<()> {
    for _ in 0..body.try_get_u16().ok()? {
        let end = body.iter().position(|b| *b == 0)?;
        let (name, rest) = body.split_at_checked(end)?;
        let (mut fixed, after) = rest.get(1..)?.split_at_checked(18)?;
        let (relation, attribute) = (fixed.try_get_u32().ok()?, fixed.try_get_i16().ok()?);
        columns.push(Column {
            name,
            relation,
            attribute,
            rest: fixed,
        });
        body = after;
    }
    body.is_empty().then_some(())
}

/// A RowDescription of these columns.
#[must_use]
pub fn message(columns: &[Column<'_>]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
    for column in columns {
        body.put_slice(column.name);
        body.put_u8(0);
        body.put_u32(column.relation);
        body.put_i16(column.attribute);
        body.put_slice(column.rest);
    }
    super::message::framed(b'T', &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        let body = b"\0\x02a\0\0\0\0\x07\0\x02\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\x01";
        let frame = Frame {
            kind: b'T',
            bytes: super::super::message::framed(b'T', body),
        };
        let mut columns = Columns::new();
        assert!(read(&frame, &mut columns));
        assert_eq!(
            (columns[0].name, columns[0].relation, columns[0].attribute),
            (&b"a"[..], 7, 2)
        );
        assert_eq!((columns[1].name, columns[1].relation), (&b""[..], 0));
        assert_eq!(message(&columns), frame.bytes);
        for end in 0..body.len() {
            let bytes = super::super::message::framed(b'T', &body[..end]);
            assert!(!read(&Frame { kind: b'T', bytes }, &mut Columns::new()), "{end}");
        }
    }
}
