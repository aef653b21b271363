use afflux_env::sim::SimDisk;
use afflux_record::frame::BatchMeta;
use afflux_types::{Offset, ProducerEpoch, ProducerId, Timestamp};
use proptest::prelude::*;

use super::*;

const JOURNAL: u128 = 7;

fn entry(base: i64, pieces: u32) -> IndexEntry {
    IndexEntry { base, at: 5000, max_timestamp: 3, bytes: 80, offsets: 2, epoch: 1, pieces }
}

fn content() -> Content {
    let piece = |position| Piece { position: JournalPosition(position), bytes: 40 };
    let section = Section {
        entries: vec![entry(0, u32::MAX), entry(2, 0)],
        pieces: vec![vec![piece(4200), piece(4400)].into()],
        ended: vec![Ended { producer: 9, first: 0, marker: 3, stable: 4, aborted: true }],
    };
    let mut producers = Producers::default();
    let batch = BatchMeta {
        stream: 1,
        bytes: 80,
        base_offset: Offset(0),
        max_timestamp: Timestamp(3),
        producer: ProducerId(9),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        last_offset_delta: 1,
        attributes: 0,
        marker: None,
    };
    producers.record(&batch, Timestamp(3), 5000);
    Content {
        journal: JOURNAL,
        base: 0,
        end: 8000,
        sequence: 20,
        incarnation: Incarnation(1),
        sections: vec![(1, 4, section.clone()), (4, 2, section)],
        boundaries: vec![4500, 5200],
        foreign: vec![(4, 0)],
        producers: encode_producers([(1, &producers)].into_iter()),
    }
}

/// A disk with these bytes for an index; all that an index says of it.
fn read(bytes: &[u8]) -> Option<(Vec<Option<Section>>, Option<usize>)> {
    let disk = SimDisk::new(1);
    let dir = Path::new("/j");
    disk.open(&path_of(dir, 0), OpenMode::Create).unwrap().write_all_at(bytes, 0).unwrap();
    let index = IndexFile::open(&disk, dir, JOURNAL, 0)?;
    let sections = (0..index.runs.len() as u32).map(|section| index.section(&disk, section).ok());
    Some((sections.collect(), index.producers(&disk).map(|streams| streams.len())))
}

#[test]
fn what_is_written_is_read() {
    let content = content();
    let (sections, producers) = read(&content.encode()).unwrap();
    let written: Vec<_> =
        content.sections.into_iter().map(|(_, _, section)| Some(section)).collect();
    assert_eq!((sections, producers), (written, Some(1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn spoiled_bytes_are_read_or_refused(
        places in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
        number in prop::sample::select(vec![0_u32, 1, 0x7fff_ffff, 0xffff_ffff]),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        right in any::<bool>(),
    ) {
        let mut bytes = content().encode();
        for place in places {
            let at = place.index(bytes.len() - 4);
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // With the directory's checksum made right, what it says is gone by.
        let length = bytes.get(HEADER_BYTES - 8..HEADER_BYTES).map(|mut at| at.get_u64_le());
        let end = length.and_then(|length| usize::try_from(length).ok()?.checked_add(HEADER_BYTES));
        if right && let Some(crc) = end.and_then(|end| bytes.get(CRC_FROM..end)).map(crc32c) {
            bytes[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
        }
        if let Some((sections, _)) = read(&bytes) {
            for section in sections.into_iter().flatten() {
                prop_assert!(section.bytes() <= bytes.len() * 2);
            }
        }
    }
}
