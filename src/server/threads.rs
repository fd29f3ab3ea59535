//! The threads that run sessions. Each has a reactor of its own, and a session stays on the one that it began on: its messages wake no other thread,
//! and nothing of it is shared between cores but what all sessions share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};

use super::STACK_BYTES;

/// The threads.
pub struct Threads(Vec<Thread>);

struct Thread {
    reactor: Handle,
    sessions: Arc<AtomicUsize>,
}

/// One session's place on a thread.
pub struct Place {
    reactor: Handle,
    sessions: Arc<AtomicUsize>,
}

impl Threads {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// Where the system gives none.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let thread = |number: usize| {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .thread_stack_size(STACK_BYTES)
                .build()?;
            let reactor = runtime.handle().clone();
            // It runs until the process ends.
            std::thread::Builder::new()
                .name(format!("menshen-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
            let sessions = Arc::default();
            Ok(Thread { reactor, sessions })
        };
        (0..count.max(1)).map(thread).collect::<std::io::Result<_>>().map(Self)
    }

    /// A place on the thread that has the fewest sessions.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let sessions = |t: &&Thread| t.sessions.load(Ordering::Relaxed);
        let thread = self.0.iter().min_by_key(sessions)?;
        thread.sessions.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            reactor: thread.reactor.clone(),
            sessions: Arc::clone(&thread.sessions),
        })
    }
}

impl Place {
    /// Runs a session there.
    pub fn run(self, session: impl Future<Output = ()> + Send + 'static) {
        let reactor = self.reactor.clone();
        reactor.spawn(async move {
            session.await;
            drop(self);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
