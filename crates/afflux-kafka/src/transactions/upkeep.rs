//! Keeps `__transaction_state` as small as what it says.
//!
//! Each transaction leaves two records there, of which the last alone says something; and a file
//! of the journal stays as long as any record in it. So where records pile up:
//! 1. Under the coordinator's lock, and only while no record is on its way, all of it is appended
//!    anew. What changes from here on lies behind that.
//! 2. Once that is durable, all before it is trimmed.
//!
//! A crash between leaves both, which say the same. What is on its way is waited for: this is tried
//! again with the next look.

use afflux_log::{Entry, Group, Log as _, Ticket};
use afflux_record::{Compression, batch};
use afflux_types::TopicPartition;
use kafka_protocol::ResponseError;

use super::{record, state_partition};
use crate::{broker::Broker, code};

/// How much is appended at once.
const BATCH_BYTES: usize = 256 << 10;

pub(super) async fn keep_small(broker: &Broker) -> Result<(), ResponseError> {
    let partition = state_partition().ok_or(ResponseError::UnknownServerError)?;
    if broker.log.partition_count(&partition.topic).is_none() {
        return Ok(());
    }
    let bounds = broker.log.bounds(&partition).map_err(|error| code::of_read(&error))?;
    let records = u64::try_from(bounds.end.0 - bounds.start.0).unwrap_or(0);
    let Some(tickets) = append_all(broker, &partition, records)? else { return Ok(()) };
    let mut first = None;
    for ticket in tickets {
        let appended = ticket.await.map_err(|error| code::of_group_append(&error))?;
        first = first.or(appended.base_offsets.first().copied());
    }
    let (log, before) = (broker.log.clone(), first.unwrap_or(bounds.end));
    tokio::task::spawn_blocking(move || log.trim(&partition, before))
        .await
        .map_err(|_| ResponseError::UnknownServerError)?
        .map_err(|error| code::of_trim(&error))?;
    Ok(())
}

/// Appends what all ids are up to, if there are far more records than that takes.
fn append_all(
    broker: &Broker,
    partition: &TopicPartition,
    records: u64,
) -> Result<Option<Vec<Ticket>>, ResponseError> {
    let time = broker.env.clock.now();
    let coordinator = broker.transactions.coordinator.lock();
    let spare = u64::from(broker.options.transaction_records_spare);
    let Some(live) = coordinator.settled() else { return Ok(None) };
    let mut live = live.peekable();
    let mut tickets = Vec::new();
    if records <= 2 * coordinator.len() as u64 + spare {
        return Ok(None);
    }
    while live.peek().is_some() {
        let (mut builder, mut bytes) = (batch::Builder::new(Compression::None), 0);
        while bytes < BATCH_BYTES
            && let Some((id, facts)) = live.next()
        {
            let (key, value) = (record::encode_key(id), record::encode_value(facts));
            bytes += key.len() + value.len();
            builder.push(time, Some(&key), Some(&value));
        }
        let batch = builder.finish().map_err(|error| code::of_batch(&error))?;
        let entry = Entry { partition: partition.clone(), batch };
        tickets.push(broker.log.append(&Group { entries: vec![entry] }));
    }
    Ok(Some(tickets))
}
