//! Who has been shown whom: distinct people per principal × legal category × window, exact, on disk, charged before
//! release. [`pack`] holds the law's numbers as data.

pub mod pack;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::policy::Limit;
pub use pack::{Categories, Pack};
use store::{Days, Embedded, PersonHash, Store, Write};

/// Whom a row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Person {
    /// The person key's text, as PostgreSQL's output function wrote it. Never stored: the ledger keeps a keyed hash.
    Key(Box<[u8]>),
    /// Cannot be told: counts as that many new people (over-counting is allowed and marked).
    Unknown(u64),
}

/// One person's data in one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// The person space: `schema.relation` whose people these are.
    pub space: Arc<str>,
    /// Who.
    pub person: Person,
    /// Legal categories shown.
    pub categories: Categories,
}

/// A batch of rows that wait for release, in the order of the answer.
#[derive(Debug)]
pub struct ChargeRequest {
    /// Whose account: the login, or the end user behind a trusted shared login.
    pub account: Arc<str>,
    /// Every limit that applies.
    pub limits: Arc<[Limit]>,
    /// True where the account is under a sanction (art. 5(1)(9)): its line is the pack's `prior_sanction`.
    pub sanctioned: bool,
    /// One entry a row: the people it shows.
    pub rows: Vec<Vec<Exposure>>,
    /// The moment, for windows.
    pub now: jiff::Timestamp,
}

/// What may be released.
#[derive(Debug, Clone, PartialEq)]
pub struct Charged {
    /// Rows from the front that may go; the row after them would reach `stopped`'s line.
    pub released: usize,
    /// Shares crossed by the released rows, each once per window as long as the score stays above it.
    pub crossings: Vec<Crossing>,
    /// The limit that ended it.
    pub stopped: Option<Stopped>,
    /// Distinct people newly charged by the released rows, by category index of the pack.
    pub new_people: Vec<u64>,
    /// Of them, those counted without a known key.
    pub estimated: u64,
}

/// An `alert_at` share reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// Name of the limit.
    pub limit: String,
    /// The share, e.g. 0.8.
    pub share: f64,
    /// Where the account stands now.
    pub reading: Reading,
}

/// A `stop_at` that held.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopped {
    /// Name of the limit.
    pub limit: String,
    /// Where the account stands (the refused row not included).
    pub reading: Reading,
}

/// One account against one limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Distinct people per category of the pack, each once per category.
    pub people: Vec<u64>,
    /// Integer score: each person once, at the highest category (LEGAL: 100·n1 + 10·n2 + n3).
    pub score: u64,
    /// The line's score that is 1.0.
    pub line: u64,
    /// Level of the pack the line comes from, e.g. `serious_insider`.
    pub level: String,
    /// As written, e.g. `30d`.
    pub window: String,
    /// People of the lightest category that could still be shown before `stop_at` (or the line) holds.
    pub left: u64,
}

/// Why the ledger could not answer. The row is then not released.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store failed.
    #[error("ledger store: {0}")]
    Store(String),
}

/// The ledger of one proxy. Shared by all sessions; `charge` returns only after the charge is durable.
pub struct Ledger {
    store: Box<dyn Store>,
    key: [u8; 32],
    accounts: DashMap<String, Arc<Mutex<Account>>>,
}

/// Accounts kept in memory at most; idle ones are dropped and read again when they come back. A person takes about 80 bytes.
const ACCOUNTS_MAX: usize = 4096;
/// A row that claims more unknown people than this is an error, not a number.
const UNKNOWN_MAX: u64 = 1_000_000;

/// What is known of one account: exact sets, no sketch (ten times the largest threshold is 50 000 people, 4 MB).
#[derive(Default)]
struct Account {
    loaded: bool,
    people: HashMap<PersonHash, Days>,
    /// Shares already announced, by limit and share; a score that falls below takes its share out.
    announced: HashSet<(String, u64)>,
    /// Sums by window, for the day they were made on.
    tallies: HashMap<u32, Tally>,
    day: u32,
}

