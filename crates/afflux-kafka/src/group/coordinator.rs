//! All groups: finds the one that an event is about, wakes those whose time has come, and moves
//! groups from one protocol to the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use afflux_types::Timestamp;
use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::{
    Answer, Description, GroupId, Join, MemberId, Reply, Settings, Standing, Sync, Token, Topics,
    classic,
    consumer::{self, Beat, Heartbeat, LEAVES, Refusal},
    embedded::KIND,
    records::Key,
};
use crate::fields::MalformedRecord;

/// All groups. See the module above.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(super) settings: Settings,
    topics: Arc<dyn Topics>,
    groups: BTreeMap<GroupId, Entry>,
    /// When each group wants to be woken.
    deadlines: BTreeSet<(Duration, GroupId)>,
    /// What has to be stored.
    changed: BTreeSet<Key>,
}

#[derive(Debug)]
struct Entry {
    group: Group,
    /// When the coordinator will wake it.
    armed: Option<Duration>,
}

#[derive(Debug)]
enum Group {
    Classic(classic::Group),
    Consumer(consumer::Group),
}

/// A group, briefly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) group: GroupId,
    /// The kind of protocol.
    pub(crate) kind: Arc<str>,
    /// Kafka's name for where it stands.
    pub(crate) state: &'static str,
    /// `classic` or `consumer`.
    pub(crate) protocol: &'static str,
}

impl Group {
    fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.members.is_empty(),
            Self::Consumer(group) => group.members.is_empty(),
        }
    }

    fn is_forgotten(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_forgotten(),
            Self::Consumer(group) => group.is_forgotten(),
        }
    }

    fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Classic(group) => group.deadline(),
            Self::Consumer(group) => group.deadline(),
        }
    }

    fn keys(&self, id: &GroupId) -> Vec<Key> {
        match self {
            Self::Classic(_) => vec![Key::Classic(id.clone())],
            Self::Consumer(group) => group.keys(),
        }
    }

    fn take_changed(&mut self, id: &GroupId, changed: &mut BTreeSet<Key>) {
        match self {
            Self::Classic(group) if group.is_changed() => {
                changed.insert(Key::Classic(id.clone()));
            }
            Self::Classic(_) => {}
            Self::Consumer(group) => changed.append(group.changed()),
        }
    }
}

/// What a member of a classic group is told that there is not.
fn no_classic_group(id: &str) -> ResponseError {
    if id.is_empty() { ResponseError::InvalidGroupId } else { ResponseError::UnknownMemberId }
}

const NO_CONSUMER_GROUP: Refusal =
    (ResponseError::GroupIdNotFound, "There is no such consumer group.");

