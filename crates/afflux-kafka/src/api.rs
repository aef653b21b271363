//! Which requests are served, in which versions, and how each is shaped.

use kafka_protocol::messages::ApiKey;

use crate::guard::{Field, Kind, always, between, since, until};

/// A request that is served.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) key: ApiKey,
    /// The first version that clients are told of.
    pub(crate) version_min: i16,
    /// The first version that is really served. Differs for Produce alone: librdkafka takes a
    /// broker that does not list its version 0 for one without the newer batch format.
    pub(crate) served_min: i16,
    /// The last version.
    pub(crate) version_max: i16,
    /// From here on lengths are varints and structures carry tagged fields.
    pub(crate) flexible_from: i16,
    /// The shape of the request's body.
    pub(crate) request: &'static [Field],
}

impl Api {
    /// Whether a version is served.
    pub(crate) fn serves(&self, version: i16) -> bool {
        (self.served_min..=self.version_max).contains(&version)
    }

    /// Whether a version is a flexible one.
    pub(crate) fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

/// The API of a key, if it is served.
pub(crate) fn find(key: i16) -> Option<&'static Api> {
    SERVED.iter().find(|api| api.key as i16 == key)
}

const fn api(
    key: ApiKey,
    version_min: i16,
    version_max: i16,
    flexible_from: i16,
    request: &'static [Field],
) -> Api {
    Api { key, version_min, served_min: version_min, version_max, flexible_from, request }
}

const I8: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const TEXT: Kind = Kind::Text;
const BYTES: Kind = Kind::Bytes;
const INTEGERS: Kind = Kind::List(&Kind::Fixed(4));
const TEXTS: Kind = Kind::List(&Kind::Text);

/// All that is served.
pub(crate) static SERVED: &[Api] = &[
    Api { served_min: 3, ..api(ApiKey::Produce, 0, 13, 9, PRODUCE) },
    api(ApiKey::Fetch, 4, 18, 12, FETCH),
    api(ApiKey::ListOffsets, 1, 10, 6, LIST_OFFSETS),
    api(ApiKey::Metadata, 0, 13, 9, METADATA),
    api(ApiKey::OffsetCommit, 2, 9, 8, OFFSET_COMMIT),
    api(ApiKey::OffsetFetch, 1, 9, 6, OFFSET_FETCH),
    api(ApiKey::FindCoordinator, 0, 6, 3, FIND_COORDINATOR),
    api(ApiKey::JoinGroup, 0, 9, 6, JOIN_GROUP),
    api(ApiKey::Heartbeat, 0, 4, 4, HEARTBEAT),
    api(ApiKey::LeaveGroup, 0, 5, 4, LEAVE_GROUP),
    api(ApiKey::SyncGroup, 0, 5, 4, SYNC_GROUP),
    api(ApiKey::DescribeGroups, 0, 6, 5, DESCRIBE_GROUPS),
    api(ApiKey::ListGroups, 0, 5, 3, LIST_GROUPS),
    api(ApiKey::ApiVersions, 0, 4, 3, API_VERSIONS),
    api(ApiKey::CreateTopics, 2, 7, 5, CREATE_TOPICS),
    api(ApiKey::DeleteTopics, 1, 6, 4, DELETE_TOPICS),
    api(ApiKey::InitProducerId, 0, 5, 2, INIT_PRODUCER_ID),
    api(ApiKey::AddPartitionsToTxn, 0, 5, 3, ADD_PARTITIONS_TO_TXN),
    api(ApiKey::AddOffsetsToTxn, 0, 4, 3, ADD_OFFSETS_TO_TXN),
    api(ApiKey::EndTxn, 0, 5, 3, END_TXN),
    api(ApiKey::WriteTxnMarkers, 1, 1, 1, WRITE_TXN_MARKERS),
    api(ApiKey::TxnOffsetCommit, 0, 5, 3, TXN_OFFSET_COMMIT),
    api(ApiKey::DescribeCluster, 0, 2, 0, DESCRIBE_CLUSTER),
    api(ApiKey::DescribeProducers, 0, 0, 0, DESCRIBE_PRODUCERS),
    api(ApiKey::DescribeTransactions, 0, 0, 0, DESCRIBE_TRANSACTIONS),
    api(ApiKey::ListTransactions, 0, 2, 0, LIST_TRANSACTIONS),
    api(ApiKey::DescribeConfigs, 1, 4, 4, DESCRIBE_CONFIGS),
    api(ApiKey::AlterConfigs, 0, 2, 2, ALTER_CONFIGS),
    api(ApiKey::IncrementalAlterConfigs, 0, 1, 1, INCREMENTAL_ALTER_CONFIGS),
    api(ApiKey::ListConfigResources, 0, 1, 0, LIST_CONFIG_RESOURCES),
    api(ApiKey::CreatePartitions, 0, 3, 2, CREATE_PARTITIONS),
    api(ApiKey::DeleteRecords, 0, 2, 2, DELETE_RECORDS),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4, 4, OFFSET_FOR_LEADER_EPOCH),
    api(ApiKey::DescribeLogDirs, 1, 4, 2, DESCRIBE_LOG_DIRS),
    api(ApiKey::DescribeTopicPartitions, 0, 0, 0, DESCRIBE_TOPIC_PARTITIONS),
    api(ApiKey::ElectLeaders, 0, 2, 2, ELECT_LEADERS),
    api(ApiKey::AlterPartitionReassignments, 0, 1, 0, ALTER_PARTITION_REASSIGNMENTS),
    api(ApiKey::ListPartitionReassignments, 0, 0, 0, LIST_PARTITION_REASSIGNMENTS),
    api(ApiKey::DeleteGroups, 0, 2, 2, DELETE_GROUPS),
    api(ApiKey::OffsetDelete, 0, 0, 1, OFFSET_DELETE),
    api(ApiKey::ConsumerGroupHeartbeat, 0, 1, 0, CONSUMER_GROUP_HEARTBEAT),
    api(ApiKey::ConsumerGroupDescribe, 0, 1, 0, CONSUMER_GROUP_DESCRIBE),
];

