//! One Arrow array as bytes and back.
//!
//! Its length and type are known to the reader, so only what differs is written:
//!
//! ```text
//! array      validity u8 | bitmap, ceil(n / 8) bytes    (validity 1: some are null; 0: no bitmap)
//!            then, by type:
//! null       nothing
//! boolean    bitmap, ceil(n / 8) bytes
//! fixed      n * width bytes
//! bytes      n ends u32, counted from the first byte | the bytes    (text, binary, views)
//! large      n ends u64 | the bytes
//! ```
//! Dictionaries are written as their values. Values under a null are whatever they were.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayData, ArrayRef, AsArray, BinaryArray, BooleanArray, LargeBinaryArray,
        LargeStringArray, NullArray, OffsetSizeTrait, StringArray, make_array,
    },
    buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    compute::cast,
    datatypes::DataType,
};

use super::{FrameError, Input, checked_size, damaged};

fn width_of(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        other => other.primitive_width(),
    }
}

pub(super) fn supports(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Utf8
        | DataType::Utf8View
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::BinaryView
        | DataType::LargeBinary => true,
        DataType::Dictionary(_, values) => supports(values),
        other => width_of(other).is_some(),
    }
}

pub(super) fn write(array: &dyn Array, out: &mut Vec<u8>) -> Result<(), FrameError> {
    if let Some(simple) = simpler(array.data_type()) {
        let array = cast(array, &simple).map_err(|error| damaged(error.to_string()))?;
        return write(&array, out);
    }
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => out.push(0),
        Some(nulls) => {
            out.push(1);
            write_bits(nulls.inner(), out);
        }
    }
    match array.data_type() {
        DataType::Null => {}
        DataType::Boolean => write_bits(array.as_boolean().values(), out),
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            write_bytes(array.offsets(), array.values(), out);
        }
        DataType::Binary => {
            let array = array.as_binary::<i32>();
            write_bytes(array.offsets(), array.values(), out);
        }
        DataType::LargeUtf8 => {
            let array = array.as_string::<i64>();
            write_bytes(array.offsets(), array.values(), out);
        }
        DataType::LargeBinary => {
            let array = array.as_binary::<i64>();
            write_bytes(array.offsets(), array.values(), out);
        }
        other => {
            let width = width_of(other).ok_or_else(|| FrameError::Unsupported(other.clone()))?;
            let data = array.to_data();
            let start = data.offset() * width;
            out.extend_from_slice(&data.buffers()[0][start..start + data.len() * width]);
        }
    }
    Ok(())
}

pub(super) fn read(
    data_type: &DataType,
    length: usize,
    input: &mut Input<'_>,
) -> Result<ArrayRef, FrameError> {
    if let Some(simple) = simpler(data_type) {
        let array = read(&simple, length, input)?;
        return cast(&array, data_type).map_err(|error| damaged(error.to_string()));
    }
    let nulls = match input.u8()? {
        0 => None,
        1 => Some(NullBuffer::new(read_bits(length, input)?)),
        _ => return Err(damaged("an array's validity is neither there nor not")),
    };
    let broken = |error: arrow::error::ArrowError| damaged(error.to_string());
    Ok(match data_type {
        DataType::Null => Arc::new(NullArray::new(length)),
        DataType::Boolean => Arc::new(BooleanArray::new(read_bits(length, input)?, nulls)),
        DataType::Utf8 => {
            let (offsets, values) = read_bytes(length, input)?;
            Arc::new(StringArray::try_new(offsets, values, nulls).map_err(broken)?)
        }
        DataType::Binary => {
            let (offsets, values) = read_bytes(length, input)?;
            Arc::new(BinaryArray::try_new(offsets, values, nulls).map_err(broken)?)
        }
        DataType::LargeUtf8 => {
            let (offsets, values) = read_bytes(length, input)?;
            Arc::new(LargeStringArray::try_new(offsets, values, nulls).map_err(broken)?)
        }
        DataType::LargeBinary => {
            let (offsets, values) = read_bytes(length, input)?;
            Arc::new(LargeBinaryArray::try_new(offsets, values, nulls).map_err(broken)?)
        }
        other => {
            let width = width_of(other).ok_or_else(|| FrameError::Unsupported(other.clone()))?;
            let values = Buffer::from(input.take(checked_size(length, width)?)?);
            let data = ArrayData::builder(other.clone()).len(length).nulls(nulls);
            make_array(data.add_buffer(values).build().map_err(broken)?)
        }
    })
}

/// As which type a type is written that has no encoding of its own.
fn simpler(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Utf8View => Some(DataType::Utf8),
        DataType::BinaryView => Some(DataType::Binary),
        DataType::Dictionary(_, values) => Some(values.as_ref().clone()),
        _ => None,
    }
}

fn write_bits(bits: &BooleanBuffer, out: &mut Vec<u8>) {
    out.extend_from_slice(&bits.sliced()[..bits.len().div_ceil(8)]);
}

fn read_bits(length: usize, input: &mut Input<'_>) -> Result<BooleanBuffer, FrameError> {
    let bytes = input.take(length.div_ceil(8))?;
    Ok(BooleanBuffer::new(Buffer::from(bytes), 0, length))
}

/// Where values end, as numbers of 4 or 8 bytes.
trait End: OffsetSizeTrait {
    const BYTES: usize;
    fn put(self, out: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! end {
    ($number:ty) => {
        impl End for $number {
            const BYTES: usize = size_of::<$number>();
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }
        }
    };
}
end!(i32);
end!(i64);

fn write_bytes<E: End>(offsets: &OffsetBuffer<E>, values: &[u8], out: &mut Vec<u8>) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    offsets[1..].iter().for_each(|end| (*end - first).put(out));
    out.extend_from_slice(&values[first.as_usize()..last.as_usize()]);
}

fn read_bytes<E: End>(
    length: usize,
    input: &mut Input<'_>,
) -> Result<(OffsetBuffer<E>, Buffer), FrameError> {
    let ends = input.take(checked_size(length, E::BYTES)?)?;
    let mut offsets = Vec::with_capacity(length + 1);
    let mut last = E::default();
    offsets.push(last);
    for end in ends.chunks_exact(E::BYTES) {
        last = E::read(end)
            .filter(|end| *end >= last)
            .ok_or_else(|| damaged("a value ends before it begins"))?;
        offsets.push(last);
    }
    let values = Buffer::from(input.take(last.as_usize())?);
    Ok((OffsetBuffer::new(ScalarBuffer::from(offsets)), values))
}
