//! Records into a v2 batch. What its bytes look like is drawn in [`crate::batch`].

use afflux_types::{ProducerEpoch, ProducerId, Timestamp};
use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    batch::{
        ATTRIBUTES_AT, BatchError, CONTROL, CRC_AT, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC,
        TRANSACTIONAL,
    },
    compression::Compression,
};

/// Who numbers a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The sequence of the batch's first record.
    pub base_sequence: i32,
}

/// Makes a batch of records. Base offset and leader epoch are 0: the log sets them.
///
/// A builder without records makes a batch without records, which no log takes.
#[derive(Debug)]
pub struct Builder {
    compression: Compression,
    producer: Option<Producer>,
    attributes: i16,
    records: BytesMut,
    scratch: BytesMut,
    count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl Builder {
    /// An empty batch.
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            producer: None,
            attributes: 0,
            records: BytesMut::new(),
            scratch: BytesMut::new(),
            count: 0,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(0),
        }
    }

    /// Numbers the batch for an idempotent producer.
    #[must_use]
    pub fn producer(mut self, producer: Producer) -> Self {
        self.producer = Some(producer);
        self
    }

    /// Marks the batch as part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.attributes |= TRANSACTIONAL;
        self
    }

    /// Marks the batch as one of markers.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.attributes |= CONTROL;
        self
    }

    /// Adds a record without headers.
    pub fn push(&mut self, timestamp: Timestamp, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.push_with_headers(timestamp, key, value, &[]);
    }

    /// Adds a record.
    pub fn push_with_headers(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let deltas = (timestamp.0.wrapping_sub(self.base_timestamp.0), i64::from(self.count));
        let headers = headers.iter().copied();
        put_record(&mut self.records, &mut self.scratch, deltas, (key, value), headers);
        self.count += 1;
    }

    /// Bytes so far, before compression.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// Records so far.
    pub fn record_count(&self) -> usize {
        self.count as usize
    }

    /// The batch.
    pub fn finish(self) -> Result<Bytes, BatchError> {
        let packed;
        let records: &[u8] = match self.compression {
            Compression::None => &self.records,
            codec => {
                packed = codec.pack(&self.records)?;
                &packed
            }
        };
        let producer = self.producer.unwrap_or(Producer {
            id: ProducerId::NONE,
            epoch: ProducerEpoch(-1),
            base_sequence: -1,
        });
        let bytes = HEADER_BYTES + records.len();
        let length = i32::try_from(bytes - LENGTH_PREFIX_BYTES)
            .map_err(|_| BatchError::Header("it is larger than 2 GiB"))?;
        let mut out = BytesMut::with_capacity(bytes);
        out.put_i64(0);
        out.put_i32(length);
        out.put_i32(0);
        out.put_i8(MAGIC);
        out.put_u32(0);
        out.put_i16(self.attributes | self.compression.code());
        out.put_i32((self.count - 1).max(0));
        out.put_i64(self.base_timestamp.0);
        out.put_i64(self.max_timestamp.0);
        out.put_i64(producer.id.0);
        out.put_i16(producer.epoch.0);
        out.put_i32(producer.base_sequence);
        out.put_i32(self.count);
        out.put_slice(records);
        let crc = crc32c::crc32c(&out[ATTRIBUTES_AT..]);
        out[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        Ok(out.freeze())
    }
}

/// Adds a record: its time and its offset count from the batch's. `body` is scratch space.
fn put_record<'a>(
    out: &mut BytesMut,
    body: &mut BytesMut,
    (time, offset): (i64, i64),
    (key, value): (Option<&[u8]>, Option<&[u8]>),
    headers: impl ExactSizeIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) {
    body.clear();
    body.put_u8(0);
    put_varint(body, time);
    put_varint(body, offset);
    put_bytes(body, key);
    put_bytes(body, value);
    put_varint(body, headers.len() as i64);
    for (name, value) in headers {
        put_bytes(body, Some(name));
        put_bytes(body, value);
    }
    put_varint(out, body.len() as i64);
    out.put_slice(body);
}

/// Adds a zigzag varint.
pub(crate) fn put_varint(out: &mut impl BufMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}
