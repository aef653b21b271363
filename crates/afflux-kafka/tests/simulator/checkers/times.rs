//! What times and keys say of a topic: who looks for a time is given the first record that is no
//! earlier, and who reads a compacted partition to its end knows what became of each key.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fault, Findings, writers};
use crate::history::{
    EARLIEST, Found, History, Lookup, Outcome, STEADY, Topic, Value, key_of, time_of,
};

/// Of a topic: lookups that were not told of the record that they should have been. What is there
/// in the end was there all along, or came behind what was found.
pub(super) fn misdated(history: &History) -> Findings {
    let mut findings = Findings::new();
    let writers = writers(history);
    for lookup in &history.lookups {
        let Some(there) = history.found.get(&lookup.partition) else { continue };
        let mut find = |fault, what| findings.push((fault, format!("{what} by {lookup:?}")));
        let seen = seen_before(history, lookup);
        let is_missed = |offset: i64, value: &Value| {
            let time = time_of(value);
            match (lookup.found, lookup.asked) {
                (Some((first, _)), Some(asked)) => offset < first && time >= asked,
                (Some((first, latest)), None) => {
                    offset < first && time >= latest || offset < seen && time > latest
                }
                (None, Some(asked)) => offset < seen && time >= asked,
                // As in Kafka, the latest of all may be one that committed readers do not see yet.
                (None, None) => offset < seen && !lookup.is_committed,
            }
        };
        for (offset, value) in there.all.iter().filter(|(offset, value)| is_missed(*offset, value))
        {
            find(Fault::Unseen, format!("{value} of {:?} at {offset}", time_of(value)));
        }
        let Some((offset, time)) = lookup.found else { continue };
        if lookup.asked.is_some_and(|asked| time < asked) {
            find(Fault::Misplaced, "too early".to_owned());
        }
        match known_at(history, there, lookup, offset) {
            Some(value) if time_of(value) != time => {
                find(Fault::Differs, format!("{value} of {:?}", time_of(value)));
            }
            Some(value) => {
                let open = writers.get(value).filter(|it| it.outcome != Outcome::Refused);
                let is_open = open.is_some_and(|it| it.asked.is_none_or(|at| at > lookup.ended));
                if lookup.is_committed && is_open {
                    find(Fault::Precommitted, value.clone());
                }
            }
            // A marker is the latest where there is no record.
            None if time.0 < EARLIEST || offset < there.start => {}
            None if has_all(history, lookup.topic) => {
                find(Fault::Misplaced, "there is no record".to_owned());
            }
            None => {}
        }
    }
    findings
}

/// Whether a topic only loses records at its start.
fn has_all(history: &History, topic: Topic) -> bool {
    topic == STEADY || history.kinds.get(&topic).is_some_and(|kind| !kind.has_keys())
}

/// Behind what could be read before somebody looked.
fn seen_before(history: &History, lookup: &Lookup) -> i64 {
    let before = history.polls.iter().filter(|poll| {
        poll.partition == lookup.partition
            && poll.ended < lookup.begun
            && (poll.is_committed || !lookup.is_committed)
    });
    let end = before.map(|poll| if lookup.is_committed { poll.next } else { poll.high });
    end.max().unwrap_or(0)
}

/// What is or was at an offset.
fn known_at<'a>(
    history: &'a History,
    there: &'a Found,
    lookup: &Lookup,
    offset: i64,
) -> Option<&'a Value> {
    let polls = history.polls.iter().filter(|poll| poll.partition == lookup.partition);
    let mut all = there.all.iter().chain(polls.flat_map(|poll| &poll.records));
    all.find(|(at, _)| *at == offset).map(|(_, value)| value)
}

/// Of a compacted topic: sweeps that ended with something for a key which was over by then. Who
/// reads fast enough sees each tombstone, or nothing of what it deletes.
pub(super) fn stale(history: &History) -> Findings {
    let batches = history.batches.iter().flat_map(|batch| {
        let base = if let Outcome::Done(base) = batch.outcome { base } else { None };
        let values = base.into_iter().flat_map(|base| (base..).zip(&batch.values));
        values.map(|(offset, value)| (batch.partition, offset, value))
    });
    let polls = history.polls.iter().filter(|poll| poll.is_committed).flat_map(|poll| {
        poll.records.iter().map(|(offset, value)| (poll.partition, *offset, value))
    });
    let known: BTreeSet<(i32, i64, &Value)> = batches.chain(polls).collect();
    let mut findings = Findings::new();
    for sweep in &history.sweeps {
        let last: BTreeMap<&str, i64> =
            sweep.records.iter().map(|(offset, value)| (key_of(value), *offset)).collect();
        let is_later = |(partition, offset, value): &&(i32, i64, &Value)| {
            let read = last.get(key_of(value));
            *partition == sweep.partition
                && *offset < sweep.next
                && read.is_some_and(|read| read < offset)
        };
        findings.extend(known.iter().filter(is_later).map(|(_, offset, value)| {
            (Fault::Unseen, format!("{value} at {offset} by {sweep:?}"))
        }));
    }
    findings
}
