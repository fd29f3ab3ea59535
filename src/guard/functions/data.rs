//! The list of built-ins, read once from the data file that is compiled in.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::LazyLock;

use crate::policy::reader::{Reader, Section};

/// A listed function or relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How it reaches data.
    pub class: String,
    /// Completes "it …".
    pub reason: String,
}

impl Entry {
    /// Whether it could return rows of protected relations, which then nobody would count.
    #[must_use]
    pub fn reads_relations(&self) -> bool {
        matches!(self.class.as_str(), "runs-sql-text" | "reads-relations" | "reads-files")
    }
}

/// The list.
#[derive(Debug, Default)]
pub struct BuiltIns {
    functions: HashMap<String, Entry>,
    function_prefixes: Vec<(String, Entry)>,
    relations: Vec<(String, String, Entry)>,
    columns: Vec<([String; 3], Entry)>,
    /// Functions whose arguments outlive the statement.
    keepers: Vec<String>,
    extensions: Vec<String>,
    known_functions: HashSet<&'static str>,
    known_relations: HashSet<&'static str>,
    /// Mistakes of the data file: none, a test says.
    pub mistakes: Vec<String>,
}

/// The list that is compiled in.
pub static BUILT_INS: LazyLock<BuiltIns> =
    LazyLock::new(|| BuiltIns::read(include_str!("../../../policies/functions/postgresql.toml")));

impl BuiltIns {
    fn read(text: &str) -> Self {
        let mut list = Self::default();
        let mut reader = Reader::new(Path::new("policies/functions/postgresql.toml"), text);
        let table = reader.parse();
        if let Some(table) = &table {
            list.fill(&mut reader, &Section::root(table));
        }
        for line in include_str!("../../../policies/functions/known.txt").lines() {
            match line.split('\t').collect::<Vec<_>>().as_slice() {
                ["f", name, ..] => {
                    list.known_functions.insert(name);
                }
                ["r", name, ..] => {
                    list.known_relations.insert(name);
                }
                _ => {}
            }
        }
        list.mistakes = reader.problems.iter().map(ToString::to_string).collect();
        list
    }

    fn fill<'t>(&mut self, reader: &mut Reader<'t>, root: &Section<'t>) {
        reader.known(
            root,
            &["version", "functions", "keepers", "relations", "columns", "extensions"],
        );
        for section in reader.array(root, "functions") {
            let entry = entry(reader, &section, true);
            for (name, _) in reader.strings(&section, "names") {
                match name.strip_suffix('*') {
                    Some(prefix) => self.function_prefixes.push((prefix.to_owned(), entry.clone())),
                    None => {
                        self.functions.insert(name, entry.clone());
                    }
                }
            }
        }
        for section in reader.array(root, "keepers") {
            entry(reader, &section, false);
            let names = reader.strings(&section, "names");
            self.keepers.extend(names.into_iter().map(|(n, _)| n));
        }
        for section in reader.array(root, "relations") {
            let entry = entry(reader, &section, true);
            for (name, span) in reader.strings(&section, "names") {
                match name.split_once('.') {
                    Some((schema, name)) => self.relations.push((schema.to_owned(), name.to_owned(), entry.clone())),
                    None => reader.error(&span, format!("`{name}` has no schema"), None),
                }
            }
        }
        for section in reader.array(root, "columns") {
            let entry = entry(reader, &section, true);
            for (name, span) in reader.strings(&section, "names") {
                let parts: Vec<&str> = name.split('.').collect();
                match parts.as_slice() {
                    [schema, relation, column] => {
                        let parts = [*schema, *relation, *column].map(str::to_owned);
                        self.columns.push((parts, entry.clone()));
                    }
                    _ => reader.error(&span, format!("`{name}` is not `schema.relation.column`"), None),
                }
            }
        }
        for section in reader.array(root, "extensions") {
            entry(reader, &section, false);
            self.extensions
                .extend(reader.strings(&section, "names").into_iter().map(|(n, _)| n));
        }
    }

    /// The entry of a function, by its bare name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&Entry> {
        self.functions.get(name).or_else(|| {
            self.function_prefixes
                .iter()
                .find(|(p, _)| name.starts_with(p.as_str()))
                .map(|(_, e)| e)
        })
    }

    /// Whether what a function of that name is given outlives the statement.
    #[must_use]
    pub fn keeps(&self, name: &str) -> bool {
        self.keepers.iter().any(|k| match k.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == k,
        })
    }

    /// Whether a function of that name was there when the list was made, and was looked at.
    #[must_use]
    pub fn knows_function(&self, name: &str) -> bool {
        self.known_functions.contains(name)
    }

    /// The same for a relation of `pg_catalog` or `information_schema`.
    #[must_use]
    pub fn knows_relation(&self, schema: &str, name: &str) -> bool {
        self.known_relations.contains(format!("{schema}.{name}").as_str())
    }

    /// The entry of a relation.
    #[must_use]
    pub fn relation(&self, schema: &str, name: &str) -> Option<&Entry> {
        self.relations
            .iter()
            .find(|(s, n, _)| (s == "*" || s == schema) && (n == "*" || n == name))
            .map(|(_, _, e)| e)
    }

    /// Columns of a relation that may not be named.
    pub fn columns(&self, schema: &str, name: &str) -> impl Iterator<Item = (&str, &Entry)> {
        self.columns
            .iter()
            .filter(move |([s, n, _], _)| s == schema && n == name)
            .map(|([_, _, column], entry)| (column.as_str(), entry))
    }

    /// Whether an extension's C functions are harmless.
    #[must_use]
    pub fn is_harmless(&self, extension: &str) -> bool {
        self.extensions.iter().any(|e| e == extension)
    }
}

fn entry<'t>(reader: &mut Reader<'t>, section: &Section<'t>, class: bool) -> Entry {
    reader.known(
        section,
        if class {
            &["class", "reason", "names"]
        } else {
            &["reason", "names"]
        },
    );
    let class = if class {
        reader.required(section, "class").map_or_else(String::new, |(c, _)| c)
    } else {
        String::new()
    };
    Entry {
        class,
        reason: reader.required(section, "reason").map_or_else(String::new, |(r, _)| r),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_file_has_no_mistakes() {
        assert_eq!(BUILT_INS.mistakes, Vec::<String>::new());
        assert!(BUILT_INS.functions.len() > 60);
        assert!(BUILT_INS.keeps("setval") && BUILT_INS.keeps("pg_sleep_for") && !BUILT_INS.keeps("upper"));
    }
}
