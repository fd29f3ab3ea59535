//! Walking a DataRow in place: its people read, its hidden columns left out.

use bytes::{BufMut, BytesMut};

use super::layout::Layout;
use super::spec::{HiddenColumn, KeyShape, MeterSpec, UNKNOWN_KEY};
use crate::ledger::Shown;

/// A DataRow that is not what the protocol says, or holds a hidden column that can't be read. The session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed row: {0}")]
pub struct Malformed(pub(super) &'static str);

/// Reads a DataRow's body (int16 column count, then int32 length and bytes each). Adds the whole message for the client
/// (type, length, body) without hidden columns to `out`, and whom it shows to `shown`.
///
/// # Errors
/// Where lengths do not fit, or a hidden column can't be read. Then a part of it may have been added.
pub fn read(layout: &Layout, body: &[u8], out: &mut BytesMut, shown: &mut Shown) -> Result<(), Malformed> {
    let mut rest = body;
    let count = usize::try_from(take_i16(&mut rest)?).map_err(|_| Malformed("column count"))?;
    if count != layout.columns() {
        return Err(Malformed("column count is not that of the description"));
    }
    let start = out.len();
    out.reserve(body.len() + 5);
    out.put_u8(b'D');
    out.put_u32(0);
    out.put_i16(i16::try_from(layout.visible()).map_err(|_| Malformed("column count"))?);
    // Visible columns are copied in runs: with hidden ones behind them, once a row.
    let mut run = rest;
    let mut position = 0;
    let mut late = layout.late().iter().peekable();
    let mut hidden = layout.hidden().peekable();
    loop {
        let next_late = late.peek().map(|(at, _)| *at);
        let next_hidden = hidden.peek().map(|(at, _, _)| *at);
        let Some(at) = next_late.into_iter().chain(next_hidden).min() else {
            break;
        };
        while position < at {
            skip(&mut rest)?;
            position += 1;
        }
        copy_run(run, rest, out)?;
        let value = column(&mut rest)?;
        if next_late == Some(at) {
            if let Some((_, mask)) = late.next() {
                mask.column(value, out).map_err(|_| Malformed("a value to be masked"))?;
            }
        } else if let Some((_, hidden, kind)) = hidden.next() {
            charge(hidden, kind, value, shown)?;
        }
        run = rest;
        position += 1;
    }
    while position < count {
        skip(&mut rest)?;
        position += 1;
    }
    copy_run(run, rest, out)?;
    if !rest.is_empty() {
        return Err(Malformed("bytes behind the last column"));
    }
    charge_row(layout.spec(), shown);
    let length = u32::try_from(out.len() - start - 1).map_err(|_| Malformed("row length"))?;
    if let Some(place) = out.get_mut(start + 1..start + 5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// What stands between two places of a row.
fn copy_run(from: &[u8], to: &[u8], out: &mut BytesMut) -> Result<(), Malformed> {
    let length = from.len() - to.len();
    out.extend_from_slice(from.get(..length).ok_or(Malformed("column length"))?);
    Ok(())
}

/// The next column's value.
fn column<'b>(rest: &mut &'b [u8]) -> Result<Option<&'b [u8]>, Malformed> {
    match take_i32(rest)? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| Malformed("column length"))?;
            take(rest, length).map(Some)
        }
    }
}

fn skip(rest: &mut &[u8]) -> Result<(), Malformed> {
    column(rest).map(|_| ())
}

/// Adds the people that a hidden column's value names.
pub(super) fn charge(
    hidden: &HiddenColumn,
    kind: usize,
    value: Option<&[u8]>,
    shown: &mut Shown,
) -> Result<(), Malformed> {
    let Some(value) = value.filter(|_| !hidden.categories.is_empty()) else {
        return Ok(());
    };
    match hidden.shape {
        KeyShape::One => key(kind, value, shown),
        KeyShape::Count => {
            let text = std::str::from_utf8(value).map_err(|_| Malformed("hidden count"))?;
            match text.parse().map_err(|_| Malformed("hidden count"))? {
                0 => {}
                count => shown.unknown(kind, count),
            }
        }
        KeyShape::List => {
            let json: serde_json::Value = serde_json::from_slice(value).map_err(|_| Malformed("hidden list"))?;
            leaves(kind, &json, shown)?;
        }
    }
    Ok(())
}

/// Adds the people that a value names which may as well be NULL: no more than it would name, and an unreadable one is NULL.
pub(super) fn charge_either(hidden: &HiddenColumn, kind: usize, value: &[u8], shown: &mut Shown) {
    let before = shown.mark();
    if charge(hidden, kind, Some(value), shown).is_err() {
        shown.back_to(before);
    }
}

/// Adds what each row counts besides.
pub(super) fn charge_row(spec: &MeterSpec, shown: &mut Shown) {
    for at in 0..spec.per_row.len() {
        shown.unknown(spec.hidden.len() + at, 1);
    }
}

fn leaves(kind: usize, json: &serde_json::Value, shown: &mut Shown) -> Result<(), Malformed> {
    match json {
        serde_json::Value::Null => Ok(()),
        serde_json::Value::String(text) => {
            key(kind, text.as_bytes(), shown);
            Ok(())
        }
        serde_json::Value::Number(number) => {
            key(kind, number.to_string().as_bytes(), shown);
            Ok(())
        }
        serde_json::Value::Array(items) => items.iter().try_for_each(|item| leaves(kind, item, shown)),
        serde_json::Value::Bool(_) | serde_json::Value::Object(_) => Err(Malformed("hidden list")),
    }
}

