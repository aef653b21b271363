//! One group of the consumer protocol (KIP-848): the coordinator assigns, and brings each member
//! there by its heartbeats.
//!
//! 1. *What is wanted* changes: a member comes, goes or subscribes to something else, or a topic
//!    that is wanted appears, grows or goes. The group's epoch rises.
//! 2. *The target* is computed anew, for all members at once, with the group's epoch.
//! 3. *Each member* is reconciled with it when it is heard of (see `reconcile`): it is told to
//!    give up what it shall not hold, and says when it has; only then it moves to the target's
//!    epoch and is told of what it gets, as far as others have given that up.
//! 4. Whoever is not heard of for a session, or does not give up in time, is out; what it held is
//!    free.
//!
//! Members of the classic protocol may be among them while a group moves from one to the other
//! (see `classic`): they join, sync and heartbeat, and are reconciled by that.
//!
//! A partition has at most one owner: whoever has it assigned, or was told to give it up and has
//! not said that it did.
//!
//! Everything but deadlines is stored (see `stored`), so that a restart goes on where it was.

pub(crate) mod assignor;
mod classic;
mod heartbeat;
mod migrate;
mod reconcile;
mod stored;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use afflux_types::Timestamp;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use uuid::Uuid;

pub(crate) use self::heartbeat::{Beat, Heartbeat, LEAVES, LEAVES_FOR_NOW};
use super::{GroupId, MemberId, Part, Parts, Shape, Topics, protocols_bytes, records::Key};

/// Why a request of a member is refused: Kafka's error, and words for who reads its log.
pub(crate) type Refusal = (ResponseError, &'static str);

/// How often expressions are held against the topics that there are.
const EXPRESSIONS_REFRESH: Duration = Duration::from_secs(1);
/// The most that a compiled expression may take.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;

/// A group of the consumer protocol.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    /// Rises whenever what is wanted changes.
    pub(crate) epoch: i32,
    /// The epoch that the target was computed in.
    pub(crate) target_epoch: i32,
    pub(crate) members: BTreeMap<MemberId, Member>,
    /// What each member shall hold.
    pub(crate) target: BTreeMap<MemberId, Parts>,
    /// What members' expressions match.
    expressions: BTreeMap<Arc<str>, Resolved>,
    /// When expressions are held against topics again.
    refresh: Duration,
    /// Who holds each partition, or has not given it up yet.
    owners: BTreeMap<Part, MemberId>,
    /// What members want, by name or by expression.
    wanted: BTreeSet<Arc<str>>,
    /// What topics that are wanted were like when the epoch last rose.
    topics: BTreeMap<Arc<str>, Shape>,
    /// A hash of those.
    hash: i64,
    /// Since when it is known to have no members. Not stored: a restart counts anew.
    empty_since: Option<Timestamp>,
    /// What has to be stored.
    changed: BTreeSet<Key>,
}

/// What an expression matches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resolved {
    topics: BTreeSet<Arc<str>>,
    /// How often that changed.
    version: i64,
    /// When it did; none until it is stored.
    time: Option<Timestamp>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) rack: Option<Arc<str>>,
    pub(crate) client: Arc<str>,
    pub(crate) host: Arc<str>,
    /// The topics that it wants.
    pub(crate) topics: BTreeSet<Arc<str>>,
    /// It wants those that match this, too.
    pub(crate) expression: Option<Arc<str>>,
    /// The assignor that it would like.
    pub(crate) assignor: Option<Arc<str>>,
    /// How long it may take to give up what it is told to.
    pub(crate) rebalance: Duration,
    /// Set if it speaks the classic protocol.
    pub(crate) classic: Option<Classic>,
    /// The epoch that it has reached; [`LEAVES_FOR_NOW`] of a static member that will be back.
    pub(crate) epoch: i32,
    /// The one before: an answer with a new epoch may be lost.
    pub(crate) previous: i32,
    pub(crate) progress: Progress,
    /// What it was told to hold.
    pub(crate) assigned: Parts,
    /// What it was told to give up, and has not said that it did.
    pub(crate) revoking: Parts,
    /// When its session ends.
    pub(crate) expires: Duration,
    /// When it must have done what it was told to do, if anything.
    pub(crate) due: Option<Duration>,
}

impl Member {
    /// The bytes of what it said of itself.
    fn bytes(&self) -> usize {
        let classic = self.classic.as_ref().map_or(0, |said| protocols_bytes(&said.protocols));
        said_bytes(Some(&self.topics), self.expression.as_ref()) + classic
    }
}

/// The bytes of what a member wants.
fn said_bytes(topics: Option<&BTreeSet<Arc<str>>>, expression: Option<&Arc<str>>) -> usize {
    topics.into_iter().flatten().chain(expression).map(|text| text.len()).sum()
}

/// What the classic protocol knows of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Classic {
    pub(crate) session: Duration,
    pub(crate) protocols: Vec<(Arc<str>, Bytes)>,
}

