//! Whom an account has been shown today, and what of them: showing it again changes nothing, and needs neither the slow hash nor the disk.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip128::{Hasher128, SipHasher24};

use super::{Categories, Kind, LedgerError};

/// People remembered for one account; beyond, all of them are forgotten and come again. One takes about 32 bytes.
const PEOPLE_MAX: usize = 200_000;

/// A keyed hash that lives as long as the process: of 128 bits, so that no two people have one.
pub(super) type Quick = u128;

/// Makes [`Quick`] hashes.
#[derive(Debug)]
pub(super) struct QuickKey([u8; 16]);

impl QuickKey {
    /// A new one.
    ///
    /// # Errors
    /// Without randomness.
    pub fn new() -> Result<Self, LedgerError> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|e| LedgerError::Store(format!("no randomness: {e}")))?;
        Ok(Self(key))
    }

    /// One for the people of each kind: the space is taken in once.
    pub fn of(&self, kinds: &[Kind]) -> Vec<OfKind> {
        let of = |kind: &Kind| {
            let mut hasher = SipHasher24::new_with_key(&self.0);
            hasher.write(kind.space.as_bytes());
            hasher.write(&[0]);
            OfKind {
                hasher,
                categories: kind.categories,
            }
        };
        kinds.iter().map(of).collect()
    }
}

/// For the people of one kind.
pub(super) struct OfKind {
    hasher: SipHasher24,
    pub categories: Categories,
}

impl OfKind {
    pub fn hash(&self, key: &[u8]) -> Quick {
        let mut hasher = self.hasher;
        hasher.write(key);
        hasher.finish128().as_u128()
    }
}

/// A hash needs no hashing.
#[derive(Default)]
struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, hash: u128) {
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
        let low = hash as u64;
        self.0 = low;
    }
}

/// What has been shown today.
#[derive(Default)]
pub(super) struct Today {
    people: HashMap<Quick, Categories, BuildHasherDefault<Low>>,
}

impl Today {
    /// Whether all of this has been shown of that person.
    pub fn knows(&self, person: Quick, shown: Categories) -> bool {
        self.people
            .get(&person)
            .is_some_and(|before| before.union(shown) == *before)
    }

    /// It has been shown, and that is on disk before anybody else asks.
    pub fn show(&mut self, person: Quick, shown: Categories) {
        if self.people.len() >= PEOPLE_MAX {
            self.people.clear();
        }
        let entry = self.people.entry(person).or_default();
        *entry = entry.union(shown);
    }

    pub fn clear(&mut self) {
        self.people.clear();
    }
}
