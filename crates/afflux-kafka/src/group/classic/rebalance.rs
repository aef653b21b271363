//! One round of a classic group: who is in the new generation, what it speaks, who leads it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kafka_protocol::ResponseError;

use super::{Group, MemberId, Reply, State, Token, refuse_parked};
use crate::group::{Answer, Joined, Synced};

impl Group {
    /// Takes a member out; whatever it waits for is refused.
    pub(super) fn remove(&mut self, id: &MemberId, error: ResponseError, replies: &mut Vec<Reply>) {
        let Some(mut member) = self.members.remove(id) else { return };
        refuse_parked(&mut member, id, error, replies);
        if self.leader.as_ref() == Some(id) {
            self.leader = None;
        }
    }

    /// Members were lost: those that are left share anew.
    pub(super) fn after_loss(&mut self, now: Duration, replies: &mut Vec<Reply>) {
        if matches!(self.state, State::Syncing | State::Stable) {
            self.prepare(now, replies);
        }
        self.complete_if_due(now, replies);
    }

    /// Starts a rebalance unless one is going on.
    pub(crate) fn prepare(&mut self, now: Duration, replies: &mut Vec<Reply>) {
        let longest = self.longest_rebalance();
        if self.state == State::Preparing {
            return;
        }
        self.state = State::Preparing;
        self.earliest = now;
        self.latest = now + longest;
        for member in self.members.values_mut() {
            member.synced = false;
            if let Some(to) = member.parked_sync.take() {
                member.expires = now + member.session;
                let answer = Answer::SyncRefused(ResponseError::RebalanceInProgress);
                replies.push(Reply { to, answer });
            }
        }
    }

    /// Ends a rebalance if all have joined, or time is up.
    pub(super) fn complete_if_due(&mut self, now: Duration, replies: &mut Vec<Reply>) {
        if self.state != State::Preparing || now < self.earliest {
            return;
        }
        if !self.all_joined() && now < self.latest {
            return;
        }
        // A static member may be away for as long as its session lasts.
        let absent: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| member.parked_join.is_none() && member.instance.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in &absent {
            self.remove(id, ResponseError::UnknownMemberId, replies);
        }
        if !self.members.is_empty() && self.members.values().all(|m| m.parked_join.is_none()) {
            // Nobody is there to lead those who are away.
            self.latest = now + self.longest_rebalance();
            return;
        }
        // Generations are told from "none" by their sign.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.state = State::Empty;
            self.protocol = None;
            self.leader = None;
            self.changed = true;
            return;
        }
        self.protocol = self.vote();
        let has_joined = |id: &MemberId| self.members[id].parked_join.is_some();
        if !self.leader.as_ref().is_some_and(has_joined) {
            self.leader = self
                .members
                .iter()
                .filter(|(_, member)| member.parked_join.is_some())
                .min_by_key(|(_, member)| member.order)
                .map(|(id, _)| id.clone());
        }
        self.state = State::Syncing;
        self.latest = now + self.longest_rebalance();
        let waiting: Vec<(MemberId, Token)> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| {
                member.synced = member.parked_join.is_none();
                let token = member.parked_join.take()?;
                member.expires = now + member.session;
                Some((id.clone(), token))
            })
            .collect();
        for (id, to) in waiting {
            replies.push(Reply { to, answer: Answer::Joined(self.joined(&id)) });
        }
    }

    /// The protocol known to all that most members like best; of several, the first by name.
    pub(super) fn vote(&self) -> Option<Arc<str>> {
        let known_to_all = |name: &Arc<str>| {
            self.members.values().all(|member| member.protocols.iter().any(|(n, _)| n == name))
        };
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let favourite =
                member.protocols.iter().map(|(name, _)| name).find(|name| known_to_all(name));
            if let Some(name) = favourite {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.clone())
    }

    /// The answer to a static member that takes its former place in the present generation.
    /// Whoever leads is told so, but not to assign; clients that can not be told that (before
    /// version 9) are told that somebody else leads: their former self.
    pub(super) fn rejoined(&self, id: &MemberId, former: Option<MemberId>) -> Answer {
        let mut joined = self.joined(id);
        joined.skip = joined.leader == *id && former.is_none();
        if let Some(former) = former {
            joined.leader = former;
            joined.members.clear();
        }
        Answer::Joined(joined)
    }

    /// The answer to a join in the present generation.
    pub(super) fn joined(&self, id: &MemberId) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_else(|| "".into());
        let leader = self.leader.clone().unwrap_or_else(|| id.clone());
        let members = if leader == *id {
            let mut members: Vec<_> = self.members.iter().collect();
            members.sort_by_key(|(_, member)| member.order);
            members
                .into_iter()
                .map(|(id, member)| {
                    (id.clone(), member.instance.clone(), member.metadata(&protocol))
                })
                .collect()
        } else {
            Vec::new()
        };
        Joined {
            generation: self.generation,
            kind: self.kind(),
            protocol,
            leader,
            member: id.clone(),
            members,
            skip: false,
        }
    }

    /// The answer to a sync in the present generation.
    pub(super) fn synced(&self, id: &MemberId) -> Answer {
        Answer::Synced(Synced {
            kind: self.kind(),
            protocol: self.protocol.clone().unwrap_or_else(|| "".into()),
            assignment: self
                .members
                .get(id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
        })
    }

    /// Puts a group that was one of the consumer protocol to work, with what its members hold.
    pub(crate) fn settle(&mut self) {
        self.protocol = self.vote();
        self.leader = self.members.iter().min_by_key(|(_, m)| m.order).map(|(id, _)| id.clone());
        self.joins = self.members.len() as u64;
        for member in self.members.values_mut() {
            member.synced = true;
        }
        self.state = State::Stable;
        self.set_changed();
    }

    /// Refuses all who wait.
    pub(crate) fn refuse_all(&mut self, error: ResponseError, replies: &mut Vec<Reply>) {
        for (id, member) in &mut self.members {
            refuse_parked(member, id, error, replies);
        }
    }
}
