//! One classic group: its members and where it stands.

mod rebalance;
mod stored;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use afflux_types::Timestamp;
use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::{
    Answer, DescribedMember, Description, Join, MemberId, Reply, Settings, Standing, State, Sync,
    Token, embedded, protocols_bytes,
};

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) state: State,
    pub(crate) generation: i32,
    pub(crate) kind: Option<Arc<str>>,
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) leader: Option<MemberId>,
    pub(crate) members: BTreeMap<MemberId, Member>,
    /// Names given out whose bearers have not come back yet, and until when they may.
    named: BTreeMap<MemberId, Duration>,
    /// While preparing: not before. For those who start together.
    earliest: Duration,
    /// While preparing or syncing: not after.
    latest: Duration,
    /// How many members ever joined; orders them.
    joins: u64,
    /// Since when it is empty, if it ever had members and has none.
    empty_since: Option<Timestamp>,
    /// Whether its record says something else by now.
    changed: bool,
    /// The value of its record.
    stored: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Member {
    /// Its place in the order of joining.
    pub(crate) order: u64,
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) client: Arc<str>,
    pub(crate) host: Arc<str>,
    pub(crate) session: Duration,
    pub(crate) rebalance: Duration,
    pub(crate) protocols: Vec<(Arc<str>, Bytes)>,
    pub(crate) assignment: Bytes,
    /// When its session ends, unless it is parked.
    pub(crate) expires: Duration,
    parked_join: Option<Token>,
    parked_sync: Option<Token>,
    /// Whether it asked for its assignment in this generation.
    synced: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            state: State::Empty,
            generation: 0,
            kind: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            named: BTreeMap::new(),
            earliest: Duration::ZERO,
            latest: Duration::ZERO,
            joins: 0,
            empty_since: None,
            changed: false,
            stored: None,
        }
    }
}

impl Member {
    pub(crate) fn new(order: u64) -> Self {
        Self {
            order,
            instance: None,
            client: "".into(),
            host: "".into(),
            session: Duration::ZERO,
            rebalance: Duration::ZERO,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            expires: Duration::ZERO,
            parked_join: None,
            parked_sync: None,
            synced: false,
        }
    }

    /// The bytes of what it said that are kept.
    fn bytes(&self) -> usize {
        let texts = self.client.len() + self.host.len();
        texts
            + self.instance.as_ref().map_or(0, |name| name.len())
            + protocols_bytes(&self.protocols)
    }

    fn is_parked(&self) -> bool {
        self.parked_join.is_some() || self.parked_sync.is_some()
    }

    fn touch(&mut self, now: Duration) {
        self.expires = now + self.session;
    }

    /// What it says under a protocol.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| &**name == protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }
}

