//! What compaction leaves of a batch. Pure.
//!
//! Batches are shown in the order of offsets, from the partition's start on, each with the aborted
//! transactions that have records there. Of a batch stays:
//! 1. A record that has a key of which no newer record is known, and that was not aborted. Records
//!    without a key go.
//! 2. Of those, a tombstone until its batch's horizon: `delete_retention` after the first pass that
//!    sees it, which is the one that drops what it deletes.
//! 3. A marker while the pass finds records of its transaction, and then until a horizon of its own.
//!    So nobody who is in the middle of a transaction misses how it ended.
//! 4. A header without records in the place of the last batch of a producer, so that the sequence
//!    that it goes on with can be read from the partition, and of the last batch of the pass, so
//!    that who reads gets to the end.

use std::time::Duration;

use afflux_record::{
    BatchError, Header, Marker,
    batch::{self, RecordRef, Unpacked},
};
use afflux_types::Timestamp;
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use siphasher::sip128::SipHasher13;

use super::{newest::Newest, parts::Parts};
use crate::{contract::AbortedTransaction, index::IndexEntry, transactions::is_visible};

/// The newest offset of each key, by a digest of 128 bits of it. The digest is seeded, so that
/// nobody can make two keys that share one.
#[derive(Debug)]
pub(super) struct Keys {
    newest: Newest,
    digest: SipHasher13,
    most: usize,
    /// Of one batch.
    batch: Vec<(u128, i64)>,
}

impl Keys {
    pub(super) fn new(seeds: [u64; 2], bytes_max: usize) -> Self {
        let digest = SipHasher13::new_with_keys(seeds[0], seeds[1]);
        let most = (bytes_max / Newest::KEY_BYTES).max(1);
        Self { newest: Newest::new(), digest, most, batch: Vec::new() }
    }

    fn digest(&self, key: &[u8]) -> u128 {
        self.digest.hash(key).as_u128()
    }

    /// Notes the records of a batch that count. False, and nothing is noted, if there may be more
    /// of them than there is memory for; but the first batch is always taken.
    pub(super) fn note(
        &mut self,
        batch: &Bytes,
        aborted: &[AbortedTransaction],
    ) -> Result<bool, BatchError> {
        if !is_visible(batch, aborted) {
            return Ok(true);
        }
        let count = Header::parse(batch)?.record_count as usize;
        if self.newest.len() > 0 && self.newest.len() + count > self.most {
            return Ok(false);
        }
        self.batch.clear();
        for record in Unpacked::new(batch)?.records() {
            let record = record?;
            if let Some(key) = record.key {
                self.batch.push((self.digest(key), record.offset.0));
            }
        }
        self.newest.note(&self.batch);
        Ok(true)
    }

    /// Leaves those records of a batch of whose keys no newer one is known.
    fn retain_newest(&mut self, records: &mut Vec<(RecordRef<'_>, &[u8])>) {
        self.batch.clear();
        for (record, key) in &*records {
            self.batch.push((self.digest(key), record.offset.0));
        }
        let mut at = 0;
        records.retain(|_| {
            let (digest, offset) = self.batch[at];
            at += 1;
            self.newest.get(digest).is_none_or(|newest| offset >= newest)
        });
    }
}

/// A pass's way through its partition.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) keys: Keys,
    /// Where something is that may stay, once all keys are known.
    pub(super) parts: Parts,
    /// When the pass began.
    pub(super) now: Timestamp,
    pub(super) delete_retention: Duration,
    /// The last batch of each producer.
    pub(super) last_batches: HashMap<i64, i64>,
    /// Behind the last batch of the pass.
    pub(super) upper: i64,
    /// Producers of whose transaction records were found, and no marker yet.
    pub(super) inside: HashSet<i64>,
}

impl Filter {
    /// Notes the keys of the next batch. False, and all is as it was, if there are too many.
    pub(super) fn note(
        &mut self,
        batch: &Bytes,
        aborted: &[AbortedTransaction],
    ) -> Result<bool, BatchError> {
        let header = Header::parse(batch)?;
        let noted = self.keys.note(batch, aborted)?;
        // Something of it may stay although no record of it is a key's newest, or something of
        // another for its sake.
        if noted && (header.is_transactional() || header.is_control() || self.is_last(&header)) {
            self.parts.mark(header.base_offset.0);
        }
        Ok(noted)
    }

    /// Tells that all keys were noted.
    pub(super) fn knows_all(&mut self) {
        self.keys.newest.offsets().for_each(|offset| self.parts.mark(offset));
    }

    /// Whether something may be left of a batch, once all keys are known.
    pub(super) fn wants(&self, entry: &IndexEntry) -> bool {
        entry.next() >= self.upper || self.parts.has_marked(entry.base, entry.next())
    }

    /// What is left of the next batch, if anything is.
    pub(super) fn next(
        &mut self,
        batch: &Bytes,
        aborted: &[AbortedTransaction],
    ) -> Result<Option<Bytes>, BatchError> {
        let header = Header::parse(batch)?;
        if Marker::of(&header, batch).is_some() {
            return self.marker(batch, &header);
        }
        if header.is_transactional() && header.record_count > 0 && !header.is_control() {
            self.inside.insert(header.producer_id.0);
        }
        let mut found = Vec::new();
        let is_over = header.delete_horizon().is_some_and(|horizon| self.now >= horizon);
        let unpacked = is_visible(batch, aborted).then(|| Unpacked::new(batch)).transpose()?;
        for record in unpacked.iter().flat_map(Unpacked::records) {
            let record = record?;
            let offset = record.offset.0;
            let is_gone = record.value.is_none() && is_over;
            if let Some(key) = record.key
                && !is_gone
                && self.parts.has_marked(offset, offset + 1)
            {
                found.push((record, key));
            }
        }
        self.keys.retain_newest(&mut found);
        let kept: Vec<_> = found.into_iter().map(|(record, _)| record).collect();
        let has_tombstones = kept.iter().any(|record| record.value.is_none());
        if kept.is_empty() && !self.is_last(&header) {
            return Ok(None);
        }
        let horizon = (has_tombstones && header.delete_horizon().is_none()).then(|| self.horizon());
        if kept.len() == header.record_count as usize && horizon.is_none() {
            return Ok(Some(batch.clone()));
        }
        batch::retain(batch, &kept, horizon).map(Some)
    }

    fn marker(&mut self, batch: &Bytes, header: &Header) -> Result<Option<Bytes>, BatchError> {
        if self.inside.remove(&header.producer_id.0) {
            return Ok(Some(batch.clone()));
        }
        match header.delete_horizon() {
            Some(horizon) if self.now >= horizon && header.next_offset().0 < self.upper => Ok(None),
            Some(_) => Ok(Some(batch.clone())),
            None => {
                let unpacked = Unpacked::new(batch)?;
                let records: Vec<_> = unpacked.records().collect::<Result<_, _>>()?;
                batch::retain(batch, &records, Some(self.horizon())).map(Some)
            }
        }
    }

    fn horizon(&self) -> Timestamp {
        self.now.saturating_add(self.delete_retention)
    }

    /// Whether something must stay in a batch's place.
    fn is_last(&self, header: &Header) -> bool {
        self.last_batches.get(&header.producer_id.0) == Some(&header.base_offset.0)
            || header.next_offset().0 >= self.upper
    }
}
