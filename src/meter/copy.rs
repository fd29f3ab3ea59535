//! Rows of COPY … TO STDOUT: their people read, their hidden columns cut off, columns masked that came clear for it. The hidden columns are the last of
//! each row.
//!
//! PostgreSQL sends one CopyData message for each row (text and CSV), the header line in one of its own, and the binary format's header
//! in front of the first row. What is not of that form ends the session.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::row::{self, Malformed};
use super::spec::MeterSpec;
use crate::ledger::{Kind, Shown};
use crate::mask::LateMask;

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
    /// The mask of each of the client's columns that came clear, by place.
    late: Box<[Option<LateMask>]>,
    /// Where a cell is masked before it is written as the format wants it.
    cell: BytesMut,
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
        let mut late = vec![None; visible];
        for column in &meter.late {
            let place = late.get_mut(column.position);
            *place.ok_or(Malformed("fewer columns than are to be masked"))? = Some(column.mask.clone());
        }
        let reader = Self {
            format,
            kinds: meter.kinds(),
            meter,
            columns,
            late: late.into(),
            cell: BytesMut::new(),
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

    /// Whether the value of a column is looked at: it is masked here, or hidden.
    fn is_read(&self, place: usize) -> bool {
        self.late.get(place).is_none_or(Option::is_some)
    }

    fn line(
        &mut self,
        body: &[u8],
        first: bool,
        out: &mut BytesMut,
        shown: &mut Shown,
        fields: impl for<'l> Fn(&Self, &'l [u8]) -> Result<Fields<'l>, Malformed>,
    ) -> Result<(), Malformed> {
        let line = body.strip_suffix(b"\n").ok_or(Malformed("COPY line without end"))?;
        let fields = fields(self, line)?;
        // A row of no column at all is an empty line, as is one of a single empty column.
        if fields.len() != self.columns && !(self.columns == 0 && line.is_empty()) {
            return Err(Malformed("COPY line of another number of columns"));
        }
        let is_header = first && self.format.header;
        let (mut copied, mut end) = (0, 0);
        for (place, field) in fields.iter().enumerate().take(self.visible()) {
            if let Some(Some(mask)) = self.late.get(place).filter(|_| !is_header) {
                // What stands before it, the delimiter included.
                out.extend_from_slice(line.get(copied..field.begin).ok_or(Malformed("COPY line"))?);
                let value = field.value.as_deref().filter(|_| !field.null);
                self.cell.clear();
                mask.column(value, &mut self.cell)
                    .map_err(|_| Malformed("a value to be masked"))?;
                self.format.write(&self.cell, out);
                copied = field.end;
            }
            end = field.end;
        }
        out.extend_from_slice(line.get(copied..end).ok_or(Malformed("COPY line"))?);
        out.put_u8(b'\n');
        if is_header {
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

    /// Where each column stands, and the values of those that are read.
    fn text_fields<'l>(&self, line: &'l [u8]) -> Result<Fields<'l>, Malformed> {
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
            let is_read = self.is_read(fields.len());
            let is_null = is_read && raw == null;
            fields.push(Field {
                begin: from,
                end,
                value: (is_read && !(certain && is_null)).then(|| unescaped(raw)),
                null: is_null,
            });
            if found.is_none() {
                return Ok(fields);
            }
            at = end + 1;
            from = at;
        }
    }

    fn csv_fields<'l>(&self, line: &'l [u8]) -> Result<Fields<'l>, Malformed> {
        let (quote, escape) = (self.format.quote, self.format.escape);
        let mut fields = Fields::new();
        let mut at = 0;
        loop {
            let begin = at;
            let is_read = self.is_read(fields.len());
            let quoted = line.get(at) == Some(&quote);
            let value = if quoted {
                let mut value = Vec::new();
                at += 1;
                loop {
                    let byte = *line.get(at).ok_or(Malformed("COPY quote"))?;
                    let next = line.get(at + 1).copied();
                    if let Some(next) = next.filter(|n| byte == escape && (*n == quote || *n == escape)) {
                        value.push(next);
                        at += 2;
                    } else if byte == quote {
                        at += 1;
                        break;
                    } else {
                        value.push(byte);
                        at += 1;
                    }
                }
                Cow::Owned(value)
            } else {
                let rest = line.get(at..).unwrap_or_default();
                at = memchr::memchr(self.format.delimiter, rest).map_or(line.len(), |found| at + found);
                Cow::Borrowed(line.get(begin..at).unwrap_or_default())
            };
            let null = is_read && !quoted && *value == *self.format.null.as_bytes();
            fields.push(Field {
                begin,
                end: at,
                value: (is_read && !null).then_some(value),
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
                if let Some(Some(mask)) = self.late.get(position) {
                    mask.column(value, out).map_err(|_| Malformed("a value to be masked"))?;
                    continue;
                }
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

impl CopyFormat {
    /// Writes a cell (int32 length, bytes; -1 is NULL) as PostgreSQL would (`CopyAttributeOutText`, `CopyAttributeOutCSV` of copyto.c).
    fn write(&self, cell: &[u8], out: &mut BytesMut) {
        let value = match cell.split_first_chunk() {
            Some((length, value)) if i32::from_be_bytes(*length) >= 0 => value,
            Some(_) | None => return out.extend_from_slice(self.null.as_bytes()),
        };
        match self.style {
            CopyStyle::Text => self.write_escaped(value, out),
            CopyStyle::Csv => self.write_quoted(value, out),
            CopyStyle::Binary => out.extend_from_slice(cell),
        }
    }

    fn write_escaped(&self, value: &[u8], out: &mut BytesMut) {
        for byte in value {
            let letter = match byte {
                8 => b'b',
                12 => b'f',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                11 => b'v',
                other => *other,
            };
            if letter != *byte || letter == b'\\' || letter == self.delimiter {
                out.put_u8(b'\\');
            }
            out.put_u8(letter);
        }
    }

    fn write_quoted(&self, value: &[u8], out: &mut BytesMut) {
        let needs = |byte: &u8| [self.delimiter, self.quote, b'\n', b'\r'].contains(byte);
        if value != self.null.as_bytes() && !value.iter().any(needs) {
            return out.extend_from_slice(value);
        }
        out.put_u8(self.quote);
        for byte in value {
            if *byte == self.quote || *byte == self.escape {
                out.put_u8(self.escape);
            }
            out.put_u8(*byte);
        }
        out.put_u8(self.quote);
    }
}

/// A value of COPY's text format without its escapes.
fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', raw).is_none() {
        return Cow::Borrowed(raw);
    }
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
    Cow::Owned(value)
}

type Fields<'l> = SmallVec<[Field<'l>; 16]>;

/// One column of a line: where it stands, and its value without escapes and quotes where it is read. The text format writes a value that is the same as the
/// string for NULL like NULL (unless it has a backslash): then it may be either.
struct Field<'l> {
    begin: usize,
    end: usize,
    value: Option<Cow<'l, [u8]>>,
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
