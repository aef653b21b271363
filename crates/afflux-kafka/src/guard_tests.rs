//! Every decoder behind the guard: what it is fed is either refused, or takes little memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AlterConfigsRequest,
        AlterPartitionReassignmentsRequest, ApiKey, ApiVersionsRequest,
        ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, CreatePartitionsRequest,
        CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
        DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest,
        DescribeLogDirsRequest, DescribeProducersRequest, DescribeTopicPartitionsRequest,
        DescribeTransactionsRequest, ElectLeadersRequest, EndTxnRequest, FetchRequest,
        FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
        InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListConfigResourcesRequest,
        ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest,
        ListTransactionsRequest, MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest,
        OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, SyncGroupRequest,
        TxnOffsetCommitRequest, WriteTxnMarkersRequest,
    },
    protocol::Decodable,
};
use proptest::{prelude::*, test_runner::TestRng};

use super::*;
use crate::{
    api::{self, Api, SERVED},
    wire,
};

thread_local! {
    /// What this thread has taken and not given back, and the most of it since last asked.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, which also counts, a thread for itself.
struct Counting;

fn count(bytes: isize) {
    // While a thread ends there is nothing left to count in, nor anybody to ask.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

#[expect(unsafe_code, reason = "an allocator is the only place where a reservation can be seen")]
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that this thread held during a call, above what it held before.
fn most_held<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|held| {
        held.set((held.get().0, held.get().0));
        held.get().0
    });
    let result = call();
    let most = HELD.with(|held| held.get().1);
    (result, (most - before) as usize)
}

/// Decodes a body as the API's request; how many bytes are left.
fn decode(key: ApiKey, body: &mut Bytes, version: i16) -> Result<usize, String> {
    fn one<T: Decodable>(body: &mut Bytes, version: i16) -> Result<usize, String> {
        T::decode(body, version).map_err(|error| error.to_string())?;
        Ok(body.len())
    }
    match key {
        ApiKey::Produce => one::<ProduceRequest>(body, version),
        ApiKey::Fetch => one::<FetchRequest>(body, version),
        ApiKey::ListOffsets => one::<ListOffsetsRequest>(body, version),
        ApiKey::Metadata => one::<MetadataRequest>(body, version),
        ApiKey::OffsetCommit => one::<OffsetCommitRequest>(body, version),
        ApiKey::OffsetFetch => one::<OffsetFetchRequest>(body, version),
        ApiKey::FindCoordinator => one::<FindCoordinatorRequest>(body, version),
        ApiKey::JoinGroup => one::<JoinGroupRequest>(body, version),
        ApiKey::Heartbeat => one::<HeartbeatRequest>(body, version),
        ApiKey::LeaveGroup => one::<LeaveGroupRequest>(body, version),
        ApiKey::SyncGroup => one::<SyncGroupRequest>(body, version),
        ApiKey::DescribeGroups => one::<DescribeGroupsRequest>(body, version),
        ApiKey::ListGroups => one::<ListGroupsRequest>(body, version),
        ApiKey::ApiVersions => one::<ApiVersionsRequest>(body, version),
        ApiKey::CreateTopics => one::<CreateTopicsRequest>(body, version),
        ApiKey::DeleteTopics => one::<DeleteTopicsRequest>(body, version),
        ApiKey::InitProducerId => one::<InitProducerIdRequest>(body, version),
        ApiKey::DeleteGroups => one::<DeleteGroupsRequest>(body, version),
        ApiKey::OffsetDelete => one::<OffsetDeleteRequest>(body, version),
        ApiKey::DescribeCluster => one::<DescribeClusterRequest>(body, version),
        ApiKey::AddPartitionsToTxn => one::<AddPartitionsToTxnRequest>(body, version),
        ApiKey::AddOffsetsToTxn => one::<AddOffsetsToTxnRequest>(body, version),
        ApiKey::EndTxn => one::<EndTxnRequest>(body, version),
        ApiKey::WriteTxnMarkers => one::<WriteTxnMarkersRequest>(body, version),
        ApiKey::TxnOffsetCommit => one::<TxnOffsetCommitRequest>(body, version),
        ApiKey::DescribeProducers => one::<DescribeProducersRequest>(body, version),
        ApiKey::DescribeTransactions => one::<DescribeTransactionsRequest>(body, version),
        ApiKey::ListTransactions => one::<ListTransactionsRequest>(body, version),
        ApiKey::DescribeConfigs => one::<DescribeConfigsRequest>(body, version),
        ApiKey::AlterConfigs => one::<AlterConfigsRequest>(body, version),
        ApiKey::IncrementalAlterConfigs => one::<IncrementalAlterConfigsRequest>(body, version),
        ApiKey::ListConfigResources => one::<ListConfigResourcesRequest>(body, version),
        ApiKey::CreatePartitions => one::<CreatePartitionsRequest>(body, version),
        ApiKey::DeleteRecords => one::<DeleteRecordsRequest>(body, version),
        ApiKey::OffsetForLeaderEpoch => one::<OffsetForLeaderEpochRequest>(body, version),
        ApiKey::DescribeLogDirs => one::<DescribeLogDirsRequest>(body, version),
        ApiKey::DescribeTopicPartitions => one::<DescribeTopicPartitionsRequest>(body, version),
        ApiKey::ElectLeaders => one::<ElectLeadersRequest>(body, version),
        ApiKey::AlterPartitionReassignments => {
            one::<AlterPartitionReassignmentsRequest>(body, version)
        }
        ApiKey::ListPartitionReassignments => {
            one::<ListPartitionReassignmentsRequest>(body, version)
        }
        ApiKey::ConsumerGroupHeartbeat => one::<ConsumerGroupHeartbeatRequest>(body, version),
        ApiKey::ConsumerGroupDescribe => one::<ConsumerGroupDescribeRequest>(body, version),
        other => panic!("{other:?} is served and not tried here"),
    }
}

