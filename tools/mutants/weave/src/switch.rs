//! The switch of the woven mutants: one is on at a time. Never part of Menshen itself.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const NONE: u32 = u32::MAX;
const UNREAD: u32 = u32::MAX - 1;

/// Number of the mutant that is on. Until it is set, the environment variable `MENSHEN_MUTANT` says.
static ACTIVE: AtomicU32 = AtomicU32::new(UNREAD);
/// Mutants whose switch has been asked.
static ASKED: [AtomicBool; MUTANTS_MAX] = [const { AtomicBool::new(false) }; MUTANTS_MAX];

/// Whether this mutant is on.
#[must_use]
pub fn on(number: u32) -> bool {
    if let Some(asked) = ASKED.get(number as usize)
        && !asked.load(Ordering::Relaxed)
    {
        asked.store(true, Ordering::Relaxed);
        // Where set, the file that is to name every mutant that is reached.
        if let Some(path) = std::env::var_os("MENSHEN_MUTANTS_ASKED") {
            use std::io::Write;
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let _written = file.and_then(|mut f| f.write_all(format!("{number}\n").as_bytes()));
        }
    }
    match ACTIVE.load(Ordering::Relaxed) {
        UNREAD => {
            let read = std::env::var("MENSHEN_MUTANT").ok().and_then(|v| v.parse().ok());
            let active = read.unwrap_or(NONE);
            ACTIVE.store(active, Ordering::Relaxed);
            active == number
        }
        active => active == number,
    }
}

/// Turns one on, or all off.
pub fn set(number: Option<u32>) {
    ACTIVE.store(number.unwrap_or(NONE), Ordering::Relaxed);
}

/// Those that were asked since the last time.
#[must_use]
pub fn asked() -> Vec<u32> {
    (0..).zip(&ASKED).filter(|(_, a)| a.swap(false, Ordering::Relaxed)).map(|(n, _)| n).collect()
}
