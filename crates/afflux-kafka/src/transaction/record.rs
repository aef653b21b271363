//! The records of `__transaction_state`: what a transactional id is up to.
//!
//! They are Kafka's own (`TransactionLogKey` version 0, `TransactionLogValue` version 1), so that
//! its tools read them. Numbers are big-endian; in the value lengths are varints, one more than
//! they mean:
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
    sync::Arc,
    time::Duration,
};

use afflux_types::{Timestamp, TopicName, TopicPartition};
use bytes::{Buf, BufMut};

use super::{Facts, Identity, State, TransactionalId};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;
const PREVIOUS_TAG: u32 = 0;
const VERSION_TAG: u32 = 2;

/// The key of an id.
pub(crate) fn encode_key(id: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + id.len());
    out.put_i16(KEY_VERSION);
    // It came in a string of at most this length.
    out.put_i16(id.len() as i16);
    out.put_slice(id.as_bytes());
    out
}

/// The id of a key; none if it is cut or of another version.
pub(crate) fn decode_key(mut key: &[u8]) -> Option<TransactionalId> {
    if key.try_get_i16().ok()? != KEY_VERSION {
        return None;
    }
    let length = usize::try_from(key.try_get_i16().ok()?).ok()?;
    std::str::from_utf8(key.get(..length)?).ok().map(Arc::from)
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
    out.put_i32(i32::try_from(facts.timeout.as_millis()).unwrap_or(i32::MAX));
    out.put_i8(code(facts.state));
    let mut topics: BTreeMap<&TopicName, Vec<i32>> = BTreeMap::new();
    for partition in &facts.partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition.0);
    }
    if facts.state == State::Empty {
        put_varint(&mut out, 0);
    } else {
        put_varint(&mut out, topics.len() as u32 + 1);
    }
    for (topic, indexes) in topics {
        put_varint(&mut out, topic.as_str().len() as u32 + 1);
        out.put_slice(topic.as_str().as_bytes());
        put_varint(&mut out, indexes.len() as u32 + 1);
        for index in indexes {
            out.put_i32(index);
        }
        put_varint(&mut out, 0);
    }
    out.put_i64(facts.updated.0);
    out.put_i64(facts.started.map_or(-1, |started| started.0));
    let tags = u32::from(facts.previous >= 0) + u32::from(facts.version > 0);
    put_varint(&mut out, tags);
    if facts.previous >= 0 {
        put_varint(&mut out, PREVIOUS_TAG);
        put_varint(&mut out, 8);
        out.put_i64(facts.previous);
    }
    if facts.version > 0 {
        put_varint(&mut out, VERSION_TAG);
        put_varint(&mut out, 2);
        out.put_i16(facts.version);
    }
    out
}

/// What a value says; none if it is cut or not written here.
pub(crate) fn decode_value(mut value: &[u8]) -> Option<Facts> {
    let at = &mut value;
    if at.try_get_i16().ok()? != VALUE_VERSION {
        return None;
    }
    let producer = Identity { id: at.try_get_i64().ok()?, epoch: at.try_get_i16().ok()? };
    let timeout = Duration::from_millis(u64::try_from(at.try_get_i32().ok()?).ok()?);
    let state = match at.try_get_i8().ok()? {
        0 => State::Empty,
        1 => State::Ongoing,
        4 => State::CompleteCommit,
        5 => State::CompleteAbort,
        _ => return None,
    };
    let mut partitions = BTreeSet::new();
    for _ in 1..get_varint(at)?.max(1) {
        let length = (get_varint(at)? as usize).checked_sub(1)?;
        let (topic, rest) = at.split_at_checked(length)?;
        *at = rest;
        let topic = TopicName::new(std::str::from_utf8(topic).ok()?).ok()?;
        for _ in 1..get_varint(at)?.max(1) {
            partitions.insert(TopicPartition::new(topic.clone(), at.try_get_i32().ok()?));
        }
        tags(at, |_, _| Some(()))?;
    }
    if state == State::Empty {
        // Nothing has begun, whatever was left over: as Kafka reads it.
        partitions.clear();
    }
    let updated = Timestamp(at.try_get_i64().ok()?);
    let started = Some(at.try_get_i64().ok()?).filter(|at| *at >= 0).map(Timestamp);
    let (mut previous, mut version) = (-1, 0);
    tags(at, |tag, mut bytes| {
        match tag {
            // A number below these says what none says.
            PREVIOUS_TAG => previous = bytes.try_get_i64().ok()?.max(-1),
            VERSION_TAG => version = bytes.try_get_i16().ok()?.max(0),
            _ => {}
        }
        Some(())
    })?;
    Some(Facts {
        producer,
        previous,
        last_epoch: -1,
        timeout,
        state,
        partitions,
        started,
        updated,
        version,
    })
}

fn tags(at: &mut &[u8], mut each: impl FnMut(u32, &[u8]) -> Option<()>) -> Option<()> {
    for _ in 0..get_varint(at)? {
        let tag = get_varint(at)?;
        let length = get_varint(at)? as usize;
        let (bytes, rest) = at.split_at_checked(length)?;
        *at = rest;
        each(tag, bytes)?;
    }
    Some(())
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn get_varint(at: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for i in 0..5 {
        let byte = at.try_get_u8().ok()?;
        value |= u32::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
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
        assert_eq!(decode_key(&key).as_deref(), Some("id"));
        assert_eq!(decode_value(&value), Some(facts()));
        assert!((0..key.len()).all(|cut| decode_key(&key[..cut]).is_none()));
        assert!((0..value.len()).all(|cut| decode_value(&value[..cut]).is_none()));
        let empty = Facts { state: State::Empty, partitions: BTreeSet::new(), ..facts() };
        assert_eq!(decode_value(&encode_value(&empty)), Some(empty.clone()));
        let mut left_over = value.clone();
        left_over[16] = code(State::Empty) as u8;
        assert_eq!(decode_value(&left_over), Some(empty));
        let mut below = value;
        let end = below.len();
        below[end - 2..].copy_from_slice(&(-7_i16).to_be_bytes());
        assert_eq!(decode_value(&below), Some(Facts { version: 0, ..facts() }));
    }
}
