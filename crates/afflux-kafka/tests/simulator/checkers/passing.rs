//! What must not be seen of topics that lose records, or go.
//!
//! Each topic, which is one id, is held to what the steady one is held to, after all is taken out
//! of its history that may be gone: records below where its partitions begin, and what compaction
//! may take. Then it must have begun, and ended, where it was told to.

use std::collections::{BTreeSet, HashMap};

use super::{
    Fault, Findings, aborted, differs, lost, of_topic, reordered, stuck,
    times::{misdated, stale},
    torn, twice, unseen, went_back,
};
use crate::history::{
    Batch, Commit, Deed, Found, History, Kind, Look, Outcome, Poll, Topic, Value, What,
    is_tombstone, key_of,
};

/// All faults of all such topics, and of what was committed for them.
pub(super) fn passing(history: &History) -> Findings {
    let of_topics = history.kinds.iter().flat_map(|(topic, kind)| {
        let mut findings = kept(history, *topic, *kind);
        findings.extend(told(history, *topic, *kind));
        findings
    });
    of_topics.chain(committed_for(history)).collect()
}

/// What a topic was given is there as it was given.
fn kept(history: &History, topic: Topic, kind: Kind) -> Findings {
    let mut whole = of_topic(history, topic);
    let left = history.left.get(&topic);
    whole.found = left.cloned().unwrap_or_default();
    (whole.commits, whole.looks) = (Vec::new(), Vec::new());
    for transaction in &mut whole.transactions {
        let values = std::mem::take(&mut transaction.passing);
        let its = values.into_iter().filter(|(of, _)| *of == kind);
        transaction.writes = its.map(|(_, value)| (0, value)).collect();
    }
    let checks = [differs, aborted, twice, reordered, went_back, stuck, misdated, stale];
    let mut findings: Findings = checks.iter().flat_map(|check| check(&whole)).collect();
    if left.is_some() {
        findings.extend(keyless(&whole, kind));
        let mut rest = without_gone(&whole, kind);
        // Whichever topic had the name took it.
        let found = whole.found.get(&0).map_or(&[][..], |found| last_read(found, kind));
        for transaction in &mut rest.transactions {
            transaction.writes.retain(|(_, value)| found.iter().any(|(_, there)| there == value));
        }
        let checks = [lost, unseen, torn];
        findings.extend(checks.iter().flat_map(|check| check(&rest)));
    }
    findings.into_iter().map(|(fault, what)| (fault, format!("{kind:?} {topic}: {what}"))).collect()
}

/// What was there when its last reader came. Compaction may have taken some since the first.
fn last_read(found: &Found, kind: Kind) -> &[(i64, Value)] {
    if kind.has_keys() { &found.committed } else { &found.all }
}

/// Of each key that was committed there is a record, if it was never deleted.
fn keyless(whole: &History, kind: Kind) -> Findings {
    let nothing = Found::default();
    let found = whole.found.get(&0).unwrap_or(&nothing);
    let tombstones = tombstones(whole);
    let has_key = |value: &Value| {
        found.committed.iter().any(|(_, it)| key_of(it) == key_of(value))
            || tombstones.iter().any(|(_, _, it)| key_of(it) == key_of(value))
    };
    let done = whole.transactions.iter().filter(|it| it.outcome == Outcome::Done(()));
    let values = done.flat_map(|it| &it.writes).map(|(_, value)| value);
    values
        .filter(|value| kind.has_keys() && !has_key(value))
        .map(|value| (Fault::Lost, format!("{value}, and all of its key")))
        .collect()
}

