//! The coordinator of groups: who is in a group, and who gets what.
//!
//! Pure: it knows no clock, network or log. Each call is an event with the time at which it
//! happened; what comes back are the replies that are due, some to callers parked earlier, each
//! named by the [`Token`] that came with its call. [`Coordinator::next_deadline`] says when
//! [`Coordinator::tick`] has to be called at the latest.
//!
//! What has to survive a restart is told by [`Coordinator::take_changed`], after each call, as
//! records of `__consumer_offsets` (see `records`). Whoever calls writes them in that order, and
//! passes no reply on before they are durable.
//!
//! There are two kinds of groups: classic ones, below, whose leader assigns, and those of the
//! consumer protocol (see `consumer`), for which the coordinator does. A live group can move from
//! one to the other.
//!
//! A classic group goes round like this:
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
//! A static member (one with a configured name) may be away while others join, and takes its
//! former place under a new name without a rebalance.

mod classic;
pub(crate) mod consumer;
mod coordinator;
pub(crate) mod embedded;
pub(crate) mod offsets;
pub(crate) mod records;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use uuid::Uuid;

pub(crate) use self::coordinator::Coordinator;

/// Names a parked caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token(pub(crate) u64);

/// A group's name.
pub(crate) type GroupId = Arc<str>;
/// A member's name, given by the coordinator.
pub(crate) type MemberId = Arc<str>;

/// A partition: its topic's id, which is never used again, and its number.
pub(crate) type Part = (Uuid, i32);
/// Partitions, in order.
pub(crate) type Parts = BTreeSet<Part>;

/// What a topic is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Its id.
    pub(crate) id: Uuid,
    /// How many partitions it has.
    pub(crate) partitions: i32,
}

/// The topics that there are, as far as clients may read them.
pub(crate) trait Topics: std::fmt::Debug + Send + std::marker::Sync {
    /// A topic of a name.
    fn shape(&self, name: &str) -> Option<Shape>;
    /// The name of a topic.
    fn name(&self, id: Uuid) -> Option<Arc<str>>;
    /// All names.
    fn names(&self) -> Vec<Arc<str>>;
}

/// Limits, which are Kafka's unless told otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The shortest session that a member may ask for.
    pub(crate) session_min: Duration,
    /// The longest session that a member may ask for.
    pub(crate) session_max: Duration,
    /// How long a group that was empty waits for more members.
    pub(crate) initial_delay: Duration,
    /// The most members of a classic group.
    pub(crate) members_max: usize,
    /// The most members of a group of the consumer protocol.
    pub(crate) consumer_members_max: usize,
    /// The most bytes that the members of one group may say of themselves, all together, and the
    /// most that a leader may assign. Kafka keeps all of a classic group in a record of 1 MiB.
    pub(crate) bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            session_min: Duration::from_secs(6),
            session_max: Duration::from_mins(30),
            initial_delay: Duration::from_millis(200),
            members_max: 1_000,
            consumer_members_max: 1_000,
            bytes_max: 4 << 20,
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
    /// Whether it can be told that it leads and need not assign.
    pub(crate) can_skip: bool,
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

impl Join {
    /// The bytes of what it says that are kept.
    pub(crate) fn bytes(&self) -> usize {
        let texts = self.client.len() + self.host.len();
        texts
            + self.instance.as_ref().map_or(0, |name| name.len())
            + protocols_bytes(&self.protocols)
    }
}

/// The bytes of what a member says under its protocols.
pub(crate) fn protocols_bytes(protocols: &[(Arc<str>, Bytes)]) -> usize {
    protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum()
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
    /// To a heartbeat of the consumer protocol.
    Beat(Result<consumer::Beat, consumer::Refusal>),
    /// To who ends a group: whether there was one.
    Ended(Result<bool, ResponseError>),
    /// To who leaves a classic group.
    Left(Result<(), ResponseError>),
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
    /// Whether it leads, but need not assign.
    pub(crate) skip: bool,
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

#[cfg(test)]
mod tests;
