//! Entry points for fuzzers: what clients send, and what is stored of groups and transactions. What
//! a target is, and who runs it, says `afflux_record::fuzzing`.
//!
//! - [`REQUEST`]: a frame, through the guard into the decoders.
//! - [`BROKER`]: frames one behind the other, to a broker over a simulated disk.
//! - [`GROUP_RECORDS`]: records of `__consumer_offsets` and `__transaction_state`.
//! - [`ASSIGNMENT`]: what members of groups say to each other, where the coordinator reads it.
//!
//! Only there with the feature `fuzzing`, and in tests.

pub(crate) mod author;
pub(crate) mod broker;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use afflux_record::fuzzing::Random;
pub use afflux_record::fuzzing::Target;
use afflux_types::{Offset, Timestamp, TopicName, TopicPartition};
use bytes::{Buf, BufMut, Bytes};
use uuid::Uuid;

pub use self::broker::BROKER;
use crate::{
    group::{
        Coordinator, GroupId, Join, Settings, Shape, Standing, Sync, Token, Topics,
        consumer::Heartbeat,
        embedded::{KIND, Named, Subscription, decode_assignment, encode_assignment},
        offsets::{self, Offsets},
        records::Key,
    },
    transaction::{self, Now, record},
    wire,
};

/// One request, as it stands behind its length.
pub const REQUEST: Target = Target {
    run: |input| {
        let frame = Bytes::copy_from_slice(input);
        let Ok(header) = wire::parse_header(&frame) else { return };
        let (key, version) = (header.key, header.version);
        if let Ok(mut request) = wire::parse(header, frame) {
            assert!(request.api.key as i16 == key && request.api.serves(version));
            let _ = author::decode(request.api.key, &mut request.body, version);
        }
    },
    seeds: || {
        let mut random = Random(1);
        let mut below = |bound| random.below(bound);
        author::served()
            .flat_map(|(api, version)| [(api, version), (api, version)])
            .map(|(api, version)| author::frame(api, version, &mut below))
            .collect()
    },
    // What decoding may take, as the guard's tests have it, and the frame itself.
    held_bytes_max: |bytes| (8 << 10) + 514 * bytes,
};

/// Records: a key and a value each, with their lengths in front as 16-bit numbers; -1 for none.
pub const GROUP_RECORDS: Target = Target {
    run: fold_records,
    seeds: record_seeds,
    held_bytes_max: |bytes| (64 << 10) + 1024 * bytes,
};

/// The topics `t` and `u`.
#[derive(Debug)]
struct TwoTopics;

impl Topics for TwoTopics {
    fn shape(&self, name: &str) -> Option<Shape> {
        let at = ["t", "u"].iter().position(|known| *known == name)? as u128;
        Some(Shape { id: Uuid::from_u128(at + 1), partitions: 3 })
    }
    fn name(&self, id: Uuid) -> Option<Arc<str>> {
        self.names().into_iter().find(|name| self.shape(name).is_some_and(|shape| shape.id == id))
    }
    fn names(&self) -> Vec<Arc<str>> {
        vec!["t".into(), "u".into()]
    }
}

fn coordinator() -> Coordinator {
    Coordinator::new(Settings::default(), Arc::new(TwoTopics))
}

/// A key or a value off the front.
fn part(from: &mut &[u8]) -> Option<Bytes> {
    let length = usize::try_from(from.try_get_i16().ok()?).ok()?.min(from.len());
    let (part, rest) = from.split_at(length);
    *from = rest;
    Some(Bytes::copy_from_slice(part))
}

const START: Duration = Duration::from_secs(1_000);
const SESSION: Duration = Duration::from_secs(45);
const LATER: Duration = Duration::from_hours(1_000);

