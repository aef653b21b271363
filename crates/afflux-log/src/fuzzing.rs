//! Entry points for fuzzers: all that reads a data directory. What a target is, and who runs it,
//! says `afflux_record::fuzzing`.
//!
//! - [`JOURNAL_FRAMES`]: any bytes as a journal file's frames, their checksums made right.
//! - [`INDEX_FILES`]: any bytes as an index, beside a journal file and in a compacted one.
//! - [`METADATA`]: any changes of the log's metadata.
//! - [`RECOVERY`]: a valid data directory, wounded in places that the input names, opened again.
//!   Nothing makes checksums right there, so that nothing may come out that was not written.
//!
//! Only there with the feature `fuzzing`, and in tests.

mod recovery;

use std::{path::Path, sync::Arc};

use afflux_env::{Disk, OpenMode, sim::SimDisk};
pub use afflux_record::fuzzing::Target;
use afflux_record::{
    Compression, batch,
    frame::{
        BatchMeta, Commit, FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHeader, Kind, frame_bytes,
        put_entry, put_group, read_group,
    },
};
use afflux_types::{Incarnation, JournalPosition, Offset, Timestamp, TopicId, TopicName};
use bytes::Bytes;

pub use self::recovery::RECOVERY;
use self::recovery::WRITTEN;
use crate::{
    journal::{
        COMPACTED, FIRST_PAGE, Identity, IndexFile, JournalFile, Last, Reader, compacted_path,
        index_path, journal_path, open_compacted, proof, recover,
    },
    meta::{Change, CompactedFile, Meta, Topic},
    settings::Settings,
};

const JOURNAL_DIR: &str = "/data/journal";
/// Whose files they are, where the target says it.
const JOURNAL: u128 = 7;

fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let _ = disk.remove(path);
    let file = disk.open(path, OpenMode::Create).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
}

/// The journal file whose frames an input is. Each frame's length is cut to what is there, and its
/// place, number and checksum made right; its kind, incarnation and durable position are its own.
pub const JOURNAL_FRAMES: Target = Target {
    run: |input| {
        read_frames(input);
        read_frames(&mended_frames(input));
    },
    seeds: || vec![some_frames(), WRITTEN.frames.clone()],
    held_bytes_max: |bytes| 64 * bytes + (4 << 20),
};

/// A journal of one file with these frames.
fn journal_of(content: &[u8]) -> SimDisk {
    let disk = SimDisk::new(1);
    let dir = Path::new(JOURNAL_DIR);
    disk.create_dir_all(dir).unwrap();
    // No file is made without room for frames.
    let capacity = FIRST_PAGE + (content.len().max(1) as u64).next_multiple_of(FIRST_PAGE);
    let identity = Identity { journal: JOURNAL, base: 0, capacity, incarnation: Incarnation(1) };
    let mut bytes = identity.encode();
    bytes.extend_from_slice(content);
    bytes.resize(capacity as usize, 0);
    put(&disk, &journal_path(dir, 0), &bytes);
    disk
}

fn read_frames(content: &[u8]) {
    let disk = journal_of(content);
    let dir = Path::new(JOURNAL_DIR);
    let path = journal_path(dir, 0);
    let (file, page) = JournalFile::open(&disk, &path, 0).unwrap();
    file.is_whole(page, JOURNAL).unwrap();
    let file = Arc::new(file);
    let mut reader = Reader::new(&file);
    let mut position = FIRST_PAGE;
    while let Some((header, payload)) = reader.frame(position).unwrap() {
        if header.kind == Kind::Group {
            for (meta, at) in read_group(payload).map(|(_, entries)| entries).unwrap_or_default() {
                assert!(at + meta.bytes as usize <= payload.len());
            }
        } else if let (Kind::Commit, Ok(commit)) = (header.kind, Commit::decode(payload)) {
            assert_eq!(commit.encode(), payload_without_spare(payload));
        }
        position = header.end().0;
    }
    let last = Last { sequence: 0, incarnation: Incarnation(0) };
    if let Some(found) = proof(&[file], position, last).unwrap() {
        assert!(found.durable.0 > position);
    }
    // What counts is for recovery to say; it may refuse all of it.
    let _ = recover(&disk, dir, JOURNAL);
}

