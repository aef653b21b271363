//! A history without a fault, and each fault in it.

use super::*;
use afflux_types::Timestamp;

use crate::history::{
    About, Batch, Commit, Deed, EARLIEST, Kind, Look, Lookup, Poll, STEADY, Sweep, Topic, What,
    Word, time_of, tombstone,
};

fn text(values: &[&str]) -> Vec<Value> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn records(records: &[(i64, &str)]) -> Vec<(i64, Value)> {
    records.iter().map(|(offset, value)| (*offset, (*value).to_owned())).collect()
}

fn transaction(number: i64, writes: &[(i32, &str)]) -> Transaction {
    Transaction {
        id: "x".to_owned(),
        order: (1, number as i16, number),
        passing: Vec::new(),
        writes: writes.iter().map(|(at, value)| (*at, (*value).to_owned())).collect(),
        reads: Vec::new(),
        source: None,
        offset: None,
        begun: number as u64 * 10,
        asked: Some(number as u64 * 10 + 5),
        ended: number as u64 * 10 + 9,
        outcome: Outcome::Done(()),
    }
}

fn poll(is_committed: bool, read: &[(i64, &str)], next: i64, ended: u64) -> Poll {
    let (topic, partition, from, start, high, begun) = (STEADY, 0, 0, 0, next, ended - 1);
    let records = records(read);
    Poll { is_committed, topic, partition, from, next, records, start, high, begun, ended }
}

fn commit(offset: i64, at: u64, outcome: Outcome<()>) -> Commit {
    Commit { group: "g".to_owned(), partition: 0, offset, begun: at, ended: at + 1, outcome }
}

fn look(offset: i64, at: u64) -> Look {
    Look { group: "g".to_owned(), partition: 0, offset, begun: at, ended: at + 1 }
}

/// Partition 0 holds a batch, a transaction, an aborted one's record and one of unknown fate;
/// partition 1 the rest of the first transaction, and what a worker made of the batch.
fn sound() -> History {
    let mut worker = transaction(6, &[(1, "w")]);
    worker.id = "worker".to_owned();
    worker.source = Some((0, "a".to_owned()));
    worker.reads = text(&["a"]);
    worker.offset = Some(("workers".to_owned(), 1));
    let mut aborted = transaction(2, &[(0, "e")]);
    (aborted.asked, aborted.outcome) = (None, Outcome::Refused);
    let mut unknown = transaction(3, &[(0, "f")]);
    unknown.outcome = Outcome::Unknown;
    let in_zero = [(0, "a"), (1, "b"), (2, "c"), (4, "e"), (6, "f")];
    let zero = Found {
        start: 0,
        all: records(&in_zero),
        committed: records(&[(0, "a"), (1, "b"), (2, "c"), (6, "f")]),
        high: 8,
        stable: 8,
    };
    let in_one = records(&[(0, "d"), (2, "w")]);
    let one = Found { start: 0, all: in_one.clone(), committed: in_one, high: 4, stable: 4 };
    History {
        batches: vec![Batch {
            producer: 1,
            topic: STEADY,
            partition: 0,
            values: text(&["a", "b"]),
            outcome: Outcome::Done(Some(0)),
        }],
        transactions: vec![transaction(1, &[(0, "c"), (1, "d")]), aborted, unknown, worker],
        polls: vec![poll(true, &in_zero[..3], 4, 20), poll(false, &in_zero[..4], 5, 25)],
        commits: vec![commit(2, 30, Outcome::Done(())), commit(4, 40, Outcome::Unknown)],
        looks: vec![look(-1, 10), look(2, 35), look(4, 45)],
        found: [(0, zero), (1, one)].into(),
        standing: [("workers".to_owned(), 1)].into(),
        ..History::default()
    }
}

/// What the checkers say of a history that is sound but for one change.
fn check(expected: Fault, change: impl FnOnce(&mut History)) {
    let mut history = sound();
    change(&mut history);
    let findings = faults(&history);
    assert!(findings.iter().any(|(fault, _)| *fault == expected), "{expected:?}: {findings:#?}");
}

fn zero(history: &mut History) -> &mut Found {
    history.found.get_mut(&0).unwrap()
}