impl Coordinator {
    /// No groups yet.
    pub(crate) fn new(settings: Settings, topics: Arc<dyn Topics>) -> Self {
        Self {
            settings,
            topics,
            groups: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Takes a group from its records. If it is of the consumer protocol, its members have a whole
    /// session to be heard of.
    pub(crate) fn load(
        &mut self,
        now: Duration,
        id: &GroupId,
        records: &BTreeMap<Key, Bytes>,
        session: Duration,
    ) -> Result<(), MalformedRecord> {
        let group = match records.get(&Key::Classic(id.clone())) {
            Some(value) => Group::Classic(classic::Group::decode(now, value)?),
            None => Group::Consumer(consumer::Group::decode(now, id, records, session)?),
        };
        self.groups.insert(id.clone(), Entry { group, armed: None });
        self.rearm(id);
        Ok(())
    }

    /// What has to be stored since this was last asked, in order: what ends first. None for what
    /// ends.
    pub(crate) fn take_changed(&mut self, time: Timestamp) -> Vec<(Key, Option<Vec<u8>>)> {
        let groups: BTreeSet<GroupId> =
            self.changed.iter().map(|key| key.group().clone()).collect();
        for id in groups {
            match self.groups.get_mut(&id).map(|entry| &mut entry.group) {
                Some(Group::Classic(group)) => group.store(time),
                Some(Group::Consumer(group)) => group.stamp(time),
                None => {}
            }
        }
        let changed = std::mem::take(&mut self.changed);
        let (mut ended, mut set) = (Vec::new(), Vec::new());
        for key in changed {
            match self.value(&key) {
                Some(value) => set.push((key, Some(value))),
                None => ended.push((key, None)),
            }
        }
        ended.reverse();
        ended.extend(set);
        ended
    }

    /// Has records written again with the next ones.
    pub(crate) fn change_again(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.changed.extend(keys);
    }

    /// The value of a record; none if what it is about is no more.
    pub(crate) fn value(&self, key: &Key) -> Option<Vec<u8>> {
        match (&self.groups.get(key.group())?.group, key) {
            (Group::Classic(group), Key::Classic(_)) => group.value().cloned(),
            (Group::Classic(_), _) => None,
            (Group::Consumer(group), key) => group.value(key),
        }
    }

    /// All that is stored of all groups.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.groups.iter().flat_map(|(id, entry)| entry.group.keys(id))
    }

    /// The group behind another in order, and what is stored of it.
    pub(crate) fn behind(&self, id: Option<&GroupId>) -> Option<(GroupId, Vec<Key>)> {
        let start = id.map_or(Bound::Unbounded, Bound::Excluded);
        let (id, entry) = self.groups.range::<GroupId, _>((start, Bound::Unbounded)).next()?;
        Some((id.clone(), entry.group.keys(id)))
    }

    /// A member joins, or joins again. The answer may come later.
    pub(crate) fn join(&mut self, now: Duration, token: Token, mut join: Join) -> Vec<Reply> {
        let refused = |error| {
            vec![Reply { to: token, answer: Answer::JoinRefused(error, join.member.clone()) }]
        };
        if join.group.is_empty() {
            return refused(ResponseError::InvalidGroupId);
        }
        if join.session < self.settings.session_min || join.session > self.settings.session_max {
            return refused(ResponseError::InvalidSessionTimeout);
        }
        if join.kind.is_empty() || join.protocols.is_empty() {
            return refused(ResponseError::InconsistentGroupProtocol);
        }
        if join.member.is_some() && !self.groups.contains_key(&join.group) {
            return refused(ResponseError::UnknownMemberId);
        }
        let id = join.group.clone();
        let settings = self.settings.clone();
        let topics = Arc::clone(&self.topics);
        self.end_empty(&id, |group| matches!(group, Group::Consumer(_)));
        self.groups.entry(id.clone()).or_insert_with(|| Entry {
            group: Group::Classic(classic::Group::default()),
            armed: None,
        });
        let mut replies = Vec::new();
        if let Some(group) = self.consumer(&id) {
            let answer = group.join_classic(now, &join, &settings, &*topics);
            // Its joining may leave nobody of the consumer protocol: it took the place of the
            // last. Then it shares anew with the others.
            let Answer::Joined(joined) = &answer else {
                return vec![Reply { to: token, answer }];
            };
            join.member = Some(joined.member.clone());
            if !group.is_all_classic() {
                self.rearm(&id);
                return vec![Reply { to: token, answer }];
            }
            self.go_down(now, &id, &mut replies);
        }
        replies.extend(self.with(&id, |group, replies| {
            if let Group::Classic(group) = group {
                group.join(now, token, join, &settings, replies);
            }
        }));
        replies
    }

    /// A member asks for its assignment. The answer may come later.
    pub(crate) fn sync(&mut self, now: Duration, token: Token, sync: Sync) -> Vec<Reply> {
        let id = sync.standing.group.clone();
        if !self.groups.contains_key(&id) {
            let answer = Answer::SyncRefused(no_classic_group(&id));
            return vec![Reply { to: token, answer }];
        }
        let (settings, topics) = (self.settings.clone(), Arc::clone(&self.topics));
        self.with(&id, |group, replies| match group {
            Group::Classic(group) => group.sync(now, token, sync, &settings, replies),
            Group::Consumer(group) => {
                let answer = group.sync_classic(now, &sync, &*topics);
                replies.push(Reply { to: token, answer });
            }
        })
    }

    /// A member is alive. Tells it whether to join again.
    pub(crate) fn heartbeat(
        &mut self,
        now: Duration,
        standing: &Standing,
    ) -> Result<(), ResponseError> {
        let entry = self.groups.get_mut(&standing.group);
        let outcome = match &mut entry.ok_or_else(|| no_classic_group(&standing.group))?.group {
            Group::Classic(group) => group.heartbeat(now, standing),
            Group::Consumer(group) => group.heartbeat_classic(now, standing),
        };
        self.rearm(&standing.group);
        outcome
    }

    /// A member goes; by its name, or by its configured name if it is a static member.
    pub(crate) fn leave(
        &mut self,
        now: Duration,
        group: &GroupId,
        member: &MemberId,
        instance: Option<&Arc<str>>,
    ) -> (Result<(), ResponseError>, Vec<Reply>) {
        if !self.groups.contains_key(group) {
            return (Err(ResponseError::UnknownMemberId), Vec::new());
        }
        let mut outcome = Ok(());
        let mut replies = self.with(group, |group, replies| {
            outcome = match group {
                Group::Classic(group) => group.leave(now, member, instance, replies),
                Group::Consumer(group) => group.leave_classic(member, instance),
            };
        });
        self.go_down_if_due(now, group, &mut replies);
        (outcome, replies)
    }

    /// A member of the consumer protocol is heard of: it joins, goes on or leaves.
    pub(crate) fn consumer_heartbeat(
        &mut self,
        now: Duration,
        heartbeat: Heartbeat,
    ) -> (Result<Beat, Refusal>, Vec<Reply>) {
        let id = heartbeat.group.clone();
        let mut replies = Vec::new();
        let outcome = self.try_consumer_heartbeat(now, heartbeat, &mut replies);
        self.rearm(&id);
        self.go_down_if_due(now, &id, &mut replies);
        (outcome, replies)
    }

    fn try_consumer_heartbeat(
        &mut self,
        now: Duration,
        heartbeat: Heartbeat,
        replies: &mut Vec<Reply>,
    ) -> Result<Beat, Refusal> {
        heartbeat.check()?;
        let (settings, topics) = (self.settings.clone(), Arc::clone(&self.topics));
        let id = heartbeat.group.clone();
        if heartbeat.epoch == 0 {
            self.end_empty(&id, |group| matches!(group, Group::Classic(_)));
            self.go_up(now, &id, replies)?;
        }
        let group = self.consumer(&id).ok_or(NO_CONSUMER_GROUP)?;
        if heartbeat.epoch <= LEAVES {
            let left = group.leave(&heartbeat)?;
            let epoch = heartbeat.epoch;
            return Ok(Beat { member: left, epoch, assigned: None });
        }
        group.heartbeat(now, heartbeat, &settings, &*topics)
    }

    /// Whether offsets may be committed by who says it is this. A negative generation means that
    /// it is in no group at all, which is fine as long as nobody else is. `is_modern` says that
    /// the request knows of epochs.
    pub(crate) fn may_commit(
        &mut self,
        now: Duration,
        standing: &Standing,
        is_modern: bool,
    ) -> Result<(), ResponseError> {
        let Some(entry) = self.groups.get_mut(&standing.group) else {
            return match (standing.generation, is_modern) {
                (..0, _) => Ok(()),
                (_, true) => Err(ResponseError::GroupIdNotFound),
                (_, false) => Err(ResponseError::IllegalGeneration),
            };
        };
        let outcome = match &mut entry.group {
            Group::Classic(group) => group.may_commit(now, standing),
            Group::Consumer(group) if standing.generation < 0 && group.members.is_empty() => Ok(()),
            Group::Consumer(group) => {
                let (member, instance) = (&standing.member, standing.instance.as_deref());
                let is_older = |member: &consumer::Member| member.classic.is_none() && !is_modern;
                if group.members.get(member).is_some_and(is_older) {
                    Err(ResponseError::UnsupportedVersion)
                } else {
                    group.check_epoch(member, instance, standing.generation).map(drop)
                }
            }
        };
        self.rearm(&standing.group);
        outcome
    }

    /// Whether who says it is this may ask where a group stands. Only members of the consumer
    /// protocol say who they are.
    pub(crate) fn may_fetch(
        &self,
        group: &str,
        member: &str,
        epoch: i32,
    ) -> Result<(), ResponseError> {
        match self.groups.get(group).map(|entry| &entry.group) {
            Some(Group::Consumer(group)) if !member.is_empty() || epoch >= 0 => {
                group.check_epoch(member, None, epoch).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Ends what has run out by now.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().cloned() {
            if deadline > now {
                break;
            }
            replies.extend(self.with(&id, |group, replies| match group {
                Group::Classic(group) => group.tick(now, replies),
                Group::Consumer(group) => group.tick(now),
            }));
            self.go_down_if_due(now, &id, &mut replies);
            // A group that wants to be woken in the past would spin here.
            if self.deadlines.first().is_some_and(|first| *first == (deadline, id)) {
                break;
            }
        }
        replies
    }

    /// When [`Self::tick`] has to be called at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A classic group, if there is one.
    pub(crate) fn describe(&self, id: &str) -> Option<Description> {
        match &self.groups.get(id)?.group {
            Group::Classic(group) => Some(group.describe()),
            Group::Consumer(_) => None,
        }
    }

    /// A group of the consumer protocol, if there is one.
    pub(crate) fn describe_consumer(&self, id: &str) -> Option<&consumer::Group> {
        match &self.groups.get(id)?.group {
            Group::Classic(_) => None,
            Group::Consumer(group) => Some(group),
        }
    }

    /// All groups.
    pub(crate) fn list(&self) -> impl Iterator<Item = Listed> {
        self.groups.iter().map(|(id, entry)| {
            let group = id.clone();
            match &entry.group {
                Group::Classic(classic) => {
                    let (kind, state) = (classic.kind(), classic.state().name());
                    Listed { group, kind, state, protocol: "classic" }
                }
                Group::Consumer(consumer) => {
                    let (kind, state) = ("consumer".into(), consumer.state().name());
                    Listed { group, kind, state, protocol: "consumer" }
                }
            }
        })
    }

    /// Ends a group that has no members; tells whether there was one.
    pub(crate) fn end(&mut self, token: Token, id: &GroupId) -> Reply {
        let known = self.knows(id);
        let outcome = if self.groups.get(id).is_some_and(|entry| !entry.group.is_empty()) {
            Err(ResponseError::NonEmptyGroup)
        } else {
            self.end_empty(id, |_| true);
            Ok(known)
        };
        Reply { to: token, answer: Answer::Ended(outcome) }
    }

    /// Whether there is such a group.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.groups.contains_key(id)
    }

    /// Whether members of a group want a topic: then what is committed for it stays. An error if
    /// its members are no consumers.
    pub(crate) fn wants(&self, id: &str, topic: &str) -> Result<bool, ResponseError> {
        match self.groups.get(id).map(|entry| &entry.group) {
            None => Ok(false),
            Some(Group::Consumer(group)) => Ok(group.wants(topic)),
            Some(Group::Classic(group)) if group.members.is_empty() => Ok(false),
            Some(Group::Classic(group)) if &*group.kind() == KIND => {
                Ok(group.wants(topic).unwrap_or(true))
            }
            Some(Group::Classic(_)) => Err(ResponseError::NonEmptyGroup),
        }
    }

    /// Since when nobody needs what a group committed for a topic; none while somebody may.
    pub(crate) fn unneeded_since(
        &mut self,
        now: Timestamp,
        id: &str,
        topic: &str,
        committed: Timestamp,
    ) -> Option<Timestamp> {
        match self.groups.get_mut(id).map(|entry| &mut entry.group) {
            None => Some(committed),
            Some(Group::Classic(group)) => group.unneeded_since(topic, committed),
            Some(Group::Consumer(group)) => group.unneeded_since(now, topic, committed),
        }
    }

    /// Ends groups that have no members and stand nowhere.
    pub(crate) fn end_idle(&mut self, stands: impl Fn(&GroupId) -> bool) {
        let idle = self.groups.iter().filter(|(id, entry)| entry.group.is_empty() && !stands(id));
        for id in idle.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.end_empty(&id, |_| true);
        }
    }

    fn consumer(&mut self, id: &str) -> Option<&mut consumer::Group> {
        match &mut self.groups.get_mut(id)?.group {
            Group::Classic(_) => None,
            Group::Consumer(group) => Some(group),
        }
    }

    /// Ends a group without members, if it is of a kind.
    fn end_empty(&mut self, id: &GroupId, of_kind: impl FnOnce(&Group) -> bool) {
        let Some(entry) = self.groups.get(id) else { return };
        if !entry.group.is_empty() || !of_kind(&entry.group) {
            return;
        }
        match &entry.group {
            Group::Classic(group) if group.value().is_none() => {}
            Group::Classic(_) => {
                self.changed.insert(Key::Classic(id.clone()));
            }
            Group::Consumer(group) => self.changed.extend(group.keys()),
        }
        if let Some(armed) = entry.armed {
            self.deadlines.remove(&(armed, id.clone()));
        }
        self.groups.remove(id);
    }

    /// Makes a group of the consumer protocol if there is none; moves a classic one to it.
    fn go_up(
        &mut self,
        now: Duration,
        id: &GroupId,
        replies: &mut Vec<Reply>,
    ) -> Result<(), Refusal> {
        let topics = Arc::clone(&self.topics);
        let Some(entry) = self.groups.get_mut(id) else {
            let group = Group::Consumer(consumer::Group::new(id.clone()));
            self.groups.insert(id.clone(), Entry { group, armed: None });
            return Ok(());
        };
        let Group::Classic(classic) = &mut entry.group else { return Ok(()) };
        let fits = classic.members.len() <= self.settings.consumer_members_max;
        let consumer =
            consumer::Group::from_classic(now, id, classic, &*topics).filter(|_| fits).ok_or((
                ResponseError::GroupIdNotFound,
                "The classic group can not be one of the consumer protocol.",
            ))?;
        classic.refuse_all(ResponseError::RebalanceInProgress, replies);
        self.changed.insert(Key::Classic(id.clone()));
        self.changed.extend(consumer.keys());
        entry.group = Group::Consumer(consumer);
        Ok(())
    }

    /// Moves a group back to the classic protocol if nobody else is left.
    fn go_down_if_due(&mut self, now: Duration, id: &GroupId, replies: &mut Vec<Reply>) {
        if self.consumer(id).is_some_and(|group| group.is_all_classic()) {
            self.go_down(now, id, replies);
        }
    }

    fn go_down(&mut self, now: Duration, id: &GroupId, replies: &mut Vec<Reply>) {
        let topics = Arc::clone(&self.topics);
        let Some(entry) = self.groups.get_mut(id) else { return };
        let Group::Consumer(group) = &mut entry.group else { return };
        // What has changed may be about members that are no more: their records go, too.
        self.changed.append(group.changed());
        self.changed.extend(group.keys());
        let mut classic = group.to_classic(now, &*topics);
        classic.prepare(now, replies);
        entry.group = Group::Classic(classic);
        self.rearm(id);
    }

    /// Changes one group, then looks when it wants to be woken.
    fn with(
        &mut self,
        id: &GroupId,
        change: impl FnOnce(&mut Group, &mut Vec<Reply>),
    ) -> Vec<Reply> {
        let mut replies = Vec::new();
        if let Some(entry) = self.groups.get_mut(id) {
            change(&mut entry.group, &mut replies);
        }
        self.rearm(id);
        replies
    }

    /// Looks when a group wants to be woken and what of it has to be stored; forgets it if nobody
    /// ever was in it nor is coming.
    fn rearm(&mut self, id: &GroupId) {
        let Some(entry) = self.groups.get_mut(id) else { return };
        entry.group.take_changed(id, &mut self.changed);
        let is_forgotten = entry.group.is_forgotten();
        let deadline = entry.group.deadline().filter(|_| !is_forgotten);
        if entry.armed != deadline {
            if let Some(old) = entry.armed {
                self.deadlines.remove(&(old, id.clone()));
            }
            entry.armed = deadline;
            if let Some(new) = deadline {
                self.deadlines.insert((new, id.clone()));
            }
        }
        if is_forgotten {
            self.groups.remove(id);
        }
    }
}
