//! What a walk found, in words.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use afflux_types::{JournalPosition, Offset, Timestamp};

use super::{Checked, Loss, plan::Plan, walk::Walk};
use crate::meta::{Change, META_STREAM, Meta, Topic};

/// What is told of a walk.
pub(super) fn summary(walk: &Walk) -> Checked {
    let stop = walk.stop.as_ref().map(|stop| stop.damage.clone());
    Checked {
        files: walk.found.len(),
        frames: walk.kept.frames,
        groups: walk.kept.groups,
        end: JournalPosition(walk.end),
        is_torn: walk.torn,
        damage: walk.passed.iter().cloned().chain(stop).collect(),
        losses: losses(walk),
    }
}

fn losses(walk: &Walk) -> Vec<Loss> {
    let names = names(walk);
    let mut all = Meta::new();
    walk.kept.changes.iter().chain(&walk.lost.changes).for_each(|c| all.apply(c.clone()));
    let lost = walk.lost.streams.iter().map(|(stream, lost)| {
        let kept = walk.kept.streams.get(stream).map_or(0, |kept| kept.end);
        // What was compacted stays.
        let from = kept.max(all.compacted().get(stream).map_or(0, |compacted| compacted.to));
        let partition = match names.get(stream) {
            _ if *stream == META_STREAM => "the log's own metadata".to_owned(),
            Some((topic, partition)) => format!("{}-{partition}", topic.name),
            None => format!("partition {stream} of the journal, of a topic that is not known"),
        };
        Loss { partition, from: Offset(from), to: Offset(lost.end), records: lost.records }
    });
    lost.filter(|loss| loss.from < loss.to).collect()
}

/// The partitions of all topics that ever were, as far as the journal tells.
fn names(walk: &Walk) -> BTreeMap<u32, (Arc<Topic>, usize)> {
    let mut names = BTreeMap::new();
    let mut meta = Meta::new();
    for change in walk.kept.changes.iter().chain(&walk.lost.changes) {
        meta.apply(change.clone());
        if matches!(change, Change::Create(_) | Change::Snapshot(_)) {
            for topic in meta.topics() {
                let streams = topic.streams().enumerate();
                names.extend(streams.map(|(p, stream)| (stream, (topic.clone(), p))));
            }
        }
    }
    names
}

/// The report that is put beside what is moved aside.
pub(super) fn text(checked: &Checked, plan: &Plan, time: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "{words}");
    };
    line(format!("Cut out of the journal by `afflux journal repair`, {time} since 1970."));
    line(String::new());
    for damage in &checked.damage {
        let path = damage.path.display();
        line(format!("{path}, position {}: {}", damage.position, damage.reason));
    }
    line(String::new());
    line(format!("Positions {} to {} are gone from the journal.", plan.from, plan.to));
    line("Files with that name were moved here; the first may be a copy, of which the".to_owned());
    line("journal still has what stands before that position.".to_owned());
    line(String::new());
    line(
        "Lost, as far as what was cut can be read. Behind a place that can not be read there"
            .to_owned(),
    );
    line(
        "may have been more. Names that begin with __afflux are Afflux's own: views go back"
            .to_owned(),
    );
    line("to where they stood at the cut, and are computed on from there.".to_owned());
    line(String::new());
    for loss in &checked.losses {
        let Loss { partition, from, to, records } = loss;
        line(format!("  {partition}: offsets {from} to {to}, {records} records readable here"));
    }
    if checked.losses.is_empty() {
        line("  nothing that can be read".to_owned());
    }
    text
}
