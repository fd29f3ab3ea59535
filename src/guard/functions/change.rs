//! What changes settings that later statements are read by (`search_path`, `role`, `menshen.…`), and what runs it when it is used: behind
//! operators, triggers, defaults, checks, views, policies. After such a statement the session asks anew.
//!
//! A type whose checks or casts do so is refused wherever it is used: a parameter of it runs them at Bind, between the reading of a statement and
//! its execution, and PostgreSQL would then read the same text by another path.

use std::collections::HashSet;

use pg_query::protobuf::Token;

use super::BUILT_INS;
use super::body::{self, Words};
use super::homes::Homes;
use crate::catalog::{Catalog, Function, Oid, SET_CONFIG, Use, UseKind};

/// How the use of something changes settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Code that runs with the statement does.
    Code,
    /// The checks or casts of a type do.
    Type,
}

/// Everything whose use may change settings.
#[derive(Debug, Default)]
pub struct Changers {
    all: HashSet<Use>,
    by_type: HashSet<Use>,
    /// Functions that take or give values of such types.
    functions: Homes,
    operators: Homes,
    operators_by_type: Homes,
    types: Homes,
    /// Names in lower case of all functions that do so.
    called: HashSet<String>,
}

/// The view whose rows are settings: an UPDATE of them sets.
const SETTINGS: &str = "pg_settings";

/// Objects from here on are not built in (`FirstNormalObjectId`).
const FIRST_NORMAL: Oid = 16_384;

impl Changers {
    pub(super) fn new(catalog: &Catalog) -> Self {
        let functions: Vec<&Function> = catalog.functions.values().flatten().collect();
        let bodies: Vec<(&Function, Option<Words>)> = functions.iter().map(|f| (*f, words(f))).collect();
        let mut all: HashSet<Use> = HashSet::from([Use::call(SET_CONFIG)]);
        all.extend(functions.iter().filter(|f| by_itself(f)).map(|f| Use::call(f.oid)));
        for relation in catalog.relations.values() {
            let definitions = relation.rules.iter().chain(&relation.view_definition);
            // Writing to a view over pg_settings, or a rule that writes to it, is set_config by another name.
            let sets = |text: &String| {
                body::words(text).is_none_or(|w| w.called.contains("set_config") || w.all.contains(SETTINGS))
            };
            if definitions.into_iter().any(sets) {
                all.extend(relation_uses(relation.oid));
            }
        }
        loop {
            let before = all.len();
            spread(catalog, &mut all);
            let names = names(catalog, &functions, &all);
            for (function, words) in &bodies {
                let named = words.as_ref().is_some_and(|w| {
                    w.called.iter().any(|c| names.called.contains(c))
                        || w.all.iter().any(|c| names.used.contains(c))
                        || w.operators.iter().any(|o| names.operators.contains(o))
                });
                let support = function
                    .support
                    .iter()
                    .any(|(_, s)| names.called.contains(&s.to_lowercase()));
                if named || support {
                    all.insert(Use::call(function.oid));
                }
            }
            if all.len() == before {
                break;
            }
        }
        let mut by_type: HashSet<Use> = all
            .iter()
            .filter(|u| u.kind == UseKind::Cast && u.oid >= FIRST_NORMAL)
            .copied()
            .collect();
        loop {
            let before = by_type.len();
            spread(catalog, &mut by_type);
            by_type.retain(|u| u.kind != UseKind::Cast || u.oid >= FIRST_NORMAL);
            if by_type.len() == before {
                break;
            }
        }
        let mut changers = Self {
            all,
            by_type,
            ..Self::default()
        };
        changers.name(catalog, &functions);
        changers
    }