const PRODUCE: &[Field] = &[
    always(TEXT), // transactional id
    always(I16),  // acks
    always(I32),  // timeout
    always(Kind::Array(&[
        until(12, TEXT), // topic
        since(13, UUID),
        always(Kind::Array(&[always(I32), always(BYTES)])), // partition, records
    ])),
];

const FETCH: &[Field] = &[
    until(14, I32), // replica
    always(I32),    // longest wait
    always(I32),    // fewest bytes
    always(I32),    // most bytes
    always(I8),     // isolation
    since(7, I32),  // session
    since(7, I32),  // session epoch
    always(Kind::Array(&[
        until(12, TEXT), // topic
        since(13, UUID),
        always(Kind::Array(&[
            always(I32),                    // partition
            since(9, I32),                  // current leader epoch
            always(I64),                    // offset
            since(12, I32),                 // last fetched epoch
            since(5, I64),                  // log start offset
            always(I32),                    // most bytes
            since(17, Kind::Tagged(0, 16)), // directory
            since(18, Kind::Tagged(1, 8)),  // high watermark
        ])),
    ])),
    since(7, Kind::Array(&[until(12, TEXT), since(13, UUID), always(INTEGERS)])), // forgotten
    since(11, TEXT),                                                              // rack
];

const LIST_OFFSETS: &[Field] = &[
    always(I32),  // replica
    since(2, I8), // isolation
    always(Kind::Array(&[
        always(TEXT),
        always(Kind::Array(&[always(I32), since(4, I32), always(I64)])), // partition, epoch, time
    ])),
    since(10, I32), // timeout
];

const METADATA: &[Field] = &[
    always(Kind::Array(&[since(10, UUID), always(TEXT)])),
    since(4, I8),       // create topics
    between(8, 10, I8), // cluster operations
    since(8, I8),       // topic operations
];

const OFFSET_COMMIT: &[Field] = &[
    always(TEXT),       // group
    always(I32),        // generation
    always(TEXT),       // member
    since(7, TEXT),     // instance
    between(2, 4, I64), // retention
    always(Kind::Array(&[
        always(TEXT),
        always(Kind::Array(&[
            always(I32),   // partition
            always(I64),   // offset
            since(6, I32), // leader epoch
            always(TEXT),  // metadata
        ])),
    ])),
];

