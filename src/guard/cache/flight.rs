//! One plan at a time for each shape: where many sessions meet it at once (after a reload all of them do), one has it judged and the others wait.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};

/// Keys of what is being judged.
#[derive(Debug, Default)]
pub struct Flights {
    open: Mutex<HashSet<Box<[u8]>>>,
    landed: Condvar,
}

/// The right to judge what a key stands for; given back when it is dropped.
#[derive(Debug)]
pub struct Flight<'f> {
    flights: &'f Flights,
    key: Box<[u8]>,
}

impl Flights {
    /// Takes a key. Where another has it, waits until it is given back, and returns `None`: there may be a plan now.
    pub fn begin(&self, key: &[u8]) -> Option<Flight<'_>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.contains(key) {
            open.insert(key.into());
            return Some(Flight {
                flights: self,
                key: key.into(),
            });
        }
        while open.contains(key) {
            open = self.landed.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut open = self.flights.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.key);
        drop(open);
        self.flights.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_a_key_and_a_panic_gives_it_back() {
        let flights = Flights::default();
        let first = flights.begin(b"a").unwrap();
        let other = flights.begin(b"b").unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| flights.begin(b"a").is_none());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waits.is_finished());
            drop(first);
            assert!(waits.join().unwrap());
        });
        let panics = std::panic::catch_unwind(|| {
            let _taken = flights.begin(b"a").unwrap();
            panic!("judging ended");
        });
        assert!(panics.is_err());
        assert!(flights.begin(b"a").is_some());
        drop(other);
    }
}
