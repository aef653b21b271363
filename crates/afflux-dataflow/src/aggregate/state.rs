//! The groups as entries of a state table, and back. Layout 1:
//!
//! ```text
//! key    0 | group key                                        value  rows i64 | accumulators
//! key    1 | aggregate u16 | length u32 | group key | name    value  count i64
//! ```
//! Deleting a group's entry deletes its entries of the second kind too. So a closed window is one
//! deletion, however much it held.

use std::ops::Range;

use afflux_record::changelog::TableDelta;
use afflux_state::{DeltaBuilder, Reader, StateError};

use super::{Aggregation, Slot};
use crate::stateless::millis;

const GROUP: u8 = 0;
const ENTRY: u8 = 1;

impl Aggregation {
    /// Ends the epoch of the state: frees what is over, and writes what changed.
    pub(super) fn write(&mut self, mut touched: Vec<u32>, delta: &mut DeltaBuilder) {
        let mut freed: Vec<u32> = Vec::new();
        if !self.group.is_empty() {
            freed.extend(touched.iter().filter(|&&slot| self.slots[slot as usize].rows == 0));
        }
        let closed = self.windows.range(..(self.watermark.0.saturating_add(1), 0));
        freed.extend(closed.map(|(_, slot)| slot));
        let mut key = Vec::new();
        for &slot in &freed {
            if self.slots[slot as usize].durable {
                group_key(self.index.key(slot), &mut key);
                delta.delete(&key);
            }
            self.free(slot);
        }
        // A slot that was freed is not of this epoch any more.
        touched.retain(|&slot| self.slots[slot as usize].touched == self.epoch);
        for slot in touched {
            self.put(slot, &mut key, delta);
            self.slots[slot as usize].durable = true;
        }
        let index = &self.index;
        for (number, aggregate) in self.aggregates.iter_mut().enumerate() {
            aggregate.accumulator.write_entries(&mut |slot, name, value| {
                entry_key(number, index.key(slot), name, &mut key);
                match value {
                    Some(count) => {
                        delta.put(&key, |out| out.extend_from_slice(&count.to_le_bytes()));
                    }
                    None => delta.delete(&key),
                }
            });
        }
    }

    fn put(&self, slot: u32, key: &mut Vec<u8>, delta: &mut DeltaBuilder) {
        group_key(self.index.key(slot), key);
        delta.put(key, |out| {
            out.extend_from_slice(&self.slots[slot as usize].rows.to_le_bytes());
            for aggregate in &self.aggregates {
                aggregate.accumulator.write(slot, out);
            }
        });
    }

    /// All entries of some key groups.
    pub(crate) fn snapshot(&self, groups: &Range<u8>) -> Option<TableDelta> {
        let mut delta = DeltaBuilder::new(self.table);
        let mut key = Vec::new();
        for slot in self.index.iter().filter(|&slot| groups.contains(&self.index.group(slot).0)) {
            self.put(slot, &mut key, &mut delta);
            for (number, aggregate) in self.aggregates.iter().enumerate() {
                aggregate.accumulator.entries(slot, &mut |name, count| {
                    entry_key(number, self.index.key(slot), name, &mut key);
                    delta.put(&key, |out| out.extend_from_slice(&count.to_le_bytes()));
                });
            }
        }
        delta.finish()
    }

    /// Applies entries that [`Self::finish`] or [`Self::snapshot`] wrote.
    pub(crate) fn restore(&mut self, delta: &TableDelta) -> Result<(), StateError> {
        let mut fresh = Vec::new();
        for (key, value) in delta.keys.iter().zip(&delta.values) {
            let mut key = Reader::new(self.table, key.unwrap_or_default());
            match key.u8()? {
                GROUP => {
                    let key = key.rest();
                    match value {
                        Some(value) => {
                            let slot = self.slot_of(key, &mut fresh);
                            self.read(slot, value)?;
                        }
                        None => {
                            if let Some(slot) = self.index.find(key) {
                                self.free(slot);
                                fresh.retain(|&other| other != slot);
                            }
                        }
                    }
                }
                ENTRY => {
                    let number = usize::from(u16::from_le_bytes(key.array()?));
                    let length = key.u32()? as usize;
                    let slot = self.slot_of(key.bytes(length)?, &mut fresh);
                    let count = match value {
                        Some(value) => Some(Reader::new(self.table, value).i64()?),
                        None => None,
                    };
                    let name = key.rest();
                    let aggregate = self.aggregates.get_mut(number);
                    if !aggregate.is_some_and(|a| a.accumulator.read_entry(slot, name, count)) {
                        return Err(key.damaged("its aggregate has no such entry"));
                    }
                }
                _ => return Err(key.damaged("its kind is unknown")),
            }
        }
        self.note_windows(&fresh)
    }

    fn slot_of(&mut self, key: &[u8], fresh: &mut Vec<u32>) -> u32 {
        let (slot, new) = self.index.find_or_insert(key);
        if new {
            self.grow();
            self.slots[slot as usize] = Slot::default();
            fresh.push(slot);
        }
        slot
    }

    fn read(&mut self, slot: u32, value: &[u8]) -> Result<(), StateError> {
        let mut value = Reader::new(self.table, value);
        let rows = value.i64()?;
        for aggregate in &mut self.aggregates {
            aggregate.accumulator.read(slot, &mut value)?;
        }
        value.end()?;
        self.slots[slot as usize].rows = rows;
        self.slots[slot as usize].durable = true;
        self.slots[slot as usize].emitted = self.exists(slot);
        Ok(())
    }

    /// Finds the windows of restored groups in their keys.
    fn note_windows(&mut self, fresh: &[u32]) -> Result<(), StateError> {
        let Some((_, unit, place)) = self.window.filter(|_| !fresh.is_empty()) else {
            return Ok(());
        };
        let columns = self.group_columns(fresh).map_err(|error| StateError::Damaged {
            table: self.table,
            reason: error.to_string(),
        })?;
        for (slot, end) in fresh.iter().zip(millis(&columns[place], unit)) {
            self.slots[*slot as usize].window_end = end;
            self.windows.insert((end, *slot));
        }
        Ok(())
    }
}

fn group_key(group: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(GROUP);
    out.extend_from_slice(group);
}

fn entry_key(aggregate: usize, group: &[u8], name: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(ENTRY);
    out.extend_from_slice(&(aggregate as u16).to_le_bytes());
    out.extend_from_slice(&(group.len() as u32).to_le_bytes());
    out.extend_from_slice(group);
    out.extend_from_slice(name);
}
