//! The coordinator of the consumer protocol, by tables and by any course of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use afflux_types::Timestamp;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use parking_lot::Mutex;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::group::{Coordinator, Join, Settings, Shape, Token};

const REBALANCE: Duration = Duration::from_secs(30);
const SESSION: Duration = Duration::from_secs(45);

/// Topics by name: how many partitions.
#[derive(Debug, Default)]
struct Made(Mutex<BTreeMap<Arc<str>, i32>>);

fn id_of(name: &str) -> Uuid {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Uuid::from_bytes(bytes)
}

impl Topics for Made {
    fn shape(&self, name: &str) -> Option<Shape> {
        self.0.lock().get(name).map(|partitions| Shape { id: id_of(name), partitions: *partitions })
    }
    fn name(&self, id: Uuid) -> Option<Arc<str>> {
        self.0.lock().keys().find(|name| id_of(name) == id).cloned()
    }
    fn names(&self) -> Vec<Arc<str>> {
        self.0.lock().keys().cloned().collect()
    }
}

/// A coordinator, its clock, its records, and what clients hold by what they were told.
struct World {
    topics: Arc<Made>,
    coordinator: Coordinator,
    records: BTreeMap<Key, Bytes>,
    now: Duration,
    clients: BTreeMap<Arc<str>, Client>,
}

#[derive(Debug, Clone, Default)]
struct Client {
    epoch: i32,
    held: Parts,
    /// What it was told last that it shall hold.
    told: Parts,
}

impl World {
    fn new(topics: &[(&str, i32)]) -> Self {
        let made = Made::default();
        made.0.lock().extend(topics.iter().map(|(name, size)| ((*name).into(), *size)));
        let topics = Arc::new(made);
        let coordinator = Coordinator::new(Settings::default(), topics.clone());
        let now = Duration::from_secs(1_000);
        Self { topics, coordinator, records: BTreeMap::new(), now, clients: BTreeMap::new() }
    }

    fn store(&mut self) {
        for (key, value) in self.coordinator.take_changed(Timestamp(7)) {
            match value {
                Some(value) => self.records.insert(key, value.into()),
                None => self.records.remove(&key),
            };
        }
    }

    /// A coordinator that knows what is stored, and nothing else.
    fn restart(&mut self) {
        let mut coordinator = Coordinator::new(Settings::default(), self.topics.clone());
        if !self.records.is_empty() {
            coordinator.load(self.now, &"g".into(), &self.records, SESSION).unwrap();
        }
        self.coordinator = coordinator;
    }

    fn request(member: &str, epoch: i32) -> Heartbeat {
        Heartbeat {
            group: "g".into(),
            member: member.into(),
            epoch,
            instance: None,
            rack: None,
            rebalance: (epoch == 0).then_some(REBALANCE),
            topics: None,
            expression: None,
            assignor: None,
            owned: None,
            session: SESSION,
            client: "c".into(),
            host: "/h".into(),
        }
    }

    fn send(&mut self, heartbeat: Heartbeat) -> Result<Beat, ResponseError> {
        let (outcome, _) = self.coordinator.consumer_heartbeat(self.now, heartbeat);
        self.store();
        outcome.map_err(|(error, _)| error)
    }

    fn join(&mut self, member: &str, topics: &[&str]) -> Beat {
        let mut heartbeat = Self::request(member, 0);
        heartbeat.topics = Some(topics.iter().map(|name| (*name).into()).collect());
        heartbeat.owned = Some(Parts::new());
        let beat = self.send(heartbeat).unwrap();
        let told = beat.assigned.clone().unwrap();
        let client = Client { epoch: beat.epoch, held: told.clone(), told };
        self.clients.insert(member.into(), client);
        beat
    }

