//! Keeps `__consumer_offsets` as small as what it says.
//!
//! *Expiry*, now and then: a commit that nobody needs, and that nobody needed for
//! [`crate::Options::group_offsets_retention`], is taken back; then groups that have no members
//! and stand nowhere end.
//!
//! *Rewriting* (`rewriting`), when there are far more records than commits and groups: for each
//! part commits, and ends of transactions, are held back until none is on its way, so that what is
//! in memory is what all records before the part say; between parts they go on. Records that take
//! something back are not written anew; they go along with what they took back.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use afflux_log::Log as _;
use afflux_types::{Offset, TopicPartition};
use kafka_protocol::ResponseError;

use super::{
    Groups,
    commits::{Commit, offsets_partition},
};
use crate::{
    broker::Broker,
    code,
    group::{
        Coordinator, GroupId,
        offsets::{Place, encode_key, encode_value},
    },
    rewriting::{Part, Rewriting},
};

/// How soon it is gone on with what a full disk has stopped.
const RETRY: Duration = Duration::from_secs(1);

/// All is being written anew.
struct Underway {
    rewriting: Rewriting,
    /// None once all is written.
    next: Option<Next>,
}

/// What is written anew next: groups first, then commits; each behind the last one.
enum Next {
    Group(Option<GroupId>),
    Commit(Option<Place>),
}

impl Groups {
    /// Does what is due. Never ends by itself.
    pub(crate) async fn keep_small(broker: &Arc<Broker>) {
        let clock = &broker.env.clock;
        let mut check = clock.sleep(Duration::ZERO);
        let mut underway = None;
        loop {
            tokio::select! {
                biased;
                () = &mut check => {
                    check = clock.sleep(broker.options.group_offsets_check);
                    if let Err(error) = Self::expire(broker).await {
                        tracing::warn!(%error, "expired commits could not be taken back");
                    }
                }
                () = clock.sleep(RETRY), if underway.is_some() => {}
                () = broker.groups.crowded.notified(), if underway.is_none() => {}
            }
            if (underway.is_some() || broker.groups.is_crowded())
                && let Err(error) = Self::rewrite(broker, &mut underway).await
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
        self.end.load(Ordering::Relaxed) > self.crowded_at.load(Ordering::Relaxed)
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

    /// Goes on with what is under way, or begins.
    async fn rewrite(
        broker: &Arc<Broker>,
        underway: &mut Option<Underway>,
    ) -> Result<(), ResponseError> {
        let groups = &broker.groups;
        let partition = offsets_partition().ok_or(ResponseError::UnknownServerError)?;
        if underway.is_none() {
            // What is on its way would not be dropped: it is not stable yet.
            let _held = groups.hold_commits().await;
            let rewriting = Rewriting::begin(&broker.log, partition.clone())?;
            *underway = Some(Underway { rewriting, next: Some(Next::Group(None)) });
        }
        let Some(Underway { rewriting, next }) = underway else { return Ok(()) };
        while let Some(at) = next {
            broker.log.ready().await;
            let (appending, behind) = {
                let _held = groups.hold_commits().await;
                let mut part = Part::new(groups.clock.now(), broker.options.rewrite_bytes);
                // Locked until it is appended: what changes of groups comes behind it.
                let inner = groups.inner.lock();
                let behind = groups.fill(&inner.coordinator, at, &mut part);
                (rewriting.append(&broker.log, part)?, behind)
            };
            rewriting.settle(appending).await?;
            *next = behind;
        }
        rewriting.finish(&broker.log).await?;
        groups.note_live(rewriting.begun, rewriting.records);
        *underway = None;
        // Behind what was written anew lies what was committed meanwhile; it may be much.
        let bounds = broker.log.bounds(&partition).map_err(|error| code::of_read(&error))?;
        groups.note_end(bounds.end);
        Ok(())
    }

    /// Fills a part with what groups and commits are; what is next, if that is not all.
    fn fill(&self, coordinator: &Coordinator, from: &Next, part: &mut Part) -> Option<Next> {
        match from {
            Next::Group(behind) => {
                let mut last = behind.clone();
                while !part.is_full() {
                    let Some((group, keys)) = coordinator.behind(last.as_ref()) else {
                        return Some(Next::Commit(None));
                    };
                    for key in keys {
                        if let Some(value) = coordinator.value(&key) {
                            part.push(&key.encode(), &value);
                        }
                    }
                    last = Some(group);
                }
                Some(Next::Group(last))
            }
            Next::Commit(behind) => {
                let mut offsets = self.offsets.write();
                let stopped = offsets.walk(behind.as_ref(), |group, at, committed| {
                    let takes = !part.is_full();
                    if takes {
                        part.push(&encode_key(group, at), &encode_value(committed));
                    }
                    takes
                });
                stopped.map(|last| Next::Commit(Some(last)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use afflux_env::sim::Sim;
    use afflux_types::{Timestamp, TopicName};
    use tokio::task::JoinSet;

    use super::*;
    use crate::{Options, broker::tests::alone, group::offsets::Committed};

    const SPARE: u32 = 3;
    const GROUPS: usize = 10;

    async fn commit(broker: Arc<Broker>, number: usize, offset: i64) {
        let partition = TopicPartition::new(TopicName::new("t").unwrap(), 0);
        let made = Committed {
            topic: None,
            offset: Offset(offset),
            leader_epoch: -1,
            metadata: "".into(),
            time: Timestamp(0),
            expires: None,
        };
        let _begun = broker.groups.begin_commit().await;
        let commit = (format!("g{number}").as_str().into(), partition, Some(made));
        Groups::write(&broker, vec![commit]).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_committed_beside_a_rewriting_counts_with_what_it_wrote() {
        let options =
            Options { group_records_spare: SPARE, rewrite_bytes: 1, ..Options::default() };
        let broker = alone(&Sim::new(1), options);
        for number in 0..GROUPS {
            commit(Arc::clone(&broker), number, 0).await;
        }
        let partition = offsets_partition().unwrap();
        let records = || {
            let bounds = broker.log.bounds(&partition).unwrap();
            (bounds.end.0 - bounds.start.0) as usize
        };
        let most = 2 * GROUPS + SPARE as usize;
        for round in 1..50 {
            // Parts of one record each: too few commits to be too much by themselves.
            let mut commits = JoinSet::new();
            for number in 0..=GROUPS + SPARE as usize {
                commits.spawn(commit(Arc::clone(&broker), number % GROUPS, round));
            }
            Groups::rewrite(&broker, &mut None).await.unwrap();
            commits.join_all().await;
            assert_eq!(broker.groups.is_crowded(), records() > most, "{} records", records());
            Groups::rewrite(&broker, &mut None).await.unwrap();
            assert_eq!(records(), GROUPS);
            assert!(!broker.groups.is_crowded());
        }
    }
}
