//! What a history must not show: the faults that Jepsen found in brokers that speak Kafka's
//! protocol, and their kin. Pure functions; each names what it found.
//!
//! Write cycles between transactions of different ids (G0) are none of them: records of open
//! transactions lie between each other in every partition, as in Kafka, and Jepsen allows that
//! (`docs/durability.md` says where). Those of one id are in order, and nobody sees a transaction
//! that, through others, saw it (G1c).
//!
//! Here is what the steady topic is held to; topics that come and go, or lose records, are in
//! `passing`, what times and keys say of both in `times`, and static members in `places`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{Found, History, Outcome, STEADY, Topic, Transaction, Value};

mod passing;
mod places;
mod times;

/// A fault of the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// What was acknowledged is not there, or not where it was said to be.
    Lost,
    /// A value is there more than once.
    Twice,
    /// Two readers saw different records at an offset, or one that nobody wrote.
    Differs,
    /// A transaction that was not committed was read by who reads committed records.
    Aborted,
    /// One was, before anybody asked to commit it.
    Precommitted,
    /// Some of a batch or a committed transaction is there, and some is not.
    Torn,
    /// It was refused, and happened all the same.
    Refused,
    /// Records of one producer, or of one id's transactions, are out of order.
    Reordered,
    /// Transactions have read each other.
    Cycle,
    /// A reader went past a record that it should have been given.
    Unseen,
    /// A high watermark or a committed offset went back.
    WentBack,
    /// A group stands where nobody put it.
    Misplaced,
    /// A record was not turned into exactly one, or not together with the offset behind it.
    NotOnce,
    /// A transaction that is over holds readers up.
    Stuck,
    /// What was deleted, or should be, is there.
    Risen,
    /// A group has taken two for one static member at a time.
    Twofold,
    /// A group began anew when a static member came back to its place.
    Unsettled,
}

/// What a checker says.
pub(crate) type Findings = Vec<(Fault, String)>;

/// All faults.
pub(crate) fn faults(history: &History) -> Findings {
    let checkers = [
        lost,
        twice,
        differs,
        aborted,
        torn,
        reordered,
        cycles,
        unseen,
        went_back,
        misplaced,
        not_once,
        stuck,
        outlived,
        times::misdated,
        places::twofold,
        places::unsettled,
    ];
    let steady = of_topic(history, STEADY);
    let mut findings: Findings = checkers.iter().flat_map(|check| check(&steady)).collect();
    findings.extend(passing::passing(history));
    findings
}

/// What was written to a topic and read of it by its id, and nothing else of that.
fn of_topic(history: &History, topic: Topic) -> History {
    let mut its = history.clone();
    its.batches.retain(|batch| batch.topic == topic);
    its.polls.retain(|poll| poll.topic == topic);
    its.lookups.retain(|lookup| lookup.topic == topic);
    its.sweeps.retain(|sweep| sweep.topic == topic);
    its
}

impl Transaction {
    /// Whether all readers of committed records find it when all is over.
    fn is_there(&self, committed: &BTreeSet<(i32, &Value)>) -> bool {
        self.writes.iter().any(|(partition, value)| committed.contains(&(*partition, value)))
    }
}

fn committed(history: &History) -> BTreeSet<(i32, &Value)> {
    let found = history.found.iter();
    found.flat_map(|(at, found)| found.committed.iter().map(|(_, value)| (*at, value))).collect()
}

fn lost(history: &History) -> Findings {
    let mut findings = Findings::new();
    for batch in &history.batches {
        let Outcome::Done(base) = batch.outcome else { continue };
        let nothing = Found::default();
        let found = history.found.get(&batch.partition).unwrap_or(&nothing);
        for (number, value) in (0..).zip(&batch.values) {
            let is_it = |(offset, there): &(i64, Value)| {
                there == value && base.is_none_or(|base| *offset == base + number)
            };
            for (whose, records) in [("all", &found.all), ("committed", &found.committed)] {
                if !records.iter().any(is_it) {
                    findings.push((Fault::Lost, format!("{value} is not of {whose}: {batch:?}")));
                }
            }
        }
    }
    let there = committed(history);
    for transaction in &history.transactions {
        let is_done = transaction.outcome == Outcome::Done(());
        if is_done && !transaction.writes.is_empty() && !transaction.is_there(&there) {
            findings.push((Fault::Lost, format!("{transaction:?}")));
        }
    }
    findings
}

