//! Where exposures are kept: one trait, so that a shared store can stand beside the embedded one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, mpsc};

use redb::{Database, ReadableDatabase, TableDefinition};

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

const PEOPLE: TableDefinition<(&str, &[u8]), &[u8]> = TableDefinition::new("people");

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
            begin.commit()?;
            Ok(())
        })
        .map_err(|e| failed(&e))?;
        let (queue, requests) = mpsc::channel::<Request>();
        let own = Arc::clone(&file);
        let committer = std::thread::Builder::new()
            .name("menshen-ledger".to_owned())
            .spawn(move || {
                while let Ok(first) = requests.recv() {
                    let mut group = vec![first];
                    group.extend(requests.try_iter().take(256));
                    let result = own.with(|database| commit(database, &group)).map_err(|e| e.to_string());
                    for (_, answer) in group {
                        // A session that is gone needs no answer.
                        let _gone = answer.send(result.clone());
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
        let mut table = transaction.open_table(PEOPLE)?;
        for (write, _) in group {
            for (person, days) in &write.people {
                table.insert((write.account.as_str(), person.as_slice()), encode(days).as_slice())?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn encode(days: &Days) -> Vec<u8> {
    days.iter().flat_map(|d| d.to_be_bytes()).collect()
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
