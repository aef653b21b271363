//! Files with what was compacted: whether they are what was written, and what becomes of them when
//! the change of metadata that names them is cut.
//!
//! Such a file holds nothing that was not durable, below what was stable; so a cut takes nothing
//! from it. It is named again by what the repair writes. One that is no more, since something behind
//! the cut had taken its place or dropped it, is named no more.

use std::{collections::BTreeSet, path::Path};

use afflux_env::Disk;
use afflux_record::batch;
use afflux_types::JournalPosition;

use super::{Damage, walk::Walk};
use crate::{
    error::OpenError,
    journal::{compacted_base, open_compacted},
    meta::{Change, CompactedFile, Meta},
};

/// The files that are there, by their positions.
pub(super) fn find(disk: &dyn Disk, dir: &Path) -> Result<BTreeSet<u64>, OpenError> {
    let paths = disk.list(dir).map_err(|error| OpenError::io(dir, error))?;
    Ok(paths.iter().filter_map(|path| compacted_base(path)).collect())
}

/// What is wrong with the files that the log's metadata name.
pub(super) fn damage(disk: &dyn Disk, dir: &Path, journal: u128, meta: &Meta) -> Vec<Damage> {
    let mut found = Vec::new();
    for (stream, compacted) in meta.compacted() {
        for file in &compacted.files {
            found.extend(of_file(disk, dir, journal, (*stream, file)));
        }
    }
    found
}

/// A file is read batch by batch: where it is not what was written, whoever reads is told.
fn of_file(
    disk: &dyn Disk,
    dir: &Path,
    journal: u128,
    named: (u32, &CompactedFile),
) -> Option<Damage> {
    let (file, run) = match open_compacted(disk, dir, journal, named) {
        Ok(opened) => opened,
        Err(OpenError::Corrupt { path, position, reason }) => {
            let position = JournalPosition(position);
            return Some(Damage { path, position, reason, stops: true });
        }
        Err(error) => {
            let (path, position) = (dir.to_owned(), JournalPosition(named.1.base));
            return Some(Damage { path, position, reason: error.to_string(), stops: true });
        }
    };
    let damage = |position: u64, reason: String| {
        let path = file.path.clone();
        Some(Damage { path, position: JournalPosition(position), reason, stops: false })
    };
    let section = match run.index.section(disk, run.section) {
        Ok(section) => section,
        Err(error) => return damage(run.index.base, format!("its index can not be read: {error}")),
    };
    for entry in &section.entries {
        let position = file.base + u64::from(entry.pieces);
        let mut bytes = vec![0; entry.bytes as usize];
        let read = file.read(&mut bytes, position).map_err(|error| error.to_string());
        let read = read.and_then(|()| batch::check(&bytes).map_err(|error| error.to_string()));
        if let Err(error) = read {
            let base = entry.base;
            return damage(
                position,
                format!("the batch at offset {base} can not be read: {error}"),
            );
        }
    }
    None
}

/// What the log has to know of compaction that stood in what is cut. `known` is what it will know
/// otherwise, with all that stood there before `from`.
pub(super) fn changes(walk: &Walk, known: &Meta, from: usize) -> Vec<Change> {
    let streams: BTreeSet<u32> = known.topics().iter().flat_map(|topic| topic.streams()).collect();
    let mut all = known.clone();
    let mut changes = Vec::new();
    for change in &walk.lost.changes[from..] {
        if let Change::Compact { stream, .. } = change
            && streams.contains(stream)
        {
            all.apply(change.clone());
            changes.push(change.clone());
        }
    }
    for (stream, compacted) in all.compacted() {
        for file in compacted.files.iter().filter(|file| !walk.compacted.contains(&file.base)) {
            let (from, to) = (file.from, file.to);
            changes.push(Change::Compact { stream: *stream, from, to, file: None });
        }
    }
    changes
}
