//! Changelog frames: what one epoch of a pipeline made durable, as bytes and back.
//!
//! A frame is one record's value in a pipeline's changelog topic. It is columnar, carries a
//! fingerprint instead of a schema, and its table entries are absolute: applying a frame twice
//! is applying it once. It is not a file format for others, and it knows nothing of operators:
//! keys and values of state tables are opaque here.
//!
//! ```text
//! 0      3    4     8             12      16     24     32         36       40
//! | "AFE" | 1 | crc | fingerprint | flags | tick | time | progress | tables | …
//!
//! progress   topic length u16 | topic | partition i32 | next i64 | watermark i64
//! table      id u32 | entries u32 | keys (array) | values (array)
//! changes    rows u32 | weight width u8 | weights | one array a column      (flags bit 0)
//! ```
//! All integers are little endian. The CRC32C covers everything behind it. Arrays are described
//! in [`mod@array`]; weights are left out (width 0), one byte each (1) or eight (8).
//!
//! 1. [`encode`] writes the parts in this order and patches the CRC last.
//! 2. [`decode`] checks magic, version and CRC before it looks at anything else, and checks
//!    every length against the bytes that are left before it reserves memory. So a torn or
//!    altered frame is an error, and so is a well-formed one of other columns.

mod array;

use afflux_types::{
    Classified, ErrorKind, Offset, TableId, Tick, Timestamp, TopicName, TopicPartition,
};
use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Schema, SchemaRef},
};
use bytes::Bytes;

/// A Z-set batch: rows and how often each is added (positive) or taken away (negative).
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The rows.
    pub batch: RecordBatch,
    /// A weight a row, without nulls; `None` where all are +1.
    pub weights: Option<Int64Array>,
}

impl Changes {
    /// Rows that are added once each.
    pub fn additions(batch: RecordBatch) -> Self {
        Self { batch, weights: None }
    }

    /// How many rows there are, whatever their weights.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.batch.num_rows() == 0
    }

    /// The weight of a row.
    pub fn weight(&self, row: usize) -> i64 {
        self.weights.as_ref().map_or(1, |weights| weights.value(row))
    }
}

/// Entries of one state table, absolute: the newest value of a key is its value.
#[derive(Debug, Clone, PartialEq)]
pub struct TableDelta {
    /// The table.
    pub table: TableId,
    /// The keys, without nulls.
    pub keys: BinaryArray,
    /// A value a key; null where the key is deleted.
    pub values: BinaryArray,
}

/// How far a pipeline has read one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: TopicPartition,
    /// The first offset that is not yet read.
    pub next: Offset,
    /// The partition's watermark; [`Timestamp::MIN`] before the first record.
    pub watermark: Timestamp,
}

/// What one epoch of a pipeline made durable.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochFrame {
    /// The tick that the epoch completes.
    pub tick: Tick,
    /// The epoch's `now()`.
    pub time: Timestamp,
    /// Partitions whose position moved.
    pub progress: Vec<Progress>,
    /// What changed in the state.
    pub tables: Vec<TableDelta>,
    /// What changed in the view, consolidated.
    pub changes: Option<Changes>,
}

/// A frame that can not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// There is no encoding for a column's type. [`supports`] tells beforehand.
    #[error("columns of type {0} can not be written to a changelog")]
    Unsupported(DataType),
    /// Written by a newer Afflux.
    #[error("the changelog frame has version {found}; this build reads {VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Written for other columns.
    #[error("the changelog frame holds other columns than the view")]
    Schema,
    /// The bytes are not what was written.
    #[error("the changelog frame is damaged: {0}")]
    Damaged(String),
}

impl Classified for FrameError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported(_) | Self::Version { .. } => ErrorKind::Unsupported,
            Self::Schema | Self::Damaged(_) => ErrorKind::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported(_) => Some("cast the column to another type".to_owned()),
            Self::Version { .. } => Some("start the newer version of Afflux".to_owned()),
            Self::Schema | Self::Damaged(_) => None,
        }
    }
}

const MAGIC: [u8; 3] = *b"AFE";
const VERSION: u8 = 1;
const CRC_AT: usize = 4;
const CRC_END: usize = 8;
const HAS_CHANGES: u32 = 1;

/// Whether columns of a type can be written to a changelog.
pub fn supports(data_type: &DataType) -> bool {
    array::supports(data_type)
}

/// What stands for a schema in a frame: a CRC32C over names, types and nullability.
pub fn fingerprint(schema: &Schema) -> u32 {
    schema.fields().iter().fold(0, |crc, field| {
        let nullable = if field.is_nullable() { "?" } else { "!" };
        let text = format!("{}\0{}\0{nullable}\0", field.name(), field.data_type());
        crc32c::crc32c_append(crc, text.as_bytes())
    })
}