#[test]
fn a_sound_history_shows_nothing() {
    assert_eq!(faults(&sound()), []);
}

#[test]
fn what_was_acknowledged_must_be_there() {
    check(Fault::Lost, |it| zero(it).committed.retain(|(_, value)| value != "b"));
    check(Fault::Lost, |it| zero(it).all.retain(|(_, value)| value != "b"));
    check(Fault::Lost, |it| it.batches[0].outcome = Outcome::Done(Some(1)));
    // Both records of a transaction.
    check(Fault::Lost, |it| {
        it.found.values_mut().for_each(|found| {
            found.committed.retain(|(_, value)| value != "c" && value != "d");
        });
    });
    // What was read only, by whoever.
    check(Fault::Lost, |it| zero(it).all.retain(|(_, value)| value != "e"));
}

#[test]
fn a_record_must_be_there_once_and_at_one_offset() {
    check(Fault::Twice, |it| zero(it).all.push((7, "a".to_owned())));
    check(Fault::Differs, |it| it.polls[0].records[0].1 = "b".to_owned());
    check(Fault::Differs, |it| it.polls[1].records[3].1 = "of nobody".to_owned());
}

#[test]
fn what_was_not_committed_must_not_be_read() {
    check(Fault::Precommitted, |it| it.polls[0].records.push((3, "e".to_owned())));
    check(Fault::Precommitted, |it| it.transactions[0].asked = Some(21));
    check(Fault::Aborted, |it| it.transactions[0].outcome = Outcome::Refused);
    check(Fault::Aborted, |it| zero(it).committed.push((4, "e".to_owned())));
    check(Fault::Refused, |it| it.transactions[2].outcome = Outcome::Refused);
}

#[test]
fn what_belongs_together_must_be_there_together() {
    check(Fault::Torn, |it| {
        it.found.get_mut(&1).unwrap().committed.remove(0);
    });
    check(Fault::Torn, |it| {
        it.batches[0].outcome = Outcome::Unknown;
        zero(it).committed.remove(0);
    });
}

#[test]
fn records_of_one_producer_must_be_in_order() {
    check(Fault::Reordered, |it| {
        it.batches[0].outcome = Outcome::Unknown;
        it.batches[0].values = text(&["b", "a"]);
    });
    check(Fault::Reordered, |it| it.transactions[2].order.1 = 0);
}

#[test]
fn transactions_must_not_have_read_each_other() {
    check(Fault::Cycle, |it| it.transactions[0].reads = text(&["f"]));
    check(Fault::Cycle, |it| {
        it.transactions[3].reads = text(&["c"]);
        it.transactions[0].reads = text(&["w"]);
    });
    let mut history = sound();
    history.transactions[3].reads = text(&["c", "f"]);
    assert_eq!(faults(&history), [], "one way is in order");
}

#[test]
fn readers_must_be_given_all() {
    for (poll, record) in [(0, 1), (1, 3)] {
        check(Fault::Unseen, |it| {
            it.polls[poll].records.remove(record);
        });
    }
}

#[test]
fn nothing_must_go_back() {
    check(Fault::WentBack, |it| it.polls[1].high = 3);
    check(Fault::WentBack, |it| zero(it).high = 4);
    check(Fault::WentBack, |it| it.looks[2].offset = 1);
    check(Fault::WentBack, |it| {
        it.looks.remove(1);
        it.looks[1].offset = 0;
    });
}

#[test]
fn groups_must_stand_where_they_were_put() {
    check(Fault::Misplaced, |it| it.looks[1].offset = 3);
    check(Fault::Misplaced, |it| it.looks[1].ended = 25);
    check(Fault::Refused, |it| it.commits[1].outcome = Outcome::Refused);
    check(Fault::Misplaced, |it| {
        it.standing.insert("workers".to_owned(), 0);
    });
}

#[test]
fn each_record_must_be_turned_into_one() {
    // It was turned, and the offset says otherwise; or the other way round.
    check(Fault::NotOnce, |it| {
        it.standing.insert("workers".to_owned(), 0);
    });
    check(Fault::NotOnce, |it| {
        it.standing.insert("workers".to_owned(), 2);
    });
    check(Fault::NotOnce, |it| {
        let mut again = it.transactions[3].clone();
        again.writes = vec![(1, "d".to_owned())];
        it.transactions.push(again);
    });
}