/// Tombstones that may have counted, each with its partition and, if somebody knows it, its offset.
fn tombstones(whole: &History) -> Vec<(i32, Option<i64>, &Value)> {
    let batches = whole.batches.iter().flat_map(|batch| {
        let base = if let Outcome::Done(base) = batch.outcome { base } else { None };
        let offset = move |number| base.map(|base| base + number);
        (0..)
            .zip(&batch.values)
            .map(move |(number, value)| (batch.partition, offset(number), value))
    });
    let polls: HashMap<&Value, i64> = whole
        .polls
        .iter()
        .flat_map(|poll| poll.records.iter().map(|(offset, value)| (value, *offset)))
        .collect();
    let transactions = whole.transactions.iter().filter(|it| it.outcome != Outcome::Refused);
    let writes = transactions.flat_map(|it| &it.writes);
    let writes = writes.map(|(partition, value)| (*partition, polls.get(value).copied(), value));
    batches.chain(writes).filter(|(_, _, value)| is_tombstone(value)).collect()
}

/// A topic's history without what may be gone of it.
fn without_gone(whole: &History, kind: Kind) -> History {
    let nothing = Found::default();
    let of = |partition: i32| whole.found.get(&partition).unwrap_or(&nothing);
    // Compaction takes what was aborted.
    let undone = whole.transactions.iter().filter(|it| it.outcome != Outcome::Done(()));
    let undone: BTreeSet<&Value> =
        undone.flat_map(|it| it.writes.iter().map(|(_, value)| value)).collect();
    let tombstones = tombstones(whole);
    let may_be_gone = |partition: i32, offset: i64, value: &Value| {
        let found = of(partition);
        let mut later = found.committed.iter().filter(|(at, _)| *at > offset);
        // It and what it deletes are gone one day.
        let mut deleted = tombstones
            .iter()
            .filter(|(at, by, _)| *at == partition && by.is_none_or(|by| by >= offset));
        let mut is_old = || {
            later.any(|(_, it)| key_of(it) == key_of(value))
                || deleted.any(|(_, _, it)| key_of(it) == key_of(value))
        };
        offset < found.start || kind.has_keys() && (undone.contains(value) || is_old())
    };
    let mut rest = whole.clone();
    let records = whole.batches.iter().flat_map(|batch| {
        (0..).zip(&batch.values).map(move |(number, value)| {
            let outcome = match batch.outcome {
                Outcome::Done(base) => Outcome::Done(base.map(|base| base + number)),
                other => other,
            };
            Batch { values: vec![value.clone()], outcome, ..batch.clone() }
        })
    });
    rest.batches = records
        .filter(|record| {
            let (at, value) = (record.partition, &record.values[0]);
            let is_there = || last_read(of(at), kind).iter().any(|(_, there)| there == value);
            match record.outcome {
                Outcome::Done(Some(offset)) => !may_be_gone(at, offset, value) || is_there(),
                // Nobody knows where it was.
                _ if of(at).start > 0 || kind.has_keys() => is_there(),
                _ => true,
            }
        })
        .collect();
    let is_steady = |batch: &&Batch| !kind.has_keys() && of(batch.partition).start == 0;
    rest.batches.extend(whole.batches.iter().filter(is_steady).cloned());
    for poll in &mut rest.polls {
        let (at, found) = (poll.partition, of(poll.partition));
        poll.from = poll.from.max(found.start);
        let there = if poll.is_committed { &found.committed } else { &found.all };
        poll.records.retain(|(offset, value)| {
            there.contains(&(*offset, value.clone())) || !may_be_gone(at, *offset, value)
        });
    }
    rest
}

