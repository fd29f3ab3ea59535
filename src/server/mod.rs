//! The tokio shell: the only sockets, tasks, timers and clocks.
//!
//! `connection.rs` moves bytes between one client, its [`Session`](crate::session::Session) and one server connection;
//! `upstream.rs` opens those; `keeper.rs` keeps policy and catalogs fresh; `cancel.rs` routes CancelRequests; `shared.rs` is what
//! all connections have in common.

mod cancel;
mod connection;
pub mod keeper;
pub mod shared;
mod stream;
mod tls;
pub mod upstream;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use shared::Shared;

/// Stack of the threads that run sessions: the guard parses on them (PARSERS §5). Only what is used is ever backed by memory.
const STACK_BYTES: usize = 64 * 1024 * 1024;

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

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Where it can't begin: a sentence for the operator.
pub async fn serve(config: Config) -> Result<(), String> {
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
    {
        let mut out = std::io::stdout();
        // Whoever started us may have closed it.
        let _closed = writeln!(out, "listening on {address}").and_then(|()| out.flush());
    }
    tracing::info!(%address, "listening");
    let (stop, stopping) = watch::channel(false);
    let open = Arc::new(AtomicUsize::new(0));
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(|e| e.to_string())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if open.load(Ordering::Relaxed) >= shared.config.sessions_max {
                        tracing::warn!(%peer, "too many sessions; connection refused");
                        connection::refuse(stream).await;
                        continue;
                    }
                    open.fetch_add(1, Ordering::Relaxed);
                    let (shared, stopping, open) = (Arc::clone(&shared), stopping.clone(), Arc::clone(&open));
                    tokio::spawn(async move {
                        // A task of its own inside: a panic ends that session and no other.
                        let session = tokio::spawn(connection::run(shared, stream, peer, stopping));
                        if let Err(e) = session.await {
                            tracing::error!(%peer, "session ended by an error of Menshen itself: {e}");
                        }
                        open.fetch_sub(1, Ordering::Relaxed);
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
        if open.load(Ordering::Relaxed) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shared.audit("stopped", json!({})).map_err(|e| e.to_string())
}
