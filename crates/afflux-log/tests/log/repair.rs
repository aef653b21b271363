//! What is corrupt is cut out on demand: what stands before it is kept, nothing behind it comes
//! back, and a crash at any step leaves a journal that either does not open or is repaired.

use std::path::{Path, PathBuf};

use afflux_env::{
    Disk, OpenMode,
    sim::{Failure, Operation, Sim},
};
use afflux_log::{
    Isolation, Log,
    error::OpenError,
    repair::{self, Checked, RepairError, Repaired},
};
use afflux_types::{Incarnation, Offset, Tick};

use crate::{
    damage::{FIRST, files, flip, forge, tail_file, written},
    support::*,
};

fn check(sim: &Sim) -> Result<Checked, OpenError> {
    repair::check(&sim.env(), Path::new(DIR))
}

fn repair(sim: &Sim, consent: bool) -> Result<Repaired, RepairError> {
    repair::repair(&sim.env(), Path::new(DIR), &options(), |_| consent)
}

/// What the partition holds, which must be the first of what was written.
fn count(sim: &Sim) -> Result<usize, OpenError> {
    let log = open(sim)?;
    let found = records(&log, &partition("t", 0), Isolation::Uncommitted);
    for (i, (offset, value)) in found.iter().enumerate() {
        assert_eq!(*offset, i as i64);
        assert!(value.starts_with(&format!("{i} ")));
    }
    Ok(found.len())
}

