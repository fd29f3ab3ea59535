//! What seldom happens to a session is asked for when it has been told of, and not in every round: a round is what each message costs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Remembers that somebody has woken the session on behalf of what is rare.
struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }
}

/// The bell of one session.
pub struct Rarely {
    bell: Arc<Bell>,
    waker: Waker,
    task: Option<Waker>,
}

impl Rarely {
    /// It has rung: everything is asked once.
    #[must_use]
    pub fn new() -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            task: Mutex::new(None),
        });
        Self {
            waker: Waker::from(Arc::clone(&bell)),
            bell,
            task: None,
        }
    }

    /// Has everything asked in the next round.
    pub fn ring(&self) {
        self.bell.rung.store(true, Ordering::Release);
    }

    /// With what to ask, if it has rung since the last time. Then all that is rare must be asked, or be rung for again.
    pub fn rung(&mut self, context: &Context<'_>) -> Option<Context<'_>> {
        // First, so that no ringing is missed.
        if !self.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            let task = context.waker().clone();
            *self.bell.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.clone());
            self.task = Some(task);
        }
        let rung = self.bell.rung.load(Ordering::Acquire) && self.bell.rung.swap(false, Ordering::AcqRel);
        rung.then(|| Context::from_waker(&self.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn it_is_asked_once_for_each_ringing_and_wakes_the_task() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let context = Context::from_waker(&waker);
        let mut rarely = Rarely::new();
        let inner = rarely.rung(&context).unwrap().waker().clone();
        assert!(rarely.rung(&context).is_none());
        inner.wake_by_ref();
        inner.wake();
        assert_eq!(task.0.load(Ordering::SeqCst), 2);
        assert!(rarely.rung(&context).is_some() && rarely.rung(&context).is_none());
        // Another task takes over.
        let other = Arc::new(Task::default());
        let other_waker = Waker::from(Arc::clone(&other));
        let context = Context::from_waker(&other_waker);
        assert!(rarely.rung(&context).is_none());
        rarely.ring();
        let inner = rarely.rung(&context).unwrap().waker().clone();
        inner.wake();
        assert_eq!((task.0.load(Ordering::SeqCst), other.0.load(Ordering::SeqCst)), (2, 1));
    }
}
