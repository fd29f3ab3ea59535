//! The tokio shell: the only sockets, tasks, timers and clocks.
//!
//! `greeting.rs` brings a client to its StartupMessage (PROXY header, TLS), `access.rs` and `census.rs` let it in or turn it away;
//! `threads.rs` runs the sessions; `connection.rs` moves bytes between one client, its [`Session`](crate::session::Session) and one server connection;
//! `upstream/` opens those; `keeper.rs` keeps catalogs fresh, `reload.rs` policy and configuration; `cancel.rs` routes CancelRequests;
//! `drain.rs` ends it all; `shared.rs` is what all connections have in common.

mod access;
mod cancel;
mod census;
pub mod client_tls;
mod connection;
mod drain;
mod greeting;
mod inbox;
pub mod keeper;
mod large;
mod notes;
mod patience;
mod proxy_protocol;
mod rarely;
mod reader;
mod reload;
pub mod shared;
mod stream;
mod systemd;
mod threads;
mod tls;
pub mod upstream;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::Config;
use drain::{Drain, Stage};
use shared::Shared;
use threads::Threads;

/// Stack of the threads that run sessions: the guard parses on them (PARSERS §5). Only what is used is ever backed by memory.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Refused connections that are told so at the same time; beyond it they are closed without a word.
const FAREWELLS_MAX: usize = 64;

/// How long sessions may take to say farewell at the very end.
const LAST_WORDS: Duration = Duration::from_secs(5);

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

/// Serves until SIGTERM or SIGINT, and then until sessions have ended.
///
/// # Errors
/// Where it can't begin: a sentence for the operator.
pub async fn serve(config: Config) -> Result<(), String> {
    raise_files();
    let shared = Arc::new(Shared::open(config)?);
    let threads = Threads::start(shared.config.threads).map_err(|e| format!("cannot start threads: {e}"))?;
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
    // Before anybody is told: a signal that nobody listens to ends the process.
    reload::watch(&shared).map_err(|e| e.to_string())?;
    let mut drain = Drain::new().map_err(|e| e.to_string())?;
    {
        let mut out = std::io::stdout();
        // Whoever started us may have closed it.
        let _closed = writeln!(out, "listening on {address}").and_then(|()| out.flush());
    }
    tracing::info!(%address, "listening");
    systemd::tell(systemd::State::Ready);
    // Those who hear that there is no room take none for long.
    let farewells = Arc::new(Semaphore::new(FAREWELLS_MAX));
    // Those that come too late are told so, and not waited for.
    let late = Arc::default();
    let mut look = tokio::time::interval(Duration::from_millis(50));
    while drain.stage() == Stage::Serving || shared.census.open() > 0 {
        let patience = shared.live.load().limits.shutdown;
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let census = if drain.stage() == Stage::Serving { &shared.census } else { &late };
                    let seat = match census.admit(&shared.live.load().limits) {
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
                    let (shared, stage) = (Arc::clone(&shared), drain.watch());
                    // It is the thread's own reactor that must know the socket.
                    let (Ok(stream), Some(place)) = (stream.into_std(), threads.place()) else {
                        continue;
                    };
                    place.run(async move {
                        let stream = match TcpStream::from_std(stream) {
                            Ok(stream) => stream,
                            Err(e) => return tracing::error!(%peer, "accept: {e}"),
                        };
                        // A task of its own inside: a panic ends that session and no other.
                        let session = tokio::spawn(connection::run(shared, stream, peer, seat, stage));
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
            stage = drain.next(patience) => {
                let sessions = shared.census.open();
                tracing::info!(?stage, sessions, "stopping");
                systemd::tell(systemd::State::Stopping);
                let facts = json!({ "sessions": sessions, "at_once": stage == Stage::Ending });
                shared.audit("stopping", facts).map_err(|e| e.to_string())?;
                if stage == Stage::Ending {
                    break;
                }
            }
            _ = look.tick(), if drain.stage() != Stage::Serving => {}
        }
    }
    // Every session has been told to end; what a client does not take is not waited for.
    let begun = std::time::Instant::now();
    while shared.census.open() > 0 && begun.elapsed() < LAST_WORDS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(listener);
    let left = shared.census.open();
    shared
        .audit("stopped", json!({ "sessions_cut": left }))
        .map_err(|e| e.to_string())
}
