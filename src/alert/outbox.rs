//! Alerts on disk until they are delivered: one file each, named by number, in one directory per sink.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::{Alert, AlertError};

/// Hands one alert (also as JSON) to its sink.
pub type Deliver = Box<dyn Fn(&Alert, &str) -> Result<(), String> + Send>;

/// More undelivered alerts than this are refused: the oldest are kept, the newest only logged.
const WAITING_MAX: usize = 100_000;
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(300);

pub struct Outbox {
    directory: PathBuf,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    next: u64,
    waiting: usize,
    stopped: bool,
}

impl Outbox {
    pub fn open(directory: &Path) -> Result<Self, AlertError> {
        std::fs::create_dir_all(directory).map_err(|e| AlertError(format!("{}: {e}", directory.display())))?;
        let names = names(directory)?;
        let next = names.last().map_or(1, |n| n + 1);
        Ok(Self {
            directory: directory.to_owned(),
            state: Mutex::new(State {
                next,
                waiting: names.len(),
                stopped: false,
            }),
            wake: Condvar::new(),
        })
    }

    /// On disk when it returns.
    pub fn put(&self, json: &str) -> Result<(), AlertError> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.waiting >= WAITING_MAX {
            return Err(AlertError(format!(
                "{} alerts wait in {} already",
                state.waiting,
                self.directory.display()
            )));
        }
        let failed = |e: std::io::Error| AlertError(format!("{}: {e}", self.directory.display()));
        let (part, whole) = (self.directory.join("part"), self.path(state.next));
        let mut file = File::create(&part).map_err(failed)?;
        file.write_all(json.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        std::fs::rename(&part, &whole).map_err(failed)?;
        File::open(&self.directory).and_then(|d| d.sync_all()).map_err(failed)?;
        state.next += 1;
        state.waiting += 1;
        self.wake.notify_one();
        Ok(())
    }

    pub fn stop(&self) {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .stopped = true;
        self.wake.notify_all();
    }

    /// Delivers in order until stopped.
    pub fn run(&self, deliver: &Deliver) {
        let mut pause = PAUSE_FIRST;
        loop {
            let next = names(&self.directory).ok().and_then(|n| n.first().copied());
            let Some(number) = next else {
                let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if state.stopped {
                    return;
                }
                if state.waiting == 0 {
                    drop(self.wake.wait_timeout(state, Duration::from_secs(5)));
                }
                continue;
            };
            match self.deliver(number, deliver) {
                Ok(()) => {
                    pause = PAUSE_FIRST;
                    let _gone = std::fs::remove_file(self.path(number));
                    let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    state.waiting = state.waiting.saturating_sub(1);
                }
                Err(why) => {
                    tracing::warn!(outbox = %self.directory.display(), number, "alert not delivered, will be tried again: {why}");
                    let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if state.stopped {
                        return;
                    }
                    let mut jitter = [0_u8; 1];
                    let _none = getrandom::fill(&mut jitter);
                    let shaken = pause + pause.mul_f64(f64::from(jitter[0]) / 512.0);
                    drop(self.wake.wait_timeout_while(state, shaken, |s| !s.stopped));
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            if self
                .state
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .stopped
            {
                return;
            }
        }
    }

    fn deliver(&self, number: u64, deliver: &Deliver) -> Result<(), String> {
        let json = std::fs::read_to_string(self.path(number)).map_err(|e| e.to_string())?;
        let alert: Alert = serde_json::from_str(&json).map_err(|e| e.to_string())?;
        deliver(&alert, &json)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:020}.json"))
    }
}

fn names(directory: &Path) -> Result<Vec<u64>, AlertError> {
    let mut found: Vec<u64> = std::fs::read_dir(directory)
        .map_err(|e| AlertError(format!("{}: {e}", directory.display())))?
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
        .collect();
    found.sort_unstable();
    Ok(found)
}
