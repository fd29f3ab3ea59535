//! What keeps the values it is given: functions that write, or call what does. Clear protected values given to them could be read later,
//! by anybody, uncounted.

use std::collections::HashSet;

use super::BUILT_INS;
use super::body::{self, Words};
use super::homes::Homes;
use crate::catalog::{Catalog, Function, Oid, Operator, SET_CONFIG, Use, UseKind};

/// Functions, operators and types behind which something keeps what it is given.
#[derive(Debug, Default)]
pub struct Keepers {
    functions: Homes,
    operators: Homes,
    types: Homes,
}

impl Keepers {
    /// `vouched`: functions that the policy trusts, which are its owners' own business.
    pub(super) fn new(catalog: &Catalog, vouched: &dyn Fn(&Function) -> bool) -> Self {
        let all: Vec<&Function> = catalog.functions.values().flatten().filter(|f| !vouched(f)).collect();
        let words: Vec<(&Function, Option<Words>)> = all.iter().map(|f| (*f, words(f))).collect();
        let mut keeping: HashSet<Oid> = HashSet::new();
        let mut keepers = Self::default();
        // In bodies by bare name: they are read by the path of whoever runs them.
        let mut called: HashSet<String> = HashSet::new();
        let mut operators: HashSet<&str> = HashSet::new();
        loop {
            let before = keeping.len();
            for (function, words) in &words {
                let keeps = words.as_ref().is_none_or(|w| {
                    by_itself(function, w)
                        || w.called.iter().any(|c| called.contains(c))
                        || w.operators.iter().any(|o| operators.contains(o.as_str()))
                }) || function.support.iter().any(|(_, s)| called.contains(&s.to_lowercase()));
                if keeps && keeping.insert(function.oid) {
                    called.insert(function.name.to_lowercase());
                    keepers.functions.add(&function.schema, &function.name);
                }
            }
            let keeps = |o: &Operator| keepers.functions.has(&o.function.0, &o.function.1);
            let behind = catalog.operators.iter().filter(|(_, all)| all.iter().any(keeps));
            operators.extend(behind.map(|(name, _)| name.as_str()));
            if keeping.len() == before {
                break;
            }
        }
        for (name, all) in &catalog.operators {
            for operator in all {
                let (schema, function) = &operator.function;
                if keepers.functions.has(schema, function) {
                    keepers.operators.add(&operator.schema, name);
                }
            }
        }
        let runs = |oid: Oid| {
            let used = catalog.runs.get(&Use::cast(oid)).into_iter().flatten();
            used.into_iter()
                .any(|u| u.kind == UseKind::Call && (keeping.contains(&u.oid) || u.oid == SET_CONFIG))
        };
        for (name, oids) in &catalog.type_names {
            for (_, schema) in oids.iter().filter(|(oid, _)| runs(**oid)) {
                keepers.types.add(schema, name);
            }
        }
        keepers
    }

    /// Whether a function that the name may mean keeps what it is given.
    #[must_use]
    pub fn function(&self, schema: Option<&str>, name: &str, path: &[String]) -> bool {
        let built_in = schema.is_none_or(|s| s == "pg_catalog") && BUILT_INS.keeps(name);
        built_in || self.functions.meant(schema, name, path)
    }

    /// The same for an operator.
    #[must_use]
    pub fn operator(&self, schema: Option<&str>, name: &str, path: &[String]) -> bool {
        self.operators.meant(schema, name, path)
    }

    /// The same for casts to and from a type, and its checks.
    #[must_use]
    pub fn type_name(&self, schema: Option<&str>, name: &str, path: &[String]) -> bool {
        self.types.meant(schema, name, path)
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
    use super::super::tests::function;
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
                ..function(name, language, body)
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
