//! Topics, appends, reads, restarts.

use afflux_env::sim::Sim;
use afflux_log::{
    AttributeError, EmbeddedLog, Isolation, Log, TopicSpec,
    error::{AppendError, OpenError, ReadError, TopicError},
};
use afflux_record::frame::crc32c;
use afflux_types::{Offset, Timestamp};
use bytes::BytesMut;

use crate::support::*;

#[test]
fn what_is_appended_is_read_once_durable() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 2);
    let at = partition("t", 1);
    let mut ticket = log.append(&group(&[(at.clone(), batch(5, &["a", "b"]))]));
    assert!(ticket.poll_now().is_none());
    assert_eq!(records(&log, &at, Isolation::Uncommitted), []);
    let appended = records(&log, &at, Isolation::Appended);
    assert_eq!(appended, [(0, "a".to_owned()), (1, "b".to_owned())]);
    assert_eq!(settle(&log, ticket).unwrap().base_offsets, [Offset(0)]);
    assert_eq!(records(&log, &at, Isolation::Uncommitted), appended);
    assert_eq!(records(&log, &partition("t", 0), Isolation::Uncommitted), []);
    let second = append(&log, &[(at.clone(), batch(7, &["c"]))]).unwrap();
    assert_eq!(second.base_offsets, [Offset(2)]);
    assert_eq!(log.offset_at(&at, Timestamp(6)).unwrap(), Some((Offset(1), Timestamp(6))));
    assert_eq!(log.offset_at(&at, Timestamp(7)).unwrap(), Some((Offset(2), Timestamp(7))));
    assert_eq!(log.offset_at(&at, Timestamp(8)).unwrap(), None);
}

#[test]
fn what_does_not_exist_is_refused() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    let refused = append(&log, &[(partition("t", 1), batch(1, &["a"]))]);
    assert!(matches!(refused, Err(AppendError::UnknownPartition(_))), "{refused:?}");
    let refused = append(&log, &[(partition("u", 0), batch(1, &["a"]))]);
    assert!(matches!(refused, Err(AppendError::UnknownPartition(_))), "{refused:?}");
    let cut = batch(1, &["a"]).slice(..68);
    let refused = append(&log, &[(partition("t", 0), cut)]);
    assert!(matches!(refused, Err(AppendError::Malformed { .. })), "{refused:?}");
    let spec = |topic: &str, partitions| TopicSpec { name: name(topic), partitions };
    assert!(matches!(log.create_topic(&spec("t", 1)), Err(TopicError::Exists(_))));
    assert!(matches!(log.create_topic(&spec("u", 0)), Err(TopicError::Partitions { .. })));
    assert!(matches!(log.delete_topic(&name("u")), Err(TopicError::Unknown(_))));
    let outside = log.fetch(&partition("t", 0), Offset(1), 1, Isolation::Uncommitted);
    assert!(matches!(outside, Err(ReadError::OffsetOutOfRange { .. })), "{outside:?}");
    assert!(
        log.fetch(&partition("t", 0), Offset(0), 1, Isolation::Uncommitted)
            .unwrap()
            .batches
            .is_empty()
    );
}

#[test]
fn a_restart_finds_everything() {
    let sim = Sim::new(1);
    let value = "x".repeat(700);
    let large = "y".repeat(9000);
    let mut expected = [Vec::new(), Vec::new(), Vec::new()];
    let mut id = 0;
    for life in 0..4 {
        let log = open(&sim).unwrap();
        assert_eq!(log.leader_epoch().0, life + 1);
        if life == 0 {
            topic(&log, "t", 3);
        }
        let next = log.next_producer_id().unwrap().0;
        assert!(next > id || life == 0);
        id = next;
        for p in 0..3 {
            assert_eq!(
                records(&log, &partition("t", p), Isolation::Uncommitted),
                expected[p as usize]
            );
        }
        // Several files, among them staged groups.
        for i in 0..120 {
            let value = format!("{life} {i} {}", if i % 10 == 0 { &large } else { &value });
            let p = i % 3;
            let appended =
                append(&log, &[(partition("t", p), batch(i64::from(i), &[&value]))]).unwrap();
            expected[p as usize].push((appended.base_offsets[0].0, value));
        }
        for p in 0..3 {
            assert_eq!(
                records(&log, &partition("t", p), Isolation::Uncommitted),
                expected[p as usize]
            );
        }
        if life % 2 == 0 {
            log.shutdown();
        } else {
            sim.disk.crash();
        }
    }
    let offsets: Vec<i64> = expected[0].iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, (0..160).collect::<Vec<_>>());
}

#[test]
fn one_log_a_directory() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    assert!(matches!(open(&sim), Err(OpenError::InUse(_))));
    log.shutdown();
    open(&sim).unwrap();
}

#[test]
fn a_batch_may_take_as_many_offsets_as_there_are_deltas() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    let mut wide = BytesMut::from(&batch(1, &["a"])[..]);
    wide[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
    let crc = crc32c(&wide[21..]);
    wide[17..21].copy_from_slice(&crc.to_be_bytes());
    let at = partition("t", 0);
    append(&log, &[(at.clone(), wide.freeze())]).unwrap();
    let appended = append(&log, &[(at.clone(), batch(1, &["b"]))]).unwrap();
    assert_eq!(appended.base_offsets, [Offset(1 << 31)]);
    assert_eq!(records(&log, &at, Isolation::Uncommitted)[1], (1 << 31, "b".to_owned()));
}

#[test]
fn what_is_kept_for_others_is_kept_until_it_is_empty() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    let alter = |log: &EmbeddedLog, owner: &str, set: &[(&str, &str)]| {
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        log.alter_attributes(owner, |known| {
            if known.contains_key("fixed") { Err("fixed") } else { Ok(set.collect()) }
        })
    };
    alter(&log, "a", &[("x", "1"), ("y", "2")]).unwrap();
    alter(&log, "b", &[("x", "3")]).unwrap();
    alter(&log, "c", &[("fixed", "4")]).unwrap();
    alter(&log, "b", &[]).unwrap();
    let refused = alter(&log, "c", &[]);
    assert!(matches!(refused, Err(AttributeError::Refused("fixed"))), "{refused:?}");
    let most = "v".repeat((1 << 20) - "axy12cfixed4dz".len());
    let refused = alter(&log, "d", &[("z", &format!("{most}."))]);
    assert!(matches!(refused, Err(AttributeError::Full { .. })), "{refused:?}");
    alter(&log, "d", &[("z", &most)]).unwrap();
    log.shutdown();
    drop(log);
    let log = open(&sim).unwrap();
    assert_eq!(log.attribute_owners(), ["a", "c", "d"]);
    let kept = log.attributes("a");
    assert_eq!((kept["x"].as_str(), kept["y"].as_str(), kept.len()), ("1", "2", 2));
    assert_eq!((log.attributes("d")["z"].len(), log.attributes("b").len()), (most.len(), 0));
}
