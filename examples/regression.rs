//! PostgreSQL's own regression SQL re-aimed at protected relations: how much of it does the guard judge, and what does it refuse?
//!
//! `regression DIRECTORY`: for each `NAME.sql` in it there is `NAME.json`, the catalog after the file was run (the answer to
//! `catalog::introspect::QUERY`). Every table gets a person column and a classified column; every query, data modification and COPY of
//! the file is judged twice: as a principal for whom all of it is masked, and as one who sees all of it and is counted. `tools/regression`
//! makes the files and runs this.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool for developers"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use menshen::catalog::{Catalog, RelationKind, introspect};
use menshen::guard::{self, Ground, Request, Verdict};
use menshen::ledger::Pack;
use menshen::mask::TokenSettings;
use menshen::policy::{Policy, Standing};
use menshen::principal::{Declared, Principal};

fn main() {
    let directory = std::env::args().nth(1).expect("usage: regression DIRECTORY");
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .expect("directory")
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "sql"))
        .collect();
    files.sort();
    for (login, what) in [("analyst", "masked"), ("counted", "clear and counted")] {
        judge_all(&files, login, what);
    }
}

fn judge_all(files: &[PathBuf], login: &str, what: &str) {
    let mut counts: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut total = 0;
    for file in files {
        let Ok(document) = std::fs::read_to_string(file.with_extension("json")) else {
            continue;
        };
        let Ok(catalog) = introspect::parse(&document, 1, None) else {
            println!("unreadable catalog for {}", file.display());
            continue;
        };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        total += one_file(file, &text, catalog, login, &mut counts);
    }
    let unsupported = counts.iter().filter(|(outcome, _)| outcome.starts_with(NOT_SUPPORTED));
    let unsupported: usize = unsupported.map(|(_, (count, _))| count).sum();
    println!("== {what}: {total} statements on protected relations, {unsupported} not supported");
    for (outcome, (count, example)) in &counts {
        let example: String = example.replace('\n', " ").chars().take(200).collect();
        println!("{count:6}  {outcome:45}  {example}");
    }
}

const NOT_SUPPORTED: &str = "NOT SUPPORTED";

fn one_file(
    file: &Path,
    text: &str,
    catalog: Catalog,
    login: &str,
    counts: &mut BTreeMap<String, (usize, String)>,
) -> usize {
    let policy = policy_for(&catalog);
    let path = std::env::temp_dir().join("menshen-regression-policy.toml");
    std::fs::write(&path, policy).expect("policy file");
    let (policy, _) = Policy::load(&path, 1).unwrap_or_else(|p| panic!("{}: {p:?}", file.display()));
    let principal = Principal {
        login: login.into(),
        groups: Default::default(),
        address: None,
    };
    let standing: Standing = policy.standing(&principal, &Declared::default(), jiff::Timestamp::now());
    let pack = Pack::find("cn-criminal-253-1", &path).expect("the pack is built in");
    let ground = Ground::new(Arc::new(policy), Arc::new(catalog), Some(Arc::new(pack)), None);
    let token = TokenSettings {
        inner: "menshen.ki".into(),
        outer: "menshen.ko".into(),
    };
    let mut total = 0;
    for statement in pg_query::split_with_scanner(text).unwrap_or_default() {
        let request = Request {
            text: statement,
            login,
            standing: &standing,
            search_path: &["pg_catalog".into(), "public".into()],
            current_user: login,
            token: &token,
            cursor: &|_| None,
            prepared: &|_| None,
            undone_at_end: false,
            extended: false,
            late: true,
        };
        let Ok(parsed) = guard::parse::parse(statement) else {
            continue;
        };
        use guard::statement::Class;
        if !parsed
            .classes
            .iter()
            .all(|c| matches!(c, Class::Query | Class::Insert | Class::Modify | Class::Copy))
        {
            continue;
        }
        let mut detail = String::new();
        let outcome = match guard::examine(&ground, &request) {
            Ok(plan) if plan.statements.iter().all(|s| s.report.relations.is_empty()) => continue,
            Ok(_) => "judged".to_owned(),
            // A relation or column that the file makes and drops again, or that never was.
            Err(Verdict::Missing { .. }) => continue,
            Err(Verdict::Refuse(refusal) | Verdict::InTurn { otherwise: refusal, .. }) => {
                detail.clone_from(&refusal.message);
                match refusal.sqlstate {
                    "42P01" | "42703" | "42883" | "42601" => continue,
                    "42501" | "42809" => format!("denied: {}", refusal.rule),
                    _ => format!("{NOT_SUPPORTED}: {}", refusal.rule),
                }
            }
        };
        total += 1;
        let refusal_name = outcome.clone();
        let entry = counts.entry(outcome).or_default();
        entry.0 += 1;
        if entry.1.len() < 3 {
            entry.1 = format!(
                "{}: {statement}",
                file.file_stem().unwrap_or_default().to_string_lossy()
            );
        }
        if std::env::var("SHOW").is_ok_and(|rule| example_of(&rule, &refusal_name)) {
            println!("-- {}: {detail}\n{statement}", file.display());
        }
    }
    total
}

/// Whether statements of that outcome are to be shown.
fn example_of(asked: &str, outcome: &str) -> bool {
    outcome.ends_with(asked)
}

fn policy_for(catalog: &Catalog) -> String {
    let mut text =
        "version = 1\nthresholds = \"cn-criminal-253-1\"\n[classes.secret]\ncategory = \"general\"\nmask = \"null\"\n\
         [roles.analyst]\nlogins = [\"analyst\"]\n[roles.counted]\nlogins = [\"counted\"]\n"
            .to_owned();
    let mut relations: Vec<_> = catalog.relations.values().collect();
    relations.sort_by_key(|r| r.oid);
    for relation in relations {
        let kind = matches!(relation.kind, RelationKind::Table | RelationKind::PartitionedTable);
        let own = !matches!(relation.name.schema.as_str(), "pg_catalog" | "information_schema") && kind;
        let plain = |s: &str| {
            s.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let columns: Vec<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
        if !own || !plain(&relation.name.name) || !plain(&relation.name.schema) || relation.temporary {
            continue;
        }
        let (Some(person), Some(classified)) = (columns.first(), columns.get(1).or(columns.first())) else {
            continue;
        };
        let _ = writeln!(
            text,
            "[tables.\"{}.{}\"]\nperson = '{person}'\ncolumns = {{ '{classified}' = \"secret\" }}",
            relation.name.schema, relation.name.name
        );
    }
    text.push_str("[[grants]]\nrole = \"counted\"\nclear = [\"*\"]\n");
    text
}