#[test]
fn what_is_over_must_hold_nobody_up() {
    check(Fault::Stuck, |it| zero(it).stable = 4);
}

#[test]
fn commits_must_not_be_kept_for_ever() {
    let outlive = |offset| {
        move |it: &mut History| {
            it.outlived.insert("g".to_owned(), offset);
        }
    };
    check(Fault::Risen, outlive(0));
    let mut history = sound();
    outlive(-1)(&mut history);
    assert_eq!(faults(&history), []);
}

/// One of the topics that come and go: its first batch was deleted, and a transaction wrote behind
/// the second. Another was deleted. What was committed for that is gone with it.
fn passing() -> History {
    let mut history = sound();
    let (here, gone) = (Topic::from_u128(1), Topic::from_u128(2));
    history.kinds = [(here, Kind::Passing), (gone, Kind::Passing)].into();
    let batch = |values: &[&str], base| Batch {
        producer: 2,
        topic: here,
        partition: 0,
        values: text(values),
        outcome: Outcome::Done(Some(base)),
    };
    history.batches.extend([batch(&["k.1", "k.2"], 0), batch(&["k.3"], 2)]);
    history.transactions[0].passing = vec![(Kind::Passing, "k.4".to_owned())];
    let deed = |topic, what, begun, outcome| Deed { topic, what, begun, ended: begun + 1, outcome };
    history.deeds = vec![
        deed(here, What::Grow(1), 20, Outcome::Done(())),
        deed(here, What::Trim(0, 2), 30, Outcome::Done(())),
        deed(gone, What::Grow(2), 10, Outcome::Done(())),
        deed(gone, What::Delete, 40, Outcome::Done(())),
    ];
    let of = |topic, start, read: &[(i64, &str)], ended| {
        let records = records(read);
        Poll { topic, records, start, ..poll(false, &[], 4, ended) }
    };
    let mut later = of(here, 2, &[(2, "k.3"), (3, "k.4")], 35);
    later.from = 2;
    history.polls.extend([
        of(here, 0, &[(0, "k.1"), (1, "k.2"), (2, "k.3"), (3, "k.4")], 25),
        later,
        of(gone, 0, &[], 38),
    ]);
    let there = records(&[(2, "k.3"), (3, "k.4")]);
    let found = Found { start: 2, all: there.clone(), committed: there, high: 5, stable: 5 };
    history.left = [(here, [(0, found)].into())].into();
    history.passing_commits =
        vec![commit(7, 20, Outcome::Done(())), commit(8, 50, Outcome::Done(()))];
    history.passing_looks = vec![look(7, 30), look(-1, 45), look(8, 55)];
    history
}

/// What the checkers say of topics that are as they should be but for one change.
fn check_passing(expected: Fault, change: impl FnOnce(&mut History)) {
    let mut history = passing();
    change(&mut history);
    let findings = faults(&history);
    assert!(findings.iter().any(|(fault, _)| *fault == expected), "{expected:?}: {findings:#?}");
}

fn here(history: &mut History) -> &mut Found {
    history.left.get_mut(&Topic::from_u128(1)).unwrap().get_mut(&0).unwrap()
}

#[test]
fn topics_that_come_and_go_can_be_without_a_fault() {
    assert_eq!(faults(&passing()), []);
}

#[test]
fn what_nobody_deleted_must_be_there() {
    check_passing(Fault::Lost, |it| it.deeds[1].what = What::Trim(0, 1));
    check_passing(Fault::Lost, |it| it.deeds[1].outcome = Outcome::Refused);
    check_passing(Fault::Lost, |it| it.deeds[3].outcome = Outcome::Refused);
    check_passing(Fault::Lost, |it| it.deeds[0].what = What::Grow(2));
    check_passing(Fault::Lost, |it| {
        here(it).all.remove(0);
    });
    // A committed transaction's record is there, and is not shown.
    check_passing(Fault::Lost, |it| {
        here(it).committed.remove(1);
    });
    check_passing(Fault::Unseen, |it| {
        it.polls[3].records.remove(1);
    });
    check_passing(Fault::Aborted, |it| it.transactions[0].outcome = Outcome::Refused);
    check_passing(Fault::Twice, |it| here(it).all.push((4, "k.3".to_owned())));
    check_passing(Fault::Differs, |it| it.polls[2].records[2].1 = "k.2".to_owned());
    check_passing(Fault::Stuck, |it| here(it).stable = 4);
    check_passing(Fault::WentBack, |it| it.polls[2].start = 3);
}