#[derive(Debug, Clone, Default)]
struct Tally {
    score: u64,
    people: Vec<u64>,
}

/// One limit with its numbers.
struct Line {
    days: u32,
    score: u64,
    stop: Option<u64>,
}

impl Ledger {
    /// Opens or creates the embedded store in the directory `path`. `key` keys the person hashes.
    ///
    /// # Errors
    /// Where the store cannot be opened.
    pub fn open(path: &Path, key: &[u8; 32]) -> Result<Self, LedgerError> {
        Ok(Self::with_store(Box::new(Embedded::open(path)?), key))
    }

    /// A ledger on any store.
    #[must_use]
    pub fn with_store(store: Box<dyn Store>, key: &[u8; 32]) -> Self {
        Self {
            store,
            key: *key,
            accounts: DashMap::new(),
        }
    }

    /// Charges rows in order, as far as the limits allow, durably. Blocking: call it off the reactor.
    ///
    /// # Errors
    /// Where the store fails: nothing may be released.
    pub fn charge(&self, pack: &Pack, request: &ChargeRequest) -> Result<Charged, LedgerError> {
        let shared = self.account(&request.account);
        let mut account = lock(&shared);
        self.load(&mut account, &request.account)?;
        let today = day_of(request.now);
        account.turn_to(today);
        let lines = lines(pack, &request.limits, request.sanctioned)?;
        for line in &lines {
            account.tally(pack, line.days);
        }
        let mut charged = Charged {
            released: 0,
            crossings: Vec::new(),
            stopped: None,
            new_people: vec![0; pack.categories.len()],
            estimated: 0,
        };
        let mut writes: HashMap<PersonHash, Days> = HashMap::new();
        for row in &request.rows {
            let (people, unknown) = self.identify(row)?;
            if let Some((limit, line)) = request.limits.iter().zip(&lines).find(|(_, line)| {
                line.stop
                    .is_some_and(|stop| account.would_reach(pack, line.days, &people, today, stop))
            }) {
                charged.stopped = Some(Stopped {
                    limit: limit.name.clone(),
                    reading: account.reading(pack, limit, line, request.sanctioned),
                });
                break;
            }
            for (person, shown) in people {
                account.show(pack, person, shown, today, &mut charged.new_people, &mut writes);
            }
            charged.estimated += unknown;
            charged.released += 1;
        }
        for (limit, line) in request.limits.iter().zip(&lines) {
            account.cross(pack, limit, line, request.sanctioned, &mut charged.crossings);
        }
        if !writes.is_empty() {
            let write = Write {
                account: request.account.to_string(),
                people: writes.into_iter().collect(),
            };
            if let Err(error) = self.store.write(write) {
                // What memory holds and the disk does not is forgotten: the account is read again.
                *account = Account::default();
                return Err(error);
            }
        }
        Ok(charged)
    }

