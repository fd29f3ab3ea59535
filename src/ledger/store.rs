//! Where exposures are kept: one trait, so that a shared store can stand beside the embedded one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc;

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
    database: std::sync::Arc<Database>,
    queue: Option<mpsc::Sender<Request>>,
    committer: Option<std::thread::JoinHandle<()>>,
}

type Request = (Write, mpsc::Sender<Result<(), String>>);

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
        let database = Database::create(path.join("exposures.redb")).map_err(|e| failed(&e))?;
        let begin = database.begin_write().map_err(|e| failed(&e))?;
        begin.open_table(PEOPLE).map_err(|e| failed(&e))?;
        begin.commit().map_err(|e| failed(&e))?;
        let database = std::sync::Arc::new(database);
        let (queue, requests) = mpsc::channel::<Request>();
        let own = std::sync::Arc::clone(&database);
        let committer = std::thread::Builder::new()
            .name("menshen-ledger".to_owned())
            .spawn(move || {
                while let Ok(first) = requests.recv() {
                    let mut group = vec![first];
                    group.extend(requests.try_iter().take(256));
                    let result = commit(&own, &group).map_err(|e| e.to_string());
                    for (_, answer) in group {
                        // A session that is gone needs no answer.
                        let _gone = answer.send(result.clone());
                    }
                }
            })
            .map_err(|e| failed(&e))?;
        Ok(Self {
            database,
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
        let failed = |e: redb::Error| LedgerError::Store(e.to_string());
        let transaction = self.database.begin_read().map_err(|e| failed(e.into()))?;
        let table = transaction.open_table(PEOPLE).map_err(|e| failed(e.into()))?;
        let (first, last): (&[u8], &[u8]) = (&[0; 16], &[0xff; 16]);
        let mut people = HashMap::new();
        for entry in table
            .range((account, first)..=(account, last))
            .map_err(|e| failed(e.into()))?
        {
            let (key, value) = entry.map_err(|e| failed(e.into()))?;
            if let Ok(person) = PersonHash::try_from(key.value().1) {
                people.insert(person, decode(value.value()));
            }
        }
        Ok(people)
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
