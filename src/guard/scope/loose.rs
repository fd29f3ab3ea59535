//! People whom no hidden column names: how many of them one row may show.

use std::collections::BTreeMap;

use super::ScanId;

/// How many people one row may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Many {
    /// At most so many.
    AtMost(u64),
    /// No number can be given.
    Any,
}

/// Beyond this, counting rows says nothing.
const COUNTED: u64 = 64;

impl Many {
    /// Of two parts of one row.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::AtMost(a), Self::AtMost(b)) if a + b <= COUNTED => Self::AtMost(a + b),
            _ => Self::Any,
        }
    }

    /// Of so many values of one row.
    #[must_use]
    pub fn times(self, values: u64) -> Self {
        match self {
            Self::AtMost(a) if a.saturating_mul(values) <= COUNTED => Self::AtMost(a * values),
            Self::AtMost(_) | Self::Any => Self::Any,
        }
    }
}

/// By scan and index of its person key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loose(BTreeMap<(ScanId, usize), Many>);

impl Loose {
    /// How many of these people.
    #[must_use]
    pub fn get(&self, key: (ScanId, usize)) -> Option<Many> {
        self.0.get(&key).copied()
    }

    /// Adds people to those of a row.
    pub fn add(&mut self, key: (ScanId, usize), many: Many) {
        let entry = self.0.entry(key).or_insert(Many::AtMost(0));
        *entry = entry.plus(many);
    }

    /// Adds all of another part of the row.
    pub fn extend(&mut self, other: &Self) {
        for (key, many) in &other.0 {
            self.add(*key, *many);
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = ((ScanId, usize), Many)> {
        self.0.iter().map(|(key, many)| (*key, *many))
    }

    /// Whether every person has a hidden column.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same people, any number of them in a value.
    #[must_use]
    pub fn packed(&self) -> Self {
        Self(self.0.keys().map(|key| (*key, Many::Any)).collect())
    }

    /// In so many values of one row.
    #[must_use]
    pub fn times(&self, values: u64) -> Self {
        Self(self.0.iter().map(|(key, many)| (*key, many.times(values))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_add_up_to_a_bound() {
        assert_eq!(Many::AtMost(2).plus(Many::AtMost(3)), Many::AtMost(5));
        assert_eq!(Many::AtMost(30).plus(Many::AtMost(34)), Many::AtMost(COUNTED));
        assert_eq!(Many::AtMost(30).plus(Many::AtMost(35)), Many::Any);
        assert_eq!(Many::AtMost(0).plus(Many::AtMost(65)), Many::Any);
        assert_eq!(Many::AtMost(1).plus(Many::Any), Many::Any);
        assert_eq!(Many::AtMost(8).times(8), Many::AtMost(COUNTED));
        assert_eq!(Many::AtMost(5).times(13), Many::Any);
        assert_eq!(Many::AtMost(u64::MAX).times(2), Many::Any);
        assert_eq!(Many::Any.times(1), Many::Any);
    }

    #[test]
    fn what_is_packed_is_of_the_same_people() {
        let mut loose = Loose::default();
        loose.add((1, 0), Many::AtMost(1));
        loose.add((2, 1), Many::AtMost(3));
        let packed: Vec<_> = loose.packed().iter().collect();
        assert_eq!(packed, [((1, 0), Many::Any), ((2, 1), Many::Any)]);
        assert_eq!(loose.times(2).get((2, 1)), Some(Many::AtMost(6)));
    }
}