/// A commit's payload as it is encoded: what is spare in it is 0, and so is an unknown marker.
fn payload_without_spare(payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let chunks = u32::from_le_bytes(payload[12..16].try_into().unwrap()) as usize;
    for chunk in payload[16..16 + chunks * 16].chunks_exact_mut(16) {
        chunk[12..].fill(0);
    }
    for entry in payload[16 + chunks * 16..].chunks_exact_mut(48) {
        if !matches!(entry[44..], [0..=2, 0, 0, 0]) {
            entry[44..].fill(0);
        }
    }
    payload
}

fn mended_frames(input: &[u8]) -> Vec<u8> {
    let mut frames = input.to_vec();
    let (mut at, mut sequence) = (0, 1);
    while at + FRAME_HEADER_BYTES <= frames.len() {
        let (kinds, rest) = (
            [Kind::Group, Kind::Chunk, Kind::Commit, Kind::Seal, Kind::Open, Kind::Close],
            frames.len() - at - FRAME_HEADER_BYTES,
        );
        let number = |from: usize| u32::from_le_bytes(frames[from..from + 4].try_into().unwrap());
        let length = (number(at + 36) as usize).min(rest);
        let header = FrameHeader {
            position: JournalPosition(FIRST_PAGE + at as u64),
            sequence,
            durable: JournalPosition(u64::from(number(at + 24))),
            incarnation: Incarnation(number(at + 32)),
            length: length as u32,
            kind: kinds[usize::from(frames[at + 40]).saturating_sub(1) % kinds.len()],
        };
        let payload = at + FRAME_HEADER_BYTES;
        let encoded = header.encode(&frames[payload..payload + length]);
        frames[at..payload].copy_from_slice(&encoded);
        at += frame_bytes(length);
        sequence += 1;
    }
    frames
}

/// A frame of each kind.
fn some_frames() -> Vec<u8> {
    let mut group = Vec::new();
    put_group(&mut group, Timestamp(1), 1);
    let batch = a_batch(3, 40);
    put_entry(&mut group, 2, &batch);
    let meta = BatchMeta::new(1, &batch::check(&batch).unwrap(), &batch);
    let piece = afflux_record::frame::Piece {
        position: JournalPosition(FIRST_PAGE + FRAME_HEADER_BYTES as u64 + 16),
        bytes: batch.len() as u32,
    };
    let commit = Commit { time: Timestamp(2), chunks: vec![piece], entries: vec![meta] }.encode();
    let chunk = [&[0; 16], &batch[..]].concat();
    let mut frames = Vec::new();
    for (kind, payload) in
        [(2, &chunk), (3, &commit), (1, &group), (5, &vec![]), (6, &vec![]), (4, &vec![])]
    {
        put_frame(&mut frames, kind, payload);
    }
    assert!(frames.len().is_multiple_of(FRAME_ALIGN));
    frames
}

/// A frame as an input has it.
fn put_frame(frames: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let at = frames.len();
    frames.resize(at + frame_bytes(payload.len()), 0);
    frames[at + 32] = 1;
    frames[at + 36..at + 40].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    frames[at + 40] = kind;
    let payload_at = at + FRAME_HEADER_BYTES;
    frames[payload_at..payload_at + payload.len()].copy_from_slice(payload);
}

fn a_batch(time: i64, bytes: usize) -> Bytes {
    let mut builder = batch::Builder::new(Compression::None);
    let key = time.to_string();
    builder.push(Timestamp(time), Some(key.as_bytes()), Some(&vec![b'v'; bytes]));
    builder.push(Timestamp(time), Some(b"same"), Some(key.as_bytes()));
    builder.finish().unwrap()
}

/// An index, its checksums made right: it is opened, and all that it names is read.
pub const INDEX_FILES: Target = Target {
    run: |input| {
        read_index(input);
        read_index(&mended_index(input));
    },
    seeds: || {
        // In a compacted file it lies behind the batches; the first page says nothing of where.
        let files = WRITTEN.files.iter().map(|(_, bytes)| bytes);
        let indexes = files.filter_map(|bytes| {
            let magic = bytes.windows(8).position(|word| word == b"AFXINDEX")?;
            Some(bytes[magic..].to_vec())
        });
        indexes.collect()
    },
    held_bytes_max: |bytes| 64 * bytes + (256 << 10),
};

