//! Which functions may be called: the built-in deny-list (data, `policies/functions/`), and what user functions could reach.
//!
//! Built-ins are trusted but for the list. A user function is judged by the tokens of its body: one that names a protected
//! relation, runs SQL from text, or calls a function that does, is refused; so are languages that nobody here can read, unless the
//! policy or the list of harmless extensions vouches for them.

mod data;

use std::collections::{BTreeSet, HashMap, HashSet};

use globset::{Glob, GlobMatcher};
use pg_query::protobuf::Token;

use crate::catalog::{Catalog, Function, Oid, Relation, RelationKind, RelationName};
pub use data::{BUILT_INS, BuiltIns, Entry};

/// What is to be thought of a user function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It reaches nothing protected.
    Safe,
    /// It could.
    Refused {
        /// Completes "permission denied for function …: it …".
        reason: String,
    },
}

/// What a call means.
#[derive(Debug, Clone)]
pub enum Call<'c> {
    /// A built-in function, with its entry where it is on the list.
    BuiltIn(Option<&'c Entry>),
    /// A function of the database.
    User(Verdict),
    /// No function that the catalog or the list has: the call of a type's name, or nothing that is known.
    Unknown,
}

/// What a call does to settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingCall {
    /// `current_setting`
    Reads,
    /// `set_config`
    Writes,
}

/// Whether a function of that name reads or writes settings.
#[must_use]
pub fn setting_call(name: &str) -> Option<SettingCall> {
    match name {
        "set_config" => Some(SettingCall::Writes),
        "current_setting" => Some(SettingCall::Reads),
        _ => None,
    }
}

/// What the functions of a database could reach.
#[derive(Debug, Default)]
pub struct Reach {
    /// Verdicts by name, with their schemas.
    verdicts: HashMap<String, Vec<(String, Verdict)>>,
    /// Why functions are refused, by oid.
    refused: HashMap<Oid, String>,
    /// Whether functions that nobody knows matter: where relations are protected.
    everything_known: bool,
    /// Functions that the policy vouches for.
    trusted: Vec<GlobMatcher>,
    /// Why relations may not be written to: what runs then could reach protected relations.
    behind: HashMap<Oid, String>,
}

