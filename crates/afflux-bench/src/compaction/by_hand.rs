//! Compaction as a loop by hand does it: one file in, one file out, and a map of the newest offset
//! of each key.
//!
//! It knows what the records of [`Data`] are like: no transaction, no tombstone, no header, a key in
//! every one. It trusts all lengths, checks no checksum, and keeps no index. It reads all from the
//! disk twice, through the system's cache, with what the system reads ahead. So it is what reading
//! twice, a map and writing cost whoever does nothing about it.

use std::{fs::File, hint::black_box, io::Write, path::Path, time::Instant};

use afflux_record::{
    Compression, Header,
    batch::{self, HEADER_BYTES, LENGTH_PREFIX_BYTES},
    compression::UNPACKED_BYTES_MAX,
    frame,
};
use anyhow::{Result, ensure};
use bytes::Bytes;
use hashbrown::HashMap;

use super::{Data, Left, PIECE_BYTES};

/// As often as the log syncs what it writes.
const SYNC_EVERY: usize = 8;

/// Megabytes a second, and what is left.
pub(super) fn run(path: &Path, data: &Data) -> Result<(f64, Left)> {
    data.forget()?;
    let start = Instant::now();
    let mut newest: HashMap<Box<[u8]>, i64> = HashMap::new();
    data.each(|batches| {
        for batch in batches {
            let header = Header::parse(batch)?;
            let records = unpacked(batch, header.compression()?)?;
            each_record(&header, &records, |offset, key, _| match newest.get_mut(key) {
                Some(known) => *known = offset,
                None => _ = newest.insert(key.into(), offset),
            });
        }
        Ok(())
    })?;
    let mut file = Synced { file: File::create_new(path)?, unsynced: 0 };
    let mut waiting = Vec::with_capacity(2 * PIECE_BYTES);
    let mut written = Left::default();
    data.each(|batches| {
        for batch in batches {
            keep(batch, &newest, &mut waiting, &mut written)?;
            if waiting.len() >= PIECE_BYTES {
                file.write(&waiting)?;
                waiting.clear();
            }
        }
        Ok(())
    })?;
    file.write(&waiting)?;
    file.file.sync_all()?;
    let rate = data.bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
    black_box(newest);
    let left = Data { path: path.to_owned(), bytes: file.file.metadata()?.len(), records: 0 };
    let mut found = Left::default();
    left.each(|batches| {
        for batch in batches {
            batch::check(batch)?;
            batch::records(batch).try_for_each(|record| record.map(|it| found.add(it.offset.0)))?;
        }
        Ok(())
    })?;
    ensure!(found == written, "{found:?} is there of {written:?}");
    std::fs::remove_file(path)?;
    Ok((rate, found))
}

/// A file that is synced now and then.
struct Synced {
    file: File,
    unsynced: usize,
}

impl Synced {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)?;
        self.unsynced += 1;
        if self.unsynced == SYNC_EVERY {
            self.unsynced = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// The records of a batch, unpacked.
fn unpacked(batch: &Bytes, codec: Compression) -> Result<Bytes> {
    Ok(codec.unpack(&batch.slice(HEADER_BYTES..), UNPACKED_BYTES_MAX)?)
}

/// Adds what is left of a batch.
fn keep(
    batch: &Bytes,
    newest: &HashMap<Box<[u8]>, i64>,
    to: &mut Vec<u8>,
    left: &mut Left,
) -> Result<()> {
    let header = Header::parse(batch)?;
    let codec = header.compression()?;
    let from = to.len();
    to.extend_from_slice(&batch[..HEADER_BYTES]);
    let mut kept = 0;
    each_record(&header, &unpacked(batch, codec)?, |offset, key, bytes| {
        if newest.get(key) == Some(&offset) {
            to.extend_from_slice(bytes);
            left.add(offset);
            kept += 1;
        }
    });
    if kept == 0 {
        to.truncate(from);
        return Ok(());
    }
    if codec != Compression::None {
        let packed = codec.pack(&to[from + HEADER_BYTES..])?;
        to.truncate(from + HEADER_BYTES);
        to.extend_from_slice(&packed);
    }
    let batch = &mut to[from..];
    let length = (batch.len() - LENGTH_PREFIX_BYTES) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[57..61].copy_from_slice(&i32::to_be_bytes(kept));
    let crc = frame::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

/// Offset, key and all bytes of each record.
fn each_record(header: &Header, records: &[u8], mut take: impl FnMut(i64, &[u8], &[u8])) {
    let mut at = 0;
    for _ in 0..header.record_count {
        let from = at;
        let length = number(records, &mut at) as usize;
        let end = at + length;
        at += 1;
        number(records, &mut at);
        let offset = header.base_offset.0 + number(records, &mut at);
        let key_bytes = number(records, &mut at) as usize;
        take(offset, &records[at..at + key_bytes], &records[from..end]);
        at = end;
    }
}

/// A zigzag varint.
fn number(bytes: &[u8], at: &mut usize) -> i64 {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (value >> 1) as i64 ^ -((value & 1) as i64);
        }
        shift += 7;
    }
}