/// A frame's bytes.
pub fn encode(frame: &EpochFrame) -> Result<Bytes, FrameError> {
    let mut out = Vec::with_capacity(size_hint(frame));
    let schema =
        frame.changes.as_ref().map_or(0, |changes| fingerprint(changes.batch.schema_ref()));
    let flags = if frame.changes.is_some() { HAS_CHANGES } else { 0 };
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&[0; CRC_END - CRC_AT]);
    out.extend_from_slice(&schema.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&frame.tick.0.to_le_bytes());
    out.extend_from_slice(&frame.time.0.to_le_bytes());
    out.extend_from_slice(&(frame.progress.len() as u32).to_le_bytes());
    out.extend_from_slice(&(frame.tables.len() as u32).to_le_bytes());
    for progress in &frame.progress {
        let topic = progress.partition.topic.as_str().as_bytes();
        out.extend_from_slice(&(topic.len() as u16).to_le_bytes());
        out.extend_from_slice(topic);
        out.extend_from_slice(&progress.partition.partition.0.to_le_bytes());
        out.extend_from_slice(&progress.next.0.to_le_bytes());
        out.extend_from_slice(&progress.watermark.0.to_le_bytes());
    }
    for delta in &frame.tables {
        out.extend_from_slice(&delta.table.0.to_le_bytes());
        out.extend_from_slice(&(delta.keys.len() as u32).to_le_bytes());
        array::write(&delta.keys, &mut out)?;
        array::write(&delta.values, &mut out)?;
    }
    if let Some(changes) = &frame.changes {
        out.extend_from_slice(&(changes.len() as u32).to_le_bytes());
        write_weights(changes.weights.as_ref(), &mut out);
        for column in changes.batch.columns() {
            array::write(column, &mut out)?;
        }
    }
    let crc = crc32c::crc32c(&out[CRC_END..]);
    out[CRC_AT..CRC_END].copy_from_slice(&crc.to_le_bytes());
    Ok(out.into())
}

/// A frame from its bytes. `schema` is that of the view.
pub fn decode(bytes: &Bytes, schema: &SchemaRef) -> Result<EpochFrame, FrameError> {
    let mut input = Input { bytes };
    if input.take(MAGIC.len())? != MAGIC {
        return Err(damaged("it does not begin like one"));
    }
    let version = input.u8()?;
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    if input.u32()? != crc32c::crc32c(input.bytes) {
        return Err(damaged("its CRC is wrong"));
    }
    let found = input.u32()?;
    let flags = input.u32()?;
    if flags & !HAS_CHANGES != 0 {
        return Err(damaged("it has unknown flags"));
    }
    let tick = Tick(input.i64()? as u64);
    let time = Timestamp(input.i64()?);
    let (progress_count, table_count) = (input.u32()?, input.u32()?);
    let progress =
        (0..progress_count).map(|_| read_progress(&mut input)).collect::<Result<_, _>>()?;
    let tables = (0..table_count).map(|_| read_table(&mut input)).collect::<Result<_, _>>()?;
    let changes = if flags & HAS_CHANGES == 0 {
        None
    } else if found != fingerprint(schema) {
        return Err(FrameError::Schema);
    } else {
        Some(read_changes(&mut input, schema)?)
    };
    if !input.bytes.is_empty() {
        return Err(damaged("there are bytes behind its end"));
    }
    Ok(EpochFrame { tick, time, progress, tables, changes })
}

fn read_progress(input: &mut Input<'_>) -> Result<Progress, FrameError> {
    let length = usize::from(u16::from_le_bytes(input.array()?));
    let topic = std::str::from_utf8(input.take(length)?)
        .ok()
        .and_then(|name| TopicName::new(name).ok())
        .ok_or_else(|| damaged("a topic's name is not one"))?;
    let partition = TopicPartition::new(topic, i32::from_le_bytes(input.array()?));
    Ok(Progress { partition, next: Offset(input.i64()?), watermark: Timestamp(input.i64()?) })
}

fn read_table(input: &mut Input<'_>) -> Result<TableDelta, FrameError> {
    let table = TableId(input.u32()?);
    let entries = input.u32()? as usize;
    let keys = array::read(&DataType::Binary, entries, input)?;
    let values = array::read(&DataType::Binary, entries, input)?;
    if keys.null_count() > 0 {
        return Err(damaged("a key is null"));
    }
    let binary = |array: ArrayRef| array.as_binary::<i32>().clone();
    Ok(TableDelta { table, keys: binary(keys), values: binary(values) })
}

fn read_changes(input: &mut Input<'_>, schema: &SchemaRef) -> Result<Changes, FrameError> {
    let rows = input.u32()? as usize;
    let weights = match input.u8()? {
        0 => None,
        1 => Some(input.take(rows)?.iter().map(|&weight| i64::from(weight as i8)).collect()),
        8 => {
            let bytes = input.take(checked_size(rows, 8)?)?;
            let (words, _) = bytes.as_chunks::<8>();
            Some(words.iter().map(|word| i64::from_le_bytes(*word)).collect())
        }
        _ => return Err(damaged("its weights have no known width")),
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| array::read(field.data_type(), rows, input))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|error| damaged(error.to_string()))?;
    Ok(Changes { batch, weights })
}

fn write_weights(weights: Option<&Int64Array>, out: &mut Vec<u8>) {
    let Some(weights) = weights else {
        out.push(0);
        return;
    };
    let values = weights.values();
    if values.iter().all(|&weight| i8::try_from(weight).is_ok()) {
        out.push(1);
        out.extend(values.iter().map(|&weight| weight as i8 as u8));
    } else {
        out.push(8);
        out.extend(values.iter().flat_map(|weight| weight.to_le_bytes()));
    }
}

fn size_hint(frame: &EpochFrame) -> usize {
    let tables: usize = frame
        .tables
        .iter()
        .map(|delta| delta.keys.get_buffer_memory_size() + delta.values.get_buffer_memory_size())
        .sum();
    let changes = frame.changes.as_ref().map_or(0, |changes| changes.len() * 32);
    64 + frame.progress.len() * 48 + tables + changes
}

fn damaged(reason: impl Into<String>) -> FrameError {
    FrameError::Damaged(reason.into())
}

fn checked_size(count: usize, width: usize) -> Result<usize, FrameError> {
    count.checked_mul(width).ok_or_else(|| damaged("a length is too large"))
}

/// What is left to be read.
struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (head, tail) =
            self.bytes.split_at_checked(length).ok_or_else(|| damaged("it ends too early"))?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were taken"))
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, FrameError> {
        Ok(i64::from_le_bytes(self.array()?))
    }
}

#[cfg(test)]
mod tests;
