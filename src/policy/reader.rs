//! Reading TOML so that every mistake is reported at once, with its line and a suggestion. Used for policies, threshold
//! packs and the configuration file: none of them knows more keys than it names here.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A mistake or a warning in a configuration or policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as given.
    pub file: PathBuf,
    /// 1-based line; 0 where the problem has no place.
    pub line: u32,
    /// 1-based column in characters.
    pub column: u32,
    /// Errors stop the load; warnings are printed.
    pub severity: Severity,
    /// Lower case, no full stop, user input in backticks.
    pub message: String,
    /// e.g. ``did you mean `phone`?``
    pub suggestion: Option<String>,
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used; somebody should look.
    Warning,
}

impl Problem {
    /// A problem of a whole file.
    #[must_use]
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            severity: Severity::Error,
            message: message.into(),
            suggestion: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, " {severity}: {}", self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; {suggestion}")?;
        }
        Ok(())
    }
}

/// The nearest of some names, as a suggestion.
#[must_use]
pub fn did_you_mean<'n>(name: &str, among: impl IntoIterator<Item = &'n str>) -> Option<String> {
    among
        .into_iter()
        .map(|n| (strsim::jaro_winkler(n, name), n))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, n)| format!("did you mean `{n}`?"))
}

/// A string with its place.
pub type Placed<T> = (T, Range<usize>);

/// A file being read.
pub struct Reader<'t> {
    file: PathBuf,
    text: &'t str,
    /// What was found so far.
    pub problems: Vec<Problem>,
}

/// A table of the file.
#[derive(Clone)]
pub struct Section<'t> {
    table: &'t DeTable<'t>,
    /// Where it begins.
    pub span: Range<usize>,
    /// e.g. `[classes.phone]`, for messages.
    pub name: String,
}

impl<'t> Reader<'t> {
    /// Starts on a text.
    #[must_use]
    pub fn new(file: &Path, text: &'t str) -> Self {
        Self {
            file: file.to_owned(),
            text,
            problems: Vec::new(),
        }
    }

