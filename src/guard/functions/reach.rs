//! What runs when something is used, and could it reach protected relations: functions, types, and relations that are read, maintained or
//! written to. The catalog says what runs what (`pg_depend`); bodies that are texts say it by their words.

use std::collections::{BTreeSet, HashMap, HashSet};

use globset::{Glob, GlobMatcher};

use super::body::{self, Forbidden, Why, Words};
use super::{BUILT_INS, Call, Changers, Keepers, Verdict};
use crate::catalog::{Catalog, Function, Oid, RelationName, Use, UseKind, in_reach};

/// What the functions of a database could reach.
#[derive(Debug, Default)]
pub struct Reach {
    /// Verdicts by name, with their schemas.
    verdicts: HashMap<String, Vec<(String, Verdict)>>,
    /// Whether functions that nobody knows matter: where relations are protected.
    everything_known: bool,
    /// Functions that the policy vouches for.
    trusted: Vec<GlobMatcher>,
    /// Functions that the policy vouches for, or what they may call, run SQL that is built from text.
    runs_text: bool,
    /// What bodies may not name.
    forbidden: Forbidden,
    /// Uses that are refused, and why.
    refused: HashMap<Use, Why>,
    /// The same by bare name in lower case, for bodies that are texts.
    named: Named,
    /// What keeps the values it is given.
    keepers: Keepers,
    /// What changes settings.
    changers: Changers,
}

