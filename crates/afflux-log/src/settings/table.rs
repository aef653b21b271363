//! The declaration of all settings. The order is that of their names.

use super::{
    Allowed::{self, AnyOf, AtLeast, OneOf, Only, Share},
    Setting,
    SettingType::{self, Boolean, Double, Int, List, Long, Text},
};

const NO_REPLICAS: &str = "there is one node, and no replica";
const NO_TIERS: &str = "all data stay on this node";

const fn setting(
    name: &'static str,
    kind: SettingType,
    default: &'static str,
    allowed: Allowed,
    broker_name: Option<&'static str>,
    doc: &'static str,
) -> Setting {
    Setting { name, kind, default, allowed, broker_name, doc }
}

/// A setting that only takes its default.
const fn fixed(
    name: &'static str,
    kind: SettingType,
    default: &'static str,
    why: &'static str,
    broker_name: Option<&'static str>,
    doc: &'static str,
) -> Setting {
    Setting { name, kind, default, allowed: Only(why), broker_name, doc }
}

/// All settings of topics, by name.
pub static SETTINGS: &[Setting] = &[
    setting(
        "cleanup.policy",
        List,
        "delete",
        AnyOf(&["delete", "compact"]),
        Some("log.cleanup.policy"),
        "What becomes of old records. `delete`: retention drops them, by `retention.ms` and \
         `retention.bytes`. `compact`: of all records with one key the newest stays, whatever its \
         age, and the others go. `compact,delete`: both. A compacted topic takes no record without \
         a key: the batch is refused with `INVALID_RECORD` and the places of the records at fault; \
         what was written without keys before a topic was compacted goes with the first pass. \
         Records keep their offsets, times and headers. What is below the last stable offset is \
         compacted, and is looked at once a minute; what lies in the journal file that is being \
         written stays out of it until the file is full, or `segment.ms`, `segment.bytes` or \
         `max.compaction.lag.ms` asks for it.",
    ),
    fixed(
        "compression.gzip.level",
        Int,
        "-1",
        "the codec's own level is used",
        Some("compression.gzip.level"),
        "How hard gzip works.",
    ),
    fixed(
        "compression.lz4.level",
        Int,
        "9",
        "the codec's own level is used",
        Some("compression.lz4.level"),
        "How hard lz4 works.",
    ),
    setting(
        "compression.type",
        Text,
        "producer",
        OneOf(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        Some("compression.type"),
        "How batches are packed. `producer` keeps each as it came. With any other value a batch \
         that came packed another way is unpacked and packed again before it is written, which \
         costs the node what it saves the disk.",
    ),
    fixed(
        "compression.zstd.level",
        Int,
        "3",
        "the codec's own level is used",
        Some("compression.zstd.level"),
        "How hard zstd works.",
    ),
    setting(
        "delete.retention.ms",
        Long,
        "86400000",
        AtLeast(0),
        Some("log.cleaner.delete.retention.ms"),
        "How long compaction keeps a tombstone, which is a record without a value, and a \
         transaction's marker. It is counted from the first pass that has dropped all that the \
         tombstone deletes, or has found nothing left of the transaction.",
    ),
    setting(
        "durability",
        Text,
        "fsync",
        OneOf(&["fsync", "relaxed"]),
        None,
        "When a record is acknowledged. `fsync`: once it is on the disk; no crash loses it. \
         `relaxed`: once it has its offset; it is on its way to the disk then, within \
         milliseconds, and a crash of the node or the machine in that time loses it. Readers are \
         shown a record once it is on the disk, whichever it is. `relaxed` can not be set along \
         with `flush.messages` or `flush.ms`.",
    ),
    fixed(
        "file.delete.delay.ms",
        Long,
        "0",
        "a journal file is given back once nobody reads it, however long that takes",
        Some("log.segment.delete.delay.ms"),
        "How long a dead file stays.",
    ),
    setting(
        "flush.messages",
        Long,
        "9223372036854775807",
        AtLeast(1),
        Some("log.flush.interval.messages"),
        "After how many records they must be synced to the disk, at the latest. With `durability` \
         `fsync` every record is before it is acknowledged, so any number is kept to.",
    ),
    setting(
        "flush.ms",
        Long,
        "9223372036854775807",
        AtLeast(0),
        Some("log.flush.interval.ms"),
        "After how many milliseconds records must be synced to the disk, at the latest. With \
         `durability` `fsync` every record is before it is acknowledged, so any number is kept to.",
    ),
    fixed(
        "follower.replication.throttled.replicas",
        List,
        "",
        NO_REPLICAS,
        None,
        "Whose replication is slowed down where it arrives.",
    ),
    setting(
        "index.interval.bytes",
        Int,
        "4096",
        AtLeast(0),
        Some("log.index.interval.bytes"),
        "How far apart entries of the offset index may be. Every batch has one, so any number is \
         kept to.",
    ),
    fixed(
        "leader.replication.throttled.replicas",
        List,
        "",
        NO_REPLICAS,
        None,
        "Whose replication is slowed down where it begins.",
    ),
    fixed(
        "local.retention.bytes",
        Long,
        "-2",
        NO_TIERS,
        Some("log.local.retention.bytes"),
        "How many bytes stay on the node; -2 is as `retention.bytes`.",
    ),
    fixed(
        "local.retention.ms",
        Long,
        "-2",
        NO_TIERS,
        Some("log.local.retention.ms"),
        "How long records stay on the node; -2 is as `retention.ms`.",
    ),
    setting(
        "max.compaction.lag.ms",
        Long,
        "9223372036854775807",
        AtLeast(1),
        Some("log.cleaner.max.compaction.lag.ms"),
        "How old a record of a compacted topic may become before a pass is made, whatever \
         `min.cleanable.dirty.ratio` says.",
    ),
    setting(
        "max.message.bytes",
        Int,
        "1048588",
        AtLeast(0),
        Some("message.max.bytes"),
        "The largest batch that is taken from a client, in bytes as it is stored, thus compressed. \
         A larger one is refused with `MESSAGE_TOO_LARGE`.",
    ),
    setting(
        "message.timestamp.after.max.ms",
        Long,
        "3600000",
        AtLeast(0),
        Some("log.message.timestamp.after.max.ms"),
        "How far ahead of the node's clock a record's timestamp may be. A batch with a later one \
         is refused with `INVALID_TIMESTAMP` and the places of the records at fault. The latest \
         timestamp that the batch's header names is taken at its word if it is not too late. \
         Nothing is refused under `message.timestamp.type=LogAppendTime`.",
    ),
    setting(
        "message.timestamp.before.max.ms",
        Long,
        "9223372036854775807",
        AtLeast(0),
        Some("log.message.timestamp.before.max.ms"),
        "How far behind the node's clock a record's timestamp may be; otherwise as \
         `message.timestamp.after.max.ms`. With a limit every batch has to be unpacked to be \
         looked at.",
    ),
    setting(
        "message.timestamp.type",
        Text,
        "CreateTime",
        OneOf(&["CreateTime", "LogAppendTime"]),
        Some("log.message.timestamp.type"),
        "Whose time a record has: the client's, or that of the node when it took the batch.",
    ),
    setting(
        "min.cleanable.dirty.ratio",
        Double,
        "0.5",
        Share,
        Some("log.cleaner.min.cleanable.ratio"),
        "Which share of a partition's bytes must have come since the last pass for the next one. A \
         pass writes anew what is left of the partition. It is made earlier if \
         `max.compaction.lag.ms` asks for it, or if it gives back at least as much of the disk as it \
         writes, because nothing but compacted topics keeps older journal files.",
    ),
    setting(
        "min.compaction.lag.ms",
        Long,
        "0",
        AtLeast(0),
        Some("log.cleaner.min.compaction.lag.ms"),
        "How old a record of a compacted topic must be, by its timestamp, before it can go.",
    ),
    fixed(
        "min.insync.replicas",
        Int,
        "1",
        NO_REPLICAS,
        Some("min.insync.replicas"),
        "How many replicas must have a record before it is acknowledged.",
    ),
    fixed(
        "preallocate",
        Boolean,
        "true",
        "journal files have their size before they are used, and zeros where that pays",
        Some("log.preallocate"),
        "Whether files are made before they are needed.",
    ),
    fixed(
        "remote.log.copy.disable",
        Boolean,
        "false",
        NO_TIERS,
        None,
        "Whether records are no longer moved elsewhere.",
    ),
    fixed(
        "remote.log.delete.on.disable",
        Boolean,
        "false",
        NO_TIERS,
        None,
        "Whether what was moved elsewhere is deleted when that ends.",
    ),
    fixed(
        "remote.storage.enable",
        Boolean,
        "false",
        NO_TIERS,
        None,
        "Whether records are moved elsewhere.",
    ),
    setting(
        "retention.bytes",
        Long,
        "-1",
        AtLeast(-1),
        Some("log.retention.bytes"),
        "How many bytes of batches each partition keeps; -1 is no limit. Whole batches go, oldest \
         first, while at least this much is left behind them. Looked at once a minute.",
    ),
    setting(
        "retention.ms",
        Long,
        "604800000",
        AtLeast(-1),
        Some("log.retention.ms"),
        "How long records are kept; -1 is for ever. What counts is the records' timestamps, as in \
         Kafka: old data that are written with their old timestamps go at once unless this is -1. \
         A partition's share of a sealed journal file (64 MiB over all partitions) goes as a whole, \
         once its latest record is old enough; batches in the newest file, which is still written, \
         go one by one. Looked at once a minute.",
    ),
    setting(
        "segment.bytes",
        Int,
        "1073741824",
        AtLeast(1_048_576),
        Some("log.segment.bytes"),
        "How coarse retention may be. Partitions have no files of their own: they share journal \
         files, whose shares go as a whole. If this is set, `retention.ms` is decided batch by \
         batch instead, which is finer than any size asked for. Of a compacted topic, what lies in \
         the journal file that is being written is compacted too once it is this much.",
    ),
    fixed(
        "segment.index.bytes",
        Int,
        "10485760",
        "an index is as large as its journal file needs",
        Some("log.index.size.max.bytes"),
        "How large an index may become.",
    ),
    fixed(
        "segment.jitter.ms",
        Long,
        "0",
        "journal files are shared, and sealed when they are full",
        Some("log.roll.jitter.ms"),
        "How far the sealing of files is spread in time.",
    ),
    setting(
        "segment.ms",
        Long,
        "604800000",
        AtLeast(1),
        Some("log.roll.ms"),
        "As `segment.bytes`: if it is set, `retention.ms` is decided batch by batch, which is \
         finer than any time asked for. Of a compacted topic, what lies in the journal file that is \
         being written is compacted too once the oldest of it is this old.",
    ),
    fixed(
        "unclean.leader.election.enable",
        Boolean,
        "false",
        NO_REPLICAS,
        Some("unclean.leader.election.enable"),
        "Whether a replica that lags may take over.",
    ),
];
