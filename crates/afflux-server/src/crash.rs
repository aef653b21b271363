//! Ends the process by SIGKILL in the middle of a commit, for tests.
//!
//! What a test wants to see survive is a node that dies between the write of a pipeline's commit
//! and its sync, or between its sync and its publication; or, where the broker alone is tried,
//! between a write for a client, its sync and its acknowledgement. From outside a process that moment can
//! not be hit; so the node wraps its disk and the engine's door to the log:
//!
//! 1. [`CrashLog`] counts the commits that the engine submits. At the one that the plan names it
//!    tells the [`Trigger`] what to look for: bytes of the commit's changelog batch that the log
//!    does not change, its CRC and what follows it.
//! 2. The trigger stands before the disk and looks for them in every write from then on. Once a write that holds them has
//!    been done, the commit is written and nothing of it is visible.
//! 3. The next sync of that file is where the process ends: before it, or right after it has
//!    succeeded and before the log hears of it. Which of the two, the plan's seed decides.
//! 4. A line `written` or `synced` in the plan's file is the proof. It is written first; a file
//!    that the process wrote outlives its SIGKILL.
//! 5. A plan may name a text instead: then the writes that hold it are counted, whatever they are
//!    for. Clients that put it into their records and names decide so what can be hit.
//! 6. In every other life there is no crash: the process then writes its number beside that file,
//!    with the extension `spared`.
//!
//! A node without a plan has none of these wrappers.

