//! What runs when something is used, and could it reach protected relations: functions, types, and relations that are read, maintained or
//! written to. The catalog says what runs what (`pg_depend`); bodies that are texts say it by their words.

use std::collections::{BTreeSet, HashMap, HashSet};

use globset::{Glob, GlobMatcher};

use super::body::{self, Words};
use super::{BUILT_INS, Call, Verdict};
use crate::catalog::{Catalog, Function, Oid, Relation, RelationName, Use, UseKind};

/// What the functions of a database could reach.
#[derive(Debug, Default)]
pub struct Reach {
    /// Verdicts by name, with their schemas.
    verdicts: HashMap<String, Vec<(String, Verdict)>>,
    /// Whether functions that nobody knows matter: where relations are protected.
    everything_known: bool,
    /// Functions that the policy vouches for.
    trusted: Vec<GlobMatcher>,
    /// Names of protected relations, in lower case.
    protected: HashSet<String>,
    /// Uses that are refused, and why.
    refused: HashMap<Use, String>,
    /// The same by bare name in lower case, for bodies that are texts.
    named: Named,
}

/// Names, in lower case, of what is refused: only the first reason of each.
#[derive(Debug, Default)]
struct Named {
    functions: HashMap<String, BTreeSet<Oid>>,
    types: HashSet<String>,
    operators: HashSet<String>,
    read: HashSet<String>,
    written: HashSet<String>,
}

/// The catalog by oid.
struct Index<'c> {
    catalog: &'c Catalog,
    functions: HashMap<Oid, &'c Function>,
    types: HashMap<Oid, &'c str>,
}

impl Reach {
    /// Judges every function, type and relation of the catalog.
    #[must_use]
    pub fn new(catalog: &Catalog, protected: &BTreeSet<RelationName>, trusted: &[String]) -> Self {
        let mut reach = Self {
            everything_known: !protected.is_empty(),
            protected: protected.iter().map(|n| n.name.to_lowercase()).collect(),
            ..Self::default()
        };
        if reach.everything_known {
            reach.trusted = trusted
                .iter()
                .filter_map(|t| Glob::new(t).ok())
                .map(|g| g.compile_matcher())
                .collect();
            reach.settle(catalog);
        }
        for function in catalog.functions.values().flatten() {
            let verdict = match reach.refused.get(&call(function.oid)) {
                Some(reason) => Verdict::Refused { reason: reason.clone() },
                None => Verdict::Safe,
            };
            reach
                .verdicts
                .entry(function.name.clone())
                .or_default()
                .push((function.schema.clone(), verdict));
        }
        reach
    }

    /// Who uses what is refused is refused, until nothing changes.
    fn settle(&mut self, catalog: &Catalog) {
        let index = Index {
            catalog,
            functions: catalog.functions.values().flatten().map(|f| (f.oid, f)).collect(),
            types: catalog
                .type_names
                .iter()
                .flat_map(|(name, oids)| oids.iter().map(|oid| (*oid, name.as_str())))
                .collect(),
        };
        let mut bodies: Vec<(&Function, Words)> = Vec::new();
        let mut vouched: HashSet<Oid> = HashSet::new();
        for function in catalog.functions.values().flatten() {
            let qualified = format!("{}.{}", function.schema, function.name);
            if self.trusted.iter().any(|t| t.is_match(&qualified)) {
                vouched.insert(function.oid);
                continue;
            }
            let (reason, words) = body::judge(function, &self.protected);
            if let Some(reason) = reason {
                self.refuse(&index, call(function.oid), reason);
            }
            bodies.push((function, words));
        }
        let mut users: HashMap<Use, Vec<Use>> = HashMap::new();
        for (user, used) in &catalog.runs {
            if user.kind == UseKind::Call && vouched.contains(&user.oid) {
                continue;
            }
            for used in used {
                users.entry(*used).or_default().push(*user);
            }
        }
        let relations = catalog.relations.values();
        self.rules(&index, relations.filter(|r| !r.rules.is_empty()));
        let mut spread: HashSet<Use> = HashSet::new();
        loop {
            let fresh: Vec<Use> = self.refused.keys().filter(|u| !spread.contains(u)).copied().collect();
            for used in &fresh {
                spread.insert(*used);
                let reason = format!("uses {}", self.described(&index, *used));
                let wider: &[UseKind] = match used.kind {
                    UseKind::Read | UseKind::Maintain => &[UseKind::Write],
                    UseKind::Call | UseKind::Cast | UseKind::Write => &[],
                };
                for kind in wider {
                    let reason = self.refused.get(used).cloned().unwrap_or_default();
                    self.refuse(
                        &index,
                        Use {
                            kind: *kind,
                            oid: used.oid,
                        },
                        reason,
                    );
                }
                for user in users.get(used).into_iter().flatten() {
                    self.refuse(&index, *user, reason.clone());
                }
            }
            let mut found = Vec::new();
            for (function, words) in &bodies {
                if !self.refused.contains_key(&call(function.oid))
                    && let Some(reason) = self.by_words(words, function.oid)
                {
                    found.push((call(function.oid), reason));
                }
            }
            if fresh.is_empty() && found.is_empty() {
                return;
            }
            for (user, reason) in found {
                self.refuse(&index, user, reason);
            }
        }
    }

