//! Writes anew what the records of a topic say, where far more were written than still say
//! something: those of groups and commits, and those of transactions.
//!
//! 1. It is noted up to where the partition is stable.
//! 2. All that stands is appended, a part at a time, each durable before the next. Whoever appends
//!    a part sees to it that it is what all records before it say; what changes from then on lies
//!    behind it.
//! 3. What lies before 1 is dropped: whatever it says is said again behind that. What belongs to a
//!    transaction that was open then stays, for it counts with its marker.
//!
//! What is refused, by a full disk, is tried again later, and nothing else: so the log does not
//! grow by trying. A crash leaves both, which say the same: the newer records are read last.
//!
//! Not here: what stands, and when it is time.

use std::sync::Arc;

use afflux_log::{EmbeddedLog, Entry, Group, Log as _, Ticket};
use afflux_record::{Compression, batch::Builder};
use afflux_types::{Offset, Timestamp, TopicPartition};
use kafka_protocol::ResponseError;

use crate::{broker::blocking, code};

/// See the module.
pub(crate) struct Rewriting {
    partition: TopicPartition,
    /// What lies before this is to be dropped.
    before: Offset,
    /// Where the partition ended when this was begun.
    pub(crate) begun: Offset,
    /// How many records were written anew.
    pub(crate) records: usize,
}

/// Some of what stands.
pub(crate) struct Part {
    builder: Builder,
    time: Timestamp,
    bytes: usize,
    bytes_max: usize,
    records: usize,
}

/// A part in the log's hands; none if there was nothing in it.
pub(crate) type Appending = Option<(Ticket, usize)>;

impl Part {
    /// Nothing yet, of a time, to be full with so many bytes.
    pub(crate) fn new(time: Timestamp, bytes_max: usize) -> Self {
        let builder = Builder::new(Compression::None);
        Self { builder, time, bytes: 0, bytes_max, records: 0 }
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.builder.push(self.time, Some(key), Some(value));
        self.bytes += key.len() + value.len();
        self.records += 1;
    }

    /// Whether it is enough for once.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }
}

impl Rewriting {
    /// Begins.
    pub(crate) fn begin(
        log: &EmbeddedLog,
        partition: TopicPartition,
    ) -> Result<Self, ResponseError> {
        let bounds = log.bounds(&partition).map_err(|error| code::of_read(&error))?;
        Ok(Self { partition, before: bounds.stable, begun: bounds.end, records: 0 })
    }

    /// Hands a part to the log.
    pub(crate) fn append(&self, log: &EmbeddedLog, part: Part) -> Result<Appending, ResponseError> {
        if part.records == 0 {
            return Ok(None);
        }
        let batch = part.builder.finish().map_err(|error| code::of_batch(&error))?;
        let entries = vec![Entry { partition: self.partition.clone(), batch }];
        Ok(Some((log.append(&Group { entries }), part.records)))
    }

    /// Waits until a part is durable.
    pub(crate) async fn settle(&mut self, appending: Appending) -> Result<(), ResponseError> {
        let Some((ticket, records)) = appending else { return Ok(()) };
        ticket.await.map_err(|error| code::of_group_append(&error))?;
        self.records += records;
        Ok(())
    }

    /// Drops what was there before, now that all is written anew.
    pub(crate) async fn finish(&self, log: &Arc<EmbeddedLog>) -> Result<(), ResponseError> {
        let (partition, before) = (self.partition.clone(), self.before);
        blocking(log, move |log| log.trim(&partition, before))
            .await
            .map_err(|_| ResponseError::UnknownServerError)?
            .map(drop)
            .map_err(|error| code::of_trim(&error))
    }
}
