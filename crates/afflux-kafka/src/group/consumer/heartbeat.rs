//! `ConsumerGroupHeartbeat`: members join, change their minds, go on and leave by it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kafka_protocol::ResponseError;

use super::{Group, Member, Refusal, assignor, compile, said_bytes};
use crate::group::{GroupId, MemberId, Parts, Settings, Topics, records::Key};

/// The epoch of a member that leaves.
pub(crate) const LEAVES: i32 = -1;
/// The epoch of a static member that leaves and will be back.
pub(crate) const LEAVES_FOR_NOW: i32 = -2;

/// A heartbeat. What is not said has not changed.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    /// The group.
    pub(crate) group: GroupId,
    /// The member, which names itself.
    pub(crate) member: MemberId,
    /// The epoch that it has reached; 0 to join.
    pub(crate) epoch: i32,
    /// Its configured name, if it is a static member.
    pub(crate) instance: Option<Arc<str>>,
    /// Where it is.
    pub(crate) rack: Option<Arc<str>>,
    /// How long it may take to give up what it is told to.
    pub(crate) rebalance: Option<Duration>,
    /// The topics that it wants.
    pub(crate) topics: Option<BTreeSet<Arc<str>>>,
    /// It wants those that match this, too; none if empty.
    pub(crate) expression: Option<Arc<str>>,
    /// The assignor that it would like.
    pub(crate) assignor: Option<Arc<str>>,
    /// What it holds.
    pub(crate) owned: Option<Parts>,
    /// How long it is not missed, which is set for its group.
    pub(crate) session: Duration,
    /// What the client calls itself.
    pub(crate) client: Arc<str>,
    /// Where it is.
    pub(crate) host: Arc<str>,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beat {
    /// The member.
    pub(crate) member: MemberId,
    /// The epoch that it is in now.
    pub(crate) epoch: i32,
    /// All that it shall hold, if that has changed or it asked.
    pub(crate) assigned: Option<Parts>,
}

impl Heartbeat {
    /// Whether it says what it has to.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let invalid = |why| Err((ResponseError::InvalidRequest, why));
        let empty = |text: &Option<Arc<str>>| text.as_deref() == Some("");
        if self.group.is_empty() {
            return invalid("GroupId can't be empty.");
        }
        if self.member.is_empty() {
            return invalid("MemberId can't be empty.");
        }
        if empty(&self.instance) {
            return invalid("InstanceId can't be empty.");
        }
        if empty(&self.rack) {
            return invalid("RackId can't be empty.");
        }
        match self.epoch {
            ..LEAVES_FOR_NOW => return invalid("MemberEpoch is invalid."),
            LEAVES_FOR_NOW if self.instance.is_none() => {
                return invalid("InstanceId can't be null.");
            }
            0 => {
                if self.rebalance.is_none() {
                    return invalid("RebalanceTimeoutMs must be provided in first request.");
                }
                if self.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
                    return invalid("TopicPartitions must be empty when (re-)joining.");
                }
                if self.topics.is_none() && self.expression.is_none() {
                    return invalid(
                        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when \
                         (re-)joining.",
                    );
                }
            }
            _ => {}
        }
        if self.assignor.as_ref().is_some_and(|name| assignor::find(name).is_none()) {
            return Err((ResponseError::UnsupportedAssignor, "There are uniform and range."));
        }
        if let Some(expression) = self.expression.as_deref().filter(|text| !text.is_empty())
            && compile(expression).is_err()
        {
            return Err((
                ResponseError::InvalidRegularExpression,
                "SubscribedTopicRegex is not a valid regular expression.",
            ));
        }
        Ok(())
    }
}

