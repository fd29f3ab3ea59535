//! A threshold pack: the law's numbers as data, each with the article it rests on.

use std::path::Path;

use crate::policy::Problem;

/// A set of categories of a pack, as bits by category index (0 is the heaviest).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Categories(pub u16);

impl Categories {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// Both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A category of the pack.
#[derive(Debug, Clone)]
pub struct Category {
    /// e.g. `critical`
    pub name: String,
    /// Score of one person, e.g. 100.
    pub weight: u64,
    /// The article.
    pub source: String,
}

/// A threshold pack.
#[derive(Debug, Clone)]
pub struct Pack {
    /// e.g. `cn-criminal-253-1`
    pub name: String,
    /// Heaviest first; index = bit of [`Categories`].
    pub categories: Vec<Category>,
}

impl Pack {
    /// Reads a pack file.
    ///
    /// # Errors
    /// Every mistake of the file.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        let _ = path;
        Err(Vec::new())
    }

    /// The bit of a category by name.
    #[must_use]
    pub fn category(&self, name: &str) -> Option<Categories> {
        let index = self.categories.iter().position(|c| c.name == name)?;
        Some(Categories(1 << index))
    }

    /// The score of a level by name, e.g. `serious_insider` → 2500.
    #[must_use]
    pub fn level(&self, name: &str) -> Option<u64> {
        let _ = name;
        None
    }
}
