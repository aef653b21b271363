//! The records of a batch. Their layout is drawn in [`crate::batch`].
//!
//! They are read where they lie, one by one ([`RecordRef`]): nothing is copied, and nothing is
//! allocated or counted for a record. What reads one is inlined into whoever reads them all: handed
//! from function to function, a record costs several times as much. Who keeps records takes [`records`], whose keys and values
//! share the batch's bytes.

use afflux_types::{Offset, Timestamp};
use bytes::Bytes;

use crate::{
    batch::{BatchError, HEADER_BYTES, Header},
    compression::UNPACKED_BYTES_MAX,
};

/// The most headers of a record. A header takes 2 bytes packed and 64 in memory: without a limit,
/// a batch that unpacks to what is allowed could hold 2 GiB of them.
pub const HEADERS_MAX: usize = 1 << 16;

/// One record, its bytes shared with the batch it came from (or with that batch unpacked).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition.
    pub offset: Offset,
    /// The producer's time, or the log's if the batch says so.
    pub timestamp: Timestamp,
    /// What it is about.
    pub key: Option<Bytes>,
    /// What it says; none is a tombstone.
    pub value: Option<Bytes>,
    /// Further fields, in order, names not unique.
    pub headers: Vec<RecordHeader>,
}

/// A named field beside a record's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its name; UTF-8 by convention, not checked.
    pub name: Bytes,
    /// Its value.
    pub value: Option<Bytes>,
}

/// One record where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// The producer's time, or the log's if the batch says so.
    pub timestamp: Timestamp,
    /// What it is about.
    pub key: Option<&'a [u8]>,
    /// What it says; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Names and values, checked.
    headers: (usize, &'a [u8]),
    /// All of it, its length in front.
    pub(crate) bytes: &'a [u8],
    /// What stands behind its time.
    pub(crate) behind_time: &'a [u8],
}

impl RecordRef<'_> {
    /// The same with its bytes shared; they are some of these.
    fn shared(&self, of: &Bytes) -> Record {
        let share = |bytes: Option<&[u8]>| bytes.map(|bytes| of.slice_ref(bytes));
        let (count, mut rest) = self.headers;
        let mut headers = Vec::with_capacity(count);
        while let Ok((name, value)) = read_header(&mut rest) {
            headers.push(RecordHeader { name: of.slice_ref(name), value: share(value) });
        }
        let Self { offset, timestamp, key, value, .. } = *self;
        Record { offset, timestamp, key: share(key), value: share(value), headers }
    }
}

/// A batch whose records are unpacked.
#[derive(Debug, Clone)]
pub struct Unpacked {
    header: Header,
    plain: Bytes,
}

impl Unpacked {
    /// Unpacks the records of exactly one batch, to at most [`UNPACKED_BYTES_MAX`]; its checksum is
    /// not checked.
    pub fn new(batch: &Bytes) -> Result<Self, BatchError> {
        Self::bounded(batch, UNPACKED_BYTES_MAX)
    }

    fn bounded(batch: &Bytes, unpacked_bytes_max: usize) -> Result<Self, BatchError> {
        let header = Header::parse(batch)?;
        let packed = batch.slice(HEADER_BYTES..header.bytes);
        let plain = header.compression()?.unpack(&packed, unpacked_bytes_max)?;
        Ok(Self { header, plain })
    }

    /// What the batch says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many bytes its records are.
    pub fn bytes(&self) -> usize {
        self.plain.len()
    }

    /// Its records as one run of bytes.
    pub(crate) fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// The records, in order. Ends behind the first error.
    #[inline]
    pub fn records(&self) -> impl Iterator<Item = Result<RecordRef<'_>, BatchError>> {
        let mut place = Place::default();
        std::iter::from_fn(move || place.next(self))
    }
}

/// How far a batch is read.
#[derive(Debug, Default)]
struct Place {
    at: usize,
    index: i32,
    ended: bool,
}

impl Place {
    #[inline]
    fn next<'a>(&mut self, batch: &'a Unpacked) -> Option<Result<RecordRef<'a>, BatchError>> {
        if self.ended {
            return None;
        }
        let index = self.index;
        let rest = &batch.plain[self.at..];
        if index == batch.header.record_count {
            self.ended = true;
            let trailing = BatchError::Record { index, reason: "bytes follow the last record" };
            return (!rest.is_empty()).then_some(Err(trailing));
        }
        if rest.is_empty() {
            self.ended = true;
            let missing = BatchError::Record { index, reason: "the batch ends before it" };
            return Some(Err(missing));
        }
        self.index += 1;
        let read = read_record(rest, &batch.header);
        match &read {
            Ok(record) => self.at += record.bytes.len(),
            Err(_) => self.ended = true,
        }
        Some(read.map_err(|reason| BatchError::Record { index, reason }))
    }
}

