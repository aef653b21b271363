//! The records of `__transaction_state`: what a transactional id is up to.
//!
//! They are Kafka's own (`TransactionLogKey` version 0, `TransactionLogValue` version 1), so that
//! its tools read them. The key has fixed lengths, the value flexible ones (`fields`):
//!
//! ```text
//! key     version:i16=0  transactional id: length:i16 bytes
//! value   version:i16=1  producer:i64  epoch:i16  timeout-ms:i32  state:i8
//!         partitions ( topic  indexes i32... [tags] )  updated:i64  started:i64 or -1
//!         [tags 0: previous producer:i64, 2: client's transaction version:i16]
//! ```
//! A key without a value forgets the id.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use afflux_types::{Timestamp, TopicName, TopicPartition};
use bytes::BufMut;

use super::{Facts, Identity, State, TransactionalId};
use crate::fields::{
    MalformedRecord, Reader, put_compact, put_count, put_millis, put_tags, put_text,
};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;
const PREVIOUS_TAG: u32 = 0;
const VERSION_TAG: u32 = 2;

/// The key of an id.
pub(crate) fn encode_key(id: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + id.len());
    out.put_i16(KEY_VERSION);
    put_text(&mut out, id);
    out
}

/// The id of a key.
pub(crate) fn decode_key(key: &[u8]) -> Result<TransactionalId, MalformedRecord> {
    let mut from = Reader(key);
    from.version(KEY_VERSION)?;
    from.text()
}

fn code(state: State) -> i8 {
    match state {
        State::Empty => 0,
        State::Ongoing => 1,
        State::CompleteCommit => 4,
        State::CompleteAbort => 5,
    }
}

/// The value that says so much of an id.
pub(crate) fn encode_value(facts: &Facts) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.put_i16(VALUE_VERSION);
    out.put_i64(facts.producer.id);
    out.put_i16(facts.producer.epoch);
    put_millis(&mut out, facts.timeout);
    out.put_i8(code(facts.state));
    let mut topics: BTreeMap<&TopicName, Vec<i32>> = BTreeMap::new();
    for partition in &facts.partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition.0);
    }
    if facts.state == State::Empty {
        // No list, instead of an empty one.
        out.put_u8(0);
    } else {
        put_count(&mut out, topics.len());
    }
    for (topic, indexes) in topics {
        put_compact(&mut out, topic.as_str());
        put_count(&mut out, indexes.len());
        for index in indexes {
            out.put_i32(index);
        }
        put_tags(&mut out, &[]);
    }
    out.put_i64(facts.updated.0);
    out.put_i64(facts.started.map_or(-1, |started| started.0));
    let mut tags = Vec::new();
    if facts.previous >= 0 {
        tags.push((PREVIOUS_TAG, facts.previous.to_be_bytes().to_vec()));
    }
    if facts.version > 0 {
        tags.push((VERSION_TAG, facts.version.to_be_bytes().to_vec()));
    }
    put_tags(&mut out, &tags);
    out
}

/// What a value says.
pub(crate) fn decode_value(value: &[u8]) -> Result<Facts, MalformedRecord> {
    const OUT_OF_RANGE: MalformedRecord = MalformedRecord("a transaction's time-out is negative");
    let mut from = Reader(value);
    if from.version(VALUE_VERSION)? != VALUE_VERSION {
        return Err(MalformedRecord("a transaction's record is of an old version"));
    }
    let producer = Identity { id: from.i64()?, epoch: from.i16()? };
    let timeout = u64::try_from(from.i32()?).map_err(|_| OUT_OF_RANGE)?;
    let state = match from.i8()? {
        0 => State::Empty,
        1 => State::Ongoing,
        4 => State::CompleteCommit,
        5 => State::CompleteAbort,
        _ => return Err(MalformedRecord("a transaction's state is not known")),
    };
    let mut partitions = BTreeSet::new();
    for _ in 0..from.count()? {
        let topic = TopicName::new(&from.compact()?);
        let topic = topic.map_err(|_| MalformedRecord("a topic's name is not legal"))?;
        for _ in 0..from.count()? {
            partitions.insert(TopicPartition::new(topic.clone(), from.i32()?));
        }
        from.tags()?;
    }
    if state == State::Empty {
        // Nothing has begun, whatever was left over: as Kafka reads it.
        partitions.clear();
    }
    let updated = Timestamp(from.i64()?);
    let started = Some(from.i64()?).filter(|at| *at >= 0).map(Timestamp);
    let (mut previous, mut version) = (-1, 0);
    for (tag, mut value) in from.tags()? {
        match tag {
            // A number below these says what none says.
            PREVIOUS_TAG => previous = value.i64()?.max(-1),
            VERSION_TAG => version = value.i16()?.max(0),
            _ => {}
        }
    }
    Ok(Facts {
        producer,
        previous,
        last_epoch: -1,
        timeout: Duration::from_millis(timeout),
        state,
        partitions,
        started,
        updated,
        version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let topic = TopicName::new("t").unwrap();
        Facts {
            producer: Identity { id: 7, epoch: 3 },
            previous: 6,
            last_epoch: -1,
            timeout: Duration::from_secs(1),
            state: State::Ongoing,
            partitions: [0, 2].map(|p| TopicPartition::new(topic.clone(), p)).into(),
            started: Some(Timestamp(5)),
            updated: Timestamp(9),
            version: 2,
        }
    }

    #[test]
    fn records_are_laid_out_as_kafkas() {
        assert_eq!(encode_key("id"), [0, 0, 0, 2, b'i', b'd']);
        #[rustfmt::skip]
        assert_eq!(encode_value(&facts()), [
            0, 1, // version
            0, 0, 0, 0, 0, 0, 0, 7, 0, 3, // producer
            0, 0, 3, 0xe8, // timeout
            1, // ongoing
            2, 2, b't', 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, // partitions
            0, 0, 0, 0, 0, 0, 0, 9, // updated
            0, 0, 0, 0, 0, 0, 0, 5, // started
            2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 6, 2, 2, 0, 2, // tags
        ]);
    }

    #[test]
    fn records_read_back_and_cut_ones_do_not() {
        let (key, value) = (encode_key("id"), encode_value(&facts()));
        assert_eq!(decode_key(&key).as_deref(), Ok("id"));
        assert_eq!(decode_value(&value), Ok(facts()));
        assert!((0..key.len()).all(|cut| decode_key(&key[..cut]).is_err()));
        assert!((0..value.len()).all(|cut| decode_value(&value[..cut]).is_err()));
        let empty = Facts { state: State::Empty, partitions: BTreeSet::new(), ..facts() };
        assert_eq!(decode_value(&encode_value(&empty)), Ok(empty.clone()));
        let mut left_over = value.clone();
        left_over[16] = code(State::Empty) as u8;
        assert_eq!(decode_value(&left_over), Ok(empty));
        let mut below = value;
        let end = below.len();
        below[end - 2..].copy_from_slice(&(-7_i16).to_be_bytes());
        assert_eq!(decode_value(&below), Ok(Facts { version: 0, ..facts() }));
    }
}
