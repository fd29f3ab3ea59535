//! `menshen check`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{failed, mistaken};
use crate::config::{Config, Overrides};
use crate::guard::live;
use crate::policy::Severity;
use crate::server;

/// Which policy, and against what.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The policy file.
    policy: PathBuf,
    /// Check against the live catalog of this configuration's server, too.
    #[arg(long, env = "MENSHEN_CONFIG")]
    config: Option<PathBuf>,
    /// The database whose catalog it is.
    #[arg(long, default_value = "postgres")]
    database: String,
}

/// Runs it.
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    let (rules, mut warnings) = match server::shared::load_rules(&args.policy, 1) {
        Ok(loaded) => loaded,
        Err(problems) => return mistaken(&problems),
    };
    if let Some(path) = &args.config {
        let config = match Config::load(path, &Overrides::default()) {
            Ok(config) => config,
            Err(problems) => return mistaken(&problems),
        };
        // Certificates and keys are read, too.
        if let Err(why) = server::client_tls::Gate::open(config.channel.clone()) {
            return failed(&why);
        }
        println!("{}", config.channel.summary());
        println!("{}", config.limits.summary());
        println!("{}", config.upstream.summary());
        let catalog = server::runtime()
            .map_err(|e| e.to_string())
            .and_then(|runtime| runtime.block_on(server::keeper::read_any(&config, &args.database)));
        match catalog {
            Ok(catalog) => warnings.extend(live::check(&args.policy, &rules.policy, &catalog)),
            Err(why) => return failed(&why),
        }
    }
    if warnings.iter().any(|p| p.severity == Severity::Error) {
        return mistaken(&warnings);
    }
    for warning in &warnings {
        eprintln!("{warning}");
    }
    println!(
        "{}: {} classes, {} tables, {} grants: no mistakes",
        args.policy.display(),
        rules.policy.classes.len(),
        rules.policy.tables.len(),
        rules.policy.grants.len()
    );
    ExitCode::SUCCESS
}