    /// A client heartbeats, and does what it is told.
    fn beat(&mut self, member: &str) -> Result<Beat, ResponseError> {
        let Some(client) = self.clients.get_mut(member) else {
            return Err(ResponseError::UnknownMemberId);
        };
        // It gives up at once, and says so with its next heartbeat.
        client.held = client.told.clone();
        let mut heartbeat = Self::request(member, client.epoch);
        heartbeat.owned = Some(client.held.clone());
        let outcome = self.send(heartbeat);
        match &outcome {
            Ok(beat) => {
                let client = self.clients.entry(member.into()).or_default();
                client.epoch = beat.epoch;
                if let Some(told) = &beat.assigned {
                    client.told = told.clone();
                    // What it gains it holds from now on; what it loses, until it says not to.
                    client.held.extend(told);
                }
            }
            Err(_) => {
                self.clients.remove(member);
            }
        }
        outcome
    }

    fn settle(&mut self) {
        for _ in 0..6 {
            let members: Vec<_> = self.clients.keys().cloned().collect();
            for member in members {
                self.beat(&member).unwrap();
            }
        }
    }

    fn state(&self) -> State {
        self.coordinator.describe_consumer("g").map_or(State::Empty, Group::state)
    }

    fn no_two_hold_the_same(&self) -> Result<(), TestCaseError> {
        let mut seen = Parts::new();
        for client in self.clients.values() {
            for part in &client.held {
                prop_assert!(seen.insert(*part), "{part:?} is held twice: {:?}", self.clients);
            }
        }
        Ok(())
    }
}

#[test]
fn two_members_share_and_the_first_gives_up_before_the_second_gets() {
    let mut world = World::new(&[("t", 4)]);
    assert_eq!(world.join("a", &["t"]).assigned.unwrap().len(), 4);
    let second = world.join("b", &["t"]);
    assert_eq!((second.epoch, second.assigned.unwrap().len()), (2, 0));
    assert_eq!(world.state(), State::Reconciling);
    let told = world.beat("a").unwrap();
    assert_eq!((told.epoch, told.assigned.unwrap().len()), (1, 2));
    assert_eq!(world.beat("b").unwrap().assigned, None, "it is not given up yet");
    assert_eq!(world.beat("a").unwrap().epoch, 2);
    assert_eq!(world.beat("b").unwrap().assigned.unwrap().len(), 2);
    assert_eq!(world.state(), State::Stable);
}

#[test]
fn who_leaves_leaves_all_to_the_others() {
    let mut world = World::new(&[("t", 4)]);
    world.join("a", &["t"]);
    world.join("b", &["t"]);
    world.settle();
    assert_eq!(world.send(World::request("b", LEAVES)).unwrap().epoch, LEAVES);
    world.clients.remove("b");
    world.settle();
    assert_eq!(world.clients["a"].held.len(), 4);
    assert_eq!(world.send(World::request("b", 3)), Err(ResponseError::UnknownMemberId));
}

#[test]
fn topics_that_grow_or_appear_are_shared() {
    let mut world = World::new(&[("t", 2)]);
    world.join("a", &["t", "later"]);
    world.topics.0.lock().insert("t".into(), 5);
    world.settle();
    assert_eq!(world.clients["a"].held.len(), 5);
    world.topics.0.lock().insert("later".into(), 3);
    world.settle();
    assert_eq!(world.clients["a"].held.len(), 8);
    world.topics.0.lock().remove("t");
    world.settle();
    assert_eq!(world.clients["a"].held.len(), 3);
}

#[test]
fn an_expression_matches_whole_names_and_those_that_come() {
    let mut world = World::new(&[("in-1", 1), ("in-2", 1), ("not-in-1", 1)]);
    let mut heartbeat = World::request("a", 0);
    heartbeat.expression = Some("in-.*".into());
    heartbeat.owned = Some(Parts::new());
    assert_eq!(world.send(heartbeat.clone()).unwrap().assigned.unwrap().len(), 2);
    world.topics.0.lock().insert("in-3".into(), 4);
    world.now += EXPRESSIONS_REFRESH;
    let beat = world.send(World::request("a", 1)).unwrap();
    assert_eq!(beat.assigned.unwrap().len(), 6);
    heartbeat.expression = Some("in-(".into());
    assert_eq!(world.send(heartbeat.clone()), Err(ResponseError::InvalidRegularExpression));
    heartbeat.expression = Some("a)|(b".into());
    assert_eq!(world.send(heartbeat), Err(ResponseError::InvalidRegularExpression));
}

