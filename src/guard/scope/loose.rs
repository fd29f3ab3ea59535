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
