//! The tokio shell: the only sockets, tasks, timers and clocks.
//!
//! `greeting.rs` brings a client to its StartupMessage (PROXY header, TLS), `access.rs` and `census.rs` let it in or turn it away;
//! `connection.rs` moves bytes between one client, its [`Session`](crate::session::Session) and one server connection;
//! `upstream.rs` opens those; `keeper.rs` keeps policy and catalogs fresh; `cancel.rs` routes CancelRequests; `shared.rs` is what
//! all connections have in common.

mod access;
mod cancel;
mod census;
pub mod client_tls;
mod connection;
mod greeting;
pub mod keeper;
mod notes;
mod proxy_protocol;
pub mod shared;
mod stream;
mod tls;
pub mod upstream;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use shared::Shared;

/// Stack of the threads that run sessions: the guard parses on them (PARSERS §5). Only what is used is ever backed by memory.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Refused connections that are told so at the same time; beyond it they are closed without a word.
const FAREWELLS_MAX: usize = 64;

/// The runtime that everything here needs.
///
/// # Errors
/// Where threads can't be started.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()
}

/// A session takes two descriptors: as many as the system allows this process.
fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(e) = setrlimit(Resource::Nofile, most)
    {
        tracing::warn!("the limit of open files stays at {:?}: {e}", limit.current);
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Where it can't begin: a sentence for the operator.
pub async fn serve(config: Config) -> Result<(), String> {
    raise_files();
    let shared = Arc::new(Shared::open(config)?);
    let listener = TcpListener::bind(&shared.config.listen)
        .await
        .map_err(|e| format!("cannot listen on {}: {e}", shared.config.listen))?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    shared
        .audit(
            "started",
            json!({ "listen": address.to_string(), "policy_epoch": shared.policy().epoch }),
        )
        .map_err(|e| e.to_string())?;
    keeper::watch(&shared);
    client_tls::watch(&shared);
    {
        let mut out = std::io::stdout();
        // Whoever started us may have closed it.
        let _closed = writeln!(out, "listening on {address}").and_then(|()| out.flush());
    }
    tracing::info!(%address, "listening");
    let (stop, stopping) = watch::channel(false);
    // Those who hear that there is no room take none for long.
    let farewells = Arc::new(Semaphore::new(FAREWELLS_MAX));
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(|e| e.to_string())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let seat = match shared.census.admit(&shared.config.limits) {
                        Ok(seat) => seat,
                        Err(refusal) => {
                            tracing::warn!(%peer, "{}; connection refused", refusal.message);
                            if let Ok(turn) = Arc::clone(&farewells).try_acquire_owned() {
                                tokio::spawn(async move {
                                    greeting::turn_away(stream::Stream::Plain(stream), &refusal).await;
                                    drop(turn);
                                });
                            }
                            continue;
                        }
                    };
                    let (shared, stopping) = (Arc::clone(&shared), stopping.clone());
                    tokio::spawn(async move {
                        // A task of its own inside: a panic ends that session and no other.
                        let session = tokio::spawn(connection::run(shared, stream, peer, seat, stopping));
                        if let Err(e) = session.await {
                            tracing::error!(%peer, "session ended by an error of Menshen itself: {e}");
                        }
                    });
                }
                Err(e) => {
                    tracing::error!("accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
        }
    }
    drop(listener);
    tracing::info!("stopping");
    let _nobody = stop.send(true);
    for _ in 0..50 {
        if shared.census.open() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shared.audit("stopped", json!({})).map_err(|e| e.to_string())
}
