//! Keeps `__transaction_state` as small as what it says.
//!
//! Each transaction leaves two records there, of which the last alone says something; and a file
//! of the journal stays as long as any record in it. So where records pile up, all ids are written
//! anew (`rewriting`), each under the coordinator's lock and while no record of its own is on its
//! way; the others are left for the next look.

use afflux_log::Log as _;
use kafka_protocol::ResponseError;

use super::{record, state_partition};
use crate::{
    broker::Broker,
    code,
    rewriting::{Appending, Part, Rewriting},
    transaction::TransactionalId,
};

/// All are being written anew.
pub(super) struct Underway {
    rewriting: Rewriting,
    /// The ids that are still to be.
    left: Vec<TransactionalId>,
}

/// Goes on with what is under way, or begins if it is time.
pub(super) async fn keep_small(
    broker: &Broker,
    underway: &mut Option<Underway>,
) -> Result<(), ResponseError> {
    if underway.is_none() {
        *underway = begin(broker)?;
    }
    let Some(Underway { rewriting, left }) = underway else { return Ok(()) };
    let mut moving = Vec::new();
    while !left.is_empty() {
        broker.log.ready().await;
        let mut taken = Vec::new();
        let appended = match append_part(broker, rewriting, left, &mut taken, &mut moving) {
            Ok(appending) => rewriting.settle(appending).await,
            Err(error) => Err(error),
        };
        if appended.is_err() {
            left.append(&mut taken);
            left.append(&mut moving);
            return appended;
        }
    }
    *left = moving;
    if left.is_empty() {
        rewriting.finish(&broker.log).await?;
        *underway = None;
    }
    Ok(())
}

/// Begins, if there are far more records than it takes to say the same.
fn begin(broker: &Broker) -> Result<Option<Underway>, ResponseError> {
    let partition = state_partition().ok_or(ResponseError::UnknownServerError)?;
    if broker.log.partition_count(&partition.topic).is_none() {
        return Ok(None);
    }
    let bounds = broker.log.bounds(&partition).map_err(|error| code::of_read(&error))?;
    let records = u64::try_from(bounds.end.0 - bounds.start.0).unwrap_or(0);
    let spare = u64::from(broker.options.transaction_records_spare);
    let coordinator = broker.transactions.coordinator.lock();
    if records <= 2 * coordinator.len() as u64 + spare {
        return Ok(None);
    }
    let rewriting = Rewriting::begin(&broker.log, partition)?;
    let left = coordinator.list().map(|(id, ..)| id.clone()).collect();
    Ok(Some(Underway { rewriting, left }))
}

/// Appends some of what is left.
fn append_part(
    broker: &Broker,
    rewriting: &Rewriting,
    left: &mut Vec<TransactionalId>,
    taken: &mut Vec<TransactionalId>,
    moving: &mut Vec<TransactionalId>,
) -> Result<Appending, ResponseError> {
    let mut part = Part::new(broker.env.clock.now(), broker.options.rewrite_bytes);
    let coordinator = broker.transactions.coordinator.lock();
    while !part.is_full()
        && let Some(id) = left.pop()
    {
        if coordinator.is_moving(&id) {
            moving.push(id);
        } else if let Some((facts, _)) = coordinator.describe(&id) {
            part.push(&record::encode_key(&id), &record::encode_value(facts));
            taken.push(id);
        }
    }
    rewriting.append(&broker.log, part)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use afflux_env::sim::Sim;
    use afflux_log::TopicSpec;
    use afflux_types::{TopicName, TopicPartition};

    use super::*;
    use crate::{
        Options,
        broker::tests::{alone, fill},
        transaction::{Facts, Identity, State},
        transactions::{append_state, now},
    };

    #[tokio::test]
    async fn what_a_full_disk_stops_goes_on_where_it_stopped() {
        let sim = Sim::new(1);
        let options =
            Options { transaction_records_spare: 4, rewrite_bytes: 1, ..Options::default() };
        let broker = alone(&sim, options);
        let at = state_partition().unwrap();
        let other = TopicPartition::new(TopicName::new("t").unwrap(), 0);
        for topic in [&at.topic, &other.topic] {
            broker.log.ensure_topic(&TopicSpec { name: topic.clone(), partitions: 1 }).unwrap();
        }
        let facts = |id| Facts {
            producer: Identity { id, epoch: 0 },
            previous: -1,
            last_epoch: -1,
            timeout: Duration::from_mins(1),
            state: State::Empty,
            partitions: BTreeSet::new(),
            started: None,
            updated: broker.env.clock.now(),
            version: 0,
        };
        for number in (0..40).chain(0..40).chain(0..40) {
            let id = format!("id-{number}").into();
            append_state(&broker, &id, Some(&facts(number))).unwrap().await.unwrap();
            let mut coordinator = broker.transactions.coordinator.lock();
            coordinator.restore(now(&broker.env), id, facts(number));
        }
        fill(&sim, &broker, &other).await;
        let mut underway = None;
        let mut ends = Vec::new();
        for _ in 0..4 {
            assert!(keep_small(&broker, &mut underway).await.is_err());
            ends.push(broker.log.bounds(&at).unwrap().end.0);
        }
        assert!((121..160).contains(&ends[0]), "some fits, and not all: {ends:?}");
        assert!(ends.iter().all(|end| *end == ends[0]), "it grows by trying: {ends:?}");
        sim.disk.set_capacity(1 << 40);
        while keep_small(&broker, &mut underway).await.is_err() {
            sim.clock.advance(Duration::from_secs(1));
        }
        let bounds = broker.log.bounds(&at).unwrap();
        assert_eq!((bounds.start.0, bounds.end.0), (120, 160));
    }
}