impl Group {
    /// A member is heard of.
    pub(crate) fn heartbeat(
        &mut self,
        now: Duration,
        heartbeat: Heartbeat,
        settings: &Settings,
        topics: &dyn Topics,
    ) -> Result<Beat, Refusal> {
        let id = heartbeat.member.clone();
        if heartbeat.epoch == 0
            && !self.members.contains_key(&id)
            && self.members.len() >= settings.consumer_members_max
            && heartbeat.instance.as_deref().is_none_or(|instance| self.bearer(instance).is_none())
        {
            return Err((ResponseError::GroupMaxSizeReached, "The group has no room for more."));
        }
        let before = match &heartbeat.instance {
            Some(instance) => self.find_static(&heartbeat, instance)?,
            None => self.find_dynamic(&heartbeat)?,
        };
        let says = said_bytes(heartbeat.topics.as_ref(), heartbeat.expression.as_ref());
        if says > 0 && self.said_beside(&id) + says > settings.bytes_max {
            return Err((ResponseError::GroupMaxSizeReached, "The group's members say too much."));
        }
        let joins = heartbeat.epoch == 0;
        let is_full = heartbeat.rebalance.is_some()
            && heartbeat.owned.is_some()
            && (heartbeat.topics.is_some() || heartbeat.expression.is_some());
        let owned = heartbeat.owned.clone();
        self.update(now, before.as_ref(), heartbeat);
        self.after_update(now, &id, before.as_ref(), topics);
        self.reconcile(now, &id, owned.as_ref());

        let member = &self.members[&id];
        let changed = before.is_none_or(|before| before.assigned != member.assigned);
        let assigned = (joins || is_full || changed).then(|| member.assigned.clone());
        Ok(Beat { epoch: member.epoch, assigned, member: id })
    }

    /// The bytes of what all members say but one.
    pub(super) fn said_beside(&self, member: &MemberId) -> usize {
        let others = self.members.iter().filter(|(id, _)| *id != member);
        others.map(|(_, other)| other.bytes()).sum()
    }

    /// What follows from what a member is now: what is wanted, the group's epoch, the target.
    pub(super) fn after_update(
        &mut self,
        now: Duration,
        id: &MemberId,
        before: Option<&Member>,
        topics: &dyn Topics,
    ) {
        let member = &self.members[id];
        let same = |before: &Member| {
            before.topics == member.topics && before.expression == member.expression
        };
        let is_new = !before.is_some_and(same);
        if is_new {
            if member.expression.as_ref().is_some_and(|e| !self.expressions.contains_key(e)) {
                self.refresh = now;
            }
            self.subscriptions_changed();
        }
        self.look_at_topics(now, topics, is_new || self.epoch == 0);
        self.retarget();
    }

    /// A member leaves; a static one perhaps just for now.
    pub(crate) fn leave(&mut self, heartbeat: &Heartbeat) -> Result<MemberId, Refusal> {
        const UNKNOWN: Refusal =
            (ResponseError::UnknownMemberId, "The member is not a member of the group.");
        let id = match &heartbeat.instance {
            None if self.members.contains_key(&heartbeat.member) => heartbeat.member.clone(),
            None => return Err(UNKNOWN),
            Some(instance) => {
                let bearer = self.bearer(instance).ok_or(UNKNOWN)?.clone();
                if bearer != heartbeat.member {
                    return Err((
                        ResponseError::FencedInstanceId,
                        "The instance id belongs to another member.",
                    ));
                }
                bearer
            }
        };
        if heartbeat.epoch == LEAVES {
            self.remove(&id);
            return Ok(id);
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.epoch = LEAVES_FOR_NOW;
            member.due = None;
            for part in std::mem::take(&mut member.revoking) {
                self.owners.remove(&part);
            }
            self.changed.insert(Key::Current(self.id.clone(), id.clone()));
        }
        Ok(id)
    }

    /// A member without a configured name, if it is known; an error if it can not be it.
    fn find_dynamic(&self, heartbeat: &Heartbeat) -> Result<Option<Member>, Refusal> {
        match self.members.get(&heartbeat.member) {
            Some(member) => {
                check_epoch(member, heartbeat)?;
                Ok(Some(member.clone()))
            }
            None if heartbeat.epoch == 0 => Ok(None),
            None => {
                Err((ResponseError::UnknownMemberId, "The member is not a member of the group."))
            }
        }
    }