fn read_index(bytes: &[u8]) {
    let disk = SimDisk::new(1);
    let dir = Path::new(JOURNAL_DIR);
    let base = base_of(bytes);
    put(&disk, &index_path(dir, base), bytes);
    if let Some(index) = IndexFile::open(&disk, dir, JOURNAL, base) {
        for section in 0..=index.runs.len() as u32 {
            let _ = index.section(&disk, section);
        }
        let _ = index.producers(&disk);
    }
    let (capacity, incarnation) = (FIRST_PAGE + bytes.len() as u64, Incarnation(1));
    let identity = Identity { journal: JOURNAL, base: COMPACTED, capacity, incarnation };
    let mut file = identity.encode();
    file.extend_from_slice(bytes);
    if let Some(base) = file.get_mut(FIRST_PAGE as usize + 32..FIRST_PAGE as usize + 40) {
        base.copy_from_slice(&COMPACTED.to_le_bytes());
    }
    let index = mended_index(&file[FIRST_PAGE as usize..]);
    file[FIRST_PAGE as usize..].copy_from_slice(&index);
    put(&disk, &compacted_path(dir, COMPACTED), &file);
    let named = CompactedFile {
        base: COMPACTED,
        bytes: capacity,
        index: FIRST_PAGE,
        from: 0,
        to: 9,
        at_first: 0,
        at_last: 9,
    };
    if let Ok((_, run)) = open_compacted(&disk, dir, JOURNAL, (1, &named)) {
        let _ = run.index.section(&disk, run.section);
    }
}

/// Which journal file's an index is.
fn base_of(index: &[u8]) -> u64 {
    index.get(32..40).map_or(0, |base| u64::from_le_bytes(base.try_into().unwrap()))
}

/// An index of the journal that targets name, with the right length and checksums.
fn mended_index(bytes: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| afflux_record::frame::crc32c(bytes).to_le_bytes();
    let mut bytes = bytes.to_vec();
    if bytes.len() < 72 {
        return bytes;
    }
    bytes[16..32].copy_from_slice(&JOURNAL.to_le_bytes());
    let number = |bytes: &[u8], at: usize| {
        let number = bytes.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap()));
        usize::try_from(number.unwrap_or(0)).unwrap_or(0)
    };
    let directory = number(&bytes, 56).min(bytes.len() - 64);
    bytes[56..64].copy_from_slice(&(directory as u64).to_le_bytes());
    let runs = u32::from_le_bytes(bytes[68..72].try_into().unwrap()) as usize;
    for run in (0..runs).map(|run| 72 + run * 72).take_while(|at| at + 72 <= 64 + directory) {
        let section = number(&bytes, run + 4);
        let length = number(&bytes, run + 12) & 0xffff_ffff;
        let sum = section.checked_add(length).and_then(|end| bytes.get(section..end)).map(crc);
        if let Some(sum) = sum {
            bytes[run + 16..run + 20].copy_from_slice(&sum);
        }
    }
    let sum = crc(&bytes[12..64 + directory]);
    bytes[8..12].copy_from_slice(&sum);
    bytes
}

/// Changes, one a line as JSON.
pub const METADATA: Target = Target {
    run: |input| {
        let mut meta = Meta::new();
        for line in input.split(|byte| *byte == b'\n') {
            let Ok(change) = Change::read(line) else { continue };
            meta.apply(change);
            for topic in meta.topics() {
                assert!(topic.streams().take(100).count() >= 1);
            }
            let _ = (meta.compacted_next(COMPACTED), meta.is_recycled(9, 9), meta.was_cut(9));
        }
        let text = serde_json::to_string(&Change::Snapshot(meta.clone())).unwrap();
        let mut again = Meta::new();
        again.apply(Change::read(text.as_bytes()).expect("what was possible stays so"));
        assert_eq!(serde_json::to_string(&Change::Snapshot(again)).unwrap(), text);
    },
    seeds: metadata_seeds,
    // A change may make a topic of as many partitions as may be.
    held_bytes_max: |bytes| 256 * bytes + (4 << 20),
};

