//! The newest offset of each key, by a digest of the key: a table of a kind that a pass needs.
//!
//! A pass asks for millions of keys in no order, and each question waits for memory. What a hash
//! map for all purposes would cost is two places of it for each, on small pages, one question behind
//! the other. So:
//! 1. A slot is a digest and its offset, in one array on huge pages; the digest's low bits say where
//!    it is, or else it is in the first free slot behind. Digests are drawn with a seed, so slots are
//!    found near where they should be, whatever the keys are.
//! 2. Questions come by the batch and have nothing to do between them, so that several wait for
//!    memory at once.
//! 3. It is twice as large once three quarters are used. Nothing is taken out.

use afflux_env::prefer_huge_pages;

/// The offset of a slot that is free.
const FREE: i64 = i64::MIN;
/// Slots at the beginning.
const SLOTS_MIN: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Slot {
    low: u64,
    high: u64,
    offset: i64,
}

/// The table.
#[derive(Debug)]
pub(super) struct Newest {
    /// A power of two of them.
    slots: Vec<Slot>,
    used: usize,
}

impl Newest {
    /// Bytes that a key takes, at most: with what a table that has just grown leaves unused.
    pub(super) const KEY_BYTES: usize = size_of::<Slot>() * 8 / 3;

    pub(super) fn new() -> Self {
        Self { slots: free(SLOTS_MIN), used: 0 }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Each key's newest offset.
    pub(super) fn offsets(&self) -> impl Iterator<Item = i64> {
        self.slots.iter().map(|slot| slot.offset).filter(|offset| *offset != FREE)
    }

    /// Notes keys with offsets that are newer than all before.
    pub(super) fn note(&mut self, records: &[(u128, i64)]) {
        while (self.used + records.len()) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        for (digest, offset) in records {
            let at = place(&self.slots, *digest);
            let slot = &mut self.slots[at];
            self.used += usize::from(slot.offset == FREE);
            *slot = Slot { low: *digest as u64, high: (*digest >> 64) as u64, offset: *offset };
        }
    }

    /// The newest offset of a key, if it is known.
    pub(super) fn get(&self, digest: u128) -> Option<i64> {
        let offset = self.slots[place(&self.slots, digest)].offset;
        (offset != FREE).then_some(offset)
    }

    fn grow(&mut self) {
        let mut slots = free(self.slots.len() * 2);
        for slot in self.slots.iter().filter(|slot| slot.offset != FREE) {
            let at = place(&slots, u128::from(slot.high) << 64 | u128::from(slot.low));
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

fn free(count: usize) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(count);
    prefer_huge_pages(slots.spare_capacity_mut());
    slots.resize(count, Slot { low: 0, high: 0, offset: FREE });
    slots
}

/// Where a digest is, or is to be put. There is always a free slot.
fn place(slots: &[Slot], digest: u128) -> usize {
    let (low, high) = (digest as u64, (digest >> 64) as u64);
    let mut at = low as usize & (slots.len() - 1);
    loop {
        let slot = &slots[at];
        if slot.offset == FREE || (slot.low, slot.high) == (low, high) {
            return at;
        }
        at = (at + 1) & (slots.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_a_map_is(batches in proptest::collection::vec(
            // Few low bits, so that slots are taken by others.
            proptest::collection::vec((0_u128..40, 0_u128..4, any::<i64>()), 0..60), 0..12,
        )) {
            let (mut newest, mut map) = (Newest::new(), HashMap::new());
            for batch in batches {
                let batch: Vec<_> = batch
                    .into_iter()
                    .map(|(low, high, offset)| (low | high << 64, offset.max(0)))
                    .collect();
                newest.note(&batch);
                map.extend(batch);
                prop_assert_eq!(newest.len(), map.len());
                prop_assert!(newest.used * 4 <= newest.slots.len() * 3);
            }
            for digest in (0..41).flat_map(|low| (0..5).map(move |high| low | high << 64)) {
                prop_assert_eq!(newest.get(digest), map.get(&digest).copied());
            }
            let (mut ours, mut theirs): (Vec<_>, Vec<_>) =
                (newest.offsets().collect(), map.into_values().collect());
            ours.sort_unstable();
            theirs.sort_unstable();
            prop_assert_eq!(ours, theirs);
        }
    }
}
