//! What a topic's settings make of a batch that a client sends.
//!
//! 1. Its size is checked as it came, and again if it was packed another way.
//! 2. It is unpacked, and every record is read, once: as many must be there as the header says, each
//!    whole and at its offset, and nothing behind them. Otherwise it would be acknowledged, and
//!    whoever reads the partition, or compacts it, would stop there for good.
//! 3. In the same pass: their times must be those that the topic takes, and in a compacted topic
//!    they must have keys. Every record at fault is named (KIP-467).
//! 4. It is packed as the topic wants it, and gets the log's time if the topic wants that, or else
//!    the latest time of its records if the client said another. A batch for which none of these
//!    holds is passed on where it lies.

use std::ops::RangeInclusive;

use afflux_log::settings::Rules;
use afflux_record::{
    Compression, Header,
    batch::{self, Unpacked},
};
use afflux_types::{Classified as _, Timestamp};
use bytes::Bytes;
use kafka_protocol::ResponseError;

use crate::code;

/// The most records at fault that are named.
const FAULTS_MAX: usize = 100;

/// The time of a record that has none.
const NO_TIME: Timestamp = Timestamp(-1);

/// A batch as it is to be written.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) batch: Bytes,
    /// The time that its records got, if it is not the client's.
    pub(crate) append_time: Option<Timestamp>,
    /// How many bytes were unpacked or packed for it.
    pub(crate) repacked: usize,
}

/// Why a batch is not taken.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: ResponseError,
    pub(crate) reason: String,
    /// The records at fault, by their place in the batch.
    pub(crate) records: Vec<(i32, String)>,
}

/// Checks a batch against a topic's rules and makes of it what is to be written.
pub(crate) fn take(
    batch: Bytes,
    header: &Header,
    rules: &Rules,
    now: Timestamp,
) -> Result<Taken, Refused> {
    check_size(&batch, rules)?;
    if header.is_log_append_time() {
        return Err(Refused {
            error: ResponseError::InvalidTimestamp,
            reason: "a client's batch can not have the log's time".to_owned(),
            records: Vec::new(),
        });
    }
    let unpacked = Unpacked::new(&batch).map_err(|error| malformed(&error))?;
    let latest = check_records(&unpacked, rules, now)?;
    let is_plain = header.compression() == Ok(Compression::None) && rules.compression.is_none();
    let repacked = if is_plain { 0 } else { unpacked.bytes() };
    let mut batch = batch;
    if let Some(codec) = rules.compression {
        batch = batch::repack(&batch, &unpacked, codec).map_err(|error| malformed(&error))?;
        check_size(&batch, rules)?;
    }
    let append_time = rules.append_time.then_some(now);
    if let Some(time) = append_time {
        batch = batch::stamp(&batch, time).map_err(|error| malformed(&error))?;
    } else if latest != header.max_timestamp {
        batch = batch::set_latest(&batch, latest).map_err(|error| malformed(&error))?;
    }
    Ok(Taken { batch, append_time, repacked })
}

fn malformed(error: &afflux_record::BatchError) -> Refused {
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    let reason = format!("{error}{hint}");
    Refused { error: code::of_batch(error), reason, records: Vec::new() }
}

fn check_size(batch: &Bytes, rules: &Rules) -> Result<(), Refused> {
    let (bytes, most) = (batch.len(), rules.batch_bytes_max);
    if bytes <= most {
        return Ok(());
    }
    Err(Refused {
        error: ResponseError::MessageTooLarge,
        reason: format!("the batch has {bytes} bytes; the topic's max.message.bytes is {most}"),
        records: Vec::new(),
    })
}