    /// Where an account stands against limits, without charging.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn readings(
        &self,
        pack: &Pack,
        account: &str,
        limits: &[Limit],
        sanctioned: bool,
        now: jiff::Timestamp,
    ) -> Result<Vec<Reading>, LedgerError> {
        let shared = self.account(account);
        let mut state = lock(&shared);
        self.load(&mut state, account)?;
        state.turn_to(day_of(now));
        let lines = lines(pack, limits, sanctioned)?;
        Ok(limits
            .iter()
            .zip(&lines)
            .map(|(limit, line)| {
                state.tally(pack, line.days);
                state.reading(pack, limit, line, sanctioned)
            })
            .collect())
    }

    fn account(&self, name: &str) -> Arc<Mutex<Account>> {
        if self.accounts.len() > ACCOUNTS_MAX {
            // Those that nobody holds now; their sets are on disk.
            self.accounts.retain(|_, account| Arc::strong_count(account) > 1);
        }
        Arc::clone(self.accounts.entry(name.to_owned()).or_default().value())
    }

    fn load(&self, account: &mut Account, name: &str) -> Result<(), LedgerError> {
        if !account.loaded {
            account.people = self.store.load(name)?;
            account.loaded = true;
        }
        Ok(())
    }

    /// The keyed hashes of a row's people with what is shown of each, and how many of them have no known key.
    fn identify(&self, row: &[Exposure]) -> Result<(Vec<(PersonHash, Categories)>, u64), LedgerError> {
        let mut people: Vec<(PersonHash, Categories)> = Vec::with_capacity(row.len());
        let mut unknown = 0;
        for exposure in row {
            match &exposure.person {
                Person::Key(key) => people.push((self.hash(&exposure.space, key)?, exposure.categories)),
                Person::Unknown(count) => {
                    if *count > UNKNOWN_MAX {
                        return Err(LedgerError::Store(format!("a row claims {count} people without a key")));
                    }
                    unknown += count;
                    for _ in 0..*count {
                        let mut fresh = PersonHash::default();
                        getrandom::fill(&mut fresh).map_err(|e| LedgerError::Store(format!("no randomness: {e}")))?;
                        people.push((fresh, exposure.categories));
                    }
                }
            }
        }
        Ok((people, unknown))
    }

    fn hash(&self, space: &str, key: &[u8]) -> Result<PersonHash, LedgerError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(|e| LedgerError::Store(e.to_string()))?;
        mac.update(space.as_bytes());
        mac.update(&[0]);
        mac.update(key);
        let digest = mac.finalize().into_bytes();
        digest
            .get(..16)
            .and_then(|half| PersonHash::try_from(half).ok())
            .ok_or_else(|| LedgerError::Store("hash too short".to_owned()))
    }
}

impl Account {
    fn turn_to(&mut self, today: u32) {
        if self.day != today {
            self.day = today;
            self.tallies.clear();
        }
    }

    fn tally(&mut self, pack: &Pack, window: u32) {
        if self.tallies.contains_key(&window) {
            return;
        }
        let mut tally = Tally {
            score: 0,
            people: vec![0; pack.categories.len()],
        };
        for days in self.people.values() {
            let shown = within(days, self.day, window);
            tally.score += pack.weight(shown);
            for (index, count) in tally.people.iter_mut().enumerate() {
                *count += u64::from(shown.has(index));
            }
        }
        self.tallies.insert(window, tally);
    }

    /// Whether showing these people would bring the score to `stop` or beyond. People already counted add nothing.
    fn would_reach(
        &self,
        pack: &Pack,
        window: u32,
        people: &[(PersonHash, Categories)],
        today: u32,
        stop: u64,
    ) -> bool {
        let mut merged: HashMap<PersonHash, Categories> = HashMap::with_capacity(people.len());
        for (person, shown) in people {
            let entry = merged.entry(*person).or_default();
            *entry = entry.union(*shown);
        }
        let added: u64 = merged
            .iter()
            .map(|(person, shown)| {
                let before = self
                    .people
                    .get(person)
                    .map_or(Categories::NONE, |days| within(days, today, window));
                pack.weight(before.union(*shown)) - pack.weight(before)
            })
            .sum();
        let score = self.tallies.get(&window).map_or(0, |t| t.score);
        added > 0 && score + added >= stop
    }

    fn show(
        &mut self,
        pack: &Pack,
        person: PersonHash,
        shown: Categories,
        today: u32,
        new_people: &mut [u64],
        writes: &mut HashMap<PersonHash, Days>,
    ) {
        let days = self.people.entry(person).or_default();
        let before = *days;
        for (index, day) in days.iter_mut().enumerate() {
            if shown.has(index) {
                *day = today;
            }
        }
        if *days == before {
            return;
        }
        let after = *days;
        writes.insert(person, after);
        for (index, count) in new_people.iter_mut().enumerate() {
            *count += u64::from(before.get(index) == Some(&0) && shown.has(index));
        }
        for (window, tally) in &mut self.tallies {
            let (old, new) = (within(&before, today, *window), within(&after, today, *window));
            tally.score += pack.weight(new) - pack.weight(old);
            for (index, count) in tally.people.iter_mut().enumerate() {
                *count += u64::from(new.has(index) && !old.has(index));
            }
        }
    }

