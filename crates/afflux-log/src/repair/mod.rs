//! Reads a whole journal, and cuts what is corrupt out of it, for whoever is on call.
//!
//! A start refuses a journal that is not what was written ([`OpenError::Corrupt`]) and changes
//! nothing. [`check`] tells all that is wrong and what could not be kept; [`repair`], which asks
//! first, moves the corrupt place and everything behind it aside, so that the node starts with
//! what stands before it. Nothing is ever skipped: what comes behind a hole may follow from what
//! was in it. Not here: why bytes are not what was written, and mending them.
//!
//! Positions, offsets' leader epochs and producer ids of what is dropped are not used again, so
//! that nothing takes new records for those that it remembers:
//! ```text
//!            from                        to
//!   +---------+-------------------------+------------------------
//!   | kept    | seal  #### corrupt ...  | page | group: Cut(from, to) and more ...
//!   +---------+-------------------------+------------------------
//! ```
//! How it is done, and what a crash at each step leaves:
//! 1. The file with the corrupt place is copied to `DIR/quarantine/TO/`, and a report of what is
//!    lost is written beside it. (The journal as it was.)
//! 2. A new file is begun behind all others, at `to`. Its first frame says what was cut, and that
//!    everything before `to` was durable. (No start goes past that: the journal is corrupt, and
//!    the next repair, which finds the frame, goes on with the next step.)
//! 3. The files between are moved into the quarantine, their indexes removed. (The same.)
//! 4. A seal is written over the corrupt place. (The same, or the journal is repaired.)

mod compacted;
mod plan;
mod report;
mod steps;
mod walk;

use std::path::{Path, PathBuf};

use afflux_env::{Disk, Env};
use afflux_types::{Classified, ErrorKind, JournalPosition, Offset};

use crate::{
    error::OpenError,
    open::{read_format, take_lock},
    options::LogOptions,
};
use walk::{Walk, walk};

/// Bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The journal file.
    pub path: PathBuf,
    /// Where in the journal.
    pub position: JournalPosition,
    /// What is wrong, and how that is known.
    pub reason: String,
    /// Whether it keeps the node from starting. If not, whoever reads what was there is told.
    pub stops: bool,
}

/// What a repair takes from a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The partition, by the name of its topic if that is known.
    pub partition: String,
    /// The first offset that is lost.
    pub from: Offset,
    /// Behind the last offset that can be read in what is cut.
    pub to: Offset,
    /// How many records can still be read there.
    pub records: u64,
}

/// A journal, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How many files it has.
    pub files: usize,
    /// How many frames count.
    pub frames: u64,
    /// How many groups are among them.
    pub groups: u64,
    /// Behind the last frame that counts.
    pub end: JournalPosition,
    /// Whether something is left there of a write that was not durable. It is cut at a start.
    pub is_torn: bool,
    /// What is corrupt, in the order of positions.
    pub damage: Vec<Damage>,
    /// What a repair would take. Partitions of which nothing can be read there are not known.
    pub losses: Vec<Loss>,
}

impl Checked {
    /// What keeps the node from starting.
    pub fn stop(&self) -> Option<&Damage> {
        self.damage.iter().find(|damage| damage.stops)
    }
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Where everything lies that was moved aside, with a report.
    pub quarantine: PathBuf,
}

/// A repair that was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The journal can not be read or written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nothing keeps the node from starting.
    #[error("nothing keeps the node from starting: there is nothing to repair")]
    NothingToRepair,
    /// What keeps the node from starting does not stand in the journal itself.
    #[error("{0} holds what compaction left of a partition: it can not be cut out of the journal")]
    Compacted(PathBuf),
    /// Nothing stands before the damage, or the list of topics stood behind it and can not be read.
    #[error("nothing would be kept: what stands before the damage is of no use without the rest")]
    NothingKept,
    /// Who was asked did not agree.
    #[error("nothing was changed")]
    Declined,
}

impl Classified for RepairError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(error) => error.kind(),
            Self::NothingKept | Self::Compacted(_) => ErrorKind::Corrupt,
            Self::NothingToRepair | Self::Declined => ErrorKind::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Open(error) => error.hint(),
            Self::NothingToRepair => Some(
                "what `afflux journal check` finds in sealed files is told to those who read it"
                    .to_owned(),
            ),
            Self::NothingKept => Some(
                "restore the journal from a backup, or move the data directory aside and begin \
                 with a new one"
                    .to_owned(),
            ),
            Self::Compacted(_) => Some("restore that file from a backup".to_owned()),
            Self::Declined => None,
        }
    }
}

fn read(disk: &dyn Disk, dir: &Path) -> Result<(u128, Walk), OpenError> {
    let journal = read_format(disk, dir)?.ok_or_else(|| OpenError::Version {
        path: dir.join("format"),
        found: "it is missing".to_owned(),
    })?;
    Ok((journal, walk(disk, &dir.join("journal"), journal)?))
}

/// Reads the whole journal of a data directory that no node has open. Changes nothing.
pub fn check(env: &Env, dir: &Path) -> Result<Checked, OpenError> {
    let _lock = take_lock(&*env.disk, dir)?;
    Ok(report::summary(&read(&*env.disk, dir)?.1))
}

/// Cuts what keeps the node from starting, and everything behind it, out of the journal, if
/// `consent` agrees to what it is shown. After a crash it is called again.
pub fn repair(
    env: &Env,
    dir: &Path,
    options: &LogOptions,
    consent: impl FnOnce(&Checked) -> bool,
) -> Result<Repaired, RepairError> {
    let disk = &*env.disk;
    let _lock = take_lock(disk, dir)?;
    let (journal, walk) = read(disk, dir)?;
    let checked = report::summary(&walk);
    let time = env.clock.now();
    let plan = plan::plan(&walk, dir, time)?;
    let plan = plan.ok_or_else(|| match checked.stop() {
        Some(damage) => RepairError::Compacted(damage.path.clone()),
        None => RepairError::NothingToRepair,
    })?;
    if matches!(plan::metadata(&walk), plan::Metadata::Gone) {
        return Err(RepairError::NothingKept);
    }
    if !consent(&checked) {
        return Err(RepairError::Declined);
    }
    let steps = steps::Steps { disk, dir, journal, options, walk: &walk, plan: &plan };
    let text = report::text(&checked, &plan, time);
    Ok(Repaired { quarantine: steps.run(&text)? })
}
