//! Rows of COPY … TO STDOUT: their people read, their hidden columns cut off. The hidden columns are the last of each row.
//!
//! PostgreSQL sends one CopyData message for each row (text and CSV), the header line in one of its own, and the binary format's header
//! in front of the first row. What is not of that form ends the session.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::row::{self, Malformed};
use super::spec::MeterSpec;
use crate::ledger::{Kind, Shown};

/// `FORMAT` of COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyStyle {
    /// `text`
    Text,
    /// `csv`
    Csv,
    /// `binary`
    Binary,
}

/// The options of a COPY that its rows are read by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFormat {
    /// `FORMAT`
    pub style: CopyStyle,
    /// `DELIMITER`
    pub delimiter: u8,
    /// `NULL`
    pub null: String,
    /// `QUOTE` (CSV)
    pub quote: u8,
    /// `ESCAPE` (CSV)
    pub escape: u8,
    /// `HEADER`
    pub header: bool,
}

/// Reads the rows of one COPY.
#[derive(Debug)]
pub struct CopyReader {
    format: Arc<CopyFormat>,
    meter: Arc<MeterSpec>,
    kinds: Arc<[Kind]>,
    /// Columns the server sends.
    columns: usize,
    /// Nothing has come yet.
    first: bool,
}

const BINARY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

impl CopyReader {
    /// Takes in a CopyOutResponse's body (int8 format, int16 columns, int16 each). Gives the message for the client.
    ///
    /// # Errors
    /// Where it is malformed, or has fewer columns than are hidden.
    pub fn new(format: Arc<CopyFormat>, meter: Arc<MeterSpec>, body: &[u8]) -> Result<(Self, Bytes), Malformed> {
        let mut rest = body;
        let overall = row::take(&mut rest, 1)?.first().copied().unwrap_or(0);
        let columns = usize::try_from(row::take_i16(&mut rest)?).map_err(|_| Malformed("column count"))?;
        let visible = columns
            .checked_sub(meter.hidden.len())
            .ok_or(Malformed("fewer columns than are hidden"))?;
        if (overall == 1) != (format.style == CopyStyle::Binary) {
            return Err(Malformed("COPY is in another format than its options say"));
        }
        let mut out = BytesMut::new();
        out.put_u8(b'H');
        out.put_u32(u32::try_from(7 + 2 * visible).map_err(|_| Malformed("column count"))?);
        out.put_u8(overall);
        out.put_i16(i16::try_from(visible).map_err(|_| Malformed("column count"))?);
        out.extend_from_slice(row::take(&mut rest, 2 * visible)?);
        let reader = Self {
            format,
            kinds: meter.kinds(),
            meter,
            columns,
            first: true,
        };
        Ok((reader, out.freeze()))
    }

    /// What its hidden columns show.
    #[must_use]
    pub fn kinds(&self) -> &Arc<[Kind]> {
        &self.kinds
    }