    /// Parses the text; syntax errors become problems, all of them.
    pub fn parse(&mut self) -> Option<Spanned<DeTable<'t>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            self.error(&span, error.message().trim().to_owned(), None);
        }
        errors.is_empty().then_some(table)
    }

    /// Line (from 1) of a place.
    #[must_use]
    pub fn line(&self, span: &Range<usize>) -> u32 {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX)
    }

    fn push(&mut self, span: &Range<usize>, severity: Severity, message: String, suggestion: Option<String>) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        self.problems.push(Problem {
            file: self.file.clone(),
            line: self.line(span),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            severity,
            message,
            suggestion,
        });
    }

    /// Notes an error.
    pub fn error(&mut self, span: &Range<usize>, message: impl Into<String>, suggestion: Option<String>) {
        self.push(span, Severity::Error, message.into(), suggestion);
    }

    /// Notes a warning.
    pub fn warn(&mut self, span: &Range<usize>, message: impl Into<String>, suggestion: Option<String>) {
        self.push(span, Severity::Warning, message.into(), suggestion);
    }

    /// Whether an error was noted.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.problems.iter().any(|p| p.severity == Severity::Error)
    }

    /// Notes every key that is not among `known`.
    pub fn known(&mut self, section: &Section<'t>, known: &[&str]) {
        for key in section.table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let suggestion = did_you_mean(name, known.iter().copied())
                    .or_else(|| Some(format!("known keys: {}", known.join(", "))));
                self.error(
                    &key.span(),
                    format!("unknown key `{name}` in {}", section.name),
                    suggestion,
                );
            }
        }
    }

    fn wrong(&mut self, section: &Section<'t>, key: &str, value: &Spanned<DeValue<'t>>, wanted: &str) {
        self.error(
            &value.span(),
            format!(
                "`{key}` in {} must be {wanted}, not {}",
                section.name,
                value.get_ref().type_str()
            ),
            None,
        );
    }

    /// A string.
    pub fn string(&mut self, section: &Section<'t>, key: &str) -> Option<Placed<String>> {
        let value = section.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some((text.to_owned(), value.span())),
            None => {
                self.wrong(section, key, value, "a string");
                None
            }
        }
    }

    /// A string that must be there.
    pub fn required(&mut self, section: &Section<'t>, key: &str) -> Option<Placed<String>> {
        if section.get(key).is_none() {
            self.error(&section.span, format!("{} lacks the key `{key}`", section.name), None);
        }
        self.string(section, key)
    }

    /// An array of strings; a single string counts as one of it.
    pub fn strings(&mut self, section: &Section<'t>, key: &str) -> Vec<Placed<String>> {
        let Some(value) = section.get(key) else {
            return Vec::new();
        };
        if let Some(one) = value.get_ref().as_str() {
            return vec![(one.to_owned(), value.span())];
        }
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(section, key, value, "an array of strings");
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => found.push((text.to_owned(), item.span())),
                None => self.wrong(section, key, item, "an array of strings"),
            }
        }
        found
    }

    /// A whole number.
    pub fn integer(&mut self, section: &Section<'t>, key: &str) -> Option<Placed<i64>> {
        let value = section.get(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|i| i64::from_str_radix(i.as_str(), i.radix()).ok());
        if number.is_none() {
            self.wrong(section, key, value, "a whole number");
        }
        number.map(|n| (n, value.span()))
    }

    /// A number.
    pub fn number(&mut self, section: &Section<'t>, key: &str) -> Option<Placed<f64>> {
        let value = section.get(key)?;
        let number = as_number(value.get_ref());
        if number.is_none() {
            self.wrong(section, key, value, "a number");
        }
        number.map(|n| (n, value.span()))
    }

    /// An array of numbers.
    pub fn numbers(&mut self, section: &Section<'t>, key: &str) -> Option<Vec<Placed<f64>>> {
        let value = section.get(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(section, key, value, "an array of numbers");
            return None;
        };
        let mut found = Vec::new();
        for item in items.iter() {
            match as_number(item.get_ref()) {
                Some(number) => found.push((number, item.span())),
                None => self.wrong(section, key, item, "an array of numbers"),
            }
        }
        Some(found)
    }

    /// A boolean.
    pub fn flag(&mut self, section: &Section<'t>, key: &str) -> Option<bool> {
        let value = section.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong(section, key, value, "true or false");
        }
        flag
    }

    /// A date (`2027-06-30`), bare or as a string.
    pub fn date(&mut self, section: &Section<'t>, key: &str) -> Option<Placed<jiff::civil::Date>> {
        let value = section.get(key)?;
        let text = match value.get_ref() {
            DeValue::Datetime(at) => at.to_string(),
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Array(_) | DeValue::Table(_) => {
                String::new()
            }
        };
        match text.parse() {
            Ok(date) => Some((date, value.span())),
            Err(_) => {
                self.wrong(section, key, value, "a date such as 2027-06-30");
                None
            }
        }
    }

    /// A sub-table.
    pub fn section(&mut self, section: &Section<'t>, key: &str) -> Option<Section<'t>> {
        let value = section.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section {
                table,
                span: value.span(),
                name: section.below(key),
            }),
            None => {
                self.wrong(section, key, value, "a table");
                None
            }
        }
    }

    /// The entries of a table of tables, e.g. `[classes.…]`, by name.
    pub fn entries(&mut self, section: &Section<'t>, key: &str) -> Vec<(Placed<String>, Section<'t>)> {
        let Some(outer) = self.section(section, key) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in outer.table {
            let place = (name.get_ref().to_string(), name.span());
            match value.get_ref().as_table() {
                Some(table) => {
                    found.push((
                        place,
                        Section {
                            table,
                            span: name.span(),
                            name: outer.below(name.get_ref()),
                        },
                    ));
                }
                None => self.wrong(&outer, name.get_ref(), value, "a table"),
            }
        }
        found
    }

    /// The entries of an array of tables, e.g. `[[grants]]`.
    pub fn array(&mut self, section: &Section<'t>, key: &str) -> Vec<Section<'t>> {
        let Some(value) = section.get(key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(section, key, value, &format!("an array of tables ([[{key}]])"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => found.push(Section {
                    table,
                    span: item.span(),
                    name: format!("[[{key}]]"),
                }),
                None => self.wrong(section, key, item, "a table"),
            }
        }
        found
    }

    /// A table of strings, e.g. `columns = { phone = "phone" }`.
    pub fn map(&mut self, section: &Section<'t>, key: &str) -> Vec<(Placed<String>, Placed<String>)> {
        let Some(inner) = self.section(section, key) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in inner.table {
            match value.get_ref().as_str() {
                Some(text) => {
                    found.push((
                        (name.get_ref().to_string(), name.span()),
                        (text.to_owned(), value.span()),
                    ));
                }
                None => self.wrong(&inner, name.get_ref(), value, "a string"),
            }
        }
        found
    }
}

impl<'t> Section<'t> {
    /// The whole file.
    #[must_use]
    pub fn root(table: &'t Spanned<DeTable<'t>>) -> Self {
        Self {
            table: table.get_ref(),
            span: 0..0,
            name: "the file".to_owned(),
        }
    }

    /// A value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(_, value)| value)
    }

    fn below(&self, key: &str) -> String {
        if self.name == "the file" {
            format!("[{key}]")
        } else {
            format!("{}.{key}]", self.name.trim_end_matches(']'))
        }
    }
}

fn as_number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().replace('_', "").parse().ok(),
        DeValue::Integer(integer) => integer.as_str().replace('_', "").parse().ok(),
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
