//! One file per subcommand; each calls the library, none holds logic.

pub mod audit;
pub mod check;
pub mod demo;
pub mod explain;
pub mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Overrides};
use crate::policy::Problem;

/// Menshen: a PostgreSQL proxy that masks sensitive columns and counts the people whose records each user has been shown.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stand in front of a PostgreSQL server until SIGTERM.
    Serve(ConfigArgs),
    /// Check a policy; with a configuration also against the live catalog.
    Check(check::CheckArgs),
    /// Say what would happen to a statement, and why.
    Explain(explain::ExplainArgs),
    /// Check an audit log's chain.
    Audit(audit::AuditArgs),
    /// Show on a private throw-away shop what Menshen does.
    Demo(demo::DemoArgs),
}

/// Which configuration, and what overrides it.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file.
    #[arg(long, env = "MENSHEN_CONFIG", default_value = "menshen.toml")]
    pub config: PathBuf,
    /// Listen here instead (host:port; port 0 takes a free one).
    #[arg(long)]
    pub listen: Option<String>,
    /// The PostgreSQL server instead (host:port).
    #[arg(long)]
    pub upstream: Option<String>,
    /// The policy file instead.
    #[arg(long)]
    pub policy: Option<PathBuf>,
}

impl ConfigArgs {
    /// Loads it.
    ///
    /// # Errors
    /// Every mistake.
    pub fn load(&self) -> Result<Config, Vec<Problem>> {
        let overrides = Overrides {
            listen: self.listen.clone(),
            upstream: self.upstream.clone(),
            policy: self.policy.clone(),
        };
        Config::load(&self.config, &overrides)
    }
}

/// Runs the command line. Exit code 2: the configuration or policy is wrong; 1: it could not run.
#[must_use]
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Demo(args) => demo::run(&args),
    }
}

/// Prints problems and gives the exit code for them.
pub(crate) fn mistaken(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    ExitCode::from(2)
}

/// Prints why something could not run.
pub(crate) fn failed(why: &str) -> ExitCode {
    eprintln!("menshen: {why}");
    ExitCode::from(1)
}