    /// Takes in a CopyData message's body. Adds the message for the client to `out`, and whom it shows to `shown`.
    ///
    /// # Errors
    /// Where it is no row of this COPY. Then a part of it may have been added.
    pub fn row(&mut self, body: &[u8], out: &mut BytesMut, shown: &mut Shown) -> Result<(), Malformed> {
        let first = std::mem::take(&mut self.first);
        let start = out.len();
        out.reserve(body.len() + 5);
        out.put_u8(b'd');
        out.put_u32(0);
        match self.format.style {
            CopyStyle::Text => self.line(body, first, out, shown, Self::text_fields)?,
            CopyStyle::Csv => self.line(body, first, out, shown, Self::csv_fields)?,
            CopyStyle::Binary => self.tuples(body, first, out, shown)?,
        }
        let length = u32::try_from(out.len() - start - 1).map_err(|_| Malformed("row length"))?;
        if let Some(place) = out.get_mut(start + 1..start + 5) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    fn visible(&self) -> usize {
        self.columns - self.meter.hidden.len()
    }

    fn line(
        &self,
        body: &[u8],
        first: bool,
        out: &mut BytesMut,
        shown: &mut Shown,
        fields: impl Fn(&Self, &[u8]) -> Result<Fields, Malformed>,
    ) -> Result<(), Malformed> {
        let line = body.strip_suffix(b"\n").ok_or(Malformed("COPY line without end"))?;
        let fields = fields(self, line)?;
        // A row of no column at all is an empty line, as is one of a single empty column.
        if fields.len() != self.columns && !(self.columns == 0 && line.is_empty()) {
            return Err(Malformed("COPY line of another number of columns"));
        }
        let end = match self.visible().checked_sub(1) {
            None => 0,
            Some(last) => fields.get(last).map_or(0, |f| f.end),
        };
        out.extend_from_slice(line.get(..end).ok_or(Malformed("COPY line"))?);
        out.put_u8(b'\n');
        if first && self.format.header {
            return Ok(());
        }
        let fields = fields.into_iter().skip(self.visible());
        for (kind, (hidden, field)) in self.meter.hidden.iter().zip(fields).enumerate() {
            match (field.null, &field.value) {
                (true, Some(value)) => row::charge_either(hidden, kind, value, shown),
                (_, value) => row::charge(hidden, kind, value.as_deref(), shown)?,
            }
        }
        row::charge_row(&self.meter, shown);
        Ok(())
    }

    /// Where each column ends. Values are read of hidden ones only, which are the last.
    fn text_fields(&self, line: &[u8]) -> Result<Fields, Malformed> {
        let mut fields = Fields::new();
        let null = self.format.null.as_bytes();
        // No value is written like this: its backslash would be two.
        let certain = null == b"\\N";
        let (mut from, mut at) = (0, 0);
        loop {
            let rest = line.get(at..).unwrap_or_default();
            let found = memchr::memchr2(self.format.delimiter, b'\\', rest).map(|found| at + found);
            if let Some(found) = found.filter(|found| line.get(*found) == Some(&b'\\')) {
                at = found + 2;
                if at > line.len() {
                    return Err(Malformed("COPY escape"));
                }
                continue;
            }
            let end = found.unwrap_or(line.len());
            let raw = line.get(from..end).unwrap_or_default();
            let hidden = fields.len() >= self.visible();
            let is_null = hidden && raw == null;
            fields.push(Field {
                end,
                value: (hidden && !(certain && is_null)).then(|| unescaped(raw)),
                null: is_null,
            });
            if found.is_none() {
                return Ok(fields);
            }
            at = end + 1;
            from = at;
        }
    }

    fn csv_fields(&self, line: &[u8]) -> Result<Fields, Malformed> {
        let (quote, escape) = (self.format.quote, self.format.escape);
        let mut fields = Fields::new();
        let mut at = 0;
        loop {
            let hidden = fields.len() >= self.visible();
            let mut value = Vec::new();
            let mut push = |byte: u8| {
                if hidden {
                    value.push(byte);
                }
            };
            let quoted = line.get(at) == Some(&quote);
            if quoted {
                at += 1;
                loop {
                    let byte = *line.get(at).ok_or(Malformed("COPY quote"))?;
                    let next = line.get(at + 1).copied();
                    if let Some(next) = next.filter(|n| byte == escape && (*n == quote || *n == escape)) {
                        push(next);
                        at += 2;
                    } else if byte == quote {
                        at += 1;
                        break;
                    } else {
                        push(byte);
                        at += 1;
                    }
                }
            } else {
                while let Some(byte) = line.get(at).copied().filter(|b| *b != self.format.delimiter) {
                    push(byte);
                    at += 1;
                }
            }
            let null = hidden && !quoted && value == self.format.null.as_bytes();
            fields.push(Field {
                end: at,
                value: (hidden && !null).then_some(value),
                null,
            });
            match line.get(at) {
                None => return Ok(fields),
                Some(byte) if *byte == self.format.delimiter => at += 1,
                Some(_) => return Err(Malformed("COPY field")),
            }
        }
    }

    fn tuples(&self, body: &[u8], first: bool, out: &mut BytesMut, shown: &mut Shown) -> Result<(), Malformed> {
        let mut rest = body;
        if first {
            let header = row::take(&mut rest, BINARY_SIGNATURE.len() + 4)?;
            if !header.starts_with(BINARY_SIGNATURE) {
                return Err(Malformed("COPY header"));
            }
            out.extend_from_slice(header);
            let length = row::take_i32(&mut rest)?;
            out.put_i32(length);
            let length = usize::try_from(length).map_err(|_| Malformed("COPY header"))?;
            out.extend_from_slice(row::take(&mut rest, length)?);
        }
        while !rest.is_empty() {
            let count = row::take_i16(&mut rest)?;
            if count == -1 {
                out.put_i16(-1);
                continue;
            }
            if usize::try_from(count) != Ok(self.columns) {
                return Err(Malformed("COPY row of another number of columns"));
            }
            out.put_i16(i16::try_from(self.visible()).map_err(|_| Malformed("column count"))?);
            for position in 0..self.columns {
                let at = rest;
                let value = match row::take_i32(&mut rest)? {
                    -1 => None,
                    length => {
                        let length = usize::try_from(length).map_err(|_| Malformed("column length"))?;
                        Some(row::take(&mut rest, length)?)
                    }
                };
                let kind = position.checked_sub(self.visible());
                match kind.and_then(|kind| Some((kind, self.meter.hidden.get(kind)?))) {
                    None => out.extend_from_slice(at.get(..at.len() - rest.len()).ok_or(Malformed("column length"))?),
                    Some((kind, hidden)) => row::charge(hidden, kind, value, shown)?,
                }
            }
            row::charge_row(&self.meter, shown);
        }
        Ok(())
    }
}

/// A value of COPY's text format without its escapes.
fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => other,
                None => byte,
            },
            other => other,
        });
    }
    value
}

