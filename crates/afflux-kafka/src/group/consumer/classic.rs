//! Members of the classic protocol in a group of the newer one, while it moves to the one or the
//! other. They are never led: each is answered for itself.
//!
//! - *Join* is where such a member says what it wants and holds, and is reconciled.
//! - *Sync* tells it what it was given.
//! - *Heartbeat* tells it to join again: when the epoch has risen, when it has to give something
//!   up, when what it waits for is free.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kafka_protocol::ResponseError;

use super::{Classic, Group, LEAVES_FOR_NOW, Member, Progress};
use crate::group::{
    Answer, Join, Joined, MemberId, Parts, Settings, Standing, Sync, Synced, Topics,
    embedded::{self, KIND, Named, Subscription, encode_assignment},
};

impl Group {
    /// A member joins, or joins again.
    pub(crate) fn join_classic(
        &mut self,
        now: Duration,
        join: &Join,
        settings: &Settings,
        topics: &dyn Topics,
    ) -> Answer {
        let asked = join.member.clone();
        match self.try_join(now, join, settings, topics) {
            Ok(id) => {
                let protocol = join.protocols.first().map(|(name, _)| name.clone());
                Answer::Joined(Joined {
                    generation: self.members[&id].epoch,
                    kind: KIND.into(),
                    protocol: protocol.unwrap_or_else(|| "".into()),
                    leader: "".into(),
                    member: id,
                    members: Vec::new(),
                    skip: false,
                })
            }
            Err(ResponseError::MemberIdRequired) => {
                Answer::JoinRefused(ResponseError::MemberIdRequired, Some(join.fresh.clone()))
            }
            Err(error) => Answer::JoinRefused(error, asked),
        }
    }

