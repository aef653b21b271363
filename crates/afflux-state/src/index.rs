//! Keys to dense slots.
//!
//! 1. A key's hash is the `XXH64` of its bytes with seed 0, the same on every node and for ever;
//!    its top seven bits are the key group.
//! 2. A hash table holds slots only; hashes and keys lie in arrays beside it, so that it grows
//!    without hashing again and a slot leads back to its key.
//! 3. Slots of removed keys are given out again, so that an operator's columns stay dense.

use afflux_types::KeyGroup;
use hashbrown::HashTable;
use twox_hash::XxHash64;

/// The hash of a key.
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    XxHash64::oneshot(0, key)
}

/// The key group of a key's hash.
#[inline]
pub fn key_group(hash: u64) -> KeyGroup {
    KeyGroup((hash >> (u64::BITS - KeyGroup::COUNT.trailing_zeros())) as u8)
}

/// Which slot a key has.
#[derive(Debug, Default)]
pub struct KeyIndex {
    table: HashTable<u32>,
    hashes: Vec<u64>,
    /// `None` where the slot is free.
    keys: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
}

impl KeyIndex {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many slots were ever in use at once: columns beside the index are this long.
    pub fn slots(&self) -> usize {
        self.keys.len()
    }

    /// The slot of a key.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = key_hash(key);
        self.table.find(hash, |&slot| self.is(slot, hash, key)).copied()
    }

    /// The slot of a key, a new one if need be; and whether it is new.
    #[inline]
    pub fn find_or_insert(&mut self, key: &[u8]) -> (u32, bool) {
        let hash = key_hash(key);
        if let Some(&slot) = self.table.find(hash, |&slot| self.is(slot, hash, key)) {
            return (slot, false);
        }
        (self.insert(hash, key), true)
    }

    /// Appends the slots of some keys, and to `fresh` the positions of those that are new.
    /// Keys that repeat themselves in a row are looked up once.
    pub fn resolve<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a [u8]>,
        slots: &mut Vec<u32>,
        fresh: &mut Vec<u32>,
    ) {
        let mut last: Option<(&[u8], u32)> = None;
        for (position, key) in keys.enumerate() {
            if let Some((_, slot)) = last.filter(|(before, _)| *before == key) {
                slots.push(slot);
                continue;
            }
            let (slot, new) = self.find_or_insert(key);
            if new {
                fresh.push(position as u32);
            }
            slots.push(slot);
            last = Some((key, slot));
        }
    }

    /// Frees a slot and forgets its key. A free slot stays free.
    pub fn remove(&mut self, slot: u32) {
        let index = slot as usize;
        if self.keys[index].take().is_none() {
            return;
        }
        if let Ok(entry) = self.table.find_entry(self.hashes[index], |&other| other == slot) {
            entry.remove();
        }
        self.free.push(slot);
    }

    /// The key of a slot; empty for a free one.
    #[inline]
    pub fn key(&self, slot: u32) -> &[u8] {
        self.keys[slot as usize].as_deref().unwrap_or_default()
    }

    /// The key group of a slot's key.
    pub fn group(&self, slot: u32) -> KeyGroup {
        key_group(self.hashes[slot as usize])
    }

    /// The slots in use, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let used = self.keys.iter().enumerate().filter(|(_, key)| key.is_some());
        used.map(|(slot, _)| slot as u32)
    }

    #[inline]
    fn is(&self, slot: u32, hash: u64, key: &[u8]) -> bool {
        self.hashes[slot as usize] == hash && self.key(slot) == key
    }

    fn insert(&mut self, hash: u64, key: &[u8]) -> u32 {
        let slot = if let Some(slot) = self.free.pop() {
            self.hashes[slot as usize] = hash;
            self.keys[slot as usize] = Some(key.into());
            slot
        } else {
            let slot = u32::try_from(self.keys.len()).expect("fewer than 2^32 keys fit in memory");
            self.hashes.push(hash);
            self.keys.push(Some(key.into()));
            slot
        };
        let hashes = &self.hashes;
        self.table.insert_unique(hash, slot, |&slot| hashes[slot as usize]);
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_index_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0u16..50), 0..300)) {
            let mut index = KeyIndex::default();
            let mut reference: HashMap<Vec<u8>, u32> = HashMap::new();
            for (add, key) in steps {
                let key = vec![key as u8; usize::from(key % 7)];
                if add {
                    let (slot, new) = index.find_or_insert(&key);
                    prop_assert_eq!(new, !reference.contains_key(&key));
                    prop_assert_eq!(*reference.entry(key).or_insert(slot), slot);
                } else if let Some(slot) = reference.remove(&key) {
                    index.remove(slot);
                }
                prop_assert_eq!(index.len(), reference.len());
                for (key, slot) in &reference {
                    prop_assert_eq!(index.find(key), Some(*slot));
                    prop_assert_eq!(index.key(*slot), key.as_slice());
                    prop_assert_eq!(index.group(*slot), key_group(key_hash(key)));
                }
                prop_assert_eq!(index.iter().count(), reference.len());
            }
            prop_assert!(index.slots() <= 50);
        }

        #[test]
        fn a_batch_resolves_as_its_keys_do(keys in proptest::collection::vec(0u8..5, 0..50)) {
            let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| vec![key; 3]).collect();
            let (mut together, mut alone) = (KeyIndex::default(), KeyIndex::default());
            let (mut slots, mut fresh) = (Vec::new(), Vec::new());
            together.resolve(keys.iter().map(Vec::as_slice), &mut slots, &mut fresh);
            for (position, key) in keys.iter().enumerate() {
                let (slot, new) = alone.find_or_insert(key);
                prop_assert_eq!(slots[position], slot);
                prop_assert_eq!(fresh.contains(&(position as u32)), new);
            }
        }
    }

    // Snapshots and changelogs outlive a build: neither may ever change.
    #[test]
    fn hashes_and_groups_are_for_ever() {
        assert_eq!(key_hash(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(key_hash(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(key_group(0), KeyGroup(0));
        assert_eq!(key_group(u64::MAX), KeyGroup(127));
        assert_eq!(key_group(key_hash(b"abc")), KeyGroup(0x44 >> 1));
    }
}