/// The records of one batch, in order. Ends behind the first error.
#[derive(Debug)]
pub struct Records {
    /// None once an error was told.
    batch: Option<Result<Unpacked, BatchError>>,
    place: Place,
}

/// The records of exactly one batch; its checksum is not checked. Keys and values share the
/// batch's bytes unless it is compressed; then it is unpacked first, to at most
/// [`UNPACKED_BYTES_MAX`].
pub fn records(batch: &Bytes) -> Records {
    records_bounded(batch, UNPACKED_BYTES_MAX)
}

/// As [`records`], with another limit.
pub fn records_bounded(batch: &Bytes, unpacked_bytes_max: usize) -> Records {
    let batch = Some(Unpacked::bounded(batch, unpacked_bytes_max));
    Records { batch, place: Place::default() }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(Err(error)) = self.batch.take_if(|batch| batch.is_err()) {
            return Some(Err(error));
        }
        let batch = self.batch.as_ref()?.as_ref().ok()?;
        let record = self.place.next(batch)?;
        Some(record.map(|record| record.shared(&batch.plain)))
    }
}

/// Reads the record that stands in front.
#[inline]
fn read_record<'a>(from: &'a [u8], header: &Header) -> Result<RecordRef<'a>, &'static str> {
    let mut rest = from;
    let length = read_length(&mut rest)?.ok_or("its length is negative")?;
    let mut body = split(&mut rest, length)?;
    let bytes = &from[..from.len() - rest.len()];
    // Attributes: none are defined.
    body.split_off_first().ok_or("it is empty")?;
    let timestamp_delta = read_varint(&mut body)?;
    let behind_time = body;
    let offset_delta = read_varint(&mut body)?;
    if !(0..=i64::from(header.last_offset_delta)).contains(&offset_delta) {
        return Err("its offset is not one of the batch's");
    }
    let key = read_bytes(&mut body)?;
    let value = read_bytes(&mut body)?;
    let header_count = read_length(&mut body)?.ok_or("its header count is negative")?;
    // The smallest header has two bytes.
    if header_count > body.len() / 2 {
        return Err("it has more headers than bytes for them");
    }
    if header_count > HEADERS_MAX {
        return Err("it has more than 65536 headers");
    }
    let headers = (header_count, body);
    for _ in 0..header_count {
        read_header(&mut body)?;
    }
    if !body.is_empty() {
        return Err("bytes follow its last header");
    }
    let timestamp = if header.is_log_append_time() {
        header.max_timestamp
    } else {
        Timestamp(header.base_timestamp.0.wrapping_add(timestamp_delta))
    };
    let offset = Offset(header.base_offset.0.wrapping_add(offset_delta));
    Ok(RecordRef { offset, timestamp, key, value, headers, bytes, behind_time })
}

#[inline]
fn read_header<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), &'static str> {
    let name = read_bytes(rest)?.ok_or("a header has no name")?;
    Ok((name, read_bytes(rest)?))
}

#[inline]
fn split<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], &'static str> {
    rest.split_off(..length).ok_or("a length points behind the end")
}

#[inline]
fn read_bytes<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    read_length(rest)?.map(|length| split(rest, length)).transpose()
}

/// A length; none for -1.
#[inline]
fn read_length(rest: &mut &[u8]) -> Result<Option<usize>, &'static str> {
    let length = read_varint(rest)?;
    if length == -1 {
        return Ok(None);
    }
    i32::try_from(length)
        .ok()
        .and_then(|length| usize::try_from(length).ok())
        .map(Some)
        .ok_or("a length is out of range")
}

/// A zigzag varint of at most 64 bits. Nearly all are of one byte or two: reading these without a
/// loop takes a third of the time off a record, and each record that is produced is read.
#[inline]
fn read_varint(rest: &mut &[u8]) -> Result<i64, &'static str> {
    match *rest {
        [low @ 0..0x80, behind @ ..] => {
            *rest = behind;
            Ok(unzigzag(u64::from(*low)))
        }
        [low, high @ 0..0x80, behind @ ..] => {
            *rest = behind;
            Ok(unzigzag(u64::from(low & 0x7f) | u64::from(*high) << 7))
        }
        _ => read_long_varint(rest),
    }
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The same of any length.
#[inline(never)]
fn read_long_varint(rest: &mut &[u8]) -> Result<i64, &'static str> {
    let mut value = 0_u64;
    for (i, byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *rest = &rest[i + 1..];
            return Ok(unzigzag(value));
        }
    }
    Err("a number does not end")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn short_numbers_are_read_as_long_ones_are(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0x7e..0x83_u8], 0..12),
        ) {
            let (mut short, mut long) = (&bytes[..], &bytes[..]);
            prop_assert_eq!(read_varint(&mut short), read_long_varint(&mut long));
            prop_assert_eq!(short, long);
        }
    }
}
