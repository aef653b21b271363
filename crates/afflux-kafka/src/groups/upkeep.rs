//! Keeps `__consumer_offsets` as small as what it says.
//!
//! *Expiry*, now and then: a commit that nobody needs, and that nobody needed for
//! [`crate::Options::group_offsets_retention`], is taken back; then groups that have no members
//! and stand nowhere end.
//!
//! *Rewriting*, when there are far more records than commits and groups:
//! 1. Commits, and ends of transactions, are held back until none is on its way, and groups are
//!    locked: so what is in memory is what all records together say.
//! 2. All of it is appended anew. What changes from here on lies behind that.
//! 3. Once that is durable, all before it is trimmed, but nothing behind the first commit of a
//!    transaction that is open: it counts with its marker, which comes later.
//!
//! A crash before 3 leaves both, which say the same: the newer records are read last. The
//! records that take something back are not written anew; they go along with what they took back.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use afflux_log::{Entry, Group, Log as _, Ticket};
use afflux_record::{Compression, batch};
use afflux_types::{Offset, TopicPartition};
use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::{
    Groups,
    commits::{Commit, offsets_partition},
};
use crate::{
    broker::Broker,
    code,
    group::{
        GroupId,
        offsets::{encode_key, encode_value},
    },
};

/// How much is appended at once when all is written anew.
const BATCH_BYTES: usize = 256 << 10;

impl Groups {
    /// Does what is due. Never ends by itself.
    pub(crate) async fn keep_small(broker: &Arc<Broker>) {
        let mut checks = tokio::time::interval(broker.options.group_offsets_check);
        loop {
            tokio::select! {
                () = broker.groups.crowded.notified() => {}
                _ = checks.tick() => {
                    if let Err(error) = Self::expire(broker).await {
                        tracing::warn!(%error, "expired commits could not be taken back");
                    }
                }
            }
            if broker.groups.is_crowded()
                && let Err(error) = Self::rewrite(broker).await
            {
                tracing::warn!(%error, "the records of groups could not be written anew");
            }
        }
    }

    /// Notes where the last record of a commit or a group lies.
    pub(super) fn note_end(&self, end: Offset) {
        self.end.fetch_max(end.0, Ordering::Relaxed);
        if self.is_crowded() {
            self.crowded.notify_one();
        }
    }

    fn is_crowded(&self) -> bool {
        self.end.load(Ordering::Relaxed) >= self.crowded_at.load(Ordering::Relaxed)
    }

    /// There are so many records that say something, the first of them here.
    pub(super) fn note_live(&self, first: Offset, live: usize) {
        let most = (live as i64).saturating_mul(2).saturating_add(self.spare_records);
        self.crowded_at.store(first.0.saturating_add(most), Ordering::Relaxed);
    }

    async fn expire(broker: &Arc<Broker>) -> Result<(), ResponseError> {
        let groups = &broker.groups;
        let _held = groups.hold_commits().await;
        let ids: Vec<GroupId> = groups.offsets.read().groups().cloned().collect();
        let mut expired = Vec::new();
        for id in ids {
            groups.find_expired(broker, &id, &mut expired);
        }
        Self::write(broker, expired).await?;
        groups.with(|inner| {
            let offsets = groups.offsets.read();
            (inner.coordinator.end_idle(|id| offsets.all(id).next().is_some()), Vec::new())
        });
        Ok(())
    }

    fn find_expired(&self, broker: &Broker, id: &GroupId, expired: &mut Vec<Commit>) {
        let (now, retention) = (self.clock.now(), broker.options.group_offsets_retention);
        // Before the offsets are locked: who ends a transaction locks these first. New ones wait.
        let pending: HashSet<TopicPartition> = {
            let all = self.pending.lock();
            let its = all.all().filter(|(of, ..)| of == id);
            its.map(|(_, partition, _)| partition.clone()).collect()
        };
        let (mut inner, offsets) = (self.inner.lock(), self.offsets.read());
        for (at, committed) in offsets.all(id).filter(|(at, _)| !pending.contains(*at)) {
            let topic = at.topic.as_str();
            let since = inner.coordinator.unneeded_since(now, id, topic, committed.time);
            let until =
                since.map(|since| committed.expires.unwrap_or(since.saturating_add(retention)));
            if until.is_some_and(|until| until <= now) {
                expired.push((id.clone(), at.clone(), None));
            }
        }
    }

    async fn rewrite(broker: &Arc<Broker>) -> Result<(), ResponseError> {
        let groups = &broker.groups;
        let partition = offsets_partition().ok_or(ResponseError::UnknownServerError)?;
        let _held = groups.hold_commits().await;
        let bounds = broker.log.bounds(&partition).map_err(|error| code::of_read(&error))?;
        let (tickets, live) = groups.append_all(&partition)?;
        let mut first = None;
        for ticket in tickets {
            let appended = ticket.await.map_err(|error| code::of_append(&error))?;
            first = first.or(appended.base_offsets.first().copied());
        }
        let first = first.unwrap_or(bounds.durable);
        let (log, before) = (Arc::clone(&broker.log), first.min(bounds.stable));
        tokio::task::spawn_blocking(move || log.trim(&partition, before))
            .await
            .map_err(|_| ResponseError::UnknownServerError)?
            .map_err(|error| {
                tracing::warn!(%error, "older records of groups could not be dropped");
                ResponseError::KafkaStorageError
            })?;
        groups.note_live(first, live);
        Ok(())
    }

    /// Appends all that groups and commits are; how many records that takes.
    fn append_all(
        &self,
        partition: &TopicPartition,
    ) -> Result<(Vec<Ticket>, usize), ResponseError> {
        let time = self.clock.now();
        let (inner, mut offsets) = (self.inner.lock(), self.offsets.write());
        offsets.forget_taken_back();
        let coordinator = &inner.coordinator;
        let states = coordinator.keys().into_iter().filter_map(|key| {
            let value = coordinator.value(&key)?;
            Some((key.encode(), value))
        });
        let commits = offsets.groups().flat_map(|group| {
            offsets
                .all(group)
                .map(|(at, committed)| (encode_key(group, at), encode_value(committed)))
        });
        let (mut tickets, mut live) = (Vec::new(), 0);
        let mut append = |batch: Bytes| {
            let entry = Entry { partition: partition.clone(), batch };
            tickets.push(self.log.append(&Group { entries: vec![entry] }));
        };
        let mut builder = batch::Builder::new(Compression::None);
        let mut bytes = 0;
        for (key, value) in states.chain(commits) {
            builder.push(time, Some(&key), Some(&value));
            live += 1;
            bytes += key.len() + value.len();
            if bytes >= BATCH_BYTES {
                let full = std::mem::replace(&mut builder, batch::Builder::new(Compression::None));
                append(full.finish().map_err(|error| code::of_batch(&error))?);
                bytes = 0;
            }
        }
        if bytes > 0 {
            append(builder.finish().map_err(|error| code::of_batch(&error))?);
        }
        Ok((tickets, live))
    }
}