    /// The same for one with a configured name, whose place it may take.
    fn find_static(
        &mut self,
        heartbeat: &Heartbeat,
        instance: &str,
    ) -> Result<Option<Member>, Refusal> {
        let Some(bearer) = self.bearer(instance).cloned() else {
            return match heartbeat.epoch {
                0 => Ok(None),
                _ => Err((ResponseError::UnknownMemberId, "The instance id is not known.")),
            };
        };
        let member = &self.members[&bearer];
        if bearer == heartbeat.member {
            // Who left for now comes back with epoch 0, and that is in order.
            check_epoch(member, heartbeat)?;
            return Ok(Some(member.clone()));
        }
        if heartbeat.epoch != 0 {
            return Err((
                ResponseError::FencedInstanceId,
                "The instance id belongs to another member.",
            ));
        }
        if member.epoch != LEAVES_FOR_NOW && member.classic.is_none() {
            return Err((
                ResponseError::UnreleasedInstanceId,
                "The instance id is still used by another member.",
            ));
        }
        self.rename(&bearer, &heartbeat.member);
        Ok(self.members.get(&heartbeat.member).cloned())
    }

    /// Gives a static member's place to its new name.
    pub(super) fn rename(&mut self, old: &MemberId, new: &MemberId) {
        let Some(mut member) = self.members.remove(old) else { return };
        member.epoch = 0;
        member.previous = 0;
        for owner in self.owners.values_mut().filter(|owner| *owner == old) {
            *owner = new.clone();
        }
        if let Some(target) = self.target.remove(old) {
            self.target.insert(new.clone(), target);
        }
        self.members.insert(new.clone(), member);
        for id in [old, new] {
            self.changed.extend([
                Key::Member(self.id.clone(), id.clone()),
                Key::TargetMember(self.id.clone(), id.clone()),
                Key::Current(self.id.clone(), id.clone()),
            ]);
        }
    }

    /// Takes over what a heartbeat says of a member.
    fn update(&mut self, now: Duration, before: Option<&Member>, heartbeat: Heartbeat) {
        let mut member = before.cloned().unwrap_or_else(Member::new);
        if heartbeat.epoch == 0 && member.epoch == LEAVES_FOR_NOW {
            member.epoch = 0;
            member.previous = 0;
        }
        let has_text = |text: &Arc<str>| !text.is_empty();
        member.instance = heartbeat.instance.or(member.instance);
        member.rack = heartbeat.rack.or(member.rack);
        member.rebalance = heartbeat.rebalance.unwrap_or(member.rebalance);
        member.assignor = heartbeat.assignor.or(member.assignor);
        member.topics = heartbeat.topics.unwrap_or(member.topics);
        if let Some(expression) = heartbeat.expression {
            member.expression = Some(expression).filter(has_text);
        }
        member.client = heartbeat.client;
        member.host = heartbeat.host;
        member.classic = None;
        member.expires = now + heartbeat.session;
        self.put(heartbeat.member, before, member);
    }

    /// Puts a member where it belongs, and has stored what is new of it.
    pub(super) fn put(&mut self, id: MemberId, before: Option<&Member>, member: Member) {
        let unchanged = |before: &Member| {
            let stored = |member: &Member| {
                let member = member.clone();
                Member { expires: Duration::ZERO, due: None, epoch: 0, previous: 0, ..member }
            };
            stored(before) == stored(&member)
        };
        if !before.is_some_and(unchanged) {
            self.changed.insert(Key::Member(self.id.clone(), id.clone()));
        }
        self.members.insert(id, member);
    }
}

/// A member that says that it is in an epoch in which it can not be must begin anew. One behind
/// may have missed the last answer, if it holds no more than that answer gave it.
fn check_epoch(member: &Member, heartbeat: &Heartbeat) -> Result<(), Refusal> {
    let missed = || {
        let owned = heartbeat.owned.as_ref();
        heartbeat.epoch == member.previous
            && heartbeat.epoch < member.epoch
            && owned.is_some_and(|owned| owned.is_subset(&member.assigned))
    };
    if heartbeat.epoch == 0 || heartbeat.epoch == member.epoch || missed() {
        return Ok(());
    }
    Err((
        ResponseError::FencedMemberEpoch,
        "The member epoch is not the one that the coordinator knows. The member must abandon all \
         its partitions and rejoin.",
    ))
}