#[test]
fn what_can_not_be_is_refused() {
    let check = |change: &dyn Fn(&mut Heartbeat), expected: ResponseError| {
        let mut world = World::new(&[("t", 1)]);
        world.join("a", &["t"]);
        let mut heartbeat = World::request("a", 1);
        change(&mut heartbeat);
        assert_eq!(world.send(heartbeat), Err(expected));
    };
    check(&|it| it.group = "".into(), ResponseError::InvalidRequest);
    check(&|it| it.group = "h".into(), ResponseError::GroupIdNotFound);
    check(&|it| it.member = "x".into(), ResponseError::UnknownMemberId);
    check(&|it| it.epoch = 9, ResponseError::FencedMemberEpoch);
    check(&|it| it.epoch = -3, ResponseError::InvalidRequest);
    check(&|it| it.epoch = LEAVES_FOR_NOW, ResponseError::InvalidRequest);
    check(&|it| it.assignor = Some("x".into()), ResponseError::UnsupportedAssignor);
    check(&|it| it.epoch = 0, ResponseError::InvalidRequest);
    check(&|it| it.instance = Some("i".into()), ResponseError::UnknownMemberId);
}

#[test]
fn a_static_member_keeps_its_place_while_it_is_away() {
    let mut world = World::new(&[("t", 4)]);
    let join = |member: &str| {
        let mut heartbeat = World::request(member, 0);
        heartbeat.instance = Some("i".into());
        heartbeat.topics = Some(["t".into()].into());
        heartbeat.owned = Some(Parts::new());
        heartbeat
    };
    let first = world.send(join("a")).unwrap();
    assert_eq!(world.send(join("b")), Err(ResponseError::UnreleasedInstanceId));
    let mut leave = World::request("a", LEAVES_FOR_NOW);
    leave.instance = Some("i".into());
    assert_eq!(world.send(leave).unwrap().epoch, LEAVES_FOR_NOW);
    world.restart();
    let back = world.send(join("b")).unwrap();
    assert_eq!((back.epoch, &back.assigned), (first.epoch, &first.assigned));
    let mut former = World::request("a", first.epoch);
    former.instance = Some("i".into());
    assert_eq!(world.send(former), Err(ResponseError::FencedInstanceId));
}

#[test]
fn nothing_is_left_of_a_member_whose_place_a_classic_one_takes() {
    let mut world = World::new(&[("t", 4)]);
    let mut join = World::request("a", 0);
    join.instance = Some("i".into());
    join.topics = Some(["t".into()].into());
    join.owned = Some(Parts::new());
    world.send(join).unwrap();
    let mut leave = World::request("a", LEAVES_FOR_NOW);
    leave.instance = Some("i".into());
    world.send(leave).unwrap();
    let subscription = Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff]);
    world.coordinator.join(
        world.now,
        Token(1),
        Join {
            group: "g".into(),
            member: None,
            instance: Some("i".into()),
            fresh: "b".into(),
            named_first: false,
            can_skip: true,
            client: "c".into(),
            host: "/h".into(),
            session: SESSION,
            rebalance: REBALANCE,
            kind: "consumer".into(),
            protocols: vec![("range".into(), subscription)],
        },
    );
    world.store();
    assert!(world.coordinator.describe("g").is_some(), "the group is a classic one");
    assert!(world.records.keys().all(|key| matches!(key, Key::Classic(_))), "{:?}", world.records);
}

