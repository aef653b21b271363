//! A live group moves from the classic protocol to this one, and back.
//!
//! - *Up*, when the first member of this protocol joins a classic group of consumers: what its
//!   members were assigned becomes what they hold, its generation the epoch.
//! - *Down*, when the last member of this protocol is gone and others are left: the epoch becomes
//!   the generation, and the rest share anew.

use std::time::Duration;

use super::{
    Classic, Group, Member,
    classic::{named, parts},
};
use crate::group::{
    GroupId, Topics, classic,
    embedded::{KIND, Subscription, decode_assignment, encode_assignment},
    records::Key,
};

impl Group {
    /// What a classic group is in this protocol. None if it can not be that: its members are no
    /// consumers, or an assignor of their own left notes that would be lost.
    pub(crate) fn from_classic(
        now: Duration,
        id: &GroupId,
        classic: &classic::Group,
        topics: &dyn Topics,
    ) -> Option<Self> {
        if &*classic.kind() != KIND {
            return None;
        }
        let mut group = Self::new(id.clone());
        group.epoch = classic.generation.max(1);
        group.target_epoch = group.epoch;
        for (id, before) in &classic.members {
            let (first, _) = before.protocols.first()?;
            let said = before.metadata(classic.protocol.as_ref().unwrap_or(first));
            let subscription = Subscription::decode(&said).ok()?;
            let (held, noted) = decode_assignment(&before.assignment).ok()?;
            if noted {
                return None;
            }
            // Nobody keeps classic members from being told of one partition twice.
            let mut held = parts(&held, topics);
            held.retain(|part| !group.owners.contains_key(part));
            group.owners.extend(held.iter().map(|part| (*part, id.clone())));
            group.target.insert(id.clone(), held.clone());
            let member = Member {
                instance: before.instance.clone(),
                rack: subscription.rack,
                client: before.client.clone(),
                host: before.host.clone(),
                topics: subscription.topics.into_iter().collect(),
                rebalance: before.rebalance,
                classic: Some(Classic {
                    session: before.session,
                    protocols: before.protocols.clone(),
                }),
                epoch: group.epoch,
                previous: group.epoch,
                assigned: held,
                expires: now + before.session,
                ..Member::new()
            };
            group.members.insert(id.clone(), member);
        }
        group.subscriptions_changed();
        Some(group)
    }

    /// Whether only members of the classic protocol are left.
    pub(crate) fn is_all_classic(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(|member| member.classic.is_some())
    }

    /// What the group is in the classic protocol. Its members still have to share anew.
    pub(crate) fn to_classic(&self, now: Duration, topics: &dyn Topics) -> classic::Group {
        let mut group = classic::Group::default();
        group.kind = Some(KIND.into());
        group.generation = self.epoch;
        for (order, (id, before)) in self.members.iter().enumerate() {
            let Some(classic) = &before.classic else { continue };
            let mut member = classic::Member::new(order as u64);
            member.instance.clone_from(&before.instance);
            member.client = before.client.clone();
            member.host = before.host.clone();
            member.session = classic.session;
            member.rebalance = before.rebalance;
            member.protocols.clone_from(&classic.protocols);
            let said = classic.protocols.first().map(|(_, said)| &said[..]).unwrap_or_default();
            member.assignment = encode_assignment(&named(&before.assigned, topics), said);
            member.expires = now + classic.session;
            group.members.insert(id.clone(), member);
        }
        group.settle();
        group
    }

    /// All that is stored of it.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let id = &self.id;
        let mut keys = vec![Key::Group(id.clone()), Key::Target(id.clone())];
        for member in self.members.keys() {
            keys.extend([
                Key::Member(id.clone(), member.clone()),
                Key::TargetMember(id.clone(), member.clone()),
                Key::Current(id.clone(), member.clone()),
            ]);
        }
        let expressions = self.expressions.keys();
        keys.extend(expressions.map(|expression| Key::Expression(id.clone(), expression.clone())));
        keys
    }
}