fn fold_records(mut input: &[u8]) {
    let mut commits = Offsets::default();
    let mut groups: BTreeMap<GroupId, BTreeMap<Key, Bytes>> = BTreeMap::new();
    let minute = Duration::from_mins(1);
    let mut transactions = transaction::Coordinator::new(minute, 60 * minute, 1 << 10);
    let now = Now { monotonic: START, wall: Timestamp(1_700_000_000_000) };
    for at in 0.. {
        if input.len() < 2 {
            break;
        }
        let (key, value) = (part(&mut input), part(&mut input));
        let _ = commits.apply_record(Offset(at), key.as_ref(), value.as_ref());
        let Some(key) = key else { continue };
        if let (Ok(Some(key)), Some(value)) = (Key::decode(&key), &value) {
            assert_eq!(Key::decode(&key.encode()), Ok(Some(key.clone())));
            groups.entry(key.group().clone()).or_default().insert(key, value.clone());
        }
        if let Some(Ok(committed)) = value.as_deref().map(offsets::decode_value) {
            let again = offsets::decode_value(&offsets::encode_value(&committed));
            assert_eq!(again, Ok(committed));
        }
        if let (Ok(id), Some(Ok(facts))) =
            (record::decode_key(&key), value.as_deref().map(record::decode_value))
        {
            assert_eq!(record::decode_key(&record::encode_key(&id)).as_ref(), Ok(&id));
            let again = record::decode_value(&record::encode_value(&facts));
            assert_eq!(again.as_ref(), Ok(&facts));
            transactions.restore(now, id, facts);
        }
    }
    let later = Now { monotonic: START + LATER, wall: Timestamp(now.wall.0 + (1 << 40)) };
    transactions.tick(now);
    transactions.tick(later);
    transactions.expire(later);
    commits.take_back(|_, _| true);
    load_groups(&groups);
}

/// What is stored of a group that was read says the same once more; and the group lives.
fn load_groups(groups: &BTreeMap<GroupId, BTreeMap<Key, Bytes>>) {
    let (mut first, mut second) = (coordinator(), coordinator());
    for (group, records) in groups {
        let _ = first.load(START, group, records, SESSION);
    }
    let mut stored: BTreeMap<GroupId, BTreeMap<Key, Bytes>> = BTreeMap::new();
    for key in first.keys() {
        // A member that lacks some of its records lacks them still.
        if let Some(value) = first.value(&key) {
            stored.entry(key.group().clone()).or_default().insert(key, value.into());
        }
    }
    for (group, records) in &stored {
        second.load(START, group, records, SESSION).expect("what was stored reads back");
        for (key, value) in records {
            assert_eq!(second.value(key).as_deref(), Some(&value[..]), "{key:?}");
        }
    }
    first.tick(START + LATER);
    first.take_changed(Timestamp(0));
    for group in groups.keys() {
        let _ = first.describe(group);
        let _ = first.wants(group, "t");
    }
}

fn record_seeds() -> Vec<Vec<u8>> {
    let put = |out: &mut Vec<u8>, part: Option<&[u8]>| {
        out.put_i16(part.map_or(-1, |part| part.len() as i16));
        out.put_slice(part.unwrap_or_default());
    };
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    // A classic group and one of the newer protocol, as a coordinator stores them.
    let mut groups = coordinator();
    let subscription = subscription();
    groups.join(START, Token(1), join("classic", "a", &subscription));
    groups.tick(START + Duration::from_secs(1));
    groups.sync(START, Token(2), sync("classic", "a", &an_assignment()));
    let _ = groups.consumer_heartbeat(START, heartbeat("newer", "b"));
    for (key, value) in groups.take_changed(Timestamp(5)) {
        all.push((key.encode(), value.unwrap()));
    }
    let committed = offsets::Committed {
        topic: Some(Uuid::from_u128(1)),
        offset: Offset(9),
        leader_epoch: 2,
        metadata: "m".into(),
        time: Timestamp(3),
        expires: Some(Timestamp(9)),
    };
    let partition = TopicPartition::new(TopicName::new("t").unwrap(), 1);
    all.push((offsets::encode_key("g", &partition), offsets::encode_value(&committed)));
    let facts = transaction::Facts {
        producer: transaction::Identity { id: 7, epoch: 3 },
        previous: 6,
        last_epoch: -1,
        timeout: Duration::from_secs(1),
        state: transaction::State::Ongoing,
        partitions: BTreeSet::from([partition]),
        started: Some(Timestamp(5)),
        updated: Timestamp(9),
        version: 2,
    };
    all.push((record::encode_key("id"), record::encode_value(&facts)));
    let mut seeds = vec![Vec::new()];
    for (key, value) in &all {
        let mut one = Vec::new();
        put(&mut one, Some(key));
        put(&mut one, Some(value));
        seeds[0].extend_from_slice(&one);
        seeds.push(one.clone());
        put(&mut one, Some(key));
        put(&mut one, None);
        seeds.push(one);
    }
    seeds
}