/// Writes random values of a shape.
struct Author<'a> {
    out: BytesMut,
    random: &'a mut TestRng,
    version: i16,
    flexible: bool,
}

impl Author<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound)
    }

    fn structure(&mut self, fields: &[Field], is_top: bool) {
        for field in fields {
            if (field.from..=field.to).contains(&self.version) {
                self.field(&field.kind);
            }
        }
        if self.flexible {
            // Tags that no version knows: the decoders keep their bytes. At the top there may be
            // any number; in arrays, which there are many of, mostly none.
            let tags = if is_top || self.below(8) == 0 { self.below(3) } else { 0 };
            self.varint(tags);
            for i in 0..tags {
                self.varint(1_000 + i);
                let size = self.below(5);
                self.varint(size);
                self.bytes(size);
            }
        }
    }

    fn field(&mut self, kind: &Kind) {
        match kind {
            Kind::Fixed(bytes) => self.bytes(*bytes),
            Kind::Text => {
                let length = self.below(20);
                if self.flexible {
                    self.varint(length + 1);
                } else {
                    self.out.put_i16(length as i16);
                }
                for _ in 0..length {
                    let letter = b'a' + self.below(26) as u8;
                    self.out.put_u8(letter);
                }
            }
            Kind::Bytes => {
                let length = self.below(40);
                self.length(length);
                self.bytes(length);
            }
            Kind::Array(element) => {
                let count = self.below(4);
                self.length(count);
                for _ in 0..count {
                    self.structure(element, false);
                }
            }
            Kind::List(element) => {
                let count = self.below(4);
                self.length(count);
                for _ in 0..count {
                    self.field(element);
                }
            }
            Kind::Optional(_) if self.below(2) == 0 => self.out.put_i8(-1),
            Kind::Optional(fields) => {
                self.out.put_i8(1);
                self.structure(fields, false);
            }
        }
    }

    fn length(&mut self, length: usize) {
        if self.flexible { self.varint(length + 1) } else { self.out.put_i32(length as i32) }
    }

    fn bytes(&mut self, count: usize) {
        for _ in 0..count {
            let byte = self.below(256) as u8;
            self.out.put_u8(byte);
        }
    }

    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }
}

fn write(api: &Api, version: i16, random: &mut TestRng) -> Bytes {
    let flexible = api.is_flexible(version);
    let mut author = Author { out: BytesMut::new(), random, version, flexible };
    author.structure(api.request, true);
    author.out.freeze()
}

/// Every version of every API that is served.
fn served() -> impl Iterator<Item = (&'static Api, i16)> {
    SERVED.iter().flat_map(|api| (api.served_min..=api.version_max).map(move |v| (api, v)))
}

