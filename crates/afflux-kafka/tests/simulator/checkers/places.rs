//! What must not become of the places of static members: whoever comes with an instance's id gets
//! that place alone, and gets it without a word to the others.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fault, Findings};
use crate::history::{About, History, Moment, Word};

/// A member's name is over as soon as another one of its instance has its place. It has that once
/// it was told what to read: a crash before that leaves the former one there, as in Kafka.
pub(super) fn twofold(history: &History) -> Findings {
    let join_of = |word: &Word| {
        history.words.iter().find(|it| it.about == About::Join && it.member == word.member)
    };
    let places = history.words.iter().filter(|it| it.about == About::Sync);
    let places: Vec<_> = places.filter_map(|sync| Some((join_of(sync)?, sync))).collect();
    let mut findings = Findings::new();
    for word in history.words.iter().filter(|it| it.about != About::Unknown) {
        let Some(own) = join_of(word) else { continue };
        let later = places.iter().find(|(join, sync)| {
            join.instance == word.instance && join.begun > own.ended && sync.ended < word.begun
        });
        if let Some(later) = later {
            findings.push((Fault::Twofold, format!("{word:?} after {later:?}")));
        }
    }
    findings
}

/// Once all instances know their part of a generation, none of those that come back begins another
/// one, and none is put out, unless all were over in between: whoever had the place before is told
/// that it is fenced.
pub(super) fn unsettled(history: &History) -> Findings {
    let instances = history.words.iter().map(|it| &it.instance);
    let count = instances.collect::<BTreeSet<_>>().len();
    let mut parts: BTreeMap<i32, BTreeMap<&str, Moment>> = BTreeMap::new();
    for sync in history.words.iter().filter(|it| it.about == About::Sync) {
        let first = parts.entry(sync.generation).or_default().entry(&sync.instance);
        first.and_modify(|at| *at = sync.ended.min(*at)).or_insert(sync.ended);
    }
    let settled = parts.iter().filter(|(_, known)| known.len() == count);
    let settled: Vec<_> =
        settled.filter_map(|(of, known)| Some((*of, *known.values().max()?))).collect();
    let moves = history.words.iter().filter(|it| matches!(it.about, About::Join | About::Unknown));
    moves
        .filter_map(|word| {
            let was_over = |at| history.aged.is_some_and(|aged| at < aged && aged < word.ended);
            let before = settled.iter().find(|(generation, at)| {
                let is_moved = *generation < word.generation || word.about == About::Unknown;
                is_moved && *at < word.begun && !was_over(*at)
            })?;
            Some((Fault::Unsettled, format!("{before:?} was settled before {word:?}")))
        })
        .collect()
}
