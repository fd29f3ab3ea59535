//! A threshold pack: the law's numbers as data, each with the article it rests on.

use std::collections::BTreeMap;
use std::path::Path;

use crate::policy::reader::{Reader, Section, did_you_mean};
use crate::policy::{Policy, Problem};

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

    /// Whether the category of that index is in it.
    #[must_use]
    pub fn has(self, index: usize) -> bool {
        u32::try_from(index).is_ok_and(|i| self.0 & 1_u16.checked_shl(i).unwrap_or(0) != 0)
    }
}

/// A category of the pack.
#[derive(Debug, Clone)]
pub struct Category {
    /// e.g. `critical`
    pub name: String,
    /// Score of one person, e.g. 100.
    pub weight: u64,
    /// Number of records that the law names, e.g. 50.
    pub threshold: u64,
    /// The article.
    pub source: String,
}

/// A level of the pack.
#[derive(Debug, Clone)]
pub struct Level {
    /// The score that reaches it.
    pub score: u64,
    /// The article.
    pub source: String,
}

/// A threshold pack.
#[derive(Debug, Clone)]
pub struct Pack {
    /// e.g. `cn-criminal-253-1`
    pub name: String,
    /// For people.
    pub title: String,
    /// Heaviest first; index = bit of [`Categories`].
    pub categories: Vec<Category>,
    /// By name.
    pub levels: BTreeMap<String, Level>,
}

/// Packs that ship with Menshen: used where no file of that name stands beside the policy.
const SHIPPED: [(&str, &str); 1] = [(
    "cn-criminal-253-1",
    include_str!("../../policies/thresholds/cn-criminal-253-1.toml"),
)];

const CATEGORIES_MAX: usize = 8;

impl Pack {
    /// The pack of that name: `thresholds/<name>.toml` in the policy's directory, or else the one that ships with Menshen.
    ///
    /// # Errors
    /// Every mistake of the file; a name that there is no pack of.
    pub fn find(name: &str, policy: &Path) -> Result<Self, Vec<Problem>> {
        let beside = policy
            .parent()
            .unwrap_or(Path::new("."))
            .join("thresholds")
            .join(format!("{name}.toml"));
        if beside.exists() {
            return Self::load(&beside);
        }
        match SHIPPED.iter().find(|(n, _)| *n == name) {
            Some((_, text)) => Self::parse(&beside, text),
            None => {
                let near = did_you_mean(name, SHIPPED.iter().map(|(n, _)| *n));
                let problem = Problem::of_file(
                    policy,
                    format!("threshold pack `{name}` is neither in {} nor shipped", beside.display()),
                );
                Err(vec![Problem {
                    suggestion: near,
                    ..problem
                }])
            }
        }
    }

    /// Reads a pack file.
    ///
    /// # Errors
    /// Every mistake of the file.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| vec![Problem::of_file(path, format!("cannot read the threshold pack: {e}"))])?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(path, text);
        let Some(table) = reader.parse() else {
            return Err(reader.problems);
        };
        let pack = read(&mut reader, &Section::root(&table));
        if reader.failed() {
            Err(reader.problems)
        } else {
            Ok(pack)
        }
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
        self.levels.get(name).map(|l| l.score)
    }

    /// Score of a person shown in these categories: that of the heaviest.
    #[must_use]
    pub fn weight(&self, shown: Categories) -> u64 {
        self.categories
            .iter()
            .enumerate()
            .filter(|(i, _)| shown.has(*i))
            .map(|(_, c)| c.weight)
            .max()
            .unwrap_or(0)
    }
}

fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Pack {
    reader.known(root, &["name", "title", "as_of", "categories", "levels"]);
    let name = reader.required(root, "name").map_or_else(String::new, |(n, _)| n);
    let title = reader.required(root, "title").map_or_else(String::new, |(n, _)| n);
    reader.date(root, "as_of");
    let mut categories: Vec<Category> = Vec::new();
    for section in reader.array(root, "categories") {
        reader.known(
            &section,
            &["name", "threshold", "weight", "covers", "source", "verified"],
        );
        let name = reader.required(&section, "name").map_or_else(String::new, |(n, _)| n);
        let source = reader.required(&section, "source").map_or_else(String::new, |(n, _)| n);
        let weight = positive(reader, &section, "weight");
        let threshold = positive(reader, &section, "threshold");
        if categories.last().is_some_and(|before| before.weight < weight) {
            reader.error(
                &section.span,
                format!("category `{name}` is heavier than the one before it"),
                Some("put the heaviest first".to_owned()),
            );
        }
        categories.push(Category {
            name,
            weight,
            threshold,
            source,
        });
    }
    if categories.is_empty() || categories.len() > CATEGORIES_MAX {
        reader.error(&(0..0), format!("a pack has 1 to {CATEGORIES_MAX} categories"), None);
    }
    let mut levels = BTreeMap::new();
    for section in reader.array(root, "levels") {
        reader.known(&section, &["name", "score", "label", "source", "verified"]);
        let name = reader.required(&section, "name").map_or_else(String::new, |(n, _)| n);
        let source = reader.required(&section, "source").map_or_else(String::new, |(n, _)| n);
        let score = positive(reader, &section, "score");
        levels.insert(name, Level { score, source });
    }
    Pack {
        name,
        title,
        categories,
        levels,
    }
}

fn positive<'t>(reader: &mut Reader<'t>, section: &Section<'t>, key: &str) -> u64 {
    match reader.integer(section, key) {
        Some((n, _)) if n > 0 => n.unsigned_abs(),
        Some((n, span)) => {
            reader.error(&span, format!("`{key}` {n} is not above 0"), None);
            1
        }
        None => {
            if section.get(key).is_none() {
                reader.error(&section.span, format!("{} lacks the key `{key}`", section.name), None);
            }
            1
        }
    }
}

/// What the policy says of categories and levels must be in its pack.
#[must_use]
pub fn check_policy(file: &Path, policy: &Policy, pack: Option<&Pack>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let at = |line: u32, message: String, suggestion: Option<String>| Problem {
        line,
        column: 1,
        suggestion,
        ..Problem::of_file(file, message)
    };
    for class in policy.classes.values() {
        let Some(category) = &class.category else { continue };
        match pack {
            None => problems.push(at(
                class.line,
                format!(
                    "class `{}` has a category, but the policy names no `thresholds`",
                    class.name
                ),
                None,
            )),
            Some(pack) if pack.category(category).is_none() => {
                let near = did_you_mean(category, pack.categories.iter().map(|c| c.name.as_str()));
                problems.push(at(
                    class.line,
                    format!(
                        "category `{category}` of class `{}` is not in pack `{}`",
                        class.name, pack.name
                    ),
                    near,
                ));
            }
            Some(_) => {}
        }
    }
    for (_, limit) in &policy.limits {
        let known = pack.is_some_and(|p| p.level(&limit.level).is_some());
        if !known {
            let near = pack.and_then(|p| did_you_mean(&limit.level, p.levels.keys().map(String::as_str)));
            problems.push(at(
                0,
                format!(
                    "level `{}` of the {} is not in the threshold pack",
                    limit.level, limit.name
                ),
                near,
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_pack_has_the_numbers_of_the_interpretation() {
        let pack = Pack::find("cn-criminal-253-1", Path::new("nowhere/p.toml")).unwrap();
        let thresholds: Vec<u64> = pack.categories.iter().map(|c| c.threshold).collect();
        assert_eq!(thresholds, [50, 500, 5000]);
        assert_eq!(pack.level("serious"), Some(5000));
        assert_eq!(pack.level("serious_insider"), Some(2500));
        assert_eq!(pack.level("especially"), Some(50000));
        // Worked check of the proportional sum: 20 + 200 + 1000 people are exactly serious.
        assert_eq!(20 * 100 + 200 * 10 + 1000, 5000);
        assert_eq!(pack.weight(Categories(0b101)), 100);
    }

    #[test]
    fn an_unknown_pack_is_a_problem_with_a_suggestion() {
        let problems = Pack::find("cn-criminal-253", Path::new("p.toml")).unwrap_err();
        assert!(problems[0].to_string().contains("cn-criminal-253-1"));
    }
}