/// Names, in lower case, of what is refused: only the first reason of each.
#[derive(Debug, Default)]
struct Named {
    functions: HashMap<String, BTreeSet<Oid>>,
    operators: HashSet<String>,
    /// Whether only the server's own state is in reach.
    types: HashMap<String, bool>,
    read: HashMap<String, bool>,
    written: HashMap<String, bool>,
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
            forbidden: Forbidden {
                protected: protected.iter().map(|n| n.name.to_lowercase()).collect(),
                system: system(catalog),
            },
            ..Self::default()
        };
        if reach.everything_known {
            reach.trusted = trusted
                .iter()
                .filter_map(|t| Glob::new(t).ok())
                .map(|g| g.compile_matcher())
                .collect();
            reach.settle(catalog);
            reach.changers = Changers::new(catalog);
            reach.keepers = Keepers::new(catalog, &|f| {
                let qualified = format!("{}.{}", f.schema, f.name);
                reach.trusted.iter().any(|t| t.is_match(&qualified))
            });
        }
        for function in catalog.functions.values().flatten() {
            let verdict = match reach.refused.get(&Use::call(function.oid)) {
                Some(why) => refusal(why.clone()),
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

    /// Whether code that may be called could run SQL that is built from text: with the name of a prepared statement in it, it could run that.
    #[must_use]
    pub fn runs_text(&self) -> bool {
        self.runs_text
    }

    /// Who uses what is refused is refused, until nothing changes.
    fn settle(&mut self, catalog: &Catalog) {
        let index = Index {
            catalog,
            functions: catalog.functions.values().flatten().map(|f| (f.oid, f)).collect(),
            types: catalog
                .type_names
                .iter()
                .flat_map(|(name, oids)| oids.keys().map(|oid| (*oid, name.as_str())))
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
            let (why, words) = body::judge(function, &self.forbidden);
            if let Some(why) = why {
                self.refuse(&index, Use::call(function.oid), why);
            }
            bodies.push((function, words));
        }
        // Whatever is there, they may call.
        self.runs_text = !vouched.is_empty() && catalog.functions.values().flatten().any(body::runs_text);
        let mut users: HashMap<Use, Vec<Use>> = HashMap::new();
        for (user, used) in &catalog.runs {
            if user.kind == UseKind::Call && vouched.contains(&user.oid) {
                continue;
            }
            for used in used {
                users.entry(*used).or_default().push(*user);
            }
        }
        self.definitions(&index);
        let mut spread: HashMap<Use, bool> = HashMap::new();
        loop {
            let fresh: Vec<(Use, Why)> = self
                .refused
                .iter()
                .filter(|(u, why)| spread.get(u).is_none_or(|system| *system && !why.system))
                .map(|(u, why)| (*u, why.clone()))
                .collect();
            for (used, why) in &fresh {
                spread.insert(*used, why.system);
                match used.kind {
                    UseKind::Read | UseKind::Maintain => {
                        let writing = Use {
                            kind: UseKind::Write,
                            oid: used.oid,
                        };
                        self.refuse(&index, writing, why.clone());
                    }
                    UseKind::Call | UseKind::Cast | UseKind::Write => {}
                }
                let why = Why {
                    reason: format!("uses {}", described(&index, *used, &why.reason)),
                    system: why.system,
                };
                for user in users.get(used).into_iter().flatten() {
                    self.refuse(&index, *user, why.clone());
                }
            }
            let mut found = Vec::new();
            for (function, words) in &bodies {
                if self.refused.get(&Use::call(function.oid)).is_none_or(|why| why.system)
                    && let Some(why) = self.by_words(words, function.oid)
                {
                    found.push((Use::call(function.oid), why));
                }
            }
            let before = self.refused.values().filter(|why| !why.system).count() + self.refused.len();
            for (user, why) in found {
                self.refuse(&index, user, why);
            }
            let after = self.refused.values().filter(|why| !why.system).count() + self.refused.len();
            if fresh.is_empty() && before == after {
                return;
            }
        }
    }

    /// Rules by their words: what they name that could reach protected relations. Views: the server's own functions and relations that show
    /// more than they should; what they read of protected relations is masked.
    fn definitions(&mut self, index: &Index<'_>) {
        for relation in index.catalog.relations.values() {
            for rule in &relation.rules {
                let named = body::words(rule).map_or_else(
                    || Some(Why::data("has a rule that Menshen cannot read")),
                    |words| self.forbidden.named(&words),
                );
                if let Some(why) = named {
                    let why = Why {
                        reason: format!("has a rule that {}", why.reason),
                        system: why.system,
                    };
                    self.refuse(
                        index,
                        Use {
                            kind: UseKind::Write,
                            oid: relation.oid,
                        },
                        why,
                    );
                }
            }
            let Some(mut words) = relation.view_definition.as_deref().map(body::words) else {
                continue;
            };
            if let Some(words) = &mut words {
                words.all.retain(|w| !self.forbidden.protected.contains(w));
            }
            let named = words.map_or_else(
                || Some(Why::data("has a definition that Menshen cannot read")),
                |words| self.forbidden.named(&words),
            );
            // A materialized view shows what it stored.
            let kinds = [UseKind::Read, UseKind::Maintain];
            for kind in kinds {
                if let Some(why) = &named {
                    self.refuse(
                        index,
                        Use {
                            kind,
                            oid: relation.oid,
                        },
                        why.clone(),
                    );
                }
            }
        }
    }

    fn refuse(&mut self, index: &Index<'_>, what: Use, why: Why) {
        // What could reach rows weighs more than what shows the server's own state.
        if self.refused.get(&what).is_some_and(|old| !old.system || why.system) {
            return;
        }
        let system = why.system;
        self.refused.insert(what, why);
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
                    let own = (&function.schema, &function.name);
                    let behind = index.catalog.operators.iter();
                    let behind = behind.filter(|(_, all)| all.iter().any(|o| own == (&o.function.0, &o.function.1)));
                    self.named
                        .operators
                        .extend(behind.map(|(operator, _)| operator.clone()));
                }
            }
            UseKind::Cast => {
                let name = index.types.get(&what.oid);
                worse(&mut self.named.types, name.map(|name| name.to_lowercase()), system);
            }
            UseKind::Read => worse(&mut self.named.read, relation(), system),
            UseKind::Maintain | UseKind::Write => worse(&mut self.named.written, relation(), system),
        }
    }

    /// Why the words of a body are refused for what they use; `own` is the function itself.
    fn by_words(&self, words: &Words, own: Oid) -> Option<Why> {
        let mut found: Vec<Why> = Vec::new();
        for name in &words.called {
            let oids = self.named.functions.get(name).into_iter().flatten();
            let why = oids
                .filter(|oid| **oid != own)
                .filter_map(|oid| self.refused.get(&Use::call(*oid)));
            found.extend(why.map(|why| Why {
                reason: format!("calls \"{name}\", which could read protected relations"),
                system: why.system,
            }));
        }
        let operators = words.operators.iter().filter(|o| self.named.operators.contains(*o));
        found.extend(operators.map(|o| {
            Why::data(format!(
                "uses operator {o}, whose function could read protected relations"
            ))
        }));
        let writes = words.write();
        for name in &words.all {
            let behind = self.named.types.get(name).into_iter();
            let behind = behind.chain(self.named.read.get(name));
            let behind = behind.chain(self.named.written.get(name).filter(|_| writes));
            found.extend(behind.map(|system| Why {
                reason: format!("uses \"{name}\", behind which code could read protected relations"),
                system: *system,
            }));
        }
        found.sort_by(|a, b| (a.system, &a.reason).cmp(&(b.system, &b.reason)));
        found.into_iter().next()
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

    /// What changes settings that statements are read by.
    #[must_use]
    pub fn changers(&self) -> &Changers {
        &self.changers
    }

    /// What keeps the values it is given.
    #[must_use]
    pub fn keepers(&self) -> &Keepers {
        &self.keepers
    }

    /// Why a relation may not be used so, if so. `unrestricted`: by a principal for whom nothing is masked, who may see the server's state.
    #[must_use]
    pub fn code_behind(&self, relation: Oid, kind: UseKind, unrestricted: bool) -> Option<&str> {
        let why = self.refused.get(&Use { kind, oid: relation })?;
        (!(why.system && unrestricted)).then_some(why.reason.as_str())
    }

    /// Why nothing may be maintained that the statement does not name, if so: some relation's code is refused.
    #[must_use]
    pub fn code_behind_any(&self) -> Option<&str> {
        let refused = self.refused.iter().filter(|(u, _)| u.kind == UseKind::Maintain);
        refused.min_by_key(|(u, _)| **u).map(|(_, why)| why.reason.as_str())
    }

    /// Why a value may not be cast from or to a type that the name may mean, if so: a user function behind it is refused.
    #[must_use]
    pub fn code_behind_type(
        &self,
        catalog: &Catalog,
        schema: Option<&str>,
        name: &str,
        path: &[String],
    ) -> Option<&str> {
        let types = catalog.type_names.get(name)?.iter();
        let mut meant = types.filter(|(_, home)| in_reach(home, schema, path));
        meant.find_map(|(oid, _)| self.code_behind_type_oid(*oid))
    }

    /// The same for a type by its oid: the client may give those of parameters.
    #[must_use]
    pub fn code_behind_type_oid(&self, oid: Oid) -> Option<&str> {
        self.refused.get(&Use::cast(oid)).map(|why| why.reason.as_str())
    }

    /// Judges a body that is not in the catalog: DO, CREATE FUNCTION.
    #[must_use]
    pub fn judge_body(&self, language: &str, body: &str, settings: Vec<String>) -> Verdict {
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
            settings,
        };
        let (why, words) = body::judge(&function, &self.forbidden);
        let worst = why
            .into_iter()
            .chain(self.by_words(&words, 0))
            .min_by_key(|why| why.system);
        worst.map_or(Verdict::Safe, refusal)
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
        let candidates: Vec<&Verdict> = self
            .verdicts
            .get(name)
            .into_iter()
            .flatten()
            .filter(|(home, _)| in_reach(home, schema, search_path))
            .map(|(_, v)| v)
            .collect();
        // The worst of them; an extension's function on the list, or a user function that hides a built-in, is what the list says at least.
        let badness = |v: &Verdict| match v {
            Verdict::Safe => 0,
            Verdict::Refused { system: true, .. } => 1,
            Verdict::Refused { system: false, .. } => 2,
        };
        let worst = candidates.into_iter().max_by_key(|v| badness(v));
        match (worst, BUILT_INS.function(name)) {
            (Some(verdict @ Verdict::Refused { .. }), None) => Call::User(verdict.clone()),
            (Some(verdict @ Verdict::Refused { .. }), Some(entry)) if entry.class == "settings" => {
                Call::User(verdict.clone())
            }
            (Some(Verdict::Safe), None) => Call::User(Verdict::Safe),
            (Some(_) | None, Some(entry)) => Call::BuiltIn(Some(entry)),
            (None, None) => built_in(),
        }
    }
}

fn worse(names: &mut HashMap<String, bool>, name: Option<String>, system: bool) {
    if let Some(name) = name {
        let known = names.entry(name).or_insert(system);
        *known &= system;
    }
}

/// "function "s.f", which could …"
fn described(index: &Index<'_>, used: Use, reason: &str) -> String {
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

/// Names, in lower case, of the server's relations that may not be read, and of those that nobody here knows.
fn system(catalog: &Catalog) -> HashSet<String> {
    let relations = catalog.relations.values();
    relations
        .filter(|r| {
            let (schema, name) = (&r.name.schema, &r.name.name);
            let own = matches!(schema.as_str(), "pg_catalog" | "information_schema");
            BUILT_INS.relation(schema, name).is_some() || own && !BUILT_INS.knows_relation(schema, name)
        })
        .map(|r| r.name.name.to_lowercase())
        .collect()
}

fn refusal(why: Why) -> Verdict {
    Verdict::Refused {
        reason: why.reason,
        system: why.system,
    }
}