const OFFSET_FETCH: &[Field] = &[
    until(7, TEXT), // group
    until(7, Kind::Array(&[always(TEXT), always(INTEGERS)])),
    since(
        8,
        Kind::Array(&[
            always(TEXT),   // group
            since(9, TEXT), // member
            since(9, I32),  // member epoch
            always(Kind::Array(&[always(TEXT), always(INTEGERS)])),
        ]),
    ),
    since(7, I8), // stable only
];

const FIND_COORDINATOR: &[Field] = &[
    until(3, TEXT),  // key
    since(1, I8),    // kind of key
    since(4, TEXTS), // keys
];

const JOIN_GROUP: &[Field] = &[
    always(TEXT),   // group
    always(I32),    // session timeout
    since(1, I32),  // rebalance timeout
    always(TEXT),   // member
    since(5, TEXT), // instance
    always(TEXT),   // kind of protocol
    always(Kind::Array(&[always(TEXT), always(BYTES)])),
    since(8, TEXT), // reason
];

const HEARTBEAT: &[Field] = &[always(TEXT), always(I32), always(TEXT), since(3, TEXT)];

const LEAVE_GROUP: &[Field] = &[
    always(TEXT),
    until(2, TEXT),
    since(3, Kind::Array(&[always(TEXT), always(TEXT), since(5, TEXT)])),
];

const SYNC_GROUP: &[Field] = &[
    always(TEXT),   // group
    always(I32),    // generation
    always(TEXT),   // member
    since(3, TEXT), // instance
    since(5, TEXT), // kind of protocol
    since(5, TEXT), // protocol
    always(Kind::Array(&[always(TEXT), always(BYTES)])),
];

const DESCRIBE_GROUPS: &[Field] = &[always(TEXTS), since(3, I8)];

const LIST_GROUPS: &[Field] = &[since(4, TEXTS), since(5, TEXTS)];

const API_VERSIONS: &[Field] = &[since(3, TEXT), since(3, TEXT)];

const CREATE_TOPICS: &[Field] = &[
    always(Kind::Array(&[
        always(TEXT),
        always(I32),                                           // partitions
        always(I16),                                           // replication factor
        always(Kind::Array(&[always(I32), always(INTEGERS)])), // assignments
        always(Kind::Array(&[always(TEXT), always(TEXT)])),    // settings
    ])),
    always(I32), // timeout
    always(I8),  // validate only
];

const DELETE_TOPICS: &[Field] =
    &[since(6, Kind::Array(&[always(TEXT), always(UUID)])), until(5, TEXTS), always(I32)];

const INIT_PRODUCER_ID: &[Field] = &[
    always(TEXT),  // transactional id
    always(I32),   // timeout
    since(3, I64), // producer id
    since(3, I16), // producer epoch
];

const ADD_PARTITIONS_TO_TXN: &[Field] = &[
    since(
        4,
        Kind::Array(&[
            always(TEXT), // transactional id
            always(I64),  // producer id
            always(I16),  // producer epoch
            always(I8),   // verify only
            always(Kind::Array(&[always(TEXT), always(INTEGERS)])),
        ]),
    ),
    until(3, TEXT),
    until(3, I64),
    until(3, I16),
    until(3, Kind::Array(&[always(TEXT), always(INTEGERS)])),
];

const ADD_OFFSETS_TO_TXN: &[Field] = &[
    always(TEXT), // transactional id
    always(I64),  // producer id
    always(I16),  // producer epoch
    always(TEXT), // group
];

const END_TXN: &[Field] = &[
    always(TEXT), // transactional id
    always(I64),  // producer id
    always(I16),  // producer epoch
    always(I8),   // committed
];

const WRITE_TXN_MARKERS: &[Field] = &[always(Kind::Array(&[
    always(I64), // producer id
    always(I16), // producer epoch
    always(I8),  // committed
    always(Kind::Array(&[always(TEXT), always(INTEGERS)])),
    always(I32), // coordinator epoch
]))];

const TXN_OFFSET_COMMIT: &[Field] = &[
    always(TEXT),   // transactional id
    always(TEXT),   // group
    always(I64),    // producer id
    always(I16),    // producer epoch
    since(3, I32),  // generation
    since(3, TEXT), // member
    since(3, TEXT), // instance
    always(Kind::Array(&[
        always(TEXT),
        always(Kind::Array(&[
            always(I32),   // partition
            always(I64),   // offset
            since(2, I32), // leader epoch
            always(TEXT),  // metadata
        ])),
    ])),
];