/// How far a member is on its way to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There.
    Stable,
    /// It has to give something up first.
    Unrevoked,
    /// It waits for what others have to give up.
    Unreleased,
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It has no members.
    Empty,
    /// The target is older than what is wanted.
    Assigning,
    /// Members are on their way to the target.
    Reconciling,
    /// All are there.
    Stable,
}

impl State {
    /// Kafka's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

impl Member {
    fn new() -> Self {
        Self {
            instance: None,
            rack: None,
            client: "".into(),
            host: "".into(),
            topics: BTreeSet::new(),
            expression: None,
            assignor: None,
            rebalance: Duration::ZERO,
            classic: None,
            epoch: 0,
            previous: 0,
            progress: Progress::Stable,
            assigned: Parts::new(),
            revoking: Parts::new(),
            expires: Duration::ZERO,
            due: None,
        }
    }
}

impl Group {
    pub(crate) fn new(id: GroupId) -> Self {
        Self {
            id,
            epoch: 0,
            target_epoch: 0,
            members: BTreeMap::new(),
            target: BTreeMap::new(),
            expressions: BTreeMap::new(),
            refresh: Duration::ZERO,
            owners: BTreeMap::new(),
            wanted: BTreeSet::new(),
            topics: BTreeMap::new(),
            hash: 0,
            empty_since: None,
            changed: BTreeSet::new(),
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> State {
        let there = |member: &Member| {
            member.progress == Progress::Stable && member.epoch == self.target_epoch
        };
        if self.members.is_empty() {
            State::Empty
        } else if self.epoch > self.target_epoch {
            State::Assigning
        } else if self.members.values().all(there) {
            State::Stable
        } else {
            State::Reconciling
        }
    }

    /// Whether nobody ever got in.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.members.is_empty() && self.epoch == 0
    }

    /// Whether a member wants a topic.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        self.wanted.contains(topic)
    }

    /// Since when nobody needs what was committed for a topic; none while somebody may. While it
    /// had members, they did, however long ago they committed last.
    pub(crate) fn unneeded_since(
        &mut self,
        now: Timestamp,
        topic: &str,
        committed: Timestamp,
    ) -> Option<Timestamp> {
        if self.wants(topic) {
            None
        } else if self.members.is_empty() {
            Some(committed.max(*self.empty_since.get_or_insert(now)))
        } else {
            Some(committed)
        }
    }

    /// When [`Self::tick`] changes something.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let members = self.members.values();
        members.map(|member| member.due.map_or(member.expires, |due| due.min(member.expires))).min()
    }

