//! Requests as nobody would write them: right in shape, random in all else.

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

use crate::{
    api::{Api, SERVED},
    guard::{Field, Kind},
};

/// Names that may stand for something, so that one request finds what another made.
const WORDS: [&str; 6] = ["t", "g", "x", "consumer", "range", "cleanup.policy"];

/// Decodes a body as the API's request; how many bytes are left.
pub(crate) fn decode(key: ApiKey, body: &mut Bytes, version: i16) -> Result<usize, String> {
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
    random: &'a mut dyn FnMut(usize) -> usize,
    version: i16,
    flexible: bool,
}

impl Author<'_> {
    fn below(&mut self, bound: usize) -> usize {
        (self.random)(bound)
    }

    fn structure(&mut self, fields: &[Field], is_top: bool) {
        for field in fields {
            if (field.from..=field.to).contains(&self.version) {
                self.field(&field.kind);
            }
        }
        if self.flexible {
            let version = self.version;
            let present = fields.iter().filter(|it| (it.from..=it.to).contains(&version));
            let known = present.filter_map(|field| match field.kind {
                Kind::Tagged(tag, bytes) => Some((tag, bytes)),
                _ => None,
            });
            let known: Vec<_> = known.filter(|_| self.below(2) == 0).collect();
            // Tags that no version knows: the decoders keep their bytes. At the top there may be
            // any number; in arrays, which there are many of, mostly none.
            let tags = if is_top || self.below(8) == 0 { self.below(3) } else { 0 };
            self.varint(known.len() + tags);
            for (tag, bytes) in known {
                self.varint(tag as usize);
                self.varint(bytes);
                self.bytes(bytes);
            }
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
                let word = WORDS.get(self.below(2 * WORDS.len())).copied();
                let length = word.map_or_else(|| self.below(20), str::len);
                if self.flexible {
                    self.varint(length + 1);
                } else {
                    self.out.put_i16(length as i16);
                }
                match word {
                    Some(word) => self.out.put_slice(word.as_bytes()),
                    None => self.letters(length),
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
            // Behind all others: see `structure`.
            Kind::Tagged(..) => {}
            Kind::Optional(_) if self.below(2) == 0 => self.out.put_i8(-1),
            Kind::Optional(fields) => {
                self.out.put_i8(1);
                self.structure(fields, false);
            }
        }
    }

    fn letters(&mut self, count: usize) {
        for _ in 0..count {
            let letter = b'a' + self.below(26) as u8;
            self.out.put_u8(letter);
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

/// A body of an API's shape. `random` gives a number below what it is given.
pub(crate) fn write(api: &Api, version: i16, random: &mut dyn FnMut(usize) -> usize) -> Bytes {
    let flexible = api.is_flexible(version);
    let mut author = Author { out: BytesMut::new(), random, version, flexible };
    author.structure(api.request, true);
    author.out.freeze()
}

/// The same with a header in front.
pub(crate) fn frame(api: &Api, version: i16, random: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_i16(api.key as i16);
    frame.put_i16(version);
    frame.put_i32(9);
    frame.put_i16(1);
    frame.put_u8(b'c');
    if api.is_flexible(version) {
        frame.put_u8(0);
    }
    frame.extend_from_slice(&write(api, version, random));
    frame
}

/// Every version of every API that is served.
pub(crate) fn served() -> impl Iterator<Item = (&'static Api, i16)> {
    SERVED.iter().flat_map(|api| (api.served_min..=api.version_max).map(move |v| (api, v)))
}
