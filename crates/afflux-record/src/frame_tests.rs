use proptest::prelude::*;

use afflux_types::LeaderEpoch;

use super::*;
use crate::{Compression, batch::Builder};

fn header(kind: Kind, length: usize) -> FrameHeader {
    FrameHeader {
        position: JournalPosition(4096),
        sequence: 7,
        durable: JournalPosition(4000),
        incarnation: Incarnation(3),
        length: length as u32,
        kind,
    }
}

fn meta(stream: u32, bytes: u32) -> BatchMeta {
    BatchMeta {
        stream,
        bytes,
        base_offset: Offset(11),
        max_timestamp: Timestamp(-5),
        producer: ProducerId(9),
        producer_epoch: ProducerEpoch(2),
        base_sequence: 4,
        last_offset_delta: 6,
        attributes: 1,
        marker: stream.is_multiple_of(2).then_some(Marker::Abort),
    }
}

proptest! {
    #[test]
    fn a_frame_reads_back_and_every_flipped_bit_is_seen(
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        bit in any::<prop::sample::Index>(),
    ) {
        let written = header(Kind::Group, payload.len());
        let mut bytes = written.encode(&payload).to_vec();
        prop_assert_eq!(written.encode_over(crc32c(&payload)).to_vec(), bytes.clone());
        bytes.extend_from_slice(&payload);
        let read = |bytes: &[u8]| {
            let header = FrameHeader::parse(bytes, JournalPosition(4096))?;
            let payload = bytes.get(FRAME_HEADER_BYTES..)?.get(..header.length as usize)?;
            FrameHeader::verify(bytes, payload).then_some(header)
        };
        prop_assert_eq!(read(&bytes), Some(written));
        prop_assert!(FrameHeader::parse(&bytes, JournalPosition(4104)).is_none());
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(read(&bytes), None);
    }

    #[test]
    fn any_payload_is_read_without_a_panic(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = read_group(&payload);
        if let Ok(commit) = Commit::decode(&payload) {
            let _ = commit.pieces(4096);
        }
    }

    #[test]
    fn pieces_cover_the_chunks_in_order(
        batches in proptest::collection::vec(1_u32..50, 1..20),
        cuts in proptest::collection::vec(1_u32..30, 1..100),
    ) {
        let total: u32 = batches.iter().sum();
        let mut chunks = Vec::new();
        let mut covered = 0;
        for (i, cut) in cuts.iter().cycle().enumerate() {
            let bytes = (*cut).min(total - covered);
            chunks.push(Piece { position: JournalPosition(i as u64 * 1000), bytes });
            covered += bytes;
            if covered == total {
                break;
            }
        }
        let entries = batches.iter().map(|bytes| meta(1, *bytes)).collect();
        let commit = Commit { time: Timestamp(1), chunks, entries };
        prop_assert_eq!(&Commit::decode(&commit.encode()).unwrap(), &commit);
        let pieces = commit.pieces(1 << 20).unwrap();
        let byte_by_byte = |pieces: &mut dyn Iterator<Item = &Piece>| -> Vec<u64> {
            pieces.flat_map(|p| (0..u64::from(p.bytes)).map(|i| p.position.0 + i)).collect()
        };
        prop_assert_eq!(
            byte_by_byte(&mut pieces.iter().flatten()),
            byte_by_byte(&mut commit.chunks.iter())
        );
        for (pieces, bytes) in pieces.iter().zip(&batches) {
            prop_assert_eq!(pieces.iter().map(|p| p.bytes).sum::<u32>(), *bytes);
        }
    }
}

proptest! {
    #[test]
    fn the_checksum_of_a_group_is_that_of_its_bytes(
        sizes in proptest::collection::vec(0..20_000_usize, 0..5),
    ) {
        let mut payload = Vec::new();
        put_group(&mut payload, Timestamp(42), sizes.len());
        let mut starts = Vec::new();
        for (stream, size) in (1..).zip(sizes) {
            let mut builder = Builder::new(Compression::None);
            builder.push(Timestamp(5), None, Some(&vec![size as u8; size]));
            let batch = builder.finish().unwrap();
            let start = put_entry(&mut payload, stream, &batch);
            // As the sequencer does, outside what a batch's own checksum covers.
            let placed = &mut payload[start..];
            crate::batch::patch(placed, Offset(7_000_000 + size as i64), LeaderEpoch(3)).unwrap();
            starts.push(start);
        }
        prop_assert_eq!(group_crc(&payload, &starts), crc32c(&payload));
    }
}

#[test]
fn a_group_reads_back() {
    let batch = |text: &str| {
        let mut builder = Builder::new(Compression::None);
        builder.push(Timestamp(5), None, Some(text.as_bytes()));
        builder.finish().unwrap()
    };
    let batches = [batch("a"), batch("bcd")];
    let mut payload = Vec::new();
    put_group(&mut payload, Timestamp(42), 2);
    let starts: Vec<usize> =
        (1..).zip(&batches).map(|(s, b)| put_entry(&mut payload, s, b)).collect();
    assert_eq!(payload.len(), group_bytes(batches.iter().map(bytes::Bytes::len)));
    let (time, entries) = read_group(&payload).unwrap();
    assert_eq!(time, Timestamp(42));
    for (i, (meta, start)) in entries.iter().enumerate() {
        assert_eq!(meta.stream, i as u32 + 1);
        assert_eq!(*start, starts[i]);
        assert_eq!(&payload[*start..*start + meta.bytes as usize], &batches[i][..]);
    }
    payload.pop();
    assert_eq!(read_group(&payload), Err(PayloadError::Truncated));
}

#[test]
fn a_commit_of_a_batch_that_ends_before_it_begins_is_refused() {
    let entries = vec![BatchMeta { last_offset_delta: -1, ..meta(1, 100) }];
    let commit = Commit { time: Timestamp(1), chunks: Vec::new(), entries };
    assert!(matches!(Commit::decode(&commit.encode()), Err(PayloadError::Batch(_))));
}

#[test]
fn a_commit_adopts_chunks_that_lie_one_behind_the_other_before_it() {
    let check = |chunks: &[(u64, u32)], fit: bool| {
        let bytes = chunks.iter().map(|(_, bytes)| *bytes).sum();
        let piece =
            |(at, bytes): &(u64, u32)| Piece { position: JournalPosition(*at), bytes: *bytes };
        let chunks: Vec<Piece> = chunks.iter().map(piece).collect();
        let commit = Commit { time: Timestamp(1), chunks, entries: vec![meta(1, bytes)] };
        assert_eq!(commit.pieces(4096).is_some(), fit, "{:?}", commit.chunks);
    };
    check(&[(0, 10), (10, 20), (4000, 96)], true);
    check(&[(4000, 97)], false);
    check(&[(1000, 10), (1009, 10)], false);
    check(&[(1000, 10), (0, 10)], false);
    check(&[(u64::MAX - 5, 10)], false);
}
