//! From the entries of a full file to its index, and back in their place.

use std::sync::Arc;

use afflux_types::Incarnation;
use hashbrown::HashMap;

use super::index_file::{Content, IndexFile, Section};
use crate::{
    index::{Run, Stream, WHOLE},
    sequencer::FileState,
};

/// A run of a file's index.
pub(super) fn run_of(index: &Arc<IndexFile>, section: usize) -> Run {
    let run = &index.runs[section];
    Run {
        index: index.clone(),
        section: section as u32,
        base: run.base,
        end: run.end,
        at_first: run.at_first,
        at_last: run.at_last,
        max_timestamp: run.max_timestamp,
        stable: run.stable,
        ended: run.ended,
    }
}

/// What is known of a sealed file beside its batches.
pub(crate) struct Sealing {
    pub(crate) journal: u128,
    pub(crate) end: u64,
    pub(crate) sequence: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) producers: Vec<u8>,
}

/// Collects what the index of a sealed file holds. All earlier files must have theirs.
pub(crate) fn gather<'a>(
    state: &FileState,
    streams: impl Iterator<Item = (&'a u32, &'a Stream)>,
    sealing: Sealing,
) -> Content {
    let mut sections: Vec<(u32, i64, Section)> = streams
        .filter_map(|(number, stream)| {
            let count = stream.live.partition_point(|entry| entry.at < sealing.end);
            let mut section = Section::default();
            for entry in stream.live.range(..count) {
                let mut entry = *entry;
                if entry.pieces != WHOLE {
                    section.pieces.push(state.pieces[entry.pieces as usize].clone());
                    entry.pieces = (section.pieces.len() - 1) as u32;
                }
                section.entries.push(entry);
            }
            let end = section.entries.last()?.next();
            let ended = stream.ended.iter().take_while(|ended| ended.marker < end);
            section.ended.extend(ended);
            // All that ended behind this file is in memory.
            let stable = stream.decided_behind_runs(end);
            Some((*number, stable, section))
        })
        .collect();
    sections.sort_by_key(|(number, ..)| *number);
    let mut foreign: Vec<_> = state.foreign.iter().copied().collect();
    foreign.sort_unstable();
    Content {
        journal: sealing.journal,
        base: state.file.base,
        end: sealing.end,
        sequence: sealing.sequence,
        incarnation: sealing.incarnation,
        sections,
        boundaries: state.boundaries.clone(),
        foreign,
        producers: sealing.producers,
    }
}

/// Puts a file's index in the place of its entries.
pub(crate) fn install(
    state: &mut FileState,
    streams: &mut HashMap<u32, Stream>,
    index: &Arc<IndexFile>,
) {
    for (section, run) in index.runs.iter().enumerate() {
        if let Some(stream) = streams.get_mut(&run.stream) {
            stream.seal(run_of(index, section), index.end);
        }
    }
    state.boundaries = Vec::new();
    state.pieces = Vec::new();
    state.foreign.clear();
    state.index = Some(index.clone());
}
