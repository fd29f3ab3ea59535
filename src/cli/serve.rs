//! `menshen serve`

use std::process::ExitCode;

use super::{ConfigArgs, failed, mistaken};
use crate::server;

/// Serves until told to stop.
#[must_use]
pub fn run(args: &ConfigArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(problems) => return mistaken(&problems),
    };
    if let Err(problems) = server::shared::load_rules(&config.policy, 1) {
        return mistaken(&problems);
    }
    let runtime = match server::runtime() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.to_string()),
    };
    match runtime.block_on(server::serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}
