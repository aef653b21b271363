//! What a topic's settings make of a batch that a client sends.
//!
//! 1. Its size is checked as it came, and again if it was packed another way.
//! 2. Timestamps: if the header's latest is not too late and nothing can be too early, no record
//!    is looked at. Otherwise the batch is unpacked, and every record at fault is named (KIP-467).
//! 3. A compacted topic takes no record without a key: the batch is unpacked, and those that have
//!    none are named.
//! 4. It is packed as the topic wants it, and gets the log's time if the topic wants that. A batch
//!    for which neither holds is passed on where it lies.

use afflux_log::settings::Rules;
use afflux_record::{Header, batch};
use afflux_types::Timestamp;
use bytes::Bytes;
use kafka_protocol::ResponseError;

use crate::code;

/// The most records at fault that are named.
const FAULTS_MAX: usize = 100;

/// A batch as it is to be written.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) batch: Bytes,
    /// The time that its records got, if it is not the client's.
    pub(crate) append_time: Option<Timestamp>,
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
    check_times(&batch, header, rules, now)?;
    if rules.compaction.is_some() {
        check_keys(&batch)?;
    }
    let mut batch = batch;
    if let Some(codec) = rules.compression {
        batch = batch::recompress(&batch, codec).map_err(|error| malformed(&error))?;
        check_size(&batch, rules)?;
    }
    let append_time = rules.append_time.then_some(now);
    if let Some(time) = append_time {
        batch = batch::stamp(&batch, time).map_err(|error| malformed(&error))?;
    }
    Ok(Taken { batch, append_time })
}

fn malformed(error: &afflux_record::BatchError) -> Refused {
    Refused { error: code::of_batch(error), reason: error.to_string(), records: Vec::new() }
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

fn check_times(
    batch: &Bytes,
    header: &Header,
    rules: &Rules,
    now: Timestamp,
) -> Result<(), Refused> {
    let refused = |records: Vec<(i32, String)>, reason: &str| {
        let error = ResponseError::InvalidTimestamp;
        Err(Refused { error, reason: reason.to_owned(), records })
    };
    if header.is_log_append_time() {
        return refused(Vec::new(), "a client's batch can not have the log's time");
    }
    if rules.append_time {
        return Ok(());
    }
    let latest = rules.after_max.map_or(Timestamp(i64::MAX), |after| now.saturating_add(after));
    let before = rules.before_max.map(|before| before.as_millis() as i64);
    let earliest = before.map_or(i64::MIN, |before| now.0.saturating_sub(before));
    if header.max_timestamp <= latest && before.is_none() {
        return Ok(());
    }
    let mut faults = Vec::new();
    for (place, record) in (0..).zip(afflux_record::records(batch)) {
        let time = record.map_err(|error| malformed(&error))?.timestamp;
        // -1 is no timestamp at all.
        if time.0 != -1 && !(earliest..=latest.0).contains(&time.0) && faults.len() < FAULTS_MAX {
            let text = format!(
                "timestamp {} is not between {earliest} and {}, which the topic allows now",
                time.0, latest.0
            );
            faults.push((place, text));
        }
    }
    if faults.is_empty() && header.max_timestamp <= latest {
        return Ok(());
    }
    refused(faults, "records of the batch are too early or too late")
}

/// Without a key, nothing could ever take a record's place.
fn check_keys(batch: &Bytes) -> Result<(), Refused> {
    let mut faults = Vec::new();
    for (place, record) in (0..).zip(afflux_record::records(batch)) {
        let record = record.map_err(|error| malformed(&error))?;
        if record.key.is_none() && faults.len() < FAULTS_MAX {
            faults.push((place, "it has no key, and the topic is compacted".to_owned()));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let reason = "records of a compacted topic must have keys".to_owned();
    Err(Refused { error: ResponseError::InvalidRecord, reason, records: faults })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use afflux_log::settings::Settings;
    use afflux_record::{Compression, batch::Builder};

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

    fn taken(set: &[(&str, &str)], batch: &Bytes) -> Result<Taken, Refused> {
        take(batch.clone(), &Header::parse(batch).unwrap(), &rules(set), NOW)
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