    fn try_join(
        &mut self,
        now: Duration,
        join: &Join,
        settings: &Settings,
        topics: &dyn Topics,
    ) -> Result<MemberId, ResponseError> {
        let bearer = join.instance.as_deref().and_then(|name| self.bearer(name)).cloned();
        let id = join.member.clone().unwrap_or_else(|| join.fresh.clone());
        let has_place = bearer.is_some() || self.members.contains_key(&id);
        if !has_place && self.members.len() >= settings.consumer_members_max {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        if self.said_beside(bearer.as_ref().unwrap_or(&id)) + join.bytes() > settings.bytes_max {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        if !self.speaks_with(&id, join) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        let (_, said) = join.protocols.first().ok_or(ResponseError::InconsistentGroupProtocol)?;
        let subscription =
            Subscription::decode(said).map_err(|_| ResponseError::InconsistentGroupProtocol)?;
        if join.member.is_none() && join.named_first && join.instance.is_none() {
            return Err(ResponseError::MemberIdRequired);
        }
        match (&join.instance, bearer, &join.member) {
            (Some(_), Some(bearer), Some(member)) if bearer != *member => {
                return Err(ResponseError::FencedInstanceId);
            }
            (Some(_), None, Some(_)) => return Err(ResponseError::UnknownMemberId),
            (Some(_), Some(bearer), None) => self.rename(&bearer, &id),
            _ => {}
        }
        let before = self.members.get(&id).cloned();
        let mut member = before.clone().unwrap_or_else(Member::new);
        if member.epoch == LEAVES_FOR_NOW {
            member.epoch = 0;
        }
        member.instance = join.instance.clone().or(member.instance);
        member.rack = subscription.rack.or(member.rack);
        member.client = join.client.clone();
        member.host = join.host.clone();
        member.rebalance = join.rebalance;
        member.topics = subscription.topics.into_iter().collect::<BTreeSet<_>>();
        member.expression = None;
        member.assignor = None;
        member.classic = Some(Classic { session: join.session, protocols: join.protocols.clone() });
        member.expires = now + join.session;
        // It has to ask for what it was given in time.
        member.due = Some(now + join.rebalance);
        self.put(id.clone(), before.as_ref(), member);
        self.after_update(now, &id, before.as_ref(), topics);
        self.reconcile(now, &id, Some(&parts(&subscription.owned, topics)));
        Ok(id)
    }

    /// Whether a member knows a protocol that all others of the classic kind know.
    fn speaks_with(&self, id: &MemberId, join: &Join) -> bool {
        let mut others = self
            .members
            .iter()
            .filter(|(other, _)| *other != id)
            .filter_map(|(_, member)| member.classic.as_ref())
            .peekable();
        &*join.kind == KIND
            && (others.peek().is_none()
                || join.protocols.iter().any(|(name, _)| {
                    others.clone().all(|other| other.protocols.iter().any(|(n, _)| n == name))
                }))
    }

    /// A member asks for what it was given.
    pub(crate) fn sync_classic(
        &mut self,
        now: Duration,
        sync: &Sync,
        topics: &dyn Topics,
    ) -> Answer {
        let outcome = self.try_sync(now, sync, topics);
        outcome.map_or_else(Answer::SyncRefused, Answer::Synced)
    }

    fn try_sync(
        &mut self,
        now: Duration,
        sync: &Sync,
        topics: &dyn Topics,
    ) -> Result<Synced, ResponseError> {
        let epoch = self.epoch;
        let member = self.classic_member(&sync.standing)?;
        let Some(classic) = &member.classic else { return Err(ResponseError::UnknownMemberId) };
        let Some((protocol, said)) = classic.protocols.first() else {
            return Err(ResponseError::InconsistentGroupProtocol);
        };
        if sync.kind.as_deref().is_some_and(|kind| kind != KIND)
            || sync.protocol.as_ref().is_some_and(|name| name != protocol)
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        if epoch > member.epoch && member.progress != Progress::Unrevoked {
            member.due.get_or_insert(now + member.rebalance);
            return Err(ResponseError::RebalanceInProgress);
        }
        let synced = Synced {
            kind: KIND.into(),
            protocol: protocol.clone(),
            assignment: encode_assignment(&named(&member.assigned, topics), said),
        };
        member.due = None;
        member.expires = now + classic.session;
        Ok(synced)
    }

    /// A member is alive. Tells it whether to join again.
    pub(crate) fn heartbeat_classic(
        &mut self,
        now: Duration,
        standing: &Standing,
    ) -> Result<(), ResponseError> {
        let waits = self.waits_for_others(&standing.member);
        let epoch = self.epoch;
        let member = self.classic_member(standing)?;
        member.expires = now + member.classic.as_ref().map_or(Duration::ZERO, |it| it.session);
        let must_join = member.epoch < epoch
            || member.progress == Progress::Unrevoked
            || member.progress == Progress::Unreleased && !waits;
        if must_join {
            member.due.get_or_insert(now + member.rebalance);
            return Err(ResponseError::RebalanceInProgress);
        }
        Ok(())
    }

    /// A member goes; by its name, or by its configured name if it is a static member.
    pub(crate) fn leave_classic(
        &mut self,
        member: &MemberId,
        instance: Option<&Arc<str>>,
    ) -> Result<(), ResponseError> {
        let id = match instance {
            Some(instance) => {
                let bearer = self.bearer(instance).ok_or(ResponseError::UnknownMemberId)?;
                if !member.is_empty() && member != bearer {
                    return Err(ResponseError::FencedInstanceId);
                }
                bearer.clone()
            }
            None => member.clone(),
        };
        if self.members.get(&id).is_none_or(|member| member.classic.is_none()) {
            return Err(ResponseError::UnknownMemberId);
        }
        self.remove(&id);
        Ok(())
    }

    /// Whether others still hold something of what a member shall hold.
    fn waits_for_others(&self, id: &MemberId) -> bool {
        let (Some(member), Some(target)) = (self.members.get(id), self.target.get(id)) else {
            return false;
        };
        let mut missing = target.difference(&member.assigned);
        missing.any(|part| self.owners.get(part).is_some_and(|owner| owner != id))
    }

    /// The member that somebody says they are, in the generation in which they say so.
    fn classic_member(&mut self, standing: &Standing) -> Result<&mut Member, ResponseError> {
        if let Some(instance) = &standing.instance
            && self.bearer(instance).is_some_and(|bearer| *bearer != standing.member)
        {
            return Err(ResponseError::FencedInstanceId);
        }
        let member = self.members.get_mut(&standing.member);
        let member = member
            .filter(|member| member.classic.is_some())
            .ok_or(ResponseError::UnknownMemberId)?;
        if member.epoch == standing.generation {
            Ok(member)
        } else {
            Err(ResponseError::IllegalGeneration)
        }
    }
}

/// Partitions by name, as far as there are such topics.
pub(super) fn named(parts: &Parts, topics: &dyn Topics) -> Named {
    let mut named = Named::new();
    for (topic, partition) in parts {
        if let Some(name) = topics.name(*topic) {
            named.entry(name).or_default().push(*partition);
        }
    }
    named
}

/// Partitions by id, as far as there are such topics.
pub(super) fn parts(named: &embedded::Named, topics: &dyn Topics) -> Parts {
    let mut parts = Parts::new();
    for (name, partitions) in named {
        if let Some(shape) = topics.shape(name) {
            parts.extend(partitions.iter().map(|partition| (shape.id, *partition)));
        }
    }
    parts
}
