//! What clients were told, held against what is there.

use std::collections::{HashMap, HashSet};

use super::{
    TEXT,
    clients::{Consumed, LAST, PARTITIONS, Placed, Produced, Transacted},
};

/// Offsets of a partition go up.
fn check_order(records: &[Placed]) {
    for pair in records.windows(2) {
        let same = pair[0].partition == pair[1].partition;
        assert!(!same || pair[0].offset < pair[1].offset, "offsets do not go up: {pair:?}");
    }
}

/// Nothing acknowledged is lost or elsewhere, nothing is there twice, nothing is from nowhere, and
/// each producer's records are in its order.
pub(crate) fn plain(records: &[Placed], produced: &[Produced]) {
    check_order(records);
    let mut places: HashMap<&str, &Placed> = HashMap::new();
    let mut last: HashMap<(u32, i32), u64> = HashMap::new();
    for record in records {
        if let Some(other) = places.insert(&record.value, record) {
            panic!("there twice: {record:?}, {other:?}");
        }
        let mut parts = record.value.split('-').skip(1);
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let (producer, sequence) = (number(), number());
        let producer = producer.unwrap_or(u64::MAX) as u32;
        let sequence = sequence.unwrap_or(u64::MAX);
        let told = produced.iter().find(|told| told.number == producer);
        assert!(told.is_some_and(|told| sequence < told.sent), "from nowhere: {record:?}");
        if let Some(before) = last.insert((producer, record.partition), sequence) {
            assert!(before < sequence, "behind {before}: {record:?}");
        }
    }
    for told in produced {
        assert_eq!(told.acknowledged.len() as u64, told.sent, "all came to an end");
        for placed in &told.acknowledged {
            assert_eq!(places.get(&*placed.value), Some(&placed), "lost or elsewhere");
        }
    }
}

/// Each transaction that was committed is there once in each partition; of those that were aborted
/// nothing is.
pub(crate) fn transactions(records: &[Placed], told: &Transacted) {
    check_order(records);
    let mut partitions: HashMap<&str, HashSet<i32>> = HashMap::new();
    for record in records.iter().filter(|record| record.value != LAST) {
        let its = partitions.entry(&record.value).or_default();
        assert!(its.insert(record.partition), "there twice: {record:?}");
    }
    for number in &told.committed {
        let its = partitions.remove(&*value(*number)).unwrap_or_default();
        assert_eq!(
            its.len(),
            PARTITIONS as usize,
            "a committed transaction is not whole: {number}"
        );
    }
    assert!(partitions.is_empty(), "aborted, and read: {partitions:?}");
}

/// The group saw every committed transaction and no other, and its offsets never went back.
pub(crate) fn consumed(consumed: &Consumed, told: &Transacted) {
    let mut missing: HashSet<(String, i32)> = HashSet::new();
    for number in &told.committed {
        missing.extend((0..PARTITIONS).map(|partition| (value(*number), partition)));
    }
    let committed = missing.clone();
    for record in &consumed.seen {
        let record = (record.value.clone(), record.partition);
        assert!(committed.contains(&record), "seen, and not committed: {record:?}");
        missing.remove(&record);
    }
    assert!(missing.is_empty(), "never seen: {missing:?}");
    for (partition, offsets) in &consumed.committed {
        assert!(offsets.is_sorted(), "a group's offsets went back: {offsets:?}");
        let stands = consumed.stands.get(partition);
        assert_eq!(stands, offsets.last(), "an acknowledged commit is lost: {partition}");
    }
}

fn value(number: u64) -> String {
    format!("{TEXT}-transaction-{number}")
}
