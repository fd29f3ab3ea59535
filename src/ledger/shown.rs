//! Whom the rows of a batch show: three lists back to back, so that a row costs no allocation.

use std::ops::Range;
use std::sync::Arc;

use super::Categories;

/// What a column shows of the people it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// The person space: `schema.relation` whose people these are.
    pub space: Arc<str>,
    /// Legal categories shown.
    pub categories: Categories,
}

/// Whom a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Person<'a> {
    /// The person key's text, as PostgreSQL's output function wrote it. Never stored: the ledger keeps a keyed hash.
    Key(&'a [u8]),
    /// Cannot be told: counts as that many new people (over-counting is allowed and marked).
    Unknown(u64),
}

/// One person's data in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exposure<'a> {
    /// Index of its kind.
    pub kind: usize,
    /// Who.
    pub person: Person<'a>,
}

/// The people of a batch of rows, in the order of the answer. The same person may stand in a row more than once.
#[derive(Debug, Clone)]
pub struct Shown {
    kinds: Arc<[Kind]>,
    keys: Vec<u8>,
    people: Vec<Entry>,
    /// Where each row's people end.
    rows: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Entry {
    kind: usize,
    person: Stored,
}

#[derive(Debug, Clone)]
enum Stored {
    Key(Range<usize>),
    Unknown(u64),
}

/// A place to go back to.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    keys: usize,
    people: usize,
}

impl Shown {
    /// Of no rows yet.
    #[must_use]
    pub fn new(kinds: Arc<[Kind]>) -> Self {
        Self {
            kinds,
            keys: Vec::new(),
            people: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// A person of the row at hand, by key.
    pub fn key(&mut self, kind: usize, key: &[u8]) {
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.people.push(Entry {
            kind,
            person: Stored::Key(start..self.keys.len()),
        });
    }

    /// People of the row at hand that cannot be told.
    pub fn unknown(&mut self, kind: usize, count: u64) {
        self.people.push(Entry {
            kind,
            person: Stored::Unknown(count),
        });
    }

    /// The row at hand has no more people.
    pub fn end_row(&mut self) {
        self.rows.push(self.people.len());
    }

    /// The place at hand.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            keys: self.keys.len(),
            people: self.people.len(),
        }
    }

    /// Takes back what came behind a place, in the row at hand.
    pub fn back_to(&mut self, mark: Mark) {
        self.keys.truncate(mark.keys);
        self.people.truncate(mark.people);
    }

    /// How many rows have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What its columns show, by index.
    #[must_use]
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Everybody, row after row.
    pub fn people(&self) -> impl Iterator<Item = Exposure<'_>> {
        self.exposures(0..self.people.len())
    }

    /// The people of each row.
    pub fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = Exposure<'_>>> {
        let mut from = 0;
        self.rows.iter().map(move |to| {
            let row = self.exposures(from..*to);
            from = *to;
            row
        })
    }

    fn exposures(&self, range: Range<usize>) -> impl Iterator<Item = Exposure<'_>> {
        self.people.get(range).unwrap_or_default().iter().map(|entry| Exposure {
            kind: entry.kind,
            person: match &entry.person {
                Stored::Key(range) => Person::Key(self.keys.get(range.clone()).unwrap_or_default()),
                Stored::Unknown(count) => Person::Unknown(*count),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_stand_in_their_rows() {
        let kind = Kind {
            space: Arc::from("s"),
            categories: Categories(1),
        };
        let mut shown = Shown::new(Arc::from([kind.clone(), kind]));
        shown.key(0, b"a");
        shown.end_row();
        shown.end_row();
        shown.key(1, b"");
        let mark = shown.mark();
        shown.key(0, b"taken back");
        shown.back_to(mark);
        shown.unknown(1, 7);
        shown.end_row();
        let rows: Vec<Vec<Exposure<'_>>> = shown.rows().map(Iterator::collect).collect();
        let exposure = |kind, person| Exposure { kind, person };
        assert_eq!(
            rows,
            [
                vec![exposure(0, Person::Key(b"a"))],
                vec![],
                vec![exposure(1, Person::Key(b"")), exposure(1, Person::Unknown(7))]
            ]
        );
        assert_eq!((shown.len(), shown.people().count()), (3, 3));
    }
}