fn text(sim: &Sim, path: &Path) -> String {
    let file = sim.disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// All files and what is in them.
fn everything(sim: &Sim) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for path in sim.disk.list(&Path::new(DIR).join("journal")).unwrap() {
        let file = sim.disk.open(&path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        all.push((path, bytes));
    }
    all
}

fn damaged(seed: u64) -> Sim {
    let sim = written(seed, true);
    flip(&sim, &tail_file(&sim), 4096 + 20_000);
    sim
}

#[test]
fn a_sound_journal_is_read_and_not_repaired() {
    for well in [true, false] {
        let sim = written(9, well);
        let before = everything(&sim);
        let checked = check(&sim).unwrap();
        assert!(checked.damage.is_empty() && checked.losses.is_empty(), "{checked:?}");
        assert!(checked.groups >= 151 && checked.frames > checked.groups);
        assert!(!checked.is_torn);
        let refused = repair(&sim, true).unwrap_err();
        assert!(matches!(refused, RepairError::NothingToRepair), "{refused}");
        assert!(everything(&sim) == before, "nothing is changed");
        assert_eq!(count(&sim).unwrap(), 150);
    }
}

#[test]
fn a_torn_tail_is_no_damage() {
    let sim = written(9, false);
    let path = tail_file(&sim);
    let bytes = everything(&sim).into_iter().find(|(at, _)| *at == path).unwrap().1;
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    flip(&sim, &path, last as u64);
    let checked = check(&sim).unwrap();
    assert!(checked.is_torn && checked.damage.is_empty(), "{checked:?}");
    assert!(matches!(repair(&sim, true), Err(RepairError::NothingToRepair)));
}

#[test]
fn what_is_behind_the_damage_is_moved_aside_and_told() {
    let sim = damaged(9);
    let before = everything(&sim);
    let checked = check(&sim).unwrap();
    let stop = checked.stop().unwrap();
    assert_eq!((&stop.path, stop.position), (&tail_file(&sim), checked.end));
    let [loss] = &checked.losses[..] else { panic!("{checked:?}") };
    assert_eq!((&loss.partition[..], loss.to), ("t-0", Offset(150)));
    let kept = loss.from.0 as usize;
    assert!((100..150).contains(&kept));
    // One group is damaged, the others behind it can be read.
    assert_eq!(loss.records as usize, 150 - kept - 1);

    assert!(matches!(repair(&sim, false), Err(RepairError::Declined)));
    assert!(everything(&sim) == before, "nothing is changed without consent");

    let quarantine = repair(&sim, true).unwrap().quarantine;
    let report = text(&sim, &quarantine.join("REPORT.txt"));
    assert!(report.contains(&format!("t-0: offsets {kept} to 150")), "{report}");
    let aside: Vec<_> = sim.disk.list(&quarantine).unwrap();
    let name = stop.path.file_name().unwrap();
    assert!(aside.iter().any(|path| path.ends_with(name)), "{aside:?}");
    assert_eq!(check(&sim).unwrap().damage, []);
    assert_eq!(count(&sim).unwrap(), kept);
}

#[test]
fn nothing_is_repaired_that_no_start_can_follow() {
    let sim = damaged(9);
    for (incarnation, is_last) in [(Incarnation::MAX.0 - 1, true), (Incarnation::MAX.0 - 2, false)]
    {
        forge(&sim, incarnation);
        let before = everything(&sim);
        match repair(&sim, true) {
            Err(RepairError::Open(OpenError::Exhausted(_))) if is_last => {
                assert!(everything(&sim) == before, "nothing is changed");
            }
            Ok(_) if !is_last => assert!(count(&sim).unwrap() < 150),
            other => panic!("{incarnation}: {other:?}"),
        }
    }
}

#[test]
fn nothing_of_what_was_cut_is_used_again() {
    let sim = written(9, true);
    // Two more lives behind the damage, so that their epochs are known from there alone.
    let mut ticks = Vec::new();
    let mut producer = 0;
    for life in 2..4 {
        let log = open(&sim).unwrap();
        assert_eq!(log.leader_epoch().0, life);
        for i in 0..20 {
            let appended = append(&log, &[(partition("t", 0), batch(0, &["later"]))]).unwrap();
            assert_eq!(appended.base_offsets, [Offset(150 + i64::from(life - 2) * 20 + i)]);
            ticks.push(Tick(appended.end.0));
        }
        producer = log.next_producer_id().unwrap().0;
        log.shutdown();
    }
    flip(&sim, &tail_file(&sim), 4096 + 20_000);
    repair(&sim, true).unwrap();
    let log = open(&sim).unwrap();
    assert!(log.leader_epoch().0 > 4);
    assert!(log.next_producer_id().unwrap().0 > producer);
    let kept = log.bounds(&partition("t", 0)).unwrap().end;
    assert!(kept < Offset(150));
    assert!(ticks.iter().all(|tick| log.was_cut(*tick)));
    let appended = append(&log, &[(partition("t", 0), batch(0, &["new"]))]).unwrap();
    assert_eq!(appended.base_offsets, [kept]);
    assert!(appended.end.0 > ticks.last().unwrap().0, "positions are not used again");
    assert!(!log.was_cut(Tick(appended.end.0)) && !log.was_cut(Tick::ZERO));
    // Known for ever: also when the metadata are summed up.
    log.shutdown();
    let log = open(&sim).unwrap();
    assert!(ticks.iter().all(|tick| log.was_cut(*tick)));
    log.shutdown();
    assert_eq!(check(&sim).unwrap().damage, []);
}

#[test]
fn a_frame_of_an_incarnation_behind_which_there_is_none_is_cut_off() {
    let sim = written(9, false);
    forge(&sim, u32::MAX);
    let checked = check(&sim).unwrap();
    let stop = checked.stop().unwrap();
    assert!(stop.reason.contains("leaves none"), "{}", stop.reason);
    repair(&sim, true).unwrap();
    let log = open(&sim).unwrap();
    assert_eq!(log.leader_epoch().0, 3, "one for the repair, one for this start");
    log.shutdown();
    assert_eq!(count(&sim).unwrap(), 149);
}

#[test]
fn files_that_are_not_whole_are_cut_off() {
    type Spoil = fn(&Sim, &Path);
    let spoils: [(&str, Spoil); 5] = [
        ("first page", |sim, path| flip(sim, path, 100)),
        ("shorter", |sim, path| resize(sim, path, 30_000)),
        ("empty", |sim, path| resize(sim, path, 0)),
        ("longer", |sim, path| resize(sim, path, 80_000)),
        ("missing", |sim, path| sim.disk.remove(path).unwrap()),
    ];
    let all = files(&written(9, false), "journal").len();
    for (how, spoil) in spoils {
        for number in 0..all {
            let sim = written(9, false);
            let path = files(&sim, "journal")[number].clone();
            spoil(&sim, &path);
            sim.disk.sync_dir(Path::new("/data/journal")).unwrap();
            let opens = count(&sim);
            let checked = check(&sim).unwrap();
            let stop = checked.stop();
            assert_eq!(stop.is_none(), opens.is_ok(), "{how} {number}: {checked:?}");
            if opens.is_ok() {
                continue;
            }
            let kept = checked.losses.iter().find(|loss| loss.partition == "t-0");
            if let Err(refused) = repair(&sim, true) {
                assert!(matches!(refused, RepairError::NothingKept), "{how}: {refused}");
                assert_eq!(number, 0, "{how}: only without the first file nothing is left");
                continue;
            }
            let log = open(&sim).unwrap_or_else(|error| panic!("{how} {number}: {error}"));
            let found = records(&log, &partition("t", 0), Isolation::Uncommitted);
            drop(log);
            assert_eq!(count(&sim).unwrap(), found.len());
            assert!(kept.is_none_or(|loss| loss.from.0 as usize == found.len()), "{how} {number}");
            assert!(found.len() >= number.saturating_sub(1) * 50, "{how} {number}");
        }
    }
}

fn resize(sim: &Sim, path: &Path, bytes: u64) {
    let file = sim.disk.open(path, OpenMode::Write).unwrap();
    file.set_len(bytes).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn a_sealed_file_is_told_and_does_not_stop() {
    let sim = written(9, true);
    flip(&sim, Path::new(FIRST), 4096 + 30_000);
    let checked = check(&sim).unwrap();
    let [damage] = &checked.damage[..] else { panic!("{checked:?}") };
    assert!(!damage.stops && damage.path == Path::new(FIRST));
    assert!(matches!(repair(&sim, true), Err(RepairError::NothingToRepair)));
    open(&sim).unwrap();
    // Without its index it is read at the start, and stops it.
    sim.disk.remove(&files(&sim, "index")[0]).unwrap();
    assert!(check(&sim).unwrap().stop().is_some());
    repair(&sim, true).unwrap();
    let kept = count(&sim).unwrap();
    assert!((10..50).contains(&kept), "{kept}");
}

/// 207 records, the first 100 of them trimmed and their files given back, so that the log's
/// metadata are summed up in the last file; which is damaged before that place.
fn damaged_before_its_metadata() -> Sim {
    let sim = Sim::new(3);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    let padding = "r".repeat(3000);
    for i in 0..207 {
        let value = format!("{i} {padding}");
        append(&log, &[(partition("t", 0), batch(i, &[&value]))]).unwrap();
    }
    // Files in front go, which is told at the end of the last one.
    log.trim(&partition("t", 0), Offset(100)).unwrap();
    while log.step() {}
    log.shutdown();
    assert!(files(&sim, "journal")[0] != Path::new(FIRST), "nothing was given back");
    flip(&sim, &tail_file(&sim), 4096 + 1000);
    sim
}

#[test]
fn files_that_were_given_back_stay_so() {
    let sim = damaged_before_its_metadata();
    let losses = check(&sim).unwrap().losses;
    assert!(losses.iter().any(|loss| loss.partition.contains("metadata")), "{losses:?}");
    repair(&sim, true).unwrap();
    let log = open(&sim).unwrap();
    let bounds = log.bounds(&partition("t", 0)).unwrap();
    assert!((Offset(50)..Offset(101)).contains(&bounds.start), "{bounds:?}");
    let found = records(&log, &partition("t", 0), Isolation::Uncommitted);
    assert_eq!(found.len() as i64, bounds.end.0 - bounds.start.0);
    for (i, (offset, value)) in found.iter().enumerate() {
        assert_eq!(*offset, bounds.start.0 + i as i64, "no hole");
        assert!(value.starts_with(&format!("{offset} ")));
    }
}

#[test]
fn nothing_is_cut_if_nothing_would_be_kept() {
    let sim = damaged_before_its_metadata();
    let path = tail_file(&sim);
    let bytes = everything(&sim).into_iter().find(|(at, _)| *at == path).unwrap().1;
    // All but the last frame, which proves that there was something.
    let last = bytes.windows(4).rposition(|word| word == b"AFXj").unwrap();
    let file = sim.disk.open(&path, OpenMode::Write).unwrap();
    file.write_all_at(&vec![0; last - 6000], 6000).unwrap();
    file.sync_data().unwrap();
    let before = everything(&sim);
    let refused = repair(&sim, true).unwrap_err();
    assert!(matches!(refused, RepairError::NothingKept), "{refused}");
    assert!(everything(&sim) == before);
}

/// The first of the sealed files has lost its index and all that is behind a place, so that only
/// the files behind it prove that something is missing.
fn damaged_to_its_end(seed: u64) -> Sim {
    let sim = written(seed, true);
    sim.disk.remove(&files(&sim, "index")[0]).unwrap();
    sim.disk.sync_dir(Path::new("/data/journal")).unwrap();
    let file = sim.disk.open(Path::new(FIRST), OpenMode::Write).unwrap();
    file.write_all_at(&vec![0; (60 << 10) - 30_000], 4096 + 30_000).unwrap();
    file.sync_data().unwrap();
    sim
}

#[test]
fn a_repair_that_is_cut_off_anywhere_is_done_by_the_next() {
    cut_off_anywhere(damaged);
    cut_off_anywhere(damaged_to_its_end);
}

fn cut_off_anywhere(damaged: fn(u64) -> Sim) {
    let sim = damaged(9);
    let kept = check(&sim).unwrap().losses[0].from.0 as usize;
    let before = [sim.disk.count(Operation::Write), sim.disk.count(Operation::Sync)];
    repair(&sim, true).unwrap();
    let after = [sim.disk.count(Operation::Write), sim.disk.count(Operation::Sync)];
    let mut refused = 0;
    let mut repaired = 0;
    for (kind, operation) in [Operation::Write, Operation::Sync].into_iter().enumerate() {
        for n in 1..=after[kind] - before[kind] {
            for seed in 0..4 {
                let sim = damaged(seed);
                sim.disk.fail_at(operation, n, Failure::Crash);
                assert!(repair(&sim, true).is_err(), "{operation:?} {n}");
                sim.disk.crash();
                // A node that is started in between must not take it for a torn tail.
                match count(&sim) {
                    Err(OpenError::Corrupt { .. }) => refused += 1,
                    Ok(found) if found == kept => repaired += 1,
                    other => panic!("{operation:?} {n}, seed {seed}: {other:?}"),
                }
                match repair(&sim, true) {
                    Ok(_) | Err(RepairError::NothingToRepair) => {}
                    Err(error) => panic!("{operation:?} {n}, seed {seed}: {error}"),
                }
                assert_eq!(count(&sim).unwrap(), kept, "{operation:?} {n}, seed {seed}");
                assert_eq!(check(&sim).unwrap().damage, [], "{operation:?} {n}, seed {seed}");
            }
        }
    }
    assert!(refused > 20 && repaired > 0, "{refused} refused, {repaired} repaired");
}
