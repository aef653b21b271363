//! Old batches of many partitions, read in the order in which they lie in the journal.
//!
//! Who asks for many partitions gets some of each. If all get as much, a partition with few
//! records, or whose batches fill its part less well, comes further than the others; before long
//! each is somewhere else, and the blocks that they share are gone when the next one wants them.
//!
//! 1. How the next batches of each partition lie says where it is, and how much of the journal is
//!    its own.
//! 2. Those that are near each other, as many as there are in one place, go together: each gets
//!    what lies before one position, which is so far away that all of it fills the answer. Who is
//!    ahead waits for the others.
//! 3. Blocks of that stretch are read whole and ahead of time, little as each of them wants.
//!
//! There is no sweep if the answer would not be full within as many blocks as are kept, nor for who
//! is elsewhere.
//!
//! Not here: how blocks are read and kept (`blocks`).

use afflux_types::{Offset, TopicPartition};
use hashbrown::HashSet;

use crate::{
    embedded::EmbeddedLog,
    error::ReadError,
    index::{Place, Run, SectionsRead},
    sequencer::Sequencer,
};

/// So much behind a sweep is read while the answer is sent, or as much as it is long.
const AHEAD_BYTES_MAX: u64 = 8 << 20;

/// A stretch of the journal, and who is read along it.
#[derive(Debug)]
pub struct Sweep {
    partitions: HashSet<TopicPartition>,
    /// Where it ends.
    pub(crate) to: u64,
    /// Whether more than half of it is wanted.
    pub(crate) is_dense: bool,
}

impl Sweep {
    /// Whether a partition is read along it.
    pub fn takes(&self, partition: &TopicPartition) -> bool {
        self.partitions.contains(partition)
    }
}

/// How the next batches of a partition lie.
#[derive(Debug, Clone, Copy)]
struct Next {
    from: u64,
    to: u64,
    bytes: u64,
}

impl Next {
    fn density(&self) -> f64 {
        self.bytes as f64 / (self.to - self.from).max(self.bytes) as f64
    }
}

impl EmbeddedLog {
    /// The sweep on which most of these partitions give `bytes_max` together from these offsets on,
    /// if there is one. Blocks while index files are read.
    pub fn sweep<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a TopicPartition, Offset)>,
        bytes_max: usize,
    ) -> Option<Sweep> {
        let wanted: Vec<_> = wanted.collect();
        let options = &self.shared.options;
        if wanted.len() < 2 || options.block_cache_bytes == 0 {
            return None;
        }
        let part = (bytes_max / wanted.len()) as u64;
        let next = wanted.into_iter().filter_map(|(partition, from)| {
            // Who reads it is told what is wrong.
            let next = self.next_of(partition, from, part).ok().flatten()?;
            Some((partition, next))
        });
        let mut next: Vec<_> = next.collect();
        next.sort_by_key(|(_, next)| next.from);
        let near = nearest(&next, options.stretch_max(), |(_, next)| next.from);
        let [(_, Next { from, .. }), _, ..] = near else { return None };
        let density = near.iter().map(|(_, next)| next.density()).sum::<f64>().min(1.0);
        let length = (bytes_max as f64 / density) as u64;
        if length > options.stretch_max() {
            return None;
        }
        let to = from + length;
        self.will_read(*from, to + length.min(AHEAD_BYTES_MAX));
        let partitions = near.iter().map(|(partition, _)| (*partition).clone()).collect();
        Some(Sweep { partitions, to, is_dense: density > 0.5 })
    }

    fn next_of(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: u64,
    ) -> Result<Option<Next>, ReadError> {
        let number = self.stream(partition)?;
        let mut sections = SectionsRead::new();
        loop {
            let found = look(&self.shared.state.lock(), number, from, bytes_max, &sections);
            match found {
                Ok(next) => return Ok(next),
                Err(run) => self.shared.read_section(partition, &run, &mut sections)?,
            }
        }
    }

    /// Has the blocks of a stretch read, as far as they are sealed.
    fn will_read(&self, from: u64, to: u64) {
        let state = self.shared.state.lock();
        // The last first: there may be many before.
        let files = state.files.range(..to).rev().map(|(_, file)| file);
        let files = files.take_while(|file| from < file.file.end());
        let sealed = files.filter(|file| file.index.is_some());
        let files: Vec<_> = sealed.map(|file| file.file.clone()).collect();
        drop(state);
        for file in files.iter().rev() {
            self.shared.blocks.will_read(file, from.max(file.base), to);
        }
    }
}

/// Those of a sorted list that are within `reach` of one of them, where there are most.
fn nearest<T>(sorted: &[T], reach: u64, at: impl Fn(&T) -> u64) -> &[T] {
    let mut most = &sorted[..0];
    for (first, one) in sorted.iter().enumerate() {
        let rest = &sorted[first..];
        let near = rest.partition_point(|other| at(other) - at(one) < reach);
        if near > most.len() {
            most = &rest[..near];
        }
    }
    most
}

/// Asks the index for the first bytes from an offset on, at least a batch; none unless a journal
/// file that is sealed has them.
fn look(
    state: &Sequencer,
    number: u32,
    from: Offset,
    bytes_max: u64,
    sections: &SectionsRead,
) -> Result<Option<Next>, Run> {
    let Some(stream) = state.streams.get(&number) else { return Ok(None) };
    let Place::Run(first) = stream.place(from.0) else { return Ok(None) };
    let run = &stream.runs[first];
    if run.is_compacted() {
        return Ok(None);
    }
    let section = sections.get(&run.index.base).ok_or_else(|| run.clone())?;
    let entries = run.entries(section);
    let entries = &entries[entries.partition_point(|entry| entry.next() <= from.0)..];
    let Some(first) = entries.first() else { return Ok(None) };
    let Some((_, file)) = state.files.range(..=first.at).next_back() else { return Ok(None) };
    let mut next = Next { from: first.at, to: file.file.end(), bytes: 0 };
    for entry in entries {
        let bytes = next.bytes + u64::from(entry.bytes);
        if next.bytes > 0 && bytes > bytes_max {
            next.to = entry.at;
            break;
        }
        next.bytes = bytes;
    }
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_are_found_where_they_are_near_each_other() {
        let near = |at: &[u64], reach| nearest(at, reach, |at| *at).to_vec();
        assert!(near(&[], 5).is_empty());
        assert_eq!(near(&[1, 20, 22, 24, 25, 90, 91], 5), [20, 22, 24]);
        assert_eq!(near(&[1, 20, 22, 24, 25, 90, 91], 6), [20, 22, 24, 25]);
        assert_eq!(near(&[1, 2, 7, 8], 5), [1, 2]);
    }
}
