//! Writes what has to survive of groups, and reads it back at start.
//!
//! 1. Each event changes groups, and its records go to the log under the same lock: so they lie
//!    there in the order of events.
//! 2. Its replies wait until those are durable, and so do the replies of all later events: what a
//!    client is told can not be taken back by a crash.
//! 3. If a write is refused (the disk is full), who waits for it is told to try again, and what
//!    it was about is written with the next event, as it is by then.

use std::{collections::BTreeMap, time::Duration};

use afflux_log::{Appended, Entry, Group, Ticket};
use afflux_record::{Compression, batch};
use afflux_types::Offset;
use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::{Groups, Inner, commits::offsets_partition};
use crate::{
    broker::Broker,
    code,
    fields::MalformedRecord,
    group::{Answer, Coordinator, GroupId, Reply, records::Key},
};

/// The most that a group may take: what is read back at start is bounded, too.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Replies in line, and the write that they wait for.
pub(super) struct Outgoing {
    write: Option<(Ticket, Vec<Key>)>,
    replies: Vec<Reply>,
}

/// The records of groups, folded.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<GroupId, BTreeMap<Key, Bytes>>);

impl Records {
    /// Applies a record, if it is about a group.
    pub(super) fn apply(
        &mut self,
        key: Option<&Bytes>,
        value: Option<&Bytes>,
    ) -> Result<(), MalformedRecord> {
        let Some(Some(key)) = key.map(|key| Key::decode(key)).transpose()? else { return Ok(()) };
        let records = self.0.entry(key.group().clone()).or_default();
        match value {
            Some(value) => records.insert(key, value.clone()),
            None => records.remove(&key),
        };
        Ok(())
    }

    /// Hands all groups to the coordinator. One that does not read is reported and left out: its
    /// members join anew, and its offsets stand. `session` is how long a group's members are not
    /// missed.
    pub(super) fn load(
        self,
        now: Duration,
        coordinator: &mut Coordinator,
        session: impl Fn(&GroupId) -> Duration,
    ) {
        for (group, records) in self.0 {
            if records.is_empty() {
                continue;
            }
            if let Err(error) = coordinator.load(now, &group, &records, session(&group)) {
                tracing::warn!(group = &*group, %error, "a group is left out");
            }
        }
    }
}

impl Groups {
    /// Has what changed written, and passes replies on once it is durable.
    pub(super) fn pass_on(&self, inner: &mut Inner, mut replies: Vec<Reply>) {
        let (write, too_large) = self.write_changed(inner);
        if too_large {
            refuse(&mut replies, ResponseError::UnknownServerError);
        }
        if write.is_none() && inner.writing == 0 {
            answer(inner, replies);
        } else if write.is_some() || !replies.is_empty() {
            inner.writing += 1;
            // The line is there as long as the listener is.
            let _ = self.outbox.send(Outgoing { write, replies });
        }
    }

    /// Whether something of it is too large to be stored is told, too.
    fn write_changed(&self, inner: &mut Inner) -> (Option<(Ticket, Vec<Key>)>, bool) {
        let time = self.clock.now();
        let mut changed = inner.coordinator.take_changed(time);
        let all = changed.len();
        changed.retain(|(key, value)| {
            let bytes = value.as_ref().map_or(0, Vec::len);
            if bytes > RECORD_BYTES_MAX {
                let group = &**key.group();
                tracing::error!(group, bytes, "too large to be stored: it ends with this process");
            }
            bytes <= RECORD_BYTES_MAX
        });
        let too_large = changed.len() < all;
        if changed.is_empty() {
            return (None, too_large);
        }
        let mut builder = batch::Builder::new(Compression::None);
        for (key, value) in &changed {
            builder.push(time, Some(&key.encode()), value.as_deref());
        }
        let keys = changed.into_iter().map(|(key, _)| key).collect();
        let entry = offsets_partition()
            .and_then(|partition| Some(Entry { partition, batch: builder.finish().ok()? }));
        let write = entry.map(|entry| (self.log.append(&Group { entries: vec![entry] }), keys));
        (write, too_large)
    }

    /// Passes replies on in their order, each once what it waits for is durable. Never ends by
    /// itself.
    pub(crate) async fn deliver(broker: &Broker) {
        let groups = &broker.groups;
        let Some(mut line) = groups.line.lock().take() else { return };
        while let Some(Outgoing { write, mut replies }) = line.recv().await {
            let mut again = Vec::new();
            if let Some((ticket, keys)) = write {
                match ticket.await {
                    Ok(appended) => groups.note_end(end_of(&appended, keys.len())),
                    Err(error) => {
                        tracing::warn!(%error, "a group could not be stored");
                        let error = code::of_group_append(&error);
                        refuse(&mut replies, error);
                        again = keys;
                    }
                }
            }
            let mut inner = groups.inner.lock();
            inner.writing -= 1;
            inner.coordinator.change_again(again);
            answer(&mut inner, replies);
        }
    }
}

/// Behind the last of some records that were appended as one batch.
pub(super) fn end_of(appended: &Appended, records: usize) -> Offset {
    Offset(appended.base_offsets.first().map_or(0, |base| base.0) + records as i64)
}

fn answer(inner: &mut Inner, replies: Vec<Reply>) {
    for reply in replies {
        if let Some(waiting) = inner.parked.remove(&reply.to) {
            // Its connection may be gone; its session will tell.
            let _ = waiting.send(reply.answer);
        }
    }
}

/// What was promised is not stored: the client has to ask again, or differently.
fn refuse(replies: &mut [Reply], error: ResponseError) {
    for reply in replies {
        reply.answer = match &reply.answer {
            Answer::Joined(joined) => Answer::JoinRefused(error, Some(joined.member.clone())),
            Answer::JoinRefused(_, member) => Answer::JoinRefused(error, member.clone()),
            Answer::Synced(_) | Answer::SyncRefused(_) => Answer::SyncRefused(error),
            Answer::Beat(_) => Answer::Beat(Err((error, "The group could not be stored."))),
            Answer::Ended(_) => Answer::Ended(Err(error)),
            Answer::Left(left) => Answer::Left(left.and(Err(error))),
        };
    }
}
