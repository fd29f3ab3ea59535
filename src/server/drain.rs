//! Ending: first sessions end as their transactions do (SIGTERM), then all of them (`shutdown_seconds_max`, a second SIGTERM, SIGINT). The
//! listener stays open to the last, so that new clients hear why they are not served (57P03).

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::wire::Refusal;

/// How far the ending has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has not begun.
    Serving,
    /// Sessions end when their transaction does.
    Draining,
    /// Sessions end now.
    Ending,
}

/// A connection's view of it.
pub type Watch = watch::Receiver<Stage>;

/// A client that has not said what it wants has so long to do so, to hear 57P03 instead of nothing.
const GREETING: Duration = Duration::from_secs(1);

/// Signals and the deadline, for the accept loop.
pub struct Drain {
    stage: watch::Sender<Stage>,
    terminate: Signal,
    interrupt: Signal,
    deadline: Option<Instant>,
}

impl Drain {
    /// Begins to listen to signals.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            stage: watch::channel(Stage::Serving).0,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            deadline: None,
        })
    }

    /// For a connection.
    pub fn watch(&self) -> Watch {
        self.stage.subscribe()
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Waits for the next stage, and gives it. `patience` counts from the first signal.
    pub async fn next(&mut self, patience: Duration) -> Stage {
        let deadline = self.deadline;
        let passed = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            _ = self.terminate.recv() => match self.stage() {
                Stage::Serving => Stage::Draining,
                Stage::Draining | Stage::Ending => Stage::Ending,
            },
            _ = self.interrupt.recv() => Stage::Ending,
            () = passed => Stage::Ending,
        };
        self.deadline = match next {
            Stage::Draining => Some(Instant::now() + patience),
            Stage::Serving | Stage::Ending => None,
        };
        self.stage.send_replace(next);
        next
    }
}

/// Ends when a connection that is still being greeted must not be waited for any longer.
pub async fn too_late_to_greet(mut stage: Watch) {
    if stage.wait_for(|s| *s > Stage::Serving).await.is_err() {
        return std::future::pending().await;
    }
    let _ending = tokio::time::timeout(GREETING, stage.wait_for(|s| *s > Stage::Draining)).await;
}

/// For a client that comes too late, in PostgreSQL's SQLSTATE: libpq and pools try the next host.
pub fn not_now() -> Refusal {
    words("57P03", "Menshen is shutting down")
}

/// For a session.
pub fn farewell() -> Refusal {
    words("57P01", "terminating connection because Menshen is shutting down")
}

fn words(sqlstate: &'static str, message: &str) -> Refusal {
    Refusal {
        sqlstate,
        rule: "shutdown",
        message: message.to_owned(),
        hint: "connect again".into(),
        position: None,
        incident: false,
    }
}