/// A subscription or an assignment.
pub const ASSIGNMENT: Target = Target {
    run: |input| {
        let _ = Subscription::decode(input);
        if let Ok((named, _)) = decode_assignment(input) {
            let encoded = encode_assignment(&named, &[0, 1]);
            assert_eq!(decode_assignment(&encoded), Ok((named, false)));
        }
        pass_on(input);
    },
    seeds: || vec![subscription(), an_assignment(), vec![0; 10]],
    // What an expression is compiled to is the most of it.
    held_bytes_max: |bytes| (4 << 20) + 1024 * bytes,
};

/// Members say it in a classic group that becomes one of the newer protocol, and in one that was it
/// from the beginning.
fn pass_on(said: &[u8]) {
    let mut groups = coordinator();
    groups.join(START, Token(1), join("g", "a", said));
    let mut now = START + Duration::from_secs(1);
    groups.tick(now);
    groups.sync(now, Token(2), sync("g", "a", said));
    let _ = groups.wants("g", "t");
    let _ = groups.consumer_heartbeat(now, heartbeat("g", "b"));
    groups.join(now, Token(3), join("g", "a", said));
    let _ = groups.consumer_heartbeat(now, heartbeat("h", "b"));
    groups.join(now, Token(4), join("h", "c", said));
    groups.sync(now, Token(5), sync("h", "c", said));
    for (key, value) in groups.take_changed(Timestamp(5)) {
        assert_eq!(groups.value(&key), value);
    }
    while let Some(deadline) = groups.next_deadline() {
        assert!(deadline >= now, "a deadline lies in the past");
        now = deadline;
        groups.tick(now);
    }
}

fn subscription() -> Vec<u8> {
    let topics: &[u8] = &[0, 3, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
    let owned = [0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    [topics, &owned, &[0, 0, 0, 9], &[0, 1, b'r']].concat()
}

fn an_assignment() -> Vec<u8> {
    let named = Named::from([("t".into(), vec![0, 2]), ("u".into(), vec![1])]);
    encode_assignment(&named, &subscription()).to_vec()
}

fn join(group: &str, member: &str, said: &[u8]) -> Join {
    Join {
        group: group.into(),
        member: None,
        instance: None,
        fresh: member.into(),
        named_first: false,
        can_skip: false,
        client: "client".into(),
        host: "/host".into(),
        session: Duration::from_secs(10),
        rebalance: Duration::from_secs(30),
        kind: KIND.into(),
        protocols: vec![("range".into(), Bytes::copy_from_slice(said))],
    }
}

fn sync(group: &str, member: &str, said: &[u8]) -> Sync {
    let standing =
        Standing { group: group.into(), member: member.into(), instance: None, generation: 1 };
    let assignments = vec![(member.into(), Bytes::copy_from_slice(said))];
    Sync { standing, kind: None, protocol: None, assignments }
}

fn heartbeat(group: &str, member: &str) -> Heartbeat {
    Heartbeat {
        group: group.into(),
        member: member.into(),
        epoch: 0,
        instance: None,
        rack: None,
        rebalance: Some(Duration::from_secs(30)),
        topics: Some(BTreeSet::from(["t".into()])),
        expression: Some("u.*".into()),
        assignor: None,
        owned: Some(BTreeSet::new()),
        session: SESSION,
        client: "client".into(),
        host: "/host".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_reach_what_they_are_for() {
        for seed in (REQUEST.seeds)() {
            let frame = Bytes::from(seed);
            let mut request = wire::parse(wire::parse_header(&frame).unwrap(), frame).unwrap();
            let version = request.header.version;
            assert_eq!(author::decode(request.api.key, &mut request.body, version), Ok(0));
        }
        assert!(record_seeds().len() >= 15);
        Subscription::decode(&subscription()).unwrap();
        assert!(decode_assignment(&an_assignment()).is_ok_and(|(named, _)| named.len() == 2));
    }

    #[test]
    fn requests_are_refused_or_decoded() {
        REQUEST.survey(5_000);
    }

    #[test]
    fn records_of_groups_are_refused_or_kept() {
        GROUP_RECORDS.survey(2_000);
    }

    #[test]
    fn what_members_say_is_refused_or_read() {
        ASSIGNMENT.survey(2_000);
    }

    #[test]
    fn whatever_is_sent_is_refused_or_answered() {
        BROKER.survey(60);
    }
}
