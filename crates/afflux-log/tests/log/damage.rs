//! Journals that are not what was written: cut where the rule says torn, refused where it says
//! damaged.

use std::path::{Path, PathBuf};

use afflux_env::{Disk, OpenMode, sim::Sim};
use afflux_log::{Isolation, Log, error::OpenError};
use afflux_record::frame::{FRAME_HEADER_BYTES, FrameHeader, crc32c};
use afflux_types::{Classified, Incarnation, JournalPosition};

use crate::support::*;

pub(crate) const FIRST: &str = "/data/journal/0000000000000000.journal";

/// A log of several files with 150 records, closed as a power cut would leave it, or well.
pub(crate) fn written(seed: u64, well: bool) -> Sim {
    let sim = Sim::new(seed);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    for i in 0..150 {
        let value = format!("{i} {}", "v".repeat(1000));
        append(&log, &[(partition("t", 0), batch(i, &[&value]))]).unwrap();
    }
    while log.step() {}
    if well {
        log.shutdown();
    } else {
        std::mem::forget(log);
    }
    sim.disk.crash();
    sim
}

pub(crate) fn flip(sim: &Sim, path: &Path, at: u64) {
    let file = sim.disk.open(path, OpenMode::Write).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    file.sync_data().unwrap();
}

pub(crate) fn files(sim: &Sim, extension: &str) -> Vec<PathBuf> {
    let mut files = sim.disk.list(Path::new("/data/journal")).unwrap();
    files.retain(|path| {
        path.extension().unwrap() == extension && !path.to_str().unwrap().contains("spare")
    });
    files
}

fn count(sim: &Sim) -> Result<usize, OpenError> {
    let log = open(sim)?;
    let found = records(&log, &partition("t", 0), Isolation::Uncommitted);
    for (i, (offset, value)) in found.iter().enumerate() {
        assert_eq!(*offset, i as i64);
        assert!(value.starts_with(&format!("{i} ")));
    }
    Ok(found.len())
}

/// The file that is written, which is the last but one: the last is prepared and empty.
pub(crate) fn tail_file(sim: &Sim) -> PathBuf {
    let files = files(sim, "journal");
    files[files.len() - 2].clone()
}

#[test]
fn an_untouched_journal_is_whole() {
    assert_eq!(count(&written(9, true)).unwrap(), 150);
    assert_eq!(count(&written(9, false)).unwrap(), 150);
}

#[test]
fn durable_frames_that_are_damaged_are_reported_and_kept() {
    let sim = written(9, true);
    let path = tail_file(&sim);
    flip(&sim, &path, 4096 + 2000);
    for _ in 0..2 {
        let error = count(&sim).unwrap_err();
        let OpenError::Corrupt { path: at, reason, .. } = &error else { panic!("{error}") };
        assert_eq!(*at, path);
        assert!(reason.contains("was durable"), "{reason}");
        assert!(error.hint().unwrap().contains("afflux journal repair"));
    }
    // Nothing was cut: with the bit put right, everything is there.
    flip(&sim, &path, 4096 + 2000);
    assert_eq!(count(&sim).unwrap(), 150);
}