impl Group {
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether nobody was ever in it, and nobody is about to come.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.members.is_empty() && self.named.is_empty() && self.generation == 0
    }

    /// Since when nobody needs what was committed for a topic; none while somebody may.
    pub(crate) fn unneeded_since(&self, topic: &str, committed: Timestamp) -> Option<Timestamp> {
        match self.state {
            State::Empty => Some(self.empty_since.map_or(committed, |since| since.max(committed))),
            State::Stable if self.wants(topic) == Some(false) => Some(committed),
            State::Preparing | State::Syncing | State::Stable => None,
        }
    }

    /// Whether its members are consumers that want a topic; none if that can not be told.
    pub(crate) fn wants(&self, topic: &str) -> Option<bool> {
        let protocol = self.protocol.as_ref().filter(|_| &*self.kind() == embedded::KIND)?;
        let mut wants = false;
        for member in self.members.values() {
            let subscription = embedded::Subscription::decode(&member.metadata(protocol)).ok()?;
            wants |= subscription.topics.iter().any(|wanted| &**wanted == topic);
        }
        Some(wants)
    }

    pub(crate) fn kind(&self) -> Arc<str> {
        self.kind.clone().unwrap_or_else(|| "".into())
    }

    pub(crate) fn join(
        &mut self,
        now: Duration,
        token: Token,
        join: Join,
        settings: &Settings,
        replies: &mut Vec<Reply>,
    ) {
        let mut refuse = |error, member| {
            replies.push(Reply { to: token, answer: Answer::JoinRefused(error, member) });
        };
        let same_instance = join.instance.as_ref().and_then(|instance| self.bearer(instance));
        let member = match (&join.member, same_instance) {
            (Some(member), Some(bearer)) if *member != bearer => {
                return refuse(ResponseError::FencedInstanceId, join.member);
            }
            (Some(member), _) => {
                if !self.members.contains_key(member) && self.named.remove(member).is_none() {
                    return refuse(ResponseError::UnknownMemberId, join.member);
                }
                member.clone()
            }
            (None, _) => join.fresh.clone(),
        };
        let is_new = !self.members.contains_key(&member);
        if is_new && self.members.len() + self.named.len() >= settings.members_max {
            return refuse(ResponseError::GroupMaxSizeReached, join.member);
        }
        if self.said_beside(&member, &join) + join.bytes() > settings.bytes_max {
            return refuse(ResponseError::GroupMaxSizeReached, join.member);
        }
        if !self.is_consistent(&member, &join) {
            return refuse(ResponseError::InconsistentGroupProtocol, join.member);
        }
        if join.member.is_none() && join.named_first && join.instance.is_none() {
            self.named.insert(member.clone(), now + join.session);
            return refuse(ResponseError::MemberIdRequired, Some(member));
        }
        if join.member.is_none()
            && let Some(bearer) = join.instance.as_ref().and_then(|instance| self.bearer(instance))
        {
            // A static member came back under a new name: the old one is fenced, and the new one
            // takes its place. That alone needs no rebalance.
            let led = self.rename(&bearer, &member, replies);
            self.renew(now, &member, join.clone());
            if self.state == State::Stable && self.vote() == self.protocol {
                self.changed = true;
                let former = (led && !join.can_skip).then_some(bearer);
                let answer = self.rejoined(&member, former);
                replies.push(Reply { to: token, answer });
                return;
            }
            // Whatever is being assigned is assigned to its former name.
            if let Some(member) = self.members.get_mut(&member) {
                member.protocols.clear();
            }
        }
        self.admit(now, token, member, join, settings, replies);
    }

    /// Gives a static member's place to its new name. Whether it leads.
    fn rename(&mut self, old: &MemberId, new: &MemberId, replies: &mut Vec<Reply>) -> bool {
        let Some(mut member) = self.members.remove(old) else { return false };
        refuse_parked(&mut member, old, ResponseError::FencedInstanceId, replies);
        self.members.insert(new.clone(), member);
        let leads = self.leader.as_ref() == Some(old);
        if leads {
            self.leader = Some(new.clone());
        }
        leads
    }

    /// Takes over what a join says of a member, who is made if there is none.
    fn renew(&mut self, now: Duration, id: &MemberId, join: Join) {
        self.joins += 1;
        let order = self.joins;
        let member = self.members.entry(id.clone()).or_insert_with(|| Member::new(order));
        member.instance = join.instance;
        member.client = join.client;
        member.host = join.host;
        member.session = join.session;
        member.rebalance = join.rebalance;
        member.protocols = join.protocols;
        member.touch(now);
        self.kind = Some(join.kind);
        self.empty_since = None;
    }

    /// Takes in a join that is in order.
    fn admit(
        &mut self,
        now: Duration,
        token: Token,
        id: MemberId,
        join: Join,
        settings: &Settings,
        replies: &mut Vec<Reply>,
    ) {
        let known = self.members.get(&id).map(|member| member.protocols == join.protocols);
        let repeats = match self.state {
            // The answer was lost, or a follower that noticed nothing joins again.
            State::Syncing => known == Some(true),
            State::Stable => known == Some(true) && self.leader.as_ref() != Some(&id),
            State::Empty | State::Preparing => false,
        };
        self.renew(now, &id, join);
        if repeats {
            let answer = Answer::Joined(self.joined(&id));
            replies.push(Reply { to: token, answer });
            return;
        }
        if let Some(older) = self.members.get_mut(&id).and_then(|m| m.parked_join.replace(token)) {
            let answer = Answer::JoinRefused(ResponseError::RebalanceInProgress, Some(id));
            replies.push(Reply { to: older, answer });
        }
        let was_empty = self.state == State::Empty;
        self.prepare(now, replies);
        if was_empty {
            self.earliest = now + settings.initial_delay.min(self.longest_rebalance());
        }
        self.complete_if_due(now, replies);
    }

    pub(crate) fn sync(
        &mut self,
        now: Duration,
        token: Token,
        sync: Sync,
        settings: &Settings,
        replies: &mut Vec<Reply>,
    ) {
        let refuse = |error| vec![Reply { to: token, answer: Answer::SyncRefused(error) }];
        if let Err(error) = self.check(&sync.standing) {
            return replies.extend(refuse(error));
        }
        let differs =
            |told: &Option<Arc<str>>, ours: &Option<Arc<str>>| told.is_some() && told != ours;
        if differs(&sync.kind, &self.kind) || differs(&sync.protocol, &self.protocol) {
            return replies.extend(refuse(ResponseError::InconsistentGroupProtocol));
        }
        let id = sync.standing.member;
        let is_leader = self.leader.as_ref() == Some(&id);
        let Some(member) = self.members.get_mut(&id) else { return };
        match self.state {
            State::Empty => replies.extend(refuse(ResponseError::UnknownMemberId)),
            State::Preparing => replies.extend(refuse(ResponseError::RebalanceInProgress)),
            State::Stable => {
                member.touch(now);
                member.synced = true;
                let answer = self.synced(&id);
                replies.push(Reply { to: token, answer });
            }
            State::Syncing => {
                member.synced = true;
                if let Some(older) = member.parked_sync.replace(token) {
                    let answer = Answer::SyncRefused(ResponseError::RebalanceInProgress);
                    replies.push(Reply { to: older, answer });
                }
                if is_leader {
                    self.assign(now, sync.assignments, settings, replies);
                }
            }
        }
    }

    /// The leader has spoken: everybody who waits gets their part.
    fn assign(
        &mut self,
        now: Duration,
        assignments: Vec<(MemberId, Bytes)>,
        settings: &Settings,
        replies: &mut Vec<Reply>,
    ) {
        let bytes: usize = assignments.iter().map(|(_, assignment)| assignment.len()).sum();
        if bytes > settings.bytes_max {
            // As Kafka where its record is too large; they share anew.
            self.refuse_all(ResponseError::UnknownServerError, replies);
            return self.prepare(now, replies);
        }
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.state = State::Stable;
        self.changed = true;
        let waiting: Vec<(MemberId, Token)> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| {
                let token = member.parked_sync.take()?;
                member.touch(now);
                Some((id.clone(), token))
            })
            .collect();
        for (id, to) in waiting {
            replies.push(Reply { to, answer: self.synced(&id) });
        }
    }

    pub(crate) fn heartbeat(
        &mut self,
        now: Duration,
        standing: &Standing,
    ) -> Result<(), ResponseError> {
        self.check(standing)?;
        if let Some(member) = self.members.get_mut(&standing.member) {
            member.touch(now);
        }
        match self.state {
            State::Preparing => Err(ResponseError::RebalanceInProgress),
            State::Empty | State::Syncing | State::Stable => Ok(()),
        }
    }

    pub(crate) fn leave(
        &mut self,
        now: Duration,
        member: &MemberId,
        instance: Option<&Arc<str>>,
        replies: &mut Vec<Reply>,
    ) -> Result<(), ResponseError> {
        let id = match instance {
            Some(instance) => {
                let bearer = self.bearer(instance).ok_or(ResponseError::UnknownMemberId)?;
                if !member.is_empty() && *member != bearer {
                    return Err(ResponseError::FencedInstanceId);
                }
                bearer
            }
            None => member.clone(),
        };
        if self.named.remove(&id).is_some() {
            self.complete_if_due(now, replies);
            return Ok(());
        }
        if !self.members.contains_key(&id) {
            return Err(ResponseError::UnknownMemberId);
        }
        self.remove(&id, ResponseError::UnknownMemberId, replies);
        self.after_loss(now, replies);
        Ok(())
    }

    pub(crate) fn may_commit(
        &mut self,
        now: Duration,
        standing: &Standing,
    ) -> Result<(), ResponseError> {
        if standing.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        self.check(standing)?;
        if let Some(member) = self.members.get_mut(&standing.member) {
            member.touch(now);
        }
        match self.state {
            // Nobody may commit for partitions that are being handed to another.
            State::Syncing => Err(ResponseError::RebalanceInProgress),
            State::Empty | State::Preparing | State::Stable => Ok(()),
        }
    }

    pub(crate) fn tick(&mut self, now: Duration, replies: &mut Vec<Reply>) {
        self.named.retain(|_, until| *until > now);
        let gone: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_parked() && member.expires <= now)
            .map(|(id, _)| id.clone())
            .collect();
        let silent: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| self.awaits_sync() && self.latest <= now && !member.synced)
            .map(|(id, _)| id.clone())
            .collect();
        let lost = !gone.is_empty() || !silent.is_empty();
        for id in gone.iter().chain(&silent) {
            self.remove(id, ResponseError::UnknownMemberId, replies);
        }
        if lost {
            self.after_loss(now, replies);
        } else if self.state == State::Syncing && self.latest <= now {
            // Only the leader's word is missing, and it counts as silent above; so this is a
            // group whose leader synced and is gone.
            self.prepare(now, replies);
        }
        self.complete_if_due(now, replies);
    }

    /// When [`Self::tick`] changes something.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let sessions =
            self.members.values().filter(|member| !member.is_parked()).map(|member| member.expires);
        let phase = match self.state {
            State::Preparing if self.all_joined() => Some(self.earliest),
            State::Preparing => Some(self.latest.max(self.earliest)),
            State::Syncing => Some(self.latest),
            State::Stable if self.members.values().any(|member| !member.synced) => {
                Some(self.latest)
            }
            State::Empty | State::Stable => None,
        };
        sessions.chain(self.named.values().copied()).chain(phase).min()
    }

    /// Whether who never asks for an assignment is out one day.
    fn awaits_sync(&self) -> bool {
        matches!(self.state, State::Syncing | State::Stable)
    }

    /// The protocol and what members say under it are told only of a group that is at work.
    pub(crate) fn describe(&self) -> Description {
        let stable = self.protocol.clone().filter(|_| self.state == State::Stable);
        let protocol = stable.unwrap_or_else(|| "".into());
        let members = self.members.iter().map(|(id, member)| DescribedMember {
            member: id.clone(),
            instance: member.instance.clone(),
            client: member.client.clone(),
            host: member.host.clone(),
            metadata: member.metadata(&protocol),
            assignment: member.assignment.clone(),
        });
        Description {
            state: self.state,
            kind: self.kind(),
            protocol: protocol.clone(),
            members: members.collect(),
        }
    }

    /// Whether somebody is the member that they say they are, in this generation.
    fn check(&self, standing: &Standing) -> Result<(), ResponseError> {
        if let Some(instance) = &standing.instance {
            let bearer = self.bearer(instance).ok_or(ResponseError::UnknownMemberId)?;
            if bearer != standing.member {
                return Err(ResponseError::FencedInstanceId);
            }
        }
        if !self.members.contains_key(&standing.member) {
            return Err(ResponseError::UnknownMemberId);
        }
        if standing.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        Ok(())
    }

    /// The bytes of what all members say but one who joins, or whose place it takes.
    fn said_beside(&self, member: &MemberId, join: &Join) -> usize {
        let others = self.members.iter().filter(|(id, other)| {
            *id != member && (join.instance.is_none() || other.instance != join.instance)
        });
        others.map(|(_, other)| other.bytes()).sum()
    }

    /// Whether a join shares its kind and one protocol with all other members.
    fn is_consistent(&self, member: &MemberId, join: &Join) -> bool {
        let mut others = self.members.iter().filter(|(id, _)| *id != member).peekable();
        if others.peek().is_none() {
            return true;
        }
        self.kind.as_ref() == Some(&join.kind)
            && join.protocols.iter().any(|(name, _)| {
                others.clone().all(|(_, other)| other.protocols.iter().any(|(n, _)| n == name))
            })
    }

    /// The member of a static name.
    fn bearer(&self, instance: &Arc<str>) -> Option<MemberId> {
        self.members
            .iter()
            .find(|(_, member)| member.instance.as_ref() == Some(instance))
            .map(|(id, _)| id.clone())
    }

    fn all_joined(&self) -> bool {
        self.named.is_empty() && self.members.values().all(|member| member.parked_join.is_some())
    }

    fn longest_rebalance(&self) -> Duration {
        self.members.values().map(|member| member.rebalance).max().unwrap_or_default()
    }
}

/// Tells who waits on behalf of a member that it is not to be.
fn refuse_parked(
    member: &mut Member,
    id: &MemberId,
    error: ResponseError,
    replies: &mut Vec<Reply>,
) {
    if let Some(to) = member.parked_join.take() {
        let answer = Answer::JoinRefused(error, Some(id.clone()));
        replies.push(Reply { to, answer });
    }
    if let Some(to) = member.parked_sync.take() {
        replies.push(Reply { to, answer: Answer::SyncRefused(error) });
    }
}