impl Reach {
    /// Judges every function of the catalog.
    #[must_use]
    pub fn new(catalog: &Catalog, protected: &BTreeSet<RelationName>, trusted: &[String]) -> Self {
        if protected.is_empty() {
            let verdicts = catalog
                .functions
                .iter()
                .map(|(name, all)| {
                    (
                        name.clone(),
                        all.iter().map(|f| (f.schema.clone(), Verdict::Safe)).collect(),
                    )
                })
                .collect();
            return Self {
                verdicts,
                ..Self::default()
            };
        }
        let names: HashSet<String> = protected.iter().map(|n| n.name.to_lowercase()).collect();
        let trusted: Vec<GlobMatcher> = trusted
            .iter()
            .filter_map(|t| Glob::new(t).ok())
            .map(|g| g.compile_matcher())
            .collect();
        let functions: Vec<&Function> = catalog.functions.values().flatten().collect();
        let mut judged: Vec<(&Function, Option<String>, HashSet<String>)> = functions
            .into_iter()
            .map(|f| {
                let qualified = format!("{}.{}", f.schema, f.name);
                if trusted.iter().any(|t| t.is_match(&qualified)) {
                    return (f, None, HashSet::new());
                }
                let (reason, words) = judge(f, &names);
                (f, reason, words)
            })
            .collect();
        // Who calls a refused function is refused, until nothing changes.
        loop {
            let refused: HashSet<String> = judged
                .iter()
                .filter(|(_, reason, _)| reason.is_some())
                .map(|(f, _, _)| f.name.to_lowercase())
                .collect();
            let mut changed = false;
            for (function, reason, words) in &mut judged {
                if reason.is_none()
                    && let Some(name) = words
                        .iter()
                        .find(|w| refused.contains(*w) && **w != function.name.to_lowercase())
                {
                    *reason = Some(format!("calls \"{name}\", which could read protected relations"));
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        let mut verdicts: HashMap<String, Vec<(String, Verdict)>> = HashMap::new();
        let mut refused: HashMap<Oid, String> = HashMap::new();
        for (function, reason, _) in judged {
            if let Some(reason) = &reason {
                refused.insert(
                    function.oid,
                    format!("function \"{}.{}\" {reason}", function.schema, function.name),
                );
            }
            let verdict = reason.map_or(Verdict::Safe, |reason| Verdict::Refused { reason });
            verdicts
                .entry(function.name.clone())
                .or_default()
                .push((function.schema.clone(), verdict));
        }
        let behind = behind(catalog, &names, &refused);
        Self {
            verdicts,
            refused,
            behind,
            trusted,
            everything_known: true,
        }
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

    /// Why a relation may not be written to, if so.
    #[must_use]
    pub fn code_behind(&self, relation: &Relation) -> Option<&str> {
        self.behind.get(&relation.oid).map(String::as_str)
    }

    /// Why a value may not be cast from or to a type of that bare name, if so: a user function behind it is refused.
    #[must_use]
    pub fn code_behind_type(&self, catalog: &Catalog, name: &str) -> Option<&str> {
        let functions = catalog.type_code.get(name)?;
        functions.iter().find_map(|f| self.refused.get(f).map(String::as_str))
    }

    /// Judges a body that is not in the catalog: DO.
    #[must_use]
    pub fn judge_body(&self, language: &str, body: &str, protected: &BTreeSet<String>) -> Verdict {
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
        let names: HashSet<String> = protected.iter().map(|n| n.to_lowercase()).collect();
        let (reason, words) = judge(&function, &names);
        let calls = words.iter().find(|w| {
            self.verdicts
                .iter()
                .any(|(n, all)| n.to_lowercase() == **w && all.iter().any(|(_, v)| *v != Verdict::Safe))
        });
        match reason.or_else(|| calls.map(|n| format!("calls \"{n}\", which could read protected relations"))) {
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

/// Relations that may not be written to, with the reason: their own code and that of their partitions, children, parents and (for views)
/// of what they show.
fn behind(catalog: &Catalog, protected: &HashSet<String>, refused: &HashMap<Oid, String>) -> HashMap<Oid, String> {
    let own = |relation: &Relation| -> Option<String> {
        if let Some(reason) = relation.code.iter().find_map(|f| refused.get(f)) {
            return Some(reason.clone());
        }
        relation.rules.iter().find_map(|rule| {
            let words = words(rule);
            let reaches = words.is_none_or(|w| {
                w.iter()
                    .any(|w| protected.contains(w) || BUILT_INS.function(w).is_some_and(|e| e.class != "settings"))
            });
            reaches.then(|| "one of its rules could read protected relations".to_owned())
        })
    };
    let mut found: HashMap<Oid, String> = catalog
        .relations
        .values()
        .filter_map(|r| Some((r.oid, own(r)?)))
        .collect();
    loop {
        let mut more: Vec<(Oid, String)> = Vec::new();
        for relation in catalog.relations.values().filter(|r| !found.contains_key(&r.oid)) {
            let family = relation.children.iter().chain(&relation.parents);
            let mut reason = family.filter_map(|o| found.get(o)).next().cloned();
            if reason.is_none() && relation.kind == RelationKind::View && !found.is_empty() {
                let words = relation.view_definition.as_deref().map(words);
                reason = found
                    .iter()
                    .find(|(oid, _)| {
                        let name = catalog.relations.get(oid).map(|r| r.name.name.to_lowercase());
                        match (&words, name) {
                            (Some(Some(words)), Some(name)) => words.contains(&name),
                            (_, None) => false,
                            (Some(None) | None, Some(_)) => relation.view_definition.is_some(),
                        }
                    })
                    .map(|(_, reason)| reason.clone());
            }
            more.extend(reason.map(|r| (relation.oid, r)));
        }
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Why a function is refused by itself, and the words of its body.
fn judge(function: &Function, protected: &HashSet<String>) -> (Option<String>, HashSet<String>) {
    let none = HashSet::new;
    if function.kind == 'a' {
        return (
            None,
            function.support.iter().map(|(_, name)| name.to_lowercase()).collect(),
        );
    }
    match function.language.as_str() {
        "sql" | "plpgsql" => {}
        "internal" => {
            let listed = BUILT_INS.function(&function.body).map(|e| e.reason.clone());
            return (listed, none());
        }
        "c" => {
            let harmless = function.extension.as_deref().is_some_and(|e| BUILT_INS.is_harmless(e));
            let reason = (!harmless).then(|| "is written in C, which Menshen cannot read".to_owned());
            return (reason, none());
        }
        other => {
            return (
                Some(format!("is written in {other}, which Menshen cannot read")),
                none(),
            );
        }
    }
    let Some(words) = words(&function.body) else {
        return (Some("has a body that Menshen cannot read".to_owned()), none());
    };
    if let Some(name) = words.iter().find(|w| protected.contains(*w)) {
        return (Some(format!("could read the protected relation \"{name}\"")), words);
    }
    if function.language == "plpgsql" && words.contains("execute") {
        return (Some("runs SQL that is built from text".to_owned()), words);
    }
    if let Some(entry) = words
        .iter()
        .find_map(|w| BUILT_INS.function(w).filter(|e| e.class != "settings"))
    {
        return (Some(entry.reason.clone()), words);
    }
    (None, words)
}

/// Every identifier, keyword and word inside a string of a body, in lower case. Strings count because they may be cast to `regclass`
/// or hold SQL; dollar-quoted bodies inside bodies too.
fn words(body: &str) -> Option<HashSet<String>> {
    let tokens = super::parse::scan(body).ok()?;
    let mut words = HashSet::new();
    for token in tokens {
        let (start, end) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        let text = body.get(start..end)?;
        match Token::try_from(token.token) {
            Ok(Token::SqlComment | Token::CComment) => {}
            Ok(Token::Uident) => return None,
            Ok(_) => {
                for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii())) {
                    if !word.is_empty() {
                        words.insert(word.to_lowercase());
                    }
                }
                let quoted = text.trim_matches(['"', '\'']).to_lowercase();
                words.insert(quoted);
            }
            Err(_) => return None,
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, language: &str, body: &str) -> Function {
        Function {
            oid: 20000,
            schema: "public".into(),
            name: name.into(),
            language: language.into(),
            body: body.into(),
            kind: 'f',
            support: vec![],
            extension: None,
        }
    }

    fn reach(functions: Vec<Function>) -> Reach {
        let mut catalog = Catalog::default();
        for f in functions {
            catalog.functions.entry(f.name.clone()).or_default().push(f);
        }
        let protected = BTreeSet::from([RelationName {
            schema: "crm".into(),
            name: "customers".into(),
        }]);
        Reach::new(&catalog, &protected, &["public.vouched".to_owned()])
    }

    fn refused(reach: &Reach, name: &str) -> bool {
        match reach.judge_call(None, name, &["pg_catalog".into(), "public".into()]) {
            Call::User(Verdict::Refused { .. }) | Call::BuiltIn(Some(_)) => true,
            Call::User(Verdict::Safe) | Call::BuiltIn(None) => false,
            Call::Unknown => true,
        }
    }

    #[test]
    fn bodies_that_reach_protected_relations_are_refused() {
        let reach = reach(vec![
            function("plain", "sql", "select $1 + 1"),
            function("reads", "sql", "select phone from crm.customers"),
            function("quoted", "sql", "select phone from crm.\"customers\""),
            function("by_text", "plpgsql", "begin return query execute 'select 1'; end"),
            function(
                "by_cast",
                "sql",
                "select count(*) from pg_class where oid = 'crm.customers'::regclass",
            ),
            function("calls", "sql", "select reads()"),
            function("calls_again", "plpgsql", "begin perform calls(); end"),
            function("python", "plpython3u", "return 1"),
            function("xml", "sql", "select query_to_xml($1, true, true, '')"),
            function("vouched", "c", "vouched"),
            function("unvouched", "c", "unvouched"),
        ]);
        for name in [
            "reads",
            "quoted",
            "by_text",
            "by_cast",
            "calls",
            "calls_again",
            "python",
            "xml",
            "unvouched",
        ] {
            assert!(refused(&reach, name), "{name}");
        }
        for name in ["plain", "vouched", "upper", "count"] {
            assert!(!refused(&reach, name), "{name}");
        }
        for name in [
            "query_to_xml",
            "pg_read_file",
            "lo_get",
            "dblink_exec",
            "ts_stat",
            "current_query",
        ] {
            assert!(refused(&reach, name), "{name}");
        }
    }

    #[test]
    fn system_relations_that_show_values_are_on_the_list() {
        for (schema, name) in [
            ("pg_catalog", "pg_stats"),
            ("pg_toast", "pg_toast_1234"),
            ("public", "pg_stat_statements"),
        ] {
            assert!(BUILT_INS.relation(schema, name).is_some(), "{schema}.{name}");
        }
        assert!(BUILT_INS.relation("pg_catalog", "pg_class").is_none());
    }
}