use std::{
    io::{self, Write},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use afflux_env::{File, Interpose};
use afflux_log::{
    Batches, Bounds, EpochCommit, Isolation, Log, Ticket, TopicSpec,
    error::{ReadError, TopicError, TrimError},
};
use afflux_types::{JournalPosition, LeaderEpoch, Offset, Tick, TopicName, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Where a v2 batch keeps its CRC. What lies behind it is covered by the CRC, so nobody patches it.
const CRC_AT: usize = 17;
/// How many bytes from the CRC on identify a batch.
const NEEDLE: usize = 44;
/// The number of the commit at which the process ends, from 1. Not among the first, while who
/// started the node makes its views.
const COMMITS: Range<u64> = 6..12;
/// The same of the writes that hold the plan's text.
const WRITES: Range<u64> = 5..50;

/// When a node is to end its own process. Set by tests alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashPlan {
    /// Receives a line for every crash. The lines that it has already decide, with the seed,
    /// about this one.
    pub ledger: PathBuf,
    /// What the choices follow from.
    pub seed: u64,
    /// With so many lines in the ledger there are no more crashes.
    pub crashes: u64,
    /// What writes must hold to be counted; without it the engine's commits are.
    pub text: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// Between the write and its sync.
    Written,
    /// Between the sync and its publication.
    Synced,
}

impl CrashPlan {
    /// Reads `SEED:CRASHES:LEDGER` or `SEED:CRASHES/TEXT:LEDGER`.
    pub fn parse(plan: &str) -> Option<Self> {
        let (seed, rest) = plan.split_once(':')?;
        let (crashes, ledger) = rest.split_once(':')?;
        let (crashes, text) = match crashes.split_once('/') {
            Some((crashes, text)) if !text.is_empty() => (crashes, Some(text.to_owned())),
            Some(_) => return None,
            None => (crashes, None),
        };
        let (seed, crashes) = (seed.parse().ok()?, crashes.parse().ok()?);
        Some(Self { ledger: ledger.into(), seed, crashes, text })
    }

    /// The number of the commit, from 1, and the point of this life's crash. Odd lives have none:
    /// they are for whoever kills from outside, who finds this process named in a file.
    fn choose(&self) -> Option<(u64, Point)> {
        let lives =
            std::fs::read_to_string(&self.ledger).unwrap_or_default().lines().count() as u64;
        if lives >= self.crashes {
            return None;
        }
        if !lives.is_multiple_of(2) {
            let spared = self.ledger.with_extension("spared");
            if let Err(error) = std::fs::write(&spared, std::process::id().to_string()) {
                tracing::error!(%error, "nobody will know that this life is theirs");
            }
            return None;
        }
        let random = mix(self.seed ^ mix(lives));
        let point = if random & 1 == 0 { Point::Written } else { Point::Synced };
        let range = if self.text.is_some() { WRITES } else { COMMITS };
        Some((range.start + (random >> 1) % (range.end - range.start), point))
    }
}

/// Scatters the bits of a number (the finaliser of `SplitMix64`).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// What disk and log share.
pub(crate) struct Trigger {
    ledger: PathBuf,
    point: Point,
    text: Option<String>,
    state: Mutex<State>,
}

enum State {
    /// So many commits, or writes, to go.
    Waiting(u64),
    /// This has not been written yet.
    Armed(Vec<u8>),
    /// It has, to the file of this number.
    Written(u64),
}

impl Trigger {
    /// The trigger of this life, if it is to have one.
    pub(crate) fn of(plan: &CrashPlan) -> Option<Arc<Self>> {
        let (commits, point) = plan.choose()?;
        let state = Mutex::new(State::Waiting(commits));
        let CrashPlan { ledger, text, .. } = plan.clone();
        Some(Arc::new(Trigger { ledger, point, text, state }))
    }

    fn submitted(&self, commit: &EpochCommit) {
        let mut state = self.state.lock();
        if let (State::Waiting(commits), None) = (&mut *state, &self.text) {
            *commits = commits.saturating_sub(1);
            let batch = &commit.changelog.batch;
            if *commits == 0
                && let Some(needle) = batch.get(CRC_AT..batch.len().min(CRC_AT + NEEDLE))
            {
                *state = State::Armed(needle.to_vec());
            }
        }
    }

    fn wrote(&self, file: u64, bufs: &[&[u8]]) {
        let any_holds = |needle: &[u8]| bufs.iter().any(|buf| holds(buf, needle));
        let mut state = self.state.lock();
        let is_it = match (&mut *state, &self.text) {
            (State::Armed(needle), _) => any_holds(needle),
            (State::Waiting(writes), Some(text)) if any_holds(text.as_bytes()) => {
                *writes = writes.saturating_sub(1);
                *writes == 0
            }
            _ => false,
        };
        if is_it {
            *state = State::Written(file);
        }
    }

    fn syncs(&self, file: u64, point: Point) {
        if self.point == point
            && matches!(*self.state.lock(), State::Written(written) if written == file)
        {
            self.end();
        }
    }

    fn end(&self) -> ! {
        let line: &[u8] = match self.point {
            Point::Written => b"written\n",
            Point::Synced => b"synced\n",
        };
        let mut options = std::fs::OpenOptions::new();
        options
            .create(true)
            .append(true)
            .open(&self.ledger)
            .and_then(|mut file| file.write_all(line))
            .expect("the test's ledger can be written");
        kill_self()
    }
}

/// Sees every write and every sync of the disk that it stands before.
impl Interpose for Trigger {
    fn write(&self, file: &dyn File, number: u64, bufs: &[&[u8]], at: u64) -> io::Result<()> {
        file.write_all_vectored_at(bufs, at)?;
        self.wrote(number, bufs);
        Ok(())
    }

    fn sync(&self, file: &dyn File, number: u64) -> io::Result<()> {
        self.syncs(number, Point::Written);
        file.sync_data()?;
        self.syncs(number, Point::Synced);
        Ok(())
    }
}

#[cfg(unix)]
fn kill_self() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal takes effect before the call returns; this is for systems where it does not.
    std::process::abort()
}

#[cfg(not(unix))]
fn kill_self() -> ! {
    std::process::abort()
}

