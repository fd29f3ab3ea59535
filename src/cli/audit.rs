//! `menshen audit verify`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// What to do with an audit log.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every line's hash and place; exit code 1 where the chain is broken.
    Verify {
        /// The directory of the log.
        directory: PathBuf,
    },
}

/// Runs it.
#[must_use]
pub fn run(args: &AuditArgs) -> ExitCode {
    let Command::Verify { directory } = &args.command;
    match crate::audit::verify(directory) {
        Ok(summary) => {
            println!("{} events, chain whole, head {}", summary.events, summary.head);
            ExitCode::SUCCESS
        }
        Err(broken) => super::failed(&broken.to_string()),
    }
}
