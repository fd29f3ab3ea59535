//! Who has been shown whom: distinct people per principal × legal category × window, exact, on disk, charged before
//! release. [`pack`] holds the law's numbers as data.

pub mod pack;
pub mod shown;
pub mod store;
#[cfg(test)]
mod tests;
mod today;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use smallvec::SmallVec;

use crate::policy::Limit;
pub use pack::{Categories, Pack};
pub use shown::{Exposure, Kind, Person, Shown};
use store::{Days, Embedded, PersonHash, Store, Write};
use today::{Quick, QuickKey, Today};

/// A batch of rows that wait for release, in the order of the answer.
#[derive(Debug)]
pub struct ChargeRequest {
    /// Whose account: the login, or the end user behind a trusted shared login.
    pub account: Arc<str>,
    /// Every limit that applies.
    pub limits: Arc<[Limit]>,
    /// True where the account is under a sanction (art. 5(1)(9)): its line is the pack's `prior_sanction`.
    pub sanctioned: bool,
    /// Whom they show.
    pub shown: Shown,
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
    /// With the key in it.
    mac: Hmac<Sha256>,
    quick: QuickKey,
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
    people: People,
    today: Today,
    /// Limits that it has been held against since its numbers changed last: what they announce is announced.
    settled: Vec<Settled>,
    /// Shares already announced, by limit and share; a score that falls below takes its share out.
    announced: HashSet<(String, u64)>,
    /// Sums by window, for the day they were made on.
    tallies: HashMap<u32, Tally>,
    day: u32,
}

/// A hash needs little hashing.
type People = HashMap<PersonHash, Days, foldhash::fast::RandomState>;

struct Settled {
    pack: Arc<Pack>,
    limits: Arc<[Limit]>,
    sanctioned: bool,
}

impl Settled {
    fn is(&self, pack: &Arc<Pack>, request: &ChargeRequest) -> bool {
        let same = Arc::ptr_eq(&self.limits, &request.limits) || self.limits == request.limits;
        same && self.sanctioned == request.sanctioned && Arc::ptr_eq(&self.pack, pack)
    }
}

/// People that are looked for together.
const TOGETHER: usize = 32;
/// Sets of limits that are remembered of one account.
const SETTLED_MAX: usize = 16;

