//! Whom an account has been shown today, and what of them: showing it again changes nothing, and needs neither the slow hash nor the disk.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::{Categories, Kind, LedgerError};

/// People remembered for one account; beyond, all of them are forgotten and come again. One takes 24 to 48 bytes.
const PEOPLE_MAX: usize = 1_300_000;

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

/// What has been shown today: a table of its own, because most of what is asked of it is a miss of the processor's cache. One slot holds 112
/// bits of a hash and the categories, 0 is free; a hash is looked for from its own place on.
#[derive(Default)]
pub(super) struct Today {
    slots: Vec<u128>,
    people: usize,
}

const SLOTS_MIN: usize = 64;
const CATEGORIES: u128 = 0xffff;

impl Today {
    /// Whether all of this has been shown of that person.
    pub fn knows(&self, person: Quick, shown: Categories) -> bool {
        let slot = self.slots.get(self.place(person)).copied().unwrap_or(0);
        let before = categories(slot);
        slot != 0 && before.union(shown) == before
    }

    /// It has been shown, and that is on disk before anybody else asks.
    pub fn show(&mut self, person: Quick, shown: Categories) {
        if self.people >= PEOPLE_MAX {
            self.clear();
        }
        if (self.people + 1) * 3 > self.slots.len() * 2 {
            self.grow();
        }
        let place = self.place(person);
        if let Some(slot) = self.slots.get_mut(place) {
            self.people += usize::from(*slot == 0);
            *slot = named(person) | u128::from(categories(*slot).union(shown).0);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Where a person stands, or would.
    fn place(&self, person: Quick) -> usize {
        let mask = self.slots.len().wrapping_sub(1);
        #[expect(clippy::cast_possible_truncation, reason = "a part of a hash is a hash")]
        let mut at = (person >> 64) as usize & mask;
        while let Some(slot) = self.slots.get(at) {
            if *slot == 0 || named(*slot) == named(person) {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let slots = vec![0; (self.slots.len() * 2).max(SLOTS_MIN)];
        for slot in std::mem::replace(&mut self.slots, slots) {
            let place = self.place(slot);
            if let Some(free) = self.slots.get_mut(place).filter(|_| slot != 0) {
                *free = slot;
            }
        }
    }
}

/// The bits that name a person; never none.
fn named(slot: u128) -> u128 {
    slot & !CATEGORIES | 1 << 16
}

fn categories(slot: u128) -> Categories {
    #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
    let low = slot as u16;
    Categories(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_shown_what_is_known_and_nobody_else() {
        let key = QuickKey::new().unwrap();
        let kinds = ["a", "b"].map(|space| Kind {
            space: space.into(),
            categories: Categories(1),
        });
        let of = key.of(&kinds);
        let mut today = Today::default();
        assert!(!today.knows(of[0].hash(b"x"), Categories(0)));
        for n in 0..10_000_u32 {
            today.show(of[0].hash(&n.to_be_bytes()), Categories(1 << (n % 3)));
        }
        for n in 0..10_000_u32 {
            let (here, there) = (of[0].hash(&n.to_be_bytes()), of[1].hash(&n.to_be_bytes()));
            for shown in 0..8 {
                assert_eq!(
                    today.knows(here, Categories(shown)),
                    shown & !(1 << (n % 3)) == 0,
                    "{n} {shown}"
                );
                assert!(!today.knows(there, Categories(shown)));
            }
            today.show(here, Categories(6));
            assert!(today.knows(here, Categories(6 | 1 << (n % 3))));
        }
        assert_eq!(today.people, 10_000);
        // Hashes that want one place, the last one among them.
        let mut today = Today::default();
        let near = |n: u128| u128::MAX << 64 | n << 20;
        for n in 0..60 {
            today.show(near(n), Categories(2));
        }
        assert!((0..60).all(|n| today.knows(near(n), Categories(2))) && !today.knows(near(60), Categories(2)));
    }

    #[test]
    fn what_it_keeps_is_bounded() {
        let mut today = Today::default();
        for n in 0..=PEOPLE_MAX as u128 {
            today.show(n << 64 | n << 17, Categories(1));
        }
        assert_eq!((today.people, today.slots.len()), (1, SLOTS_MIN));
    }
}