/// What is wrong with records, so far.
#[derive(Debug, Default)]
struct Faults {
    /// What is wrong with the first of them.
    first: Option<(ResponseError, &'static str)>,
    named: Vec<(i32, String)>,
}

impl Faults {
    #[cold]
    fn add(&mut self, place: i32, (error, all): (ResponseError, &'static str), one: String) {
        self.first.get_or_insert((error, all));
        if self.named.len() < FAULTS_MAX {
            self.named.push((place, one));
        }
    }
}

/// Reads every record, and returns the latest of their times; -1 if none has a time.
fn check_records(unpacked: &Unpacked, rules: &Rules, now: Timestamp) -> Result<Timestamp, Refused> {
    let allowed = times_allowed(rules, now);
    let needs_keys = rules.compaction.is_some();
    let base = unpacked.header().base_offset.0;
    let mut latest = NO_TIME;
    let mut faults = Faults::default();
    for (place, record) in (0..).zip(unpacked.records()) {
        let record = record.map_err(|error| malformed(&error))?;
        let time = record.timestamp;
        latest = latest.max(time);
        if needs_keys && record.key.is_none() {
            let all = "records of a compacted topic must have keys";
            let one = "it has no key, and the topic is compacted".to_owned();
            faults.add(place, (ResponseError::InvalidRecord, all), one);
        } else if !allowed.contains(&time.0) && time != NO_TIME {
            let all = "records of the batch are too early or too late";
            let one = format!(
                "timestamp {} is not between {} and {}, which the topic allows now",
                time.0,
                allowed.start(),
                allowed.end()
            );
            faults.add(place, (ResponseError::InvalidTimestamp, all), one);
        } else if record.offset.0.wrapping_sub(base) != i64::from(place) {
            let all = "offsets in a batch go up by one from 0 on";
            let one = format!("its offset in the batch is {}", record.offset.0.wrapping_sub(base));
            faults.add(place, (ResponseError::InvalidRecord, all), one);
        }
    }
    match faults.first {
        None => Ok(latest),
        Some((error, reason)) => {
            Err(Refused { error, reason: reason.to_owned(), records: faults.named })
        }
    }
}

/// Which times records may have.
fn times_allowed(rules: &Rules, now: Timestamp) -> RangeInclusive<i64> {
    if rules.append_time {
        return i64::MIN..=i64::MAX;
    }
    let latest = rules.after_max.map_or(i64::MAX, |after| now.saturating_add(after).0);
    let before = rules.before_max.map(|before| before.as_millis() as i64);
    before.map_or(i64::MIN, |before| now.0.saturating_sub(before))..=latest
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use afflux_log::settings::Settings;
    use afflux_record::{
        Compression,
        batch::{Builder, HEADER_BYTES},
        compression::UNPACKED_BYTES_MAX,
        fuzzing::mended_batch,
    };

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn rules(set: &[(&str, &str)]) -> Rules {
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::new(set).unwrap().rules().clone()
    }

    fn batch(times: &[i64]) -> Bytes {
        let mut builder = Builder::new(Compression::Gzip);
        for time in times {
            builder.push(Timestamp(*time), None, Some(b"value"));
        }
        builder.finish().unwrap()
    }

    /// A batch with a header and a checksum that are right, and of these bytes.
    fn forged(codec: Compression, (count, latest): (i32, i64), plain: &[u8]) -> Bytes {
        let mut bytes = Builder::new(codec).finish().unwrap()[..HEADER_BYTES].to_vec();
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        bytes[35..43].copy_from_slice(&latest.to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes.extend(codec.pack(plain).unwrap());
        mended_batch(&bytes).unwrap()
    }

    /// A record of one byte, at an offset and at the time 1.
    fn record(offset: u8) -> Vec<u8> {
        vec![14, 0, 2, offset * 2, 1, 2, b'v', 0]
    }

    fn taken(set: &[(&str, &str)], batch: &Bytes) -> Result<Taken, Refused> {
        take(batch.clone(), &Header::parse(batch).unwrap(), &rules(set), NOW)
    }

    #[test]
    fn every_record_is_read() {
        // None for one that is taken, or what is said of it.
        let check = |what: &str, count: i32, plain: &[u8], expected: Option<&str>| {
            for codec in Compression::ALL {
                let found = taken(&[], &forged(codec, (count, 1), plain)).err();
                let told = found.as_ref().map(|refused| {
                    assert_eq!(refused.error, ResponseError::InvalidRecord, "{what}");
                    format!("{} {:?}", refused.reason, refused.records)
                });
                let fits = match (&told, expected) {
                    (Some(told), Some(expected)) => told.contains(expected),
                    (told, expected) => told.is_none() && expected.is_none(),
                };
                assert!(fits, "{what}, {codec:?}: {told:?}");
            }
        };
        let both = [record(0), record(1)].concat();
        check("good", 2, &both, None);
        check("nothing", i32::MAX, &[], Some("record 0 of the batch is malformed"));
        check("one that is missing", 3, &both, Some("record 2"));
        check("one too many", 1, &both, Some("bytes follow the last record"));
        check("a byte behind", 2, &[&both[..], &[0]].concat(), Some("bytes follow"));
        check("a byte too few", 2, &both[..15], Some("record 1"));
        check("an offset twice", 2, &[record(0), record(0)].concat(), Some("[(1, \"its offset"));
        check("turned round", 2, &[record(1), record(0)].concat(), Some("[(0, \"its offset"));
        check("an offset behind the last", 2, &[record(0), record(2)].concat(), Some("record 1"));
        check("not from 0 on", 1, &record(1), Some("record 0"));
        for (what, at, byte) in [
            ("no length", 0, 1),
            ("empty", 0, 0),
            ("too long", 0, 16),
            ("too short", 0, 12),
            ("a negative offset", 3, 1),
            ("a key that ends behind it", 4, 100),
            ("a key of a length below none", 4, 3),
            ("a value that ends behind it", 5, 6),
            ("fewer headers than none", 7, 1),
            ("a header that is not there", 7, 2),
        ] {
            let mut bytes = record(0);
            bytes[at] = byte;
            check(what, 1, &bytes, Some("record 0"));
        }
        let headed = |header: &[u8]| {
            let length = 2 * (7 + header.len()) as u8;
            [&[length, 0, 2, 0, 1, 2, b'v', 2], header].concat()
        };
        check("a header", 1, &headed(&[2, b'n', 1]), None);
        check("a header without a name", 1, &headed(&[1, 2, b'v']), Some("no name"));
        check("a header that is cut", 1, &headed(&[2, b'n', 4, b'v']), Some("behind the end"));
    }

    #[test]
    fn what_does_not_unpack_is_refused() {
        for codec in &Compression::ALL[1..] {
            let good = forged(*codec, (1, 1), &record(0));
            let cut = mended_batch(&good[..HEADER_BYTES + good[HEADER_BYTES..].len() / 2]).unwrap();
            let refused = taken(&[], &cut).unwrap_err();
            assert_eq!(refused.error, ResponseError::InvalidRecord, "{codec:?}: {refused:?}");
        }
        let bomb = forged(Compression::Zstd, (1, 1), &vec![0; UNPACKED_BYTES_MAX + 1]);
        let refused = taken(&[], &bomb).unwrap_err();
        assert_eq!(refused.error, ResponseError::MessageTooLarge);
        assert!(refused.reason.contains("send fewer or smaller"), "{}", refused.reason);
    }

    #[test]
    fn the_latest_time_is_that_of_the_records() {
        for codec in Compression::ALL {
            for said in [i64::MIN, 0, 2, i64::MAX] {
                let batch = taken(&[], &forged(codec, (1, said), &record(0))).unwrap().batch;
                assert_eq!(batch, forged(codec, (1, 1), &record(0)), "{codec:?}, {said}");
            }
        }
        let logs = [("message.timestamp.type", "LogAppendTime")];
        let stamped = taken(&logs, &forged(Compression::None, (1, 5), &record(0))).unwrap().batch;
        assert_eq!(Header::parse(&stamped).unwrap().max_timestamp, NOW);
    }

    #[test]
    fn records_out_of_time_are_named() {
        let check = |set: &[(&str, &str)], times: &[i64], faults: Option<&[i32]>| {
            let outcome = taken(set, &batch(times));
            let found = outcome.err().map(|refused| {
                assert_eq!(refused.error, ResponseError::InvalidTimestamp);
                refused.records.iter().map(|(place, _)| *place).collect::<Vec<_>>()
            });
            assert_eq!(found.as_deref(), faults, "{set:?} {times:?}");
        };
        let hour = Duration::from_hours(1).as_millis() as i64;
        check(&[], &[0, 5, NOW.0], None);
        check(&[], &[NOW.0 + hour], None);
        check(&[], &[NOW.0, NOW.0 + hour + 1, 3], Some(&[1]));
        let before = [("message.timestamp.before.max.ms", "10")];
        check(&before, &[NOW.0 - 10, NOW.0], None);
        check(&before, &[NOW.0, NOW.0 - 11, -1, 7], Some(&[1, 3]));
        let logs = [("message.timestamp.type", "LogAppendTime")];
        check(&logs, &[0, NOW.0 + hour + 1], None);
    }

    #[test]
    fn a_compacted_topic_takes_no_record_without_a_key() {
        let check = |policy: &str, keys: &[Option<&[u8]>], faults: Option<&[i32]>| {
            let mut builder = Builder::new(Compression::Lz4);
            for key in keys {
                builder.push(NOW, *key, Some(b"value"));
            }
            let outcome = taken(&[("cleanup.policy", policy)], &builder.finish().unwrap());
            let found = outcome.err().map(|refused| {
                assert_eq!(refused.error, ResponseError::InvalidRecord);
                refused.records.iter().map(|(place, _)| *place).collect::<Vec<_>>()
            });
            assert_eq!(found.as_deref(), faults, "{policy} {keys:?}");
        };
        check("delete", &[None, Some(b"a")], None);
        check("compact", &[Some(b""), Some(b"a")], None);
        check("compact", &[None, Some(b"a"), None], Some(&[0, 2]));
        check("delete,compact", &[Some(b"a"), None], Some(&[1]));
    }

    #[test]
    fn batches_become_what_the_topic_wants() {
        let sent = batch(&[NOW.0, NOW.0]);
        let same = taken(&[], &sent).unwrap();
        assert_eq!((same.batch.as_ptr(), same.append_time), (sent.as_ptr(), None));
        let set = [("compression.type", "zstd"), ("message.timestamp.type", "LogAppendTime")];
        let other = taken(&set, &sent).unwrap();
        let header = batch::check(&other.batch).unwrap();
        assert_eq!(header.compression().unwrap(), Compression::Zstd);
        assert_eq!((header.max_timestamp, other.append_time), (NOW, Some(NOW)));
        let stamped = batch::stamp(&sent, NOW).unwrap();
        assert_eq!(taken(&[], &stamped).unwrap_err().error, ResponseError::InvalidTimestamp);
    }

    #[test]
    fn a_batch_too_large_is_refused_before_and_after() {
        let sent = batch(&[NOW.0; 200]);
        let bytes = sent.len().to_string();
        assert!(taken(&[("max.message.bytes", &bytes)], &sent).is_ok());
        let less = (sent.len() - 1).to_string();
        let refused = taken(&[("max.message.bytes", &less)], &sent).unwrap_err();
        assert_eq!(refused.error, ResponseError::MessageTooLarge);
        let unpacked = [("max.message.bytes", &*bytes), ("compression.type", "uncompressed")];
        let refused = taken(&unpacked, &sent).unwrap_err();
        assert_eq!(refused.error, ResponseError::MessageTooLarge);
    }
}