    /// Rules by their words: what they name that could reach protected relations.
    fn rules<'c>(&mut self, index: &Index<'_>, relations: impl Iterator<Item = &'c Relation>) {
        for relation in relations {
            let reaches = relation.rules.iter().any(|rule| {
                body::words(rule).is_none_or(|w| {
                    w.all.iter().any(|w| {
                        self.protected.contains(w) || BUILT_INS.function(w).is_some_and(|e| e.class != "settings")
                    })
                })
            });
            if reaches {
                let reason = "one of its rules could read protected relations".to_owned();
                let writing = Use {
                    kind: UseKind::Write,
                    oid: relation.oid,
                };
                self.refuse(index, writing, reason);
            }
        }
    }

    fn refuse(&mut self, index: &Index<'_>, what: Use, reason: String) {
        if self.refused.contains_key(&what) {
            return;
        }
        self.refused.insert(what, reason);
        let relation = || {
            index
                .catalog
                .relations
                .get(&what.oid)
                .map(|r| r.name.name.to_lowercase())
        };
        match what.kind {
            UseKind::Call => {
                if let Some(function) = index.functions.get(&what.oid) {
                    let oids = self.named.functions.entry(function.name.to_lowercase());
                    oids.or_default().insert(what.oid);
                    let behind = index.catalog.operators.iter();
                    let behind =
                        behind.filter(|(_, all)| all.iter().any(|(s, n)| *s == function.schema && *n == function.name));
                    self.named
                        .operators
                        .extend(behind.map(|(operator, _)| operator.clone()));
                }
            }
            UseKind::Cast => {
                let name = index.types.get(&what.oid);
                self.named.types.extend(name.map(|name| name.to_lowercase()));
            }
            UseKind::Read => self.named.read.extend(relation()),
            UseKind::Maintain | UseKind::Write => self.named.written.extend(relation()),
        }
    }

    /// "function "s.f", which could …"
    fn described(&self, index: &Index<'_>, used: Use) -> String {
        let reason = self.refused.get(&used).map(String::as_str).unwrap_or_default();
        let name = match used.kind {
            UseKind::Call => {
                let function = index.functions.get(&used.oid);
                function.map(|f| format!("function \"{}.{}\"", f.schema, f.name))
            }
            UseKind::Cast => index.types.get(&used.oid).map(|name| format!("type \"{name}\"")),
            UseKind::Read | UseKind::Maintain | UseKind::Write => {
                let relation = index.catalog.relations.get(&used.oid);
                relation.map(|r| format!("relation \"{}.{}\"", r.name.schema, r.name.name))
            }
        };
        // The end of a chain says enough.
        match reason.strip_prefix("uses ") {
            Some(rest) => rest.to_owned(),
            None => format!("{}, which {reason}", name.unwrap_or_default()),
        }
    }

    /// Why the words of a body are refused for what they name; `own` is the function itself.
    fn by_words(&self, words: &Words, own: Oid) -> Option<String> {
        let call = words.called.iter().find(|w| {
            let named = self.named.functions.get(*w);
            named.is_some_and(|oids| oids.iter().any(|oid| *oid != own))
        });
        if let Some(name) = call {
            return Some(format!("calls \"{name}\", which could read protected relations"));
        }
        let of = |names: &HashSet<String>| words.all.iter().find(|w| names.contains(*w)).cloned();
        if let Some(name) = words.operators.iter().find(|o| self.named.operators.contains(*o)) {
            return Some(format!(
                "uses operator {name}, whose function could read protected relations"
            ));
        }
        let used = of(&self.named.types)
            .or_else(|| of(&self.named.read))
            .or_else(|| words.write().then(|| of(&self.named.written)).flatten());
        used.map(|name| format!("uses \"{name}\", behind which code could read protected relations"))
    }

    /// Whether the policy vouches for a function of that name, in any schema it may be made in.
    #[must_use]
    pub fn is_trusted(&self, name: &[String], search_path: &[String]) -> bool {
        let Some((bare, schema)) = name.split_last() else {
            return false;
        };
        let schemas: Vec<&String> = match schema.last() {
            Some(schema) => vec![schema],
            None => search_path.iter().collect(),
        };
        schemas
            .iter()
            .any(|s| self.trusted.iter().any(|t| t.is_match(format!("{s}.{bare}"))))
    }

    /// Why a relation may not be used so, if so.
    #[must_use]
    pub fn code_behind(&self, relation: Oid, kind: UseKind) -> Option<&str> {
        self.refused.get(&Use { kind, oid: relation }).map(String::as_str)
    }

    /// Why nothing may be maintained that the statement does not name, if so: some relation's code is refused.
    #[must_use]
    pub fn code_behind_any(&self) -> Option<&str> {
        let mut refused: Vec<_> = self
            .refused
            .iter()
            .filter(|(u, _)| u.kind == UseKind::Maintain)
            .collect();
        refused.sort();
        refused.first().map(|(_, reason)| reason.as_str())
    }

    /// Why a value may not be cast from or to a type of that bare name, if so: a user function behind it is refused.
    #[must_use]
    pub fn code_behind_type(&self, catalog: &Catalog, name: &str) -> Option<&str> {
        let mut types = catalog.type_names.get(name)?.iter();
        types.find_map(|oid| {
            let casting = Use {
                kind: UseKind::Cast,
                oid: *oid,
            };
            self.refused.get(&casting).map(String::as_str)
        })
    }

    /// Judges a body that is not in the catalog: DO, CREATE FUNCTION.
    #[must_use]
    pub fn judge_body(&self, language: &str, body: &str) -> Verdict {
        if !self.everything_known {
            return Verdict::Safe;
        }
        let function = Function {
            oid: 0,
            schema: String::new(),
            name: String::new(),
            language: language.to_lowercase(),
            body: body.to_owned(),
            kind: 'f',
            support: Vec::new(),
            extension: None,
        };
        let (reason, words) = body::judge(&function, &self.protected);
        match reason.or_else(|| self.by_words(&words, 0)) {
            Some(reason) => Verdict::Refused { reason },
            None => Verdict::Safe,
        }
    }

    /// What a call of that name means. Where several functions have the name, the worst of those in reach counts; a name that the
    /// catalog does not have outside `pg_catalog` is a built-in, or the server will say that it does not exist.
    #[must_use]
    pub fn judge_call(&self, schema: Option<&str>, name: &str, search_path: &[String]) -> Call<'static> {
        let built_in = || match BUILT_INS.function(name) {
            None if self.everything_known && !BUILT_INS.knows_function(name) => Call::Unknown,
            entry => Call::BuiltIn(entry),
        };
        if matches!(schema, Some("pg_catalog" | "information_schema")) {
            return built_in();
        }
        let in_reach = |s: &str| match schema {
            // An alias for the session's own temporary schema: those of other sessions only add to what is judged.
            Some("pg_temp") => s.starts_with("pg_temp_"),
            Some(schema) => s == schema,
            None => search_path.iter().any(|p| p == s),
        };
        let candidates: Vec<&Verdict> = self
            .verdicts
            .get(name)
            .into_iter()
            .flatten()
            .filter(|(s, _)| in_reach(s))
            .map(|(_, v)| v)
            .collect();
        if let Some(entry) = BUILT_INS.function(name) {
            // An extension's function on the list, or a user function that hides a built-in: the list counts.
            return Call::BuiltIn(Some(entry));
        }
        match candidates
            .iter()
            .find(|v| matches!(v, Verdict::Refused { .. }))
            .or_else(|| candidates.first())
        {
            Some(verdict) => Call::User((*verdict).clone()),
            None => built_in(),
        }
    }
}

fn call(oid: Oid) -> Use {
    Use {
        kind: UseKind::Call,
        oid,
    }
}