fn twice(history: &History) -> Findings {
    let mut findings = Findings::new();
    for (partition, found) in &history.found {
        for records in [&found.all, &found.committed] {
            let mut seen = BTreeSet::new();
            let again = records.iter().filter(|(_, value)| !seen.insert(value));
            findings.extend(again.map(|(offset, value)| {
                (Fault::Twice, format!("{value} again at {offset} of {partition}"))
            }));
        }
    }
    findings
}

fn differs(history: &History) -> Findings {
    let of_batches = history.batches.iter().flat_map(|batch| &batch.values);
    let of_transactions =
        history.transactions.iter().flat_map(|it| it.writes.iter().map(|(_, v)| v));
    let written: BTreeSet<&Value> = of_batches.chain(of_transactions).collect();
    let polled = history.polls.iter().flat_map(|poll| {
        poll.records.iter().map(|(offset, value)| ((poll.partition, *offset), value))
    });
    let found = history.found.iter().flat_map(|(at, found)| {
        let records = found.all.iter().chain(&found.committed);
        records.map(|(offset, value)| ((*at, *offset), value))
    });
    let mut findings = Findings::new();
    let mut known: HashMap<(i32, i64), &Value> = HashMap::new();
    for (at, value) in polled.chain(found) {
        let first = *known.entry(at).or_insert(value);
        if first != value {
            findings.push((Fault::Differs, format!("{first} and {value} at {at:?}")));
        }
        if !written.contains(value) {
            findings.push((Fault::Differs, format!("{value} at {at:?} is of nobody")));
        }
    }
    findings
}

fn aborted(history: &History) -> Findings {
    let writers = writers(history);
    let mut findings = Findings::new();
    for poll in history.polls.iter().filter(|poll| poll.is_committed) {
        for (offset, value) in &poll.records {
            let Some(writer) = writers.get(value) else { continue };
            if writer.asked.is_none_or(|asked| asked > poll.ended) {
                let what = format!("{value} at {offset}, read by {poll:?}: {writer:?}");
                findings.push((Fault::Precommitted, what));
            } else if writer.outcome == Outcome::Refused {
                findings.push((Fault::Aborted, format!("{value}, read by {poll:?}: {writer:?}")));
            }
        }
    }
    let there = committed(history);
    for transaction in &history.transactions {
        if transaction.outcome == Outcome::Refused && transaction.is_there(&there) {
            let fault = if transaction.asked.is_some() { Fault::Refused } else { Fault::Aborted };
            findings.push((fault, format!("{transaction:?}")));
        }
    }
    findings
}

fn torn(history: &History) -> Findings {
    let there = committed(history);
    let is_part = |writes: &[(i32, &Value)]| {
        let count = writes.iter().filter(|write| there.contains(*write)).count();
        count != 0 && count != writes.len()
    };
    let batches = history.batches.iter().filter(|batch| {
        let writes: Vec<_> = batch.values.iter().map(|value| (batch.partition, value)).collect();
        is_part(&writes)
    });
    let transactions = history.transactions.iter().filter(|transaction| {
        let writes: Vec<_> = transaction.writes.iter().map(|(at, value)| (*at, value)).collect();
        is_part(&writes)
    });
    batches
        .map(|batch| format!("{batch:?}"))
        .chain(transactions.map(|transaction| format!("{transaction:?}")))
        .map(|what| (Fault::Torn, what))
        .collect()
}