    fn cross(&mut self, pack: &Pack, limit: &Limit, line: &Line, sanctioned: bool, crossings: &mut Vec<Crossing>) {
        let score = self.tallies.get(&line.days).map_or(0, |t| t.score);
        for share in &limit.alert_at {
            let mark = (limit.name.clone(), share.to_bits());
            if score >= reach(line.score, *share) {
                if self.announced.insert(mark) {
                    let reading = self.reading(pack, limit, line, sanctioned);
                    crossings.push(Crossing {
                        limit: limit.name.clone(),
                        share: *share,
                        reading,
                    });
                }
            } else {
                self.announced.remove(&mark);
            }
        }
    }

    fn reading(&self, pack: &Pack, limit: &Limit, line: &Line, sanctioned: bool) -> Reading {
        let tally = self.tallies.get(&line.days).cloned().unwrap_or_default();
        let end = line.stop.unwrap_or(line.score);
        let lightest = pack.categories.iter().map(|c| c.weight).min().unwrap_or(1).max(1);
        Reading {
            people: tally.people,
            score: tally.score,
            line: line.score,
            level: if sanctioned {
                "prior_sanction".to_owned()
            } else {
                limit.level.clone()
            },
            window: limit.window_text.clone(),
            left: end.saturating_sub(1).saturating_sub(tally.score) / lightest,
        }
    }
}

fn lock(account: &Mutex<Account>) -> std::sync::MutexGuard<'_, Account> {
    match account.lock() {
        Ok(guard) => guard,
        // A panic while it was held may have left half a charge in memory: forget it and read the disk.
        Err(poisoned) => {
            let mut guard = poisoned.into_inner();
            *guard = Account::default();
            guard
        }
    }
}

fn lines(pack: &Pack, limits: &[Limit], sanctioned: bool) -> Result<Vec<Line>, LedgerError> {
    limits
        .iter()
        .map(|limit| {
            let level = if sanctioned {
                "prior_sanction"
            } else {
                limit.level.as_str()
            };
            let score = pack
                .level(level)
                .ok_or_else(|| LedgerError::Store(format!("pack {} has no level {level}", pack.name)))?;
            // Whole days, rounded up: a person stays counted until the whole day has left the window.
            let days = u32::try_from(limit.window.as_secs().div_ceil(86_400)).unwrap_or(u32::MAX);
            Ok(Line {
                days,
                score,
                stop: limit.stop_at.map(|share| reach(score, share)),
            })
        })
        .collect()
}

/// The least whole score that is `share` of a line or more.
fn reach(line: u64, share: f64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "lines are far below 2^52")]
    let exact = line as f64 * share;
    let near = exact.round();
    let least = if (exact - near).abs() < 1e-6 {
        near
    } else {
        exact.ceil()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "shares lie in (0, 100], so it is a small positive number"
    )]
    let least = least as u64;
    least.max(1)
}

fn day_of(now: jiff::Timestamp) -> u32 {
    u32::try_from(now.as_second().div_euclid(86_400)).unwrap_or(0)
}

/// Categories shown within a window of whole days that ends today.
fn within(days: &Days, today: u32, window: u32) -> Categories {
    let mut shown = 0_u16;
    for (index, day) in days.iter().enumerate() {
        // A day in the future (the clock was turned back) is within every window.
        if *day != 0 && day.saturating_add(window) >= today {
            shown |= 1 << index;
        }
    }
    Categories(shown)
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = self.score.saturating_mul(100).checked_div(self.line).unwrap_or(100);
        write!(
            f,
            "menshen: exposure {} of {} ({percent} %) of line {} within {}",
            self.score, self.line, self.level, self.window
        )
    }
}

impl Reading {
    /// What is left, in words.
    #[must_use]
    pub fn left_text(&self) -> String {
        format!(
            "{} more people of the lightest category can be shown before the limit holds.",
            self.left
        )
    }
}
