//! What keeps the values it is given: functions that write, or call what does. Clear protected values given to them could be read later,
//! by anybody, uncounted.

use std::collections::{HashMap, HashSet};

use super::BUILT_INS;
use super::body::{self, Words};
use crate::catalog::{Catalog, Function, Oid, SET_CONFIG, Use, UseKind};

/// Functions, operators and types behind which something keeps what it is given.
#[derive(Debug, Default)]
pub struct Keepers {
    /// Schemas by name of the function.
    functions: HashMap<String, Vec<String>>,
    operators: HashSet<String>,
    types: HashSet<String>,
}

impl Keepers {
    /// `vouched`: functions that the policy trusts, which are its owners' own business.
    pub(super) fn new(catalog: &Catalog, vouched: &dyn Fn(&Function) -> bool) -> Self {
        let all: Vec<&Function> = catalog.functions.values().flatten().filter(|f| !vouched(f)).collect();
        let words: Vec<(&Function, Option<Words>)> = all.iter().map(|f| (*f, words(f))).collect();
        let mut keeping: HashSet<Oid> = HashSet::new();
        let mut names: HashSet<String> = HashSet::new();
        loop {
            let before = keeping.len();
            for (function, words) in &words {
                let keeps = words.as_ref().is_none_or(|w| by_itself(function, w))
                    || words
                        .as_ref()
                        .is_some_and(|w| w.called.iter().any(|c| names.contains(c)))
                    || function.support.iter().any(|(_, s)| names.contains(&s.to_lowercase()));
                if keeps && keeping.insert(function.oid) {
                    names.insert(function.name.to_lowercase());
                }
            }
            if keeping.len() == before {
                break;
            }
        }
        let mut keepers = Self::default();
        for function in all.iter().filter(|f| keeping.contains(&f.oid)) {
            let schemas = keepers.functions.entry(function.name.clone()).or_default();
            schemas.push(function.schema.clone());
        }
        let behind =
            |(schema, name): &(String, String)| keepers.functions.get(name).is_some_and(|s| s.contains(schema));
        let operators = catalog.operators.iter().filter(|(_, all)| all.iter().any(behind));
        let operators = operators.map(|(name, _)| name.clone()).collect();
        let runs = |oid: &Oid| {
            let casting = Use {
                kind: UseKind::Cast,
                oid: *oid,
            };
            let used = catalog.runs.get(&casting).into_iter().flatten();
            used.into_iter()
                .any(|u| u.kind == UseKind::Call && (keeping.contains(&u.oid) || u.oid == SET_CONFIG))
        };
        let types = catalog.type_names.iter().filter(|(_, oids)| oids.iter().any(runs));
        keepers.types = types.map(|(name, _)| name.clone()).collect();
        keepers.operators = operators;
        keepers
    }

    /// Whether a function that the name may mean keeps what it is given.
    #[must_use]
    pub fn function(&self, schema: Option<&str>, name: &str, search_path: &[String]) -> bool {
        let in_reach = |s: &String| match schema {
            Some("pg_temp") => s.starts_with("pg_temp_"),
            Some(schema) => s == schema,
            None => search_path.contains(s),
        };
        let built_in = schema.is_none_or(|s| s == "pg_catalog") && BUILT_INS.keeps(name);
        built_in
            || self
                .functions
                .get(name)
                .is_some_and(|schemas| schemas.iter().any(in_reach))
    }

    /// The same for an operator of that bare name, wherever it stands.
    #[must_use]
    pub fn operator(&self, name: &str) -> bool {
        self.operators.contains(name)
    }

    /// The same for casts to and from a type of that bare name, and its checks.
    #[must_use]
    pub fn type_name(&self, name: &str) -> bool {
        self.types.contains(name)
    }
}

/// The words of a body; `None` where it can't be read (it is refused for that, unless somebody vouches for it).
fn words(function: &Function) -> Option<Words> {
    match function.language.as_str() {
        "sql" | "plpgsql" => body::words(&function.body),
        // An extension's on the list of harmless ones; or a built-in under another name.
        "c" | "internal" => Some(Words::default()),
        _ => None,
    }
}

fn by_itself(function: &Function, words: &Words) -> bool {
    if function.language == "internal" && BUILT_INS.keeps(&function.body) {
        return true;
    }
    let creates = function.language == "sql" && words.all.contains("into");
    words.write() || creates || words.all.contains("notify") || words.called.iter().any(|c| BUILT_INS.keeps(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_and_their_callers_keep_what_they_are_given() {
        let mut catalog = Catalog::default();
        let bodies = [
            (
                "writes",
                "plpgsql",
                "begin insert into crm.notes values ($1); return true; end",
            ),
            ("sets", "sql", "select set_config('a.b', $1, false)"),
            ("calls", "sql", "select public.sets($1)"),
            ("renamed", "internal", "setval_oid"),
            (
                "pure",
                "plpgsql",
                "begin if $1 is null then raise exception 'none'; end if; return upper($1); end",
            ),
            ("python", "plpython3u", "return 1"),
            ("vouched", "sql", "select set_config('a.b', $1, false)"),
        ];
        for (oid, (name, language, body)) in (20_000..).zip(bodies) {
            let function = Function {
                oid,
                schema: "public".into(),
                name: name.into(),
                language: language.into(),
                body: body.into(),
                kind: 'f',
                support: vec![],
                extension: None,
                settings: vec![],
            };
            catalog.functions.entry(name.into()).or_default().push(function);
        }
        let keepers = Keepers::new(&catalog, &|f| f.name == "vouched");
        let path = ["pg_catalog".to_owned(), "public".to_owned()];
        for name in ["writes", "sets", "calls", "python", "set_config", "renamed"] {
            assert!(keepers.function(None, name, &path), "{name}");
        }
        for name in ["pure", "vouched", "upper"] {
            assert!(!keepers.function(None, name, &path), "{name}");
        }
        assert!(!keepers.function(Some("other"), "writes", &path));
    }
}
