mod courses;

use std::collections::BTreeMap;

use super::*;

/// A coordinator, a clock, and what callers have been told.
struct World {
    coordinator: Coordinator,
    now: Duration,
    tokens: u64,
    fresh: u64,
    told: BTreeMap<Token, Answer>,
}

/// Classic groups need none.
#[derive(Debug)]
struct NoTopics;

impl Topics for NoTopics {
    fn shape(&self, _: &str) -> Option<Shape> {
        None
    }
    fn name(&self, _: Uuid) -> Option<Arc<str>> {
        None
    }
    fn names(&self) -> Vec<Arc<str>> {
        Vec::new()
    }
}

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(30);
const DELAY: Duration = Duration::from_millis(200);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl World {
    fn new() -> Self {
        Self {
            coordinator: Coordinator::new(
                Settings { initial_delay: DELAY, ..Settings::default() },
                Arc::new(NoTopics),
            ),
            now: secs(1_000),
            tokens: 0,
            fresh: 0,
            told: BTreeMap::new(),
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn hear(&mut self, replies: Vec<Reply>) {
        for reply in replies {
            assert!(self.told.insert(reply.to, reply.answer).is_none(), "nobody is told twice");
        }
    }

    /// Lets time pass, waking the coordinator when it wants to be woken.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(deadline) = self.coordinator.next_deadline().filter(|at| *at <= until) {
            assert!(deadline >= self.now, "a deadline lies in the past");
            self.now = deadline;
            let replies = self.coordinator.tick(self.now);
            self.hear(replies);
            assert!(
                self.coordinator.next_deadline() > Some(deadline)
                    || self.coordinator.next_deadline().is_none()
            );
        }
        self.now = until;
    }

    fn request(&mut self, member: Option<&str>, protocols: &[&str]) -> Join {
        self.fresh += 1;
        Join {
            group: "g".into(),
            member: member.map(Into::into),
            instance: None,
            fresh: format!("m{}", self.fresh).into(),
            named_first: false,
            can_skip: false,
            client: "c".into(),
            host: "/127.0.0.1".into(),
            session: SESSION,
            rebalance: REBALANCE,
            kind: "consumer".into(),
            protocols: protocols
                .iter()
                .map(|name| ((*name).into(), Bytes::copy_from_slice(name.as_bytes())))
                .collect(),
        }
    }

    fn send(&mut self, join: Join) -> Token {
        let token = self.token();
        let replies = self.coordinator.join(self.now, token, join);
        self.hear(replies);
        token
    }

    fn join(&mut self, member: Option<&str>) -> Token {
        let join = self.request(member, &["range"]);
        self.send(join)
    }

    fn joined(&self, token: Token) -> Joined {
        match self.told.get(&token) {
            Some(Answer::Joined(joined)) => joined.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn refused(&self, token: Token) -> ResponseError {
        match self.told.get(&token) {
            Some(Answer::JoinRefused(error, _) | Answer::SyncRefused(error)) => *error,
            other => panic!("{other:?}"),
        }
    }

    fn is_parked(&self, token: Token) -> bool {
        !self.told.contains_key(&token)
    }

    fn standing(member: &str, generation: i32) -> Standing {
        Standing { group: "g".into(), member: member.into(), instance: None, generation }
    }

    fn sync(&mut self, member: &str, generation: i32, assignments: &[(&str, &str)]) -> Token {
        let token = self.token();
        let sync = Sync {
            standing: Self::standing(member, generation),
            kind: Some("consumer".into()),
            protocol: Some("range".into()),
            assignments: assignments
                .iter()
                .map(|(id, part)| ((*id).into(), Bytes::copy_from_slice(part.as_bytes())))
                .collect(),
        };
        let replies = self.coordinator.sync(self.now, token, sync);
        self.hear(replies);
        token
    }

    fn synced(&self, token: Token) -> Bytes {
        match self.told.get(&token) {
            Some(Answer::Synced(synced)) => synced.assignment.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> Result<(), ResponseError> {
        self.coordinator.heartbeat(self.now, &Self::standing(member, generation))
    }

    fn leave(&mut self, member: &str) -> Result<(), ResponseError> {
        let (outcome, replies) =
            self.coordinator.leave(self.now, &"g".into(), &member.into(), None);
        self.hear(replies);
        outcome
    }

    fn state(&self) -> State {
        self.coordinator.describe("g").map_or(State::Empty, |group| group.state)
    }

    /// Two members, the first the leader, at work in generation 1.
    fn stable_pair() -> Self {
        let mut world = Self::new();
        let (one, two) = (world.join(None), world.join(None));
        world.pass(DELAY);
        assert_eq!(world.joined(one).leader, world.joined(two).leader);
        world.sync("m2", 1, &[]);
        world.sync("m1", 1, &[("m1", "a"), ("m2", "b")]);
        assert_eq!(world.state(), State::Stable);
        world
    }
}

#[test]
fn a_group_that_nobody_got_into_holds_up_no_other() {
    let mut world = World::new();
    let parked = world.join(None);
    assert_eq!(world.leave("m1"), Ok(()));
    assert!(!world.is_parked(parked));
    assert_eq!(world.coordinator.next_deadline(), None);
    let next = world.join(None);
    world.pass(DELAY);
    assert_eq!(&*world.joined(next).leader, "m2");
}

#[test]
fn a_new_group_waits_for_those_who_start_together() {
    let mut world = World::new();
    let one = world.join(None);
    world.pass(DELAY / 2);
    let two = world.join(None);
    assert!(world.is_parked(one) && world.is_parked(two));
    world.pass(DELAY / 2);
    let (first, second) = (world.joined(one), world.joined(two));
    assert_eq!((first.generation, &*first.leader, &*first.member), (1, "m1", "m1"));
    assert_eq!((second.generation, &*second.leader, &*second.member), (1, "m1", "m2"));
    let names: Vec<&str> = first.members.iter().map(|(id, ..)| &**id).collect();
    assert_eq!(names, ["m1", "m2"]);
    assert!(second.members.is_empty(), "only the leader is told who is there");
    let waiting = world.sync("m2", 1, &[]);
    assert!(world.is_parked(waiting));
    let leading = world.sync("m1", 1, &[("m1", "a"), ("m2", "b")]);
    assert_eq!(world.synced(leading), "a");
    assert_eq!(world.synced(waiting), "b");
    assert_eq!(world.state(), State::Stable);
    assert_eq!(world.heartbeat("m2", 1), Ok(()));
}

#[test]
fn a_name_has_to_be_fetched_first() {
    let mut world = World::new();
    let mut join = world.request(None, &["range"]);
    join.named_first = true;
    let asked = world.send(join);
    assert_eq!(
        world.told[&asked],
        Answer::JoinRefused(ResponseError::MemberIdRequired, Some("m1".into()))
    );
    let token = world.join(Some("m1"));
    world.pass(DELAY);
    assert_eq!(world.joined(token).generation, 1);
    // A name that nobody was given.
    let token = world.join(Some("stranger"));
    assert_eq!(world.refused(token), ResponseError::UnknownMemberId);
}

#[test]
fn a_name_that_is_not_used_runs_out() {
    let mut world = World::new();
    let mut join = world.request(None, &["range"]);
    join.named_first = true;
    world.send(join);
    let other = world.join(None);
    world.pass(secs(9));
    assert!(world.is_parked(other), "somebody was named and may still come");
    world.pass(secs(1));
    assert_eq!(world.joined(other).members.len(), 1);
    let late = world.join(Some("m1"));
    assert_eq!(world.refused(late), ResponseError::UnknownMemberId);
}

#[test]
fn a_third_member_starts_a_rebalance_and_heartbeats_tell_of_it() {
    let mut world = World::stable_pair();
    let third = world.join(None);
    assert_eq!(world.state(), State::Preparing);
    assert_eq!(world.heartbeat("m1", 1), Err(ResponseError::RebalanceInProgress));
    let one = world.join(Some("m1"));
    assert!(world.is_parked(one) && world.is_parked(third));
    let two = world.join(Some("m2"));
    assert_eq!(world.joined(one).members.len(), 3);
    assert_eq!(world.joined(one).leader, "m1".into(), "the leader stays the leader");
    for token in [one, two, third] {
        assert_eq!(world.joined(token).generation, 2);
    }
    let stale = world.sync("m2", 1, &[]);
    assert_eq!(world.refused(stale), ResponseError::IllegalGeneration);
    assert_eq!(world.heartbeat("m2", 1), Err(ResponseError::IllegalGeneration));
}

#[test]
fn rebalances_chain() {
    let mut world = World::stable_pair();
    // While the third member's generation is being assigned, a fourth comes.
    let third = world.join(None);
    world.join(Some("m1"));
    world.join(Some("m2"));
    let third = world.joined(third).member;
    let waiting = world.sync(&third, 2, &[]);
    let fourth = world.join(None);
    assert_eq!(world.refused(waiting), ResponseError::RebalanceInProgress);
    let late = world.sync("m1", 2, &[]);
    assert_eq!(world.refused(late), ResponseError::RebalanceInProgress);
    let one = world.join(Some("m1"));
    world.join(Some("m2"));
    assert!(world.is_parked(fourth));
    // And before that is complete, the third leaves.
    assert_eq!(world.leave(&third), Ok(()));
    assert_eq!(world.joined(fourth).generation, 3);
    assert_eq!(world.joined(one).members.len(), 3);
    let member = world.joined(fourth).member;
    let waiting = world.sync(&member, 3, &[]);
    world.sync("m1", 3, &[(&*member, "x")]);
    assert_eq!(world.synced(waiting), "x");
}

#[test]
fn a_silent_member_is_out_when_its_session_ends() {
    let mut world = World::stable_pair();
    world.pass(secs(9));
    assert_eq!(world.heartbeat("m1", 1), Ok(()));
    world.pass(secs(2));
    assert_eq!(world.state(), State::Preparing);
    assert_eq!(world.heartbeat("m2", 1), Err(ResponseError::UnknownMemberId));
    assert_eq!(world.heartbeat("m1", 1), Err(ResponseError::RebalanceInProgress));
    let one = world.join(Some("m1"));
    assert_eq!(world.joined(one).members.len(), 1);
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let mut world = World::stable_pair();
    let third = world.join(None);
    let one = world.join(Some("m1"));
    // The second keeps its session, but never joins.
    for _ in 0..6 {
        assert_eq!(world.heartbeat("m2", 1), Err(ResponseError::RebalanceInProgress));
        world.pass(secs(5));
    }
    assert_eq!(world.joined(one).members.len(), 2);
    assert_eq!(world.joined(third).generation, 2);
    assert_eq!(world.heartbeat("m2", 1), Err(ResponseError::UnknownMemberId));
}

#[test]
fn a_parked_member_does_not_run_out() {
    let mut world = World::stable_pair();
    let third = world.join(None);
    for _ in 0..4 {
        world.pass(secs(6));
        world.heartbeat("m1", 1).unwrap_err();
        world.heartbeat("m2", 1).unwrap_err();
    }
    assert!(world.is_parked(third), "it waits longer than a session, in peace");
    world.join(Some("m1"));
    world.join(Some("m2"));
    assert_eq!(world.joined(third).generation, 2);
}

#[test]
fn a_leader_that_never_assigns_is_out() {
    let mut world = World::new();
    let (one, two) = (world.join(None), world.join(None));
    world.pass(DELAY);
    assert_eq!(&*world.joined(one).leader, "m1");
    assert_eq!(world.joined(two).generation, 1);
    let waiting = world.sync("m2", 1, &[]);
    for _ in 0..6 {
        let _ = world.heartbeat("m1", 1);
        world.pass(secs(5));
    }
    assert_eq!(world.refused(waiting), ResponseError::RebalanceInProgress);
    assert_eq!(world.heartbeat("m1", 1), Err(ResponseError::UnknownMemberId));
    let two = world.join(Some("m2"));
    assert_eq!(&*world.joined(two).leader, "m2");
}

#[test]
fn joining_again_with_the_same_is_answered_and_with_something_new_rebalances() {
    let mut world = World::stable_pair();
    let again = world.join(Some("m2"));
    assert_eq!(world.joined(again).generation, 1);
    assert_eq!(world.state(), State::Stable);
    let mut join = world.request(Some("m2"), &["range"]);
    join.protocols[0].1 = Bytes::from_static(b"another subscription");
    let new = world.send(join);
    assert!(world.is_parked(new));
    assert_eq!(world.state(), State::Preparing);
    // The leader's joining again always rebalances: that is how it asks for it.
    let mut world = World::stable_pair();
    let leader = world.join(Some("m1"));
    assert!(world.is_parked(leader));
    assert_eq!(world.state(), State::Preparing);
}

#[test]
fn a_join_sent_twice_is_answered_once() {
    let mut world = World::stable_pair();
    let lost = world.join(None);
    let member = world.coordinator.describe("g").unwrap().members[2].member.clone();
    let again = world.join(Some(&member));
    assert_eq!(world.refused(lost), ResponseError::RebalanceInProgress);
    world.join(Some("m1"));
    world.join(Some("m2"));
    assert_eq!(world.joined(again).member, member);
}

#[test]
fn the_protocol_is_one_that_all_know() {
    let mut world = World::new();
    let one = world.request(None, &["sticky", "range"]);
    let two = world.request(None, &["range", "roundrobin"]);
    let three = world.request(None, &["roundrobin", "range"]);
    let stranger = world.request(None, &["roundrobin"]);
    let one = world.send(one);
    world.send(two);
    world.send(three);
    let refused = world.send(stranger);
    assert_eq!(world.refused(refused), ResponseError::InconsistentGroupProtocol);
    let mut other_kind = world.request(None, &["range"]);
    other_kind.kind = "connect".into();
    let refused = world.send(other_kind);
    assert_eq!(world.refused(refused), ResponseError::InconsistentGroupProtocol);
    world.pass(DELAY);
    let joined = world.joined(one);
    assert_eq!(&*joined.protocol, "range");
    assert_eq!(joined.members[0].2, "range");
}

#[test]
fn what_can_not_join_is_told_why() {
    let check = |change: &dyn Fn(&mut Join), expected: ResponseError| {
        let mut world = World::new();
        let mut join = world.request(None, &["range"]);
        change(&mut join);
        let token = world.send(join);
        assert_eq!(world.refused(token), expected);
        assert!(world.coordinator.next_deadline().is_none(), "nothing is left behind");
        assert!(world.coordinator.describe("g").is_none());
    };
    check(&|join| join.group = "".into(), ResponseError::InvalidGroupId);
    check(&|join| join.session = secs(1), ResponseError::InvalidSessionTimeout);
    check(&|join| join.session = secs(86_400), ResponseError::InvalidSessionTimeout);
    check(&|join| join.protocols.clear(), ResponseError::InconsistentGroupProtocol);
    check(&|join| join.member = Some("m9".into()), ResponseError::UnknownMemberId);
}

#[test]
fn a_group_has_a_most_of_members() {
    let mut world = World::new();
    world.coordinator.settings.members_max = 2;
    world.join(None);
    world.join(None);
    let third = world.join(None);
    assert_eq!(world.refused(third), ResponseError::GroupMaxSizeReached);
}

#[test]
fn the_last_to_leave_ends_the_group() {
    let mut world = World::stable_pair();
    assert_eq!(world.leave("m1"), Ok(()));
    assert_eq!(world.leave("m1"), Err(ResponseError::UnknownMemberId));
    assert_eq!(world.leave("m2"), Ok(()));
    assert_eq!(world.state(), State::Empty);
    assert!(world.coordinator.next_deadline().is_none());
    let back = world.join(None);
    world.pass(DELAY);
    assert_eq!(world.joined(back).members.len(), 1);
}

#[test]
fn commits_are_for_members_of_the_generation() {
    let mut world = World::stable_pair();
    let check = |world: &mut World, member: &str, generation, expected| {
        let standing = World::standing(member, generation);
        assert_eq!(world.coordinator.may_commit(world.now, &standing, false), expected);
    };
    check(&mut world, "m1", 1, Ok(()));
    check(&mut world, "m1", 0, Err(ResponseError::IllegalGeneration));
    check(&mut world, "m9", 1, Err(ResponseError::UnknownMemberId));
    check(&mut world, "", -1, Err(ResponseError::UnknownMemberId));
    // While others are joining, what was read so far may be committed; while they are being
    // assigned, no more.
    world.join(None);
    check(&mut world, "m1", 1, Ok(()));
    world.join(Some("m1"));
    world.join(Some("m2"));
    check(&mut world, "m1", 2, Err(ResponseError::RebalanceInProgress));
    // Without a group, anybody may, but nobody may claim a generation.
    let mut world = World::new();
    check(&mut world, "", -1, Ok(()));
    check(&mut world, "m1", 3, Err(ResponseError::IllegalGeneration));
}

#[test]
fn a_static_member_that_comes_back_fences_its_former_self() {
    let mut world = World::new();
    let mut join = world.request(None, &["range"]);
    join.instance = Some("i".into());
    join.named_first = true;
    let one = world.send(join);
    world.pass(DELAY);
    assert_eq!(&*world.joined(one).member, "m1");
    world.sync("m1", 1, &[("m1", "a")]);
    let mut join = world.request(None, &["range"]);
    join.instance = Some("i".into());
    let two = world.send(join);
    assert_eq!(&*world.joined(two).member, "m2");
    let mut standing = World::standing("m1", 1);
    standing.instance = Some("i".into());
    assert_eq!(
        world.coordinator.heartbeat(world.now, &standing),
        Err(ResponseError::FencedInstanceId)
    );
    // It leaves by its static name.
    let (outcome, _) =
        world.coordinator.leave(world.now, &"g".into(), &"".into(), Some(&"i".into()));
    assert_eq!(outcome, Ok(()));
    assert_eq!(world.state(), State::Empty);
}
