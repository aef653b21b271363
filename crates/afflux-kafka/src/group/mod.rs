//! The coordinator of classic consumer groups: who is in a group, and who gets what.
//!
//! Pure: it knows no clock, network or log. Each call is an event with the time at which it
//! happened; what comes back are the replies that are due, some to callers parked earlier, each
//! named by the [`Token`] that came with its call. [`Coordinator::next_deadline`] says when
//! [`Coordinator::tick`] has to be called at the latest.
//!
//! A group goes round like this:
//!
//! ```text
//!            join                 all joined, or time is up          leader's sync
//! ┌───────┐ ─────▶ ┌───────────┐ ────────────────────────▶ ┌─────────┐ ─────▶ ┌────────┐
//! │ Empty │        │ Preparing │                           │ Syncing │        │ Stable │
//! └───────┘ ◀───── └───────────┘ ◀──────────────────────── └─────────┘        └────────┘
//!        nobody left     ▲   join, leave, session or sync time-out   │             │
//!                        └───────────────────────────────────────────┴─────────────┘
//! ```
//! 1. *Preparing*: every known member has to join again; joins are parked. It ends when all have,
//!    or after the longest rebalance time-out of its members; who has not joined by then is out.
//!    A group that was empty waits a moment for others who are just starting.
//! 2. Its end raises the generation, picks a protocol that all members know (by vote) and a
//!    leader (the old one if still there), and answers all joins.
//! 3. *Syncing*: members wait for the leader's assignment. Who never asks for it is out, too.
//! 4. *Stable*: heartbeats. A member whose session ends, who leaves or joins with something new
//!    starts over at 1.
//!
//! Groups live in memory: after a restart members are unknown, join again and go on from their
//! committed offsets, which are in the log.

pub(crate) mod offsets;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use kafka_protocol::ResponseError;

use state::Group;

/// Names a parked caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token(pub(crate) u64);

/// A group's name.
pub(crate) type GroupId = Arc<str>;
/// A member's name, given by the coordinator.
pub(crate) type MemberId = Arc<str>;

/// Limits, which are Kafka's unless told otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The shortest session that a member may ask for.
    pub(crate) session_min: Duration,
    /// The longest session that a member may ask for.
    pub(crate) session_max: Duration,
    /// How long a group that was empty waits for more members.
    pub(crate) initial_delay: Duration,
    /// The most members of one group.
    pub(crate) members_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            session_min: Duration::from_secs(6),
            session_max: Duration::from_mins(30),
            initial_delay: Duration::from_millis(200),
            members_max: 1_000,
        }
    }
}

/// Somebody wants in.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// The group.
    pub(crate) group: GroupId,
    /// The member, if it has a name yet.
    pub(crate) member: Option<MemberId>,
    /// Its configured name, if it is a static member.
    pub(crate) instance: Option<Arc<str>>,
    /// The name it gets if it has none. Never used before.
    pub(crate) fresh: MemberId,
    /// Whether a member without a name has to come back with the one it is given.
    pub(crate) named_first: bool,
    /// What the client calls itself.
    pub(crate) client: Arc<str>,
    /// Where it is.
    pub(crate) host: Arc<str>,
    /// Without a heartbeat for this long it is out.
    pub(crate) session: Duration,
    /// How long it may take to join again.
    pub(crate) rebalance: Duration,
    /// The kind of protocol; `consumer` for consumers.
    pub(crate) kind: Arc<str>,
    /// The protocols that it knows, best first, each with what it says under it.
    pub(crate) protocols: Vec<(Arc<str>, Bytes)>,
}

/// A member asks for its assignment; the leader brings everybody's.
#[derive(Debug, Clone)]
pub(crate) struct Sync {
    /// The member's standing.
    pub(crate) standing: Standing,
    /// The kind of protocol it thinks is used.
    pub(crate) kind: Option<Arc<str>>,
    /// The protocol it thinks is used.
    pub(crate) protocol: Option<Arc<str>>,
    /// Everybody's assignment, from the leader.
    pub(crate) assignments: Vec<(MemberId, Bytes)>,
}

/// What a member says it is.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// The group.
    pub(crate) group: GroupId,
    /// The member.
    pub(crate) member: MemberId,
    /// Its configured name, if it is a static member.
    pub(crate) instance: Option<Arc<str>>,
    /// The generation it knows of.
    pub(crate) generation: i32,
}

/// An answer that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// To whom.
    pub(crate) to: Token,
    /// What.
    pub(crate) answer: Answer,
}

/// What a parked caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To a join that succeeded.
    Joined(Joined),
    /// To a join that did not; the member's name where it matters.
    JoinRefused(ResponseError, Option<MemberId>),
    /// To a sync that succeeded.
    Synced(Synced),
    /// To a sync that did not.
    SyncRefused(ResponseError),
}

/// A new generation, as one member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Its number.
    pub(crate) generation: i32,
    /// The kind of protocol.
    pub(crate) kind: Arc<str>,
    /// The protocol picked.
    pub(crate) protocol: Arc<str>,
    /// Who assigns.
    pub(crate) leader: MemberId,
    /// Who is told this.
    pub(crate) member: MemberId,
    /// For the leader alone: everybody, with what they say under the protocol.
    pub(crate) members: Vec<(MemberId, Option<Arc<str>>, Bytes)>,
}