fn metadata_seeds() -> Vec<Vec<u8>> {
    let topic = Topic {
        id: TopicId(uuid::Uuid::from_u128(1)),
        name: TopicName::new("t").unwrap(),
        partitions: 2,
        created: Timestamp(5),
        settings: Settings::kept(),
        first_stream: 1,
        added: Vec::new(),
    };
    let id = topic.id;
    let file = CompactedFile {
        base: COMPACTED,
        bytes: 8192,
        index: 4096,
        from: 0,
        to: 9,
        at_first: 4096,
        at_last: 9000,
    };
    let changes = [
        Change::Create(topic),
        Change::Grow(id, 3, 3),
        Change::Settings(id, Settings::default()),
        Change::Attributes("x".to_owned(), [("a".to_owned(), "b".to_owned())].into()),
        Change::ProducerIds(1000),
        Change::Compact { stream: 1, from: 0, to: 9, file: Some(file) },
        Change::Trim(2, Offset(4)),
        Change::Trims(vec![(1, Offset(3)), (2, Offset(5))]),
        Change::Recycle(0, 65536),
        Change::Cut(70000, 80000),
        Change::Remove(id),
    ];
    let mut meta = Meta::new();
    let mut seeds = Vec::new();
    let mut all = String::new();
    for change in changes {
        let line = serde_json::to_string(&change).unwrap();
        meta.apply(change);
        all = format!("{all}{line}\n");
        seeds.push(line.into_bytes());
    }
    seeds.push(serde_json::to_vec(&Change::Snapshot(meta)).unwrap());
    seeds.push(all.into_bytes());
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_reach_what_they_are_for() {
        let frames = mended_frames(&some_frames());
        let mut at = 0;
        let mut kinds = 0;
        while at < frames.len() {
            let position = JournalPosition(FIRST_PAGE + at as u64);
            let header = FrameHeader::parse(&frames[at..], position).unwrap();
            at += frame_bytes(header.length as usize);
            kinds += 1;
        }
        assert_eq!(kinds, 6);
        let indexes = (INDEX_FILES.seeds)();
        assert!(indexes.len() >= 3);
        assert!(WRITTEN.files.iter().any(|(path, _)| path.ends_with(".compacted")));
        for index in indexes {
            let disk = SimDisk::new(1);
            let dir = Path::new(JOURNAL_DIR);
            let base = base_of(&index);
            put(&disk, &index_path(dir, base), &mended_index(&index));
            assert!(IndexFile::open(&disk, dir, JOURNAL, base).is_some());
        }
    }

    #[test]
    fn frames_that_can_not_stand_where_they_do_are_refused() {
        let check = |batches: &[i64], fill: usize, refused: Option<&str>| {
            let mut frames = Vec::new();
            for base in batches {
                let mut batch = a_batch(3, 40).to_vec();
                batch[..8].copy_from_slice(&base.to_be_bytes());
                let mut group = Vec::new();
                put_group(&mut group, Timestamp(1), 1);
                put_entry(&mut group, 1, &batch);
                put_frame(&mut frames, 1, &group);
            }
            if fill > 0 {
                let left = FIRST_PAGE as usize - frames.len() - FRAME_HEADER_BYTES;
                put_frame(&mut frames, 2, &vec![0; left - fill]);
            }
            let journal = journal_of(&mended_frames(&frames));
            let opened = recover(&journal, Path::new(JOURNAL_DIR), JOURNAL);
            let reason = opened.err().map(|error| error.to_string());
            let is_so = match (&reason, refused) {
                (Some(reason), Some(refused)) => reason.contains(refused),
                (reason, refused) => reason.is_none() && refused.is_none(),
            };
            assert!(is_so, "{batches:?} {fill}: {reason:?}");
        };
        check(&[0, 2, 9], 0, None);
        check(&[0, 1], 0, Some("there are offsets up to 2"));
        check(&[-1], 0, Some("there are offsets up to 0"));
        check(&[i64::MAX - 3], 0, None);
        check(&[i64::MAX - 2], 0, Some("offsets that can not be"));
        check(&[0], 48, None);
        check(&[0], 40, Some("no room for a seal"));
    }

    #[test]
    fn frames_are_refused_or_read() {
        JOURNAL_FRAMES.survey(500);
    }

    #[test]
    fn indexes_are_refused_or_read() {
        INDEX_FILES.survey(500);
    }

    #[test]
    fn changes_are_refused_or_made() {
        METADATA.survey(2_000);
    }

    #[test]
    fn a_wounded_journal_is_refused_or_shows_what_was_written() {
        RECOVERY.survey(200);
    }
}