#[test]
fn who_does_not_give_up_in_time_is_out() {
    let mut world = World::new(&[("t", 4)]);
    world.join("a", &["t"]);
    world.join("b", &["t"]);
    // The first says nothing of what it holds, however often it is heard of.
    for _ in 0..4 {
        world.send(World::request("a", 1)).unwrap();
        world.beat("b").unwrap();
        world.now += REBALANCE / 4;
    }
    world.coordinator.tick(world.now);
    assert_eq!(world.send(World::request("a", 1)), Err(ResponseError::UnknownMemberId));
    world.clients.remove("a");
    world.settle();
    assert_eq!(world.clients["b"].held.len(), 4);
}

#[derive(Debug, Clone)]
enum Deed {
    Join(usize, BTreeSet<usize>),
    Beat(usize),
    Leave(usize),
    Vanish(usize),
    Grow(usize),
    Restart,
    Pass(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => (0..4_usize, prop::collection::btree_set(0..3_usize, 1..3))
            .prop_map(|(client, topics)| Deed::Join(client, topics)),
        8 => (0..4_usize).prop_map(Deed::Beat),
        1 => (0..4_usize).prop_map(Deed::Leave),
        1 => (0..4_usize).prop_map(Deed::Vanish),
        1 => (0..3_usize).prop_map(Deed::Grow),
        1 => Just(Deed::Restart),
        2 => (1..20_u64).prop_map(Deed::Pass),
    ]
}

proptest! {
    /// Whatever happens, restarts too: no two clients hold a partition by what they were told and
    /// said; and when nothing happens any more, all of what is wanted is held.
    #[test]
    fn no_partition_has_two_holders_and_all_end_up_with_one(
        deeds in prop::collection::vec(deed(), 1..100),
    ) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        const TOPICS: [&str; 3] = ["x", "y", "z"];
        let mut world = World::new(&[("x", 3), ("y", 4)]);
        for deed in deeds {
            match deed {
                Deed::Join(client, topics) => {
                    let topics: Vec<&str> = topics.iter().map(|at| TOPICS[*at]).collect();
                    world.clients.remove(NAMES[client]);
                    world.join(NAMES[client], &topics);
                }
                Deed::Beat(client) => {
                    let _ = world.beat(NAMES[client]);
                }
                Deed::Leave(client) => {
                    if world.clients.remove(NAMES[client]).is_some() {
                        let _ = world.send(World::request(NAMES[client], LEAVES));
                    }
                }
                Deed::Vanish(client) => {
                    // Its process is gone; the coordinator hears of it only by silence.
                    world.clients.remove(NAMES[client]);
                }
                Deed::Grow(topic) => {
                    *world.topics.0.lock().entry(TOPICS[topic].into()).or_default() += 1;
                }
                Deed::Restart => world.restart(),
                Deed::Pass(seconds) => {
                    world.now += Duration::from_secs(seconds);
                    world.coordinator.tick(world.now);
                    world.store();
                    // Whoever is out must notice by itself that it was silent for too long.
                    let known: BTreeSet<Arc<str>> = world
                        .coordinator
                        .describe_consumer("g")
                        .map(|group| group.members.keys().cloned().collect())
                        .unwrap_or_default();
                    world.clients.retain(|name, _| known.contains(name));
                }
            }
            world.no_two_hold_the_same()?;
        }
        let vanished = world.now + Duration::from_mins(1);
        while world.now < vanished {
            world.now += Duration::from_secs(20);
            let members: Vec<_> = world.clients.keys().cloned().collect();
            for member in members {
                let _ = world.beat(&member);
            }
            world.coordinator.tick(world.now);
            world.store();
        }
        world.settle();
        world.no_two_hold_the_same()?;
        if let Some(group) = world.coordinator.describe_consumer("g")
            && !group.members.is_empty()
        {
            prop_assert_eq!(group.state(), State::Stable);
            for (name, client) in &world.clients {
                prop_assert_eq!(&client.held, &group.target[name]);
            }
            let held: usize = world.clients.values().map(|client| client.held.len()).sum();
            let wanted: usize = group.topics.values().map(|shape| shape.partitions as usize).sum();
            prop_assert_eq!(held, wanted);
        }
    }
}
