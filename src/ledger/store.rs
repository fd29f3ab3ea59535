//! Where exposures are kept: one trait, so that a shared store can stand beside the embedded one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, mpsc};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::LedgerError;

/// A person's keyed hash.
pub type PersonHash = [u8; 16];
/// Last day (since 1970-01-01 UTC) on which a person was shown, by category of the pack; 0 for never.
pub type Days = [u32; 8];

/// What one charge adds: persons with their days after it.
#[derive(Debug, Clone)]
pub struct Write {
    /// The account.
    pub account: String,
    /// Persons.
    pub people: Vec<(PersonHash, Days)>,
}

/// A durable store of exposures.
pub trait Store: Send + Sync {
    /// Everybody that an account has been shown.
    ///
    /// # Errors
    /// Where the store fails.
    fn load(&self, account: &str) -> Result<HashMap<PersonHash, Days>, LedgerError>;

    /// Writes, and returns when it is durable.
    ///
    /// # Errors
    /// Where the store fails: nothing may be released.
    fn write(&self, write: Write) -> Result<(), LedgerError>;
}

/// By account and person.
const PEOPLE: TableDefinition<(&str, &[u8]), &[u8]> = TableDefinition::new("people");
/// What has been written since: batches of people by account and number, each as one value. A person's place in the tree is anywhere, a batch's is
/// the end: that spares a page for each person. Batches are folded into the tree when there are many.
const BATCHES: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("batches");
/// Bytes of an account's batches that are folded when nobody waits, and whoever waits.
const FOLD_AT: usize = 1024 * 1024;
const FOLD_NOW: usize = 16 * 1024 * 1024;
/// A person in a batch: hash and days.
const ENTRY_BYTES: usize = 16 + 32;

/// The embedded store: redb, one file. A thread of its own commits, so that charges that come together share one fsync.
pub struct Embedded {
    file: Arc<File>,
    queue: Option<mpsc::Sender<Request>>,
    committer: Option<std::thread::JoinHandle<()>>,
}

type Request = (Write, mpsc::Sender<Result<(), String>>);

type Open = Box<dyn Fn() -> Result<Database, redb::Error> + Send + Sync>;

/// The open database. After an I/O error (a full disk) redb takes nothing more, so the file is closed then and opened again for the next
/// who asks: what has been freed by then is used without a restart.
struct File {
    open: Open,
    database: RwLock<Option<Database>>,
}

impl File {
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let result = loop {
            if let Some(database) = &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
                break work(database);
            }
            let mut place = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if place.is_none() {
                *place = Some((self.open)()?);
            }
        };
        if result.is_err() {
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The committing thread ends when its queue does; the file is closed when it has ended.
        self.queue = None;
        if let Some(committer) = self.committer.take() {
            let _panicked = committer.join();
        }
    }
}

impl Embedded {
    /// Opens or creates the store in a directory.
    ///
    /// # Errors
    /// Where it can't be opened (another Menshen has it, the disk fails, the file is damaged).
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |e: &dyn std::fmt::Display| LedgerError::Store(format!("{}: {e}", path.display()));
        std::fs::create_dir_all(path).map_err(|e| failed(&e))?;
        let file = path.join("exposures.redb");
        Self::over(Box::new(move || Ok(Database::create(&file)?))).map_err(|e| failed(&e))
    }

    fn over(open: Open) -> Result<Self, LedgerError> {
        let failed = |e: &dyn std::fmt::Display| LedgerError::Store(e.to_string());
        let file = Arc::new(File {
            open,
            database: RwLock::new(None),
        });
        file.with(|database| {
            let begin = database.begin_write()?;
            begin.open_table(PEOPLE)?;
            begin.open_table(BATCHES)?;
            begin.commit()?;
            Ok(())
        })
        .map_err(|e| failed(&e))?;
        let mut unfolded = file.with(unfolded).map_err(|e| failed(&e))?;
        let (queue, requests) = mpsc::channel::<Request>();
        let own = Arc::clone(&file);
        let committer = std::thread::Builder::new()
            .name("menshen-ledger".to_owned())
            .spawn(move || {
                let mut next = None;
                while let Some(first) = next.take().or_else(|| requests.recv().ok()) {
                    let mut group = vec![first];
                    group.extend(requests.try_iter().take(256));
                    let result = own.with(|database| commit(database, &group)).map_err(|e| e.to_string());
                    for (write, answer) in group {
                        *unfolded.entry(write.account).or_default() += write.people.len() * ENTRY_BYTES;
                        // A session that is gone needs no answer.
                        let _gone = answer.send(result.clone());
                    }
                    let large = unfolded.iter().max_by_key(|(_, bytes)| **bytes);
                    let Some((account, bytes)) = large.map(|(account, bytes)| (account.clone(), *bytes)) else {
                        continue;
                    };
                    if bytes >= FOLD_AT {
                        next = requests.try_recv().ok();
                    }
                    if bytes >= FOLD_NOW || bytes >= FOLD_AT && next.is_none() {
                        // Where it fails, batches stay what they are.
                        if let Err(e) = own.with(|database| fold(database, &account)) {
                            tracing::warn!("the ledger could not be tidied: {e}");
                        }
                        unfolded.remove(&account);
                    }
                }
            })
            .map_err(|e| failed(&e))?;
        Ok(Self {
            file,
            queue: Some(queue),
            committer: Some(committer),
        })
    }
}