    /// Takes out who was not heard of, or did not do in time what it was told to.
    pub(crate) fn tick(&mut self, now: Duration) {
        let late =
            |member: &Member| member.expires <= now || member.due.is_some_and(|due| due <= now);
        let out: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| late(member))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &out {
            self.remove(id);
        }
    }

    /// Takes a member out. What it held is free, and is given to others when they are heard of.
    pub(crate) fn remove(&mut self, id: &MemberId) {
        if self.members.remove(id).is_none() {
            return;
        }
        self.owners.retain(|_, owner| owner != id);
        self.target.remove(id);
        let group = &self.id;
        self.changed.extend([
            Key::Member(group.clone(), id.clone()),
            Key::TargetMember(group.clone(), id.clone()),
            Key::Current(group.clone(), id.clone()),
        ]);
        self.subscriptions_changed();
        self.raise();
    }

    /// Whether somebody may commit offsets, or ask for them, as this member in this epoch.
    /// Nobody in particular may while there are no members.
    pub(crate) fn check_epoch(
        &self,
        member: &str,
        instance: Option<&str>,
        epoch: i32,
    ) -> Result<&Member, ResponseError> {
        let known = match instance {
            Some(instance) => {
                let bearer = self.bearer(instance).ok_or(ResponseError::UnknownMemberId)?;
                if &**bearer != member {
                    return Err(ResponseError::FencedInstanceId);
                }
                &self.members[bearer]
            }
            None => self.members.get(member).ok_or(ResponseError::UnknownMemberId)?,
        };
        if known.epoch == epoch {
            Ok(known)
        } else if known.classic.is_some() {
            Err(ResponseError::IllegalGeneration)
        } else {
            Err(ResponseError::StaleMemberEpoch)
        }
    }

    /// The assignor that most members would like; of several, the first by name.
    pub(crate) fn assignor(&self) -> &'static str {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for assignor in self.members.values().filter_map(|member| member.assignor.as_deref()) {
            *votes.entry(assignor).or_default() += 1;
        }
        let most = votes.values().copied().max();
        let liked = votes.into_iter().find(|(_, count)| Some(*count) == most);
        liked.and_then(|(name, _)| assignor::find(name)).unwrap_or(assignor::DEFAULT)
    }

    /// The member of a static name.
    fn bearer(&self, instance: &str) -> Option<&MemberId> {
        let mut members = self.members.iter();
        members.find(|(_, member)| member.instance.as_deref() == Some(instance)).map(|(id, _)| id)
    }

    fn raise(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        self.changed.insert(Key::Group(self.id.clone()));
    }

    /// Gathers anew what members want, after one of them came, went or changed its mind.
    fn subscriptions_changed(&mut self) {
        let used: BTreeSet<&Arc<str>> =
            self.members.values().filter_map(|member| member.expression.as_ref()).collect();
        let (id, changed) = (&self.id, &mut self.changed);
        self.expressions.retain(|expression, _| {
            let keep = used.contains(expression);
            if !keep {
                changed.insert(Key::Expression(id.clone(), expression.clone()));
            }
            keep
        });
        let by_name = self.members.values().flat_map(|member| &member.topics);
        let by_expression = self.expressions.values().flat_map(|resolved| &resolved.topics);
        self.wanted = by_name.chain(by_expression).cloned().collect();
    }

    /// Looks at the topics that are wanted; raises the epoch if they are not what they were, or
    /// if that has to be anyway.
    fn look_at_topics(&mut self, now: Duration, topics: &dyn Topics, raise: bool) {
        if now >= self.refresh && self.resolve(topics) {
            self.subscriptions_changed();
        }
        if now >= self.refresh {
            self.refresh = now + EXPRESSIONS_REFRESH;
        }
        let shapes = self.wanted.iter();
        let shapes: BTreeMap<_, _> =
            shapes.filter_map(|name| Some((name.clone(), topics.shape(name)?))).collect();
        let hash = hash(&shapes);
        let differs = hash != self.hash;
        self.topics = shapes;
        self.hash = hash;
        if raise || differs {
            self.raise();
        }
    }

    /// Holds expressions against the topics that there are. Whether that changed anything.
    fn resolve(&mut self, topics: &dyn Topics) -> bool {
        let mut used: BTreeSet<Arc<str>> =
            self.members.values().filter_map(|member| member.expression.clone()).collect();
        used.extend(self.expressions.keys().cloned());
        if used.is_empty() {
            return false;
        }
        let names = topics.names();
        let mut changed = false;
        for expression in used {
            // It was compiled before it was taken; what was taken by another version may not be.
            let Ok(compiled) = compile(&expression) else { continue };
            let matching: BTreeSet<Arc<str>> =
                names.iter().filter(|name| compiled.is_match(name)).cloned().collect();
            let known = self.expressions.get(&expression);
            if known.is_some_and(|known| known.topics == matching) {
                continue;
            }
            let version = known.map_or(1, |known| known.version + 1);
            self.changed.insert(Key::Expression(self.id.clone(), expression.clone()));
            self.expressions.insert(expression, Resolved { topics: matching, version, time: None });
            changed = true;
        }
        changed
    }

    /// Computes the target if it is older than what is wanted.
    fn retarget(&mut self) {
        if self.target_epoch >= self.epoch {
            return;
        }
        let sizes: BTreeMap<Uuid, i32> =
            self.topics.values().map(|shape| (shape.id, shape.partitions)).collect();
        let nothing = Parts::new();
        let wants: Vec<assignor::Wants<'_>> = self
            .members
            .iter()
            .map(|(id, member)| assignor::Wants {
                order: member.instance.as_ref().unwrap_or(id),
                topics: self.topics_of(member),
                held: self.target.get(id).unwrap_or(&nothing),
            })
            .collect();
        let assigned = assignor::assign(self.assignor(), &wants, &sizes);
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for (id, parts) in ids.into_iter().zip(assigned) {
            if self.target.get(&id) != Some(&parts) {
                self.changed.insert(Key::TargetMember(self.id.clone(), id.clone()));
                self.target.insert(id, parts);
            }
        }
        self.target_epoch = self.epoch;
        self.changed.insert(Key::Target(self.id.clone()));
    }

    /// The topics that a member wants and that are there.
    fn topics_of(&self, member: &Member) -> BTreeSet<Uuid> {
        let matched = member.expression.as_ref().and_then(|e| self.expressions.get(e));
        let matched = matched.into_iter().flat_map(|resolved| &resolved.topics);
        let names = member.topics.iter().chain(matched);
        names.filter_map(|name| Some(self.topics.get(name)?.id)).collect()
    }
}

/// An expression, which has to match the whole of a name.
pub(crate) fn compile(expression: &str) -> Result<regex::Regex, regex::Error> {
    // By itself first: it might close the parenthesis that is put around it.
    regex::RegexBuilder::new(expression).size_limit(EXPRESSION_BYTES_MAX).build()?;
    regex::RegexBuilder::new(&format!("^(?:{expression})$"))
        .size_limit(EXPRESSION_BYTES_MAX)
        .build()
}

/// Tells whether topics are what they were, also after a restart: FNV-1a. Kafka has a hash of its
/// own there, which only has to differ when topics do.
fn hash(topics: &BTreeMap<Arc<str>, Shape>) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut put = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, shape) in topics {
        put(name.as_bytes());
        put(&[0]);
        put(shape.id.as_bytes());
        put(&shape.partitions.to_be_bytes());
    }
    hash as i64
}

#[cfg(test)]
mod tests;