fn key(kind: usize, value: &[u8], shown: &mut Shown) {
    if value == UNKNOWN_KEY.as_bytes() {
        shown.unknown(kind, 1);
    } else {
        shown.key(kind, value);
    }
}

pub(super) fn take<'b>(rest: &mut &'b [u8], length: usize) -> Result<&'b [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(length).ok_or(Malformed("too short"))?;
    *rest = tail;
    Ok(head)
}

pub(super) fn take_i16(rest: &mut &[u8]) -> Result<i16, Malformed> {
    let bytes = take(rest, 2)?;
    bytes
        .try_into()
        .map(i16::from_be_bytes)
        .map_err(|_| Malformed("too short"))
}

pub(super) fn take_i32(rest: &mut &[u8]) -> Result<i32, Malformed> {
    let bytes = take(rest, 4)?;
    bytes
        .try_into()
        .map(i32::from_be_bytes)
        .map_err(|_| Malformed("too short"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::{Categories, Person};
    use crate::meter::{HiddenColumn, MeterSpec};

    fn layout(shape: KeyShape) -> Layout {
        let spec = MeterSpec {
            hidden: vec![HiddenColumn {
                name: "menshen_k1".into(),
                shape,
                space: Arc::from("crm.customers"),
                categories: Categories(4),
            }],
            per_row: vec![],
            late: vec![],
        };
        Layout::new(&spec, &["a", "menshen_k1"]).unwrap()
    }

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = i16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match value {
                None => body.extend((-1_i32).to_be_bytes()),
                Some(v) => {
                    body.extend(i32::try_from(v.len()).unwrap().to_be_bytes());
                    body.extend(*v);
                }
            }
        }
        body
    }

    fn held(layout: &Layout, body: &[u8]) -> Result<(Vec<u8>, Vec<String>), Malformed> {
        let (mut out, mut shown) = (BytesMut::from(&b"before"[..]), Shown::new(Arc::clone(layout.kinds())));
        read(layout, body, &mut out, &mut shown)?;
        let people = shown.people().map(|e| match e.person {
            Person::Key(key) => String::from_utf8_lossy(key).into_owned(),
            Person::Unknown(count) => format!("{count} unknown"),
        });
        Ok((out[6..].to_vec(), people.collect()))
    }

    #[test]
    fn the_hidden_key_is_read_and_left_out() {
        let (message, people) = held(&layout(KeyShape::One), &row(&[Some(b"x"), Some(b"42")])).unwrap();
        assert_eq!(&message[..], b"D\0\0\0\x0b\0\x01\0\0\0\x01x");
        assert_eq!(people, ["42"]);
    }

    #[test]
    fn hidden_columns_may_stand_anywhere() {
        let hidden = |name: &str| HiddenColumn {
            name: name.into(),
            shape: KeyShape::One,
            space: Arc::from("s"),
            categories: Categories(4),
        };
        let spec = MeterSpec {
            hidden: vec![hidden("menshen_k1"), hidden("menshen_k2")],
            per_row: vec![(Arc::from("s"), Categories(4))],
            late: vec![],
        };
        let visible = row(&[Some(b"a"), None, Some(b"")]);
        let [a, b, c] = [Some(b"a".as_slice()), None, Some(b"".as_slice())];
        let [one, two] = [Some(b"1".as_slice()), Some(b"22".as_slice())];
        for (names, values) in [
            (["menshen_k2", "menshen_k1", "a", "b", "c"], [two, one, a, b, c]),
            (["a", "menshen_k1", "b", "menshen_k2", "c"], [a, one, b, two, c]),
            (["a", "b", "c", "menshen_k1", "menshen_k2"], [a, b, c, one, two]),
        ] {
            let (message, mut people) = held(&Layout::new(&spec, &names).unwrap(), &row(&values)).unwrap();
            assert_eq!(message[5..], visible, "{names:?}");
            people.sort();
            assert_eq!(people, ["1", "1 unknown", "22"], "{names:?}");
        }
    }

    #[test]
    fn lists_nulls_unknowns_and_counts() {
        let people = |shape, v: Option<&[u8]>| held(&layout(shape), &row(&[None, v])).unwrap().1;
        assert!(people(KeyShape::One, None).is_empty());
        assert_eq!(people(KeyShape::One, Some(b"?")), ["1 unknown"]);
        let list = people(KeyShape::List, Some(br#"["1", [2, null, ["1"]], "?"]"#));
        assert_eq!(list, ["1", "2", "1", "1 unknown"]);
        assert_eq!(people(KeyShape::Count, Some(b"17")), ["17 unknown"]);
        assert!(people(KeyShape::Count, Some(b"0")).is_empty());
    }

    #[test]
    fn malformed_rows_are_errors_at_every_cut() {
        let whole = row(&[Some(b"x"), Some(b"42")]);
        for cut in 0..whole.len() {
            assert!(held(&layout(KeyShape::One), &whole[..cut]).is_err(), "{cut}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(held(&layout(KeyShape::One), &longer).is_err());
        assert!(held(&layout(KeyShape::List), &row(&[None, Some(b"{}")])).is_err());
        assert!(held(&layout(KeyShape::Count), &row(&[None, Some(b"-1")])).is_err());
        for byte in 0..whole.len() {
            for value in [0_u8, 1, 127, 128, 255] {
                let mut bad = whole.clone();
                bad[byte] = value;
                let _ = held(&layout(KeyShape::One), &bad);
            }
        }
    }
}