#[test]
fn the_last_frame_is_cut_if_nothing_says_that_it_was_durable() {
    let sim = written(9, false);
    let path = tail_file(&sim);
    let file = sim.disk.open(&path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    flip(&sim, &path, last as u64);
    assert_eq!(count(&sim).unwrap(), 149);
    assert_eq!(count(&sim).unwrap(), 149);
}

#[test]
fn the_last_group_of_a_well_closed_journal_is_not_cut() {
    let sim = written(9, true);
    let path = tail_file(&sim);
    let file = sim.disk.open(&path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    // The last group's last byte: before the closing frame.
    let last = bytes.iter().rposition(|byte| *byte == b'v').unwrap();
    flip(&sim, &path, last as u64);
    assert!(matches!(count(&sim), Err(OpenError::Corrupt { .. })));
}

/// Gives the last frame another incarnation, with a checksum that is right.
pub(crate) fn forge(sim: &Sim, incarnation: u32) {
    let path = tail_file(sim);
    let base = u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
    let file = sim.disk.open(&path, OpenMode::Write).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let header_at = |at: u64| FrameHeader::parse(&bytes[at as usize..], JournalPosition(base + at));
    let (mut at, mut last) = (4096, None);
    while let Some(header) = header_at(at) {
        last = Some((at, header));
        at = header.end().0 - base;
    }
    let (at, header) = last.unwrap();
    let payload = &bytes[at as usize + FRAME_HEADER_BYTES..][..header.length as usize];
    let header = FrameHeader { incarnation: Incarnation(incarnation), ..header };
    file.write_all_at(&header.encode(payload), at).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn an_incarnation_behind_which_there_is_none_is_reported() {
    for incarnation in [u32::MAX, i32::MAX as u32] {
        for well in [true, false] {
            let sim = written(9, well);
            forge(&sim, incarnation);
            for _ in 0..2 {
                let error = count(&sim).unwrap_err();
                let OpenError::Corrupt { path, reason, .. } = &error else { panic!("{error}") };
                assert_eq!(*path, tail_file(&sim));
                assert!(reason.contains(&format!("its incarnation {incarnation}")), "{reason}");
            }
        }
    }
}

#[test]
fn no_start_writes_what_the_next_would_refuse() {
    for well in [true, false] {
        let sim = written(9, well);
        forge(&sim, Incarnation::MAX.0 - 1);
        assert_eq!(count(&sim).unwrap(), 150);
        for _ in 0..2 {
            let error = count(&sim).unwrap_err();
            assert!(matches!(&error, OpenError::Exhausted(_)), "{error}");
        }
    }
}

#[test]
fn an_index_with_numbers_behind_which_there_are_none_is_built_anew() {
    // The number of the last frame, and its incarnation.
    for forged in [48..56, 64..68] {
        let sim = written(9, true);
        for path in files(&sim, "index") {
            let file = sim.disk.open(&path, OpenMode::Write).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let directory = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize;
            bytes[forged.clone()].fill(0xff);
            let crc = crc32c(&bytes[12..64 + directory]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            file.write_all_at(&bytes, 0).unwrap();
            file.sync_data().unwrap();
        }
        let log = open(&sim).unwrap();
        assert_eq!(log.leader_epoch().0, 2);
        log.shutdown();
        assert_eq!(count(&sim).unwrap(), 150);
    }
}

#[test]
fn a_truncated_file_is_reported() {
    for bytes in [0, 100, 4096, 20_000] {
        let sim = written(9, false);
        let file = sim.disk.open(Path::new(FIRST), OpenMode::Write).unwrap();
        file.set_len(bytes).unwrap();
        file.sync_data().unwrap();
        let error = count(&sim).unwrap_err();
        assert!(matches!(&error, OpenError::Corrupt { .. }), "{bytes}: {error}");
    }
}

#[test]
fn a_missing_file_is_reported() {
    let sim = written(9, false);
    for path in files(&sim, "journal") {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let sim = written(9, false);
        sim.disk.remove(&path).unwrap();
        sim.disk.sync_dir(Path::new("/data/journal")).unwrap();
        match count(&sim) {
            Err(OpenError::Corrupt { .. }) => {}
            // The prepared file held nothing.
            Ok(150) => assert_eq!(path, *files(&written(9, false), "journal").last().unwrap()),
            other => panic!("without {file}: {other:?}"),
        }
    }
}

#[test]
fn every_damaged_byte_of_an_index_is_seen_or_harmless() {
    let sim = written(9, true);
    let indexes = files(&sim, "index");
    assert!(indexes.len() > 1);
    for path in &indexes {
        let len = sim.disk.open(path, OpenMode::Read).unwrap().len().unwrap();
        for at in (0..len).step_by(97) {
            flip(&sim, path, at);
            let log = open(&sim).unwrap();
            // A damaged section is found when it is read, a damaged directory at the start.
            if let Ok(found) = try_records(&log, &partition("t", 0), Isolation::Uncommitted) {
                assert_eq!(found.len(), 150);
            }
            log.shutdown();
            sim.disk.remove(path).unwrap();
            assert_eq!(count(&sim).unwrap(), 150, "an index is built again");
        }
    }
}

#[test]
fn a_damaged_sealed_file_is_reported_to_its_readers() {
    let sim = written(9, true);
    flip(&sim, Path::new(FIRST), 4096 + 3000);
    let log = open(&sim).unwrap();
    let error = try_records(&log, &partition("t", 0), Isolation::Uncommitted).unwrap_err();
    assert!(error.contains("can not be read") && error.contains(FIRST), "{error}");
}

#[test]
fn another_version_is_refused() {
    let check = |text: &str| {
        let sim = written(9, true);
        sim.disk.remove(Path::new("/data/format")).unwrap();
        if !text.is_empty() {
            let file = sim.disk.open(Path::new("/data/format"), OpenMode::Create).unwrap();
            file.write_all_at(text.as_bytes(), 0).unwrap();
        }
        let error = count(&sim).unwrap_err();
        assert!(matches!(&error, OpenError::Version { .. }), "{text:?}: {error}");
        assert!(error.hint().unwrap().contains("version"));
    };
    check("afflux 2 0123\n");
    check("something else");
    check("afflux 1 xyz");
    check("");
}