fn commit(database: &Database, group: &[Request]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(BATCHES)?;
        for (write, _) in group {
            let account = write.account.as_str();
            let last = table
                .range((account, 0)..=(account, u64::MAX))?
                .next_back()
                .transpose()?;
            let number = last.map_or(0, |(key, _)| key.value().1 + 1);
            let mut batch = Vec::with_capacity(write.people.len() * ENTRY_BYTES);
            for (person, days) in &write.people {
                batch.extend_from_slice(person);
                batch.extend_from_slice(&encode(days));
            }
            table.insert((account, number), batch.as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Bytes of each account's batches.
fn unfolded(database: &Database) -> Result<HashMap<String, usize>, redb::Error> {
    let transaction = database.begin_read()?;
    let mut bytes: HashMap<String, usize> = HashMap::new();
    for entry in transaction.open_table(BATCHES)?.range::<(&str, u64)>(..)? {
        let (key, value) = entry?;
        *bytes.entry(key.value().0.to_owned()).or_default() += value.value().len();
    }
    Ok(bytes)
}

/// Adds the people of an account's batches to others. The newest of them holds.
fn add_batches(
    table: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    account: &str,
    people: &mut HashMap<PersonHash, Days>,
) -> Result<(), redb::Error> {
    for entry in table.range((account, 0)..=(account, u64::MAX))? {
        let (_, batch) = entry?;
        for entry in batch.value().chunks_exact(ENTRY_BYTES) {
            if let Some((person, days)) = entry.split_first_chunk::<16>() {
                people.insert(*person, decode(days));
            }
        }
    }
    Ok(())
}

/// Moves the people of an account's batches to their places in the tree.
fn fold(database: &Database, account: &str) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut batches = transaction.open_table(BATCHES)?;
        let mut table = transaction.open_table(PEOPLE)?;
        let mut people = HashMap::new();
        add_batches(&batches, account, &mut people)?;
        let mut people: Vec<(PersonHash, Days)> = people.into_iter().collect();
        people.sort_unstable_by_key(|(person, _)| *person);
        for (person, days) in &people {
            table.insert((account, person.as_slice()), encode(days).as_slice())?;
        }
        batches.retain_in((account, 0)..=(account, u64::MAX), |_, _| false)?;
    }
    transaction.commit()?;
    Ok(())
}

fn encode(days: &Days) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (place, day) in bytes.chunks_exact_mut(4).zip(days) {
        place.copy_from_slice(&day.to_be_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Days {
    let mut days = Days::default();
    for (day, chunk) in days.iter_mut().zip(bytes.chunks_exact(4)) {
        *day = chunk.try_into().map(u32::from_be_bytes).unwrap_or(0);
    }
    days
}

impl Store for Embedded {
    fn load(&self, account: &str) -> Result<HashMap<PersonHash, Days>, LedgerError> {
        let read = |database: &Database| {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(PEOPLE)?;
            let (first, last): (&[u8], &[u8]) = (&[0; 16], &[0xff; 16]);
            let mut people = HashMap::new();
            for entry in table.range((account, first)..=(account, last))? {
                let (key, value) = entry?;
                if let Ok(person) = PersonHash::try_from(key.value().1) {
                    people.insert(person, decode(value.value()));
                }
            }
            add_batches(&transaction.open_table(BATCHES)?, account, &mut people)?;
            Ok(people)
        };
        self.file.with(read).map_err(|e| LedgerError::Store(e.to_string()))
    }

    fn write(&self, write: Write) -> Result<(), LedgerError> {
        let gone = || LedgerError::Store("the committing thread has ended".to_owned());
        let (answer, done) = mpsc::channel();
        self.queue
            .as_ref()
            .ok_or_else(gone)?
            .send((write, answer))
            .map_err(|_| gone())?;
        done.recv().map_err(|_| gone())?.map_err(LedgerError::Store)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;

    use super::*;

    /// A disk in memory that is full when it is told so; it outlives the databases on it.
    #[derive(Debug, Default)]
    struct Disk {
        bytes: Mutex<Vec<u8>>,
        full: AtomicBool,
    }

    #[derive(Debug)]
    struct Mounted(Arc<Disk>);

    impl Mounted {
        fn room(&self) -> Result<(), std::io::Error> {
            if self.0.full.load(Ordering::SeqCst) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    }

    impl StorageBackend for Mounted {
        fn len(&self) -> Result<u64, std::io::Error> {
            Ok(self.0.bytes.lock().unwrap().len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
            let at = usize::try_from(offset).unwrap();
            out.copy_from_slice(&self.0.bytes.lock().unwrap()[at..at + out.len()]);
            Ok(())
        }

        fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
            self.room()?;
            self.0.bytes.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
            Ok(())
        }

        fn sync_data(&self) -> Result<(), std::io::Error> {
            self.room()
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
            self.room()?;
            let at = usize::try_from(offset).unwrap();
            self.0.bytes.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
            Ok(())
        }
    }

    #[test]
    fn batches_are_folded_and_nobody_is_lost_or_changed() {
        let disk = Arc::new(Disk::default());
        let store = || {
            let own = Arc::clone(&disk);
            let open = move || Ok(redb::Builder::new().create_with_backend(Mounted(Arc::clone(&own)))?);
            Embedded::over(Box::new(open)).unwrap()
        };
        let person = |n: u32| {
            let mut hash = PersonHash::default();
            hash[..4].copy_from_slice(&n.to_be_bytes());
            hash
        };
        let write = |account: &str, from: u32, to: u32, day: u32| Write {
            account: account.into(),
            people: (from..to).map(|n| (person(n), [day; 8])).collect(),
        };
        let count = |store: &Embedded, which: &str| {
            let read = |database: &Database| {
                let transaction = database.begin_read()?;
                Ok(match which {
                    "batches" => transaction.open_table(BATCHES)?.iter()?.count(),
                    _ => transaction.open_table(PEOPLE)?.iter()?.count(),
                })
            };
            store.file.with(read).unwrap()
        };
        let expected = |people: &HashMap<PersonHash, Days>| {
            assert_eq!(people.len(), 30_000);
            for n in [0, 4_999, 5_000, 29_999] {
                assert_eq!(people[&person(n)], [if n < 5_000 { 9 } else { 7 }; 8], "{n}");
            }
        };
        {
            let store = store();
            store.write(write("small", 0, 10, 7)).unwrap();
            // 1.4 MB, and some of them again on a later day.
            for part in 0..30 {
                store
                    .write(write("large", part * 1_000, (part + 1) * 1_000, 7))
                    .unwrap();
            }
            store.write(write("large", 0, 5_000, 9)).unwrap();
            expected(&store.load("large").unwrap());
            let begun = std::time::Instant::now();
            while count(&store, "people") == 0 {
                assert!(begun.elapsed().as_secs() < 30, "never folded");
                std::thread::yield_now();
            }
            expected(&store.load("large").unwrap());
            assert!(count(&store, "people") >= 20_000 && count(&store, "batches") < 12);
            assert_eq!(store.load("small").unwrap().len(), 10);
        }
        let store = store();
        expected(&store.load("large").unwrap());
        assert_eq!(store.load("small").unwrap()[&person(3)], [7; 8]);
    }

    #[test]
    fn a_disk_that_was_full_is_used_again_when_it_has_room() {
        let disk = Arc::new(Disk::default());
        let own = Arc::clone(&disk);
        let open = move || Ok(redb::Builder::new().create_with_backend(Mounted(Arc::clone(&own)))?);
        let store = Embedded::over(Box::new(open)).unwrap();
        let write = |n: u8| Write {
            account: "support".into(),
            people: vec![([n; 16], Days::default())],
        };
        store.write(write(1)).unwrap();
        disk.full.store(true, Ordering::SeqCst);
        for n in 2..5 {
            assert!(store.write(write(n)).is_err());
        }
        disk.full.store(false, Ordering::SeqCst);
        store.write(write(5)).unwrap();
        let people = store.load("support").unwrap();
        // What failed was answered so and released nobody; it may be there or not.
        assert!(people.contains_key(&[1; 16]) && people.contains_key(&[5; 16]));
    }
}