fn holds(buf: &[u8], needle: &[u8]) -> bool {
    let Some((first, _)) = needle.split_first() else { return false };
    let mut rest = buf;
    while rest.len() >= needle.len() {
        let starts = &rest[..=rest.len() - needle.len()];
        let Some(at) = starts.iter().position(|byte| byte == first) else { return false };
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// A log that tells the trigger of every commit.
pub(crate) struct CrashLog {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) trigger: Arc<Trigger>,
}

impl Log for CrashLog {
    fn partition_count(&self, topic: &TopicName) -> Option<i32> {
        self.log.partition_count(topic)
    }
    fn ensure_topic(&self, spec: &TopicSpec) -> Result<(), TopicError> {
        self.log.ensure_topic(spec)
    }
    fn remove_topic(&self, topic: &TopicName) -> Result<(), TopicError> {
        self.log.remove_topic(topic)
    }
    fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<(), TrimError> {
        self.log.trim(partition, before)
    }
    fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        to: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<Batches, ReadError> {
        self.log.read(partition, from, to, bytes_max, isolation)
    }
    fn bounds(&self, partition: &TopicPartition) -> Result<Bounds, ReadError> {
        self.log.bounds(partition)
    }
    fn next_tick(&self, after: Tick, bytes_max: u64) -> Tick {
        self.log.next_tick(after, bytes_max)
    }
    fn ends(&self, tick: Tick, partitions: &[TopicPartition]) -> Result<Vec<Offset>, ReadError> {
        self.log.ends(tick, partitions)
    }
    fn was_cut(&self, tick: Tick) -> bool {
        self.log.was_cut(tick)
    }
    fn submit(&self, commit: EpochCommit) -> Ticket {
        // Before the log has it, so that no write of it goes unseen.
        self.trigger.submitted(&commit);
        self.log.submit(commit)
    }
    fn appended(&self) -> watch::Receiver<JournalPosition> {
        self.log.appended()
    }
    fn durable(&self) -> watch::Receiver<JournalPosition> {
        self.log.durable()
    }
    fn leader_epoch(&self) -> LeaderEpoch {
        self.log.leader_epoch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_found_in_what_was_written() {
        let check = |buf: &[u8], needle: &[u8], found| assert_eq!(holds(buf, needle), found);
        check(b"", b"ab", false);
        check(b"ab", b"ab", true);
        check(b"aab", b"ab", true);
        check(b"xxaxab", b"ab", true);
        check(b"xxaxa", b"ab", false);
        check(b"ab", b"", false);
    }

    #[test]
    fn every_other_life_crashes_by_itself() {
        let ledger = tempfile::NamedTempFile::new().expect("a file");
        let ledger_path = ledger.path().to_owned();
        let plan = CrashPlan { ledger: ledger_path, seed: 7, crashes: 20, text: None };
        let mut points = Vec::new();
        for life in 0..20 {
            let choice = plan.choose();
            assert_eq!(choice.is_some(), life % 2 == 0);
            assert_eq!(choice, plan.choose(), "the choice follows from seed and ledger alone");
            points.extend(choice.map(|(_, point)| point));
            let mut file = std::fs::OpenOptions::new().append(true).open(&plan.ledger).expect("it");
            file.write_all(b"line\n").expect("a line");
        }
        assert_eq!(plan.choose(), None, "there were enough");
        assert!(points.contains(&Point::Written) && points.contains(&Point::Synced));
    }

    #[test]
    fn plans_are_a_seed_a_number_and_a_file() {
        let check = |plan: &str, expected: Option<(u64, u64, Option<&str>, &str)>| {
            let expected = expected.map(|(seed, crashes, text, ledger)| CrashPlan {
                ledger: ledger.into(),
                seed,
                crashes,
                text: text.map(str::to_owned),
            });
            assert_eq!(CrashPlan::parse(plan), expected);
        };
        check("7:50:/tmp/x", Some((7, 50, None, "/tmp/x")));
        check("7:50:/a:b", Some((7, 50, None, "/a:b")));
        check("7:50/it:/tmp/x", Some((7, 50, Some("it"), "/tmp/x")));
        check("7:50/:/tmp/x", None);
        check("/tmp/x", None);
        check("7:/tmp/x", None);
        check("x:50:/tmp/x", None);
    }
}