#[test]
fn what_was_deleted_must_not_be_there() {
    check_passing(Fault::Risen, |it| here(it).start = 1);
    check_passing(Fault::Risen, |it| it.polls[3].start = 1);
    check_passing(Fault::Risen, |it| (it.deeds[3].begun, it.deeds[3].ended) = (30, 31));
    check_passing(Fault::Risen, |it| {
        let found = it.left.values().next().unwrap().clone();
        it.left.insert(Topic::from_u128(2), found);
    });
    check_passing(Fault::Risen, |it| it.passing_looks[1].offset = 7);
}

#[test]
fn what_was_committed_for_a_topic_must_stay_as_long_as_it() {
    check_passing(Fault::WentBack, |it| it.passing_looks[0].offset = -1);
    check_passing(Fault::WentBack, |it| it.passing_looks[2].offset = -1);
    check_passing(Fault::Misplaced, |it| it.passing_looks[0].offset = 6);
    check_passing(Fault::Refused, |it| it.passing_commits[1].outcome = Outcome::Refused);
}

#[test]
fn compaction_must_leave_the_last_record_of_each_key() {
    let compacted = |last: &str| {
        let mut history = passing();
        history.kinds.insert(Topic::from_u128(1), Kind::Compacted);
        history.transactions[0].passing[0].0 = Kind::Compacted;
        history.deeds[1].outcome = Outcome::Refused;
        let found = here(&mut history);
        (found.start, found.all) = (0, records(&[(3, last)]));
        found.committed.clone_from(&found.all);
        history
    };
    assert_eq!(faults(&compacted("k.4")), []);
    let mut aborted = compacted("k.4");
    aborted.transactions[1].passing = vec![(Kind::Compacted, "other.5".to_owned())];
    let last = aborted.polls[3].clone();
    let read = Poll { from: 4, next: 5, high: 5, begun: 49, ended: 50, ..last };
    aborted.polls.push(Poll { records: records(&[(4, "other.5")]), ..read });
    assert_eq!(faults(&aborted), [], "compaction takes what was aborted");
    aborted.transactions[1].outcome = Outcome::Done(());
    assert!(faults(&aborted).iter().any(|(_, what)| what.ends_with("all of its key")));
    let mut taken = compacted("k.4");
    taken.batches[1].values[1] = "other.2".to_owned();
    taken.polls[2].records[1].1 = "other.2".to_owned();
    assert!(faults(&taken).iter().any(|(fault, _)| *fault == Fault::Lost));
}

/// A look for a time in partition 0 after all else.
fn lookup(asked: Option<Timestamp>, found: Option<(i64, Timestamp)>) -> Lookup {
    let (is_committed, topic, partition, begun, ended) = (false, STEADY, 0, 90, 91);
    Lookup { is_committed, topic, partition, asked, found, begun, ended }
}

