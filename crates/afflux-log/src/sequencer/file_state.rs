//! What is known of a journal file beside its bytes.

use std::sync::Arc;

use hashbrown::HashSet;

use crate::{
    index::Pieces,
    journal::{IndexFile, JournalFile},
};

/// Group boundaries are remembered at least this far apart.
const BOUNDARY_EVERY: u64 = 16 << 10;
/// A journal file and what is known of it.
#[derive(Debug)]
pub(crate) struct FileState {
    pub(crate) file: Arc<JournalFile>,
    /// Some group boundaries, until `index` has them.
    pub(crate) boundaries: Vec<u64>,
    /// Piece lists of staged batches that were committed here, until `index` has them.
    pub(crate) pieces: Vec<Pieces>,
    /// Earlier files with bytes of groups committed here.
    pub(crate) foreign: HashSet<(u32, u64)>,
    /// Its index, once sealed.
    pub(crate) index: Option<Arc<IndexFile>>,
}

impl FileState {
    pub(crate) fn new(file: Arc<JournalFile>) -> Self {
        Self {
            file,
            boundaries: Vec::new(),
            pieces: Vec::new(),
            foreign: HashSet::new(),
            index: None,
        }
    }

    /// Remembers a group boundary, unless the last one is near.
    pub(crate) fn boundary(&mut self, end: u64) {
        if end >= self.boundaries.last().copied().unwrap_or(0) + BOUNDARY_EVERY {
            self.boundaries.push(end);
        }
    }

    /// Remembers the last group's end, if it lies in this file, before the file is indexed.
    pub(crate) fn seal_boundaries(&mut self, groups_end: u64) {
        let last = self.boundaries.last().copied().unwrap_or(self.file.base);
        if groups_end > last {
            self.boundaries.push(groups_end);
        }
    }

    pub(crate) fn boundaries(&self) -> &[u64] {
        self.index.as_ref().map_or(&self.boundaries, |index| &index.boundaries)
    }
}
