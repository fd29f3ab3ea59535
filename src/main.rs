//! Arguments, logging, exit code; nothing else.

use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("MENSHEN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Set without `init`, which would let in what dependencies write by the crate `log`: at its lower levels sqlparser quotes statements, with
    // the passwords and values in them. Menshen's log holds Menshen's words alone. The first subscriber counts; there is no other here.
    let _set = if std::io::stderr().is_terminal() {
        tracing::subscriber::set_global_default(log.finish())
    } else {
        tracing::subscriber::set_global_default(log.json().finish())
    };
    // A panic's message may quote what it failed on, and a hostile client can cause some (pgwire on short bodies; they are caught): the place
    // is enough to find it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a panic was caught");
    }));
    // The first installation counts; there is no other in this process.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    menshen::cli::run()
}