#[test]
fn who_looks_for_a_time_must_be_given_the_first_record_of_it() {
    let all = sound().found[&0].all.clone();
    let place = |(offset, value): &(i64, Value)| (*offset, time_of(value));
    let from = |time| all.iter().map(place).find(|(_, at)| *at >= time);
    let latest = all.iter().map(|it| place(it).1).max().unwrap();
    let mut history = sound();
    history.lookups = all.iter().map(|it| lookup(Some(place(it).1), from(place(it).1))).collect();
    history.lookups.push(lookup(None, from(latest)));
    history.lookups.push(lookup(Some(Timestamp(latest.0 + 1)), None));
    assert_eq!(faults(&history), []);

    let one = |asked: Option<Timestamp>, found: Option<(i64, Timestamp)>| {
        move |it: &mut History| it.lookups = vec![lookup(asked, found)]
    };
    let (earliest, first) = (Some(Timestamp(EARLIEST)), place(&all[0]));
    check(Fault::Unseen, one(earliest, Some(place(&all[1]))));
    check(Fault::Unseen, one(earliest, None));
    check(Fault::Unseen, one(None, None));
    let not_latest = all.iter().map(place).find(|(_, at)| *at < latest).unwrap();
    check(Fault::Unseen, one(None, Some(not_latest)));
    check(Fault::Misplaced, one(Some(Timestamp(first.1.0 + 1)), Some(first)));
    check(Fault::Misplaced, one(earliest, Some((3, latest))));
    check(Fault::Differs, one(earliest, Some((0, Timestamp(first.1.0 + 1)))));
    check(Fault::Precommitted, |it| {
        it.polls.clear();
        it.transactions[0].asked = Some(95);
        let found = Some(place(&all[2]));
        it.lookups = vec![Lookup { is_committed: true, ..lookup(earliest, found) }];
    });
}

#[test]
fn who_reads_to_the_end_must_know_what_was_deleted() {
    let deleted = || {
        let mut history = passing();
        history.kinds.insert(Topic::from_u128(1), Kind::Compacted);
        history.deeds[1].outcome = Outcome::Refused;
        history.transactions[0].passing.clear();
        history.polls.truncate(2);
        history.batches[2].values = vec![tombstone("k", 7)];
        *here(&mut history) = Found { high: 5, stable: 5, ..Found::default() };
        history
    };
    let swept = |read: &[(i64, &str)], next| {
        let mut history = deleted();
        let (topic, records) = (Topic::from_u128(1), records(read));
        history.sweeps = vec![Sweep { topic, partition: 0, records, next }];
        faults(&history).iter().map(|(fault, _)| *fault).collect::<Vec<_>>()
    };
    assert_eq!(swept(&[], 5), [], "all of it may be gone");
    assert_eq!(swept(&[(1, "k.2"), (2, &tombstone("k", 7))], 5), []);
    assert_eq!(swept(&[(1, "k.2")], 2), [], "it is not there yet");
    assert_eq!(swept(&[(1, "k.2")], 5), [Fault::Unseen]);
    let mut kept = deleted();
    kept.batches[2].values = text(&["k.3"]);
    assert!(faults(&kept).iter().any(|(fault, _)| *fault == Fault::Lost));
}

fn word(instance: &str, member: &str, generation: i32, about: About, begun: u64) -> Word {
    let (instance, member) = (instance.to_owned(), member.to_owned());
    Word { instance, member, generation, about, begun, ended: begun + 1 }
}

#[test]
fn static_members_must_have_one_place_each_and_keep_it() {
    use About::{Join, Rest, Sync, Unknown};
    let mut history = sound();
    history.words = vec![
        word("i", "i1", 1, Join, 10),
        word("j", "j1", 1, Join, 11),
        word("i", "i1", 1, Sync, 20),
        word("j", "j1", 1, Sync, 21),
        word("i", "i1", 1, Rest, 30),
        word("i", "i2", 1, Join, 40),
        word("i", "i1", 1, Rest, 41),
        word("i", "i2", 1, Sync, 50),
        word("j", "j1", 1, Rest, 60),
    ];
    assert_eq!(faults(&history), []);
    let found = |words: &[Word], aged| {
        let mut history = history.clone();
        history.words.extend_from_slice(words);
        history.aged = aged;
        faults(&history).iter().map(|(fault, _)| *fault).collect::<Vec<_>>()
    };
    assert_eq!(found(&[word("i", "i1", 1, Rest, 61)], None), [Fault::Twofold]);
    assert_eq!(found(&[word("i", "i3", 2, Join, 61)], None), [Fault::Unsettled]);
    assert_eq!(found(&[word("i", "i1", 1, Unknown, 61)], None), [Fault::Unsettled]);
    assert_eq!(found(&[word("i", "i3", 2, Join, 61)], Some(61)), []);
    assert_eq!(found(&[word("i", "i3", 2, Join, 61)], Some(5)), [Fault::Unsettled]);
}
