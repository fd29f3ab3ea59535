//! Walking a DataRow in place: its people read, its hidden columns left out.

use bytes::{BufMut, Bytes, BytesMut};

use super::layout::Layout;
use super::spec::{HiddenColumn, KeyShape, MeterSpec, UNKNOWN_KEY};
use crate::ledger::{Exposure, Person};

/// A DataRow that is not what the protocol says, or holds a hidden column that can't be read. The session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed row: {0}")]
pub struct Malformed(pub(super) &'static str);

/// Reads a DataRow's body (int16 column count, then int32 length and bytes each). Gives the whole message for the client
/// (type, length, body) without hidden columns, and whom it shows.
///
/// # Errors
/// Where lengths do not fit, or a hidden column can't be read.
pub fn read(layout: &Layout, body: &[u8]) -> Result<(Bytes, Vec<Exposure>), Malformed> {
    let mut rest = body;
    let count = usize::try_from(take_i16(&mut rest)?).map_err(|_| Malformed("column count"))?;
    if count != layout.columns() {
        return Err(Malformed("column count is not that of the description"));
    }
    let mut people: Vec<Exposure> = Vec::new();
    let mut out = BytesMut::with_capacity(body.len() + 5);
    out.put_u8(b'D');
    out.put_i32(0);
    out.put_i16(i16::try_from(layout.visible()).map_err(|_| Malformed("column count"))?);
    for position in 0..count {
        let at = rest;
        let length = take_i32(&mut rest)?;
        let value = match usize::try_from(length) {
            Ok(length) => Some(take(&mut rest, length)?),
            Err(_) if length == -1 => None,
            Err(_) => return Err(Malformed("column length")),
        };
        match layout.at(position) {
            None => {
                let whole = at.len() - rest.len();
                out.extend_from_slice(at.get(..whole).ok_or(Malformed("column length"))?);
            }
            Some(hidden) => {
                charge(hidden, value, &mut people)?;
            }
        }
    }
    if !rest.is_empty() {
        return Err(Malformed("bytes behind the last column"));
    }
    charge_row(layout.spec(), &mut people);
    let length = u32::try_from(out.len() - 1).map_err(|_| Malformed("row length"))?;
    if let Some(place) = out.get_mut(1..5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok((out.freeze(), people))
}

/// Adds the people that a hidden column's value names.
pub(super) fn charge(hidden: &HiddenColumn, value: Option<&[u8]>, people: &mut Vec<Exposure>) -> Result<(), Malformed> {
    if let (Some(value), false) = (value, hidden.categories.is_empty()) {
        for person in persons(hidden.shape, value)? {
            add(
                people,
                Exposure {
                    space: hidden.space.clone(),
                    person,
                    categories: hidden.categories,
                },
            );
        }
    }
    Ok(())
}

/// Adds the people that a value names which may as well be NULL: no more than it would name, and an unreadable one is NULL.
pub(super) fn charge_either(hidden: &HiddenColumn, value: &[u8], people: &mut Vec<Exposure>) {
    let before = people.len();
    if charge(hidden, Some(value), people).is_err() {
        people.truncate(before);
    }
}

/// Adds what each row counts besides.
pub(super) fn charge_row(spec: &MeterSpec, people: &mut Vec<Exposure>) {
    for (space, categories) in &spec.per_row {
        add(
            people,
            Exposure {
                space: space.clone(),
                person: Person::Unknown(1),
                categories: *categories,
            },
        );
    }
}

fn persons(shape: KeyShape, value: &[u8]) -> Result<Vec<Person>, Malformed> {
    match shape {
        KeyShape::One => Ok(vec![key(value)]),
        KeyShape::Count => {
            let text = std::str::from_utf8(value).map_err(|_| Malformed("hidden count"))?;
            let count: u64 = text.parse().map_err(|_| Malformed("hidden count"))?;
            Ok(if count == 0 {
                Vec::new()
            } else {
                vec![Person::Unknown(count)]
            })
        }
        KeyShape::List => {
            let json: serde_json::Value = serde_json::from_slice(value).map_err(|_| Malformed("hidden list"))?;
            let mut found = Vec::new();
            leaves(&json, &mut found)?;
            Ok(found)
        }
    }
}

fn leaves(json: &serde_json::Value, found: &mut Vec<Person>) -> Result<(), Malformed> {
    match json {
        serde_json::Value::Null => Ok(()),
        serde_json::Value::String(text) => {
            found.push(key(text.as_bytes()));
            Ok(())
        }
        serde_json::Value::Number(number) => {
            found.push(key(number.to_string().as_bytes()));
            Ok(())
        }
        serde_json::Value::Array(items) => items.iter().try_for_each(|item| leaves(item, found)),
        serde_json::Value::Bool(_) | serde_json::Value::Object(_) => Err(Malformed("hidden list")),
    }
}

fn key(value: &[u8]) -> Person {
    if value == UNKNOWN_KEY.as_bytes() {
        Person::Unknown(1)
    } else {
        Person::Key(value.into())
    }
}

/// The same person twice in a row is one, in the categories of both. Long lists are left to the ledger, which counts nobody twice.
fn add(people: &mut Vec<Exposure>, new: Exposure) {
    if let Person::Key(_) = new.person
        && people.len() < 32
        && let Some(old) = people
            .iter_mut()
            .find(|p| p.space == new.space && p.person == new.person)
    {
        old.categories = old.categories.union(new.categories);
        return;
    }
    people.push(new);
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
    use crate::ledger::Categories;
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

    #[test]
    fn the_hidden_key_is_read_and_left_out() {
        let (message, people) = read(&layout(KeyShape::One), &row(&[Some(b"x"), Some(b"42")])).unwrap();
        assert_eq!(&message[..], b"D\0\0\0\x0b\0\x01\0\0\0\x01x");
        assert_eq!(people[0].person, Person::Key(b"42".as_slice().into()));
    }

    #[test]
    fn lists_nulls_unknowns_and_counts() {
        let people = |shape, v: Option<&[u8]>| {
            let (_, people) = read(&layout(shape), &row(&[None, v])).unwrap();
            people.into_iter().map(|p| p.person).collect::<Vec<_>>()
        };
        assert!(people(KeyShape::One, None).is_empty());
        assert_eq!(people(KeyShape::One, Some(b"?")), [Person::Unknown(1)]);
        let list = people(KeyShape::List, Some(br#"["1", [2, null, ["1"]], "?"]"#));
        assert_eq!(list.len(), 3, "{list:?}");
        assert_eq!(people(KeyShape::Count, Some(b"17")), [Person::Unknown(17)]);
    }

    #[test]
    fn malformed_rows_are_errors_at_every_cut() {
        let whole = row(&[Some(b"x"), Some(b"42")]);
        for cut in 0..whole.len() {
            assert!(read(&layout(KeyShape::One), &whole[..cut]).is_err(), "{cut}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(read(&layout(KeyShape::One), &longer).is_err());
        assert!(read(&layout(KeyShape::List), &row(&[None, Some(b"{}")])).is_err());
        assert!(read(&layout(KeyShape::Count), &row(&[None, Some(b"-1")])).is_err());
        for byte in 0..whole.len() {
            for value in [0_u8, 1, 127, 128, 255] {
                let mut bad = whole.clone();
                bad[byte] = value;
                let _ = read(&layout(KeyShape::One), &bad);
            }
        }
    }
}