/// An assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    /// The kind of protocol.
    pub(crate) kind: Arc<str>,
    /// The protocol in use.
    pub(crate) protocol: Arc<str>,
    /// What the leader gave the member.
    pub(crate) assignment: Bytes,
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It has no members.
    Empty,
    /// Its members are joining.
    Preparing,
    /// Its leader is assigning.
    Syncing,
    /// It is at work.
    Stable,
}

impl State {
    /// Kafka's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Syncing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A group, described.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    /// Where it stands.
    pub(crate) state: State,
    /// The kind of protocol; empty if nobody ever joined.
    pub(crate) kind: Arc<str>,
    /// The protocol in use; empty unless there is one.
    pub(crate) protocol: Arc<str>,
    /// Its members.
    pub(crate) members: Vec<DescribedMember>,
}

/// A member, described.
#[derive(Debug, Clone)]
pub(crate) struct DescribedMember {
    /// Its name.
    pub(crate) member: MemberId,
    /// Its configured name, if it is a static member.
    pub(crate) instance: Option<Arc<str>>,
    /// What the client calls itself.
    pub(crate) client: Arc<str>,
    /// Where it is.
    pub(crate) host: Arc<str>,
    /// What it says under the protocol in use.
    pub(crate) metadata: Bytes,
    /// What it has been given.
    pub(crate) assignment: Bytes,
}

/// All groups. See the module.
#[derive(Debug)]
pub(crate) struct Coordinator {
    settings: Settings,
    groups: BTreeMap<GroupId, Group>,
    /// When each group wants to be woken.
    deadlines: BTreeSet<(Duration, GroupId)>,
}

impl Coordinator {
    /// No groups yet.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, groups: BTreeMap::new(), deadlines: BTreeSet::new() }
    }

    /// A member joins, or joins again. The answer may come later.
    pub(crate) fn join(&mut self, now: Duration, token: Token, join: Join) -> Vec<Reply> {
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
        self.groups.entry(id.clone()).or_default();
        self.with(&id, |group, replies| group.join(now, token, join, &settings, replies))
    }

    /// A member asks for its assignment. The answer may come later.
    pub(crate) fn sync(&mut self, now: Duration, token: Token, sync: Sync) -> Vec<Reply> {
        let id = sync.standing.group.clone();
        if !self.groups.contains_key(&id) {
            let answer = Answer::SyncRefused(ResponseError::UnknownMemberId);
            return vec![Reply { to: token, answer }];
        }
        self.with(&id, |group, replies| group.sync(now, token, sync, replies))
    }

    /// A member is alive. Tells it whether to join again.
    pub(crate) fn heartbeat(
        &mut self,
        now: Duration,
        standing: &Standing,
    ) -> Result<(), ResponseError> {
        let group = self.groups.get_mut(&standing.group).ok_or(ResponseError::UnknownMemberId)?;
        let outcome = group.heartbeat(now, standing);
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
        let replies = self.with(group, |group, replies| {
            outcome = group.leave(now, member, instance, replies);
        });
        (outcome, replies)
    }

    /// Whether offsets may be committed by who says it is this. A negative generation means that
    /// it is in no group at all, which is fine as long as nobody else is.
    pub(crate) fn may_commit(
        &mut self,
        now: Duration,
        standing: &Standing,
    ) -> Result<(), ResponseError> {
        let Some(group) = self.groups.get_mut(&standing.group) else {
            return if standing.generation < 0 {
                Ok(())
            } else {
                Err(ResponseError::IllegalGeneration)
            };
        };
        let outcome = group.may_commit(now, standing);
        self.rearm(&standing.group);
        outcome
    }

    /// Ends what has run out by now.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().cloned() {
            if deadline > now {
                break;
            }
            replies.extend(self.with(&id, |group, replies| group.tick(now, replies)));
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

    /// A group, if anybody is in it.
    pub(crate) fn describe(&self, id: &str) -> Option<Description> {
        self.groups.get(id).map(Group::describe)
    }

    /// All groups that anybody is in: name, state, kind of protocol.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&GroupId, State, Arc<str>)> {
        self.groups.iter().map(|(id, group)| (id, group.state(), group.kind()))
    }

    /// Changes one group, then looks when it wants to be woken.
    fn with(
        &mut self,
        id: &GroupId,
        change: impl FnOnce(&mut Group, &mut Vec<Reply>),
    ) -> Vec<Reply> {
        let mut replies = Vec::new();
        if let Some(group) = self.groups.get_mut(id) {
            change(group, &mut replies);
        }
        self.rearm(id);
        replies
    }

    /// Looks when a group wants to be woken; forgets it if nobody is in it or coming.
    fn rearm(&mut self, id: &GroupId) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let deadline = group.deadline();
        if group.armed != deadline {
            if let Some(old) = group.armed {
                self.deadlines.remove(&(old, id.clone()));
            }
            group.armed = deadline;
            if let Some(new) = deadline {
                self.deadlines.insert((new, id.clone()));
            }
        }
        if group.is_forgotten() {
            self.groups.remove(id);
        }
    }
}

#[cfg(test)]
mod tests;