fn reordered(history: &History) -> Findings {
    let mut transactions: Vec<&Transaction> = history.transactions.iter().collect();
    transactions.sort_by(|a, b| (&a.id, a.order).cmp(&(&b.id, b.order)));
    let of_batches = history.batches.iter().flat_map(|batch| {
        let whose = format!("producer {}", batch.producer);
        batch.values.iter().map(move |value| (whose.clone(), batch.partition, value))
    });
    let of_transactions = transactions.into_iter().flat_map(|transaction| {
        let whose = transaction.id.clone();
        transaction.writes.iter().map(move |(at, value)| (whose.clone(), *at, value))
    });
    let places: HashMap<(i32, &Value), i64> = history
        .found
        .iter()
        .flat_map(|(at, found)| found.committed.iter().map(|(offset, v)| ((*at, v), *offset)))
        .collect();
    let mut last: HashMap<(String, i32), i64> = HashMap::new();
    let mut findings = Findings::new();
    for (whose, partition, value) in of_batches.chain(of_transactions) {
        let Some(place) = places.get(&(partition, value)) else { continue };
        let before = last.insert((whose.clone(), partition), *place);
        if before.is_some_and(|before| before > *place) {
            let what = format!("{value} of {whose} is before its last one in {partition}");
            findings.push((Fault::Reordered, what));
        }
    }
    findings
}

/// Who wrote what, if it was a transaction.
fn writers(history: &History) -> HashMap<&Value, &Transaction> {
    let all = history.transactions.iter();
    all.flat_map(|it| it.writes.iter().map(move |(_, value)| (value, it))).collect()
}

fn cycles(history: &History) -> Findings {
    let there = committed(history);
    let all: Vec<&Transaction> =
        history.transactions.iter().filter(|it| it.is_there(&there)).collect();
    let numbers: HashMap<&Value, usize> = all
        .iter()
        .enumerate()
        .flat_map(|(number, it)| it.writes.iter().map(move |(_, value)| (value, number)))
        .collect();
    // What each was behind: whom it read, and what its own id had committed before.
    let before: Vec<BTreeSet<usize>> = all
        .iter()
        .enumerate()
        .map(|(number, it)| {
            let read = it.reads.iter().filter_map(|value| numbers.get(value).copied());
            let same = all
                .iter()
                .enumerate()
                .filter(|(_, other)| other.id == it.id && other.ended < it.begun);
            read.chain(same.map(|(other, _)| other)).filter(|other| *other != number).collect()
        })
        .collect();
    // Taking away who is behind nobody leaves cycles, and what is behind them.
    let mut left: BTreeSet<usize> = (0..all.len()).collect();
    loop {
        let free: Vec<usize> =
            left.iter().copied().filter(|it| before[*it].is_disjoint(&left)).collect();
        if free.is_empty() {
            break;
        }
        left.retain(|it| !free.contains(it));
    }
    left.into_iter().map(|it| (Fault::Cycle, format!("{:?}", all[it]))).collect()
}

fn unseen(history: &History) -> Findings {
    let mut findings = Findings::new();
    for poll in &history.polls {
        let Some(found) = history.found.get(&poll.partition) else { continue };
        let records = if poll.is_committed { &found.committed } else { &found.all };
        let range = poll.from..poll.next;
        for (offset, value) in records.iter().filter(|(offset, _)| range.contains(offset)) {
            if !poll.records.contains(&(*offset, value.clone())) {
                findings.push((Fault::Unseen, format!("{value} at {offset} by {poll:?}")));
            }
        }
        let gone = poll.records.iter().filter(|record| !records.contains(record));
        findings.extend(gone.map(|(offset, value)| {
            (Fault::Lost, format!("{value} at {offset} was read, and is gone: {poll:?}"))
        }));
    }
    findings
}

