//! One group: its members and where it stands.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::{
    Answer, DescribedMember, Description, Join, Joined, MemberId, Reply, Settings, Standing, State,
    Sync, Synced, Token,
};

#[derive(Debug)]
pub(super) struct Group {
    state: State,
    generation: i32,
    kind: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    leader: Option<MemberId>,
    members: BTreeMap<MemberId, Member>,
    /// Names given out whose bearers have not come back yet, and until when they may.
    named: BTreeMap<MemberId, Duration>,
    /// While preparing: not before. For those who start together.
    earliest: Duration,
    /// While preparing or syncing: not after.
    latest: Duration,
    /// How many members ever joined; orders them.
    joins: u64,
    /// When the coordinator will wake this group.
    pub(super) armed: Option<Duration>,
}

#[derive(Debug)]
struct Member {
    /// Its place in the order of joining.
    order: u64,
    instance: Option<Arc<str>>,
    client: Arc<str>,
    host: Arc<str>,
    session: Duration,
    rebalance: Duration,
    protocols: Vec<(Arc<str>, Bytes)>,
    assignment: Bytes,
    /// When its session ends, unless it is parked.
    expires: Duration,
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
            armed: None,
        }
    }
}

impl Member {
    fn is_parked(&self) -> bool {
        self.parked_join.is_some() || self.parked_sync.is_some()
    }

    fn touch(&mut self, now: Duration) {
        self.expires = now + self.session;
    }

    fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| &**name == protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }
}

impl Group {
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Whether nobody is in it and nobody is about to come.
    pub(super) fn is_forgotten(&self) -> bool {
        self.members.is_empty() && self.named.is_empty()
    }

    pub(super) fn kind(&self) -> Arc<str> {
        self.kind.clone().unwrap_or_else(|| "".into())
    }

    pub(super) fn join(
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
            // A static member came back under a new name: the old one is fenced.
            self.remove(&bearer, ResponseError::FencedInstanceId, replies);
        }
        self.admit(now, token, member, join, settings, replies);
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
        self.joins += 1;
        let order = self.joins;
        let member = self.members.entry(id.clone()).or_insert_with(|| Member {
            order,
            instance: None,
            client: join.client.clone(),
            host: join.host.clone(),
            session: join.session,
            rebalance: join.rebalance,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            expires: now,
            parked_join: None,
            parked_sync: None,
            synced: false,
        });
        member.instance = join.instance;
        member.client = join.client;
        member.host = join.host;
        member.session = join.session;
        member.rebalance = join.rebalance;
        member.protocols = join.protocols;
        member.touch(now);
        self.kind = Some(join.kind);
        if repeats {
            let answer = self.joined(&id);
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

    pub(super) fn sync(
        &mut self,
        now: Duration,
        token: Token,
        sync: Sync,
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
                    self.assign(now, sync.assignments, replies);
                }
            }
        }
    }

    /// The leader has spoken: everybody who waits gets their part.
    fn assign(
        &mut self,
        now: Duration,
        assignments: Vec<(MemberId, Bytes)>,
        replies: &mut Vec<Reply>,
    ) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.state = State::Stable;
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

    pub(super) fn heartbeat(
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

    pub(super) fn leave(
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

    pub(super) fn may_commit(
        &mut self,
        now: Duration,
        standing: &Standing,
    ) -> Result<(), ResponseError> {
        if standing.generation < 0 && standing.member.is_empty() {
            return if self.members.is_empty() {
                Ok(())
            } else {
                Err(ResponseError::UnknownMemberId)
            };
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

    pub(super) fn tick(&mut self, now: Duration, replies: &mut Vec<Reply>) {
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
            .filter(|(_, member)| {
                self.state == State::Syncing && self.latest <= now && !member.synced
            })
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
    pub(super) fn deadline(&self) -> Option<Duration> {
        let sessions =
            self.members.values().filter(|member| !member.is_parked()).map(|member| member.expires);
        let phase = match self.state {
            State::Preparing if self.all_joined() => Some(self.earliest),
            State::Preparing => Some(self.latest.max(self.earliest)),
            State::Syncing => Some(self.latest),
            State::Empty | State::Stable => None,
        };
        sessions.chain(self.named.values().copied()).chain(phase).min()
    }

    pub(super) fn describe(&self) -> Description {
        let protocol = self.protocol.clone().unwrap_or_else(|| "".into());
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
        if let Some(instance) = &standing.instance
            && let Some(bearer) = self.bearer(instance)
            && bearer != standing.member
        {
            return Err(ResponseError::FencedInstanceId);
        }
        if !self.members.contains_key(&standing.member) {
            return Err(ResponseError::UnknownMemberId);
        }
        if standing.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        Ok(())
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

    /// Takes a member out; whatever it waits for is refused.
    fn remove(&mut self, id: &MemberId, error: ResponseError, replies: &mut Vec<Reply>) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(to) = member.parked_join {
            let answer = Answer::JoinRefused(error, Some(id.clone()));
            replies.push(Reply { to, answer });
        }
        if let Some(to) = member.parked_sync {
            replies.push(Reply { to, answer: Answer::SyncRefused(error) });
        }
        if self.leader.as_ref() == Some(id) {
            self.leader = None;
        }
    }

    /// Members were lost: those that are left share anew.
    fn after_loss(&mut self, now: Duration, replies: &mut Vec<Reply>) {
        if matches!(self.state, State::Syncing | State::Stable) {
            self.prepare(now, replies);
        }
        self.complete_if_due(now, replies);
    }

    /// Starts a rebalance unless one is going on.
    fn prepare(&mut self, now: Duration, replies: &mut Vec<Reply>) {
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
    fn complete_if_due(&mut self, now: Duration, replies: &mut Vec<Reply>) {
        if self.state != State::Preparing || now < self.earliest {
            return;
        }
        if !self.all_joined() && now < self.latest {
            return;
        }
        let absent: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| member.parked_join.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in &absent {
            self.remove(id, ResponseError::UnknownMemberId, replies);
        }
        // Generations are told from "none" by their sign.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.state = State::Empty;
            self.protocol = None;
            self.leader = None;
            return;
        }
        self.protocol = self.vote();
        if self.leader.is_none() {
            self.leader = self
                .members
                .iter()
                .min_by_key(|(_, member)| member.order)
                .map(|(id, _)| id.clone());
        }
        self.state = State::Syncing;
        self.latest = now + self.longest_rebalance();
        let waiting: Vec<(MemberId, Token)> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| {
                member.synced = false;
                member.expires = now + member.session;
                Some((id.clone(), member.parked_join.take()?))
            })
            .collect();
        for (id, to) in waiting {
            replies.push(Reply { to, answer: self.joined(&id) });
        }
    }

    /// The protocol known to all that most members like best; of several, the first by name.
    fn vote(&self) -> Option<Arc<str>> {
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

    /// The answer to a join in the present generation.
    fn joined(&self, id: &MemberId) -> Answer {
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
        Answer::Joined(Joined {
            generation: self.generation,
            kind: self.kind(),
            protocol,
            leader,
            member: id.clone(),
            members,
        })
    }

    /// The answer to a sync in the present generation.
    fn synced(&self, id: &MemberId) -> Answer {
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
}