    fn name(&mut self, catalog: &Catalog, functions: &[&Function]) {
        let mut changing = Homes::default();
        for function in functions.iter().filter(|f| self.all.contains(&Use::call(f.oid))) {
            changing.add(&function.schema, &function.name);
            self.called.insert(function.name.to_lowercase());
        }
        for function in functions.iter().filter(|f| self.by_type.contains(&Use::call(f.oid))) {
            self.functions.add(&function.schema, &function.name);
        }
        for (name, operators) in &catalog.operators {
            for operator in operators {
                let (schema, function) = &operator.function;
                if self.functions.has(schema, function) {
                    self.operators_by_type.add(&operator.schema, name);
                } else if changing.has(schema, function) {
                    self.operators.add(&operator.schema, name);
                }
            }
        }
        for (name, oids) in &catalog.type_names {
            for (_, schema) in oids.iter().filter(|(oid, _)| self.by_type.contains(&Use::cast(**oid))) {
                self.types.add(schema, name);
            }
        }
    }

    /// Reading, writing or maintaining a relation.
    #[must_use]
    pub fn relation(&self, oid: Oid) -> Option<Change> {
        let uses = relation_uses(oid).into_iter();
        let found = uses.filter_map(|u| change(&self.all, &self.by_type, u));
        found.max_by_key(|c| *c == Change::Type)
    }

    /// An operator that the name may mean.
    #[must_use]
    pub fn operator(&self, schema: Option<&str>, name: &str, path: &[String]) -> Option<Change> {
        if self.operators_by_type.meant(schema, name, path) {
            return Some(Change::Type);
        }
        self.operators.meant(schema, name, path).then_some(Change::Code)
    }

    /// Whether a type that the name may mean is refused.
    #[must_use]
    pub fn type_name(&self, schema: Option<&str>, name: &str, path: &[String]) -> bool {
        self.types.meant(schema, name, path)
    }

    /// Whether a body that is to be a function's would change settings.
    #[must_use]
    pub fn body(&self, language: &str, text: &str) -> bool {
        matches!(language, "sql" | "plpgsql")
            && (sets(text) || body::words(text).is_none_or(|w| w.called.iter().any(|c| self.called.contains(c))))
    }

    /// Whether a type is refused, by its oid: the client may give those of parameters.
    #[must_use]
    pub fn type_oid(&self, oid: Oid) -> bool {
        self.by_type.contains(&Use::cast(oid))
    }

    /// Whether a function that the name may mean takes or gives values of a type that is refused.
    #[must_use]
    pub fn function(&self, schema: Option<&str>, name: &str, path: &[String]) -> bool {
        self.functions.meant(schema, name, path)
    }
}

fn change(all: &HashSet<Use>, by_type: &HashSet<Use>, used: Use) -> Option<Change> {
    if by_type.contains(&used) {
        return Some(Change::Type);
    }
    all.contains(&used).then_some(Change::Code)
}

fn relation_uses(oid: Oid) -> [Use; 3] {
    [UseKind::Read, UseKind::Maintain, UseKind::Write].map(|kind| Use { kind, oid })
}

/// Who uses what is in the set, by the catalog's word.
fn spread(catalog: &Catalog, set: &mut HashSet<Use>) {
    loop {
        let users = catalog
            .runs
            .iter()
            .filter(|(_, used)| used.iter().any(|u| set.contains(u)));
        let new: Vec<Use> = users.map(|(user, _)| *user).filter(|u| !set.contains(u)).collect();
        if new.is_empty() {
            return;
        }
        set.extend(new);
    }
}

/// Names in lower case of what is in the set, for bodies that are texts.
struct Names {
    called: HashSet<String>,
    /// Relations and types.
    used: HashSet<String>,
    operators: HashSet<String>,
}

fn names(catalog: &Catalog, functions: &[&Function], all: &HashSet<Use>) -> Names {
    let changing: Vec<&&Function> = functions.iter().filter(|f| all.contains(&Use::call(f.oid))).collect();
    let relations = catalog.relations.values();
    let relations = relations.filter(|r| relation_uses(r.oid).iter().any(|u| all.contains(u)));
    let relations = relations.map(|r| r.name.name.to_lowercase());
    let types = catalog.type_names.iter();
    let types = types.filter(|(_, oids)| oids.keys().any(|o| *o >= FIRST_NORMAL && all.contains(&Use::cast(*o))));
    let operators = catalog.operators.iter();
    let operators = operators.filter(|(_, all)| {
        all.iter().any(|o| {
            changing
                .iter()
                .any(|f| (&f.schema, &f.name) == (&o.function.0, &o.function.1))
        })
    });
    Names {
        called: changing.iter().map(|f| f.name.to_lowercase()).collect(),
        used: relations.chain(types.map(|(name, _)| name.to_lowercase())).collect(),
        operators: operators.map(|(name, _)| name.clone()).collect(),
    }
}