fn went_back(history: &History) -> Findings {
    let mut findings = Findings::new();
    let ends = history.polls.iter().map(|poll| (poll.partition, poll.begun, poll.ended, poll.high));
    let last = history.found.iter().map(|(at, found)| (*at, u64::MAX, u64::MAX, found.high));
    let mut highest: BTreeMap<i32, Vec<(u64, i64)>> = BTreeMap::new();
    let mut ends: Vec<_> = ends.chain(last).collect();
    ends.sort_by_key(|(_, begun, ..)| *begun);
    for (partition, begun, ended, high) in ends {
        let earlier = highest.entry(partition).or_default();
        if let Some((_, higher)) = earlier.iter().find(|(at, other)| *at < begun && *other > high) {
            let what = format!("{partition} ended at {higher}, and at {high} at {begun}");
            findings.push((Fault::WentBack, what));
        }
        earlier.push((ended, high));
    }
    for look in &history.looks {
        let same = |group: &str, at: i32| group == look.group && at == look.partition;
        let commits = history.commits.iter().filter(|it| same(&it.group, it.partition));
        let done = commits.filter(|it| it.outcome == Outcome::Done(()) && it.ended < look.begun);
        let looks = history.looks.iter().filter(|it| same(&it.group, it.partition));
        let seen = looks.filter(|it| it.ended < look.begun).map(|it| it.offset);
        let least = done.map(|it| it.offset).chain(seen).max();
        if least.is_some_and(|least| look.offset < least) {
            findings.push((Fault::WentBack, format!("it was at {least:?} before: {look:?}")));
        }
    }
    findings
}

fn misplaced(history: &History) -> Findings {
    let mut findings = Findings::new();
    for look in history.looks.iter().filter(|look| look.offset >= 0) {
        let tried = history.commits.iter().filter(|it| {
            let same = it.group == look.group && it.partition == look.partition;
            same && it.offset == look.offset && it.begun < look.ended
        });
        let outcomes: Vec<_> = tried.map(|it| it.outcome).collect();
        if outcomes.is_empty() {
            findings.push((Fault::Misplaced, format!("{look:?}")));
        } else if outcomes.iter().all(|outcome| *outcome == Outcome::Refused) {
            findings.push((Fault::Refused, format!("{look:?}")));
        }
    }
    let there = committed(history);
    for (group, standing) in &history.standing {
        let its = |it: &&Transaction| it.offset.as_ref().is_some_and(|(of, _)| of == group);
        let counted = history.transactions.iter().filter(its).filter(|it| it.is_there(&there));
        // Workers of one group have ids of their own; offsets alone order them.
        let last = counted.max_by_key(|it| match (&it.source, &it.offset) {
            (Some(_), Some((_, offset))) => (*offset, 0, 0),
            _ => it.order,
        });
        let expected = last.and_then(|it| it.offset.as_ref()).map_or(-1, |(_, offset)| *offset);
        if *standing != expected {
            let what = format!("{group} stands at {standing}, not {expected}: {last:?}");
            findings.push((Fault::Misplaced, what));
        }
    }
    findings
}

fn not_once(history: &History) -> Findings {
    let there = committed(history);
    let workers = history.transactions.iter().filter_map(|it| {
        let (group, _) = it.offset.as_ref()?;
        Some((group.as_str(), it.source.as_ref()?.0, it))
    });
    let mut findings = Findings::new();
    let mut sources: BTreeMap<(&str, i64), &Transaction> = BTreeMap::new();
    for (group, offset, it) in workers.clone().filter(|(.., it)| it.is_there(&there)) {
        if let Some(other) = sources.insert((group, offset), it) {
            findings.push((Fault::NotOnce, format!("twice from {offset}: {other:?} {it:?}")));
        }
    }
    let Some(inputs) = history.found.get(&0) else { return findings };
    for group in workers.map(|(group, ..)| group).collect::<BTreeSet<_>>() {
        let standing = history.standing.get(group).copied().unwrap_or(-1);
        for (offset, value) in &inputs.committed {
            let is_made = sources.contains_key(&(group, *offset));
            if is_made != (*offset < standing) {
                let what = format!("{group} is at {standing}; {value} at {offset}: {is_made}");
                findings.push((Fault::NotOnce, what));
            }
        }
    }
    findings
}

fn stuck(history: &History) -> Findings {
    let held = history.found.iter().filter(|(_, found)| found.stable != found.high);
    held.map(|(partition, found)| {
        (Fault::Stuck, format!("{partition} is stable to {} of {}", found.stable, found.high))
    })
    .collect()
}

fn outlived(history: &History) -> Findings {
    let kept = history.outlived.iter().filter(|(_, standing)| **standing >= 0);
    kept.map(|(group, standing)| {
        (Fault::Risen, format!("{group} stands at {standing}, long after anybody needs it"))
    })
    .collect()
}

#[cfg(test)]
mod tests;
