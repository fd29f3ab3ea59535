//! Large texts are judged on threads of their own, few at once: reading one takes some hundred times its size, and an allocator keeps for each
//! thread what that thread has once needed.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::STACK_BYTES;

/// How many are judged at once.
const AT_ONCE: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// The threads, and what waits for one.
pub struct LargeTexts(Mutex<Sender<Job>>);

impl LargeTexts {
    /// Starts the threads; they end when this is dropped.
    ///
    /// # Errors
    /// Where the system gives none.
    pub fn start() -> std::io::Result<Self> {
        let (sender, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..AT_ONCE {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name(format!("menshen-large-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || while next(&jobs).is_some_and(done) {})?;
        }
        Ok(Self(Mutex::new(sender)))
    }

    /// Does it when a thread is free. `None`: it ended by an error of Menshen itself.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (result, over) = oneshot::channel();
        let job = move || {
            let _gone = result.send(work());
        };
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        queue.send(Box::new(job)).ok()?;
        over.await.ok()
    }
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// A panic ends what it happened in, and not the thread.
fn done(job: Job) -> bool {
    let _panicked = std::panic::catch_unwind(AssertUnwindSafe(job));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_job_and_no_thread() {
        let large = LargeTexts::start().unwrap();
        for n in 0..10 {
            assert_eq!(large.run(move || n).await, Some(n));
            assert_eq!(large.run(|| panic!("a test")).await, None::<i32>);
        }
    }
}