fn words(function: &Function) -> Option<Words> {
    matches!(function.language.as_str(), "sql" | "plpgsql")
        .then(|| body::words(&function.body))
        .flatten()
}

/// Whether a function changes such settings, or could for all that can be read of it.
fn by_itself(function: &Function) -> bool {
    match function.language.as_str() {
        "sql" | "plpgsql" => function.kind != 'a' && sets(&function.body),
        "internal" => function.body == "set_config_by_name",
        "c" => !function.extension.as_deref().is_some_and(|e| BUILT_INS.is_harmless(e)),
        _ => true,
    }
}

/// Settings by which later statements are read and judged.
#[must_use]
pub fn is_followed(name: &str) -> bool {
    const FOLLOWED: [&str; 6] = [
        "client_encoding",
        "role",
        "row_security",
        "search_path",
        "session_authorization",
        "standard_conforming_strings",
    ];
    let name = name.to_ascii_lowercase();
    FOLLOWED.contains(&name.as_str()) || name.starts_with("menshen.")
}

/// Whether a body sets such a setting: by SET, RESET or DISCARD at the beginning of a statement, by set_config with its name or one that is
/// computed, or by SQL that is built from text.
fn sets(text: &str) -> bool {
    if text.to_lowercase().contains(SETTINGS) {
        return true;
    }
    let Ok(tokens) = super::super::parse::scan(text) else {
        return true;
    };
    let tokens: Vec<(Token, String)> = tokens
        .iter()
        .filter_map(|t| {
            let range = usize::try_from(t.start).ok()?..usize::try_from(t.end).ok()?;
            Some((Token::try_from(t.token).ok()?, text.get(range)?.to_lowercase()))
        })
        .filter(|(kind, _)| !matches!(kind, Token::SqlComment | Token::CComment))
        .collect();
    let word = |at: usize| tokens.get(at).map_or("", |(_, text)| text.trim_matches('"'));
    (0..tokens.len()).any(|at| {
        let begins = at == 0 || matches!(word(at - 1), ";" | "begin" | "then" | "else" | "loop" | "atomic" | ">>");
        match word(at) {
            "execute" | "discard" | "do" if begins => true,
            "set" | "reset" if begins => {
                let mut next = at + 1;
                while matches!(word(next), "local" | "session") {
                    next += 1;
                }
                let menshen = word(next).starts_with("menshen");
                menshen || matches!(word(next), "schema" | "names" | "authorization" | "all") || is_followed(word(next))
            }
            "set_config" => {
                let literal = tokens.get(at + 2).filter(|(kind, _)| *kind == Token::Sconst);
                let alone = word(at + 1) == "(" && word(at + 3) == ",";
                !(alone && literal.is_some_and(|(_, name)| !is_followed(name.trim_matches('\''))))
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_matter_count() {
        for body in [
            "SELECT set_config('search_path', 'x', false)",
            "SELECT set_config(n, 'x', false)",
            "SELECT set_config('search' || '_path', 'x', false)",
            "SELECT set_config('menshen.case', 'x', true)",
            "BEGIN SET LOCAL search_path = x; END",
            "BEGIN PERFORM 1; SET ROLE x; END",
            "BEGIN IF a THEN RESET ALL; END IF; END",
            "BEGIN SET SESSION AUTHORIZATION x; END",
            "BEGIN EXECUTE 'x'; END",
            "SET menshen.\"case\" = 'x'",
        ] {
            assert!(sets(body), "{body}");
        }
        for body in [
            "SELECT set_config('app.tenant', $1, true)",
            "BEGIN UPDATE users SET role = 'x'; RETURN NEW; END",
            "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET role = 'x'",
            "BEGIN SET LOCAL work_mem = '1GB'; END",
            "SELECT role, search_path FROM users",
        ] {
            assert!(!sets(body), "{body}");
        }
    }
}
