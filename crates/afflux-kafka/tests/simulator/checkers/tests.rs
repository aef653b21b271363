//! A history without a fault, and each fault in it.

use super::*;
use crate::history::{Batch, Commit, Look, Poll};

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
    let (partition, from, high, begun) = (0, 0, next, ended - 1);
    Poll { is_committed, partition, from, next, records: records(read), high, begun, ended }
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
        all: records(&in_zero),
        committed: records(&[(0, "a"), (1, "b"), (2, "c"), (6, "f")]),
        high: 8,
        stable: 8,
    };
    let in_one = records(&[(0, "d"), (2, "w")]);
    let one = Found { all: in_one.clone(), committed: in_one, high: 4, stable: 4 };
    History {
        batches: vec![Batch {
            producer: 1,
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
