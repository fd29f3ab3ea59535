//! Which functions may be called: the built-in deny-list (data, `policies/functions/`), and what user functions could reach.
//!
//! Built-ins are trusted but for the list. A user function is judged by the tokens of its body (`body.rs`): one that names a protected
//! relation or runs SQL from text is refused; so are languages that nobody here can read, unless the policy or the list of harmless
//! extensions vouches for them. Whatever runs a refused function when it is used is refused as well (`reach.rs`).

mod body;
mod change;
mod data;
mod homes;
mod keep;
mod reach;

pub use change::{Change, Changers, is_followed};
pub use data::{BUILT_INS, BuiltIns, Entry};
pub use keep::Keepers;
pub use reach::Reach;

/// What is to be thought of a user function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It reaches nothing protected.
    Safe,
    /// It could.
    Refused {
        /// Completes "permission denied for function …: it …".
        reason: String,
        /// Only what the server shows of itself is in reach (statistics, sessions): no rows that would have to be counted.
        system: bool,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::catalog::{Catalog, Function, RelationName};

    pub(super) fn function(name: &str, language: &str, body: &str) -> Function {
        Function {
            oid: 20000,
            schema: "public".into(),
            name: name.into(),
            language: language.into(),
            body: body.into(),
            kind: 'f',
            support: vec![],
            extension: None,
            settings: vec![],
        }
    }

    fn reach(functions: Vec<Function>) -> Reach {
        let mut catalog = Catalog::default();
        for (oid, f) in (20_000..).zip(functions) {
            let f = Function { oid, ..f };
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
    fn bodies_that_are_not_read_as_they_run_are_refused() {
        let changed = Function {
            settings: vec!["standard_conforming_strings=off".into()],
            ..function("changed", "sql", "select 1")
        };
        let aggregate = Function {
            kind: 'a',
            support: vec![("public".into(), "reads".into())],
            ..function("aggregate", "internal", "aggregate_dummy")
        };
        let reach = reach(vec![
            changed,
            aggregate,
            function("reads", "sql", "select phone from crm.customers"),
            function(
                "changes",
                "plpgsql",
                "begin set standard_conforming_strings = off; return 1; end",
            ),
            function("hides", "plpgsql", "begin do $x$ select U&\"c\" $x$; end"),
            function("alias", "internal", "pg_read_file"),
            function("lists", "internal", "pg_ls_dir_1arg"),
            Function {
                extension: Some("nobody_knows".into()),
                ..function("of_extension", "c", "of_extension")
            },
            Function {
                extension: Some("pg_trgm".into()),
                ..function("similar", "c", "similar")
            },
            function("open_quote", "sql", "select 'a \" is no name'"),
            function("renamed", "internal", "upper"),
        ]);
        for name in [
            "changed",
            "aggregate",
            "changes",
            "hides",
            "alias",
            "lists",
            "of_extension",
        ] {
            assert!(refused(&reach, name), "{name}");
        }
        for name in ["open_quote", "renamed", "similar"] {
            assert!(!refused(&reach, name), "{name}");
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
