//! `menshen explain`

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;

use super::{ConfigArgs, failed, mistaken};
use crate::guard::{self, Ground, Verdict};
use crate::mask::TokenSettings;
use crate::principal::{Declared, Principal};
use crate::server;

/// Whose statement it is.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The login that would send it.
    #[arg(long = "as", value_name = "LOGIN")]
    login: String,
    /// The database.
    #[arg(long, default_value = "postgres")]
    database: String,
    /// What the session would have declared, e.g. `menshen.purpose=customer_service`; may be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// The session's search_path, comma-separated.
    #[arg(long, default_value = "public")]
    search_path: String,
    /// The statement.
    sql: String,
}

/// Runs it.
#[must_use]
pub fn run(args: &ExplainArgs) -> ExitCode {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(problems) => return mistaken(&problems),
    };
    let rules = match server::shared::load_rules(&config.policy, 1) {
        Ok((rules, _)) => rules,
        Err(problems) => return mistaken(&problems),
    };
    let mut declared = Declared::default();
    for pair in &args.set {
        let Some((name, value)) = pair.strip_prefix("menshen.").and_then(|p| p.split_once('=')) else {
            return failed(&format!("`{pair}` is not like menshen.purpose=customer_service"));
        };
        declared.settings.insert(name.to_owned(), value.to_owned());
    }
    let catalog = server::runtime()
        .map_err(|e| e.to_string())
        .and_then(|runtime| runtime.block_on(server::keeper::read_any(&config, &args.database)));
    let catalog = match catalog {
        Ok(catalog) => Arc::new(catalog),
        Err(why) => return failed(&why),
    };
    let ground = Ground::new(Arc::clone(&rules.policy), catalog, rules.pack, None);
    let principal = Principal {
        login: args.login.clone(),
        groups: ground.catalog.groups_of(&args.login),
        address: None,
    };
    let standing = rules.policy.standing(&principal, &declared, Timestamp::now());
    let mut search_path = vec!["pg_catalog".to_owned()];
    search_path.extend(args.search_path.split(',').map(|s| s.trim().to_owned()));
    println!(
        "login      {} (roles of the policy: {})",
        args.login,
        list(standing.roles.iter())
    );
    println!("purpose    {}", standing.purpose.as_deref().unwrap_or("none in force"));
    for unmet in &standing.unmet {
        println!("unmet      {unmet}");
    }
    let token = TokenSettings {
        inner: "menshen.k…i".to_owned(),
        outer: "menshen.k…o".to_owned(),
    };
    let request = guard::Request {
        text: &args.sql,
        login: &args.login,
        standing: &standing,
        search_path: &search_path,
        current_user: &args.login,
        token: &token,
        cursor: &|_| None,
        prepared: &|_| None,
        undone_at_end: false,
        extended: false,
        late: config.late_masking,
    };
    match guard::examine(&ground, &request) {
        Ok(plan) => {
            for statement in plan.statements.iter() {
                println!("verdict    {}", statement.report.action);
                for relation in &statement.report.relations {
                    println!("relation   {}", relation.relation);
                    if let Some(rule) = &relation.row_filter {
                        println!("  rows     filtered by {rule}");
                    }
                    for column in &relation.columns {
                        let counts = column
                            .counts
                            .as_ref()
                            .map_or_else(String::new, |c| format!(", counts as {c}"));
                        let shown = if column.shown { "shown" } else { "not shown" };
                        println!(
                            "  {:<12} {} [{}] by {}; {shown}{counts}",
                            column.column, column.treatment, column.class, column.rule
                        );
                    }
                }
                for late in &statement.meter.late {
                    println!(
                        "late       column {} comes clear and is masked as it passes",
                        late.position + 1
                    );
                }
                for charge in &statement.report.charges {
                    println!("charge     {charge}");
                }
            }
            println!("sent       {}", plan.text);
            ExitCode::SUCCESS
        }
        Err(verdict) => {
            if let Verdict::InTurn { pieces, .. } = &verdict {
                println!(
                    "verdict    judged in turn: explain its {} statements one by one",
                    pieces.len()
                );
                return ExitCode::SUCCESS;
            }
            let refusal = verdict.refusal();
            println!(
                "verdict    refuse: SQLSTATE {}, rule {}",
                refusal.sqlstate, refusal.rule
            );
            println!("message    {}", refusal.message);
            println!("hint       {}", refusal.hint);
            ExitCode::SUCCESS
        }
    }
}

fn list<'s>(items: impl Iterator<Item = &'s String>) -> String {
    let all: Vec<&str> = items.map(String::as_str).collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}