/// A topic and its partitions begin and end where somebody said.
fn told(history: &History, topic: Topic, kind: Kind) -> Findings {
    let mut findings = Findings::new();
    let mut find = |fault: Fault, what: String| findings.push((fault, format!("{topic}: {what}")));
    let left = history.left.get(&topic);
    let tried: Vec<&Deed> = history
        .deeds
        .iter()
        .filter(|deed| deed.topic == topic && deed.outcome != Outcome::Refused)
        .collect();
    let is_done = |deed: &&&Deed| deed.outcome == Outcome::Done(());
    let deletes = || tried.iter().filter(|deed| deed.what == What::Delete);
    if deletes().next().is_none() && left.is_none() {
        find(Fault::Lost, "nobody deleted it".to_owned());
    }
    let polls: Vec<&Poll> = history.polls.iter().filter(|poll| poll.topic == topic).collect();
    for delete in deletes().filter(is_done) {
        if left.is_some() {
            find(Fault::Risen, format!("it is there, after {delete:?}"));
        }
        for poll in polls.iter().filter(|poll| poll.begun > delete.ended) {
            find(Fault::Risen, format!("{poll:?} after {delete:?}"));
        }
    }
    for deed in tried.iter().filter(is_done) {
        let partitions = left.map(|left| left.len() as i32);
        match deed.what {
            What::Grow(count) if partitions.is_some_and(|partitions| partitions < count) => {
                find(Fault::Lost, format!("it has {partitions:?} partitions after {deed:?}"));
            }
            What::Trim(partition, before) => {
                let later = |poll: &&&Poll| poll.partition == partition && poll.begun > deed.ended;
                let is_shown = |poll: &&&Poll| {
                    poll.start < before || poll.records.iter().any(|(offset, _)| *offset < before)
                };
                for poll in polls.iter().filter(later).filter(is_shown) {
                    find(Fault::Risen, format!("{poll:?} after {deed:?}"));
                }
                let found = left.and_then(|left| left.get(&partition));
                if found.is_some_and(|found| found.start < before) {
                    find(Fault::Risen, format!("{partition} begins before {before}"));
                }
            }
            _ => {}
        }
    }
    for (partition, found) in left.into_iter().flatten().filter(|_| kind == Kind::Passing) {
        let trims = tried.iter().filter_map(|deed| match deed.what {
            What::Trim(at, before) if at == *partition => Some(before),
            _ => None,
        });
        let most = trims.max().unwrap_or(0);
        if found.start > most {
            find(Fault::Lost, format!("{partition} begins at {}, not {most}", found.start));
        }
    }
    for poll in &polls {
        let later = |it: &&&Poll| it.partition == poll.partition && it.begun > poll.ended;
        for back in polls.iter().filter(later).filter(|it| it.start < poll.start) {
            find(Fault::WentBack, format!("from {poll:?} to {back:?}"));
        }
    }
    findings
}

/// What was committed for a topic goes with it, and only then.
fn committed_for(history: &History) -> Findings {
    let deletes = || {
        let deeds = history.deeds.iter();
        deeds.filter(|it| it.what == What::Delete && it.outcome != Outcome::Refused)
    };
    let goes_between = |from: &Commit, look: &Look| {
        deletes().any(|it| it.ended > from.begun && it.begun < look.ended)
    };
    let has_gone_between = |from: &Commit, look: &Look| {
        let mut done = deletes().filter(|it| it.outcome == Outcome::Done(()));
        done.any(|it| it.begun > from.ended && it.ended < look.begun)
    };
    let mut findings = Findings::new();
    for look in &history.passing_looks {
        let before = history.passing_commits.iter().filter(|it| it.begun < look.ended);
        let done =
            before.clone().filter(|it| it.outcome == Outcome::Done(()) && it.ended < look.begun);
        let last = done.max_by_key(|it| it.ended);
        if let Some(last) = last.filter(|it| it.offset > look.offset && !goes_between(it, look)) {
            findings.push((Fault::WentBack, format!("{last:?} is not seen by {look:?}")));
        }
        let mut before = before;
        match before.find(|it| it.offset == look.offset) {
            _ if look.offset < 0 => {}
            None => findings.push((Fault::Misplaced, format!("{look:?}"))),
            Some(it) if it.outcome == Outcome::Refused => {
                findings.push((Fault::Refused, format!("{it:?}, seen by {look:?}")));
            }
            Some(it) if has_gone_between(it, look) => {
                findings.push((Fault::Risen, format!("{it:?}, seen by {look:?}")));
            }
            Some(_) => {}
        }
    }
    findings
}