const DESCRIBE_PRODUCERS: &[Field] = &[always(Kind::Array(&[always(TEXT), always(INTEGERS)]))];

const DESCRIBE_TRANSACTIONS: &[Field] = &[always(TEXTS)];

const LIST_TRANSACTIONS: &[Field] = &[
    always(TEXTS),                       // states
    always(Kind::List(&Kind::Fixed(8))), // producer ids
    since(1, I64),                       // duration
    since(2, TEXT),                      // expression
];

const DESCRIBE_CLUSTER: &[Field] = &[always(I8), since(1, I8), since(2, I8)];

const DESCRIBE_CONFIGS: &[Field] = &[
    always(Kind::Array(&[always(I8), always(TEXT), always(TEXTS)])), // kind, name, settings
    always(I8),                                                      // synonyms
    since(3, I8),                                                    // documentation
];

const ALTER_CONFIGS: &[Field] = &[
    always(Kind::Array(&[
        always(I8),                                         // kind of resource
        always(TEXT),                                       // its name
        always(Kind::Array(&[always(TEXT), always(TEXT)])), // settings
    ])),
    always(I8), // validate only
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always(Kind::Array(&[
        always(I8),                                                     // kind of resource
        always(TEXT),                                                   // its name
        always(Kind::Array(&[always(TEXT), always(I8), always(TEXT)])), // name, operation, value
    ])),
    always(I8), // validate only
];

const LIST_CONFIG_RESOURCES: &[Field] = &[since(1, Kind::List(&I8))];

const CREATE_PARTITIONS: &[Field] = &[
    always(Kind::Array(&[
        always(TEXT),                             // topic
        always(I32),                              // partitions
        always(Kind::Array(&[always(INTEGERS)])), // assignments
    ])),
    always(I32), // timeout
    always(I8),  // validate only
];

const DELETE_RECORDS: &[Field] = &[
    always(Kind::Array(&[
        always(TEXT),
        always(Kind::Array(&[always(I32), always(I64)])), // partition, offset
    ])),
    always(I32), // timeout
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    since(3, I32), // replica
    always(Kind::Array(&[
        always(TEXT),
        always(Kind::Array(&[always(I32), always(I32), always(I32)])), // partition, epochs
    ])),
];

const DESCRIBE_LOG_DIRS: &[Field] = &[always(Kind::Array(&[always(TEXT), always(INTEGERS)]))];

const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    always(Kind::Array(&[always(TEXT)])),
    always(I32),                                          // most partitions
    always(Kind::Optional(&[always(TEXT), always(I32)])), // topic and partition to go on at
];

const ELECT_LEADERS: &[Field] = &[
    since(1, I8), // which leaders
    always(Kind::Array(&[always(TEXT), always(INTEGERS)])),
    always(I32), // timeout
];

const ALTER_PARTITION_REASSIGNMENTS: &[Field] = &[
    always(I32),  // timeout
    since(1, I8), // other numbers of replicas
    always(Kind::Array(&[
        always(TEXT),
        always(Kind::Array(&[always(I32), always(INTEGERS)])), // partition, replicas
    ])),
];

const LIST_PARTITION_REASSIGNMENTS: &[Field] =
    &[always(I32), always(Kind::Array(&[always(TEXT), always(INTEGERS)]))];
const DELETE_GROUPS: &[Field] = &[always(TEXTS)];

const OFFSET_DELETE: &[Field] = &[
    always(TEXT), // group
    always(Kind::Array(&[always(TEXT), always(Kind::Array(&[always(I32)]))])),
];

const CONSUMER_GROUP_HEARTBEAT: &[Field] = &[
    always(TEXT),   // group
    always(TEXT),   // member
    always(I32),    // epoch
    always(TEXT),   // instance
    always(TEXT),   // rack
    always(I32),    // rebalance timeout
    always(TEXTS),  // topics
    since(1, TEXT), // expression
    always(TEXT),   // assignor
    always(Kind::Array(&[always(UUID), always(INTEGERS)])),
];

const CONSUMER_GROUP_DESCRIBE: &[Field] = &[always(TEXTS), always(I8)];