type Fields = SmallVec<[Field; 16]>;

/// One column of a line: where it ends, and of a hidden one its value without escapes and quotes. The text format writes a value that is the same as the
/// string for NULL like NULL (unless it has a backslash): then it may be either.
struct Field {
    end: usize,
    value: Option<Vec<u8>>,
    null: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Categories, Person};
    use crate::meter::{HiddenColumn, KeyShape};

    fn reader(style: CopyStyle, columns: i16, header: bool) -> CopyReader {
        let csv = style == CopyStyle::Csv;
        let format = CopyFormat {
            style,
            delimiter: if csv { b',' } else { b'\t' },
            null: if csv { String::new() } else { "\\N".into() },
            quote: b'"',
            escape: b'"',
            header,
        };
        let meter = MeterSpec {
            hidden: vec![HiddenColumn {
                name: "menshen_k1".into(),
                shape: KeyShape::One,
                space: Arc::from("crm.customers"),
                categories: Categories(4),
            }],
            per_row: vec![],
            late: vec![],
        };
        let mut body = vec![u8::from(style == CopyStyle::Binary)];
        body.extend(columns.to_be_bytes());
        for _ in 0..columns {
            body.extend([0, 0]);
        }
        CopyReader::new(Arc::new(format), Arc::new(meter), &body).unwrap().0
    }

    fn try_read(reader: &mut CopyReader, line: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>), Malformed> {
        let (mut out, mut shown) = (BytesMut::new(), Shown::new(Arc::clone(reader.kinds())));
        reader.row(line, &mut out, &mut shown)?;
        let people = shown.people().map(|e| match e.person {
            Person::Key(key) => key.to_vec(),
            Person::Unknown(count) => panic!("{count} unknown"),
        });
        Ok((out.to_vec(), people.collect()))
    }

    fn read(reader: &mut CopyReader, line: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (message, people) = try_read(reader, line).unwrap();
        assert_eq!(message[0], b'd');
        assert_eq!(
            u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize,
            message.len() - 1
        );
        (message[5..].to_vec(), people)
    }

    #[test]
    fn text_lines_lose_their_last_column() {
        let mut r = reader(CopyStyle::Text, 3, false);
        let (line, people) = read(&mut r, b"a\\\tb\tc\\\\\t42\n");
        assert_eq!(line, b"a\\\tb\tc\\\\\n");
        assert_eq!(people, [b"42"]);
        let (line, people) = read(&mut r, b"\\N\tx\t\\N\n");
        assert_eq!(line, b"\\N\tx\n");
        assert!(people.is_empty());
        // A person's key that the client has chosen for NULL.
        let format = CopyFormat {
            null: "5".to_owned(),
            ..(*r.format).clone()
        };
        r.format = Arc::new(format);
        let (line, people) = read(&mut r, b"a\t5\t5\n");
        assert_eq!(line, b"a\t5\n");
        assert_eq!(people, [b"5"]);
        for bad in [b"a\tb\n".as_slice(), b"a\tb\tc\td\n", b"a\tb\tc", b"a\tb\tc\\\n"] {
            assert!(try_read(&mut r, bad).is_err());
        }
    }

    #[test]
    fn csv_quotes_hide_delimiters_and_the_header_is_not_a_person() {
        let mut r = reader(CopyStyle::Csv, 3, true);
        let (line, people) = read(&mut r, b"a,b,menshen_k1\n");
        assert_eq!((line.as_slice(), people.len()), (b"a,b\n".as_slice(), 0));
        let (line, people) = read(&mut r, b"\"x,\"\"\n\",,\"4\"\"2\"\n");
        assert_eq!(line, b"\"x,\"\"\n\",\n");
        assert_eq!(people, [b"4\"2"]);
        let (_, people) = read(&mut r, b"1,2,\n");
        assert!(people.is_empty());
        for bad in [b"a,b\n".as_slice(), b"\"a,b,c\n", b"\"a\"x,b,c\n"] {
            assert!(try_read(&mut r, bad).is_err());
        }
    }

    #[test]
    fn binary_rows_keep_their_header_and_end() {
        let mut r = reader(CopyStyle::Binary, 2, false);
        let mut message = BINARY_SIGNATURE.to_vec();
        message.extend([0; 8]);
        message.extend([0, 2, 0, 0, 0, 1, b'x', 0, 0, 0, 2, b'4', b'2']);
        let (out, people) = read(&mut r, &message);
        assert_eq!(&out[19..], [0, 1, 0, 0, 0, 1, b'x']);
        assert_eq!(people.len(), 1);
        assert_eq!(read(&mut r, &[255, 255]).0, [255, 255]);
        for cut in 1..message.len() {
            let mut r = reader(CopyStyle::Binary, 2, false);
            assert!(cut == 19 || try_read(&mut r, &message[..cut]).is_err(), "{cut}");
        }
    }
}
