//! `menshen demo`: a private throw-away shop, Menshen in front of it, and a tour that checks what it shows.
//!
//! The order of `tour.rs` is the order on the terminal. `stage.rs` starts and removes everything: nothing stays behind, however
//! the demo ends.

pub mod data;
mod stage;
mod tour;

use std::process::ExitCode;

use clap::Args;

use super::failed;
use crate::server;

/// How long to stay.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Exit after the tour; exit code 0 only where every step showed what it should.
    #[arg(long)]
    once: bool,
    /// People in the shop.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(5_000..=200_000))]
    people: u32,
}

/// Runs it.
#[must_use]
pub fn run(args: &DemoArgs) -> ExitCode {
    let runtime = match server::runtime() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.to_string()),
    };
    match runtime.block_on(tour::run(args.people, args.once)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&format!("the demo did not show what it should: {why}")),
    }
}