/// A person that has not been shown so today: by the hash that is kept, and by today's.
struct Fresh {
    person: PersonHash,
    quick: Option<Quick>,
    shown: Categories,
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
        Self::with_store(Box::new(Embedded::open(path)?), key)
    }

    /// A ledger on any store.
    ///
    /// # Errors
    /// Without randomness.
    pub fn with_store(store: Box<dyn Store>, key: &[u8; 32]) -> Result<Self, LedgerError> {
        Ok(Self {
            store,
            mac: Hmac::new_from_slice(key).map_err(|e| LedgerError::Store(e.to_string()))?,
            quick: QuickKey::new()?,
            accounts: DashMap::new(),
        })
    }

    /// Charges rows that show nobody new, which changes nothing and needs no disk. `None`: use [`Ledger::charge`]. Never blocks.
    #[must_use]
    pub fn charge_known(&self, pack: &Arc<Pack>, request: &ChargeRequest) -> Option<Charged> {
        let shared = Arc::clone(self.accounts.get(&*request.account)?.value());
        let account = shared.try_lock().ok()?;
        let same_day = account.loaded && account.day == day_of(request.now);
        if !same_day || !account.settled.iter().any(|s| s.is(pack, request)) {
            return None;
        }
        let kinds = self.quick.of(request.shown.kinds());
        // Some at a time: then the processor asks the memory for them together.
        let mut some: SmallVec<[(Quick, Categories); TOGETHER]> = SmallVec::new();
        let mut people = request.shown.people();
        loop {
            some.clear();
            let mut ended = true;
            for exposure in people.by_ref().take(TOGETHER) {
                ended = false;
                match exposure.person {
                    Person::Key(key) => {
                        let kind = kinds.get(exposure.kind)?;
                        some.push((kind.hash(key), kind.categories));
                    }
                    Person::Unknown(0) => {}
                    Person::Unknown(_) => return None,
                }
            }
            if !some.iter().all(|(person, shown)| account.today.knows(*person, *shown)) {
                return None;
            }
            if ended {
                break;
            }
        }
        Some(Charged {
            released: request.shown.len(),
            crossings: Vec::new(),
            stopped: None,
            new_people: Vec::new(),
            estimated: 0,
        })
    }

    /// Charges rows in order, as far as the limits allow, durably. Blocking: call it off the reactor.
    ///
    /// # Errors
    /// Where the store fails: nothing may be released.
    pub fn charge(&self, pack: &Arc<Pack>, request: &ChargeRequest) -> Result<Charged, LedgerError> {
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
        let kinds = self.quick.of(request.shown.kinds());
        let mut fresh: Vec<Fresh> = Vec::new();
        let mut writes: HashMap<PersonHash, Days, foldhash::fast::RandomState> = HashMap::default();
        for row in request.shown.rows() {
            fresh.clear();
            let unknown = self.identify(row, &request.shown, &kinds, &account.today, &mut fresh)?;
            let mut ends = request.limits.iter().zip(&lines);
            if let Some((limit, line)) = ends.find(|(_, line)| {
                line.stop
                    .is_some_and(|stop| account.would_reach(pack, line.days, &fresh, today, stop))
            }) {
                charged.stopped = Some(Stopped {
                    limit: limit.name.clone(),
                    reading: account.reading(pack, limit, line, request.sanctioned),
                });
                break;
            }
            for person in &fresh {
                account.show(pack, person, today, &mut charged.new_people, &mut writes);
            }
            charged.estimated += unknown;
            charged.released += 1;
        }
        for (limit, line) in request.limits.iter().zip(&lines) {
            account.cross(pack, limit, line, request.sanctioned, &mut charged.crossings);
        }
        if !writes.is_empty() {
            let mut people: Vec<(PersonHash, Days)> = writes.into_iter().collect();
            // In the order of the store's tree: pages are visited once.
            people.sort_unstable_by_key(|(person, _)| *person);
            let write = Write {
                account: request.account.to_string(),
                people,
            };
            if let Err(error) = self.store.write(write) {
                // What memory holds and the disk does not is forgotten: the account is read again.
                *account = Account::default();
                return Err(error);
            }
            account.settled.clear();
        }
        if !account.settled.iter().any(|s| s.is(pack, request)) {
            if account.settled.len() >= SETTLED_MAX {
                account.settled.clear();
            }
            account.settled.push(Settled {
                pack: Arc::clone(pack),
                limits: Arc::clone(&request.limits),
                sanctioned: request.sanctioned,
            });
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
            account.people = self.store.load(name)?.into_iter().collect();
            account.loaded = true;
        }
        Ok(())
    }

    /// Those of a row's people that have not been shown so today, and how many of the row's have no known key.
    fn identify<'r>(
        &self,
        row: impl Iterator<Item = Exposure<'r>>,
        shown: &Shown,
        kinds: &[today::OfKind],
        today: &Today,
        fresh: &mut Vec<Fresh>,
    ) -> Result<u64, LedgerError> {
        let no_kind = || LedgerError::Store("a person of no kind".to_owned());
        let mut unknown = 0;
        for exposure in row {
            let of_kind = kinds.get(exposure.kind).ok_or_else(no_kind)?;
            match exposure.person {
                Person::Key(key) => {
                    let quick = of_kind.hash(key);
                    if today.knows(quick, of_kind.categories) {
                        continue;
                    }
                    let space = &shown.kinds().get(exposure.kind).ok_or_else(no_kind)?.space;
                    fresh.push(Fresh {
                        person: self.hash(space, key)?,
                        quick: Some(quick),
                        shown: of_kind.categories,
                    });
                }
                Person::Unknown(count) => {
                    if count > UNKNOWN_MAX {
                        return Err(LedgerError::Store(format!("a row claims {count} people without a key")));
                    }
                    unknown += count;
                    for _ in 0..count {
                        let mut person = PersonHash::default();
                        getrandom::fill(&mut person).map_err(|e| LedgerError::Store(format!("no randomness: {e}")))?;
                        fresh.push(Fresh {
                            person,
                            quick: None,
                            shown: of_kind.categories,
                        });
                    }
                }
            }
        }
        Ok(unknown)
    }

    fn hash(&self, space: &str, key: &[u8]) -> Result<PersonHash, LedgerError> {
        let mut mac = self.mac.clone();
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
            self.today.clear();
            self.settled.clear();
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
    fn would_reach(&self, pack: &Pack, window: u32, fresh: &[Fresh], today: u32, stop: u64) -> bool {
        let before = |person: &PersonHash| {
            let days = self.people.get(person);
            days.map_or(Categories::NONE, |days| within(days, today, window))
        };
        let adds = |person: &PersonHash, shown: Categories| {
            let before = before(person);
            pack.weight(before.union(shown)) - pack.weight(before)
        };
        let added: u64 = match fresh {
            [] => return false,
            [one] => adds(&one.person, one.shown),
            several => {
                let mut merged: HashMap<PersonHash, Categories> = HashMap::with_capacity(several.len());
                for one in several {
                    let entry = merged.entry(one.person).or_default();
                    *entry = entry.union(one.shown);
                }
                merged.iter().map(|(person, shown)| adds(person, *shown)).sum()
            }
        };
        let score = self.tallies.get(&window).map_or(0, |t| t.score);
        added > 0 && score + added >= stop
    }

    fn show(
        &mut self,
        pack: &Pack,
        fresh: &Fresh,
        today: u32,
        new_people: &mut [u64],
        writes: &mut HashMap<PersonHash, Days, foldhash::fast::RandomState>,
    ) {
        let (person, shown) = (fresh.person, fresh.shown);
        // The account stays locked until that is on disk, or all of it is forgotten.
        if let Some(quick) = fresh.quick {
            self.today.show(quick, shown);
        }
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