fn walk(api: &Api, version: i16, body: &[u8]) -> Result<(), MalformedRequest> {
    inspect(body, api.request, version, api.is_flexible(version))
}

/// What decoding a body may take: a structure in memory is larger than its bytes on the wire,
/// within reason.
fn allowance(bytes: usize) -> usize {
    4_096 + 512 * bytes
}

#[test]
fn the_shapes_are_those_of_the_decoders() {
    let mut random = TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha);
    for (api, version) in served() {
        for _ in 0..200 {
            let body = write(api, version, &mut random);
            let what = format!("{:?} version {version}: {body:?}", api.key);
            assert_eq!(walk(api, version, &body), Ok(()), "{what}");
            assert_eq!(decode(api.key, &mut body.clone(), version), Ok(0), "{what}");
            for length in 0..body.len() {
                assert!(walk(api, version, &body[..length]).is_err(), "cut at {length}: {what}");
            }
        }
    }
}

#[test]
fn a_count_that_the_bytes_can_not_fill_is_refused() {
    // Without the guard these are the eight bytes that reserve gigabytes.
    for (api, version) in served() {
        let mut random = TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha);
        for _ in 0..50 {
            let body = write(api, version, &mut random);
            for at in 0..body.len() {
                let mut huge = body.to_vec();
                let value: &[u8] = if api.is_flexible(version) {
                    &[0xff, 0xff, 0xff, 0xff, 0x07]
                } else {
                    &[0x7f, 0xff, 0xff, 0xff]
                };
                for (to, from) in huge[at..].iter_mut().zip(value) {
                    *to = *from;
                }
                try_decoding(api, version, &huge.into());
            }
        }
    }
}

#[test]
fn strings_are_no_longer_than_kafkas() {
    // ListGroups has a list of strings; version 4 is the first flexible one.
    let api = api::find(ApiKey::ListGroups as i16).unwrap();
    let check = |bytes: usize, expected: Result<(), MalformedRequest>| {
        let mut body = BytesMut::from(&[2][..]);
        let mut length = bytes + 1;
        while length >= 0x80 {
            body.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        body.put_u8(length as u8);
        body.put_bytes(b'x', bytes);
        body.put_u8(0);
        assert_eq!(walk(api, 4, &body), expected, "{bytes} bytes");
    };
    check(32_767, Ok(()));
    check(32_768, Err(MalformedRequest::LongText));
}

/// Decodes what the guard lets through, and looks at what that takes.
fn try_decoding(api: &Api, version: i16, body: &Bytes) {
    if walk(api, version, body).is_err() {
        return;
    }
    let bytes = body.len();
    let (_, held) = most_held(|| decode(api.key, &mut body.clone(), version));
    assert!(
        held <= allowance(bytes),
        "{:?} version {version} took {held} bytes for {bytes}: {body:?}",
        api.key
    );
}

#[test]
fn the_allocator_sees_what_the_guard_prevents() {
    // A Metadata request of four bytes that announces a million topics.
    let body = Bytes::from_static(&[0, 0x0f, 0x42, 0x40]);
    let (_, held) = most_held(|| decode(ApiKey::Metadata, &mut body.clone(), 1));
    assert!(held > 10 << 20, "the decoder has learnt to distrust counts: the guard can go");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutilated_requests_take_little_memory(
        seed in any::<u64>(),
        wounds in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for (api, version) in served() {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            let mut random = TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &bytes);
            let mut body = write(api, version, &mut random).to_vec();
            for (at, byte) in &wounds {
                if !body.is_empty() {
                    let at = at.index(body.len());
                    body[at] = *byte;
                }
            }
            try_decoding(api, version, &body.into());
        }
    }

    #[test]
    fn noise_takes_little_memory(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        for (api, version) in served() {
            try_decoding(api, version, &noise.clone().into());
        }
    }

    #[test]
    fn noisy_frames_are_parsed_or_refused(
        key in 0..70_i16,
        version in -1..20_i16,
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut frame = BytesMut::new();
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_slice(&noise);
        let frame = frame.freeze();
        if let Ok(header) = wire::parse_header(&frame)
            && let Ok(request) = wire::parse(header, frame)
        {
            prop_assert!(request.api.serves(version));
        }
    }
}
